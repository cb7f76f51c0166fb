"""Reinforcement learning from human feedback: a reward from preferences, a policy near a clone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from likely.inference.checkpoints import seed_of
from likely.inference.engines import MAP
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_int, check_positive, check_seed, is_number
from likely.inference.errors import OptionError
from likely.inference.imitation.acting import ActingPolicy, as_table
from likely.inference.imitation.cloning import behaviour_cloning
from likely.inference.imitation.judged import follow
from likely.inference.imitation.learned_reward import LearnedReward, candidate_pairs, learn_reward
from likely.inference.imitation.playing import play
from likely.inference.imitation.policy_gradient import PolicyGradient
from likely.inference.imitation.result import Imitation
from likely.models.policy import Policy, TabularPolicy
from likely.models.preference.pairs import TrajectoryPairs
from likely.models.preference.rewards import TrajectoryReward
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
    """E_π Σ_t γ^t KL(π ‖ π0), nats: how far from π0 an episode of π is."""
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
    """
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


@dataclass(frozen=True, eq=False)
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
    """

    base: Imitation
    reward: LearnedReward
    policy: ActingPolicy
    history: pd.DataFrame

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

    def learn(self, learner: Trajectories) -> dict[str, float]:
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
    pessimism: float = 0.0,
    gradient: PolicyGradient | None = None,
    seed: int = 0,
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
        From the candidates to an oracle: ``lambda pairs: SimulatedLabeller(pairs, 0.95, 5.0)``, or
        ``lambda pairs: TerminalOracle(CHOICES, path="answers.csv", items=pair_texts(pairs))``.
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
    pessimism
        Optimise the posterior mean less this many standard deviations (a process only).
    gradient
        Options of the policy gradient.
    seed
        Of all draws.
    **options
        Of `learn_reward`: ``engine``, ``acquisition``, ``start``, ``batch``, ``callback``, ...

    Returns
    -------
    RLHF

    Raises
    ------
    OptionError
        If an option cannot be used, or a process comes without a horizon.
    """
    check_seed("seed", seed)
    check_positive("temperature", temperature)
    check_int("episodes", episodes, 2)
    if not is_number(pessimism) or pessimism < 0:
        raise OptionError(f"pessimism must be a number of at least 0, got {pessimism!r}")
    tabular = isinstance(env, TabularMDP)
    if pessimism and not tabular:
        raise OptionError("pessimism: only in a TabularMDP, whose rewards are a table")
    if policy is None and not tabular:
        raise OptionError("policy: expected one of likely.models, as this is no TabularMDP")
    gamma = (env.discount if tabular else 1.0) if discount is None else discount
    if policy is None:
        policy = TabularPolicy(env.n_states, env.n_actions, concentration=1 + 2 / env.n_actions)
        cloning = MAP() if cloning is None else cloning
    base = behaviour_cloning(demonstrations, policy, cloning)
    seen = play(env, base.policy, episodes, seed_of(seed, 0), horizon)
    pairs = candidate_pairs(seen, candidates, seed_of(seed, 1))
    program = TrajectoryPreference(reward, gamma, rationality)
    learned = learn_reward(
        pairs,
        labeller(pairs),
        program,
        preferences=preferences,
        seed=seed_of(seed, 2),
        **options,
    )
    if tabular:
        table = learned.pessimistic(pessimism) if pessimism else learned.table
        found = improve(env, table, base, temperature)
        spaces = demonstrations.state_space, demonstrations.action_space
        tables = TabularPolicy(env.n_states, env.n_actions)
        acting = ActingPolicy(tables, {"policy": found.policy}, *spaces)
        row = {"temperature": temperature, "kl": found.kl, "learned": found.learned}
        return RLHF(base, learned, acting, pd.DataFrame([row]))
    steps = PolicyGradient(horizon=horizon, seed=seed) if gradient is None else gradient

    def paid(trajectories: Trajectories) -> Tensor:
        return reward.steps(learned.fit.params, trajectories)

    judge = PreferenceJudge(paid, base.policy, temperature)
    moved = follow(METHOD, env, policy, judge, steps, init=base)
    return RLHF(base, learned, moved.policy, moved.history)
