"""Where a learner stands: what it keeps between rounds and on disk."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from likely.inference.active.labelled import Ints, LabelledSet
from likely.inference.checkpoints import check_belongs, write_whole
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
# Numbers that may be infinite or none, which JSON does not know: written as words.
FLOATS = ("cost", "metric", "gain", "seconds")
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
        try:
            self._save(folder)
        except OSError as error:
            raise FitError(f"path: the run cannot be saved in {folder}: {error}") from error

    def _save(self, folder: Path) -> None:
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
            "rows": [_plain_row(row) for row in self.rows],
            "predictions": [seen.tolist() for seen in self.predictions],
            "fits": names,
        }
        text = json.dumps(content, allow_nan=False).encode()
        write_whole(folder / FILE, lambda file: file.write(text))
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
            about, rows = content["about"], tuple(map(_read_row, content["rows"]))
            if not isinstance(about, dict):
                raise TypeError(f"about is {about!r}")
            return cls(
                LabelledSet(**answers, n_classes=content["n_classes"]),
                frozenset((int(i), int(who)) for i, who in content["refused"]),
                rows,
                tuple(np.asarray(seen, dtype=np.int64) for seen in content["predictions"]),
                tuple(Fit.load(folder / name) for name in content["fits"]),
                about,
            )
        except (OSError, LookupError, AttributeError, TypeError, ValueError) as error:
            if isinstance(error, FitError):
                raise
            raise FitError(f"path: {folder / FILE} is not a learner's state: {error}") from error

    def check_belongs(self, about: dict[str, Any], folder: Path) -> None:
        """Raise a `FitError` if the state is that of another problem."""
        check_belongs(self.about, about, folder)


def as_folder(path: Any) -> Path | None:
    """A folder that can be written, made where there is none; None for no path.

    Raises
    ------
    FitError
        If it cannot be, before anybody is asked anything.
    """
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise FitError(f"path: expected the path of a folder, got {path!r}")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FitError(f"path: {folder} is no folder that can be written: {error}") from error
    return folder


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """A round as JSON holds it."""
    return row | {name: _word(row[name]) for name in FLOATS} | {
        "scores": [_word(score) for score in row["scores"]]
    }  # fmt: skip


def _read_row(row: dict[str, Any]) -> dict[str, Any]:
    """A round as `_plain_row` wrote it."""
    return {name: row[name] for name in COLUMNS} | {name: float(row[name]) for name in FLOATS} | {
        "scores": [float(score) for score in row["scores"]]
    }  # fmt: skip


def _word(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))
