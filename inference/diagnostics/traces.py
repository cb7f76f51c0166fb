"""How fits went: traces of draws and histories of objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from matplotlib.ticker import MaxNLocator

from likely.inference.diagnostics import backend
from likely.inference.diagnostics.compare import check_fits
from likely.inference.diagnostics.groups import posterior_by_site
from likely.inference.diagnostics.style import WIDTH, bare, colour, panels, written
from likely.inference.errors import FitError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A history of so many steps is drawn step by step, and whole.
FEW = 60


def plot_trace(fit: Fit, *, sites: str | Sequence[str] | None = None, **options: Any) -> Figure:
    """Densities of the draws beside their traces, drawn by ArviZ.

    Parameters
    ----------
    fit : Fit
        A posterior fit.
    sites : str or sequence of str, optional
        Sites to draw; by default all.
    **options
        Passed to ArviZ: to ``plot_trace`` before 1.0, to ``plot_trace_dist`` since.

    Raises
    ------
    FitError
        For a point fit, which has no draws.
    """
    if fit.is_point:
        raise FitError(
            f"plot_trace() needs draws and {fit.engine!r} gives a point; plot_history() shows how "
            "the fit went"
        )
    group = xr.Dataset({array.name: array for array in posterior_by_site(fit, sites).values()})
    return backend.plot_trace(backend.to_arviz({"posterior": group}), **options)


def plot_history(
    fits: Fit | Mapping[str, Fit], *, axes: Axes | Iterable[Axes] | None = None
) -> Figure:
    """Objective against iteration, a panel for each kind of objective.

    Parameters
    ----------
    fits : Fit or mapping of str to Fit
        A fit, or name in the legend to fit.
    axes : Axes or iterable of Axes, optional
        Where to draw, one for each kind of objective.

    Raises
    ------
    FitError
        If ``fits`` is neither, or no fit has a history.
    """
    if isinstance(fits, Fit):
        fits = {fits.engine: fits}
    check_fits(fits)
    kinds: dict[str, list[str]] = {}
    for name, fit in fits.items():
        if len(fit.history):
            kinds.setdefault(objective_name(fit), []).append(name)
    if not kinds:
        raise FitError("no fit has a history to draw")
    figure, own = panels(len(kinds), axes, size=(WIDTH, 0.6 + 2.8 * len(kinds)))
    numbers = {name: number for number, name in enumerate(fits)}
    for ax, (kind, names) in zip(own, kinds.items(), strict=True):
        shown = []
        for name in names:
            objective = fits[name].history["objective"]
            values = objective.to_numpy(dtype=float)
            few = len(values) <= FEW
            ax.plot(
                objective.index,
                values,
                label=written(name, 40),
                color=colour(numbers[name]),
                lw=1.6 if few else 1.0,
                marker="o" if few else None,
                ms=3,
            )
            shown.append(values[np.isfinite(values)])
        _limit(ax, shown)
        ax.set_xlabel("draw" if fits[names[0]].engine == "nuts" else "iteration")
        ax.set_ylabel("nats")
        ax.set_title(kind, loc="left")
        if len(fits) > 1:
            ax.legend(frameon=False, loc="lower right")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        bare(ax)
    return figure


def objective_name(fit: Fit) -> str:
    """What the history of a fit holds."""
    if fit.engine == "em" and fit.options.get("hard"):
        return "complete-data log-density"
    if fit.engine == "em" and fit.options.get("objective") == "posterior":
        return "log joint density"
    return {
        "mle": "log-likelihood",
        "em": "log-likelihood",
        "map": "log joint density",
        "svi": "ELBO",
        "laplace": "log joint density, unconstrained",
        "nuts": "log joint density, mean of chains",
    }.get(fit.engine, "objective")


def _limit(ax: Axes, histories: Sequence[np.ndarray]) -> None:
    """Cut the first steps off the value axis where they would flatten all that follow."""
    values = np.concatenate(histories)
    if not len(values):
        return
    # A short climb is the picture itself; only a long one has steps to spare.
    floor = min(
        float(np.quantile(history, 0.05 if len(history) > FEW else 0.0))
        for history in histories
        if len(history)
    )
    low, high = float(values.min()), float(values.max())
    if high - low > 4 * (high - floor) > 0:
        margin = 0.1 * (high - floor)
        ax.set_ylim(floor - 5 * margin, high + margin)
