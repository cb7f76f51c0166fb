"""Episodes of a policy, in an environment or in a process that is known as a table."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Discrete

from likely.envs import TabularMDP, Trajectories, rollout, rollout_tabular
from likely.inference.errors import OptionError
from likely.inference.imitation.acting import as_table
from likely.inference.imitation.result import Imitation


def play(
    env: Any, policy: Any, episodes: int, seed: int, horizon: int | None = None, **options: Any
) -> Trajectories:
    """Play whole episodes.

    Parameters
    ----------
    env
        What `likely.envs.rollout` takes, or a `TabularMDP`, whose episodes are drawn all at once.
    policy
        As in `rollout`, or a result; in a process a table, or what `as_table` makes one of.
    episodes
        How many.
    seed
        Of everything.
    horizon
        Most steps; needed in a process, in an environment the ``max_steps`` of `rollout`.
    **options
        Of `gymnasium.make`.

    Raises
    ------
    OptionError
        If a process comes without a horizon.

    Examples
    --------
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1")
    >>> play(lake, torch.full((17, 4), 0.25), 50, seed=0, horizon=100)
    Trajectories(50 episodes, 447 steps, states Discrete(17), actions Discrete(4))
    """
    if isinstance(policy, Imitation):
        policy = policy.policy
    if not isinstance(env, TabularMDP):
        return rollout(env, policy, episodes, seed, horizon, **options)
    if horizon is None:
        raise OptionError("horizon: expected a number of steps, as a process has no limit of its")
    return rollout_tabular(env, as_table(env, policy), episodes, horizon, seed).trajectories(env)


def spaces(env: Any, **options: Any) -> tuple[Any, Any]:
    """Spaces of an environment's, or a process's, states and actions.

    Raises
    ------
    OptionError
        If it is neither, or gymnasium cannot make it.
    """
    if isinstance(env, TabularMDP):
        return Discrete(env.n_states), Discrete(env.n_actions)
    if isinstance(env, gymnasium.Env):
        return env.observation_space, env.action_space
    if isinstance(env, str | EnvSpec):
        try:
            made = gymnasium.make(env, **options)
        except (gymnasium.error.Error, TypeError) as error:
            raise OptionError(f"env: gymnasium cannot make {env!r}: {error}") from error
    elif callable(env):
        made = env()
    else:
        raise OptionError(
            f"env: expected a name, a spec, an environment, a function that makes one, or a "
            f"TabularMDP, got {env!r}"
        )
    try:
        return made.observation_space, made.action_space
    finally:
        made.close()


def blank(state_space: Any, action_space: Any) -> Trajectories:
    """One step of zeros in these spaces: enough for a program to be read."""

    def zeros(space: Any, rows: int) -> Any:
        if isinstance(space, Discrete):
            return torch.zeros(rows, dtype=torch.int64)
        low, high = (torch.as_tensor(bound).double() for bound in (space.low, space.high))
        return torch.zeros(rows, *space.shape, dtype=torch.float64).clamp(low, high)

    return Trajectories.from_arrays(
        [zeros(state_space, 2)],
        [zeros(action_space, 1)],
        state_space=state_space,
        action_space=action_space,
    )
