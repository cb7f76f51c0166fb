"""Looking at fits: ArviZ data, tables, files and figures."""

from likely.inference.diagnostics.backend import to_arviz
from likely.inference.diagnostics.compare import compare
from likely.inference.diagnostics.files import load, save
from likely.inference.diagnostics.forest import plot_compare
from likely.inference.diagnostics.groups import build_groups
from likely.inference.diagnostics.heatmaps import plot_table
from likely.inference.diagnostics.predictive import plot_predictive
from likely.inference.diagnostics.summary import summary
from likely.inference.diagnostics.traces import plot_history, plot_trace

__all__ = [
    "build_groups",
    "compare",
    "load",
    "plot_compare",
    "plot_history",
    "plot_predictive",
    "plot_table",
    "plot_trace",
    "save",
    "summary",
    "to_arviz",
]
