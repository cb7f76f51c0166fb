"""How good a prediction is, for learning curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.checks import positions, within
from likely.inference.engines.checks import is_number
from likely.inference.errors import OptionError

# From probabilities [n, K] and labels [n] to a number, higher is better.
Metric = Callable[[Tensor, Tensor], float]


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Share of points whose most probable class is the label.

    Examples
    --------
    >>> import torch
    >>> accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
    0.5
    """
    return float((probabilities.argmax(-1) == labels).double().mean())


def log_score(probabilities: Tensor, labels: Tensor) -> float:
    """Mean log-probability of the labels, in nats (Good 1952).

    Examples
    --------
    >>> import torch
    >>> round(log_score(torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([0, 1])), 4)
    -0.6931
    """
    picked = probabilities.gather(-1, labels.long().unsqueeze(-1))
    return float(picked.log().mean())


def measured(metric: Metric, probabilities: Tensor, labels: Tensor) -> float:
    """A metric's value.

    Raises
    ------
    OptionError
        If it is no number.
    """
    value = metric(probabilities, labels)
    if not is_number(value) and getattr(value, "shape", None) == ():
        value = value.item()  # type: ignore[attr-defined]
    if not is_number(value):
        raise OptionError(f"metric must return a number, got {value!r}")
    return float(value)


def as_test(test: Any, n_classes: int) -> tuple[Any, Tensor] | None:
    """Points and labels that a metric is taken of.

    Parameters
    ----------
    test
        ``(x, labels)``, or None.
    n_classes
        Number of classes K.

    Raises
    ------
    DataError
        If it is no such pair, or labels are not classes 0..K−1, one for each point.
    """
    if test is None:
        return None
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise DataError(f"test: expected (x, labels), got {type(test).__name__}")
    x, given = test
    labels = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    if labels.dtype.kind in "bf" and (labels == labels.round()).all():
        labels = labels.astype(np.int64)
    labels = positions(labels, "test labels")
    within(labels, n_classes, "test labels", "the classes")
    if not hasattr(x, "__len__") or len(x) != len(labels) or not len(labels):
        count = len(x) if hasattr(x, "__len__") else type(x).__name__
        raise DataError(
            f"test: expected one label for each of at least one point, got {count} and "
            f"{len(labels)}"
        )
    return x, torch.from_numpy(labels)


METRICS: dict[str, Metric] = {"accuracy": accuracy, "log_score": log_score}


def as_metric(metric: str | Metric) -> Metric:
    """A metric by its name, or itself.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    if callable(metric):
        return metric
    raise OptionError(
        f"metric must be one of {', '.join(METRICS)} or a function of probabilities and labels, "
        f"got {metric!r}"
    )
