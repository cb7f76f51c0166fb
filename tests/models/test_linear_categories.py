"""One pass over the features is the categorical distribution, in value and in derivatives."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from likely.envs import Trajectories
from likely.inference import MLE, ConvergenceWarning
from likely.inference.program import Program
from likely.models import SoftmaxPolicy, TrajectoryModel
from likely.models._linear_categories import LinearCategories

pytestmark = pytest.mark.usefixtures("in_double")

ROWS, WIDTH = 6000, 3


@pytest.fixture(params=[2, 4])
def case(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features [n, d], categories [n], coefficients [A − 1, d] and intercepts [A − 1]."""
    torch.manual_seed(0)
    count: int = request.param
    x, value = torch.randn(ROWS, WIDTH), torch.randint(0, count, (ROWS,))
    return x, value, torch.randn(count - 1, WIDTH), torch.randn(count - 1)


def plain(x: Tensor, weights: Tensor, intercept: Tensor) -> Any:
    scores = x @ weights.T + intercept
    return dist.Categorical(logits=torch.nn.functional.pad(scores, (1, 0)))


def test_density_and_derivatives_are_those_of_categories(case: Any) -> None:
    x, value, *start = case
    torch.manual_seed(1)
    for counts in (torch.ones(()).expand(ROWS), torch.rand(ROWS) - 0.3):
        found = []
        for make in (LinearCategories, plain):
            parameters = [p.clone().requires_grad_(True) for p in start]
            density = make(x, *parameters).log_prob(value)
            first = torch.autograd.grad((counts * density).sum(), parameters, create_graph=True)
            second = torch.autograd.grad(sum((g**3).sum() for g in first), parameters)
            again = make(x, *parameters).log_prob(value)
            once = torch.autograd.grad((counts * again).sum(), parameters)
            found.append([density, *first, *second, *once])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_action_that_is_never_taken_is_no_concern_of_the_others() -> None:
    x, never = torch.randn(6, WIDTH), torch.tensor([-torch.inf, 0.5])
    weights = torch.randn(2, WIDTH).requires_grad_(True)
    value = torch.tensor([0, 2, 0, 2, 2, 0])
    density = LinearCategories(x, weights, never).log_prob(value)
    # What is left are the two others.
    other = weights[1:].detach().clone().requires_grad_(True)
    expected = LinearCategories(x, other, never[1:]).log_prob(value // 2)
    torch.testing.assert_close(density, expected, rtol=1e-12, atol=1e-12)
    density.sum().backward()
    expected.sum().backward()
    assert weights.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(weights.grad[1:], other.grad, rtol=1e-12, atol=1e-12)
    assert bool((weights.grad[0] == 0).all())
    assert bool((LinearCategories(x, weights, never).log_prob(value.fill_(1)) == -torch.inf).all())


@pytest.mark.parametrize("count", [2, 4])
def test_no_rows_have_no_density_and_no_slope(count: int) -> None:
    weights = torch.randn(count - 1, WIDTH).requires_grad_(True)
    empty = torch.zeros(0, dtype=torch.long)
    density = LinearCategories(torch.zeros(0, WIDTH), weights).log_prob(empty)
    assert density.shape == (0,)
    (slope,) = torch.autograd.grad((density * torch.rand(0)).sum(), weights)
    assert bool((slope == 0).all())


def test_log_odds_of_hundreds_lose_nothing(case: Any) -> None:
    x, value, weights, intercept = case
    fn = LinearCategories(x, 300 * weights, intercept)
    expected = plain(x, 300 * weights, intercept).log_prob(value)
    torch.testing.assert_close(fn.log_prob(value), expected, rtol=1e-12, atol=1e-12)


def test_it_is_a_categorical_distribution(case: Any) -> None:
    x, value, weights, intercept = case
    one, same = LinearCategories(x, weights, intercept), plain(x, weights, intercept)
    other = LinearCategories(x, 2 * weights, intercept), plain(x, 2 * weights, intercept)
    torch.testing.assert_close(one.probs, same.probs)
    torch.testing.assert_close(one.entropy(), same.entropy())
    torch.testing.assert_close(kl_divergence(one, other[0]), kl_divergence(same, other[1]))
    assert torch.equal(one.enumerate_support(), same.enumerate_support())
    torch.testing.assert_close(
        one.log_prob(one.enumerate_support(expand=False)),
        same.log_prob(same.enumerate_support(expand=False)),
    )
    several = torch.stack([value, value.flip(0)])
    torch.testing.assert_close(one.log_prob(several), same.log_prob(several))
    torch.testing.assert_close(one.expand((2, ROWS)).log_prob(several), same.log_prob(several))
    torch.manual_seed(0)
    drawn = one.sample((3,))
    torch.manual_seed(0)
    assert torch.equal(drawn, same.sample((3,)))
    with pytest.raises(ValueError, match="support"):
        LinearCategories(x, weights, intercept, validate_args=True).log_prob(value + 9)


def test_intercepts_may_be_missing(case: Any) -> None:
    x, value, weights, intercept = case
    expected = plain(x, weights, torch.zeros_like(intercept)).log_prob(value)
    torch.testing.assert_close(LinearCategories(x, weights).log_prob(value), expected)


def test_it_serves_many_rows_of_one_program(case: Any) -> None:
    x, _, weights, _ = case
    assert LinearCategories.serves(x, weights)
    assert not LinearCategories.serves(x[:9], weights)
    assert not LinearCategories.serves(x, weights.expand(5, 1, *weights.shape))
    seen: list[bool] = []
    torch.vmap(lambda w: seen.append(LinearCategories.serves(x, w)) or w)(weights.expand(2, -1, -1))  # type: ignore[func-returns-value]
    assert seen == [False]


def test_many_steps_of_a_softmax_policy_are_a_regression(case: Any) -> None:
    x, value, weights, intercept = case
    count = len(weights) + 1
    data = Trajectories.from_arrays(
        torch.cat([x, x[:1]]), value, lengths=[ROWS], action_space=count
    )
    each = torch.rand(ROWS)
    program = Program(TrajectoryModel(SoftmaxPolicy(count)), data, weights=each)
    values = {"coefficients": weights, "intercept": intercept}
    wanted = (each * plain(x, weights, intercept).log_prob(value)).sum()
    assert program.log_likelihood(values) == pytest.approx(float(wanted), rel=1e-12)


def test_a_search_of_data_that_can_be_told_apart_ends_and_says_so() -> None:
    """Actions are a half-space in units that take coefficients of millions."""
    torch.manual_seed(0)
    x = 1e-4 * torch.randn(ROWS, WIDTH)
    value = (x @ torch.tensor([1.0, -2.0, 0.5]) > 1e-5).long()
    data = Trajectories.from_arrays(torch.cat([x, x[:1]]), value, lengths=[ROWS], action_space=2)
    with pytest.warns(ConvergenceWarning, match=r"'coefficients'.*infinity.*MAP"):
        fit = MLE().fit(TrajectoryModel(SoftmaxPolicy(2)), data)
    assert not fit.converged
    assert -0.1 < fit.log_likelihood <= 0
    assert fit.n_iter < 500
    scores = x @ fit.params["coefficients"][0] + fit.params["intercept"]
    assert bool(((scores > 0) == (value == 1)).all())
