"""What one run of a program says about its sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions import Delta, constraints
from pyro.distributions.util import broadcast_shape
from torch.distributions import biject_to, transform_to

from likely.inference.errors import ProgramError
from likely.inference.handlers import (
    base_distribution,
    is_deterministic,
    is_discrete,
    is_plate,
    module_parameter,
)
from likely.inference.inner import sums_out


@dataclass(frozen=True)
class Unknown:
    """A continuous site or a parameter that an engine has to find.

    Attributes
    ----------
    shape : torch.Size
        Of the constrained value, batch then event dimensions.
    dims : tuple of str or None
        Plate names of the batch dimensions, ``None`` where a dimension has no plate.
    event_dim : int
        How many rightmost dimensions belong to one event.
    is_param : bool
        ``pyro.param`` or a module's parameter: no prior.
    transform : Transform
        From unconstrained values to the support (a bijection for sites).
    prior : Distribution or None
        The site's distribution in the reading run.
    start : Tensor
        A parameter's own initial value; for a site the value it had in the reading run.
    static : bool
        Whether the support is the same whatever the other sites are.
    """

    name: str
    shape: torch.Size
    dims: tuple[str | None, ...]
    event_dim: int
    support: Any
    transform: Any
    is_param: bool
    prior: Any
    start: torch.Tensor
    static: bool = True

    @property
    def unconstrained_shape(self) -> torch.Size:
        """Shape of the unconstrained value."""
        return torch.Size(self.transform.inv(self.start).shape)


@dataclass(frozen=True)
class Latent:
    """A discrete site that is summed out. ``values`` lists its support, [K, *event_shape]."""

    name: str
    dims: tuple[str | None, ...]
    batch_shape: torch.Size
    values: torch.Tensor


@dataclass(frozen=True)
class Inner:
    """A latent that the distribution of an observed site sums out by itself.

    Attributes
    ----------
    site : str
        The observed site.
    dims : tuple of str or None
        Its plates, then the dimensions that the latent has beyond them.
    """

    name: str
    site: str
    dims: tuple[str | None, ...]


@dataclass(frozen=True)
class Observed:
    """A site with data. ``value`` is ``None`` for ``pyro.factor``."""

    name: str
    dims: tuple[str | None, ...]
    batch_shape: torch.Size
    event_dim: int
    value: torch.Tensor | None


@dataclass(frozen=True)
class Plate:
    """A named batch dimension."""

    name: str
    size: int
    dim: int


@dataclass(frozen=True)
class Sites:
    """Everything a program's sites are, in the order of the program."""

    unknowns: dict[str, Unknown] = field(default_factory=dict)
    latents: dict[str, Latent] = field(default_factory=dict)
    inner: dict[str, Inner] = field(default_factory=dict)
    observed: dict[str, Observed] = field(default_factory=dict)
    deterministic: dict[str, Observed] = field(default_factory=dict)
    plates: dict[str, Plate] = field(default_factory=dict)
    parameter_objects: dict[str, torch.nn.Parameter] = field(default_factory=dict)

    @property
    def hidden(self) -> bool:
        """Whether there are latents, whoever sums them out."""
        return bool(self.latents or self.inner)

    @property
    def max_plate_nesting(self) -> int:
        """How many rightmost dimensions plates take."""
        depth = [len(site.dims) for site in self.observed.values()]
        depth += [len(latent.dims) for latent in self.latents.values()]
        depth += [len(unknown.dims) for unknown in self.unknowns.values()]
        return max([-plate.dim for plate in self.plates.values()] + depth, default=0)


def plate_dims(msg: Mapping[str, Any], batch_dim: int) -> tuple[str | None, ...]:
    """Plate names of a site's batch dimensions, outermost first."""
    names = {f.dim: f.name for f in msg["cond_indep_stack"] if f.dim is not None}
    return tuple(names.get(dim) for dim in range(-batch_dim, 0))


def classify(nodes: Mapping[str, Mapping[str, Any]], param_constraints: Mapping[str, Any]) -> Sites:
    """Sort the nodes of a trace by what an engine does with them.

    Parameters
    ----------
    nodes : mapping
        Nodes of a trace in which every site was drawn.
    param_constraints : mapping
        Constraint of each ``pyro.param``.

    Raises
    ------
    ProgramError
        For a discrete latent that cannot be enumerated, a plate that subsamples itself, or a site
        whose support is unknown.
    """
    sites = Sites()
    for name, node in nodes.items():
        if node["type"] == "param":
            value = node["value"].detach().clone()
            constraint = param_constraints.get(name, constraints.real)
            sites.unknowns[name] = Unknown(
                name=name,
                shape=value.shape,
                dims=plate_dims(node, value.dim())
                if node["cond_indep_stack"]
                else (None,) * value.dim(),
                event_dim=0,
                support=constraint,
                transform=transform_to(constraint),
                is_param=True,
                prior=None,
                start=value,
            )
            source = module_parameter(node)
            if source is not None:
                sites.parameter_objects[name] = source
        elif node["type"] == "sample":
            for frame in node["cond_indep_stack"]:
                if frame.dim is not None:
                    size = frame.full_size if frame.full_size is not None else frame.size
                    if size < 0:  # pyro.plate(name) without a size takes it from what is inside
                        shape = node["fn"].batch_shape
                        if len(shape) < -frame.dim:
                            raise ProgramError(
                                f"plate '{frame.name}' has no size, and site '{name}' inside has "
                                f"no dimension to take it from; write pyro.plate('{frame.name}', n)"
                            )
                        size = shape[frame.dim]
                    sites.plates[frame.name] = Plate(frame.name, int(size), frame.dim)
            if is_plate(node):
                _check_not_subsampled(name, node)
            else:
                _classify_sample(sites, name, node)
    return sites


def _check_not_subsampled(name: str, node: Mapping[str, Any]) -> None:
    fn = node["fn"]
    if fn.subsample_size is not None and fn.subsample_size < fn.size:
        raise ProgramError(
            f"plate '{name}' subsamples itself (subsample_size={fn.subsample_size} of {fn.size}). "
            "Leave subsample_size out, use the plate's indices to index the data, and pass "
            "batch_size to the engine: it then subsamples for the fit and sees all data at the end."
        )


def _classify_sample(sites: Sites, name: str, node: Mapping[str, Any]) -> None:
    fn, value = node["fn"], node["value"]
    event_dim = len(getattr(fn, "event_shape", ()))
    batch_shape = torch.Size(getattr(fn, "batch_shape", ()))
    dims = plate_dims(node, len(batch_shape))
    if is_deterministic(node):
        plate_depth = max((-f.dim for f in node["cond_indep_stack"] if f.dim), default=0)
        batch = min(plate_depth, value.dim())
        sites.deterministic[name] = Observed(
            name, plate_dims(node, batch), value.shape[:batch], value.dim() - batch, value
        )
    elif node["is_observed"]:
        data = value if isinstance(value, torch.Tensor) and value.numel() else None
        if isinstance(value, torch.Tensor):
            # Data may be longer than the distribution that they are broadcast against.
            shape = value.shape[: value.dim() - event_dim]
            batch_shape = torch.Size(broadcast_shape(batch_shape, shape))
            dims = plate_dims(node, len(batch_shape))
        sites.observed[name] = Observed(name, dims, batch_shape, event_dim, data)
        if sums_out(fn):
            more = tuple(getattr(fn, "latent_dims", ()))
            sites.inner[fn.latent] = Inner(fn.latent, name, dims + more)
    elif is_discrete(fn):
        hint = getattr(base_distribution(fn), "missing_hint", None)
        if hint is not None:
            raise ProgramError(f"site '{name}' has no data. {hint}.")
        if not getattr(fn, "has_enumerate_support", False):
            raise ProgramError(
                f"site '{name}' is a discrete latent with distribution "
                f"{type(fn).__name__}, whose support cannot be enumerated, so it cannot be summed "
                "out. Observe it, bound its support (e.g. Categorical over range(n)), or use a "
                "distribution with the latent integrated out (e.g. GammaPoisson, BetaBinomial)."
            )
        support = fn.enumerate_support(expand=False)
        values = support.reshape((support.shape[0],) + tuple(fn.event_shape))
        sites.latents[name] = Latent(name, dims, batch_shape, values)
    elif isinstance(base_distribution(fn), Delta):
        raise ProgramError(
            f"site '{name}' is a Delta without data, so it has no density to search or sample; "
            "use pyro.deterministic for a value that follows from others"
        )
    else:
        try:
            support = fn.support
            transform = biject_to(support)
        except (NotImplementedError, AttributeError) as error:
            raise ProgramError(
                f"site '{name}' ({type(fn).__name__}) is an unknown without a support that can be "
                "mapped to real numbers; give it a distribution that has one"
            ) from error
        sites.unknowns[name] = Unknown(
            name=name,
            shape=value.shape,
            dims=dims,
            event_dim=event_dim,
            support=support,
            transform=transform,
            is_param=False,
            prior=fn,
            start=value.detach(),
        )


def same_constraint(first: Any, second: Any) -> bool:
    """Whether two constraints describe the same set."""
    if isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor):
        first, second = torch.as_tensor(first), torch.as_tensor(second)
        return first.shape == second.shape and bool((first == second).all())
    if type(first) is not type(second):
        return False
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_constraint, first, second))
    if isinstance(first, constraints.Constraint):
        mine, other = vars(first), vars(second)
        return mine.keys() == other.keys() and all(
            same_constraint(mine[key], other[key]) for key in mine
        )
    return bool(first == second)
