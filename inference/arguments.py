"""What a program is called with: numbers as tensors of one dtype on one device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch


def convert(value: Any, dtype: torch.dtype, device: torch.device | None) -> Any:
    """Cast the floating tensors inside an argument and turn arrays into tensors.

    Parameters
    ----------
    value : object
        A tensor, NumPy array, pandas object, a container of these, or an object that has
        ``to(dtype=..., device=...)``. Anything else is returned as it is.
    dtype : torch.dtype
        Floating point type of the fit.
    device : torch.device or None
        Where tensors go; ``None`` leaves them where they are.
    """
    if isinstance(value, torch.Tensor):
        return value.to(dtype=dtype if value.is_floating_point() else value.dtype, device=device)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return value
        # Copies read-only and negatively strided arrays, which torch cannot wrap.
        return convert(torch.as_tensor(np.array(value)), dtype, device)
    if isinstance(value, pd.Series | pd.DataFrame | pd.Index):
        return convert(value.to_numpy(), dtype, device)
    if isinstance(value, dict):
        return {key: convert(item, dtype, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(convert(item, dtype, device) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(convert(item, dtype, device) for item in value)
    if isinstance(value, torch.nn.Module | type):
        return value
    if callable(getattr(value, "to", None)):
        return value.to(dtype=dtype, device=device)
    return value
