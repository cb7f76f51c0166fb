"""Optima on the boundary of a support.

In unconstrained coordinates a boundary lies at infinity, so a search only drifts towards it. Where
the derivative says that the objective still rises on the way there (the Karush–Kuhn–Tucker sign)
and the boundary point itself is no worse, the boundary is the optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import constraints

from likely.inference.errors import NonFiniteError
from likely.inference.program import Program, Values

# How near to the boundary, relative to the support's width (or one), a value must be.
_NEAR = 1e-3


def base_constraint(support: Any) -> Any:
    """A constraint without its independent wrappers."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def is_simplex(support: Any) -> bool:
    """Whether a support is a probability simplex."""
    return base_constraint(support) is constraints.simplex


def bounds(support: Any) -> tuple[Any, Any] | None:
    """Lower and upper bound of an elementwise support, ``None`` for each that is absent."""
    base = base_constraint(support)
    lower = getattr(base, "lower_bound", None)
    upper = getattr(base, "upper_bound", None)
    if isinstance(base, constraints.interval | constraints.half_open_interval):
        return lower, upper
    if isinstance(base, constraints.greater_than | constraints.greater_than_eq):
        return lower, None
    if isinstance(base, constraints.less_than):
        return None, upper
    return None


def on_boundary(support: Any, value: torch.Tensor) -> torch.Tensor:
    """Mask of the elements that lie exactly on the boundary of their support."""
    if is_simplex(support):
        return (value == 0) | (value == 1)
    mask = torch.zeros_like(value, dtype=torch.bool)
    for bound in bounds(support) or ():
        if bound is not None:
            mask |= value == bound
    return mask


def _moved(support: Any, value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The value with elements put on a boundary that the objective rises towards."""
    if is_simplex(support):
        level = (value * slope).sum(-1, keepdim=True)
        out = (value < _NEAR) & (slope < level)
        kept = torch.where(out, torch.zeros_like(value), value)
        # A row without such cells stays to the last bit.
        return torch.where(out.any(-1, keepdim=True), kept / kept.sum(-1, keepdim=True), value)
    limits = bounds(support)
    if limits is None:
        return value
    lower, upper = limits
    width = 1.0 if lower is None or upper is None else upper - lower
    if lower is not None:
        low = torch.as_tensor(lower, dtype=value.dtype, device=value.device)
        value = torch.where((value - low < _NEAR * width) & (slope < 0), low, value)
    if upper is not None:
        high = torch.as_tensor(upper, dtype=value.dtype, device=value.device)
        value = torch.where((high - value < _NEAR * width) & (slope > 0), high, value)
    return value


def _is_near(support: Any, value: torch.Tensor) -> bool:
    """Whether some slope would make `_moved` move the value."""
    slope = torch.ones_like(value)
    if is_simplex(support):
        return bool((value < _NEAR).any())
    moved = (_moved(support, value, slope), _moved(support, value, -slope))
    return not all(torch.equal(value, there) for there in moved)


def _slopes(
    values: Values, objective: Callable[[Values], torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    leaves = {n: v.detach().clone().requires_grad_(True) for n, v in values.items()}
    with torch.enable_grad():
        here = objective(leaves)
        found = torch.autograd.grad(here, list(leaves.values()), allow_unused=True)
    slopes = {n: slope for n, slope in zip(leaves, found, strict=True) if slope is not None}
    return float(here.detach()), slopes


def snap(
    program: Program,
    values: Values,
    objective: Callable[[Values], torch.Tensor],
    known: tuple[float, Values] | None = None,
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Put elements whose optimum is on the boundary onto it.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Where a search ended, constrained.
    objective : callable
        What was maximised, as a function of constrained values.
    known : tuple of float and mapping of str to Tensor, optional
        The objective at ``values`` and its derivative by each of them, where they were found.

    Returns
    -------
    values : dict of str to Tensor
    sites : list of str
        Sites with an element that was moved.
    """
    unknowns = program.sites.unknowns
    if not any(_is_near(unknowns[name].support, value) for name, value in values.items()):
        return {name: value.detach() for name, value in values.items()}, []
    height, slopes = known or _slopes(values, objective)
    current = {name: value.detach() for name, value in values.items()}
    moved: dict[str, torch.Tensor] = {}
    for name, value in current.items():
        slope = slopes.get(name)
        if slope is None or not bool(torch.isfinite(slope).all()):
            continue
        unknown = program.sites.unknowns[name]
        candidate = _moved(unknown.support, value, slope) if unknown.static else value
        if not torch.equal(candidate, value):
            moved[name] = candidate

    def no_worse(candidate: Values) -> bool:
        with torch.no_grad():
            there = float(objective(candidate))
        if there == float("inf"):
            raise NonFiniteError(
                "the log-density has no maximum: it is infinite on the boundary of the support at "
                f"{', '.join(map(repr, moved))} (a Dirichlet or Beta prior below one, say). Raise "
                "the prior's concentration to one or more, or use a posterior engine."
            )
        return there >= height

    if moved and no_worse(current | moved):
        return current | moved, list(moved)
    accepted: list[str] = []
    for name, candidate in moved.items():
        if no_worse(current | {name: candidate}):
            current = current | {name: candidate}
            accepted.append(name)
    return current, accepted
