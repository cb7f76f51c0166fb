"""What `likely crowd` reads: labels, gold classes, costs and options of engines."""

from __future__ import annotations

import ast
import csv
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
from likely.models.crowd.files import (
    PARQUET,
    column_names,
    first_bytes,
    known_levels,
    read_csv,
    read_parquet,
)

_PARQUET = (".parquet", ".pq")
_OWN = {
    "seed": "--seed",
    "progress": "--progress or --no-progress",
    "init": "--start with the fit.nc of an earlier run",
}
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def class_names(text: str | None) -> list[str]:
    """Names in a text, with commas between them and quotes around those that hold a comma.

    Raises
    ------
    BadInputError
        If a name is empty.
    """
    if text is None:
        return []
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [""])]
    if "" in names:
        raise BadInputError(f"classes: expected names with commas between them, got {text!r}")
    return names


def gold_file(gold: str | None, path: Path, separator: str | None) -> Path | None:
    """The file of true classes, or None where ``gold`` is a column of the labels.

    Raises
    ------
    BadInputError
        If it is neither.
    """
    if gold is None or gold in column_names(path, separator, parquet=_is_parquet(path)):
        return None
    if not Path(gold).exists():
        raise BadInputError(f"gold: {gold!r} is neither a column of {str(path)!r} nor a file")
    return Path(gold)


def read_labels(
    path: Path,
    columns: tuple[str, str, str],
    classes: Sequence[str],
    truth: str | None,
    separator: str | None,
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
    separator
        What stands between fields of a text file, if it is not what its name says.

    Raises
    ------
    BadInputError
        If two columns are one, or a class cannot be what the labels of a Parquet file are.
    DataError
        As `Annotations.from_csv`.
    """
    if len(set(columns)) < len(columns):
        raise BadInputError(
            "task, annotator, label: expected three columns, got "
            + ", ".join(repr(name) for name in columns)
        )
    listed: Any = list(classes) or None
    if _is_parquet(path):
        if listed:
            listed = _typed(listed, read_parquet(path, [columns[2]])[columns[2]])
        return Annotations.from_parquet(path, *columns, truth=truth, classes=listed)
    options: dict[str, Any] = {"classes": listed, "separator": separator}
    return Annotations.from_csv(path, *columns, truth=truth, **options)


def read_gold(
    path: Path, columns: tuple[str, str], classes: Sequence[Any], separator: str | None
) -> dict[str, str]:
    """True class by task, as text, from a file with one row per task.

    Raises
    ------
    DataError
        If the file cannot be read, gives a task two classes, or gives none a class.
    """
    task, label = columns
    frame = _frame(path, [task, label], separator).dropna().astype(str)
    frame[label] = known_levels(frame[label], classes)
    frame = frame.dropna().drop_duplicates()
    if frame.empty:
        raise DataError(f"gold: {str(path)!r} gives no task a class")
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
            f"{next(iter(gold))!r}, the labels with {str(annotations.tasks[0])!r}"
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
        # The header is read as a row: pandas would rename columns that are there twice.
        cells = pd.read_csv(path, dtype=str, header=None, na_filter=False, skipinitialspace=True)
        table = [[cell.strip() for cell in row] for row in cells.to_numpy().tolist()]
        rows, names = [row[0] for row in table[1:]], table[0][1:]
        if any(rows.count(name) != 1 or names.count(name) != 1 for name in classes):
            raise BadInputError(
                f"cost: expected rows and columns {classes}, each once and with commas between "
                f"them, got rows {rows} and columns {names}"
            )
        places = [(rows.index(name) + 1, names.index(name) + 1) for name in classes]
        cost = np.array([[float(table[i][j]) for _, j in places] for i, _ in places])
    except (OSError, ValueError) as error:
        raise BadInputError(f"cost: cannot read {str(path)!r}: {error}") from error
    if not np.isfinite(cost).all():
        raise BadInputError(f"cost: expected finite numbers, got {cost.tolist()}")
    return cost


def engine_options(given: Sequence[str]) -> dict[str, Any]:
    """Options from ``name=value`` texts; values are Python literals or else text.

    Raises
    ------
    BadInputError
        For a text without ``=``, an option given twice, and one that the command has itself.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise BadInputError(f"option: expected name=value, got {text!r}")
        if name in _OWN:
            raise BadInputError(f"option: give {name} as {_OWN[name]}")
        if name in found:
            raise BadInputError(f"option: {name} is given twice")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    if found.get("dtype") in _DTYPES:
        found["dtype"] = _DTYPES[found["dtype"]]
    return found


def _frame(path: Path, columns: list[str], separator: str | None) -> pd.DataFrame:
    if _is_parquet(path):
        return read_parquet(path, columns)
    return read_csv(path, columns, separator)


def _is_parquet(path: Path) -> bool:
    named = path.suffix.lower() in _PARQUET
    return named or path.is_dir() or first_bytes(path).startswith(PARQUET)


def _typed(names: Sequence[str], labels: pd.Series) -> list[Any]:
    """Names of classes as what they are in a column: numbers, truth values or text."""
    found = {str(value): value for value in labels.dropna().unique().tolist()}
    if pd.api.types.is_bool_dtype(labels):
        found |= {"False": False, "True": True}
    try:
        if pd.api.types.is_integer_dtype(labels):
            return [int(name) for name in names]
        if pd.api.types.is_float_dtype(labels):
            return [float(name) for name in names]
    except ValueError as error:
        raise BadInputError(f"classes: the labels are numbers, and {error}") from error
    return [found.get(name, name) for name in names]


def _texts(ids: NDArray[Any]) -> list[str]:
    return [str(value) for value in ids.tolist()]
