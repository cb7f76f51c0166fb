"""`plot_latent`: posterior probabilities of a discrete latent, and where they are undecided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from likely.inference.diagnostics.dimensions import Dimensions, safe_name
from likely.inference.diagnostics.groups import as_numpy
from likely.inference.diagnostics.style import COLOURS, WIDTH, bare, colour, panels, written
from likely.inference.errors import FitError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.2  # inches
_PANEL = 1.1
_MOST_ROWS = 150
_ACROSS = 72  # letters of all names in a row of the legend
_BINS = 20
# Least share of a bar that can be seen.
_VISIBLE = 0.02


def latent_array(fit: Fit, latent: str) -> xr.DataArray:
    """Posterior probabilities of a discrete latent with the names of its axes, [*plates, K].

    Parameters
    ----------
    fit : Fit
        Any fit.
    latent : str
        The latent.

    Raises
    ------
    FitError, ProgramError
        As `Fit.latent`.
    """
    values = as_numpy(fit.latent(latent))
    if fit.program is None and fit.stored is not None:
        return fit.stored["latent_posterior"][safe_name(latent)]
    program = fit.bound("latent_array()")
    found = program.sites.latents.get(latent) or program.sites.inner.get(latent)
    names = Dimensions(program)
    axes = names.of(latent, values.shape, found.dims if found is not None else ())
    return names.dataset({latent: (axes, values)}, {})[safe_name(latent)]


def plot_latent(
    fit: Fit,
    latent: str,
    *,
    most: int = 30,
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """Draw how sure a fit is of a latent, and the entries of which it is least sure.

    The left panel counts entries by the probability of their most probable value; the right one
    has a bar for each of the least certain entries, cut into the probabilities of its values.

    Parameters
    ----------
    fit : Fit
        Any fit.
    latent : str
        A discrete latent with one plate.
    most : int
        How many entries the right panel shows.
    axes : iterable of Axes, optional
        Two axes to draw in.

    Raises
    ------
    FitError
        If the latent does not have one plate, or ``most`` is out of range.
    ProgramError
        If the program has no such latent.
    """
    integer = isinstance(most, int | np.integer) and not isinstance(most, bool)
    if not integer or not 1 <= most <= _MOST_ROWS:
        raise FitError(f"most must be an integer from 1 to {_MOST_ROWS}, got {most!r}")
    array = latent_array(fit, latent)
    if array.ndim != 2:
        raise FitError(
            f"latent '{latent}' has {array.ndim - 1} plates ({', '.join(map(str, array.dims))}); "
            "this figure needs one"
        )
    table = array.to_numpy()
    best = table.max(1)
    order = np.argsort(best, kind="stable")[:most]
    size = (WIDTH, max(2.6, _ROW * len(order) + _PANEL))
    figure, (left, right) = panels(2, axes, columns=2, size=size)
    left.hist(best, bins=np.linspace(1 / table.shape[1], 1, _BINS + 1).tolist(), color=colour(0))
    left.set_xlabel("probability of the most probable value")
    left.set_ylabel(f"number of {array.dims[0]}s")
    left.set_title(f"{latent}: {len(table)} {array.dims[0]}s", loc="left")
    base = np.zeros(len(order))
    height = np.arange(len(order))
    labels = [written(label) for label in array.indexes[array.dims[1]]]
    shades = _shades(len(labels))
    few = len(labels) <= len(COLOURS)
    for number, label in enumerate(labels):
        part = table[order, number]
        # Of many values, those that no bar shows would only fill the legend.
        label = label if few or part.max() >= _VISIBLE else "_nolegend_"
        # Shades of many values are close.
        edge: dict[str, Any] = {} if few else {"edgecolor": "white", "linewidth": 0.3}
        right.barh(height, part, left=base, color=shades[number], label=label, **edge)
        base = base + part
    names = array.indexes[array.dims[0]]
    right.set_yticks(height, [written(names[i]) for i in order])
    right.tick_params(axis="y", labelsize=8)
    right.set_ylim(len(order) - 0.4, -0.6)
    right.set_xlim(0, 1)
    right.set_xlabel("probability")
    right.set_ylabel(str(array.dims[0]))
    right.set_title("least certain", loc="left")
    if axes is None:
        figure.legend(
            loc="outside lower center",
            ncols=max(1, min(len(labels), _ACROSS // max(map(len, labels)), 6)),
            frameon=False,
            title=latent,
        )
    else:
        right.legend()
    for ax in (left, right):
        bare(ax)
    return figure


def _shades(count: int) -> list[Any]:
    """Colours that differ, the house's own if there are enough."""
    if count <= len(COLOURS):
        return list(COLOURS)
    from matplotlib import colormaps

    return [colormaps["turbo"](x) for x in np.linspace(0.05, 0.95, count)]
