"""What programs of crowd labels share: reading annotations, the truth, the start, the labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.util import ignore_jit_warnings
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from likely.envs import DataError
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.distributions import RaggedLabels
from likely.models.crowd.latent_truth import LatentTruth

Sites = dict[str, Tensor]


class CrowdProgram(ABC):
    """Every task has a true class, and annotators report it with errors.

    A program says what it samples (`sample_sites`), how true classes come about (`truth_prior`) and
    how annotators err (`errors`). Given labels, the true class is summed out inside one
    distribution, `LatentTruth`; without labels it is drawn at a plain site ``truth``.
    """

    n_classes: int
    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prevalence": ("class",),
        "confusion": ("class", "reported"),
        "labels": ("annotation",),
        "truth": ("class",),
    }

    @abstractmethod
    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample the unknowns."""

    def sample_task_sites(self, sites: Sites, batch: Annotations) -> Sites:
        """Sample the unknowns of single tasks, inside the plate of the tasks."""
        return {}

    def truth_prior(self, sites: Sites, batch: Annotations) -> Tensor:
        """Probabilities of the true classes, ``[*outside, K]`` or ``[n_tasks, K]``."""
        return sites["prevalence"]

    def errors(self, sites: Sites, batch: Annotations) -> Tensor:
        """Probabilities of reported classes, ``[*outside, L, K, J]``; L may be 1."""
        return sites["confusion"]

    def likelihood(self, sites: Sites, batch: Annotations) -> LatentTruth:
        """The distribution of all labels, true classes summed out."""
        return LatentTruth(self.truth_prior(sites, batch), self.errors(sites, batch), batch)

    def reports(self, sites: Sites, batch: Annotations, truth: Tensor) -> Any:
        """The distribution of all labels given true classes ``[n_tasks]``."""
        return RaggedLabels(self.errors(sites, batch), batch, truth)

    def __call__(self, annotations: Annotations) -> Tensor:
        """Run the program; labels that ``annotations`` lack are simulated.

        Returns
        -------
        Tensor
            int64 [n_labels]: the labels, observed or simulated.

        Raises
        ------
        DataError
            If the annotations do not fit the program, or if a design without labels knows the true
            classes of some tasks but not of all.
        """
        self._check(annotations)
        n_tasks = annotations.n_tasks
        sites = self.sample_sites(annotations)
        with pyro.plate("task", n_tasks, device=str(annotations.task.device)) as index:
            batch = annotations
            with ignore_jit_warnings():
                if index is not None and len(index) < n_tasks:
                    batch = annotations.subset(index)
            sites = {**sites, **self.sample_task_sites(sites, batch)}
            if batch.label is None:
                known = batch.truth if batch.n_known == batch.n_tasks else None
                prior = dist.Categorical(self.truth_prior(sites, batch))
                truth = pyro.sample("truth", prior, obs=known)
                drawn: Tensor = pyro.sample("labels", self.reports(sites, batch, truth))
                return drawn
            labels: Tensor = pyro.sample("labels", self.likelihood(sites, batch), obs=batch.label)
        return labels

    def coords(self, annotations: Annotations) -> dict[str, Sequence[Any]]:
        """Labels of every named dimension: the user's own ids."""
        self._check(annotations)
        return {
            "task": annotations.tasks.tolist(),
            "annotator": annotations.annotators.tolist(),
            "class": annotations.classes.tolist(),
            "reported": annotations.classes.tolist(),
            "annotation": range(len(annotations)),
        }

    def review(self, params: Mapping[str, Tensor], annotations: Annotations) -> list[str]:
        """A sentence if the fitted classes look exchanged: reports mostly name another class."""
        if "confusion" not in params or annotations.label is None:
            return []
        table = params["confusion"].detach()
        table = table if table.dim() == 2 else self._average(table, annotations)
        rows, columns = linear_sum_assignment(-table.cpu().numpy())
        moved = rows[rows != columns]
        if len(moved) == 0:
            return []
        pairs = ", ".join(
            f"{annotations.classes[r]} is mostly reported as {annotations.classes[c]}"
            for r, c in zip(rows, columns, strict=True)
            if r != c
        )
        return [
            f"the confusion tables are not diagonal: {pairs}. The likelihood is the same under any "
            "renaming of the true classes, and these may be exchanged; start at vote shares, or "
            "use a prior that favours the diagonal"
        ]

    @staticmethod
    def _average(table: Tensor, annotations: Annotations) -> Tensor:
        """Mean table ``[K, J]``, annotators weighted by their numbers of labels."""
        counts = torch.bincount(annotations.annotator, minlength=len(table)).to(table)
        return torch.einsum("l,lkj->kj", counts / counts.sum(), table)

    def _check(self, annotations: Any) -> None:
        if not isinstance(annotations, Annotations):
            raise DataError(
                f"annotations: expected Annotations, got {type(annotations).__name__}; make them "
                "with Annotations.from_frame or Annotations.from_arrays"
            )
        if annotations.n_classes != self.n_classes:
            raise DataError(
                f"annotations: expected {self.n_classes} classes, got {annotations.n_classes}; if "
                "some were never reported, pass classes= when building the annotations"
            )
        if annotations.label is None and 0 < annotations.n_known < annotations.n_tasks:
            raise DataError(
                "annotations: expected a design without labels to know the truth of all tasks or "
                f"of none, got {annotations.n_known} of {annotations.n_tasks}"
            )


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


# Shapes that an argument may have, with their names; -1 is any length.
Shapes = Sequence[tuple[tuple[int, ...], str]]


def checked_prior(value: Any, name: str, shapes: Shapes) -> float | Tensor:
    """A prior's concentrations as a number or a tensor.

    Raises
    ------
    DataError
        If they are not positive numbers in one of the shapes.
    """
    try:
        prior = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value, float))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: expected numbers, got {value!r}; {error}") from error
    fits = any(
        len(shape) == prior.dim()
        and all(a in (-1, b) for a, b in zip(shape, prior.shape, strict=True))
        for shape, _ in shapes
    )
    if not fits:
        expected = " or ".join(text for _, text in shapes)
        raise DataError(f"{name}: expected {expected}, got shape {list(prior.shape)}")
    if not bool(((prior > 0) & torch.isfinite(prior)).all()):
        raise DataError(f"{name}: expected positive finite concentrations, got {value}")
    return prior if prior.dim() else float(prior)


def filled_prior(prior: float | Tensor, shape: tuple[int, ...], annotations: Annotations) -> Tensor:
    """A prior's concentrations as a tensor, in the dtype of the fit and where the data are."""
    dtype, device = torch.get_default_dtype(), annotations.task.device
    if isinstance(prior, Tensor) and prior.dim():
        return prior.to(dtype=dtype, device=device)
    return torch.full(shape, float(prior), dtype=dtype, device=device)


def check_classes(k: Any) -> None:
    """Raise `DataError` unless ``k`` is an integer of at least 2."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 2:
        raise DataError(f"n_classes: expected an integer of at least 2, got {k!r}")
