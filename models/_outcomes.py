"""What the programs of outcomes without covariates share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from likely.envs import DataError
from likely.models._data import as_outcomes, as_size, plate_rows, row_labels


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


def in_plate(y: Tensor | None, index: Tensor | None) -> Tensor | None:
    """Outcomes at a plate's indices, or None where there are none."""
    return None if y is None else y[plate_rows(index, len(y), y.device)]


class Outcomes:
    """What the programs of outcomes alone have in common."""

    dims: ClassVar[dict[str, tuple[str, ...]]] = {}

    def coords(self, y: Any = None, *, n: int | None = None) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: the index of ``y`` where it is a pandas Series."""
        return row_labels(y)
