"""Vectors that sum to zero: the support, its coordinates, and two normal priors on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform

from likely.models._shapes import broadcast_shapes


class ZeroSum(constraints.Constraint):
    """Vectors whose entries sum to zero, to rounding."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector ``[*batch, n]`` sums to zero."""
        size = value.abs().sum(-1)
        slack = 64 * math.sqrt(value.shape[-1]) * torch.finfo(value.dtype).eps
        return value.sum(-1).abs() <= slack * (1.0 + size)


zero_sum = ZeroSum()


class ZeroSumTransform(Transform):
    r"""Isometry from n − 1 real numbers to the n entries of a vector that sums to zero.

    The reflection that exchanges the last axis with the direction :math:`\mathbf 1 / \sqrt n`
    carries the other axes onto the hyperplane of sum zero (Householder 1958). Lengths and angles
    stay, so a density has no Jacobian, and nothing singles out an item as the reference.

    Examples
    --------
    >>> there = ZeroSumTransform()
    >>> there(torch.tensor([1.0, 0.0, 0.0])).sum().abs() < 1e-6
    tensor(True)
    """

    domain = constraints.real_vector
    codomain = zero_sum
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZeroSumTransform)

    def _call(self, x: Tensor) -> Tensor:
        root = math.sqrt(x.shape[-1] + 1)
        last = x.sum(-1, keepdim=True) / root
        return torch.cat([x - last / (root - 1), last], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        root = math.sqrt(y.shape[-1])
        return y[..., :-1] + y[..., -1:] / (root - 1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zeros ``[*batch]``."""
        return x.new_zeros(x.shape[:-1])

    def forward_shape(self, shape: Sequence[int]) -> Size:
        """One entry more."""
        return Size(shape[:-1]) + Size([shape[-1] + 1])

    def inverse_shape(self, shape: Sequence[int]) -> Size:
        """One entry less."""
        return Size(shape[:-1]) + Size([shape[-1] - 1])


@biject_to.register(ZeroSum)
@transform_to.register(ZeroSum)
def _zero_sum_transform(constraint: Any) -> Transform:
    return ZeroSumTransform()


class ZeroSumNormal(dist.TorchDistribution):
    r"""Independent normal entries, given that they sum to zero.

    .. math:: \log p(x) = -\frac{1}{2 s^2} \sum_i x_i^2 - \frac{n - 1}{2} \log(2 \pi s^2)

    Parameters
    ----------
    scale
        Standard deviation s of the entries before they are centred, ``[*batch]``; each entry of a
        draw has the variance s² (1 − 1/n).
    size
        Number of entries n ≥ 2.

    Examples
    --------
    >>> draw = ZeroSumNormal(torch.tensor(1.0), 4).sample()
    >>> bool(draw.sum().abs() < 1e-6)
    True
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = zero_sum
    has_rsample = True

    def __init__(self, scale: Tensor, size: int, validate_args: bool | None = None) -> None:
        self.scale, self.size = scale, size
        super().__init__(scale.shape, Size([size]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> ZeroSumNormal:
        """The same distribution over a larger batch."""
        return ZeroSumNormal(self.scale.expand(Size(batch_shape)), self.size)

    @property
    def mean(self) -> Tensor:
        """Zeros ``[*batch, n]``."""
        return self.scale.new_zeros(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Centred normal draws ``[*sample, *batch, n]``."""
        noise = torch.randn(
            Size(sample_shape) + self.batch_shape + self.event_shape,
            dtype=self.scale.dtype,
            device=self.scale.device,
        )
        return self.scale.unsqueeze(-1) * (noise - noise.mean(-1, keepdim=True))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density ``[*sample, *batch]`` on the hyperplane of sum zero."""
        free = self.size - 1
        square = (value / self.scale.unsqueeze(-1)).square().sum(-1)
        return -0.5 * square - free * (self.scale.log() + 0.5 * math.log(2 * math.pi))


def step_scales(scale: Tensor, drift: Tensor, n_periods: int) -> Tensor:
    """Standard deviation of a first vector and of each step after it, ``[*batch, n_periods]``."""
    steps = drift.unsqueeze(-1).expand(drift.shape + (n_periods - 1,))
    first = scale.unsqueeze(-1).expand(scale.shape + (1,))
    batch = broadcast_shapes(scale.shape, drift.shape)
    parts = [part.expand(batch + part.shape[-1:]) for part in (first, steps)]
    return torch.cat(parts, -1)


class ZeroSumWalk(dist.TorchDistribution):
    r"""Vectors of sum zero that take a normal step from each period to the next.

    .. math:: x_1 \sim \mathrm{ZeroSumNormal}(s), \qquad
              x_t - x_{t-1} \sim \mathrm{ZeroSumNormal}(\tau)

    (the discrete-time form of the dynamic paired-comparison models of Glickman 1999).

    Parameters
    ----------
    scale, drift
        Standard deviations s of the first vector and τ of a step, scalars or ``[*batch]``.
    n_periods, size
        Number of periods T ≥ 1 and of entries n ≥ 2; an event is ``[T, n]``.

    Examples
    --------
    >>> walk = ZeroSumWalk(torch.tensor(1.0), torch.tensor(0.1), 3, 4)
    >>> walk.sample().shape
    torch.Size([3, 4])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(zero_sum, 1)
    has_rsample = True

    def __init__(
        self,
        scale: Tensor,
        drift: Tensor,
        n_periods: int,
        size: int,
        validate_args: bool | None = None,
    ) -> None:
        batch = broadcast_shapes(scale.shape, drift.shape)
        self.scale, self.drift = scale.expand(batch), drift.expand(batch)
        super().__init__(batch, Size([n_periods, size]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> ZeroSumWalk:
        """The same distribution over a larger batch."""
        batch = Size(batch_shape)
        return ZeroSumWalk(self.scale.expand(batch), self.drift.expand(batch), *self.event_shape)

    @property
    def mean(self) -> Tensor:
        """Zeros ``[*batch, T, n]``."""
        return self.scale.new_zeros(self.batch_shape + self.event_shape)

    def _scales(self) -> Tensor:
        """Standard deviation of the first vector and of each step, ``[*batch, T]``."""
        return step_scales(self.scale, self.drift, self.event_shape[0])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw walks ``[*sample, *batch, T, n]``."""
        steps = ZeroSumNormal(self._scales(), self.event_shape[1])
        return steps.rsample(sample_shape).cumsum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density ``[*sample, *batch]``."""
        steps = torch.cat([value[..., :1, :], value.diff(dim=-2)], -2)
        return ZeroSumNormal(self._scales(), self.event_shape[1]).log_prob(steps).sum(-1)
