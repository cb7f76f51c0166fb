"""When to stop asking."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from likely.inference.active.checks import Ints, positions
from likely.inference.engines.checks import check_int, check_positive, is_number
from likely.inference.errors import OptionError


@dataclass(frozen=True, eq=False)
class Progress:
    """What a stopping rule may look at, after a fit and before the next question.

    Attributes
    ----------
    history
        The rounds so far; the last row is the present fit, see `Learned.history`.
    predictions
        Predicted classes of a fixed set of points [n], one array a fit, oldest first.
    gain
        What the best question alone is expected to bring: the highest score among the candidates
        (of `bald`, for batches chosen together); NaN before the first.
    """

    history: pd.DataFrame
    predictions: Sequence[Ints]
    gain: float = float("nan")


# A rule says why to stop, or nothing.
StoppingRule = Callable[[Progress], str | None]


@dataclass(frozen=True)
class Budget:
    """Stop after so many answers, or when their price is spent.

    Parameters
    ----------
    answers : int, optional
        Most answers, those given before the start included.
    cost : float, optional
        Most that they may cost, in the units of the learner's ``costs``; a question that would
        pass it is not asked.
    """

    answers: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        if self.answers is None and self.cost is None:
            raise OptionError("answers or cost must be given, got neither")
        if self.answers is not None:
            check_int("answers", self.answers, 1)
        if self.cost is not None:
            check_positive("cost", self.cost)

    def __call__(self, progress: Progress) -> str | None:
        """The reason to stop, if there is one."""
        last = progress.history.iloc[-1]
        if self.answers is not None and last["n_answers"] >= self.answers:
            return f"budget of {self.answers} answers is spent"
        if self.cost is not None and last["cost"] >= self.cost:
            return f"budget of {self.cost:g} is spent"
        return None


@dataclass(frozen=True)
class Plateau:
    """Stop where the metric has not risen for some rounds.

    Parameters
    ----------
    rounds : int
        How many.
    tol : float
        What does not count as a rise.
    """

    rounds: int = 5
    tol: float = 1e-3

    def __post_init__(self) -> None:
        check_int("rounds", self.rounds, 1)
        if not (is_number(self.tol) and 0 <= self.tol < float("inf")):
            raise OptionError(f"tol must be a finite number of at least 0, got {self.tol!r}")

    def __call__(self, progress: Progress) -> str | None:
        """The reason to stop, if there is one."""
        metric = progress.history["metric"].dropna().to_numpy()
        if len(metric) <= self.rounds:
            return None
        before, after = metric[: -self.rounds].max(), metric[-self.rounds :].max()
        if after > before + self.tol:
            return None
        return f"the metric has not risen by more than {self.tol:g} for {self.rounds} rounds"


@dataclass(frozen=True)
class StablePredictions:
    """Stop where successive fits agree (Bloodgood & Vijay-Shanker 2009).

    Agreement is Cohen's kappa between the classes that two fits in a row predict for the same
    points, averaged over the last pairs of fits.

    Parameters
    ----------
    kappa : float
        The agreement that is enough.
    rounds : int
        Over how many pairs it is averaged.
    """

    kappa: float = 0.99
    rounds: int = 3

    def __post_init__(self) -> None:
        check_positive("kappa", self.kappa)
        check_int("rounds", self.rounds, 1)
        if self.kappa > 1:
            raise OptionError(f"kappa must be at most 1, got {self.kappa}")

    def __call__(self, progress: Progress) -> str | None:
        """The reason to stop, if there is one."""
        seen = progress.predictions[-self.rounds - 1 :]
        if len(seen) <= self.rounds:
            return None
        found = [cohen_kappa(a, b) for a, b in itertools.pairwise(seen)]
        mean = float(np.mean(found))
        if mean < self.kappa:
            return None
        return f"predictions are stable: kappa {mean:.4f} over {self.rounds} rounds"


@dataclass(frozen=True)
class GainBelowCost:
    """Stop where the best question is expected to bring less than it costs.

    Strategies that expect nothing of a point (`Random`) have no gain, and are not stopped.

    Parameters
    ----------
    cost : float
        Of one answer, in the units of the acquisition's scores: nats for `bald`, and for the
        batches that start from it.
    """

    cost: float

    def __post_init__(self) -> None:
        check_positive("cost", self.cost)

    def __call__(self, progress: Progress) -> str | None:
        """The reason to stop, if there is one."""
        if not progress.gain < self.cost:
            return None
        return f"expected gain {progress.gain:.3g} is below the cost {self.cost:g}"


def cohen_kappa(first: Ints, second: Ints) -> float:
    """Agreement beyond chance of two sequences of classes (Cohen 1960).

    1 where both are the same constant.

    Raises
    ------
    DataError
        If they are no positions of classes.
    OptionError
        If they are empty or differ in length.

    Examples
    --------
    >>> cohen_kappa(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]))
    0.5
    """
    first, second = positions(first, "first"), positions(second, "second")
    if len(first) != len(second) or not len(first):
        raise OptionError(
            f"expected two sequences of equal length, got {len(first)}, {len(second)}"
        )
    size = int(max(first.max(), second.max())) + 1
    a, b = np.bincount(first, minlength=size), np.bincount(second, minlength=size)
    chance = float(a @ b) / len(first) ** 2
    observed = float(np.mean(first == second))
    return 1.0 if chance == 1.0 else (observed - chance) / (1 - chance)
