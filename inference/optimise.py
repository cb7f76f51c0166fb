"""Minimising a smooth function of a flat vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from likely.inference.checkpoints import NOTHING, Memory
from likely.inference.evaluations import Cached, Evaluation, Moments

OptimizerFactory = Callable[[list[torch.Tensor]], torch.optim.Optimizer]

# A gradient this small, relative to the objective, is zero to rounding.
_GRADIENT_FLOOR = 1e-12
# Evaluations that one line search may take.
_LINE_SEARCH = 40
# Relative change of the value at which Newton's method takes over a small problem, and how small.
_HAND_OVER = 1e-7
_FEW = 32
# A Newton decrement of so many tolerances is small enough: the step that goes with it is taken.
_ENOUGH = 10.0
# A gradient above this, relative to the objective, is no optimum however little the value changes.
_FLAT = 1e-4


@dataclass(frozen=True)
class Minimum:
    """Where a search ended: point [n], value, whether it converged, number of iterations.

    ``blocked`` says that the last steps ran into values that are not finite, ``stopped`` that the
    caller ended the search; ``matrix`` is the Hessian where Newton's method checked the end,
    ``scatter`` the covariance of noisy gradients near the end ([n, n], or [n] of many coordinates).
    """

    x: torch.Tensor
    value: float
    converged: bool
    n_iter: int
    blocked: bool = False
    stopped: bool = False
    matrix: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    scatter: torch.Tensor | None = None


Curvature = Callable[[torch.Tensor], torch.Tensor | None]


def minimise(
    function: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    *,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool] = lambda value, x: False,
    curvature: Curvature | None = None,
    newton_iter: int | None = None,
    history_size: int = 20,
    memory: Memory = NOTHING,
) -> Minimum:
    """Minimise by L-BFGS with a strong Wolfe line search (torch's), checked by Newton's method.

    Whether a gradient is small depends on the units of the coordinates, and L-BFGS stops short
    where units differ by orders of magnitude. The Newton decrement ½ gᵀH⁻¹g, what is still to be
    gained, does not depend on units (Boyd & Vandenberghe 2004, section 9.5): where the Hessian is
    to be had, it decides, and Newton steps go on from where L-BFGS stopped too early.

    Parameters
    ----------
    function : callable
        Maps a point [n] to its value and gradient [n].
    start : Tensor, [n]
    max_iter : int
        Most iterations (each a direction and a line search).
    tol : float
        Relative change of the value that counts as none; two such iterations end the search.
    step : callable
        ``step(value, x)`` is told of every accepted point, the start first; ``True`` stops.
    curvature : callable, optional
        Maps a point [n] to the Hessian [n, n] there, or ``None`` if it cannot.
    newton_iter : int, optional
        Most Newton steps; by default what is left of ``max_iter``.
    history_size : int
        Curvature pairs kept.
    memory : Memory
        Keeps the state of L-BFGS, and may hold one to go on from.
    """
    checked = curvature is not None
    found = _lbfgs(function, start, max_iter, tol, step, history_size, checked, memory)
    last = max_iter if newton_iter is None else found.n_iter + newton_iter
    done = found.stopped or found.n_iter >= last or found.x.numel() == 0
    if curvature is None or done:
        return found
    if found.blocked:
        # Where rounding is all that is left of a gradient, a step along it may lead anywhere.
        ended = _newton(function, found, found.n_iter, tol, step, curvature)
        return ended if ended.converged else found
    return _newton(function, found, last, tol, step, curvature)


def _lbfgs(
    function: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool],
    history_size: int,
    checked: bool,
    memory: Memory,
) -> Minimum:
    """L-BFGS alone; a search whose end is checked afterwards may stop one iteration sooner."""
    cached = Cached(function)
    enough = tol
    if checked:
        # The check asks no more. Newton's last steps are cheaper where a Hessian has few rows.
        enough = max(_ENOUGH * tol, _HAND_OVER if start.numel() <= _FEW else 0.0)
    x = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=1,
        # torch limits the line search by what is left of this budget.
        max_eval=_LINE_SEARCH,
        history_size=history_size,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        value, gradient = cached(x.detach())
        x.grad = gradient
        return value

    saved = memory.load()
    if saved is not None:
        x.data.copy_(saved["x"])
        optimizer.load_state_dict(saved["optimizer"])
    value, gradient = cached(x.detach())
    cached.anchor = (x.detach().clone(), value)
    if saved is None and step(value, x.detach()):
        return Minimum(x.detach(), value, False, 0, stopped=True)
    if x.numel() == 0:
        return Minimum(x.detach(), value, True, 0)
    first, still, stalls, cached.blocked = (1, 0, 0, False) if saved is None else saved["counts"]
    for iteration in range(first, max_iter + 1):
        counts = [iteration, still, stalls, cached.blocked]
        memory.keep(iteration, partial(_kept, x=x, optimizer=optimizer, counts=counts))
        if float(gradient.abs().max()) <= _GRADIENT_FLOOR * max(1.0, abs(value)):
            return Minimum(x.detach(), value, True, iteration - 1)
        optimizer.step(closure)
        before, previous = cached.anchor
        value, gradient = cached(x.detach())
        if not value < previous:
            # The line search found nothing better. Forget the curvature and go straight downhill
            # once; if that fails too, this is as low as rounding lets us go.
            x.data.copy_(before)
            value, gradient = cached(x.detach())
            stalls += 1
            if stalls >= 2:
                return Minimum(
                    x.detach(), value, _is_flat(value, gradient), iteration, cached.blocked
                )
            optimizer.state.clear()
            continue
        stalls = 0
        cached.blocked = False
        cached.anchor = (x.detach().clone(), value)
        if step(value, x.detach()):
            return Minimum(x.detach(), value, False, iteration, stopped=True)
        still = still + 1 if previous - value <= enough * max(1.0, abs(value)) else 0
        if still >= (1 if checked else 2) and _is_flat(value, gradient):
            return Minimum(x.detach(), value, True, iteration, gradient=gradient)
    return Minimum(x.detach(), value, False, max_iter, cached.blocked)


def _kept(x: torch.Tensor, optimizer: torch.optim.Optimizer, **more: Any) -> dict[str, Any]:
    """The state of a search that steps by an optimiser of torch's."""
    return {"x": x.detach().clone(), "optimizer": optimizer.state_dict(), **more}


def _newton(
    function: Callable[[torch.Tensor], Evaluation],
    found: Minimum,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool],
    curvature: Curvature,
) -> Minimum:
    """Go on by Newton steps until the decrement says that nothing is left to gain.

    Directions of negative curvature are followed downhill with the size of their curvature
    (saddle-free Newton; Dauphin et al. 2014).
    """
    x, value, gradient = found.x, found.value, found.gradient
    noise = 10.0 * torch.finfo(x.dtype).eps
    matrix: torch.Tensor | None = None
    for iteration in range(found.n_iter, max_iter + 1):
        if matrix is not None and gradient is not None:
            # Near the end the curvature of the last point serves; it says so if all is gained.
            _, left = newton_direction(matrix, gradient)
            if left <= noise * max(1.0, abs(value)):
                seen = hidden_gain(matrix, gradient) <= _enough(tol, noise, value)
                return Minimum(x, value, seen, iteration, matrix=matrix)
        matrix = curvature(x)
        if matrix is None or not bool(torch.isfinite(matrix).all()):
            return replace(found, x=x, value=value, n_iter=iteration)
        if gradient is None:
            value, gradient = function(x)
        direction, decrement = newton_direction(matrix, gradient, noise * max(1.0, abs(value)))
        if decrement <= _enough(tol, noise, value):
            seen = hidden_gain(matrix, gradient) <= _enough(tol, noise, value)
            # The last step is already paid for, and doubles the digits.
            reached = function(x + direction)[0]
            if reached <= value:
                x, value = x + direction, reached
            return Minimum(x, value, seen, iteration, matrix=matrix)
        if iteration == max_iter:
            break
        size, better = 1.0, False
        while size > 1e-10 and not better:
            candidate = x + size * direction
            reached, slope = function(candidate)
            better = reached < value - 1e-4 * size * decrement
            size *= 0.5
        if not better:
            # Rounding hides what is left, if it is that little; otherwise this is no optimum.
            return Minimum(x, value, decrement <= 1e-6 * max(1.0, abs(value)), iteration)
        x, value, gradient = candidate, reached, slope
        if step(value, x):
            return Minimum(x, value, False, iteration + 1, stopped=True)
    return Minimum(x, value, False, max_iter)


def _enough(tol: float, noise: float, value: float) -> float:
    """A gain so small that a search may end."""
    return max(_ENOUGH * tol, noise) * max(1.0, abs(value))


def _principal(
    matrix: torch.Tensor, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Units [n] that put ones on the diagonal; curvatures, directions, slopes; the least curvature.

    Curvature below the least is rounding of the larger ones.
    """
    scale = matrix.diagonal().abs()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).rsqrt()
    values, vectors = torch.linalg.eigh(matrix * scale[:, None] * scale[None, :])
    return scale, values, vectors, vectors.T @ (scale * gradient), 1e-13 * max(len(values), 1)


def newton_direction(
    matrix: torch.Tensor, gradient: torch.Tensor, least: float = 0.0
) -> tuple[torch.Tensor, float]:
    """Newton direction [n] and decrement ½ gᵀ|H|⁻¹g, whatever the units of the coordinates.

    Directions without curvature are left out, nothing says how far to go there; so are those that
    would gain less than ``least``.
    """
    scale, values, vectors, slope, floor = _principal(matrix, gradient)
    size = values.abs()
    size = torch.where(size > floor, size, torch.full_like(size, float("inf")))
    # Below rounding of the value there is nothing to gain, only somewhere to drift.
    along = torch.where(slope.square() > 2.0 * least * size, slope / size, torch.zeros_like(slope))
    return -scale * (vectors @ along), 0.5 * float((slope * along).sum())


def hidden_gain(matrix: torch.Tensor, gradient: torch.Tensor) -> float:
    """Gain ½ g²/h in the directions whose curvature is lost in rounding, as if it were the least.

    Where nothing is known of a coordinate both slope and curvature are rounding. A slope beyond
    that says that the coordinates are too badly scaled for an end of the search to be told.
    """
    _, values, _, slope, floor = _principal(matrix, gradient)
    lost = slope[values.abs() <= floor]
    return 0.5 * float(lost.square().sum()) / floor


def _is_flat(value: float, gradient: torch.Tensor) -> bool:
    # Rounding sets a floor under gradients, which matters in single precision.
    floor = max(_FLAT, 10.0 * torch.finfo(gradient.dtype).eps ** 0.5)
    return float(gradient.abs().max()) <= floor * max(1.0, abs(value))


def descend(
    function: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    *,
    optimizer: OptimizerFactory,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool] = lambda value, x: False,
    stochastic: bool = False,
    memory: Memory = NOTHING,
) -> Minimum:
    """Minimise with any torch optimiser; gradients may be noisy.

    With noise the step size falls linearly to zero and the points of the last quarter are
    averaged (Polyak & Juditsky 1992), which takes the noise out of the answer. The search counts as
    converged when the values of the last quarter are no better, within three standard errors, than
    those of the quarter before.

    Parameters
    ----------
    function : callable
        Maps a point [n] to its value and gradient [n].
    start : Tensor, [n]
    optimizer : callable
        Makes an optimiser from a list of tensors, e.g. ``torch.optim.Adam``.
    max_iter : int
        Number of steps.
    tol : float
        Relative change of the value over ten steps that ends a search without noise.
    step : callable
        Told of every point; ``True`` stops.
    stochastic : bool
        Whether values and gradients are noisy.
    memory : Memory
        Keeps the state of the search, and may hold one to go on from.
    """
    x = start.detach().clone().requires_grad_(True)
    stepper = optimizer([x])
    moments = Moments(x.numel())
    schedule = torch.optim.lr_scheduler.LambdaLR(
        stepper, (lambda i: max(1.0 - i / max_iter, 0.0)) if stochastic else (lambda i: 1.0)
    )
    total, count = torch.zeros_like(x.data), 0
    values: list[float] = []
    memory.require("optimizer", made_with(stepper))
    saved = memory.load()
    if saved is not None:
        x.data.copy_(saved["x"])
        stepper.load_state_dict(saved["optimizer"])
        schedule.last_epoch = len(saved["values"])
        total, count, values = saved["total"], saved["count"], saved["values"]
        moments.restore(saved["moments"])
    for iteration in range(len(values), max_iter + 1):
        along = {"total": total, "count": count, "values": values, "moments": moments.state()}
        memory.keep(iteration, partial(_kept, x=x, optimizer=stepper, **along))
        value, gradient = function(x.detach())
        values.append(value)
        if step(value, x.detach()):
            return Minimum(x.detach(), value, False, iteration)
        if stochastic and 4 * iteration >= 3 * max_iter:
            total += x.detach()
            count += 1
            moments.add(gradient)
        elif not stochastic and iteration >= 10:
            change = abs(values[-11] - value)
            if change <= tol * max(1.0, abs(value)):
                return Minimum(x.detach(), value, True, iteration)
        if iteration == max_iter:
            break
        x.grad = gradient
        stepper.step()
        schedule.step()
    if not stochastic:
        return Minimum(x.detach(), value, False, max_iter)
    return Minimum(total / count, value, settled(values), max_iter, scatter=moments.covariance())


def made_with(optimizer: torch.optim.Optimizer) -> str:
    """Kind and options of an optimiser of torch's, for the record.

    Examples
    --------
    >>> made_with(torch.optim.Adagrad([torch.zeros(1, requires_grad=True)], lr=0.5))[:21]
    "Adagrad ['lr=0.5', 'l"
    """
    options = [f"{name}={value}" for name, value in optimizer.defaults.items()]
    return f"{type(optimizer).__name__} {options}"


def settled(values: Sequence[float]) -> bool:
    """Whether the last quarter of a noisy sequence is no lower than the quarter before."""
    quarter = len(values) // 4
    if quarter < 2:
        return False
    before = torch.tensor(values[-2 * quarter : -quarter], dtype=torch.float64)
    last = torch.tensor(values[-quarter:], dtype=torch.float64)
    error = float((before.var() / quarter + last.var() / quarter).sqrt())
    return float(before.mean() - last.mean()) <= 3.0 * error
