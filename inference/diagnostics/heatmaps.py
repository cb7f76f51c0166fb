"""`plot_table`: probability tables with their uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from likely.inference.diagnostics.compare import tables
from likely.inference.diagnostics.groups import first_draw, posterior_by_site
from likely.inference.diagnostics.style import panels, written
from likely.inference.errors import FitError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 30
_MOST_COLUMNS = 4
_CELL = (0.72, 0.55)  # inches
# Longer column labels than these would run into each other.
_LONGEST_LEVEL = 9
_TITLE = 0.085  # inches of width of each letter of a title
_SLANT = 0.06  # inches of height for each letter of a slanted label
_UPRIGHT: dict[str, Any] = {"rotation": 90}
_SLANTED: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}


def plot_table(
    fit: Fit,
    site: str,
    *,
    select: Mapping[str, Any] | None = None,
    standard_errors: bool = False,
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """Heat map of a probability table, each cell with its mean ± standard deviation.

    Parameters
    ----------
    fit : Fit
        Any fit.
    site : str
        A site of at least one dimension. The last two are rows and columns; a site of more
        dimensions (confusion matrices [annotator, class, label]) has a panel for each table.
    select : mapping, optional
        Dimension to a label or a list of labels: only these.
    standard_errors : bool
        Give the cells of a point fit their standard errors (observed Fisher information).
    axes : Axes or iterable of Axes, optional
        Where to draw, one for each table.

    Raises
    ------
    FitError
        If the fit has no such site, it has no dimension, or there are too many tables.
    """
    labelled = first_draw(posterior_by_site(fit, site)[site])
    if not labelled.dims:
        raise FitError(f"site: '{site}' is a single number, and a table has rows or columns")
    found = tables(
        {"fit": fit},
        reference=None,
        sites=site,
        select=select,
        interval=0.94,
        standard_errors=standard_errors,
    )[site]["fit"]
    kept = labelled
    for dim, labels in (select or {}).items():
        kept = kept.sel({dim: [labels] if np.ndim(labels) == 0 else list(labels)})
    mean = kept.copy(data=found["estimate"].to_numpy().reshape(kept.shape))
    sd = kept.copy(data=found["sd"].to_numpy().reshape(kept.shape))
    if mean.ndim == 1:
        mean, sd = mean.expand_dims(""), sd.expand_dims("")
    lead = mean.dims[:-2]
    count = int(np.prod(mean.shape[:-2], dtype=int))
    if count > _MOST_PANELS:
        raise FitError(
            f"{count} tables are too many for one figure (at most {_MOST_PANELS}); choose some "
            f"with select={{{str(lead[0])!r}: [...]}}"
        )
    rows, columns = mean.shape[-2:]
    width = -(-count // -(-count // _MOST_COLUMNS))  # rows of panels as even as can be
    names = [written(label) for label in mean.indexes[mean.dims[-1]]]
    longest = max(map(len, names))
    # Beside other panels slanted labels would take the panels' place.
    turned = {} if longest <= _LONGEST_LEVEL else _SLANTED if width == 1 else _UPRIGHT
    below = (_SLANT if width == 1 else _TITLE) * longest if turned else 0.0
    lines = -(-count // width)
    index = mean.indexes.get(mean.dims[-2], [""])
    beside = _TITLE * max(0, max(len(written(label)) for label in index) - _LONGEST_LEVEL)
    size = (
        max(3.5, width * (columns * _CELL[0] + 0.4) + 1.2) + beside,
        lines * (rows * _CELL[1] + 0.6) + 0.6 + below * (2 if lines * width > count else 1),
    )
    figure, own = panels(count, axes, columns=width, size=size)
    top = 1.0 if float(mean.min()) >= 0 and float(mean.max()) <= 1 else float(mean.max())
    title = f"{site}: mean ± sd" if bool(np.isfinite(sd.to_numpy()).any()) else site
    # A title as wide as its panel, and no less than two columns of it.
    most = max(8, int((max(columns, 2) * _CELL[0]) / _TITLE) - 10)
    for number, (ax, index) in enumerate(zip(own, np.ndindex(*mean.shape[:-2]), strict=True)):
        _heat(ax, mean[index], sd[index], (min(0.0, float(mean.min())), top), turned)
        if lead:
            named = zip(lead, index, strict=True)
            each = [f"{dim} {written(mean.indexes[dim][i], most)}" for dim, i in named]
            ax.set_title(", ".join(each), size=10)
        else:
            ax.set_title(title, size=10)
        if axes is None:
            # Rows and columns mean the same in every panel: name them at the edges only.
            if number % width:
                ax.set_ylabel("")
                ax.set_yticklabels([])
            if number + width < count:
                ax.set_xlabel("")
                ax.set_xticklabels([])
    if lead and axes is None:
        figure.suptitle(title)
    return figure


def _heat(
    ax: Axes,
    mean: xr.DataArray,
    sd: xr.DataArray,
    limits: tuple[float, float],
    turned: Mapping[str, Any],
) -> None:
    values, spread = mean.to_numpy(), sd.to_numpy()
    ax.imshow(values, cmap="Blues", vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.2f}"
        if np.isfinite(spread[row, column]):
            text += f"\n± {spread[row, column]:.2f}"
        dark = value > 0.55 * limits[1] + 0.45 * limits[0]
        ax.text(
            column, row, text, ha="center", va="center", size=8, color="white" if dark else "black"
        )
    for dim, axis in zip(mean.dims, (ax.yaxis, ax.xaxis), strict=True):
        axis.set_label_text(str(dim))
        names = [written(label) for label in mean.indexes[dim]] if dim in mean.indexes else [""]
        axis.set_ticks(np.arange(mean.sizes[dim]), names, **(turned if axis is ax.xaxis else {}))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
