"""Checks of an engine's options."""

from __future__ import annotations

from typing import Any

from likely.inference.errors import OptionError


def check_int(name: str, value: Any, least: int) -> None:
    """Raise an `OptionError` unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raise an `OptionError` unless ``value`` is a positive finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise OptionError(f"{name} must be a positive finite number, got {value!r}")


def check_bool(name: str, value: Any) -> None:
    """Raise an `OptionError` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise an `OptionError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
