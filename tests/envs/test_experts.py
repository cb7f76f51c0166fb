"""Scripted and planned policies do what they promise."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from likely.envs import (
    DataError,
    TabularMDP,
    acrobot_expert,
    cartpole_expert,
    mountain_car_expert,
    rollout,
    tabular_expert,
)


def returns(name: str, act: Any, episodes: int) -> list[float]:
    env = gymnasium.make(name)
    totals = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            observation, reward, ended, late, _ = env.step(int(act(observation)))
            total, over = total + float(reward), ended or late
        totals.append(total)
    return totals


def test_cartpole_stands_to_the_end() -> None:
    assert returns("CartPole-v1", cartpole_expert, 20) == [500.0] * 20


def test_acrobot_swings_up() -> None:
    # The environment counts −100 as solved.
    assert np.mean(returns("Acrobot-v1", acrobot_expert, 12)) > -100


def test_mountain_car_reaches_the_top() -> None:
    assert min(returns("MountainCar-v0", mountain_car_expert, 20)) > -130


def test_tabular_expert_walks_along_the_cliff() -> None:
    expert = tabular_expert(TabularMDP.from_gymnasium("CliffWalking-v1"))
    assert returns("CliffWalking-v1", expert, 2) == [-13.0, -13.0]


def test_soft_tabular_expert_draws_from_its_policy() -> None:
    mdp = TabularMDP.from_gymnasium("FrozenLake-v1", 0.9)
    policy = mdp.soft_value_iteration(0.05).policy[14].numpy()
    expert = tabular_expert(mdp, temperature=0.05, seed=0)
    shares = np.bincount(expert(np.full(20_000, 14)), minlength=4) / 20_000
    assert (np.abs(shares - policy) <= 4 * np.sqrt(policy * (1 - policy) / 20_000)).all()
    again = tabular_expert(mdp, temperature=0.05, seed=0)(np.full(20_000, 14))
    assert (np.bincount(again, minlength=4) / 20_000 == shares).all()


def test_without_a_seed_the_rollouts_decides() -> None:
    expert = tabular_expert(TabularMDP.from_gymnasium("FrozenLake-v1", 0.9), temperature=0.05)
    one, other, another = (
        rollout("FrozenLake-v1", expert, 10, seed=seed, n_envs=n)
        for seed, n in ((0, 10), (0, 3), (1, 10))
    )
    assert torch.equal(one.lengths, other.lengths)
    assert torch.equal(one.actions, other.actions)
    assert one.actions.tolist() != another.actions.tolist()


@pytest.mark.parametrize(
    ("act", "width"), [(cartpole_expert, 4), (acrobot_expert, 6), (mountain_car_expert, 2)]
)
def test_batches_are_their_parts(act: Any, width: int) -> None:
    seen = np.random.default_rng(0).normal(size=(9, width)).astype(np.float32)
    actions = act(seen)
    assert actions.shape == (9,)
    assert actions.dtype == np.int64
    assert actions.tolist() == [int(act(one)) for one in seen]
    with pytest.raises(DataError, match=rf"observation must have shape \[n, {width}\]"):
        act(seen[:, 1:])
    for wrong in (np.nan, np.inf, "a"):
        with pytest.raises(DataError, match="observation"):
            act(np.full((2, width), wrong))


@pytest.mark.parametrize("state", [17, -1, 0.5, [0, 99]])
def test_states_that_do_not_exist_are_refused(state: Any) -> None:
    expert = tabular_expert(TabularMDP.from_gymnasium("FrozenLake-v1"))
    with pytest.raises(DataError, match="observation must hold states from 0 to 16"):
        expert(state)


def test_bad_temperatures_are_refused() -> None:
    lake = TabularMDP.from_gymnasium("FrozenLake-v1")
    with pytest.raises(DataError, match="temperature"):
        tabular_expert(lake, temperature=-1)
    with pytest.raises(DataError, match="seed must be an integer >= 0, got 'a'"):
        tabular_expert(lake, temperature=1, seed="a")
