"""What policy gradients must reach, on three seeds of three, within five minutes each."""

from __future__ import annotations

import pytest

from likely.envs import TabularMDP, backward_induction, evaluate_horizon
from likely.inference.imitation import evaluate_returns, policy_gradient
from likely.models import SoftmaxPolicy, TabularPolicy


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slippery_lake_is_crossed(seed: int) -> None:
    """Ninety per cent of the best success rate within the same 100 steps."""
    lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1.0)
    best = float(lake.initial @ backward_induction(lake, 100).value[0])
    found = policy_gradient(
        lake,
        TabularPolicy(17, 4),
        iterations=150,
        episodes=256,
        horizon=100,
        learning_rate=0.2,
        seed=seed,
    )
    reached = float(lake.initial @ evaluate_horizon(lake, found.table, 100).value[0])
    assert reached >= 0.9 * best


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_is_balanced(seed: int) -> None:
    found = policy_gradient(
        "CartPole-v1",
        SoftmaxPolicy(2),
        iterations=100,
        episodes=16,
        learning_rate=0.1,
        normalize=True,
        target=490.0,
        seed=seed,
    )
    assert evaluate_returns("CartPole-v1", found, episodes=100, seed=99).mean >= 450
