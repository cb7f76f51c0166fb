"""`plot_mixture` and `plot_responsibilities`: components over the data, and who belongs where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from likely.inference.diagnostics.compare import check_fits
from likely.inference.diagnostics.components import (
    Components,
    SiteNames,
    draw_mixture,
    numbers,
    read_components,
)
from likely.inference.diagnostics.groups import as_numpy, first_draw, posterior_by_site
from likely.inference.diagnostics.latents import latent_array
from likely.inference.diagnostics.style import WIDTH, bare, colour, panels, written
from likely.inference.engines.checks import is_int
from likely.inference.errors import FitError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Pairs of more features than these make a page that nobody reads.
_MOST_FEATURES = 4


def plot_mixture(
    fit: Fit,
    data: Any = None,
    *,
    features: Sequence[Any] | None = None,
    latent: str | None = None,
    draws: int = 20,
    locs: str = "locs",
    weights: str | None = None,
    covariances: str | None = None,
    scales: str | None = None,
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """Draw the components of a normal mixture over the data.

    One feature: a histogram, the weighted density of each component and their sum. Two: points
    coloured by their responsibilities, the means, and ellipses one and two standard deviations
    from them. More: a panel for each pair. A posterior fit adds some of its draws, lightly.

    Parameters
    ----------
    fit : Fit
        Any fit of a program with such sites.
    data : array-like, optional
        Points [n] or [n, D] to draw; by default the fit's own, the only ones whose
        responsibilities are known and shown. Where some of their values are missing, a panel
        leaves out the points that it cannot place.
    features : sequence, optional
        One or two features, by number or label: only these, the others integrated out.
    latent : str, optional
        The latent that says which component a point is from; may be left out if there is one.
    draws : int
        How many draws of a posterior are shown.
    locs, weights, covariances, scales : str, optional
        Names of the sites; see `likely.inference.diagnostics.components.SiteNames`. By default
        ``"locs"`` and, as far as the fit has them, ``"weights"`` and ``"covariances"`` or
        ``"scales"``.
    axes : Axes or iterable of Axes, optional
        Where to draw, one for each pair of features.

    Raises
    ------
    FitError
        If there are no such sites, the data have another number of features, there are too many
        features for a figure, or the fit has several kinds of observations and none is given.
    """
    check_fits({"fit": fit})
    if not is_int(draws) or draws < 0:
        raise FitError(f"draws must be a number of draws, got {draws!r}")
    names = SiteNames(locs, weights, covariances, scales)
    components = read_components(fit.params, names)
    points, own = points_of(fit, data, components.locs.shape[1])
    responsibilities = responsibilities_of(fit, latent, components) if own else None
    others = [] if fit.is_point else [read_components(v, names) for v in _some_draws(fit, draws)]
    labels = component_labels(fit, locs, components)
    feature_names = feature_labels(fit, locs, points.shape[1], data)
    chosen = choose_features(feature_names, features)
    columns = min(len(chosen), 3)
    size = (
        (WIDTH, 4.0)
        if len(chosen) == 1
        else (max(WIDTH, 3.4 * columns), 0.5 + 3.1 * -(-len(chosen) // columns))
    )
    figure, found = panels(len(chosen), axes, columns=columns, size=size)
    for ax, pair in zip(found, chosen, strict=True):
        draw_mixture(
            ax,
            points[:, pair],
            components.select(pair),
            labels,
            responsibilities,
            [other.select(pair) for other in others],
        )
        name_axes(ax, [feature_names[i] for i in pair])
    legend(figure, found[0], outside=axes is None)
    return figure


def plot_responsibilities(fit: Fit, latent: str | None = None, *, ax: Axes | None = None) -> Figure:
    """Posterior probabilities of a discrete latent, observation by observation.

    Observations are in the order of their most probable value and how sure that is; the height of
    a colour is its probability.

    Parameters
    ----------
    fit : Fit
        Any fit with a discrete latent.
    latent : str, optional
        The latent; may be left out if there is one.
    ax : Axes, optional
        Where to draw.

    Raises
    ------
    FitError
        If the program has no latent, or several and none is named.
    """
    check_fits({"fit": fit})
    name = latent_of(fit, latent)
    if name is None:
        raise FitError("the program has no discrete latent, so there are no responsibilities")
    table = as_numpy(fit.latent(name)).reshape(-1, fit.latent(name).shape[-1])
    best = table.argmax(1)
    table = table[np.lexsort((-table.max(1), best))]
    figure, (own,) = panels(1, ax, size=(WIDTH, 3.2))
    base = np.zeros(len(table))
    edges = np.arange(len(table) + 1)
    labels = _value_labels(fit, name, table.shape[1])
    for number, column in enumerate(table.T):
        own.stairs(
            base + column,
            edges,
            baseline=base,
            fill=True,
            color=colour(number),
            label=labels[number],
        )
        base = base + column
    own.set_xlim(0, len(table))
    own.set_ylim(0, 1)
    own.set_xlabel("observation, by most probable value and how sure it is")
    own.set_ylabel("probability")
    legend(figure, own, outside=ax is None)
    bare(own)
    return figure


def _value_labels(fit: Fit, latent: str, count: int) -> list[str]:
    """Names of a latent's values: those of its dimension, as in the other figures."""
    array = latent_array(fit, latent)
    dim = str(array.dims[-1])
    kind = latent if dim.startswith(f"{latent}_dim_") else dim
    entries = array.indexes[dim] if dim in array.indexes else range(count)
    return [written(f"{kind} {entry}", 40) for entry in entries]


# -- what the figures of mixtures share ----------------------------------------------------------


def points_of(fit: Fit, data: Any, features: int) -> tuple[np.ndarray, bool]:
    """Points [n, D] to draw, and whether they are those of the fit."""
    mine = _own_points(fit)
    if data is None:
        if len(mine) != 1:
            raise FitError(
                "data: give the points to draw; the fit has "
                + (f"several observed sites ({', '.join(mine)})" if mine else "none of its own")
            )
        given, own = next(iter(mine.values())), True
    else:
        given = numbers(data, "data")
        own = any(
            np.array_equal(given.ravel(), value.ravel(), equal_nan=True) for value in mine.values()
        )
    points = given[:, None] if given.ndim == 1 else given
    if points.ndim != 2 or points.shape[1] != features or not len(points):
        raise FitError(
            f"data must be points [n, {features}], as many features as the means have, got shape "
            f"{given.shape}"
        )
    if not (np.isfinite(points) | (own & np.isnan(points))).all():
        raise FitError("data must be finite")
    return points, own


def _own_points(fit: Fit) -> dict[str, np.ndarray]:
    if fit.program is not None:
        sites = fit.program.sites.observed.items()
        return {n: as_numpy(s.value).astype(float) for n, s in sites if s.value is not None}
    if fit.stored is not None and "observed_data" in fit.stored:
        stored = fit.stored["observed_data"]
        return {str(name): stored[name].to_numpy().astype(float) for name in stored.data_vars}
    return {}


def latent_of(fit: Fit, latent: str | None) -> str | None:
    """Name of the latent that is meant, or ``None`` if there is none."""
    if fit.program is not None:
        known = [*fit.program.sites.latents, *fit.program.sites.inner]
    else:
        groups = fit.stored or {}
        known = [str(n) for n in groups["latent_posterior"]] if "latent_posterior" in groups else []
    if latent is not None and latent not in known:
        raise FitError(
            f"latent: '{latent}' is no discrete latent of the program; it has "
            f"{', '.join(map(repr, known)) or 'none'}"
        )
    if latent is None and len(known) > 1:
        raise FitError(f"latent: name one of {', '.join(map(repr, known))}")
    return latent or (known[0] if known else None)


def responsibilities_of(fit: Fit, latent: str | None, components: Components) -> np.ndarray | None:
    """Probabilities [n, K] of the points' components, if the program has such a latent."""
    name = latent_of(fit, latent)
    if name is None:
        return None
    table = as_numpy(fit.latent(name))
    if table.shape[1:] != components.weights.shape:
        return None
    return assigned(table) if is_hard(fit) else table


def is_hard(fit: Fit) -> bool:
    """Whether the fit gives every point to one component (classification EM)."""
    return fit.engine == "em" and bool(fit.options.get("hard"))


def assigned(table: np.ndarray) -> np.ndarray:
    """Zeros and ones: all probability of each row [n, K] on its most probable component."""
    found: np.ndarray = np.eye(table.shape[1])[table.argmax(1)]
    return found


def _some_draws(fit: Fit, most: int) -> list[dict[str, Any]]:
    flat = {name: value.flatten(0, 1) for name, value in fit.draws.items()}
    total = len(next(iter(flat.values())))
    picked = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int))
    return [{name: value[int(i)] for name, value in flat.items()} for i in picked]


def component_labels(fit: Fit, locs: str, components: Components) -> list[str]:
    """Names of the components, with their weights."""
    array = first_draw(posterior_by_site(fit, locs)[locs])
    dim = str(array.dims[0])
    kind = "component" if dim.startswith(f"{locs}_dim_") else dim
    entries = array.indexes[dim] if dim in array.indexes else range(len(components.locs))
    return [
        f"{written(f'{kind} {entry}', 40)} ({weight:.2f})"
        for entry, weight in zip(entries, components.weights, strict=True)
    ]


def feature_labels(fit: Fit, locs: str, count: int, data: Any) -> list[str]:
    """Names of the features: the columns of a data frame, the fit's labels, or numbers."""
    columns = getattr(data, "columns", None)
    if columns is not None and len(columns) == count:
        return [str(column) for column in columns]
    array = first_draw(posterior_by_site(fit, locs)[locs])
    if array.ndim < 2:
        return ["x"]
    dim = str(array.dims[1])
    entries = list(array.indexes[dim]) if dim in array.indexes else list(range(count))
    if all(isinstance(entry, str) for entry in entries):
        return [str(entry) for entry in entries]
    return [f"feature {entry}" for entry in entries]


def choose_features(names: Sequence[str], features: Sequence[Any] | None) -> list[list[int]]:
    """The panels: each of one or two features, by number."""
    if features is None:
        if len(names) > _MOST_FEATURES:
            raise FitError(
                f"pairs of {len(names)} features are too many for one figure (at most "
                f"{_MOST_FEATURES} features); choose one or two with features="
            )
        return [[0]] if len(names) == 1 else [list(p) for p in combinations(range(len(names)), 2)]
    several = isinstance(features, Iterable) and not isinstance(features, str)
    found = []
    given: list[Any] = list(features) if several else [features]
    for feature in given:
        if isinstance(feature, str) and feature in names:
            found.append(names.index(feature))
        elif is_int(feature) and 0 <= feature < len(names):
            found.append(int(feature))
        else:
            raise FitError(f"features: there is no {feature!r}; there are {', '.join(names)}")
    if len(found) not in (1, 2) or len(set(found)) < len(found):
        raise FitError(f"features must be one or two different features, got {features!r}")
    return [found]


def name_axes(ax: Axes, names: Sequence[str]) -> None:
    """Write the features on a panel's axes."""
    ax.set_xlabel(written(names[0], 40))
    ax.set_ylabel(written(names[1], 40) if len(names) > 1 else "density")


def legend(figure: Figure, ax: Axes, *, outside: bool) -> None:
    """One legend for all panels, above them, or in the axes that were given."""
    handles, names = ax.get_legend_handles_labels()
    if outside:
        figure.legend(
            handles, names, loc="outside upper center", ncols=min(len(names), 5), frameon=False
        )
    else:
        ax.legend(frameon=False)
