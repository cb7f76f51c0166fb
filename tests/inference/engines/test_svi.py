"""SVI: guides on known posteriors, the ELBO of enumerated programs, k-hat, parameters."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.optim import Adam

from likely.inference import (
    MLE,
    SVI,
    ConvergenceWarning,
    Laplace,
    NonFiniteError,
    OptionError,
    ProgramError,
)


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


# -- a Gaussian posterior --------------------------------------------------------------------

X = double([[1, 0.9], [1, 1.1], [1, -0.2], [1, 0.8], [1, 1.9], [1, 0.4]])
Y = double([1.0, 2.0, 0.5, 1.0, 3.0, 0.2])
PRECISION = X.T @ X / 0.25 + torch.eye(2, dtype=torch.float64) / 4
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = COVARIANCE @ (X.T @ Y / 0.25)


def line(x, y):
    """Known noise, so that the posterior of the correlated weights is N(MEAN, COVARIANCE)."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("point", len(y)):
        pyro.sample("y", dist.Normal(x @ weights, 0.5), obs=y)


TRUE_SDS = COVARIANCE.diagonal().sqrt()
# The independent normals nearest to a normal posterior (in the sense of the ELBO) have its
# conditional standard deviations, the inverse roots of the precision's diagonal (Bishop 2006,
# section 10.1.2): 37 % below its marginal ones here.
CONDITIONAL_SDS = PRECISION.diagonal().rsqrt()


def diagonal_guide(x, y):
    loc = pyro.param("loc", torch.zeros(2))
    scale = pyro.param("scale", torch.full((2,), 0.1), constraint=dist.constraints.positive)
    pyro.sample("weights", dist.Normal(loc, scale).to_event(1))


GUIDES = {
    "normal": ("normal", CONDITIONAL_SDS),
    "multivariate": ("multivariate", TRUE_SDS),
    "lowrank": ("lowrank", TRUE_SDS),
    "flow": ("flow", TRUE_SDS),
    "function": (diagonal_guide, CONDITIONAL_SDS),
    "autoguide": (AutoMultivariateNormal(line, init_scale=0.1), TRUE_SDS),
}


@cache
def fitted(name):
    return SVI(guide=GUIDES[name][0], max_iter=1500, draws=2000).fit(line, X, Y)


@pytest.mark.parametrize("name", GUIDES)
def test_guides_find_a_gaussian_posterior(name):
    fit, sds = fitted(name), GUIDES[name][1]
    draws = fit.draws["weights"]
    assert draws.shape == (1, 2000, 2)
    # The mean of 2000 independent draws is off by 1/sqrt(2000) = .022 sds, their spread by
    # 1/sqrt(4000) = 1.6 %. The last gradient steps add noise of about .07 sds and 3 %. Three
    # standard errors of the two together.
    np.testing.assert_array_less((draws.mean((0, 1)) - MEAN).abs() / TRUE_SDS, 0.22)
    np.testing.assert_array_less((draws.flatten(0, 1).std(0) / sds - 1).abs(), 0.1)
    torch.testing.assert_close(fit.params["weights"], draws.mean((0, 1)))
    assert list(pyro.get_param_store()) == []


def test_only_guides_with_correlations_find_the_correlation():
    found = {
        name: float(torch.corrcoef(fitted(name).draws["weights"][0].T)[0, 1])
        for name in ("normal", "multivariate")
    }
    truth = float(COVARIANCE[0, 1] / TRUE_SDS.prod())
    # A sample correlation has a standard error of (1 - r²) / sqrt(n), at most .022.
    assert abs(found["normal"]) < 4 * 0.022
    assert found["multivariate"] == pytest.approx(truth, abs=0.1)
    assert truth < -0.7


def test_a_good_guide_has_a_small_khat():
    fit = fitted("multivariate")
    assert fit.diagnostics["khat"] < 0.5
    # The weights are those of the posterior: their mean is the evidence of the data, which a
    # guide this good has to 5 standard errors of the mean weight.
    weights = fit.sample_stats["log_weight"][0].exp()
    noise = 0.25 * torch.eye(6, dtype=torch.float64) + 4 * X @ X.T
    evidence = torch.distributions.MultivariateNormal(torch.zeros(6).double(), noise).log_prob(Y)
    error = float(weights.std() / math.sqrt(2000) / weights.mean())
    assert error < 0.05
    assert float(weights.mean().log()) == pytest.approx(float(evidence), abs=5 * error)


def funnel(x):
    log_scale = pyro.sample("log_scale", dist.Normal(0.0, 3.0))
    with pyro.plate("effect", len(x)):
        effect = pyro.sample("effects", dist.Normal(0.0, (log_scale / 2).exp()))
        pyro.sample("x", dist.Normal(effect, 20.0), obs=x)


def test_a_bad_guide_has_a_large_khat():
    fit = SVI(guide="normal", max_iter=800, draws=1000).fit(funnel, torch.zeros(30))
    # Above this the importance ratios have no finite variance (Vehtari et al. 2024).
    assert fit.diagnostics["khat"] > 0.7


def test_a_point_is_no_posterior_and_its_khat_says_so():
    def coin(heads):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("toss", len(heads)):
            pyro.sample("heads", dist.Bernoulli(p), obs=heads)

    fit = SVI(guide="delta", max_iter=500, draws=50).fit(coin, torch.tensor([1.0, 1.0, 0.0]))
    assert fit.diagnostics["khat"] == math.inf


@pytest.mark.parametrize("guide", ["normal", "multivariate", "lowrank", "flow", "delta"])
def test_every_guide_takes_a_program_of_parameters_alone(guide):
    def level(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("point", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    fit = SVI(guide=guide, max_iter=500, draws=10).fit(level, Y)
    assert float(fit.params["loc"]) == pytest.approx(float(Y.mean()), abs=1e-3)


# -- guides that do not fit ------------------------------------------------------------------


def half_a_guide(x):
    pyro.sample("log_scale", dist.Normal(0.0, 1.0))


def test_a_guide_that_leaves_a_site_out_is_refused():
    with pytest.raises(ProgramError, match="guide has no site 'effects'"):
        SVI(guide=half_a_guide, max_iter=5).fit(funnel, torch.zeros(5))


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="guide must be one of 'normal', 'multivariate'"):
        SVI(guide="gaussian")
    with pytest.raises(OptionError, match="guide"):
        SVI(guide=3)
    with pytest.raises(OptionError, match=r"pyro\.optim"):
        SVI(optimizer=torch.optim.Adam)
    for option in ({"num_particles": 0}, {"draws": 1}, {"learning_rate": 0.0}):
        with pytest.raises(OptionError, match=next(iter(option))):
            SVI(**option)


# -- the ELBO --------------------------------------------------------------------------------


def two_rates(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
    with pyro.plate("count", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)


def two_rates_summed(y):
    """The same with the latent summed out by hand."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
    with pyro.plate("count", len(y)):
        mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Poisson(rate))
        pyro.sample("y", mixture, obs=y)


COUNTS = double([0, 1, 1, 2, 0, 3, 9, 12, 8, 10, 1, 2, 11, 7, 0])
START = {"weights": [0.6, 0.4], "rate": [1.0, 8.0]}


def learning_guide(y):
    """A guide that draws the same numbers whatever the program does."""
    shares = pyro.param("shares", torch.tensor([3.0, 2.0]), constraint=dist.constraints.positive)
    centre = pyro.param("centre", torch.tensor([0.0, 2.0]))
    pyro.sample("weights", dist.Dirichlet(shares))
    with pyro.plate("component", 2):
        pyro.sample("rate", dist.LogNormal(centre, 0.1))


@pytest.mark.parametrize("particles", [1, 3])
def test_summing_a_latent_out_gives_the_elbo_of_the_sum_by_hand(particles):
    engine = SVI(guide=learning_guide, max_iter=40, draws=20, init=START, num_particles=particles)
    enumerated = engine.fit(two_rates, COUNTS)
    by_hand = engine.fit(two_rates_summed, COUNTS)
    np.testing.assert_allclose(enumerated.history.objective, by_hand.history.objective, rtol=1e-8)
    for name in ("weights", "rate"):
        torch.testing.assert_close(enumerated.draws[name], by_hand.draws[name])
    torch.testing.assert_close(
        enumerated.sample_stats["log_weight"], by_hand.sample_stats["log_weight"]
    )


def rates_guide(y):
    """A fixed guide with little spread."""
    pyro.sample("weights", dist.Dirichlet(torch.tensor([600.0, 400.0])))
    with pyro.plate("component", 2):
        pyro.sample("rate", dist.LogNormal(torch.tensor([0.0, 2.0]), 0.05))


def test_the_elbo_is_that_of_pyros_enumerating_estimator():
    fit = SVI(guide=rates_guide, max_iter=20, draws=500).fit(two_rates, COUNTS)
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        torch.manual_seed(1)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            estimator = TraceEnum_ELBO(max_plate_nesting=1, num_particles=500)
            theirs = -estimator.loss(config_enumerate(two_rates), rates_guide, COUNTS)
        finally:
            torch.set_default_dtype(before)
    # The guide does not learn, so that the mean log weight of the draws estimates the same ELBO,
    # with the same noise as Pyro's 500 particles: four standard errors of the difference.
    weights = fit.sample_stats["log_weight"][0]
    error = float(weights.std()) / math.sqrt(250)
    assert float(weights.mean()) == pytest.approx(theirs, abs=4 * error)
    # So do the 20 steps, whose mean is five times as noisy.
    steps = fit.history.objective
    assert steps.mean() == pytest.approx(theirs, abs=4 * float(weights.std()) / math.sqrt(20))
    assert error < 0.1  # a prior or an entropy left out shifts the ELBO by more than one


# -- parameters ------------------------------------------------------------------------------


def test_parameters_are_learnt_along_with_the_guide():
    y = double([1.2, 3.1, 2.2, 4.0, 2.6])

    def program(y):
        centre = pyro.param("centre", torch.tensor(0.0))
        with pyro.plate("unit", len(y)):
            level = pyro.sample("level", dist.Normal(centre, 1.0))
            pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    fit = SVI(max_iter=1500, draws=1000).fit(program, y)
    # Each y is N(centre, 2): the best centre is the mean, and with it the level of a unit is
    # normal around the middle of the two, with variance 1/2. Independent normals are exact here.
    assert float(fit.params["centre"]) == pytest.approx(float(y.mean()), abs=0.05)
    assert fit.draws["centre"].shape == (1, 1000)
    assert len(fit.draws["centre"].unique()) == 1
    middle = (y + y.mean()) / 2
    # As above: .25 sds for the draws and the last gradient steps.
    torch.testing.assert_close(fit.params["level"], middle, atol=0.25 * 0.5**0.5, rtol=0)
    spread = fit.draws["level"].flatten(0, 1).std(0)
    torch.testing.assert_close(spread, torch.full((5,), 0.5**0.5).double(), atol=0, rtol=0.12)


def test_with_parameters_only_the_elbo_is_the_log_likelihood():
    def program(y):
        weights = pyro.param(
            "weights", torch.tensor([0.6, 0.4]), constraint=dist.constraints.simplex
        )
        rate = pyro.param("rate", torch.tensor([1.0, 8.0]), constraint=dist.constraints.positive)
        with pyro.plate("count", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Poisson(rate[z]), obs=y)

    optimum = MLE().fit(program, COUNTS)
    fit = SVI(max_iter=400, draws=2).fit(program, COUNTS)
    assert fit.converged
    start = MLE(init=START, em_steps=0).fit(two_rates, COUNTS).history.objective[0]
    assert fit.history.objective[0] == pytest.approx(start, abs=1e-8)
    assert fit.log_likelihood == pytest.approx(optimum.log_likelihood, abs=1e-5)


# -- the run ---------------------------------------------------------------------------------


def test_a_run_that_was_too_short_warns():
    far = {"weights": [30.0, -30.0]}
    with pytest.warns(ConvergenceWarning, match="still rising after 200 steps"):
        fit = SVI(max_iter=200, draws=10, init=far).fit(line, X, Y)
    assert not fit.converged
    assert len(fit.history) == fit.n_iter == 200


def test_warm_starts_and_optimisers_of_pyro():
    mode = Laplace(draws=10).fit(line, X, Y)
    with pytest.warns(ConvergenceWarning, match="still rising"):
        fit = SVI(max_iter=40, draws=1000, init=mode, optimizer=Adam({"lr": 1e-4})).fit(line, X, Y)
    # Steps of 1e-4 do not leave the start: the centre of the guide is the start, with its
    # initial spread of .1. The mean of 1000 draws is off by .1 / sqrt(1000) = .0032.
    atol = 4 * 0.0032 + 40 * 1e-4
    torch.testing.assert_close(fit.params["weights"], mode.params["weights"], atol=atol, rtol=0)


def test_a_callback_sees_the_centre_of_the_guide_and_can_stop():
    seen = []

    def watch(step):
        seen.append((step.iteration, step.params()))
        return step.iteration == 5

    with pytest.warns(ConvergenceWarning, match="stopped"):
        fit = SVI(max_iter=100, draws=10, init={"weights": [1.0, 2.0]}, callback=watch).fit(
            line, X, Y
        )
    assert [iteration for iteration, _ in seen] == list(range(6))
    # One step of Adam moves each coordinate by the learning rate, .03.
    torch.testing.assert_close(seen[0][1]["weights"], double([1, 2]), atol=0.031, rtol=0)
    assert fit.n_iter == 6
    assert not fit.converged


def test_restarts_keep_the_highest_elbo():
    ends = {}

    def watch(step):
        ends.setdefault(step.restart, []).append(step.objective)

    with pytest.warns(ConvergenceWarning, match="still rising"):
        fit = SVI(max_iter=100, draws=10, restarts=3, callback=watch).fit(two_rates, COUNTS)
    assert sorted(ends) == [0, 1, 2]
    best = max(ends.values(), key=lambda path: np.mean(path[-25:]))
    assert fit.history.objective.tolist() == best


def test_an_elbo_that_is_not_finite_raises():
    def program(x):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        pyro.factor("x", -((level - x) ** 2) / torch.where(level > 0.5, 0.0, 1.0))

    with pytest.raises(NonFiniteError, match="ELBO"):
        SVI(max_iter=400, draws=10, init={"level": 0.2}).fit(program, double(3.0))
