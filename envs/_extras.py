"""Packages that only some need."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

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


@contextmanager
def left_alone(seed: int | None = None) -> Iterator[None]:
    """Put back what other packages' training changes for everybody.

    That is the random numbers of Python, NumPy and torch, seeded where a seed is given, and torch's
    default dtype, which is float32 inside.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.set_default_dtype(torch.float32)
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
