"""Annotators whose skill depends on the task's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from likely.envs import DataError
from likely.models._data import as_matrix
from likely.models._options import check_number
from likely.models.crowd._classifier import (
    WithClassifier,
    checked_classifier,
    features_of,
    linear_start,
)
from likely.models.crowd._newton import logistic_newton
from likely.models.crowd._priors import check_classes
from likely.models.crowd._program import Sites
from likely.models.crowd._start import counts_at, shares_at_start
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.even_errors import EvenErrors
from likely.models.crowd.latent_truth import LatentTruth
from likely.models.softmax import SoftmaxRegression

# How sure of the annotators a start is at most, and how far above chance at least.
_MOST, _ABOVE = 0.95, 0.05
# Most products of two features, over all labels, that Newton's method may hold at once.
_MOST_PRODUCTS = 1 << 24


@dataclass(frozen=True, eq=False)
class FeatureDependentCrowd(WithClassifier):
    r"""A classifier says what a task is likely to be, and who gets it right depends on the task.

    .. math:: t_i \sim \mathrm{Categorical}(\mathrm{softmax}(\text{intercept} +
              \text{coefficients} \, x_i)), \qquad
              P(y_{il} = t_i) = \sigma(b_l + w_l^\top x_i)

    and a wrong label names each other class with equal probability (Yan et al. 2010, AISTATS 9,
    section 2, with their Bernoulli model of annotators; two classes there).

    Parameters
    ----------
    n_classes
        Number of classes K ≥ 2.
    classifier
        As in `LearningFromCrowds`.
    expertise_loc, expertise_scale
        Mean and standard deviation of the normal prior of each b_l. The default expects
        probabilities around σ(1) = 0.73 at x = 0. Annotators who do better than chance tell the
        classes apart: with two of them, all annotators reversed and the classifier too are the same
        likelihood.
    expertise_coefficients_scale
        Standard deviation of the normal prior of each entry of w_l, centred at 0.

    Raises
    ------
    DataError
        As `LearningFromCrowds`.

    Notes
    -----
    Sites: ``intercept`` [K] and ``coefficients`` [K, d], or the module's; ``expertise_intercept``
    [L] and ``expertise_coefficients`` [L, d] (plate ``annotator``), which are b and w; and the
    observed ``labels`` [n_labels] (plate ``task``). The discrete latent ``truth`` is summed out by
    the labels' distribution. An evaluation takes memory for n_labels · d numbers.

    An annotator with few labels has them separated by d features, and MLE finds no finite optimum:
    use a prior (`MAP`, ``EM(objective="posterior")``, `SVI`, `Laplace`, `NUTS`).

    Examples
    --------
    >>> design = Annotations.from_arrays(
    ...     [0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1], features=[[0.5], [-1.0]]
    ... )
    >>> FeatureDependentCrowd(2)(design).shape
    torch.Size([3])
    """

    n_classes: int
    classifier: SoftmaxRegression | torch.nn.Module | None = None
    expertise_loc: float = 1.0
    expertise_scale: float = 1.0
    expertise_coefficients_scale: float = 1.0

    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **WithClassifier.dims,
        "expertise_coefficients": ("feature",),
    }

    def __post_init__(self) -> None:
        check_classes(self.n_classes)
        checked = checked_classifier(self.classifier, self.n_classes)
        object.__setattr__(self, "classifier", checked)
        check_number(self.expertise_loc, "expertise_loc")
        for name in ("expertise_scale", "expertise_coefficients_scale"):
            check_number(getattr(self, name), name, positive=True)

    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample the classifier's sites and those of the annotators."""
        sites = self.sample_classifier(annotations)
        like = features_of(annotations)
        # The scores of such a module stand behind the features, see `WithClassifier.__call__`.
        behind = self.n_classes if isinstance(self.classifier, PyroModule) else 0
        width = like.shape[1] - behind
        with pyro.plate("annotator", annotations.n_annotators, device=str(like.device)):
            level = dist.Normal(like.new_tensor(self.expertise_loc), self.expertise_scale)
            slope = dist.Normal(like.new_zeros(()), self.expertise_coefficients_scale)
            slope = slope.expand([width]).to_event(1)
            return {
                **sites,
                "expertise_intercept": pyro.sample("expertise_intercept", level),
                "expertise_coefficients": pyro.sample("expertise_coefficients", slope),
            }

    def likelihood(self, sites: Sites, batch: Annotations) -> LatentTruth:
        """The distribution of all labels, true classes summed out."""
        prior, log_odds = self.truth_prior(sites, batch), self.log_odds_right(sites, batch)
        return LatentTruth(prior, log_odds, batch, by_label=True, log_odds=True)

    def reports(self, sites: Sites, batch: Annotations, truth: Tensor) -> EvenErrors:
        """The distribution of all labels given true classes ``[n_tasks]``."""
        return EvenErrors(self.log_odds_right(sites, batch), batch, truth)

    def log_odds_right(self, sites: Sites, batch: Annotations) -> Tensor:
        """Log-odds ``[*outside, n_labels]`` that each label is right."""
        rows = features_of(batch)[batch.task]
        slopes = sites["expertise_coefficients"][..., batch.annotator, :]
        if isinstance(self.classifier, PyroModule):
            rows = rows[:, : slopes.shape[-1]]
        levels = sites["expertise_intercept"][..., batch.annotator]
        return (rows * slopes).sum(-1) + levels

    def initial(self, annotations: Annotations) -> dict[str, Tensor]:
        """Starting values: agreement with vote shares, and no use of features.

        Returns
        -------
        dict
            ``expertise_intercept`` [L]: the log-odds of each annotator's share of labels that agree
            with the votes, kept above chance; ``expertise_coefficients`` of zero; the classifier
            as in `LearningFromCrowds`.
        """
        self._check(annotations)
        shares, informed = shares_at_start(annotations)
        counts = counts_at(shares, annotations)
        total = counts.sum((-2, -1))
        agree = counts.diagonal(dim1=-2, dim2=-1).sum(-1) / torch.where(total > 0, total, 1.0)
        agree = agree.clamp(1 / self.n_classes + _ABOVE, _MOST)
        unseen = torch.full_like(agree, self.expertise_loc)
        d = features_of(annotations).shape[1]
        return {
            "expertise_intercept": torch.where(total > 0, agree.logit(), unseen),
            "expertise_coefficients": agree.new_zeros(annotations.n_annotators, d),
            **linear_start(self.classifier, annotations, shares[informed]),
        }

    def m_step(
        self,
        expected: Mapping[str, Any],
        params: Mapping[str, Tensor],
        annotations: Annotations,
        *,
        objective: str,
    ) -> dict[str, Tensor]:
        """Newton steps for each annotator's logistic regression, and for a small classifier."""
        found = super().m_step(expected, params, annotations, objective=objective)
        x = features_of(annotations)
        start = torch.cat(
            [params["expertise_coefficients"], params["expertise_intercept"].unsqueeze(-1)], -1
        )
        if len(annotations) * start.shape[-1] ** 2 > _MOST_PRODUCTS:
            return found
        x = torch.cat([x, x.new_ones(len(x), 1)], -1)
        mean = torch.zeros_like(start[0])
        precision = torch.zeros_like(mean)
        if objective == "posterior":
            mean[-1] = self.expertise_loc
            precision[:-1] = self.expertise_coefficients_scale**-2
            precision[-1] = self.expertise_scale**-2
        counts = expected["labels"]["right"], expected["labels"]["wrong"]
        theta = logistic_newton(
            x[annotations.task], annotations.annotator, counts, start, (mean, precision)
        )
        return {
            **found,
            "expertise_coefficients": theta[:, :-1].contiguous(),
            "expertise_intercept": theta[:, -1].contiguous(),
        }

    def expertise(self, params: Mapping[str, Tensor], x: Any) -> Tensor:
        r"""Probability that each annotator gets tasks of these features right.

        Parameters
        ----------
        params
            A fit's ``params``; or its ``draws`` [chain, draw, \*shape], over which probabilities
            are averaged.
        x
            Features ``[n, d]``.

        Returns
        -------
        Tensor
            ``[n, L]``.

        Raises
        ------
        DataError
            If ``x`` is no finite matrix or has another number of columns than the features of the
            fit, or ``params`` lack a site.
        """
        with torch.no_grad(), pyro.validation_enabled():
            levels = self._value(params, "expertise_intercept")
            slopes = self._value(params, "expertise_coefficients")
            x = as_matrix(x, "x")
            if x.shape[1] != slopes.shape[-1]:
                raise DataError(
                    f"x: expected {slopes.shape[-1]} columns, as the fit has, got {x.shape[1]}"
                )
            found = torch.sigmoid(x.to(slopes) @ slopes.mT + levels.unsqueeze(-2))
            return found.flatten(0, -3).mean(0) if found.dim() > 2 else found
