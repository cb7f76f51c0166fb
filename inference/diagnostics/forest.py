"""`plot_compare`: posteriors as a forest, point estimates on top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from likely.inference.diagnostics.compare import tables
from likely.inference.diagnostics.groups import first_draw, posterior_by_site
from likely.inference.diagnostics.style import MARKERS, WIDTH, bare, colour, panels, written
from likely.inference.errors import FitError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.27  # inches
_PANEL = 0.75  # title, axis and padding of a panel, inches
_LEGEND = 0.5
# More rows than these make a page that nobody reads.
_MOST_ROWS = 150


def plot_compare(
    fits: Mapping[str, Fit],
    *,
    sites: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    interval: float = 0.94,
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """Draw fits of the same sites over each other, a panel for each site.

    Posteriors are lines (their equal-tailed interval) with a dot at the mean; point estimates are
    open markers on the same row.

    Parameters
    ----------
    fits : mapping of str to Fit
        Name in the legend to fit.
    sites : str or sequence of str, optional
        Sites to draw; by default those that all fits have.
    select : mapping, optional
        Dimension to a label or a list of labels: only these elements.
    interval : float
        Probability of the intervals.
    axes : Axes or iterable of Axes, optional
        Where to draw, one for each site.

    Raises
    ------
    FitError
        As `compare` does, and if there are more elements than a figure can show.
    """
    found = tables(
        fits, reference=None, sites=sites, select=select, interval=interval, standard_errors=False
    )
    rows = {site: len(table) for site, table in found.items()}
    if sum(rows.values()) > _MOST_ROWS:
        listed = ", ".join(f"{site} ({n})" for site, n in rows.items())
        raise FitError(
            f"{sum(rows.values())} elements are too many for one figure (at most {_MOST_ROWS}): "
            f"{listed}. Choose some with sites= or select="
        )
    posteriors = [name for name, fit in fits.items() if not fit.is_point]
    row = _ROW * max(1.0, 0.6 * len(posteriors))
    heights = [row * n + _PANEL for n in rows.values()]
    figure, own = panels(len(found), axes, size=(WIDTH, sum(heights) + _LEGEND), heights=heights)
    labelled = posterior_by_site(next(iter(fits.values())), list(found))
    for ax, (site, table) in zip(own, found.items(), strict=True):
        _panel(ax, table, fits, posteriors)
        dims = [str(dim) for dim in first_draw(labelled[site]).dims]
        # A name that was made up says nothing that the labels do not.
        named = [dim for dim in dims if not dim.startswith(f"{site}_dim_")]
        ax.set_title(f"{site} [{', '.join(dims)}]" if named else site, loc="left")
        names = [_inner(str(label), site) for label in table.index]
        ax.set_yticks(
            np.arange(len(table)), [written(name, 48) for name in names] if dims else [""]
        )
        ax.set_ylim(len(table) - 0.4, -0.6)
    if posteriors:
        own[-1].set_xlabel(f"value; lines are {interval:.0%} equal-tailed intervals")
    else:
        own[-1].set_xlabel("value")
    handles, names = own[0].get_legend_handles_labels()
    if axes is None:
        figure.legend(
            handles, names, loc="outside upper center", ncols=min(len(names), 6), frameon=False
        )
    else:
        own[0].legend(handles, names)
    return figure


def _panel(
    ax: Axes, table: pd.DataFrame, fits: Mapping[str, Fit], posteriors: Sequence[str]
) -> None:
    """Draw one site; rows from the top."""
    rows = np.arange(len(table))
    shifts = (np.arange(len(posteriors)) - (len(posteriors) - 1) / 2) * min(
        0.25, 0.7 / max(len(posteriors), 1)
    )
    points = 0
    for number, name in enumerate(fits):
        part = table[name]
        if name in posteriors:
            y = rows + shifts[list(posteriors).index(name)]
            ax.hlines(y, part["lower"], part["upper"], color=colour(number), lw=2.2, alpha=0.75)
            ax.plot(part["estimate"], y, "o", color=colour(number), ms=4.5)
            ax.plot([], [], "o-", color=colour(number), ms=4.5, lw=2.2, label=written(name, 40))
        else:
            ax.plot(
                part["estimate"],
                rows,
                ls="none",
                marker=MARKERS[points % len(MARKERS)],
                mfc="none",
                mec=colour(number),
                mew=1.5,
                ms=8.5 - points % 3,
                label=written(name, 40),
                zorder=4 + points,
            )
            points += 1
    ax.grid(axis="y", lw=0.4, alpha=0.5)
    ax.set_axisbelow(True)
    bare(ax)


def _inner(label: str, site: str) -> str:
    """The labels inside the brackets of ``site[label, ...]``."""
    return label[label.find("[") + 1 : -1] if label.endswith("]") else site
