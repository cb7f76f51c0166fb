"""Minimising a smooth function plus weighted absolute values.

A Laplace prior puts a kink into the log-density, and its mode often lies there: a coefficient that
is exactly zero. A line search that looks at slopes stalls at the first kink it meets. Here the
absolute values stay as they are while the rest is replaced by its quadratic model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from pyro.distributions import Laplace, constraints

from likely.inference.checkpoints import NOTHING, Memory
from likely.inference.coordinates import Coordinates
from likely.inference.engines.boundary import base_constraint
from likely.inference.handlers import base_distribution
from likely.inference.nonsmooth import lies_on_kinks, settle
from likely.inference.optimise import Curvature, Evaluation, Minimum, minimise
from likely.inference.program import Program, Values

# Sweeps of coordinate descent on one quadratic model, and the relative change that ends them.
_SWEEPS = 1000
_SWEPT = 1e-13
# Share of the predicted gain that a step has to bring, and the shortest step that is tried.
_GAIN = 1e-4
_SHORTEST = 1e-10


@dataclass(frozen=True, eq=False)
class Kinks:
    """The part Σ weight |x − centre| of a function of a flat point [n]; weight 0 where smooth."""

    weight: torch.Tensor
    centre: torch.Tensor

    def height(self, x: torch.Tensor) -> torch.Tensor:
        """Value of that part at ``x``, a scalar."""
        return (self.weight * (x - self.centre).abs()).sum()

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        """What automatic differentiation makes of it [n]: zero on a kink."""
        return self.weight * (x - self.centre).sign()


def kinks_of(program: Program, coordinates: Coordinates, values: Values) -> Kinks | None:
    """Kinks of a program's log-prior, from the Laplace priors of its unknowns.

    Must be called inside the program's session.

    Parameters
    ----------
    program : Program
    coordinates : Coordinates
    values : mapping of str to Tensor
        Constrained values of the unknowns.

    Returns
    -------
    Kinks or None
        ``None`` if there are none, or if one moves with another unknown.
    """
    here = _laplace(program, values)
    if not here:
        return None
    there = _laplace(program, coordinates.constrain(coordinates.unconstrain(values) + 0.1))
    if not there:
        return None
    weight = torch.zeros(coordinates.size, dtype=program.dtype, device=program.device)
    centre = torch.zeros_like(weight)
    for name, (loc, slope) in here.items():
        if not (torch.equal(loc, there[name][0]) and torch.equal(slope, there[name][1])):
            return None
        own = coordinates.slices[name]
        weight[own], centre[own] = slope.reshape(-1), loc.reshape(-1)
    return Kinks(weight, centre) if bool(weight.any()) else None


def find_kinks(program: Program, coordinates: Coordinates, x: torch.Tensor) -> Kinks | None:
    """`kinks_of` at a flat point ``x`` [n]."""
    return kinks_of(program, coordinates, coordinates.constrain(x))


def _laplace(
    program: Program, values: Values
) -> dict[str, tuple[torch.Tensor, torch.Tensor]] | None:
    """Location and weight of every Laplace prior on real numbers, in the shape of its site.

    ``None`` if one depends on a discrete latent.
    """
    real = {
        name
        for name, unknown in program.sites.unknowns.items()
        if unknown.static
        and base_constraint(unknown.support) is constraints.real
        and isinstance(base_distribution(unknown.prior), Laplace)
    }
    if not real:
        return {}
    with torch.no_grad():
        run = program.run(values)
    if not real <= {factor.name for factor in run.direct}:
        return None
    found = {}
    for name in real:
        prior, shape = base_distribution(run.priors[name]), program.sites.unknowns[name].shape
        loc = prior.loc.detach().expand(shape)
        # The slope beyond the kink: masks, scales and plates of the site are in it.
        beyond = (loc + prior.scale.detach()).requires_grad_(True)
        with torch.enable_grad():
            factors = program.run({**values, name: beyond}).direct
            total = next(factor.total() for factor in factors if factor.name == name)
        if total.requires_grad:
            found[name] = loc, -torch.autograd.grad(total, beyond)[0]
        else:
            found[name] = loc, torch.zeros_like(loc)
    return found


def minimise_with_kinks(
    function: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    kinks: Kinks | Callable[[torch.Tensor], Kinks | None] | None,
    *,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool] = lambda value, x: False,
    curvature: Curvature | None = None,
    memory: Memory = NOTHING,
) -> Minimum:
    """Minimise by the proximal Newton method where there are kinks, else as `minimise` does.

    Without a Hessian, steps are those of the accelerated proximal gradient method. A plain search
    that stalls short of a minimum, for kinks that are not known, is finished by `settle`.

    Parameters
    ----------
    function : callable
        Maps a point [n] to the value and the gradient [n] of the whole function, the kinks
        included; on a kink the absolute value's share of the gradient is zero.
    start : Tensor, [n]
    kinks : Kinks, callable or None
        What is not smooth, or a function that tells it at the start.
    max_iter : int
        Most steps.
    tol : float
        Predicted gain, relative to the value, that counts as none.
    step : callable
        ``step(value, x)`` is told of every accepted point, the start first; ``True`` stops.
    curvature : callable, optional
        Maps a point [n] to the Hessian [n, n] of the smooth part, or ``None`` if it cannot.
    memory : Memory
        As in `minimise`; a search with kinks starts again.
    """
    found = kinks(start) if callable(kinks) else kinks
    if found is not None and curvature is None:
        return _proximal_gradient(function, start, found, max_iter, tol, step)
    if found is None or curvature is None:
        end = minimise(
            function,
            start,
            max_iter=max_iter,
            tol=tol,
            step=step,
            curvature=curvature,
            memory=memory,
        )
        blind = end.matrix is not None and bool((end.matrix.diagonal() == 0).any())
        if (end.converged and not blind) or end.stopped or end.blocked or end.n_iter >= max_iter:
            return end
        # A Hessian that does not see the kinks is no judge of the minimum.
        stalled = replace(end, converged=False)
        settled = settle(function, stalled, max_iter=max_iter, step=step)
        if settled is not stalled:
            return settled
        if end.matrix is not None and lies_on_kinks(function, end.x, end.matrix):
            return replace(end, matrix=None)
        return end
    return _proximal_newton(function, start, found, max_iter, tol, step, curvature)


def _proximal_newton(
    function: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    kinks: Kinks,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool],
    curvature: Curvature,
) -> Minimum:
    """Proximal Newton steps (Lee, Sun & Saunders 2014) until the model predicts no more gain."""
    x = start.detach().clone()
    value, gradient = function(x)
    if step(value, x):
        return Minimum(x, value, False, 0, stopped=True)
    noise = 10.0 * torch.finfo(x.dtype).eps
    for iteration in range(max_iter + 1):
        matrix = curvature(x)
        if matrix is None or not bool(torch.isfinite(matrix).all()):
            return Minimum(x, value, False, iteration)
        smooth = gradient - kinks.slope(x)
        target = _proximal_point(_definite(matrix), smooth, x, kinks)
        direction = target - x
        gain = float(smooth @ direction + kinks.height(target) - kinks.height(x))
        if -gain <= max(tol, noise) * max(1.0, abs(value)):
            # The last step is already paid for, and doubles the digits.
            reached = function(target)[0]
            if reached <= value + noise * max(1.0, abs(value)):
                x, value = target, reached
            return Minimum(x, value, True, iteration, matrix=matrix)
        if iteration == max_iter:
            break
        size, better = 1.0, False
        while size > _SHORTEST and not better:
            # A whole step ends on the kinks exactly.
            candidate = target if size == 1.0 else x + size * direction
            reached, slope = function(candidate)
            better = reached <= value + _GAIN * size * gain
            size *= 0.5
        if not better:
            done = -gain <= 1e-6 * max(1.0, abs(value))
            return Minimum(x, value, done, iteration, matrix=matrix if done else None)
        x, value, gradient = candidate, reached, slope
        if step(value, x):
            return Minimum(x, value, False, iteration + 1, stopped=True)
    return Minimum(x, value, False, max_iter)


def _proximal_gradient(
    function: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    kinks: Kinks,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool],
) -> Minimum:
    """Accelerated proximal gradient steps, for a Hessian of too many rows.

    Beck & Teboulle (2009), with the momentum dropped where it leads uphill (O'Donoghue & Candès
    2015).
    """
    x = ahead = start.detach().clone()
    value, _ = function(x)
    if step(value, x):
        return Minimum(x, value, False, 0, stopped=True)
    noise = 10.0 * torch.finfo(x.dtype).eps
    curve, momentum = 1.0, 1.0
    for iteration in range(1, max_iter + 1):
        whole, gradient = function(ahead)
        smooth, slope = whole - float(kinks.height(ahead)), gradient - kinks.slope(ahead)
        curve *= 0.9
        while True:
            free = ahead - slope / curve - kinks.centre
            target = kinks.centre + free.sign() * (free.abs() - kinks.weight / curve).clamp_min(0)
            moved = target - ahead
            reached, _ = function(target)
            model = smooth + float(slope @ moved + 0.5 * curve * moved @ moved)
            slack = noise * max(1.0, abs(whole))
            if reached - float(kinks.height(target)) <= model + slack or curve > 1e100:
                break
            curve *= 2.0
        gain, momentum_before = float(0.5 * curve * moved @ moved), momentum
        uphill = float((ahead - target) @ (target - x)) > 0
        momentum = 1.0 if uphill else 0.5 * (1 + (1 + 4 * momentum**2) ** 0.5)
        share = 0.0 if uphill else (momentum_before - 1) / momentum
        x, ahead, value = target, target + share * (target - x), reached
        if step(value, x):
            return Minimum(x, value, False, iteration, stopped=True)
        # One step gains a share of what there is that the conditioning sets: ask for less.
        if gain <= 1e-4 * max(tol, noise) * max(1.0, abs(value)):
            return Minimum(x, value, True, iteration)
    return Minimum(x, value, False, max_iter)


def _definite(matrix: torch.Tensor) -> torch.Tensor:
    """A positive definite matrix with the same curvatures, their signs left aside."""
    scale = matrix.diagonal().abs()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).sqrt()
    outer = scale[:, None] * scale[None, :]
    values, vectors = torch.linalg.eigh(matrix / outer)
    return (vectors * values.abs().clamp_min(1e-10)) @ vectors.T * outer


def _proximal_point(
    matrix: torch.Tensor, slope: torch.Tensor, x: torch.Tensor, kinks: Kinks
) -> torch.Tensor:
    """Minimise slope·d + dᵀ matrix d / 2 + kinks(x + d) by coordinate descent; gives x + d."""
    # Plain numbers: a sweep over tensor elements costs fifty times as much.
    rows, own = matrix.cpu().numpy(), matrix.diagonal().tolist()
    weight, centre = kinks.weight.tolist(), kinks.centre.tolist()
    origin, point = x.tolist(), x.tolist()
    residual = slope.cpu().numpy().copy()
    for _ in range(_SWEEPS):
        change = 0.0
        for i, curve in enumerate(own):
            here = point[i]
            free = here - float(residual[i]) / curve - centre[i]
            shrunk = max(abs(free) - weight[i] / curve, 0.0)
            there = centre[i] + (shrunk if free > 0 else -shrunk)
            if there != here:
                residual += (there - here) * rows[i]
                point[i] = there
                change = max(change, abs(there - here) * curve**0.5)
        reach = max(abs(p - o) * c**0.5 for p, o, c in zip(point, origin, own, strict=True))
        if change <= _SWEPT * max(1.0, reach):
            break
    return torch.tensor(point, dtype=x.dtype, device=x.device)
