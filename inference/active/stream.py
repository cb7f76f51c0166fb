"""Stream-based selective sampling: each point comes once, and is asked about now or never."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from likely.envs import DataError
from likely.inference.active.context import Context, Picks
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.labelled import Ints, LabelledSet
from likely.inference.active.metrics import as_test
from likely.inference.active.oracle import ask, can_answer, row
from likely.inference.active.pools import as_point, as_pool, points_of
from likely.inference.active.rounds import UNPAID, Rounds
from likely.inference.active.stopping import Budget, Progress
from likely.inference.active.strategies import Pointwise, as_strategy
from likely.inference.checkpoints import seed_of
from likely.inference.engines.checks import check_int, check_positive
from likely.inference.errors import OptionError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from likely.inference.active.learner import ActiveLearner


@dataclass(frozen=True)
class Threshold:
    r"""When a score is high enough: a threshold that follows the scores, within a budget.

    Variable uncertainty (Žliobaitė et al. 2014, "Active learning with drifting streaming data",
    algorithms 1 to 3), for scores of which higher ones are asked first: after a question the
    threshold rises by a factor 1 + s, after none it falls by 1 - s, so that questions stay at hand
    whatever scale scores have and however they drift. Nothing is asked, and the threshold stays,
    while the recent share of points asked about, :math:`u_t = u_{t-1} (w - 1) / w +
    [\text{asked}_t]`, divided by w, is not below the budget.

    Parameters
    ----------
    share : float
        Budget: share of the points that may be asked about, above 0 and at most 1.
    step : float
        s, between 0 and 1.
    window : int
        w, points over which the share is kept.
    jitter : float
        Standard deviation of the threshold's random factor, with mean 1: above 0 every point has a
        chance, so that changes far from the decision boundary are seen as well ("RandVar").
    """

    share: float = 0.1
    step: float = 0.01
    window: int = 100
    jitter: float = 0.0

    def __post_init__(self) -> None:
        check_positive("share", self.share)
        check_positive("step", self.step)
        check_int("window", self.window, 1)
        if self.share > 1:
            raise OptionError(f"share must be at most 1, got {self.share}")
        if self.step >= 1:
            raise OptionError(f"step must be below 1, got {self.step}")
        if self.jitter != 0:
            check_positive("jitter", self.jitter)


@dataclass(frozen=True, eq=False)
class Sampled:
    """What selective sampling comes back with.

    Attributes
    ----------
    fits : tuple of Fit
        The last fit, or the committee's.
    points : list
        The points that were answered, in order.
    labelled : LabelledSet
        Their answers; positions are those in ``points``.
    history : DataFrame
        One row a point: ``position`` in the stream, ``score`` (NaN before the first fit),
        ``threshold``, ``spending`` (recent share asked), ``asked``, ``label`` (−1: none),
        ``metric`` after a refit, ``seconds``.
    stopped : str
        Why it ended.
    """

    fits: tuple[Fit, ...]
    points: list[Any]
    labelled: LabelledSet
    history: pd.DataFrame
    stopped: str


def stream(
    learner: ActiveLearner,
    points: Iterable[Any],
    *,
    threshold: Threshold | None = None,
    refit_every: int = 1,
    test: tuple[Any, Any] | None = None,
) -> Sampled:
    """Decide point by point, as they come, whether to ask for a label.

    Parameters
    ----------
    learner : ActiveLearner
        Program, engine, oracle, cold start, whom to ask, and `Budget` as stopping rule; its
        acquisition must score points one by one. The oracle is asked by position in the stream.
    points : iterable
        Points [d], in the order in which they come: tensors, arrays, lists of numbers, rows of a
        data frame, or anything else that the program reads in a list. Only those that were
        answered are kept.
    threshold : Threshold, optional
        When to ask.
    refit_every : int
        Answers after which the program is fitted again.
    test : (x, labels), optional
        Points that the metric is taken of at each refit.

    Returns
    -------
    Sampled

    Raises
    ------
    OptionError
        If the acquisition chooses batches, a stopping rule is no `Budget`, or an option cannot be
        used.
    DataError
        If the stream is empty, its points differ in shape, or the test points cannot be used.

    Examples
    --------
    >>> import torch
    >>> from likely.inference import MAP
    >>> from likely.inference.active import ActiveLearner, FunctionOracle
    >>> from likely.models import LogisticRegression
    >>> x = torch.linspace(-3, 3, 200)[torch.randperm(200)][:, None]
    >>> found = stream(
    ...     ActiveLearner(
    ...         program=LogisticRegression(), engine=MAP(), acquisition="margin",
    ...         oracle=FunctionOracle(lambda queries: (queries.points[:, 0] > 1).long()),
    ...     ),
    ...     x,
    ... )
    >>> len(found.history), bool(found.history["asked"].mean() < 0.2)
    (200, True)
    """
    strategy = as_strategy(learner.acquisition)
    if not isinstance(strategy, Pointwise):
        raise OptionError(
            f"acquisition {strategy.name!r} chooses from a pool; a stream needs one that scores "
            "points one by one, such as 'margin', 'entropy' or 'bald'"
        )
    check_int("refit_every", refit_every, 1)
    if threshold is not None and not isinstance(threshold, Threshold):
        raise OptionError(f"threshold must be a Threshold, got {threshold!r}")
    for rule in learner.rules:
        if not isinstance(rule, Budget):
            raise OptionError(f"stopping: a stream ends by a Budget only, got {rule!r}")
    known = as_test(test, learner.K)
    run = _Run(learner, strategy, threshold or Threshold(), refit_every, known)
    with tqdm(disable=not learner.progress, desc="stream") as bar:
        try:
            for position, point in enumerate(points_of(points)):
                run.see(position, point)
                bar.update(1)
                if run.stopped:
                    break
        except KeyboardInterrupt:
            run.stopped = "interrupted"
    if not run.rows:
        raise DataError("points: expected at least one, the stream is empty")
    run.refit()
    return Sampled(
        run.fits, run.kept, run.labelled, pd.DataFrame(run.rows), run.stopped or "the stream ended"
    )


class _Run:
    """One pass over a stream."""

    def __init__(
        self,
        learner: ActiveLearner,
        strategy: Pointwise,
        threshold: Threshold,
        refit_every: int,
        test: tuple[Any, Any] | None,
    ) -> None:
        self.learner, self.strategy, self.options = learner, strategy, threshold
        self.refit_every, self.test = refit_every, test
        self.rng = np.random.default_rng(learner.seed)
        self.kept: list[Any] = []
        self.labelled = LabelledSet.empty(learner.K)
        self.fits: tuple[Fit, ...] = ()
        self.rows: list[dict[str, Any]] = []
        self.level = float("nan")
        self.recent = 0.0
        self.fitted = 0
        self.stopped = ""

    def see(self, position: int, point: Any) -> None:
        """Score a point, and ask about it if that is worth it."""
        started = time.perf_counter()
        own, w, point = self.options, self.options.window, as_point(point)
        cold = not self.fits and self._rounds().is_cold(self.labelled)
        if not cold and not self.fits:
            self.refit()
        context = self._context(position, point)
        score = float("nan") if cold else float(self.strategy.scores(context)[0])
        if np.isnan(self.level) and not cold:
            self.level = score
        factor = self.rng.normal(1.0, own.jitter) if own.jitter else 1.0
        wanted = cold or score >= self.level * factor
        # A cold start asks whatever it costs: without it there is nothing to score with.
        free = cold or self.recent / w < own.share
        level, asked = self.level, wanted and free
        label = self._ask(context, position) if asked else -1
        asked = asked and not self.stopped
        self.recent = self.recent * (w - 1) / w + float(asked)
        metric = float("nan")
        warm = bool(self.fits) or not self._rounds().is_cold(self.labelled)
        if warm and len(self.labelled) - self.fitted >= self.refit_every:
            metric = self.refit()
        self.rows.append(
            {
                "position": position,
                "score": score,
                "threshold": level,
                "spending": self.recent / w,
                "asked": asked,
                "label": label,
                "metric": metric,
                "seconds": time.perf_counter() - started,
            }
        )
        # Where the budget decides, the threshold has nothing to learn from.
        if free and not cold:
            self.level *= 1 + own.step if asked else 1 - own.step
        if not self.stopped and self._rounds().affordable(self.labelled) <= 0:
            self.stopped = self._spent()

    def _spent(self) -> str:
        """Which budget is spent."""
        progress = Progress(pd.DataFrame([self._rounds().counts(self.labelled)]), ())
        return self._rounds().reason(progress, cold=True) or UNPAID

    def refit(self) -> float:
        """Fit to all answers; the metric of the fit."""
        if len(self.labelled) == self.fitted:
            return float("nan")
        rounds = self._rounds()
        self.fits = rounds.trainer.fit(
            self.labelled, rounds.pool, self.learner.seed + self.fitted, self.fits
        )
        self.fitted = len(self.labelled)
        return rounds.judged(self.fits)[0]

    def _rounds(self) -> Rounds:
        return Rounds(self.learner, as_pool(self.kept), self.test)

    def _context(self, position: int, point: Any) -> Context:
        """One point, and who may be asked about it."""
        own, asking = self.learner, self._rounds().asking
        people = np.arange(asking.n_annotators)

        def pairs(index: Ints) -> tuple[Ints, Ints]:
            able = can_answer(own.oracle, np.full(len(people), position), people)
            return np.zeros(int(able.sum()), dtype=np.int64), people[able]

        return Context(
            as_pool([point]),
            np.zeros(1, dtype=np.int64),
            self.labelled,
            self.fits,
            own.K,
            seed_of(own.seed, position),
            draws=own.draws,
            call=own.call,
            n_annotators=asking.n_annotators,
            pairs=pairs,
            costs=own.costs,
        )

    def _ask(self, context: Context, position: int) -> int:
        """The answer, −1 for none; nobody is asked whose price is more than what is left."""
        rounds = self._rounds()
        asking, own = rounds.asking, self.learner
        if not can_answer(own.oracle, np.array([position])).all():
            return -1
        choice = own.annotators if self.fits else None
        who = asking.whom(context, context.candidates, choice)
        picks = Picks(np.array([position]), np.zeros(1), who)
        if not len(asking.payable(picks, rounds.money(self.labelled)).indices):
            self.stopped = UNPAID
            return -1
        try:
            label = int(ask(own.oracle, asking.queries(picks, context.x))[0])
        except LabellingStopped:
            self.stopped = "the oracle stopped"
            return -1
        if label >= 0:
            self.kept.append(row(context.x, 0))
            self.labelled = self.labelled.add([len(self.kept) - 1], [label], who, round=position)
        return label
