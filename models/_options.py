"""Checks of constructor arguments that the built-in programs share."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

from likely.envs import DataError


def check_number(value: Any, name: str, *, positive: bool = False) -> float:
    """Return ``value`` as a finite float.

    Parameters
    ----------
    value
        The option.
    name
        Its name, for the error message.
    positive
        Whether it must exceed zero.

    Raises
    ------
    DataError
        If the value is no finite number, or not positive where it must be.
    """
    expected = "a positive finite number" if positive else "a finite number"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, (str, bool)) or (positive and number <= 0):
        raise DataError(f"{name} must be {expected}, got {value!r}")
    return number


def check_numbers(value: Any, name: str, *, positive: bool = False) -> float | tuple[float, ...]:
    """Return a number as a float, or several as a tuple of floats.

    Raises
    ------
    DataError
        As `check_number`, and for an empty sequence.
    """
    if isinstance(value, Iterable) and not isinstance(value, str):
        numbers = tuple(check_number(item, name, positive=positive) for item in value)
        if not numbers:
            raise DataError(f"{name} must be a number or several, got none")
        return numbers
    return check_number(value, name, positive=positive)


def check_count(value: Any, name: str, minimum: int) -> int:
    """Return ``value`` as an int of at least ``minimum``.

    Raises
    ------
    DataError
        If the value is no integer or too small.
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = minimum - 1
    if count < minimum or isinstance(value, bool):
        raise DataError(f"{name} must be an integer >= {minimum}, got {value!r}")
    return count
