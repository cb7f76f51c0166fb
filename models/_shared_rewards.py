"""Rewards that are learnt from preferences, as rewards of a process: one object for both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likely.envs import DataError, TabularMDP
from likely.models._policy_base import Sites
from likely.models._reward_tables import (
    LinearReward,
    NetworkReward,
    RewardTable,
    feature_table,
    reward_table,
)
from likely.models.preference import rewards
from likely.models.preference._reward_base import TrajectoryReward

KINDS = (rewards.LinearReward, rewards.TabularReward, rewards.NetworkReward)


@dataclass(frozen=True, eq=False)
class EntriesReward(RewardTable):
    """A `likely.models.preference.TabularReward`: a number for each state, or state and action.

    Parameters
    ----------
    reward
        Its prior and its site count.
    """

    reward: rewards.TabularReward

    @property
    def scale(self) -> float | None:  # type: ignore[override]
        """Standard deviation of the normal priors; None for flat ones."""
        return self.reward.prior_scale

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """States, and actions."""
        return self.reward.dims

    @property
    def of_actions(self) -> bool:
        """Whether the reward depends on the action."""
        return self.reward.n_actions is not None

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """[S] or [S, A]."""
        return {name: value.shape for name, value in self.start(torch.empty(())).items()}

    def coords(self) -> dict[str, Any]:
        """Their numbers."""
        return self.reward.coords()

    def sample_sites(self, like: Tensor) -> Sites:
        """Sample ``reward_table``."""
        return self.reward.sample_sites(like, torch.empty(0))

    def start(self, like: Tensor) -> Sites:
        """Zeros."""
        return self.reward.start(like, torch.empty(0))

    def table(self, sites: Sites) -> Tensor:
        """The entries."""
        return sites[rewards.TABLE].to(torch.float64)


def as_reward_table(
    mdp: TabularMDP,
    features: Any,
    scale: float | None,
    names: Sequence[str],
    network: torch.nn.Module | None,
) -> RewardTable:
    """A reward from the arguments of `likely.models.MaxEntIRL`.

    Raises
    ------
    DataError
        If they do not go together, or with the process.
    """
    if isinstance(names, str) or not isinstance(names, Collection):
        raise DataError(f"names: expected one for each feature, got {names!r}")
    if not isinstance(features, TrajectoryReward):
        return reward_table(mdp, features, scale, names, network)
    if network is not None or len(names):
        raise DataError("features: a reward has names or a network of its own; give none beside it")
    if isinstance(features, rewards.TabularReward):
        sizes, found = (mdp.n_states, mdp.n_actions), (features.n_states, features.n_actions)
        if found not in ((sizes[0], None), sizes):
            raise DataError(
                f"features: expected a TabularReward of {sizes[0]} states, and {sizes[1]} actions "
                f"if they count, got {features!r}"
            )
        return EntriesReward(features)
    table = feature_table(mdp, read_features(features))
    if isinstance(features, rewards.LinearReward):
        return LinearReward(mdp, table, features.prior_scale, tuple(features.names))
    assert isinstance(features, rewards.NetworkReward)
    return NetworkReward(table, features.module, features.prior_scale)


def read_features(features: Any) -> Any:
    """What a reward is a function of: a table, or the name of indicators; others as they are.

    Raises
    ------
    DataError
        If a reward has no table of features.
    """
    if not isinstance(features, TrajectoryReward):
        return features
    if not isinstance(features, KINDS):
        raise DataError(
            "features: expected a LinearReward, TabularReward or NetworkReward, got "
            f"{type(features).__name__}"
        )
    if isinstance(features, rewards.TabularReward):
        return "state" if features.n_actions is None else "state-action"
    if not isinstance(features.features, Tensor):
        raise DataError(
            "features: a reward of a process reads a table [S, F] or [S, A, F]; this one has none"
        )
    return features.features
