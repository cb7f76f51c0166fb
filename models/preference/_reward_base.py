"""What rewards of trajectories' steps share: the interface, features of steps, and checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.envs._checks import as_double
from likely.models._options import check_number
from likely.models._policy_base import Sites, featurise
from likely.models._start_states import check_discrete
from likely.models.preference.pairs import TrajectoryPairs

Rows = Tensor | slice
Params = Mapping[str, Any]


class TrajectoryReward(ABC):
    """A reward of states, or of states and actions, with unknowns."""

    @property
    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Site to the names of its event dimensions."""

    def coords(self) -> dict[str, Any]:
        """Labels of the dimensions."""
        return {}

    @abstractmethod
    def differences(self, pairs: TrajectoryPairs, discount: float) -> Any:
        """What the reward knows of the pairs, the first's less the second's."""

    @abstractmethod
    def shapes(self, differences: Any) -> dict[str, tuple[int, ...]]:
        """Site to the shape of its value."""

    @abstractmethod
    def sample_sites(self, like: Tensor, differences: Any) -> Sites:
        """Make the Pyro statements, in the dtype of ``like``."""

    @abstractmethod
    def start(self, like: Tensor, differences: Any) -> Sites:
        """Where a search begins."""

    @abstractmethod
    def ahead(self, sites: Sites, differences: Any, rows: Rows) -> Tensor:
        """R(first) − R(second) of some of the pairs, [*outside, rows]."""

    @abstractmethod
    def steps(self, params: Params, trajectories: Trajectories) -> Tensor:
        """Rewards float64 [N] of all steps, at one value of each site."""

    @abstractmethod
    def table(self, params: Params) -> Tensor:
        r"""The reward of Discrete states, float64 [\*B, S] or [\*B, S, A].

        Parameters
        ----------
        params
            A fit's ``params``, or its ``draws`` [chain, draw, ...], whose leading axes \*B are
            kept.
        """


def checked_features(features: Any) -> Any:
    """A table as float64; functions and None as they are."""
    if features is None or (callable(features) and not isinstance(features, Tensor)):
        return features
    table = as_double(features, "features").detach()
    if table.dim() not in (2, 3):
        raise DataError(f"features: expected [S, F] or [S, A, F], got {tuple(table.shape)}")
    return table


def drawn_value(params: Params, name: str, shape: Sequence[int]) -> Tensor:
    r"""The values of a site [\*B, \*shape], float64."""
    if name not in params:
        raise DataError(f"params: expected a value of {name!r}, got {sorted(params)}")
    value = as_double(params[name], f"params[{name!r}]").detach()
    if value.shape[value.dim() - len(shape) :] != torch.Size(shape):
        raise DataError(
            f"params[{name!r}]: expected [..., {', '.join(map(str, shape))}], got "
            f"{tuple(value.shape)}"
        )
    return value


def check_scale(scale: Any) -> None:
    if scale is not None:
        check_number(scale, "prior_scale", positive=True)


def check_table(trajectories: Trajectories, shape: Sequence[int]) -> None:
    """Raise `DataError` unless states, and actions if they count, are those of a table."""
    check_discrete(trajectories.state_space, shape[0], "states")
    if len(shape) > 1:
        check_discrete(trajectories.action_space, shape[1], "actions")
        if trajectories.actions is None:
            raise DataError("actions: the reward depends on them, and these trajectories have none")


def step_features(
    features: Any, trajectories: Trajectories, states: Tensor, actions: Tensor | None
) -> Tensor:
    """Features [N, F] of steps, whose spaces are those of some trajectories."""
    if not isinstance(features, Tensor):
        if features is None and isinstance(trajectories.state_space, Discrete):
            raise DataError("features: expected a table or a function, as states are Discrete")
        return featurise(features, states)
    check_table(trajectories, features.shape[:-1])
    return features[states] if features.dim() == 2 else features[states, actions]


def visits(pairs: TrajectoryPairs, discount: float, shape: Sequence[int]) -> Tensor:
    """Discounted visits of states, or of states and actions, [m, K] in float64."""
    check_table(pairs.first, shape)
    steps, m, size = pairs.steps(discount), len(pairs), int(torch.Size(shape).numel())
    place = steps.states
    if len(shape) > 1:
        assert steps.actions is not None
        place = place * shape[1] + steps.actions
    flat = steps.weight.new_zeros(m * size)
    return flat.index_add(0, steps.pair * size + place, steps.weight).reshape(m, size)


def entries(table: Tensor, trajectories: Trajectories) -> Tensor:
    states = trajectories.step_states
    return table[states] if table.dim() == 1 else table[states, trajectories.actions]
