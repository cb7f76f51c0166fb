"""What a program is called with: numbers as tensors of one dtype on one device."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pandas as pd
import torch


def convert(value: Any, dtype: torch.dtype, device: torch.device | None) -> Any:
    """Cast the floating tensors inside an argument and turn arrays into tensors.

    Parameters
    ----------
    value : object
        A tensor, an array or a table of numbers (NumPy, pandas, xarray, or anything else with
        ``to_numpy()``), a list, tuple or dict of these, or an object with a method ``to`` that
        names ``dtype`` and ``device`` as its arguments. Anything else is returned as it is, and
        so is a container whose class cannot be made from its items.
    dtype : torch.dtype
        Floating point type of the fit.
    device : torch.device or None
        Where tensors go; ``None`` leaves them where they are.
    """
    if isinstance(value, torch.Tensor):
        return value.to(dtype=dtype if value.is_floating_point() else value.dtype, device=device)
    if isinstance(value, torch.nn.Module | type):
        return value
    if isinstance(value, np.ndarray):
        return _converted_array(value, value, dtype, device)
    if isinstance(value, dict | list | tuple):
        return _converted_container(value, dtype, device)
    if _takes_dtype_and_device(getattr(value, "to", None)):
        return value.to(dtype=dtype, device=device)
    if callable(getattr(value, "to_numpy", None)):
        return _converted_array(value, _numbers(value), dtype, device)
    return value


def _converted_array(
    value: Any, array: Any, dtype: torch.dtype, device: torch.device | None
) -> Any:
    """The array as a tensor, or ``value`` itself where it does not hold numbers."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        return value
    # torch cannot wrap read-only and negatively strided arrays, nor foreign byte orders.
    native = np.array(array, dtype=array.dtype.newbyteorder("="))
    return convert(torch.as_tensor(native), dtype, device)


def _numbers(value: Any) -> Any:
    array = value.to_numpy()
    if array.dtype.kind == "O" and isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        # Columns of different types, and pandas' own types with a mark for missing entries,
        # arrive as objects even where all of them are numbers.
        types = value.dtypes if isinstance(value, pd.DataFrame) else [value.dtype]
        if all(pd.api.types.is_numeric_dtype(kind) for kind in types):
            return value.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    return array


def _converted_container(value: Any, dtype: torch.dtype, device: torch.device | None) -> Any:
    """A container of the same class with its items converted."""
    items = list(value.values()) if isinstance(value, dict) else list(value)
    converted = [convert(item, dtype, device) for item in items]
    if all(new is old for new, old in zip(converted, items, strict=True)):
        return value
    try:
        if isinstance(value, dict):
            # A copy keeps what the class knows beside its items, such as a default.
            rebuilt = copy.copy(value)
            rebuilt.update(zip(value, converted, strict=True))
            return rebuilt
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*converted)
        return type(value)(converted)
    except (TypeError, ValueError):
        return value


def _takes_dtype_and_device(method: Any) -> bool:
    """Whether a method named ``to`` means what a tensor's does: others write files, or convert."""
    if not callable(method):
        return False
    try:
        names = inspect.signature(method).parameters
    except (TypeError, ValueError):
        return False
    return "dtype" in names and "device" in names
