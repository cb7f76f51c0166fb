"""The learner's side of an oracle: who may be asked what, and at what price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from likely.inference.active.context import Context, Picks
from likely.inference.active.labelled import Ints, LabelledSet
from likely.inference.active.oracle import Queries, ask, can_answer
from likely.inference.active.people import AnnotatorChoice, anybody
from likely.inference.active.predict import take
from likely.inference.active.state import State
from likely.inference.errors import OptionError

# Points that are looked at together where each may be asked of many annotators.
_ROWS = 1 << 16


@dataclass(frozen=True, eq=False)
class Asking:
    """An oracle, the pool it is asked about, and the rules.

    Attributes
    ----------
    oracle
        From `Queries` to labels. With an attribute ``n_annotators`` questions go to somebody.
    pool
        The points.
    n_classes
        Number of classes.
    classes
        Their names, or None.
    costs
        Of an answer, or of one by each annotator.
    relabel
        Whether a point with an answer may be asked again.
    """

    oracle: Callable[..., Any]
    pool: Any
    n_classes: int
    classes: Sequence[Any] | None = None
    costs: float | Sequence[float] = 1.0
    relabel: bool = False

    def __post_init__(self) -> None:
        try:
            cost = np.asarray(self.costs, dtype=float)
        except (TypeError, ValueError) as error:
            raise OptionError(f"costs must be numbers, got {self.costs!r}") from error
        if cost.ndim > 1 or not (np.isfinite(cost).all() and (cost >= 0).all()):
            raise OptionError(f"costs must be finite numbers of at least 0, got {self.costs!r}")
        if cost.ndim == 1 and len(cost) != self.n_annotators:
            raise OptionError(
                f"costs must be one number, or one for each of {self.n_annotators} annotators, "
                f"got {len(cost)}"
            )

    @property
    def n_annotators(self) -> int:
        """How many people may be asked; 0 where nobody in particular is."""
        return int(getattr(self.oracle, "n_annotators", 0) or 0)

    def cost_of(self, annotator: Ints) -> np.ndarray[Any, Any]:
        """Price [b] of an answer by each; of nobody in particular the mean."""
        cost = np.asarray(self.costs, dtype=float)
        if cost.ndim == 0:
            return np.full(len(annotator), float(cost))
        return np.where(annotator >= 0, cost[annotator], cost.mean())

    def spent(self, labelled: LabelledSet) -> float:
        """Price of all answers."""
        return float(self.cost_of(labelled.annotator).sum())

    def candidates(self, state: State) -> Ints:
        """Rows of the pool that somebody may be asked about, in order."""
        free = np.ones(len(self.pool), dtype=bool)
        if not self.relabel:
            free[state.labelled.index] = False
        if not self.n_annotators:
            # One question a point, if nobody in particular is asked.
            free[state.labelled.index] = False
            free[[index for index, _ in state.refused]] = False
            rows = np.flatnonzero(free)
            return rows[can_answer(self.oracle, rows)] if len(rows) else rows
        rows = np.flatnonzero(free)
        found = [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            found.append(part[np.unique(self.pairs(state, part)[0])])
        return np.concatenate(found)

    def pairs(self, state: State, index: Ints) -> tuple[Ints, Ints]:
        """Who may be asked about which point.

        Parameters
        ----------
        state : State
            What was asked before is not asked again.
        index : ndarray
            int64 [b]: rows of the pool.

        Returns
        -------
        position, annotator : ndarray
            int64 [p]: position in ``index``, and whom to ask.
        """
        count = self.n_annotators
        position = np.repeat(np.arange(len(index)), count)
        annotator = np.tile(np.arange(count), len(index))
        asked = {(i, who) for i, who in (*state.refused, *state.labelled.pairs) if who >= 0}
        taken = np.array([i * count + who for i, who in asked], dtype=np.int64)
        free = ~np.isin(index[position] * count + annotator, taken)
        position, annotator = position[free], annotator[free]
        if len(position):
            able = can_answer(self.oracle, index[position], annotator)
            position, annotator = position[able], annotator[able]
        return position, annotator

    def whom(self, context: Context, index: Ints, choice: AnnotatorChoice | None) -> Ints | None:
        """Whom to ask about each point; None where there is nobody to choose from."""
        if not self.n_annotators:
            if choice is not None:
                raise OptionError(
                    "annotators: the oracle has no attribute n_annotators, so there is nobody to "
                    "choose from"
                )
            return None
        chosen = np.asarray((choice or anybody)(context, index))
        if chosen.shape != index.shape or chosen.dtype.kind not in "iu":
            raise OptionError(
                f"annotators must return {len(index)} positions, got {chosen.dtype} of shape "
                f"{chosen.shape}"
            )
        return chosen.astype(np.int64)

    def payable(self, picks: Picks, left: float) -> Picks:
        """Those picks that can be paid together, in order, with what is left."""
        who = np.full(len(picks.indices), -1) if picks.annotators is None else picks.annotators
        kept, total = [], 0.0
        for position, price in enumerate(self.cost_of(who).tolist()):
            if total + price <= left:
                kept.append(position)
                total += price
        if len(kept) == len(who):
            return picks
        people = None if picks.annotators is None else picks.annotators[kept]
        return picks._replace(
            indices=picks.indices[kept], scores=picks.scores[kept], annotators=people
        )

    def ask(self, picks: Picks) -> Ints:
        """The answers, −1 where there is none."""
        return ask(self.oracle, self.queries(picks, take(self.pool, picks.indices)))

    def checked(self, labels: Any, size: int) -> Ints:
        """Answers that came with `LabellingStopped`."""
        queries = Queries(np.arange(size), classes=self._names)
        return ask(lambda _: labels, queries)

    @staticmethod
    def unanswered(picks: Picks, labels: Ints) -> frozenset[tuple[int, int]]:
        """The (point, annotator) pairs without an answer."""
        who = np.full(len(labels), -1) if picks.annotators is None else picks.annotators
        none = labels == -1
        return frozenset(zip(picks.indices[none].tolist(), who[none].tolist(), strict=True))

    @property
    def _names(self) -> tuple[Any, ...]:
        own = getattr(self.oracle, "classes", None)
        names = own if self.classes is None and own is not None else self.classes
        return tuple(range(self.n_classes)) if names is None else tuple(names)

    def queries(self, picks: Picks, points: Any) -> Queries:
        """What the oracle is asked, with the points themselves."""
        return Queries(picks.indices, points, picks.annotators, self._names)
