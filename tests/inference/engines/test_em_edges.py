"""EM with zeros, known classes, restarts, and priors below a latent."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from likely.inference import (
    EM,
    MAP,
    MLE,
    ConvergenceWarning,
    OptionError,
    ProgramError,
)
from likely.models import Annotations, DawidSkene
from problems import COUNTS, START, annotations, double, two_rates

# -- zeros, known classes, restarts ----------------------------------------------------------------


def test_cells_that_start_at_zero_stay_exactly_zero():
    program, args = DawidSkene(4), (annotations(),)
    start = program.initial(*args)
    empty = start["confusion"] == 0
    assert 0 < int(empty.sum()) < empty.numel()
    fit = EM().fit(program, *args)
    assert bool((fit.params["confusion"][empty] == 0).all())
    for draws in fit.params.values():
        assert bool(torch.isfinite(draws).all())
    assert bool(torch.isfinite(fit.latent("truth")).all())
    torch.testing.assert_close(fit.params["confusion"].sum(-1), torch.ones(5, 4).double())


def test_the_likelihood_does_not_look_at_the_prior():
    # A Dirichlet prior above one has no density at the zeros of the start, one at one has.
    flat = EM().fit(DawidSkene(4, confusion_prior=1.0), annotations())
    steep = EM().fit(DawidSkene(4, prevalence_prior=4.0, confusion_prior=7.0), annotations())
    assert flat.history.equals(steep.history)
    assert torch.equal(flat.params["confusion"], steep.params["confusion"])


def test_a_component_of_weight_zero_stays_away():
    start = {"weights": [1.0, 0.0], "rate": [1.0, 3.0]}
    fit = EM(init=start).fit(two_rates, COUNTS)
    assert fit.params["weights"].tolist() == [1.0, 0.0]
    assert float(fit.params["rate"][0]) == pytest.approx(float(COUNTS.mean()), abs=1e-5)
    # Nothing is known about a component without rows: it keeps its value.
    assert float(fit.params["rate"][1]) == pytest.approx(3.0)
    torch.testing.assert_close(fit.latent("z")[:, 0], torch.ones(15).double())


def test_a_row_without_counts_keeps_its_table():
    program = DawidSkene(3)
    crowd = Annotations.from_arrays(
        [0, 0, 1, 1, 2], [0, 1, 0, 1, 0], [0, 0, 1, 1, 1], classes=[0, 1, 2], annotators=[0, 1, 2]
    )
    fit = EM().fit(program, crowd)
    torch.testing.assert_close(fit.params["confusion"][2], torch.full((3, 3), 1 / 3).double())
    assert float(fit.params["prevalence"][2]) == 0.0


def test_known_classes_give_their_closed_form_counts_in_one_step():
    frame = pd.DataFrame(
        {
            "task": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
            "annotator": ["a", "b"] * 5,
            "label": [0, 0, 0, 1, 1, 1, 1, 0, 1, 1],
        }
    )
    crowd = Annotations.from_frame(frame, truth={0: 0, 1: 0, 2: 1, 3: 1, 4: 1})
    far = {"prevalence": [0.9, 0.1], "confusion": torch.full((2, 2, 2), 0.5)}
    path = []

    def watch(step):
        path.append(step.params())

    fit = EM(init=far, callback=watch).fit(DawidSkene(2), crowd)
    expected = double([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [1 / 3, 2 / 3]]])
    torch.testing.assert_close(path[1]["confusion"], expected)
    torch.testing.assert_close(path[1]["prevalence"], double([0.4, 0.6]))
    assert fit.n_iter == 2  # the second step finds nothing to do
    torch.testing.assert_close(fit.params["confusion"], expected)


def three_coins(heads):
    """Bags of six tosses of one of three coins; the likelihood has several modes."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("coin", 3):
        chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
    with pyro.plate("bag", len(heads)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("heads", dist.Binomial(6, chance[z]), obs=heads)


def test_restarts_keep_the_best_and_are_reproducible():
    heads = double([0, 0, 0, 1, 2, 3, 3, 3, 4, 6, 6, 5, 6, 0, 3])
    ends = {}

    def watch(step):
        ends[step.restart] = step.objective

    # Where two coins start alike, EM does not tell them apart; the restarts move them.
    alike = {"weights": torch.full((3,), 1 / 3), "chance": [0.2, 0.6, 0.6]}
    fit = EM(restarts=4, init=alike, callback=watch, tol=1e-6).fit(three_coins, heads)
    assert sorted(ends) == list(range(4))
    alone = EM(init=alike, tol=1e-6).fit(three_coins, heads)
    assert ends[0] == alone.log_likelihood
    assert fit.log_likelihood == pytest.approx(max(ends.values()), abs=1e-10)
    assert fit.log_likelihood > alone.log_likelihood + 0.1
    again = EM(restarts=4, init=alike, tol=1e-6).fit(three_coins, heads)
    assert all(torch.equal(fit.params[name], again.params[name]) for name in fit.params)


def test_too_few_steps_warn_and_are_marked():
    with pytest.warns(ConvergenceWarning, match="3 iterations"):
        fit = EM(max_iter=3, init=START).fit(two_rates, COUNTS)
    assert not fit.converged
    assert (fit.n_iter, len(fit.history)) == (3, 4)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="objective must be one of 'likelihood', 'posterior'"):
        EM(objective="evidence")
    with pytest.raises(OptionError, match="m_step_iter"):
        EM(m_step_iter=0)


# -- a prior below a latent ------------------------------------------------------------------------


def entangled(y):
    """Which of two priors ``level`` comes from is a discrete latent."""
    which = pyro.sample("which", dist.Categorical(double([0.3, 0.7])))
    level = pyro.sample("level", dist.Normal(double([-2.0, 3.0])[which], 1.0))
    with pyro.plate("point", len(y)):
        pyro.sample("y", dist.Normal(level, 2.0), obs=y)


def test_a_prior_below_a_latent_has_a_posterior_but_no_e_step_of_the_likelihood():
    y = double([-1.0, 0.5, 0.3])
    with pytest.raises(ProgramError, match=r"'level'.*posterior"):
        EM().fit(entangled, y)
    fit = MLE().fit(entangled, y)
    assert float(fit.params["level"]) == pytest.approx(float(y.mean()), abs=1e-6)

    def negative(level):
        prior = logsumexp(
            np.log([0.3, 0.7]) - 0.5 * (level - np.array([-2.0, 3.0])) ** 2
        ) - 0.5 * math.log(2 * math.pi)
        likelihood = -0.125 * ((y.numpy() - level) ** 2).sum() - 3 * math.log(
            2 * math.sqrt(2 * math.pi)
        )
        return -prior - likelihood

    for bounds in ((-4.0, 0.0), (1.0, 4.0)):  # a mode in either part of the prior
        best = minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-10})
        start = {"level": sum(bounds) / 2}
        for estimator in (EM(objective="posterior", init=start, tol=1e-14), MAP(init=start)):
            fit = estimator.fit(entangled, y)
            assert float(fit.params["level"]) == pytest.approx(best.x, abs=1e-5)
            assert fit.log_likelihood + fit.log_prior == pytest.approx(-best.fun, abs=1e-9)
