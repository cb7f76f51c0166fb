"""Where a learner stands: what it keeps between rounds and on disk."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from likely.inference.active.labelled import Ints, LabelledSet
from likely.inference.errors import FitError
from likely.inference.fit import Fit

# Of the file's layout.
VERSION = 1
FILE = "state.json"
COLUMNS = (
    "round",
    "n_answers",
    "n_points",
    "cost",
    "metric",
    "gain",
    "indices",
    "annotators",
    "labels",
    "scores",
    "converged",
    "seconds",
)
# Predictions that stopping rules may look back at.
KEPT = 50


@dataclass(frozen=True, eq=False)
class State:
    """Everything that the next round depends on.

    Attributes
    ----------
    labelled
        The answers.
    refused
        (point, annotator) pairs that were asked and not answered; they are not asked again.
    rows
        The history, one mapping a round.
    predictions
        Predicted classes of the monitored points, one array a fit.
    fits
        Of the last round; the next ones start there.
    about
        What the state belongs to: pool size, classes, seed, names of strategy and engine.
    """

    labelled: LabelledSet
    refused: frozenset[tuple[int, int]] = frozenset()
    rows: tuple[dict[str, Any], ...] = ()
    predictions: tuple[Ints, ...] = ()
    fits: tuple[Fit, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """Number of the next round."""
        return len(self.rows)

    @property
    def history(self) -> pd.DataFrame:
        """The rounds as a table."""
        frame = pd.DataFrame(list(self.rows), columns=list(COLUMNS))
        return frame.astype({"round": "int64", "n_answers": "int64", "n_points": "int64"})

    def with_row(self, row: dict[str, Any], predictions: Ints | None) -> State:
        """The state with a round added to its history."""
        seen = self.predictions if predictions is None else (*self.predictions, predictions)
        return replace(self, rows=(*self.rows, row), predictions=seen[-KEPT:])

    def reopened(self) -> State:
        """The state before the round that asked nothing, if the last one did not."""
        if not self.rows or self.rows[-1]["indices"]:
            return self
        seen = self.predictions[:-1] if self.fits else self.predictions
        return replace(self, rows=self.rows[:-1], predictions=seen)

    def save(self, folder: Path) -> None:
        """Write the state; a crash on the way leaves the one before.

        Fits get names of their own, and the file that names them is replaced at once.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"fit-{self.round:05d}-{member}.nc" for member in range(len(self.fits))]
        for fit, name in zip(self.fits, names, strict=True):
            fit.save(folder / name, log_likelihood=False)
        answers = {
            name: getattr(self.labelled, name).tolist()
            for name in ("index", "label", "annotator", "round")
        }
        content = {
            "version": VERSION,
            "about": self.about,
            "answers": answers,
            "n_classes": self.labelled.n_classes,
            "refused": sorted(self.refused),
            "rows": self.rows,
            "predictions": [seen.tolist() for seen in self.predictions],
            "fits": names,
        }
        written = folder / f"{FILE}.new"
        with written.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        written.replace(folder / FILE)
        for old in folder.glob("fit-*.nc"):
            if old.name not in names:
                old.unlink()

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read what `save` wrote.

        Raises
        ------
        FitError
            If the files are not a learner's, or damaged.
        """
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise FitError(
                    f"path: {folder} has layout {content['version']}, expected {VERSION}"
                )
            answers = {
                name: np.asarray(values, dtype=np.int64)
                for name, values in content["answers"].items()
            }
            return cls(
                LabelledSet(**answers, n_classes=content["n_classes"]),
                frozenset((int(i), int(who)) for i, who in content["refused"]),
                tuple(content["rows"]),
                tuple(np.asarray(seen, dtype=np.int64) for seen in content["predictions"]),
                tuple(Fit.load(folder / name) for name in content["fits"]),
                content["about"],
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, FitError):
                raise
            raise FitError(f"path: {folder / FILE} is not a learner's state: {error}") from error

    def check_belongs(self, about: dict[str, Any], folder: Path) -> None:
        """Raise a `FitError` if the state is that of another problem."""
        for name, wanted in about.items():
            found = self.about.get(name)
            if found != wanted:
                raise FitError(
                    f"path: {folder} holds a run with {name} = {found!r}, and this one has "
                    f"{wanted!r}; choose another folder, or make them agree"
                )
