"""Logarithms of probabilities of which some are zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Stands for the logarithm of zero, whose product with a feature of zero is not a number.
IMPOSSIBLE = -1e30


def safe_log(probability: Tensor) -> Tensor:
    """Elementwise log with log 0 = −inf and a derivative of 0 there.

    With the plain derivative 1/0, the count 0 of an impossible event would turn into 0 · ∞ = nan;
    with this one, probability × derivative is the count in every cell, to any order of derivative.
    """
    return _log_or(probability, -math.inf)


def log_or_impossible(probability: Tensor) -> Tensor:
    """`safe_log` for logarithms that are multiplied by features; log 0 is `IMPOSSIBLE`."""
    return _log_or(probability, IMPOSSIBLE)


def _log_or(probability: Tensor, otherwise: float) -> Tensor:
    positive = probability > 0
    return torch.where(positive, torch.where(positive, probability, 1.0).log(), otherwise)
