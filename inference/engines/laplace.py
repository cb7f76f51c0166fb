"""Laplace's approximation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from likely.inference.coordinates import Coordinates, require_finite
from likely.inference.curvature import curvature_of, flat_sites, hessian
from likely.inference.engines.base import SearchOptions
from likely.inference.engines.checks import check_int
from likely.inference.engines.gradient import value_and_gradient
from likely.inference.engines.result import Found, Result, posterior_mean
from likely.inference.errors import FlatDirectionError, NonFiniteError
from likely.inference.handlers import set_seed
from likely.inference.optimise import minimise
from likely.inference.program import Density, Program


def unconstrained_log_joint(density: Density) -> torch.Tensor:
    """Log-density of unconstrained values: the Jacobian of the support is in."""
    return density.log_likelihood + density.log_prior + density.log_jacobian


@dataclass(frozen=True, kw_only=True)
class Laplace(SearchOptions):
    """Gaussian at the mode of the unconstrained density (MacKay 1998; Tierney & Kadane 1986).

    The density of the *unconstrained* values has the Jacobian of each support in it, so the mode is
    not that of `MAP`: a Gamma(2, 1) has its mode at 1 and its Laplace centre at 2. The covariance
    is the inverse Hessian there; draws are mapped to the supports, and ``params`` are their means.

    Parameters
    ----------
    draws : int
        Draws from the approximation.
    **options
        Those of `SearchOptions`.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def mean_of(x):
    ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("observation", len(x)):
    ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
    >>> fit = Laplace(draws=4000).fit(mean_of, torch.tensor([0.9, 1.1, 1.0, 1.0]))
    >>> round(float(fit.draws["loc"].std()), 1)  # 1 / sqrt(4 observations + 1 / 100)
    0.5
    """

    name: ClassVar[str] = "laplace"
    needs_priors: ClassVar[bool] = True

    draws: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("draws", self.draws, 2)

    def _fit(self, program: Program, coordinates: Coordinates) -> Result:
        found = self.best_of(
            lambda attempt: self._mode(program, coordinates, attempt), program.device
        )
        mode = found.extra["mode"]

        precision = hessian(partial(_negative, program, coordinates), mode)
        if not bool(torch.isfinite(precision).all()):
            raise NonFiniteError("laplace: the Hessian at the mode is not finite")
        sites = flat_sites(precision, coordinates.slices)
        if sites:
            where = "at its mode" if found.converged else "where the search was stopped"
            raise FlatDirectionError(
                f"laplace: the density is flat or curves upwards {where} in a direction "
                f"made of {', '.join(map(repr, sites))}, so no Gaussian fits there. Give these "
                "sites an informative prior, remove the redundancy, or use NUTS."
            )
        set_seed(self.seed, program.device)
        factor = torch.linalg.cholesky(precision)
        noise = torch.randn(self.draws, coordinates.size, dtype=mode.dtype, device=mode.device)
        # precision = L Lᵀ, so Lᵀ⁻¹ z has its inverse as covariance.
        flat = mode + torch.linalg.solve_triangular(factor.T, noise.T, upper=True).T
        draws = self.labelled(program, coordinates.constrain_draws(flat[None]))
        evidence = found.objective + 0.5 * coordinates.size * _LOG_2PI
        evidence -= float(factor.diagonal().log().sum())
        return Result.from_found(
            found,
            params=posterior_mean(program, draws),
            draws=draws,
            diagnostics={"log_evidence": evidence},
        )

    def _mode(self, program: Program, coordinates: Coordinates, attempt: int) -> Found:
        values = coordinates.start(self.start_values(program), attempt)
        start = coordinates.unconstrain(values, edge=3.0)
        with self.monitor(attempt) as monitor:
            reached = [start]

            def step(value: float, x: torch.Tensor) -> bool:
                require_finite(value, "the log-density", len(monitor.objectives))
                reached[0] = here = x.clone()
                return monitor.step(-value, lambda: coordinates.constrain(here))

            converged, blocked = False, False
            best = minimise(
                lambda x: value_and_gradient(program, coordinates, unconstrained_log_joint, x),
                start,
                max_iter=self.max_iter,
                tol=self.tol,
                step=step,
                curvature=curvature_of(partial(_negative, program, coordinates), coordinates.size),
            )
            reached[0], converged, blocked = best.x, best.converged, best.blocked
        converged = converged and not monitor.interrupted
        if blocked and not converged:
            raise NonFiniteError("laplace: the log-density grew without bound; it has no mode")
        return Found(
            values={},
            objective=monitor.objectives[-1],
            history=monitor.objectives,
            converged=converged,
            n_iter=len(monitor.objectives) - 1,
            interrupted=monitor.interrupted,
            extra={"mode": reached[0]},
        )


def _negative(program: Program, coordinates: Coordinates, x: torch.Tensor) -> torch.Tensor:
    density = program.density(coordinates.split(x), unconstrained=True)
    return -unconstrained_log_joint(density)


_LOG_2PI = 1.8378770664093453
