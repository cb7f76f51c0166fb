"""Learning from data with any Pyro program: engines, fits and their comparison."""

from likely.inference.diagnostics import (
    compare,
    plot_compare,
    plot_history,
    plot_predictive,
    plot_table,
    plot_trace,
)
from likely.inference.engines import EM, ENGINES, MAP, MLE, NUTS, SVI, Engine, Laplace, fit
from likely.inference.errors import (
    BoundaryWarning,
    ConvergenceWarning,
    FitError,
    FlatDirectionError,
    InferenceError,
    MonotonicityError,
    NonFiniteError,
    OptionError,
    ProgramError,
)
from likely.inference.fit import Fit
from likely.inference.monitor import Step
from likely.inference.program import Density, Program

__all__ = [
    "EM",
    "ENGINES",
    "MAP",
    "MLE",
    "NUTS",
    "SVI",
    "BoundaryWarning",
    "ConvergenceWarning",
    "Density",
    "Engine",
    "Fit",
    "FitError",
    "FlatDirectionError",
    "InferenceError",
    "Laplace",
    "MonotonicityError",
    "NonFiniteError",
    "OptionError",
    "Program",
    "ProgramError",
    "Step",
    "compare",
    "fit",
    "plot_compare",
    "plot_history",
    "plot_predictive",
    "plot_table",
    "plot_trace",
]
