"""Reinforcement learning from human feedback: a reward from preferences, a policy near a clone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from likely.envs import (
    TabularMDP,
    Trajectories,
    objective,
    soft_value_iteration,
    state_occupancy,
)
from likely.inference.checkpoints import as_folder, seed_of
from likely.inference.engines import MAP, Laplace
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_bool, check_int, check_positive, check_seed
from likely.inference.errors import OptionError
from likely.inference.imitation.acting import ActingPolicy, as_table
from likely.inference.imitation.asking_pairs import learn_reward
from likely.inference.imitation.cloning import behaviour_cloning
from likely.inference.imitation.judged import follow
from likely.inference.imitation.learned_reward import (
    LearnedReward,
    check_certainty,
    check_pessimism,
)
from likely.inference.imitation.pair_labels import candidate_pairs
from likely.inference.imitation.pair_pictures import Filmed
from likely.inference.imitation.playing import play
from likely.inference.imitation.policy_gradient import PolicyGradient
from likely.inference.imitation.result import Imitation
from likely.models._shared_rewards import KINDS, as_reward_table
from likely.models.policy import Policy, TabularPolicy
from likely.models.preference import TrajectoryReward
from likely.models.preference.pairs import TrajectoryPairs
from likely.models.preference.trajectory import TrajectoryPreference

METHOD = "rlhf"


class Improved(NamedTuple):
    """The best policy under a reward that stays near a base policy.

    Attributes
    ----------
    policy
        π [S, A].
    kl
        E_π Σ_t γ^t KL(π ‖ π0) at the states of an episode, nats.
    learned
        Return under the reward that it was optimised for, without the penalty.
    """

    policy: Tensor
    kl: float
    learned: float


def improve(mdp: TabularMDP, reward: Any, base: Any, temperature: float) -> Improved:
    r"""Maximise E Σ γ^t (r − λ KL(π ‖ π0)) exactly, by soft value iteration from π0.

    Parameters
    ----------
    mdp
        The process; its own reward has no part.
    reward
        [S], [S, A] or [S, A, S].
    base
        π0: what `as_table` takes.
    temperature
        λ, in units of the reward.

    Examples
    --------
    >>> choice = TabularMDP([[[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2], [0.0, 0.0], 1.0, 0, sink=1)
    >>> found = improve(choice, [[1.0, 0.0], [0.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]], 1.0)
    >>> found.policy[0]
    tensor([0.7311, 0.2689], dtype=torch.float64)
    """
    prior = as_table(mdp, base, "base")
    found = soft_value_iteration(mdp, temperature, reward=reward, prior=prior).policy.detach()
    return Improved(
        found, kl_budget(mdp, found, prior), float(objective(mdp, found, reward=reward))
    )


def kl_budget(mdp: TabularMDP, policy: Any, base: Any) -> float:
    """E_π Σ_t γ^t KL(π ‖ π0), nats: how far from π0 an episode of π is.

    Parameters
    ----------
    mdp
        The process.
    policy, base
        π and π0: what `as_table` takes.
    """
    table, prior = as_table(mdp, policy), as_table(mdp, base, "base")
    rows = (torch.special.xlogy(table, table) - torch.special.xlogy(table, prior)).sum(-1)
    alive = mdp.alive > 0
    return float((state_occupancy(mdp, table)[alive] * rows[alive]).sum())


def over_optimisation(
    mdp: TabularMDP, rewards: Mapping[str, Any], base: Any, temperatures: Any, true: Any = None
) -> pd.DataFrame:
    """True against learned return as the penalty is lifted (Gao, Schulman & Hilton 2023).

    Parameters
    ----------
    mdp
        The process, whose own reward is the true one unless ``true`` is given.
    rewards
        Name to a learned reward, [S] or [S, A].
    base
        π0.
    temperatures
        λ, several.
    true
        The true reward.

    Returns
    -------
    DataFrame
        Columns ``reward`` (its name), ``temperature``, ``kl``, ``learned``, ``true``; both returns
        less those of π0.

    Raises
    ------
    OptionError
        If there is no reward or no temperature.
    """
    if not isinstance(rewards, Mapping) or not rewards:
        raise OptionError(f"rewards: expected at least one, name to reward, got {rewards!r}")
    if not isinstance(temperatures, Iterable) or not len(temperatures := list(temperatures)):
        raise OptionError(f"temperatures: expected at least one, in a list, got {temperatures!r}")
    prior, rows = as_table(mdp, base, "base"), []
    for name, reward in rewards.items():
        at_base = float(objective(mdp, prior, reward=reward))
        truly = float(objective(mdp, prior, reward=true))
        for heat in temperatures:
            found = improve(mdp, reward, prior, float(heat))
            earned = float(objective(mdp, found.policy, reward=true)) - truly
            row = (name, float(heat), found.kl, found.learned - at_base, earned)
            rows.append(
                dict(zip(("reward", "temperature", "kl", "learned", "true"), row, strict=True))
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False, repr=False)
class RLHF:
    """All that the pipeline found on its way.

    Attributes
    ----------
    base : Imitation
        π0, cloned from the demonstrations.
    reward : LearnedReward
        What was learnt from preferences.
    policy : ActingPolicy
        The policy near π0 that earns most of it.
    history : DataFrame
        Of the policy's optimisation: one row where it is exact.
    stopped : str
        Why labelling or the policy gradient ended before its time, or nothing.
    """

    base: Imitation
    reward: LearnedReward
    policy: ActingPolicy
    history: pd.DataFrame
    stopped: str = ""

    def __repr__(self) -> str:
        state = f", stopped: {self.stopped}" if self.stopped else ""
        n, rows = len(self.reward.pairs), len(self.history)
        return f"RLHF({n} preference{'s' * (n != 1)}, {rows} rows of history{state})"

    @property
    def table(self) -> Tensor:
        """π(a | s), float64 [S, A], where states and actions are Discrete."""
        return self.policy.table


class PreferenceJudge:
    r"""Rewards of a step for policy gradients: r(s, a) − λ (log π(a | s) − log π0(a | s)).

    Their return has the gradient of E Σ γ^t (r − λ KL(π ‖ π0)), since the policy's own score has
    mean zero.

    Parameters
    ----------
    reward
        From trajectories to rewards [N].
    base
        π0.
    temperature
        λ.
    """

    def __init__(
        self, reward: Callable[[Trajectories], Tensor], base: ActingPolicy, temperature: float
    ) -> None:
        self.reward, self.base, self.temperature = reward, base, temperature

    def learn(self, learner: Trajectories, policy: ActingPolicy) -> dict[str, float]:
        """Nothing: the reward is learnt already."""
        return {}

    def rewards(self, learner: Trajectories, policy: ActingPolicy) -> Tensor:
        """Rewards [N], less the penalty."""
        states, actions = learner.state_action_pairs()
        now, before = (p.distribution(states).log_prob(actions) for p in (policy, self.base))
        return self.reward(learner).to(now) - self.temperature * (now - before)

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to go back to."""


def rlhf(
    env: Any,
    demonstrations: Trajectories,
    reward: TrajectoryReward,
    labeller: Callable[[TrajectoryPairs], Any],
    *,
    policy: Policy | None = None,
    cloning: Engine | None = None,
    horizon: int | None = None,
    episodes: int = 200,
    candidates: int = 2000,
    preferences: int = 500,
    discount: float | None = None,
    rationality: float = 1.0,
    temperature: float = 0.1,
    pessimism: float | None = None,
    quantile: float | None = None,
    gradient: PolicyGradient | None = None,
    seed: int = 0,
    path: str | PathLike[str] | None = None,
    progress: bool = False,
    **options: Any,
) -> RLHF:
    """Demonstrations, a cloned policy, pairs of its episodes, preferences, a reward, a policy.

    (Christiano et al. 2017; Ziegler et al. 2019, "Fine-tuning language models from human
    preferences".)

    Parameters
    ----------
    env
        A `TabularMDP`, where the policy is optimised exactly; or what `likely.envs.rollout` takes,
        where policy gradients do it. Its own reward has no part in learning.
    demonstrations
        What π0 is cloned from.
    reward
        `LinearReward`, `TabularReward` or `NetworkReward`.
    labeller
        From the candidates to an oracle: ``lambda pairs: SimulatedLabeller(pairs, 0.95, 5.0)``,
        ``lambda pairs: TerminalOracle(CHOICES, path="answers.jsonl", items=pair_texts(pairs))``, or
        ``lambda pairs: WebOracle(CHOICES, "image", path="answers.jsonl",
        items=pair_pictures(pairs, world))``, with the `GridWorld` of the process, or with the
        environment ``env`` as a `Filmed`, which films the episodes of π0 and no others. Its method
        ``close``, if it has one, is called when the answers are there.
    policy
        Of `likely.models`; by default a `TabularPolicy` with two pseudo-counts in all, which
        leaves no action impossible.
    cloning
        Engine of the cloning; `MLE`, and `MAP` for the default policy.
    horizon
        Most steps of an episode; needed in a process.
    episodes, candidates
        Episodes of π0, and pairs of them that may be asked about.
    preferences
        Answers to get.
    discount
        γ of the returns that are compared; by default the process's, 1 in an environment.
    rationality
        β that the reward's program assumes.
    temperature
        λ of the penalty λ KL(π ‖ π0).
    pessimism, quantile
        Optimise the posterior mean less this many standard deviations, or this quantile of the
        posterior, of each entry of the table or each step; see `pessimistic_reward`.
    gradient
        Options of the policy gradient (an environment only). Its discount is that of the returns
        that are compared unless it says otherwise.
    seed
        Of all draws.
    path
        A folder where answers and the policy's steps are kept. Called again with the same
        arguments, a run that was broken off goes on from there, to the same result.
    progress
        Show bars.
    **options
        Of `learn_reward`: ``engine``, ``acquisition``, ``start``, ``batch``, ``ensemble``,
        ``callback``.

    Returns
    -------
    RLHF

    Raises
    ------
    OptionError
        If an option cannot be used, or a process comes without a horizon.
    DataError
        If the reward is no table of a process, or does not fit the episodes.
    FitError
        If nothing was answered, or the folder holds another run or cannot be made.
    """
    check_seed("seed", seed)
    check_positive("temperature", temperature)
    check_int("episodes", episodes, 2)
    check_bool("progress", progress)
    check_pessimism(pessimism, quantile, "pessimism")
    if not callable(labeller):
        raise OptionError(f"labeller must be a function of pairs, got {labeller!r}")
    tabular = isinstance(env, TabularMDP)
    if gradient is not None and not isinstance(gradient, PolicyGradient):
        raise OptionError(f"gradient must be a PolicyGradient, got {gradient!r}")
    if tabular and gradient is not None:
        raise OptionError("gradient: in a TabularMDP the policy is optimised exactly, without it")
    if pessimism is not None or quantile is not None:
        engine = options.get("engine") or Laplace()
        check_certainty(engine, options.get("ensemble"), "pessimism or quantile")
    lower: dict[str, float | None] = {"pessimism": pessimism, "quantile": quantile}
    if tabular and isinstance(reward, KINDS):
        # Planning needs its table: better said before anybody is asked.
        as_reward_table(env, reward, None, (), None)
    kept = None if path is None else as_folder(path)
    if policy is None and not tabular:
        raise OptionError("policy: expected one of likely.models, as this is no TabularMDP")
    gamma = (env.discount if tabular else 1.0) if discount is None else discount
    if policy is None:
        policy = TabularPolicy(env.n_states, env.n_actions, concentration=1 + 2 / env.n_actions)
        cloning = MAP() if cloning is None else cloning
    base = behaviour_cloning(demonstrations, policy, cloning)
    if isinstance(env, Filmed):
        # Episodes are numbered from here.
        env.forget()
    seen = play(env, base.policy, episodes, seed_of(seed, 0), horizon)
    pairs = candidate_pairs(seen, candidates, seed_of(seed, 1))
    program = TrajectoryPreference(reward, gamma, rationality)
    oracle = labeller(pairs)
    try:
        learned = learn_reward(
            pairs,
            oracle,
            program,
            preferences=preferences,
            seed=seed_of(seed, 2),
            path=None if kept is None else kept / "reward",
            progress=progress,
            **options,
        )
    finally:
        # Nobody else has a hold on it: a page in the browser says that all is done.
        if callable(close := getattr(oracle, "close", None)):
            close()
    if tabular:
        table = learned.table
        if pessimism is not None or quantile is not None:
            table = learned.pessimistic(pessimism, quantile=quantile)
        found = improve(env, table, base, temperature)
        spaces = demonstrations.state_space, demonstrations.action_space
        tables = TabularPolicy(env.n_states, env.n_actions)
        acting = ActingPolicy(tables, {"policy": found.policy}, *spaces)
        row = {"temperature": temperature, "kl": found.kl, "learned": found.learned}
        return RLHF(base, learned, acting, pd.DataFrame([row]), learned.stopped)
    steps = PolicyGradient(horizon=horizon, seed=seed) if gradient is None else gradient
    own = gamma if steps.discount is None else steps.discount
    steps = replace(steps, discount=own, progress=steps.progress or progress)

    def paid(trajectories: Trajectories) -> Tensor:
        return learned.steps(trajectories, pessimism, quantile=quantile)

    judge = PreferenceJudge(paid, base.policy, temperature)
    moved = follow(
        METHOD,
        env.env if isinstance(env, Filmed) else env,
        policy,
        judge,
        steps,
        init=base,
        path=None if kept is None else kept / "policy",
        about={"answers": len(learned.pairs), "temperature": float(temperature), **lower},
    )
    return RLHF(base, learned, moved.policy, moved.history, learned.stopped or moved.stopped)
