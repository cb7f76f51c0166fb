"""Learning a classifier from a crowd's labels, together with how each annotator errs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pyro
import torch
from torch import Tensor

from likely.models.crowd._classifier import (
    WithClassifier,
    checked_classifier,
    linear_start,
)
from likely.models.crowd._priors import check_classes
from likely.models.crowd._program import Sites
from likely.models.crowd._start import counts_at, normalised, shares_at_start
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.dawid_skene import DawidSkene
from likely.models.softmax import SoftmaxRegression


@dataclass(frozen=True, eq=False)
class LearningFromCrowds(WithClassifier):
    r"""A classifier says what a task is likely to be, and annotators err as in `DawidSkene`.

    .. math:: t_i \sim \mathrm{Categorical}(\mathrm{softmax}(\text{intercept} +
              \text{coefficients} \, x_i)), \qquad
              y_{il} \sim \mathrm{Categorical}(\text{confusion}_{l, t_i})

    (Raykar et al. 2010, JMLR 11, sections 2 and 3, who write it for two classes and name several.)
    Classifier and tables are learnt together: where labels are few or poor, what the features say
    of a task helps to judge its annotators, and the judged labels train the classifier.

    Parameters
    ----------
    n_classes
        Number of classes K ≥ 2, true and reported.
    classifier
        `SoftmaxRegression`, for its priors and options; by default with its own defaults. Or a
        torch module from features [n, d] to scores [n, K]: its parameters have no prior
        (``pyro.module``; `MLE`, `MAP`, `EM` and `SVI` fit them), and a `PyroModule` brings its own.
        A module should not draw random numbers when it is called (dropout).
    confusion_prior
        Dirichlet concentrations of confusion rows, as in `DawidSkene`.

    Raises
    ------
    DataError
        For a size or prior out of range and a classifier of another kind or size; when called, for
        annotations without features, with features that are not finite, or of another size.

    Notes
    -----
    Sites: ``intercept`` [K] and ``coefficients`` [K, d], or the module's (``classifier$$$...``);
    ``confusion`` [L, K, K] (plate ``annotator``); and the observed ``labels`` [n_labels] (plate
    ``task``). The discrete latent ``truth`` is summed out by the labels' distribution
    (`LatentTruth`). Tasks without labels add nothing to the fit. Scores may all move by the same
    amount without a change; the priors centre what is left, so that MAP has one answer and MLE,
    for which the start decides, has not.

    Standardise the features, or narrow the priors: ``SoftmaxRegression(2,
    coefficients_scale=0.1)``.

    Examples
    --------
    >>> design = Annotations.from_arrays(
    ...     [0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1], features=[[0.5], [-1.0]]
    ... )
    >>> LearningFromCrowds(2)(design).shape
    torch.Size([3])
    """

    n_classes: int
    classifier: SoftmaxRegression | torch.nn.Module | None = None
    confusion_prior: float | Tensor | None = None
    _tables: DawidSkene = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_classes(self.n_classes)
        checked = checked_classifier(self.classifier, self.n_classes)
        object.__setattr__(self, "classifier", checked)
        tables = DawidSkene(self.n_classes, confusion_prior=self.confusion_prior)
        object.__setattr__(self, "_tables", tables)
        object.__setattr__(self, "confusion_prior", tables.confusion_prior)

    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample the classifier's sites and ``confusion`` [L, K, K]."""
        sites = self.sample_classifier(annotations)
        device = str(annotations.task.device)
        with pyro.plate("annotator", annotations.n_annotators, device=device):
            return {**sites, "confusion": self._tables._sample_tables(annotations)}

    def initial(self, annotations: Annotations) -> dict[str, Tensor]:
        """Starting values: confusion from vote shares, as `DawidSkene`, and no use of features.

        Returns
        -------
        dict
            ``confusion`` [L, K, K]; with the linear classifier ``coefficients`` of zero and, as
            ``intercept``, the logarithms of the mean shares. A module starts where it is.
        """
        self._check(annotations)
        shares, informed = shares_at_start(annotations)
        start = {"confusion": normalised(counts_at(shares, annotations))}
        return {**start, **linear_start(self.classifier, annotations, shares[informed])}

    def fixed(self, values: Mapping[str, Tensor]) -> LearningFromCrowds:
        """The program with the values of a module, and no prior of single annotators."""
        return replace(cast(LearningFromCrowds, super().fixed(values)), confusion_prior=None)

    def _check(self, annotations: Any) -> None:
        super()._check(annotations)
        self._tables._check(annotations)
