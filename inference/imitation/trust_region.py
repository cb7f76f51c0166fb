"""Natural gradient and trust-region steps: Fisher-vector products, conjugate gradients, a search.

Amari 1998, "Natural gradient works efficiently in learning"; Schulman et al. 2015, "Trust region
policy optimization", section 6 and appendix C.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def fisher_product(divergence: Function, x: Tensor) -> Function:
    """Products F v of the Fisher information, the curvature of a divergence at its zero.

    Parameters
    ----------
    divergence
        From a position [n] to the mean KL from what the policy is at ``x``; differentiable twice.
    x
        Where, [n].

    Returns
    -------
    callable
        v [n] to F v [n].

    Examples
    --------
    >>> bowl = fisher_product(lambda y: (y - 1).square().sum(), torch.ones(2))
    >>> bowl(torch.tensor([1.0, 3.0])).tolist()
    [2.0, 6.0]
    """
    here = x.detach().requires_grad_(True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(divergence(here), here, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(slope, here, v, retain_graph=True)
        return found

    return product


def conjugate_gradient(product: Function, b: Tensor, steps: int, tol: float = 1e-10) -> Tensor:
    """The solution x of A x = b for a positive definite A that is known by its products.

    Parameters
    ----------
    product
        x [n] to A x [n].
    b
        [n].
    steps
        Most products.
    tol
        Squared length of the residual, relative to that of ``b``, at which it is found.

    Examples
    --------
    >>> conjugate_gradient(lambda v: torch.tensor([2.0, 4.0]) * v, torch.ones(2), 5).tolist()
    [0.5, 0.25]
    """
    x = torch.zeros_like(b)
    residual = direction = b
    length = b @ b
    enough = tol * length
    for _ in range(steps):
        if length <= enough:
            break
        image = product(direction)
        curvature = direction @ image
        if curvature <= 0:
            # Rounding, once what is left is noise.
            break
        size = length / curvature
        x = x + size * direction
        residual = residual - size * image
        before, length = length, residual @ residual
        direction = residual + (length / before) * direction
    return x


def natural_step(
    gradient: Tensor, product: Function, radius: float, damping: float, steps: int
) -> Tensor:
    """The step of a given divergence that climbs most: √(2δ / sᵀFs) s with F s = g.

    Parameters
    ----------
    gradient
        g [n] of the objective.
    product
        Products of the Fisher information F.
    radius
        δ, nats.
    damping
        Added to F's diagonal, relative to its mean curvature along the gradient.
    steps
        Of the conjugate gradient.

    Returns
    -------
    Tensor
        [n]; zero where the gradient is.
    """
    length = gradient @ gradient
    if length == 0:
        return torch.zeros_like(gradient)
    scale = damping * (gradient @ product(gradient)).clamp_min(0.0) / length

    def damped(v: Tensor) -> Tensor:
        return product(v) + scale * v

    found = conjugate_gradient(damped, gradient, steps)
    curvature = found @ damped(found)
    if not bool(curvature > 0):
        return torch.zeros_like(gradient)
    return found * (2 * radius / curvature).sqrt()


def search_line(
    gain: Function, divergence: Function, x: Tensor, step: Tensor, radius: float, halvings: int
) -> Tensor:
    """The longest of the steps 1, ½, ¼, ... that gains and stays in the trust region.

    Parameters
    ----------
    gain
        The surrogate objective at a position, less what it is at ``x``.
    divergence
        Mean KL from the policy at ``x``.
    x, step
        [n].
    radius
        Most divergence, nats.
    halvings
        How often to try.

    Returns
    -------
    Tensor
        The position [n]; ``x`` if no step will do.
    """
    with torch.no_grad():
        for power in range(halvings):
            there = x + 0.5**power * step
            if bool(gain(there) > 0) and bool(divergence(there) <= radius):
                return there
    return x
