"""Inverse reinforcement learning: maximum entropy, apprenticeship, and the game."""

from __future__ import annotations

from os import PathLike
from typing import Any

from likely.envs import TabularMDP
from likely.inference.engines.base import EngineOptions
from likely.inference.engines.checks import check_choice, check_int, check_positive
from likely.inference.engines.mle import MLE
from likely.inference.errors import OptionError
from likely.inference.imitation.demonstrations import FeatureMatching
from likely.inference.imitation.inverse_rl import InverseRL
from likely.inference.imitation.irl_run import match_expert
from likely.inference.imitation.reward_rules import MaxEntropy, MaxMargin, MultiplicativeWeights
from likely.models._shared_rewards import read_features
from likely.models.maxent import MaxEntIRL, Visits

# Margins that the two kinds of apprenticeship learning reach in a few hundred rounds.
MARGINS = {"max-margin": 1e-3, "projection": 0.05}


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
    path: str | PathLike[str] | None = None,
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
    progress, callback, path
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
    problem = FeatureMatching(mdp, read_features(features), expert, horizon)
    data = expert if isinstance(expert, Visits) else problem.visits()
    rule = MaxEntropy(program, data, MLE() if engine is None else engine, tol)
    watched = {"progress": progress, "callback": callback, "path": path}
    return match_expert(problem, rule, max_iter=max_iter, **watched)


def apprenticeship_learning(
    mdp: TabularMDP,
    features: Any,
    expert: Any,
    *,
    method: str = "max-margin",
    horizon: int | None = None,
    tol: float | None = None,
    max_iter: int = 500,
    episodes: int | None = None,
    seed: int = 0,
    progress: bool = False,
    callback: Any = None,
    path: str | PathLike[str] | None = None,
) -> InverseRL:
    """A mixture of policies that does as well as the expert under every reward.

    Abbeel & Ng 2004, "Apprenticeship learning via inverse reinforcement learning": whatever the
    true weights w, the mixture's return is within ‖w‖ ε of the expert's.

    Parameters
    ----------
    mdp, features, expert, horizon, episodes, seed
        As in `FeatureMatching`.
    method : {"max-margin", "projection"}
        The quadratic program over all policies so far, or a step towards the newest alone.
    tol
        ε: margin ‖μ_E − Σ α μ‖ at which the search ends; by default 1e-3, and 0.05 for the
        projection, whose rounds grow like 1 / ε² (see ``bound``) unless the expert is a corner of
        what can be had: ten times as near, a hundred times as many.
    max_iter
        Policies at most.
    progress, callback, path
        As in `match_expert`.

    Returns
    -------
    InverseRL
        ``history`` has ``gap``, ``margin``, and ``bound``, which the margin cannot exceed if the
        expert can be matched and features are exact. An expert that no mixture can match, as the
        mean of a few episodes often is, ends the search at its distance from what can be had.

    Examples
    --------
    >>> rooms = TabularMDP([[[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]]], [0.0, 0.0], 0.5, 0)
    >>> found = apprenticeship_learning(rooms, "state", [[0.4, 0.6], [0.4, 0.6]])
    >>> found.gap < 1e-3
    True
    """
    check_choice("method", method, ("max-margin", "projection"))
    reached = MARGINS[method] if tol is None else tol
    check_positive("tol", reached)
    problem = FeatureMatching(mdp, read_features(features), expert, horizon, episodes, seed)
    rule = MaxMargin(reached, method == "projection")
    watched = {"progress": progress, "callback": callback, "path": path}
    return match_expert(problem, rule, max_iter=max_iter, **watched)


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
    path: str | PathLike[str] | None = None,
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
    progress, callback, path
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
    problem = FeatureMatching(mdp, read_features(features), expert, horizon, episodes, seed)
    if problem.length == float("inf"):
        raise OptionError("horizon: with discount 1 feature expectations have no bound without one")
    low, high = problem.bounds
    slack = 1e-9 * (high - low)
    if bool(((problem.expected < low - slack) | (problem.expected > high + slack)).any()):
        raise OptionError(
            f"expert: expected features from {low:g} to {high:g}, got {problem.expected.tolist()}"
        )
    rule = MultiplicativeWeights(rounds)
    watched = {"progress": progress, "callback": callback, "path": path}
    return match_expert(problem, rule, max_iter=rounds, **watched)
