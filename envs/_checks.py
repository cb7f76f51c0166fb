"""Conversions and checks that the decision problems share."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs.errors import DataError

# Rows of float32 probabilities miss 1 by this much; a mistake misses it by more.
SUM_TOLERANCE = 1e-6


def as_double(value: Any, name: str) -> Tensor:
    """Convert numbers of any shape to float64; the derivative passes through.

    Raises
    ------
    DataError
        If the value does not consist of real, finite numbers.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise DataError(f"{name} must hold real numbers, got dtype {value.dtype}")
        tensor = value.to(torch.float64)
    else:
        try:
            array = np.asarray(value)
            if array.dtype.kind not in "fiub":
                raise TypeError(f"got dtype {array.dtype}")
            tensor = torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} must hold real numbers: {error}") from error
    if tensor.numel() == 0:
        raise DataError(f"{name} is empty: it has shape {tuple(tensor.shape)}")
    # A sum holds whatever is not finite, and needs no second tensor.
    if not bool(torch.isfinite(tensor.detach().sum())):
        bad = ~torch.isfinite(tensor.detach())
        if bool(bad.any()):
            where = bad.nonzero()[0].tolist()
            raise DataError(
                f"{name} must be finite: {int(bad.sum())} of {tensor.numel()} entries are NaN or "
                f"infinite, the first at {where}"
            )
    return tensor


def check_distribution(table: Tensor, name: str, axes: tuple[str, ...]) -> None:
    """Raise `DataError` unless the last axis of ``table`` holds probabilities.

    Parameters
    ----------
    table
        [..., n]; finite.
    name
        The argument's name, for the message.
    axes
        Names of the rightmost of the leading axes, for the message: ``("s", "a")``.
    """
    rows = table.detach()
    negative = rows < 0
    if bool(negative.any()):
        where = negative.nonzero()[0]
        raise DataError(
            f"{name} must not be negative, got {rows[tuple(where)].item():g} at "
            f"{name}[{_place(where.tolist(), (*axes, 'entry'))}]"
        )
    totals = rows.sum(-1)
    wrong = (totals - 1).abs() > SUM_TOLERANCE
    if bool(wrong.any()):
        index = wrong.nonzero()[0].tolist()
        raise DataError(
            f"{name} must sum to 1 over its last axis; {int(wrong.sum())} of {totals.numel()} rows "
            f"do not, the first is {name}[{_place(index, axes)}] with "
            f"{totals[tuple(index)].item():.9g}"
        )


def _place(index: list[int], axes: tuple[str, ...]) -> str:
    named = ("",) * (len(index) - len(axes)) + axes[len(axes) - min(len(axes), len(index)) :]
    return ", ".join(f"{a}={i}" if a else str(i) for a, i in zip(named, index, strict=True))


def as_number(
    value: Any, name: str, low: float = -math.inf, high: float = math.inf, *, above: bool = False
) -> float:
    """Return ``value`` as a finite float from ``low`` (or, if ``above``, over it) to ``high``.

    Raises
    ------
    DataError
        If it is none.
    """
    try:
        number = math.nan if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        if math.isinf(low):
            expected = "a finite number"
        elif math.isinf(high):
            expected = f"a finite number {'above' if above else 'of at least'} {low:g}"
        else:
            expected = f"a number {'above' if above else 'from'} {low:g}, at most {high:g}"
        raise DataError(f"{name} must be {expected}, got {value!r}")
    return number


def as_seed(value: Any) -> int | None:
    """Return ``value`` as an int of at least 0, or None.

    Raises
    ------
    DataError
        If it is neither.
    """
    return None if value is None else as_count(value, "seed", 0)


def as_rows(value: Any, name: str, width: int) -> NDArray[np.float64]:
    """Return ``value`` as finite float64 numbers [n, width] or [width].

    Raises
    ------
    DataError
        If it has another shape, or does not consist of finite numbers.
    """
    try:
        table = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must hold numbers: {error}") from error
    if table.ndim not in (1, 2) or table.shape[-1] != width:
        raise DataError(f"{name} must have shape [n, {width}] or [{width}], got {table.shape}")
    if not np.isfinite(table).all():
        raise DataError(f"{name} must be finite, got NaN or an infinite number")
    return table


def as_count(value: Any, name: str, minimum: int = 1) -> int:
    """Return ``value`` as an int of at least ``minimum``.

    Raises
    ------
    DataError
        If it is none.
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = minimum - 1
    if count < minimum or isinstance(value, bool):
        raise DataError(f"{name} must be an integer >= {minimum}, got {value!r}")
    return count
