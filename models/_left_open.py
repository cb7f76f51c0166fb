"""Rewards that no behaviour tells apart: what features can express of them."""

from __future__ import annotations

import torch
from torch import Tensor

from likely.envs import TabularMDP

# Singular values below this share of the largest are rounding.
_ROUNDING = 1e-10
# A singular value decomposition of more columns takes longer than a warning is worth.
MOST = 400


def shifts(
    mdp: TabularMDP, features: Tensor, horizon: int | None = None, base: Tensor | None = None
) -> Tensor:
    r"""Directions of the weights in which no soft-optimal policy changes.

    A reward r and r(s, a) + F(s) − γ E F(s') have the same advantages, and so the same policies;
    over a horizon F may depend on the time and ends at 0 (Ng, Harada & Russell 1999, "Policy
    invariance under reward transformations", theorem 1; no other reward has the same advantages
    in every process). Which of these differences are linear in features is a null space.

    Parameters
    ----------
    mdp
        The process.
    features
        ψ: [S, F] or [S, A, F].
    horizon
        T; None for an infinite horizon.
    base
        [S, A]: actions of probability 0 need not agree.

    Returns
    -------
    Tensor
        Orthonormal columns [F, k], in units in which each feature has length 1 (or is 0); none
        where there are too many features and states to look.

    Examples
    --------
    A constant on both of two rooms, each one step from the other:

    >>> mdp = TabularMDP([[[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]]], [0.0, 0.0], 0.9, 0)
    >>> shifts(mdp, torch.eye(2)).abs()
    tensor([[0.7071],
            [0.7071]], dtype=torch.float64)
    """
    n, k = mdp.n_states, mdp.n_actions
    if features.shape[-1] + (n if horizon is None else 0) > MOST:
        return features.new_zeros(features.shape[-1], 0, dtype=torch.float64)
    rows = features.detach().double()
    rows = rows if rows.dim() == 3 else rows.unsqueeze(1).expand(n, k, -1)
    rows = rows * mdp.alive.reshape(-1, 1, 1)
    size = torch.linalg.vector_norm(rows, dim=(0, 1))
    rows = rows / torch.where(size > 0, size, 1.0)
    possible = torch.ones(n, k, dtype=torch.bool) if base is None else base.detach() > 0
    possible = possible & (mdp.alive > 0).unsqueeze(-1)
    if horizon is None:
        return _stationary(mdp, rows, possible)
    return _over_time(mdp, rows, possible, horizon)


def _stationary(mdp: TabularMDP, rows: Tensor, possible: Tensor) -> Tensor:
    """ψ w = F − γ P F, for [w, F] together."""
    potentials = torch.eye(mdp.n_states, dtype=torch.float64)[mdp.alive > 0]
    moved = potentials.unsqueeze(-1) - mdp.discount * mdp.kernel.expect(potentials)
    system = torch.cat([rows[possible], -moved[:, possible].T], -1)
    found = _null_space(system)[: rows.shape[-1]]
    # Each reward belongs to one F: values of a policy without reward are 0.
    return torch.linalg.qr(found).Q if found.shape[1] else found


def _over_time(mdp: TabularMDP, rows: Tensor, possible: Tensor, horizon: int) -> Tensor:
    """Backward in time: what is left must give all actions of a state the same Q."""
    left = torch.eye(rows.shape[-1], dtype=torch.float64)
    value = rows.new_zeros(mdp.n_states, rows.shape[-1])
    share = possible.double() / possible.sum(-1, keepdim=True).clamp_min(1)
    for _ in range(horizon):
        q = rows @ left + mdp.discount * mdp.kernel.expect(value.T).permute(1, 2, 0)
        value = (share.unsqueeze(-1) * q).sum(1)
        kept = _null_space((q - value.unsqueeze(1))[possible], float(q.abs().max()))
        left, value = left @ kept, value @ kept
        if left.shape[1] == 0:
            break
    return left


def _null_space(matrix: Tensor, scale: float = 0.0) -> Tensor:
    """Orthonormal columns that a matrix [m, n] sends to zero: [n, k]."""
    values, right = torch.linalg.svd(matrix, full_matrices=True)[1:]
    largest = max(scale, float(values.max()) if len(values) else 0.0)
    rank = int((values > _ROUNDING * max(matrix.shape) * largest).sum())
    return right[rank:].T
