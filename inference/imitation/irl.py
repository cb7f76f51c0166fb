"""Inverse reinforcement learning: fit a reward, plan, compare with the expert, and again."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from likely.envs import TabularMDP
from likely.inference.engines.base import EngineOptions
from likely.inference.engines.checks import check_choice, check_int, check_positive
from likely.inference.engines.mle import MLE
from likely.inference.errors import ConvergenceWarning, FitError, OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.demonstrations import FeatureMatching
from likely.inference.imitation.reward_rules import (
    MaxEntropy,
    MaxMargin,
    MultiplicativeWeights,
    RewardRule,
)
from likely.inference.monitor import Monitor
from likely.models.maxent import MaxEntIRL, Visits
from likely.models.policy import TabularPolicy


@dataclass(frozen=True, eq=False)
class InverseRL:
    """A reward that explains an expert, and the policies that were tried on the way.

    Attributes
    ----------
    method : str
        ``"maxent"``, ``"apprenticeship"`` or ``"mwal"``.
    weights : Tensor
        float64 [F]: of the last reward; empty for a network's.
    reward : Tensor
        The last reward, [S] or [S, A].
    policies : Tensor
        [K, S, A], or over a horizon [K, T, S, A].
    mixture : Tensor
        [K]: probability of playing each of them for a whole episode.
    table : Tensor
        The one policy [S, A] or [T, S, A] whose visits are those of the mixture.
    expected, met : Tensor
        [F]: feature expectations of the expert, and of the mixture.
    history : DataFrame
        A row for each round; ``gap`` is the largest difference of feature expectations.
    converged : bool
        Whether the search reached its goal.
    stopped : str
        Why it ended otherwise, or nothing.
    fit : Fit, optional
        The program's fit, of ``"maxent"``.
    """

    method: str
    weights: Tensor
    reward: Tensor
    policies: Tensor
    mixture: Tensor
    table: Tensor
    expected: Tensor
    met: Tensor
    history: pd.DataFrame
    converged: bool
    stopped: str
    seconds: float
    fit: Fit | None = None

    @property
    def gap(self) -> float:
        """Largest difference of feature expectations, max |μ_E − μ|, of the mixture."""
        return float((self.expected - self.met).abs().max())

    @property
    def policy(self) -> ActingPolicy:
        """The mixture's policy as `likely.envs.rollout` takes it.

        Raises
        ------
        FitError
            If it depends on the time: `rollout_tabular` plays the ``table`` of a horizon.
        """
        if self.table.dim() == 3:
            raise FitError(
                "policy: over a horizon it depends on the time; play table [T, S, A] with "
                "rollout_tabular"
            )
        sizes = self.table.shape
        spaces = Discrete(int(sizes[0])), Discrete(int(sizes[1]))
        return ActingPolicy(TabularPolicy(*map(int, sizes)), {"policy": self.table}, *spaces)

    def __repr__(self) -> str:
        state = f", stopped: {self.stopped}" if self.stopped else ""
        return f"InverseRL({self.method}, {len(self.history)} rounds, gap {self.gap:.3g}{state})"


def match_expert(
    problem: FeatureMatching,
    rule: RewardRule,
    *,
    max_iter: int,
    progress: bool = False,
    callback: Any = None,
) -> InverseRL:
    """The loop that all of inverse reinforcement learning shares.

    1. Fit a reward to what the expert and the policies so far met.
    2. Find a policy for it.
    3. Compare its features with the expert's.
    4. Repeat.

    Parameters
    ----------
    problem
        Process, features and expert.
    rule
        How rewards are fitted.
    max_iter
        Rounds at most.
    progress
        Show a bar.
    callback
        Called with a `likely.inference.Step` after each round, whose objective is minus the gap;
        returning True stops.

    Returns
    -------
    InverseRL
        Also if the search did not reach its goal, with a `ConvergenceWarning`.
    """
    check_int("max_iter", max_iter, 1)
    begun = time.perf_counter()
    met = problem.expected.new_zeros(0, len(problem.expected))
    policies: list[Tensor] = []
    history: list[dict[str, float]] = []
    with Monitor(rule.name, max_iter, progress, callback) as monitor:
        for number in range(max_iter):
            weights = rule.weights(problem, met)
            policies.append(rule.plan(problem, weights))
            met = torch.cat([met, problem.met(policies[-1], number).unsqueeze(0)])
            verdict = rule.compare(problem, met)
            history.append({"round": number, **verdict.row})
            stop = monitor.step(-verdict.row["gap"], partial(dict, reward_weights=weights))
            if verdict.done or stop:
                break
    stopped = verdict.stopped
    if not verdict.done:
        stopped = f"it has not reached its goal after {len(history)} rounds"
    if stopped:
        warnings.warn(f"{rule.name}: {stopped}", ConvergenceWarning, stacklevel=3)
    # An interrupt may leave a policy that was not compared.
    count = len(verdict.mixture)
    tried, met = torch.stack(policies[:count]), met[:count]
    # Policies without a share would cost a solve each.
    used = verdict.mixture > 0
    return InverseRL(
        method=rule.name,
        weights=weights,
        reward=rule.reward(problem, weights),
        policies=tried,
        mixture=verdict.mixture,
        table=problem.blend(tried[used], verdict.mixture[used]),
        expected=problem.expected,
        met=verdict.mixture @ met,
        history=pd.DataFrame(history),
        converged=not stopped,
        stopped=stopped,
        seconds=time.perf_counter() - begun,
        fit=rule.fit,
    )


def maxent_irl(
    mdp: TabularMDP,
    features: Any,
    expert: Any,
    *,
    horizon: int | None = None,
    temperature: float = 1.0,
    engine: Any = None,
    tol: float = 1e-6,
    max_iter: int = 5,
    progress: bool = False,
    callback: Any = None,
    **options: Any,
) -> InverseRL:
    """Maximum causal entropy: the soft optimum that meets the expert's features.

    Ziebart 2010, "Modeling purposeful adaptive behavior". The program is `MaxEntIRL`, which any
    engine fits by itself, too; this is the loop around it, which says how near the features come.

    Parameters
    ----------
    mdp, features, expert, horizon
        As in `FeatureMatching`; the expert is a policy, trajectories or `Visits`. Episodes are
        read with weights γ^t.
    temperature
        λ.
    engine
        `MLE` unless given. With MAP and posterior engines a prior keeps a gap; an exact occupancy
        counts for one episode unless `Visits` say more.
    tol
        Gap at which the search is at its end.
    max_iter
        Fits at most, each from where the last one ended.
    progress, callback
        As in `match_expert`.
    **options
        Of `MaxEntIRL`.

    Returns
    -------
    InverseRL
        ``history`` has ``gap`` and ``log_likelihood``; ``fit`` is the program's.

    Examples
    --------
    >>> import torch
    >>> from likely.envs import soft_value_iteration
    >>> rooms = TabularMDP([[[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]]], [0.0, 2.0], 0.9, 0)
    >>> expert = soft_value_iteration(rooms).policy
    >>> found = maxent_irl(rooms, [[0.0], [1.0]], expert)
    >>> [round(w, 6) for w in found.weights.tolist()]
    [2.0]
    """
    check_positive("tol", tol)
    if engine is not None and not isinstance(engine, EngineOptions):
        raise OptionError(f"engine: expected an engine of likely.inference, got {engine!r}")
    program = MaxEntIRL(mdp, features, horizon, temperature, **options)
    # A network's features say how near it comes, though its reward is not linear in them.
    problem = FeatureMatching(mdp, features, expert, horizon)
    data = expert if isinstance(expert, Visits) else problem.visits()
    rule = MaxEntropy(program, data, MLE() if engine is None else engine, tol)
    return match_expert(problem, rule, max_iter=max_iter, progress=progress, callback=callback)


def apprenticeship_learning(
    mdp: TabularMDP,
    features: Any,
    expert: Any,
    *,
    method: str = "max-margin",
    horizon: int | None = None,
    tol: float = 1e-3,
    max_iter: int = 500,
    episodes: int | None = None,
    seed: int = 0,
    progress: bool = False,
    callback: Any = None,
) -> InverseRL:
    """A mixture of policies that does as well as the expert under every reward.

    Abbeel & Ng 2004, "Apprenticeship learning via inverse reinforcement learning": whatever the
    true weights w, the mixture's return is within ‖w‖ ε of the expert's.

    Parameters
    ----------
    mdp, features, expert, horizon, episodes, seed
        As in `FeatureMatching`.
    method : {"max-margin", "projection"}
        The quadratic program over all policies so far, or a step towards the newest, which is
        cheaper but needs many more policies for a small ε.
    tol
        ε: margin ‖μ_E − Σ α μ‖ at which the search ends.
    max_iter
        Policies at most.
    progress, callback
        As in `match_expert`.

    Returns
    -------
    InverseRL
        ``history`` has ``gap`` and ``margin``. An expert that no mixture can match, as the mean of
        a few episodes often is, ends the search at its distance from what can be had.

    Examples
    --------
    >>> rooms = TabularMDP([[[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]]], [0.0, 0.0], 0.5, 0)
    >>> found = apprenticeship_learning(rooms, "state", [[0.4, 0.6], [0.4, 0.6]])
    >>> found.gap < 1e-3
    True
    """
    check_choice("method", method, ("max-margin", "projection"))
    check_positive("tol", tol)
    problem = FeatureMatching(mdp, features, expert, horizon, episodes, seed)
    rule = MaxMargin(tol, method == "projection")
    return match_expert(problem, rule, max_iter=max_iter, progress=progress, callback=callback)


def mwal(
    mdp: TabularMDP,
    features: Any,
    expert: Any,
    *,
    rounds: int = 300,
    horizon: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    progress: bool = False,
    callback: Any = None,
) -> InverseRL:
    """Beat the expert as clearly as can be, where features are known to be good.

    Syed & Schapire 2007, "A game-theoretic approach to apprenticeship learning": the true weights
    are at least 0 and sum to 1 (a feature that may be bad stands twice, once with its sign
    changed). The mixture maximises what it is ahead of the expert under the worst of them, and may
    so be far better than the expert.

    Parameters
    ----------
    mdp, features, expert, horizon, episodes, seed
        As in `FeatureMatching`.
    rounds
        T, policies in the mixture.
    progress, callback
        As in `match_expert`.

    Returns
    -------
    InverseRL
        ``history`` has ``gap``; ``advantage``, what the mixture so far is ahead of the expert
        under the worst weights; ``regret`` of the weights; and ``bound``, which regret cannot
        exceed, and below −bound the advantage cannot fall.

    Raises
    ------
    OptionError
        Without discount and horizon, where features have no bound, or if the expert's are beyond
        what any behaviour meets.

    Examples
    --------
    >>> rooms = TabularMDP([[[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]]], [0.0, 0.0], 0.5, 0)
    >>> found = mwal(rooms, [[0.0], [1.0]], [[0.5, 0.5], [0.5, 0.5]], rounds=5)
    >>> float(found.met - found.expected)
    0.5
    """
    check_int("rounds", rounds, 1)
    problem = FeatureMatching(mdp, features, expert, horizon, episodes, seed)
    if problem.length == float("inf"):
        raise OptionError("horizon: with discount 1 feature expectations have no bound without one")
    low, high = problem.bounds
    slack = 1e-9 * (high - low)
    if bool(((problem.expected < low - slack) | (problem.expected > high + slack)).any()):
        raise OptionError(
            f"expert: expected features from {low:g} to {high:g}, got {problem.expected.tolist()}"
        )
    rule = MultiplicativeWeights(rounds)
    return match_expert(problem, rule, max_iter=rounds, progress=progress, callback=callback)
