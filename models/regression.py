"""Programs of outcomes that depend linearly on covariates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from likely.models._data import as_matrix, as_outcomes, check_outcomes
from likely.models._glm import BernoulliFamily, LinearBernoulli, LinearPoisson, PoissonFamily
from likely.models._linear import Regression, linear_predictor
from likely.models._noise import (
    check_noise,
    noise_distribution,
    sample_degrees_of_freedom,
    sample_scale,
)
from likely.models._options import check_number
from likely.models._outcomes import observation_plate, row_weights

# Steps of reweighted least squares on the way to least absolute deviations.
_REWEIGHTED = 50


@dataclass(frozen=True, kw_only=True)
class LinearRegression(Regression):
    r"""Real outcomes whose location is linear in the covariates.

    .. math:: y_i = \text{intercept} + x_i^\top \text{coefficients} +
              \text{scale} \cdot \varepsilon_i

    Parameters
    ----------
    intercept : bool
        Whether there is one; without it the prediction at x = 0 is 0.
    intercept_scale : float or None
        Standard deviation of its normal prior, which is centred at 0. None makes the prior
        flat (improper), which penalises nothing; a forward run puts the intercept at 0.
    prior : {"normal", "laplace"}
        Prior of each coefficient, centred at 0.
    coefficients_scale : float or None
        Its scale: the standard deviation of the normal, the mean absolute value of the
        Laplace distribution. None makes it flat.
    noise : {"normal", "laplace", "student"}
        Distribution of the errors: least squares, least absolute deviations, or heavy tails.
    scale : float, optional
        The scale of the errors where it is known; there is no such site then.
    scale_scale : float
        Scale of the half-normal prior on ``scale``, in the units of y.
    degrees_of_freedom : float or None
        Of Student's t, where that is the noise; None makes it an unknown site with a
        Gamma(2, 0.1) prior.

    Notes
    -----
    Sites ``intercept`` (a scalar), ``coefficients`` ``[d]``, ``scale`` (a positive scalar,
    unless it is known), ``degrees_of_freedom`` (a positive scalar, if asked for) and,
    observed, ``y`` ``[n]``; plate ``observation``. The priors do not know the units of the
    data: standardise these, or widen the priors.

    Penalties are priors. With known ``scale`` s and ``intercept_scale=None`` the posterior
    mode minimises squared error + λ Σ coefficients² (ridge, weight decay) for the normal prior
    of scale s/√λ, and squared error / 2n + α Σ |coefficients| (lasso) for the Laplace prior
    of scale s²/(nα).

    Examples
    --------
    >>> import pyro, torch
    >>> pyro.set_rng_seed(0)
    >>> LinearRegression()(torch.ones(5, 2)).shape
    torch.Size([5])
    """

    noise: str = "normal"
    scale: float | None = None
    scale_scale: float = 10.0
    degrees_of_freedom: float | None = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)
        check_number(self.scale_scale, "scale_scale", positive=True)
        for name in ("scale", "degrees_of_freedom"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, positive=True)

    def __call__(self, x: Any, y: Any = None, *, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Covariates ``[n, d]``.
        y
            Outcomes ``[n]``; missing to simulate them.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.

        Returns
        -------
        Tensor
            The outcomes ``[n]``, given or simulated.

        Raises
        ------
        DataError
            If ``x`` is not a matrix, ``y`` or ``weights`` not a vector of its length, or,
            looked at while Pyro validates, one of them holds NaN or infinite entries or
            ``weights`` negative ones.
        """
        x = as_matrix(x, "x")
        y = None if y is None else as_outcomes(y, "y", len(x), like=x)
        intercept, coefficients = self.sample_weights(x)
        scale = sample_scale(self.scale, self.scale_scale, x)
        degrees = None
        if self.noise == "student":
            degrees = sample_degrees_of_freedom(self.degrees_of_freedom, x)
        with observation_plate(len(x), x, weights) as rows:
            mean = linear_predictor(x[rows], intercept, coefficients)
            outcome = noise_distribution(self.noise, mean, scale, degrees)
            return pyro.sample("y", outcome, obs=None if y is None else y[rows])

    def initial(self, x: Any, y: Any = None, *, weights: Any = None) -> dict[str, Tensor]:
        """Start at least squares, with Laplace noise at least absolute deviations.

        The scale starts above 1/1000 of that of ``y``.
        """
        if y is None:
            return {}
        x = as_matrix(x, "x")
        y = as_outcomes(y, "y", len(x), like=x)
        start, fitted = self.least_squares(x, y, weights)
        if self.noise == "laplace":
            start, fitted = self._least_deviations(x, y, weights)
        if self.noise == "student" and self.degrees_of_freedom is None:
            start["degrees_of_freedom"] = x.new_tensor(4.0)
        if self.scale is not None:
            return start
        share = row_weights(weights, y)
        share = share / share.sum()
        size = (share @ y.square()).sqrt()
        # Points on a line leave no residual to start from, and zeros no size either.
        left = (y - fitted).abs()
        spread = share @ left if self.noise == "laplace" else (share @ left.square()).sqrt()
        scale = torch.maximum(spread, 1e-3 * size)
        return {**start, "scale": torch.where(scale > 0, scale, torch.ones_like(scale))}

    def _least_deviations(
        self, x: Tensor, y: Tensor, weights: Any
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Least absolute deviations by least squares, reweighted (Schlossmacher 1973)."""
        weight = row_weights(weights, y)
        start, fitted = self.least_squares(x, y, weights)
        for _ in range(_REWEIGHTED):
            left = (y - fitted).abs()
            # Rows that are met already keep a finite weight.
            floor = (1e-9 * (weight @ left / weight.sum())).clamp_min(torch.finfo(x.dtype).tiny)
            start, fitted = self.least_squares(x, y, weight / torch.maximum(left, floor))
        # The optimum meets as many rows as there are weights.
        met = x.shape[1] + self.intercept
        left = torch.where(weight > 0, (y - fitted).abs(), torch.inf)
        rows = left.argsort()[:met]
        exact, _ = self.least_squares(x[rows], y[rows])
        through = linear_predictor(x, exact.get("intercept"), exact["coefficients"])
        if bool(weight @ (y - through).abs() < weight @ (y - fitted).abs()):
            return exact, through
        return start, fitted


@dataclass(frozen=True, kw_only=True)
class LogisticRegression(Regression):
    r"""Binary outcomes whose log-odds are linear in the covariates.

    .. math:: y_i \sim \mathrm{Bernoulli}(\sigma(\text{intercept} +
              x_i^\top \text{coefficients})), \qquad \sigma(u) = 1 / (1 + e^{-u})

    Parameters
    ----------
    intercept : bool
        Whether there is one; without it the probability at x = 0 is 1/2.
    intercept_scale : float or None
        Standard deviation of its normal prior, which is centred at 0. None makes the prior
        flat (improper), which penalises nothing; a forward run puts the intercept at 0.
    prior : {"normal", "laplace"}
        Prior of each coefficient, centred at 0.
    coefficients_scale : float or None
        Its scale: the standard deviation of the normal, the mean absolute value of the
        Laplace distribution. None makes it flat.

    Notes
    -----
    Sites ``intercept`` (a scalar), ``coefficients`` ``[d]`` and, observed, ``y`` ``[n]``;
    plate ``observation``. The posterior mode minimises C times the log-loss plus
    Σ coefficients² / 2 for the normal prior of scale √C, and plus Σ \|coefficients\| for the
    Laplace prior of scale C.

    Examples
    --------
    >>> import pyro, torch
    >>> pyro.set_rng_seed(0)
    >>> LogisticRegression()(torch.ones(5, 2)).shape
    torch.Size([5])
    """

    def __call__(self, x: Any, y: Any = None, *, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Covariates ``[n, d]``.
        y
            Outcomes ``[n]``, 0 or 1; missing to simulate them.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.

        Returns
        -------
        Tensor
            The outcomes ``[n]``, given or simulated, in the dtype of the covariates.

        Raises
        ------
        DataError
            If ``x`` is not a matrix, ``y`` or ``weights`` not a vector of its length or,
            looked at while Pyro validates, ``x`` holds NaN or infinite entries, ``y``
            anything but 0 and 1 or ``weights`` negative entries.
        """
        x = as_matrix(x, "x")
        if y is not None:
            y = as_outcomes(y, "y", len(x), like=x)
            if is_validation_enabled():
                check_outcomes((y == 0) | (y == 1), y, "y", "0 or 1")
        intercept, coefficients = self.sample_weights(x)
        with observation_plate(len(x), x, weights) as rows:
            if LinearBernoulli.serves(x[rows], coefficients):
                outcome = LinearBernoulli(x[rows], coefficients, intercept)
            else:
                logits = linear_predictor(x[rows], intercept, coefficients)
                outcome = dist.Bernoulli(logits=logits)
            return pyro.sample("y", outcome, obs=None if y is None else y[rows])

    def initial(self, x: Any, y: Any = None, *, weights: Any = None) -> dict[str, Tensor]:
        """Start at the end of Newton's method, of many rows at that of a part of them.

        All rows are looked at where covariates lie far from zero: see `newton_solution`.
        """
        if y is None:
            return {}
        x = as_matrix(x, "x")
        y = as_outcomes(y, "y", len(x), like=x)
        weight = row_weights(weights, y)
        rows = self.start_rows(x)
        x, y, weight = x[rows].contiguous(), y[rows], weight[rows]
        # The first step from zero is least squares on 4 (y - 1/2).
        start = self.normal_solution(x, 4 * (y - 0.5), weight)
        return self.newton_solution(BernoulliFamily, x, y, weight, start)


@dataclass(frozen=True, kw_only=True)
class PoissonRegression(Regression):
    r"""Counts whose log-rate is linear in the covariates.

    .. math:: y_i \sim \mathrm{Poisson}(\text{exposure}_i \, e^{\text{intercept} +
              x_i^\top \text{coefficients}})

    Parameters
    ----------
    intercept : bool
        Whether there is one; without it the rate at x = 0 is 1 for each unit of exposure.
    intercept_scale : float or None
        Standard deviation of its normal prior, which is centred at 0. None makes the prior
        flat (improper), which penalises nothing; a forward run puts the intercept at 0.
    prior : {"normal", "laplace"}
        Prior of each coefficient, centred at 0.
    coefficients_scale : float or None
        Its scale: the standard deviation of the normal, the mean absolute value of the
        Laplace distribution. None makes it flat. The default is narrower than elsewhere:
        a coefficient of 1 multiplies the rate by e.

    Notes
    -----
    Sites ``intercept`` (a scalar), ``coefficients`` ``[d]`` and, observed, ``y`` ``[n]``;
    plate ``observation``.

    Examples
    --------
    >>> import pyro, torch
    >>> pyro.set_rng_seed(0)
    >>> PoissonRegression()(torch.ones(5, 2), exposure=[1, 1, 2, 2, 3]).shape
    torch.Size([5])
    """

    intercept_scale: float | None = 3.0
    coefficients_scale: float | None = 1.0

    def __call__(
        self, x: Any, y: Any = None, *, exposure: Any = None, weights: Any = None
    ) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Covariates ``[n, d]``.
        y
            Counts ``[n]``, integers of at least 0; missing to simulate them.
        exposure
            How long or how much was watched for each count, ``[n]`` positive numbers; 1 by
            default.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.

        Returns
        -------
        Tensor
            The counts ``[n]``, given or simulated, in the dtype of the covariates.

        Raises
        ------
        DataError
            If ``x`` is not a matrix, another argument not a vector of its length or, looked
            at while Pyro validates, ``x`` holds NaN or infinite entries, ``y`` anything but
            counts, ``exposure`` an entry that is not positive or ``weights`` a negative one.
        """
        x = as_matrix(x, "x")
        if y is not None:
            y = as_outcomes(y, "y", len(x), like=x)
            if is_validation_enabled():
                check_outcomes((y >= 0) & (y == y.floor()), y, "y", "counts 0, 1, 2, ...")
        exposure = self._exposure(x, exposure)
        intercept, coefficients = self.sample_weights(x)
        with observation_plate(len(x), x, weights) as rows:
            offset = None if exposure is None else exposure[rows].log()
            if LinearPoisson.serves(x[rows], coefficients):
                outcome = LinearPoisson(x[rows], coefficients, intercept, offset)
            else:
                log_rate = linear_predictor(x[rows], intercept, coefficients)
                log_rate = log_rate if offset is None else log_rate + offset
                outcome = dist.Poisson(log_rate.exp())
            return pyro.sample("y", outcome, obs=None if y is None else y[rows])

    def coords(
        self, x: Any, y: Any = None, *, exposure: Any = None, weights: Any = None
    ) -> dict[str, Any]:
        """Labels of the dimensions: the columns and the index of data frames."""
        return dict(super().coords(x, y))

    def initial(
        self, x: Any, y: Any = None, *, exposure: Any = None, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at the end of Newton's method, of many rows at that of a part of them.

        It begins at least squares on the logarithms of the rates, half a count added to each and
        weighed by their counts, which is the precision of such a logarithm.
        """
        if y is None:
            return {}
        x = as_matrix(x, "x")
        y = as_outcomes(y, "y", len(x), like=x)
        watched = self._exposure(x, exposure)
        weight, rows = row_weights(weights, y), self.start_rows(x)
        offset = None if watched is None else watched[rows].log()
        x, y, weight = x[rows].contiguous(), y[rows], weight[rows]
        target = (y + 0.5).log() if offset is None else (y + 0.5).log() - offset
        start = self.normal_solution(x, target, (y + 0.5) * weight)
        return self.newton_solution(PoissonFamily, x, y, weight, start, offset)

    @staticmethod
    def _exposure(x: Tensor, exposure: Any) -> Tensor | None:
        """Exposures ``[n]``, checked."""
        if exposure is None:
            return None
        watched = as_outcomes(exposure, "exposure", len(x), like=x).to(x.device)
        if is_validation_enabled():
            check_outcomes(watched > 0, watched, "exposure", "positive numbers")
        return watched
