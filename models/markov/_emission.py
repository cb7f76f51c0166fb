"""Log-densities of emissions at every step: one product with a matrix of features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likely.models._logarithms import IMPOSSIBLE
from likely.models._loglinear import Features, blocks
from likely.models.markov._packing import Packing

# Entries of features that are worth keeping (64 MiB in float64).
_KEPT = 1 << 23


@dataclass(frozen=True, eq=False)
class Steps:
    """Rows in the order of a packing, and what the emissions need of them.

    Attributes
    ----------
    x
        [N, D], packed.
    features
        The features in which the log-densities are linear.
    phi
        The features [F, N], unless they take too much memory.
    base
        [N]: the features' base term; None for zero.
    """

    x: Tensor
    features: Features
    phi: Tensor | None
    base: Tensor | None

    @classmethod
    def of(cls, x: Tensor, features: Features, packing: Packing, keep: bool = False) -> Steps:
        """From rows [N, D], one sequence after another; ``keep`` asks for ``phi``."""
        packed = x[packing.rows]
        phi = None
        if keep and features.linear and len(x) * len(features(packed[:1])) <= _KEPT:
            phi = features(packed)
        base = features.base(packed)
        return cls(packed, features, phi, base)

    def log_density(self, natural: Tensor) -> Tensor:
        """Log-density of each row in each state, up to the base term.

        Parameters
        ----------
        natural
            Natural parameters of the states, [K, F].

        Returns
        -------
        Tensor
            [K, N]; −inf, with derivatives of 0, where a state cannot have made a row.
            Differentiable by ``natural`` to any order.
        """
        transformed = torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
        if self.phi is not None:
            product = natural @ self.phi
        elif self.features.linear and not transformed:
            product = _Product.apply(natural, self.x, self.features, False)
        else:
            nothing = natural.new_zeros(len(natural))
            product = self.features.log_densities(self.x, nothing, natural)
        if bool((natural.detach() < 0.1 * IMPOSSIBLE).any()):
            product = product.masked_fill(product < 0.1 * IMPOSSIBLE, -math.inf)
        return product


class _Product(torch.autograd.Function):
    """Product with the matrix of features, or with its transpose: each is the other's derivative.

    The features are made anew block by block.
    """

    @staticmethod
    def forward(ctx: Any, dense: Tensor, x: Tensor, features: Features, transposed: bool) -> Tensor:
        """Compute [K, N] from ``dense`` [K, F], or [K, F] from [K, N] if ``transposed``."""
        ctx.save_for_backward(x)
        ctx.features, ctx.transposed = features, transposed
        total, parts = None, []
        for rows in blocks(len(x), 2 * len(dense) + x.shape[1] ** 2, x.device):
            phi = features(x[rows])
            if transposed:
                part = dense[:, rows] @ phi.T
                total = part if total is None else total + part
            else:
                parts.append(dense @ phi)
        return torch.cat(parts, 1) if total is None else total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Apply the transposed product."""
        (x,) = ctx.saved_tensors
        found = _Product.apply(gradients[0], x, ctx.features, not ctx.transposed)
        return found, None, None, None
