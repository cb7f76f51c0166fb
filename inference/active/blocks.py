"""Probabilities looked at and checked block by block, within a given number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from likely.envs import DataError
from likely.inference.engines.checks import check_int
from likely.inference.errors import OptionError

# Blocks that stay in a core's cache are several times faster; accelerators want large ones.
CACHE = 1 << 21
ROOM = 1 << 28
# How far rows may be from summing to one, by what rounding of a softmax leaves.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


class Batch(NamedTuple):
    """A batch to be asked.

    Attributes
    ----------
    indices : Tensor
        int64 [batch]: points of the pool in the order in which they were chosen.
    scores : Tensor
        [batch]: what each was chosen by; the function that chose says what that is.
    """

    indices: Tensor
    scores: Tensor


def as_probabilities(probs: Any, rank: int, name: str = "probs") -> Tensor:
    """Probabilities [pool, classes] or [draws, pool, classes] as a tensor; values are not checked.

    Parameters
    ----------
    probs : Tensor or ndarray
        Floating point numbers.
    rank : int
        2 for one predictive, 3 for draws.
    name : str
        For the error.

    Raises
    ------
    DataError
        If it is of another type or rank, is empty, or has fewer than two classes.
    """
    expected = "[pool, classes]" if rank == 2 else "[draws, pool, classes]"
    tensor = as_floats(probs, name, expected)
    if tensor.dim() != rank:
        raise DataError(f"{name} must be {expected}, got shape {tuple(tensor.shape)}")
    if 0 in tensor.shape:
        raise DataError(f"{name} is empty: it has shape {tuple(tensor.shape)}")
    if tensor.shape[-1] < 2:
        raise DataError(f"{name} must have at least two classes, got shape {tuple(tensor.shape)}")
    return tensor


def as_floats(value: Any, name: str, expected: str) -> Tensor:
    """A tensor of floating point numbers, without a copy; its graph is kept where it has one.

    Raises
    ------
    DataError
        If the value is no tensor or array, or of another type.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # torch wraps neither negative strides nor foreign byte orders.
        native = value.astype(value.dtype.newbyteorder("="), copy=False)
        value = torch.as_tensor(native.copy() if min(native.strides, default=0) < 0 else native)
    if not isinstance(value, Tensor):
        raise DataError(f"{name} must be a tensor {expected}, got {type(value).__name__}")
    if value.dtype not in TOLERANCE:
        raise DataError(f"{name} must hold floating point numbers, got {value.dtype}")
    return value


def as_scores(scores: Any) -> Tensor:
    """Scores [pool]; infinite ones are allowed.

    Raises
    ------
    DataError
        If it is no vector, is empty, or holds NaN.
    """
    tensor = as_floats(scores, "scores", "[pool]")
    if tensor.dim() != 1 or not len(tensor):
        raise DataError(f"scores must be [pool] and not empty, got shape {tuple(tensor.shape)}")
    if bool(tensor.isnan().any()):
        raise DataError(f"scores must not be NaN, got NaN at point {_first(tensor.isnan())}")
    return tensor


def check_batch_size(batch_size: Any, n: int) -> None:
    """Raise an `OptionError` unless ``batch_size`` is an integer from 1 to ``n``."""
    check_int("batch_size", batch_size, 1)
    if batch_size > n:
        raise OptionError(
            f"batch_size must be at most the {n} points of the pool, got {batch_size}"
        )


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that blocks are computed in: half precision only stores."""
    return dtype if dtype.itemsize >= 4 else torch.float32


def slices(n: int, bytes_each: int, budget: int | None, device: torch.device) -> Iterator[slice]:
    """Parts of ``n`` points of which each point needs ``bytes_each``.

    Parameters
    ----------
    n : int
    bytes_each : int
    budget : int or None
        Most bytes of a part. Parts are no larger than suits the device, or one point.
    device : torch.device

    Raises
    ------
    OptionError
        If the budget is no integer of at least 1, or does not hold one point.
    """
    room = max(bytes_each, room_of(device))
    if budget is not None:
        check_int("budget", budget, 1)
        room = min(room, int(budget))
    if bytes_each > room:
        raise OptionError(
            f"budget must be at least {bytes_each} bytes, which one point takes, got {budget}"
        )
    rows = room // bytes_each
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def room_of(device: torch.device) -> int:
    """Bytes of a block that suits the device."""
    return CACHE if device.type == "cpu" else ROOM


def pointwise(
    score: Callable[[Tensor], Tensor], probs: Tensor, width: int, budget: int | None
) -> Tensor:
    """Scores [pool] of all points, block by block; every block is checked before it is used.

    Parameters
    ----------
    score : callable
        From checked probabilities [rows, classes] or [draws, rows, classes] to scores [rows].
    probs : Tensor
        Probabilities of all points, as `as_probabilities` returns them.
    width : int
        How many numbers ``score`` holds at once for each point.
    budget : int or None
        Bytes that one block with all that is made from it may take.

    Returns
    -------
    Tensor
        [pool], on the same device; in float32 for half precision.

    Raises
    ------
    DataError
        If a row is negative, NaN or does not sum to one.
    OptionError
        If the budget is too small for one point.
    """
    dtype = working_dtype(probs.dtype)
    size = probs.shape[-2]
    if probs.requires_grad and torch.is_grad_enabled():
        # Derivatives by the points are for a few of them, in one block.
        check_rows(probs.detach(), TOLERANCE[probs.dtype])
        return score(probs.to(dtype))
    found = torch.empty(size, dtype=dtype, device=probs.device)
    own = probs.numel() // size
    # The check sums rows of a copy; half precision is copied once more.
    bytes_each = dtype.itemsize * (width + 2 * own + own * (dtype != probs.dtype))
    with torch.no_grad():
        for part in slices(size, bytes_each, budget, probs.device):
            block = probs[..., part, :].to(dtype)
            check_rows(block, TOLERANCE[probs.dtype], part.start)
            found[part] = score(block)
    return found


def check_rows(block: Tensor, tolerance: float, start: int = 0, name: str = "probs") -> None:
    """Raise a `DataError` unless all rows [..., classes] are probabilities.

    Parameters
    ----------
    block : Tensor
        [..., rows, classes].
    tolerance : float
        How far from one a sum may be.
    start : int
        Number of the first row, for the error.
    name : str
        For the error.
    """
    # A product with ones sums short rows several times faster than a sum does.
    total = block @ block.new_ones(block.shape[-1])
    low, high = total.aminmax()
    smallest, least, most = torch.stack([block.amin(), low, high]).tolist()
    if smallest >= 0 and 1 - least <= tolerance and most - 1 <= tolerance:
        return
    wrong = ~((block >= 0).all(-1) & ((total - 1).abs() <= tolerance))
    where = wrong.nonzero()[0].tolist()
    draw = f" of draw {where[0]}" if len(where) > 1 else ""
    row = ", ".join(f"{value:.6g}" for value in block[tuple(where)][:5].tolist())
    more = ", ..." if block.shape[-1] > 5 else ""
    raise DataError(
        f"{name} must be probabilities, at least 0 and summing to one over the classes; "
        f"point {start + where[-1]}{draw} has [{row}{more}]"
    )


def minus_plogp(p: Tensor, out: Tensor | None = None) -> Tensor:
    """−p log p, and 0 where p is 0; several times as fast as `torch.special.entr` on a CPU."""
    tiny = torch.finfo(p.dtype).tiny
    return torch.clamp(p, min=tiny, out=out).log_().mul_(p).neg_()


def _first(mask: Tensor) -> int:
    return int(mask.nonzero()[0, 0])
