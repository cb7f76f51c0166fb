"""The distribution of a crowd's ragged labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.util import ignore_jit_warnings
from torch import Size, Tensor
from torch.distributions import constraints

from likely.envs import DataError
from likely.models._logarithms import safe_log
from likely.models._shapes import broadcast_shapes
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.kernels import LabelCounts, label_log_density


class RaggedLabels(TorchDistribution):
    r"""All labels that each task got, given the tasks' true classes.

    .. math:: \log p(y_i \mid t_i = k) = \sum_{(l, j) \in y_i} \log \pi_{l k j}

    (Dawid & Skene 1979, section 2; no multinomial coefficient, as rows are ordered.) One event is
    one task's labels. Tasks own different numbers of labels, so a value is the *flat* vector of all
    labels, one entry per row of ``annotations``, that the tasks share: shape [n_labels], of which
    task i reads its own rows. The event shape is (n_labels,) and the task axis of a value is
    broadcast, so memory stays linear in the number of labels.

    Parameters
    ----------
    confusion
        [*batch, L, K, J]: rows π[l, k, :] are annotator l's probabilities of each reported class
        for a task of class k. L may be 1, a table shared by all annotators. Zeros are allowed: a
        label of probability 0 gives −inf, and never nan, in value and in derivatives.
    annotations
        Who labelled which task. Observed labels are recognised, and their counts taken from it.
    truth
        Integer true classes, broadcastable to [*batch, n_tasks]; enumerated values [K, 1, …, 1]
        cost no more than one.

    Raises
    ------
    DataError
        If ``confusion`` does not fit ``annotations``.

    Examples
    --------
    >>> crowd = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], [1, 1, 0])
    >>> confusion = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).expand(2, 2, 2)
    >>> RaggedLabels(confusion, crowd, torch.tensor([1, 0])).log_prob(crowd.label).exp()
    tensor([0.6400, 0.9000])
    """

    # What an engine says of a site that lacks its data.
    missing_hint: ClassVar[str] = (
        "The annotations are a design without labels: give them the labels with "
        "annotations.with_labels(label), or build them with label="
    )

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "confusion": constraints.independent(constraints.simplex, 2),
        "truth": constraints.nonnegative_integer,
    }

    @ignore_jit_warnings()
    def __init__(
        self,
        confusion: Tensor,
        annotations: Annotations,
        truth: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        if confusion.dim() < 3:
            raise DataError(
                f"confusion: expected shape [*batch, L, K, J], got {tuple(confusion.shape)}"
            )
        n_annotators, n_labels = confusion.shape[-3], confusion.shape[-1]
        if n_annotators not in (1, annotations.n_annotators) or n_labels != annotations.n_classes:
            raise DataError(
                f"confusion: expected shape [*batch, {annotations.n_annotators}, K, "
                f"{annotations.n_classes}] for these annotations, got {tuple(confusion.shape)}"
            )
        self.confusion = confusion
        self.annotations = annotations
        self.truth = truth
        batch_shape = broadcast_shapes(truth.shape, confusion.shape[:-3] + (annotations.n_tasks,))
        super().__init__(batch_shape, Size([len(annotations)]), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Flat vectors of class indices."""
        return constraints.independent(
            constraints.integer_interval(0, self.annotations.n_classes - 1), 1
        )

    def expand(
        self, batch_shape: Sequence[int], _instance: RaggedLabels | None = None
    ) -> RaggedLabels:
        """The same distribution over a larger batch; nothing is copied."""
        new: RaggedLabels = self._get_checked_instance(RaggedLabels, _instance)
        new.confusion, new.annotations, new.truth = self.confusion, self.annotations, self.truth
        batch_shape = Size(batch_shape)
        torch.broadcast_to(
            torch.empty(()).expand(self.batch_shape), batch_shape
        )  # raises on a misfit
        super(RaggedLabels, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @ignore_jit_warnings()
    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every task's labels.

        Parameters
        ----------
        value
            int64 [n_labels], or [*batch, 1, n_labels]: flat vectors of reported classes, in the row
            order of the annotations.

        Returns
        -------
        Tensor
            [*batch_shape] in nats, the last axis being the tasks; 0 for a task without labels.
        """
        if value.shape[-1:] != self.event_shape or (value.dim() > 1 and value.shape[-2] != 1):
            raise ValueError(
                f"value: expected shape [{self.event_shape[0]}] or [*batch, 1, "
                f"{self.event_shape[0]}], got {tuple(value.shape)}"
            )
        lead = broadcast_shapes(value.shape[:-2], self.confusion.shape[:-3])
        if value.shape[:-2].numel() == 1:
            table = label_log_density(self._counts(value), safe_log(self.confusion))
            table = table.reshape(lead + table.shape[-2:])
        else:  # several crowds of labels, as drawn with a sample shape: one sparse matrix each
            values = (
                value.squeeze(-2).expand(lead + self.event_shape).reshape(-1, *self.event_shape)
            )
            logs = safe_log(self.confusion).expand(lead + self.confusion.shape[-3:])
            logs = logs.reshape(-1, *self.confusion.shape[-3:])
            tables = [
                label_log_density(self._counts(v), log) for v, log in zip(values, logs, strict=True)
            ]
            table = torch.stack(tables).reshape(lead + tables[0].shape)
        selected = _select_class(table, self.truth)
        shape = broadcast_shapes(selected.shape, self.batch_shape)
        return selected if selected.shape == shape else selected.expand(shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a label for every row of the annotations.

        Returns
        -------
        Tensor
            int64 [n_labels] for one crowd; otherwise [*sample_shape, *batch_shape[:-1], 1,
            n_labels].
        """
        lead = Size(sample_shape) + self.batch_shape[:-1]
        rows = self.annotations
        truth = self.truth.expand(lead + self.batch_shape[-1:])[..., rows.task]
        n_annotators, n_classes, n_labels = self.confusion.shape[-3:]
        flat = self.confusion.reshape(
            self.confusion.shape[:-3] + (n_annotators * n_classes, n_labels)
        )
        row = truth if n_annotators == 1 else rows.annotator * n_classes + truth
        probability = flat.expand(lead + flat.shape[-2:]).take_along_dim(row.unsqueeze(-1), dim=-2)
        labels = torch.multinomial(probability.reshape(-1, n_labels), 1).reshape(row.shape)
        return labels.unsqueeze(-2) if lead else labels

    def _counts(self, value: Tensor) -> LabelCounts:
        return counts_of(self.annotations, value)


def counts_of(annotations: Annotations, value: Tensor) -> LabelCounts:
    """Counts of labels ``value``; those of the annotations where they are the observed ones."""
    observed = annotations.label
    if observed is not None and _same_memory(value, observed):
        return annotations.label_counts
    return annotations.with_labels(value).label_counts


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    return one.data_ptr() == other.data_ptr() and one.stride(-1) == other.stride(-1)


def _select_class(table: Tensor, truth: Tensor) -> Tensor:
    """Entries [*enumerated, *batch, n_tasks] of ``table`` [*batch, n_tasks, K] at ``truth``."""
    n_classes, n_batch = table.shape[-1], table.dim() - 1
    if truth.dim() > n_batch and truth.shape[0] == truth.numel() == n_classes:
        every = torch.arange(n_classes, device=truth.device)
        if torch.equal(truth.reshape(-1), every):  # all classes in order: a view will do
            ones = (1,) * (truth.dim() - 1 - n_batch)
            return table.movedim(-1, 0).reshape(n_classes, *ones, *table.shape[:-1])
    shape = broadcast_shapes(truth.shape, table.shape[:-1])
    table = table.expand(*shape, n_classes)
    return table.gather(-1, truth.expand(shape).unsqueeze(-1)).squeeze(-1)
