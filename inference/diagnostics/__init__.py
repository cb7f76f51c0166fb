"""Looking at fits: ArviZ data, tables, files and figures."""

from likely.inference.diagnostics.backend import to_arviz
from likely.inference.diagnostics.compare import compare
from likely.inference.diagnostics.criteria import criteria, plot_criteria
from likely.inference.diagnostics.evolution import animate_em, plot_em_steps
from likely.inference.diagnostics.files import load, save
from likely.inference.diagnostics.forest import plot_compare
from likely.inference.diagnostics.groups import build_groups
from likely.inference.diagnostics.heatmaps import plot_table
from likely.inference.diagnostics.intervals import plot_intervals
from likely.inference.diagnostics.latents import latent_array, plot_latent
from likely.inference.diagnostics.matrices import plot_matrix
from likely.inference.diagnostics.mixtures import plot_mixture, plot_responsibilities
from likely.inference.diagnostics.paths import ParameterPath, plot_em_path
from likely.inference.diagnostics.predictive import plot_predictive
from likely.inference.diagnostics.summary import summary
from likely.inference.diagnostics.traces import plot_history, plot_trace

__all__ = [
    "ParameterPath",
    "animate_em",
    "build_groups",
    "compare",
    "criteria",
    "latent_array",
    "load",
    "plot_compare",
    "plot_criteria",
    "plot_em_path",
    "plot_em_steps",
    "plot_history",
    "plot_intervals",
    "plot_latent",
    "plot_matrix",
    "plot_mixture",
    "plot_predictive",
    "plot_responsibilities",
    "plot_table",
    "plot_trace",
    "save",
    "summary",
    "to_arviz",
]
