"""Finishing and judging a search among kinks.

Where a function has kinks (absolute deviations in a likelihood, say) the gradient at the minimum is
not zero and does not exist; L-BFGS comes near and stalls. What is zero there is some average of the
gradients round about, and as long as none is, the shortest of these averages points uphill.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from likely.inference.optimise import Evaluation, Minimum

# Most coordinates for which gradients are sampled: each step takes a few for every coordinate.
MOST = 30
# Radii of the samples, in units in which the function changes by one at most; and the length of
# the shortest average, relative to the longest gradient, that counts as none.
_WIDEST, _NARROWEST = 1e-2, 1e-8
_NONE = 1e-6
# The same where a line search along the average finds nothing lower.
_LITTLE = 1e-3
# How much the function, relative to its value, may still be above its minimum at the end, and the
# gain that a step has to bring.
_CERTAIN, _GAIN = 2e-8, 1e-12
# Share of the slope's promise that a step has to keep.
_SLOPE = 1e-6
# Rounds that find the units.
_FITTED = 12
# Two radii. Differences of a smooth gradient shrink with them, to a share between these.
_APART, _SMOOTH = (1e-6, 1e-4), (1e-3, 1e-1)
# Samples for each coordinate, and how often they are added to before a radius is given up.
_SAMPLES, _ROUNDS = 4, 4


def settle(
    function: Callable[[torch.Tensor], Evaluation],
    found: Minimum,
    *,
    max_iter: int,
    step: Callable[[float, torch.Tensor], bool] = lambda value, x: False,
) -> Minimum:
    """Go on from where a search stalled by sampling gradients (Burke, Lewis & Overton 2005).

    Parameters
    ----------
    function : callable
        Maps a point [n] to its value and gradient [n], almost everywhere.
    found : Minimum
        Where a search ended without having converged. It is returned as it is unless the
        gradient jumps near there.
    max_iter : int
        Most steps.
    step : callable
        ``step(value, x)`` is told of every accepted point; ``True`` stops.

    Returns
    -------
    Minimum
        Converged if some average of gradients is zero within a radius so small that there is
        nothing to gain.
    """
    if found.converged or found.stopped or found.x.numel() > MOST or found.x.numel() == 0:
        return found
    x, value, count = found.x, found.value, found.n_iter
    source = torch.Generator().manual_seed(0)
    unit = _units(function, x, source)
    near, far = (_spread(function, x, reach * unit, source) for reach in _APART)
    if _SMOOTH[0] * far <= near <= _SMOOTH[1] * far:
        return found
    radius, certain = _WIDEST, float("inf")
    while radius >= _NARROWEST:
        if count >= max_iter:
            return replace(found, x=x, value=value, n_iter=count, converged=False)
        direction, share = _shortest(function, x, unit, radius, source)
        none = share <= _NONE
        moved = None if none else _descend(function, x, value, unit * direction, direction)
        if moved is None:
            if share <= _LITTLE:
                # A convex function cannot be lower than here by more than about the radius.
                certain = radius
            radius *= 0.1
            continue
        x, value = moved
        count += 1
        if step(value, x):
            return replace(found, x=x, value=value, n_iter=count, converged=False, stopped=True)
    converged = certain <= _CERTAIN * max(1.0, abs(value))
    return replace(found, x=x, value=value, n_iter=count, converged=converged, matrix=None)


def lies_on_kinks(
    function: Callable[[torch.Tensor], Evaluation], x: torch.Tensor, matrix: torch.Tensor
) -> bool:
    """Whether the function rises on both sides of ``x`` [n] wherever its Hessian sees nothing.

    Parameters
    ----------
    function : callable
        Maps a point [n] to its value and gradient [n].
    x : Tensor, [n]
    matrix : Tensor, [n, n]
        The Hessian there.
    """
    blind = torch.nonzero(matrix.diagonal() == 0)[:MOST, 0].tolist()
    return bool(blind) and all(
        _rises(function, x, i, 1.0) and _rises(function, x, i, -1.0) for i in blind
    )


def _rises(
    function: Callable[[torch.Tensor], Evaluation], x: torch.Tensor, i: int, side: float
) -> bool:
    for reach in (1e-3, 1e-2, 1e-1, 1.0, 10.0):
        away = torch.zeros_like(x)
        away[i] = side * reach * max(float(x[i].abs()), 1.0)
        value, gradient = function(x + away)
        # Slopes that cancel leave rounding.
        if abs(float(gradient[i])) > 1e-10 * max(1.0, abs(value)):
            return side * float(gradient[i]) > 0
    return False


def _units(
    function: Callable[[torch.Tensor], Evaluation], x: torch.Tensor, source: torch.Generator
) -> torch.Tensor:
    """For each coordinate the distance [n] over which the function changes by about one."""
    unit = x.abs().clamp_min(1e-3)
    for _ in range(_FITTED):
        slopes = _gradients(function, x, _WIDEST * unit, 1, source).abs().amax(0)
        # Half way in logarithms: a smooth function's slope grows with the distance.
        unit = torch.where(slopes > 0, (unit / slopes.clamp_min(1e-300)).sqrt(), unit)
    return unit


def _spread(
    function: Callable[[torch.Tensor], Evaluation],
    x: torch.Tensor,
    reach: torch.Tensor,
    source: torch.Generator,
) -> float:
    """How much the gradient, in the units of ``reach`` [n], differs within a box around ``x``."""
    rows = _gradients(function, x, reach, 2, source) * (reach / reach.max())
    return float((rows.amax(0) - rows.amin(0)).max())


def _gradients(
    function: Callable[[torch.Tensor], Evaluation],
    x: torch.Tensor,
    reach: torch.Tensor,
    each: int,
    source: torch.Generator,
) -> torch.Tensor:
    """Gradients [m, n] at ``each`` points for every coordinate, in a box around ``x``."""
    found = []
    for _ in range(each * x.numel() + 1):
        away = 2 * torch.rand(x.shape, generator=source, dtype=x.dtype).to(x.device) - 1
        gradient = function(x + reach * away)[1]
        if bool(torch.isfinite(gradient).all()):
            found.append(gradient)
    return torch.stack(found) if found else torch.zeros_like(x).unsqueeze(0)


def _shortest(
    function: Callable[[torch.Tensor], Evaluation],
    x: torch.Tensor,
    unit: torch.Tensor,
    radius: float,
    source: torch.Generator,
) -> tuple[torch.Tensor, float]:
    """Shortest average [n] of gradients near ``x``, in units; its share of the longest."""
    # Twenty-five megabytes that smooth densities do not need.
    from scipy.optimize import nnls

    rows = x.new_zeros(0, x.numel())
    average, share = torch.zeros_like(x), 1.0
    for _ in range(_ROUNDS):
        more = _gradients(function, x, radius * unit, _SAMPLES, source) * unit
        rows = torch.cat([rows, more])
        longest = float(rows.norm(dim=1).max())
        if longest == 0.0:
            return average, 0.0
        # Shares of at least zero that sum to one, by least squares with one heavy row.
        matrix = np.vstack([rows.T.cpu().numpy() / longest, 1e3 * np.ones((1, len(rows)))])
        shares = nnls(matrix, np.append(np.zeros(x.numel()), 1e3))[0]
        average = rows.T @ rows.new_tensor(shares / shares.sum())
        share = float(average.norm()) / longest
        if share <= _NONE:
            break
    return average, share


def _descend(
    function: Callable[[torch.Tensor], Evaluation],
    x: torch.Tensor,
    value: float,
    direction: torch.Tensor,
    slope: torch.Tensor,
) -> tuple[torch.Tensor, float] | None:
    """A lower point downhill of an average, with its value; None if there is none."""
    length = float(slope.norm())
    size = 1.0 / length if length > 0 else 0.0
    while size * length > 1e-12:
        candidate = x - size * direction
        reached = function(candidate)[0]
        if reached < value - max(_SLOPE * size * length**2, _GAIN * max(1.0, abs(value))):
            return candidate, reached
        size *= 0.5
    return None
