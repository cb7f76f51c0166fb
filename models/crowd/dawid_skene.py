"""Crowd labels with one confusion matrix per annotator (Dawid & Skene 1979)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.util import ignore_jit_warnings
from torch import Tensor

from likely.envs import DataError
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.distributions import RaggedLabels

# Shapes that an argument may have, with their names; -1 is any length.
_Shapes = Sequence[tuple[tuple[int, ...], str]]


@dataclass(frozen=True, eq=False)
class DawidSkene:
    """Every task has a true class, and every annotator errs in their own way.

    Task i has true class t_i ~ Categorical(prevalence); annotator l reports class j for a task of
    class k with probability confusion[l, k, j], independently of all other labels (Dawid & Skene
    1979, Applied Statistics 28(1), section 2). True classes are plain discrete sites; where the
    annotations know some of them, the program conditions on these.

    Parameters
    ----------
    n_classes
        Number of classes K ≥ 2, true and reported.
    prevalence_prior
        Dirichlet concentration: a positive number or [K], as a tensor, array or list.
    confusion_prior
        Dirichlet concentrations of confusion rows: a positive number, [K, K] or [L, K, K]. By
        default 3 + 1/K on the diagonal and 1 + 1/K off it. The weak belief that annotators are
        right more often than not tells the classes apart, which the likelihood, the same under any
        relabelling of the true classes, cannot do.

    Raises
    ------
    DataError
        For a size or prior out of range; when called, for annotations of another size or
        something else than `Annotations`.

    Notes
    -----
    Sites: ``prevalence`` [K], ``confusion`` [L, K, K] (plate ``annotator``), ``truth`` (plate
    ``task``, discrete) and the observed ``labels``, one flat vector [n_labels] whose log-density
    has one entry per task. Known true classes are observed at ``truth`` if all are known, and at a
    further site ``gold`` otherwise.

    Examples
    --------
    >>> design = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1])
    >>> design.with_labels(DawidSkene(2)(design))
    Annotations(3 labels, 2 tasks, 2 annotators, 2 classes)
    """

    n_classes: int
    prevalence_prior: float | Tensor = 1.0
    confusion_prior: float | Tensor | None = None

    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prevalence": ("class",),
        "confusion": ("class", "reported"),
        "labels": ("annotation",),
        "truth": ("class",),
    }

    def __post_init__(self) -> None:
        k = self.n_classes
        if not isinstance(k, Integral) or k < 2:
            raise DataError(f"n_classes: expected an integer of at least 2, got {k!r}")
        shapes: _Shapes = (((), "a number"), ((k,), f"[{k}]"))
        prior = _checked_prior(self.prevalence_prior, "prevalence_prior", shapes)
        object.__setattr__(self, "prevalence_prior", prior)
        shapes = (((), "a number"), ((k, k), f"[{k}, {k}]"), ((-1, k, k), f"[L, {k}, {k}]"))
        if self.confusion_prior is not None:
            prior = _checked_prior(self.confusion_prior, "confusion_prior", shapes)
            object.__setattr__(self, "confusion_prior", prior)

    def __call__(self, annotations: Annotations) -> Tensor:
        """Run the program; labels that ``annotations`` lack are simulated.

        Returns
        -------
        Tensor
            int64 [n_labels]: the labels, observed or simulated.

        Raises
        ------
        DataError
            If the numbers of classes or annotators differ, or if a design without labels knows the
            true classes of some tasks but not of all.
        """
        self._check(annotations)
        device = str(annotations.task.device)
        n_tasks, n_known = annotations.n_tasks, annotations.n_known
        prevalence_prior, confusion_prior = self._priors(annotations)
        prevalence = pyro.sample("prevalence", dist.Dirichlet(prevalence_prior))
        with pyro.plate("annotator", annotations.n_annotators, device=device):
            confusion = pyro.sample("confusion", dist.Dirichlet(confusion_prior).to_event(1))
        with pyro.plate("task", n_tasks, device=device) as index:
            batch = annotations
            with ignore_jit_warnings():
                if index is not None and len(index) < n_tasks:
                    batch = annotations.subset(index)
            known = batch.truth
            prior = dist.Categorical(prevalence)
            truth = pyro.sample("truth", prior, obs=known if n_known == n_tasks else None)
            if known is not None and 0 < n_known < n_tasks:
                # A known class is a report without error.
                report = dist.Delta(truth).mask(known >= 0)
                pyro.sample("gold", report, obs=known.clamp(min=0))
            likelihood = RaggedLabels(confusion, batch, truth)
            labels: Tensor = pyro.sample("labels", likelihood, obs=batch.label)
        return labels

    def initial(self, annotations: Annotations) -> dict[str, Tensor]:
        """Starting values: the M-step from vote shares.

        Each label counts as a vote, and a task's vote shares stand in for its class probabilities;
        known true classes replace the votes. Tables may hold zeros.

        Returns
        -------
        dict
            ``prevalence`` [K]: the mean share over tasks with votes; ``confusion`` [L, K, K]: each
            annotator's labels weighted by the shares of their tasks, rows normalised, and uniform
            where none of the annotator's tasks has a share of the row's class.
        """
        self._check(annotations)
        shares = annotations.vote_shares()
        informed = torch.bincount(annotations.task, minlength=annotations.n_tasks) > 0
        if annotations.truth is not None:
            known = annotations.truth >= 0
            shares[known] = torch.eye(self.n_classes).to(shares)[annotations.truth[known]]
            informed = informed | known
        counts = annotations.label_counts.product(shares, transposed=True)
        counts = counts.reshape(annotations.n_annotators, self.n_classes, self.n_classes).mT
        total = counts.sum(-1, keepdim=True)
        confusion = torch.where(
            total > 0, counts / torch.where(total > 0, total, 1.0), 1 / self.n_classes
        )
        return {"prevalence": shares[informed].mean(0), "confusion": confusion.contiguous()}

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

    def _priors(self, annotations: Annotations) -> tuple[Tensor, Tensor]:
        k = self.n_classes
        options: dict[str, Any] = {
            "dtype": torch.get_default_dtype(),
            "device": annotations.task.device,
        }

        def filled(prior: float | Tensor, *shape: int) -> Tensor:
            if isinstance(prior, Tensor) and prior.dim():
                return prior.to(**options)
            return torch.full(shape, float(prior), **options)

        prevalence = filled(self.prevalence_prior, k)
        if self.confusion_prior is None:
            return prevalence, 1 + 1 / k + 2 * torch.eye(k, **options)
        return prevalence, filled(self.confusion_prior, k, k)

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
        prior = self.confusion_prior
        if (
            isinstance(prior, Tensor)
            and prior.dim() == 3
            and len(prior) != annotations.n_annotators
        ):
            raise DataError(
                f"annotations: expected {len(prior)} annotators, as confusion_prior has, "
                f"got {annotations.n_annotators}"
            )
        if annotations.label is None and 0 < annotations.n_known < annotations.n_tasks:
            raise DataError(
                "annotations: expected a design without labels to know the truth of all tasks or "
                f"of none, got {annotations.n_known} of {annotations.n_tasks}"
            )


def _checked_prior(value: Any, name: str, shapes: _Shapes) -> float | Tensor:
    """A prior's concentrations as a number or a tensor."""
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
