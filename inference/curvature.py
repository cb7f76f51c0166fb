"""Second derivatives at a point, and what a flat direction is made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch

# Rows that are taken in one vectorised pass: more of them need memory and are no faster.
_BATCHED = 16


def hessian(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Hessian [n, n] of a scalar function at ``x`` [n], by differentiating twice."""
    if x.numel() == 0:
        return x.new_zeros(0, 0)
    x = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        value = function(x)
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        rows = _batched(gradient, x)
        if rows is None:
            rows = torch.stack([_row(component, x) for component in gradient.unbind()])
    matrix = rows.detach()
    return 0.5 * (matrix + matrix.T)


def _row(component: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if not component.requires_grad:  # linear in everything: no curvature
        return torch.zeros_like(x)
    (row,) = torch.autograd.grad(component, x, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if row is None else row


def _batched(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
    """All rows, many at once, or None where an operation cannot be vectorised."""
    if not gradient.requires_grad:
        return None
    directions = torch.eye(x.numel(), dtype=x.dtype, device=x.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a slow fallback of torch's is no gain
            parts = [
                torch.autograd.grad(gradient, x, some, retain_graph=True, is_grads_batched=True)[0]
                for some in directions.split(_BATCHED)
            ]
    except (RuntimeError, NotImplementedError, Warning):
        return None
    return torch.cat(parts)


# Most coordinates for which a Hessian is worth its rows.
MOST_ROWS = 100


def curvature_of(
    function: Callable[[torch.Tensor], torch.Tensor], size: int
) -> Callable[[torch.Tensor], torch.Tensor | None] | None:
    """The Hessian as a function of the point, where it is affordable.

    Parameters
    ----------
    function : callable
        Maps a point [n] to a scalar.
    size : int
        n.

    Returns
    -------
    callable or None
        Gives ``None`` at a point if the function cannot be differentiated twice.
    """
    if size > MOST_ROWS:
        return None

    def matrix(x: torch.Tensor) -> torch.Tensor | None:
        try:
            return hessian(function, x)
        except (RuntimeError, NotImplementedError):
            # A kernel of the user's that has only one derivative.
            return None

    return matrix


def flat_sites(
    precision: torch.Tensor, slices: Mapping[str, slice], tol: float = 1e-9
) -> list[str]:
    """Sites that make up the directions in which a precision matrix [n, n] is not positive.

    Curvatures are compared after scaling the matrix to a unit diagonal, so that the units of a
    site do not matter. Where a second derivative is not a number, as it may be next to the
    boundary of the support, its row is such a direction.
    """
    lost = ~torch.isfinite(precision).all(1)
    if bool(lost.any()):
        rows = lost & ~torch.isfinite(precision.diagonal())
        lost = rows if bool(rows.any()) else lost
        return [name for name, s in slices.items() if bool(lost[s].any())]
    scale = precision.diagonal().abs().clamp_min(torch.finfo(precision.dtype).tiny).rsqrt()
    scaled = precision * scale[:, None] * scale[None, :]
    values, vectors = torch.linalg.eigh(scaled)
    bad = values <= tol * precision.shape[0]
    if not bool(bad.any()):
        return []
    share = vectors[:, bad].square().sum(1)
    weights = {name: float(share[s].sum()) for name, s in slices.items()}
    return [name for name, weight in weights.items() if weight > 0.05]
