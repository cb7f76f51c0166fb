"""RLHF outside tables: clones of a careless driver of CartPole, improved by 200 preferences.

Ten demonstrations of at most 200 steps by an expert who does anything in six steps of ten are
cloned; pairs of the clone's episodes are compared by the number of steps held; a reward is learnt
from 200 answers, linear in the squares of the state or a network of 16 hidden units; fifty
steps of policy gradients of ten episodes follow. Printed are mean steps held in 50 episodes.
"""

from __future__ import annotations

from _common import arguments, print_facts, print_table, save

# isort: split
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from likely.envs import cartpole_expert, rollout
from likely.inference import MAP, Engine, Laplace
from likely.inference.imitation import PolicyGradient, SimulatedLabeller, rlhf
from likely.models import SoftmaxPolicy
from likely.models.preference import LinearReward, NetworkReward

STEPS, SEEDS = 200, (0, 1, 2)


def careless(observations: Any, rng: Any) -> Any:
    """Does anything in six steps of ten."""
    good, n = np.asarray(cartpole_expert(observations)), len(observations)
    return np.where(rng.random(n) < 0.6, (rng.random(n) < 0.5).astype(int), good)


def squares(states: Tensor) -> Tensor:
    """Features [n, 5] of a linear reward."""
    return torch.cat([torch.ones_like(states[:, :1]), states**2], 1)


def network(seed: int) -> NetworkReward:
    """A reward by 16 hidden units."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    return NetworkReward(module, prior_scale=1.0)


def improved(reward: Any, engine: Engine, seed: int) -> tuple[float, float]:
    """Mean steps held by the clone, and by the policy that preferences made of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = rlhf(
            "CartPole-v1",
            rollout("CartPole-v1", careless, 10, seed, max_steps=STEPS),
            reward,
            lambda pairs: SimulatedLabeller(pairs, rationality=0.1, seed=seed),
            policy=SoftmaxPolicy(2, prior_scale=2.0),
            cloning=MAP(),
            horizon=STEPS,
            episodes=100,
            engine=engine,
            preferences=200,
            acquisition="random",
            rationality=0.1,
            temperature=0.02,
            gradient=PolicyGradient(iterations=50, episodes=10, horizon=STEPS, seed=seed),
            seed=seed,
        )
    clone, better = (
        float(rollout("CartPole-v1", policy, 50, 7, max_steps=STEPS).returns().mean())
        for policy in (result.base.policy, result.policy)
    )
    return clone, better


def main() -> None:
    asked = arguments("rlhf_cartpole", __doc__, repeats=1)
    print_facts()
    rows = []
    for seed in SEEDS:
        rewards = {"squares": (LinearReward(squares), Laplace()), "network": (network(seed), MAP())}
        for name, (reward, engine) in rewards.items():
            clone, better = improved(reward, engine, seed)
            rows.append({"seed": str(seed), "reward": name, "clone": clone, "RLHF": better})
    print_table(f"Steps held, of {STEPS}", rows)
    save(asked.output, {"rows": rows})


if __name__ == "__main__":
    main()
