"""Labels that are right with a probability of their own, and otherwise evenly wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from likely.envs import DataError
from likely.models._shapes import broadcast_shapes
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.distributions import RaggedLabels


class EvenErrors(TorchDistribution):
    r"""All labels that each task got, given true classes, when errors depend on annotator and task.

    .. math:: p(y_r = j \mid t_i = k) = \sigma(x_r)^{[j = k]}
        \left(\frac{\sigma(-x_r)}{K - 1}\right)^{[j \ne k]}

    for label r of task i (Whitehill et al. 2009, equation 1). As in `RaggedLabels` a value is the
    flat vector of all labels.

    Parameters
    ----------
    log_odds
        Log-odds x that a label is right, ``[*batch, n_labels]``, one for every row of
        ``annotations``.
    annotations
        Who labelled which task.
    truth
        Integer true classes, broadcastable to ``[*batch, n_tasks]``; enumerated values allowed.

    Raises
    ------
    DataError
        If ``log_odds`` does not fit ``annotations``.

    Examples
    --------
    >>> crowd = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], [1, 1, 0])
    >>> log_odds = torch.tensor([0.9, 0.8, 0.7]).logit()
    >>> EvenErrors(log_odds, crowd, torch.tensor([1, 1])).log_prob(crowd.label).exp()
    tensor([0.7200, 0.3000])
    """

    missing_hint: ClassVar[str] = RaggedLabels.missing_hint
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, log_odds: Tensor, annotations: Annotations, truth: Tensor) -> None:
        if log_odds.shape[-1:] != (len(annotations),):
            raise DataError(
                f"log_odds: expected shape [*batch, {len(annotations)}] for these annotations, "
                f"got {tuple(log_odds.shape)}"
            )
        self.log_odds, self.annotations, self.truth = log_odds, annotations, truth
        shape = broadcast_shapes(truth.shape, log_odds.shape[:-1] + (annotations.n_tasks,))
        super().__init__(shape, Size([len(annotations)]), validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Flat vectors of class indices."""
        top = self.annotations.n_classes - 1
        return constraints.independent(constraints.integer_interval(0, top), 1)

    def expand(self, batch_shape: Sequence[int], _instance: EvenErrors | None = None) -> EvenErrors:
        """The same distribution over a larger batch; nothing is copied."""
        new: EvenErrors = self._get_checked_instance(EvenErrors, _instance)
        new.log_odds, new.annotations, new.truth = self.log_odds, self.annotations, self.truth
        TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every task's labels ``[*batch, n_tasks]`` in nats.

        Parameters
        ----------
        value
            int64 ``[n_labels]``, or ``[*batch, 1, n_labels]``.
        """
        value = value.squeeze(-2) if value.dim() > 1 else value
        rows = self.annotations
        right, wrong = even_logs(self.log_odds, rows.n_classes)
        # Every label stands at its own task's place of the last axis.
        is_right = (
            value == self.truth.expand(self.truth.shape[:-1] + (rows.n_tasks,))[..., rows.task]
        )
        cells = torch.where(is_right, right, wrong)
        total = cells.new_zeros(cells.shape[:-1] + (rows.n_tasks,)).index_add(-1, rows.task, cells)
        return total.expand(broadcast_shapes(total.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a label for every row: the true class, or any other with equal probability.

        Returns
        -------
        Tensor
            int64 ``[n_labels]`` for one crowd; otherwise ``[*sample_shape, *batch_shape[:-1], 1,
            n_labels]``.
        """
        lead = Size(sample_shape) + self.batch_shape[:-1]
        truth = self.truth.expand(lead + self.batch_shape[-1:])
        return evenly_wrong(self.log_odds.sigmoid(), self.annotations, truth)


def even_logs(log_odds: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the right class and of each wrong one; exact far out on both sides."""
    return logsigmoid(log_odds), logsigmoid(-log_odds) - math.log(n_classes - 1)


def evenly_wrong(right: Tensor, annotations: Annotations, truth: Tensor) -> Tensor:
    """Draw a label for every row: the true class, or any other with equal probability.

    Parameters
    ----------
    right
        Probability that a label is right, ``[*batch, n_labels]``.
    annotations
        Who labels which task.
    truth
        True classes, ``[*batch, n_tasks]``.

    Returns
    -------
    Tensor
        int64 ``[n_labels]``, or ``[*batch, 1, n_labels]``.
    """
    true = truth[..., annotations.task]
    shift = torch.randint_like(true, 1, annotations.n_classes)
    other = (true + shift) % annotations.n_classes
    uniform = torch.rand(true.shape, dtype=right.dtype, device=true.device)
    labels = torch.where(uniform < right, true, other)
    return labels.unsqueeze(-2) if labels.dim() > 1 else labels
