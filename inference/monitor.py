"""Watching a long run: progress bar, callback, and a tidy stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Step:
    """What a callback is told after every iteration.

    Attributes
    ----------
    iteration : int
        Counted from 0, the start.
    objective : float
        What the engine maximises.
    restart : int
        Number of the restart.
    params : callable
        ``params()`` gives the current constrained values by site.
    """

    iteration: int
    objective: float
    restart: int
    params: Callable[[], dict[str, torch.Tensor]]


# Marks an exception that the user's callback raised.
FROM_CALLBACK = "_likely_from_callback"

Callback = Callable[[Step], Any]


class Monitor:
    """Progress bar and callback of one engine run; a context manager.

    A callback that returns ``True`` and a keyboard interrupt both stop the run: what has been found
    so far becomes a fit that is marked as not converged.

    Parameters
    ----------
    label : str
        Shown before the bar.
    total : int
        Expected number of iterations.
    progress : bool
        Show the bar.
    callback : callable, optional
        Called with a `Step` after every iteration.
    restart : int
        Number of the restart.
    """

    def __init__(
        self,
        label: str,
        total: int,
        progress: bool,
        callback: Callback | None = None,
        restart: int = 0,
    ) -> None:
        self._label, self._total, self._progress = label, total, progress
        self._callback, self._restart = callback, restart
        self._bar: Any = None
        self.objectives: list[float] = []
        self.interrupted = False

    def __enter__(self) -> Monitor:
        self._bar = tqdm(
            total=self._total, desc=self._label, disable=not self._progress, leave=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._bar.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self.objectives:
            self.interrupted = True
            return True
        return False

    def resume(self, objectives: list[float]) -> None:
        """Go on after these objectives of a run before."""
        self.objectives[:] = objectives
        self._bar.update(max(len(objectives) - 1, 0))

    def step(self, objective: float, params: Callable[[], dict[str, torch.Tensor]]) -> bool:
        """Record one iteration; whether the run must stop."""
        iteration = len(self.objectives)
        self.objectives.append(objective)
        if iteration:
            self._bar.update(1)
        if self._progress:
            self._bar.set_postfix_str(f"objective {objective:.4f}", refresh=False)
        if self._callback is not None:
            try:
                stop = self._callback(Step(iteration, objective, self._restart, params))
            except Exception as error:
                # Not a start that failed: the next one must not hide it.
                setattr(error, FROM_CALLBACK, True)
                raise
            self.interrupted = self.interrupted or is_true(stop)
        return self.interrupted


def is_true(answer: Any) -> bool:
    """Whether a callback answered true, in Python, NumPy or torch; other values say nothing."""
    if isinstance(answer, torch.Tensor):
        return answer.numel() == 1 and answer.dtype == torch.bool and bool(answer)
    return isinstance(answer, bool | np.bool_) and bool(answer)
