"""What a strategy is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from likely.inference.active.labelled import Ints, LabelledSet
from likely.inference.active.predict import (
    Call,
    class_probabilities,
    points_and_labels,
    rows_within,
    take,
)
from likely.inference.active.training import Trainer
from likely.inference.fit import Fit


class Picks(NamedTuple):
    """What a strategy chose.

    Attributes
    ----------
    indices : ndarray
        int64 [b]: rows of the pool, best first.
    scores : ndarray
        float [b]: what the strategy thinks of them.
    annotators : ndarray or None
        int64 [b]: whom to ask, where the strategy chose that as well.
    gain : float or None
        What the best of all candidates is expected to bring; None for the highest of the scores.
    """

    indices: Ints
    scores: np.ndarray[Any, Any]
    annotators: Ints | None = None
    gain: float | None = None


@dataclass(frozen=True, eq=False)
class Context:
    """What a strategy may look at.

    Attributes
    ----------
    x
        The pool.
    candidates
        int64 [m]: rows of the pool that may be asked.
    labelled
        The answers so far.
    fits
        The fit, or the members of a committee.
    n_classes
        Number of classes K.
    seed
        Of this round.
    draws
        Most posterior draws.
    budget
        Bytes that a block of probabilities may take.
    call
        From points and labels to the arguments of the program.
    trainer
        How answers become fits.
    n_annotators
        How many people may be asked; 0 where nobody in particular is.
    pairs
        ``pairs(index)`` gives the (position in index, annotator) pairs that may be asked.
    costs
        Of an answer, or of one by each annotator.
    """

    x: Any
    candidates: Ints
    labelled: LabelledSet
    fits: tuple[Fit, ...]
    n_classes: int
    seed: int = 0
    draws: int = 100
    budget: int = 1 << 28
    call: Call = points_and_labels
    trainer: Trainer | None = None
    n_annotators: int = 0
    pairs: Callable[[Ints], tuple[Ints, Ints]] | None = None
    costs: float | Sequence[float] = 1.0

    def probabilities(self, index: Ints) -> Tensor:
        """Class probabilities [draws, b, K] of rows of the pool."""
        return class_probabilities(
            self.fits,
            take(self.x, index),
            self.n_classes,
            draws=self.draws,
            call=self.call,
            rows=index,
        )

    @property
    def n_draws(self) -> int:
        """Number of draws that `probabilities` gives."""
        each = [1 if fit.is_point else _count(fit) for fit in self.fits]
        return sum(min(count, self.draws) for count in each)

    def chunks(self) -> Iterator[tuple[Ints, Tensor]]:
        """Candidates part by part with their probabilities, each within the budget."""
        rows = rows_within(self.budget, self.n_draws, self.n_classes)
        for start in range(0, len(self.candidates), rows):
            index = self.candidates[start : start + rows]
            yield index, self.probabilities(index)


@runtime_checkable
class Strategy(Protocol):
    """Chooses a batch.

    ``needs`` is ``"nothing"``, ``"prediction"`` (one fit will do), ``"any"`` or ``"draws"``.
    """

    @property
    def name(self) -> str:
        """For the record."""
        ...

    @property
    def needs(self) -> str:
        """What it looks at."""
        ...

    def select(self, context: Context, batch_size: int) -> Picks:
        """The batch, best first; ``batch_size`` is at most the number of candidates."""
        ...


def _count(fit: Fit) -> int:
    chains, kept = next(iter(fit.draws.values())).shape[:2]
    return int(chains * kept)
