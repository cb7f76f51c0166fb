"""What imitation costs: the value gap, its bounds by the disagreement, and how errors compound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import torch

from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    evaluate_horizon,
    expected_reward,
    objective,
    state_marginals,
    state_occupancy,
)
from likely.inference.engines.checks import check_int
from likely.inference.errors import OptionError
from likely.inference.imitation.acting import as_table, check_process


class Gap(NamedTuple):
    """A policy's loss against an expert, with bounds by their disagreement.

    Attributes
    ----------
    gap
        J(expert) − J(policy), exact.
    disagreement
        ε: total variation between the two policies' actions, averaged over the states that the
        expert visits. For an expert who never hesitates it is the probability of another action.
    bound
        2ε / (1 − γ)², or 2ε T² over T steps; times the range of the rewards.
    sharp
        Half of that, which holds as well: by the performance difference lemma the gap is
        Σ_s d(s) Σ_a (π_E − π)(a | s) Q(s, a), and no two Q differ by more than 1 / (1 − γ).
    """

    gap: float
    disagreement: float
    bound: float
    sharp: float


def cloning_gap(mdp: TabularMDP, policy: Any, expert: Any, horizon: int | None = None) -> Gap:
    r"""The value gap of a policy, and what its disagreement with the expert lets it be.

    .. math:: J(\pi_E) - J(\pi) \le \frac{2 \varepsilon}{(1 - \gamma)^2}, \qquad
              \varepsilon = \mathbb{E}_{s \sim d^{\pi_E}}
              \mathrm{TV}\bigl(\pi_E(\cdot \mid s), \pi(\cdot \mid s)\bigr)

    (Ross & Bagnell 2010, "Efficient reductions for imitation learning", theorem 2.1; Agarwal et al.
    2022, "Reinforcement learning: theory and algorithms", chapter 15.) J is the unnormalised sum
    Σ γ^t r, d the normalised occupancy of the expert, and rewards lie in [0, 1]; other rewards
    multiply the bound by the difference of the largest and the smallest, a sink's 0 among them.

    Parameters
    ----------
    mdp
        The process; without a horizon its discount must be below 1.
    policy, expert
        As `as_table` takes them.
    horizon
        T, for the sum of T rewards without a discount; 1 / (1 − γ) is then T.

    Raises
    ------
    OptionError
        At discount 1 without a horizon.

    Examples
    --------
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.9)
    >>> best = lake.value_iteration().policy
    >>> found = cloning_gap(lake, 0.9 * best + 0.1 * 0.25, best)
    >>> round(found.disagreement, 4), 0 < found.gap < found.sharp < found.bound
    (0.069, True)
    """
    own, theirs = as_table(mdp, policy), as_table(mdp, expert, "expert")
    paid = expected_reward(mdp).detach()
    extent = float(paid.max() - paid.min())
    apart = (own - theirs).abs().sum(-1) / 2 * mdp.alive
    if horizon is None:
        if mdp.discount == 1:
            raise OptionError("horizon: expected a number of steps, as the discount is 1")
        gap = float(objective(mdp, theirs) - objective(mdp, own))
        where = state_occupancy(mdp, theirs, normalized=True)
        length = 1 / (1 - mdp.discount)
    else:
        check_int("horizon", horizon, 1)
        free = replace(mdp, discount=1.0)
        value = [
            float(mdp.initial @ evaluate_horizon(free, t, horizon).value[0]) for t in (theirs, own)
        ]
        gap = value[0] - value[1]
        where = state_marginals(free, theirs, horizon)[:-1].mean(0)
        length = float(horizon)
    epsilon = float(where @ apart)
    bound = epsilon * length**2 * extent
    return Gap(gap, epsilon, 2 * bound, bound)


def coverage(
    mdp: TabularMDP, trajectories: Trajectories, *policies: Any, horizon: int | None = None
) -> tuple[float, ...]:
    """How much of where policies go was seen in demonstrations.

    Where nothing was seen, nothing was learnt: a clone that leaves the covered states is on its
    own, which is how errors compound.

    Parameters
    ----------
    mdp
        The process.
    trajectories
        Demonstrations.
    *policies
        The expert, the clone, ... as `as_table` takes them.
    horizon
        Steps that count; None for the discounted occupancy.

    Returns
    -------
    tuple of float
        For each policy the share of its visits, from 0 to 1, that fall on states in which the
        demonstrations show an action; the sink, where nothing is to be done, does not count.
    """
    check_process(mdp)
    if not isinstance(trajectories, Trajectories):
        raise DataError(f"trajectories: expected Trajectories, got {type(trajectories).__name__}")
    seen = torch.zeros(mdp.n_states, dtype=torch.float64)
    states, _ = trajectories.state_action_pairs()
    if states.is_floating_point() or int(states.max()) >= mdp.n_states:
        raise OptionError(f"trajectories: expected states of {mdp}")
    seen[states] = 1.0
    found = []
    for policy in policies:
        table = as_table(mdp, policy)
        if horizon is None:
            visits = state_occupancy(mdp, table)
        else:
            visits = state_marginals(mdp, table, horizon)[:-1].sum(0)
        visits = visits * mdp.alive
        found.append(float((visits * seen).sum() / visits.sum()))
    return tuple(found)


def compounding(mdp: TabularMDP, policy: Any, expert: Any, horizons: Sequence[int]) -> pd.DataFrame:
    """The gap over T steps, without a discount, for several T.

    Errors that the policy recovers from cost ε each, so the gap grows like εT; errors after which
    it meets states that the expert never visits cost the rest of the episode, and the gap grows
    like εT² (Ross & Bagnell 2010).

    Parameters
    ----------
    mdp, policy, expert
        As in `cloning_gap`.
    horizons
        The numbers of steps T.

    Returns
    -------
    DataFrame
        Columns ``horizon``, ``gap``, ``disagreement``, ``bound``, ``sharp``.
    """
    if isinstance(horizons, str) or not isinstance(horizons, Iterable):
        raise OptionError(f"horizons: expected numbers of steps, got {horizons!r}")
    steps = list(horizons)
    if not steps:
        raise OptionError("horizons: expected at least one, got none")
    for number in steps:
        check_int("horizons", number, 1)
    rows = [cloning_gap(mdp, policy, expert, int(T))._asdict() for T in steps]
    return pd.DataFrame([{"horizon": int(T), **row} for T, row in zip(steps, rows, strict=True)])
