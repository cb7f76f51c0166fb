"""Conversions and checks of call arguments that the built-in programs share."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import is_validation_enabled
from pyro.util import ignore_jit_warnings
from torch import Tensor

from likely.envs import DataError


def as_tensor(value: Any, name: str) -> Tensor:
    """Convert an array-like argument to a tensor.

    Parameters
    ----------
    value
        Tensor (returned as it is), NumPy array, pandas object or nested sequence of
        numbers, of any shape.
    name
        The argument's name, for the error message.

    Returns
    -------
    Tensor
        Of the value's shape. Floating-point values come in torch's default dtype,
        integers as ``int64``, booleans as ``bool``. Masked entries of a NumPy masked array
        become NaN. Never shares memory with ``value`` unless that is a tensor.

    Raises
    ------
    DataError
        If the value does not consist of real numbers.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise DataError(f"{name} must hold real numbers, got dtype {value.dtype}")
        return value
    try:
        array = _filled(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
        if array.dtype.kind == "O":
            # A data frame of mixed numeric columns arrives as objects. Strings would
            # pass through float() as well, and are most likely a column too many.
            if any(isinstance(item, (str, bytes)) for item in array.flat):
                raise DataError(f"{name} must hold numbers, got strings")
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} must hold numbers: {error}") from error
    if array.dtype.kind == "f":
        copy = np.array(array, dtype=np.float64, order="C")
        return torch.from_numpy(copy).to(torch.get_default_dtype())
    if array.dtype.kind in "iu":
        return torch.from_numpy(np.array(array, dtype=np.int64, order="C"))
    if array.dtype.kind == "b":
        return torch.from_numpy(np.array(array, order="C"))
    raise DataError(f"{name} must hold real numbers, got dtype {array.dtype}")


def _filled(value: np.ma.MaskedArray[Any, Any]) -> np.ndarray[Any, Any]:
    """A masked array with NaN for what is masked; what lies under a mask is no data."""
    if value.dtype.kind not in "fiub" or not np.ma.is_masked(value):
        return np.asarray(value)
    return np.where(np.ma.getmaskarray(value), np.nan, np.asarray(value, dtype=np.float64))


def as_floating(value: Any, name: str, like: Tensor | None = None) -> Tensor:
    """Convert like `as_tensor`, then to a floating-point dtype.

    Parameters
    ----------
    value, name
        As in `as_tensor`.
    like
        Tensor whose dtype the result takes. Without it, floating-point tensors keep
        theirs and everything else gets torch's default.

    Returns
    -------
    Tensor
        Of the value's shape, on the value's device.
    """
    tensor = as_tensor(value, name)
    if like is not None:
        return tensor.to(like.dtype)
    if tensor.is_floating_point():
        return tensor
    return tensor.to(torch.get_default_dtype())


def as_matrix(value: Any, name: str) -> Tensor:
    """Convert observations to a floating-point matrix ``[n, d]``.

    Raises
    ------
    DataError
        If the value is not two-dimensional, has no row or no column or, while Pyro
        validates, holds NaN or infinite entries.
    """
    matrix = as_floating(value, name)
    if matrix.dim() != 2:
        raise DataError(
            f"{name} must be two-dimensional, [observations, features], "
            f"got shape {tuple(matrix.shape)}"
        )
    if 0 in matrix.shape:
        raise DataError(f"{name} is empty: it has shape {tuple(matrix.shape)}")
    check_finite(matrix, name)
    return matrix


def as_outcomes(value: Any, name: str, n: int | None, like: Tensor | None = None) -> Tensor:
    """Convert outcomes to a floating-point vector ``[n]``.

    Parameters
    ----------
    value, name, like
        As in `as_floating`.
    n
        The length to expect; ``None`` for any.

    Raises
    ------
    DataError
        If the value is not one-dimensional, is empty, has another length or, while
        Pyro validates, holds NaN or infinite entries.
    """
    vector = as_floating(value, name, like)
    if vector.dim() != 1:
        raise DataError(
            f"{name} must be one-dimensional, [observations], got shape {tuple(vector.shape)}"
        )
    if len(vector) == 0:
        raise DataError(f"{name} is empty")
    if n is not None and len(vector) != n:
        raise DataError(
            f"{name} must have one entry per observation: expected {n}, got {len(vector)}"
        )
    check_finite(vector, name)
    return vector


def as_size(value: Any, name: str) -> int:
    """Check a number of rows or columns and return it as a positive int.

    Raises
    ------
    DataError
        If the value is not an integer of at least 1.
    """
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1:
        raise DataError(f"{name} must be a positive integer, got {value!r}")
    return size


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise `DataError` for NaN or infinite entries while Pyro validates.

    The check costs about as much as one density evaluation, so it follows Pyro's
    validation switch, which engines turn off after their first trace.
    """
    # A sum holds whatever is not finite, and needs no second tensor.
    if not is_validation_enabled() or bool(torch.isfinite(tensor.sum())):
        return
    bad = ~torch.isfinite(tensor)
    if bad.any():
        where = bad.nonzero()[0].tolist()
        raise DataError(
            f"{name} must be finite: {int(bad.sum())} of {tensor.numel()} entries are "
            f"NaN or infinite, the first at {where}"
        )


def check_outcomes(valid: Tensor, outcomes: Tensor, name: str, expected: str) -> None:
    """Raise `DataError` unless all of ``valid`` holds.

    Parameters
    ----------
    valid
        Boolean mask ``[n]``.
    outcomes
        The values ``[n]`` that the mask judges.
    name, expected
        The argument's name and what it should have held, for the message.
    """
    if not bool(valid.all()):
        position = int((~valid).nonzero()[0])
        raise DataError(
            f"{name} must hold {expected}, got {outcomes[position].item():g} at position {position}"
        )


def plate_rows(index: Tensor | None, n: int, device: torch.device) -> Tensor | slice:
    """What to index the data with inside a plate.

    Parameters
    ----------
    index
        Integer indices ``[m]``, as the plate yields them; ``None`` for all.
    n
        The plate's full size.
    device
        Where the data are.

    Returns
    -------
    Tensor or slice
        The indices; a slice of everything when they are ``0, ..., n - 1``, because
        gathering all rows would cost as much as the density that follows.
    """
    if index is None:
        return slice(None)
    # On an accelerator the comparison would wait for the device.
    if len(index) == n and device.type == "cpu":
        with ignore_jit_warnings():
            # n integers that grow from 0 to n - 1; an arange to compare with would cost more.
            ends = index[0] == 0 and index[-1] == n - 1
            if ends and bool((index[1:] > index[:-1]).all()):
                return slice(None)
    return index


def as_weights(value: Any, n: int, like: Tensor) -> Tensor | None:
    """Convert weights of observations to a floating-point vector ``[n]``.

    Parameters
    ----------
    value
        Weights ``[n]`` of at least zero, or ``None`` for none.
    n
        The number of observations.
    like
        Tensor whose dtype and device the result takes.

    Raises
    ------
    DataError
        If the value is not a vector of length ``n`` or, looked at while Pyro validates, has
        NaN, infinite or negative entries or nothing but zeros.
    """
    if value is None:
        return None
    weights = as_outcomes(value, "weights", n, like).to(like.device)
    if is_validation_enabled():
        check_outcomes(weights >= 0, weights, "weights", "numbers of at least 0")
        if not bool((weights > 0).any()):
            raise DataError("weights must not be zero for all observations")
    return weights


@contextmanager
def plate_weights(weights: Tensor | None, rows: Tensor | slice) -> Iterator[None]:
    """Weigh the sites inside a plate: a weight of 2 counts an observation twice.

    A row of weight 0 is left out: what is observed there has no part in the density, even if
    it is impossible, and a discrete latent there keeps its prior.

    Parameters
    ----------
    weights
        Weights of all observations ``[n]``, from `as_weights`; ``None`` for none.
    rows
        What the plate indexes the data with, from `plate_rows`.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist
    >>> y, weights = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([2.0, 1.0, 0.0])
    >>> def program():
    ...     with pyro.plate("observation", 3) as index, plate_weights(weights, index):
    ...         pyro.sample("y", dist.Bernoulli(0.5), obs=y[index])
    >>> trace = poutine.trace(program).get_trace()
    >>> round(float(trace.log_prob_sum().exp()), 4)
    0.125
    """
    if weights is None:
        yield
        return
    chosen = weights[rows]
    # poutine.scale refuses zero. The smallest number does as well, and the mask keeps an
    # impossible outcome from making it infinite.
    scale = chosen.clamp_min(torch.finfo(chosen.dtype).tiny)
    with poutine.scale(scale=scale), poutine.mask(mask=chosen > 0):  # type: ignore[call-overload]
        yield


def row_labels(value: Any) -> dict[str, Sequence[Any]]:
    """Labels of the ``observation`` plate, where the user's data carry any.

    Returns
    -------
    dict
        ``{"observation": index}`` for a pandas object with a flat index whose entries
        differ, else empty.
    """
    index = getattr(value, "index", None)
    if index is None or callable(index) or getattr(index, "nlevels", 1) != 1:
        return {}
    labels = np.asarray(index)
    if labels.dtype.kind == "O":
        # Mixed objects cannot be written to netCDF; their names can.
        labels = np.asarray([str(label) for label in labels])
    # Tables put together from others may repeat an index, which then names no row.
    if len(np.unique(labels)) < len(labels):
        return {}
    return {"observation": labels}  # type: ignore[dict-item]


def column_labels(value: Any) -> Sequence[Any]:
    """Names of a matrix's columns: a data frame's own if they differ, else ``0, ..., d - 1``.

    Raises
    ------
    DataError
        If the value has neither column names nor two dimensions.
    """
    columns = getattr(value, "columns", None)
    if columns is not None:
        names = [str(column) for column in columns]
        return names if len(set(names)) == len(names) else range(len(names))
    shape = np.shape(value)
    if len(shape) != 2:
        raise DataError(f"expected a matrix [observations, features], got {shape}")
    return range(shape[1])
