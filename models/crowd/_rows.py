"""Choosing tasks, and two tables of labels as one, ids kept in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import check_index, lookup, shown

if TYPE_CHECKING:
    from likely.models.crowd.annotations import Annotations


def positions(index: Any, n_tasks: int, device: torch.device) -> Tensor:
    """Positions int64 [m] of tasks, from positions or from a mask bool [n_tasks].

    Raises
    ------
    DataError
        For positions out of range, and for a mask of another length.
    """
    try:
        index = torch.as_tensor(index, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"index: expected positions or a mask, got {index!r}; {error}") from error
    if index.dtype == torch.bool:
        if index.shape != (n_tasks,):
            raise DataError(f"index: expected a mask of shape [{n_tasks}], got {list(index.shape)}")
        index = index.nonzero().squeeze(-1)
    elif not index.dtype.is_floating_point or index.numel() == 0:
        index = index.long()
    if index.dim() != 1:
        raise DataError(f"index: expected one dimension, got shape {list(index.shape)}")
    check_index(index, "index", len(index), n_tasks, lowest=0)
    return index


def joined(mine: Annotations, more: Annotations) -> Annotations:
    """All labels of both; see `Annotations.concat`."""
    if not isinstance(more, type(mine)):
        raise DataError(f"more: expected Annotations, got {type(more).__name__}")
    if (mine.label is None) != (more.label is None):
        raise DataError("more: expected labels on both sides or on neither, got them on one")
    tasks, task = joined_ids(mine.tasks, more.tasks, "tasks")
    annotators, annotator = joined_ids(mine.annotators, more.annotators, "annotators")
    classes, label = joined_ids(mine.classes, more.classes, "classes")
    device = mine.task.device

    def added(first: Tensor, index: Tensor, places: NDArray[np.int64]) -> Tensor:
        return torch.cat([first, torch.from_numpy(places)[index.cpu()].to(device)])

    truth = None
    if more.truth is not None:
        # The −1 of an unknown class picks the −1 put last.
        truth = torch.from_numpy(np.append(label, -1))[more.truth.cpu()]
    truth = joined_truth(mine.truth, truth, task, tasks)
    labels = None
    if mine.label is not None and more.label is not None:
        labels = added(mine.label, more.label, label)
    return replace(
        mine,
        task=added(mine.task, more.task, task),
        annotator=added(mine.annotator, more.annotator, annotator),
        label=labels,
        tasks=tasks,
        annotators=annotators,
        classes=classes,
        truth=None if truth is None else truth.to(device),
        features=joined_features(mine.features, more.features, task, len(tasks)),
    )


def joined_ids(
    mine: NDArray[Any], theirs: NDArray[Any], name: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Ids of both, the new ones last, and where each of ``theirs`` is among them.

    Raises
    ------
    DataError
        If one side's ids are text and the other's are not: ``7`` and ``"7"`` never match.
    """
    if len(mine) and len(theirs) and _all_text(mine) != _all_text(theirs):
        raise DataError(
            f"{name}: expected ids of one kind, got {shown(mine)} and {shown(theirs)}; text and "
            "numbers are never the same id"
        )
    where = lookup(theirs, mine)
    new = where < 0
    where[new] = len(mine) + np.arange(int(new.sum()))
    return np.concatenate([mine, theirs[new]]), where


def joined_truth(
    mine: Tensor | None, theirs: Tensor | None, where: NDArray[np.int64], tasks: NDArray[Any]
) -> Tensor | None:
    """Known classes of all ``tasks``, those of ``theirs`` at ``where``, in the same classes.

    Raises
    ------
    DataError
        If both know the class of a task and disagree.
    """
    if mine is None and theirs is None:
        return None
    found = torch.full((len(tasks),), -1, dtype=torch.int64)
    if mine is not None:
        found[: len(mine)] = mine.cpu()
    if theirs is not None:
        known = theirs.cpu() >= 0
        place, new = torch.from_numpy(where)[known], theirs.cpu()[known]
        clash = (found[place] >= 0) & (found[place] != new)
        if bool(clash.any()):
            raise DataError(
                f"truth: the two disagree about {int(clash.sum())} task(s): "
                f"{shown(tasks[place[clash].numpy()])}"
            )
        found[place] = new
    return found


def joined_features(
    mine: Tensor | None, theirs: Tensor | None, where: NDArray[np.int64], n_tasks: int
) -> Tensor | None:
    """Features of all tasks; both sides have them or neither.

    Raises
    ------
    DataError
        If only one side has features, their widths differ, or a task's features do.
    """
    if mine is None and theirs is None:
        return None
    if mine is None or theirs is None:
        raise DataError("features: expected features on both sides or on neither, got them on one")
    if mine.shape[1] != theirs.shape[1]:
        raise DataError(
            f"features: expected {mine.shape[1]} columns on both sides, got {theirs.shape[1]}"
        )
    place = torch.from_numpy(where).to(mine.device)
    theirs = theirs.to(mine)
    shared = place < len(mine)
    different = (mine[place[shared]] != theirs[shared]).any(-1)
    if bool(different.any()):
        raise DataError(
            f"features: {int(different.sum())} task(s) have other features on the other side"
        )
    found = mine.new_empty(n_tasks, mine.shape[1])
    found[place] = theirs
    found[: len(mine)] = mine
    return found


def _all_text(ids: NDArray[Any]) -> bool:
    return all(isinstance(value, str) for value in ids.tolist())
