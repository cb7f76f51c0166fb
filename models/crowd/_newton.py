"""Newton steps for regressions on expected counts, the M-steps of classifiers in crowd programs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Most unknowns for which a Hessian is worth its memory and its decomposition.
MOST = 256
_STEPS, _HALVINGS = 4, 30
# A step that gains less than this, relative to the objective, is rounding.
_NOTHING = 1e-14


def softmax_newton(x: Tensor, counts: Tensor, start: Tensor, precision: Tensor) -> Tensor:
    """Raise Σ_i Σ_k counts_ik log softmax(θ x_i)_k − ½ Σ precision θ².

    Parameters
    ----------
    x
        Covariates ``[n, p]``, a column of ones among them where there is an intercept.
    counts
        Expected counts ``[n, K]``.
    start
        θ ``[K, p]``.
    precision
        Of the normal priors centred at zero, ``[p]``; zero where a prior is flat.

    Returns
    -------
    Tensor
        θ ``[K, p]`` after a few steps, none of which lowers the objective.
    """
    k, p = start.shape
    total = counts.sum(-1, keepdim=True)

    def value(theta: Tensor) -> Tensor:
        scores = F.log_softmax(x @ theta.T, -1)
        return (counts * scores).sum() - 0.5 * (theta.square() @ precision).sum()

    theta, reached = start, value(start)
    for _ in range(_STEPS):
        shares = (x @ theta.T).softmax(-1)
        gradient = (counts - total * shares).T @ x - precision * theta
        matrix = torch.diag(precision.repeat(k)).reshape(k, p, k, p)
        for a in range(k):
            for b in range(a + 1):
                # Rows weigh w_i (δ_ab p_ia − p_ia p_ib) in the sum of x_i x_iᵀ.
                weight = total[:, 0] * shares[:, a] * (float(a == b) - shares[:, b])
                block = x.T @ (weight.unsqueeze(-1) * x)
                matrix[a, :, b] += block
                if a != b:
                    matrix[b, :, a] += block
        matrix = matrix.reshape(k * p, k * p)
        # All scores may move alike without a change: no step in that direction.
        step = torch.linalg.pinv(matrix, hermitian=True) @ gradient.flatten()
        decrement = step @ gradient.flatten()
        if not bool(decrement > _NOTHING * reached.abs().clamp_min(1.0)):
            break
        size, found = 1.0, theta
        for _ in range(_HALVINGS):
            candidate = theta + size * step.reshape(k, p)
            there = value(candidate)
            if bool(there > reached):
                found, reached = candidate, there
                break
            size *= 0.5
        if found is theta:
            break
        theta = found
    return theta


def logistic_newton(
    x: Tensor,
    group: Tensor,
    counts: tuple[Tensor, Tensor],
    start: Tensor,
    prior: tuple[Tensor, Tensor],
) -> Tensor:
    """Raise logistic log-likelihoods of expected counts, one regression for each group of rows.

    The objective of group l is Σ_i [yes_i log σ(θ_l x_i) + no_i log σ(−θ_l x_i)] over its rows,
    minus ½ Σ precision (θ_l − mean)².

    Parameters
    ----------
    x
        Covariates ``[n, p]``.
    group
        int64 ``[n]``: the regression that a row belongs to.
    counts
        Expected counts of yes and of no, ``[n]`` each.
    start
        θ ``[L, p]``.
    prior
        Mean and precision of normal priors, ``[p]`` each; precision zero where a prior is flat.

    Returns
    -------
    Tensor
        θ ``[L, p]`` after a few steps, none of which lowers the objective of its group.
    """
    (yes, no), (mean, precision) = counts, prior
    n_groups, p = start.shape

    def value(theta: Tensor) -> Tensor:
        u = (x * theta[group]).sum(-1)
        rows = yes * F.logsigmoid(u) + no * F.logsigmoid(-u)
        penalty = 0.5 * (theta - mean).square() @ precision
        return u.new_zeros(n_groups).index_add(0, group, rows) - penalty

    theta, reached = start, value(start)
    for _ in range(_STEPS):
        chance = torch.sigmoid((x * theta[group]).sum(-1))
        slope = (yes - (yes + no) * chance).unsqueeze(-1) * x
        gradient = torch.zeros_like(theta).index_add(0, group, slope)
        gradient = gradient - precision * (theta - mean)
        curvature = ((yes + no) * chance * (1 - chance)).unsqueeze(-1) * x
        products = curvature.unsqueeze(-1) * x.unsqueeze(-2)
        matrix = x.new_zeros(n_groups, p, p).index_add(0, group, products) + torch.diag(precision)
        step = (torch.linalg.pinv(matrix, hermitian=True) @ gradient.unsqueeze(-1)).squeeze(-1)
        decrement = (step * gradient).sum(-1)
        # Each group halves its own step, and stands still where nothing is to be gained.
        open_ = decrement > _NOTHING * reached.abs().clamp_min(1.0)
        size = torch.where(open_, 1.0, 0.0).to(x)
        for _ in range(_HALVINGS):
            there = value(theta + size.unsqueeze(-1) * step)
            worse = open_ & ~(there > reached)
            if not bool(worse.any()):
                break
            size = torch.where(worse, size * 0.5, size)
        size = torch.where(open_ & (there > reached), size, 0.0)
        if not bool((size > 0).any()):
            break
        theta = theta + size.unsqueeze(-1) * step
        reached = value(theta)
    return theta
