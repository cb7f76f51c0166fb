"""Where policies go: sums, long runs, and the performance-difference lemma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from likely.envs import (
    DataError,
    PlanningError,
    TabularMDP,
    feature_expectations,
    objective,
    performance_difference,
    rollout_tabular,
    state_action_occupancy,
    state_occupancy,
    stationary_distribution,
)

Make = Callable[..., TabularMDP]
MakePolicy = Callable[..., torch.Tensor]

GYMNASIUM = ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"]
both = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


@both
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("discount", [0.0, 0.9, 0.999])
def test_occupancy_sums_to_the_discounted_time(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool, sink: bool, discount: float
) -> None:
    mdp = random_mdp(sink=sink, sparse=sparse, discount=discount)
    policies = random_policy(mdp, batch=(3,))
    visits = state_action_occupancy(mdp, policies)
    assert visits.shape == (3, 6, 3)
    assert bool((visits >= 0).all())
    assert visits.sum((-2, -1)).tolist() == pytest.approx([1 / (1 - discount)] * 3, rel=1e-10)
    shares = state_occupancy(mdp, policies, normalized=True)
    assert shares.sum(-1).tolist() == pytest.approx([1.0] * 3)


@both
def test_occupancy_is_the_sum_of_marginals(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool
) -> None:
    mdp = random_mdp(sink=True, sparse=sparse, discount=0.7)
    policy = random_policy(mdp)
    dense = random_mdp(sink=True, discount=0.7)
    chain = torch.einsum("sa,sat->st", policy, dense.transition)
    now, total = mdp.initial, torch.zeros(6).double()
    for t in range(120):
        total = total + 0.7**t * now
        now = now @ chain
    torch.testing.assert_close(state_occupancy(mdp, policy), total, rtol=0, atol=1e-12)


def test_undiscounted_occupancy_is_the_length_of_episodes(
    random_mdp: Make, random_policy: MakePolicy
) -> None:
    mdp = random_mdp(sink=True, discount=1.0)
    policy = random_policy(mdp)
    visits = state_occupancy(mdp, policy)
    assert visits[-1] == 0
    lengths = rollout_tabular(mdp, policy, 20_000, 300, seed=1).lengths.double()
    assert abs(float(lengths.mean() - visits.sum())) < 4 * float(lengths.std()) / 20_000**0.5
    with pytest.raises(PlanningError, match="without a sink"):
        state_occupancy(random_mdp(discount=1.0), policy)


@pytest.mark.parametrize("name", GYMNASIUM)
def test_performance_difference_on_gymnasium(name: str) -> None:
    mdp = TabularMDP.from_gymnasium(name, 0.95)
    one = mdp.soft_value_iteration(0.1).policy
    other = torch.full_like(one, 1 / mdp.n_actions)
    for pair in ((one, other), (other, one), (mdp.value_iteration().policy, one)):
        gap = objective(mdp, pair[0]) - objective(mdp, pair[1])
        assert float(performance_difference(mdp, *pair) - gap) == pytest.approx(0, abs=1e-9)
        assert abs(float(gap)) > 1e-5


@both
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_performance_difference_of_random_processes(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool, discount: float
) -> None:
    for seed in range(10):
        mdp = random_mdp(seed, sink=True, sparse=sparse, discount=discount)
        policies, reference = random_policy(mdp, seed + 50, (4,)), random_policy(mdp, seed)
        gap = objective(mdp, policies) - objective(mdp, reference)
        found = performance_difference(mdp, policies, reference)
        torch.testing.assert_close(found, gap, rtol=0, atol=1e-9)


@both
def test_objective_is_value_occupancy_and_features(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool
) -> None:
    mdp = random_mdp(sink=True, sparse=sparse)
    policy = random_policy(mdp, batch=(2,))
    expected = mdp.evaluate(policy).value @ mdp.initial
    torch.testing.assert_close(objective(mdp, policy), expected)
    paid = (state_action_occupancy(mdp, policy) * mdp.expected_reward).sum((-2, -1))
    torch.testing.assert_close(paid, expected)
    random = torch.Generator().manual_seed(0)
    for features in (torch.randn(6, 4, generator=random), torch.randn(6, 3, 4, generator=random)):
        weights = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
        found = feature_expectations(mdp, policy, features) @ weights
        reward = features.double() @ weights
        torch.testing.assert_close(found, objective(mdp, policy, reward=reward))


@both
def test_stationary_distribution_is_the_long_run(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool
) -> None:
    mdp = random_mdp(sparse=sparse)
    policy = random_policy(mdp, batch=(2,))
    found = stationary_distribution(mdp, policy)
    chain = torch.einsum("bsa,sat->bst", policy, random_mdp().transition)
    torch.testing.assert_close(found, chain.matrix_power(2000)[:, 0], rtol=0, atol=1e-12)
    # The average reward of a step is (1 − γ) J when episodes start from it.
    average = (found.unsqueeze(-1) * policy * mdp.expected_reward).sum((-2, -1))
    torch.testing.assert_close(
        0.1 * objective(mdp, policy, distribution=found), average, rtol=0, atol=1e-12
    )


def test_stationary_distribution_of_episodes_is_their_occupancy(
    random_mdp: Make, random_policy: MakePolicy
) -> None:
    # Renewal: visits within an episode over its length.
    mdp = random_mdp(sink=True, discount=1.0)
    policy = random_policy(mdp)
    found = stationary_distribution(mdp, policy)
    torch.testing.assert_close(found, state_occupancy(mdp, policy, normalized=True))
    ended = stationary_distribution(mdp, policy, restart=False)
    assert ended.tolist() == pytest.approx([0, 0, 0, 0, 0, 1])


def test_periodic_and_passing_states() -> None:
    # 0 leads into the circle of 1 and 2; 3 is out of reach.
    table = torch.zeros(4, 1, 4)
    for s, to in enumerate((1, 2, 1, 3)):
        table[s, 0, to] = 1
    mdp = TabularMDP(table, torch.zeros(4), 0.9, 0)
    one = torch.ones(4, 1)
    assert stationary_distribution(mdp, one).tolist() == pytest.approx([0, 0.5, 0.5, 0])
    split = TabularMDP(table, torch.zeros(4), 0.9, [0.5, 0, 0, 0.5])
    with pytest.raises(PlanningError, match="2 sets of states that it never leaves"):
        stationary_distribution(split, one)


@both
def test_derivatives_by_the_policy(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool
) -> None:
    mdp = random_mdp(n_states=4, n_actions=2, sink=True, sparse=sparse)
    logits = random_policy(mdp).log().requires_grad_()

    def everything(logits: torch.Tensor) -> Any:
        policy = logits.softmax(-1)
        return (
            state_occupancy(mdp, policy),
            stationary_distribution(mdp, policy),
            objective(mdp, policy),
        )

    assert gradcheck(everything, (logits,))


def test_policy_gradient_theorem(random_mdp: Make, random_policy: MakePolicy) -> None:
    mdp = random_mdp(sink=True)
    policy = random_policy(mdp).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(mdp, policy), policy)
    # Sutton et al. 2000, theorem 1: d(s) Q(s, a), along the simplex.
    expected = state_occupancy(mdp, policy).unsqueeze(-1) * mdp.evaluate(policy).q
    torch.testing.assert_close(gradient, expected.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: feature_expectations(m, p, torch.ones(5, 2)), r"features must.*\(5, 2\)"),
        (lambda m, p: feature_expectations(m, p, torch.ones(6)), r"features must.*\(6,\)"),
        (
            lambda m, p: feature_expectations(m, p, torch.full((6, 1), torch.nan)),
            "features must be finite",
        ),
        (lambda m, p: objective(m, p, distribution=torch.ones(6)), "distribution must sum to 1"),
        (lambda m, p: objective(m, p, distribution=[0.5, 0.5]), r"distribution must have.*\(2,\)"),
        (lambda m, p: performance_difference(m, p, p[:, :2]), "policy must have shape"),
        (lambda m, p: state_occupancy(m, p * 2), "policy must sum to 1"),
    ],
)
def test_bad_input_is_named(
    random_mdp: Make, random_policy: MakePolicy, call: Callable[..., Any], message: str
) -> None:
    mdp = random_mdp()
    with pytest.raises(DataError, match=message):
        call(mdp, random_policy(mdp))
