"""Errors about the user's data, and about problems that planning cannot solve."""

from __future__ import annotations


class DataError(ValueError):
    """Data that a container or a program cannot take.

    The message names the argument, says what was expected and what came.
    """


class PlanningError(RuntimeError):
    """A decision problem without a finite answer, or a search that did not converge.

    The message says what was left after how many iterations, or from which state an episode
    never ends, and what would help.
    """
