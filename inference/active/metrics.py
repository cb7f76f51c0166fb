"""How good a prediction is, for learning curves."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

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
