"""Optima on the boundary of a support.

In unconstrained coordinates a boundary lies at infinity, so a search only drifts towards it. Where
the derivative says that the objective still rises on the way there (the Karush–Kuhn–Tucker sign)
and the boundary point itself is no worse, the boundary is the optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.distributions import constraints

from likely.inference.errors import NonFiniteError
from likely.inference.program import Program, Values

# How near to the boundary, relative to the support's width (or one), a value must be.
_NEAR = 1e-3
# Evaluations that are spent on a site whose elements cannot all be put there.
_TRIALS = 6


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


def _outward(
    support: Any, value: torch.Tensor, slope: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask of elements that lie near a boundary the objective rises towards, and how steeply."""
    if is_simplex(support):
        steepness = (value * slope).sum(-1, keepdim=True) - slope
        return (value < _NEAR) & (steepness > 0), steepness
    limits = bounds(support)
    out = torch.zeros_like(value, dtype=torch.bool)
    if limits is None:
        return out, slope.abs()
    lower, upper = limits
    width = 1.0 if lower is None or upper is None else upper - lower
    if lower is not None:
        out |= (value - lower < _NEAR * width) & (slope < 0)
    if upper is not None:
        out |= (upper - value < _NEAR * width) & (slope > 0)
    return out & ~on_boundary(support, value), slope.abs()


def _put(support: Any, value: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """The value with the elements of a mask put on the boundary nearest to them."""
    if is_simplex(support):
        kept = torch.where(out, torch.zeros_like(value), value)
        # A row without such cells stays to the last bit.
        return torch.where(out.any(-1, keepdim=True), kept / kept.sum(-1, keepdim=True), value)
    lower, upper = (
        None if bound is None else torch.as_tensor(bound, dtype=value.dtype, device=value.device)
        for bound in bounds(support) or (None, None)
    )
    if lower is None or upper is None:
        only = upper if lower is None else lower
        return value if only is None else torch.where(out, only, value)
    return torch.where(out, torch.where(value - lower < upper - value, lower, upper), value)


def is_near(support: Any, value: torch.Tensor) -> bool:
    """Whether some element lies near the boundary, and not on it."""
    if is_simplex(support):
        return bool(((value < _NEAR) & (value > 0)).any())
    slope = torch.ones_like(value)
    return any(bool(_outward(support, value, way)[0].any()) for way in (slope, -slope))


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
    if not any(is_near(unknowns[name].support, value) for name, value in values.items()):
        return {name: value.detach() for name, value in values.items()}, []
    height, slopes = known or _slopes(values, objective)
    current = {name: value.detach() for name, value in values.items()}
    moved: dict[str, torch.Tensor] = {}
    ways: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, value in current.items():
        slope = slopes.get(name)
        unknown = unknowns[name]
        if slope is None or not unknown.static or not bool(torch.isfinite(slope).all()):
            continue
        out, steepness = _outward(unknown.support, value, slope)
        candidate = _put(unknown.support, value, out)
        if not torch.equal(candidate, value):
            moved[name], ways[name] = candidate, (out, steepness)

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

    def steepest(name: str) -> torch.Tensor | None:
        put = partial(_put, unknowns[name].support, current[name])
        found = _steepest(*ways[name], lambda out: no_worse({**current, name: put(out)}))
        return None if found is None else put(found)

    for name, candidate in moved.items():
        some: torch.Tensor | None = candidate
        if len(moved) == 1 or not no_worse(current | {name: candidate}):
            some = steepest(name)
        if some is not None:
            current = current | {name: some}
            accepted.append(name)
    return current, accepted


def _steepest(
    out: torch.Tensor, steepness: torch.Tensor, will_do: Callable[[torch.Tensor], bool]
) -> torch.Tensor | None:
    """The part of a mask that will do, the steepest elements first; ``None`` if none does.

    A small element at an optimum of its own is as good as flat, and the sign of its slope is
    chance: it must not keep those on the boundary that belong there. How many to take is found by
    bisection.
    """
    order = torch.where(out, steepness, -torch.inf).flatten().argsort(descending=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank = rank.reshape(out.shape)
    few, many = 0, int(out.sum())
    for _ in range(_TRIALS):
        if many - few <= 1:
            break
        middle = (few + many) // 2
        if will_do(out & (rank < middle)):
            few = middle
        else:
            many = middle
    return out & (rank < few) if few else None
