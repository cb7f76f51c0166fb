"""What follows from rows that lie flat, one episode after another."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from likely.envs._checks import as_number
from likely.envs.errors import DataError


class Padded(NamedTuple):
    """Trajectories as blocks with one row an episode; zeros beyond its end.

    Attributes
    ----------
    states
        [E, T + 1, *state], T being the longest episode's number of steps.
    actions
        [E, T, *action], or None.
    rewards
        [E, T], or None.
    mask
        bool [E, T]: whether the episode has that step.
    """

    states: Tensor
    actions: Tensor | None
    rewards: Tensor | None
    mask: Tensor


class Ragged:
    """Places of steps, sums over episodes and blocks, for `Trajectories`."""

    states: Tensor
    actions: Tensor | None
    rewards: Tensor | None
    lengths: Tensor

    @property
    def n_steps(self) -> int:
        """Number of steps N of all episodes together."""
        return len(self.states) - len(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """int64 [E]: row of each episode's first step."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def episode(self) -> Tensor:
        """int64 [N]: position of the episode that each step belongs to."""
        positions = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(positions, self.lengths)

    @cached_property
    def step(self) -> Tensor:
        """int64 [N]: number of each step within its episode."""
        return torch.arange(self.n_steps, device=self.lengths.device) - self.starts[self.episode]

    @cached_property
    def step_states(self) -> Tensor:
        """[N, *state]: the state in which each action was chosen."""
        return self.states[self._rows]

    @cached_property
    def next_states(self) -> Tensor:
        """[N, *state]: the state after each action."""
        return self.states[self._rows + 1]

    @cached_property
    def first_states(self) -> Tensor:
        """[E, *state]: the state in which each episode began."""
        return self.states[self.starts + torch.arange(len(self.lengths), device=self.starts.device)]

    @cached_property
    def _rows(self) -> Tensor:
        return torch.arange(self.n_steps, device=self.lengths.device) + self.episode

    def state_action_pairs(self) -> tuple[Tensor, Tensor]:
        """States [N, *state] and the actions [N, *action] chosen in them.

        Raises
        ------
        DataError
            If there are no actions.
        """
        return self.step_states, _present(self.actions, "actions")

    def returns_to_go(self, discount: float = 1.0) -> Tensor:
        """Σ_u≥t γ^(u−t) r_u within the episode of each step, [N].

        What a truncated episode would still have earned is not in it.

        Raises
        ------
        DataError
            If there are no rewards, or ``discount`` is not between 0 and 1.
        """
        gamma = as_number(discount, "discount", 0.0, 1.0)
        total = _present(self.rewards, "rewards").clone()
        if gamma == 0.0:
            return total
        # After each pass a sum reaches twice as far, so a few passes over flat rows do.
        left = self.lengths[self.episode] - self.step
        reach, longest = 1, int(self.lengths.max())
        while reach < longest:
            further = torch.where(left[:-reach] > reach, total[reach:], 0.0)
            total[:-reach].add_(further, alpha=gamma**reach)
            reach *= 2
        return total

    def returns(self, discount: float = 1.0) -> Tensor:
        """Σ_t γ^t r_t of each episode, [E]; see `returns_to_go`."""
        gamma = as_number(discount, "discount", 0.0, 1.0)
        rewards = _present(self.rewards, "rewards")
        weighted = rewards if gamma == 1.0 else rewards * gamma ** self.step.to(rewards.dtype)
        return rewards.new_zeros(len(self.lengths)).index_add_(0, self.episode, weighted)

    def padded(self) -> Padded:
        """All episodes as blocks of the longest one's length, with a mask."""
        longest = int(self.lengths.max())
        steps = torch.arange(longest + 1, device=self.lengths.device)
        mask, held = steps[:-1] < self.lengths[:, None], steps <= self.lengths[:, None]
        actions = None if self.actions is None else block(self.actions, mask)
        rewards = None if self.rewards is None else block(self.rewards, mask)
        return Padded(block(self.states, held), actions, rewards, mask)


def block(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows [N, *shape] where a mask [E, T] of N entries holds, and zeros elsewhere."""
    filled = rows.new_zeros(*mask.shape, *rows.shape[1:])
    filled[mask] = rows
    return filled


def _present(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise DataError(f"{name}: these trajectories have none")
    return value
