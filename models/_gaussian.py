"""A multivariate normal that is fast for many components against many points."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

# Entries of the whitened block that one pass keeps in cache (256 KiB in float64), and the
# same for an accelerator, where passes cost launches and only memory limits them.
_BLOCK_CPU = 1 << 15
_BLOCK_ACCELERATOR = 1 << 24
_SMALLEST_BLOCK = 256
# Below this many entries of the whitened points the preparation costs more than it saves.
_SMALL = 1 << 14


class _ComponentLogDensity(torch.autograd.Function):
    """`_log_density` block by block, so that the whitened points stay in cache.

    Memory beyond the result does not grow with the number of points, forward and backward.
    """

    @staticmethod
    def forward(
        ctx: Any, whiten: Tensor, shift: Tensor, offset: Tensor, points: Tensor, centre: Tensor
    ) -> Tensor:
        """Compute the log-density ``[K, n]``."""
        ctx.save_for_backward(whiten, shift, points, centre)
        k, d = shift.shape
        result = points.new_empty(k, len(points))
        for rows, _, z in _whitened_blocks(whiten, shift, points, centre):
            squares = z.square_().reshape(k, d, -1).sum(1)
            result[:, rows] = squares.mul_(-0.5).add_(offset.unsqueeze(-1))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by the inputs, from that by the log-density ``[K, n]``."""
        (gradient,) = gradients
        whiten, shift, points, centre = ctx.saved_tensors
        by_points = any(ctx.needs_input_grad[3:])
        if by_points or torch.is_grad_enabled():
            # Second derivatives go through what is saved, which blocks would pile up.
            centred = points - centre
            z = gradient.unsqueeze(1) * (whiten @ centred.T - shift.unsqueeze(-1))
            pull = -torch.einsum("kdn,kde->ne", z, whiten) if by_points else None
            back = None if pull is None else -pull.sum(0)
            return -(z @ centred), z.sum(-1), gradient.sum(-1), pull, back
        k, d = shift.shape
        by_whiten = whiten.new_zeros(k * d, d)
        by_shift = shift.new_zeros(k * d)
        for rows, centred, z in _whitened_blocks(whiten, shift, points, centre):
            # Not in place: the gradient may carry a batch of vmap's.
            z = (gradient[:, None, rows] * z.reshape(k, d, -1)).reshape(k * d, -1)
            by_whiten = by_whiten - z @ centred
            by_shift = by_shift + z.sum(-1)
        return by_whiten.reshape(k, d, d), by_shift.reshape(k, d), gradient.sum(-1), None, None


def _log_density(
    whiten: Tensor, shift: Tensor, offset: Tensor, points: Tensor, centre: Tensor
) -> Tensor:
    """``offset[k] - |whiten[k] (x[i] - centre) - shift[k]|^2 / 2`` for all k and i.

    Shapes ``[K, D, D]``, ``[K, D]``, ``[K]``, ``[n, D]`` and ``[D]``; result ``[K, n]``.
    """
    z = whiten @ (points - centre).T - shift.unsqueeze(-1)
    return offset.unsqueeze(-1) - 0.5 * z.square().sum(-2)


def _is_transformed() -> bool:
    """Whether a `torch.func` transform or vmap is at work."""
    return bool(torch._C._are_functorch_transforms_active())


def _whitened_blocks(whiten: Tensor, shift: Tensor, points: Tensor, centre: Tensor) -> Any:
    """Yield ``(rows, centred [m, D], whitened [K * D, m])`` block by block."""
    k, d = shift.shape
    stacked = whiten.reshape(k * d, d)
    negative_shift = shift.reshape(k * d, 1).neg()
    entries = _BLOCK_CPU if points.device.type == "cpu" else _BLOCK_ACCELERATOR
    size = max(_SMALLEST_BLOCK, entries // (k * d))
    for start in range(0, len(points), size):
        rows = slice(start, start + size)
        centred = points[rows] - centre
        yield rows, centred, torch.addmm(negative_shift, stacked, centred.T)


class ComponentNormal(dist.MultivariateNormal):
    """Multivariate normal with a fast log-density over an enumerated component.

    The same distribution as `pyro.distributions.MultivariateNormal`. When its parameters
    vary only to the left of the observations' dimension, batch shape ``[..., 1]`` against
    points ``[n, D]``, as they do when the component is enumerated, the points are whitened
    in one matrix product per block of points and no ``[K, n, D]`` tensor is built. The
    gradient costs one more such pass; second derivatives work in reverse mode.

    Parameters
    ----------
    loc
        Means, ``[*batch, D]``.
    scale_tril
        Lower Cholesky factors of the covariances, ``[*batch, D, D]``.
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale_tril=scale_tril, validate_args=validate_args)
        # The parents expand; the shapes that came tell what really varies.
        self._parameters = loc, scale_tril

    def expand(
        self,
        batch_shape: torch.Size | list[int] | tuple[int, ...],
        _instance: ComponentNormal | None = None,
    ) -> ComponentNormal:
        """Expand to a batch shape, remembering which parameters really vary."""
        new = self._get_checked_instance(ComponentNormal, _instance)
        expanded: ComponentNormal = super().expand(batch_shape, _instance=new)
        expanded._parameters = self._parameters
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value`` ``[*sample, *batch, D]``, shape ``[*sample, *batch]``."""
        loc, scale_tril = self._parameters
        varies = torch.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
        fits = value.dim() == 2 and varies[-1:] == (1,)
        if not fits or value.numel() * varies.numel() < _SMALL:
            density: Tensor = super().log_prob(value)
            return density
        if self._validate_args:
            self._validate_sample(value)
        d = value.shape[-1]
        eye = torch.eye(d, dtype=scale_tril.dtype, device=scale_tril.device)
        whiten = torch.linalg.solve_triangular(
            scale_tril, eye.expand(scale_tril.shape), upper=False
        )
        # Whitening differences from a point amid the components keeps digits that
        # whitening positions would lose when the data lie far from the origin.
        centre = loc.detach().reshape(-1, d).mean(0)
        shift = (whiten @ (loc - centre).unsqueeze(-1)).squeeze(-1)
        offset = -scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        offset = offset - 0.5 * d * math.log(2 * math.pi)
        compute = _log_density if _is_transformed() else _ComponentLogDensity.apply
        density = compute(
            whiten.expand(*varies, d, d).reshape(-1, d, d),
            shift.expand(*varies, d).reshape(-1, d),
            offset.expand(varies).reshape(-1),
            value,
            centre,
        )
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        return density.reshape(*varies[:-1], len(value)).expand(shape)
