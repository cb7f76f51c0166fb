"""One pass over all parts of the data: densities with their gradients, and Hessians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine

from likely.inference.coordinates import Coordinates
from likely.inference.curvature import MOST_ROWS, hessian
from likely.inference.optimise import Curvature, Evaluation
from likely.inference.program import Density, Program, Values

if TYPE_CHECKING:
    from likely.inference.shards import Sharded

# Minus an objective of one part, whether its likelihood and its prior count, at a flat point [n].
PartLoss = Callable[[Program, bool, bool, torch.Tensor], torch.Tensor]


def one_pass(program: Sharded, values: Values, unconstrained: bool) -> torch.Tensor:
    """Log-likelihood, log-prior and log-Jacobian [3] of all parts; differentiable once.

    Each part is differentiated before the next is read, so that no more than one graph is held.

    Parameters
    ----------
    program : Sharded
    values : mapping of str to Tensor
        Value of every unknown.
    unconstrained : bool
        As in `Program.run`.
    """
    result: torch.Tensor = _Pass.apply(program, unconstrained, tuple(values), *values.values())
    return result


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, program: Sharded, unconstrained: bool, names: tuple[str, ...], *values: Any
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[3:]
        leaves = [v.detach().clone().requires_grad_(w) for v, w in zip(values, wanted, strict=True)]
        free = [leaf for leaf in leaves if leaf.requires_grad]
        size = sum(leaf.numel() for leaf in free)
        zero = program.zero

        def own() -> tuple[torch.Tensor, torch.Tensor]:
            total = torch.zeros(3, dtype=zero.dtype, device=zero.device)
            slopes = torch.zeros(3, size, dtype=zero.dtype, device=zero.device)
            for part, likelihood, prior in program.shares():
                with torch.set_grad_enabled(bool(free)):
                    density = part.density(
                        dict(zip(names, leaves, strict=True)), unconstrained=unconstrained
                    )
                terms = (density.log_likelihood, density.log_prior, density.log_jacobian)
                for row, counts in enumerate((likelihood, prior, prior)):
                    if counts:
                        total[row] += terms[row].detach()
                        slopes[row] += _slope(terms[row], free, size)
            return total, slopes

        # A program that draws must not move the random numbers on, nor the ranks apart; and whoever
        # listens to the caller's own statements has no business with those of parts.
        with torch.random.fork_rng(devices=gpu_of(program)), poutine.block():
            total, slopes = program.ranks.total(program.ranks.together(own))
        ctx.save_for_backward(slopes)
        ctx.shapes = [leaf.shape if leaf.requires_grad else None for leaf in leaves]
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            # No graph goes on from here: a second derivative would silently be zero.
            raise RuntimeError("a density of Shards can be differentiated once")
        (slopes,) = ctx.saved_tensors
        # A term that is not asked for may have a slope that is not finite.
        flat = torch.where(gradient[:, None] != 0, gradient[:, None] * slopes, 0.0).sum(0)
        found: list[torch.Tensor | None] = []
        start = 0
        for shape in ctx.shapes:
            if shape is None:
                found.append(None)
                continue
            found.append(flat[start : start + shape.numel()].reshape(shape))
            start += shape.numel()
        return None, None, None, *found


def _slope(term: torch.Tensor, free: list[torch.Tensor], size: int) -> torch.Tensor:
    """Flat gradient [size] of a scalar, whose graph may serve again."""
    if not term.requires_grad:
        return term.new_zeros(size)
    found = torch.autograd.grad(term, free, retain_graph=True, allow_unused=True)
    flat = [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(free, found, strict=True)
    ]
    return torch.cat([grad.reshape(-1) for grad in flat])


def gpu_of(program: Program) -> list[torch.device]:
    """The fit's GPU, if it has one, in a list."""
    device = program.device
    return [device] if device is not None and device.type == "cuda" else []


def log_joint(program: Sharded, rows: Sequence[Values]) -> torch.Tensor:
    """Log joint densities [n] of n values of the unknowns, all of them in one pass."""

    def own() -> list[torch.Tensor]:
        total = program.zero.new_zeros(len(rows))
        for part, likelihood, prior in program.shares():
            for number, values in enumerate(rows):
                density = part.density(values)
                if likelihood:
                    total[number] += density.log_likelihood
                if prior:
                    total[number] += density.log_prior
        return [total]

    with torch.no_grad():
        return program.ranks.total(program.ranks.together(own))[0]


def evaluation_by_parts(program: Sharded, loss: PartLoss, x: torch.Tensor) -> Evaluation:
    """Value and gradient [n] at a flat point [n] of a sum over parts, one graph at a time."""

    def own() -> list[torch.Tensor]:
        value, slope = program.zero, torch.zeros_like(x)
        for part, likelihood, prior in program.shares():
            leaf = x.detach().clone().requires_grad_(True)
            with torch.enable_grad():
                found = loss(part, likelihood, prior, leaf)
            value = value + found.detach()
            slope = slope + _slope(found, [leaf], leaf.numel())
        return [value, slope]

    value, slope = program.ranks.total(program.ranks.together(own))
    return float(value), slope


def hessians_of_parts(program: Sharded, loss: PartLoss, size: int) -> Curvature | None:
    """The Hessian of a sum over parts as a function of a flat point [n], where affordable.

    It gives ``None`` at a point if some part cannot be differentiated twice.
    """
    if size > MOST_ROWS:
        return None

    def of(part: Program, likelihood: bool, prior: bool, x: torch.Tensor) -> torch.Tensor:
        def value_of(x: torch.Tensor) -> torch.Tensor:
            value = loss(part, likelihood, prior, x)
            # A constant has no curvature, but `hessian` wants something to differentiate.
            return value if value.requires_grad else value + 0.0 * x.sum()

        return hessian(value_of, x)

    def matrix(x: torch.Tensor) -> torch.Tensor | None:
        def own() -> torch.Tensor | None:
            total = torch.zeros(len(x), len(x), dtype=x.dtype, device=x.device)
            try:
                for part, likelihood, prior in program.shares():
                    total = total + of(part, likelihood, prior, x)
            except (RuntimeError, NotImplementedError):
                # A kernel of the user's that has only one derivative.
                return None
            return total

        found = program.ranks.together(own)
        if program.ranks.any(found is None) or found is None:
            return None
        return program.ranks.total([found])[0]

    return matrix


def curvature_by_parts(
    program: Sharded, coordinates: Coordinates, objective: Callable[[Density], torch.Tensor]
) -> Curvature | None:
    """The Hessian of minus an objective as a function of a flat point [n], where affordable.

    Parameters
    ----------
    program, coordinates : Sharded, Coordinates
    objective : callable
        Makes a scalar of log-densities that is linear in them.

    Returns
    -------
    callable or None
        Gives ``None`` at a point if some part cannot be differentiated twice.
    """

    def loss(part: Program, likelihood: bool, prior: bool, x: torch.Tensor) -> torch.Tensor:
        density = part.density(coordinates.split(x), unconstrained=True)
        if not likelihood:
            density = replace(density, log_likelihood=part.zero)
        if not prior:
            density = replace(density, log_prior=part.zero)
        return -objective(density)

    return hessians_of_parts(program, loss, coordinates.size)
