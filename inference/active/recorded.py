"""A crowd that has already answered: its recorded labels, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np

from likely.envs import DataError
from likely.inference.active.checks import check_names, positions, within
from likely.inference.active.oracle import Answers, Bools, Ints, Queries
from likely.inference.engines.checks import check_seed
from likely.models import Annotations


class RecordedAnswers:
    """Replay of recorded crowd answers: what was never said is −1.

    Points are positions in ``annotations.tasks``, annotators in ``annotations.annotators`` and
    labels in ``annotations.classes``. A question with an annotator brings what this annotator said
    of the point, as often as it is asked (of several answers the first in the order below). One
    without brings an answer that has not been given yet, whoever gave it: each recorded answer is
    one piece of evidence. They come in a seeded order that depends on nothing that was asked;
    `reset` starts it anew.

    Parameters
    ----------
    annotations
        The recorded labels.
    seed
        Another seed, another order of the answers of each point.

    Raises
    ------
    DataError
        If there are no labels.
    OptionError
        If the seed is none.

    Examples
    --------
    >>> crowd = Annotations.from_arrays(["x", "x", "y"], ["ann", "bo", "bo"], ["cat", "dog", "dog"])
    >>> oracle = RecordedAnswers(crowd)
    >>> oracle.can_answer([0, 1], annotator=[0, 0]).tolist()
    [True, False]
    >>> oracle(Queries([0, 1], annotator=[0, 0], classes=("cat", "dog"))).tolist()
    [0, -1]
    >>> oracle(Queries([0, 0], classes=("cat", "dog"))).tolist()
    [1, -1]
    >>> oracle.can_answer([0, 1]).tolist()
    [False, True]
    """

    def __init__(self, annotations: Annotations, seed: int = 0) -> None:
        check_seed("seed", seed)
        if not isinstance(annotations, Annotations):
            raise DataError(f"annotations: expected Annotations, got {type(annotations).__name__}")
        if annotations.label is None or not len(annotations):
            raise DataError("annotations: expected recorded labels, got none")
        self.annotations = annotations
        self.classes = tuple(annotations.classes.tolist())
        self._task = annotations.task.cpu().numpy()
        self._annotator = annotations.annotator.cpu().numpy()
        self._label = annotations.label.cpu().numpy()
        # Shuffled, then sorted by task: rows of one task lie together in random order.
        shuffled = np.random.default_rng(seed).permutation(len(self._task))
        self._rows = shuffled[np.argsort(self._task[shuffled], kind="stable")]
        bounds = np.arange(annotations.n_tasks + 1)
        self._start = np.searchsorted(self._task[self._rows], bounds)
        self._given = np.zeros(len(self._task), dtype=bool)
        self._pairs = np.unique(self._task * annotations.n_annotators + self._annotator)

    def reset(self) -> None:
        """Forget which answers were given."""
        self._given[:] = False

    def __call__(self, queries: Queries) -> Ints:
        """Recorded labels, −1 where there is none."""
        return self.answers(queries).labels

    def answers(self, queries: Queries) -> Answers:
        """Recorded labels with who gave them.

        Raises
        ------
        DataError
            If points, annotators or classes are not those of the annotations.
        """
        check_names(queries.classes, self.classes, "the recorded answers")
        self._check(queries.index, queries.annotator)
        labels = np.full(len(queries), -1, dtype=np.int64)
        who = np.full(len(queries), -1, dtype=np.int64)
        for query in range(len(queries)):
            found = self._answers(*queries.key(query))
            if len(found):
                labels[query], who[query] = self._label[found[0]], self._annotator[found[0]]
                self._given[found[0]] = True
        return Answers(labels, who)

    def can_answer(self, index: Any, annotator: Any = None) -> Bools:
        """Whether the annotator said something of the point; without one, whether there is more.

        Parameters
        ----------
        index
            int64 [b]: positions of tasks.
        annotator
            int64 [b]: positions of annotators, or None.
        """
        index = positions(index, "index")
        if annotator is None:
            self._check(index, None)
            more = self._task[~self._given]
            counts = np.bincount(more, minlength=self.annotations.n_tasks)
            return np.asarray(counts[index] > 0)
        annotator = positions(annotator, "annotator")
        if len(annotator) != len(index):
            raise DataError(f"annotator: expected {len(index)} positions, got {len(annotator)}")
        self._check(index, annotator)
        size = self.n_annotators
        return np.isin(index * size + annotator, self._pairs)

    @property
    def n_annotators(self) -> int:
        """Number of annotators."""
        return self.annotations.n_annotators

    def _check(self, index: Ints, annotator: Ints | None) -> None:
        within(index, self.annotations.n_tasks, "index", "annotations.tasks")
        if annotator is not None:
            within(annotator, self.n_annotators, "annotator", "annotations.annotators")

    def _answers(self, task: int, annotator: int | None) -> Ints:
        """Rows with an annotator's answers to a task; without one, rows not given yet."""
        rows = self._rows[self._start[task] : self._start[task + 1]]
        if annotator is None:
            return rows[~self._given[rows]]
        return rows[self._annotator[rows] == annotator]
