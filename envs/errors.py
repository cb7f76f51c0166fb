"""Errors about the user's data."""

from __future__ import annotations


class DataError(ValueError):
    """Data that a container or a program cannot take.

    The message names the argument, says what was expected and what came.
    """
