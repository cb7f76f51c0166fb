"""A weight counts a row so many times, and zero leaves it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch

from likely.inference import EM, MAP, MLE
from likely.models import GaussianMixture, Mixture

COVARIANCES = ["full", "tied", "diag", "spherical", "tied_spherical"]
ENGINES = {
    "em": EM(tol=1e-15, max_iter=5000),
    "em-hard": EM(tol=1e-15, hard=True),
    "mle": MLE(tol=1e-14),
}

Params = dict[str, torch.Tensor]


def repeated(x: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights 0 to 3, and the rows so many times."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (len(x),), generator=generator)
    return counts.double(), x.repeat_interleave(counts, 0)


def same_fit(engine: Any, program: Any, x: torch.Tensor, start: Params) -> None:
    weights, rows = repeated(x)
    engine = type(engine)(**{**vars(engine), "init": start})
    found = engine.fit(program, x, weights=weights)
    expected = engine.fit(program, rows)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-8)
    for name, value in expected.params.items():
        scale = float(value.abs().max())
        # An optimum whose height is exact is known to the root of the rounding.
        torch.testing.assert_close(found.params[name], value, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_gaussian_weights_are_repeated_rows(
    covariance: str, engine: Any, faithful: torch.Tensor
) -> None:
    program = GaussianMixture(2, covariance)
    pyro.set_rng_seed(0)
    same_fit(engine, program, faithful, program.initial(faithful))


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
def test_discrete_weights_are_repeated_rows(
    emission: str,
    engine: Any,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
    simulated: Callable[..., torch.Tensor],
) -> None:
    program, truth = discrete[emission], discrete_params(emission, 8)
    same_fit(engine, program, simulated(program, truth, 200), truth)


def test_map_counts_weighted_rows(faithful: torch.Tensor) -> None:
    program = GaussianMixture(2, "diag", loc_mean=(3.5, 70.0), loc_scale=(1.0, 10.0))
    pyro.set_rng_seed(0)
    same_fit(MAP(tol=1e-14), program, faithful, program.initial(faithful))


def test_gaps_and_weights_go_together(faithful: torch.Tensor) -> None:
    x = faithful.clone()
    x[::7, 0], x[3::11, 1] = torch.nan, torch.nan
    program = GaussianMixture(2)
    pyro.set_rng_seed(0)
    same_fit(EM(tol=1e-13, max_iter=5000), program, x, program.initial(faithful))


def test_weighted_starts_have_weighted_moments(faithful: torch.Tensor) -> None:
    weights, rows = repeated(faithful)
    program = GaussianMixture(1)
    found, expected = program.initial(faithful, weights=weights), program.initial(rows)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
def test_a_row_of_weight_zero_may_be_impossible() -> None:
    x = torch.tensor([[0.0, 0.0]] * 10 + [[0.0, 1.0]] * 10 + [[1.0, 1.0]]).double()
    weights = torch.ones(21, dtype=torch.float64)
    weights[-1] = 0.0
    start = {
        "weights": torch.tensor([0.5, 0.5]).double(),
        "probabilities": torch.tensor([[0.0, 0.1], [0.0, 0.9]]).double(),
    }
    fit = EM(init=start).fit(Mixture(2, "bernoulli"), x, weights=weights)
    assert torch.equal(fit.params["probabilities"][:, 0], torch.zeros(2, dtype=torch.float64))
    assert fit.log_likelihood == pytest.approx(20 * float(torch.tensor(0.5).double().log()))


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("gaps", [False, True])
def test_a_wild_row_of_weight_zero_changes_nothing(
    covariance: str, gaps: bool, faithful: torch.Tensor
) -> None:
    x = faithful.clone()
    if gaps:
        x[::7, 0] = torch.nan
    wild = torch.cat([x, torch.full((1, 2), 1e15, dtype=x.dtype)])
    weights = torch.ones(len(wild), dtype=x.dtype)
    weights[-1] = 0.0
    program = GaussianMixture(2, covariance)
    # The wild row is the last one: the draws of the start are the same.
    found, expected = EM().fit(program, wild, weights=weights), EM().fit(program, x)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-10)
    for name, value in expected.params.items():
        torch.testing.assert_close(found.params[name], value, rtol=1e-7, atol=1e-7)
