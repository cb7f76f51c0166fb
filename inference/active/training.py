"""From answers to fits: what a program is called with, and the members of a committee."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.inference.active.labelled import Ints, LabelledSet, TruthRule
from likely.inference.active.predict import Call, called, points_and_labels, take
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_choice, check_int
from likely.inference.errors import BoundaryWarning, ConvergenceWarning, OptionError
from likely.inference.fit import Fit
from likely.models import Annotations
from likely.models.crowd._program import CrowdProgram
from likely.models.crowd.baselines import labels_of

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Committee:
    """Several fits of one engine, whose disagreement stands for uncertainty (Seung et al. 1992).

    Parameters
    ----------
    size : int
        Number of members, at least 2.
    kind : {"bootstrap", "restarts"}
        Members learn from resampled points (Abe & Mamitsuka 1998), or from the same points from
        other seeds, which differ only where the engine's result depends on its start.
    """

    size: int = 5
    kind: str = "bootstrap"

    def __post_init__(self) -> None:
        check_int("size", self.size, 2)
        check_choice("kind", self.kind, ("bootstrap", "restarts"))


@dataclass(frozen=True)
class Trainer:
    """Fits a program to a labelled set.

    Parameters
    ----------
    program : callable
        A program of labels given points, ``program(x, labels)``, with ``weights=`` where answers
        disagree; or a crowd program with a classifier, which is given `Annotations`.
    engine : Engine
        How it is fitted.
    truth : str or callable
        What the labelled set says of the truth, see `LabelledSet.posterior`; crowd programs judge
        for themselves.
    committee : Committee, optional
        Several fits in place of one.
    n_annotators : int, optional
        Number of annotators, those included who have not answered.
    call : callable
        From points and labels to the arguments of a program of labels.
    """

    program: Callable[..., Any]
    engine: Engine
    truth: str | TruthRule = "majority_vote"
    committee: Committee | None = None
    n_annotators: int | None = None
    call: Call = points_and_labels

    def fit(
        self, labelled: LabelledSet, x: Any, seed: int, last: Sequence[Fit] = ()
    ) -> tuple[Fit, ...]:
        """Fit to the answers, each member starting at its last fit.

        Parameters
        ----------
        labelled : LabelledSet
            At least one answer.
        x
            The pool.
        seed : int
            Seeds engine and resampling.
        last : sequence of Fit
            Fits of the round before.

        Returns
        -------
        tuple of Fit
            One, or the committee's members.
        """
        size = 1 if self.committee is None else self.committee.size
        bootstrap = self.committee is not None and self.committee.kind == "bootstrap"
        crowd = isinstance(self.program, CrowdProgram)
        posterior = None if crowd else labelled.posterior(self.truth)
        fits = []
        for member in range(size):
            rows = None
            if bootstrap:
                rng = np.random.default_rng([seed, member])
                rows = resampled(labelled.points, posterior, rng)
            args, kwargs = self._arguments(labelled, x, posterior, rows)
            start = last[member] if member < len(last) else None
            engine = with_options(self.engine, seed=seed + 7919 * member, init=start)
            with warnings.catch_warnings():
                # Few labels often leave a fit unfinished; the learner reports the last one's state.
                warnings.simplefilter("ignore", ConvergenceWarning)
                # Few labels often lead to a boundary as well, of which predictions need no errors.
                warnings.simplefilter("ignore", BoundaryWarning)
                fits.append(engine.fit(self.program, *args, **kwargs))
        return tuple(fits)

    def _arguments(
        self, labelled: LabelledSet, x: Any, posterior: Tensor | None, rows: Ints | None
    ) -> Arguments:
        if posterior is None:
            annotations = labelled.annotations(x, self.n_annotators)
            return (annotations if rows is None else _picked(annotations, rows),), {}
        points = labelled.points
        if rows is not None:
            points, posterior = points[rows], posterior[torch.from_numpy(rows)]
        return arguments(self.program, x, points, posterior, self.call)


def arguments(
    program: Callable[..., Any],
    x: Any,
    points: Ints,
    posterior: Tensor,
    call: Call = points_and_labels,
) -> Arguments:
    """What a program of labels is called with: labels, or weighted rows where they are soft.

    A point whose class is uncertain becomes one row a class, each weighing its probability, which
    makes the log-likelihood the expected one: Σ_i Σ_k p_ik log p(k | x_i).

    Raises
    ------
    OptionError
        If labels are soft and the program takes no weights.
    """
    row, label = (posterior > 0).nonzero(as_tuple=True)
    picked = take(x, points[row.numpy()])
    if len(row) == len(points):
        return called(call, picked, label)
    if not takes_weights(program):
        raise OptionError(
            f"answers disagree, and program {program!r} takes no weights=, so that soft labels "
            "cannot be given to it; add the argument, or use truth='last'"
        )
    args, kwargs = called(call, picked, label)
    return args, kwargs | {"weights": posterior[row, label]}


def takes_weights(program: Callable[..., Any]) -> bool:
    """Whether a program has an argument ``weights``."""
    try:
        return "weights" in inspect.signature(program).parameters
    except (TypeError, ValueError):
        return False


def resampled(points: Ints, posterior: Tensor | None, rng: np.random.Generator) -> Ints:
    """Positions of a bootstrap sample in which each class that occurs occurs still.

    A member that never saw a class would say nothing of it.
    """
    rows = rng.integers(0, len(points), len(points))
    if posterior is None:
        return rows
    best = posterior.argmax(-1).numpy()
    for missing in np.setdiff1d(best, best[rows]):
        counts = np.bincount(best[rows], minlength=posterior.shape[1])
        # Take its place from the class that can best spare one.
        spare = np.flatnonzero(best[rows] == counts.argmax())
        if counts.max() > 1:
            rows[rng.choice(spare)] = rng.choice(np.flatnonzero(best == missing))
    return rows


def _picked(annotations: Annotations, rows: Ints) -> Annotations:
    """Tasks of a bootstrap sample, each a task of its own."""
    task, label = annotations.task.numpy(), labels_of(annotations)
    order = np.argsort(task, kind="stable")
    starts = np.searchsorted(task[order], np.arange(annotations.n_tasks + 1))
    taken = [order[starts[i] : starts[i + 1]] for i in rows]
    new_task = np.repeat(np.arange(len(rows)), [len(part) for part in taken])
    where = torch.from_numpy(np.concatenate(taken))
    features = annotations.features
    return replace(
        annotations,
        task=torch.from_numpy(new_task),
        annotator=annotations.annotator[where],
        label=label[where],
        tasks=np.arange(len(rows)),
        features=None if features is None else features[torch.from_numpy(rows)],
    )


def with_options(engine: Engine, **options: Any) -> Engine:
    """An engine with other options, as far as it has them; an option of None stays as it is."""
    if not is_dataclass(engine) or isinstance(engine, type):
        return engine
    known: Mapping[str, Any] = engine.__dataclass_fields__
    given = {k: v for k, v in options.items() if k in known and v is not None}
    return replace(engine, **given)
