"""Reading trajectories from tables; apart, as pandas takes long to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from likely.envs.errors import DataError


def from_frame(
    frame: Any,
    state: str | Sequence[str],
    action: str | Sequence[str],
    episode: str | None,
    reward: str | None,
    next_state: str | Sequence[str] | None,
    flags: dict[str, str | None],
) -> dict[str, Any]:
    """Arguments of `Trajectories.from_arrays` from a table; see `Trajectories.from_frame`."""
    named = {"state": state, "action": action, "next_state": next_state, "reward": reward, **flags}
    wanted = [c for value in (episode, *named.values()) for c in _names(value)]
    frame = _table(frame, wanted)
    if len(frame) == 0:
        raise DataError("frame: expected at least one row, got none")
    if episode is None:
        groups = [(0, frame)]
    else:
        if bool(frame[episode].isna().any()):
            raise DataError(f"frame: missing id in column {episode!r}; drop those rows")
        groups = list(frame.groupby(episode, sort=False, observed=True))
    pieces: dict[str, list[Any]] = {"states": [], "actions": [], "rewards": []}
    ends: dict[str, list[bool]] = {name: [] for name, column in flags.items() if column}
    for key, rows in groups:
        where = f"frame, episode {key!r}"
        states = _column(rows, state)
        if next_state is None:
            last, rows = rows.iloc[-1:], rows.iloc[:-1]
            if not bool(last[_names(action)].isna().all(axis=None)):
                raise DataError(
                    f"{where}: expected a last row with a state and no action, as there is no "
                    "next_state, got one with an action"
                )
        else:
            after = _column(rows, next_state)
            broken = np.nonzero(~_same(after[:-1], states[1:]))[0]
            if len(broken):
                raise DataError(
                    f"{where}: next_state in step {broken[0]} is {after[broken[0]]}, but the state "
                    f"of step {broken[0] + 1} is {states[broken[0] + 1]}"
                )
            states = np.concatenate([states, after[-1:]])
        if len(rows) == 0:
            raise DataError(f"{where}: expected at least one step and a last state, got one row")
        missing = rows[_names(action)].isna().any(axis=1).to_numpy()
        if missing.any():
            raise DataError(f"{where}: missing action in step {int(missing.argmax())}")
        pieces["states"].append(states)
        pieces["actions"].append(_column(rows, action))
        if reward is not None:
            pieces["rewards"].append(_column(rows, reward))
        for name, found in ends.items():
            found.append(_truth(rows[flags[name]].iloc[-1], flags[name], where))
    return {
        "states": pieces["states"],
        "actions": _whole(pieces["actions"]),
        "rewards": pieces["rewards"] if reward is not None else None,
        "episodes": [key for key, _ in groups],
        **ends,
    }


def _table(frame: Any, columns: list[str]) -> pd.DataFrame:
    if not isinstance(frame, pd.DataFrame):
        if not hasattr(frame, "__dataframe__"):
            raise DataError(
                "frame: expected a pandas data frame or a table with the interchange protocol "
                f"(__dataframe__), got {type(frame).__name__}"
            )
        frame = pd.api.interchange.from_dataframe(frame)
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise DataError(f"frame: no column {absent}; the columns are {frame.columns.tolist()}")
    twice = [name for name in columns if frame.columns.tolist().count(name) > 1]
    if twice:
        raise DataError(f"frame: expected one column {twice[0]!r}, got several")
    return frame.reset_index(drop=True)


def _names(value: str | Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Sequence) or not value or not all(isinstance(v, str) for v in value):
        raise DataError(f"frame: expected the name of a column or a list of names, got {value!r}")
    return list(value)


def _truth(value: Any, column: str | None, where: str) -> bool:
    if not isinstance(value, bool | np.bool_) and not (
        isinstance(value, int | float | np.number) and value in (0, 1)
    ):
        raise DataError(
            f"{where}: expected a truth value in the last step of column {column!r}, got {value!r}"
        )
    return bool(value)


def _column(rows: pd.DataFrame, name: str | Sequence[str]) -> NDArray[Any]:
    values = rows[name if isinstance(name, str) else list(name)]
    try:
        if _plain(values):
            return values.to_numpy()
        kinds = [values.dtype] if isinstance(values, pd.Series) else list(values.dtypes)
        whole = all(map(pd.api.types.is_integer_dtype, kinds)) and not values.isna().any(axis=None)
        return values.to_numpy(dtype=np.int64 if whole else np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"frame: column {name!r} must hold numbers; {error}") from error


def _plain(values: Any) -> bool:
    kinds = {values.dtype} if isinstance(values, pd.Series) else set(values.dtypes)
    return all(isinstance(kind, np.dtype) and kind.kind in "fiub" for kind in kinds)


def _whole(parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Whole numbers again, where a missing entry had made a column of them floating-point."""
    if any(part.ndim > 1 or part.dtype.kind != "f" for part in parts):
        return parts
    if any(not bool((part == np.floor(part)).all()) for part in parts):
        return parts
    return [part.astype(np.int64) for part in parts]


def _same(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    equal = left == right
    return np.asarray(equal if equal.ndim == 1 else equal.all(-1))
