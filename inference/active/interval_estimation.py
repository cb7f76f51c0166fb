"""How often each annotator is right, with an interval: interval estimation (Donmez et al. 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import special

from likely.inference.active.context import Context
from likely.inference.active.labelled import Ints, LabelledSet, TruthRule, check_truth
from likely.inference.active.people import askable, first_of_each
from likely.inference.engines.checks import check_int, is_number
from likely.inference.errors import OptionError

LEVEL = 0.95


def annotator_intervals(
    labelled: LabelledSet,
    n_annotators: int,
    *,
    truth: str | TruthRule = "majority_vote",
    level: float = LEVEL,
) -> pd.DataFrame:
    r"""Student intervals for the share of each annotator's answers that agree with the truth.

    :math:`\bar a \pm t_{n - 1} \, s / \sqrt n` over the n answers, each 1 where it is the most
    probable class, with one right and one wrong answer added, so that somebody who has not answered
    is right half of the time, most uncertainly (Donmez, Carbonell & Schneider 2009, section 2.2). s
    divides by n.

    Parameters
    ----------
    labelled : LabelledSet
        The answers; those of nobody in particular count for nobody.
    n_annotators : int
        Number of annotators L.
    truth : str or callable
        What answers are compared with, see `LabelledSet.posterior`; of equally probable classes the
        first.
    level : float
        Of the interval, between 0 and 1.

    Returns
    -------
    DataFrame
        One row an annotator: ``answers``, ``lower``, ``mean``, ``upper``.

    Raises
    ------
    OptionError
        If an option cannot be used.

    Examples
    --------
    >>> answers = LabelledSet.empty(2).add([0, 0, 0, 1], [1, 1, 0, 0], annotator=[0, 1, 2, 0])
    >>> annotator_intervals(answers, 4)["mean"].round(3).tolist()
    [0.75, 0.667, 0.333, 0.5]
    """
    check_level(level)
    check_int("n_annotators", n_annotators, 1)
    if not isinstance(labelled, LabelledSet):
        raise OptionError(f"labelled must be a LabelledSet, got {type(labelled).__name__}")
    right, count = np.ones(n_annotators), np.full(n_annotators, 2.0)
    if len(labelled):
        best = labelled.posterior(truth).argmax(-1).numpy()
        agrees = best[np.searchsorted(labelled.points, labelled.index)] == labelled.label
        named = labelled.annotator >= 0
        who = labelled.annotator[named]
        if len(who) and who.max() >= n_annotators:
            raise OptionError(f"n_annotators must be at least {who.max() + 1}, got {n_annotators}")
        right += np.bincount(who, agrees[named], n_annotators)
        count += np.bincount(who, minlength=n_annotators)
    mean = right / count
    half = special.stdtrit(count - 1, 0.5 + level / 2) * np.sqrt(mean * (1 - mean) / count)
    columns = {"answers": count.astype(int) - 2, "lower": mean - half, "mean": mean}
    return pd.DataFrame({**columns, "upper": mean + half})


def check_level(level: Any) -> None:
    """Raise an `OptionError` unless it is a number between 0 and 1."""
    if not is_number(level) or not 0.0 < level < 1.0:
        raise OptionError(f"level must be between 0 and 1, got {level!r}")


@dataclass(frozen=True)
class IntervalEstimation:
    """Anyone who may be nearly as good as the best (IEThresh, Donmez et al. 2009, section 2.3).

    Among those who may be asked, annotators whose upper bound is at least ``share`` of the highest
    one are equally likely. Bounds of people who have answered little are wide, so they get their
    chance; those who prove poor are no longer asked.

    Parameters
    ----------
    share : float
        Between 0 (anybody) and 1 (the highest bound alone).
    truth : str or callable
        What answers are compared with.
    level : float
        Of the intervals.
    """

    share: float = 0.9
    truth: str | TruthRule = "majority_vote"
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not is_number(self.share) or not 0.0 <= self.share <= 1.0:
            raise OptionError(f"share must be from 0 to 1, got {self.share!r}")
        check_level(self.level)
        check_truth(self.truth)

    def __call__(self, context: Context, index: Ints) -> Ints:
        """Whom to ask about each point; seeded by the context."""
        position, annotator = askable(context, index)
        table = annotator_intervals(
            context.labelled, context.n_annotators, truth=self.truth, level=self.level
        )
        upper = torch.from_numpy(table["upper"].to_numpy().copy())[torch.from_numpy(annotator)]
        highest = torch.full((len(index),), -torch.inf, dtype=upper.dtype)
        where = torch.from_numpy(position)
        highest.scatter_reduce_(0, where, upper, "amax")
        kept = (upper >= self.share * highest[where]).numpy()
        position, annotator = position[kept], annotator[kept]
        order = np.random.default_rng(context.seed).permutation(len(position))
        return first_of_each(index, position[order], annotator[order])
