"""Rows of data in which entries may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from likely.envs import DataError
from likely.models._data import as_floating


def as_rows(value: Any, name: str = "x", *, gaps: bool = False) -> Tensor:
    """Convert rows to a floating-point matrix ``[n, D]`` with NaN for what is missing.

    Parameters
    ----------
    value, name
        As in `as_floating`.
    gaps
        Whether a column may be missing everywhere.

    Raises
    ------
    DataError
        If the value is not two-dimensional, is empty or, while Pyro validates, has infinite
        entries or, without ``gaps``, a column that is missing everywhere.
    """
    matrix = as_floating(value, name)
    if matrix.dim() != 2:
        raise DataError(
            f"{name} must be two-dimensional, [observations, features] (write x[:, None] for one "
            f"feature), got shape {tuple(matrix.shape)}"
        )
    if 0 in matrix.shape:
        raise DataError(f"{name} is empty: it has shape {tuple(matrix.shape)}")
    # A look at the sum needs no second matrix.
    if is_validation_enabled() and not bool(torch.isfinite(matrix.sum())):
        infinite = torch.isinf(matrix)
        if infinite.any():
            where = infinite.nonzero()[0].tolist()
            raise DataError(
                f"{name} must be finite or NaN (missing): {int(infinite.sum())} of "
                f"{matrix.numel()} entries are infinite, the first at {where}"
            )
        gone = torch.isnan(matrix).all(0)
        if not gaps and gone.any():
            columns = ", ".join(str(int(c)) for c in gone.nonzero()[:, 0])
            raise DataError(f"{name} has no entry that is there in column {columns}")
    return matrix


def check_entries(valid: Tensor, x: Tensor, name: str, expected: str) -> None:
    """Raise `DataError` unless each entry is valid or missing, while Pyro validates."""
    if not is_validation_enabled():
        return
    bad = ~valid & ~torch.isnan(x)
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise DataError(
            f"{name} must hold {expected}, got {x[row, column].item():g} at row {row}, column "
            f"{column}"
        )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make floating-point tensors of another dtype by default, for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
