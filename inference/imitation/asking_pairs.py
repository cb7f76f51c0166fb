"""Asking about pairs of episodes, round by round, and learning the reward after each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from likely.inference.active.errors import LabellingStopped
from likely.inference.active.oracle import Queries, ask
from likely.inference.active.strategies import (
    Acquisition,
    Joint,
    Pointwise,
    PowerBALD,
    Random,
    as_strategy,
)
from likely.inference.checkpoints import Checkpoint, as_folder, options_of, seed_of
from likely.inference.engines import Laplace
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_bool, check_int, check_seed
from likely.inference.errors import FitError, OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.learned_reward import (
    LearnedReward,
    bootstrap_rewards,
    check_certainty,
    check_reward,
    pair_probabilities,
    reward_digest,
)
from likely.inference.imitation.pair_labels import CHOICES
from likely.inference.imitation.result import INTERRUPTED
from likely.inference.monitor import is_true
from likely.models.preference.pairs import TrajectoryPairs
from likely.models.preference.trajectory import TrajectoryPreference, check_pairs

Ints = NDArray[np.int64]
STOPPED, EXHAUSTED = "labelling was stopped", "all pairs were asked about"


def learn_reward(
    pairs: TrajectoryPairs,
    oracle: Callable[[Queries], Any],
    program: TrajectoryPreference,
    *,
    preferences: int,
    engine: Engine | None = None,
    acquisition: Acquisition = "bald",
    start: int = 20,
    batch: int = 20,
    draws: int = 200,
    ensemble: int | None = None,
    seed: int = 0,
    callback: Callable[[LearnedReward], Any] | None = None,
    path: str | PathLike[str] | None = None,
    progress: bool = False,
) -> LearnedReward:
    """Ask about pairs, a batch at a time, and learn the reward after each.

    Parameters
    ----------
    pairs
        Candidates.
    oracle
        From `Queries` to positions in ``CHOICES``, −1 for no answer: `SimulatedLabeller`, or a
        person at `TerminalOracle` or `WebOracle`.
    program
        The preferences' program.
    preferences
        Answers to get.
    engine
        `Laplace` by default. A point engine will do for ``"random"``.
    acquisition
        What is asked next: by its name ``"random"``, or one of the acquisitions and strategies of
        `likely.inference.active` that look at probabilities alone, such as `bald` (the default),
        ``"entropy"``, ``"batch_bald"`` (a batch that tells most together), `PowerBALD`; or any
        function from probabilities [draws, pairs, 2] to scores [pairs], of which the highest are
        asked about.
    start, batch
        Random pairs to begin with, and questions in a round. With ``"random"`` there is one round
        unless a callback wants to see more.
    draws
        Of the posterior, for scores.
    ensemble
        This many members of an ensemble (`bootstrap_rewards`, with the same engine) stand for the
        posterior: for networks without priors, which engines give a point of.
    seed
        Of random choices.
    callback
        Called with the `LearnedReward` after each round; True stops.
    path
        A folder where the answers are kept round by round. With one that holds a run of the same
        pairs and options, that run goes on, to the same result as without the break. What a person
        answered within a round is in the file of their oracle.
    progress
        Show a bar.

    Raises
    ------
    OptionError
        If an option cannot be used, or questions are chosen by draws that the engine does not give.
    DataError
        If the program cannot read the pairs.
    FitError
        If nothing was answered, or the folder holds another run or cannot be made.
    """
    check_pairs(pairs)
    for name, value in (("preferences", preferences), ("start", start), ("batch", batch)):
        check_int(name, value, 1)
    check_int("draws", draws, 2)
    if ensemble is not None:
        check_int("ensemble", ensemble, 2)
    check_seed("seed", seed)
    check_bool("progress", progress)
    if not callable(oracle):
        raise OptionError(f"oracle must be a function of queries, got {oracle!r}")
    strategy = _strategy(acquisition)
    if callback is not None and not callable(callback):
        raise OptionError(f"callback must be a function, got {callback!r}")
    chosen = Laplace() if engine is None else engine
    if not isinstance(chosen, Engine):
        raise OptionError(f"engine must be an engine such as Laplace(), got {engine!r}")
    if not isinstance(strategy, Random) and preferences > start:
        check_certainty(chosen, ensemble, f"acquisition: {strategy.name}")
    if isinstance(program, TrajectoryPreference):
        check_reward(program, pairs)
    about = {
        "method": "learn_reward",
        "candidates": _digest(pairs),
        "reward": type(getattr(program, "reward", program)).__name__,
        "rationality": float(getattr(program, "rationality", 0.0)),
        "discount": float(getattr(program, "discount", 0.0)),
        "reward_options": reward_digest(getattr(program, "reward", program)),
        "engine": getattr(chosen, "name", type(chosen).__name__),
        "engine_options": options_of(chosen),
        "acquisition": strategy.name,
        **{"start": start, "batch": batch, "draws": draws, "ensemble": ensemble, "seed": seed},
    }
    kept = Checkpoint(None if path is None else as_folder(path), about)
    if isinstance(strategy, Random) and callback is None:
        start = preferences
    asking = _Asking(pairs, strategy, start, batch, draws, seed, preferences)
    asking.restore(kept.load())
    with tqdm(total=preferences, initial=len(asking.index), disable=not progress) as bar:
        bar.set_description("preferences")
        learn = _Learning(program, chosen, ensemble, seed)
        return _rounds(asking, oracle, learn, callback, kept, bar)


def _rounds(
    asking: _Asking,
    oracle: Callable[[Queries], Any],
    learn: _Learning,
    callback: Callable[[LearnedReward], Any] | None,
    kept: Checkpoint,
    bar: Any,
) -> LearnedReward:
    result: LearnedReward | None = None
    # A run that goes on has answers which nothing was learnt from yet.
    learnt = not len(asking.index) or len(asking.open) > 0
    while True:
        stopped = ""
        try:
            if learnt:
                asking.choose(result)
                stopped = asking.put(oracle)
                kept.save(asking.state())
            index, labels = asking.answered
            if not len(index):
                if stopped or not asking.left.any():
                    raise FitError("the oracle gave no answer, so that there is no reward to learn")
                continue
            answers = asking.pairs[torch.from_numpy(index)].with_preferred(labels == 0)
            fit, members = learn(answers)
        except KeyboardInterrupt:
            if result is None:
                raise
            return replace(result, stopped=INTERRUPTED)
        table = pd.DataFrame(asking.history)
        over = len(index) >= asking.preferences
        if not (over or stopped or asking.left.any()):
            stopped = EXHAUSTED
        result = LearnedReward(learn.program, answers, index, fit, table, stopped, members)
        learnt = True
        bar.update(len(index) - bar.n)
        if (callback is not None and is_true(callback(result))) or over or stopped:
            return result


class _Learning(NamedTuple):
    """How a reward is learnt from answers."""

    program: TrajectoryPreference
    engine: Engine
    ensemble: int | None
    seed: int

    def __call__(self, answers: TrajectoryPairs) -> tuple[Fit, tuple[Fit, ...]]:
        fit = self.engine.fit(self.program, answers)
        if self.ensemble is None:
            return fit, ()
        return fit, tuple(
            bootstrap_rewards(self.program, answers, self.engine, self.ensemble, self.seed)
        )


class _Asking:
    """What was asked and answered, and what is to be asked next.

    Attributes
    ----------
    batches
        Positions of the candidates of all rounds that are over.
    index, labels
        Answered candidates, and answers, of these rounds.
    rows
        One a round that brought answers.
    open, given, score
        A round's questions, the answers to them, −1 where there is none yet, and their mean score.
    """

    def __init__(
        self,
        pairs: TrajectoryPairs,
        strategy: Any,
        start: int,
        batch: int,
        draws: int,
        seed: int,
        preferences: int,
    ) -> None:
        self.pairs, self.strategy, self.draws, self.seed = pairs, strategy, draws, seed
        self.start, self.batch, self.preferences = start, batch, preferences
        self.rng = np.random.default_rng(seed)
        self.left = np.ones(len(pairs), dtype=bool)
        self.batches: list[Ints] = []
        self.rows: list[dict[str, Any]] = []
        self.index = self.labels = self.open = self.given = np.empty(0, dtype=np.int64)
        self.score = float("nan")

    @property
    def by_chance(self) -> bool:
        """Whether the next questions are drawn."""
        return isinstance(self.strategy, Random) or not len(self.index)

    @property
    def answered(self) -> tuple[Ints, Ints]:
        """Candidates with an answer, and the answers, those of an unfinished round included."""
        known = self.given >= 0
        return (
            np.append(self.index, self.open[known]),
            np.append(self.labels, self.given[known]),
        )

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row for each round that brought answers, an unfinished one included."""
        if not (self.given >= 0).any():
            return self.rows
        return [*self.rows, {"preferences": len(self.answered[0]), "score": self.score}]

    def choose(self, result: LearnedReward | None) -> None:
        """Choose what a round asks, unless there are questions of one that was not finished."""
        if len(self.open):
            return
        pool = np.flatnonzero(self.left)
        size = self.batch if len(self.index) else self.start
        wanted = min(size, self.preferences - len(self.index), len(pool))
        if self.by_chance:
            self.open, self.score = self.rng.permutation(pool)[:wanted], float("nan")
        else:
            assert result is not None
            chances = pair_probabilities(result, self.pairs[torch.from_numpy(pool)], self.draws)
            context = _Chances(pool, chances, seed_of(self.seed, len(self.batches)))
            found = self.strategy.select(context, wanted)
            self.open, self.score = np.asarray(found.indices), float(np.mean(found.scores))
        self.given = np.full(len(self.open), -1)

    def put(self, oracle: Callable[[Queries], Any]) -> str:
        """Ask what has no answer yet; why the round was not finished, or nothing."""
        missing = self.given < 0
        queries = Queries(self.open[missing], classes=CHOICES)
        try:
            self.given[missing] = ask(oracle, queries)
        except LabellingStopped as end:
            if len(end.labels) == len(queries):
                self.given[missing] = end.labels
            return STOPPED
        self._close()
        return ""

    def _close(self) -> None:
        self.index, self.labels = self.answered
        if len(self.index):
            self.rows.append({"preferences": len(self.index), "score": self.score})
        self.left[self.open] = False
        self.batches.append(self.open)
        self.open = self.given = np.empty(0, dtype=np.int64)

    def state(self) -> dict[str, Any]:
        """All that another process needs to go on."""
        names = ("index", "labels", "open", "given")
        return {
            **{name: torch.from_numpy(getattr(self, name).copy()) for name in names},
            "batches": [torch.from_numpy(one.copy()) for one in self.batches],
            "rows": self.rows,
            "score": self.score,
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Take over what a run left, its random numbers included."""
        if state is None:
            return
        self.rows, self.score = list(state["rows"]), float(state["score"])
        labels, index = state["labels"].numpy(), state["index"].numpy()
        answered = dict(zip(index.tolist(), labels.tolist(), strict=True))
        for one in state["batches"]:
            # Drawing again what was drawn brings the generator to where it was.
            if self.by_chance:
                self.rng.permutation(np.flatnonzero(self.left))
            self.batches.append(one.numpy())
            self.left[one.numpy()] = False
            known = np.array([i for i in one.tolist() if i in answered], dtype=np.int64)
            self.index = np.append(self.index, known)
        self.labels = labels
        self.open, self.given = state["open"].numpy(), state["given"].numpy()
        if len(self.open) and self.by_chance:
            self.rng.permutation(np.flatnonzero(self.left))


class _Chances:
    """What strategies that look at probabilities alone want to know of the candidates."""

    def __init__(self, candidates: Ints, chances: Tensor, seed: int) -> None:
        self.candidates, self.chances, self.seed = candidates, chances, seed

    def probabilities(self, index: Ints) -> Tensor:
        """Of some candidates, [draws, m, 2]."""
        return self.chances[:, torch.from_numpy(np.searchsorted(self.candidates, index))]

    def chunks(self) -> Iterator[tuple[Ints, Tensor]]:
        """All at once."""
        yield self.candidates, self.chances


def _strategy(acquisition: Any) -> Any:
    """How questions are chosen from probabilities.

    Raises
    ------
    OptionError
        If it is no acquisition, or one that looks at more.
    """
    found = as_strategy(acquisition)
    if not isinstance(found, Random | Pointwise | PowerBALD | Joint):
        raise OptionError(
            f"acquisition: {found.name} looks at more than probabilities of answers, and pairs "
            "have nothing else"
        )
    return found


def _digest(pairs: TrajectoryPairs) -> str:
    """A fingerprint: answers are about these candidates in this order and no others."""
    digest = hashlib.sha256()
    for side in (pairs.first, pairs.second):
        for value in (side.lengths, side.states, side.actions):
            if value is not None:
                digest.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
