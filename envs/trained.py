"""Policies to learn from that were trained: those of Stable-Baselines3, an optional package."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from likely.envs._checks import as_count, as_seed
from likely.envs._extras import left_alone, optional
from likely.envs._randomness import choose
from likely.envs._spaces import as_space, as_values, in_dtype_of, outside
from likely.envs.errors import DataError

# What reading a damaged file, or one of another algorithm, ends with.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
    pickle.UnpicklingError,
)
ALGORITHMS = ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")


def train_expert(
    env: Any, steps: int, algorithm: str = "PPO", *, seed: int = 0, **options: Any
) -> Any:
    """Train a policy with Stable-Baselines3 (Raffin et al. 2021); `sb3_expert` plays it.

    The same seed gives the same model on one machine. The states of the random number generators
    of Python, NumPy and torch, which Stable-Baselines3 seeds, are left as they were.

    Parameters
    ----------
    env
        Name of a registered environment, a gymnasium spec, an environment, or a function that makes
        one.
    steps
        Steps to train for; algorithms that learn from whole batches finish the last one.
    algorithm : {"A2C", "DDPG", "DQN", "PPO", "SAC", "TD3"}
        How to train.
    seed
        Of the environment and of the algorithm.
    **options
        Of the algorithm's class: ``policy`` (``"MlpPolicy"`` unless given), ``learning_rate``,
        ``gamma``, ...; ``device`` is ``"cpu"`` unless given.

    Returns
    -------
    object
        Stable-Baselines3's model, which can be saved and trained on.

    Raises
    ------
    DataError
        If Stable-Baselines3 is not installed; for an unknown environment, spaces that are neither
        Discrete nor Box, an unknown algorithm, or options that it refuses.
    """
    make = _algorithm(algorithm)
    steps, seed = as_count(steps, "steps"), as_count(seed, "seed", 0)
    made = _environment(env)
    as_space(made.observation_space, "observation space")
    as_space(made.action_space, "action space")
    given = {"policy": "MlpPolicy", "device": "cpu", **options}
    with left_alone():
        try:
            model = make(env=made, seed=seed, **given)
        except (AssertionError, TypeError, ValueError) as error:
            raise DataError(f"options: {algorithm} refuses them: {error}") from error
        model.learn(steps)
    return model


def sb3_expert(
    model: Any,
    *,
    algorithm: str | None = None,
    deterministic: bool = True,
    seed: int | None = None,
) -> Callable[..., NDArray[Any]]:
    """The policy of a model of Stable-Baselines3, for `rollout`.

    Parameters
    ----------
    model
        What `train_expert` or Stable-Baselines3 trained; or the path of a saved one, which may hold
        any code and should come from where you trust.
    algorithm
        With a path, what trained it, as in `train_expert`.
    deterministic
        Whether to play the most likely action. If not, actions are drawn; of A2C and PPO alone,
        whose distribution is at hand.
    seed
        Seed of these draws. Without one, `rollout` makes them from its own seed; elsewhere they
        differ from call to call.

    Returns
    -------
    callable
        Observations [n, *shape] or [*shape] to actions [n, *action] or [*action], within the
        bounds of their space; ``rng``, if given, is used where there is no seed.

    Raises
    ------
    DataError
        If Stable-Baselines3 is not installed, there is no such model, its spaces are neither
        Discrete nor Box, its actions cannot be drawn, or (the callable) observations have another
        shape or are not finite.
    """
    if isinstance(model, str | os.PathLike):
        model = _load(model, algorithm)
    base = optional("stable_baselines3.common.base_class", "stable-baselines3", "rl")
    if not isinstance(model, base.BaseAlgorithm):
        raise DataError(
            "model: expected a model of Stable-Baselines3 or the path of one, got "
            f"{type(model).__name__}"
        )
    seen = as_space(model.observation_space, "observation space")
    as_space(model.action_space, "action space")
    if not isinstance(deterministic, bool):
        raise DataError(f"deterministic: expected True or False, got {deterministic!r}")
    if not deterministic and not hasattr(model.policy, "get_distribution"):
        raise DataError(
            f"deterministic: actions of {type(model).__name__} cannot be drawn, only those of A2C "
            "and PPO"
        )
    own = np.random.default_rng(as_seed(seed))
    normalizer = model.get_vec_normalize_env()

    def act(observation: Any, rng: Any = None) -> NDArray[Any]:
        shown = _observations(observation, seen)
        if normalizer is not None:
            shown = normalizer.normalize_obs(shown)
        if deterministic:
            return np.asarray(model.predict(shown, deterministic=True)[0])
        return _draw(model.policy, shown, own if rng is None or seed is not None else rng)

    return act


def _observations(value: Any, space: Any) -> NDArray[Any]:
    shown = np.asarray(value)
    shape = tuple(space.shape)
    if shown.dtype.kind not in "fiub" or shown.shape not in (shape, (*shown.shape[:1], *shape)):
        raise DataError(
            f"observation must be of {space}, or have shape {('n', *shape)}, got {shown.dtype} "
            f"{shown.shape}"
        )
    if not shown.size:
        raise DataError(f"observation must hold at least one, got shape {shown.shape}")
    if not np.isfinite(shown).all():
        raise DataError("observation must be finite, got NaN or an infinite number")
    if isinstance(space, Discrete):
        states = in_dtype_of(as_values(shown, "observation"), space, "observation")
        if outside(states.flatten(), space, bounds=False) is not None:
            raise DataError(f"observation must hold states of {space}, got {value!r}")
    return shown


def _draw(policy: Any, shown: NDArray[Any], rng: Any) -> NDArray[Any]:
    """Draw actions by random numbers of their rows alone, which the policy's own way does not."""
    policy.set_training_mode(False)
    tensor, is_batch = policy.obs_to_tensor(shown)
    with torch.no_grad():
        found = policy.get_distribution(tensor).distribution
    if isinstance(found, torch.distributions.Categorical):
        probabilities = found.probs.cpu().numpy()
        actions: NDArray[Any] = choose(probabilities, rng.random(len(probabilities)))
    elif isinstance(found, torch.distributions.Normal) and not policy.squash_output:
        mean, scale = found.loc.cpu().numpy(), found.scale.cpu().numpy()
        space: Box = policy.action_space
        drawn = mean + scale * rng.standard_normal(mean.shape)
        # As Stable-Baselines3 plays them.
        actions = drawn.reshape(-1, *space.shape).astype(space.dtype).clip(space.low, space.high)
    else:
        kind = "squashed" if policy.squash_output else type(found).__name__
        raise DataError(f"deterministic: {kind} actions cannot be drawn")
    return actions if is_batch else actions[0]


def _load(path: Any, algorithm: str | None) -> Any:
    if algorithm is None:
        raise DataError(f"algorithm must be given with a path: one of {', '.join(ALGORITHMS)}")
    kind = _algorithm(algorithm)
    with left_alone():
        try:
            return kind.load(path, device="cpu")
        except _UNREADABLE as error:
            raise DataError(
                f"model: {os.fspath(path)!r} cannot be read as one of {algorithm}: {error}"
            ) from error


def _algorithm(name: Any) -> Any:
    if name not in ALGORITHMS:
        raise DataError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {name!r}")
    return getattr(optional("stable_baselines3", "stable-baselines3", "rl"), name)


def _environment(env: Any) -> Any:
    if isinstance(env, str | EnvSpec):
        try:
            return gymnasium.make(env)
        except gymnasium.error.Error as error:
            raise DataError(f"env: gymnasium cannot make {env!r}: {error}") from error
    made = env() if callable(env) else env
    if not isinstance(made, gymnasium.Env):
        raise DataError(
            "env: expected a name, a spec, an environment or a function that makes one, got "
            f"{env!r}"
        )
    return made
