"""A small grid whose cells are rewarded, and preferences of an expert who errs."""

from __future__ import annotations

from likely.envs import GridWorld
from likely.inference.imitation import candidate_pairs, play
from likely.models import TrajectoryPairs, TrajectoryPreference
from likely.models.preference import LinearReward

GAMMA, BETA = 0.95, 5.0
WORLD = GridWorld(
    ["S...", ".#T.", "...G"],
    slip=0.1,
    discount=GAMMA,
    rewarded="departure",
    rewards={"G": 1.0, "T": -1.0, ".": -0.02, "S": -0.02},
    features=("kind", "distance"),
)
MDP = WORLD.mdp
EXPERT = 0.7 * MDP.soft_value_iteration(0.03).policy + 0.3 / 4


def candidates(count: int = 300, seed: int = 0) -> TrajectoryPairs:
    return candidate_pairs(play(MDP, EXPERT, 80, seed, 25), count, seed)


def program() -> TrajectoryPreference:
    return TrajectoryPreference(LinearReward(WORLD.features), GAMMA, BETA)
