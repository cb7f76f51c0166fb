"""What is left of a noisy search's error, and taking it out with a few passes over all data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from likely.inference.optimise import Evaluation, Minimum, minimise

# Distances from the optimum, in standard errors: near enough to stop, and to count as converged.
_REACHED, _NEAR = 1e-3, 0.1
# Directions with less information than this share of the largest are taken to have that share.
_LEAST = 1e-8


def polish(
    function: Callable[[torch.Tensor], Evaluation],
    found: Minimum,
    fraction: float,
    passes: int,
    tol: float,
) -> Minimum:
    """Finish a noisy search by L-BFGS on all data, in the metric of the Fisher information.

    The gradient of a batch, scaled up to all data, scatters around that of all data with covariance
    ``(1 - f) / f`` times the information, for batches of a fraction f drawn without replacement.
    The scatter that the search saw is thus an estimate of the information (the outer product of
    scores; Berndt, Hall, Hall & Hausman 1974), in whose metric the objective is nearly a sphere and
    a pass or two take the noise out. The length of the gradient there is the distance from the
    optimum in standard errors, which says whether the search has converged.

    Parameters
    ----------
    function : callable
        Maps a point [n] to the value and gradient [n] of all data, in one pass over them.
    found : Minimum
        Where a noisy search ended.
    fraction : float
        Share of the data in a batch.
    passes : int
        Most iterations.
    tol : float
        As in `likely.inference.optimise.minimise`.

    Returns
    -------
    Minimum
        Converged if the point is within a tenth of a standard error of the optimum, or L-BFGS
        says so. Where there are so many coordinates that only variances are known, the noisy
        search's own verdict counts, too.
    """
    back = _metric(found, fraction)
    distances: dict[float, float] = {}

    def inner(z: torch.Tensor) -> Evaluation:
        value, gradient = function(found.x + back(z, False))
        gradient = back(gradient, True)
        distances[value] = float(gradient.norm())
        return value, gradient

    end = minimise(
        inner,
        torch.zeros_like(found.x),
        max_iter=passes,
        tol=tol,
        step=lambda value, z: distances.get(value, 1.0) <= _REACHED,
    )
    near = distances.get(end.value, 1.0) <= (_REACHED if found.scatter is None else _NEAR)
    many = found.scatter is not None and found.scatter.dim() == 1
    return replace(
        found,
        x=found.x + back(end.x, False),
        value=end.value,
        converged=end.converged or near or (many and found.converged),
    )


def _metric(found: Minimum, fraction: float) -> Callable[[torch.Tensor, bool], torch.Tensor]:
    """Map from coordinates in which the information is the identity; transposed if asked."""
    scatter, n = found.scatter, found.x.numel()
    if scatter is None or fraction >= 1.0:
        return lambda z, transpose: z
    information = scatter * (fraction / (1.0 - fraction))
    variances = information if information.dim() == 1 else information.diagonal()
    largest = float(variances.max()) if n else 0.0
    if largest <= 0.0:
        return lambda z, transpose: z
    scale = variances.clamp_min(_LEAST * largest).rsqrt()
    if information.dim() == 1:
        return lambda z, transpose: scale * z
    # The units of the coordinates go first, so that only correlations are judged for size.
    values, vectors = torch.linalg.eigh(information * scale[:, None] * scale[None, :])
    matrix = scale[:, None] * vectors * values.clamp_min(_LEAST * float(values.max())).rsqrt()
    return lambda z, transpose: (matrix.T if transpose else matrix) @ z
