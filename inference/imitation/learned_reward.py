"""Rewards learnt from preferences: which pairs to ask about, who answers, and how sure one is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import Trajectories
from likely.inference.active.acquisition import bald
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.oracle import Queries, ask
from likely.inference.checkpoints import seed_of
from likely.inference.engines import Laplace
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_int, check_seed, is_number
from likely.inference.errors import FitError, OptionError
from likely.inference.fit import Fit
from likely.models.preference.pairs import TrajectoryPairs
from likely.models.preference.trajectory import TrajectoryPreference

# Classes of an oracle's answers, in their order.
CHOICES = ("first", "second")
Acquisition = str | Callable[[Tensor], Tensor]


def candidate_pairs(trajectories: Trajectories, count: int, seed: int = 0) -> TrajectoryPairs:
    """Random pairs of different episodes, none twice: what somebody can be asked about.

    Parameters
    ----------
    trajectories
        At least two episodes.
    count
        How many pairs at most; there are E (E − 1) / 2.
    seed
        Of the draw.

    Examples
    --------
    >>> seen = Trajectories.from_arrays([[0, 1]] * 3, [[0]] * 3)
    >>> candidate_pairs(seen, 100)
    TrajectoryPairs(3 pairs, 6 steps, not asked)
    """
    check_int("count", count, 1)
    check_seed("seed", seed)
    n = len(trajectories)
    if n < 2:
        raise OptionError(f"trajectories: expected at least two episodes, got {n}")
    rng, total = np.random.default_rng(seed), n * (n - 1) // 2
    number = rng.choice(total, min(count, total), replace=False)
    # Pairs (i, j) with i > j are numbered row by row: i (i − 1) / 2 + j.
    i = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) // 2).astype(np.int64)
    i -= i * (i - 1) // 2 > number
    j = number - i * (i - 1) // 2
    swap = rng.random(len(number)) < 0.5
    first, second = np.where(swap, j, i), np.where(swap, i, j)
    return TrajectoryPairs.among(trajectories, torch.from_numpy(first), torch.from_numpy(second))


class SimulatedLabeller:
    """An oracle that prefers the episode of the higher return, more or less reliably.

    Parameters
    ----------
    pairs
        What it will be asked about; their episodes know their rewards.
    discount
        γ of the returns.
    rationality
        β of p = σ(β (R − R')); infinite for somebody who never errs (equal returns are a toss-up).
    seed
        Of the errors. A pair gets the same answer whenever it is asked about.

    Examples
    --------
    >>> seen = Trajectories.from_arrays([[0, 1]] * 2, [[0]] * 2, rewards=[[0.0], [1.0]])
    >>> pairs = TrajectoryPairs.among(seen, [0, 1], [1, 0])
    >>> SimulatedLabeller(pairs, rationality=float("inf"))(Queries([0, 1], classes=CHOICES))
    array([1, 0])
    """

    def __init__(
        self,
        pairs: TrajectoryPairs,
        discount: float = 1.0,
        rationality: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not is_number(rationality) or not rationality > 0:
            raise OptionError(f"rationality must be a number above 0, got {rationality!r}")
        check_seed("seed", seed)
        ahead = (pairs.first.returns(discount) - pairs.second.returns(discount)).double()
        odds = torch.where(ahead == 0, 0.0, ahead * rationality)
        chance = torch.sigmoid(odds).cpu().numpy()
        self._answers = np.where(np.random.default_rng(seed).random(len(chance)) < chance, 0, 1)

    def __call__(self, queries: Queries) -> NDArray[np.int64]:
        """0 where the first is preferred, 1 where the second is."""
        return np.asarray(self._answers[queries.index])


def pair_texts(
    pairs: TrajectoryPairs, states: Sequence[Any] = (), actions: Sequence[Any] = ()
) -> list[str]:
    """Pairs as text, for `TerminalOracle` or `WebOracle`: states and actions, one after another.

    Parameters
    ----------
    pairs
        Of Discrete states and actions.
    states, actions
        Their names; by default numbers.

    Examples
    --------
    >>> seen = Trajectories.from_arrays([[0, 1], [0, 2]], [[0], [1]])
    >>> print(pair_texts(TrajectoryPairs.among(seen, [0], [1]), "ABC", ["left", "right"])[0])
    first:  A left B
    second: A right C
    """

    def told(one: Trajectories) -> str:
        words = []
        acts = () if one.actions is None else one.actions.tolist()
        for t, state in enumerate(one.states.tolist()):
            words.append(str(states[state] if len(states) else state))
            if t < len(acts):
                words.append(str(actions[acts[t]] if len(actions) else f"({acts[t]})"))
        return " ".join(words)

    sides = zip(pairs.first, pairs.second, strict=True)
    return [f"first:  {told(one)}\nsecond: {told(two)}" for one, two in sides]


@dataclass(frozen=True, eq=False)
class LearnedReward:
    """A reward, and what it was learnt from.

    Attributes
    ----------
    program : TrajectoryPreference
        The program.
    pairs : TrajectoryPairs
        Those that were answered, in the order of asking.
    index : ndarray
        Their positions among the candidates.
    fit : Fit
        The program's.
    history : DataFrame
        One row a round: ``preferences`` so far, and the ``score`` of what was then asked, its mean.
    stopped : str
        Why it ended early, or nothing.
    """

    program: TrajectoryPreference
    pairs: TrajectoryPairs
    index: NDArray[np.int64]
    fit: Fit
    history: pd.DataFrame
    stopped: str = ""

    @property
    def table(self) -> Tensor:
        """The reward [S] or [S, A] at the fit's ``params``; a posterior's mean if it is linear."""
        return self.program.reward_table(self.fit.params)

    def draws(self, most: int = 500) -> Tensor:
        """Rewards [D, S] or [D, S, A] of the posterior.

        Raises
        ------
        FitError
            For a point fit.
        """
        return torch.stack([self.program.reward_table(v) for v in posterior(self.fit, most)])

    def pessimistic(self, sds: float = 1.0, most: int = 500) -> Tensor:
        """Posterior mean less some standard deviations, entry by entry.

        An entry that preferences say little about may be thought better than it is, and that is
        where an optimiser goes. There the standard deviation is large, so that this table holds it
        back.

        Parameters
        ----------
        sds
            How many.
        most
            Draws that are used.
        """
        if not is_number(sds) or sds < 0:
            raise OptionError(f"sds must be a number of at least 0, got {sds!r}")
        draws = self.draws(most)
        return draws.mean(0) - sds * draws.std(0)


def posterior(fit: Fit, most: int) -> list[dict[str, Tensor]]:
    """Draws of a fit.

    Raises
    ------
    FitError
        For a point fit.
    """
    if fit.is_point:
        raise FitError(
            f"the reward's uncertainty needs posterior draws and {fit.engine!r} gives a point; use "
            "Laplace, SVI or NUTS"
        )
    return fit.each_draw(most)


def pair_probabilities(
    program: TrajectoryPreference, fit: Fit, pairs: TrajectoryPairs, most: int = 200
) -> Tensor:
    """Probabilities [draws, pairs, 2] of both answers, as acquisitions read them."""
    first = torch.stack([program.probabilities(v, pairs) for v in posterior(fit, most)])
    return torch.stack([first, 1 - first], -1)


def learn_reward(
    pairs: TrajectoryPairs,
    oracle: Callable[[Queries], Any],
    program: TrajectoryPreference,
    *,
    preferences: int,
    engine: Engine | None = None,
    acquisition: Acquisition = bald,
    start: int = 20,
    batch: int = 20,
    draws: int = 200,
    seed: int = 0,
    callback: Callable[[LearnedReward], Any] | None = None,
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
        ``"random"``, or a function from probabilities [draws, pairs, 2] to scores [pairs], of
        which the highest are asked about: one of the acquisitions of `likely.inference.active`,
        by default `bald`.
    start, batch
        Random pairs to begin with, and questions in a round. With ``"random"`` there is one round
        unless a callback wants to see more.
    draws
        Of the posterior, for scores.
    seed
        Of random choices.
    callback
        Called with the `LearnedReward` after each round; True stops.

    Raises
    ------
    OptionError
        If an option cannot be used.
    """
    for name, value in (("preferences", preferences), ("start", start), ("batch", batch)):
        check_int(name, value, 1)
    check_int("draws", draws, 2)
    check_seed("seed", seed)
    if not callable(acquisition) and acquisition != "random":
        raise OptionError(f"acquisition must be 'random' or a function, got {acquisition!r}")
    chosen = Laplace() if engine is None else engine
    rng = np.random.default_rng(seed)
    left, index = np.ones(len(pairs), dtype=bool), np.empty(0, dtype=np.int64)
    labels, rows, score, stopped = index, [], float("nan"), ""
    result: LearnedReward | None = None
    by_chance = acquisition == "random"
    if by_chance and callback is None:
        start = preferences
    while True:
        wanted = min(start if result is None else batch, preferences - len(index))
        pool = np.flatnonzero(left)
        if result is None or by_chance:
            asked = rng.permutation(pool)[:wanted]
        else:
            assert callable(acquisition)
            found = acquisition(pair_probabilities(program, result.fit, pairs[pool], draws))
            best = found.topk(min(wanted, len(pool))).indices.numpy()
            asked, score = pool[best], float(found[torch.from_numpy(best)].mean())
        left[asked] = False
        try:
            given = ask(oracle, Queries(asked, classes=CHOICES))
        except LabellingStopped as end:
            given, stopped = np.asarray(end.labels), "labelling was stopped"
            given = given if len(given) == len(asked) else np.full(len(asked), -1)
        index = np.append(index, asked[given >= 0])
        labels = np.append(labels, given[given >= 0])
        if not len(index):
            if stopped or not left.any():
                raise FitError("the oracle gave no answer, so that there is no reward to learn")
            continue
        answered = pairs[torch.from_numpy(index)].with_preferred(labels == 0)
        rows.append({"preferences": len(index), "score": score})
        table = pd.DataFrame(rows)
        fit = chosen.fit(program, answered)
        result = LearnedReward(program, answered, index, fit, table, stopped)
        over = len(index) >= preferences or not left.any() or bool(stopped)
        if (callback is not None and callback(result) is True) or over:
            return result


def bootstrap_rewards(
    program: TrajectoryPreference,
    pairs: TrajectoryPairs,
    engine: Engine,
    members: int,
    seed: int = 0,
) -> list[Fit]:
    """An ensemble: fits to pairs drawn with replacement, for rewards without a posterior.

    Parameters
    ----------
    program, pairs, engine
        Of each fit.
    members
        How many.
    seed
        Of the draws.

    Returns
    -------
    list of Fit
        The program's ``reward_table`` at each one's ``params`` makes a committee.
    """
    check_int("members", members, 1)
    fits = []
    for number in range(members):
        drawn = np.random.default_rng(seed_of(seed, number)).integers(len(pairs), size=len(pairs))
        weights = np.bincount(drawn, minlength=len(pairs)).astype(np.float64)
        fits.append(engine.fit(program, pairs, weights=weights))
    return fits
