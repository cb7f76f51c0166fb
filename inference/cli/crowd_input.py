"""What `likely crowd` reads: labels, gold classes, costs and options of engines."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from likely.envs import DataError
from likely.inference.cli.errors import BadInputError
from likely.models.crowd import Annotations
from likely.models.crowd.files import read_csv, read_parquet

_PARQUET = (".parquet", ".pq")


def read_labels(
    path: Path, columns: tuple[str, str, str], classes: Sequence[str], truth: str | None
) -> Annotations:
    """Annotations from a text or Parquet file, or a folder of Parquet files.

    Parameters
    ----------
    path
        The file.
    columns
        Names of the columns of tasks, annotators and labels.
    classes
        All classes in order; empty for those that occur.
    truth
        Column with true classes, if there is one.

    Raises
    ------
    DataError
        As `Annotations.from_csv`.
    """
    if _is_parquet(path):
        options: dict[str, Any] = {"classes": list(classes)} if classes else {}
        return Annotations.from_parquet(path, *columns, truth=truth, **options)
    return Annotations.from_csv(path, *columns, truth=truth, classes=list(classes) or None)


def read_gold(path: Path, columns: tuple[str, str]) -> dict[str, str]:
    """True class by task, as text, from a file with one row per task.

    Raises
    ------
    DataError
        If the file cannot be read, or gives a task two classes.
    """
    task, label = columns
    frame = _frame(path, [task, label]).dropna().astype(str).drop_duplicates()
    twice = frame[task].duplicated()
    if twice.any():
        raise DataError(
            f"gold: {str(path)!r} gives task {frame[task][twice].iloc[0]!r} several classes"
        )
    return dict(zip(frame[task], frame[label], strict=True))


def with_gold(annotations: Annotations, gold: dict[str, str]) -> tuple[Annotations, int]:
    """Annotations that know the classes in ``gold``, and how many of its tasks have no labels.

    Raises
    ------
    BadInputError
        If no task is in the annotations, or a class is not.
    """
    tasks = pd.Index(_texts(annotations.tasks)).get_indexer(pd.Index(list(gold)))
    found = tasks >= 0
    if not found.any():
        raise BadInputError(
            "gold: none of its tasks has labels; it begins with "
            f"{next(iter(gold), 'nothing')!r}, the labels with {str(annotations.tasks[0])!r}"
        )
    names = np.array(list(gold.values()), dtype=object)[found]
    classes = pd.Index(_texts(annotations.classes)).get_indexer(pd.Index(names))
    if (classes < 0).any():
        raise BadInputError(
            f"gold: class {names[classes < 0][0]!r} is not among the classes "
            f"{_texts(annotations.classes)}; list all classes with --classes"
        )
    truth = torch.full((annotations.n_tasks,), -1, dtype=torch.int64)
    truth[torch.from_numpy(tasks[found])] = torch.from_numpy(classes.astype(np.int64))
    return replace(annotations, truth=truth), int((~found).sum())


def read_cost(path: Path, annotations: Annotations) -> NDArray[np.float64]:
    """Costs [K, K] from a text file: true classes in its first column, answers in its header.

    Raises
    ------
    BadInputError
        If rows or columns are not the classes, or an entry is not a number.
    """
    classes = _texts(annotations.classes)
    try:
        frame = pd.read_csv(path, dtype=str, index_col=0)
        frame.index = frame.index.astype(str)
        return frame.loc[classes, classes].astype(float).to_numpy()
    except KeyError as error:
        raise BadInputError(
            f"cost: expected rows and columns {classes}, got rows {frame.index.tolist()} and "
            f"columns {frame.columns.tolist()}"
        ) from error
    except (OSError, ValueError) as error:
        raise BadInputError(f"cost: cannot read {str(path)!r}: {error}") from error


def engine_options(given: Sequence[str]) -> dict[str, Any]:
    """Options from ``name=value`` texts; values are Python literals or else text.

    Raises
    ------
    BadInputError
        For a text without ``=``.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise BadInputError(f"option: expected name=value, got {text!r}")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _frame(path: Path, columns: list[str]) -> pd.DataFrame:
    return read_parquet(path, columns) if _is_parquet(path) else read_csv(path, columns)


def _is_parquet(path: Path) -> bool:
    return path.is_dir() or path.suffix in _PARQUET


def _texts(ids: NDArray[Any]) -> list[str]:
    return [str(value) for value in ids.tolist()]
