"""Crowd labels with confusion tables that vary around those of a population of annotators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.models.crowd._priors import WithPrevalence, checked_prior, table_prior
from likely.models.crowd._program import CrowdProgram, Sites
from likely.models.crowd._start import FromVotes, normalised
from likely.models.crowd.annotations import Annotations


@dataclass(frozen=True, eq=False)
class HierarchicalDawidSkene(WithPrevalence, FromVotes):
    r"""Every annotator errs in their own way, and these ways are alike.

    The model of `DawidSkene` with tables drawn from a population,

    .. math::
        \pi_{lk} = \operatorname{softmax}(\log \mu_k + \tau_k z_{lk}), \quad z_{lkj} \sim N(0, 1),

    where row μ_k is what a typical annotator reports of class k and τ_k how far annotators are
    apart, in log-odds (Paun et al. 2018, TACL 6, section 3, "hierarchical Dawid–Skene"). An
    annotator of few labels is judged mostly by the population, one of many labels by these: τ_k,
    learnt from all, says how much (partial pooling).

    Parameters
    ----------
    n_classes
        Number of classes K ≥ 2.
    prevalence_prior
        Dirichlet concentration: a positive number or [K].
    population_prior
        Dirichlet concentrations of the rows of ``population``: a positive number or [K, K]; the
        default is that of `DawidSkene`, which favours the diagonal.
    spread_prior
        Scale of the half-normal prior on ``spread``, in log-odds.

    Raises
    ------
    DataError
        As `DawidSkene`.

    Notes
    -----
    Sites: ``prevalence`` [K], ``population`` [K, K], ``spread`` [K], ``deviation`` [L, K, K] (plate
    ``annotator``), deterministic ``confusion`` [L, K, K] and the observed ``labels`` [n_labels]
    (plate ``task``); discrete latent ``truth`` [n_tasks].

    Why not rows drawn from Dirichlet distributions around the population? The width of such a row
    depends on the concentration, a funnel that samplers cannot follow, and its density grows
    without end where all rows fall together: no posterior mode, so no `MAP`, `EM` or `Laplace`. A
    Dirichlet has no form in units of its own width; the logistic-normal has, and its ``deviation``
    is nearly independent of ``spread`` when labels are few. With hundreds of labels an annotator
    the two are tied the other way round, and chains need more draws. For 30 annotators of 20 labels
    and three classes, 400 draws of `NUTS` were worth at least 310 for ``population`` in this form,
    and 14 with Dirichlet rows.

    A posterior (`NUTS`, `Laplace`, `SVI`) is what this program is for. Its mode (`MAP`,
    ``EM(objective="posterior")``) exists, and pools too little: many small deviations are
    likelier at a large spread. The likelihood alone says nothing of the population, as any
    ``population`` gives the same tables with other deviations: `MLE` finds the tables of
    `DawidSkene`, says that it did not converge, and has no standard errors.

    Examples
    --------
    >>> design = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], None, classes=[0, 1])
    >>> HierarchicalDawidSkene(2)(design).shape
    torch.Size([3])
    """

    n_classes: int
    prevalence_prior: float | Tensor = 1.0
    population_prior: float | Tensor | None = None
    spread_prior: float = 1.0

    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **CrowdProgram.dims,
        "population": ("class", "reported"),
        "spread": ("class",),
        "deviation": ("class", "reported"),
    }

    def __post_init__(self) -> None:
        self._check_priors(population_prior=((), (self.n_classes, self.n_classes)))
        scale = checked_prior(self.spread_prior, "spread_prior", ((),))
        object.__setattr__(self, "spread_prior", scale)

    def sample_sites(self, annotations: Annotations) -> Sites:
        """Sample ``prevalence`` [K], ``population`` [K, K] and each annotator's ``deviation``."""
        k = self.n_classes
        prevalence = self._sample_prevalence(annotations)
        prior = table_prior(self.population_prior, k, annotations)
        population = pyro.sample("population", dist.Dirichlet(prior).to_event(1))
        scale = prior.new_full((k,), float(self.spread_prior))
        spread = pyro.sample("spread", dist.HalfNormal(scale).to_event(1))
        device = str(annotations.task.device)
        with pyro.plate("annotator", annotations.n_annotators, device=device):
            unit = dist.Normal(torch.zeros_like(prior), torch.ones_like(prior)).to_event(2)
            deviation = pyro.sample("deviation", unit)
            table = tables_around(population, spread, deviation)
            confusion = pyro.deterministic("confusion", table, event_dim=2)
        return {"prevalence": prevalence, "confusion": confusion}

    def newcomer(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """No deviation: the table of the population."""
        return torch.zeros_like(values[name][0])

    def initial_from(self, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Starting values from vote shares.

        Returns
        -------
        dict
            ``prevalence`` [K]: the mean share; ``population`` [K, K]: all labels weighted by the
            shares of their tasks, with one more in every cell; ``spread`` [K]: the prior's scale;
            ``deviation`` [L, K, K]: those that give each annotator's weighted labels, with as many
            more as there are classes, spread like the population.
        """
        counts = statistics["reports"]
        population = counts.sum(0) + 1
        population = population / population.sum(-1, keepdim=True)
        own = counts + self.n_classes * population
        own = own / own.sum(-1, keepdim=True)
        spread = population.new_full((self.n_classes,), float(self.spread_prior))
        return {
            "prevalence": normalised(statistics["prevalence"]),
            "population": population,
            "spread": spread,
            "deviation": (own.log() - population.log()) / spread.unsqueeze(-1),
        }


def tables_around(population: Tensor, spread: Tensor, deviation: Tensor) -> Tensor:
    """Confusion tables ``[*batch, L, K, K]`` of annotators around a population.

    Parameters
    ----------
    population
        ``[*batch, K, K]``; an axis of length one may stand where annotators are.
    spread
        ``[*batch, K]``: standard deviation of log-odds.
    deviation
        ``[*batch, L, K, K]`` in units of the spread.
    """
    return (population.log() + spread.unsqueeze(-1) * deviation).softmax(-1)
