"""Naive Bayes: features that are independent given a class, labels that may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import is_validation_enabled
from pyro.util import ignore_jit_warnings
from torch import Tensor

from likely.envs import DataError
from likely.models._clustering import k_means
from likely.models._data import (
    as_floating,
    as_matrix,
    as_size,
    check_outcomes,
    column_labels,
    row_labels,
)
from likely.models._features import ClassBernoulli, ClassFeatures, ClassMultinomial
from likely.models._options import check_count, check_number, check_numbers
from likely.models._outcomes import observation_plate, row_weights
from likely.models._rows import default_dtype
from likely.models._values import site_values

LIKELIHOODS = ("bernoulli", "multinomial")


@dataclass(frozen=True)
class NaiveBayes:
    r"""Features that are independent given the class of their row.

    .. math:: \text{label}_i \sim \mathrm{Categorical}(\text{prevalence}), \qquad
              x_i \mid k \sim \prod_j \mathrm{Bernoulli}(\theta_{kj}) \quad\text{or}\quad
              x_i \mid k \sim \mathrm{Multinomial}(N_i, \theta_k)

    with θ the site ``feature_probabilities``. Labels that are missing are discrete latents: one
    program serves supervised fits, EM with few labels (Nigam et al. 2000, "Text classification
    from labeled and unlabeled documents using EM"), self-training (``EM(hard=True)``) and, with
    no label at all, clustering.

    Parameters
    ----------
    n_classes : int
        Number of classes K, at least 2.
    likelihood : {"bernoulli", "multinomial"}
        Binary features, or counts such as those of words.
    prevalence_concentration : float or tuple of float
        Dirichlet parameters of ``prevalence``: one for all classes, or one a class.
    feature_concentration : float
        Both parameters of the Beta prior of each cell (``"bernoulli"``), or those of the
        Dirichlet prior of each class's row (``"multinomial"``). With 1 + s the posterior mode
        adds s to every count; the default adds one.

    Notes
    -----
    Sites ``prevalence`` ``[K]``, ``feature_probabilities`` ``[K, D]`` and, observed, ``x``
    ``[n, D]``; plate ``observation``. ``label`` ``[n]`` is observed where all labels are given
    and otherwise a latent, whose known values are observed at a further site ``known``. A
    multinomial row is judged given its total N.

    Classes of new rows: `predict_proba` at a fit's ``params``.

    Examples
    --------
    >>> import pyro, torch
    >>> pyro.set_rng_seed(0)
    >>> program = NaiveBayes(2)
    >>> program(n=5, dim=3).shape
    torch.Size([5, 3])
    >>> params = {
    ...     "prevalence": torch.tensor([0.5, 0.5]),
    ...     "feature_probabilities": torch.tensor([[0.9, 0.5], [0.1, 0.5]]),
    ... }
    >>> program.predict_proba(params, torch.tensor([[1.0, 0.0]]))
    tensor([[0.9000, 0.1000]])
    """

    n_classes: int
    likelihood: str = "bernoulli"
    prevalence_concentration: float | tuple[float, ...] = 1.0
    feature_concentration: float = 2.0
    dims: ClassVar[dict[str, tuple[str, ...]]] = {
        "prevalence": ("class",),
        "feature_probabilities": ("class", "feature"),
        "x": ("feature",),
        "label": ("class",),
    }

    def __post_init__(self) -> None:
        check_count(self.n_classes, "n_classes", 2)
        if self.likelihood not in LIKELIHOODS:
            raise DataError(
                f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {self.likelihood!r}"
            )
        prevalence = check_numbers(
            self.prevalence_concentration, "prevalence_concentration", positive=True
        )
        if isinstance(prevalence, tuple) and len(prevalence) != self.n_classes:
            raise DataError(
                f"prevalence_concentration must be one number or one for each of "
                f"{self.n_classes} classes, got {len(prevalence)}"
            )
        # A list would keep the program from being hashed and compared.
        object.__setattr__(self, "prevalence_concentration", prevalence)
        check_number(self.feature_concentration, "feature_concentration", positive=True)

    def __call__(
        self,
        x: Any = None,
        y: Any = None,
        *,
        weights: Any = None,
        n: int | None = None,
        dim: int | None = None,
        total: int | None = None,
    ) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Features ``[n, D]``, 0 or 1 or, ``"multinomial"``, counts; missing to simulate them.
        y
            Classes ``[n]``, integers from 0 to K - 1, and -1 or NaN where one is missing;
            missing altogether if none is known.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.
        n, dim, total
            To simulate: how many rows (those of ``y`` if it is given) of how many features,
            and, ``"multinomial"``, the sum of each row.

        Returns
        -------
        Tensor
            The features ``[n, D]``, given or simulated.

        Raises
        ------
        DataError
            If ``x`` is no matrix, ``y`` or ``weights`` no vector of its length, a size is
            missing or contradicts the data, features are to be simulated for labels of which
            some are missing or, looked at while Pyro validates, an entry is none of those
            above.
        """
        x, n, dim = self._features_or_size(x, y, n, dim)
        like = torch.empty(()) if x is None else x
        known = self._labels(y, n, like)
        with ignore_jit_warnings():
            complete = known is not None and bool((known >= 0).all())
        if x is None and known is not None and not complete:
            raise DataError("y must hold the labels of all rows, or be missing, to simulate x")
        prevalence, probabilities = self._sample_tables(like, dim)
        with observation_plate(n, like, weights) as rows:
            batch = None if known is None else known[rows]
            label = pyro.sample(
                "label", dist.Categorical(prevalence), obs=batch if complete else None
            )
            if batch is not None and not complete:
                # A known class is a report without error.
                report = dist.Delta(label).mask(batch >= 0)
                pyro.sample("known", report, obs=batch.clamp(min=0))
            seen = None if x is None else x[rows]
            return pyro.sample("x", self._outcome(probabilities, label, seen, total), obs=seen)

    def initial(
        self, x: Any = None, y: Any = None, *, weights: Any = None, **sizes: Any
    ) -> dict[str, Tensor]:
        """Start at the smoothed counts of the rows with labels; of k-means clusters without.

        Each class has half a row more, with the features' overall means.
        """
        if x is None:
            return {}
        x, n, _ = self._features_or_size(x, y, None, None)
        known = self._labels(y, n, x)
        weight = row_weights(weights, x[:, 0])
        # Labels of rows that are left out tell nothing.
        if known is None or not bool(((known >= 0) & (weight > 0)).any()):
            enough = n >= self.n_classes
            known = k_means(x, self.n_classes) if enough else torch.arange(n, device=x.device)
        members = torch.nn.functional.one_hot(known.clamp(min=0), self.n_classes).to(x)
        members = members * (weight * (known >= 0)).unsqueeze(-1)
        sizes_of, sums, overall = members.sum(0) + 0.5, members.T @ x, weight @ x
        if self.likelihood == "bernoulli":
            # Half a one and half a zero keep the start off the boundary.
            middle = (overall + 0.5) / (weight.sum() + 1)
            tables = (sums + 0.5 * middle) / sizes_of.unsqueeze(-1)
        else:
            counts = sums + 0.5 * (overall + 1) / weight.sum()
            tables = counts / counts.sum(-1, keepdim=True)
        return {"prevalence": sizes_of / sizes_of.sum(), "feature_probabilities": tables}

    def m_step(
        self,
        responsibilities: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
        x: Any = None,
        y: Any = None,
        *,
        objective: str,
        weights: Any = None,
        **sizes: Any,
    ) -> dict[str, Tensor]:
        """Expected shares of ones, for binary features; tables of counts need no such step.

        A class without responsibility keeps its probabilities.

        Parameters
        ----------
        responsibilities
            ``label``: posterior probabilities ``[n, K]``; nothing if all labels are known.
        params
            Current values of the sites.
        x, y, weights
            As in the call of the program.
        objective
            ``"posterior"`` adds the prior's concentration less one to zeros and ones.
        **sizes
            Not used; sizes are those of the data.

        Returns
        -------
        dict
            ``feature_probabilities`` ``[K, D]``, or nothing.
        """
        if x is None or self.likelihood != "bernoulli":
            return {}
        x, n, _ = self._features_or_size(x, y, None, None)
        members = responsibilities.get("label")
        known = self._labels(y, n, x)
        if members is None and known is not None:
            members = torch.nn.functional.one_hot(known, self.n_classes).to(x)
        if members is None:
            return {}
        members = members * row_weights(weights, x[:, 0]).unsqueeze(-1)
        pseudo = self.feature_concentration - 1 if objective == "posterior" else 0.0
        ones = (members.T @ x + pseudo).clamp(min=0)
        zeros = (members.T @ (1 - x) + pseudo).clamp(min=0)
        counted = ones + zeros > 0
        shares = ones / torch.where(counted, ones + zeros, 1.0)
        return {
            "feature_probabilities": torch.where(counted, shares, params["feature_probabilities"])
        }

    def predict_proba(self, params: Mapping[str, Any], x: Any) -> Tensor:
        """Probabilities of the classes of rows, from runs of the program with each class.

        Parameters
        ----------
        params
            Values of ``prevalence`` and ``feature_probabilities``, e.g. a fit's ``params``.
        x
            Features ``[n, D]``.

        Returns
        -------
        Tensor
            ``[n, K]``; rows that no class can have made get the prevalence.

        Raises
        ------
        DataError
            If ``x`` is no such matrix, or ``params`` lacks a site, has a foreign one or one of
            another shape.
        """
        with default_dtype(torch.float64):
            x = as_matrix(x, "x")
        tables = site_values(self, params, n=1, dim=x.shape[1], total=1)
        x = x.to(tables["prevalence"])
        if is_validation_enabled():
            self._check_features(x)
        program = poutine.condition(self, tables)
        joint = []
        for k in range(self.n_classes):
            trace = poutine.trace(program).get_trace(x, torch.full((len(x),), k))
            trace.compute_log_prob()
            joint.append(trace.nodes["label"]["log_prob"] + trace.nodes["x"]["log_prob"])
        stacked = torch.stack(joint, -1)
        possible = torch.isfinite(stacked).any(-1, keepdim=True)
        return torch.where(possible, stacked.softmax(-1), tables["prevalence"])

    def coords(
        self, x: Any = None, y: Any = None, *, dim: int | None = None, **options: Any
    ) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: the columns and the index of a data frame."""
        labels: dict[str, Sequence[Any]] = {"class": range(self.n_classes)}
        labels |= row_labels(x) or row_labels(y)
        if x is not None or dim is not None:
            labels["feature"] = range(as_size(dim, "dim")) if x is None else column_labels(x)
        return labels

    def _sample_tables(self, like: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Sample ``prevalence`` ``[K]`` and ``feature_probabilities`` ``[K, D]``."""
        k = self.n_classes
        concentration = like.new_tensor(self.prevalence_concentration).expand(k)
        prevalence = pyro.sample("prevalence", dist.Dirichlet(concentration))
        cells = like.new_tensor(self.feature_concentration).expand(k, dim)
        prior: Any = dist.Dirichlet(cells).to_event(1)
        if self.likelihood == "bernoulli":
            prior = dist.Beta(cells, cells).to_event(2)
        return prevalence, pyro.sample("feature_probabilities", prior)

    def _outcome(
        self, probabilities: Tensor, label: Tensor, seen: Tensor | None, total: int | None
    ) -> ClassFeatures:
        """Distribution of the features of the rows, given their classes."""
        if self.likelihood == "bernoulli":
            return ClassBernoulli(probabilities, label)
        if seen is not None:
            return ClassMultinomial(probabilities, label, seen)
        if total is None:
            raise DataError("give x, or the total of each row of counts to simulate")
        return ClassMultinomial(probabilities, label, as_size(total, "total"))

    def _features_or_size(
        self, x: Any, y: Any, n: int | None, dim: int | None
    ) -> tuple[Tensor | None, int, int]:
        if x is None:
            n = len(y) if y is not None and n is None else n
            if n is None or dim is None:
                raise DataError("give x, or the numbers n of rows and dim of features to simulate")
            return None, as_size(n, "n"), as_size(dim, "dim")
        x = as_matrix(x, "x")
        if n not in (None, len(x)) or dim not in (None, x.shape[1]):
            raise DataError(f"x has shape {tuple(x.shape)}, but n={n} and dim={dim} were given")
        if is_validation_enabled():
            self._check_features(x)
        return x, *x.shape

    def _check_features(self, x: Tensor) -> None:
        binary = self.likelihood == "bernoulli"
        valid = (x == 0) | (x == 1) if binary else (x >= 0) & (x == x.floor())
        if not bool(valid.all()):
            row, column = (int(i) for i in (~valid).nonzero()[0])
            raise DataError(
                f"x must hold {'0 or 1' if binary else 'counts 0, 1, 2, ...'}, "
                f"got {x[row, column].item():g} in row {row}, column {column}"
            )

    def _labels(self, y: Any, n: int, like: Tensor) -> Tensor | None:
        """Classes ``[n]`` as integers, -1 where missing; None if all are."""
        if y is None:
            return None
        labels = as_floating(y, "y")
        if labels.shape != (n,):
            raise DataError(
                f"y must have one entry per observation: expected shape ({n},), "
                f"got {tuple(labels.shape)}"
            )
        labels = torch.where(labels.isnan(), -1.0, labels)
        if is_validation_enabled():
            valid = (labels >= -1) & (labels < self.n_classes) & (labels == labels.floor())
            expected = f"classes 0, ..., {self.n_classes - 1}, or -1 or NaN where missing"
            check_outcomes(valid, labels, "y", expected)
        known = labels.long().to(like.device)
        with ignore_jit_warnings():
            return None if bool((known < 0).all()) else known
