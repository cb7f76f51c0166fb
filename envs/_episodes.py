"""Reading trajectories: lists of arrays, flat rows, blocks and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from likely.envs._spaces import Space, as_space, as_values, in_dtype_of, space_of
from likely.envs.errors import DataError

Pieces = dict[str, Any]


def from_arrays(
    states: Any,
    actions: Any,
    rewards: Any,
    lengths: Any,
    flags: Pieces,
    spaces: Pieces,
    episodes: Any,
) -> Pieces:
    """The fields of `Trajectories` from the arguments of `Trajectories.from_arrays`."""
    if lengths is None:
        lengths, states, actions, rewards = _from_lists(states, actions, rewards)
    states = as_values(states, "states")
    lengths = as_values(lengths, "lengths").to(states.device)
    if lengths.numel() == 0:
        raise DataError("lengths: expected at least one episode, got none")
    check_lengths(lengths)
    found: Pieces = {"states": states, "actions": actions, "rewards": rewards, "lengths": lengths}
    if actions is not None:
        found["actions"] = as_values(actions, "actions")
    if rewards is not None:
        found["rewards"] = real(rewards, "rewards")
    for name in ("states", "actions"):
        field, values = f"{name[:-1]}_space", found[name]
        if spaces[field] is not None:
            found[field] = as_space(spaces[field], field)
        elif values is None or not len(values):
            raise DataError(f"{field}: expected a space or a number, as there are no {name}")
        else:
            found[field] = space_of(values)
        if values is not None:
            found[name] = in_dtype_of(values, found[field], name)
    for name, value in flags.items():
        found[name] = _flags(value, name, len(lengths) if lengths.dim() else 0, states.device)
    size = len(lengths) if lengths.dim() else 0
    found["episodes"] = np.arange(size) if episodes is None else _ids(episodes)
    return found


def _from_lists(states: Any, actions: Any, rewards: Any) -> tuple[Any, ...]:
    """Lengths and flat rows of lists with one array an episode."""
    columns = {"states": states, "actions": actions, "rewards": rewards}
    parts: dict[str, list[Tensor]] = {}
    for name, column in columns.items():
        if column is None and name != "states":
            continue
        if isinstance(column, str) or not hasattr(column, "__len__"):
            raise DataError(
                f"{name}: expected one array an episode, or flat rows with lengths=, got "
                f"{type(column).__name__}"
            )
        parts[name] = [as_values(part, f"{name}[{i}]") for i, part in enumerate(column)]
        if not parts[name]:
            raise DataError(f"{name}: expected at least one episode, got none")
        if len(parts[name]) != len(parts["states"]):
            raise DataError(
                f"{name}: expected {len(parts['states'])} episodes, as in states, got "
                f"{len(parts[name])}"
            )
        for i, part in enumerate(parts[name]):
            _check_part(name, i, part, parts["states"][i], parts[name][0])
    lengths = torch.tensor([len(part) - 1 for part in parts["states"]])
    rows = [torch.cat(parts[name]) if name in parts else None for name in columns]
    return lengths, *rows


def _check_part(name: str, i: int, part: Tensor, states: Tensor, first: Tensor) -> None:
    if part.dim() == 0:
        raise DataError(
            f"{name}[{i}]: expected the array of an episode, got one number; flat rows need "
            "lengths="
        )
    if part.shape[1:] != first.shape[1:]:
        raise DataError(
            f"{name}[{i}]: expected rows of shape {tuple(first.shape[1:])}, as in episode 0, got "
            f"{tuple(part.shape[1:])}"
        )
    if name == "states" and len(part) < 2:
        raise DataError(
            f"states[{i}]: expected at least two, one more than there are actions, got {len(part)};"
            " drop empty episodes"
        )
    if name != "states" and len(part) != len(states) - 1:
        raise DataError(
            f"{name}[{i}]: expected {len(states) - 1}, as episode {i} has {len(states)} states and "
            f"the last of them has no action, got {len(part)}"
        )


def check_lengths(lengths: Tensor) -> None:
    """Raise `DataError` for an episode without an action."""
    if bool((lengths < 1).any()):
        raise DataError(
            "lengths: expected at least one action in every episode, got none in episode "
            f"{int((lengths < 1).nonzero()[0][0])}; drop empty episodes"
        )


def flatten(states: Any, actions: Any, lengths: Any, rewards: Any) -> tuple[Any, ...]:
    """Flat states, actions and rewards of blocks, and the lengths."""
    states, lengths = as_values(states, "states"), as_values(lengths, "lengths")
    if states.dim() < 2 or lengths.shape != states.shape[:1] or lengths.is_floating_point():
        raise DataError(
            "states: expected a block [E, T + 1, ...] with whole lengths [E], got "
            f"{tuple(states.shape)} with {lengths.dtype} {tuple(lengths.shape)}"
        )
    check_lengths(lengths)
    longest = states.shape[1] - 1
    if bool((lengths > longest).any()):
        worst = int(lengths.argmax())
        raise DataError(
            f"lengths: expected at most {longest}, one less than the states of a row, got "
            f"{int(lengths[worst])} in episode {worst}"
        )
    steps = torch.arange(longest + 1, device=states.device)
    lengths = lengths.to(states.device)
    found = [states[steps <= lengths[:, None]]]
    for name, value in (("actions", actions), ("rewards", rewards)):
        rows = None if value is None else as_values(value, name)
        if rows is not None and rows.shape[:2] != (len(lengths), longest):
            raise DataError(
                f"{name}: expected a block {(len(lengths), longest)}, got {tuple(rows.shape)}"
            )
        found.append(None if rows is None else rows[steps[:-1] < lengths[:, None]])
    return *found, lengths


def joined(parts: list[Any]) -> Pieces:
    """Fields of the trajectories that several make together."""
    if not parts:
        raise DataError("parts: expected at least one, got none")
    first = parts[0]
    found: Pieces = {}
    for name in ("state_space", "action_space"):
        found[name] = getattr(first, name)
        for i, part in enumerate(parts):
            if getattr(part, name) != found[name]:
                raise DataError(
                    f"parts[{i}]: expected {name} {found[name]}, as in parts[0], got "
                    f"{getattr(part, name)}"
                )
    for name in ("states", "actions", "lengths", "rewards", "terminated", "truncated"):
        values = [getattr(part, name) for part in parts]
        absent = [value is None for value in values]
        if any(absent) and not all(absent):
            raise DataError(f"{name}: parts[{absent.index(True)}] has none, others have")
        found[name] = None if absent[0] else torch.cat(values)
    ids = [key for part in parts for key in part.episodes.tolist()]
    distinct = len(set(ids)) == len(ids)
    found["episodes"] = _ids(ids) if distinct else np.arange(len(ids))
    return found


def positions(index: Any, size: int) -> Tensor:
    """int64 positions that an index into ``size`` episodes chooses.

    Raises
    ------
    DataError
        If it chooses none, or is a mask of another length.
    IndexError
        If a position does not exist.
    """
    if isinstance(index, int | np.integer) and not isinstance(index, bool):
        index = [int(index)]
    if isinstance(index, slice):
        chosen = torch.tensor(range(size)[index], dtype=torch.int64)
    else:
        wanted = index if isinstance(index, Tensor) else np.asarray(index)
        if isinstance(wanted, np.ndarray) and wanted.dtype.kind not in "fiub":
            raise DataError(f"index: expected positions or a mask of episodes, got {index!r}")
        chosen = torch.as_tensor(wanted)
        if chosen.dtype == torch.bool:
            if chosen.shape != (size,):
                raise DataError(
                    f"index: expected a mask of {size} episodes, got shape {tuple(chosen.shape)}"
                )
            chosen = chosen.nonzero()[:, 0]
        if chosen.numel() and (chosen.dim() != 1 or chosen.is_floating_point()):
            raise DataError("index: expected a position, a slice, positions or a mask of episodes")
    if chosen.numel() == 0:
        raise DataError("index: chooses no episode")
    if int(chosen.min()) < -size or int(chosen.max()) >= size:
        raise IndexError(f"index out of range for {size} episodes")
    return torch.where(chosen < 0, chosen + size, chosen).long()


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The rows ``starts[i], ..., starts[i] + lengths[i] − 1`` for every i, one after another."""
    ends = lengths.cumsum(0)
    first = torch.repeat_interleave(starts - ends + lengths, lengths)
    return first + torch.arange(len(first), device=first.device)


def converted(values: Any, space: Space, name: str) -> Tensor:
    """Values as elements of a space; the container checks whether they are."""
    return in_dtype_of(as_values(values, name), space, name)


def real(values: Any, name: str) -> Tensor:
    """Numbers as a floating-point tensor."""
    found = as_values(values, name)
    return found if found.is_floating_point() else found.to(torch.float64)


def short(space: Space) -> str:
    """A space in a few letters."""
    if isinstance(space, Discrete):
        return f"Discrete({space.n})"
    assert isinstance(space, Box)
    return f"Box{space.shape}"


def _flags(value: Any, name: str, size: int, device: torch.device) -> Tensor:
    if value is None or isinstance(value, bool | np.bool_):
        return torch.full((size,), bool(value), device=device)
    flags = value if isinstance(value, Tensor) else np.asarray(value)
    if flags.dtype not in (torch.bool, np.bool_):
        raise DataError(f"{name}: expected truth values [{size}], got {flags.dtype}")
    return torch.as_tensor(flags).to(device)


def _ids(values: Any) -> NDArray[Any]:
    ids = np.asarray(values)
    if ids.ndim != 1 or ids.dtype.kind == "O":
        # Mixed and composite ids are objects, whatever NumPy would make of them.
        ids = np.empty(len(values), dtype=object)
        ids[:] = list(values)
    if len(set(ids.tolist())) != len(ids):
        raise DataError("episodes: expected distinct ids, got repeated ones")
    return ids
