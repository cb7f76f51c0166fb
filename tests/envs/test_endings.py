"""Undiscounted planning: the optimum is one under which episodes end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from likely.envs import GridWorld, PlanningError, TabularMDP, rollout, tabular_expert

Make = Callable[..., TabularMDP]

both = pytest.mark.parametrize("method", ["value_iteration", "policy_iteration"])


def free_steps(*layout: str, **options: Any) -> TabularMDP:
    """A world whose steps cost nothing, so that a wall is as good as the way to the goal."""
    return GridWorld(layout, discount=1.0, **options).mdp


@both
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_the_best_policy_is_worth_what_is_said(method: str, sparse: bool) -> None:
    mdp = free_steps("S..T", "..#.", "T..G", sparse=sparse)
    plan = getattr(mdp, method)()
    # Every cell but the traps, and what follows the end, can reach the goal.
    free = [state != "sink" and state not in ((0, 3), (2, 0), (2, 3)) for state in mdp.states]
    assert plan.value[torch.tensor(free)].tolist() == [1.0] * sum(free)
    assert torch.equal(mdp.evaluate(plan.policy).value, plan.value)
    assert (plan.policy.amax(-1) == 1).all()


@both
def test_only_where_it_must_is_another_than_the_first_of_equal_actions_taken(method: str) -> None:
    mdp = free_steps("S.", ".G")
    policy = getattr(mdp, method)().policy
    first = (policy[0] == 1).nonzero().item()
    assert mdp.actions[first] == "right"  # up leads nowhere; right comes before down
    priced = free_steps("S.", ".G", rewards={"S": -0.1, ".": -0.1})
    assert torch.equal(getattr(priced, method)().policy[:3], policy[:3])


@both
def test_a_batch_is_its_parts(method: str) -> None:
    mdp = free_steps("S...", ".#..", "T..G")
    rewards = torch.stack([mdp.expected_reward, -mdp.expected_reward, 0 * mdp.expected_reward])
    # The second flees from the goal into the trap, the third does not care.
    plan = getattr(mdp, method)(reward=rewards)
    for i, reward in enumerate(rewards):
        alone = getattr(mdp, method)(reward=reward)
        assert torch.equal(plan.policy[i], alone.policy)
        assert torch.equal(plan.value[i], alone.value)
    assert plan.value[:, 0].tolist() == [1.0, 1.0, 0.0]


def test_derivatives_without_a_discount() -> None:
    mdp = free_steps("S.G")
    reward = mdp.expected_reward.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mdp.value_iteration(reward=reward).value[0], reward)
    assert torch.equal(gradient, mdp.occupancy(mdp.value_iteration().policy))


def test_the_expert_reaches_the_goal() -> None:
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    expert = tabular_expert(TabularMDP.from_gymnasium(env, 1.0))
    played = rollout("FrozenLake-v1", expert, 2, seed=0, is_slippery=False)
    assert played.returns().tolist() == [1.0, 1.0]
    assert played.lengths.tolist() == [6, 6]


def test_what_never_ends_is_named() -> None:
    # No way leads from the lower row to the goal.
    with pytest.raises(PlanningError, match=r"from 2 states.*the first is \(2, 0\)"):
        free_steps("SG", "##", "..").value_iteration(max_iter=3)
    # To wander about for ever is better than the trap: there is no best way to end.
    trap = free_steps("S.T")
    with pytest.raises(PlanningError, match=r"from 2 states.*the first is \(0, 0\)"):
        trap.value_iteration()
    # Of the policies under which episodes end, there is a best one.
    assert trap.policy_iteration().value.tolist() == [-1.0, -1.0, 0.0, 0.0]


def test_a_slow_search_is_no_inexact_value() -> None:
    # A thousand steps on average, each of which costs 1; the other action costs twice as much.
    table = torch.zeros(2, 2, 2)
    table[0, :, 0], table[0, :, 1], table[1, :, 1] = 0.999, 0.001, 1.0
    mdp = TabularMDP(table.double(), [[-1.0, -2.0], [0.0, 0.0]], 1.0, 0, 1)
    value = float(mdp.value_iteration().value[0])
    # Backups that move it by less than 1e-7 stop 1e-4 before the value.
    assert value == pytest.approx(-1 / float(mdp.transition[0, 0, 1]), rel=1e-12)


def test_both_methods_agree_where_there_is_an_optimum() -> None:
    random = np.random.default_rng(0)
    solved = 0
    for _ in range(60):
        n = int(random.integers(2, 7))
        # Deterministic moves and few different rewards, so that many actions are equally good.
        table = np.eye(n + 1)[random.integers(0, n + 1, (n + 1, 3))]
        reward = random.choice([0.0, 0.0, -0.5], (n + 1, 3))
        reward += random.choice([0.0, 1.0], (n + 1, 3)) * table[..., n]
        table[n], reward[n] = np.eye(n + 1)[n], 0.0
        mdp = TabularMDP(table, reward, 1.0, 0, n)
        try:
            plan = mdp.value_iteration(max_iter=200)
        except PlanningError:
            continue
        solved += 1
        torch.testing.assert_close(plan.value, mdp.policy_iteration().value, rtol=0, atol=1e-12)
        torch.testing.assert_close(plan.value, mdp.to_sparse().value_iteration().value)
    assert solved >= 30
