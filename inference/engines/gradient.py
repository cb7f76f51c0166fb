"""Point estimates by following the gradient of a program's density."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch

from likely.inference.checkpoints import Memory
from likely.inference.coordinates import Coordinates, require_finite
from likely.inference.curvature import curvature_of
from likely.inference.engines import parts
from likely.inference.engines.batches import Batch, Batches, Source, Stream
from likely.inference.engines.boundary import snap
from likely.inference.engines.checks import check_choice, check_int
from likely.inference.engines.maximisation import em_steps
from likely.inference.engines.result import Found, Result
from likely.inference.engines.resuming import ResumableOptions
from likely.inference.engines.sanity import (
    Endless,
    check_bounded,
    flat_unknowns,
    flatness,
    left_open,
    rising_unknowns,
    warn_of_boundary,
)
from likely.inference.engines.stochastic import check_factory, search
from likely.inference.errors import (
    DegenerateWarning,
    NonFiniteError,
    OptionError,
    ProgramError,
)
from likely.inference.kinks import find_kinks, minimise_with_kinks
from likely.inference.optimise import Evaluation, Minimum, OptimizerFactory
from likely.inference.passes import curvature_by_parts
from likely.inference.program import Density, Program, Values
from likely.inference.shards import Sharded, has_shards
from likely.inference.streams import Streamed, has_loader


def value_and_gradient(
    program: Program,
    coordinates: Coordinates,
    objective: Callable[[Density], torch.Tensor],
    x: torch.Tensor,
    indices: Values | None = None,
    priors: bool = True,
) -> Evaluation:
    """Negative objective and its gradient at a flat unconstrained point [n].

    An objective without the log-prior needs no ``priors``.
    """
    density = partial(program.density, unconstrained=True, indices=indices, priors=priors)
    return evaluate(density, coordinates, objective, x)


def evaluate(
    density: Callable[[Values], Density],
    coordinates: Coordinates,
    objective: Callable[[Density], torch.Tensor],
    x: torch.Tensor,
) -> Evaluation:
    """Negative objective and its gradient [n], of a density of unconstrained values by site."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = -objective(density(coordinates.split(x)))
        if not loss.requires_grad:
            return float(loss), torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(loss, x)
    return float(loss.detach()), gradient


@dataclass(frozen=True, kw_only=True)
class PointOptions(ResumableOptions):
    """Options of `MLE` and `MAP`.

    Parameters
    ----------
    optimizer : str or callable
        ``"lbfgs"`` (strong Wolfe), ``"adam"``, ``"sgd"`` (Nesterov's momentum, the step size from
        the curvature at the start), or anything that makes a torch optimiser from a list of
        tensors, e.g. ``functools.partial(torch.optim.SGD, lr=1e-4)``; what it minimises is a sum
        over all observations. Mini-batches use Adam when nothing else is said.
    batch_size : int, optional
        Observations in a mini-batch. The plate around the observed sites is subsampled, so the
        program has to index its data with the plate's indices; log-densities inside are scaled up
        and gradients stay unbiased. ``max_iter`` then counts steps. The step size falls to zero,
        the last quarter of the path is averaged (Polyak & Juditsky 1992), and a search of four or
        more epochs ends with passes over all data, a quarter as many as there were epochs, which
        take out the noise and judge by the gradient of all data whether the optimum was reached.
    em_steps : int
        EM steps before the search where discrete latents make the density multimodal: a long
        first step of L-BFGS leaps into another mode's basin, EM does not (Jamshidian & Jennrich
        1997 join the two likewise). 0 for none; mini-batches take none.
    """

    optimizer: str | OptimizerFactory = "lbfgs"
    batch_size: int | None = None
    em_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.optimizer, str):
            check_choice("optimizer", self.optimizer, ("lbfgs", "adam", "sgd"))
        elif not callable(self.optimizer):
            raise OptionError(
                f"optimizer must be 'lbfgs', 'adam', 'sgd' or a callable, got {self.optimizer!r}"
            )
        else:
            check_factory(self.optimizer)
        if self.batch_size is not None:
            check_int("batch_size", self.batch_size, 1)
        check_int("em_steps", self.em_steps, 0)


class PointEngine(PointOptions):
    """Maximises a density over unconstrained coordinates; `MLE` and `MAP` say which density."""

    with_prior: ClassVar[bool]
    takes_shards: ClassVar[bool] = True

    def read(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Program:
        """The program with its arguments, one of which may be a loader."""
        if self.batch_size is not None and (has_loader(args, kwargs) or has_shards(args, kwargs)):
            raise OptionError(
                f"batch_size={self.batch_size} is for data in memory; a DataLoader has its own, "
                "and Shards are gone through as a whole"
            )
        if has_shards(args, kwargs) or not has_loader(args, kwargs):
            return super().read(program, args, kwargs)
        return Streamed.of(
            program, args, kwargs, seed=self.seed, dtype=self.dtype, device=self.device
        )

    def _fit(self, program: Program, coordinates: Coordinates) -> Result:
        if isinstance(program, Streamed):
            # A start is judged by the first part: a pass over all for each would take long.
            coordinates = Coordinates(program.head)
        found = self.best_of(
            lambda attempt: self._search(program, coordinates, attempt), program.device
        )
        values, edges = snap(program, found.values, lambda v: self._total(program.density(v)))
        if edges:
            warn_of_boundary(self.name, edges)
        # On the boundary of a support flatness is no news.
        flat = [name for name in found.extra["flat"] if name not in edges]
        if flat:
            found = replace(found, converged=False)
        for sentence in [] if self.with_prior else left_open(program, values):
            warnings.warn(f"{self.name}: {sentence}", DegenerateWarning, stacklevel=3)
        return Result.from_found(found, params=values, reason=flatness(flat, self.name))

    def _total(self, density: Density) -> torch.Tensor:
        if self.with_prior:
            return density.log_likelihood + density.log_prior
        return density.log_likelihood

    def _search(self, program: Program, coordinates: Coordinates, attempt: int) -> Found:
        values = parts.start(program, coordinates, self.start_values(program), attempt)
        shards = program if isinstance(program, Sharded) else None
        whole = self.batch_size is None and not (isinstance(program, Streamed) and shards is None)
        readable = program if shards is None else shards.head
        if self.em_steps and program.sites.hidden and whole:
            values = self._by_em(program, coordinates, values)
        memory = self.memory(program, values)
        start = coordinates.unconstrain(values)

        def total(values: Values) -> torch.Tensor:
            return self._total(program.density(values))

        with self.monitor(attempt) as monitor:
            position = [start if memory.found is None else memory.found["x"]]
            endless, rising = Endless(program, total), list[str]()
            memory.beside = lambda: {"history": monitor.objectives, "endless": endless.seen}
            if memory.found is not None:
                monitor.resume(memory.found["history"])
                endless.seen = memory.found["endless"]

            def step(value: float, x: torch.Tensor) -> bool:
                require_finite(value, "the log-density", len(monitor.objectives))
                # A copy: what the search moves on with is the same tensor.
                position[0] = here = x.clone()
                with torch.no_grad():
                    values = coordinates.constrain(here)
                check_bounded(program, values, self.name)
                if shards is not None:
                    return parts.stops(program, monitor, -value, values)
                if whole:
                    rising[:] = endless.sites(values, -value)
                return monitor.step(-value, lambda: values) or bool(rising)

            def loss(x: torch.Tensor) -> torch.Tensor:
                return -self._total(program.density(coordinates.split(x), unconstrained=True))

            converged, n_iter, blocked, matrix = False, 0, False, None
            if whole and self.optimizer == "lbfgs":
                best = minimise_with_kinks(
                    lambda x: value_and_gradient(
                        program, coordinates, self._total, x, priors=self.with_prior
                    ),
                    start,
                    lambda x: find_kinks(readable, coordinates, x) if self.with_prior else None,
                    max_iter=self.max_iter,
                    tol=self.tol,
                    step=step,
                    curvature=curvature_of(loss, coordinates.size)
                    if shards is None
                    else curvature_by_parts(shards, coordinates, self._total),
                    memory=memory,
                )
            else:
                best = self._descend(program, coordinates, start, step, memory)
            position[0], converged, matrix = best.x, best.converged, best.matrix
            n_iter, blocked = best.n_iter, best.blocked
        if blocked and not converged:
            raise NonFiniteError(
                f"{self.name}: the log-density has no maximum: it grew to "
                f"{monitor.objectives[-1]:.6g} until it was no longer a number. A scale that "
                "shrinks onto one point does this; give it a prior and use MAP, or a lower bound. "
                "So does an exponential of covariates that lie far from zero; centre them."
            )
        if monitor.interrupted:
            converged, n_iter = False, len(monitor.objectives) - 1
        with torch.no_grad():
            values = {n: v.detach() for n, v in coordinates.constrain(position[0]).items()}
            # An average of noisy points was not evaluated on the way.
            objective = (
                monitor.objectives[-1] if whole else float(self._total(program.density(values)))
            )
        require_finite(objective, "the log-density", n_iter)
        flat = rising
        if matrix is not None and not flat:
            flat = flat_unknowns(coordinates, loss, position[0], matrix)
        if not flat and not isinstance(program, Streamed):
            flat = rising_unknowns(program, values, total)
        return Found(
            values,
            objective,
            monitor.objectives,
            converged,
            n_iter,
            monitor.interrupted,
            extra={"flat": flat},
        )

    def _by_em(
        self, program: Program, coordinates: Coordinates, values: Values
    ) -> dict[str, torch.Tensor]:
        try:
            return em_steps(
                program,
                coordinates,
                values,
                self.em_steps,
                objective="posterior" if self.with_prior else "likelihood",
                max_iter=10,
                tol=self.tol,
            )
        except ProgramError:
            # A prior below a latent: the likelihood has no E-step, but it has a gradient.
            return dict(values)

    def _descend(
        self,
        program: Program,
        coordinates: Coordinates,
        start: torch.Tensor,
        step: Callable[[float, torch.Tensor], bool],
        memory: Memory,
    ) -> Minimum:
        source: Source | None = None
        if isinstance(program, Streamed) and not isinstance(program, Sharded):
            source = Stream(program)
        elif self.batch_size is not None:
            source = Batches(program, self.batch_size)

        def at(batch: Batch | None, x: torch.Tensor) -> Evaluation:
            if batch is None:
                return value_and_gradient(program, coordinates, self._total, x)
            return evaluate(batch.density, coordinates, self._total, x)

        return search(
            source,
            at,
            start,
            optimizer=self.optimizer,
            max_iter=self.max_iter,
            tol=self.tol,
            step=step,
            memory=memory,
        )
