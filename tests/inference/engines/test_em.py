"""EM: the objective and its optimum, closed and numerical M-steps, hard EM."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp

from likely.inference import (
    EM,
    MAP,
    MLE,
    MonotonicityError,
    ProgramError,
)
from likely.inference.coordinates import Coordinates
from likely.inference.engines.gradient import value_and_gradient
from likely.models import DawidSkene
from problems import COUNTS, START, annotations, double, two_rates

# -- the objective and its optimum -----------------------------------------------------------------


def switching_line(x, y):
    """Two lines with one noise: no table but the weights, and no closed M-step declared."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 3.0)))
    noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
    with pyro.plate("line", 2):
        slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
        level = pyro.sample("level", dist.StudentT(4.0, 0.0, 2.0))
    with pyro.plate("point", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(level[z] + slope[z] * x, noise), obs=y)


def linked_switches(y):
    """Two switches a row, one of which the other depends on, and measurements of both."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    link = pyro.sample("link", dist.Dirichlet(torch.full((2, 2), 2.0)).to_event(1))
    gap = pyro.sample("gap", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        first = pyro.sample("first", dist.Categorical(weights))
        second = pyro.sample("second", dist.Categorical(link[first]))
        pyro.sample("a", dist.Normal(gap * first, 1.0), obs=y[:, 0])
        pyro.sample("b", dist.Normal(-gap * second, 1.0), obs=y[:, 1])


def pooled_rates(y):
    """Rates around a common rate that is unknown as well; the prior has unknowns of its own."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    common = pyro.sample("common", dist.LogNormal(1.0, 1.0))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0 / common))
    with pyro.plate("count", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)


def line_data():
    generator = np.random.default_rng(7)
    x = generator.normal(size=80)
    z = generator.random(80) < 0.35
    return double(x), double(
        np.where(z, 2.0 - 1.5 * x, -1.0 + 0.5 * x) + 0.4 * generator.normal(size=80)
    )


def pair_data():
    generator = np.random.default_rng(8)
    first = generator.random(120) < 0.4
    second = generator.random(120) < np.where(first, 0.8, 0.1)
    y = np.stack([2.0 * first, -2.0 * second], 1) + generator.normal(size=(120, 2))
    return (double(y),)


LINES = {"weights": [0.6, 0.4], "noise": 1.0, "slope": [0.0, -1.0], "level": [-1.0, 1.0]}
LINKS = {"weights": [0.5, 0.5], "link": [[0.6, 0.4], [0.4, 0.6]], "gap": 1.0}
MIXED = {
    "two-rates": (two_rates, (COUNTS,), START),
    "switching-line": (switching_line, line_data(), LINES),
    "linked-switches": (linked_switches, pair_data(), LINKS),
    "dawid-skene": (DawidSkene(4), (annotations(),), None),
}


@pytest.mark.parametrize("objective", ["likelihood", "posterior"])
@pytest.mark.parametrize("name", MIXED)
def test_em_climbs_to_the_optimum_of_the_gradient_engines(name, objective):
    program, args, start = MIXED[name]
    em = EM(objective=objective, init=start, tol=1e-14, max_iter=5000).fit(program, *args)
    path = em.history.objective
    assert em.converged
    assert np.diff(path).min() > -1e-10 * abs(path.iloc[-1])
    assert len(path) == em.n_iter + 1
    with_prior = objective == "posterior"

    def height(fit):
        return fit.log_likelihood + (fit.log_prior if with_prior else 0.0)

    # The end of EM, the start of the search: it is an optimum if there is nothing left to climb.
    gradient = (MAP if with_prior else MLE)(init=em, em_steps=0)
    if name == "dawid-skene" and not with_prior:
        with pytest.warns(UserWarning, match="boundary"):
            best = gradient.fit(program, *args)
    else:
        best = gradient.fit(program, *args)
    assert height(best) == pytest.approx(path.iloc[-1], abs=1e-7)
    for site, value in best.params.items():
        torch.testing.assert_close(em.params[site], value, atol=1e-4, rtol=1e-4, msg=site)
    # From the common start the search finds the same optimum by itself.
    alone = (MAP if with_prior else MLE)(init=start)
    if name == "dawid-skene" and not with_prior:
        with pytest.warns(UserWarning, match="boundary"):
            fit = alone.fit(program, *args)
    else:
        fit = alone.fit(program, *args)
    assert height(fit) == pytest.approx(path.iloc[-1], abs=1e-6)


def test_hyperparameters_take_part_in_the_posterior_objective():
    start = {**START, "common": 2.0}
    em = EM(objective="posterior", init=start, tol=1e-14, max_iter=5000).fit(pooled_rates, COUNTS)
    best = MAP(init=start).fit(pooled_rates, COUNTS)
    for site, value in best.params.items():
        torch.testing.assert_close(em.params[site], value, atol=1e-4, rtol=1e-4, msg=site)


def test_a_stationary_point_of_em_has_no_slope():
    fit = EM(init=START, tol=1e-15, max_iter=5000).fit(two_rates, COUNTS)
    program = fit.program
    with program.session(0):
        coordinates = Coordinates(program)
        at = coordinates.unconstrain(fit.point())
        _, gradient = value_and_gradient(program, coordinates, lambda d: d.log_likelihood, at)
    assert float(gradient.abs().max()) < 1e-5


def test_em_of_a_mixture_takes_the_textbook_steps():
    """Weights and rates by hand, step by step."""
    weights, rate = np.array(START["weights"]), np.array(START["rate"])
    y = COUNTS.numpy()
    path = []
    for _ in range(10):
        joint = np.log(weights) + y[:, None] * np.log(rate) - rate
        path.append(logsumexp(joint, axis=1).sum() - sum(math.lgamma(v + 1) for v in y))
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        weights, rate = share.mean(0), share.T @ y / share.sum(0)
    fit = EM(init=START, m_step_iter=100, tol=1e-14).fit(two_rates, COUNTS)
    np.testing.assert_allclose(fit.history.objective[:10], path, atol=1e-6)


# -- closed M-steps that a program declares --------------------------------------------------------


class DeclaredRates:
    """The mixture of `two_rates` with its M-step written down, right or wrong."""

    def __init__(self, wrong=None):
        self.wrong, self.calls = wrong, []

    def __call__(self, y):
        two_rates(y)

    def m_step(self, responsibilities, params, y, *, objective):
        self.calls.append((responsibilities, params, objective))
        share = responsibilities["z"]
        rate = (share * y[:, None]).sum(0) / share.sum(0)
        return {
            None: {"rate": rate},
            "value": {"rate": 5.0 * rate},
            "shape": {"rate": rate[:1]},
            "site": {"rates": rate},
        }[self.wrong]


def test_a_declared_m_step_is_used_and_told_what_it_needs():
    program = DeclaredRates()
    fit = EM(init=START, tol=1e-12).fit(program, COUNTS)
    plain = EM(init=START, tol=1e-12, m_step_iter=100).fit(two_rates, COUNTS)
    steps = min(len(fit.history), len(plain.history))
    np.testing.assert_allclose(
        fit.history.objective[:steps], plain.history.objective[:steps], atol=1e-6
    )
    assert len(program.calls) == fit.n_iter
    responsibilities, params, objective = program.calls[0]
    assert responsibilities["z"].shape == (15, 2)
    torch.testing.assert_close(responsibilities["z"].sum(-1), torch.ones(15).double())
    assert set(params) == {"weights", "rate"}
    torch.testing.assert_close(params["rate"], double(START["rate"]))
    assert objective == "likelihood"


def test_an_m_step_that_lowers_the_objective_raises():
    with pytest.raises(MonotonicityError, match="m_step"):
        EM(init=START).fit(DeclaredRates("value"), COUNTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("shape", r"'rate' with shape \(1,\); expected \(2,\)"), ("site", "'rates'.*not one of")],
)
def test_an_m_step_that_does_not_fit_the_program_is_named(wrong, message):
    with pytest.raises(ProgramError, match=message):
        EM(init=START).fit(DeclaredRates(wrong), COUNTS)


# -- classification EM -----------------------------------------------------------------------------


def clusters(x):
    with pyro.plate("cluster", 3):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 100.0).to_event(1))
    with pyro.plate("point", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(1), obs=x)


def test_hard_em_takes_the_steps_of_lloyds_algorithm():
    generator = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [2.5, 0.0], [0.0, 2.5]])
    x = centres[generator.integers(0, 3, 60)] + generator.normal(size=(60, 2))
    current = x[:3].copy()
    fit = EM(hard=True, init={"loc": current}).fit(clusters, x)
    path = []
    for _ in range(len(fit.history)):
        distance = ((x[:, None] - current) ** 2).sum(-1)
        nearest = distance.argmin(1)
        path.append(-0.5 * distance.min(1).sum() - 60 * math.log(3 * 2 * math.pi))
        last = current
        current = np.stack([x[nearest == k].mean(0) for k in range(3)])
    assert fit.n_iter > 3
    np.testing.assert_allclose(fit.history.objective, path, atol=1e-7)
    np.testing.assert_allclose(fit.params["loc"], last, atol=1e-6)
    np.testing.assert_allclose(fit.params["loc"], current, atol=1e-6)


def test_hard_em_counts_whole_rows_in_tables():
    fit = EM(hard=True, init=START, tol=1e-12, m_step_iter=100).fit(two_rates, COUNTS)
    y = COUNTS.numpy()
    weights, rate = fit.params["weights"].numpy(), fit.params["rate"].numpy()
    assigned = np.log(weights) + y[:, None] * np.log(rate) - rate
    nearest = assigned.argmax(1)
    assert 0 < nearest.sum() < 15
    np.testing.assert_allclose(weights, np.bincount(nearest) / 15, atol=1e-12)
    means = [y[nearest == k].mean() for k in range(2)]
    np.testing.assert_allclose(rate, means, atol=1e-5)
    best = assigned.max(1).sum() - sum(math.lgamma(v + 1) for v in y)
    assert fit.history.objective.iloc[-1] == pytest.approx(best, abs=1e-8)
