"""Stream-based selective sampling: each point comes once, and is asked about now or never."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from likely.envs import DataError
from likely.inference.active.context import Context
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.labelled import LabelledSet
from likely.inference.active.oracle import Queries, ask
from likely.inference.active.rounds import Rounds
from likely.inference.active.strategies import Pointwise, as_strategy
from likely.inference.engines.checks import check_int, check_positive
from likely.inference.errors import OptionError
from likely.inference.fit import Fit

if TYPE_CHECKING:
    from likely.inference.active.learner import ActiveLearner


@dataclass(frozen=True)
class Threshold:
    r"""When a score is high enough: a threshold that follows the scores, within a budget.

    Variable uncertainty (Žliobaitė et al. 2014, "Active learning with drifting streaming data",
    algorithms 2 and 3), for scores of which higher ones are asked first: after a question the
    threshold rises by a factor 1 + s, after none it falls by 1 - s, so that questions stay at hand
    whatever scale scores have and however they drift. Nothing is asked while the recent share of
    points asked about, :math:`u_t = u_{t-1} (w - 1) / w + [\text{asked}_t]`, divided by w, is
    above the budget.

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
        The points that were asked about, in order.
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
        Program, engine, oracle, cold start and stopping rules (of which `Budget` is looked at); its
        acquisition must score points one by one.
    points : iterable
        Points [d], in the order in which they come. Only those that were asked about are kept.
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
        If the acquisition chooses batches, or an option cannot be used.
    DataError
        If the stream is empty.

    Examples
    --------
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
    run = _Run(learner, strategy, threshold or Threshold(), refit_every, test)
    with tqdm(disable=not learner.progress, desc="stream") as bar:
        try:
            for position, point in enumerate(points):
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
        own, w = self.options, self.options.window
        cold = self._is_cold()
        score = float("nan") if cold else self._score(point)
        if np.isnan(self.level) and not cold:
            self.level = score
        factor = self.rng.normal(1.0, own.jitter) if own.jitter else 1.0
        wanted = cold or score >= self.level * factor
        # A cold start asks whatever it costs: without it there is nothing to score with.
        asked = wanted and (cold or self.recent / w < own.share)
        label = self._ask(position, point) if asked else -1
        self.recent = self.recent * (w - 1) / w + float(asked)
        metric = float("nan")
        if not self._is_cold() and len(self.labelled) - self.fitted >= self.refit_every:
            metric = self.refit()
        self.rows.append(
            {
                "position": position,
                "score": score,
                "threshold": self.level,
                "spending": self.recent / w,
                "asked": asked,
                "label": label,
                "metric": metric,
                "seconds": time.perf_counter() - started,
            }
        )
        if not cold:
            self.level *= 1 + own.step if asked else 1 - own.step
        limit = self._rounds().affordable(self.labelled)
        if not self.stopped and limit <= 0:
            self.stopped = f"budget of {len(self.labelled)} answers is spent"

    def refit(self) -> float:
        """Fit to all answers; the metric of the fit."""
        if len(self.labelled) == self.fitted:
            return float("nan")
        rounds = self._rounds()
        self.fits = rounds.trainer.fit(
            self.labelled, self._pool(), self.learner.seed + self.fitted, self.fits
        )
        self.fitted = len(self.labelled)
        return rounds.judged(self.fits)[0]

    def _rounds(self) -> Rounds:
        return Rounds(self.learner, self._pool(), self.test)

    def _pool(self) -> Any:
        if self.kept and isinstance(self.kept[0], torch.Tensor):
            return torch.stack(self.kept)
        return np.stack(self.kept) if self.kept else np.zeros((0, 1))

    def _is_cold(self) -> bool:
        return not self.fits and self._rounds().is_cold(self.labelled)

    def _score(self, point: Any) -> float:
        if not self.fits:
            self.refit()
        one = point[None]
        context = Context(
            one,
            np.zeros(1, dtype=np.int64),
            self.labelled,
            self.fits,
            self.learner.K,
            draws=self.learner.draws,
            call=self.learner.call,
        )
        return float(self.strategy.scores(context)[0])

    def _ask(self, position: int, point: Any) -> int:
        own = self.learner
        names = tuple(range(own.K)) if own.classes is None else tuple(own.classes)
        queries = Queries(np.array([position]), point[None], None, names)
        try:
            label = int(ask(own.oracle, queries)[0])
        except LabellingStopped:
            self.stopped = "the oracle stopped"
            return -1
        if label >= 0:
            self.kept.append(point)
            self.labelled = self.labelled.add([len(self.kept) - 1], [label], round=position)
        return label
