"""One round of active learning: fit, judge, choose, ask."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from likely.inference.active.asking import Asking
from likely.inference.active.context import Context, Picks
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.labelled import Ints, LabelledSet
from likely.inference.active.metrics import as_metric, measured
from likely.inference.active.predict import class_probabilities, take
from likely.inference.active.state import State
from likely.inference.active.stopping import Budget, Progress
from likely.inference.active.strategies import Random, as_strategy
from likely.inference.active.training import Trainer
from likely.inference.checkpoints import seed_of
from likely.inference.errors import OptionError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from likely.inference.active.learner import ActiveLearner

# Points whose predictions are followed from fit to fit.
MONITORED = 1000
INTERRUPTED = "interrupted"
UNPAID = "what is left of the budget does not pay for another answer"
# Of sums of prices, as a share of the budget.
ROUNDING = 1e-12

Fits = tuple[Fit, ...]


@dataclass(frozen=True, eq=False)
class Rounds:
    """A learner's options, and the points it is to learn about.

    Attributes
    ----------
    learner
        The options.
    pool
        Points that may be asked.
    test
        Points and labels that the metric is taken of, or None.
    """

    learner: ActiveLearner
    pool: Any
    test: tuple[Any, Any] | None = None

    @cached_property
    def asking(self) -> Asking:
        """Who may be asked."""
        own = self.learner
        return Asking(own.oracle, self.pool, own.K, own.classes, own.costs, own.relabel)

    @cached_property
    def trainer(self) -> Trainer:
        """How answers become fits."""
        own, count = self.learner, self.asking.n_annotators or None
        return Trainer(own.program, own.engine, own.truth, own.committee, count, own.call)

    def step(self, state: State, ask: bool = True) -> tuple[State, str]:
        """Fit to the answers, and ask for more unless there is a reason to stop.

        Parameters
        ----------
        state : State
        ask : bool
            Whether more may be asked.

        Returns
        -------
        state : State
            With one more row in its history.
        reason : str
            Why this round was the last, or nothing.
        """
        started = time.perf_counter()
        labelled, seed = state.labelled, seed_of(self.learner.seed, state.round)
        candidates = self.asking.candidates(state)
        size = min(self.learner.batch_size, len(candidates), self.affordable(labelled))
        size = size if ask else 0
        cold = self.is_cold(labelled)
        # What little is known makes a fit, if no more is to come.
        fitted = len(labelled) and (not cold or size <= 0)
        fits = self.trainer.fit(labelled, self.pool, seed, state.fits) if fitted else ()
        state = replace(state, fits=fits)
        picks, gain, poor = Picks(np.zeros(0, dtype=np.int64), np.zeros(0)), float("nan"), False
        if size > 0:
            picks = self._chosen(self._context(state, candidates, seed), size, cold)
            if not cold and len(picks.indices):
                gain = float(picks.scores.max()) if picks.gain is None else picks.gain
            picks = self.asking.payable(picks, self.money(labelled))
            poor = not len(picks.indices)
        row, predictions = self.judged_row(state, gain, started)
        judged = state.with_row(row, predictions)
        reason = self.reason(Progress(judged.history, judged.predictions, gain), cold)
        if not reason and (poor or (len(candidates) > 0 and not self.affordable(labelled) > 0)):
            reason = UNPAID
        if not reason and size <= 0:
            reason = "nobody has anything more to answer"
        return (judged, reason) if reason else self.asked(state, picks, row, predictions, started)

    def _context(self, state: State, candidates: Ints, seed: int) -> Context:
        own = self.learner
        return Context(
            x=self.pool,
            candidates=candidates,
            labelled=state.labelled,
            fits=state.fits,
            n_classes=own.K,
            seed=seed,
            draws=own.draws,
            budget=own.budget,
            call=own.call,
            trainer=self.trainer,
            n_annotators=self.asking.n_annotators,
            pairs=lambda index: self.asking.pairs(state, index),
            costs=own.costs,
        )

    def _chosen(self, context: Context, size: int, cold: bool) -> Picks:
        strategy = Random() if cold else as_strategy(self.learner.acquisition)
        picks = checked_picks(strategy.select(context, size), context.candidates, size)
        if picks.annotators is not None:
            return picks
        choice = None if cold else self.learner.annotators
        return picks._replace(annotators=self.asking.whom(context, picks.indices, choice))

    def judged_row(
        self, state: State, gain: float, started: float | None = None
    ) -> tuple[dict[str, Any], Ints | None]:
        """The history's row of the present fit, before anything is asked; and its predictions."""
        metric, predictions = self.judged(state.fits)
        row = {
            "round": state.round,
            **self.counts(state.labelled),
            "metric": metric,
            "gain": gain,
            "indices": [],
            "annotators": [],
            "labels": [],
            "scores": [],
            "converged": all(fit.converged for fit in state.fits),
            "seconds": 0.0 if started is None else time.perf_counter() - started,
        }
        return row, predictions

    def counts(self, labelled: LabelledSet) -> dict[str, Any]:
        """How much was answered, and at what price."""
        return {
            "n_answers": len(labelled),
            "n_points": len(labelled.points),
            "cost": self.asking.spent(labelled),
        }

    def asked(
        self,
        state: State,
        picks: Picks,
        row: dict[str, Any],
        predictions: Ints | None,
        started: float | None = None,
    ) -> tuple[State, str]:
        """The state with the answers to a batch, and why to stop if the oracle says so."""
        reason, refused = "", state.refused
        try:
            labels = self.asking.ask(picks)
            refused = refused | self.asking.unanswered(picks, labels)
        except LabellingStopped as stop:
            labels = self.asking.checked(stop.labels, len(picks.indices))
            reason = "the oracle stopped"
        row = row | {
            "indices": picks.indices.tolist(),
            "annotators": [] if picks.annotators is None else picks.annotators.tolist(),
            "labels": labels.tolist(),
            "scores": picks.scores.tolist(),
        }
        if started is not None:
            row["seconds"] = time.perf_counter() - started
        answers = state.labelled.add(picks.indices, labels, picks.annotators, state.round)
        state = replace(state, labelled=answers, refused=refused).with_row(row, predictions)
        return state, reason

    def is_cold(self, labelled: LabelledSet) -> bool:
        """Whether answers are too few, or all of one class, for the acquisition to be trusted."""
        own = self.learner
        enough = own.K if own.cold_start is None else own.cold_start
        return len(labelled.points) < enough or len(np.unique(labelled.label)) < 2

    def affordable(self, labelled: LabelledSet) -> int:
        """How many answers the budgets leave."""
        rules = [rule for rule in self.learner.rules if isinstance(rule, Budget)]
        left = [rule.answers - len(labelled) for rule in rules if rule.answers is not None]
        cheapest = float(np.min(self.learner.costs))
        if cheapest > 0 and any(rule.cost is not None for rule in rules):
            # Whoever is asked, no more than these can be paid.
            left.append(int(self.money(labelled) / cheapest))
        return min(left, default=self.learner.batch_size)

    def money(self, labelled: LabelledSet) -> float:
        """What the budgets leave to be spent, rounding allowed for."""
        limits = [rule.cost for rule in self.learner.rules if isinstance(rule, Budget)]
        total = min((limit for limit in limits if limit is not None), default=math.inf)
        return total * (1 + ROUNDING) - self.asking.spent(labelled)

    def judged(self, fits: Fits) -> tuple[float, Ints | None]:
        """The metric, and predicted classes of points that stay the same."""
        if not fits:
            return float("nan"), None
        metric = float("nan")
        if self.test is not None:
            x, labels = self.test
            metric = measured(as_metric(self.learner.metric), self.predicted(fits, x), labels)
        n = len(self.pool)
        spread = np.linspace(0, n - 1, min(n, MONITORED)).round().astype(np.int64)
        return metric, self.predicted(fits, take(self.pool, spread)).argmax(-1).numpy()

    def predicted(self, fits: Fits, x: Any) -> Tensor:
        """Class probabilities [n, K], averaged over draws and members."""
        own = self.learner
        return class_probabilities(fits, x, own.K, draws=own.draws, call=own.call).mean(0)

    def reason(self, progress: Progress, cold: bool) -> str:
        """Why to stop, by the first rule that says so; or nothing."""
        # While cold there is nothing to judge, but money can be spent.
        rules = self.learner.rules
        if cold:
            rules = tuple(rule for rule in rules if isinstance(rule, Budget))
        for rule in rules:
            reason = rule(progress)
            if reason:
                return reason if isinstance(reason, str) else "a stopping rule said so"
        return ""


def checked_picks(picks: Any, candidates: Ints, size: int) -> Picks:
    """What a strategy chose.

    Raises
    ------
    OptionError
        If these are not different candidates, at most so many, or scores do not belong to them.
    """
    if not isinstance(picks, Picks):
        raise OptionError(f"acquisition must choose Picks, got {type(picks).__name__}")
    index = np.asarray(picks.indices)
    whole = index.ndim == 1 and (index.dtype.kind in "iu" or not len(index))
    if not whole or len(np.unique(index)) < len(index) or not np.isin(index, candidates).all():
        raise OptionError(
            f"acquisition must choose different rows of the pool among the candidates, got {index}"
        )
    scores = np.asarray(picks.scores, dtype=float)
    if len(index) > size or scores.shape != index.shape:
        raise OptionError(
            f"acquisition must choose at most {size} points and give each a score, got "
            f"{len(index)} points and scores of shape {scores.shape}"
        )
    return picks._replace(indices=index.astype(np.int64), scores=scores)
