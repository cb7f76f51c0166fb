"""NUTS: conjugate posteriors, seeds, starts, geometry, nutpie."""

from __future__ import annotations

import importlib.util
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.ops.stats import effective_sample_size

from likely.inference import (
    MAP,
    NUTS,
    ConvergenceWarning,
    Laplace,
    OptionError,
)
from nuts_problems import POINTS, SHORT, double, line, ridge

# -- conjugate posteriors --------------------------------------------------------------------------


HEADS = double([1, 1, 0, 1, 1, 1, 0, 1])
EVENTS = double([3, 1, 4, 1, 5])
CLASSES = torch.tensor([0, 0, 2, 1, 2, 2, 2])
LEVELS = double([1.3, 0.2, 2.1, 0.9])


def conjugate(heads, events, classes, levels):
    """Four unknowns that know nothing of each other, each with a posterior of its prior's kind."""
    chance = pyro.sample("chance", dist.Beta(2.0, 3.0))
    rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    level = pyro.sample("level", dist.Normal(1.0, 2.0))
    with pyro.plate("toss", len(heads)):
        pyro.sample("heads", dist.Bernoulli(chance), obs=heads)
    with pyro.plate("day", len(events)):
        pyro.sample("events", dist.Poisson(rate), obs=events)
    with pyro.plate("row", len(classes)):
        pyro.sample("classes", dist.Categorical(shares), obs=classes)
    with pyro.plate("measurement", len(levels)):
        pyro.sample("levels", dist.Normal(level, 0.8), obs=levels)


PRECISION = 1 / 4 + len(LEVELS) / 0.64
POSTERIORS = {
    "chance": dist.Beta(2 + HEADS.sum(), 3 + (1 - HEADS).sum()),
    "rate": dist.Gamma(3 + EVENTS.sum(), double(2 + len(EVENTS))),
    "shares": dist.Dirichlet(double([1, 2, 3]) + torch.bincount(CLASSES)),
    "level": dist.Normal((1 / 4 + LEVELS.sum() / 0.64) / PRECISION, PRECISION**-0.5),
}


OPTIONS = {"chains": 2, "draws": 300, "warmup": 300, "cores": 1}


def check_moments(fit):
    """Means and standard deviations within four Monte-Carlo errors of the exact ones."""
    for name, posterior in POSTERIORS.items():
        draws, mean, sd = fit.draws[name], posterior.mean, posterior.variance.sqrt()
        # Standard error of a mean of correlated draws: sd / sqrt(effective sample size); of a
        # variance, by the effective size of the squares and their own spread.
        error = sd / effective_sample_size(draws).sqrt()
        assert bool(((fit.params[name] - mean).abs() < 4 * error).all()), name
        assert bool((error < 0.1 * sd).all()), name  # at least a hundred effective draws
        squares = (draws - mean).square()
        spread = squares.flatten(0, 1).std(0) / effective_sample_size(squares).sqrt()
        assert bool(((squares.mean((0, 1)) - sd.square()).abs() < 4 * spread).all()), name


@pytest.fixture(scope="module")
def conjugate_fit():
    return NUTS(**OPTIONS, jit=True).fit(conjugate, HEADS, EVENTS, CLASSES, LEVELS)


def test_conjugate_posteriors_are_found(conjugate_fit):
    assert conjugate_fit.converged
    check_moments(conjugate_fit)
    assert conjugate_fit.draws["shares"].shape == (2, 300, 3)
    torch.testing.assert_close(conjugate_fit.draws["shares"].sum(-1), torch.ones(2, 300).double())


def test_statistics_of_the_sampler(conjugate_fit):
    fit = conjugate_fit
    stats = fit.sample_stats
    assert set(stats) == {"lp", "acceptance_rate", "n_steps", "step_size", "diverging"}
    assert all(value.shape == (2, 300) for value in stats.values())
    assert stats["diverging"].dtype == torch.bool
    assert stats["n_steps"].dtype == torch.int64
    assert bool((stats["n_steps"] >= 1).all())
    assert bool(((stats["acceptance_rate"] >= 0) & (stats["acceptance_rate"] <= 1)).all())
    # The step size was adapted to this acceptance, and is the same for all draws of a chain.
    assert float(stats["acceptance_rate"].mean()) == pytest.approx(0.8, abs=0.15)
    assert all(len(row.unique()) == 1 for row in stats["step_size"])
    found = fit.diagnostics
    assert set(found) == {"divergences", "ess_min", "rhat_max"}
    assert found["divergences"] == float(stats["diverging"].sum()) == 0.0
    assert (
        100
        < found["ess_min"]
        == min(float(effective_sample_size(draws).min()) for draws in fit.draws.values())
    )
    assert 0.99 < found["rhat_max"] < 1.05
    assert fit.history.objective.tolist() == pytest.approx(stats["lp"].mean(0).tolist())
    assert fit.n_iter == 600


def same(first, second):
    return all(torch.equal(first.draws[name], second.draws[name]) for name in first.draws) and all(
        torch.equal(first.sample_stats[name], second.sample_stats[name])
        for name in first.sample_stats
    )


def test_lp_is_the_log_density_of_each_draw(short):
    # Both unknowns are real, so that there is no Jacobian.
    for chain, draw in ((0, 0), (0, 57), (1, 199)):
        loc, scale = short.draws["loc"][chain, draw], short.draws["log_scale"][chain, draw].exp()
        density = (
            dist.Normal(loc, scale).log_prob(POINTS).sum()
            + dist.Normal(0.0, 3.0).log_prob(loc)
            + dist.Normal(0.0, 1.0).log_prob(scale.log())
        )
        torch.testing.assert_close(short.sample_stats["lp"][chain, draw], density)


# -- the same draws, however they are made ---------------------------------------------------------


def test_chains_in_processes_give_the_draws_of_chains_in_turn(short):
    assert same(short, NUTS(**{**SHORT, "cores": 2}).fit(line, POINTS))
    assert not torch.equal(short.draws["loc"][0], short.draws["loc"][1])


def test_more_chains_than_processes_give_the_same_draws():
    tiny = {"chains": 3, "draws": 20, "warmup": 20}
    engine = NUTS(**tiny, cores=1), NUTS(**tiny, cores=2)
    with pytest.warns(ConvergenceWarning, match="effective|R-hat"):
        fits = [each.fit(line, POINTS) for each in engine]
    assert same(*fits)
    assert fits[0].draws["loc"].shape == (3, 20)


@pytest.mark.parametrize("backend", ["pyro", "nutpie"])
def test_the_seed_decides(backend):
    if backend == "nutpie":
        pytest.importorskip("nutpie")

    def draw(seed):
        engine = NUTS(chains=2, draws=20, warmup=30, cores=1, backend=backend, seed=seed)
        with pytest.warns(ConvergenceWarning, match="effective"):
            return engine.fit(line, POINTS)

    first = draw(0)
    torch.rand(5)
    assert same(first, draw(0))
    assert not torch.isin(first.draws["loc"], draw(1).draws["loc"]).any()


def test_a_traced_density_gives_the_same_draws(short):
    traced = NUTS(**SHORT, jit=True).fit(line, POINTS)
    # Rounding may differ, and a trajectory amplifies it: the early draws are compared.
    for name in ("loc", "log_scale"):
        first, second = short.draws[name][:, :10], traced.draws[name][:, :10]
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


# -- starts ----------------------------------------------------------------------------------------


def two_hills(x):
    """Two modes too far apart to cross."""
    loc = pyro.sample("loc", dist.Normal(0.0, 30.0))
    with pyro.plate("point", len(x)):
        pyro.sample("x", dist.Normal(loc.abs(), 1.0), obs=x)


def test_chains_start_where_another_fit_was():
    far = double([20.0, 21.0, 19.5, 20.5])
    for side in (-1.0, 1.0):
        mode = MAP(init={"loc": 15.0 * side}).fit(two_hills, far)
        for start in (mode, Laplace(draws=20, init=mode).fit(two_hills, far)):
            fit = NUTS(chains=2, draws=30, warmup=30, cores=1, init=start)
            with pytest.warns(ConvergenceWarning, match="effective"):
                draws = fit.fit(two_hills, far).draws["loc"]
            assert bool((draws * side > 15).all())


# -- geometry --------------------------------------------------------------------------------------


def test_a_dense_mass_matrix_takes_fewer_steps_along_a_ridge():
    options = {"chains": 1, "draws": 250, "warmup": 250, "cores": 1, "jit": True}
    observed = double(0.6)
    dense = NUTS(**options, dense_mass=True).fit(ridge, observed)
    diagonal = NUTS(chains=1, draws=20, warmup=100, cores=1, jit=True)
    with pytest.warns(ConvergenceWarning, match="."):
        slow = diagonal.fit(ridge, observed)
    steps = [float(fit.sample_stats["n_steps"].double().mean()) for fit in (dense, slow)]
    assert steps[0] < steps[1] / 4
    for name in ("a", "b"):
        draws = dense.draws[name]
        # a and b have posterior mean x / (2 + .02²) and variance (1 + .02²) / (2 + .02²).
        variance = (1 + 0.0004) / 2.0004
        error = math.sqrt(variance / float(effective_sample_size(draws)))
        assert float(draws.mean()) == pytest.approx(0.6 / 2.0004, abs=4 * error)
        assert error < 0.1


def funnel(x):
    log_scale = pyro.sample("log_scale", dist.Normal(0.0, 3.0))
    with pyro.plate("effect", 6):
        effects = pyro.sample("effects", dist.Normal(0.0, (log_scale / 2).exp()))
        pyro.sample("x", dist.Normal(effects, 20.0), obs=x)


def test_a_funnel_diverges_and_says_so():
    # Longer steps than usual: the neck of the funnel needs ever shorter ones.
    engine = NUTS(chains=2, draws=100, warmup=100, cores=1, jit=True, target_accept=0.6)
    with pytest.warns(ConvergenceWarning, match=r"\d+ of 200 draws diverged") as caught:
        fit = engine.fit(funnel, torch.zeros(6))
    assert len(caught) == 1
    assert not fit.converged
    assert fit.diagnostics["divergences"] == float(fit.sample_stats["diverging"].sum()) > 0


def test_chains_that_disagree_are_told_on():
    far = double([20.0, 21.0, 19.5, 20.5])
    mixed = Laplace(draws=20).fit(two_hills, far)
    mixed.draws["loc"][0, ::2] *= -1  # starts on both sides
    engine = NUTS(chains=4, draws=50, warmup=50, cores=1, jit=True, init=mixed, seed=2)
    with pytest.warns(ConvergenceWarning, match="R-hat is"):
        fit = engine.fit(two_hills, far)
    assert fit.diagnostics["rhat_max"] > 1.5
    assert not fit.converged


# -- nutpie ----------------------------------------------------------------------------------------


def test_nutpie_finds_conjugate_posteriors():
    pytest.importorskip("nutpie")
    engine = NUTS(chains=2, draws=400, warmup=300, backend="nutpie", jit=True)
    fit = engine.fit(conjugate, HEADS, EVENTS, CLASSES, LEVELS)
    check_moments(fit)
    assert fit.converged
    assert set(fit.sample_stats) == {"lp", "acceptance_rate", "n_steps", "step_size", "diverging"}
    assert all(value.shape == (2, 400) for value in fit.sample_stats.values())


def test_nutpie_absent_is_said_before_any_work(monkeypatch):
    find = importlib.util.find_spec

    def without(name, *rest):
        return None if name == "nutpie" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)

    def never(x):
        raise AssertionError("the program ran")

    with pytest.raises(OptionError, match=r"pip install 'likely\[fast\]'"):
        NUTS(backend="nutpie").fit(never, POINTS)
