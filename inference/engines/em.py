"""Expectation–maximisation."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from likely.inference.coordinates import Coordinates, require_finite
from likely.inference.curvature import curvature_of
from likely.inference.engines import parts
from likely.inference.engines.boundary import is_near, on_boundary, snap
from likely.inference.engines.checks import check_bool, check_choice, check_int
from likely.inference.engines.expectation import Expectation, candidate_tables
from likely.inference.engines.maximisation import m_step
from likely.inference.engines.result import Found, Result
from likely.inference.engines.resuming import ResumableOptions
from likely.inference.engines.sanity import (
    check_bounded,
    flat_unknowns,
    flatness,
    left_open,
    rising_unknowns,
    warn_of_boundary,
)
from likely.inference.errors import DegenerateWarning, MonotonicityError
from likely.inference.passes import curvature_by_parts
from likely.inference.program import Density, Program, Values
from likely.inference.shards import Sharded

# How far, relative to itself, the objective may fall between steps: rounding, no more.
_SLACK = 1e-9
# The same in units of the dtype's precision: float32 sums of many terms lose more.
_ROUNDING = 64.0


@dataclass(frozen=True, kw_only=True)
class EM(ResumableOptions):
    """Expectation–maximisation for any program with discrete latents (Dempster et al. 1977).

    The E-step is derived from the program (Fisher's identity on the enumerated density). The M-step
    of every probability table is its normalised expected counts, plus α − 1 for the posterior
    objective; other sites use the program's own ``m_step`` where it has one, else a few L-BFGS
    steps on the expected complete-data log-density with the responsibilities held fixed
    (generalised EM). The objective never falls; if it does, the fit raises.

    Parameters
    ----------
    objective : {"likelihood", "posterior"}
        The optimum of `MLE` or of `MAP`.
    hard : bool
        Classification EM (Celeux & Govaert 1992): all probability on the most probable latents.
        The objective is then max over z of log p(data, z | θ); k-means is one such program.
    m_step_iter : int
        Most L-BFGS iterations in a numerical M-step.
    **options
        Those of `SearchOptions`; ``history`` of the fit holds the objective at the start and after
        every step.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def two_coins(heads):
    ...     weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    ...     with pyro.plate("coin", 2):
    ...         p = pyro.sample("p", dist.Beta(1.0, 1.0))
    ...     with pyro.plate("bag", len(heads)):
    ...         z = pyro.sample("z", dist.Categorical(weights))
    ...         pyro.sample("heads", dist.Binomial(10, p[z]), obs=heads)
    >>> fit = EM().fit(two_coins, torch.tensor([9.0, 8.0, 2.0, 1.0, 9.0]))
    >>> [round(float(p), 3) for p in fit.params["p"].sort().values]
    [0.15, 0.867]
    """

    name: ClassVar[str] = "em"
    takes_shards: ClassVar[bool] = True

    objective: str = "likelihood"
    hard: bool = False
    m_step_iter: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("objective", self.objective, ("likelihood", "posterior"))
        check_bool("hard", self.hard)
        check_int("m_step_iter", self.m_step_iter, 1)

    @property
    def _with_prior(self) -> bool:
        return self.objective == "posterior"

    def _fit(self, program: Program, coordinates: Coordinates) -> Result:
        if isinstance(program, Sharded):
            coordinates = Coordinates(program.head)
        found = self.best_of(
            lambda attempt: self._search(program, coordinates, attempt), program.device
        )
        check_bounded(program, found.values, self.name)
        if self.hard:
            return Result.from_found(found)

        evaluated: list[tuple[Values, Density]] = []

        def objective(values: Values) -> torch.Tensor:
            density = program.density(values)
            if not torch.is_grad_enabled():
                evaluated.append((values, density))
            return self._total(density)

        # Cells that EM would only reach in the limit are put on the boundary, where they belong.
        values, _ = snap(program, found.values, objective, found.extra.get("slopes"))
        others = [name for name in values if name not in found.extra["tables"]]
        # An event that was never counted is no news in a table.
        edges = [name for name in others if _is_at_edge(program, name, values[name])]
        if edges:
            warn_of_boundary(self.name, edges)
        reason = ""
        rising = rising_unknowns(program, values, objective)
        if rising:
            reason = (
                f"the maximum lies at infinity in {', '.join(map(repr, rising))} (separable "
                "data do that). A prior and objective='posterior' give a finite answer"
            )
        elif others and self._no_m_step(program):
            # The M-steps took Hessians, so one more is no burden. On the way to a boundary flatness
            # is no news.
            flat = self._flat(program, coordinates, found.values)
            inside = [
                n for n in others if not is_near(program.sites.unknowns[n].support, values[n])
            ]
            reason = flatness([n for n in flat if n in inside and n not in edges], self.name)
        if reason:
            found = replace(found, converged=False)
        for sentence in [] if self._with_prior else left_open(program, values):
            warnings.warn(f"{self.name}: {sentence}", DegenerateWarning, stacklevel=3)
        return Result.from_found(
            found,
            params=values,
            # At many data a density takes as long as half a step.
            density=next((d for v, d in evaluated if _are_same(v, values)), None),
            reason=reason,
        )

    def _flat(self, program: Program, coordinates: Coordinates, values: Values) -> list[str]:
        """Sites in which the end of the search is no maximum, where a Hessian can tell."""

        def loss(x: torch.Tensor) -> torch.Tensor:
            return -self._total(program.density(coordinates.split(x), unconstrained=True))

        if isinstance(program, Sharded):
            curvature = curvature_by_parts(program, coordinates, self._total)
        else:
            curvature = curvature_of(loss, coordinates.size)
        x = coordinates.unconstrain(values)
        matrix = None if curvature is None else curvature(x)
        return [] if matrix is None else flat_unknowns(coordinates, loss, x, matrix)

    def _total(self, density: Density) -> torch.Tensor:
        if self._with_prior:
            return density.log_likelihood + density.log_prior
        return density.log_likelihood

    def _search(self, program: Program, coordinates: Coordinates, attempt: int) -> Found:
        options = {"hard": self.hard, "with_prior": self._with_prior}
        # Constrained values throughout: zero cells are fine, and stay zero.
        values = parts.start(
            program,
            coordinates,
            self.start_values(program),
            attempt,
            with_prior=self._with_prior,
            checked=False,
        )
        candidates = candidate_tables(program, self._with_prior)
        # One E-step shows whether the start will do, which sites are tables, and the first M-step.
        start = parts.expect(program, values, candidates, **options)
        if not math.isfinite(start.objective(self._with_prior)):
            values = parts.agreed(program, lambda: coordinates.inside(values))
            start = parts.expect(program, values, candidates, **options)
        tables = parts.find_tables(program, values, start, **options)
        first: Expectation | None = start if tables == candidates else None
        del start
        converged = False
        memory = self.memory(program, values)
        saved = memory.load()
        with self.monitor(attempt) as monitor:
            if saved is not None:
                monitor.resume(saved["history"])
                values, first = saved["values"], None
            for iteration in range(len(monitor.objectives), self.max_iter + 1):
                kept = {"values": values, "history": monitor.objectives}
                memory.keep(iteration, partial(dict, kept))
                expected = first or parts.expect(program, values, tables, **options)
                first = None
                objective = expected.objective(self._with_prior)
                require_finite(objective, "the objective of EM", iteration)
                past = monitor.objectives
                slack = max(1.0, abs(objective))
                if (
                    past
                    and objective
                    < past[-1] - max(_SLACK, _ROUNDING * torch.finfo(program.dtype).eps) * slack
                ):
                    raise MonotonicityError(
                        f"EM lowered its objective from {past[-1]:.10g} to {objective:.10g} in "
                        f"step {iteration}. An M-step must not do that: check the program's m_step"
                        + (" (it has none; please report this program)." * self._no_m_step(program))
                    )
                converged = bool(past) and objective - past[-1] <= self.tol * slack
                stop = parts.stops(program, monitor, objective, values)
                if stop or converged:
                    break
                if iteration < self.max_iter:
                    check_bounded(program, values, self.name)
                    values = self._m_step(program, coordinates, values, tables, expected)
        return Found(
            values=values,
            objective=monitor.objectives[-1],
            history=monitor.objectives,
            converged=converged and not monitor.interrupted,
            n_iter=len(monitor.objectives) - 1,
            interrupted=monitor.interrupted,
            extra={
                # An E-step that was interrupted is not that of the values.
                "slopes": None if monitor.interrupted else self._slopes(values, tables, expected),
                "tables": tables,
            },
        )

    def _slopes(
        self, values: Values, tables: frozenset[str], expected: Expectation
    ) -> tuple[float, Values] | None:
        """Log-likelihood and its derivative, which an E-step has found if all unknowns are tables.

        By Fisher's identity the derivative by a cell is its expected count over its probability.
        """
        if self.hard or self._with_prior or tables != values.keys():
            return None
        slopes = {
            name: torch.where(values[name] > 0, expected.counts[name] / values[name], 0.0)
            for name in tables
        }
        return expected.objective(with_prior=False), slopes

    def _m_step(
        self,
        program: Program,
        coordinates: Coordinates,
        values: dict[str, torch.Tensor],
        tables: frozenset[str],
        expected: Expectation,
    ) -> dict[str, torch.Tensor]:
        return m_step(
            program,
            coordinates,
            values,
            tables,
            expected,
            objective=self.objective,
            max_iter=self.m_step_iter,
            tol=self.tol,
        )

    @staticmethod
    def _no_m_step(program: Program) -> bool:
        return program.hook("m_step") is None


def _is_at_edge(program: Program, name: str, value: torch.Tensor) -> bool:
    unknown = program.sites.unknowns[name]
    return unknown.static and bool(on_boundary(unknown.support, value).any())


def _are_same(some: Values, other: Values) -> bool:
    return all(some[name] is value for name, value in other.items())
