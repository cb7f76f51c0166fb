"""Who answers: an oracle is a callable from queries to labels."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from likely.envs import DataError
from likely.inference.active.checks import (
    Ints,
    check_labels,
    checked_classes,
    integers,
    positions,
    within,
)

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Queries:
    """Questions for an oracle: which rows of the pool, asked of whom.

    Attributes
    ----------
    index
        int64 [B]: rows of the pool. A row may be asked more than once.
    points
        Those rows of the pool, [B, ...] (array, tensor, data frame or sequence), or None.
    annotator
        int64 [B]: whom to ask; None for nobody in particular.
    classes
        The classes, in the order of their positions 0..K−1.

    Raises
    ------
    DataError
        If lengths disagree, positions are negative, or there are fewer than two classes.

    Examples
    --------
    >>> queries = Queries([5, 2], classes=("cat", "dog"))
    >>> len(queries), queries.index.tolist()
    (2, [5, 2])
    """

    index: Ints
    points: Any = None
    annotator: Ints | None = None
    classes: tuple[Hashable, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", positions(self.index, "index"))
        object.__setattr__(self, "classes", checked_classes(self.classes))
        if self.annotator is not None:
            object.__setattr__(self, "annotator", positions(self.annotator, "annotator"))
        for name in ("points", "annotator"):
            value = getattr(self, name)
            if value is not None and (not hasattr(value, "__len__") or len(value) != len(self)):
                count = len(value) if hasattr(value, "__len__") else type(value).__name__
                raise DataError(f"{name}: expected {len(self)}, one for each query, got {count}")

    def __len__(self) -> int:
        return len(self.index)

    def point(self, query: int) -> Any:
        """The row of the pool that a query is about; None where the points were not given."""
        return None if self.points is None else row(self.points, query)

    def key(self, query: int) -> tuple[int, int | None]:
        """Row of the pool and annotator of a query."""
        who = None if self.annotator is None else int(self.annotator[query])
        return int(self.index[query]), who


class Answers(NamedTuple):
    """Labels, and who gave them.

    Attributes
    ----------
    labels : ndarray
        int64 [B]: positions of classes, −1 where there is no answer.
    annotator : ndarray
        int64 [B]: who answered, −1 where there is no answer.
    """

    labels: Ints
    annotator: Ints


class Oracle(Protocol):
    """Anything that labels queries.

    An oracle may have a method ``can_answer(index, annotator=None)`` that tells beforehand, [B],
    what it has an answer to, and may raise `LabellingStopped`.
    """

    def __call__(self, queries: Queries) -> Ints:
        """Positions of classes, int64 [B]; −1 where there is no answer."""
        ...


def ask(oracle: Callable[[Queries], Any], queries: Queries) -> Ints:
    """An oracle's labels, checked.

    Parameters
    ----------
    oracle
        A callable from queries to labels.
    queries
        What is asked.

    Returns
    -------
    ndarray
        int64 [B]: positions of classes, −1 where there is no answer.

    Raises
    ------
    DataError
        If the labels are no integers from −1 to K−1, one for each query.

    Examples
    --------
    >>> ask(lambda queries: queries.index % 2, Queries([3, 4], classes=("even", "odd"))).tolist()
    [1, 0]
    """
    labels = integers(oracle(queries), "labels")
    if len(labels) != len(queries):
        raise DataError(f"labels: expected {len(queries)}, one for each query, got {len(labels)}")
    check_labels(labels, len(queries.classes), "labels")
    return labels


def can_answer(oracle: Any, index: Any, annotator: Any = None) -> Bools:
    """Whether an oracle has an answer to each query, bool [B]; true unless the oracle denies it.

    Parameters
    ----------
    oracle
        A callable from queries to labels, with or without a method ``can_answer``.
    index
        int64 [B]: rows of the pool.
    annotator
        int64 [B], or None for nobody in particular.
    """
    index = positions(index, "index")
    told = getattr(oracle, "can_answer", None)
    if told is None:
        return np.ones(len(index), dtype=bool)
    found = np.asarray(told(index, annotator))
    if found.shape != index.shape or found.dtype != bool:
        raise DataError(
            f"can_answer: expected a truth value for each of {len(index)} queries, got "
            f"{found.dtype} of shape {found.shape}"
        )
    return found


class ArrayOracle:
    """Labels that are all known beforehand: a simulation, whoever is asked.

    Parameters
    ----------
    labels
        int64 [n]: position of the class of each row of the pool, −1 where it is unknown.

    Raises
    ------
    DataError
        If they are no such integers.

    Examples
    --------
    >>> oracle = ArrayOracle([0, 1, -1])
    >>> oracle(Queries([2, 1], classes=("cat", "dog"))).tolist()
    [-1, 1]
    >>> oracle.can_answer([2, 1]).tolist()
    [False, True]
    """

    def __init__(self, labels: Any) -> None:
        self.labels = integers(labels, "labels")
        if not len(self.labels):
            raise DataError("labels: expected at least one, got none")
        if self.labels.min() < -1:
            raise DataError(f"labels: expected positions, or −1, got {self.labels.min()}")

    def __call__(self, queries: Queries) -> Ints:
        """Labels of the rows asked for."""
        within(queries.index, len(self.labels), "index", "labels")
        check_labels(self.labels, len(queries.classes), "labels")
        return self.labels[queries.index]

    def can_answer(self, index: Any, annotator: Any = None) -> Bools:
        """Whether the label is known."""
        index = positions(index, "index")
        within(index, len(self.labels), "index", "labels")
        return np.asarray(self.labels[index] >= 0)


class FunctionOracle:
    """Any callable from queries to labels, its answers checked.

    Parameters
    ----------
    function
        ``function(queries)`` gives positions of classes, int [B], −1 for no answer. It may raise
        `LabellingStopped`.

    Raises
    ------
    DataError
        If it cannot be called, or when it is asked and its labels cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> oracle = FunctionOracle(lambda queries: (queries.points > 0).astype(int))
    >>> oracle(Queries([5, 2], np.array([-1.0, 3.0]), classes=("low", "high"))).tolist()
    [0, 1]
    """

    def __init__(self, function: Callable[[Queries], Any]) -> None:
        if not callable(function):
            raise DataError(f"function: expected a callable, got {type(function).__name__}")
        self.function = function

    def __call__(self, queries: Queries) -> Ints:
        """The function's labels."""
        return ask(self.function, queries)

    def can_answer(self, index: Any, annotator: Any = None) -> Bools:
        """What the function's own ``can_answer`` says; true if it has none."""
        return can_answer(self.function, index, annotator)


def row(values: Any, position: int) -> Any:
    """One row of an array, tensor, data frame or sequence."""
    return values.iloc[position] if hasattr(values, "iloc") else values[position]
