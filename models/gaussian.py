"""Programs of real outcomes without covariates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from likely.models._clustering import positive_or_one
from likely.models._options import check_number
from likely.models._outcomes import (
    Outcomes,
    observation_plate,
    outcomes_or_size,
    reference,
    row_weights,
    weighted_median,
)


@dataclass(frozen=True)
class _LocationScale(Outcomes, ABC):
    """Priors and call of the programs with one location and one scale."""

    loc_mean: float = 0.0
    loc_scale: float = 10.0
    scale_scale: float = 10.0

    def __post_init__(self) -> None:
        check_number(self.loc_mean, "loc_mean")
        check_number(self.loc_scale, "loc_scale", positive=True)
        check_number(self.scale_scale, "scale_scale", positive=True)

    def __call__(self, y: Any = None, *, n: int | None = None, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        y
            Outcomes ``[n]``; missing to simulate them.
        n
            How many to simulate.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.

        Returns
        -------
        Tensor
            The outcomes ``[n]``, given or simulated.

        Raises
        ------
        DataError
            If ``y`` and ``n`` are missing, ``y`` is not a vector, or ``y`` holds NaN or
            infinite entries or ``weights`` do not fit (looked at while Pyro validates).
        """
        y, n = outcomes_or_size(y, "y", n)
        like = reference(y)
        loc = pyro.sample(
            "loc", dist.Normal(like.new_tensor(self.loc_mean), like.new_tensor(self.loc_scale))
        )
        scale = pyro.sample("scale", dist.HalfNormal(like.new_tensor(self.scale_scale)))
        with observation_plate(n, like, weights) as rows:
            obs = None if y is None else y[rows]
            return pyro.sample("y", self._outcome(loc, scale), obs=obs)

    @abstractmethod
    def _outcome(self, loc: Tensor, scale: Tensor) -> Any:
        """Distribution of one outcome."""


@dataclass(frozen=True)
class GaussianModel(_LocationScale):
    r"""Normal outcomes with unknown mean and standard deviation.

    .. math:: \text{loc} \sim \mathrm{Normal}(m, s), \quad
              \text{scale} \sim \mathrm{HalfNormal}(t), \quad
              y_i \sim \mathrm{Normal}(\text{loc}, \text{scale})

    Parameters
    ----------
    loc_mean, loc_scale : float
        Mean m and standard deviation s of the normal prior on ``loc``, in the units of y.
    scale_scale : float
        Scale t of the half-normal prior on ``scale``, in the units of y.

    Notes
    -----
    Sites ``loc`` (a scalar), ``scale`` (a positive scalar) and, observed, ``y`` ``[n]``;
    plate ``observation``.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> GaussianModel()(n=5).shape
    torch.Size([5])
    """

    def initial(
        self, y: Any = None, *, n: int | None = None, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at the mean and the standard deviation (1 where there is no spread)."""
        y, _ = outcomes_or_size(y, "y", n)
        if y is None:
            return {}
        share = row_weights(weights, y)
        share = share / share.sum()
        # About the first outcome, so that outcomes which are all the same have no spread at all.
        mean = y[0] + share @ (y - y[0])
        return {"loc": mean, "scale": positive_or_one((share @ (y - mean).square()).sqrt())}

    def _outcome(self, loc: Tensor, scale: Tensor) -> Any:
        return dist.Normal(loc, scale)


@dataclass(frozen=True)
class LaplaceModel(_LocationScale):
    r"""Laplace (double exponential) outcomes with unknown median and mean absolute deviation.

    .. math:: \text{loc} \sim \mathrm{Normal}(m, s), \quad
              \text{scale} \sim \mathrm{HalfNormal}(t), \quad
              y_i \sim \mathrm{Laplace}(\text{loc}, \text{scale})

    Parameters
    ----------
    loc_mean, loc_scale : float
        Mean m and standard deviation s of the normal prior on ``loc``, in the units of y.
    scale_scale : float
        Scale t of the half-normal prior on ``scale``, in the units of y.

    Notes
    -----
    Sites ``loc`` (a scalar), ``scale`` (a positive scalar) and, observed, ``y`` ``[n]``;
    plate ``observation``. The maximum-likelihood ``loc`` is the median, ``scale`` the mean
    absolute deviation from it: few wild outcomes move them little.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> LaplaceModel()(n=5).shape
    torch.Size([5])
    """

    def initial(
        self, y: Any = None, *, n: int | None = None, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at the median and the mean absolute deviation from it (1 where that is 0)."""
        y, _ = outcomes_or_size(y, "y", n)
        if y is None:
            return {}
        share = row_weights(weights, y)
        share = share / share.sum()
        median = weighted_median(y, share)
        return {"loc": median, "scale": positive_or_one(share @ (y - median).abs())}

    def _outcome(self, loc: Tensor, scale: Tensor) -> Any:
        return dist.Laplace(loc, scale)
