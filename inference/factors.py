"""Summing discrete latents out of a program's factors.

A *factor* is the log-density of one site over its plates and over the enumerated values it depends
on. Variable elimination is Pyro's (Obermeyer et al. 2019, "Tensor variable elimination for plated
factor graphs"); only the ring's sum is ours. Pyro's multiplies exponentials whose maxima lie in
different places, which underflows when two sites disagree by more than e^700; adding logarithms
first cannot.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.packed import broadcast_all
from pyro.ops.rings import LogRing

from likely.inference.errors import ProgramError

Ordinal = frozenset[str]


@dataclass(eq=False)
class Factor:
    """One site's contribution to the density.

    Attributes
    ----------
    name : str
        The site.
    role : str
        ``"observed"``, ``"latent"`` (a discrete site that is summed out) or ``"unknown"``.
    log_prob : Tensor
        With the site's mask, without its scale. Packed where it depends on latents:
        ``log_prob._pyro_dims`` then names its dimensions by symbols.
    ordinal : frozenset of str
        Symbols of the plates the site stands in.
    scale : float or Tensor
        Weight of the site (packed when a tensor).
    """

    name: str
    role: str
    log_prob: torch.Tensor
    ordinal: Ordinal
    scale: float | torch.Tensor

    def total(self) -> torch.Tensor:
        """Weighted sum of a factor that no latent touches, a scalar."""
        weighted = self.log_prob if _is_one(self.scale) else self.log_prob * self.scale
        return weighted.sum()


@dataclass(eq=False)
class Component:
    """Factors that share latents, after the latents are gone.

    ``value`` is the packed log-density by plate: what is left are the plates in which the factors
    stay independent of each other.
    """

    factors: list[Factor]
    ordinal: Ordinal
    value: torch.Tensor
    scale: float | torch.Tensor

    def scaled(self) -> torch.Tensor:
        """Log-density by plate times the weight, packed."""
        return apply_scale(self.value, self.scale)

    def total(self) -> torch.Tensor:
        """Weighted log-density, a scalar."""
        return self.scaled().sum()


def _is_one(scale: float | torch.Tensor) -> bool:
    return not isinstance(scale, torch.Tensor) and scale == 1


def dims_of(value: torch.Tensor) -> str:
    """Symbols of a packed tensor's dimensions."""
    return str(value._pyro_dims)  # type: ignore[attr-defined]


def as_packed(value: torch.Tensor, dims: str) -> torch.Tensor:
    """Name a tensor's dimensions."""
    value._pyro_dims = dims  # type: ignore[attr-defined]
    return value


def apply_scale(value: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """Multiply a packed tensor by a number or by a packed tensor over some of its dimensions."""
    if not isinstance(scale, torch.Tensor):
        return value if _is_one(scale) else as_packed(value * scale, dims_of(value))
    left, right = broadcast_all(value, scale)
    return as_packed(left * right, dims_of(left))


def _eliminate(terms: Sequence[torch.Tensor], dims: Iterable[str], hard: bool) -> torch.Tensor:
    """Sum (or maximise) out ``dims`` of a product of factors, cheapest dimension first."""
    terms = list(terms)
    pending = set(dims)
    while pending:
        dim = min(pending, key=partial(_cost, terms))
        pending.remove(dim)
        joint = _multiply([term for term in terms if dim in dims_of(term)])
        axis = dims_of(joint).index(dim)
        reduced = joint.max(axis).values if hard else joint.logsumexp(axis)
        rest = dims_of(joint).replace(dim, "")
        terms = [term for term in terms if dim not in dims_of(term)] + [as_packed(reduced, rest)]
    return _multiply(terms)


def _cost(terms: Sequence[torch.Tensor], dim: str) -> tuple[int, str]:
    """Size of the joint table that eliminating ``dim`` makes."""
    sizes: dict[str, int] = {}
    for term in terms:
        if dim in dims_of(term):
            sizes.update(zip(dims_of(term), term.shape, strict=True))
    return math.prod(sizes.values()), dim


def _multiply(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    if len(terms) == 1:
        # A view, so that an input never is an output: Pyro keys its bookkeeping by identity.
        return as_packed(terms[0][...], dims_of(terms[0]))
    aligned = broadcast_all(*terms)
    total = aligned[0]
    for term in aligned[1:]:
        total = total + term
    return as_packed(total, dims_of(aligned[0]))


class _Ring(LogRing):
    """Log-space ring that adds logarithms before it sums; ``hard`` takes the maximum instead."""

    def __init__(self, hard: bool) -> None:
        super().__init__(cache={})
        self.hard = hard

    def sumproduct(self, terms: Sequence[torch.Tensor], dims: Iterable[str]) -> torch.Tensor:
        return _eliminate(terms, dims, self.hard)


def _components(factors: Sequence[Factor], sum_dims: frozenset[str]) -> list[list[Factor]]:
    """Partition factors into groups that share a latent."""
    groups: list[tuple[set[str], list[Factor]]] = []
    for factor in factors:
        dims = set(dims_of(factor.log_prob)) & sum_dims
        touching = [group for group in groups if group[0] & dims]
        merged = (dims.union(*(g[0] for g in touching)), [f for g in touching for f in g[1]])
        merged[1].append(factor)
        groups = [group for group in groups if group not in touching] + [merged]
    return [group[1] for group in groups]


def _common_scale(factors: Sequence[Factor]) -> float | torch.Tensor:
    first = factors[0].scale
    for factor in factors[1:]:
        same: Any = factor.scale is first
        if not same and isinstance(first, torch.Tensor) and isinstance(factor.scale, torch.Tensor):
            same = first.shape == factor.scale.shape and bool((first == factor.scale).all())
        elif not same and not isinstance(first, torch.Tensor | type(None)):
            same = not isinstance(factor.scale, torch.Tensor) and factor.scale == first
        if not same:
            raise ProgramError(
                f"sites '{factors[0].name}' and '{factor.name}' share a discrete latent but are "
                "weighted differently (poutine.scale or a subsampled plate), so the latent cannot "
                "be summed out. Give every site that depends on it the same weight."
            )
    return first


def contract(
    factors: Sequence[Factor], sum_dims: frozenset[str], hard: bool = False
) -> list[Component]:
    """Sum the latents out of factors that depend on them.

    Parameters
    ----------
    factors : sequence of Factor
        Factors over plates and enumerated dimensions.
    sum_dims : frozenset of str
        Symbols of the enumerated dimensions.
    hard : bool
        Maximise over the latents instead of summing (classification likelihood).

    Raises
    ------
    ProgramError
        If sites that share a latent have different weights, or the latents of different plates
        depend on each other so that the sum has no tractable order.
    """
    result = []
    for group in _components(factors, sum_dims):
        tree: OrderedDict[Ordinal, list[torch.Tensor]] = OrderedDict()
        for factor in group:
            tree.setdefault(factor.ordinal, []).append(factor.log_prob)
        dims = {d for factor in group for d in dims_of(factor.log_prob)} & sum_dims
        try:
            contracted = contract_tensor_tree(tree, dims, ring=_Ring(hard))
        except NotImplementedError as error:
            names = ", ".join(f"'{factor.name}'" for factor in group)
            raise ProgramError(
                f"the discrete latents behind sites {names} cannot be summed out: they cross "
                f"independent plates. Make one of the plates sequential. ({error})"
            ) from error
        ((ordinal, (value,)),) = contracted.items()
        result.append(Component(group, ordinal, value, _common_scale(group)))
    return result


def marginals(
    factors: Sequence[Factor], sum_dims: frozenset[str], hard: bool = False
) -> tuple[list[Component], list[torch.Tensor]]:
    """Posterior probabilities of what each factor depends on.

    The derivative of the log-evidence by a factor's log-density is the posterior probability of
    the factor's own latents (Fisher's identity), so one backward pass gives every marginal of any
    program; with ``hard`` it is the indicator of the jointly most probable values.

    Returns
    -------
    components : list of Component
    weights : list of Tensor
        For each factor a packed tensor like its ``log_prob``, unweighted.
    """
    if not factors:
        return [], []
    leaves = [
        Factor(
            f.name,
            f.role,
            as_packed(f.log_prob.detach().requires_grad_(True), dims_of(f.log_prob)),
            f.ordinal,
            f.scale,
        )
        for f in factors
    ]
    with torch.enable_grad():
        components = contract(leaves, sum_dims, hard)
        total = torch.stack([component.value.sum() for component in components]).sum()
        grads = torch.autograd.grad(total, [leaf.log_prob for leaf in leaves])
    weights = [
        as_packed(grad, dims_of(leaf.log_prob)) for grad, leaf in zip(grads, leaves, strict=True)
    ]
    for component in components:
        component.value = as_packed(component.value.detach(), dims_of(component.value))
    return components, weights
