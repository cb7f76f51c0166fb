"""What states and actions may be: one of a few, or a vector of real numbers."""

from __future__ import annotations

import operator
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from likely.envs.errors import DataError

Space = Discrete | Box


def as_space(value: Any, name: str) -> Space:
    """A space from a gymnasium space, or from the number of its elements.

    Parameters
    ----------
    value
        `gymnasium.spaces.Discrete` that starts at 0, `gymnasium.spaces.Box`, or an integer n for
        ``Discrete(n)``.
    name
        The argument's name, for the message.

    Raises
    ------
    DataError
        For anything else.
    """
    if isinstance(value, Box):
        return value
    if isinstance(value, Discrete):
        if value.start != 0:
            raise DataError(
                f"{name}: expected a Discrete space that starts at 0, got {value}; subtract its "
                "start"
            )
        return value
    if isinstance(value, gymnasium.Space):
        raise DataError(
            f"{name}: expected a Discrete or a Box space, got {value}; a gymnasium wrapper such as "
            "FlattenObservation turns many others into a Box"
        )
    try:
        n = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        n = 0
    if n < 1:
        raise DataError(
            f"{name}: expected a gymnasium space or the number of its elements, got {value!r}"
        )
    return Discrete(n)


def space_of(values: Tensor) -> Space:
    """The smallest space that values [n, *shape] suggest: whole numbers [n] are one of a few."""
    if values.dim() == 1 and not values.is_floating_point():
        return Discrete(int(values.max()) + 1)
    return Box(-np.inf, np.inf, tuple(values.shape[1:]), np.float64)


def as_values(value: Any, name: str) -> Tensor:
    """Numbers as a tensor: whole ones and truth values int64, others float64.

    Raises
    ------
    DataError
        If the value does not consist of real numbers.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise DataError(f"{name}: expected real numbers, got {value.dtype}")
        tensor = value
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise DataError(f"{name}: expected numbers of one shape; {error}") from error
        if array.dtype.kind not in "fiub":
            raise DataError(f"{name}: expected real numbers, got dtype {array.dtype}")
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        kind = np.float64 if native.dtype.kind == "f" else np.int64
        tensor = torch.from_numpy(native.astype(kind, copy=False))
    if tensor.is_floating_point():
        return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float64)
    return tensor.to(torch.int64)


def in_dtype_of(values: Tensor, space: Space, name: str) -> Tensor:
    """Values in the dtype of a space's elements: int64 of a Discrete one, floats of a Box.

    Raises
    ------
    DataError
        For numbers that are not whole in a Discrete space.
    """
    if isinstance(space, Box):
        return values if values.is_floating_point() else values.to(torch.float64)
    if not values.is_floating_point():
        return values
    whole = values.to(torch.int64)
    wrong = whole != values
    if bool(wrong.any()):
        raise DataError(
            f"{name}: expected whole numbers of {space}, got {values[wrong][0].item():g}"
        )
    return whole


def outside(values: Tensor, space: Space, bounds: bool) -> Tensor | None:
    """Mask [n] of the values that a space does not hold; None if it holds all of them.

    Parameters
    ----------
    values
        [n, *shape], in the dtype of the space.
    bounds
        Whether the bounds of a Box count. Whether numbers are finite always does.
    """
    if isinstance(space, Discrete):
        n = int(space.n)
        if len(values) == 0 or (int(values.min()) >= 0 and int(values.max()) < n):
            return None
        return (values < 0) | (values >= n)
    # A sum holds whatever is not finite, and needs no second tensor.
    bad = None
    if not bool(torch.isfinite(values.sum())):
        bad = ~torch.isfinite(values)
    if bounds and bool(np.isfinite(space.low).any() or np.isfinite(space.high).any()):
        # In the precision of the bounds, as 0.7 in single precision is less than 0.7.
        low = torch.from_numpy(np.array(space.low)).to(values.device)
        high = torch.from_numpy(np.array(space.high)).to(values.device)
        rounded = values.to(low.dtype) if low.is_floating_point() else values
        crossed = (rounded < low) | (rounded > high)
        bad = crossed if bad is None else bad | crossed
    if bad is None or not bool(bad.any()):
        return None
    return bad.reshape(len(values), -1).any(-1)
