"""Results that are the same but for rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

# The order of sums in matrix products depends on where in memory the numbers lie, so that one
# computation made twice may differ in the last digit, and what is computed from it by some more.
# A state that was not restored shows in the first digits.
RELATIVE, ABSOLUTE = 1e-6, 1e-9


def alike(one: Any, other: Any) -> bool:
    """Whether tensors, numbers, tables or mappings of these agree; what is no number is equal."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, pd.DataFrame):
        same = list(one) == list(other) and len(one) == len(other)
        return same and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if _is_numeric(one):
        first, second = (np.asarray(v.detach() if torch.is_tensor(v) else v) for v in (one, other))
        close = np.isclose(first, second, RELATIVE, ABSOLUTE, equal_nan=True)
        return first.shape == second.shape and bool(close.all())
    return bool(one == other) if not isinstance(one, pd.Series) else one.equals(other)


def _is_numeric(value: Any) -> bool:
    held = value.detach() if torch.is_tensor(value) else value
    return np.asarray(held).dtype.kind in "biufc"
