"""Crowd labels of annotators who either report the truth or do not look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.models.crowd._priors import WithPrevalence, filled_prior
from likely.models.crowd._program import CrowdProgram, Sites
from likely.models.crowd._start import FromVotes, normalised
from likely.models.crowd.annotations import Annotations


@dataclass(frozen=True, eq=False)
class MACE(WithPrevalence, FromVotes):
    """Every annotator reports the true class or spams, by habits of their own.

    Annotator l reports the true class with probability competence[l]; otherwise the label has
    nothing to do with the task and is class j with probability spam[l, j] (Hovy, Berg-Kirkpatrick,
    Vaswani & Hovy 2013, NAACL, section 3). The true classes have a prevalence here, where the paper
    takes them to be equally frequent.

    Parameters
    ----------
    n_classes
        Number of classes K ≥ 2.
    prevalence_prior
        Dirichlet concentration: a positive number or [K].
    competence_prior
        Parameters (α, β) of the Beta prior on ``competence``. Both are above one by default: at a
        competence of one nothing is known of the habits, at zero nothing of the truth.
    spam_prior
        Dirichlet concentration of ``spam``: a positive number or [K].

    Raises
    ------
    DataError
        As `DawidSkene`.

    Notes
    -----
    Sites: ``prevalence`` [K], ``competence`` [L] and ``spam`` [L, K] (plate ``annotator``),
    deterministic ``confusion`` [L, K, K] with entries competence[l] · [k = j] + (1 −
    competence[l]) · spam[l, j], and the observed ``labels`` [n_labels] (plate ``task``); discrete
    latent ``truth`` [n_tasks]. Whether a label was spam is summed out by the table.

    Examples
    --------
    >>> design = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1])
    >>> MACE(2)(design).shape
    torch.Size([3])
    """

    n_classes: int
    prevalence_prior: float | Tensor = 1.0
    competence_prior: tuple[float, float] = (2.0, 2.0)
    spam_prior: float | Tensor = 2.0

    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {**CrowdProgram.dims, "spam": ("reported",)}

    def __post_init__(self) -> None:
        self._check_priors(spam_prior=((), (self.n_classes,)))
        self._check_beta("competence_prior")

    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample ``prevalence`` [K], ``competence`` [L] and ``spam`` [L, K]."""
        prevalence = self._sample_prevalence(annotations)
        alpha, beta = prevalence.new_tensor(self.competence_prior)
        device = str(annotations.task.device)
        with pyro.plate("annotator", annotations.n_annotators, device=device):
            competence = pyro.sample("competence", dist.Beta(alpha, beta))
            spam = pyro.sample("spam", dist.Dirichlet(self._spam_prior(annotations)))
            table = mixed_table(competence, spam)
            confusion = pyro.deterministic("confusion", table, event_dim=2)
        return {"prevalence": prevalence, "confusion": confusion}

    def newcomer(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """Means; habits count as often as their annotators spam, which makes the mean table."""
        if name != "spam":
            return super().newcomer(name, values)
        weight = 1 - values["competence"]
        return normalised(weight @ values["spam"])

    def initial_from(self, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Starting values from vote shares.

        Returns
        -------
        dict
            ``prevalence`` [K]: the mean share; ``competence`` [L]: labels that agree with the
            shares of their tasks, with one more on either side; ``spam`` [L, K]: the labels that
            disagree, with one more of each class.
        """
        counts = statistics["reports"]
        agreed = counts.diagonal(dim1=-2, dim2=-1)
        return {
            "prevalence": normalised(statistics["prevalence"]),
            "competence": (agreed.sum(-1) + 1) / (counts.sum((-2, -1)) + 2),
            "spam": normalised(counts.sum(-2) - agreed + 1),
        }

    def m_step(
        self,
        expected: Mapping[str, Any],
        params: Mapping[str, Tensor],
        annotations: Annotations,
        *,
        objective: str,
    ) -> dict[str, Tensor]:
        """One EM step for the second latent, whether a label was spam.

        A report of another class than the true one was; one of the true class was told with
        probability c / (c + (1 − c) s), c being the competence and s the share of the class in the
        annotator's spam.
        """
        counts = expected["labels"]["confusion"]
        competence, spam = params["competence"].unsqueeze(-1), params["spam"]
        agreed = counts.diagonal(dim1=-2, dim2=-1)
        either = competence + (1 - competence) * spam
        told = agreed * competence / torch.where(either > 0, either, 1.0)
        spammed = (counts.sum(-2) - told).clamp_min(0.0)
        heads, tails = told.sum(-1), spammed.sum(-1)
        if objective == "posterior":
            heads = (heads + self.competence_prior[0] - 1).clamp_min(0.0)
            tails = (tails + self.competence_prior[1] - 1).clamp_min(0.0)
            spammed = (spammed + self._spam_prior(annotations).to(spammed) - 1).clamp_min(0.0)
        total, mass = heads + tails, spammed.sum(-1, keepdim=True)
        # What no label speaks of stays where it is.
        return {
            "competence": torch.where(
                total > 0, heads / torch.where(total > 0, total, 1.0), params["competence"]
            ),
            "spam": torch.where(mass > 0, normalised(spammed), spam),
        }

    def _spam_prior(self, annotations: Annotations) -> Tensor:
        return filled_prior(self.spam_prior, (self.n_classes,), annotations)


def mixed_table(competence: Tensor, spam: Tensor) -> Tensor:
    """Confusion tables ``[*batch, K, K]`` of annotators who report the truth or spam.

    Parameters
    ----------
    competence
        ``[*batch]``: probability of reporting the truth.
    spam
        ``[*batch, K]``: probability of each label otherwise.
    """
    eye = torch.eye(spam.shape[-1], dtype=spam.dtype, device=spam.device)
    told = competence[..., None, None]
    return told * eye + (1 - told) * spam.unsqueeze(-2)
