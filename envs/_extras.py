"""Packages that only some need."""

from __future__ import annotations

import importlib
from typing import Any

from likely.envs.errors import DataError


def optional(module: str, package: str, extra: str) -> Any:
    """Import a module of an optional package.

    Raises
    ------
    DataError
        If it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f'{package}: this needs the package {package} ({error}); pip install "likely[{extra}]"'
        ) from error
