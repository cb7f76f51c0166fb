"""What the figures share: colours, markers, sizes, and finding or making axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from likely.inference.errors import FitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, which the colour-blind can tell apart; black is for data.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# Open shapes of different kinds stay apart when estimates coincide.
MARKERS = ("o", "x", "s", "+", "D", "^", "v")
WIDTH = 7.0
# Letters of a user's name that a figure shows.
LONGEST = 24


def written(name: Any, most: int = LONGEST) -> str:
    """A user's name as text for a figure: one line, no formula, its middle left out if long.

    Parameters
    ----------
    name : object
        An id of the user's.
    most : int
        Letters.
    """
    text = " ".join(str(name).split())
    if len(text) > most:
        kept = most - 1
        text = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return text.replace("$", r"\$")


def colour(number: int) -> str:
    """Colour of the series of that number."""
    return COLOURS[number % len(COLOURS)]


def panels(
    count: int,
    axes: Axes | Iterable[Axes] | None,
    *,
    columns: int = 1,
    size: tuple[float, float],
    heights: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """The axes that were given, or those of a new figure.

    Parameters
    ----------
    count : int
        How many axes are needed.
    axes : Axes or iterable of Axes, optional
        Axes to draw in.
    columns : int
        Columns of a new figure; superfluous axes are taken away.
    size : (float, float)
        Width and height of a new figure in inches.
    heights : sequence of float, optional
        Relative heights of the rows.

    Raises
    ------
    FitError
        If what is given are not axes, or not ``count`` of them.
    """
    if axes is not None:
        from matplotlib.axes import Axes

        given = list(np.ravel(np.asarray(axes, dtype=object)))
        if not all(isinstance(ax, Axes) for ax in given):
            kinds = ", ".join(type(ax).__name__ for ax in given if not isinstance(ax, Axes))
            raise FitError(f"axes must be matplotlib's Axes, got {kinds}")
        if len(given) != count:
            raise FitError(f"axes must be {count} (one for each panel), got {len(given)}")
        return given[0].figure, given
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        -(-count // columns),
        columns,
        figsize=size,
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    found = list(grid.ravel())
    for spare in found[count:]:
        spare.remove()
    return figure, found[:count]


def bare(ax: Any) -> None:
    """Take the frame's upper and right side away."""
    ax.spines[["top", "right"]].set_visible(False)
