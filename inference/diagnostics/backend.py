"""The one module that knows which ArviZ is installed.

ArviZ 0.23 keeps results in ``InferenceData``, ArviZ 1.x in xarray's ``DataTree``; some functions
changed their names or what they return. Everything else in the library goes through here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from likely.inference.errors import FitError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A fifth of so many importance weights is a tail of four, too short to fit a Pareto to.
_FEWEST_WEIGHTS = 20
# Dimensions that some function of some ArviZ (summary, plot_forest, plot_trace, plot_rank) makes
# itself; data that has one of the same name breaks it.
RESERVED_DIMS = frozenset(
    {
        "chain",
        "ci_bound",
        "column",
        "draw",
        "hdi",
        "label",
        "method",
        "metric",
        "model",
        "plot",
        "plot_axis",
        "summary",
        "variable",
    }
)


def version() -> str:
    """Version of the ArviZ that is installed, e.g. ``"0.23.4"``."""
    return metadata.version("arviz")


def has_inference_data() -> bool:
    """Whether ArviZ keeps results in ``InferenceData`` (before 1.0) and not in ``DataTree``."""
    return int(version().split(".")[0]) < 1


def arviz() -> Any:
    """The ``arviz`` module, imported when it is first needed."""
    with warnings.catch_warnings():
        # 0.23 announces 1.0 on import, once a day; both are supported here.
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
        return import_module("arviz")


def to_arviz(groups: Mapping[str, xr.Dataset]) -> Any:
    """Groups as ArviZ data.

    Parameters
    ----------
    groups : mapping of str to Dataset
        Group name to data. The attributes of the first group become those of the whole.

    Returns
    -------
    InferenceData or DataTree
        By the ArviZ installed.
    """
    attrs = dict(next(iter(groups.values())).attrs) if groups else {}
    if has_inference_data():
        return arviz().InferenceData(attrs=attrs, **groups)
    tree = xr.DataTree.from_dict(dict(groups))
    tree.attrs.update(attrs)
    return tree


def summary(data: Any, **options: Any) -> pd.DataFrame:
    """``arviz.summary``: mean, sd, interval, and diagnostics of the draws by site element."""
    frame: pd.DataFrame = arviz().summary(data, **options)
    return frame


def loo(data: Any, **options: Any) -> Any:
    """``arviz.loo``: expected log predictive density by PSIS-LOO (Vehtari et al. 2017).

    Raises
    ------
    FitError
        If there are several kinds of observations and ``var_name`` chooses none.
    """
    names = [str(name) for name in data["log_likelihood"].data_vars]
    if len(names) > 1 and options.get("var_name") is None:
        raise FitError(
            f"the program has several kinds of observations ({', '.join(map(repr, names))}); "
            "choose one with var_name="
        )
    return arviz().loo(data, **options)


@dataclass(frozen=True)
class Elpd:
    """PSIS-LOO of one model.

    Attributes
    ----------
    elpd, se : float
        Expected log pointwise predictive density and its standard error, in nats.
    p : float
        Effective number of parameters.
    pointwise : array
        Each observation's part of ``elpd``, [observation].
    khat : array
        Pareto shape of each observation's weights, [observation].
    """

    elpd: float
    se: float
    p: float
    pointwise: np.ndarray
    khat: np.ndarray


def elpd(data: Any) -> Elpd:
    """`loo` with its parts under the same names whatever the ArviZ.

    ArviZ's warning about large Pareto shapes is left to the reader of ``khat``.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto")
        found = loo(data, pointwise=True)
    if has_inference_data():
        values = found.elpd_loo, found.se, found.p_loo, found.loo_i, found.pareto_k
    else:
        values = found.elpd, found.se, found.p, found.elpd_i, found.pareto_k
    total, se, p, pointwise, khat = (np.asarray(value, dtype=float).ravel() for value in values)
    return Elpd(float(total[0]), float(se[0]), float(p[0]), pointwise, khat)


def compare(data: Mapping[str, Any], **options: Any) -> pd.DataFrame:
    """``arviz.compare``: models ranked by their expected log predictive density."""
    with warnings.catch_warnings():
        # 0.23 sorts in place, which pandas 3 deprecates; a caller can do nothing about it.
        warnings.filterwarnings("ignore", "The inplace keyword in DataFrame.sort_values")
        frame: pd.DataFrame = arviz().compare(dict(data), **options)
    return frame


def psis_khat(log_weights: torch.Tensor) -> float:
    """Pareto shape k-hat of importance weights (Vehtari et al. 2024, section 3).

    Parameters
    ----------
    log_weights : Tensor
        Log importance weights [draw], up to a constant: log target minus log proposal.

    Returns
    -------
    float
        Above 0.7 the weights, and so the proposal, are not to be trusted. ``-inf`` if all weights
        are the same, ``inf`` if one is not finite or they are 20 at most.
    """
    weights = log_weights.detach().cpu().double().reshape(-1).numpy()
    if not np.isfinite(weights).all():
        return float("inf")
    if (weights == weights[0]).all():
        return float("-inf")
    if len(weights) <= _FEWEST_WEIGHTS:
        return float("inf")
    if has_inference_data():
        return float(arviz().psislw(weights)[1])
    # 1.x takes log-likelihoods, whose negatives are the log weights of leaving one out. It raises
    # where weights tie in a tail that is then too short to be fitted; 0.23 calls that infinite.
    try:
        return float(import_module("arviz_stats.base").array_stats.psislw(-weights)[1])
    except ValueError:
        return float("inf")


def plot_trace(data: Any, **options: Any) -> Figure:
    """Densities beside traces: ``plot_trace`` before ArviZ 1.0, ``plot_trace_dist`` since."""
    if has_inference_data():
        figure = _figure(arviz().plot_trace, data, **options)
        if "axes" not in options:
            figure.set_layout_engine("constrained")  # 0.23 lets titles run into tick labels
        return figure
    return _figure(arviz().plot_trace_dist, data, **options)


def plot_forest(data: Any, **options: Any) -> Figure:
    """``arviz.plot_forest``: intervals by site element."""
    return _figure(arviz().plot_forest, data, **options)


def _figure(plot: Callable[..., Any], data: Any, **options: Any) -> Figure:
    """The matplotlib figure that an ArviZ function draws."""
    with warnings.catch_warnings():
        # 0.23 calls matplotlib in a way that 3.11 deprecates; a caller can do nothing about it.
        warnings.filterwarnings("ignore", "Passing a dict or None as alias_mapping")
        drawn = plot(data, **options)
    if hasattr(drawn, "viz"):  # ArviZ 1.x: a PlotCollection
        figure: Figure = drawn.viz["figure"].item()
    else:  # an array of axes
        figure = drawn.ravel()[0].figure
    return figure
