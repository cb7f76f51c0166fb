"""Checks of what oracles are asked and what they answer."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError

Ints = NDArray[np.int64]


def integers(values: Any, name: str) -> Ints:
    """A vector of int64.

    Raises
    ------
    DataError
        If the values are no integers or not in one dimension.
    """
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: expected a vector of integers; {error}") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(
            f"{name}: expected a vector of integers, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)


def positions(values: Any, name: str) -> Ints:
    """A vector of int64, none negative.

    Raises
    ------
    DataError
        If the values are anything else.
    """
    found = integers(values, name)
    if found.size and found.min() < 0:
        raise DataError(f"{name}: expected positions from 0 on, got {found.min()}")
    return found


def within(found: Ints, size: int, name: str, of: str) -> None:
    """Raise a `DataError` unless all positions lie below ``size``."""
    if found.size and found.max() >= size:
        raise DataError(
            f"{name}: expected positions below {size}, the size of {of}, got {found.max()}"
        )


def check_labels(labels: Ints, n_classes: int, name: str) -> None:
    """Raise a `DataError` unless all labels are positions of classes or −1."""
    wrong = labels[(labels < -1) | (labels >= n_classes)]
    if len(wrong):
        raise DataError(
            f"{name}: expected positions of {n_classes} classes, 0 to {n_classes - 1}, or −1 for "
            f"no answer, got {wrong[0]}"
        )


def checked_classes(classes: Iterable[Hashable]) -> tuple[Hashable, ...]:
    """The names of at least two classes, all different, as a tuple.

    Raises
    ------
    DataError
        If they are not.
    """
    if isinstance(classes, str | bytes) or not hasattr(classes, "__iter__"):
        raise DataError(f"classes: expected the names of the classes, got {classes!r}")
    found = tuple(classes.tolist() if isinstance(classes, np.ndarray) else classes)
    if len(found) < 2 or len(set(found)) < len(found):
        raise DataError(f"classes: expected at least two different names, got {found}")
    return found


def check_names(asked: Sequence[Hashable], names: Sequence[Hashable], whose: str) -> None:
    """Raise a `DataError` unless the classes asked for are those of an oracle.

    Names count as they are written; positions 0..K−1 in their place name nothing and will do,
    unless these are the names, in another order.
    """
    written = [str(name) for name in asked]
    expected = [str(name) for name in names]
    unnamed = written == [str(k) for k in range(len(names))] and set(written) != set(expected)
    if written != expected and not unnamed:
        raise DataError(f"classes: expected those of {whose}, {expected}, got {written}")
