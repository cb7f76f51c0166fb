"""Programs of discrete outcomes without covariates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from likely.envs import DataError
from likely.models._data import check_outcomes, row_labels
from likely.models._options import check_count, check_number, check_numbers
from likely.models._outcomes import (
    Outcomes,
    observation_plate,
    outcomes_or_size,
    reference,
    row_weights,
)


@dataclass(frozen=True)
class BernoulliModel(Outcomes):
    r"""Binary outcomes with one unknown probability.

    .. math:: \text{probability} \sim \mathrm{Beta}(\alpha, \beta), \qquad
              y_i \sim \mathrm{Bernoulli}(\text{probability})

    Parameters
    ----------
    alpha, beta : float
        Parameters of the Beta prior, one more than the imagined ones and zeros.

    Notes
    -----
    Sites ``probability`` (a scalar in [0, 1]) and, observed, ``y`` ``[n]``; plate
    ``observation``.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> BernoulliModel()(n=5).shape
    torch.Size([5])
    """

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.alpha, "alpha", positive=True)
        check_number(self.beta, "beta", positive=True)

    def __call__(self, y: Any = None, *, n: int | None = None, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        y
            Outcomes ``[n]``, 0 or 1; missing to simulate them.
        n
            How many to simulate.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.

        Returns
        -------
        Tensor
            The outcomes ``[n]``, given or simulated, in a floating-point dtype.

        Raises
        ------
        DataError
            If ``y`` and ``n`` are missing, ``y`` is not a vector, or ``y`` holds anything
            but 0 and 1 or ``weights`` do not fit (looked at while Pyro validates).
        """
        y, n = outcomes_or_size(y, "y", n)
        if y is not None and is_validation_enabled():
            check_outcomes((y == 0) | (y == 1), y, "y", "0 or 1")
        like = reference(y)
        probability = pyro.sample(
            "probability", dist.Beta(like.new_tensor(self.alpha), like.new_tensor(self.beta))
        )
        with observation_plate(n, like, weights) as rows:
            obs = None if y is None else y[rows]
            return pyro.sample("y", dist.Bernoulli(probability), obs=obs)

    def initial(
        self, y: Any = None, *, n: int | None = None, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at the share of ones, moved off the boundary by half an observation."""
        y, _ = outcomes_or_size(y, "y", n)
        if y is None:
            return {}
        counts = row_weights(weights, y)
        return {"probability": (counts @ y + 0.5) / (counts.sum() + 1)}


@dataclass(frozen=True)
class CategoricalModel(Outcomes):
    r"""Outcomes in one of K classes with unknown probabilities.

    .. math:: \text{probabilities} \sim \mathrm{Dirichlet}(\alpha), \qquad
              y_i \sim \mathrm{Categorical}(\text{probabilities})

    Parameters
    ----------
    n_classes : int
        Number of classes K, at least 2.
    concentration : float or tuple of float
        Dirichlet parameters: one for all classes, or one a class. With ``1 + s`` the
        posterior mode is the smoothed share ``(count + s) / (n + K s)``.

    Notes
    -----
    Sites ``probabilities`` ``[K]`` and, observed, ``y`` ``[n]``; plate ``observation``.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> CategoricalModel(3)(n=5).shape
    torch.Size([5])
    """

    n_classes: int
    concentration: float | tuple[float, ...] = 1.0
    dims: ClassVar[dict[str, tuple[str, ...]]] = {"probabilities": ("class",)}

    def __post_init__(self) -> None:
        check_count(self.n_classes, "n_classes", 2)
        concentration = check_numbers(self.concentration, "concentration", positive=True)
        if isinstance(concentration, tuple) and len(concentration) != self.n_classes:
            raise DataError(
                f"concentration must be one number or one for each of {self.n_classes} classes, "
                f"got {len(concentration)}"
            )
        # A list would keep the program from being hashed and compared.
        object.__setattr__(self, "concentration", concentration)

    def __call__(self, y: Any = None, *, n: int | None = None, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        y
            Classes ``[n]``, integers from 0 to K - 1; missing to simulate them.
        n
            How many to simulate.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.

        Returns
        -------
        Tensor
            The classes ``[n]``, given or simulated, as ``int64``.

        Raises
        ------
        DataError
            If ``y`` and ``n`` are missing, ``y`` is not a vector, or ``y`` holds anything
            but the classes or ``weights`` do not fit (looked at while Pyro validates).
        """
        y, n = outcomes_or_size(y, "y", n)
        like = reference(y)
        if y is not None and is_validation_enabled():
            valid = (y >= 0) & (y < self.n_classes) & (y == y.floor())
            check_outcomes(valid, y, "y", f"classes 0, ..., {self.n_classes - 1}")
        classes = None if y is None else y.long()
        probabilities = pyro.sample(
            "probabilities",
            dist.Dirichlet(like.new_tensor(self.concentration).expand(self.n_classes)),
        )
        with observation_plate(n, like, weights) as rows:
            obs = None if classes is None else classes[rows]
            return pyro.sample("y", dist.Categorical(probabilities), obs=obs)

    def coords(
        self, y: Any = None, *, n: int | None = None, weights: Any = None
    ) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: classes are numbered, rows keep their index."""
        return {"class": range(self.n_classes), **row_labels(y)}

    def initial(
        self, y: Any = None, *, n: int | None = None, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at the shares, each class with half an observation more."""
        y, _ = outcomes_or_size(y, "y", n)
        if y is None:
            return {}
        each = row_weights(weights, y)
        counts = torch.bincount(y.long(), each, minlength=self.n_classes).to(y.dtype) + 0.5
        return {"probabilities": counts / counts.sum()}


@dataclass(frozen=True)
class PoissonModel(Outcomes):
    r"""Counts with one unknown rate.

    .. math:: \text{rate} \sim \mathrm{Gamma}(\alpha, \beta), \qquad
              y_i \sim \mathrm{Poisson}(\text{rate})

    Parameters
    ----------
    alpha, beta : float
        Shape and inverse scale of the Gamma prior; its mean is ``alpha / beta``. The
        default is an exponential distribution with mean 10.

    Notes
    -----
    Sites ``rate`` (a positive scalar, counts an observation) and, observed, ``y`` ``[n]``;
    plate ``observation``.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> PoissonModel()(n=5).shape
    torch.Size([5])
    """

    alpha: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        check_number(self.alpha, "alpha", positive=True)
        check_number(self.beta, "beta", positive=True)

    def __call__(self, y: Any = None, *, n: int | None = None, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        y
            Counts ``[n]``, integers of at least 0; missing to simulate them.
        n
            How many to simulate.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.

        Returns
        -------
        Tensor
            The counts ``[n]``, given or simulated, in a floating-point dtype.

        Raises
        ------
        DataError
            If ``y`` and ``n`` are missing, ``y`` is not a vector, or ``y`` holds anything
            but counts or ``weights`` do not fit (looked at while Pyro validates).
        """
        y, n = outcomes_or_size(y, "y", n)
        if y is not None and is_validation_enabled():
            check_outcomes((y >= 0) & (y == y.floor()), y, "y", "counts 0, 1, 2, ...")
        like = reference(y)
        rate = pyro.sample(
            "rate", dist.Gamma(like.new_tensor(self.alpha), like.new_tensor(self.beta))
        )
        with observation_plate(n, like, weights) as rows:
            obs = None if y is None else y[rows]
            return pyro.sample("y", dist.Poisson(rate), obs=obs)

    def initial(
        self, y: Any = None, *, n: int | None = None, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at the mean, moved off zero by half a count."""
        y, _ = outcomes_or_size(y, "y", n)
        if y is None:
            return {}
        counts = row_weights(weights, y)
        return {"rate": (counts @ y + 0.5) / counts.sum()}
