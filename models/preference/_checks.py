"""Whether the parts of `Comparisons` fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import check_index, shown

if TYPE_CHECKING:
    from likely.models.preference.comparisons import Comparisons

# Counts and their total were rounded apart where they went through single precision.
_ROUNDING = 1e-5


def check_rows(data: Comparisons) -> None:
    """Check a container of comparisons.

    Raises
    ------
    DataError
        For what is missing or of a wrong kind or shape, indices out of range, an item compared with
        itself, numbers that are negative or not finite, and totals that are not those of counts.
    """
    m = len(data.first) if isinstance(data.first, Tensor) and data.first.dim() else 0
    if not m:
        raise DataError("first: expected a tensor int64 [m] of at least one row")
    _check_ids(data)
    check_index(data.first, "first", m, data.n_items, 0)
    check_index(data.second, "second", m, data.n_items, 0)
    check_index(data.annotator, "annotator", m, data.n_annotators, 0)
    check_index(data.period, "period", m, data.n_periods, 0)
    same = data.first == data.second
    if bool(same.any()):
        who = data.items[data.first[same][:5].cpu().numpy()]
        raise DataError(
            f"second: {int(same.sum())} row(s) compare an item with itself: {shown(who)}"
        )
    _check_numbers(data, m)


def _check_ids(data: Comparisons) -> None:
    lists = {"items": data.items, "annotators": data.annotators, "periods": data.periods}
    for name, ids in lists.items():
        given = name == "items" or getattr(data, name[:-1]) is not None
        if (ids is not None) != given:
            raise DataError(f"{name}: expected them together with {name[:-1]}, and only then")
        if given and (not isinstance(ids, np.ndarray) or ids.ndim != 1):
            raise DataError(f"{name}: expected a NumPy array of ids, got {type(ids).__name__}")
    if len(data.items) < 2:
        raise DataError(f"items: expected at least two, got {len(data.items)}")


def _check_numbers(data: Comparisons, m: int) -> None:
    shapes = {"counts": (m, 3), "total": (m,), "home": (m,), "covariates": None}
    for name, shape in shapes.items():
        value = getattr(data, name)
        if value is None and name != "total":
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"{name}: expected a tensor of floating numbers, got {kind}")
        fits = value.shape == shape if shape else value.dim() == 2 and len(value) == m
        if not fits:
            raise DataError(f"{name}: expected {shape or (m, 'd')}, got {tuple(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{name}: expected finite numbers, got NaN or infinity")
        if name in ("counts", "total") and bool((value < 0).any()):
            raise DataError(f"{name}: expected numbers of at least 0, got {float(value.min())}")
    if data.home is not None and not bool(((data.home.abs() == 1) | (data.home == 0)).all()):
        raise DataError("home: expected 1 (the first), −1 (the second) or 0 (neither)")
    if data.counts is not None:
        first, second, tied = data.counts.unbind(-1)
        missing = (first + second + tied - data.total).abs() > _ROUNDING * (1 + data.total)
        if bool(missing.any()):
            row = int(missing.nonzero()[0])
            raise DataError(f"total: expected the sum of counts, which it is not in row {row}")
