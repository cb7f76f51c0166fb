"""Errors and warnings that engines and diagnostics raise."""

from __future__ import annotations


class InferenceError(Exception):
    """Base of every error raised by ``likely.inference``."""


class ProgramError(InferenceError, ValueError):
    """A program, its arguments or an engine's options cannot be used.

    The message names the site or the option and says how to mend it.
    """


class OptionError(ProgramError):
    """An engine was given an option it does not know or a value it cannot use."""


class FitError(InferenceError, ValueError):
    """A fit cannot answer what it was asked, e.g. a prediction without its program."""


class NonFiniteError(InferenceError, ArithmeticError):
    """The objective became infinite or not-a-number while fitting."""


class MonotonicityError(InferenceError, ArithmeticError):
    """An EM step lowered its objective, which EM never does when its M-step is right."""


class FlatDirectionError(InferenceError, ArithmeticError):
    """The curvature at a mode is not positive definite: a direction is flat or curves upwards."""


class DistributedError(InferenceError, ConnectionError):
    """A process that shares a fit with others has ended, failed or does not answer."""


class ConvergenceWarning(UserWarning):
    """A fit stopped before it converged, or its diagnostics say it should not be trusted."""


class DegenerateWarning(UserWarning):
    """A fit has parts without data behind them, such as an empty or a collapsed component."""


class BoundaryWarning(UserWarning):
    """An optimum lies on the boundary of the support."""
