"""RLHF outside tables, from careless demonstrations to a pole that is balanced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from likely.envs import cartpole_expert, rollout
from likely.inference import MAP
from likely.inference.imitation import PolicyGradient, SimulatedLabeller, rlhf
from likely.models import SoftmaxPolicy
from likely.models.preference import LinearReward

STEPS = 200


def careless(observations: Any, rng: Any) -> Any:
    """Does anything in six steps of ten."""
    good, n = np.asarray(cartpole_expert(observations)), len(observations)
    return np.where(rng.random(n) < 0.6, (rng.random(n) < 0.5).astype(int), good)


def squares(states: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(states[:, :1]), states**2], 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_preferences_balance_a_pole(seed: int) -> None:
    found = rlhf(
        "CartPole-v1",
        rollout("CartPole-v1", careless, 10, seed, max_steps=STEPS),
        LinearReward(squares),
        lambda pairs: SimulatedLabeller(pairs, rationality=0.1, seed=seed),
        policy=SoftmaxPolicy(2, prior_scale=2.0),
        cloning=MAP(),
        horizon=STEPS,
        episodes=100,
        preferences=200,
        acquisition="random",
        rationality=0.1,
        temperature=0.02,
        gradient=PolicyGradient(iterations=50, episodes=10, horizon=STEPS, seed=seed),
        seed=seed,
    )
    clone, better = (
        float(rollout("CartPole-v1", policy, 50, 7, max_steps=STEPS).returns().mean())
        for policy in (found.base.policy, found.policy)
    )
    # 200 is all there is. The standard error of 50 episodes is about 4.
    assert clone < 150
    assert better > 170
