r"""Mixtures of components whose log-densities are linear in features of the data.

For component k, :math:`\log p(x \mid k) = \langle \eta_k, \phi(x) \rangle + b(x)`: every
exponential family is of that kind (Wainwright & Jordan 2008, "Graphical models, exponential
families, and variational inference", section 3). All components' log-densities are then one matrix
product, and the gradient of the log-evidence by :math:`\eta` is the other one, the expected
sufficient statistics (Fisher's identity).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from likely.models._logarithms import IMPOSSIBLE

# Entries of the features and the log-densities that one pass keeps in cache (1 MiB in float64),
# and the same for an accelerator, where passes cost launches and only memory limits them.
_BLOCK_CPU = 1 << 17
_BLOCK_ACCELERATOR = 1 << 24
_SMALLEST_BLOCK = 256
_LARGEST_BLOCK_CPU = 1 << 13


class Features(ABC):
    """What the log-densities are linear in; free of the unknowns.

    Attributes
    ----------
    linear : bool
        Whether missing entries leave the log-density of what is there linear in the features.
        Where not, `log_densities` says what it is, and the gradient is found by going through it.
    """

    linear: bool = True

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Features ``[F, m]`` of rows ``x`` ``[m, D]``, contiguous."""

    def base(self, x: Tensor) -> Tensor | None:
        """The term b(x), ``[m]``; ``None`` for zero."""
        return None

    def log_densities(self, x: Tensor, log_weights: Tensor, natural: Tensor) -> Tensor:
        """Joint log-density of component and rows ``x``, ``[K, m]``, up to b(x).

        Parameters
        ----------
        x
            Rows, ``[m, D]``.
        log_weights
            ``[K]``; ``-inf`` for a component that is not there.
        natural
            ``[K, F]``.
        """
        return torch.addmm(log_weights.unsqueeze(-1), natural, self(x))


def blocks(n: int, width: int, device: torch.device) -> list[slice]:
    """Consecutive rows, so many at a time that ``width`` numbers a row stay in cache."""
    if device.type == "cpu":
        size = min(max(_SMALLEST_BLOCK, _BLOCK_CPU // width), _LARGEST_BLOCK_CPU)
    else:
        size = max(_SMALLEST_BLOCK, _BLOCK_ACCELERATOR // width)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def evidence(
    x: Tensor, log_weights: Tensor, natural: Tensor, features: Features, hard: bool = False
) -> Tensor:
    r"""Log-evidence of each row, :math:`\log \sum_k \exp(\log w_k + \langle\eta_k, \phi\rangle)`.

    Memory beyond the result does not grow with the number of rows, forward and backward. The first
    derivative costs half a forward pass more; second derivatives work in reverse mode.

    Parameters
    ----------
    x
        Rows, ``[n, ...]``.
    log_weights
        ``[K]``.
    natural
        ``[K, F]``.
    features
        The features and b(x).
    hard
        Maximise over the components instead of summing.

    Returns
    -------
    Tensor
        ``[n]``.
    """
    transformed = torch._C._are_functorch_transforms_active() or torch.jit.is_tracing()
    if x.requires_grad or transformed or not features.linear:
        return _plain_evidence(x, log_weights, natural, features, hard)
    result: Tensor = _Evidence.apply(log_weights, natural, x, features, hard)
    return result


def posterior(x: Tensor, log_weights: Tensor, natural: Tensor, features: Features) -> Tensor:
    """Posterior probabilities of the components, ``[n, K]``, from the arguments of `evidence`."""
    k, width = natural.shape
    result = x.new_empty(len(x), k)
    for rows in blocks(len(x), width + k, x.device):
        densities = features.log_densities(x[rows], log_weights, natural)
        result[rows] = _shares(densities, False)[1].T
    return result


def statistics(x: Tensor, shares: Tensor, features: Features) -> Tensor:
    """Sums of the features, ``[K, F]``, over rows ``x`` ``[n, D]`` with shares ``[n, K]``."""
    total: Tensor | None = None
    for rows in blocks(len(x), shares.shape[1] + x.shape[-1] ** 2, x.device):
        part = shares[rows].T @ features(x[rows]).T
        total = part if total is None else total.add_(part)
    if total is None:
        raise ValueError("statistics of no rows")
    return total


def _linear(log_weights: Tensor, natural: Tensor, phi: Tensor) -> Tensor:
    return torch.addmm(log_weights.unsqueeze(-1), natural, phi)


def _plain_evidence(
    x: Tensor, log_weights: Tensor, natural: Tensor, features: Features, hard: bool
) -> Tensor:
    densities = features.log_densities(x, log_weights, natural)
    total = densities.amax(0) if hard else densities.logsumexp(0)
    total = torch.where(total < 0.1 * IMPOSSIBLE, -math.inf, total)
    base = features.base(x)
    return total if base is None else total + base


def _shares(densities: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
    """Log-evidence ``[m]`` and shares ``[K, m]`` of log-densities, which are overwritten."""
    highest = densities.amax(0)
    # A row that no component can have made has log-evidence -inf, and no shares.
    none = not bool(highest.min() > 0.1 * IMPOSSIBLE)
    if none:
        impossible = highest < 0.1 * IMPOSSIBLE
    if hard:
        winner = densities.argmax(0, keepdim=True)
        shares, total = torch.zeros_like(densities).scatter_(0, winner, 1.0), highest
    else:
        if none:
            highest = torch.where(impossible, 0.0, highest)
        shares = densities.sub_(highest).exp_()
        total = shares.sum(0)
        if none:
            total.clamp_min_(torch.finfo(total.dtype).tiny)
        shares.mul_(total.reciprocal())
        total.log_().add_(highest)
    if none:
        shares[:, impossible], total[impossible] = 0.0, -math.inf
    return total, shares


class _Evidence(torch.autograd.Function):
    """`_plain_evidence` block by block.

    What follows is nearly always the gradient of the rows' sum, so the forward pass already takes
    it while the features are in cache; rows that are weighted differently cost a second pass.
    """

    @staticmethod
    def forward(
        ctx: Any, log_weights: Tensor, natural: Tensor, x: Tensor, features: Features, hard: bool
    ) -> Tensor:
        """Compute the log-evidence ``[n]``."""
        ctx.save_for_backward(log_weights, natural, x)
        ctx.features, ctx.hard = features, hard
        k, width = natural.shape
        result = x.new_empty(len(x))
        counted = any(ctx.needs_input_grad[:2])
        sizes, statistics = torch.zeros_like(log_weights), torch.zeros_like(natural)
        for rows in blocks(len(x), width + k, x.device):
            part = x[rows]
            phi = features(part)
            total, shares = _shares(_linear(log_weights, natural, phi), hard)
            base = features.base(part)
            result[rows] = total if base is None else total.add_(base)
            if counted:
                sizes += shares.sum(1)
                statistics.addmm_(shares, phi.T)
        ctx.sums = (sizes, statistics)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by the log-weights and the natural parameters."""
        (gradient,) = gradients
        log_weights, natural, x = ctx.saved_tensors
        k, width = natural.shape
        if torch.is_grad_enabled():
            sizes, statistics = torch.zeros_like(log_weights), torch.zeros_like(natural)
            for rows in blocks(len(x), width + k, x.device):
                phi = ctx.features(x[rows])
                densities = _linear(log_weights, natural, phi)
                shares = _differentiable_shares(densities, ctx.hard) * gradient[rows]
                sizes = sizes + shares.sum(1)
                statistics = statistics + shares @ phi.T
            return sizes, statistics, None, None, None
        if _is_constant(gradient):
            sizes, statistics = ctx.sums
            first = gradient[0] if len(x) else gradient.sum()
            return sizes * first, statistics * first, None, None, None
        sizes, statistics = torch.zeros_like(log_weights), torch.zeros_like(natural)
        for rows in blocks(len(x), width + k, x.device):
            phi = ctx.features(x[rows])
            _, shares = _shares(_linear(log_weights, natural, phi), ctx.hard)
            # Not in place: the gradient may carry a batch of vmap's.
            shares = shares * gradient[rows]
            sizes = sizes + shares.sum(1)
            statistics = statistics + shares @ phi.T
        return sizes, statistics, None, None, None


def _differentiable_shares(densities: Tensor, hard: bool) -> Tensor:
    if not hard:
        return torch.softmax(densities, 0)
    winner = densities.argmax(0, keepdim=True)
    return torch.zeros_like(densities).scatter(0, winner, 1.0)


def _is_constant(gradient: Tensor) -> bool:
    """Whether all entries are known to be the same; the layout may tell without a look at them."""
    if gradient.numel() <= 1 or gradient.stride(0) == 0:
        return True
    try:
        gradient.data_ptr()
    except RuntimeError:
        # Several gradients at once, of either of torch's kinds of vmap: no memory, no one answer.
        return False
    return bool((gradient == gradient[0]).all())
