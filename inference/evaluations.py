"""Evaluations of a search: remembered where they are asked for again, and how they scatter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from likely.inference.curvature import MOST_ROWS

Evaluation = tuple[float, torch.Tensor]


class Cached:
    """Remembers the latest evaluations, and answers for points where the function overflows.

    torch's L-BFGS asks again for the point it accepted, and its line search cannot interpolate
    through an infinity: beyond the domain it is shown a bowl around the last good point, so it
    steps back.
    """

    def __init__(self, function: Callable[[torch.Tensor], Evaluation]) -> None:
        self._function = function
        self._seen: list[tuple[torch.Tensor, Evaluation]] = []
        self.anchor: tuple[torch.Tensor, float] | None = None
        self.blocked = False

    def __call__(self, x: torch.Tensor) -> Evaluation:
        """Value and gradient [n] at a point [n]."""
        for point, result in reversed(self._seen):
            if torch.equal(point, x):
                return result
        value, gradient = self._function(x)
        finite = value == value and abs(value) != float("inf")
        if self.anchor is not None and not (finite and bool(torch.isfinite(gradient).all())):
            self.blocked = True
            base, height = self.anchor
            away = x - base
            steepness = (1.0 + abs(height)) / float(away.square().sum().clamp_min(1e-300))
            value = height + 1.0 + abs(height)
            gradient = 2.0 * steepness * away
        result = value, gradient
        self._seen = [*self._seen[-7:], (x.clone(), result)]
        return result


class Moments:
    """Running covariance of vectors, its diagonal only where they are long."""

    def __init__(self, size: int) -> None:
        self._square = size <= MOST_ROWS
        self._count = 0
        self._first: torch.Tensor | float = 0.0
        self._second: torch.Tensor | float = 0.0

    def add(self, vector: torch.Tensor) -> None:
        """Count one vector."""
        self._count += 1
        self._first = self._first + vector
        self._second = self._second + (torch.outer(vector, vector) if self._square else vector**2)

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"count": self._count, "first": self._first, "second": self._second}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from another's `state`."""
        self._count, self._first, self._second = state["count"], state["first"], state["second"]

    def covariance(self) -> torch.Tensor | None:
        """Covariance [n, n], or variances [n]; ``None`` of fewer than two vectors."""
        if self._count < 2:
            return None
        mean = torch.as_tensor(self._first) / self._count
        product = torch.outer(mean, mean) if self._square else mean**2
        return torch.as_tensor(self._second) / self._count - product
