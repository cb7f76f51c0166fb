"""A mixture as it evolves: panels by iteration, and an animation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from likely.inference.diagnostics.components import (
    Components,
    SiteNames,
    draw_mixture,
    read_components,
    top_of,
)
from likely.inference.diagnostics.groups import as_numpy
from likely.inference.diagnostics.mixtures import (
    assigned,
    choose_features,
    component_labels,
    feature_labels,
    is_hard,
    latent_of,
    legend,
    name_axes,
    points_of,
)
from likely.inference.diagnostics.paths import ParameterPath, check_path
from likely.inference.diagnostics.style import panels
from likely.inference.engines.checks import is_int
from likely.inference.errors import FitError
from likely.inference.fit import Fit
from likely.inference.quantities import deterministics, latent_posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEPS = 6  # panels that `plot_em_steps` has by default
_FASTEST = 50  # frames in a second: a GIF counts in hundredths, and viewers slow faster ones down


class _Film:
    """What every frame of an evolving mixture needs, worked out once."""

    def __init__(
        self,
        path: ParameterPath,
        fit: Fit,
        data: Any,
        features: Sequence[Any] | None,
        latent: str | None,
        names: SiteNames,
    ) -> None:
        check_path(path, fit)
        self.path, self.fit, self.sites = path, fit, names
        self.program = fit.bound("drawing a path")
        components = read_components(fit.params, names)
        self.points, self.own = points_of(fit, data, components.locs.shape[1])
        self.latent = latent_of(fit, latent)
        # Weights change from frame to frame; the legend says who is who.
        self.labels = [
            label.split(" (")[0] for label in component_labels(fit, names.locs, components)
        ]
        named = feature_labels(fit, names.locs, self.points.shape[1], data)
        chosen = choose_features(named, features)
        if len(chosen) > 1:
            raise FitError(f"features: choose one or two of {', '.join(named)}")
        self.pair = chosen[0]
        self.named = [named[i] for i in self.pair]

    def components(self, iteration: int) -> Components:
        """The components in one iteration, of the features that are drawn."""
        values = self.path.at(iteration)
        with self.program.session(self.fit.seed), torch.no_grad():
            everything = values | deterministics(self.program, values)
        return read_components(everything, self.sites).select(self.pair)

    def top(self, iterations: Sequence[int]) -> float | None:
        """Upper end of the density axis, the same in all these iterations."""
        if len(self.pair) > 1:
            return None
        return top_of(self.points[:, self.pair[0]], [self.components(i) for i in iterations])

    def draw(self, ax: Axes, iteration: int, top: float | None) -> None:
        """Draw one iteration."""
        values, components = self.path.at(iteration), self.components(iteration)
        table = None
        if self.own and self.latent is not None and len(self.pair) == 2:
            with self.program.session(self.fit.seed), torch.no_grad():
                table = as_numpy(latent_posterior(self.program, values, self.latent))
        if table is not None and table.shape[1:] != components.weights.shape:
            table = None
        if table is not None and is_hard(self.fit):
            table = assigned(table)
        draw_mixture(ax, self.points[:, self.pair], components, self.labels, table)
        if top is not None:
            ax.set_ylim(0, top)
        objective = self.path.objective[list(self.path.iterations).index(iteration)]
        shown = f"{objective:.2f}".replace("-", "\N{MINUS SIGN}")
        ax.set_title(f"iteration {iteration}: {shown} nats", loc="left", size=10)
        name_axes(ax, self.named)


def plot_em_steps(
    path: ParameterPath,
    fit: Fit,
    data: Any = None,
    *,
    iterations: Sequence[int] | None = None,
    features: Sequence[Any] | None = None,
    latent: str | None = None,
    locs: str = "locs",
    weights: str | None = None,
    covariances: str | None = None,
    scales: str | None = None,
    columns: int = 3,
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """A normal mixture as it evolves: a panel for each of some iterations.

    Parameters
    ----------
    path : ParameterPath
        The recorder that was the engine's callback.
    fit : Fit
        What the engine returned; its program gives deterministic sites and responsibilities.
    data : array-like, optional
        Points [n] or [n, D] to draw; by default the fit's own.
    iterations : sequence of int, optional
        Which ones; by default six, the first ones close together.
    features : sequence, optional
        One or two features, by number or label; needed if there are more than two.
    latent : str, optional
        The latent that says which component a point is from; may be left out if there is one.
    locs, weights, covariances, scales : str, optional
        Names of the sites, as in `plot_mixture`.
    columns : int
        Panels in a row.
    axes : Axes or iterable of Axes, optional
        Where to draw, one for each iteration.

    Raises
    ------
    FitError
        If the path is empty or not of this fit, has no such iteration, or as in `plot_mixture`.
    """
    names = SiteNames(locs, weights, covariances, scales)
    film = _Film(path, fit, data, features, latent, names)
    chosen = _chosen(path, iterations, _STEPS)
    _check_count("columns", columns)
    width = min(columns, len(chosen))
    rows = -(-len(chosen) // width)
    figure, found = panels(len(chosen), axes, columns=width, size=(3.0 * width, 0.4 + 2.6 * rows))
    top = film.top(chosen)
    for number, (ax, iteration) in enumerate(zip(found, chosen, strict=True)):
        film.draw(ax, iteration, top)
        if axes is None:
            # The axes mean the same in every panel: name them at the edges only.
            if number % width:
                ax.set_ylabel("")
            if number + width < len(chosen):
                ax.set_xlabel("")
    legend(figure, found[0], outside=axes is None)
    return figure


def animate_em(
    path: ParameterPath,
    fit: Fit,
    file: str | PathLike[str],
    data: Any = None,
    *,
    iterations: Sequence[int] | None = None,
    features: Sequence[Any] | None = None,
    latent: str | None = None,
    locs: str = "locs",
    weights: str | None = None,
    covariances: str | None = None,
    scales: str | None = None,
    frames_per_second: int = 3,
    dpi: int = 100,
) -> Path:
    """Write a normal mixture as it evolves to an animated GIF.

    Parameters
    ----------
    path, fit, data, features, latent, locs, weights, covariances, scales
        As in `plot_em_steps`.
    file : str or path-like
        Where to; must end in ``.gif``.
    iterations : sequence of int, optional
        Which ones; by default all.
    frames_per_second : int
        Iterations shown in a second, at most 50; the last one stays a second longer.
    dpi : int
        Dots per inch of a frame of 6 × 4.5 inches.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FitError
        As `plot_em_steps` does, and if the file cannot be written.
    """
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    if not isinstance(file, str | PathLike):
        raise FitError(f"file must be a path that ends in .gif, got {file!r}")
    target = Path(file)
    if target.suffix.lower() != ".gif":
        raise FitError(f"file must end in .gif, got '{target}'")
    if not target.parent.is_dir():
        raise FitError(f"cannot write '{target}': there is no folder '{target.parent}'")
    if target.is_dir():
        raise FitError(f"cannot write '{target}': there is a folder of that name")
    _check_count("frames_per_second", frames_per_second, _FASTEST)
    _check_count("dpi", dpi)
    names = SiteNames(locs, weights, covariances, scales)
    film = _Film(path, fit, data, features, latent, names)
    chosen = _chosen(path, iterations, len(path))
    top = film.top(chosen)
    held = [chosen[-1]] * frames_per_second
    figure, ax = plt.subplots(figsize=(6.0, 4.5), layout="constrained")

    def draw(iteration: int) -> list[Any]:
        ax.clear()
        film.draw(ax, iteration, top)
        ax.legend(loc="upper right", fontsize=8, framealpha=0.9)
        return []

    try:
        film_strip = FuncAnimation(figure, draw, frames=chosen + held, init_func=list, blit=False)
        film_strip.save(target, writer=PillowWriter(fps=frames_per_second), dpi=dpi)
    finally:
        plt.close(figure)
    return target


def _check_count(name: str, value: Any, most: int | None = None) -> None:
    if not is_int(value) or value < 1 or (most is not None and value > most):
        limit = "" if most is None else f" of at most {most}"
        raise FitError(f"{name} must be a positive integer{limit}, got {value!r}")


def _chosen(path: ParameterPath, iterations: Sequence[int] | None, most: int) -> list[int]:
    known = path.iterations
    if iterations is None:
        if len(known) <= most:
            return [int(number) for number in known]
        # Early iterations change most.
        spread = np.geomspace(1, len(known) - 1, most - 1).round().astype(int)
        return [int(known[i]) for i in np.unique(np.r_[0, spread])]
    if not isinstance(iterations, Iterable) or not all(map(is_int, iterations)):
        raise FitError(f"iterations must be a sequence of integers, got {iterations!r}")
    chosen = [int(number) for number in iterations]
    if not chosen:
        raise FitError("iterations is empty; name at least one")
    for number in chosen:
        path.at(number)
    return chosen
