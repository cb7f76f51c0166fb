"""What loops of many iterations share: history, files to go on from, a progress bar, early ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from likely.inference.checkpoints import Checkpoint
from likely.inference.errors import OptionError
from likely.inference.imitation.result import INTERRUPTED
from likely.inference.monitor import is_true

Row = dict[str, Any]


class Rounds:
    """The iterations of a run: one row of its history each, saved as they end.

    Parameters
    ----------
    name
        Of the method, for the progress bar.
    most
        How many iterations.
    path
        Folder to save in and to go on from; None saves nothing.
    about
        What a run that goes on must share with the one before: names to plain values.
    progress
        Show a progress bar.
    callback
        Called with a copy of each row; True stops.
    shown
        Column that the bar shows.

    Attributes
    ----------
    rows : list of dict
        The history so far.
    stopped : str
        Why the run ended before its time, or nothing.

    Examples
    --------
    >>> rounds = Rounds("counting", 3)
    >>> rounds.go(lambda number: {"square": number**2}, lambda: {})
    >>> [row["square"] for row in rounds.rows], rounds.stopped
    ([0, 1, 4], '')
    """

    def __init__(
        self,
        name: str,
        most: int,
        path: Any = None,
        about: Mapping[str, Any] | None = None,
        *,
        progress: bool = False,
        callback: Callable[[Row], Any] | None = None,
        shown: str = "",
    ) -> None:
        if callback is not None and not callable(callback):
            raise OptionError(f"callback must be a function of a row, got {callback!r}")
        if path is not None and not isinstance(path, str | PathLike):
            raise OptionError(f"path: expected a folder, got {path!r}")
        self.name, self.most, self.shown = name, most, shown
        self.progress, self.callback = progress, callback
        self.kept = Checkpoint(None if path is None else Path(path), dict(about or {}))
        self.rows: list[Row] = []
        self.stopped = ""
        self._spent, self._started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all its parts."""
        return self._spent + time.perf_counter() - self._started

    def history(self, columns: tuple[str, ...]) -> pd.DataFrame:
        """The rows as a table; without any, an empty one of these columns."""
        return pd.DataFrame(self.rows, columns=None if self.rows else list(columns))

    def resume(self) -> dict[str, Any] | None:
        """What the run in the folder left, to be restored from; None if there is none.

        Raises
        ------
        FitError
            If the file is damaged, or another run's.
        """
        state = self.kept.load()
        if state is not None:
            self.rows, self._spent = list(state.pop("rows")), float(state.pop("seconds"))
        return state

    def go(
        self,
        step: Callable[[int], Row],
        state: Callable[[], Mapping[str, Any]],
        reached: Callable[[list[Row]], str] | None = None,
    ) -> None:
        """Make all iterations that are left.

        Parameters
        ----------
        step
            One iteration: from its number, from 0 on, to facts for its row, which also gets the
            ``iteration`` and its ``seconds``. Its random numbers must depend on the number alone,
            such as by `seed_of`, for a run that is continued to end like one that is not.
        state
            What the next iteration depends on, as tensors and plain values.
        reached
            From the rows so far to why to stop, or nothing.
        """
        with tqdm(total=self.most, initial=len(self.rows), disable=not self.progress) as bar:
            bar.set_description(self.name.replace("_", " "))
            while len(self.rows) < self.most:
                self.stopped = "" if reached is None else reached(self.rows)
                if self.stopped:
                    return
                begun = time.perf_counter()
                try:
                    facts = step(len(self.rows))
                    spent = {"seconds": time.perf_counter() - begun}
                    self.rows.append({"iteration": len(self.rows), **facts, **spent})
                    self.save(state())
                    bar.update(1)
                    if self.shown:
                        value = self.rows[-1][self.shown]
                        bar.set_postfix_str(f"{self.shown} {value:.4g}", refresh=False)
                    told = None if self.callback is None else self.callback(dict(self.rows[-1]))
                    if is_true(told):
                        self.stopped = "the callback said so"
                        return
                except KeyboardInterrupt:
                    self.stopped = INTERRUPTED
                    return

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state beside the rows, also in the middle of an iteration."""
        self.kept.save({**state, "rows": self.rows, "seconds": self.seconds})
