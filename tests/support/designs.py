"""Designs from which programs of several families simulate their data."""

from __future__ import annotations

from collections.abc import Callable

import torch


def covariates(rows: int, columns: int) -> Callable[[], tuple[torch.Tensor]]:
    return lambda: (torch.randn(rows, columns),)


def classes(rows: int, n_classes: int) -> Callable[[], tuple[None, torch.Tensor]]:
    """No features yet, and a class for every row."""
    return lambda: (None, torch.randint(0, n_classes, (rows,)))


# A traced density takes half the time of a step where the program is large.
TRACED = {"nuts": {"jit": True}}


TRACED_SHORT = {"nuts": {"jit": True, "draws": 100}}
