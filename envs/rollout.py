"""Playing a policy in an environment and recording what happens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from likely.envs._checks import as_count
from likely.envs._randomness import EpisodeRandom
from likely.envs._spaces import as_space, outside
from likely.envs.errors import DataError
from likely.envs.trajectories import Trajectories

Array = NDArray[Any]
# What plays: observations [n, *shape] to actions [n, *action], perhaps with random numbers.
Policy = Callable[..., Any]
Environment = str | EnvSpec | gymnasium.Env[Any, Any] | Callable[[], gymnasium.Env[Any, Any]]

_PARALLEL = 16


def rollout(
    env: Environment,
    policy: Policy,
    episodes: int,
    seed: int,
    max_steps: int | None = None,
    *,
    n_envs: int | None = None,
    **options: Any,
) -> Trajectories:
    """Play whole episodes with a policy.

    Episode i has its own random numbers, made of ``seed`` and i, for its environment and for the
    policy. The same seed therefore gives the same trajectories, however many environments run side
    by side (up to what rounding in the policy's own arithmetic makes of another batch size). Each
    environment is reset by hand when its episode has ended, so no record holds the empty step in
    which gymnasium resets by itself.

    Parameters
    ----------
    env
        Name of a registered environment, a gymnasium spec, a function that makes environments, or
        an environment, which then plays all episodes.
    policy
        ``policy(observations)`` or ``policy(observations, rng)``: observations [n, *shape] as an
        array, ``rng`` an `EpisodeRandom`; gives actions [n, *action].
    episodes
        How many to play.
    seed
        Of everything; at least 0.
    max_steps
        Time limit. It replaces the limit that a name or spec is registered with, and comes on top
        of that of an environment. An episode that it ends is ``truncated``, not ``terminated``.
        None keeps the environment's own; without any limit, an episode that never ends never
        returns. Lengths that differ may tell what was rewarded; see `absorbed`.
    n_envs
        How many environments run side by side; by default 16 at most.
    **options
        Of `gymnasium.make`, with a name or spec.

    Raises
    ------
    DataError
        For an unknown environment, spaces that are neither Discrete nor Box, and actions of a wrong
        shape or outside their space: the message says in which episode, at which step.

    Examples
    --------
    >>> def to_the_right(observations):
    ...     return np.full(len(observations), 2)
    >>> found = rollout("FrozenLake-v1", to_the_right, 2, seed=0, max_steps=4, is_slippery=False)
    >>> [part.states.tolist() for part in found], found.truncated.tolist()
    ([[0, 1, 2, 3, 3], [0, 1, 2, 3, 3]], [True, True])
    """
    episodes, seed = as_count(episodes, "episodes"), as_count(seed, "seed", 0)
    if max_steps is not None:
        max_steps = as_count(max_steps, "max_steps")
    n = min(episodes, _PARALLEL if n_envs is None else as_count(n_envs, "n_envs"))
    act = _with_rng(policy)
    envs, owned = _vector(env, n, max_steps, options)
    try:
        return _play(envs, act, episodes, seed, max_steps)
    finally:
        if owned:
            envs.close()


@dataclass(eq=False)
class _Episode:
    """The record of one episode while it is played."""

    number: int
    generator: np.random.Generator
    constant: float
    states: list[Array]
    actions: list[Array] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False


def _play(envs: Any, act: Policy, episodes: int, seed: int, max_steps: int | None) -> Trajectories:
    n = envs.num_envs
    states, actions = envs.single_observation_space, envs.single_action_space
    as_space(states, "observation space")
    as_space(actions, "action space")
    seeds = [_seeds(seed, i) for i in range(episodes)]
    observations, _ = envs.reset(seed=[seeds[i][0] for i in range(n)])
    live = [_begin(i, seeds[i][1], observations[i]) for i in range(n)]
    slots: list[_Episode | None] = list(live)
    done: list[_Episode] = []
    waiting = n
    idle = np.zeros((n, *actions.shape), dtype=actions.dtype)
    while len(done) < episodes:
        rows = [i for i, episode in enumerate(slots) if episode is not None]
        playing = [episode for episode in slots if episode is not None]
        rng = EpisodeRandom(
            [episode.generator for episode in playing],
            np.array([episode.constant for episode in playing]),
        )
        chosen = _checked(act(observations[rows], rng), actions, playing)
        # Environments without an episode left idle along; nobody looks at them.
        sent = idle.copy()
        sent[rows] = chosen
        observations, rewards, terminated, truncated, _ = envs.step(sent)
        over = terminated | truncated
        for row, episode, action in zip(rows, playing, chosen, strict=True):
            episode.states.append(np.array(observations[row]))
            episode.actions.append(action)
            episode.rewards.append(float(rewards[row]))
            limit = max_steps is not None and len(episode.actions) >= max_steps
            if over[row] or limit:
                episode.terminated = bool(terminated[row])
                episode.truncated = bool(truncated[row]) or not episode.terminated
                over[row] = True
                done.append(episode)
        if len(done) == episodes or not over.any():
            continue
        resets: list[int | None] = [None] * n
        begun = {}
        for row in map(int, np.flatnonzero(over)):
            slots[row] = None
            resets[row] = 0
            if waiting < episodes:
                resets[row], begun[row] = seeds[waiting][0], waiting
                waiting += 1
        observations, _ = envs.reset(seed=resets, options={"reset_mask": over})
        for row, i in begun.items():
            slots[row] = _begin(i, seeds[i][1], observations[row])
    done.sort(key=lambda episode: episode.number)
    return Trajectories.from_arrays(
        [np.stack(episode.states) for episode in done],
        [np.stack(episode.actions) for episode in done],
        [np.array(episode.rewards) for episode in done],
        terminated=[episode.terminated for episode in done],
        truncated=[episode.truncated for episode in done],
        state_space=states,
        action_space=actions,
    )


def _seeds(seed: int, episode: int) -> tuple[int, np.random.SeedSequence]:
    """Seed of an episode's environment, and that of its policy."""
    of_env, of_policy = np.random.SeedSequence(seed, spawn_key=(episode,)).spawn(2)
    return int(of_env.generate_state(1)[0]), of_policy


def _begin(number: int, seeds: np.random.SeedSequence, observation: Array) -> _Episode:
    generator = np.random.default_rng(seeds)
    return _Episode(number, generator, float(generator.random()), [np.array(observation)])


def _with_rng(policy: Policy) -> Policy:
    """The policy as a function of observations and random numbers."""
    if not callable(policy):
        raise DataError(f"policy: expected a function of observations, got {policy!r}")
    try:
        parameters = inspect.signature(policy).parameters.values()
    except (TypeError, ValueError):
        return lambda observations, rng: policy(observations)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    if len(needed) >= 2:
        return policy
    if any(p.name == "rng" for p in parameters):
        return lambda observations, rng: policy(observations, rng=rng)
    return lambda observations, rng: policy(observations)


def _checked(value: Any, space: Any, playing: list[_Episode]) -> Array:
    """Actions [n, *action] in the dtype of their space."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        chosen = np.asarray(value)
    except ValueError as error:
        raise DataError(f"policy: expected actions of one shape; {error}") from error
    expected = (len(playing), *space.shape)
    if chosen.shape != expected or chosen.dtype.kind not in "fiub":
        raise DataError(
            f"policy: expected actions {expected}, one an observation, got {chosen.dtype} "
            f"{chosen.shape}"
        )
    with np.errstate(invalid="ignore"):  # what no integer can hold is refused below
        whole = chosen.astype(space.dtype)
    if isinstance(space, Discrete):
        bad = (whole != chosen) | (whole < 0) | (whole >= space.n)
    else:
        assert isinstance(space, Box)
        found = outside(torch.from_numpy(np.asarray(chosen, dtype=np.float64)), space, bounds=True)
        bad = np.zeros(len(chosen), dtype=bool) if found is None else found.numpy()
    if bad.any():
        row = int(bad.argmax())
        episode = playing[row]
        raise DataError(
            f"policy: expected actions in {space}, got {chosen[row].tolist()} in episode "
            f"{episode.number}, step {len(episode.actions)}"
        )
    return whole


def _vector(
    env: Environment, n: int, max_steps: int | None, options: dict[str, Any]
) -> tuple[Any, bool]:
    """Environments side by side, reset by hand; and whether they are ours to close."""
    mode = AutoresetMode.DISABLED
    if isinstance(env, str | EnvSpec):
        if max_steps is not None:
            options = {**options, "max_episode_steps": max_steps}
        try:
            # Not the environment's own vector form: its episodes share random numbers.
            made = gymnasium.make_vec(
                env, n, "sync", vector_kwargs={"autoreset_mode": mode}, **options
            )
        except (gymnasium.error.Error, TypeError) as error:
            raise DataError(f"env: gymnasium cannot make {env!r}: {error}") from error
        return made, True
    if options:
        raise DataError(
            f"options: {sorted(options)} are for environments made from a name or a spec"
        )
    if isinstance(env, gymnasium.Env):
        return SyncVectorEnv([lambda: env], autoreset_mode=mode), False
    if callable(env):
        return SyncVectorEnv([env] * n, autoreset_mode=mode), True
    raise DataError(
        f"env: expected a name, a spec, an environment or a function that makes one, got {env!r}"
    )
