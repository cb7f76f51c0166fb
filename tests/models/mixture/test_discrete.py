"""Mixtures of counts, binary features and categories."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from likely.inference import EM, MAP, MLE, SVI, BoundaryWarning, Laplace
from likely.models import Mixture

Params = dict[str, torch.Tensor]
SITE = {"poisson": "rates", "bernoulli": "probabilities", "categorical": "probabilities"}


@pytest.fixture
def rows(
    emission: str,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
    simulated: Callable[..., torch.Tensor],
) -> torch.Tensor:
    return simulated(discrete[emission], discrete_params(emission, 8), 3000, seed=5)


def ordered(params: Params, truth: Params, site: str) -> list[int]:
    """Which fitted component each true one is: the nearest."""
    found, wanted = params[site].flatten(1), truth[site].flatten(1)
    order = torch.cdist(wanted, found).argmin(1).tolist()
    assert sorted(order) == list(range(len(order)))
    return [int(k) for k in order]


def test_sites_and_priors(
    emission: str,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
    trace_of: Callable[..., dict[str, Any]],
) -> None:
    program, params = discrete[emission], discrete_params(emission)
    pyro.set_rng_seed(0)
    drawn = trace_of(program, n=20, dim=4)
    site = SITE[emission]
    shape = (3, 4, 3) if emission == "categorical" else (3, 4)
    assert drawn[site]["value"].shape == shape
    assert [f.name for f in drawn[site]["cond_indep_stack"]] == ["cluster"]
    assert drawn["x"]["value"].shape == (20, 4)
    x = drawn["x"]["value"].double()
    nodes = trace_of(poutine.condition(program, params), x)
    value = params[site].numpy()
    prior = {
        "poisson": lambda: stats.gamma(2.0, scale=1 / 0.5).logpdf(value),
        "bernoulli": lambda: stats.beta(1.5, 2.0).logpdf(value),
        "categorical": lambda: np.apply_along_axis(stats.dirichlet([1.5] * 3).logpdf, -1, value),
    }[emission]()
    assert float(nodes[site]["log_prob_sum"]) == pytest.approx(prior.sum(), rel=1e-10)
    assert len(program.dims[site]) == nodes[site]["fn"].event_dim


def test_densities_are_scipys(
    emission: str, discrete: dict[str, Mixture], discrete_params: Callable[..., Params]
) -> None:
    program, params = discrete[emission], discrete_params(emission)
    x = np.array([[0.0, 1, 2, 1], [1, 0, 1, 1], [2, 2, 0, 1], [1, 1, 1, 1]])
    if emission == "bernoulli":
        x = np.minimum(x, 1)
    if emission == "poisson":
        x[0, 0] = 40
    value = params[SITE[emission]].numpy()
    if emission == "poisson":
        joint = stats.poisson(value).logpmf(x[:, None]).sum(-1)
    elif emission == "bernoulli":
        joint = stats.bernoulli(value).logpmf(x[:, None]).sum(-1)
    else:
        chosen = np.take_along_axis(value[None], x.astype(int)[:, None, :, None], -1)
        joint = np.log(chosen[..., 0]).sum(-1)
    joint = joint + np.log(params["weights"].numpy())
    found = program.score_samples(params, torch.as_tensor(x))
    np.testing.assert_allclose(found, np.logaddexp.reduce(joint, 1), rtol=1e-11)


def test_simulation_follows_the_parameters(
    emission: str, rows: torch.Tensor, discrete_params: Callable[..., Params]
) -> None:
    params = discrete_params(emission, 8)
    value = params[SITE[emission]]
    if emission == "categorical":
        value = value @ torch.arange(3.0, dtype=torch.float64)
    mean = params["weights"] @ value
    error = rows.std(0) / math.sqrt(len(rows))
    assert bool(((rows.mean(0) - mean).abs() < 4 * error).all())


@pytest.mark.filterwarnings("ignore::likely.inference.ConvergenceWarning")
def test_one_em_step_is_the_one_written_out(
    emission: str,
    rows: torch.Tensor,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
) -> None:
    program, start = discrete[emission], discrete_params(emission, 8)
    x, site = rows[:200].numpy(), SITE[emission]
    fit = EM(max_iter=1, init=start).fit(program, rows[:200])
    weights, value = start["weights"].numpy(), start[site].numpy()
    if emission == "categorical":
        indicators = np.eye(3)[x.astype(int)]
        joint = np.einsum("ndc,kdc->nk", indicators, np.log(value))
    elif emission == "bernoulli":
        joint = x @ np.log(value).T + (1 - x) @ np.log1p(-value).T
    else:
        joint = x @ np.log(value).T - value.sum(1)
    shares = weights * np.exp(joint - joint.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    moved = shares.T @ x / shares.sum(0)[:, None]
    if emission == "categorical":
        moved = np.einsum("nk,ndc->kdc", shares, indicators) / shares.sum(0)[:, None, None]
    np.testing.assert_allclose(fit.params["weights"], shares.mean(0), rtol=1e-11)
    np.testing.assert_allclose(fit.params[site], moved, rtol=1e-11)


@pytest.mark.parametrize("engine", [EM(), MAP(), MLE()], ids=["em", "map", "mle"])
def test_parameters_are_recovered(
    engine: Any,
    emission: str,
    rows: torch.Tensor,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
) -> None:
    program, truth, site = discrete[emission], discrete_params(emission, 8), SITE[emission]
    engine = type(engine)(tol=1e-9, restarts=1, init=truth)
    fit = engine.fit(program, rows)
    errors = fit.standard_errors()
    order = ordered(fit.params, truth, site)
    for name in ("weights", site):
        found, error = fit.params[name][order], errors[name][order]
        # Of up to 36 numbers none is four and a half standard errors off; MAP adds its prior.
        slack = 4.5 * error + (5e-3 if isinstance(engine, MAP) else 0.0)
        assert bool(((found - truth[name]).abs() < slack).all()), name


def test_em_finds_the_components_from_its_own_start(
    emission: str,
    rows: torch.Tensor,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
) -> None:
    truth = discrete_params(emission, 8)
    best = EM(init=truth, tol=1e-9).fit(discrete[emission], rows)
    fit = EM(tol=1e-9, restarts=2).fit(discrete[emission], rows)
    assert fit.log_likelihood == pytest.approx(best.log_likelihood, rel=1e-5)


@pytest.mark.parametrize(
    "engine",
    [Laplace(draws=400), SVI(guide="normal", max_iter=500, learning_rate=0.05, draws=200)],
    ids=["laplace", "svi"],
)
def test_posterior_covers_the_truth(
    engine: Any,
    emission: str,
    rows: torch.Tensor,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
) -> None:
    truth, site = discrete_params(emission, 8), SITE[emission]
    engine = type(engine)(**{**vars(engine), "init": truth})
    fit = engine.fit(discrete[emission], rows[:1000])
    draws = fit.draws[site].flatten(0, 1)
    mean, spread = draws.mean(0), draws.std(0)
    # A factorised guide is too narrow where components overlap.
    slack = 4.5 if isinstance(engine, Laplace) else 10
    assert bool(((mean - truth[site]).abs() < slack * spread + 0.02).all())


def test_one_component_is_the_closed_form(emission: str, rows: torch.Tensor) -> None:
    options = {"n_categories": 3} if emission == "categorical" else {}
    fit = EM().fit(Mixture(1, emission, options=options), rows)
    expected = rows.mean(0)
    if emission == "categorical":
        expected = torch.nn.functional.one_hot(rows.long(), 3).double().mean(0)
    torch.testing.assert_close(fit.params[SITE[emission]][0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fit.params["weights"], torch.ones(1, dtype=torch.float64))


def test_posterior_em_is_map(
    emission: str,
    rows: torch.Tensor,
    discrete: dict[str, Mixture],
    discrete_params: Callable[..., Params],
) -> None:
    truth, x = discrete_params(emission, 8), rows[:400]
    em = EM(objective="posterior", init=truth, tol=1e-11, max_iter=3000).fit(discrete[emission], x)
    direct = MAP(init=em).fit(discrete[emission], x)
    torch.testing.assert_close(
        em.params[SITE[emission]], direct.params[SITE[emission]], rtol=5e-3, atol=5e-3
    )


def test_latent_classes_find_two_kinds_of_respondents() -> None:
    """Three dichotomous items and two classes: as many free cells as parameters, so it fits."""
    truth = {
        "weights": torch.tensor([0.4, 0.6], dtype=torch.float64),
        "probabilities": torch.tensor(
            [[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], [[0.2, 0.8], [0.3, 0.7], [0.1, 0.9]]],
            dtype=torch.float64,
        ),
    }
    program = Mixture(2, "categorical", options={"n_categories": 2})
    x, component = program.sample(truth, 4000, seed=2)
    x = x.double()
    fit = EM(init=truth, tol=1e-13, max_iter=20_000).fit(program, x)
    cells, counts = torch.unique(x, dim=0, return_counts=True)
    assert len(cells) == 8
    shares = counts.double() / len(x)
    found = program.score_samples(fit.params, cells).exp()
    # The likelihood's end is known to about 1e-13 of 7000 nats, the cells to the root of that.
    torch.testing.assert_close(found, shares, rtol=0.0, atol=1e-5)
    guess = fit.latent("component").argmax(-1)
    right = float((guess == component).double().mean())
    sure = program.responsibilities(truth, x).amax(-1).mean()
    assert right == pytest.approx(float(sure), abs=4 * math.sqrt(0.25 / 4000))


def test_equal_weights_are_no_site_of_the_fit(
    emission: str, rows: torch.Tensor, discrete_params: Callable[..., Params]
) -> None:
    options = {"n_categories": 3} if emission == "categorical" else {}
    program = Mixture(3, emission, equal_weights=True, options=options)
    site = SITE[emission]
    fit = EM(init={site: discrete_params(emission, 8)[site]}, tol=1e-8).fit(program, rows)
    assert "weights" not in fit.params
    assert fit.latent("component").shape == (3000, 3)


def test_a_feature_that_one_component_never_has() -> None:
    """Cells at zero are the optimum, and the density of what cannot be is minus infinity."""
    x = torch.tensor([[0.0, 1.0]] * 20 + [[1.0, 0.0]] * 10, dtype=torch.float64)
    start = {"probabilities": torch.tensor([[0.1, 0.9], [0.9, 0.1]], dtype=torch.float64)}
    program = Mixture(2, "bernoulli")
    with pytest.warns(BoundaryWarning, match="em: .* boundary .* at 'probabilities'"):
        fit = EM(init=start).fit(program, x)
    torch.testing.assert_close(fit.params["probabilities"], torch.eye(2).flip(0).double())
    torch.testing.assert_close(fit.params["weights"], torch.tensor([2 / 3, 1 / 3]).double())
    assert fit.log_likelihood == pytest.approx(20 * math.log(2 / 3) + 10 * math.log(1 / 3))
    impossible = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert float(program.score_samples(fit.params, impossible)[0]) == -math.inf


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
@pytest.mark.parametrize("engine", [EM(), EM(hard=True), MLE()], ids=["em", "em-hard", "mle"])
def test_counts_that_are_never_above_zero_have_rate_zero(engine: Any) -> None:
    x = torch.tensor([[3, 9, 0, 0], [4, 8, 0, 0], [9, 1, 5, 0], [8, 2, 6, 0]] * 10)
    fit = engine.fit(Mixture(2, "poisson"), x)
    order = fit.params["rates"][:, 0].argsort()
    expected = torch.tensor([[3.5, 8.5, 0.0, 0.0], [8.5, 1.5, 5.5, 0.0]], dtype=torch.float64)
    found = fit.params["rates"][order]
    # The groups are 1e-3 and less unsure of a row.
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.02)
    assert (found[expected == 0] == 0).all()
    assert np.isfinite(fit.log_likelihood)
