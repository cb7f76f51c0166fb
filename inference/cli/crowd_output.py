"""What `likely crowd` writes: tables, the fit and figures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from likely.inference.diagnostics import plot_intervals, plot_latent, plot_table
from likely.inference.diagnostics.groups import first_draw, posterior_by_site
from likely.inference.fit import Fit
from likely.models.crowd import (
    Annotations,
    annotator_table,
    tasks_to_label,
    truth_entropy,
    truth_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Everything that a run may write.
FILES = (
    "truth.csv",
    "annotators.csv",
    "next.csv",
    "fit.nc",
    "annotators.png",
    "truth.png",
    "confusion.png",
)
_MOST_TABLES = 12
# Cells of all tables of a figure; many more take minutes to draw, and nobody reads them.
_MOST_CELLS = 3000
_DPI = 150
_MARGIN = 0.03


def quality(fit: Fit, annotations: Annotations, **options: Any) -> pd.DataFrame:
    """One row per annotator: labels, and what the model says of them.

    Models with confusion tables get `annotator_table`; others the sites that have one number for
    each annotator, with intervals where there are draws.

    Parameters
    ----------
    fit : Fit
        A fit of a model of crowds.
    annotations : Annotations
        Its data.
    **options
        ``cost``, ``threshold`` and ``interval`` of `annotator_table`.
    """
    if "confusion" in fit.draws:
        draws = fit.draws
        if fit.is_point:
            return annotator_table(
                annotations, fit.params["confusion"], fit.params["prevalence"], **options
            )
        return annotator_table(annotations, draws["confusion"], draws["prevalence"], **options)
    counts = torch.bincount(annotations.annotator, minlength=annotations.n_annotators)
    columns: dict[str, Any] = {"labels": counts.numpy()}
    tail = (1 - options.get("interval", 0.9)) / 2
    for name, array in posterior_by_site(fit).items():
        if array.dims[2:] != ("annotator",):
            continue
        values = array.to_numpy().reshape(-1, annotations.n_annotators)
        columns[name] = values.mean(0)
        if not fit.is_point:
            lower, upper = np.quantile(values, [tail, 1 - tail], axis=0)
            columns |= {f"{name}_lower": lower, f"{name}_upper": upper}
    return pd.DataFrame(columns, index=pd.Index(annotations.annotators, name="annotator"))


def next_tasks(fit: Fit, annotations: Annotations, truth: torch.Tensor, most: int) -> pd.DataFrame:
    """Tasks that need another label, by expected gain or, without confusion tables, by entropy.

    Parameters
    ----------
    fit, annotations
        As in `quality`.
    truth : Tensor
        [n_tasks, K]: probabilities of the true classes.
    most : int
        How many tasks.
    """
    if "confusion" in fit.params:
        return tasks_to_label(annotations, truth, fit.params["confusion"], most=most)
    table = truth_table(annotations, truth)[["truth", "probability", "labels"]]
    table["entropy"] = truth_entropy(truth).cpu().numpy()
    if annotations.truth is not None:
        table = table[(annotations.truth < 0).cpu().numpy()]
    return table.sort_values("entropy", ascending=False, kind="stable").head(most)


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[str]:
    """Write tables as ``<name>.csv``; the names of the files."""
    names = []
    for name, table in tables.items():
        names.append(f"{name}.csv")
        table.to_csv(folder / names[-1], float_format="%.6g")
    return names


def write_figures(
    fit: Fit, annotations: Annotations, annotators: pd.DataFrame, folder: Path, interval: float
) -> list[str]:
    """Draw annotators, their confusion tables and the tasks' truth; the names of the files.

    Confusion tables are those of the annotators with most labels. There are none where a few of
    them would not be legible.
    """
    # Figures go to files; no window must open, whatever the user's settings.
    from matplotlib import pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    made: dict[str, Figure] = {}
    scores = [name for name in ("accuracy", "spammer_score") if name in annotators]
    names = [str(name) for name in annotators.columns]
    others = [name for name in names if name != "labels" and not _is_end(name)]
    made["annotators"] = plot_intervals(annotators, scores or others or ["labels"])
    if scores:  # between 0 and 1, and never outside
        for ax in made["annotators"].axes:
            low, high = ax.get_xlim()
            ax.set_xlim(max(low, -_MARGIN), min(high, 1 + _MARGIN))
    if not fit.is_point:
        made["annotators"].supxlabel(f"posterior mean and {100 * interval:.4g}% interval", size=9)
    made["truth"] = plot_latent(fit, "truth")
    tables = min(_MOST_TABLES, _MOST_CELLS // annotations.n_classes**2)
    if "confusion" in fit.draws and tables:
        table = first_draw(posterior_by_site(fit, "confusion")["confusion"])
        select = None
        if "annotator" in table.dims:
            busy = np.argsort(-annotators["labels"].to_numpy(), kind="stable")[:tables]
            select = {"annotator": table.indexes["annotator"][np.sort(busy)].tolist()}
        made["confusion"] = plot_table(fit, "confusion", select=select)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        for name, figure in made.items():
            figure.set_dpi(_DPI)
            FigureCanvasAgg(figure).print_png(str(folder / f"{name}.png"))
            plt.close(figure)
    if any("missing from font" in str(found.message) for found in caught):
        warnings.warn(
            "figures: the font lacks letters of some names; they show as boxes", stacklevel=2
        )
    return [f"{name}.png" for name in made]


def _is_end(name: str) -> bool:
    return name.endswith(("_lower", "_upper"))
