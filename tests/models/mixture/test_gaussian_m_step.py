"""Gaussian mixtures: the closed-form M-step and its bound on the covariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from likely.envs import DataError
from likely.models import GaussianMixture

COVARIANCES = ["full", "tied", "diag", "spherical", "tied_spherical"]

Params = dict[str, torch.Tensor]
ParamsOf = Callable[..., Params]
CovariancesOf = Callable[[Params, str], torch.Tensor]
StatisticsOf = Callable[..., dict[str, dict[str, torch.Tensor]]]
Densities = Callable[[Params, str, torch.Tensor], torch.Tensor]
EStep = Callable[[Params, str, torch.Tensor], tuple[torch.Tensor, float]]


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2])
def test_m_step_is_a_stationary_point(
    covariance: str,
    d: int,
    faithful: torch.Tensor,
    responsibilities_of: EStep,
    component_densities: Densities,
    statistics_of: StatisticsOf,
    trace_of: Callable[..., dict[str, Any]],
) -> None:
    x = faithful[:, :d]
    program = GaussianMixture(3, covariance)
    pyro.set_rng_seed(0)
    start = program.initial(x)
    weights, _ = responsibilities_of(start, covariance, x)
    statistics = statistics_of(program, weights, x)
    found = program.m_step(statistics, start, x, objective="likelihood")
    assert set(found) == set(start) - {"weights"}

    supports = {n: node["fn"].support for n, node in trace_of(program, x).items() if n in found}
    transforms = {n: torch.distributions.biject_to(s) for n, s in supports.items()}
    free = {n: transforms[n].inv(v).requires_grad_() for n, v in found.items()}
    params = {n: transforms[n](u) for n, u in free.items()}
    expected = (weights * component_densities(params, covariance, x)).sum() / len(x)
    for name, slope in zip(free, torch.autograd.grad(expected, list(free.values())), strict=True):
        assert float(slope.abs().max()) < 1e-8, name


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_em_reaches_scikit_learns_optimum(
    covariance: str,
    faithful: torch.Tensor,
    responsibilities_of: EStep,
    statistics_of: StatisticsOf,
) -> None:
    program = GaussianMixture(2, covariance)
    pyro.set_rng_seed(0)
    params = program.initial(faithful)
    history = []
    for _ in range(200):
        weights, loglik = responsibilities_of(params, covariance, faithful)
        history.append(loglik)
        statistics = statistics_of(program, weights, faithful)
        moved = program.m_step(statistics, params, faithful, objective="likelihood")
        params = {"weights": weights.mean(0), **moved}
    assert min(np.diff(history)) > -1e-12
    reference = Reference(
        2,
        covariance_type=covariance,
        n_init=10,
        reg_covar=0,
        tol=1e-12,
        max_iter=2000,
        random_state=0,
    ).fit(faithful.numpy())
    assert history[-1] == pytest.approx(reference.score(faithful.numpy()), abs=1e-6)


def test_m_step_leaves_the_posterior_to_the_engine(
    faithful: torch.Tensor,
    params_of: ParamsOf,
    responsibilities_of: EStep,
    statistics_of: StatisticsOf,
) -> None:
    params = params_of("full")
    weights, _ = responsibilities_of(params, "full", faithful)
    program = GaussianMixture(3)
    statistics = statistics_of(program, weights, faithful)
    assert program.m_step(statistics, params, faithful, objective="posterior") == {}


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_component_without_points_keeps_its_values(
    covariance: str,
    faithful: torch.Tensor,
    params_of: ParamsOf,
    covariances_of: CovariancesOf,
    statistics_of: StatisticsOf,
) -> None:
    params = params_of(covariance)
    weights = torch.zeros(272, 3, dtype=torch.float64)
    weights[:, 0] = 1
    program = GaussianMixture(3, covariance)
    statistics = statistics_of(program, weights, faithful)
    found = program.m_step(statistics, params, faithful, objective="likelihood")
    torch.testing.assert_close(found["locs"][1:], params["locs"][1:])
    if not covariance.startswith("tied"):
        kept = covariances_of(params, covariance)[1:]
        torch.testing.assert_close(covariances_of(found, covariance)[1:], kept)
    torch.testing.assert_close(found["locs"][0], faithful.mean(0))


@pytest.mark.parametrize("covariance", ["full", "diag", "spherical"])
def test_floor_bounds_a_component_on_one_point(
    covariance: str,
    faithful: torch.Tensor,
    params_of: ParamsOf,
    covariances_of: CovariancesOf,
    statistics_of: StatisticsOf,
) -> None:
    params = params_of(covariance)
    weights = torch.full((272, 3), 0.5, dtype=torch.float64)
    weights[:, 2] = 0
    weights[0] = torch.tensor([0.0, 0.0, 1.0])
    floor = 1e-3

    def m_step(**options: float) -> Params:
        program = GaussianMixture(3, covariance, **options)  # type: ignore[arg-type]
        statistics = statistics_of(program, weights, faithful)
        return program.m_step(statistics, params, faithful, objective="likelihood")

    found = m_step(covariance_floor=floor)
    bound = floor * faithful.var(0, correction=0)
    covariances = covariances_of(found, covariance)
    if covariance == "spherical":
        bound = bound.max().expand(2)
    torch.testing.assert_close(covariances[2], bound.diag())
    # Components that respect the bound are what they are without it.
    torch.testing.assert_close(covariances[:2], covariances_of(m_step(), covariance)[:2])
    with pytest.raises(DataError, match=r"singular covariance.*covariance_floor"):
        m_step(covariance_floor=0.0)


def test_floor_is_the_constrained_optimum(
    faithful: torch.Tensor, covariances_of: CovariancesOf, statistics_of: StatisticsOf
) -> None:
    """No covariance that respects the bound gives the points a higher density."""
    x = faithful[:40]
    floor = 0.5
    weights = torch.ones(40, 1, dtype=torch.float64)
    program = GaussianMixture(1, covariance_floor=floor)
    params = {"locs": x.mean(0, keepdim=True)}
    statistics = statistics_of(program, weights, x)
    found = program.m_step(statistics, params, x, objective="likelihood")
    best = covariances_of(found, "full")[0]
    bound = (floor * x.var(0, correction=0)).diag()

    def density(covariance: torch.Tensor) -> float:
        return float(dist.MultivariateNormal(x.mean(0), covariance).log_prob(x).sum())

    units = bound.diagonal().sqrt()
    generator = torch.Generator().manual_seed(0)
    assert float(torch.linalg.eigvalsh(best - bound).min()) > -1e-9 * float(bound.max())
    for _ in range(200):
        root = torch.randn(2, 2, generator=generator, dtype=torch.float64) * units.unsqueeze(-1)
        for step in (1e-3, 0.1, 1.0):
            assert density((1 - step) * best + step * (bound + root @ root.T)) < density(best)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_m_step_is_the_weighted_moments(
    covariance: str,
    shift: float,
    faithful: torch.Tensor,
    covariances_of: CovariancesOf,
    statistics_of: StatisticsOf,
) -> None:
    x = faithful + shift
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(len(x), 2, generator=generator, dtype=torch.float64)
    shares = shares / shares.sum(-1, keepdim=True)
    program = GaussianMixture(2, covariance)
    found = program.m_step(
        statistics_of(program, shares, x), {"locs": x[:2]}, x, objective="likelihood"
    )
    sizes = shares.sum(0)
    means = shares.T @ x / sizes.unsqueeze(-1)
    centred = x.unsqueeze(1) - means
    scatter = torch.einsum("nk,nki,nkj->kij", shares, centred, centred)
    if covariance.startswith("tied"):
        scatter, sizes = scatter.sum(0, keepdim=True), sizes.sum().expand(1)
    expected = scatter / sizes[:, None, None]
    if covariance == "diag":
        expected = expected.diagonal(dim1=-2, dim2=-1).diag_embed()
    if covariance.endswith("spherical"):
        level = expected.diagonal(dim1=-2, dim2=-1).mean(-1)
        expected = level[:, None, None] * torch.eye(2, dtype=torch.float64)
    # Of x + 1e6, ten digits are left behind the variances; the data themselves hold no more.
    tolerance = 1e-12 if shift == 0 else 1e-8
    torch.testing.assert_close(found["locs"], means, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(
        covariances_of(found, covariance), expected.expand(2, 2, 2), rtol=tolerance, atol=tolerance
    )
