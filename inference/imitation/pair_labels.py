"""Which pairs of episodes somebody can be asked about, who answers, and what people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from likely.envs import Trajectories
from likely.inference.active.checks import check_names, within
from likely.inference.active.oracle import Queries
from likely.inference.engines.checks import check_int, check_seed, is_number
from likely.inference.errors import OptionError
from likely.models.preference.pairs import TrajectoryPairs
from likely.models.preference.trajectory import check_pairs

# Classes of an oracle's answers, in their order.
CHOICES = ("first", "second")


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
    if not isinstance(trajectories, Trajectories):
        raise OptionError(f"trajectories: expected Trajectories, got {type(trajectories).__name__}")
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
        check_pairs(pairs)
        if not is_number(rationality) or not rationality > 0:
            raise OptionError(f"rationality must be a number above 0, got {rationality!r}")
        check_seed("seed", seed)
        ahead = (pairs.first.returns(discount) - pairs.second.returns(discount)).double()
        odds = torch.where(ahead == 0, 0.0, ahead * rationality)
        chance = torch.sigmoid(odds).cpu().numpy()
        self._answers = np.where(np.random.default_rng(seed).random(len(chance)) < chance, 0, 1)

    def __call__(self, queries: Queries) -> NDArray[np.int64]:
        """0 where the first is preferred, 1 where the second is."""
        check_names(queries.classes, CHOICES, "the labeller")
        within(queries.index, len(self._answers), "index", "the pairs")
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
        Their names, one each; by default numbers.

    Raises
    ------
    OptionError
        If states or actions are not Discrete, or have other numbers of names.

    Examples
    --------
    >>> seen = Trajectories.from_arrays([[0, 1], [0, 2]], [[0], [1]])
    >>> print(pair_texts(TrajectoryPairs.among(seen, [0], [1]), "ABC", ["left", "right"])[0])
    first:  A left B
    second: A right C
    """
    check_pairs(pairs)
    for what, names in (("state", states), ("action", actions)):
        space = getattr(pairs.first, f"{what}_space")
        if not isinstance(space, Discrete):
            raise OptionError(f"pairs: text is for Discrete {what}s, and these are {space}")
        if len(names) not in (0, int(space.n)):
            raise OptionError(f"{what}s: expected {space.n} names, got {len(names)}")

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
