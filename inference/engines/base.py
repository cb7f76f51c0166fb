"""What all engines share: options, reading a program, restarts, and building the `Fit`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import pandas as pd
import torch

from likely.inference.errors import ConvergenceWarning, OptionError, ProgramError
from likely.inference.fit import Fit
from likely.inference.monitor import Callback
from likely.inference.program import Program, Values
from likely.inference.quantities import deterministics


@runtime_checkable
class Engine(Protocol):
    """A way of learning from data: options, and one method that fits any program."""

    name: ClassVar[str]

    def fit(self, program: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Fit:
        """Fit a program to data.

        Parameters
        ----------
        program : callable
            Any Pyro program.
        *args, **kwargs
            What the program is called with.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options that every engine has.

    Parameters
    ----------
    seed : int
        The same seed gives the same numbers.
    progress : bool
        Show a progress bar.
    init : mapping of str to tensor-like, or Fit, optional
        Where to start: constrained values of some or all sites, or another fit (warm start).
    dtype : torch.dtype
        Floating type of the fit.
    device : torch.device or str, optional
        Where it runs.
    callback : callable, optional
        Called with a `Step` after every iteration; returning ``True`` stops the fit.
    """

    name: ClassVar[str]

    seed: int = 0
    progress: bool = False
    init: Mapping[str, Any] | Fit | None = None
    dtype: torch.dtype = torch.float64
    device: torch.device | str | None = None
    callback: Callback | None = None

    def __post_init__(self) -> None:
        check_int("seed", self.seed, 0)
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise OptionError(f"dtype must be a floating torch.dtype, got {self.dtype!r}")
        if self.init is not None and not isinstance(self.init, Mapping | Fit):
            raise OptionError(
                f"init must be a mapping of site to value, or a Fit, got {type(self.init).__name__}"
            )
        if self.callback is not None and not callable(self.callback):
            raise OptionError(f"callback must be callable, got {self.callback!r}")
        try:
            _ = torch.device(self.device) if self.device is not None else None
        except (RuntimeError, TypeError) as error:
            raise OptionError(f"device {self.device!r} is not a torch device: {error}") from error

    def read(self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Program:
        """Read the program with this engine's dtype, device and seed."""
        return Program(
            program, *args, seed=self.seed, dtype=self.dtype, device=self.device, **kwargs
        )

    def start_values(self, program: Program) -> Mapping[str, Any] | None:
        """``init`` as a mapping of the unknowns it covers."""
        if isinstance(self.init, Fit):
            shapes = {name: unknown.shape for name, unknown in program.sites.unknowns.items()}
            return {
                name: value
                for name, value in self.init.params.items()
                # Sites that grew since (new tasks, new annotators) start afresh.
                if name in shapes and value.shape == shapes[name]
            }
        return self.init

    def described(self) -> dict[str, Any]:
        """Options as plain values, for the record."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, kw_only=True)
class SearchOptions(EngineOptions):
    """Options of engines that search for an optimum.

    Parameters
    ----------
    max_iter : int
        Most iterations.
    tol : float
        Relative change of the objective that counts as none.
    restarts : int
        Number of starts; the best result is kept.
    """

    max_iter: int = 1000
    tol: float = 1e-10
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("max_iter", self.max_iter, 1)
        check_int("restarts", self.restarts, 1)
        check_positive("tol", self.tol)


@dataclass(frozen=True)
class Found:
    """The outcome of one search.

    Attributes
    ----------
    values : dict of str to Tensor
        Constrained values of the unknowns.
    objective : float
        What was maximised.
    history : list of float
        Objective by iteration, the start first.
    converged, interrupted : bool
    n_iter : int
    extra : dict
        Anything an engine wants to keep (a Hessian, a guide).
    """

    values: dict[str, torch.Tensor]
    objective: float
    history: list[float]
    converged: bool
    n_iter: int
    interrupted: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def best_of(restarts: int, seed: int, search: Callable[[int], Found]) -> Found:
    """Search from several starts and keep the best; a failing start only counts if all fail."""
    found: list[Found] = []
    failures: list[ArithmeticError] = []
    for attempt in range(restarts):
        # Every start has its own stream, whatever the ones before it consumed.
        torch.manual_seed(seed + 7919 * attempt)
        try:
            found.append(search(attempt))
        except ArithmeticError as error:
            failures.append(error)
            continue
        if found[-1].interrupted:
            break
    if not found:
        raise failures[0]
    return max(found, key=lambda f: f.objective)


def finish(
    options: EngineOptions,
    program: Program,
    *,
    started: float,
    params: Values,
    draws: Values | None,
    history: list[float],
    converged: bool,
    n_iter: int,
    reason: str = "",
    sample_stats: Mapping[str, torch.Tensor] | None = None,
    diagnostics: Mapping[str, float] | None = None,
) -> Fit:
    """Build the `Fit`, with densities and deterministic sites, and warn if it did not converge.

    Must be called inside the program's session. ``draws`` is ``None`` for a point.
    """
    values = {name: value.detach() for name, value in params.items()}
    with torch.no_grad():
        density = program.density(values)
        extra = deterministics(program, values)
        if draws is None:
            everything = {n: v[None, None] for n, v in (values | extra).items()}
        else:
            everything = dict(draws)
            if extra:
                everything |= _deterministic_draws(program, draws)
                extra = {name: everything[name].mean((0, 1)) for name in extra}
    if not converged:
        warnings.warn(
            f"{options.name}: {reason or f'no convergence in {n_iter} iterations'}",
            ConvergenceWarning,
            stacklevel=3,
        )
    return Fit(
        engine=options.name,
        options=options.described(),
        params=values | extra,
        draws=everything,
        log_likelihood=float(density.log_likelihood),
        log_prior=float(density.log_prior),
        history=pd.DataFrame(
            {"objective": history}, index=pd.RangeIndex(len(history), name="iteration")
        ),
        converged=converged,
        n_iter=n_iter,
        seconds=time.perf_counter() - started,
        seed=options.seed,
        sample_stats=dict(sample_stats or {}),
        diagnostics=dict(diagnostics or {}),
        program=program,
    )


def _deterministic_draws(program: Program, draws: Values) -> dict[str, torch.Tensor]:
    shape = next(iter(draws.values())).shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in draws.items()}
    runs = [
        deterministics(program, {name: value[i] for name, value in flat.items()})
        for i in range(shape[0] * shape[1])
    ]
    return {
        name: torch.stack([run[name] for run in runs]).reshape(*shape, *runs[0][name].shape)
        for name in runs[0]
    }


def posterior_mean(program: Program, draws: Values) -> dict[str, torch.Tensor]:
    """Mean over chains and draws, put back into supports that are not convex."""
    means = {name: value.mean((0, 1)) for name, value in draws.items()}
    for name, mean in means.items():
        unknown = program.sites.unknowns[name]
        if type(unknown.transform).__name__ == "CorrCholeskyTransform":
            # The rows of a correlation factor have unit length; their mean is shorter.
            means[name] = mean / mean.square().sum(-1, keepdim=True).sqrt()
    return means


def require_priors(program: Program, engine: str) -> None:
    """Raise a `ProgramError` if an unknown has no prior, which a posterior needs."""
    bare = [name for name, unknown in program.sites.unknowns.items() if unknown.is_param]
    if bare:
        raise ProgramError(
            f"{', '.join(map(repr, bare))} are parameters without a prior, and {engine} needs a "
            "posterior: make them pyro.sample sites (pyro.nn.PyroSample for a module), or use MLE, "
            "MAP, EM or SVI"
        )


def check_int(name: str, value: Any, least: int) -> None:
    """Raise an `OptionError` unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raise an `OptionError` unless ``value`` is a positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise OptionError(f"{name} must be a positive number, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise an `OptionError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Fit):
        return f"Fit({value.engine})"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    return getattr(value, "__qualname__", None) or type(value).__qualname__
