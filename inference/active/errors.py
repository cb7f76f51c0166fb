"""What labelling can end with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from likely.inference.active.checks import integers
from likely.inference.errors import InferenceError


class LabellingStopped(InferenceError):  # noqa: N818 — an end that was wanted, not an error
    """The one who labels wants to stop; what was answered until then comes with it.

    Attributes
    ----------
    labels : ndarray
        int64 [B]: answers to the queries that were being asked, −1 where there is none.
    """

    def __init__(self, labels: Any, message: str = "") -> None:
        self.labels: NDArray[np.int64] = integers(labels, "labels")
        given = int((self.labels >= 0).sum())
        super().__init__(
            message or f"labelling was stopped; {given} of {len(self.labels)} queries are answered"
        )


class AnswersWarning(UserWarning):
    """A file of answers is not quite what was written, and could be read all the same."""
