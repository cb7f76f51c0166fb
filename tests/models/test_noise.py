"""Linear regression with other noise than the normal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import optimize, stats

from likely.envs import DataError
from likely.inference import MAP, MLE
from likely.models import LinearRegression

N = 60
SLOPES = torch.tensor([1.0, -2.0], dtype=torch.float64)


def data(seed: int = 0, heavy: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(N, 2))
    noise = generator.standard_t(3, size=N) if heavy else generator.laplace(size=N)
    return torch.tensor(x), torch.tensor(0.5 + x @ SLOPES.numpy() + 0.7 * noise)


def density(program: Any, values: dict[str, Any], *args: Any) -> float:
    trace = poutine.trace(poutine.condition(program, values)).get_trace(*args)
    trace.compute_log_prob()
    return float(trace.nodes["y"]["log_prob_sum"])


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"noise": "normal"}, stats.norm),
        ({"noise": "laplace"}, stats.laplace),
        ({"noise": "student"}, stats.t(4)),
        ({"noise": "student", "degrees_of_freedom": 2.5}, stats.t(2.5)),
    ],
)
def test_log_density_is_scipys(options: dict[str, Any], reference: Any) -> None:
    x, y = data()
    values = {"intercept": torch.tensor(0.5, dtype=torch.float64), "coefficients": SLOPES}
    residual = (y - 0.5 - x @ SLOPES).numpy() / 0.7
    expected = (reference.logpdf(residual) - math.log(0.7)).sum()
    unknown = LinearRegression(**options)
    found = density(unknown, {**values, "scale": torch.tensor(0.7, dtype=torch.float64)}, x, y)
    assert found == pytest.approx(expected, rel=1e-12)
    known = LinearRegression(**options, scale=0.7)
    assert density(known, values, x, y) == pytest.approx(expected, rel=1e-12)
    assert "scale" not in poutine.trace(known).get_trace(x, y).nodes
    assert "scale" not in known.initial(x, y)


def test_degrees_of_freedom_may_be_unknown() -> None:
    x, y = data()
    program = LinearRegression(noise="student", degrees_of_freedom=None)
    node = poutine.trace(program).get_trace(x, y).nodes["degrees_of_freedom"]
    prior = stats.gamma(2, scale=10).logpdf(5.0)
    assert float(node["fn"].log_prob(torch.tensor(5.0).double())) == pytest.approx(prior, rel=1e-9)
    fit = MAP().fit(program, x, y)

    def loss(free: np.ndarray) -> float:
        scale, degrees = np.exp(free[3:])
        residual = (y.numpy() - free[0] - x.numpy() @ free[1:3]) / scale
        fitted = (stats.t(degrees).logpdf(residual) - free[3]).sum()
        priors = stats.norm(0, 10).logpdf(free[:3]).sum() + stats.halfnorm(0, 10).logpdf(scale)
        return -float(fitted + priors + stats.gamma(2, scale=10).logpdf(degrees))

    start = np.array([0.5, 1.0, -2.0, 0.0, 1.5])
    best = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-7})
    found = [
        float(fit.params["intercept"]),
        *fit.params["coefficients"].tolist(),
        math.log(fit.params["scale"]),
        math.log(fit.params["degrees_of_freedom"]),
    ]
    # Numerical derivatives leave about the square root of single rounding.
    np.testing.assert_allclose(found, best.x, atol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_laplace_noise_is_least_absolute_deviations(weighted: bool) -> None:
    """Against the linear program that finds these exactly."""
    x, y = data(heavy=False)
    weights = torch.arange(N, dtype=torch.float64) % 3 if weighted else torch.ones(N).double()
    fit = MLE().fit(LinearRegression(noise="laplace"), x, y, weights=weights)
    assert fit.converged
    design, cost = np.column_stack([np.ones(N), x]), weights.numpy()
    solved = optimize.linprog(
        np.r_[np.zeros(3), cost, cost],
        A_eq=np.hstack([design, np.eye(N), -np.eye(N)]),
        b_eq=y.numpy(),
        bounds=[(None, None)] * 3 + [(0, None)] * (2 * N),
    )
    found = np.r_[float(fit.params["intercept"]), fit.params["coefficients"].numpy()]
    np.testing.assert_allclose(found, solved.x[:3], atol=1e-6)
    assert float(fit.params["scale"]) == pytest.approx(solved.fun / cost.sum(), rel=1e-6)


def test_laplace_noise_has_a_posterior_mode() -> None:
    x, y = data(heavy=False)
    program = LinearRegression(noise="laplace", coefficients_scale=0.5)
    mode = MAP().fit(program, x, y)
    assert mode.converged
    # No small step in any direction goes uphill by more than rounding.
    reading = mode.program
    assert reading is not None
    values, top = mode.point(), mode.log_likelihood + mode.log_prior
    generator = torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(50):
            moved = {
                n: v + size * torch.randn(v.shape, dtype=torch.float64, generator=generator)
                for n, v in values.items()
            }
            moved["scale"] = moved["scale"].abs()
            there = reading.log_likelihood(moved) + reading.log_prior(moved)
            assert float(there) <= top + 1e-7


def test_student_noise_shrugs_off_wild_outcomes() -> None:
    x, y = data(heavy=False)
    y[::10] += 50.0
    least_squares = MLE().fit(LinearRegression(), x, y).params
    robust = MLE().fit(LinearRegression(noise="student"), x, y).params
    error = [float((p["coefficients"] - SLOPES).abs().max()) for p in (least_squares, robust)]
    assert error[1] < 0.4 < error[0]


def test_simulation_has_the_noise_asked_for() -> None:
    n = 20_000
    x = torch.zeros(n, 1, dtype=torch.float64)
    values = {
        "intercept": torch.tensor(0.0).double(),
        "coefficients": torch.zeros(1).double(),
        "scale": torch.tensor(2.0).double(),
    }
    for options, reference in (
        ({"noise": "laplace"}, stats.laplace(scale=2)),
        ({"noise": "student", "degrees_of_freedom": 3.0}, stats.t(3, scale=2)),
    ):
        pyro.set_rng_seed(0)
        y = poutine.condition(LinearRegression(**options), values)(x)
        # Kolmogorov and Smirnov's test is wrong about one seed in a thousand.
        assert stats.kstest(y.numpy(), reference.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "cauchy"}, "noise must be one of normal, laplace, student, got 'cauchy'"),
        ({"scale": 0.0}, "scale must be a positive finite number, got 0.0"),
        ({"scale": math.nan}, "scale must be a positive finite number"),
        ({"degrees_of_freedom": -1}, "degrees_of_freedom must be a positive finite number"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LinearRegression(**options)
