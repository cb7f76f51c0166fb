"""What programs of crowd labels share: reading annotations, the truth, the start, the labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.util import ignore_jit_warnings
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import listed_ids
from likely.models.crowd._prediction import truth_given
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
            "task": listed_ids(annotations.tasks),
            "annotator": listed_ids(annotations.annotators),
            "class": listed_ids(annotations.classes),
            "reported": listed_ids(annotations.classes),
            "annotation": range(len(annotations)),
        }

    def predict_truth(self, fit: Any, annotations: Annotations, *, draws: int = 1000) -> Tensor:
        """Class probabilities of other tasks, from what labels they have and from a fit.

        Annotators are found by their ids, wherever they stand. Somebody whom the fit does not know
        is taken for a typical annotator, who has in each site the mean over the fit's annotators,
        each of them counting once: in `DawidSkene` the mean of their tables. Where the program has
        a population of its own, it is asked: `HierarchicalDawidSkene` has the population's table
        for newcomers, `PooledMultinomial` the table of all. Unknown tasks, of which most programs
        need to know nothing, are of typical easiness in `GLAD`.

        Parameters
        ----------
        fit
            What an engine found for this program, or read from a file. A fit with draws is
            averaged over these.
        annotations
            The tasks. Those without labels get their probabilities from the prevalence, or from
            the classifier where there is one; known true classes are taken for certain. A design
            without labels will do.
        draws
            Most draws that are averaged.

        Returns
        -------
        Tensor
            ``[n_tasks, K]`` in the order of ``annotations.tasks`` and ``annotations.classes``, rows
            summing to one; rows of zeros where labels are impossible.

        Raises
        ------
        DataError
            If the annotations do not fit the program or have other classes or features than those
            of the fit, or the fit is of another program.

        Examples
        --------
        >>> from likely.inference import EM
        >>> from likely.models.crowd import DawidSkene
        >>> monday = Annotations.from_arrays(
        ...     [1, 1, 1, 2, 2, 2, 3, 3, 4, 4], list("abcabcabab"), list("nnyyynnnyy")
        ... )
        >>> tuesday = Annotations.from_arrays([7, 7, 8], ["a", "new", "new"], list("nny"))
        >>> fit = EM(objective="posterior").fit(DawidSkene(2), monday)
        >>> DawidSkene(2).predict_truth(fit, tuesday)
        tensor([[0.9716, 0.0284],
                [0.1948, 0.8052]], dtype=torch.float64)
        """
        return truth_given(self, fit, annotations, draws)

    def newcomer(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """What an annotator or a task has at a site, whom or which a fit does not know.

        Parameters
        ----------
        name
            A site that has a value for each annotator or each task.
        values
            One draw of the fit's sites.
        """
        return values[name].mean(0)

    def fixed(self, values: Mapping[str, Tensor]) -> CrowdProgram:
        """The program for a run in which all sites are given; priors do not count there."""
        return self

    def review(self, params: Mapping[str, Tensor], annotations: Annotations) -> list[str]:
        """A sentence if the fitted classes look exchanged: reports mostly name another class."""
        if "confusion" not in params or annotations.label is None:
            return []
        table = params["confusion"].detach()
        table = table if table.dim() == 2 else self._average(table, annotations)
        if bool((table.diagonal() >= table.amax(-1)).all()):
            return []
        # Twenty-five megabytes that a fit without trouble does not need.
        from scipy.optimize import linear_sum_assignment

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
