"""Annotators that err by their confusion matrices."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.checks import positions, within
from likely.inference.active.oracle import Answers, Bools, Ints, Queries
from likely.inference.engines.checks import check_bool, check_seed

# Rows of single-precision tables sum to one as well as this.
_ROUNDING = 1e-5


class SimulatedAnnotators:
    """Annotator l calls a point of class k by the name j with probability confusion[l, k, j].

    An answer depends on the seed, the point and the annotator alone: the numbers come from a
    generator that counts (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so
    neither the order of questions nor their grouping matters, and who is asked again says the same
    again.

    Parameters
    ----------
    truth
        int64 [n]: true class of each row of the pool, 0..K−1.
    confusion
        [L, K, K]: one row-stochastic table an annotator, true class × answer; or [K, K] for one.
    seed
        Another seed, other answers.
    independent_repeats
        Whether asking the same annotator about the same point again draws a new answer; then the
        n-th answer of a pair depends on n as well.

    Raises
    ------
    DataError
        If the classes lie outside the tables, or a table's rows are no probabilities.
    OptionError
        If the seed is none.

    Examples
    --------
    >>> certain = [[1.0, 0.0], [0.0, 1.0]]
    >>> liar = [[0.0, 1.0], [1.0, 0.0]]
    >>> crowd = SimulatedAnnotators([0, 1, 1], [certain, liar], seed=0)
    >>> crowd(Queries([0, 1, 1], annotator=[0, 0, 1], classes=("cat", "dog"))).tolist()
    [0, 1, 0]
    """

    def __init__(
        self, truth: Any, confusion: Any, seed: int = 0, *, independent_repeats: bool = False
    ) -> None:
        check_seed("seed", seed)
        check_bool("independent_repeats", independent_repeats)
        self.confusion = _tables(confusion)
        self.truth = positions(truth, "truth")
        if not len(self.truth):
            raise DataError("truth: expected at least one class, got none")
        within(self.truth, self.n_classes, "truth", "the tables of confusion")
        self.seed = int(seed)
        self.independent_repeats = bool(independent_repeats)
        self._asked: Counter[tuple[int, int]] = Counter()

    @property
    def n_annotators(self) -> int:
        """Number of annotators."""
        return len(self.confusion)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.confusion.shape[-1]

    def __call__(self, queries: Queries) -> Ints:
        """Answers of the annotators asked; where none is named, of any one of them."""
        return self.answers(queries).labels

    def answers(self, queries: Queries) -> Answers:
        """Answers with who gave them; who is drawn for each point where nobody is named.

        Raises
        ------
        DataError
            If points, annotators or classes are not those of the simulation.
        """
        if len(queries.classes) != self.n_classes:
            raise DataError(
                f"classes: expected {self.n_classes}, as the tables of confusion have, got "
                f"{len(queries.classes)}"
            )
        within(queries.index, len(self.truth), "index", "truth")
        draws = np.empty(len(queries))
        who = np.empty(len(queries), dtype=np.int64)
        if queries.annotator is not None:
            within(queries.annotator, self.n_annotators, "annotator", "the crowd")
            who[:] = queries.annotator
        else:
            # Nobody is annotator number L, whom the answers themselves never count.
            for query, point in enumerate(queries.index.tolist()):
                turn = self._turn(point, self.n_annotators)
                who[query] = int(self._uniform(point, self.n_annotators, turn) * self.n_annotators)
        for query, (point, annotator) in enumerate(
            zip(queries.index.tolist(), who.tolist(), strict=True)
        ):
            draws[query] = self._uniform(point, annotator, self._turn(point, annotator))
        cumulative = self.confusion[who, self.truth[queries.index]].cumsum(-1)
        # The last sum is one but for rounding, and rounding must not draw a class beyond it.
        total = cumulative[:, -1]
        draws = np.minimum(draws * total, np.nextafter(total, 0.0))
        return Answers((draws[:, None] >= cumulative).sum(-1), who)

    def can_answer(self, index: Any, annotator: Any = None) -> Bools:
        """True for every point and annotator of the simulation."""
        found = positions(index, "index") < len(self.truth)
        if annotator is not None:
            found = found & (positions(annotator, "annotator") < self.n_annotators)
        return np.asarray(found)

    def _turn(self, point: int, annotator: int) -> int:
        """How often this pair was asked before, where that counts."""
        if not self.independent_repeats:
            return 0
        self._asked[point, annotator] += 1
        return self._asked[point, annotator] - 1

    def _uniform(self, point: int, annotator: int, turn: int) -> float:
        """A number in [0, 1) that belongs to seed, point, annotator and turn."""
        block = np.random.Philox(key=self.seed, counter=[0, point, annotator, turn])
        return float(np.random.Generator(block).random())


def _tables(confusion: Any) -> NDArray[np.float64]:
    """Row-stochastic tables as float64 [L, K, K]."""
    given = confusion.detach().cpu().numpy() if isinstance(confusion, Tensor) else confusion
    try:
        tables = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"confusion: expected an array of numbers [L, K, K]; {error}") from error
    if tables.ndim == 2:
        tables = tables[None]
    if tables.ndim != 3 or tables.shape[1] != tables.shape[2] or min(tables.shape) < 1:
        raise DataError(f"confusion: expected shape [L, K, K], got {tables.shape}")
    if not np.isfinite(tables).all() or (tables < 0).any():
        raise DataError("confusion: expected probabilities, got numbers below zero or not finite")
    worst = np.abs(tables.sum(-1) - 1.0).max()
    if worst > _ROUNDING:
        raise DataError(
            f"confusion: expected rows that sum to one (true class × answer), got {1 + worst:.6g}"
        )
    return tables
