"""Normal components as figures need them: read from sites by name, and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import norm

from likely.inference.diagnostics.groups import as_numpy
from likely.inference.diagnostics.style import bare, colour
from likely.inference.errors import FitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Points of a curve, and how far beyond the data it goes, as a share of their range.
_CURVE = 400
_MARGIN = 0.08


@dataclass(frozen=True)
class SiteNames:
    """What the sites of a mixture are called; ``None`` for the usual name, where it is there.

    Attributes
    ----------
    locs : str
        Means [K, D] or, for one feature, [K].
    weights : str, optional
        Shares [K]; equal where there are none.
    covariances : str, optional
        [K, D, D] or one for all, [D, D]; for one feature also variances [K] or one number.
    scales : str, optional
        Standard deviations, used where there are no covariances: [K, D], [K], [D] or one number.
    """

    locs: str = "locs"
    weights: str | None = None
    covariances: str | None = None
    scales: str | None = None


@dataclass(frozen=True)
class Components:
    """K normal components of D features.

    Attributes
    ----------
    weights : array
        [K].
    locs : array
        [K, D].
    covariances : array or None
        [K, D, D]; without them only the means are drawn.
    """

    weights: np.ndarray
    locs: np.ndarray
    covariances: np.ndarray | None

    def select(self, features: Sequence[int]) -> Components:
        """The components of some features, the others integrated out."""
        chosen = list(features)
        covariances = self.covariances
        if covariances is not None:
            covariances = covariances[:, chosen][:, :, chosen]
        return Components(self.weights, self.locs[:, chosen], covariances)

    def densities(self, grid: np.ndarray) -> np.ndarray:
        """Weighted density of each component of one feature, [K, point], per unit of x."""
        if self.covariances is None:
            raise FitError("components without covariances or scales have no densities")
        scales = np.sqrt(self.covariances[:, 0, 0])
        shape: np.ndarray = norm.pdf(grid[None], self.locs[:, :1], scales[:, None])
        return self.weights[:, None] * shape


def numbers(value: Any, what: str) -> np.ndarray:
    """What a user gave as an array of numbers, or a `FitError` that calls it ``what``."""
    try:
        return np.asarray(
            as_numpy(value) if isinstance(value, torch.Tensor) else value, dtype=float
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise FitError(f"{what} must be an array of numbers: {error}") from error


def read_components(values: Mapping[str, torch.Tensor], names: SiteNames) -> Components:
    """The components at one value of the sites.

    Parameters
    ----------
    values : mapping of str to Tensor
        Site to value.
    names : SiteNames
        Which sites these are.

    Raises
    ------
    FitError
        If a site that is named is missing, or has no shape that it can have.
    """
    locs = _site(values, names.locs, "locs")
    if locs is None or names.locs is None:
        raise FitError("locs must be the name of a site, got None")
    if locs.ndim == 1:
        locs = locs[:, None]
    if locs.ndim != 2:
        raise FitError(f"locs: site '{names.locs}' must be [K] or [K, D], got {locs.shape}")
    count, features = locs.shape
    weights = _site(values, names.weights, "weights")
    if weights is None:
        weights = np.full(count, 1.0 / count)
    if weights.shape != (count,):
        raise FitError(
            f"weights: site '{names.weights or 'weights'}' must have one entry for each of "
            f"{count} components, got shape {weights.shape}"
        )
    found = None if names.scales is not None else _site(values, names.covariances, "covariances")
    if found is not None:
        return Components(weights, locs, _covariances(found, count, features))
    found = _site(values, names.scales, "scales")
    if found is None:
        return Components(weights, locs, None)
    if found.shape == (count,):
        found = found[:, None]
    try:
        scales = np.broadcast_to(found, (count, features))
    except ValueError as error:
        raise FitError(
            f"scales must be [K, D], [K], [D] or one number with K={count} and D={features}, "
            f"got shape {found.shape}"
        ) from error
    return Components(weights, locs, scales[:, :, None] ** 2 * np.eye(features))


def _covariances(found: np.ndarray, count: int, features: int) -> np.ndarray:
    shape = (count, features, features)
    if features == 1 and found.shape in ((), (count,)):
        return np.broadcast_to(found.reshape(-1, 1, 1), shape)
    if found.shape not in (shape, shape[1:]):
        raise FitError(
            f"covariances must be {list(shape)} or {list(shape[1:])}, got shape {found.shape}"
        )
    if not np.allclose(found, found.swapaxes(-1, -2), equal_nan=True):
        raise FitError("covariances must be symmetric matrices, and these are not")
    return np.broadcast_to(found, shape)


def _site(values: Mapping[str, torch.Tensor], name: str | None, usual: str) -> np.ndarray | None:
    chosen = usual if name is None else name
    if chosen in values:
        return as_numpy(values[chosen]).astype(float)
    if name is None:
        return None
    raise FitError(f"{usual}: there is no site '{name}'; there are {', '.join(map(repr, values))}")


# -- drawing -------------------------------------------------------------------------------------


def draw_mixture(
    ax: Axes,
    points: np.ndarray,
    components: Components,
    labels: Sequence[str],
    responsibilities: np.ndarray | None = None,
    others: Sequence[Components] = (),
) -> None:
    """One panel: points, and over them the components of one or two features.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    points : array
        [n, D] with D of 1 or 2. Those with a missing value are left out.
    components : Components
        The components of these features.
    labels : sequence of str
        Names of the components, for the legend.
    responsibilities : array, optional
        [n, K]; colours the points of two features.
    others : sequence of Components
        Draws from the posterior, drawn lightly.
    """
    seen = np.isfinite(points).all(1)
    if not seen.any():
        raise FitError("data: no point has values of all the features of a panel")
    points = points[seen]
    responsibilities = None if responsibilities is None else responsibilities[seen]
    if points.shape[1] == 1:
        _draw_curves(ax, points[:, 0], components, labels, others)
    else:
        _draw_ellipses(ax, points, components, labels, responsibilities, others)
    bare(ax)


def _draw_curves(
    ax: Axes,
    points: np.ndarray,
    components: Components,
    labels: Sequence[str],
    others: Sequence[Components],
) -> None:
    heights, edges = histogram(points)
    ax.stairs(heights, edges, fill=True, color="0.85", label="data")
    if components.covariances is None:
        for number, (loc, label) in enumerate(zip(components.locs[:, 0], labels, strict=True)):
            ax.axvline(loc, color=colour(number), lw=1.8, label=label)
        return
    grid = np.linspace(*_limits(points), _CURVE)
    if others:
        ax.plot([], [], color="0.4", lw=0.6, alpha=0.6, label="posterior draws")
    for other in others:
        parts = other.densities(grid)
        for number, part in enumerate(parts):
            ax.plot(grid, part, color=colour(number), lw=0.6, alpha=0.25)
        ax.plot(grid, parts.sum(0), color="black", lw=0.6, alpha=0.2)
    parts = components.densities(grid)
    for number, (part, label) in enumerate(zip(parts, labels, strict=True)):
        ax.plot(grid, part, color=colour(number), lw=1.8, label=label)
    ax.plot(grid, parts.sum(0), color="black", lw=1.4, ls="--", label="mixture")
    ax.set_ylim(0, top_of(points, [components]))
    ax.set_xlim(grid[0], grid[-1])


def histogram(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Densities and edges of bins, as many as twice the root of the points."""
    # Rules made for one bell (``bins="auto"``) are too coarse for several.
    bins = int(np.clip(2 * np.sqrt(len(points)), 5, 60))
    return np.histogram(points, bins=bins, density=True)


def top_of(points: np.ndarray, several: Sequence[Components]) -> float:
    """Upper end of the density axis for points [n] and the components drawn over them."""
    points = points[np.isfinite(points)]
    highest = float(histogram(points)[0].max())
    grid = np.linspace(*_limits(points), _CURVE)
    curves = [c.densities(grid).sum(0).max() for c in several if c.covariances is not None]
    # A component that shrinks onto one point must not flatten the rest.
    return 1.05 * max(highest, min(2 * highest, max(curves, default=0.0)))


def _draw_ellipses(
    ax: Axes,
    points: np.ndarray,
    components: Components,
    labels: Sequence[str],
    responsibilities: np.ndarray | None,
    others: Sequence[Components],
) -> None:
    colours: Any = "0.35"
    if responsibilities is not None:
        palette = np.array([_rgb(colour(number)) for number in range(len(labels))])
        colours = np.clip(responsibilities @ palette, 0, 1)
    ax.scatter(points[:, 0], points[:, 1], s=14, c=colours, alpha=0.55, lw=0)
    for other in others:
        for number in range(len(labels)):
            _ellipse(ax, other, number, 2.0, lw=0.6, alpha=0.3)
    for number, (loc, label) in enumerate(zip(components.locs, labels, strict=True)):
        for size in (1.0, 2.0):
            _ellipse(ax, components, number, size, lw=1.8)
        ax.plot(*loc, "X", color=colour(number), mec="black", mew=0.8, ms=9, ls="none", label=label)
    if components.covariances is not None:
        ax.plot([], [], color="0.4", lw=1.8, label="1 and 2 sd")
        if others:
            ax.plot([], [], color="0.4", lw=0.6, alpha=0.6, label="2 sd in posterior draws")
    for axis, limits in zip("xy", points.T, strict=True):
        ax.set(**{f"{axis}lim": _limits(limits)})


def _ellipse(ax: Axes, components: Components, number: int, size: float, **style: Any) -> None:
    """The curve ``size`` standard deviations from a mean, in Mahalanobis distance."""
    from matplotlib.patches import Ellipse

    if components.covariances is None:
        return
    values, vectors = np.linalg.eigh(components.covariances[number])
    width, height = 2.0 * size * np.sqrt(np.maximum(values, 0.0))
    angle = float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))
    ax.add_patch(
        Ellipse(
            tuple(components.locs[number]),
            width,
            height,
            angle=angle,
            fill=False,
            color=colour(number),
            **style,
        )
    )


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = _MARGIN * (high - low) or 1.0
    return low - margin, high + margin


def _rgb(name: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(name)
