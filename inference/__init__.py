"""Learning from data with any Pyro program: engines, fits and their comparison."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from likely.inference.engines import EM, ENGINES, MAP, MLE, NUTS, SVI, VBEM, Engine, Laplace, fit
from likely.inference.engines.guides import trained_guide
from likely.inference.errors import (
    BoundaryWarning,
    ConvergenceWarning,
    DegenerateWarning,
    DistributedError,
    FitError,
    FlatDirectionError,
    InferenceError,
    MonotonicityError,
    NonFiniteError,
    OptionError,
    ProgramError,
)
from likely.inference.fit import Fit
from likely.inference.moments import method_of_moments
from likely.inference.monitor import Step
from likely.inference.program import Density, Program
from likely.inference.relabel import relabel
from likely.inference.shards import Shards, latent_by_part

if TYPE_CHECKING:
    from likely.inference.diagnostics import (
        ParameterPath,
        animate_em,
        compare,
        criteria,
        plot_compare,
        plot_criteria,
        plot_em_path,
        plot_em_steps,
        plot_history,
        plot_intervals,
        plot_latent,
        plot_matrix,
        plot_mixture,
        plot_predictive,
        plot_responsibilities,
        plot_table,
        plot_trace,
    )

__all__ = [
    "EM",
    "ENGINES",
    "MAP",
    "MLE",
    "NUTS",
    "SVI",
    "VBEM",
    "BoundaryWarning",
    "ConvergenceWarning",
    "DegenerateWarning",
    "Density",
    "DistributedError",
    "Engine",
    "Fit",
    "FitError",
    "FlatDirectionError",
    "InferenceError",
    "Laplace",
    "MonotonicityError",
    "NonFiniteError",
    "OptionError",
    "ParameterPath",
    "Program",
    "ProgramError",
    "Shards",
    "Step",
    "animate_em",
    "compare",
    "criteria",
    "fit",
    "latent_by_part",
    "method_of_moments",
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
    "relabel",
    "trained_guide",
]


def __getattr__(name: str) -> Any:
    # Figures and tables need matplotlib, xarray and scipy.stats, which take half as much memory as
    # everything else here; a fit needs none of them.
    if name not in (*__all__, "diagnostics"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    diagnostics = import_module("likely.inference.diagnostics")
    return diagnostics if name == "diagnostics" else getattr(diagnostics, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
