"""What the programs of outcomes without covariates share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models._data import (
    as_outcomes,
    as_size,
    as_weights,
    plate_rows,
    plate_weights,
    row_labels,
)


def outcomes_or_size(value: Any, name: str, n: int | None) -> tuple[Tensor | None, int]:
    """Resolve the arguments of a program without covariates.

    Parameters
    ----------
    value
        Outcomes ``[n]``, or ``None`` to simulate.
    name
        The name of that argument.
    n
        How many outcomes to simulate.

    Returns
    -------
    outcomes : Tensor or None
        Floating-point vector ``[n]``.
    n : int
        Number of observations.

    Raises
    ------
    DataError
        If both arguments are missing or they contradict each other.
    """
    if value is None:
        if n is None:
            raise DataError(f"give {name}, or the number n of observations to simulate")
        return None, as_size(n, "n")
    outcomes = as_outcomes(value, name, None if n is None else as_size(n, "n"))
    return outcomes, len(outcomes)


def reference(y: Tensor | None) -> Tensor:
    """A tensor whose dtype and device the priors take."""
    return torch.empty(()) if y is None else y


@contextmanager
def observation_plate(n: int, like: Tensor, weights: Any = None) -> Iterator[Tensor | slice]:
    """Enter the plate ``observation`` with its rows weighed, and yield what to index data with.

    Parameters
    ----------
    n
        Number of observations.
    like
        Tensor whose dtype and device the weights take.
    weights
        Weights ``[n]`` of at least zero, as the user gave them; ``None`` for none.

    Raises
    ------
    DataError
        As `as_weights`.
    """
    checked = as_weights(weights, n, like)
    with pyro.plate("observation", n, device=str(like.device)) as index:
        rows = plate_rows(index, n, like.device)
        with plate_weights(checked, rows):
            yield rows


def row_weights(weights: Any, y: Tensor) -> Tensor:
    """Weights ``[n]`` of the outcomes, ones where none were given."""
    checked = as_weights(weights, len(y), y)
    return torch.ones_like(y) if checked is None else checked


def weighted_median(y: Tensor, weights: Tensor) -> Tensor:
    """Where the weight on either side is at most a half; the middle if many points are."""
    order = y.argsort()
    below = weights[order].cumsum(0)
    half = below[-1] / 2
    # Sums of weights that are no integers differ in their last digits.
    slack = half * len(y) * torch.finfo(y.dtype).eps
    low = torch.searchsorted(below, half - slack).clamp_max(len(y) - 1)
    high = torch.searchsorted(below, half + slack, right=True).clamp_max(len(y) - 1)
    return (y[order[low]] + y[order[high]]) / 2


class Outcomes:
    """What the programs of outcomes alone have in common."""

    dims: ClassVar[dict[str, tuple[str, ...]]] = {}

    def coords(
        self, y: Any = None, *, n: int | None = None, weights: Any = None
    ) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: the index of ``y`` where it is a pandas Series."""
        return row_labels(y)
