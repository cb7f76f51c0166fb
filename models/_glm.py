"""Outcomes whose canonical parameter is linear in covariates, with a log-density in one pass.

A canonical exponential family has ``log p(y | u) = y u - A(u) + b(y)`` with ``u = x @ w + c``
(McCullagh & Nelder 1989, section 2.2). Its score by u is ``y - A'(u)`` and its curvature
``-A''(u)``, so the gradient by the weights is ``x.T @ (y - A'(u))`` and the Hessian
``-x.T @ diag(A''(u)) @ x``. Reading the covariates takes longer than all else, so the density and
its gradient share one pass over them, block by block while a block is in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

# Entries of a block of covariates that one pass keeps in cache (512 KiB in float64), and the
# same for an accelerator, where passes cost launches and only memory limits them.
_BLOCK_CPU = 1 << 16
_BLOCK_ACCELERATOR = 1 << 26
# With fewer covariates than this the whole Hessian is cheaper than a few products with it.
_MOST_SQUARE = 128
# Below this many entries of the covariates the bookkeeping costs more than a pass saves.
_SMALL = 1 << 14


class BernoulliFamily:
    """``A(u) = log(1 + e^u)``."""

    @staticmethod
    def log_density(u: Tensor, y: Tensor, out: Tensor) -> None:
        """Write ``log p(y | u)``."""
        torch.addcmul(F.logsigmoid(-u), y, u, out=out)

    @staticmethod
    def score(u: Tensor, y: Tensor) -> Tensor:
        """Derivative of the log-density by u."""
        return y - torch.sigmoid(u)

    @staticmethod
    def curvature(u: Tensor) -> Tensor:
        """Second derivative of the log-density by u."""
        mean = torch.sigmoid(u)
        return mean * (mean - 1)


class PoissonFamily:
    """``A(u) = e^u``."""

    @staticmethod
    def log_density(u: Tensor, y: Tensor, out: Tensor) -> None:
        """Write ``log p(y | u)``."""
        torch.addcmul(torch.lgamma(y + 1).add_(u.exp()).neg_(), y, u, out=out)

    @staticmethod
    def score(u: Tensor, y: Tensor) -> Tensor:
        """Derivative of the log-density by u."""
        return y - u.exp()

    @staticmethod
    def curvature(u: Tensor) -> Tensor:
        """Second derivative of the log-density by u."""
        return -u.exp()


Family = type[BernoulliFamily] | type[PoissonFamily]


def _predictor(x: Tensor, weights: Tensor, intercept: Tensor, offset: Tensor | None) -> Tensor:
    """``x @ weights + intercept + offset``, shape ``[n]``."""
    u = torch.addmv(intercept.expand(len(x)), x, weights)
    return u if offset is None else u + offset


def _blocks(x: Tensor) -> Iterator[slice]:
    """Yield row slices whose covariates fit in cache."""
    entries = _BLOCK_CPU if x.device.type == "cpu" else _BLOCK_ACCELERATOR
    size = max(1, entries // x.shape[1])
    for start in range(0, len(x), size):
        yield slice(start, start + size)


class _LogDensity(torch.autograd.Function):
    """Log-densities ``[n]``; the gradient of their sum is taken on the way, while it is cheap.

    Few callers want another gradient than a multiple of the sum's; those pay a second pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        family: Family,
        x: Tensor,
        y: Tensor,
        offset: Tensor | None,
        weights: Tensor,
        intercept: Tensor,
        wanted: bool,
    ) -> Tensor:
        """Compute the log-density ``[n]``, and the gradient of its sum if it is ``wanted``."""
        result = x.new_empty(len(x))
        score, by_weights = x.new_empty(len(x) if wanted else 0), torch.zeros_like(weights)
        for rows in _blocks(x):
            block, outcomes = x[rows], y[rows]
            u = _predictor(block, weights, intercept, None if offset is None else offset[rows])
            family.log_density(u, outcomes, result[rows])
            if wanted:
                slope = family.score(u, outcomes)
                score[rows] = slope
                by_weights.addmv_(block.T, slope)
        ctx.family, ctx.data = family, (x, y, offset)
        ctx.save_for_backward(weights, intercept, score, by_weights)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by weights and intercept, from that by the log-density ``[n]``."""
        weights, intercept, *known = ctx.saved_tensors
        pulled = _Gradient.apply(
            ctx.family, *ctx.data, weights, intercept, gradients[0], tuple(known)
        )
        return (*(None,) * 4, *pulled, None)


class _Gradient(torch.autograd.Function):
    """``x.T @ s`` and ``sum(s)`` for ``s = cotangent * score``, to be differentiated again."""

    @staticmethod
    def forward(
        ctx: Any,
        family: Family,
        x: Tensor,
        y: Tensor,
        offset: Tensor | None,
        weights: Tensor,
        intercept: Tensor,
        cotangent: Tensor,
        known: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients ``[d]`` and ``[]`` from the cotangent ``[n]``."""
        ctx.family, ctx.data, ctx.matrix = family, (x, y, offset), None
        ctx.save_for_backward(weights, intercept, cotangent)
        score, of_sum = known
        if not is_transformed() and is_constant(cotangent):
            return of_sum * cotangent[0], score.sum() * cotangent[0]
        score = cotangent * score
        return x.T @ score, score.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Products of the Hessian with directions ``[d]`` and ``[]``."""
        by_weights, by_intercept = gradients
        weights, intercept, cotangent = ctx.saved_tensors
        family, (x, y, offset) = ctx.family, ctx.data
        by_cotangent = ctx.needs_input_grad[6]
        if torch.is_grad_enabled() or by_cotangent or len(weights) > _MOST_SQUARE:
            u = _predictor(x, weights, intercept, offset)
            move = x @ by_weights + by_intercept
            pull = cotangent * family.curvature(u) * move
            back = family.score(u, y) * move if by_cotangent else None
            return None, None, None, None, x.T @ pull, pull.sum(), back, None
        if ctx.matrix is None:
            # Kept, because whoever asks for one product asks for all.
            ctx.matrix = _hessian(family, x, offset, weights, intercept, cotangent)
        square, cross, total = ctx.matrix
        return (
            *(None,) * 4,
            square @ by_weights + cross * by_intercept,
            (cross * by_weights).sum(-1) + total * by_intercept,
            None,
            None,
        )


def _hessian(
    family: Family,
    x: Tensor,
    offset: Tensor | None,
    weights: Tensor,
    intercept: Tensor,
    cotangent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks ``[d, d]``, ``[d]`` and ``[]`` of the weighted Hessian by weights and intercept."""
    square = x.new_zeros(x.shape[1], x.shape[1])
    cross, total = torch.zeros_like(weights), torch.zeros_like(intercept)
    for rows in _blocks(x):
        block = x[rows]
        u = _predictor(block, weights, intercept, None if offset is None else offset[rows])
        curvature = cotangent[rows] * family.curvature(u)
        square.addmm_(block.T, block * curvature.unsqueeze(-1))
        cross.addmv_(block.T, curvature)
        total += curvature.sum()
    return square, cross, total


def normal_equations(
    x: Tensor, target: Tensor, weights: Tensor | None, intercept: bool
) -> tuple[Tensor, Tensor]:
    """Matrix ``[p, p]`` and right-hand side ``[p]`` of a weighted least-squares problem.

    Parameters
    ----------
    x, target
        Covariates ``[n, d]`` and what to fit ``[n]``.
    weights
        Of the rows ``[n]``; None for ones.
    intercept
        Whether a column of ones comes first, so that p = d + 1; else p = d.
    """
    first = int(intercept)
    size = first + x.shape[1]
    square, right = x.new_zeros(size, size), x.new_zeros(size)
    for rows in _blocks(x):
        block, outcomes = x[rows], target[rows]
        weight = torch.ones_like(outcomes) if weights is None else weights[rows]
        left = block.T if weights is None else (block * weight.unsqueeze(-1)).T
        square[first:, first:].addmm_(left, block)
        right[first:].addmv_(left, outcomes)
        if intercept:
            square[0, 0] += weight.sum()
            square[0, 1:].addmv_(block.T, weight)
            right[0] += weight @ outcomes
    if intercept:
        square[1:, 0] = square[0, 1:]
    return square, right


def is_constant(vector: Tensor) -> bool:
    """Whether all entries are the same."""
    return len(vector) > 0 and (vector.stride(0) == 0 or bool((vector == vector[0]).all()))


def is_transformed() -> bool:
    """Whether a `torch.func` transform, vmap or a tracer is at work."""
    return bool(torch._C._are_functorch_transforms_active()) or torch.jit.is_tracing()


class _LinearOutcome(dist.TorchDistribution):
    """A canonical exponential family whose parameter is linear in covariates.

    The same distribution as its ``plain`` one, which is made when it is asked for.

    Parameters
    ----------
    x
        Covariates, ``[n, d]``.
    coefficients
        ``[d]``.
    intercept
        A scalar, or None for 0.
    offset
        Added to the linear predictor, ``[n]``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    _family: ClassVar[Family]

    def __init__(
        self,
        x: Tensor,
        coefficients: Tensor,
        intercept: Tensor | None = None,
        offset: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._x, self._weights, self._offset = x, coefficients, offset
        self._intercept = x.new_zeros(()) if intercept is None else intercept
        self._made: Any = None
        super().__init__(torch.Size([len(x)]), validate_args=validate_args)

    @staticmethod
    def serves(x: Tensor, coefficients: Tensor) -> bool:
        """Whether one pass is possible and worth its bookkeeping."""
        return (
            coefficients.dim() == 1
            and x.numel() >= _SMALL
            and not x.requires_grad
            and not is_transformed()
        )

    @property
    def plain(self) -> Any:
        """The distribution with its parameters written out, ``[n]``."""
        if self._made is None:
            u = _predictor(self._x, self._weights, self._intercept, self._offset)
            self._made = self._make(u)
        return self._made

    def _make(self, u: Tensor) -> Any:
        raise NotImplementedError

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The plain distribution, expanded; itself where the shape is its own."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        return self.plain.expand(torch.Size(batch_shape))

    @property
    def mean(self) -> Tensor:
        """Means ``[n]``."""
        return self.plain.mean

    @property
    def variance(self) -> Tensor:
        """Variances ``[n]``."""
        return self.plain.variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw outcomes ``[*sample, n]``."""
        return self.plain.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of outcomes ``[*sample, n]``."""
        if value.shape != self.batch_shape or value.requires_grad or is_transformed():
            return self.plain.log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        parameters = self._weights, self._intercept
        # Inside a Function torch no longer tells whether anybody wants a gradient.
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        density: Tensor = _LogDensity.apply(
            self._family, self._x, value, self._offset, *parameters, wanted
        )
        return density


class LinearBernoulli(_LinearOutcome):
    """Bernoulli outcomes with log-odds ``x @ coefficients + intercept + offset``.

    Parameters
    ----------
    x, coefficients, intercept, offset
        Covariates ``[n, d]``, ``[d]``, a scalar and ``[n]``.
    """

    support = dist.Bernoulli.support
    has_enumerate_support = True
    _family = BernoulliFamily

    def _make(self, u: Tensor) -> Any:
        return dist.Bernoulli(logits=u)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Zeros and ones, ``[2, n]`` or ``[2, 1]``."""
        return self.plain.enumerate_support(expand)


class LinearPoisson(_LinearOutcome):
    """Poisson counts with log-rates ``x @ coefficients + intercept + offset``.

    Parameters
    ----------
    x, coefficients, intercept, offset
        Covariates ``[n, d]``, ``[d]``, a scalar and ``[n]``.
    """

    support = dist.Poisson.support
    _family = PoissonFamily

    def _make(self, u: Tensor) -> Any:
        return dist.Poisson(u.exp())
