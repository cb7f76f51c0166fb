"""`plot_predictive`: data against draws from the fitted program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from likely.inference.diagnostics.compare import check_interval
from likely.inference.diagnostics.groups import as_numpy
from likely.inference.diagnostics.style import COLOURS, WIDTH, bare, panels
from likely.inference.errors import FitError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Integer-valued data with at most so many values are shown as bars.
_MOST_BARS = 40
_SHOWN_CURVES = 50


def plot_predictive(
    fit: Fit,
    site: str | None = None,
    *,
    draws: int = 200,
    kind: str = "ecdf",
    interval: float = 0.94,
    ax: Axes | None = None,
) -> Axes:
    """Observed data against posterior-predictive draws.

    Discrete data: bars of the observed frequencies and, over them, the mean predictive frequency
    with its equal-tailed interval. Continuous data: distribution functions or histograms of the
    data and of draws. Events of several components are pooled.

    Parameters
    ----------
    fit : Fit
        A fit with its program.
    site : str, optional
        Observed site; may be left out if there is only one.
    draws : int
        Number of predictive data sets.
    kind : {"ecdf", "histogram"}
        For continuous data.
    interval : float
        Probability of the interval of predictive frequencies and densities.
    ax : Axes, optional
        Where to draw.

    Raises
    ------
    FitError
        If the program has no such observed site or several and none is named, or an option is
        not one of those listed.
    """
    if kind not in ("ecdf", "histogram"):
        raise FitError(f"kind must be 'ecdf' or 'histogram', got {kind!r}")
    check_interval(interval)
    program = fit.bound("plot_predictive()")
    data = {n: s.value for n, s in program.sites.observed.items() if s.value is not None}
    if site is None and len(data) == 1:
        site = next(iter(data))
    if site not in data:
        problem = "name one of the observed sites" if site is None else f"'{site}' is not observed"
        raise FitError(f"site: {problem}: {', '.join(map(repr, data))}")
    observed = as_numpy(data[site]).astype(float).ravel()
    predicted = as_numpy(fit.predict(draws=draws)[site]).astype(float).reshape(draws, -1)
    _, (own,) = panels(1, ax, size=(WIDTH, 4.0))
    if _is_discrete(observed) and _is_discrete(predicted.ravel()):
        _bars(own, observed, predicted, interval)
        own.set_ylabel("share of observations")
    elif kind == "ecdf":
        _curves(own, observed, predicted)
        own.set_ylabel("share of observations up to the value")
    else:
        _histograms(own, observed, predicted, interval)
        own.set_ylabel("density")
    own.set_xlabel(site)
    own.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    bare(own)
    return own


def _is_discrete(values: np.ndarray) -> bool:
    whole = np.all(values == np.round(values))
    return bool(whole) and np.ptp(values) < _MOST_BARS


def _bars(ax: Axes, observed: np.ndarray, predicted: np.ndarray, interval: float) -> None:
    low = min(observed.min(), predicted.min())
    values = np.arange(low, max(observed.max(), predicted.max()) + 1)
    shares = np.stack([(predicted == value).mean(1) for value in values])  # [value, draw]
    tail = (1 - interval) / 2
    mean = shares.mean(1)
    ends = np.quantile(shares, [tail, 1 - tail], axis=1)
    ax.bar(
        values,
        [(observed == value).mean() for value in values],
        width=0.7,
        color="0.75",
        label="observed",
    )
    ax.errorbar(
        values,
        mean,
        yerr=np.maximum(np.stack([mean - ends[0], ends[1] - mean]), 0.0),
        fmt="o",
        color=COLOURS[0],
        capsize=3,
        label=f"predicted: mean and {interval:.0%} interval",
    )
    if len(values) <= 15:
        ax.set_xticks(values)


def _curves(ax: Axes, observed: np.ndarray, predicted: np.ndarray) -> None:
    for number, row in enumerate(predicted[:_SHOWN_CURVES]):
        ax.ecdf(
            row, color=COLOURS[0], lw=0.7, alpha=0.25, label=None if number else "predicted draws"
        )
    ax.ecdf(observed, color="black", lw=1.8, label="observed")
    _around(ax, observed)


def _histograms(ax: Axes, observed: np.ndarray, predicted: np.ndarray, interval: float) -> None:
    edges = np.histogram_bin_edges(observed, bins="auto")
    width = edges[1] - edges[0]
    # Wide enough for what the program predicts, with bins of the same width.
    ends = np.quantile(predicted, [0.005, 0.995])
    before = max(int(np.ceil((edges[0] - ends[0]) / width)), 0)
    after = max(int(np.ceil((ends[1] - edges[-1]) / width)), 0)
    edges = edges[0] + width * np.arange(-min(before, 50), len(edges) + min(after, 50))
    heights = np.stack([np.histogram(row, bins=edges)[0] / (len(row) * width) for row in predicted])
    tail = (1 - interval) / 2
    lower, upper = np.quantile(heights, [tail, 1 - tail], axis=0)
    ax.stairs(
        upper,
        edges,
        baseline=lower,
        fill=True,
        color=COLOURS[0],
        alpha=0.25,
        label=f"predicted: mean and {interval:.0%} interval",
    )
    ax.stairs(heights.mean(0), edges, color=COLOURS[0], lw=1.5)
    density = np.histogram(observed, bins=edges, density=True)[0]
    ax.stairs(density, edges, color="black", lw=1.8, label="observed")


def _around(ax: Axes, observed: np.ndarray) -> None:
    """Keep a few wild predictive draws from squeezing the data into a corner."""
    span = max(np.ptp(observed), np.finfo(float).tiny)
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, observed.min() - 0.5 * span), min(high, observed.max() + 0.5 * span))
