"""Pairs of trajectories, one of which somebody prefers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.models._data import as_outcomes, check_outcomes


class PairSteps(NamedTuple):
    """All steps of all pairs, in one row: those of the firsts, then those of the seconds.

    Attributes
    ----------
    states, actions
        [N, *state] and [N, *action], or None.
    pair
        int64 [N]: whose step it is.
    weight
        float64 [N]: γ^t in a first, −γ^t in a second.
    """

    states: Tensor
    actions: Tensor | None
    pair: Tensor
    weight: Tensor

    def summed(self, values: Tensor, size: int) -> Tensor:
        """First minus second, of values [*outside, N] of the steps: [*outside, size]."""
        found = values * self.weight.to(values)
        blank = found.new_zeros(*found.shape[:-1], size)
        return blank.index_add(-1, self.pair, found)


@dataclass(frozen=True, eq=False, repr=False)
class TrajectoryPairs:
    """Pairs of episodes, and which of the two was preferred.

    Parameters
    ----------
    first, second
        As many episodes each; they need not be equally long.
    preferred
        [m]: True or 1 where the first is preferred, False or 0 where the second is. None where
        nobody was asked: a design, from which programs simulate answers.

    Raises
    ------
    DataError
        If numbers or spaces differ, or ``preferred`` holds something else than 0 and 1.

    Examples
    --------
    >>> short = Trajectories.from_arrays([[0, 1]], [[0]], action_space=2)
    >>> long = Trajectories.from_arrays([[0, 0, 1]], [[1, 0]])
    >>> TrajectoryPairs(short, long, [True])
    TrajectoryPairs(1 pair, 3 steps, answered)
    """

    first: Trajectories
    second: Trajectories
    preferred: Any = None
    _memory: dict[Any, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            value = getattr(self, name)
            if not isinstance(value, Trajectories):
                raise DataError(f"{name}: expected Trajectories, got {type(value).__name__}")
        one, two = self.first, self.second
        if len(one) != len(two):
            raise DataError(f"second: expected {len(one)} episodes, as in first, got {len(two)}")
        for name in ("state_space", "action_space"):
            spaces = getattr(one, name), getattr(two, name)
            if spaces[0] != spaces[1]:
                raise DataError(f"{name}: expected the same in both, got {spaces[0]}, {spaces[1]}")
        if (one.actions is None) != (two.actions is None):
            raise DataError("actions: expected them in both trajectories, or in neither")
        if self.preferred is not None:
            like = torch.empty((), dtype=torch.float64, device=one.states.device)
            given = as_outcomes(self.preferred, "preferred", len(one), like)
            check_outcomes((given == 0) | (given == 1), given, "preferred", "0 or 1")
            object.__setattr__(self, "preferred", given)

    @classmethod
    def among(
        cls, trajectories: Trajectories, first: Any, second: Any, preferred: Any = None
    ) -> TrajectoryPairs:
        """Pairs of episodes of one collection, by their positions [m]."""
        if not isinstance(trajectories, Trajectories):
            got = type(trajectories).__name__
            raise DataError(f"trajectories: expected Trajectories, got {got}")
        return cls(trajectories[first], trajectories[second], preferred)

    def __len__(self) -> int:
        return len(self.first)

    def __repr__(self) -> str:
        n, steps = len(self), self.first.n_steps + self.second.n_steps
        asked = "not asked" if self.preferred is None else "answered"
        return f"TrajectoryPairs({n} pair{'s' * (n != 1)}, {steps} steps, {asked})"

    def __getitem__(self, index: Any) -> TrajectoryPairs:
        """Some pairs: a position, a slice, positions, or a mask [m]."""
        # Trajectories know what an index may be, and say so.
        first, second = self.first[index], self.second[index]
        given = None if self.preferred is None else self.preferred[index].reshape(-1)
        return TrajectoryPairs(first, second, given)

    def with_preferred(self, preferred: Any) -> TrajectoryPairs:
        """The same pairs with other answers [m]; None takes them off."""
        return replace(self, preferred=preferred)

    @property
    def chosen(self) -> Trajectories:
        """The preferred episode of each pair."""
        return self._sided(1.0)

    @property
    def rejected(self) -> Trajectories:
        """The other one."""
        return self._sided(0.0)

    def _sided(self, answer: float) -> Trajectories:
        if self.preferred is None:
            raise DataError("preferred: nobody was asked about these pairs")
        m = len(self)
        places = torch.arange(m, device=self.preferred.device)
        both = Trajectories.concat([self.first, self.second])
        return both[torch.where(self.preferred == answer, places, places + m)]

    def steps(self, discount: float = 1.0) -> PairSteps:
        """Steps of both sides in one row."""
        one, two = self.first, self.second
        actions = None
        if one.actions is not None and two.actions is not None:
            actions = torch.cat([one.actions, two.actions])
        gains = [sign * discount ** side.step.double() for sign, side in ((1, one), (-1, two))]
        states = torch.cat([one.step_states, two.step_states])
        return PairSteps(states, actions, torch.cat([one.episode, two.episode]), torch.cat(gains))

    def remembered(self, owner: Any, name: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once for an owner: sums over steps do not change in a fit."""
        key = id(owner), name
        # Its number is an owner's as long as it is kept here. A copy of the pairs, or one in
        # another process, holds copies of the owners under numbers that may be anybody's.
        if key not in self._memory or self._memory[key][0] is not owner:
            self._memory[key] = owner, make()
        return self._memory[key][1]
