"""Optimal policies and exact values, against references, linear programmes and one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import linprog
from torch.autograd import gradcheck, gradgradcheck

from likely.envs import (
    DataError,
    PlanningError,
    TabularMDP,
    bellman_backup,
    expected_reward,
    rollout_tabular,
)

Make = Callable[..., TabularMDP]
MakePolicy = Callable[..., torch.Tensor]

# Start values to so many digits as are known.
REFERENCE = [
    ("FrozenLake-v1", 0.95, 0.18047158, 1e-7),
    ("FrozenLake-v1", 0.99, 0.54202593, 1e-7),
    ("CliffWalking-v1", 0.95, -9.73315833, 1e-7),
    ("CliffWalking-v1", 0.99, -12.24789770, 1e-7),
    ("Taxi-v4", 0.99, 6.32746, 5e-6),
]


@pytest.mark.parametrize(("name", "discount", "value", "tol"), REFERENCE)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("method", ["value_iteration", "policy_iteration"])
def test_optimal_values_of_gymnasium(
    name: str, discount: float, value: float, tol: float, sparse: bool, method: str
) -> None:
    mdp = TabularMDP.from_gymnasium(name, discount, sparse=sparse)
    plan = getattr(mdp, method)()
    assert float(mdp.initial @ plan.value) == pytest.approx(value, abs=tol)
    exact = mdp.evaluate(plan.policy)
    torch.testing.assert_close(exact.value, plan.value, rtol=0, atol=1e-7)


def test_taxi_to_the_digits_of_its_geometric_sum() -> None:
    # No randomness: −1 a step and 20 at the end, discounted, by the length of the shortest way.
    mdp = TabularMDP.from_gymnasium("Taxi-v4", 0.99)
    value = mdp.value_iteration().value[:-1].numpy()
    n = np.arange(0, 40)
    possible = 20 * 0.99**n - (1 - 0.99**n) / (1 - 0.99)
    starts = np.flatnonzero(mdp.initial[:-1].numpy())
    assert np.abs(value[starts, None] - possible).min(-1).max() < 1e-10


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("discount", [0.0, 0.5, 0.97])
def test_value_is_the_linear_programmes(random_mdp: Make, sink: bool, discount: float) -> None:
    mdp = random_mdp(3, sink=sink, discount=discount)
    # Least V with V ≥ r + γ P V (Puterman 1994, section 6.9).
    rows = np.repeat(np.eye(6), 3, 0) - discount * mdp.transition.reshape(18, 6).numpy()
    found = linprog(
        np.ones(6), A_ub=-rows, b_ub=-mdp.reward.reshape(18).numpy(), bounds=(None, None)
    )
    np.testing.assert_allclose(mdp.value_iteration().value, found.x, atol=1e-7)
    np.testing.assert_allclose(mdp.policy_iteration().value, found.x, atol=1e-7)


def test_one_tuple_from_every_planner(random_mdp: Make, random_policy: MakePolicy) -> None:
    mdp = random_mdp(sink=True)
    plans = [
        mdp.value_iteration(),
        mdp.policy_iteration(),
        mdp.soft_value_iteration(),
        mdp.evaluate(random_policy(mdp)),
    ]
    for plan in plans:
        assert plan._fields == ("value", "q", "policy")
        assert plan.value.shape == (6,)
        assert plan.q.shape == plan.policy.shape == (6, 3)
        torch.testing.assert_close(plan.q, bellman_backup(mdp, plan.value))
        torch.testing.assert_close(plan.advantage, plan.q - plan.value[:, None])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("method", ["value_iteration", "policy_iteration", "evaluate"])
def test_batches_are_their_parts(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool, method: str
) -> None:
    mdp = random_mdp(sink=True, sparse=sparse)
    rewards = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(5)).double()
    args = (random_policy(mdp, batch=(4,)),) if method == "evaluate" else ()
    whole = getattr(mdp, method)(*args, reward=rewards)
    for i in range(2):
        for j in range(4):
            one = getattr(mdp, method)(*(a[j] for a in args), reward=rewards[i, j])
            for part, single in zip(whole, one, strict=True):
                torch.testing.assert_close(part[i, j], single, rtol=0, atol=1e-9)


def test_rewards_of_states_actions_and_moves_agree(random_mdp: Make) -> None:
    mdp = random_mdp()
    by_state = torch.arange(6.0)
    by_action = by_state[:, None].expand(6, 3)
    by_move = by_state[:, None, None].expand(6, 3, 6)
    plans = [mdp.value_iteration(reward=r) for r in (by_state, by_action, by_move)]
    for plan in plans[1:]:
        torch.testing.assert_close(plan.value, plans[0].value)
    # Paid on arrival, a state is worth γ less and counts from the second one on.
    arrival = mdp.value_iteration(reward=by_state.expand(6, 3, 6)).value
    torch.testing.assert_close(arrival * 0.9 + by_state, plans[0].value, rtol=0, atol=1e-8)


def test_the_kind_of_a_reward_can_be_said() -> None:
    mdp = TabularMDP(torch.eye(2).expand(2, 2, 2), torch.zeros(2), 0.9, 0)
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert expected_reward(mdp, table).tolist() == table.tolist()
    assert expected_reward(mdp, table, "state")[0].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    with pytest.raises(DataError, match="kind must be"):
        expected_reward(mdp, table, "cell")


def test_value_of_a_policy_is_the_mean_return_of_its_episodes(
    random_mdp: Make, random_policy: MakePolicy
) -> None:
    mdp = random_mdp(sink=True, discount=0.8)
    policy = random_policy(mdp)
    episodes = rollout_tabular(mdp, policy, 20_000, 100, seed=0)
    returns = (episodes.rewards * 0.8 ** torch.arange(100)).sum(-1)
    error = float(returns.std()) / len(returns) ** 0.5
    exact = float(mdp.initial @ mdp.evaluate(policy).value)
    assert abs(float(returns.mean()) - exact) < 4 * error
    assert error < 0.02


# -- undiscounted --------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_undiscounted_problems_that_end(sparse: bool) -> None:
    cliff = TabularMDP.from_gymnasium("CliffWalking-v1", 1.0, sparse=sparse)
    # Thirteen steps along the edge.
    assert float(cliff.initial @ cliff.value_iteration().value) == -13
    assert float(cliff.initial @ cliff.policy_iteration().value) == pytest.approx(-13)
    # The chance of the goal under the best policy, of a linear system: 14/17.
    lake = TabularMDP.from_gymnasium("FrozenLake-v1", 1.0, sparse=sparse)
    assert float(lake.initial @ lake.value_iteration().value) == pytest.approx(14 / 17, abs=1e-7)


def test_undiscounted_problems_that_do_not_end_are_refused(
    random_mdp: Make, random_policy: MakePolicy
) -> None:
    mdp = random_mdp(discount=1.0)
    for plan in (mdp.value_iteration, mdp.policy_iteration, mdp.soft_value_iteration):
        with pytest.raises(PlanningError, match="without a sink"):
            plan()
    with pytest.raises(PlanningError, match="without a sink"):
        mdp.evaluate(random_policy(mdp))
    cliff = TabularMDP.from_gymnasium("CliffWalking-v1", 1.0)
    up = torch.zeros(49, 4)
    up[:, 0] = 1
    with pytest.raises(PlanningError, match="from 48 states the policy never reaches the sink"):
        cliff.evaluate(up)


def test_values_beyond_all_numbers_are_no_result() -> None:
    with pytest.raises(PlanningError, match="it has size inf"):
        TabularMDP([[[1.0]]], [1e308], 0.99, 0).value_iteration()


def test_no_convergence_is_no_result(random_mdp: Make) -> None:
    mdp = random_mdp(discount=0.999)
    with pytest.raises(PlanningError, match=r"did not converge in 10 backups.*may still be off by"):
        mdp.value_iteration(max_iter=10)
    with pytest.raises(PlanningError, match="still improves after 1 steps"):
        mdp.policy_iteration(max_iter=1)
    # One action pays for ever; there is a sink, but no reason to go there.
    table = torch.zeros(2, 2, 2)
    table[0, 0, 0] = table[0, 1, 1] = 1
    table[1, :, 1] = 1
    greedy = TabularMDP(table, torch.tensor([1.0, 0.0]), 1.0, 0, sink=1)
    with pytest.raises(PlanningError, match="use a discount below 1 or a finite horizon"):
        greedy.value_iteration(max_iter=1000)


# -- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_derivatives_by_reward_and_policy(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool, discount: float
) -> None:
    mdp = random_mdp(sink=True, discount=discount, sparse=sparse)
    reward = mdp.reward.clone().requires_grad_()
    logits = random_policy(mdp).log().requires_grad_()

    def values(logits: torch.Tensor, reward: torch.Tensor) -> Any:
        plan = mdp.evaluate(logits.softmax(-1), reward=reward)
        return plan.value, plan.q

    assert gradcheck(values, (logits, reward))
    assert gradgradcheck(values, (logits, reward))
    if discount < 1:
        assert gradcheck(lambda r: mdp.value_iteration(reward=r).value, (reward,))
    assert gradcheck(lambda r: mdp.policy_iteration(reward=r).q, (reward,))


def test_derivative_of_the_optimum_is_its_occupancy(random_mdp: Make) -> None:
    mdp = random_mdp(sink=True)
    reward = mdp.reward.clone().requires_grad_()
    plan = mdp.value_iteration(reward=reward)
    (gradient,) = torch.autograd.grad(mdp.initial @ plan.value, reward)
    expected = mdp.occupancy(plan.policy) * mdp.alive[:, None]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_derivatives_by_the_transition(random_mdp: Make) -> None:
    mdp = random_mdp(n_states=3, n_actions=2)
    logits = mdp.transition.log().requires_grad_()

    def values(logits: torch.Tensor) -> Any:
        learned = TabularMDP(logits.softmax(-1), mdp.reward, 0.9, mdp.initial)
        return learned.value_iteration().value, learned.soft_value_iteration(0.5).value

    assert gradcheck(values, (logits,))


# -- sparse --------------------------------------------------------------------------------------


def test_a_large_sparse_chain_has_its_closed_form() -> None:
    # Walk right for −1 a step; 20,000 states would be 3 GB dense.
    n = 20_000
    right = sp.coo_array((np.ones(n), (np.arange(n), np.minimum(np.arange(n) + 1, n - 1))), (n, n))
    reward = -np.ones(n)
    reward[-1] = 0
    mdp = TabularMDP(right.tocsr(), reward, 0.99, 0, sink=n - 1)
    expected = -(1 - 0.99 ** np.arange(n - 1, -1, -1.0)) / 0.01
    np.testing.assert_allclose(mdp.value_iteration().value, expected, atol=1e-7)
    np.testing.assert_allclose(mdp.evaluate(torch.ones(n, 1)).value, expected, atol=1e-9)


# -- input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (torch.full((6, 2), 0.5), r"policy must have shape \[..., S, A\].*got \(6, 2\)"),
        (torch.full((3,), 0.3), r"policy must have shape.*got \(3,\)"),
        (torch.full((6, 3), 0.3), r"policy must sum to 1.*6 of 6 rows.*policy\[s=0\] with 0.9"),
        (torch.tensor([[1.5, -0.5, 0.0]] * 6), r"policy must not be negative.*\[s=0, entry=1\]"),
        (torch.full((6, 3), torch.nan), r"policy must be finite"),
        ("left", "policy must hold real numbers"),
    ],
)
def test_bad_policies_are_named(random_mdp: Make, policy: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        random_mdp().evaluate(policy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": torch.ones(5)}, r"reward must have shape.*got \(5,\)"),
        ({"reward": torch.full((6,), torch.nan)}, "reward must be finite"),
        ({"tol": 0}, "tol must be"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
        ({"max_iter": 2.5}, "max_iter must be an integer >= 1"),
    ],
)
def test_bad_options_are_named(random_mdp: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        random_mdp().value_iteration(**options)


def test_moves_cannot_be_paid_in_a_sparse_process(random_mdp: Make) -> None:
    with pytest.raises(DataError, match="where the transition is sparse"):
        random_mdp(sparse=True).value_iteration(reward=torch.ones(6, 3, 6))


def test_values_of_another_shape_are_refused(random_mdp: Make) -> None:
    with pytest.raises(DataError, match=r"value must have shape.*got \(5,\)"):
        bellman_backup(random_mdp(), torch.zeros(5))
