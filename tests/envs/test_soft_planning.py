"""Entropy-regularised planning: its equation, its optimum, its derivatives, its limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from likely.envs import (
    DataError,
    PlanningError,
    TabularMDP,
    horizon_occupancy,
    soft_backward_induction,
    soft_evaluate,
)

Make = Callable[..., TabularMDP]
MakePolicy = Callable[..., torch.Tensor]

KINDS = [(sink, sparse) for sink in (False, True) for sparse in (False, True)]


def prior_with_a_zero(policy: torch.Tensor) -> torch.Tensor:
    """The same policy, except that it never takes action 1 in state 0."""
    prior = policy.clone()
    prior[..., 0, 1] = 0
    return prior / prior.sum(-1, keepdim=True)


@pytest.mark.parametrize(("sink", "sparse"), KINDS)
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("method", ["newton", "sweeps"])
def test_policy_is_the_exponential_of_the_advantage(
    random_mdp: Make, sink: bool, sparse: bool, temperature: float, method: str
) -> None:
    mdp = random_mdp(sink=sink, sparse=sparse)
    plan = mdp.soft_value_iteration(temperature, method=method, tol=1e-13)
    living = slice(None, -1 if sink else None)
    softened = (plan.advantage / temperature).exp()
    torch.testing.assert_close(plan.policy[living], softened[living], rtol=0, atol=1e-10)
    again = mdp.expected_reward + 0.9 * mdp.kernel.expect(plan.value)
    torch.testing.assert_close(plan.q, again, rtol=0, atol=1e-10)


def test_policy_with_a_prior(random_mdp: Make, random_policy: MakePolicy) -> None:
    mdp = random_mdp()
    prior = prior_with_a_zero(random_policy(mdp))
    plan = mdp.soft_value_iteration(0.7, prior=prior)
    expected = prior * (plan.advantage / 0.7).exp()
    torch.testing.assert_close(plan.policy, expected, rtol=0, atol=1e-10)
    assert plan.policy[0, 1] == 0
    # A uniform prior is the entropy bonus but for a constant, λ log A a step.
    uniform = mdp.soft_value_iteration(0.7, prior=torch.full((6, 3), 1 / 3))
    plain = mdp.soft_value_iteration(0.7)
    torch.testing.assert_close(uniform.policy, plain.policy)
    shift = 0.7 * torch.tensor(3.0).double().log() / (1 - 0.9)
    torch.testing.assert_close(plain.value - uniform.value, shift.expand(6))


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_gymnasium_tables(name: str) -> None:
    mdp = TabularMDP.from_gymnasium(name, 0.99)
    plan = mdp.soft_value_iteration(0.1)
    softened = (plan.advantage / 0.1).exp()[:-1]
    torch.testing.assert_close(plan.policy[:-1], softened, rtol=0, atol=1e-10)
    sparse = TabularMDP.from_gymnasium(name, 0.99, sparse=True).soft_value_iteration(0.1)
    torch.testing.assert_close(sparse.value, plan.value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_no_policy_is_worth_more(
    random_mdp: Make, random_policy: MakePolicy, with_prior: bool, discount: float
) -> None:
    mdp = random_mdp(sink=True, discount=discount)
    prior = random_policy(mdp, 7) if with_prior else None
    best = mdp.soft_value_iteration(0.5, prior=prior)
    own = soft_evaluate(mdp, best.policy, 0.5, prior=prior)
    torch.testing.assert_close(own.value, best.value, rtol=0, atol=1e-9)
    for seed in range(20):
        near = (best.policy.log() + 0.3 * random_policy(mdp, seed).log()).softmax(-1)
        other = soft_evaluate(mdp, near, 0.5, prior=prior).value
        assert bool((other[:-1] < best.value[:-1]).all())


def test_no_entropy_is_paid_in_the_sink(random_mdp: Make) -> None:
    table = torch.zeros(2, 2, 2)
    table[:, :, 1] = 1
    mdp = TabularMDP(table, torch.zeros(2), 0.9, 0, sink=1)
    # One choice between two actions, and then nothing.
    plan = mdp.soft_value_iteration(1.0)
    assert plan.value.tolist() == pytest.approx([torch.tensor(2.0).double().log().item(), 0.0])


@given(st.floats(0.01, 0.3), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_low_temperatures_approach_the_optimum_from_above(temperature: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    table = torch.rand(4, 3, 4, generator=random, dtype=torch.float64)
    reward = torch.randn(4, 3, generator=random, dtype=torch.float64)
    mdp = TabularMDP(table / table.sum(-1, keepdim=True), reward, 0.8, 0)
    gap = mdp.soft_value_iteration(temperature).value - mdp.value_iteration().value
    # Each step pays at most λ log A (Geist et al. 2019, proposition 3).
    assert bool((gap >= -1e-8).all())
    assert bool((gap <= temperature * torch.tensor(3.0).double().log() / 0.2 + 1e-8).all())


def test_a_long_horizon_is_no_horizon(random_mdp: Make) -> None:
    mdp = random_mdp(sink=True, discount=0.8)
    plan = mdp.soft_value_iteration(0.5)
    far = soft_backward_induction(mdp, 150, 0.5)
    torch.testing.assert_close(far.value[0], plan.value, rtol=0, atol=1e-10)
    torch.testing.assert_close(far.policy[0], plan.policy, rtol=0, atol=1e-10)


# -- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("sink", "sparse"), KINDS)
@pytest.mark.parametrize("shape", [(4,), (4, 2), (2, 4), (2, 4, 2)], ids=str)
def test_two_derivatives_by_reward_and_temperature(
    random_mdp: Make, sink: bool, sparse: bool, shape: tuple[int, ...]
) -> None:
    mdp = random_mdp(n_states=4, n_actions=2, sink=sink, sparse=sparse)
    random = torch.Generator().manual_seed(2)
    reward = torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def plan(reward: torch.Tensor, temperature: torch.Tensor) -> Any:
        return tuple(mdp.soft_value_iteration(temperature, reward=reward, tol=1e-13))

    assert gradcheck(plan, (reward, temperature))
    assert gradgradcheck(plan, (reward, temperature))


def test_two_derivatives_by_moves_and_prior(random_mdp: Make, random_policy: MakePolicy) -> None:
    mdp = random_mdp(n_states=3, n_actions=2)
    by_move = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    logits = random_policy(mdp).log()

    def value(reward: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return mdp.soft_value_iteration(reward=reward, prior=logits.softmax(-1), tol=1e-13).value

    args = (by_move.requires_grad_(), logits.requires_grad_())
    assert gradcheck(value, args)
    assert gradgradcheck(value, args)
    learned = mdp.transition.log().requires_grad_()
    moves = lambda z: TabularMDP(z.softmax(-1), mdp.reward, 0.9, 0).soft_value_iteration().policy  # noqa: E731
    assert gradcheck(moves, (learned,))
    assert gradgradcheck(moves, (learned,))


def test_an_action_that_the_prior_forbids_has_no_derivative(
    random_mdp: Make, random_policy: MakePolicy
) -> None:
    mdp = random_mdp(sink=True)
    prior = prior_with_a_zero(random_policy(mdp)).requires_grad_()
    reward = mdp.reward.clone().requires_grad_()
    value = mdp.soft_value_iteration(0.7, reward=reward, prior=prior).value
    by_reward, by_prior = torch.autograd.grad(value.sum(), (reward, prior))
    assert bool(torch.isfinite(by_reward).all())
    assert bool(torch.isfinite(by_prior).all())
    assert by_reward[0, 1] == 0
    assert bool((by_reward[-1] == 0).all())
    assert bool((by_prior[-1] == 0).all())


def test_the_derivative_does_not_depend_on_the_search(random_mdp: Make) -> None:
    mdp = random_mdp(sink=True, discount=0.99)
    gradients = []
    for method in ("newton", "sweeps"):
        reward = mdp.reward.clone().requires_grad_()
        value = mdp.soft_value_iteration(0.3, reward=reward, method=method, tol=1e-13).value
        gradients.append(torch.autograd.grad(value.sum(), reward)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-9)


def test_gradient_of_the_value_is_the_occupancy(random_mdp: Make) -> None:
    mdp = random_mdp()
    reward = mdp.reward.clone().requires_grad_()
    plan = mdp.soft_value_iteration(0.4, reward=reward)
    (gradient,) = torch.autograd.grad(mdp.initial @ plan.value, reward)
    torch.testing.assert_close(gradient, mdp.occupancy(plan.policy.detach()), rtol=0, atol=1e-12)


# -- limits --------------------------------------------------------------------------------------


def test_undiscounted_entropy_can_outweigh_every_reward() -> None:
    # There is a way to wander about FrozenLake's upper edge for ever.
    lake = TabularMDP.from_gymnasium("FrozenLake-v1", 1.0)
    with pytest.raises(PlanningError, match="with discount 1 entropy may outweigh every reward"):
        lake.soft_value_iteration(1.0)
    # Paid for length, the soft optimum of a long horizon hardly ever reaches the goal.
    reached = [
        float((horizon_occupancy(lake, plan.policy) * lake.expected_reward).sum())
        for plan in (soft_backward_induction(lake, 1000, t) for t in (1.0, 1e-3))
    ]
    assert reached[0] < 0.02
    assert reached[1] > 0.8
    # A price on every step makes it finite again.
    priced = lake.reward - 3.0 * lake.alive[:, None, None]
    plan = lake.soft_value_iteration(1.0, reward=priced)
    own = soft_evaluate(lake, plan.policy, 1.0, reward=priced)
    torch.testing.assert_close(own.value, plan.value, rtol=0, atol=1e-9)


def test_entropy_beats_a_reward_of_ten() -> None:
    # The reference: "undiscounted soft-optimal FrozenLake reaches the goal with probability .004".
    # That is the slippery 8 × 8 lake within its time limit, with the cells at which episodes end
    # left as gymnasium lists them, absorbing but with four actions, whose entropy goes on.
    table = gymnasium.make("FrozenLake8x8-v1").unwrapped
    whole = TabularMDP.from_gymnasium(table, 1.0)
    listed = np.zeros((64, 4, 64))
    for s, actions in table.P.items():
        for a, moves in actions.items():
            for p, to, _, _ in moves:
                listed[s, a, to] += p
    goal = torch.zeros(64, 4, 64)
    goal[:63, :, 63] = 1.0
    endless = TabularMDP(torch.from_numpy(listed), goal, 1.0, 0)

    def reached(mdp: TabularMDP, temperature: float, horizon: int = 200) -> float:
        plan = soft_backward_induction(mdp, horizon, temperature, reward=10 * mdp.reward)
        return float((horizon_occupancy(mdp, plan.policy) * mdp.expected_reward).sum())

    assert reached(endless, 1.0) == pytest.approx(0.0044, abs=5e-5)
    assert reached(endless, 1.0, horizon=100) == pytest.approx(0.0040, abs=5e-5)
    # Without entropy beyond the end, as here, a fall costs what is still to come.
    assert reached(whole, 1.0) == pytest.approx(0.0155, abs=5e-5)
    # When it is cold, the goal is all that counts, and the best policy reaches it in time in .913.
    assert reached(whole, 0.01) > 0.88
    assert reached(endless, 0.01) > 0.88


@pytest.mark.parametrize("method", ["newton", "sweeps"])
def test_no_convergence_is_no_result(random_mdp: Make, method: str) -> None:
    with pytest.raises(PlanningError, match="did not converge in 2 iterations"):
        random_mdp(discount=0.99).soft_value_iteration(max_iter=2, method=method)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
def test_it_cannot_be_traced(random_mdp: Make) -> None:
    mdp = random_mdp()
    with pytest.raises(PlanningError, match="cannot be traced"):
        torch.jit.trace(lambda r: mdp.soft_value_iteration(reward=r).value, mdp.reward)


@pytest.mark.parametrize(
    ("temperature", "options", "message"),
    [
        (0.0, {}, "temperature must be a finite number above 0, got 0.0"),
        (-1.0, {}, "temperature must be"),
        (float("nan"), {}, "temperature must be"),
        ("warm", {}, "temperature must be"),
        (torch.ones(2), {}, r"temperature must be one number, got shape \(2,\)"),
        (torch.tensor(-1.0), {}, "temperature must be"),
        (1.0, {"prior": torch.full((6, 3), 0.3)}, "prior must sum to 1"),
        (1.0, {"prior": torch.full((6, 2), 0.5)}, r"prior must have shape"),
        (1.0, {"reward": [0.0] * 5 + [float("nan")]}, r"reward must be finite.*\[5\]"),
        (1.0, {"method": "guess"}, "method must be newton or sweeps, got 'guess'"),
        (1.0, {"tol": -1}, "tol must be"),
    ],
)
def test_bad_input_is_named(
    random_mdp: Make, temperature: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        random_mdp().soft_value_iteration(temperature, **options)


def test_a_policy_outside_its_prior_has_no_value(
    random_mdp: Make, random_policy: MakePolicy
) -> None:
    mdp = random_mdp()
    policy = random_policy(mdp)
    with pytest.raises(DataError, match=r"never takes; it does at \[0, 1\]"):
        soft_evaluate(mdp, policy, 1.0, prior=prior_with_a_zero(policy))
