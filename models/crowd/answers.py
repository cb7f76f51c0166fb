"""What a fit says of the tasks, under the user's own ids, and which need another label."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import shown
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.quality import broadcasting, checked_tables, probabilities


def truth_table(annotations: Annotations, truth: Any) -> pd.DataFrame:
    """One row per task: the most probable class and the probability of each.

    Parameters
    ----------
    annotations
        The labels, for the ids of tasks and classes.
    truth
        ``[n_tasks, K]``: probabilities of the true classes; ``fit.latent("truth")``.

    Returns
    -------
    DataFrame
        Indexed by task: ``truth`` (the first of equally probable classes), ``probability``,
        ``labels`` (how many the task has) and ``p_<class>`` for every class.

    Raises
    ------
    DataError
        If ``truth`` does not hold probabilities of these tasks' classes.

    Examples
    --------
    >>> crowd = Annotations.from_arrays(["x", "x", "y"], ["a", "b", "b"], ["cat", "dog", "dog"])
    >>> truth_table(crowd, [[0.75, 0.25], [0.125, 0.875]])
         truth  probability  labels  p_cat  p_dog
    task
    x      cat        0.750       2  0.750  0.250
    y      dog        0.875       1  0.125  0.875
    """
    table = _of_tasks(annotations, truth).cpu()
    probability, best = table.max(-1)
    columns = {
        "truth": annotations.classes[best.numpy()],
        "probability": probability.numpy(),
        "labels": torch.bincount(annotations.task.cpu(), minlength=annotations.n_tasks).numpy(),
    }
    names = [f"p_{name}" for name in pd.Index(annotations.classes)]
    if len(set(names)) < len(names):  # 1 and "1" are two classes
        names = [f"p_{name!r}" for name in pd.Index(annotations.classes)]
    values = {name: table[:, number].numpy() for number, name in enumerate(names)}
    ids = pd.Index(annotations.tasks, name="task", tupleize_cols=False)
    return pd.DataFrame(columns | values, index=ids)


def truth_entropy(truth: Any) -> Tensor:
    r"""Entropy of the truth in nats, :math:`-\sum_k p_k \log p_k`.

    Parameters
    ----------
    truth
        ``[..., K]``: probabilities.

    Returns
    -------
    Tensor
        ``[...]``, between 0 and log K.

    Raises
    ------
    DataError
        If the argument does not hold probabilities.

    Examples
    --------
    >>> truth_entropy([[0.5, 0.5], [1.0, 0.0]])
    tensor([0.6931, 0.0000])
    """
    return torch.special.entr(probabilities(truth, "truth", 1)).sum(-1)


def information_gain(truth: Any, confusion: Any) -> Tensor:
    r"""Expected fall of the truth's entropy by one more label, in nats.

    The mutual information of truth and label,
    :math:`H\big(\sum_k p_k \pi_{k\cdot}\big) - \sum_k p_k H(\pi_{k\cdot})` (Lindley 1956, Annals of
    Mathematical Statistics 27(4)): zero where the truth is certain, and zero for a spammer.

    Parameters
    ----------
    truth
        ``[..., K]``: probabilities of the true classes of tasks.
    confusion
        ``[K, K]``: table of the annotator who is asked; or ``[..., K, K]``, one for each task.

    Returns
    -------
    Tensor
        ``[...]``.

    Raises
    ------
    DataError
        If the arguments are no probability tables of such shapes.

    Examples
    --------
    >>> information_gain([[0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    tensor([0.6931, 0.0000])
    """
    table, truth = broadcasting(confusion, truth, "truth")
    reported = (truth.unsqueeze(-2) @ table).squeeze(-2)
    noise = torch.special.entr(table).sum(-1)
    gain = torch.special.entr(reported).sum(-1) - (truth * noise).sum(-1)
    return gain.clamp(min=0.0)  # rounding may leave a negative zero


def accuracy_gain(truth: Any, confusion: Any) -> Tensor:
    r"""Expected rise of the probability that the best answer is right, by one more label.

    :math:`\sum_j \max_k p_k \pi_{kj} - \max_k p_k`. It is zero where no single label of this
    annotator could change the answer, however uncertain that is.

    Parameters
    ----------
    truth, confusion
        As in `information_gain`.

    Returns
    -------
    Tensor
        ``[...]``.

    Raises
    ------
    DataError
        As `information_gain`.

    Examples
    --------
    >>> accuracy_gain([[0.5, 0.5], [0.95, 0.05]], [[0.9, 0.1], [0.1, 0.9]])
    tensor([0.4000, 0.0000])
    """
    table, truth = broadcasting(confusion, truth, "truth")
    after = (truth.unsqueeze(-1) * table).amax(-2).sum(-1)
    return (after - truth.amax(-1)).clamp(min=0.0)


def tasks_to_label(
    annotations: Annotations,
    truth: Any,
    confusion: Any,
    *,
    most: int = 10,
    annotator: Any = None,
    gain: str = "information",
) -> pd.DataFrame:
    """Tasks for which one more label is worth most.

    Parameters
    ----------
    annotations
        The labels so far. Tasks whose class is known are never asked about.
    truth
        ``[n_tasks, K]``: probabilities of the true classes; ``fit.latent("truth")``.
    confusion
        ``[L, K, K]``, or one table for all, ``[K, K]``: ``fit.params["confusion"]``.
    most
        How many tasks to list.
    annotator
        Id of the annotator who is asked; by default one drawn at random, with the mean table of
        all (annotators weighted by their labels). Tasks they have labelled already are left out.
    gain
        What is to grow: ``"information"`` or ``"accuracy"``.

    Returns
    -------
    DataFrame
        Indexed by task, the greatest gain first: ``truth``, ``probability``, ``labels``,
        ``entropy`` and ``gain``.

    Raises
    ------
    DataError
        If tables do not fit the annotations, or there is no such annotator or gain.

    Examples
    --------
    >>> crowd = Annotations.from_arrays(["x", "x", "y"], ["a", "b", "b"], ["cat", "dog", "dog"])
    >>> truth = [[0.5, 0.5], [0.125, 0.875]]
    >>> tasks_to_label(crowd, truth, [[0.75, 0.25], [0.25, 0.75]]).index.tolist()
    ['x', 'y']
    """
    gains = {"information": information_gain, "accuracy": accuracy_gain}
    if not isinstance(gain, str) or gain not in gains:
        raise DataError(f"gain: expected one of {', '.join(gains)}, got {gain!r}")
    if not isinstance(most, int | np.integer) or isinstance(most, bool) or most < 1:
        raise DataError(f"most: expected a positive integer, got {most!r}")
    table = _of_tasks(annotations, truth).cpu()
    tables, _ = checked_tables(confusion, table, "truth")
    n = annotations.n_annotators
    if tables.dim() not in (2, 3) or (tables.dim() == 3 and len(tables) != n):
        k = annotations.n_classes
        raise DataError(
            f"confusion: expected [{n}, {k}, {k}] or [{k}, {k}], got {list(tables.shape)}"
        )
    open_tasks = torch.ones(annotations.n_tasks, dtype=torch.bool)
    if annotations.truth is not None:
        open_tasks &= annotations.truth.cpu() < 0
    who = annotations.annotator.cpu()
    if annotator is not None:
        place = _place(annotations, annotator)
        open_tasks[annotations.task.cpu()[who == place]] = False
        asked = tables if tables.dim() == 2 else tables[place]
    elif tables.dim() == 3:
        weight = torch.bincount(who, minlength=n).to(tables.cpu())
        weight = weight if len(who) else weight + 1
        asked = torch.einsum("l,lkj->kj", weight / weight.sum(), tables.cpu())
    else:
        asked = tables
    frame = truth_table(annotations, table)[["truth", "probability", "labels"]]
    frame["entropy"] = truth_entropy(table).numpy()
    frame["gain"] = gains[gain](table, asked.cpu()).numpy()
    frame = frame[open_tasks.numpy()]
    return frame.sort_values(["gain", "entropy"], ascending=False, kind="stable").head(most)


def _place(annotations: Annotations, annotator: Any) -> int:
    places = {name: place for place, name in enumerate(pd.Index(annotations.annotators))}
    known = isinstance(annotator, Hashable) and annotator in places
    if not known:
        raise DataError(
            f"annotator: {annotator!r} is not among the annotators {shown(annotations.annotators)}"
        )
    return places[annotator]


def _of_tasks(annotations: Annotations, truth: Any) -> Tensor:
    """Probabilities ``[n_tasks, K]``, checked."""
    if not isinstance(annotations, Annotations):
        raise DataError(f"annotations: expected Annotations, got {type(annotations).__name__}")
    table = probabilities(truth, "truth", 2)
    if table.shape != (annotations.n_tasks, annotations.n_classes):
        raise DataError(
            f"truth: expected shape [{annotations.n_tasks}, {annotations.n_classes}], tasks by "
            f"classes, got {list(table.shape)}"
        )
    return table
