"""Latents that a distribution sums out by itself.

A distribution may hide a latent that enumeration would be too slow for: the states of a hidden
Markov model, the components of a mixture of a million points. It says so by four attributes:

``latent``
    Name of the latent.
``natural``
    Dict of tensors in which the complete-data log-density log p(x, z | θ) is linear: log-weights,
    natural parameters. ``-inf`` stands for log 0.
``evidence(value, natural, hard=False)``
    The log-density with the latent summed out (``hard``: maximised out), a function of such a dict.
``latent_posterior(value)``
    Posterior probabilities ``[*batch, *latent_dims, K]``, where ``latent_dims`` names dimensions
    that the latent has beyond the site's plates.

That is all an E-step needs: by Fisher's identity the gradient of the evidence by ``natural`` is the
table S of expected sufficient statistics, and the expected complete-data log-density at any other
values of the unknowns is ⟨S, natural⟩ plus what does not depend on them (Wainwright & Jordan 2008,
section 6.2). It costs no second pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

Statistics = dict[str, torch.Tensor]


def sums_out(fn: Any) -> bool:
    """Whether a distribution sums a latent out by itself."""
    return isinstance(getattr(fn, "latent", None), str) and callable(getattr(fn, "evidence", None))


@dataclass(eq=False)
class Summed:
    """An observed site whose distribution sums a latent out.

    Attributes
    ----------
    name : str
        The site.
    fn : Distribution
        Its distribution in this run.
    value : Tensor
        The data.
    weight : float or Tensor
        Scale of the site, zero where it is masked.
    """

    name: str
    fn: Any
    value: torch.Tensor
    weight: float | torch.Tensor

    @classmethod
    def of(cls, name: str, node: Mapping[str, Any]) -> Summed:
        """From a node of a trace."""
        weight, mask = node["scale"], node["mask"]
        if mask is False:
            weight = 0.0
        elif isinstance(mask, torch.Tensor):
            weight = weight * mask
        return cls(name, node["fn"], node["value"], weight)

    def expectation(self, hard: bool) -> tuple[torch.Tensor, Statistics]:
        """The E-step: weighted log-evidence, a scalar, and the expected statistics."""
        leaves = {
            key: value.detach().clone().requires_grad_(True)
            for key, value in self.fn.natural.items()
        }
        with torch.enable_grad():
            density = self.fn.evidence(self.value, leaves, hard)
            weighted = density if _is_one(self.weight) else _weighted(density, self.weight)
            total = weighted.sum()
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        statistics = {
            key: torch.zeros_like(leaf) if grad is None else grad
            for (key, leaf), grad in zip(leaves.items(), found, strict=True)
        }
        return total.detach(), statistics

    def expected(self, statistics: Statistics) -> torch.Tensor:
        """⟨S, natural⟩ at this run's values of the unknowns, a differentiable scalar."""
        terms = []
        for key, counts in statistics.items():
            natural = self.fn.natural[key]
            # What never happens adds nothing: 0 · log 0 = 0.
            product = torch.where(counts != 0, counts * natural, natural.new_zeros(()))
            terms.append(product.sum())
        return torch.stack(terms).sum()

    def gradient_terms(self, statistics: Statistics) -> tuple[list[Any], list[Any]]:
        """Outputs and cotangents whose vector-Jacobian product is the gradient of `expected`."""
        pairs = [
            (self.fn.natural[key], counts)
            for key, counts in statistics.items()
            if self.fn.natural[key].requires_grad
        ]
        return [natural for natural, _ in pairs], [counts for _, counts in pairs]


def _weighted(density: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    if not isinstance(weight, torch.Tensor):
        return density * weight
    # A masked observation adds nothing, even if it is impossible.
    return torch.where(weight != 0, density, density.new_zeros(())) * weight


def _is_one(weight: float | torch.Tensor) -> bool:
    return not isinstance(weight, torch.Tensor) and weight == 1
