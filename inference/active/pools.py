"""What a pool or a stream of points may be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.answers_log import fingerprint
from likely.inference.active.oracle import row
from likely.inference.errors import OptionError

# Rows that a pool is recognised by.
RECOGNISED = 200


def check_pool(pool: Any) -> None:
    """Raise an `OptionError` unless the pool has rows with numbers, and at least one."""
    rows = hasattr(pool, "__len__") and (hasattr(pool, "iloc") or hasattr(pool, "__getitem__"))
    if isinstance(pool, Mapping | str | bytes) or not rows or getattr(pool, "ndim", 1) < 1:
        raise OptionError(
            "pool must be an array, a tensor, a data frame or a list of points, got "
            f"{type(pool).__name__}"
        )
    if not len(pool):
        raise OptionError("pool must hold at least one point, got none")


def pool_fingerprint(pool: Any) -> str:
    """A digest of rows spread over the pool, to notice that it is another one."""
    count = min(len(pool), RECOGNISED)
    spread = np.linspace(0, len(pool) - 1, count).round().astype(np.int64)
    digest = hashlib.sha256()
    for position in spread.tolist():
        digest.update(str(fingerprint(row(pool, position))).encode())
    return digest.hexdigest()[:16]


def points_of(stream: Any) -> Iterable[Any]:
    """The points of a stream one by one; rows of a data frame as Series.

    Raises
    ------
    DataError
        If it cannot be gone through.
    """
    if hasattr(stream, "iterrows"):
        return (point for _, point in stream.iterrows())
    if isinstance(stream, Mapping | str | bytes) or not isinstance(stream, Iterable):
        raise DataError(f"points: expected an iterable of points, got {type(stream).__name__}")
    return stream


def as_point(point: Any) -> Any:
    """A point of a stream: numbers in a list become an array, everything else stays as it is.

    Raises
    ------
    DataError
        For a number alone, which is no row.
    """
    if isinstance(point, list | tuple):
        array = np.asarray(point)
        point = array if array.dtype.kind in "biuf" else point
    if isinstance(point, int | float) or getattr(point, "shape", None) == ():
        raise DataError(f"points: expected points [d], got the number {point!r}")
    return point


def as_pool(points: Sequence[Any]) -> Any:
    """Points as a pool [n, ...]: a tensor, an array, a data frame, or a list of whatever else.

    Raises
    ------
    DataError
        If they differ in shape.
    """
    first = points[0] if len(points) else np.zeros(1)
    try:
        if isinstance(first, Tensor):
            return torch.stack(list(points))
        if isinstance(first, np.ndarray):
            return np.stack(points) if len(points) else np.zeros((0, 1))
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"points: expected points of one kind and shape; {error}") from error
    if isinstance(first, pd.Series):
        return pd.DataFrame(list(points)).infer_objects()
    return list(points)


def check_function(name: str, value: Any, *, none: bool = False) -> None:
    """Raise an `OptionError` unless ``value`` is a function or such an object (or None)."""
    if (value is None and none) or (callable(value) and not isinstance(value, type)):
        return
    raise OptionError(f"{name} must be a function, got {value!r}")
