"""Figures of imitation: how errors compound, and where a posterior over policies is unsure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from likely.inference.diagnostics.style import MARKERS, bare, colour, panels, written
from likely.inference.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_compounding(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame], axes: Axes | None = None
) -> Figure:
    """Draw gaps against the horizon on two logarithmic axes, where T and T² are straight lines.

    Parameters
    ----------
    tables
        What `compounding` made, or several with names.
    axes
        Where to draw.

    Raises
    ------
    OptionError
        If there is no table of `compounding`, or no gap above zero in it.
    """
    named = {"": tables} if isinstance(tables, pd.DataFrame) else tables
    needed = {"horizon", "gap", "sharp"}
    if not isinstance(named, Mapping) or not all(
        isinstance(table, pd.DataFrame) and needed <= set(table.columns) for table in named.values()
    ):
        raise OptionError("tables: expected what compounding() made, or names with such tables")
    if not named or not any(bool((table["gap"] > 0).any()) for table in named.values()):
        raise OptionError("tables: expected at least one gap above zero")
    figure, (ax,) = panels(1, axes, size=(5.2, 3.9))
    for number, (name, table) in enumerate(named.items()):
        shown = table[table["gap"] > 0]
        label = written(name, 40) if name else "gap"
        ax.plot(
            shown["horizon"],
            shown["gap"],
            marker=MARKERS[number % len(MARKERS)],
            mfc="none",
            color=colour(number),
            label=label,
        )
        limit = table[table["sharp"] > 0]
        ax.plot(limit["horizon"], limit["sharp"], ":", color=colour(number), lw=1.0)
    ax.plot([], [], ":", color="0.4", lw=1.0, label="bound εT²")
    ax.set(xscale="log", yscale="log", xlabel="horizon T, steps", ylabel="J(expert) − J(policy)")
    ax.grid(lw=0.4, alpha=0.5)
    ax.legend(frameon=False)
    bare(ax)
    return figure


def plot_uncertainty(
    values: Tensor,
    cells: Any,
    *,
    label: str = "policy uncertainty, nats",
    visits: Any = None,
    axes: Axes | None = None,
) -> Figure:
    """Draw a number for each state of a grid, as a map.

    Parameters
    ----------
    values
        [S]: `policy_uncertainty(...).policy`, say.
    cells
        [S, 2]: row and column of each state; states outside the grid, such as a sink, have
        negative ones.
    label
        Of the colours.
    visits
        [S]: counts that are written into the cells.
    axes
        Where to draw.

    Raises
    ------
    OptionError
        If shapes disagree.
    """
    numbers = torch.as_tensor(values).detach().double()
    places = torch.as_tensor(cells).long()
    if numbers.dim() != 1 or places.shape != (len(numbers), 2):
        raise OptionError(
            f"values, cells: expected [S] and [S, 2], got {tuple(numbers.shape)} and "
            f"{tuple(places.shape)}"
        )
    kept = (places >= 0).all(-1)
    if not bool(kept.any()) or torch.as_tensor(cells).is_floating_point():
        raise OptionError("cells: expected whole numbers, and at least one state on the grid")
    if visits is not None and len(visits) != len(numbers):
        raise OptionError(f"visits: expected {len(numbers)}, one for each state, got {len(visits)}")
    rows, columns = places[kept].amax(0) + 1
    grid = torch.full((int(rows), int(columns)), torch.nan, dtype=torch.float64)
    grid[places[kept, 0], places[kept, 1]] = numbers[kept]
    figure, (ax,) = panels(1, axes, size=(1.2 + 0.55 * int(columns), 0.9 + 0.5 * int(rows)))
    drawn = ax.imshow(grid.numpy(), cmap="viridis", vmin=0.0)
    ax.set_facecolor("0.8")
    ax.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=ax, label=label, shrink=0.85)
    if visits is not None:
        middle = float(numbers[kept].max()) / 2
        for state in kept.nonzero().flatten().tolist():
            row, column = places[state].tolist()
            ink = "white" if float(numbers[state]) <= middle else "black"
            ax.text(
                column, row, f"{int(visits[state])}", ha="center", va="center", color=ink, size=8
            )
    return figure
