"""One length for all episodes, so that their lengths tell nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from likely.envs import _episodes
from likely.envs._checks import as_count
from likely.envs._spaces import Space, as_values, in_dtype_of, outside
from likely.envs.errors import DataError
from likely.envs.trajectories import Trajectories


def absorbed(trajectories: Trajectories, horizon: int, action: Any = 0) -> Trajectories:
    """Let episodes that terminated go on in an absorbing state until ``horizon``.

    Where a reward is learnt, an episode's early end is a gain if rewards are negative and a loss if
    they are positive, whatever was learnt (Kostrikov et al. 2019, "Discriminator-Actor-Critic",
    section 4.1). Here, what comes after the end is a state like others, which a reward can judge.

    Parameters
    ----------
    trajectories
        Episodes. Those that terminated before ``horizon`` go on; longer ones are cut off there;
        those that were truncated before stay as they are, as nobody knows how they went on.
    horizon
        Number of steps, at least 1.
    action
        What is done in the absorbing state: an action, or a number for all its entries.

    Returns
    -------
    Trajectories
        Discrete states have one more element, the last. Vectors have one more entry, 1 in the
        absorbing state, whose others are 0, and 0 everywhere else. Rewards there are 0. An episode
        that went on, or was cut off, is ``truncated`` and not ``terminated``.

    Raises
    ------
    DataError
        For a horizon below 1, states that are neither Discrete nor vectors, or an impossible
        action.

    Examples
    --------
    >>> short = Trajectories.from_arrays([[0, 1]], [[1]], terminated=True)
    >>> absorbed(short, 3).states.tolist()
    [0, 1, 2, 2]
    """
    if not isinstance(trajectories, Trajectories):
        raise DataError(f"trajectories: expected Trajectories, got {type(trajectories).__name__}")
    horizon = as_count(horizon, "horizon")
    lengths = trajectories.lengths
    kept = lengths.clamp_max(horizon)
    goes_on = trajectories.terminated & (lengths < horizon)
    total = torch.where(goes_on, horizon, kept)
    space, states, sink = _extended(trajectories)
    offset = torch.arange(len(lengths), device=lengths.device)
    held = _episodes.ranges(trajectories.starts + offset, kept + 1)
    rows = _episodes.ranges(trajectories.starts, kept)
    extra = total - kept

    def spliced(values: Tensor, sizes: Tensor, filler: Tensor) -> Tensor:
        found = filler.expand(int((sizes + extra).sum()), *values.shape[1:]).clone()
        starts = (sizes + extra).cumsum(0) - sizes - extra
        found[_episodes.ranges(starts, sizes)] = values
        return found

    changed = goes_on | (lengths > horizon)
    actions, rewards = trajectories.actions, trajectories.rewards
    if actions is not None:
        filler = _filler(action, trajectories.action_space)
        actions = spliced(actions[rows], kept, filler.to(actions))
    if rewards is not None:
        rewards = spliced(rewards[rows], kept, rewards.new_zeros(()))
    return Trajectories(
        states=spliced(states[held], kept + 1, sink),
        actions=actions,
        lengths=total,
        rewards=rewards,
        terminated=trajectories.terminated & ~changed,
        truncated=trajectories.truncated | changed,
        state_space=space,
        action_space=trajectories.action_space,
        episodes=trajectories.episodes,
    )


def _filler(action: Any, space: Space) -> Tensor:
    """One action of a space, from an action or a number for all its entries."""
    value = in_dtype_of(as_values(action, "action"), space, "action")
    if value.shape not in ((), tuple(space.shape or ())):
        raise DataError(f"action: expected one of {space}, got shape {tuple(value.shape)}")
    value = value.expand(space.shape or ())
    if outside(value[None], space, bounds=True) is not None:
        raise DataError(f"action: expected one of {space}, got {value.tolist()}")
    return value


def _extended(trajectories: Trajectories) -> tuple[Space, Tensor, Tensor]:
    """The space with an absorbing state, the states in it, and that state."""
    space, states = trajectories.state_space, trajectories.states
    if isinstance(space, Discrete):
        return Discrete(int(space.n) + 1), states, states.new_tensor(int(space.n))
    if len(space.shape) != 1:
        raise DataError(f"states: expected Discrete ones or vectors, got {space}")
    low, high = (np.append(np.minimum(space.low, 0), 0), np.append(np.maximum(space.high, 0), 1))
    low, high = low.astype(space.dtype), high.astype(space.dtype)
    longer = torch.cat([states, states.new_zeros(len(states), 1)], -1)
    sink = torch.zeros_like(longer[0])
    sink[-1] = 1
    return Box(low, high, dtype=space.dtype.type), longer, sink
