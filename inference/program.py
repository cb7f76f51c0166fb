"""Reading a program: from any Pyro callable to the densities that engines need."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from torch.distributions import biject_to

from likely.inference.arguments import convert
from likely.inference.errors import ProgramError
from likely.inference.factors import Factor, contract, dims_of
from likely.inference.handlers import (
    ReplaceParameters,
    Substitute,
    is_deterministic,
    is_plate,
    isolated,
)
from likely.inference.inner import Summed
from likely.inference.reading import Reader, batch_depth, check_observation, log_prob_of, mend, pack
from likely.inference.sites import Sites, classify, same_constraint

Values = Mapping[str, torch.Tensor]
ValueOf = Callable[[str, dict[str, Any]], "torch.Tensor | None"]


@dataclass(frozen=True)
class Density:
    """Log-densities at one value of the unknowns; scalars that can be differentiated.

    ``log_jacobian`` is the log absolute determinant of the map from unconstrained to constrained
    values, zero when constrained values were given.
    """

    log_likelihood: torch.Tensor
    log_prior: torch.Tensor
    log_jacobian: torch.Tensor


# What a program may raise that is its own fault; anything else passes through.
PROGRAM_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
)


@dataclass(eq=False)
class Run:
    """The factors of one run.

    Attributes
    ----------
    direct : list of Factor
        Factors that no latent touches, with log-densities shaped like their plates.
    enumerated : list of Factor
        Packed factors over plates and enumerated dimensions.
    sum_dims : frozenset of str
        Symbols of the enumerated dimensions.
    plate_symbols : dict of str to str
        Symbol of each plate to its name.
    latent_symbols : dict of str to str
        Latent to the symbol of its enumerated dimension.
    summed : list of Summed
        Sites whose distribution sums a latent out, where the run was asked to set them apart.
    priors : dict of str to Distribution
        Distribution of each unknown site in this run.
    log_jacobian : Tensor
        Of the map from unconstrained values.
    """

    direct: list[Factor]
    enumerated: list[Factor]
    sum_dims: frozenset[str]
    plate_symbols: dict[str, str]
    latent_symbols: dict[str, str]
    priors: dict[str, Any]
    log_jacobian: torch.Tensor
    summed: list[Summed] = field(default_factory=list)


class Program:
    """A Pyro callable bound to its arguments and read once.

    Parameters
    ----------
    program : callable
        Any Pyro program.
    *args, **kwargs
        Its arguments. Floating tensors are cast to ``dtype``, arrays and pandas objects become
        tensors, everything goes to ``device``.
    seed : int
        Seeds the reading run.
    dtype : torch.dtype
        Floating type in which the program runs.
    device : torch.device or str, optional
        Where the program runs; by default tensors stay where they are.

    Attributes
    ----------
    sites : Sites
        Unknowns, latents, observed sites, deterministic sites and plates.

    Raises
    ------
    ProgramError
        If the program has no unknowns or no observed sites, uses a name twice, has a discrete
        latent that cannot be enumerated, an observation outside its support or a wrong shape. The
        message names the site.
    """

    def __init__(
        self,
        program: Callable[..., Any],
        /,
        *args: Any,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
        **kwargs: Any,
    ) -> None:
        self._set_up(program, args, kwargs, seed, dtype, device)

    @classmethod
    def of(
        cls,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Program:
        """Read a program whose own arguments may be called ``seed``, ``dtype`` or ``device``."""
        reading = object.__new__(cls)
        reading._set_up(program, args, kwargs, seed, dtype, device)
        return reading

    def _set_up(
        self,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> None:
        if not callable(program):
            raise ProgramError(
                f"program must be a callable that makes Pyro statements, got {program!r}"
            )
        self.source = program
        self.source_args, self.source_kwargs = args, dict(kwargs)
        self.dtype = dtype
        self.device = torch.device(device) if device is not None else _device_of(args, kwargs)
        self.args = tuple(convert(value, dtype, self.device) for value in args)
        self.kwargs = {key: convert(value, dtype, self.device) for key, value in kwargs.items()}
        self.sites = Sites()
        with self.session(seed, validate=True):
            self.sites = self._read()
            if self.sites.latents:
                # Shapes and control flow must stand enumeration, too: say so now, by name.
                self.run({name: unknown.start for name, unknown in self.sites.unknowns.items()})

    def rebind(self, *args: Any, **kwargs: Any) -> Program:
        """The same program read with other arguments; outcomes may be left out to simulate."""
        other = object.__new__(Program)
        other.source, other.source_args, other.source_kwargs = self.source, args, kwargs
        other.dtype, other.device = self.dtype, self.device
        other.args = tuple(convert(value, self.dtype, self.device) for value in args)
        other.kwargs = {k: convert(value, self.dtype, self.device) for k, value in kwargs.items()}
        # Only simulated from: which sites are unknown stays what it was when the program was read.
        other.sites = self.sites
        return other

    # -- reading -----------------------------------------------------------------------------

    @contextmanager
    def session(self, seed: int, validate: bool = False) -> Iterator[None]:
        """Scope for running the program: isolated state, and no validation unless asked."""
        with isolated(seed, self.dtype, self.device), pyro.validation_enabled(validate):
            yield

    def _read(self) -> Sites:
        nodes = self._draw()
        store = pyro.get_param_store()
        sites = classify(nodes, {name: store._constraints[name] for name in list(store)})
        if not sites.unknowns:
            raise ProgramError(
                "the program has no unknowns: every pyro.sample site is observed or discrete. "
                "Give what is to be learnt a continuous pyro.sample site or a pyro.param."
            )
        if not sites.observed:
            names = ", ".join(map(repr, sites.latents))
            raise ProgramError(
                "the program has no observed site, so there is nothing to learn from. Pass the "
                "data and give them to a site with obs=."
                + (f" Discrete sites without data: {names}." if names else "")
            )
        for name, unknown in sites.unknowns.items():
            start = unknown.start.to(dtype=self.dtype, device=self.device)
            sites.unknowns[name] = replace(unknown, start=start)
        with pyro.validation_enabled(False):  # once is enough; this run only asks for the supports
            again = self._draw(check=False)
        for name, unknown in sites.unknowns.items():
            if name not in again:
                raise ProgramError(
                    f"site '{name}' is there in one run and missing in the next: which sites a "
                    "program has must not depend on what it draws"
                )
            if not unknown.is_param and not same_constraint(
                unknown.support, again[name]["fn"].support
            ):
                sites.unknowns[name] = replace(unknown, static=False)
        return sites

    def _draw(self, check: bool = True) -> Mapping[str, Mapping[str, Any]]:
        """Nodes of a run in which every unknown is drawn from its prior."""
        reader = Reader(self.dtype, self.device)
        with poutine.trace() as tracer, reader, ReplaceParameters(reader.copies):
            self._call(reader)
        for name, node in tracer.trace.nodes.items() if check else ():
            if node["type"] == "sample" and node["is_observed"] and not is_plate(node):
                check_observation(name, node)
        return tracer.trace.nodes

    def _call(self, handler: Substitute) -> None:
        try:
            self.source(*self.args, **self.kwargs)
        except PROGRAM_FAULTS as error:
            if type(error).__module__.startswith("likely."):
                raise
            where = f"after site '{handler.last_site}'" if handler.last_site else "at its start"
            raise ProgramError(f"the program failed {where}: {error}{mend(error)}") from error

    # -- running -----------------------------------------------------------------------------

    def trace(
        self, value_of: ValueOf, indices: Values | None = None, enumerate_latents: bool = True
    ) -> Any:
        """Trace of one run with the values that ``value_of`` gives.

        Must be called inside `session`.
        """
        handler = Substitute(value_of, indices, enumerate_latents)
        enum: AbstractContextManager[Any] = nullcontext()
        swap: AbstractContextManager[Any] = nullcontext()
        if enumerate_latents and self.sites.latents:
            enum = EnumMessenger(first_available_dim=-1 - self.sites.max_plate_nesting)
        if self.sites.parameter_objects:
            found = {id(p): value_of(n, {}) for n, p in self.sites.parameter_objects.items()}
            swap = ReplaceParameters({key: v for key, v in found.items() if v is not None})
        with poutine.trace() as tracer, enum, handler, swap:
            self._call(handler)
        return tracer.trace

    def run(
        self,
        values: Values,
        *,
        unconstrained: bool | Collection[str] = False,
        indices: Values | None = None,
        apart: bool = False,
        priors: bool = True,
    ) -> Run:
        """Run the program at given values of the unknowns and collect its factors.

        Parameters
        ----------
        values : mapping of str to Tensor
            Value of every unknown.
        unconstrained : bool or collection of str
            The values (of these sites) are unconstrained; each is mapped through the support its
            site has in this very run, which may depend on other sites.
        indices : mapping of str to Tensor, optional
            Mini-batch: the indices of subsampled plates.
        apart : bool
            Set sites aside whose distribution sums a latent out, and leave their densities.
        priors : bool
            Evaluate the densities of the unknowns; those below a latent are evaluated anyway.
        """
        free = None if isinstance(unconstrained, bool) else frozenset(unconstrained)
        jacobians: list[torch.Tensor] = []
        constrained: dict[str, torch.Tensor] = {}

        def value_of(name: str, msg: dict[str, Any]) -> torch.Tensor | None:
            value = values.get(name)
            if value is None or not (name in free if free is not None else unconstrained):
                return value
            if name not in constrained:
                unknown = self.sites.unknowns[name]
                static = unknown.static or not msg
                transform = unknown.transform if static else biject_to(msg["fn"].support)
                constrained[name] = transform(value)
                if not unknown.is_param:
                    jacobians.append(transform.log_abs_det_jacobian(value, constrained[name]).sum())
            return constrained[name]

        trace = self.trace(value_of, indices)
        run = Run([], [], frozenset(), {}, {}, {}, sum(jacobians, self.zero))
        if self.sites.latents:
            trace.symbolize_dims()
            run.plate_symbols = {s: plate for plate, s in trace.plate_to_symbol.items()}
        inner = {latent.site for latent in self.sites.inner.values()}
        # Dimensions to the left of all plates are those of enumerated latents.
        nesting = self.sites.max_plate_nesting if self.sites.latents else math.inf
        for name, node in trace.nodes.items():
            if node["type"] != "sample" or is_plate(node) or is_deterministic(node):
                continue
            if node["is_observed"]:
                role = "observed"
                if apart and name in inner:
                    run.summed.append(Summed.of(name, node))
                    continue
            elif name in self.sites.unknowns:
                role = "unknown"
                run.priors[name] = node["fn"]
                if not priors and batch_depth(node) <= nesting:
                    continue
            else:
                role = "latent"
                run.latent_symbols[name] = node["infer"]["_enumerate_symbol"]
            log_prob = log_prob_of(name, node, role)
            if role == "latent" or log_prob.dim() > nesting:
                run.enumerated.append(pack(name, role, log_prob, node, trace.plate_to_symbol))
            else:
                run.direct.append(Factor(name, role, log_prob, frozenset(), node["scale"]))
        run.sum_dims = frozenset(
            dim for factor in run.enumerated for dim in dims_of(factor.log_prob)
        ) - frozenset(run.plate_symbols)
        return run

    @property
    def zero(self) -> torch.Tensor:
        """Scalar zero of the program's dtype and device."""
        return torch.zeros((), dtype=self.dtype, device=self.device)

    # -- densities ---------------------------------------------------------------------------

    def density(
        self,
        values: Values,
        *,
        unconstrained: bool = False,
        indices: Values | None = None,
        priors: bool = True,
    ) -> Density:
        """Log-likelihood (latents summed out), log-prior (if ``priors``) and log-Jacobian."""
        run = self.run(values, unconstrained=unconstrained, indices=indices, priors=priors)
        likelihood = [f.total() for f in run.direct if f.role == "observed"]
        prior = [f.total() for f in run.direct if f.role == "unknown"]
        if run.enumerated:
            likelihood += [c.total() for c in contract(run.enumerated, run.sum_dims)]
            if any(f.role == "unknown" for f in run.enumerated):
                # An unknown below a latent: its prior is a mixture over the latent.
                above = [f for f in run.enumerated if f.role != "observed"]
                mixture = [c.total() for c in contract(above, run.sum_dims)]
                prior += mixture
                likelihood += [-term for term in mixture]
        return Density(sum(likelihood, self.zero), sum(prior, self.zero), run.log_jacobian)

    def log_likelihood(self, values: Values, *, unconstrained: bool = False) -> torch.Tensor:
        """log p(data | θ) with the discrete latents summed out; a differentiable scalar."""
        with self.session(0):
            return self.density(values, unconstrained=unconstrained).log_likelihood

    def log_prior(self, values: Values, *, unconstrained: bool = False) -> torch.Tensor:
        """log p(θ), the density in the constrained space; a differentiable scalar."""
        with self.session(0):
            return self.density(values, unconstrained=unconstrained).log_prior

    def hook(self, name: str) -> Any:
        """An optional method or mapping of the user's program; a site of that name is none."""
        if isinstance(self.source, torch.nn.Module) and not hasattr(type(self.source), name):
            return None
        found = getattr(self.source, name, None)
        return found if callable(found) or isinstance(found, Mapping) else None


def _device_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device | None:
    """Where the data are, if that is not the processor."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            return value.device
    return None
