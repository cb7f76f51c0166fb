"""Choosing among models: information criteria of points, leave-one-out of posteriors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from likely.inference.diagnostics import backend
from likely.inference.diagnostics.style import COLOURS, WIDTH, bare, panels, written
from likely.inference.errors import FitError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINT = ("log_likelihood", "n_parameters", "aic", "bic")
_POSTERIOR = ("elpd_loo", "se", "p_loo", "elpd_diff", "dse", "pareto_k_max")


def criteria(fits: Mapping[Any, Fit | Iterable[Fit]]) -> pd.DataFrame:
    """Models side by side: AIC and BIC of their point fits, PSIS-LOO of their posteriors.

    Parameters
    ----------
    fits : mapping
        Label of a model (its number of components, say) to a fit of it, or to several: at most
        one point and one posterior. A mapping of names to fits counts as its fits.

    Returns
    -------
    DataFrame
        One row a model: ``log_likelihood`` (nats), ``n_parameters``, ``aic``, ``bic`` of the
        point (lower is better); ``elpd_loo`` and its standard error ``se`` (nats, higher is
        better), ``p_loo``, ``elpd_diff`` (how far ``elpd_loo`` is below the best) with its own
        standard error ``dse``, and ``pareto_k_max`` of the posterior: above 0.7 the estimate is
        not to be trusted (Vehtari, Gelman & Gabry 2017). ``nan`` where there is no such fit.
        Columns that no model has are left out.

    Raises
    ------
    FitError
        If ``fits`` is empty or holds something else, a model has two fits of a kind, or the fits
        are of different numbers of observations.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> from likely.inference import MLE
    >>> def normal(x, scale=None):
    ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    ...     scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0)) if scale is None else scale
    ...     with pyro.plate("observation", len(x)):
    ...         pyro.sample("x", dist.Normal(loc, scale), obs=x)
    >>> x = torch.tensor([0.0, 3.0, -2.0, 5.0])
    >>> table = criteria({"free": MLE().fit(normal, x), "fixed": MLE().fit(normal, x, scale=1.0)})
    >>> table["n_parameters"].tolist(), table["bic"].idxmin()
    ([2, 1], 'free')
    """
    models = _models(fits)
    rows: dict[Any, dict[str, float]] = {}
    losses: dict[Any, backend.Elpd] = {}
    counts: dict[int, Any] = {}
    for label, (point, posterior) in models.items():
        rows[label] = {}
        for fit in (point, posterior):
            if fit is not None and fit.program is not None:
                counts.setdefault(fit.n_observations, label)
        if point is not None:
            rows[label] |= {
                "log_likelihood": point.log_likelihood,
                "n_parameters": point.n_parameters,
                "aic": point.aic(),
                "bic": point.bic(),
            }
        if posterior is not None:
            losses[label] = found = backend.elpd(posterior.to_arviz())
            counts.setdefault(len(found.pointwise), label)
            rows[label] |= {
                "elpd_loo": found.elpd,
                "se": found.se,
                "p_loo": found.p,
                "pareto_k_max": float(found.khat.max()),
            }
    if len(counts) > 1:
        listed = ", ".join(f"{count} in {label!r}" for count, label in counts.items())
        raise FitError(f"fits are not of the same data: numbers of observations are {listed}")
    if losses:
        best = max(losses.values(), key=lambda found: found.elpd)
        for label, found in losses.items():
            gaps = best.pointwise - found.pointwise
            # Vehtari, Gelman & Gabry (2017), equation 24: the observations are paired.
            rows[label] |= {
                "elpd_diff": best.elpd - found.elpd,
                "dse": float(np.sqrt(len(gaps) * gaps.var())),
            }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    return table[[name for name in (*_POINT, *_POSTERIOR) if name in table]]


def plot_criteria(
    table: pd.DataFrame | Mapping[Any, Fit | Iterable[Fit]],
    *,
    criterion: str = "bic",
    name: str = "model",
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """BIC beside PSIS-LOO for each model, the best of each marked.

    Parameters
    ----------
    table : DataFrame or mapping
        What `criteria` returned, or what it takes.
    criterion : {"bic", "aic"}
        Of the point fits.
    name : str
        What the models differ in, for the axis: ``"number of components"``.
    axes : Axes or iterable of Axes, optional
        Where to draw: one for the points' criterion and one for the posteriors', as far as the
        table has them.

    Raises
    ------
    FitError
        If the table has neither, or text in their place, or ``criterion`` is another.
    """
    if criterion not in ("bic", "aic"):
        raise FitError(f"criterion must be 'bic' or 'aic', got {criterion!r}")
    if not isinstance(table, pd.DataFrame):
        table = criteria(table)
    for column in (criterion, "elpd_loo", "se"):
        if column in table and not pd.api.types.is_numeric_dtype(table[column]):
            raise FitError(f"table must have numbers in '{column}', got {table[column].dtype}")
    kinds = [c for c in (criterion, "elpd_loo") if c in table and table[c].notna().any()]
    if "elpd_loo" in kinds and "se" not in table:
        raise FitError("table has 'elpd_loo' without its standard error 'se'")
    if not kinds or not len(table):
        raise FitError(f"table has neither '{criterion}' nor 'elpd_loo'; make it with criteria()")
    figure, found = panels(
        len(kinds), axes, columns=len(kinds), size=(WIDTH if len(kinds) > 1 else 4.0, 3.2)
    )
    places = np.arange(len(table))
    for ax, kind in zip(found, kinds, strict=True):
        values = table[kind].to_numpy(dtype=float)
        best = int(np.nanargmin(values) if kind == criterion else np.nanargmax(values))
        if kind == criterion:
            ax.plot(places, values, "o-", color=COLOURS[0], lw=1.4, ms=5)
            ax.set_title(f"{criterion.upper()} (lower is better)", loc="left", size=10)
        else:
            ax.errorbar(
                places,
                values,
                yerr=table["se"],
                fmt="o-",
                color=COLOURS[0],
                lw=1.4,
                ms=5,
                capsize=3,
            )
            ax.set_title("PSIS-LOO elpd ± se (higher is better)", loc="left", size=10)
        ax.plot(
            places[best],
            values[best],
            "o",
            ms=13,
            mfc="none",
            mec=COLOURS[1],
            mew=1.8,
            label=f"best: {written(table.index[best])}",
        )
        ax.set_xticks(places, [written(label) for label in table.index])
        ax.set_xlim(-0.5, len(table) - 0.5)
        ax.set_xlabel(written(name, 60))
        ax.set_ylabel(criterion.upper() if kind == criterion else "nats")
        ax.legend(frameon=False)
        bare(ax)
    return figure


def _models(fits: Any) -> dict[Any, tuple[Fit | None, Fit | None]]:
    """The point and the posterior of each model."""
    if not isinstance(fits, Mapping):
        raise FitError(f"fits must be a mapping of label to fits, got {type(fits).__name__}")
    if not fits:
        raise FitError("fits is empty; give at least one model, e.g. {'1': fit}")
    found = {}
    for label, given in fits.items():
        own = list(given.values()) if isinstance(given, Mapping) else given
        own = [own] if isinstance(own, Fit) else own
        if not isinstance(own, Iterable) or isinstance(own, str):
            raise FitError(f"fits[{label!r}] must be a Fit or several, got {type(own).__name__}")
        own = list(own)
        for fit in own:
            if not isinstance(fit, Fit):
                raise FitError(f"fits[{label!r}] must hold Fits, got {type(fit).__name__}")
        points = [fit for fit in own if fit.is_point]
        posteriors = [fit for fit in own if not fit.is_point]
        if len(points) > 1 or len(posteriors) > 1 or not own:
            raise FitError(
                f"fits[{label!r}] must have at most one point fit and one posterior, and one of "
                f"them; got {', '.join(fit.engine for fit in own) or 'nothing'}"
            )
        found[label] = next(iter(points), None), next(iter(posteriors), None)
    return found
