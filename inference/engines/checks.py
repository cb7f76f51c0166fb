"""Checks of an engine's options."""

from __future__ import annotations

import math
import operator
from dataclasses import fields
from typing import Any

import numpy as np

from likely.inference.errors import OptionError

# Generators take 32 bits, and chains and restarts add to the seed.
MOST_SEED = 2**32 - 2**16


def unbox(options: Any) -> None:
    """Make Python's numbers of NumPy's in a frozen dataclass, for generators and files."""
    for option in fields(options):
        value = getattr(options, option.name)
        if isinstance(value, np.generic):
            object.__setattr__(options, option.name, value.item())


def check_int(name: str, value: Any, least: int) -> None:
    """Raise an `OptionError` unless ``value`` is an integer of at least ``least``."""
    if not is_int(value) or value < least:
        raise OptionError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_seed(name: str, value: Any) -> None:
    """Raise an `OptionError` unless ``value`` is a seed that every generator takes."""
    if not is_int(value) or not 0 <= value < MOST_SEED:
        raise OptionError(f"{name} must be an integer from 0 to {MOST_SEED - 1}, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raise an `OptionError` unless ``value`` is a positive finite number."""
    if not is_number(value) or not 0 < value < math.inf:
        raise OptionError(f"{name} must be a positive finite number, got {value!r}")


def check_bool(name: str, value: Any) -> None:
    """Raise an `OptionError` unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise an `OptionError` unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def is_int(value: Any) -> bool:
    """Whether ``value`` is an integer, Python's or NumPy's, and not a truth value."""
    if isinstance(value, bool | np.bool_ | np.ndarray):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number, Python's or NumPy's, and not a truth value."""
    return is_int(value) or isinstance(value, float | np.floating)
