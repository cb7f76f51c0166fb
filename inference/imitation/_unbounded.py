"""Environments that cut actions to their bounds, so that what was drawn stays on record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from gymnasium.wrappers import ClipAction

from likely.envs import TabularMDP
from likely.inference.active.answers_log import fingerprint
from likely.inference.errors import OptionError
from likely.inference.imitation._gradient_options import name_of
from likely.inference.imitation.playing import spaces


def environment_name(env: Any, options: Mapping[str, Any]) -> str:
    """What is written down of an environment that a run which goes on must share.

    That is all of a process, and otherwise as much as there are names for.
    """
    if isinstance(env, TabularMDP):
        places = torch.arange(env.n_states, dtype=torch.float64).unsqueeze(0)
        tables = {"moves": env.kernel.expect(places), "reward": env.expected_reward}
        return f"{env!r} {fingerprint({**tables, 'start': env.initial})}"
    if isinstance(env, gymnasium.Env):
        return str(env.spec.id if env.spec is not None else type(env.unwrapped).__name__)
    made = env.id if isinstance(env, EnvSpec) else env
    return f"{made if isinstance(made, str) else name_of(made)} {name_of(options)}"


def unbounded(
    env: Any, options: Mapping[str, Any], horizon: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """The environment with actions that it cuts to their bounds itself.

    The density of a normal policy is that of the action it drew, not of what was left of it at the
    bound: otherwise a policy far outside would look as unlikely as it wants, and the gradient of
    its log-density would be that of actions nobody drew.

    Parameters
    ----------
    env
        What `likely.envs.rollout` takes, or a `TabularMDP`.
    options
        Of `gymnasium.make`.
    horizon
        Time limit that replaces the one that a name or spec is registered with.

    Returns
    -------
    env, options
        As given, unless actions have bounds.

    Raises
    ------
    OptionError
        If there are options for a process.
    """
    if isinstance(env, TabularMDP):
        if options:
            raise OptionError(f"env_options: a TabularMDP takes none, got {sorted(options)}")
        return env, {}
    space = spaces(env, **options)[1]
    if not isinstance(space, Box) or not np.isfinite([space.low, space.high]).any():
        return env, dict(options)
    if isinstance(env, gymnasium.Env):
        return ClipAction(env), dict(options)
    if callable(env) and not isinstance(env, EnvSpec):
        return (lambda: ClipAction(env())), dict(options)
    limit = {} if horizon is None else {"max_episode_steps": horizon}
    return (lambda: ClipAction(gymnasium.make(env, **{**options, **limit}))), {}
