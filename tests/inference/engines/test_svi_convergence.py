"""SVI: when a run counts as converged, how still its answer stands, and the optimum of EM."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta

from likely.inference import EM, SVI, ConvergenceWarning
from likely.models import LogisticRegression

pytestmark = pytest.mark.filterwarnings("ignore::likely.inference.errors.ConvergenceWarning")


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


COUNTS = double([0, 1, 1, 2, 0, 3, 9, 12, 8, 10, 1, 2, 11, 7, 0])
START = {"weights": [0.6, 0.4], "rate": [1.0, 8.0]}


def two_rates(y, weight=None):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
    _counts(y, weights, rate, weight)


def two_free_rates(y):
    weights = pyro.param("weights", double([0.6, 0.4]), constraint=dist.constraints.simplex)
    rate = pyro.param("rate", double([1.0, 8.0]), constraint=dist.constraints.positive)
    _counts(y, weights, rate)


def _counts(y, weights, rate, weight=None):
    weight = torch.ones(len(y)) if weight is None else weight
    with pyro.plate("count", len(y)), poutine.scale(scale=weight):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)


# -- the bound that EM climbs --------------------------------------------------------------------

# The E-step's exact posterior of z makes the ELBO the log-likelihood; TraceEnum_ELBO's sum over z
# is that ELBO. With points for the rest, SVI and EM climb the same function.


@pytest.mark.parametrize(
    "guide",
    ["delta", AutoDelta(poutine.block(two_rates, hide=["z"]))],
    ids=["name", "autoguide"],
)
def test_a_point_guide_reaches_the_optimum_of_em(guide):
    optimum = EM(objective="posterior", init=START).fit(two_rates, COUNTS)
    fit = SVI(guide=guide, init=START, max_iter=1500, draws=2).fit(two_rates, COUNTS)
    assert fit.converged
    best = optimum.history.objective.iloc[-1]
    # Nothing is drawn: what is left is the last steps' size, 3e-5, squared, times a curvature of
    # about 10.
    assert fit.history.objective.iloc[-1] == pytest.approx(best, abs=1e-6)
    assert fit.log_likelihood + fit.log_prior == pytest.approx(best, abs=1e-6)
    for name in ("weights", "rate"):
        torch.testing.assert_close(fit.params[name], optimum.params[name], atol=1e-3, rtol=0)
    torch.testing.assert_close(fit.latent("z"), optimum.latent("z"), atol=1e-3, rtol=0)


def test_parameters_alone_reach_the_maximum_likelihood_of_em(recwarn):
    optimum = EM().fit(two_free_rates, COUNTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        fit = SVI(max_iter=1500, draws=2).fit(two_free_rates, COUNTS)
    assert fit.converged
    best = optimum.history.objective.iloc[-1]
    assert fit.history.objective.iloc[-1] == pytest.approx(best, abs=1e-6)
    assert fit.log_likelihood == pytest.approx(optimum.log_likelihood, abs=1e-6)


# -- weights of observations ---------------------------------------------------------------------


def rates_guide(y, weight=None):
    shares = pyro.param("shares", double([3.0, 2.0]), constraint=dist.constraints.positive)
    centre = pyro.param("centre", double([0.0, 2.0]))
    pyro.sample("weights", dist.Dirichlet(shares))
    with pyro.plate("component", 2):
        pyro.sample("rate", dist.LogNormal(centre, 0.1))


def test_an_observation_of_weight_two_counts_as_two_where_latents_are_summed_out():
    times = torch.tensor([2, 1, 3, 1, 1, 2, 1, 1, 4, 1, 1, 2, 1, 1, 1])
    engine = SVI(guide=rates_guide, max_iter=40, draws=20, init=START)
    weighted = engine.fit(two_rates, COUNTS, times.double())
    repeated = engine.fit(two_rates, COUNTS.repeat_interleave(times))
    # The guide draws the same numbers, so that only rounding tells the two apart.
    assert weighted.history.objective.tolist() == pytest.approx(
        repeated.history.objective.tolist(), rel=1e-8
    )
    torch.testing.assert_close(weighted.draws["rate"], repeated.draws["rate"])
    torch.testing.assert_close(
        weighted.sample_stats["log_weight"], repeated.sample_stats["log_weight"]
    )


def test_score_functions_stand_in_where_a_guide_has_no_reparametrised_draws():
    class Opaque(dist.Normal):
        has_rsample = False

    def level(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("point", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("mu", Opaque(loc, 0.5))

    x = double([1.0, 2.0, 3.0])
    fit = SVI(guide=guide, max_iter=400, draws=500, num_particles=5).fit(level, x)
    # The posterior is N(1.5, 1/4), the guide's own spread. The score's noise is that of the bound
    # (about 5 nats, its constant) times 1 / .5: 2 · 5 / sqrt(5 · 200) = .32 in a gradient whose
    # curvature is 4, and the draws add .5 / sqrt(500) = .022. The prior alone says 0.
    assert float(fit.params["mu"]) == pytest.approx(1.5, abs=4 * math.hypot(0.08, 0.022))


# -- convergence ---------------------------------------------------------------------------------

FAR = [{"mu": 30.0}, {"mu": -500.0}]


def level(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1000.0))
    with pyro.plate("point", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.mark.parametrize("init", FAR, ids=["far", "farther"])
@pytest.mark.parametrize("steps", [1, 4, 8, 20, 50, 120, 400])
def test_a_run_that_ends_far_from_the_optimum_is_not_converged(steps, init):
    for seed in range(3):
        engine = SVI(max_iter=steps, draws=2, init=init, seed=seed)
        with pytest.warns(ConvergenceWarning, match="still rising"):
            fit = engine.fit(level, double([1.0, 2.0, 3.0]))
        # Steps of .03 cannot have covered the distance.
        assert abs(float(fit.params["mu"]) - 2.0) > 10


def test_most_runs_that_have_arrived_count_as_converged():
    fits = [
        SVI(max_iter=500, draws=2, seed=seed, init={"mu": 1.9}).fit(level, double([1.0, 2.0, 3.0]))
        for seed in range(6)
    ]
    # Three standard errors let one in 700 through, a few more as the variances are estimates.
    assert sum(fit.converged for fit in fits) >= 5


def test_the_answer_stands_still_at_the_end():
    torch.manual_seed(0)
    x = torch.randn(200, 2, dtype=torch.float64)
    y = (torch.rand(200) < torch.sigmoid(x @ double([1.0, -1.5]) - 0.5)).double()
    path = []
    engine = SVI(max_iter=800, draws=500, callback=lambda step: path.append(step.params()))
    fit = engine.fit(LogisticRegression(), x, y)
    for name in ("intercept", "coefficients"):
        sds = fit.draws[name][0].std(0)
        last = torch.stack([values[name] for values in path[-80:]])
        moved = (last - last[-1]).abs().max(0).values / sds
        # Steps of .03 and less than .002 · .03 in the last tenth, against sds of about .2.
        assert float(moved.max()) < 0.02
