"""Rows of binary features or of counts, given the class of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.util import ignore_jit_warnings
from torch import Size, Tensor
from torch.distributions import constraints

from likely.models._shapes import broadcast_shapes


class ClassFeatures(dist.TorchDistribution):
    """What the two families share: the log-density of every row in every class is one product.

    Parameters
    ----------
    probabilities
        Probabilities ``[*batch, K, D]`` of the features in each class. Cells of 0 and 1 are
        allowed: log 0 = -inf only where such an event occurred, and its derivative is 0.
    label
        Integer classes, broadcastable to ``[*batch, n]``; enumerated ones ``[K, 1, ..., 1]``
        cost no more than one.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    _copied: ClassVar[tuple[str, ...]] = ("probabilities", "label")

    def __init__(
        self, probabilities: Tensor, label: Tensor, validate_args: bool | None = None
    ) -> None:
        # Plates outside that vectorise the program leave the rows' dimension at one.
        self.probabilities = (
            probabilities if probabilities.dim() == 2 else probabilities.squeeze(-3)
        )
        self.label = label
        outside = self.probabilities.shape[:-2]
        batch_shape = broadcast_shapes(label.shape, (*outside, 1) if outside else ())
        super().__init__(batch_shape, probabilities.shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: ClassFeatures | None = None
    ) -> ClassFeatures:
        """The same distribution over a larger batch; nothing is copied."""
        new: ClassFeatures = self._get_checked_instance(type(self), _instance)
        for name in self._copied:
            setattr(new, name, getattr(self, name))
        dist.TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, False)
        new._validate_args = self._validate_args
        return new

    @ignore_jit_warnings()
    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of rows ``value`` ``[*sample, n, D]``, shape ``[*sample, *batch]``."""
        if self._validate_args:
            self._validate_sample(value)
        by_class = self._by_class(value)
        chosen = at_class(by_class, self.label)
        shape = broadcast_shapes(chosen.shape, self.batch_shape)
        return chosen if chosen.shape == shape else chosen.expand(shape)

    def _by_class(self, value: Tensor) -> Tensor:
        """Log-density of every row in every class, ``[*batch, n, K]``."""
        raise NotImplementedError

    def _drawn(self, sample_shape: Sequence[int]) -> Tensor:
        """Probabilities ``[*sample, *batch, D]`` of the class of each row."""
        shape = Size(sample_shape) + self.batch_shape
        label = self.label.expand(shape).unsqueeze(-1)
        return self.probabilities.expand(*shape[:-1], -1, -1).take_along_dim(label, -2)


class ClassBernoulli(ClassFeatures):
    """Independent binary features, with probabilities that depend on the row's class.

    Examples
    --------
    >>> probabilities = torch.tensor([[0.5, 1.0], [0.25, 0.5]])
    >>> rows = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    >>> ClassBernoulli(probabilities, torch.tensor([0, 1])).log_prob(rows).exp()
    tensor([0.5000, 0.3750])
    """

    support = constraints.independent(constraints.boolean, 1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw rows ``[*sample, *batch, D]`` of zeros and ones."""
        with torch.no_grad():
            return torch.bernoulli(self._drawn(sample_shape))

    def _by_class(self, value: Tensor) -> Tensor:
        yes, never = finite_log(self.probabilities)
        no, always = finite_log(1 - self.probabilities)
        table = value @ (yes - no).mT + no.sum(-1).unsqueeze(-2)
        if bool(never.any() | always.any()):
            broken = value @ never.to(value).mT + (1 - value) @ always.to(value).mT
            table = table.masked_fill(broken > 0, -torch.inf)
        return table


class ClassMultinomial(ClassFeatures):
    """Counts of a known total, with probabilities that depend on the row's class.

    Parameters
    ----------
    probabilities, label
        As in `ClassFeatures`; each row of ``probabilities`` sums to one.
    like
        What a draw is like: rows ``[n, D]`` whose totals it takes, or one total for all.

    Examples
    --------
    >>> probabilities = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    >>> rows = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> ClassMultinomial(probabilities, torch.tensor([0, 1]), 2).log_prob(rows).exp()
    tensor([0.5000, 0.5625])
    """

    support = constraints.independent(constraints.nonnegative_integer, 1)
    _copied = ("probabilities", "label", "like")

    def __init__(
        self,
        probabilities: Tensor,
        label: Tensor,
        like: int | Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.like = like
        super().__init__(probabilities, label, validate_args)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw rows ``[*sample, *batch, D]`` of counts."""
        with torch.no_grad():
            probabilities = self._drawn(sample_shape)
            flat = probabilities.reshape(-1, probabilities.shape[-1])
            like = self.like
            total = like.sum(-1) if isinstance(like, Tensor) else flat.new_tensor(like)
            total = total.expand(probabilities.shape[:-1]).reshape(-1)
            most = max(int(total.max()), 1)
            drawn = torch.multinomial(flat, most, replacement=True)
            counted = torch.arange(most, device=flat.device) < total.unsqueeze(-1)
            counts = torch.zeros_like(flat).scatter_add_(1, drawn, counted.to(flat))
            return counts.reshape(probabilities.shape)

    def _by_class(self, value: Tensor) -> Tensor:
        logs, never = finite_log(self.probabilities)
        table = value @ logs.mT + log_arrangements(value).unsqueeze(-1)
        if bool(never.any()):
            table = table.masked_fill(value @ never.to(value).mT > 0, -torch.inf)
        return table


def finite_log(probability: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms with 0 in place of log 0, and where that is.

    A product with a count of 0 is then 0, and probability times derivative is the count in
    every cell.
    """
    zero = probability <= 0
    return torch.where(zero, 1.0, probability).log(), zero


def log_arrangements(counts: Tensor) -> Tensor:
    """Logarithm of the multinomial coefficient of each row, ``[*sample, n]`` from ``[..., D]``."""
    flat = counts.reshape(-1, counts.shape[-1])
    # Most counts of documents are 0 or 1, whose factorial is 1.
    row, column = torch.nonzero(flat > 1, as_tuple=True)
    total = torch.lgamma(flat.sum(-1) + 1)
    return total.index_add(0, row, -torch.lgamma(flat[row, column] + 1)).reshape(counts.shape[:-1])


def at_class(table: Tensor, label: Tensor) -> Tensor:
    """Entries of ``table`` ``[*batch, n, K]`` at classes, of the shape both broadcast to."""
    n_classes, depth = table.shape[-1], table.dim() - 1
    if label.dim() > depth and label.shape[0] == label.numel() == n_classes:
        every = torch.arange(n_classes, device=label.device)
        if torch.equal(label.reshape(-1), every):  # all classes in order: a view will do
            ones = (1,) * (label.dim() - 1 - depth)
            return table.movedim(-1, 0).reshape(n_classes, *ones, *table.shape[:-1])
    shape = broadcast_shapes(label.shape, table.shape[:-1])
    picked: Tensor = table.expand(*shape, n_classes).gather(-1, label.expand(shape).unsqueeze(-1))
    return picked.squeeze(-1)
