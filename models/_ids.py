"""User ids to index tensors: factorise, check, and keep the user's own labels in order."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError

_SHOWN = 5  # how many offending values an error message lists


def column(values: Any, name: str) -> Any:
    """One-dimensional, array-like form of ``values`` that `pandas.factorize` reads without loss.

    Parameters
    ----------
    values
        Sequence, array, tensor or pandas column of ids.
    name
        Argument name for error messages.

    Raises
    ------
    DataError
        If ``values`` is not one-dimensional.
    """
    if isinstance(values, Tensor):
        try:
            values = values.detach().cpu().numpy()
        except TypeError as error:  # a dtype or layout that numpy lacks
            raise DataError(f"{name}: expected a dense tensor of ids; {error}") from error
    elif isinstance(values, np.ma.MaskedArray):
        values = pd.Series(values)  # what is masked is missing
    elif not hasattr(values, "iloc") and hasattr(values, "to_pandas"):
        values = values.to_pandas()  # Arrow's own arrays would give scalars of its own
    elif isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise DataError(f"{name}: expected a one-dimensional array of ids, got {values!r}")
    elif not isinstance(
        values, np.ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray
    ):
        # numpy would turn ["a", nan] into the strings "a" and "nan"; pandas keeps the gap.
        values = pd.Series(list(values), dtype=None if len(values) else object)
    if values.ndim != 1:
        raise DataError(f"{name}: expected one dimension, got shape {tuple(values.shape)}")
    if isinstance(values, np.ndarray) and values.dtype.kind in "US":
        values = values.astype(object)  # five times faster to factorise than fixed-width strings
    return values


def factorize(values: Any, name: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Codes [n], −1 for missing values, and the distinct values in order of first appearance.

    Raises
    ------
    DataError
        If ``values`` is not one-dimensional or holds something that cannot be an id.
    """
    try:
        codes, found = pd.factorize(column(values, name))
    except TypeError as error:
        raise DataError(
            f"{name}: expected hashable ids such as numbers, text or tuples; {error}"
        ) from error
    return np.asarray(codes, dtype=np.int64), np.asarray(found)


def _counted(values: Any) -> tuple[NDArray[np.int64], NDArray[Any]] | None:
    """What `factorize` finds, in order of size, for whole numbers in a narrow range; else None.

    A table of the range takes a fifth of the time that hashing takes.
    """
    if not isinstance(getattr(values, "dtype", None), np.dtype) or values.dtype.kind != "i":
        return None
    numbers = np.asarray(values)
    if not len(numbers):
        return None
    low, high = int(numbers.min()), int(numbers.max())
    if high - low > 2 * len(numbers):
        return None
    places = np.subtract(numbers, low, dtype=np.int64)
    seen = np.zeros(high - low + 1, dtype=bool)
    seen[places] = True
    rank = seen.cumsum(dtype=np.int64) - 1
    return rank[places], (np.flatnonzero(seen) + low).astype(numbers.dtype)


def listed_ids(ids: NDArray[Any]) -> list[Any]:
    """Ids one by one, as Python's own values; dates and times as NumPy's, which stay such.

    Those finer than a microsecond, which Python has not, NumPy would list as counts since 1970.
    """
    return list(ids) if ids.dtype.kind in "mM" else list(ids.tolist())


def categories(values: Any) -> NDArray[Any] | None:
    """The levels of a pandas categorical in its own order, unused ones included, else None."""
    kind = getattr(values, "dtype", None)
    if not isinstance(kind, pd.CategoricalDtype):
        return None
    levels = np.asarray(kind.categories)
    # Negative numbers usually mark missing entries: they are for `encode` to judge.
    return None if _negative(levels) else levels


def encode(
    values: Any, name: str, listed: Any = None, listed_name: str = ""
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Positions of ``values`` in the list of their distinct ids.

    Parameters
    ----------
    values
        [n] ids of any hashable kind.
    name
        Argument name for error messages.
    listed
        Distinct ids in the order to use; by default the distinct ``values``, sorted where they
        can be sorted and otherwise in order of first appearance.
    listed_name
        Argument name of ``listed`` for error messages.

    Returns
    -------
    codes : int64 [n]
    labels : [n_distinct]

    Raises
    ------
    DataError
        For missing values, for negative numbers that ``listed`` does not hold (they usually mark
        missing entries), and for values that ``listed`` does not hold.
    """
    values = column(values, name)
    codes, found = _counted(values) or factorize(values, name)
    missing = codes < 0
    if missing.any():
        raise DataError(
            f"{name}: {int(missing.sum())} missing value(s) (NaN or None), the first in row "
            f"{int(missing.argmax())}; drop those rows"
        )
    labels = found
    if listed is None:
        negative = _negative(labels)
        if negative:
            raise DataError(
                f"{name}: negative id(s) {negative}; these usually mark missing entries. "
                f"Drop the rows, or pass {listed_name}= with the ids that are meant"
            )
        order = _sorting(labels)
        if np.array_equal(order, np.arange(len(order))):
            return codes, labels
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return rank[codes], labels[order]
    labels_listed = distinct(listed, listed_name)
    position = lookup(labels, labels_listed)
    if (position < 0).any():
        unknown = labels[position < 0]
        raise DataError(
            f"{name}: {len(unknown)} value(s) not in {listed_name}: {shown(unknown)}; "
            f"{listed_name} has {shown(labels_listed)}"
        )
    return position[codes], labels_listed


def distinct(values: Any, name: str) -> NDArray[Any]:
    """Array of ``values``, which must be present and all different.

    Raises
    ------
    DataError
        For missing or repeated values.
    """
    codes, found = factorize(values, name)
    if (codes < 0).any():
        raise DataError(
            f"{name}: missing value (NaN or None) in position {int((codes < 0).argmax())}"
        )
    if len(found) != len(codes):
        repeated = found[np.bincount(codes) > 1]
        raise DataError(f"{name}: expected distinct values, got repeated {shown(repeated)}")
    return found


def lookup(values: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
    """Position in ``labels`` of every entry of ``values``, −1 where it is absent."""
    return np.asarray(_index(labels).get_indexer(_index(values)), dtype=np.int64)


def shown(values: NDArray[Any]) -> str:
    """The first few values, with their quotes, for an error message."""
    text = ", ".join(repr(v) for v in values[:_SHOWN].tolist())
    return text + (", …" if len(values) > _SHOWN else "")


def _index(values: NDArray[Any]) -> pd.Index:
    # Tuples are ids here, never levels of a MultiIndex.
    return pd.Index(values, tupleize_cols=False)


def _negative(labels: NDArray[Any]) -> list[Any]:
    if labels.dtype.kind in "if":
        return labels[labels < 0][:_SHOWN].tolist()
    if labels.dtype.kind != "O":
        return []
    return [v for v in labels.tolist() if isinstance(v, Real) and v < 0][:_SHOWN]


def _sorting(labels: NDArray[Any]) -> NDArray[np.intp]:
    try:
        return np.argsort(labels, kind="stable")
    except TypeError:
        return np.arange(len(labels))


def read_frame(frame: Any, columns: list[str]) -> pd.DataFrame:
    """A pandas data frame that has ``columns``, from any table with the interchange protocol.

    Raises
    ------
    DataError
        For something that is not a table, and for a column that is missing or there twice.
    """
    if not isinstance(frame, pd.DataFrame):
        if not hasattr(frame, "__dataframe__"):
            raise DataError(
                "frame: expected a pandas data frame or a table with the interchange protocol "
                f"(__dataframe__), got {type(frame).__name__}"
            )
        frame = pd.api.interchange.from_dataframe(frame)
    found = frame.columns.tolist()
    absent = [name for name in columns if name not in found]
    if absent:
        raise DataError(f"frame: no column {absent}; the columns are {found}")
    twice = [name for name in columns if found.count(name) > 1]
    if twice:
        raise DataError(f"frame: several columns {twice[0]!r}; the columns are {found}")
    return frame


def check_index(index: Tensor | None, name: str, length: int, size: int, lowest: int) -> None:
    """Check that an optional int64 tensor [length] holds indices from ``lowest`` to ``size`` − 1.

    Raises
    ------
    DataError
        If it does not: an index out of range would be read beyond the end of a table.
    """
    if index is None:
        return
    if not isinstance(index, Tensor):
        raise DataError(f"{name}: expected a tensor int64 [{length}], got {type(index).__name__}")
    if index.dtype != torch.int64 or index.shape != (length,):
        raise DataError(f"{name}: expected int64 [{length}], got {index.dtype} {list(index.shape)}")
    if length:
        low, high = (int(v) for v in torch.aminmax(index))
        if low < lowest or high >= size:
            raise DataError(
                f"{name}: expected indices from {lowest} to {size - 1}, got {low} to {high}"
            )
