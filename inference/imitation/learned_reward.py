"""Rewards learnt from preferences, and how sure one is of them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import Trajectories
from likely.inference.checkpoints import seed_of
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_int, is_number
from likely.inference.errors import FitError, OptionError
from likely.inference.fit import POINT_ENGINES, Fit
from likely.models.preference.pairs import TrajectoryPairs
from likely.models.preference.trajectory import TrajectoryPreference


@dataclass(frozen=True, eq=False, repr=False)
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
    members : tuple of Fit
        An ensemble (`bootstrap_rewards`), whose members stand for a posterior's draws; or none.
    """

    program: TrajectoryPreference
    pairs: TrajectoryPairs
    index: NDArray[np.int64]
    fit: Fit
    history: pd.DataFrame
    stopped: str = ""
    members: tuple[Fit, ...] = ()

    def __repr__(self) -> str:
        state = f", stopped: {self.stopped}" if self.stopped else ""
        n = len(self.pairs)
        return f"LearnedReward({n} preference{'s' * (n != 1)}{state}, {self.fit!r})"

    @property
    def table(self) -> Tensor:
        """The reward [S] or [S, A] at the fit's ``params``; a posterior's mean if it is linear."""
        return self.program.reward_table(self.fit.params)

    def values(self, most: int = 500) -> list[dict[str, Tensor]]:
        """Site to value, of each draw of the posterior or each member of the ensemble.

        Raises
        ------
        FitError
            For a point fit without an ensemble.
        """
        check_int("most", most, 2)
        if self.members:
            return [member.params for member in self.members[:most]]
        if self.fit.is_point:
            raise FitError(
                f"the reward's uncertainty needs posterior draws and {self.fit.engine!r} gives a "
                "point; use Laplace, SVI or NUTS, or an ensemble"
            )
        return self.fit.each_draw(most)

    def draws(self, most: int = 500) -> Tensor:
        """Rewards [D, S] or [D, S, A] of the posterior, or of the ensemble; see `values`."""
        return torch.stack([self.program.reward_table(v) for v in self.values(most)])

    def pessimistic(
        self, sds: float | None = None, most: int = 500, *, quantile: float | None = None
    ) -> Tensor:
        """The reward at its posterior mean less some standard deviations, or at a low quantile.

        See `pessimistic_reward`, of the posterior's draws.

        Parameters
        ----------
        sds
            How many standard deviations; 1 where no quantile is given.
        most
            Draws that are used.
        quantile
            Or which quantile of each entry.
        """
        return pessimistic_reward(self.draws(most), sds, quantile=quantile)

    def steps(
        self,
        trajectories: Trajectories,
        sds: float | None = None,
        most: int = 100,
        *,
        quantile: float | None = None,
    ) -> Tensor:
        """Rewards [N] of all steps; pessimistic ones if ``sds`` or ``quantile`` are given.

        Parameters
        ----------
        trajectories
            Of any states that the reward knows, tables or not.
        sds, most, quantile
            As in `pessimistic`.
        """
        reward = self.program.reward
        if sds is None and quantile is None:
            return reward.steps(self.fit.params, trajectories)
        draws = [reward.steps(one, trajectories) for one in self.values(most)]
        return pessimistic_reward(torch.stack(draws), sds, quantile=quantile)


def pessimistic_reward(
    draws: Tensor, sds: float | None = None, *, quantile: float | None = None
) -> Tensor:
    """What a reward is worth at least, more or less surely, entry by entry.

    An entry that preferences say little about may be thought better than it is, and that is where
    an optimiser goes. There draws differ, so that a pessimistic reward holds it back.

    Parameters
    ----------
    draws
        float [D, ...]: draws of a posterior, or the members of an ensemble (`bootstrap_rewards`);
        two at least.
    sds
        Their mean less this many standard deviations; 1 where no quantile is given.
    quantile
        This quantile of theirs, from 0 (the lowest draw) to 1, interpolated between draws.

    Raises
    ------
    OptionError
        For fewer than two draws, numbers of another dtype, both options, or one out of range.

    Examples
    --------
    >>> draws = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    >>> pessimistic_reward(draws, 1.0), pessimistic_reward(draws, quantile=0.25)
    (tensor([0., 1.]), tensor([1., 1.]))
    """
    if not isinstance(draws, Tensor) or draws.dim() < 1 or len(draws) < 2 or not draws.numel():
        got = tuple(draws.shape) if isinstance(draws, Tensor) else type(draws).__name__
        raise OptionError(f"draws: expected a tensor [D, ...] of at least two, got {got}")
    if draws.dtype not in (torch.float32, torch.float64):
        raise OptionError(f"draws: expected float32 or float64, got {draws.dtype}")
    check_pessimism(sds, quantile)
    if quantile is not None:
        return draws.quantile(float(quantile), 0)
    return draws.mean(0) - (1.0 if sds is None else sds) * draws.std(0)


def check_pessimism(sds: Any, quantile: Any, name: str = "sds") -> None:
    """Raise an `OptionError` unless at most one of the two is given, and makes sense."""
    if sds is not None and quantile is not None:
        raise OptionError(f"{name}, quantile: expected one of them, got both")
    if sds is not None and not (is_number(sds) and 0 <= sds < math.inf):
        raise OptionError(f"{name} must be a number of at least 0, got {sds!r}")
    if quantile is not None and not (is_number(quantile) and 0 <= quantile <= 1):
        raise OptionError(f"quantile must be a number from 0 to 1, got {quantile!r}")


def check_certainty(engine: Engine, ensemble: int | None, what: str) -> None:
    """Raise an `OptionError` where nothing will say how uncertain a reward is, and ``what`` asks.

    Better before people have answered than after.
    """
    name = getattr(engine, "name", "")
    if ensemble is None and name in POINT_ENGINES:
        raise OptionError(
            f"{what} needs posterior draws and {name!r} gives a point; expected an engine such as "
            "Laplace, SVI or NUTS, or an ensemble"
        )


def check_reward(program: TrajectoryPreference, pairs: TrajectoryPairs) -> None:
    """Raise a `DataError` where a reward cannot be evaluated for one of the pairs, the first."""
    one = pairs[torch.arange(1)]
    with torch.no_grad():
        program.reward.ahead(program.initial(one), program.differences(one), slice(None))


def reward_digest(reward: Any) -> str:
    """A fingerprint of a reward's options, but for functions of states and a network's weights."""
    digest = hashlib.sha256(type(reward).__name__.encode())
    for option in fields(reward) if is_dataclass(reward) else ():
        value = getattr(reward, option.name)
        if isinstance(value, Tensor):
            digest.update(value.numpy(force=True).tobytes())
        elif isinstance(value, torch.nn.Module) or not callable(value):
            digest.update(repr(value).encode())
    return digest.hexdigest()[:16]


def pair_probabilities(learned: LearnedReward, pairs: TrajectoryPairs, most: int = 200) -> Tensor:
    """Probabilities [draws, pairs, 2] of both answers, as acquisitions read them."""
    first = torch.stack([learned.program.probabilities(v, pairs) for v in learned.values(most)])
    return torch.stack([first, 1 - first], -1)


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
        The program's ``reward_table`` at each one's ``params`` makes a committee, which
        `pessimistic_reward` takes for draws.
    """
    check_int("members", members, 1)
    if not isinstance(engine, Engine):
        raise OptionError(f"engine must be an engine such as MAP(), got {engine!r}")
    fits = []
    for number in range(members):
        drawn = np.random.default_rng(seed_of(seed, number)).integers(len(pairs), size=len(pairs))
        weights = np.bincount(drawn, minlength=len(pairs)).astype(np.float64)
        fits.append(engine.fit(program, pairs, weights=weights))
    return fits
