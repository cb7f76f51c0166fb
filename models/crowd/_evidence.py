"""Log-evidence of every task, its true class summed out, with derivatives.

The softmax of the joint log-densities is the posterior of the classes and the derivative of their
log-sum-exp, so one pass over them gives what an E-step needs of both.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from likely.models.crowd.kernels import LabelCounts, by_label


def label_evidence(
    counts: LabelCounts, log_confusion: Tensor, log_prior: Tensor, known: Tensor | None = None
) -> Tensor:
    """Log-density of all labels of every task, its true class summed out.

    Parameters
    ----------
    counts
        Label counts of the crowd, of shape (n_tasks, L, J).
    log_confusion
        ``[L, K, J]``, L may be 1; −inf is allowed here and in ``log_prior``.
    log_prior
        Log-probabilities of the true classes, ``[K]`` or ``[n_tasks, K]``.
    known
        int64 ``[n_tasks]``: true classes, negative where unknown; None if no class is known.

    Returns
    -------
    Tensor
        ``[n_tasks]`` in nats; differentiable to any order.
    """
    table = by_label(counts, log_confusion)
    if _is_watched():
        return log_sum_exp(_joint(table, log_prior, counts, known))
    result: Tensor = _Evidence.apply(table, log_prior, counts, known)
    return result


def add_prior(scores: Tensor, log_prior: Tensor, known: Tensor | None) -> Tensor:
    """Joint log-density ``[n, K]`` of labels and true class; of a known one no other is left."""
    scores = scores + log_prior
    return scores if known is None else scores.masked_fill(_ruled_out(known, scores), -math.inf)


def _ruled_out(known: Tensor, scores: Tensor) -> Tensor:
    classes = torch.arange(scores.shape[-1], device=known.device)
    return (known.unsqueeze(-1) >= 0) & (known.unsqueeze(-1) != classes)


def _joint(table: Tensor, log_prior: Tensor, counts: LabelCounts, known: Tensor | None) -> Tensor:
    return add_prior(counts.product(table), log_prior, known)


class _Evidence(torch.autograd.Function):
    """`label_evidence` in one piece of memory ``[n, K]``: at a million labels that is the time."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, log_prior: Tensor, counts: LabelCounts, known: Tensor | None
    ) -> Tensor:
        scores = counts.product(table).add_(log_prior)
        if known is not None:
            scores.masked_fill_(_ruled_out(known, scores), -math.inf)
        shares, total, highest = _exponentials(scores)
        ctx.save_for_backward(table, log_prior)
        ctx.counts, ctx.known = counts, known
        if any(ctx.needs_input_grad):
            ctx.shares = _divided(shares, total)
        return total.log_().add_(highest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        table, log_prior = ctx.saved_tensors
        if torch.is_grad_enabled():
            shares = shares_of(_joint(table, log_prior, ctx.counts, ctx.known))
        else:
            shares = ctx.shares
        weights = _weighted(shares, gradient)
        by_class = weights.sum(0) if log_prior.dim() == 1 else weights
        return ctx.counts.product(weights, transposed=True), by_class, None, None


def log_sum_exp(scores: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials over the last axis.

    Rows of −inf give −inf and have no derivative, where torch's gives nan. The exponentials serve
    the derivative as well.

    Parameters
    ----------
    scores
        ``[n, K]``.

    Returns
    -------
    Tensor
        ``[n]``; differentiable to any order.
    """
    if _is_watched():
        highest = scores.detach().amax(-1, keepdim=True)
        highest = torch.where(highest.isneginf(), 0.0, highest)
        return (scores - highest).exp().sum(-1).log() + highest.squeeze(-1)
    result: Tensor = _LogSumExp.apply(scores)
    return result


def shares_of(scores: Tensor) -> Tensor:
    """Softmax over the last axis; rows of −inf give zeros."""
    if scores.requires_grad or _is_watched():
        highest = scores.amax(-1, keepdim=True)
        highest = torch.where(highest.isneginf(), 0.0, highest)
        shares = (scores - highest).exp()
        total = shares.sum(-1, keepdim=True)
        return shares / torch.where(total > 0, total, 1.0)
    shares, total, _ = _exponentials(scores.clone())
    return _divided(shares, total)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        shares, total, highest = _exponentials(scores.clone())
        ctx.save_for_backward(scores)
        if ctx.needs_input_grad[0]:
            ctx.shares = _divided(shares, total)
        return total.log_().add_(highest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        again = torch.is_grad_enabled()
        return _weighted(shares_of(ctx.saved_tensors[0]) if again else ctx.shares, gradient)


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exponentials over that of the highest score, in its memory; their sums and the highest."""
    highest = scores.amax(-1, keepdim=True)
    highest.masked_fill_(highest.isneginf(), 0.0)
    # What is below is nothing beside a share of one. Products of it are subnormal, and those take
    # processors ten times as long, as does exp of what underflows.
    limits = torch.finfo(scores.dtype)
    least = limits.tiny / limits.eps
    shares = scores.sub_(highest).clamp_(min=math.log(least) - 1.0).exp_()
    torch.threshold_(shares, least, 0.0)
    # A product with ones: faster than a sum over a short axis.
    return shares, shares @ shares.new_ones(shares.shape[-1]), highest.squeeze(-1)


def _divided(shares: Tensor, total: Tensor) -> Tensor:
    """Rows over their totals, in place; rows of zeros stay."""
    return shares.mul_(total.masked_fill(total == 0, 1.0).reciprocal_().unsqueeze(-1))


def _weighted(shares: Tensor, gradient: Tensor) -> Tensor:
    """Rows times a derivative by row ``[n]``; that of the plain sum of rows leaves them alone."""
    if torch._C._functorch.is_legacy_batchedtensor(gradient) or gradient.requires_grad:
        return shares * gradient.unsqueeze(-1)
    plain = gradient.stride() == (0,) and len(gradient) > 0 and float(gradient[0]) == 1.0
    return shares if plain else shares * gradient.unsqueeze(-1)


def _is_watched() -> bool:
    """Whether operations are recorded or transformed, and must be plain ones."""
    return bool(torch.jit.is_tracing() or torch._C._are_functorch_transforms_active())
