"""Missing entries are integrated out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from likely.inference import EM, MLE
from likely.inference.coordinates import Coordinates
from likely.inference.program import Program
from likely.models import GaussianMixture, Mixture

COVARIANCES = ["full", "tied", "diag", "spherical", "tied_spherical"]
NAN = math.nan

Params = dict[str, torch.Tensor]
ParamsOf = Callable[..., Params]

GAPS = torch.tensor(
    [
        [0.3, -1.0, 0.5],
        [2.0, NAN, 1.5],
        [NAN, 0.2, NAN],
        [0.0, 4.0, NAN],
        [NAN, NAN, NAN],
        [NAN, 1.0, 0.0],
        [1.0, NAN, NAN],
    ],
    dtype=torch.float64,
)


def with_gaps(x: torch.Tensor, share: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(x.shape, generator=generator) < share
    return torch.where(gone, NAN, x)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_density_is_that_of_the_entries_that_are_there(
    covariance: str, params_of: ParamsOf, covariances_of: Callable[..., torch.Tensor]
) -> None:
    params = params_of(covariance, 3)
    program = GaussianMixture(3, covariance)
    covariances = covariances_of(params, covariance).numpy()
    joint = np.zeros((len(GAPS), 3))
    for i, row in enumerate(GAPS.numpy()):
        there = ~np.isnan(row)
        for k in range(3):
            joint[i, k] = math.log(params["weights"][k])
            if there.any():
                loc, cov = params["locs"][k].numpy()[there], covariances[k][np.ix_(there, there)]
                joint[i, k] += stats.multivariate_normal(loc, cov).logpdf(row[there])
    found = program.score_samples(params, GAPS)
    np.testing.assert_allclose(found, logsumexp(joint, axis=1), rtol=1e-10, atol=1e-10)
    shares = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(program.responsibilities(params, GAPS), shares, atol=1e-10)
    # Of a row without entries nothing is known but the weights.
    assert float(found[4]) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(shares[4], params["weights"], rtol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_gradient_is_that_of_finite_differences(covariance: str, params_of: ParamsOf) -> None:
    program = Program(GaussianMixture(3, covariance), GAPS)
    coordinates = Coordinates(program)
    point = coordinates.unconstrain(params_of(covariance, 3)).requires_grad_(True)

    def density(flat: torch.Tensor) -> torch.Tensor:
        return program.log_likelihood(coordinates.split(flat), unconstrained=True)

    assert torch.autograd.gradcheck(density, point)
    assert torch.autograd.gradgradcheck(density, point)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_em_climbs_to_the_optimum_of_mle(covariance: str, faithful: torch.Tensor) -> None:
    x = with_gaps(faithful, 0.2)
    assert bool(torch.isnan(x).all(1).any())
    program = GaussianMixture(2, covariance)
    em = EM(tol=1e-12).fit(program, x)
    history = em.history["objective"].to_numpy()
    assert em.converged
    assert len(history) > 3
    assert np.diff(history).min() > -1e-12 * abs(history[-1])
    direct = MLE(init=em, em_steps=0).fit(program, x)
    assert em.log_likelihood == pytest.approx(direct.log_likelihood, rel=1e-8)
    torch.testing.assert_close(em.params["locs"], direct.params["locs"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_no_gap_changes_nothing(
    covariance: str, faithful: torch.Tensor, params_of: ParamsOf
) -> None:
    """One missing entry takes another way to the density; the other rows must not notice."""
    params, program = params_of(covariance), GaussianMixture(3, covariance)
    params = {**params, "locs": params["locs"] + faithful.mean(0)}
    gap = faithful.clone()
    gap[0, 0] = NAN
    torch.testing.assert_close(
        program.score_samples(params, gap)[1:],
        program.score_samples(params, faithful)[1:],
        rtol=1e-11,
        atol=1e-11,
    )


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_parameters_are_recovered_with_a_fifth_missing(covariance: str) -> None:
    truth = {
        "weights": torch.tensor([0.35, 0.65], dtype=torch.float64),
        "locs": torch.tensor([[-2.0, 1.0, 0.0], [2.0, 0.0, 1.0]], dtype=torch.float64),
        "scales": torch.tensor([[0.7, 1.0, 0.5], [1.0, 0.5, 0.8]], dtype=torch.float64),
    }
    if covariance == "full":
        rows = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0.0, 0.6, 0.8]], dtype=torch.float64)
        truth["correlation_cholesky"] = torch.stack([rows, torch.eye(3, dtype=torch.float64)])
    program = GaussianMixture(2, covariance)
    x, _ = program.sample(truth, 2000, seed=1)
    x = with_gaps(x, 0.2)
    fit = EM().fit(program, x)
    order = fit.params["locs"][:, 0].argsort()
    errors = fit.standard_errors()
    for name in ("weights", "locs", "scales"):
        found, error = fit.params[name][order], errors[name][order]
        assert bool(((found - truth[name]).abs() < 4 * error).all()), name
    naive = x.nan_to_num(0.0)[:, 0].std()
    assert float(naive) != pytest.approx(float(x[:, 0][~x[:, 0].isnan()].std()), rel=1e-2)


def test_more_rows_than_the_units_are_taken_from() -> None:
    """Units come from a sample of the rows, also where a feature is rarely there."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 3, generator=generator, dtype=torch.float64)
    x[:, 2] = 1e6 + 10 * x[:, 0] + x[:, 2]
    x[:1000, 2] = NAN
    params = GaussianMixture(1).initial(x)
    assert bool(torch.isfinite(GaussianMixture(1).score_samples(params, x)).all())
    fit = EM().fit(GaussianMixture(1), x)
    seen = x[1000:]
    slope = fit.params["covariances"][0, 0, 2] / fit.params["covariances"][0, 0, 0]
    assert float(slope) == pytest.approx(10.0, abs=4 / math.sqrt(500) * 1.1)
    assert float(fit.params["locs"][0, 2]) == pytest.approx(float(seen[:, 2].mean()), abs=5.0)


def test_discrete_density_leaves_out_what_is_missing(
    emission: str, discrete: dict[str, Mixture], discrete_params: Callable[..., Params]
) -> None:
    program, params = discrete[emission], discrete_params(emission)
    whole = torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]).double()
    gaps = whole.clone()
    gaps[0, 1], gaps[1, :3], gaps[2, :] = NAN, NAN, NAN
    found, shares = program.score_samples(params, gaps), program.responsibilities(params, gaps)
    assert float(found[2]) == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(shares[2], params["weights"])
    site = "rates" if emission == "poisson" else "probabilities"
    for row in (0, 1, 3):
        there = ~torch.isnan(gaps[row])
        part = {**params, site: params[site][:, there]}
        rows = whole[row, there].expand(3, -1)
        torch.testing.assert_close(found[row], program.score_samples(part, rows)[0])
        torch.testing.assert_close(shares[row], program.responsibilities(part, rows)[0])


def test_discrete_em_climbs_with_gaps(
    emission: str,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
    simulated: Callable[..., torch.Tensor],
) -> None:
    program, truth = discrete[emission], discrete_params(emission, 8)
    x = with_gaps(simulated(program, truth, 400), 0.2)
    em = EM(init=truth, tol=1e-12, max_iter=20_000).fit(program, x)
    history = em.history["objective"].to_numpy()
    assert em.converged
    assert np.diff(history).min() > -1e-12 * abs(history[-1])
    direct = MLE(init=em, em_steps=0).fit(program, x)
    assert em.log_likelihood == pytest.approx(direct.log_likelihood, rel=1e-7)


def test_start_fills_gaps_and_follows_the_seed(
    faithful: torch.Tensor,
    emission: str,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
    simulated: Callable[..., torch.Tensor],
) -> None:
    counts = simulated(discrete[emission], discrete_params(emission), 100)
    cases: list[tuple[Any, torch.Tensor]] = [
        (GaussianMixture(2), with_gaps(faithful, 0.3)),
        (discrete[emission], with_gaps(counts, 0.3)),
    ]
    for program, x in cases:
        pyro.set_rng_seed(0)
        start = program.initial(x)
        assert all(bool(torch.isfinite(value).all()) for value in start.values())
        assert bool(torch.isfinite(program.score_samples(start, x)).all())
