"""Pool-based active learning: fit, choose, ask, again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from likely.inference.active.asking import Asking
from likely.inference.active.labelled import LabelledSet, TruthRule, check_truth
from likely.inference.active.metrics import Metric, as_metric, as_test
from likely.inference.active.people import AnnotatorChoice
from likely.inference.active.pools import check_function, check_pool, pool_fingerprint
from likely.inference.active.predict import Call, points_and_labels
from likely.inference.active.rounds import INTERRUPTED, Rounds
from likely.inference.active.state import FILE, State, as_folder
from likely.inference.active.stopping import Budget, Plateau, StoppingRule
from likely.inference.active.strategies import Acquisition, as_strategy
from likely.inference.active.training import Committee
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_bool, check_int, check_seed, unbox
from likely.inference.errors import OptionError
from likely.inference.fit import POINT_ENGINES, Fit


@dataclass(frozen=True, eq=False)
class Learned:
    """What an active learner comes back with.

    Attributes
    ----------
    fits : tuple of Fit
        The last fit, or the committee's; empty if nothing was answered.
    labelled : LabelledSet
        Every answer.
    history : DataFrame
        One row a fit: ``round``, ``n_answers``, ``n_points``, ``cost`` so far, ``metric`` with
        these answers, ``gain`` (the best score), and what was asked next: ``indices``,
        ``annotators``, ``labels`` (−1: no answer), ``scores``; ``converged``; ``seconds``.
    stopped : str
        Why it stopped.
    """

    fits: tuple[Fit, ...]
    labelled: LabelledSet
    history: pd.DataFrame
    stopped: str

    @property
    def fit(self) -> Fit:
        """The last fit; of a committee the first member's."""
        if not self.fits:
            raise OptionError("nothing was answered, so there is no fit")
        return self.fits[0]


@dataclass(frozen=True, kw_only=True)
class ActiveLearner:
    """Asks an oracle for the labels that are worth most (Settles 2009, section 2.3).

    Each round fits the program to the answers, starting at the last fit, scores the pool, and asks.

    Parameters
    ----------
    program : callable
        A program of labels given points, called ``program(x, labels)``, with ``weights=`` where
        answers may disagree; or a crowd program with a classifier (`LearningFromCrowds`,
        `FeatureDependentCrowd`), called with `Annotations`.
    engine : Engine
        How it is fitted: `MAP` and the acquisitions of one prediction, or an engine of posterior
        draws (`Laplace`, `SVI`, `NUTS`), or any engine and a ``committee``.
    acquisition : str, strategy or callable
        A name (``"entropy"``, ``"margin"``, ``"bald"``, ``"batch_bald"``, ...), a strategy with
        options, or a function from probabilities [draws, n, K] to scores [n].
    oracle : callable
        From `Queries` to labels [b], −1 where there is no answer.
    batch_size : int
        Questions a round.
    stopping : rule or sequence of rules
        `Budget`, `Plateau`, `StablePredictions`, `GainBelowCost`, or a callable from `Progress`
        to a reason. Without one, learning ends when nobody has anything more to answer.
    n_classes : int, optional
        Number of classes K; by default the program's ``n_classes``, or 2.
    classes : sequence, optional
        Their names, for people; by default the oracle's ``classes``, or numbers.
    truth : str or callable
        What answers say of the truth, see `LabelledSet.posterior`; judged anew in each round.
    committee : Committee, optional
        Several fits, whose predictions are the draws.
    annotators : callable, optional
        Whom to ask: from (context, indices) to annotators [b]. By default anybody who can answer.
    relabel : bool
        Whether points with an answer may be asked again (of somebody else).
    costs : float or sequence of float
        Of an answer, or of one by each annotator.
    cold_start : int, optional
        Answered points before the acquisition is trusted; until then, and until two classes were
        seen, points are drawn at random. By default the number of classes.
    metric : str or callable
        ``"accuracy"``, ``"log_score"``, or a function of (probabilities [n, K], labels [n]).
    draws : int
        Most posterior draws that predictions are made with.
    budget : int
        Bytes that a block of probabilities of the pool may take.
    call : callable
        ``call(x, labels)`` gives the positional and keyword arguments of the program, ``(args,
        kwargs)``, where these are not ``(x, labels)``.
    seed : int
        The same seed, the same questions.
    progress : bool
        Show a progress bar.

    Raises
    ------
    OptionError
        If an option cannot be used; in particular if the acquisition needs posterior draws and
        the engine gives a point.

    Examples
    --------
    >>> import torch
    >>> from likely.inference import MAP
    >>> from likely.inference.active import ArrayOracle
    >>> from likely.models import LogisticRegression
    >>> x = torch.linspace(-3, 3, 61)[:, None]
    >>> labels = (x[:, 0] > 1).long()
    >>> learner = ActiveLearner(
    ...     program=LogisticRegression(), engine=MAP(), acquisition="margin",
    ...     oracle=ArrayOracle(labels), stopping=Budget(12),
    ... )
    >>> found = learner.run(x, test=(x, labels))
    >>> bool(found.history["metric"].iloc[-1] > 0.95), found.stopped
    (True, 'budget of 12 answers is spent')
    """

    program: Callable[..., Any]
    engine: Engine
    acquisition: Acquisition
    oracle: Callable[..., Any]
    batch_size: int = 1
    stopping: StoppingRule | Sequence[StoppingRule] = ()
    n_classes: int | None = None
    classes: Sequence[Any] | None = None
    truth: str | TruthRule = "majority_vote"
    committee: Committee | None = None
    annotators: AnnotatorChoice | None = None
    relabel: bool = False
    costs: float | Sequence[float] = 1.0
    cold_start: int | None = None
    metric: str | Metric = "accuracy"
    draws: int = 100
    budget: int = 1 << 28
    call: Call = points_and_labels
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        unbox(self)
        if not callable(self.program):
            raise OptionError(f"program must be a callable, got {self.program!r}")
        if not isinstance(self.engine, Engine):
            raise OptionError(f"engine must be an engine such as MAP(), got {self.engine!r}")
        if not callable(self.oracle):
            raise OptionError(f"oracle must be callable with queries, got {self.oracle!r}")
        for name, least in (("batch_size", 1), ("draws", 1), ("budget", 1)):
            check_int(name, getattr(self, name), least)
        if self.cold_start is not None:
            check_int("cold_start", self.cold_start, 1)
        check_int("n_classes", self.K, 2)
        check_seed("seed", self.seed)
        check_bool("relabel", self.relabel)
        check_bool("progress", self.progress)
        if self.classes is not None:
            if not hasattr(self.classes, "__len__"):
                raise OptionError(f"classes must be {self.K} names, got {self.classes!r}")
            if len(self.classes) != self.K:
                raise OptionError(f"classes must be {self.K} names, got {len(self.classes)}")
        check_truth(self.truth)
        if self.committee is not None and not isinstance(self.committee, Committee):
            raise OptionError(f"committee must be a Committee, got {self.committee!r}")
        for name in ("annotators", "call"):
            check_function(name, getattr(self, name), none=name == "annotators")
        # Costs and whom to ask are checked against the oracle.
        Asking(self.oracle, (), self.K, self.classes, self.costs, self.relabel)
        strategy = as_strategy(self.acquisition)
        if (
            strategy.needs == "draws"
            and self.committee is None
            and self.engine.name in POINT_ENGINES
        ):
            raise OptionError(
                f"acquisition {strategy.name!r} compares posterior draws, and engine "
                f"{self.engine.name!r} gives a point: use Laplace(), SVI() or NUTS(), or give a "
                "committee=Committee(5), or an acquisition of one prediction such as 'entropy'"
            )
        for rule in self.rules:
            if not callable(rule) or isinstance(rule, type):
                raise OptionError(f"stopping must hold rules such as Budget(100), got {rule!r}")
        as_metric(self.metric)

    @property
    def K(self) -> int:  # noqa: N802 (the field's letter)
        """Number of classes."""
        given = self.n_classes
        return int(getattr(self.program, "n_classes", 2)) if given is None else given

    @property
    def rules(self) -> tuple[StoppingRule, ...]:
        """The stopping rules."""
        given = self.stopping
        return tuple(given) if isinstance(given, Sequence) else (given,)

    def run(
        self,
        pool: Any,
        *,
        initial: LabelledSet | None = None,
        test: tuple[Any, Any] | None = None,
        path: str | PathLike[str] | None = None,
        rounds: int | None = None,
    ) -> Learned:
        """Learn until a rule says stop.

        Ctrl-C stops after the answers that are in; with ``path`` the next call goes on from there.

        Parameters
        ----------
        pool : array
            Points that may be asked, [n, ...].
        initial : LabelledSet, optional
            Answers that are known already.
        test : (x, labels), optional
            Points that the metric is taken of.
        path : path-like, optional
            Folder in which each round is saved; if there is a run in it, it is continued.
        rounds : int, optional
            Most rounds in this call.

        Returns
        -------
        Learned

        Raises
        ------
        FitError
            If ``path`` holds another run, or cannot be written.
        DataError
            If the oracle's answers, or the test points, cannot be used.
        OptionError
            If an argument cannot be used.
        """
        if rounds is not None:
            check_int("rounds", rounds, 1)
        check_pool(pool)
        test = as_test(test, self.K)
        if test is None and any(isinstance(rule, Plateau) for rule in self.rules):
            raise OptionError("stopping: Plateau looks at the metric, which needs test=(x, labels)")
        folder = as_folder(path)
        state = self._start(pool, initial, folder)
        rounds_of = Rounds(self, pool, test)
        total = next((r.answers for r in self.rules if isinstance(r, Budget)), None)
        stopped, asked = "", 0
        with tqdm(total=total, initial=len(state.labelled), disable=not self.progress) as bar:
            bar.set_description("active learning")
            while not stopped:
                try:
                    state, stopped = rounds_of.step(state)
                except KeyboardInterrupt:
                    stopped = INTERRUPTED
                asked += 1
                if not stopped and asked == rounds:
                    stopped = f"{rounds} rounds are done"
                if folder is not None:
                    state.save(folder)
                bar.update(len(state.labelled) - bar.n)
                if state.rows and np.isfinite(state.rows[-1]["metric"]):
                    bar.set_postfix_str(f"metric {state.rows[-1]['metric']:.4f}", refresh=False)
        if stopped != INTERRUPTED and state.rows[-1]["n_answers"] < len(state.labelled):
            # The last answers make a fit, which the saved state leaves to the next round.
            state, _ = rounds_of.step(state, ask=False)
        return Learned(state.fits, state.labelled, state.history, stopped)

    def _start(self, pool: Any, initial: LabelledSet | None, folder: Path | None) -> State:
        about = {
            "points": len(pool),
            "classes": self.K,
            "seed": self.seed,
            "acquisition": as_strategy(self.acquisition).name,
            "engine": self.engine.name,
            "program": getattr(self.program, "__name__", type(self.program).__name__),
            "pool": pool_fingerprint(pool),
        }
        if folder is not None and (folder / FILE).exists():
            state = State.load(folder)
            state.check_belongs(about, folder)
            self._check_answers(state.labelled, f"path: {folder}", len(pool))
            return state.reopened()
        labelled = LabelledSet.empty(self.K) if initial is None else initial
        if not isinstance(labelled, LabelledSet):
            raise OptionError(f"initial must be a LabelledSet, got {type(labelled).__name__}")
        if labelled.n_classes != self.K:
            raise OptionError(f"initial must have {self.K} classes, got {labelled.n_classes}")
        self._check_answers(labelled, "initial", len(pool))
        return State(labelled, about=about)

    def _check_answers(self, labelled: LabelledSet, name: str, size: int) -> None:
        """Raise an `OptionError` unless answers are about the pool, by people of the oracle."""
        if not len(labelled):
            return
        if labelled.index.max() >= size:
            raise OptionError(
                f"{name} must be about the {size} points, got index {labelled.index.max()}"
            )
        people = int(getattr(self.oracle, "n_annotators", 0) or 0)
        if people and labelled.annotator.max() >= people:
            raise OptionError(
                f"{name} holds answers of annotator {labelled.annotator.max()}, and the oracle has "
                f"{people} annotators"
            )
