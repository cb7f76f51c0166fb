"""What has been answered so far, by whom, and what it says of the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.blocks import TOLERANCE, check_rows
from likely.inference.active.checks import integers
from likely.inference.active.predict import take
from likely.inference.engines.checks import check_int
from likely.inference.engines.em import EM
from likely.inference.errors import OptionError
from likely.models import Annotations, DawidSkene, weighted_vote

Ints = NDArray[np.int64]
TRUTH_RULES = ("last", "majority_vote", "dawid_skene")
# Posterior over the true classes [n_tasks, K] from the answers.
TruthRule = Callable[[Annotations], Tensor]


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Answers in the order in which they came; nothing is ever taken out.

    Attributes
    ----------
    index
        int64 [m]: row of the pool that each answer is about.
    label
        int64 [m]: position of the class that was answered.
    annotator
        int64 [m]: who answered; −1 where nobody in particular was asked.
    round
        int64 [m]: round in which it was asked, −1 for what was known before.
    n_classes
        Number of classes.

    Raises
    ------
    DataError
        If the columns are no integers, differ in length or hold values out of range.
    OptionError
        If ``n_classes`` is no integer of at least 2.

    Examples
    --------
    >>> answers = LabelledSet.empty(2).add([4, 4, 7], [1, 0, 0], annotator=[0, 1, 0])
    >>> answers.points.tolist(), answers.posterior("majority_vote").tolist()
    ([4, 7], [[0.5, 0.5], [1.0, 0.0]])
    """

    index: Ints
    label: Ints
    annotator: Ints
    round: Ints
    n_classes: int

    def __post_init__(self) -> None:
        check_int("n_classes", self.n_classes, 2)
        columns = ("index", "label", "annotator", "round")
        for name in columns:
            object.__setattr__(self, name, integers(getattr(self, name), name))
        sizes = {name: len(getattr(self, name)) for name in columns}
        if len(set(sizes.values())) > 1:
            raise DataError(f"index, label, annotator, round: expected equal lengths, got {sizes}")
        for name, lowest in (("index", 0), ("label", 0), ("annotator", -1)):
            column = getattr(self, name)
            if len(column) and column.min() < lowest:
                raise DataError(f"{name}: expected at least {lowest}, got {column.min()}")
        if len(self.label) and self.label.max() >= self.n_classes:
            raise DataError(
                f"label: expected positions of {self.n_classes} classes, got {self.label.max()}"
            )

    @classmethod
    def empty(cls, n_classes: int) -> LabelledSet:
        """Nothing answered yet."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, none, none, n_classes)

    def add(self, index: Any, label: Any, annotator: Any = None, round: int = -1) -> LabelledSet:
        """The set with answers added; a label of −1 is no answer and adds nothing.

        Parameters
        ----------
        index, label
            int64 [b].
        annotator
            int64 [b], or None where nobody in particular was asked.
        round
            When they were asked.
        """
        index, label = integers(index, "index"), integers(label, "label")
        who = np.full(len(index), -1) if annotator is None else integers(annotator, "annotator")
        if not len(index) == len(label) == len(who):
            raise DataError(
                f"label: expected {len(index)} answers, one for each index, got {len(label)}"
                if len(index) != len(label)
                else f"annotator: expected {len(index)} positions, got {len(who)}"
            )
        given = label != -1
        return replace(
            self,
            index=np.concatenate([self.index, index[given]]),
            label=np.concatenate([self.label, label[given]]),
            annotator=np.concatenate([self.annotator, who[given]]),
            round=np.concatenate([self.round, np.full(int(given.sum()), round)]),
        )

    def __len__(self) -> int:
        return len(self.index)

    @property
    def points(self) -> Ints:
        """Rows of the pool with an answer, sorted."""
        return np.unique(self.index)

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """The (point, annotator) pairs that were answered."""
        return set(zip(self.index.tolist(), self.annotator.tolist(), strict=True))

    def annotations(self, x: Any = None, n_annotators: int | None = None) -> Annotations:
        """The answers as crowd labels; tasks are the answered points in order.

        Parameters
        ----------
        x
            The pool's features, [pool, d]; put beside the tasks.
        n_annotators
            How many there are, those included who have not answered yet.

        Raises
        ------
        DataError
            If nothing was answered yet.
        """
        if not len(self):
            raise DataError("the labelled set is empty: there are no answers yet")
        who = np.unique(self.annotator)
        if n_annotators is not None:
            known = np.arange(n_annotators)
            who = np.concatenate([who[who < 0], known])
        return Annotations.from_arrays(
            self.index,
            self.annotator,
            self.label,
            tasks=self.points,
            annotators=who,
            classes=np.arange(self.n_classes),
            features=None if x is None else take(x, self.points),
        )

    def posterior(self, rule: str | TruthRule = "majority_vote") -> Tensor:
        """What the answers say of the true classes of `points`, [n_points, K].

        Parameters
        ----------
        rule
            ``"last"``: the newest answer is true. ``"majority_vote"``: shares of the votes.
            ``"dawid_skene"``: the posterior of `DawidSkene` at its mode, with the default priors,
            which few answers need. Or a callable from `Annotations` to probabilities
            [n_points, K].
        """
        check_truth(rule)
        found = self._found.get(rule)
        if found is None:
            found = self._found[rule] = self._posterior(rule)
        return found.clone()

    @cached_property
    def _found(self) -> dict[str | TruthRule, Tensor]:
        """Posteriors by rule: several parts of a round ask for the same one."""
        return {}

    def _posterior(self, rule: str | TruthRule) -> Tensor:
        if rule == "last":
            # The last occurrence of each point, in the order of `points`.
            _, last = np.unique(self.index[::-1], return_index=True)
            newest = torch.from_numpy(self.label[::-1][last].copy())
            return torch.nn.functional.one_hot(newest, self.n_classes).to(torch.float64)
        annotations = self.annotations()
        if rule == "majority_vote":
            votes = torch.ones(annotations.n_annotators, dtype=torch.float64)
            return weighted_vote(annotations, votes).shares
        if rule == "dawid_skene":
            return dawid_skene_posterior(annotations)
        assert callable(rule)
        given = rule(annotations)
        try:
            found = torch.as_tensor(given, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"truth: the callable must return probabilities, got {type(given).__name__}"
            ) from error
        if found.shape != (annotations.n_tasks, self.n_classes):
            raise DataError(
                f"truth: the callable must return shape "
                f"{(annotations.n_tasks, self.n_classes)}, got {tuple(found.shape)}"
            )
        check_rows(found, TOLERANCE[found.dtype], name="truth")
        return found


def check_truth(rule: Any) -> None:
    """Raise an `OptionError` unless it is a rule that `LabelledSet.posterior` knows."""
    if not callable(rule) and not (isinstance(rule, str) and rule in TRUTH_RULES):
        raise OptionError(
            f"truth must be 'last', 'majority_vote', 'dawid_skene' or a callable, got {rule!r}"
        )


def dawid_skene_posterior(annotations: Annotations) -> Tensor:
    """Truth posterior [n_tasks, K] of `DawidSkene` at its posterior mode, found by EM."""
    program = DawidSkene(annotations.n_classes)
    # A posterior that moves by less than this changes no decision.
    return EM(objective="posterior", tol=1e-10).fit(program, annotations).latent("truth")
