"""`plot_matrix`: a table of probabilities as a heat map, such as who beats whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from likely.inference.diagnostics.style import panels, written
from likely.inference.errors import FitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 150
# So many rows leave room for the numbers.
_NUMBERED = 16
_CELL, _SMALL_CELL, _LETTER = 0.5, 0.16, 0.075  # inches


def plot_matrix(
    table: pd.DataFrame,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    title: str = "",
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """Draw a table as a heat map, its rows and columns named; what is missing stays blank.

    Parameters
    ----------
    table : DataFrame
        Numbers, such as the probability that the item of a row beats that of a column.
    limits : (float, float)
        The values of the two ends of the colours; their middle is white.
    title : str
        What stands above.
    axes : Axes, optional
        Where to draw.

    Raises
    ------
    FitError
        If the table is empty, too large or not of numbers, or the limits are not in order.

    Examples
    --------
    >>> table = pd.DataFrame([[float("nan"), 0.7], [0.3, float("nan")]], list("ab"), list("ab"))
    >>> figure = plot_matrix(table)
    """
    if not isinstance(table, pd.DataFrame) or table.empty:
        raise FitError("table must be a data frame with at least one row and one column")
    if max(table.shape) > _MOST:
        raise FitError(f"table must have at most {_MOST} rows and columns, got {table.shape}")
    if not all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes):
        raise FitError("table must hold numbers")
    low, high = limits
    if not low < high:
        raise FitError(f"limits must be a lower and a higher number, got {limits!r}")
    numbered = max(table.shape) <= _NUMBERED
    cell = _CELL if numbered else _SMALL_CELL
    rows, columns = ([written(name) for name in index] for index in (table.index, table.columns))
    size = (
        1.3 + cell * len(columns) + _LETTER * max(map(len, rows)),
        0.8 + cell * len(rows) + _LETTER * max(map(len, columns)),
    )
    figure, (ax,) = panels(1, axes, size=size)
    values = table.to_numpy(dtype=float)
    image = ax.imshow(values, cmap="RdBu", vmin=low, vmax=high, aspect="auto")
    if numbered:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = abs(value - 0.5 * (low + high)) > 0.35 * (high - low)
                ax.text(
                    column, row, f"{value:.2f}", ha="center", va="center", size=7,
                    color="white" if dark else "black",
                )  # fmt: skip
    letters = 8 if numbered else 6
    ax.set_yticks(np.arange(len(rows)), rows, fontsize=letters)
    ax.set_xticks(np.arange(len(columns)), columns, rotation=90, fontsize=letters)
    ax.set_ylabel(written(table.index.name or ""))
    ax.set_xlabel(written(table.columns.name or ""))
    if title:
        ax.set_title(title, loc="left", fontsize=10)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, shrink=0.7)
    return figure
