"""Intercept, coefficients and their priors, which the regressions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from likely.envs import DataError
from likely.models._clustering import positive_or_one
from likely.models._data import as_weights, column_labels, row_labels
from likely.models._glm import Family, normal_equations
from likely.models._options import check_number
from likely.models._shapes import broadcast_shapes

PRIORS = ("normal", "laplace")
# Share of its mean square that a covariate's mean may make up before it is taken off.
_OFF_CENTRE = 0.99
# A start is found from so many rows.
_START_ROWS = 1 << 16
# Most Newton steps of a start, and a gain so small that the next would gain nothing.
_NEWTON_STEPS = 20
_GAINED = 1e-12


class Flat(dist.TorchDistribution):
    """The improper uniform over real numbers: density one everywhere.

    Nothing can be drawn from it, so a forward run puts the value at zero.

    Parameters
    ----------
    like
        Tensor whose dtype and device the values take.

    Examples
    --------
    >>> Flat(torch.zeros(())).log_prob(torch.tensor([1.0, 1e6]))
    tensor([0., 0.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, like: Tensor, validate_args: bool | None = None) -> None:
        self._zero = like.new_zeros(())
        super().__init__(validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Zero, the middle of the support."""
        return self._zero.expand(self.batch_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Flat | None = None) -> Flat:
        """The same distribution over a larger batch."""
        new: Flat = self._get_checked_instance(Flat, _instance)
        new._zero = self._zero
        super(Flat, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Zeros ``[*sample, *batch]``."""
        return self._zero.new_zeros(Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Zeros ``[*sample, *batch]``."""
        return value.new_zeros(broadcast_shapes(value.shape, self.batch_shape))


def coefficient_prior(family: str, scale: float | None, like: Tensor) -> Any:
    """Prior of one coefficient, centred at zero; flat where ``scale`` is missing."""
    if scale is None:
        return Flat(like)
    make = dist.Laplace if family == "laplace" else dist.Normal
    return make(like.new_zeros(()), like.new_tensor(scale))


def _solve(square: Tensor, right: Tensor) -> Tensor:
    """Solution of normal equations, whatever the units of the covariates."""
    units = positive_or_one(square.diagonal()).rsqrt()
    # The pseudo-inverse also serves covariates that depend on each other.
    inverse = torch.linalg.pinv(square * units * units.unsqueeze(-1), hermitian=True)
    return units * (inverse @ (units * right))


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Options, priors and labels of a regression on covariates ``[n, d]``."""

    intercept: bool = True
    intercept_scale: float | None = 10.0
    prior: str = "normal"
    coefficients_scale: float | None = 10.0
    dims: ClassVar[dict[str, tuple[str, ...]]] = {"coefficients": ("feature",)}

    def __post_init__(self) -> None:
        if not isinstance(self.intercept, bool):
            raise DataError(f"intercept must be True or False, got {self.intercept!r}")
        if self.prior not in PRIORS:
            raise DataError(f"prior must be one of {', '.join(PRIORS)}, got {self.prior!r}")
        for name in ("intercept_scale", "coefficients_scale"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, positive=True)

    def coords(self, x: Any, y: Any = None, *, weights: Any = None) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: the columns and the index of data frames."""
        return {"feature": column_labels(x), **(row_labels(x) or row_labels(y))}

    def sample_weights(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Sample the intercept (None where there is none) and the coefficients ``[d]``."""
        intercept = None
        if self.intercept:
            prior = coefficient_prior("normal", self.intercept_scale, x)
            intercept = pyro.sample("intercept", prior)
        prior = coefficient_prior(self.prior, self.coefficients_scale, x)
        return intercept, pyro.sample("coefficients", prior.expand([x.shape[1]]).to_event(1))

    def least_squares(
        self, x: Tensor, target: Tensor, weights: Any = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Solve a weighted least-squares problem, as a start.

        Parameters
        ----------
        x, target
            Covariates ``[n, d]`` and what to fit ``[n]``.
        weights
            Weights of the rows ``[n]``; ones where missing.

        Returns
        -------
        start : dict
            ``coefficients`` ``[d]`` and, where there is one, ``intercept``.
        predictions : Tensor
            ``[n]``.
        """
        start = self.normal_solution(x, target, weights)
        return start, linear_predictor(x, start.get("intercept"), start["coefficients"])

    def start_rows(self, x: Tensor) -> slice:
        """Rows that a start is found from: some of many, all where covariates lie far from zero."""
        if len(x) <= _START_ROWS or _lie_far(x.mean(0), x.square().mean(0)):
            return slice(None)
        return slice(None, None, -(-len(x) // _START_ROWS))

    def newton_solution(
        self,
        family: Family,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        start: dict[str, Tensor],
        offset: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Newton steps by reweighted least squares from ``start``, as long as each gains.

        Least squares take the means of covariates off, so that the steps lead to the optimum where
        a search in the coefficients themselves loses its way: in covariates far from zero.
        McCullagh & Nelder (1989), section 2.5.
        """
        tiny, best = torch.finfo(x.dtype).tiny, torch.tensor(-torch.inf)
        reached, density = start, torch.empty_like(y)
        for _ in range(_NEWTON_STEPS):
            u = linear_predictor(x, reached.get("intercept"), reached["coefficients"])
            u = u if offset is None else u + offset
            family.log_density(u, y, density)
            value = weight @ density
            if not bool(value > best):
                break
            gained = value - best
            best, start = value, reached
            if bool(gained <= _GAINED * value.abs()):
                break
            curve = family.curvature(u).neg()
            target = u + family.score(u, y) / curve.clamp_min(tiny)
            target = target if offset is None else target - offset
            reached = self.normal_solution(x, target, weight * curve)
        return start

    def normal_solution(self, x: Tensor, target: Tensor, weights: Any = None) -> dict[str, Tensor]:
        """Solve a weighted least-squares problem by its normal equations, as `least_squares`."""
        checked = as_weights(weights, len(x), x)
        square, right = normal_equations(x, target, checked, self.intercept)
        if not self.intercept:
            return {"coefficients": _solve(square, right)}
        means, sizes = square[0, 1:] / square[0, 0], square.diagonal()[1:] / square[0, 0]
        if not _lie_far(means, sizes):
            solution = _solve(square, right)
            return {"coefficients": solution[1:], "intercept": solution[0]}
        # Products of covariates far from zero (years, say) have lost what tells rows apart.
        solution = _solve(*normal_equations(x - means, target, checked, True))
        return {"coefficients": solution[1:], "intercept": solution[0] - means @ solution[1:]}


def _lie_far(means: Tensor, squares: Tensor) -> bool:
    """Whether a covariate lies far from zero, by its mean and its mean square."""
    return bool((means.square() > _OFF_CENTRE * squares).any())


def linear_predictor(x: Tensor, intercept: Tensor | None, coefficients: Tensor) -> Tensor:
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
