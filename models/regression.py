"""Programs of outcomes that depend linearly on covariates."""

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
from likely.models._data import (
    as_matrix,
    as_outcomes,
    check_outcomes,
    column_labels,
    plate_rows,
    row_labels,
)
from likely.models._options import check_number


@dataclass(frozen=True, kw_only=True)
class _Regression:
    """Intercept, coefficients and labels that the regressions share."""

    intercept: bool = True
    intercept_scale: float = 10.0
    coefficients_scale: float = 10.0
    dims: ClassVar[dict[str, tuple[str, ...]]] = {"coefficients": ("feature",)}

    def __post_init__(self) -> None:
        if not isinstance(self.intercept, bool):
            raise DataError(f"intercept must be True or False, got {self.intercept!r}")
        check_number(self.intercept_scale, "intercept_scale", positive=True)
        check_number(self.coefficients_scale, "coefficients_scale", positive=True)

    def coords(self, x: Any, y: Any = None) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: the columns and the index of data frames."""
        return {"feature": column_labels(x), **(row_labels(x) or row_labels(y))}

    def _sample_weights(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Sample the intercept (None where there is none) and the coefficients ``[d]``."""
        zero = x.new_zeros(())
        intercept = None
        if self.intercept:
            intercept = pyro.sample(
                "intercept", dist.Normal(zero, x.new_tensor(self.intercept_scale))
            )
        prior = dist.Normal(x.new_zeros(x.shape[1]), x.new_tensor(self.coefficients_scale))
        return intercept, pyro.sample("coefficients", prior.to_event(1))

    def _least_squares(self, x: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Weights that minimise the squared error, and the predictions ``[n]``."""
        design = torch.cat([torch.ones_like(x[:, :1]), x], 1) if self.intercept else x
        # The pseudo-inverse also serves covariates that depend on each other.
        weights = torch.linalg.pinv(design.T @ design, hermitian=True) @ (design.T @ target)
        start = {"coefficients": weights[-x.shape[1] :]}
        if self.intercept:
            start["intercept"] = weights[0]
        return start, design @ weights


def _linear_predictor(x: Tensor, intercept: Tensor | None, coefficients: Tensor) -> Tensor:
    """Compute ``x @ coefficients + intercept``.

    Parameters
    ----------
    x
        Covariates, ``[n, d]``.
    intercept
        Scalar, or ``[*batch, 1]`` when plates outside vectorise the program.
    coefficients
        ``[d]``, or ``[*batch, 1, d]``.

    Returns
    -------
    Tensor
        ``[n]``, or ``[*batch, n]``.
    """
    single = coefficients.dim() == 1
    predictor = x @ coefficients if single else (coefficients @ x.T).squeeze(-2)
    return predictor if intercept is None else predictor + intercept


@dataclass(frozen=True, kw_only=True)
class LinearRegression(_Regression):
    r"""Normal outcomes whose mean is linear in the covariates.

    .. math:: y_i \sim \mathrm{Normal}(\text{intercept} + x_i^\top \text{coefficients},
              \text{scale})

    Parameters
    ----------
    intercept : bool
        Whether there is one; without it the prediction at x = 0 is 0.
    intercept_scale, coefficients_scale : float
        Standard deviations of their normal priors, which are centred at 0.
    scale_scale : float
        Scale of the half-normal prior on ``scale``, in the units of y.

    Notes
    -----
    Sites ``intercept`` (a scalar), ``coefficients`` ``[d]``, ``scale`` (a positive scalar)
    and, observed, ``y`` ``[n]``; plate ``observation``. The priors do not know the units
    of the data: standardise these, or widen the priors.

    Examples
    --------
    >>> import pyro, torch
    >>> pyro.set_rng_seed(0)
    >>> LinearRegression()(torch.ones(5, 2)).shape
    torch.Size([5])
    """

    scale_scale: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.scale_scale, "scale_scale", positive=True)

    def __call__(self, x: Any, y: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Covariates ``[n, d]``.
        y
            Outcomes ``[n]``; missing to simulate them.

        Returns
        -------
        Tensor
            The outcomes ``[n]``, given or simulated.

        Raises
        ------
        DataError
            If ``x`` is not a matrix, ``y`` not a vector of its length, or either holds NaN
            or infinite entries (looked at while Pyro validates).
        """
        x = as_matrix(x, "x")
        y = None if y is None else as_outcomes(y, "y", len(x), like=x)
        intercept, coefficients = self._sample_weights(x)
        scale = pyro.sample("scale", dist.HalfNormal(x.new_tensor(self.scale_scale)))
        with pyro.plate("observation", len(x), device=str(x.device)) as index:
            rows = plate_rows(index, len(x), x.device)
            mean = _linear_predictor(x[rows], intercept, coefficients)
            obs = None if y is None else y[rows]
            return pyro.sample("y", dist.Normal(mean, scale), obs=obs)

    def initial(self, x: Any, y: Any = None) -> dict[str, Tensor]:
        """Start at least squares; the scale starts above 1/1000 of that of ``y``."""
        if y is None:
            return {}
        x = as_matrix(x, "x")
        y = as_outcomes(y, "y", len(x), like=x)
        start, fitted = self._least_squares(x, y)
        size = y.square().mean().sqrt()
        # Points on a line leave no residual to start from, and zeros no size either.
        scale = torch.maximum((y - fitted).square().mean().sqrt(), 1e-3 * size)
        return {**start, "scale": torch.where(scale > 0, scale, torch.ones_like(scale))}


@dataclass(frozen=True, kw_only=True)
class LogisticRegression(_Regression):
    r"""Binary outcomes whose log-odds are linear in the covariates.

    .. math:: y_i \sim \mathrm{Bernoulli}(\sigma(\text{intercept} +
              x_i^\top \text{coefficients})), \qquad \sigma(u) = 1 / (1 + e^{-u})

    Parameters
    ----------
    intercept : bool
        Whether there is one; without it the probability at x = 0 is 1/2.
    intercept_scale, coefficients_scale : float
        Standard deviations of their normal priors, which are centred at 0.

    Notes
    -----
    Sites ``intercept`` (a scalar), ``coefficients`` ``[d]`` and, observed, ``y`` ``[n]``;
    plate ``observation``.

    Examples
    --------
    >>> import pyro, torch
    >>> pyro.set_rng_seed(0)
    >>> LogisticRegression()(torch.ones(5, 2)).shape
    torch.Size([5])
    """

    def __call__(self, x: Any, y: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Covariates ``[n, d]``.
        y
            Outcomes ``[n]``, 0 or 1; missing to simulate them.

        Returns
        -------
        Tensor
            The outcomes ``[n]``, given or simulated, in the dtype of the covariates.

        Raises
        ------
        DataError
            If ``x`` is not a matrix, ``y`` not a vector of its length or, looked at while
            Pyro validates, ``x`` holds NaN or infinite entries or ``y`` anything but 0
            and 1.
        """
        x = as_matrix(x, "x")
        if y is not None:
            y = as_outcomes(y, "y", len(x), like=x)
            if is_validation_enabled():
                check_outcomes((y == 0) | (y == 1), y, "y", "0 or 1")
        intercept, coefficients = self._sample_weights(x)
        with pyro.plate("observation", len(x), device=str(x.device)) as index:
            rows = plate_rows(index, len(x), x.device)
            logits = _linear_predictor(x[rows], intercept, coefficients)
            obs = None if y is None else y[rows]
            return pyro.sample("y", dist.Bernoulli(logits=logits), obs=obs)

    def initial(self, x: Any, y: Any = None) -> dict[str, Tensor]:
        """Start at the first Newton step from zero, least squares on ``4 (y - 1/2)``."""
        if y is None:
            return {}
        x = as_matrix(x, "x")
        y = as_outcomes(y, "y", len(x), like=x)
        start, _ = self._least_squares(x, 4 * (y - 0.5))
        return start
