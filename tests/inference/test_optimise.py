"""Minimising flat vectors: L-BFGS with walls and stalls, noisy descent, when to stop."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from likely.inference.curvature import hessian
from likely.inference.optimise import (
    Minimum,
    descend,
    minimise,
    newton_direction,
    settled,
)

INF = float("inf")


def evaluated(function):
    """Value and gradient of a torch function, counting the calls."""

    def evaluate(x):
        evaluate.calls += 1
        x = x.detach().requires_grad_(True)
        value = function(x)
        (gradient,) = torch.autograd.grad(value, x)
        return float(value.detach()), gradient

    evaluate.calls = 0
    return evaluate


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def start(*values):
    return torch.tensor(values, dtype=torch.float64)


# -- L-BFGS ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 6])
def test_rosenbrocks_valley_is_followed_to_its_end(n):
    found = minimise(evaluated(rosenbrock), -torch.ones(n).double(), max_iter=200, tol=1e-14)
    assert found.converged
    torch.testing.assert_close(found.x, torch.ones(n).double(), atol=1e-6, rtol=0)
    assert found.value < 1e-12


def test_a_quadratic_of_any_condition_is_solved():
    generator = np.random.default_rng(0)
    basis = torch.as_tensor(np.linalg.qr(generator.normal(size=(8, 8)))[0])
    matrix = basis * torch.logspace(0, 5, 8, dtype=torch.float64) @ basis.T
    target = torch.as_tensor(generator.normal(size=8))
    function = evaluated(lambda x: 0.5 * (x - target) @ matrix @ (x - target) + 3.0)
    found = minimise(function, torch.zeros(8).double(), max_iter=300, tol=1e-15)
    assert found.converged
    assert found.value == pytest.approx(3.0, abs=1e-10)
    # A value within 1e-10 of the least leaves sqrt(2e-10 / smallest curvature) in the point.
    torch.testing.assert_close(found.x, target, atol=2e-5, rtol=0)


def test_every_accepted_point_is_lower_and_is_told():
    told = []

    def step(value, x):
        told.append((value, x.clone()))
        return False

    function = evaluated(rosenbrock)
    found = minimise(function, start(-1.2, 1.0), max_iter=100, tol=1e-14, step=step)
    values = [value for value, _ in told]
    assert torch.equal(told[0][1], start(-1.2, 1.0))
    assert all(after < before for before, after in pairwise(values))
    assert values[-1] == found.value
    assert all(float(rosenbrock(x)) == pytest.approx(value) for value, x in told)
    # A step costs hardly more than one evaluation: what was seen is not asked again.
    assert function.calls < 2.5 * found.n_iter


def test_a_step_that_returns_true_stops():
    calls = []

    def step(value, x):
        calls.append(value)
        return len(calls) == 4

    found = minimise(evaluated(rosenbrock), start(-1.2, 1.0), max_iter=100, tol=1e-14, step=step)
    assert len(calls) == 4
    assert not found.converged
    assert found.n_iter == 3
    stopped = minimise(
        evaluated(rosenbrock), start(-1.2, 1.0), max_iter=9, tol=1e-9, step=lambda value, x: True
    )
    assert (stopped.n_iter, stopped.converged) == (0, False)


def test_too_few_iterations_do_not_converge():
    found = minimise(evaluated(rosenbrock), start(-1.2, 1.0), max_iter=5, tol=1e-14)
    assert (found.n_iter, found.converged) == (5, False)


def test_a_start_at_the_optimum_stays_there():
    found = minimise(evaluated(rosenbrock), start(1.0, 1.0), max_iter=50, tol=1e-12)
    assert found == Minimum(found.x, 0.0, True, 0)
    assert torch.equal(found.x, start(1.0, 1.0))
    empty = minimise(lambda x: (2.0, torch.zeros(0)), torch.zeros(0), max_iter=50, tol=1e-12)
    assert (empty.value, empty.converged, empty.n_iter) == (2.0, True, 0)


def test_the_start_is_not_written_to():
    at = start(-1.2, 1.0)
    minimise(evaluated(rosenbrock), at, max_iter=50, tol=1e-12)
    assert at.tolist() == [-1.2, 1.0]


@pytest.mark.parametrize("beyond", [INF, float("nan")])
def test_a_wall_is_stepped_back_from(beyond):
    """A minimum close to a wall behind which the function is not a number."""

    def function(x):
        inside = bool((x > 0).all())
        value = (x - 1e-3 * x.log()).sum() if inside else x.sum() * beyond
        return value

    walled = evaluated(function)
    found = minimise(walled, start(40.0, 7.0), max_iter=200, tol=1e-15)
    assert found.converged
    assert not found.blocked
    torch.testing.assert_close(found.x, start(1e-3, 1e-3), atol=1e-7, rtol=0)


def test_a_value_that_falls_into_the_wall_is_blocked():
    """log x falls without bound towards the wall at zero."""

    def function(x):
        value = float(x)
        if value <= 1e-300:
            return float("nan"), torch.full_like(x, float("nan"))
        return math.log(value), 1 / x

    found = minimise(function, start(1.0), max_iter=200, tol=1e-12)
    assert found.blocked
    assert not found.converged
    assert found.value < -20  # on its way down until a step went through the wall


def test_a_kink_stalls_without_claiming_to_have_converged():
    """At the tip of |x| + x / 2 no direction is better, and the gradient is not zero."""

    def function(x):
        return float(x.abs().sum() + 0.5 * x.sum()), torch.sign(x) + 0.5

    found = minimise(function, start(3.0), max_iter=200, tol=1e-12)
    assert not found.converged
    assert found.n_iter < 200
    assert float(found.x.abs()) < 1e-3


def test_a_plateau_of_rounding_counts_as_converged():
    """A minimum whose height hides what is left to gain behind rounding."""
    found = minimise(
        evaluated(lambda x: (x - 2.0).square().sum() + 1e9), start(5.0), max_iter=100, tol=1e-16
    )
    assert found.converged
    # Rounding of 1e9 is 1e-7, whose square root is what the point is good for.
    assert float(found.x) == pytest.approx(2.0, abs=1e-3)


def test_a_slope_that_goes_on_has_not_converged():
    """Values that change by little, because the unit is large, with much slope left."""
    found = minimise(
        evaluated(lambda x: (1e-8 * x).sum().exp() * 1e8), start(0.0), max_iter=3, tol=1.0
    )
    assert not found.converged


# -- Newton's method at the end --------------------------------------------------------------


def with_units(units):
    """Rosenbrock's function of coordinates in other units."""
    return lambda x: rosenbrock(x * units)


@pytest.mark.parametrize("tol", [1e-6, 1e-10])
def test_units_do_not_matter_where_the_hessian_is_known(tol):
    units = start(1e-5, 1.0, 1e4)
    function = with_units(units)
    found = minimise(
        evaluated(function),
        start(-0.5, 1.5, 0.3) / units,
        max_iter=500,
        tol=tol,
        curvature=lambda x: hessian(function, x),
    )
    assert found.converged
    # At tol 1e-6 a gain of 1e-5 may be left before the last step, which takes nearly all of it.
    torch.testing.assert_close(found.x * units, torch.ones(3).double(), atol=1e-3, rtol=0)
    assert found.value < tol
    torch.testing.assert_close(
        found.matrix / units / units[:, None],
        hessian(rosenbrock, torch.ones(3).double()),
        rtol=1e-2,
        atol=1.0,
    )


def test_a_small_gradient_is_not_yet_an_optimum():
    """A valley so wide that its slope looks like none, with more than half a unit to be gained."""
    units = start(1e-6, 1.0)

    def function(x):
        away = units * x - 1.0
        return 0.5 * away.square().sum() + 0.1 * away.pow(4).sum()

    options = {"max_iter": 50, "tol": 1e-10}
    alone = minimise(evaluated(function), start(0.0, 0.0), **options)
    assert alone.value == pytest.approx(0.6, abs=1e-6)  # the gradient is 1e-6
    found = minimise(
        evaluated(function),
        start(0.0, 0.0),
        curvature=lambda x: hessian(function, x),
        **options,
    )
    assert found.converged
    torch.testing.assert_close(found.x, 1 / units, rtol=1e-6, atol=0)


def test_newton_steps_leave_a_saddle_downhill():
    def function(x):
        return (x[0] ** 2 + 0.25 * x[1] ** 4 - 0.5 * x[1] ** 2).sum()

    # Half way along the ridge, L-BFGS would do as well; here Newton has to.
    found = minimise(
        evaluated(function),
        start(0.0, 1e-6),
        max_iter=100,
        tol=1e-12,
        curvature=lambda x: hessian(function, x),
    )
    assert found.converged
    assert found.value == pytest.approx(-0.25, abs=1e-12)
    assert abs(float(found.x[1])) == pytest.approx(1.0, abs=1e-6)


def test_what_the_function_does_not_depend_on_stays():
    def function(x):
        return (x[0] - 2.0) ** 2 + 0.0 * x[1]

    found = minimise(
        evaluated(function),
        start(0.0, 7.0),
        max_iter=50,
        tol=1e-12,
        curvature=lambda x: hessian(function, x),
    )
    assert found.converged
    assert found.x.tolist() == pytest.approx([2.0, 7.0])
    assert float(found.x[1]) == 7.0


def test_without_a_hessian_the_search_ends_as_it_was():
    options = {"max_iter": 200, "tol": 1e-14}
    alone = minimise(evaluated(rosenbrock), start(-1.2, 1.0), **options)
    found = minimise(evaluated(rosenbrock), start(-1.2, 1.0), curvature=lambda x: None, **options)
    assert found.matrix is None
    assert found.converged
    torch.testing.assert_close(found.x, alone.x, atol=1e-6, rtol=0)


def test_the_newton_direction_of_a_parabola_leads_to_its_lowest_point():
    matrix = torch.tensor([[4.0, 1.0], [1.0, 1e-6]]).double() + torch.diag(start(0.0, 1.0))
    lowest = start(3.0, -2.0)
    direction, decrement = newton_direction(matrix, matrix @ (start(0.0, 0.0) - lowest))
    torch.testing.assert_close(direction, lowest)
    assert decrement == pytest.approx(float(0.5 * lowest @ matrix @ lowest))
    upwards, gain = newton_direction(torch.diag(start(2.0, -2.0)), start(2.0, 2.0))
    torch.testing.assert_close(upwards, start(-1.0, -1.0))  # downhill in both
    assert gain == pytest.approx(2.0)
    flat, _ = newton_direction(torch.diag(start(2.0, 0.0)), start(2.0, 1e-3))
    torch.testing.assert_close(flat, start(-1.0, 0.0))
    small, gain = newton_direction(torch.eye(2).double(), start(1.0, 1e-3), least=1e-4)
    torch.testing.assert_close(small, start(-1.0, 0.0))
    assert gain == pytest.approx(0.5)


# -- any optimiser, noise or not -------------------------------------------------------------


def test_descend_without_noise_stops_when_nothing_changes():
    optimizer = partial(torch.optim.SGD, lr=0.1)
    found = descend(
        evaluated(lambda x: (x - 3.0).square().sum()),
        start(0.0, 10.0),
        optimizer=optimizer,
        max_iter=1000,
        tol=1e-12,
    )
    assert found.converged
    assert found.n_iter < 200
    # The distance falls by .8 a step; ten steps that change the value by 1e-12 in all leave
    # less than a millionth.
    torch.testing.assert_close(found.x, start(3.0, 3.0), atol=1e-5, rtol=0)
    short = descend(
        evaluated(lambda x: (x - 3.0).square().sum()),
        start(0.0, 10.0),
        optimizer=optimizer,
        max_iter=12,
        tol=1e-12,
    )
    assert (short.converged, short.n_iter) == (False, 12)


def noisy(seed, noise=1.0):
    generator = torch.Generator().manual_seed(seed)

    def function(x):
        error = noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        value = float((x - 3.0).square().sum()) + noise * float(
            torch.randn((), generator=generator)
        )
        return value, 2 * (x - 3.0) + error

    return function


def test_descend_averages_noise_away():
    steps = 2000
    found = descend(
        noisy(0),
        start(0.0, 10.0, -5.0),
        optimizer=partial(torch.optim.SGD, lr=0.2),
        max_iter=steps,
        tol=1e-10,
        stochastic=True,
    )
    assert found.converged
    assert found.n_iter == steps
    # Averages over m steps of gradients 2 (x − 3) + noise have standard error noise / (2 √m)
    # (Polyak & Juditsky 1992), with m a quarter of the steps; four of these. A last point alone,
    # with steps of lr / 8 on average in that quarter, would be five times as far.
    assert float((found.x - 3.0).abs().max()) < 4 * 0.5 / math.sqrt(steps / 4)


def test_descend_says_when_noise_still_hides_a_slope():
    found = descend(
        noisy(0, noise=0.1),
        start(0.0, 10.0, -5.0),
        optimizer=partial(torch.optim.SGD, lr=1e-4),
        max_iter=400,
        tol=1e-10,
        stochastic=True,
    )
    assert not found.converged


def test_descend_can_be_stopped():
    seen = []

    def step(value, x):
        seen.append(value)
        return len(seen) == 3

    found = descend(
        noisy(0), start(0.0), optimizer=torch.optim.Adam, max_iter=50, tol=1e-9, step=step
    )
    assert (found.n_iter, found.converged, len(seen)) == (2, False, 3)


def test_settled_compares_the_last_two_quarters():
    noise = np.random.default_rng(1).normal(size=400)
    assert settled(list(noise))
    falling = noise + np.linspace(40, 0, 400)
    assert not settled(list(falling))
    early = noise + 40 * np.exp(-np.arange(400) / 20)
    assert settled(list(early))  # fell long ago
    rising = noise + np.linspace(0, 40, 400)
    assert settled(list(rising))  # nothing left to gain
    assert not settled([1.0] * 7)  # too few to say


def test_settled_rarely_takes_noise_for_a_slope():
    # Under pure noise the difference of the quarters exceeds three standard errors once in 740.
    generator = np.random.default_rng(2)
    verdicts = [settled(list(generator.normal(size=200))) for _ in range(300)]
    assert sum(verdicts) >= 296  # four or more false alarms have a chance of less than 1 in 1000
