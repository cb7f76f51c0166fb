"""Thousands of episodes of a table at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from likely.envs._checks import as_count
from likely.envs.errors import DataError
from likely.envs.finite_horizon import as_timed_policy
from likely.envs.planning import expected_reward
from likely.envs.trajectories import Trajectories

if TYPE_CHECKING:
    from likely.envs.mdp import TabularMDP


class TabularRollout(NamedTuple):
    """Episodes side by side, padded to T steps.

    Attributes
    ----------
    states
        int64 [E, T + 1]; the sink from an episode's end on.
    actions
        int64 [E, T]; −1 after the end.
    rewards
        float64 [E, T]; 0 after the end.
    lengths
        int64 [E]: steps taken, including the one that entered the sink; T where none did.
    terminated
        bool [E]: whether the sink was reached.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    lengths: Tensor
    terminated: Tensor

    def trajectories(self, mdp: TabularMDP) -> Trajectories:
        """The episodes of a process, one after another; what did not end is ``truncated``.

        Raises
        ------
        DataError
            If an episode began in the sink, and so has no step.
        """
        return Trajectories.from_padded(
            self.states,
            self.actions,
            self.lengths,
            self.rewards,
            terminated=self.terminated,
            truncated=~self.terminated,
            state_space=mdp.n_states,
            action_space=mdp.n_actions,
        )


def rollout_tabular(
    mdp: TabularMDP, policy: Any, episodes: int, horizon: int, seed: int = 0
) -> TabularRollout:
    """Draw episodes.

    Parameters
    ----------
    mdp
        The process.
    policy
        π(a | s): [S, A]; or [T, S, A], one a step.
    episodes, horizon
        E and T.
    seed
        Seed of all draws.

    Returns
    -------
    TabularRollout
        States, actions, rewards, lengths, and which episodes ended.

    Raises
    ------
    DataError
        If the policy's shape or rows are wrong, or a size is no positive integer.

    Examples
    --------
    >>> from likely.envs import TabularMDP
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1")
    >>> episodes = rollout_tabular(lake, lake.value_iteration().policy, 1000, 200)
    >>> episodes.states.shape, bool((episodes.rewards.sum(-1) <= 1).all())
    (torch.Size([1000, 201]), True)
    """
    table = as_timed_policy(mdp, policy, as_count(horizon, "horizon")).detach()
    if table.dim() > 3:
        raise DataError(f"policy must be [S, A] or [T, S, A], got {tuple(table.shape)}")
    size = as_count(episodes, "episodes")
    random = torch.Generator().manual_seed(as_count(seed, "seed", 0))

    def uniform() -> Tensor:
        return torch.rand(size, generator=random, dtype=torch.float64)

    moves = _moves(mdp)
    constant = _Rows.dense(table[0]) if _same(table) else None
    first = _Rows.dense(mdp.initial.detach()[None])
    visited = [first.draw(torch.zeros(size, dtype=torch.int64), uniform())]
    taken = []
    for t in range(horizon):
        rows = constant or _Rows.dense(table[t])
        taken.append(rows.draw(visited[-1], uniform()))
        visited.append(moves.draw(visited[-1] * mdp.n_actions + taken[-1], uniform()))
    states, actions = torch.stack(visited, 1), torch.stack(taken, 1)

    rewards = _rewards(mdp, states, actions)
    if mdp.sink is None:
        whole = torch.full((size,), horizon)
        return TabularRollout(states, actions, rewards, whole, torch.zeros(size, dtype=torch.bool))
    over = states[:, :-1] == mdp.sink
    lengths = horizon - over.sum(-1)
    terminated = states[:, -1] == mdp.sink
    return TabularRollout(states, actions.masked_fill(over, -1), rewards, lengths, terminated)


def _same(table: Tensor) -> bool:
    """Whether a policy is one table, repeated without copies."""
    return table.stride(0) == 0 or len(table) == 1


class _Rows(NamedTuple):
    """Distributions of unequal support, one behind the other, to be searched in one pass.

    Row i's cumulative probabilities are raised by i, so that all of them together are sorted, and
    one binary search finds any row's draw.
    """

    cumulative: Tensor
    entries: Tensor
    last: Tensor

    @classmethod
    def dense(cls, table: Tensor) -> _Rows:
        """From a table [n, k]."""
        rows, entries = (table > 0).nonzero(as_tuple=True)
        return cls.listed(rows, entries, table[rows, entries], len(table))

    @classmethod
    def listed(cls, rows: Tensor, entries: Tensor, probabilities: Tensor, size: int) -> _Rows:
        """From the entries above zero, row by row."""
        last = torch.bincount(rows, minlength=size).cumsum(0) - 1
        total = probabilities.cumsum(0)
        before = torch.cat([total.new_zeros(1), total[last[:-1]]])
        within = (total - before[rows]).clamp(0.0, 1.0)
        within[last] = 1.0
        return cls(within + rows, entries, last)

    def draw(self, rows: Tensor, uniform: Tensor) -> Tensor:
        """One entry for each of the rows [E], by uniform numbers [E]."""
        found = torch.searchsorted(self.cumulative, rows + uniform, right=True)
        # The sum of a row and a number just below 1 may round up to the next row.
        return self.entries[torch.minimum(found, self.last[rows])]


def _moves(mdp: TabularMDP) -> _Rows:
    if not mdp.is_sparse:
        return _Rows.dense(mdp.transition.detach().flatten(0, 1))
    listed = mdp.transition.copy()
    listed.eliminate_zeros()
    listed = listed.tocoo()
    parts = (torch.from_numpy(part) for part in (listed.row, listed.col, listed.data))
    rows, entries, probabilities = parts
    return _Rows.listed(rows.long(), entries.long(), probabilities, listed.shape[0])


def _rewards(mdp: TabularMDP, states: Tensor, actions: Tensor) -> Tensor:
    reward, here = mdp.reward.detach(), states[:, :-1]
    if reward.dim() == 3:
        return reward[here, actions, states[:, 1:]]
    return expected_reward(mdp).detach()[here, actions]
