"""`plot_intervals`: the columns of a table as forests, with intervals where the table has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from likely.inference.diagnostics.style import bare, colour, panels, written
from likely.inference.errors import FitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.2  # inches
_PANEL = 0.9  # title, axis and padding, inches
_COLUMN = 2.6  # inches of width of each panel
_LETTER = 0.07  # inches of width of each letter of a row's name
# More rows than these make a page that nobody reads.
_MOST_ROWS = 150


def plot_intervals(
    table: pd.DataFrame,
    columns: str | Sequence[str] | None = None,
    *,
    sort: bool = True,
    most: int = 50,
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """Draw numbers by row, such as the quality of annotators, a panel for each column.

    A column with companions ``<column>_lower`` and ``<column>_upper`` gets lines from one to the
    other.

    Parameters
    ----------
    table : DataFrame
        One row for each thing that is compared; its index gives the names.
    columns : str or sequence of str, optional
        What to draw; by default every column that has companions, else the first.
    sort : bool
        Put the smallest value of the first column on top; otherwise the table's order stays.
    most : int
        Draw at most so many rows, from the top.
    axes : Axes or iterable of Axes, optional
        Where to draw, one for each column.

    Raises
    ------
    FitError
        If the table has no rows or no such column, a column is not of numbers, or ``most`` is out
        of range.
    """
    if not isinstance(table, pd.DataFrame) or table.empty:
        raise FitError("table must be a data frame with at least one row and one column")
    integer = isinstance(most, int | np.integer) and not isinstance(most, bool)
    if not integer or not 1 <= most <= _MOST_ROWS:
        raise FitError(f"most must be an integer from 1 to {_MOST_ROWS}, got {most!r}")
    chosen = _chosen(table, columns)
    rows = table.sort_values(chosen[0], kind="stable") if sort else table
    shown = rows.head(most)
    names = [written(name) for name in shown.index]
    size = (
        0.6 + _LETTER * max(map(len, names), default=0) + _COLUMN * len(chosen),
        _ROW * len(shown) + _PANEL,
    )
    figure, own = panels(len(chosen), axes, columns=len(chosen), size=size)
    height = np.arange(len(shown))
    for number, (ax, column) in enumerate(zip(own, chosen, strict=True)):
        values = shown[column].to_numpy(dtype=float)
        if {f"{column}_lower", f"{column}_upper"} <= set(shown.columns):
            lower = shown[f"{column}_lower"].to_numpy(dtype=float)
            upper = shown[f"{column}_upper"].to_numpy(dtype=float)
            ax.hlines(height, lower, upper, color=colour(number), lw=2.0, alpha=0.6)
        ax.plot(values, height, "o", color=colour(number), ms=4)
        named = number == 0 or axes is not None
        ax.set_yticks(height, names if named else [])
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.set_title(written(column.replace("_", " ")), loc="left")
        ax.grid(axis="y", lw=0.4, alpha=0.5)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", labelsize=8)
        bare(ax)
    own[0].set_ylabel(written(table.index.name or ""))
    if len(shown) < len(table):
        what = "lowest" if sort else "first"
        own[0].set_xlabel(f"the {what} {len(shown)} of {len(table)}")
    return figure


def _chosen(table: pd.DataFrame, columns: Any) -> list[str]:
    names = [str(name) for name in table.columns]
    if columns is None:
        found = [name for name in names if {f"{name}_lower", f"{name}_upper"} <= set(names)]
        found = found or names[:1]
    else:
        found = [columns] if isinstance(columns, str) else list(columns)
    missing = [name for name in found if name not in names]
    if missing or not found:
        raise FitError(f"columns names {missing or 'nothing'}; the table has {names}")
    for name in found:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise FitError(f"column '{name}' holds {table[name].dtype}, and a forest needs numbers")
    return found
