"""Abilities from the comparisons of several judges of unequal reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models._options import check_number
from likely.models.preference._base import check_pair
from likely.models.preference.bradley_terry import BradleyTerry
from likely.models.preference.comparisons import Comparisons
from likely.models.preference.faults import FAULTS, FaultyJudges, FaultyOutcomes
from likely.models.preference.outcomes import log_chances

LATENTS = ("comparison", "annotator")
# Where reliabilities start: judges agree with the crowd more often than not.
_START = 0.9


@dataclass(frozen=True, eq=False)
class CrowdBradleyTerry(BradleyTerry):
    """Bradley and Terry's model for judges who are sometimes wrong.

    Parameters
    ----------
    latent
        What is faithful or at fault: each ``"comparison"``, with a reliability of its annotator
        (Chen, Bennett, Collins-Thompson & Horvitz 2013), or an ``"annotator"`` as a whole, in all
        that he or she says.
    fault
        What a judge at fault does: ``"reverse"`` the order, or ``"guess"``.
    reliability_prior
        Parameters (α, β) of the Beta prior on the probability of being faithful. It favours
        faithful judges, since with abilities and all judges reversed the likelihood is the same,
        and both are above one by default, so that the mode calls nobody infallible.
    **options
        Those of `BradleyTerry`.

    Raises
    ------
    DataError
        As `BradleyTerry`, and for comparisons without annotators.

    Notes
    -----
    Sites: those of `BradleyTerry` and ``reliability``: [n_annotators] (plate ``annotator``), or,
    where annotators are faithful or not as a whole, the share of those who are. The latent
    ``faithful`` is summed out by the distribution of ``outcome``, whose plate is ``comparison`` or
    ``annotator``; ``fit.latent("faithful")`` has its posterior, at fault first.

    Examples
    --------
    >>> games = Comparisons.from_arrays(["a", "b"], ["b", "c"], annotator=["ann", "bo"])
    >>> CrowdBradleyTerry(3)(games).shape
    torch.Size([2, 3])
    """

    latent: str = "comparison"
    fault: str = "reverse"
    reliability_prior: tuple[float, float] = (4.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("latent", LATENTS), ("fault", FAULTS)):
            if getattr(self, name) not in known:
                raise DataError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        check_pair(self.reliability_prior, "reliability_prior", "two positive numbers")
        for value in self.reliability_prior:
            check_number(value, "reliability_prior", positive=True)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the event dimensions, and of the latent's states."""
        return {**super().dims, "faithful": ("state",)}

    def prepared(self, comparisons: Any) -> Comparisons:
        """The data as the program reads them, checked."""
        data = super().prepared(comparisons)
        if data.annotator is None:
            raise DataError("annotator: this program needs to know who judged; pass annotator=")
        return data

    def sample_sites(self, data: Comparisons) -> dict[str, Tensor]:
        """Sample abilities, reliabilities and whatever else there is."""
        sites = super().sample_sites(data)
        prior = dist.Beta(*data.total.new_tensor(self.reliability_prior))
        if self.latent == "annotator":
            sites["reliability"] = pyro.sample("reliability", prior)
            return sites
        with pyro.plate("annotator", data.n_annotators, device=str(data.first.device)):
            sites["reliability"] = pyro.sample("reliability", prior)
        return sites

    def plate(self, data: Comparisons) -> tuple[str, int]:
        """Name and size of the plate of the outcomes."""
        return (
            super().plate(data) if self.latent == "comparison" else ("annotator", data.n_annotators)
        )

    def part(self, data: Comparisons, index: Tensor) -> Comparisons:
        """The data of some members of that plate."""
        if self.latent == "comparison":
            return super().part(data, index)
        return _of_annotators(data, index)

    def outcome(self, sites: Mapping[str, Tensor], data: Comparisons) -> Any:
        """The distribution of the counts [m, 3]."""
        logs = log_chances(self.log_odds(sites, data), sites.get("tie"), self.ties)
        options: dict[str, Any] = {
            "fault": self.fault,
            "ties": self.models_ties,
            "coefficient": None if data.counts is None else data.coefficient,
        }
        reliability = sites["reliability"]
        annotator = data.annotator
        assert annotator is not None
        if self.latent == "comparison":
            return FaultyOutcomes(logs, reliability[..., annotator], data.total, **options)
        return FaultyJudges(
            logs,
            reliability,
            data.total,
            annotator=annotator,
            n_annotators=data.n_annotators,
            **options,
        )

    def initial(self, comparisons: Comparisons) -> dict[str, Tensor]:
        """Start at the abilities that maximise the likelihood if nobody errs."""
        start = super().initial(comparisons)
        if not start:
            return start
        shape = (comparisons.n_annotators,) if self.latent == "comparison" else ()
        start["reliability"] = comparisons.total.new_full(shape, _START)
        return start

    def m_step(
        self,
        expected: Any,
        params: Mapping[str, Tensor],
        comparisons: Comparisons,
        *,
        objective: str,
    ) -> dict[str, Tensor]:
        """Reliabilities: the expected share of faithful comparisons, or of faithful judges."""
        counts = expected["outcome"]
        faithful, faulty = counts["faithful"], counts["faulty"]
        if self.latent == "comparison":
            annotator = self.prepared(comparisons).annotator
            assert annotator is not None
            zeros = torch.zeros_like(params["reliability"])
            faithful, faulty = (zeros.index_add(0, annotator, x) for x in (faithful, faulty))
        else:
            faithful, faulty = faithful.sum(), faulty.sum()
        if objective == "posterior":
            alpha, beta = self.reliability_prior
            faithful, faulty = (faithful + alpha - 1).clamp_min(0), (faulty + beta - 1).clamp_min(0)
        both = faithful + faulty
        share = torch.where(both > 0, faithful / both, params["reliability"])
        return {"reliability": share}

    def standard_errors(
        self, params: Mapping[str, Tensor], comparisons: Comparisons, *, prior: bool, **options: Any
    ) -> dict[str, Tensor] | None:
        """None: the engine's own way is needed."""
        return None

    def coords(self, comparisons: Comparisons) -> dict[str, Sequence[Any]]:
        """Labels of every named dimension: the user's own ids."""
        return {**super().coords(comparisons), "state": ["at fault", "faithful"]}


def _of_annotators(data: Comparisons, index: Tensor) -> Comparisons:
    """The rows of some annotators, who are numbered anew."""
    assert data.annotator is not None
    assert data.annotators is not None
    place = torch.full((data.n_annotators,), -1, device=index.device)
    place[index] = torch.arange(len(index), device=index.device)
    taken = data.subset(place[data.annotator] >= 0)
    assert taken.annotator is not None
    ids = data.annotators[index.cpu().numpy()]
    return replace(taken, annotator=place[taken.annotator], annotators=ids)
