"""From what an engine found to a `Fit`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from pyro.distributions import constraints

from likely.inference.engines.boundary import base_constraint
from likely.inference.errors import ConvergenceWarning, DegenerateWarning, NonFiniteError
from likely.inference.fit import Fit
from likely.inference.program import Density, Program, Values
from likely.inference.quantities import deterministics


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


@dataclass(frozen=True, eq=False)
class Result:
    """What an engine found, before it becomes a `Fit`.

    Attributes
    ----------
    params : dict of str to Tensor
        Constrained values of the unknowns.
    draws : dict of str to Tensor or None
        Draws [chain, draw, *shape]; ``None`` for a point.
    history : list of float
        Objective by iteration.
    converged : bool
    n_iter : int
    reason : str
        Why it did not converge, for the warning.
    sample_stats, diagnostics : dict
        As in `Fit`.
    density : Density or None
        At ``params``, where it is known.
    """

    params: Values
    draws: Values | None
    history: list[float]
    converged: bool
    n_iter: int
    reason: str = ""
    sample_stats: Mapping[str, torch.Tensor] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    density: Density | None = None

    @classmethod
    def from_found(
        cls,
        found: Found,
        params: Values | None = None,
        draws: Values | None = None,
        reason: str = "",
        **more: Any,
    ) -> Result:
        """The result of a search; an interrupt is a reason of its own."""
        return cls(
            params=found.values if params is None else params,
            draws=draws,
            history=found.history,
            converged=found.converged,
            n_iter=found.n_iter,
            reason="stopped before it converged" if found.interrupted else reason,
            **more,
        )


def finish(
    program: Program,
    result: Result,
    *,
    name: str,
    options: dict[str, Any],
    seed: int,
    started: float,
) -> Fit:
    """Build the `Fit`, with densities and deterministic sites, and warn if it did not converge.

    Must be called inside the program's session.
    """
    draws = result.draws
    values = {name: value.detach() for name, value in result.params.items()}
    with torch.no_grad():
        density = result.density or program.density(values)
        extra = deterministics(program, values)
        likelihood = float(density.log_likelihood)
        if likelihood != likelihood or likelihood == float("inf"):
            raise NonFiniteError(
                f"{name}: the log-likelihood at the result is {likelihood}; the program's density "
                "is not a number there"
            )
        if draws is None:
            everything = {n: v[None, None] for n, v in (values | extra).items()}
        else:
            everything = dict(draws)
            if extra:
                everything |= _deterministic_draws(program, draws)
                extra = {name: everything[name].mean((0, 1)) for name in extra}
    if not result.converged:
        reason = result.reason or f"no convergence in {result.n_iter} iterations"
        warnings.warn(f"{name}: {reason}", ConvergenceWarning, stacklevel=3)
    review = program.hook("review")
    if review is not None:
        for sentence in review(values | extra, *program.args, **program.kwargs):
            warnings.warn(f"{name}: {sentence}", DegenerateWarning, stacklevel=3)
    return Fit(
        engine=name,
        options=options,
        params=values | extra,
        draws=everything,
        log_likelihood=likelihood,
        log_prior=float(density.log_prior),
        history=pd.DataFrame(
            {"objective": result.history},
            index=pd.RangeIndex(len(result.history), name="iteration"),
        ),
        converged=result.converged,
        n_iter=result.n_iter,
        seconds=time.perf_counter() - started,
        seed=seed,
        sample_stats=dict(result.sample_stats),
        diagnostics=dict(result.diagnostics),
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
        if base_constraint(unknown.support) is constraints.corr_cholesky:
            # The rows of a correlation factor have unit length; their mean is shorter.
            means[name] = mean / mean.square().sum(-1, keepdim=True).sqrt()
    return means
