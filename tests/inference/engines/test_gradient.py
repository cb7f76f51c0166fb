"""MLE and MAP: L-BFGS and other optimisers, mini-batches, restarts, EM before the search."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from likely.inference import (
    EM,
    MAP,
    MLE,
    ConvergenceWarning,
    NonFiniteError,
    OptionError,
    Program,
    ProgramError,
)
from likely.inference.coordinates import Coordinates
from likely.inference.engines.batches import Batches
from likely.inference.engines.gradient import value_and_gradient
from likely.models import (
    LinearRegression,
    LogisticRegression,
)
from problems import COUNTS, START, double, line_data, two_rates


def logistic_data(n=300, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 3)) * [1.0, 3.0, 0.3]
    y = generator.random(n) < expit(0.4 + x @ [1.0, -0.5, 2.0])
    return x, y.astype(float)


def logistic_optimum(x, y, prior_scale=None):
    """Intercept and coefficients by SciPy, from a density written here."""
    design = np.column_stack([np.ones(len(x)), x])

    def negative(beta):
        u = design @ beta
        value = np.logaddexp(0, u).sum() - y @ u
        gradient = design.T @ (expit(u) - y)
        if prior_scale is not None:
            value += 0.5 * (beta @ beta) / prior_scale**2
            gradient += beta / prior_scale**2
        return value, gradient

    found = minimize(negative, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-9})
    return found.x, -found.fun


def beta_of(fit):
    return np.append(fit.params["intercept"].numpy(), fit.params["coefficients"].numpy())


# -- L-BFGS ----------------------------------------------------------------------------------------


def test_mle_of_a_logistic_regression_is_that_of_scipy():
    x, y = logistic_data()
    beta, value = logistic_optimum(x, y)
    fit = MLE().fit(LogisticRegression(), x, y)
    np.testing.assert_allclose(beta_of(fit), beta, atol=1e-6)
    assert fit.log_likelihood == pytest.approx(value, abs=1e-9)
    assert fit.converged


def test_map_of_a_logistic_regression_is_that_of_scipy():
    x, y = logistic_data()
    beta, _ = logistic_optimum(x, y, prior_scale=0.5)
    program = LogisticRegression(intercept_scale=0.5, coefficients_scale=0.5)
    np.testing.assert_allclose(beta_of(MAP().fit(program, x, y)), beta, atol=1e-6)


def test_history_holds_the_start_and_every_step_and_never_falls():
    x, y = logistic_data()
    start = {"intercept": 0.0, "coefficients": torch.zeros(3)}
    fit = MLE(init=start).fit(LogisticRegression(), x, y)
    objective = fit.history.objective
    assert objective.iloc[0] == pytest.approx(-len(y) * math.log(2), abs=1e-9)
    assert objective.iloc[-1] == pytest.approx(fit.log_likelihood, abs=1e-12)
    assert (np.diff(objective) >= 0).all()
    assert len(objective) == fit.n_iter + 1


# -- other optimisers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "bound"),
    [
        # Adam and Rprop move by their own step sizes; a change of the objective below tol leaves
        # the curvature's square root of it in the parameters.
        ("adam", 1e-3),
        (torch.optim.Rprop, 1e-4),
        (partial(torch.optim.SGD, lr=2e-3, momentum=0.9), 1e-4),
    ],
)
def test_any_torch_optimiser_finds_the_optimum(optimizer, bound):
    x, y = logistic_data()
    beta, value = logistic_optimum(x, y)
    start = {"intercept": 0.0, "coefficients": torch.zeros(3)}
    fit = MLE(optimizer=optimizer, max_iter=5000, tol=1e-11, init=start).fit(
        LogisticRegression(), x, y
    )
    assert fit.converged
    np.testing.assert_allclose(beta_of(fit), beta, atol=bound)
    assert value - fit.log_likelihood < bound


def test_too_few_steps_warn_and_are_marked():
    x, y = logistic_data()
    for options in ({"max_iter": 2}, {"max_iter": 5, "optimizer": "adam"}):
        with pytest.warns(ConvergenceWarning, match=f"{options['max_iter']} iterations"):
            fit = MLE(init={"intercept": 3.0}, **options).fit(LogisticRegression(), x, y)
        assert not fit.converged
        assert fit.n_iter == options["max_iter"]


def test_an_optimiser_that_is_none_is_refused():
    with pytest.raises(OptionError, match="optimizer"):
        MLE(optimizer="newton")
    with pytest.raises(OptionError, match="optimizer"):
        MLE(optimizer=3)


def test_a_callback_sees_every_step_and_can_stop_the_search():
    x, y = logistic_data()
    seen = []

    def watch(step):
        seen.append(step)
        return step.iteration == 3

    with pytest.warns(ConvergenceWarning, match="stopped"):
        fit = MLE(callback=watch, init={"intercept": 3.0}).fit(LogisticRegression(), x, y)
    assert [step.iteration for step in seen] == [0, 1, 2, 3]
    assert [step.objective for step in seen] == fit.history.objective.tolist()
    assert fit.n_iter == 3
    torch.testing.assert_close(seen[-1].params()["coefficients"], fit.params["coefficients"])


# -- mini-batches ----------------------------------------------------------------------------------


def test_mini_batches_reach_the_optimum_of_all_data():
    x, y = logistic_data(n=1000)
    beta, _ = logistic_optimum(x, y)
    steps, size = 2000, 50
    start = {"intercept": 0.0, "coefficients": torch.zeros(3)}
    fit = MLE(batch_size=size, max_iter=steps, init=start).fit(LogisticRegression(), x, y)
    assert fit.converged
    # The average over the last quarter of the steps is, to first order, the estimate from the
    # m = size · steps / 4 rows it saw (Polyak & Juditsky 1992): its distance from the optimum of
    # all n rows has n / m times the variance of that optimum, less what drawing without
    # replacement saves. Four of these standard errors.
    design = np.column_stack([np.ones(len(x)), x])
    chance = expit(design @ beta)
    information = (design * (chance * (1 - chance))[:, None]).T @ design
    error = np.sqrt(np.linalg.inv(information).diagonal() * len(x) / (size * steps / 4))
    assert (np.abs(beta_of(fit) - beta) < 4 * error).all()
    # The bound can tell: the first Newton step from zero, a fair guess, lies far outside.
    newton = np.linalg.lstsq(design, 4 * (y - 0.5), rcond=None)[0]
    assert (np.abs(newton - beta) > 4 * error).any()


@pytest.mark.parametrize("with_prior", [False, True])
def test_mini_batch_gradients_of_an_epoch_average_to_the_whole(with_prior):
    x, y = logistic_data(n=120)
    program = Program(LogisticRegression(coefficients_scale=0.3), x, y)

    def total(density):
        return density.log_likelihood + (density.log_prior if with_prior else 0.0)

    with program.session(0):
        coordinates = Coordinates(program)
        at = double([0.3, -0.2, 0.5, 1.0])
        value, gradient = value_and_gradient(program, coordinates, total, at)
        batches = Batches(program, 20)
        parts = [
            value_and_gradient(program, coordinates, total, at, batches.draw()) for _ in range(6)
        ]
    assert np.mean([part[0] for part in parts]) == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(torch.stack([part[1] for part in parts]).mean(0), gradient)
    assert not torch.allclose(parts[0][1], gradient)


def test_batches_that_do_not_divide_the_data_are_fair():
    x, y = logistic_data(n=10)
    program = Program(LogisticRegression(), x, y)
    with program.session(0):
        batches = Batches(program, 4)
        drawn = [batches.draw()["observation"] for _ in range(500)]
    assert all(len(batch) == len(batch.unique()) == 4 for batch in drawn)
    # Each row is in 200 of 500 batches; a row drawn independently each time has a standard
    # deviation of sqrt(500 · .4 · .6) = 11, and drawing by epochs has less.
    counts = torch.bincount(torch.cat(drawn), minlength=10)
    assert int((counts - 200).abs().max()) < 22


def ignores_its_plate(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("point", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def test_a_program_that_ignores_its_plate_cannot_be_subsampled():
    with pytest.raises(ProgramError, match=r"'point'.*index"):
        MLE(batch_size=4).fit(ignores_its_plate, torch.arange(10.0))


def test_a_batch_larger_than_the_data_is_refused():
    x, y = logistic_data(n=10)
    with pytest.raises(OptionError, match="at most the 10"):
        MLE(batch_size=11).fit(LogisticRegression(), x, y)


# -- restarts --------------------------------------------------------------------------------------


def two_camps(x):
    """A likelihood with a mode at each of two camps of heavy-tailed points."""
    loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
    with pyro.plate("point", len(x)):
        pyro.sample("x", dist.Cauchy(loc, 0.5), obs=x)


CAMPS = double([-5.0, -5.1, -4.9, 5.0, 5.1, 4.9, 5.2])


def test_restarts_keep_the_best_of_several_modes():
    start = {"loc": -1.0}
    stuck = MLE(init=start).fit(two_camps, CAMPS)
    assert float(stuck.params["loc"]) == pytest.approx(-5.0, abs=0.1)
    visited = {}

    def watch(step):
        visited[step.restart] = step.objective

    best = MLE(init=start, restarts=6, callback=watch).fit(two_camps, CAMPS)
    assert float(best.params["loc"]) == pytest.approx(5.05, abs=0.1)
    assert sorted(visited) == list(range(6))
    # The first of the restarts is the fit without restarts, and the result is the best of all.
    assert visited[0] == stuck.log_likelihood
    assert best.log_likelihood == max(visited.values())
    assert best.history.objective.iloc[-1] == best.log_likelihood


def test_restarts_are_reproducible_whatever_was_drawn_before():
    first = MLE(restarts=4, seed=3).fit(two_camps, CAMPS)
    torch.rand(17)
    second = MLE(restarts=4, seed=3).fit(two_camps, CAMPS)
    assert torch.equal(first.params["loc"], second.params["loc"])
    assert first.history.equals(second.history)


def fragile(x):
    """Points to the left of zero make the density of the data infinite."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    density = torch.where(loc < 0, torch.tensor(math.inf), -((loc - x) ** 2))
    pyro.factor("x", density)


def test_a_start_that_fails_counts_only_if_all_fail():
    with pytest.raises(NonFiniteError):
        MLE(init={"loc": 1.0}).fit(fragile, double(-1.0))
    # From x = 2 the search stays at the right; the start at the left fails.
    failed = {"loc": -0.01}
    with pytest.raises((NonFiniteError, ProgramError)):
        MLE(init=failed).fit(fragile, double(2.0))
    fit = MLE(init=failed, restarts=8).fit(fragile, double(2.0))
    assert float(fit.params["loc"]) == pytest.approx(2.0, abs=1e-6)


# -- steps of EM before the search -----------------------------------------------------------------


@pytest.mark.parametrize(("gradient", "em"), [(MLE, EM), (MAP, partial(EM, objective="posterior"))])
def test_em_steps_before_the_search_are_those_of_em(gradient, em):
    path = em(init=START).fit(two_rates, COUNTS).history.objective
    for steps in (0, 1, 4):
        fit = gradient(init=START, em_steps=steps).fit(two_rates, COUNTS)
        assert fit.history.objective[0] == pytest.approx(path[steps], abs=1e-9)
    with pytest.raises(OptionError, match="em_steps"):
        gradient(em_steps=-1)


def test_optimum_of_a_mixture_is_that_of_scipy():
    y = COUNTS.numpy()

    def negative(u):
        log_weights = np.array([-np.logaddexp(0, -u[0]), -np.logaddexp(0, u[0])])
        terms = log_weights + y[:, None] * u[1:] - np.exp(u[1:])
        return -logsumexp(terms, axis=1).sum()

    found = minimize(negative, [0.0, 0.0, 1.0], method="BFGS", options={"gtol": 1e-8})
    constant = sum(math.lgamma(value + 1) for value in y)
    for steps in (0, 5):
        fit = MLE(init=START, em_steps=steps).fit(two_rates, COUNTS)
        assert fit.log_likelihood == pytest.approx(-found.fun - constant, abs=1e-8)
        np.testing.assert_allclose(fit.params["rate"], np.exp(found.x[1:]), atol=1e-5)
        assert float(fit.params["weights"][0]) == pytest.approx(expit(found.x[0]), abs=1e-5)


def test_programs_without_latents_take_no_em_steps():
    x, y = line_data()
    ours = [MLE(em_steps=n).fit(LinearRegression(), x, y).history for n in (0, 5)]
    assert ours[0].equals(ours[1])
