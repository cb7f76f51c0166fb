"""What small data teach about maximum likelihood, against closed forms."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from scipy import stats
from scipy.integrate import simpson

from likely.inference import (
    MAP,
    MLE,
    BoundaryWarning,
    ConvergenceWarning,
    NonFiniteError,
    Program,
)
from likely.models import BernoulliModel, CategoricalModel, GaussianModel, LinearRegression


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def posterior(program, data, grid):
    """Posterior density of ``probability`` on an even grid, normalised by Simpson's rule."""
    reading = Program(program, data)
    values = [{"probability": double(p)} for p in grid]
    logs = np.array([float(reading.log_likelihood(v) + reading.log_prior(v)) for v in values])
    density = np.exp(logs - logs.max())
    return density / simpson(density, x=grid)


# -- the coin --------------------------------------------------------------------------------


def test_three_heads_of_four_and_their_curvature():
    fit = MLE().fit(BernoulliModel(), double([1, 1, 1, 0]))
    assert float(fit.params["probability"]) == pytest.approx(0.75, abs=1e-8)
    error = float(fit.standard_errors()["probability"])
    assert error == pytest.approx(math.sqrt(0.75 * 0.25 / 4), abs=1e-8)


def test_a_likelihood_is_no_density():
    reading = Program(BernoulliModel(), double([1, 1, 1, 0]))
    grid = np.linspace(1e-9, 1 - 1e-9, 201)
    curve = [float(reading.log_likelihood({"probability": double(p)}).exp()) for p in grid]
    # Simpson's rule errs by h^4 / 180 times the fourth derivative, which is 24 here.
    assert simpson(curve, x=grid) == pytest.approx(1 / 20, abs=1e-9)


def test_one_head():
    with pytest.warns(BoundaryWarning, match="'probability'"):
        edge = MLE().fit(BernoulliModel(), double([1]))
    assert float(edge.params["probability"]) == 1.0
    prior = BernoulliModel(alpha=2.0, beta=2.0)
    mode = MAP().fit(prior, double([1]))
    assert float(mode.params["probability"]) == pytest.approx(2 / 3, abs=1e-8)
    grid = np.linspace(1e-9, 1 - 1e-9, 401)
    density = posterior(prior, double([1]), grid)
    # A polynomial of degree three, for which Simpson's rule is exact.
    np.testing.assert_allclose(density, stats.beta(3, 2).pdf(grid), atol=1e-7)
    # The tail of the next flip is less and less probable, without end, towards the MLE.
    tail = Program(BernoulliModel(), double([0]))
    for digits in (2, 6, 12):
        value = {"probability": double(1 - 10.0**-digits)}
        # 1 - 1e-12 is known to half an epsilon, 1.1e-16, which moves the logarithm by 1.1e-4.
        assert float(tail.log_likelihood(value)) == pytest.approx(
            -digits * math.log(10), abs=1.2e-4
        )


@pytest.mark.parametrize("flights", [10, 100])
def test_no_collisions(flights):
    with pytest.warns(BoundaryWarning, match="'probability'"):
        fit = MLE().fit(BernoulliModel(), torch.zeros(flights))
    assert float(fit.params["probability"]) == 0.0
    # The density decays over 1 / flights; the grid has 40 points or more in that length.
    grid = np.linspace(1e-12, 1 - 1e-12, 4001)
    density = posterior(BernoulliModel(), torch.zeros(flights), grid)
    assert simpson(density * grid, x=grid) == pytest.approx(1 / (flights + 2), rel=1e-6)
    # The rule of three comes from the likelihood: no collision is a matter of 5 % there.
    bound = 1 - 0.05 ** (1 / flights)
    reading = Program(BernoulliModel(), torch.zeros(flights))
    at_bound = float(reading.log_likelihood({"probability": double(bound)}))
    assert at_bound == pytest.approx(math.log(0.05), abs=1e-10)
    assert 0.85 * 3 / flights < bound < 3 / flights


def test_some_collisions():
    fit = MLE().fit(BernoulliModel(), double([1] * 2 + [0] * 98))
    assert float(fit.params["probability"]) == pytest.approx(2 / 100, abs=1e-8)


# -- losses ----------------------------------------------------------------------------------


def test_squared_error_is_a_gaussian_likelihood():
    x, y = double([[1.0], [2.0], [3.0]]), double([2.1, 3.9, 6.2])
    fit = MLE().fit(LinearRegression(intercept=False), x, y)
    slope = float(fit.params["coefficients"][0])
    assert slope == pytest.approx(28.5 / 14, abs=1e-9)
    residual = y - x[:, 0] * 28.5 / 14
    assert float(fit.params["scale"]) == pytest.approx(
        float(residual.square().mean().sqrt()), abs=1e-8
    )
    reading = Program(LinearRegression(intercept=False), x, y)
    for a, s in ((1.0, 0.3), (2.5, 2.0)):
        values = {"coefficients": double([a]), "scale": double(s)}
        mse = float((y - a * x[:, 0]).square().mean())
        expected = -1.5 * math.log(2 * math.pi * s**2) - 1.5 * mse / s**2
        assert float(reading.log_likelihood(values)) == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_is_a_categorical_likelihood():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    reading = Program(CategoricalModel(3), labels)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        logits = torch.randn(3, generator=generator, dtype=torch.float64)
        density = reading.log_likelihood({"probabilities": logits.softmax(-1)})
        loss = F.cross_entropy(logits.expand(10, 3), labels, reduction="sum")
        assert float(density) == pytest.approx(-float(loss), rel=1e-12)
    fit = MLE().fit(CategoricalModel(3), labels)
    np.testing.assert_allclose(fit.params["probabilities"], [0.6, 0.3, 0.1], atol=1e-7)
    assert -fit.log_likelihood / 10 == pytest.approx(stats.entropy([6, 3, 1]), abs=1e-10)


# -- samples ---------------------------------------------------------------------------------


def growing_prior(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1e6))
    scale = pyro.sample("scale", dist.Gamma(2.0, 1e-6))
    with pyro.plate("observation", len(y)):
        pyro.sample("y", dist.Normal(loc, scale), obs=y)


def test_three_drones():
    y = double([10.1, 9.8, 10.2])
    fit = MLE().fit(GaussianModel(), y)
    assert float(fit.params["loc"]) == pytest.approx(10.0333333, abs=1e-7)
    assert float(fit.params["scale"]) ** 2 == pytest.approx(float(y.var(correction=0)), rel=1e-7)
    bessel = MAP(init={"loc": 10.0, "scale": 0.2}).fit(growing_prior, y)
    # The prior's far end changes the variance by its rate times the scale, some 1e-7 of it.
    assert float(bessel.params["scale"]) ** 2 == pytest.approx(float(y.var(correction=1)), rel=1e-6)


# -- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "flips"), [(torch.float32, 150), (torch.float64, 1075)])
def test_products_vanish_where_sums_of_logarithms_do_not(dtype, flips):
    # Half the smallest subnormal rounds to zero: 2^-149 and 2^-1074 are the last powers.
    half = torch.full((flips,), 0.5, dtype=dtype)
    assert float(half[:-1].prod()) > 0
    assert float(half.prod()) == 0
    y = (torch.arange(20 * flips) % 2).to(torch.float64)
    fit = MLE(dtype=dtype).fit(BernoulliModel(), y)
    assert float(fit.params["probability"]) == pytest.approx(0.5, abs=1e-4)
    # Adding n terms rounds by n epsilon at most.
    bound = len(y) * torch.finfo(dtype).eps
    assert fit.log_likelihood == pytest.approx(-len(y) * math.log(2), rel=max(bound, 1e-8))


def scale_program(constraint):
    def program(y, start):
        scale = pyro.param("scale", start, constraint=constraint)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(0.0, scale), obs=y)

    return program


def descent(constraint, unit, learning_rate, steps=300):
    """Path of the scale in gradient descent, by the best scale, and the fit."""
    y = double(np.random.default_rng(3).normal(0.0, 7.0, 50)) * unit
    best, path = float(y.square().mean().sqrt()), []
    engine = MLE(
        optimizer=partial(torch.optim.SGD, lr=learning_rate),
        max_iter=steps,
        callback=lambda step: path.append(float(step.params()["scale"]) / best),
    )
    return path, engine.fit(scale_program(constraint), y, double(3.0 * best))


def test_descent_on_the_log_of_a_scale_does_not_know_the_unit():
    paths = [descent(constraints.positive, unit, 0.005)[0] for unit in (0.01, 1.0, 10.0)]
    steps = min(map(len, paths))
    assert steps > 20
    # Rounding of some 30 steps.
    np.testing.assert_allclose(paths[1][:steps], paths[0][:steps], rtol=1e-10)
    np.testing.assert_allclose(paths[2][:steps], paths[0][:steps], rtol=1e-10)
    assert paths[0][-1] == pytest.approx(1.0, abs=1e-4)


def test_descent_on_a_bare_scale_does():
    # The step size is half a Newton step in centimetres, where the curvature is 2n / scale^2.
    rate = 0.5 * 7.0**2 / 100
    path, fit = descent(constraints.real, 1.0, rate)
    assert fit.converged
    assert path[-1] == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(NonFiniteError, match="nan"):
        descent(constraints.real, 0.01, rate)
    with pytest.warns(ConvergenceWarning):
        path, fit = descent(constraints.real, 10.0, rate)
    assert not fit.converged
    assert path[-1] > 2.0
