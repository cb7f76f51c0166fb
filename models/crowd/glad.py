"""Crowd labels whose errors depend on the annotator's ability and the task's easiness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.models.crowd._priors import WithPrevalence, checked_normal
from likely.models.crowd._program import CrowdProgram, Sites
from likely.models.crowd._start import counts_at, shares_at_start
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.even_errors import EvenErrors
from likely.models.crowd.latent_truth import LatentTruth


@dataclass(frozen=True, eq=False)
class GLAD(WithPrevalence):
    """Some annotators are better than others, and some tasks are easier.

    Annotator l reports the true class of task i with probability σ(ability[l] · easiness[i]) and
    each other class with equal probability (Whitehill, Ruvolo, Wu, Bergsma & Movellan 2009, NIPS
    22, section 2). An ability below zero is an adversary's; a task of easiness near zero is a toss
    for everybody.

    Parameters
    ----------
    n_classes
        Number of classes K ≥ 2.
    prevalence_prior
        Dirichlet concentration: a positive number or [K]. By default no class is more frequent than
        another, as in the paper: where labels disagree, rare classes and hard tasks explain it
        equally well, and an estimated prevalence tends to empty a class.
    ability_prior
        Mean and standard deviation of the normal prior on ``ability``.
    easiness_prior
        Mean and standard deviation of the logarithm of ``easiness``. The defaults are those of the
        paper.

    Raises
    ------
    DataError
        For a size or prior out of range; when called, for annotations of another size or something
        else than `Annotations`.

    Notes
    -----
    Sites: ``prevalence`` [K] (deterministic where it is even), ``ability`` [L] (plate
    ``annotator``), ``easiness`` [n_tasks] and the observed ``labels`` [n_labels] (plate ``task``);
    discrete latent ``truth`` [n_tasks].

    Twice the abilities and half the easiness are the same likelihood, and so, with two classes, are
    the opposite abilities with the classes exchanged. The priors decide; maximum likelihood finds
    some point of a ridge, and infinity for an annotator who is never wrong. There are about as many
    unknowns as tasks: with few labels a task, only a posterior says what is not known of each.
    `MAP` maximises over the easiness, the paper over its logarithm: that mode is found with a mean
    in ``easiness_prior`` that is larger by the squared standard deviation.

    Examples
    --------
    >>> design = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1])
    >>> GLAD(2)(design).shape
    torch.Size([3])
    """

    n_classes: int
    prevalence_prior: float | Tensor | None = None
    ability_prior: tuple[float, float] = (1.0, 1.0)
    easiness_prior: tuple[float, float] = (1.0, 1.0)

    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        name: CrowdProgram.dims[name] for name in ("prevalence", "labels", "truth")
    }

    def __post_init__(self) -> None:
        self._check_priors()
        for name in ("ability_prior", "easiness_prior"):
            object.__setattr__(self, name, checked_normal(getattr(self, name), name))

    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample ``prevalence`` [K] and ``ability`` [L]."""
        prevalence = self._sample_prevalence(annotations)
        mean, sd = prevalence.new_tensor(self.ability_prior)
        device = str(annotations.task.device)
        with pyro.plate("annotator", annotations.n_annotators, device=device):
            ability = pyro.sample("ability", dist.Normal(mean, sd))
        return {"prevalence": prevalence, "ability": ability}

    def sample_task_sites(self, sites: Sites, batch: Annotations) -> Sites:
        """Sample ``easiness`` [n_tasks]."""
        mean, sd = sites["prevalence"].new_tensor(self.easiness_prior)
        return {"easiness": pyro.sample("easiness", dist.LogNormal(mean, sd))}

    def likelihood(self, sites: Sites, batch: Annotations) -> LatentTruth:
        """The distribution of all labels, true classes summed out."""
        prior, log_odds = self.truth_prior(sites, batch), log_odds_right(sites, batch)
        return LatentTruth(prior, log_odds, batch, by_label=True, log_odds=True)

    def reports(self, sites: Sites, batch: Annotations, truth: Tensor) -> EvenErrors:
        """The distribution of all labels given true classes ``[n_tasks]``."""
        return EvenErrors(log_odds_right(sites, batch), batch, truth)

    def newcomer(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """The mean ability, or the easiness of the mean logarithm."""
        if name != "easiness":
            return super().newcomer(name, values)
        return values[name].log().mean(0).exp()

    def initial(self, annotations: Annotations) -> dict[str, Tensor]:
        """Starting values from vote shares.

        Returns
        -------
        dict
            ``prevalence`` [K]: the mean share; ``ability`` [L]: log-odds of labels that agree with
            the shares of their tasks, with one more on either side; ``easiness`` [n_tasks]: one.
        """
        self._check(annotations)
        shares, informed = shares_at_start(annotations)
        counts = counts_at(shares, annotations)
        agreed = counts.diagonal(dim1=-2, dim2=-1).sum(-1) + 1
        return {
            "prevalence": shares[informed].mean(0),
            "ability": (agreed / (counts.sum((-2, -1)) + 2)).logit(),
            "easiness": torch.ones(annotations.n_tasks).to(shares),
        }


def log_odds_right(sites: Sites, batch: Annotations) -> Tensor:
    """Log-odds ``[*batch, n_labels]`` that each label is right: ability times easiness."""
    return sites["ability"][..., batch.annotator] * sites["easiness"][..., batch.task]
