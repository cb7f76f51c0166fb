"""Planning against a clock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from likely.envs import (
    DataError,
    TabularMDP,
    backward_induction,
    cliff_world,
    evaluate_horizon,
    horizon_occupancy,
    rollout_tabular,
    soft_backward_induction,
    state_marginals,
)

Make = Callable[..., TabularMDP]
MakePolicy = Callable[..., torch.Tensor]

both = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


@both
def test_no_sequence_of_policies_is_better(random_mdp: Make, sparse: bool) -> None:
    mdp = random_mdp(n_states=2, n_actions=2, sparse=sparse, discount=0.9)
    plan = backward_induction(mdp, 3)
    pure = torch.eye(2).double()
    # All 4³ deterministic policies of three steps.
    tables = [pure[list(choice)] for choice in product(range(2), repeat=2)]
    every = torch.stack([torch.stack(three) for three in product(tables, repeat=3)])
    values = evaluate_horizon(mdp, every).value[:, 0]
    torch.testing.assert_close(plan.value[0], values.amax(0))
    own = evaluate_horizon(mdp, plan.policy)
    torch.testing.assert_close(own.value, plan.value)
    torch.testing.assert_close(own.q, plan.q)


def test_shapes_and_the_advantage(random_mdp: Make) -> None:
    mdp = random_mdp(sink=True, discount=1.0)
    rewards = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    for plan in (
        backward_induction(mdp, 4, reward=rewards),
        soft_backward_induction(mdp, 4, 0.5, reward=rewards),
    ):
        assert plan.value.shape == (5, 5, 6)
        assert plan.q.shape == plan.policy.shape == plan.advantage.shape == (5, 4, 6, 3)
        assert bool((plan.value[:, -1] == 0).all())
        assert bool((plan.value[..., -1] == 0).all())
        one = backward_induction(mdp, 4, reward=rewards[2])
        if bool((plan.policy.amax(-1) == 1).all()):
            torch.testing.assert_close(plan.value[2], one.value)


@both
@pytest.mark.parametrize("with_prior", [False, True])
def test_soft_policy_is_the_exponential_of_its_advantage(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool, with_prior: bool
) -> None:
    mdp = random_mdp(sparse=sparse, discount=1.0)
    prior = random_policy(mdp) if with_prior else None
    plan = soft_backward_induction(mdp, 7, 0.3, prior=prior)
    expected = (plan.advantage / 0.3).exp() * (1.0 if prior is None else prior)
    torch.testing.assert_close(plan.policy, expected, rtol=0, atol=1e-10)
    own = evaluate_horizon(mdp, plan.policy, temperature=0.3, prior=prior)
    torch.testing.assert_close(own.value, plan.value, rtol=0, atol=1e-10)
    other = evaluate_horizon(mdp, random_policy(mdp, 9), 7, temperature=0.3, prior=prior)
    assert bool((other.value[0] < plan.value[0]).all())


def test_soft_optimum_sums_over_all_ways_of_a_deterministic_process() -> None:
    # Without chance, exp V is the sum of exp return over all paths (Ziebart et al. 2008).
    random = np.random.default_rng(0)
    to = random.integers(4, size=(4, 3))
    table = np.eye(4)[to]
    reward = random.normal(size=(4, 3))
    mdp = TabularMDP(table, reward, 1.0, 0)
    paths = []
    for actions in product(range(3), repeat=4):
        s, total = 0, 0.0
        for a in actions:
            total += reward[s, a]
            s = to[s, a]
        paths.append(total)
    value = soft_backward_induction(mdp, 4).value[0, 0]
    assert float(value) == pytest.approx(np.logaddexp.reduce(paths), abs=1e-12)


@both
@pytest.mark.parametrize("sink", [False, True])
def test_marginals_and_occupancy(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool, sink: bool
) -> None:
    mdp = random_mdp(sink=sink, sparse=sparse)
    policy = random_policy(mdp, batch=(2, 8))
    marginals = state_marginals(mdp, policy)
    assert marginals.shape == (2, 9, 6)
    torch.testing.assert_close(marginals.sum(-1), torch.ones(2, 9).double())
    assert bool((marginals[:, 0] == mdp.initial).all())
    visits = horizon_occupancy(mdp, policy)
    assert visits.sum((-2, -1)).tolist() == pytest.approx([(1 - 0.9**8) / 0.1] * 2)
    value = evaluate_horizon(mdp, policy).value[:, 0] @ mdp.initial
    torch.testing.assert_close((visits * mdp.expected_reward).sum((-2, -1)), value)


def test_marginals_are_those_of_episodes(random_mdp: Make, random_policy: MakePolicy) -> None:
    mdp = random_mdp(sink=True)
    policy = random_policy(mdp, batch=(5,))
    marginals = state_marginals(mdp, policy)
    states = rollout_tabular(mdp, policy, 40_000, 5, seed=3).states
    shares = torch.nn.functional.one_hot(states, 6).double().mean(0)
    error = (marginals * (1 - marginals) / 40_000).sqrt()
    assert bool(((shares - marginals).abs() <= 4.5 * error + 1e-12).all())


def test_terminal_values_count_outside_the_sink(random_mdp: Make) -> None:
    mdp = random_mdp(sink=True)
    last = torch.arange(1.0, 7.0)
    plan = backward_induction(mdp, 2, terminal=last)
    assert plan.value[-1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]
    # One step further, with the value of the step as what is left.
    shorter = backward_induction(mdp, 1, terminal=plan.value[1])
    torch.testing.assert_close(shorter.value[0], plan.value[0])


@both
def test_derivatives(random_mdp: Make, random_policy: MakePolicy, sparse: bool) -> None:
    mdp = random_mdp(n_states=3, n_actions=2, sink=True, sparse=sparse, discount=1.0)
    reward = mdp.reward.clone().requires_grad_()
    heat = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def soft(reward: torch.Tensor, heat: torch.Tensor) -> Any:
        plan = soft_backward_induction(mdp, 4, heat, reward=reward)
        return plan.value, plan.policy, horizon_occupancy(mdp, plan.policy)

    assert gradcheck(soft, (reward, heat))
    assert gradgradcheck(soft, (reward, heat))
    assert gradcheck(lambda r: backward_induction(mdp, 4, reward=r).value, (reward,))
    logits = random_policy(mdp, batch=(4,)).log().requires_grad_()
    assert gradcheck(
        lambda z: evaluate_horizon(mdp, z.softmax(-1), temperature=0.5).value, (logits,)
    )


def test_gradient_of_the_soft_value_is_the_occupancy_of_its_policy() -> None:
    # The identity on which maximum-entropy inverse reinforcement learning rests.
    world = cliff_world()
    reward = world.mdp.reward.clone().requires_grad_()
    plan = soft_backward_induction(world.mdp, 40, reward=reward)
    (gradient,) = torch.autograd.grad(plan.value[0] @ world.mdp.initial, reward)
    visits = horizon_occupancy(world.mdp, plan.policy.detach()).sum(-1)
    torch.testing.assert_close(gradient, visits, rtol=0, atol=1e-10)
    assert float(visits.sum()) == pytest.approx(40)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: backward_induction(m, 0), "horizon must be an integer >= 1, got 0"),
        (lambda m, p: soft_backward_induction(m, 2.5), "horizon must be an integer"),
        (lambda m, p: soft_backward_induction(m, 2, 0.0), "temperature must be"),
        (lambda m, p: evaluate_horizon(m, p), "horizon must be given"),
        (lambda m, p: evaluate_horizon(m, p.expand(3, 6, 3), 4), "T = horizon = 4"),
        (lambda m, p: backward_induction(m, 2, terminal=torch.ones(5)), r"terminal must.*\(5,\)"),
        (
            lambda m, p: backward_induction(m, 2, terminal=[float("nan")] * 6),
            "terminal must be finite",
        ),
        (lambda m, p: state_marginals(m, p[:, :2], 3), "policy must have shape"),
    ],
)
def test_bad_input_is_named(
    random_mdp: Make, random_policy: MakePolicy, call: Callable[..., Any], message: str
) -> None:
    mdp = random_mdp()
    with pytest.raises(DataError, match=message):
        call(mdp, random_policy(mdp))
