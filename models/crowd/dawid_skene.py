"""Crowd labels with one confusion matrix per annotator, one for all, or one number each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models.crowd._priors import WithPrevalence, table_prior
from likely.models.crowd._program import Sites
from likely.models.crowd._start import FromVotes, normalised
from likely.models.crowd.annotations import Annotations


@dataclass(frozen=True, eq=False)
class DawidSkene(WithPrevalence, FromVotes):
    """Every task has a true class, and every annotator errs in their own way.

    Task i has true class t_i ~ Categorical(prevalence); annotator l reports class j for a task of
    class k with probability confusion[l, k, j], independently of all other labels (Dawid & Skene
    1979, Applied Statistics 28(1), section 2). Where the annotations know true classes, the program
    conditions on these.

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
        relabelling of the true classes, cannot do. Yesterday's expected counts plus one, [L, K, K],
        carry over what was learnt about known annotators.

    Raises
    ------
    DataError
        For a size or prior out of range; when called, for annotations of another size or
        something else than `Annotations`.

    Notes
    -----
    Sites: ``prevalence`` [K], ``confusion`` [L, K, K] (plate ``annotator``) and the observed
    ``labels``, one flat vector [n_labels] whose log-density has one entry per task (plate
    ``task``). The discrete latent ``truth`` [n_tasks] is summed out by the labels' distribution
    (`LatentTruth`); a design without labels draws it at a site of that name.

    Examples
    --------
    >>> design = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1])
    >>> design.with_labels(DawidSkene(2)(design))
    Annotations(3 labels, 2 tasks, 2 annotators, 2 classes)
    """

    n_classes: int
    prevalence_prior: float | Tensor = 1.0
    confusion_prior: float | Tensor | None = None

    def __post_init__(self) -> None:
        k = self.n_classes
        self._check_priors(confusion_prior=((), (k, k), (-1, k, k)))

    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample ``prevalence`` [K] and ``confusion`` [L, K, K]."""
        prevalence = self._sample_prevalence(annotations)
        device = str(annotations.task.device)
        with pyro.plate("annotator", annotations.n_annotators, device=device):
            confusion = self._sample_tables(annotations)
        return {"prevalence": prevalence, "confusion": confusion}

    def _sample_tables(self, annotations: Annotations) -> Tensor:
        prior = table_prior(self.confusion_prior, self.n_classes, annotations)
        found: Tensor = pyro.sample("confusion", dist.Dirichlet(prior).to_event(1))
        return found

    def fixed(self, values: Mapping[str, Tensor]) -> DawidSkene:
        """The program without a prior that may be of other annotators."""
        return replace(self, confusion_prior=None)

    def initial_from(self, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shares of the tasks, and of each annotator's labels, as probabilities."""
        return {
            "prevalence": normalised(statistics["prevalence"]),
            "confusion": normalised(statistics["reports"]),
        }

    def _check(self, annotations: Any) -> None:
        super()._check(annotations)
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


@dataclass(frozen=True, eq=False)
class PooledMultinomial(WithPrevalence, FromVotes):
    """Every task has a true class, and all annotators err alike.

    The model of `DawidSkene` with one table for everybody: annotators are interchangeable, as in
    the multinomial model that Passonneau & Carpenter (2014, TACL 2, section 4) start from.

    Parameters
    ----------
    n_classes
        Number of classes K ≥ 2, true and reported.
    prevalence_prior
        Dirichlet concentration: a positive number or [K].
    confusion_prior
        Dirichlet concentrations of confusion rows: a positive number or [K, K]; the default is
        that of `DawidSkene`.

    Raises
    ------
    DataError
        As `DawidSkene`.

    Notes
    -----
    Sites: ``prevalence`` [K], ``confusion`` [K, K] and the observed ``labels`` [n_labels] (plate
    ``task``); discrete latent ``truth`` [n_tasks].

    Examples
    --------
    >>> design = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1])
    >>> PooledMultinomial(2)(design).shape
    torch.Size([3])
    """

    n_classes: int
    prevalence_prior: float | Tensor = 1.0
    confusion_prior: float | Tensor | None = None

    def __post_init__(self) -> None:
        self._check_priors(confusion_prior=((), (self.n_classes, self.n_classes)))

    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample ``prevalence`` [K] and ``confusion`` [K, K]."""
        prevalence = self._sample_prevalence(annotations)
        prior = table_prior(self.confusion_prior, self.n_classes, annotations)
        table = pyro.sample("confusion", dist.Dirichlet(prior).to_event(1))
        return {"prevalence": prevalence, "confusion": table}

    def errors(self, sites: Sites, batch: Annotations) -> Tensor:
        """One table for all, ``[*outside, 1, K, K]``."""
        table = sites["confusion"]
        # Plates outside leave a dimension of one where annotators would be.
        return table.unsqueeze(0) if table.dim() == 2 else table

    def initial_from(self, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shares of the tasks, and of everybody's labels, as probabilities."""
        return {
            "prevalence": normalised(statistics["prevalence"]),
            "confusion": normalised(statistics["reports"].sum(0)),
        }


@dataclass(frozen=True, eq=False)
class OneCoin(WithPrevalence, FromVotes):
    """Every annotator is right with a probability of their own, and errs evenly.

    Annotator l reports the true class with probability ability[l] and each other class with
    probability (1 − ability[l]) / (K − 1): `DawidSkene` with one number for each annotator (the
    "one-coin" model of Zhang, Chen, Zhou & Jordan 2016, JMLR 17, section 2).

    Parameters
    ----------
    n_classes
        Number of classes K ≥ 2.
    prevalence_prior
        Dirichlet concentration: a positive number or [K].
    ability_prior
        Parameters (α, β) of the Beta prior on ``ability``; the default expects two thirds.

    Raises
    ------
    DataError
        As `DawidSkene`.

    Notes
    -----
    Sites: ``prevalence`` [K], ``ability`` [L] (plate ``annotator``), deterministic ``confusion``
    [L, K, K] and the observed ``labels`` [n_labels] (plate ``task``); discrete latent ``truth``.

    Examples
    --------
    >>> design = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1])
    >>> OneCoin(2)(design).shape
    torch.Size([3])
    """

    n_classes: int
    prevalence_prior: float | Tensor = 1.0
    ability_prior: tuple[float, float] = (2.0, 1.0)

    def __post_init__(self) -> None:
        self._check_priors()
        self._check_beta("ability_prior")

    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample ``prevalence`` [K] and ``ability`` [L]."""
        prevalence = self._sample_prevalence(annotations)
        alpha, beta = prevalence.new_tensor(self.ability_prior)
        device = str(annotations.task.device)
        with pyro.plate("annotator", annotations.n_annotators, device=device):
            ability = pyro.sample("ability", dist.Beta(alpha, beta))
            confusion = pyro.deterministic("confusion", self._table(ability), event_dim=2)
        return {"prevalence": prevalence, "confusion": confusion}

    def _table(self, ability: Tensor) -> Tensor:
        k = self.n_classes
        eye = torch.eye(k, dtype=ability.dtype, device=ability.device)
        right = ability[..., None, None]
        return eye * right + (1 - eye) * (1 - right) / (k - 1)

    def initial_from(self, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shares of the tasks, and of labels that agree with the votes."""
        return {
            "prevalence": normalised(statistics["prevalence"]),
            "ability": self._ability(statistics["reports"]),
        }

    def m_step(
        self,
        expected: Mapping[str, Any],
        params: Mapping[str, Tensor],
        annotations: Annotations,
        *,
        objective: str,
    ) -> dict[str, Tensor]:
        """Expected shares of right labels, with the prior's counts for the posterior."""
        counts = expected["labels"]["confusion"]
        more = (0.0, 0.0)
        if objective == "posterior":
            more = (self.ability_prior[0] - 1, self.ability_prior[1] - 1)
        return {"ability": self._ability(counts, more, params["ability"])}

    @staticmethod
    def _ability(
        counts: Tensor, more: tuple[float, float] = (0.0, 0.0), without: Tensor | None = None
    ) -> Tensor:
        right = counts.diagonal(dim1=-2, dim2=-1).sum(-1) + more[0]
        wrong = counts.sum((-2, -1)) + sum(more) - right
        right, wrong = right.clamp_min(0.0), wrong.clamp_min(0.0)
        total = right + wrong
        fallback = torch.full_like(total, 0.5) if without is None else without
        return torch.where(total > 0, right / torch.where(total > 0, total, 1.0), fallback)
