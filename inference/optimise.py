"""Minimising a smooth function of a flat vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Evaluation = tuple[float, torch.Tensor]
OptimizerFactory = Callable[[list[torch.Tensor]], torch.optim.Optimizer]

# A gradient this small, relative to the objective, is zero to rounding.
_GRADIENT_FLOOR = 1e-12
# Evaluations that one line search may take.
_LINE_SEARCH = 40
# A gradient above this, relative to the objective, is no optimum however little the value changes.
_FLAT = 1e-4


@dataclass(frozen=True)
class Minimum:
    """Where a search ended: point [n], value, whether it converged, number of iterations.

    ``blocked`` says that the last steps ran into values that are not finite.
    """

    x: torch.Tensor
    value: float
    converged: bool
    n_iter: int
    blocked: bool = False


class _Cached:
    """Remembers the latest evaluations, and answers for points where the function overflows.

    torch's L-BFGS asks again for the point it accepted, and its line search cannot interpolate
    through an infinity: beyond the domain it is shown a bowl around the last good point, so it
    steps back.
    """

    def __init__(self, function: Callable[[torch.Tensor], Evaluation]) -> None:
        self._function = function
        self._seen: list[tuple[torch.Tensor, Evaluation]] = []
        self.anchor: tuple[torch.Tensor, float] | None = None
        self.blocked = False

    def __call__(self, x: torch.Tensor) -> Evaluation:
        for point, result in reversed(self._seen):
            if torch.equal(point, x):
                return result
        value, gradient = self._function(x)
        finite = value == value and abs(value) != float("inf")
        if self.anchor is not None and not (finite and bool(torch.isfinite(gradient).all())):
            self.blocked = True
            base, height = self.anchor
            away = x - base
            steepness = (1.0 + abs(height)) / float(away.square().sum().clamp_min(1e-300))
            value = height + 1.0 + abs(height)
            gradient = 2.0 * steepness * away
        result = value, gradient
        self._seen = [*self._seen[-7:], (x.clone(), result)]
        return result


def minimise(
    function: Callable[[torch.Tensor], Evaluation],
    start: torch.Tensor,
    *,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool] = lambda value, x: False,
    history_size: int = 20,
) -> Minimum:
    """Minimise by L-BFGS with a strong Wolfe line search (torch's).

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
    history_size : int
        Curvature pairs kept.
    """
    cached = _Cached(function)
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

    value, gradient = cached(x.detach())
    cached.anchor = (x.detach().clone(), value)
    if step(value, x.detach()):
        return Minimum(x.detach(), value, False, 0)
    if x.numel() == 0:
        return Minimum(x.detach(), value, True, 0)
    still, stalls = 0, 0
    for iteration in range(1, max_iter + 1):
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
            return Minimum(x.detach(), value, False, iteration)
        still = still + 1 if previous - value <= tol * max(1.0, abs(value)) else 0
        if still >= 2 and _is_flat(value, gradient):
            return Minimum(x.detach(), value, True, iteration)
    return Minimum(x.detach(), value, False, max_iter, cached.blocked)


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
    """
    x = start.detach().clone().requires_grad_(True)
    stepper = optimizer([x])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        stepper, (lambda i: max(1.0 - i / max_iter, 0.0)) if stochastic else (lambda i: 1.0)
    )
    total, count = torch.zeros_like(x.data), 0
    values: list[float] = []
    for iteration in range(max_iter + 1):
        value, gradient = function(x.detach())
        values.append(value)
        if step(value, x.detach()):
            return Minimum(x.detach(), value, False, iteration)
        if stochastic and 4 * iteration >= 3 * max_iter:
            total += x.detach()
            count += 1
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
    return Minimum(total / count, value, settled(values), max_iter)


def settled(values: Sequence[float]) -> bool:
    """Whether the last quarter of a noisy sequence is no lower than the quarter before."""
    quarter = len(values) // 4
    if quarter < 2:
        return False
    before = torch.tensor(values[-2 * quarter : -quarter], dtype=torch.float64)
    last = torch.tensor(values[-quarter:], dtype=torch.float64)
    error = float((before.var() / quarter + last.var() / quarter).sqrt())
    return float(before.mean() - last.mean()) <= 3.0 * error
