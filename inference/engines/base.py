"""What all engines share: options, reading a program, and restarts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch

from likely.inference.coordinates import Coordinates
from likely.inference.engines.checks import check_bool, check_int, check_positive, check_seed, unbox
from likely.inference.engines.result import Found, Result, finish
from likely.inference.engines.warm import values_from
from likely.inference.errors import OptionError, ProgramError
from likely.inference.fit import Fit
from likely.inference.handlers import set_seed
from likely.inference.monitor import FROM_CALLBACK, Callback, Monitor
from likely.inference.program import Program
from likely.inference.relabel import one_labelling
from likely.inference.shards import Sharded, has_shards
from likely.inference.streams import has_loader


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
class EngineOptions(ABC):
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
        Called with a `Step` after every iteration; returning ``True`` stops the fit. If it has a
        method ``kept``, this is called with the number of the restart that was kept, if any.
    relabel : bool
        Give all draws one labelling of the dimensions that the program calls ``exchangeable``; a
        point is one draw and stays as it is.
    """

    name: ClassVar[str]
    needs_priors: ClassVar[bool] = False
    takes_shards: ClassVar[bool] = False

    seed: int = 0
    progress: bool = False
    init: Mapping[str, Any] | Fit | None = None
    dtype: torch.dtype = torch.float64
    device: torch.device | str | None = None
    callback: Callback | None = None
    relabel: bool = True

    def __post_init__(self) -> None:
        unbox(self)
        check_seed("seed", self.seed)
        check_bool("progress", self.progress)
        check_bool("relabel", self.relabel)
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

    def fit(self, program: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Fit:
        """Fit a program; the class says what is found.

        Parameters
        ----------
        program : callable
            Any Pyro program.
        *args, **kwargs
            What the program is called with.

        Returns
        -------
        Fit

        Raises
        ------
        ProgramError
            If the program cannot be fitted, or lacks priors that the engine needs; the site is
            named.
        NonFiniteError
            If the objective has no bound or stops being a number.

        Warns
        -----
        ConvergenceWarning
            If the fit stopped before it converged, or its draws should not be trusted.
        """
        started = time.perf_counter()
        self.check_available()
        reading = self.read(program, args, kwargs)
        if self.needs_priors:
            require_priors(reading, self.name)
        # A caller's torch.no_grad() is about the caller's own operations.
        with torch.enable_grad(), reading.session(self.seed):
            result = self._fit(reading, Coordinates(reading))
            return finish(
                reading,
                result,
                name=self.name,
                options=self.described(),
                seed=self.seed,
                started=started,
            )

    def read(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Program:
        """The program with its arguments."""
        if has_shards(args, kwargs) and self.takes_shards:
            return Sharded.of(
                program, args, kwargs, seed=self.seed, dtype=self.dtype, device=self.device
            )
        if has_loader(args, kwargs) or has_shards(args, kwargs):
            raise OptionError(
                f"{self.name} needs all data at once; 'mle' and 'map' learn from a DataLoader, "
                "and these, 'em' and 'svi' from Shards"
            )
        return Program.of(
            program, args, kwargs, seed=self.seed, dtype=self.dtype, device=self.device
        )

    def check_available(self) -> None:
        """Raise an `OptionError` if something the options ask for is not there."""
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, ImportError) as error:  # a build without CUDA asserts
            reason = str(error).partition("\n")[0]
            raise OptionError(f"device {str(self.device)!r} is not available: {reason}") from error

    @abstractmethod
    def _fit(self, program: Program, coordinates: Coordinates) -> Result:
        """Fit a program that was read, inside its session."""

    def start_values(self, program: Program) -> Mapping[str, Any] | None:
        """``init`` as a mapping of the unknowns it covers; see `values_from` for another fit."""
        given = values_from(self.init, program) if isinstance(self.init, Fit) else self.init
        if (
            isinstance(program, Sharded)
            and not (given or {}).keys() >= program.sites.unknowns.keys()
        ):
            return {**program.initial(), **(given or {})}
        return given

    def labelled(
        self,
        program: Program,
        draws: Mapping[str, torch.Tensor],
        log_density: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Draws of the unknowns under one labelling, unless that was switched off."""
        return one_labelling(program, draws, log_density) if self.relabel else dict(draws)

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

    def best_of(self, search: Callable[[int], Found], device: torch.device | None = None) -> Found:
        """Search from several starts and keep the best.

        A start that fails (a component that collapses, say) only counts if all of them fail.
        """
        found: dict[int, Found] = {}
        failures: list[Exception] = []
        for attempt in range(self.restarts):
            # Every start has its own stream, whatever the ones before it consumed.
            set_seed(self.seed + 7919 * attempt, device)
            try:
                found[attempt] = search(attempt)
            except (ArithmeticError, ValueError) as error:
                if getattr(error, FROM_CALLBACK, False):
                    raise
                failures.append(error)
                continue
            if found[attempt].interrupted:
                break
        if not found:
            raise failures[0]
        best = max(found, key=lambda attempt: found[attempt].objective)
        told = getattr(self.callback, "kept", None)
        if callable(told):
            told(best)
        return found[best]

    def monitor(self, attempt: int) -> Monitor:
        """Progress bar and callback of one start."""
        label = self.name if self.restarts == 1 else f"{self.name} start {attempt + 1}"
        return Monitor(label, self.max_iter, self.progress, self.callback, attempt)


def require_priors(program: Program, engine: str) -> None:
    """Raise a `ProgramError` if an unknown has no prior, which a posterior needs."""
    bare = [name for name, unknown in program.sites.unknowns.items() if unknown.is_param]
    if bare:
        raise ProgramError(
            f"{', '.join(map(repr, bare))} are parameters without a prior, and {engine} needs a "
            "posterior: make them pyro.sample sites (pyro.nn.PyroSample for a module), or use MLE, "
            "MAP, EM or SVI"
        )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Fit):
        return f"Fit({value.engine})"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    return getattr(value, "__qualname__", None) or type(value).__qualname__
