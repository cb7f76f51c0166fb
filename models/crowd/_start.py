"""Where searches start: votes in the place of the true classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from likely.models.crowd._program import CrowdProgram
from likely.models.crowd.annotations import Annotations


class FromVotes(CrowdProgram):
    """A start at vote shares, made of sums over tasks: those of parts of the data add up."""

    def initial_statistics(self, annotations: Annotations) -> dict[str, Tensor]:
        """Sums over tasks that a start is made of, so that those of parts of the data add up.

        Each label counts as a vote, and a task's vote shares stand in for its class probabilities;
        known true classes replace the votes.

        Returns
        -------
        dict
            ``prevalence`` [K]: shares added over tasks with votes; ``reports`` [L, K, K]: each
            annotator's labels weighted by the shares of their tasks.
        """
        self._check(annotations)
        shares, informed = shares_at_start(annotations)
        return {"prevalence": shares[informed].sum(0), "reports": counts_at(shares, annotations)}

    @abstractmethod
    def initial_from(self, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Starting values from `initial_statistics`."""

    def initial(self, annotations: Annotations) -> dict[str, Tensor]:
        """Starting values: those that `initial_from` makes of vote shares.

        A row is uniform where nothing is known of it.
        """
        return self.initial_from(self.initial_statistics(annotations))


def shares_at_start(annotations: Annotations) -> tuple[Tensor, Tensor]:
    """Class probabilities of tasks that stand in for the truth at the start.

    Each label counts as a vote; known true classes replace the votes.

    Returns
    -------
    shares : Tensor
        ``[n_tasks, K]``.
    informed : Tensor
        bool ``[n_tasks]``: whether anything is known of the task.
    """
    shares = annotations.vote_shares()
    informed = torch.bincount(annotations.task, minlength=annotations.n_tasks) > 0
    if annotations.truth is not None:
        known = annotations.truth >= 0
        shares[known] = torch.eye(annotations.n_classes).to(shares)[annotations.truth[known]]
        informed = informed | known
    return shares, informed


def counts_at(shares: Tensor, annotations: Annotations) -> Tensor:
    """Expected counts ``[L, K, J]`` of reports, given class probabilities ``[n_tasks, K]``."""
    counts = annotations.label_counts.product(shares, transposed=True)
    k = annotations.n_classes
    return counts.reshape(annotations.n_annotators, k, k).mT


def normalised(counts: Tensor) -> Tensor:
    """Rows of counts as probabilities; uniform where there are none."""
    total = counts.sum(-1, keepdim=True)
    shares = counts / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, shares, 1 / counts.shape[-1]).contiguous()
