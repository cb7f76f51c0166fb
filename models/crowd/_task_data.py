"""What is known about each task: true classes and features, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import column, distinct, factorize, lookup, shown


def read_truth(truth: Any, tasks: NDArray[Any], classes: NDArray[Any]) -> Tensor:
    """Class positions of tasks, −1 where the class is unknown.

    Parameters
    ----------
    truth
        Mapping from task id to class, or [n_tasks] classes in the order of ``tasks``; a pandas
        series with the ids of all tasks as its index goes by these.
    tasks, classes
        Ids in tensor order.

    Returns
    -------
    Tensor
        int64 [n_tasks].

    Raises
    ------
    DataError
        For a task or class that is not listed, and for an array of the wrong length.
    """
    if isinstance(truth, Mapping):
        ids = distinct(list(truth), "truth")
        where = lookup(ids, tasks)
        if (where < 0).any():
            raise DataError(
                f"truth: {int((where < 0).sum())} task(s) not in the annotations: "
                f"{shown(ids[where < 0])}; drop them, or list all tasks in tasks="
            )
        values = column(list(truth.values()), "truth")
    else:
        where = np.arange(len(tasks))
        values = column(in_order(truth, tasks), "truth")
        if len(values) != len(tasks):
            raise DataError(
                f"truth: expected {len(tasks)} entries, one per task, got {len(values)}"
            )
    codes, labels = factorize(values, "truth")
    position = lookup(labels, classes)
    foreign = (position < 0) & np.array([label != -1 for label in labels.tolist()], dtype=bool)
    if foreign.any():
        raise DataError(
            f"truth: {int(foreign.sum())} value(s) not in classes: {shown(labels[foreign])}; "
            f"classes has {shown(classes)}"
        )
    result = np.full(len(tasks), -1, dtype=np.int64)
    # The code −1 of a missing value picks the −1 put last.
    result[where] = np.append(position, -1)[codes]
    return torch.from_numpy(result)


def in_order(values: Any, tasks: NDArray[Any]) -> Any:
    """A pandas object whose index holds the ids of the tasks, in their order; others unchanged."""
    if not isinstance(values, pd.Series | pd.DataFrame) or isinstance(values.index, pd.RangeIndex):
        return values
    if len(values) != len(tasks) or not values.index.is_unique:
        return values
    place = values.index.get_indexer(pd.Index(tasks, tupleize_cols=False))
    return values.iloc[place] if (place >= 0).all() else values


def read_features(features: Any, tasks: NDArray[Any]) -> Tensor:
    """Finite numbers [n_tasks, d] as a floating-point tensor.

    Parameters
    ----------
    features
        A table in the order of ``tasks``, or a pandas one with their ids as its index.
    tasks
        Ids in tensor order.

    Raises
    ------
    DataError
        For anything but a table of finite numbers.
    """
    features = in_order(features, tasks)
    try:
        values = features if isinstance(features, Tensor) else torch.as_tensor(np.array(features))
    except (TypeError, ValueError) as error:
        raise DataError(f"features: expected numbers in shape [n_tasks, d]; {error}") from error
    if values.dim() != 2:
        raise DataError(f"features: expected shape [n_tasks, d], got {list(values.shape)}")
    if values.is_complex():
        raise DataError(f"features: expected real numbers, got {values.dtype}")
    if not values.is_floating_point():
        values = values.to(torch.get_default_dtype())
    finite = torch.isfinite(values).all(-1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise DataError(f"features: expected finite numbers, got nan or inf in row {row}")
    return values


def truth_by_task(frame: pd.DataFrame, task: str, truth: str) -> dict[Any, Any]:
    """Map tasks to true classes that a long table repeats in each of a task's rows.

    Raises
    ------
    DataError
        If rows of one task disagree.
    """
    pairs = frame[[task, truth]].dropna().drop_duplicates()
    clash = pairs[task].duplicated().to_numpy()
    if clash.any():
        tasks = pairs[task].to_numpy()[clash]
        raise DataError(f"truth: rows of one task disagree in column {truth!r}, {shown(tasks)}")
    return dict(zip(pairs[task].tolist(), pairs[truth].tolist(), strict=True))
