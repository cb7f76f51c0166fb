"""Data sets of Minari (Younis et al. 2024), which is an optional package."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from likely.envs._spaces import as_space
from likely.envs.errors import DataError


def read(dataset: Any) -> dict[str, Any]:
    """Arguments of `Trajectories.from_arrays` from a data set or the name of one.

    Raises
    ------
    DataError
        If Minari is not installed, the data set is not to be had, or its spaces are neither
        Discrete nor Box.
    """
    if isinstance(dataset, str):
        try:
            dataset = _minari().load_dataset(dataset)
        except (OSError, ValueError, ConnectionError) as error:
            raise DataError(
                f"dataset: {dataset!r} cannot be loaded ({error}); minari.list_local_datasets() "
                "tells which are here"
            ) from error
    if not hasattr(dataset, "iterate_episodes"):
        raise DataError(
            f"dataset: expected a Minari data set or its name, got {type(dataset).__name__}"
        )
    spaces = {
        "state_space": as_space(dataset.observation_space, "observation_space"),
        "action_space": as_space(dataset.action_space, "action_space"),
    }
    episodes = list(dataset.iterate_episodes())
    return {
        "states": [np.asarray(part.observations) for part in episodes],
        "actions": [np.asarray(part.actions) for part in episodes],
        "rewards": [np.asarray(part.rewards) for part in episodes],
        "terminated": [bool(np.asarray(part.terminations)[-1:].any()) for part in episodes],
        "truncated": [bool(np.asarray(part.truncations)[-1:].any()) for part in episodes],
        "episodes": [int(part.id) for part in episodes],
        **spaces,
    }


def write(trajectories: Any, name: str, options: dict[str, Any]) -> Any:
    """Write a data set and return it; unknown rewards are written as zeros.

    Raises
    ------
    DataError
        If Minari is not installed, refuses the data set, or there are no actions.
    """
    if trajectories.actions is None:
        raise DataError("actions: these trajectories have none, and a data set needs them")
    minari = _minari()
    buffers = []
    for i, part in enumerate(trajectories):
        last = np.arange(part.n_steps) == part.n_steps - 1
        rewards = np.zeros(part.n_steps) if part.rewards is None else part.rewards.numpy()
        # Minari takes an episode that ended in neither way for a broken one.
        cut = bool(part.truncated) or not bool(part.terminated)
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=i,
                observations=_numbers(part.states, trajectories.state_space),
                actions=_numbers(part.actions, trajectories.action_space),
                rewards=rewards,
                terminations=last & bool(part.terminated),
                truncations=last & cut,
                infos={},
            )
        )
    spaces = {
        "observation_space": trajectories.state_space,
        "action_space": trajectories.action_space,
    }
    try:
        return minari.create_dataset_from_buffers(name, buffers, **spaces, **options)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"name: Minari does not write {name!r}: {error}") from error


def _numbers(values: Any, space: Any) -> np.ndarray[Any, Any]:
    """Rows in the dtype of a space."""
    return np.asarray(values.cpu().numpy().astype(space.dtype))


def _minari() -> Any:
    try:
        importlib.import_module("minari.data_collector")
        return importlib.import_module("minari")
    except ImportError as error:
        raise DataError(
            f"minari: this needs the package minari ({error}); pip install minari"
        ) from error
