"""Searches among kinks: Laplace priors, and absolute deviations in a likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.optimize import linprog

from likely.inference import EM, MAP, MLE
from likely.inference.kinks import Kinks, minimise_with_kinks
from likely.inference.nonsmooth import lies_on_kinks, settle
from likely.inference.optimise import Minimum, minimise
from likely.models import LaplaceModel

Evaluation = tuple[float, torch.Tensor]


def sparse_quadratic(n: int = 8) -> tuple[torch.Tensor, torch.Tensor, Kinks]:
    """A quadratic ½ xᵀ H x − bᵀ x whose minimum with the kinks has zeros and others."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(n, n, dtype=torch.float64, generator=generator)
    matrix = root @ root.T + torch.eye(n)
    linear = 5 * torch.randn(n, dtype=torch.float64, generator=generator)
    weight = torch.full((n,), 4.0, dtype=torch.float64)
    weight[0] = 0.0
    centre = torch.linspace(-1, 1, n, dtype=torch.float64)
    return matrix, linear, Kinks(weight, centre)


def of(matrix: torch.Tensor, linear: torch.Tensor, kinks: Kinks) -> Any:
    def function(x: torch.Tensor) -> Evaluation:
        value = 0.5 * x @ matrix @ x - linear @ x + kinks.height(x)
        return float(value), matrix @ x - linear + kinks.slope(x)

    return function


def test_the_end_satisfies_the_conditions_of_optimality() -> None:
    matrix, linear, kinks = sparse_quadratic()
    found = minimise_with_kinks(
        of(matrix, linear, kinks),
        torch.zeros(8, dtype=torch.float64),
        kinks,
        max_iter=50,
        tol=1e-14,
        curvature=lambda x: matrix,
    )
    assert found.converged
    slope = matrix @ found.x - linear
    there = found.x == kinks.centre
    assert 0 < int(there.sum()) < 7
    # On a kink the slope of the rest is less than the kink's; elsewhere they cancel.
    assert bool((slope[there].abs() <= kinks.weight[there]).all())
    torch.testing.assert_close(slope[~there], -kinks.slope(found.x)[~there], rtol=0, atol=1e-10)


def test_without_kinks_it_is_the_plain_search() -> None:
    matrix, linear, kinks = sparse_quadratic()
    smooth = Kinks(torch.zeros_like(kinks.weight), kinks.centre)
    options: dict[str, Any] = {"max_iter": 100, "tol": 1e-14, "curvature": lambda x: matrix}
    start = torch.zeros(8, dtype=torch.float64)
    function = of(matrix, linear, smooth)
    plain = minimise(function, start, **options)
    found = minimise_with_kinks(function, start, lambda x: None, **options)
    assert torch.equal(found.x, plain.x)
    by_newton = minimise_with_kinks(function, start, smooth, **options)
    torch.testing.assert_close(by_newton.x, plain.x, rtol=0, atol=1e-9)


def test_a_kink_that_moves_with_another_unknown_is_left_to_the_plain_search() -> None:
    """Of two levels the mode puts the second on the first, wherever that is."""

    def program(y: torch.Tensor) -> None:
        first = pyro.sample("first", dist.Normal(0.0, 10.0))
        second = pyro.sample("second", dist.Laplace(first, 0.1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(torch.stack([first, second]), 1.0).to_event(1), obs=y)

    y = torch.tensor([[0.4, 0.7], [0.2, 0.6]])
    fit = MAP().fit(program, y)
    common = 4 * y.mean() / (4 + 1 / 100)
    assert fit.converged
    assert float(fit.params["first"] - fit.params["second"]) == pytest.approx(0.0, abs=1e-6)
    # The value is right to 1e-7; with curvature 4 that is a distance of sqrt(2 * 1e-7 / 4).
    assert float(fit.params["first"]) == pytest.approx(float(common), abs=2e-4)


def test_a_laplace_prior_elsewhere_than_at_zero_keeps_its_centre() -> None:
    def program(y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Laplace(2.0, 0.05))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    near = MAP().fit(program, torch.tensor([2.5, 2.9])).params["level"]
    assert float(near) == 2.0
    far = MAP().fit(program, torch.full((100,), 3.0)).params["level"]
    # The likelihood pulls with 100 (3 - level), the prior with 20.
    assert float(far) == pytest.approx(3.0 - 0.2, abs=1e-9)


def least_deviations(x: np.ndarray, y: np.ndarray) -> float:
    """Least sum of absolute deviations of a plane, as a linear program."""
    n, d = x.shape
    cost = np.r_[np.zeros(d), np.ones(2 * n)]
    solved = linprog(
        cost,
        A_eq=np.hstack([x, np.eye(n), -np.eye(n)]),
        b_eq=y,
        bounds=[(None, None)] * d + [(0, None)] * (2 * n),
    )
    return float(solved.fun)


@pytest.mark.parametrize("units", [1.0, 1000.0])
def test_absolute_deviations_in_a_user_program_reach_the_vertex(units: float) -> None:
    generator = np.random.default_rng(0)
    x = np.column_stack([np.ones(40), units * generator.normal(size=40)])
    y = x @ np.array([1.0, 2.0 / units]) + generator.laplace(size=40)

    def program(x: torch.Tensor, y: torch.Tensor) -> None:
        slopes = pyro.sample("slopes", dist.Normal(torch.zeros(2), 10.0).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Laplace(x @ slopes, 1.0), obs=y)

    fit = MLE().fit(program, x, y)
    assert fit.converged
    deviations = np.abs(y - x @ fit.params["slopes"].numpy()).sum()
    assert deviations == pytest.approx(least_deviations(x, y), rel=1e-7)


def test_where_the_gradient_is_smooth_nothing_is_sampled_further() -> None:
    """A smooth search that stopped early stays what it was: not converged."""

    def function(x: torch.Tensor) -> Evaluation:
        return float((x**4).sum()), 4 * x**3

    early = Minimum(torch.ones(2, dtype=torch.float64), 2.0, False, 3)
    assert settle(function, early, max_iter=100) is early
    many = Minimum(torch.ones(100, dtype=torch.float64), 100.0, False, 3)
    assert settle(function, many, max_iter=100) is many


def test_max_iter_and_step_stop_the_sampling() -> None:
    def function(x: torch.Tensor) -> Evaluation:
        return float(x.abs().sum()), x.sign()

    # The corner of a bowl that L-BFGS left: one coordinate is on its kink.
    start = torch.tensor([1e-9, 0.5, -0.25], dtype=torch.float64)
    stalled = Minimum(start, float(start.abs().sum()), False, 3)
    found = settle(function, stalled, max_iter=1000)
    assert found.converged
    assert float(found.x.abs().max()) < 1e-6
    assert settle(function, stalled, max_iter=3).n_iter == 3
    stopped = settle(function, stalled, max_iter=1000, step=lambda value, x: True)
    assert stopped.stopped
    assert not stopped.converged


def test_a_hessian_is_blind_on_kinks_and_on_what_does_not_matter() -> None:
    def function(x: torch.Tensor) -> Evaluation:
        return float(x[0].abs() + x[1] ** 2), torch.stack([x[0].sign(), 2 * x[1], 0 * x[2]])

    x, blind = torch.zeros(3, dtype=torch.float64), torch.diag(torch.tensor([0.0, 2.0, 0.0]))
    assert not lies_on_kinks(function, x, blind)
    kinked = torch.diag(torch.tensor([0.0, 2.0, 1.0]))
    assert lies_on_kinks(function, x, kinked)
    assert not lies_on_kinks(function, x + 1.0, kinked)


def test_a_prior_that_is_weighed_or_masked_has_kinks_of_that_weight() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, 0.3, 0.0, 0.1], dtype=torch.float64) + noise

    def lasso(rate: Any, weight: Any = 1.0, mask: Any = True) -> None:
        with poutine.scale(scale=weight), poutine.mask(mask=mask), pyro.plate("feature", 4):
            coefficients = pyro.sample("coefficients", dist.Laplace(0.0, 1.0 / rate))
        with pyro.plate("point", 40):
            pyro.sample("y", dist.Normal(x @ coefficients, 1.0), obs=y)

    def mode(*args: Any, **kwargs: Any) -> torch.Tensor:
        fit = MAP().fit(lasso, *args, **kwargs)
        assert fit.converged
        return fit.params["coefficients"]

    rates = torch.tensor([2.0, 5.0, 30.0, 9.0], dtype=torch.float64)
    assert bool((mode(rates) == 0).any())
    torch.testing.assert_close(mode(4 * rates, 0.25), mode(rates), rtol=0, atol=1e-9)
    torch.testing.assert_close(mode(torch.ones(4), rates), mode(rates), rtol=0, atol=1e-9)
    # Without its prior the mode is that of least squares.
    free = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    torch.testing.assert_close(mode(rates, mask=False), free, rtol=0, atol=1e-7)
    kept = torch.tensor([True, False, True, False])
    masked = mode(rates, mask=kept)
    slope = x.T @ (y - x @ masked)
    torch.testing.assert_close(slope[~kept], torch.zeros(2, dtype=slope.dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", [MLE(), EM()], ids=["mle", "em"])
def test_a_median_is_found_without_a_word_about_flat_directions(engine: Any) -> None:
    x = torch.as_tensor(np.random.default_rng(0).laplace(1.5, 2.0, size=151))
    fit = engine.fit(LaplaceModel(), x)
    assert fit.converged
    torch.testing.assert_close(fit.params["loc"], x.median(), rtol=1e-6, atol=0.0)
