"""Data sets of Minari (Younis et al. 2024), which is an optional package."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from likely.envs._extras import optional
from likely.envs._spaces import as_space
from likely.envs.errors import DataError

# Where a data set keeps what Minari has no place for.
NOTE = "likely"


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
    if not episodes:
        raise DataError("dataset: expected at least one episode, got none")
    # What `write` noted down; data sets of others have no such note.
    note = dataset.storage.metadata.get(NOTE, {})
    numbers = [int(part.id) for part in episodes]
    ids, is_open = note.get("episodes"), note.get("open", [])
    return {
        "states": [np.asarray(part.observations) for part in episodes],
        "actions": [np.asarray(part.actions) for part in episodes],
        "rewards": (
            [np.asarray(part.rewards) for part in episodes] if note.get("rewards", True) else None
        ),
        "terminated": [bool(np.asarray(part.terminations)[-1:].any()) for part in episodes],
        "truncated": [
            bool(np.asarray(part.truncations)[-1:].any()) and number not in is_open
            for number, part in zip(numbers, episodes, strict=True)
        ],
        # Episodes may have been added since.
        "episodes": (
            numbers if ids is None or max(numbers) >= len(ids) else [ids[i] for i in numbers]
        ),
        **spaces,
    }


def write(trajectories: Any, name: str, options: dict[str, Any]) -> Any:
    """Write a data set and return it; see `Trajectories.to_minari`.

    Raises
    ------
    DataError
        If Minari is not installed, refuses the data set, or there are no actions.
    """
    if trajectories.actions is None:
        raise DataError("actions: these trajectories have none, and a data set needs them")
    minari = _minari()
    buffers, is_open = [], []
    for i, part in enumerate(trajectories):
        last = np.arange(part.n_steps) == part.n_steps - 1
        rewards = np.zeros(part.n_steps) if part.rewards is None else _plain(part.rewards)
        # Minari takes an episode that ended in neither way for a broken one.
        ended = bool(part.terminated) or bool(part.truncated)
        if not ended:
            is_open.append(i)
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=i,
                observations=_numbers(part.states, trajectories.state_space),
                actions=_numbers(part.actions, trajectories.action_space),
                rewards=rewards,
                terminations=last & bool(part.terminated),
                truncations=last & (bool(part.truncated) or not ended),
                infos={},
            )
        )
    spaces = {
        "observation_space": trajectories.state_space,
        "action_space": trajectories.action_space,
    }
    create = minari.create_dataset_from_buffers
    if "jpeg_encoding" in inspect.signature(create).parameters:
        options = {"jpeg_encoding": False, **options}  # pictures would come back changed
    try:
        dataset = create(name, buffers, **spaces, **options)
    except (OSError, ValueError, TypeError, AssertionError) as error:
        raise DataError(f"name: Minari does not write {name!r}: {error}") from error
    note: dict[str, Any] = {"rewards": trajectories.rewards is not None, "open": is_open}
    ids = trajectories.episodes.tolist()
    if all(isinstance(one, str | int | float) for one in ids):
        note["episodes"] = ids
    dataset.storage.update_metadata({NOTE: note})
    return dataset


def _numbers(values: Any, space: Any) -> np.ndarray[Any, Any]:
    """Rows in the dtype of a space."""
    return np.asarray(_plain(values).astype(space.dtype))


def _plain(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values.detach().cpu().numpy())


def _minari() -> Any:
    optional("minari.data_collector", "minari", "minari")
    return optional("minari", "minari", "minari")
