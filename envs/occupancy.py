"""Where a policy goes: occupancy measures, and what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order, connected_components
from torch import Tensor

from likely.envs._checks import as_double, check_distribution
from likely.envs._endings import check_ends
from likely.envs.errors import DataError, PlanningError
from likely.envs.planning import as_policy, evaluate

if TYPE_CHECKING:
    from likely.envs.mdp import TabularMDP


def state_occupancy(mdp: TabularMDP, policy: Any, *, normalized: bool = False) -> Tensor:
    """Discounted visits of states, d(s) = Σ_t γ^t Pr(s_t = s), from the initial distribution.

    Parameters
    ----------
    mdp
        The process.
    policy
        π(a | s): [*B, S, A].
    normalized
        Whether to divide by the sum, which makes it a distribution.

    Returns
    -------
    Tensor
        [*B, S], differentiable in policy and transition. Below discount 1 it counts the sink too,
        where an episode stays for ever, and sums to 1 / (1 − γ). At discount 1 it holds the
        expected visits before the end, 0 in the sink, and sums to an episode's expected length.

    Raises
    ------
    DataError
        If the policy's shape or rows are wrong.
    PlanningError
        At discount 1, if an episode need not end.

    Examples
    --------
    >>> import torch
    >>> from likely.envs import TabularMDP
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.9)
    >>> round(float(state_occupancy(lake, torch.full((17, 4), 0.25)).sum()), 9)
    10.0
    """
    table = as_policy(mdp, policy)
    check_ends(mdp, table, mdp.discount)
    visits = mdp.kernel.solve(table, mdp.initial, mdp.discount, transposed=True)
    if mdp.sink is not None:
        # The kernel enters the sink once; from then on every step is a visit.
        stay = 0.0 if mdp.discount == 1 else 1 / (1 - mdp.discount)
        visits = visits * (mdp.alive + (1 - mdp.alive) * stay)
    return visits / visits.sum(-1, keepdim=True) if normalized else visits


def state_action_occupancy(mdp: TabularMDP, policy: Any, *, normalized: bool = False) -> Tensor:
    """Discounted visits of states and actions, ρ(s, a) = d(s) π(a | s): [*B, S, A].

    Parameters
    ----------
    mdp, policy, normalized
        As in `state_occupancy`, whose sum this has.
    """
    table = as_policy(mdp, policy)
    return state_occupancy(mdp, table, normalized=normalized).unsqueeze(-1) * table


def feature_expectations(mdp: TabularMDP, policy: Any, features: Any) -> Tensor:
    """Discounted sums of features, Σ_s,a ρ(s, a) ψ(s, a) (Abbeel & Ng 2004).

    Parameters
    ----------
    mdp, policy
        As in `state_occupancy`.
    features
        ψ: [S, F] or [S, A, F]. Rows of the sink do not count.

    Returns
    -------
    Tensor
        [*B, F]; a reward ψ·w has the objective w · feature expectations.

    Raises
    ------
    DataError
        If features have another shape or are not finite.
    """
    table = as_double(features, "features")
    sizes = (mdp.n_states, mdp.n_actions)
    if table.dim() not in (2, 3) or table.shape[:-1] != sizes[: table.dim() - 1]:
        raise DataError(
            f"features must have shape [S, F] or [S, A, F] with S = {sizes[0]} and A = {sizes[1]}, "
            f"got {tuple(table.shape)}"
        )
    visits = state_action_occupancy(mdp, policy) * mdp.alive.unsqueeze(-1)
    if table.dim() == 2:
        return visits.sum(-1) @ table
    return visits.flatten(-2) @ table.flatten(0, 1)


def stationary_distribution(mdp: TabularMDP, policy: Any, *, restart: bool = True) -> Tensor:
    """The distribution over states that a policy keeps in the long run, d = d P_π.

    Parameters
    ----------
    mdp, policy
        As in `state_occupancy`.
    restart
        Whether an episode that enters the sink begins anew there and then. Without it, all mass
        ends in the sink.

    Returns
    -------
    Tensor
        [*B, S], differentiable in policy and transition; zero where the policy passes through
        only for a while.

    Raises
    ------
    PlanningError
        If there is more than one, because the states that the policy reaches from the initial
        ones fall into parts that it never leaves.
    """
    table = as_policy(mdp, policy)
    batch = [_stationary(mdp, one, restart) for one in table.reshape(-1, *table.shape[-2:])]
    return torch.stack(batch).reshape(table.shape[:-1])


def _stationary(mdp: TabularMDP, policy: Tensor, restart: bool) -> Tensor:
    part = _lasting(mdp, policy, restart)
    if mdp.sink is not None and part[mdp.sink] and part.sum() > 1:
        # One episode after another; entering the sink is the same step as beginning anew.
        visits = _visits(mdp, policy, part, mdp.sink, mdp.initial) * mdp.alive
        return visits / visits.sum()
    entry = int(part.argmax())
    with torch.no_grad():  # a state that is often visited, as rounding is least there
        entry = int(_visits(mdp, policy, part, entry).argmax())
    visits = _visits(mdp, policy, part, entry)
    return visits / visits.sum()


def _lasting(mdp: TabularMDP, policy: Tensor, restart: bool) -> NDArray[np.bool_]:
    """The states that a policy never leaves once it is among them, as a mask [S]."""
    starts = np.flatnonzero(mdp.initial.detach().cpu().numpy() > 0)
    moves: Any = mdp.kernel.support(policy).tocoo()
    sources, targets = [moves.row], [moves.col]
    if mdp.sink is not None and restart:
        sources.append(np.full(len(starts), mdp.sink))
        targets.append(starts)
    # Node S leads to wherever episodes begin.
    sources.append(np.full(len(starts), mdp.n_states))
    targets.append(starts)
    source, target = np.concatenate(sources), np.concatenate(targets)
    size = mdp.n_states + 1
    edges = (np.ones(len(source), dtype=bool), (source, target))
    graph: Any = sp.csr_array(edges, shape=(size, size))
    _, part = connected_components(graph, directed=True, connection="strong")
    closed = np.ones(size, dtype=bool)
    closed[part[source[part[source] != part[target]]]] = False
    reached = breadth_first_order(graph, mdp.n_states, return_predecessors=False)
    found = np.unique(part[reached][closed[part[reached]]])
    if len(found) > 1:
        raise PlanningError(
            f"the policy has {len(found)} sets of states that it never leaves, and so no unique "
            "stationary distribution"
        )
    return np.asarray(part[:-1] == found[0])


def _visits(
    mdp: TabularMDP,
    policy: Tensor,
    part: NDArray[np.bool_],
    entry: int,
    first: Tensor | None = None,
) -> Tensor:
    """Expected visits of a mask's states [S] from ``first``, or ``entry``, until ``entry``."""
    if first is None:
        first = torch.zeros_like(mdp.initial)
        first[entry] = 1
    visits = mdp.kernel.within(part, entry).solve(policy, first, 1.0, transposed=True)
    return visits * torch.from_numpy(part).to(visits)


def objective(
    mdp: TabularMDP, policy: Any, *, distribution: Any = None, reward: Any = None
) -> Tensor:
    r"""J = Σ_s d(s) Σ_a π(a | s) Q^π(s, a).

    Parameters
    ----------
    mdp, policy
        As in `state_occupancy`.
    distribution
        d: [S] or [*B, S]. By default the initial distribution, which makes J the expected
        discounted return of an episode. With a stationary distribution, J·(1 − γ) is the average
        reward of a step (Sutton et al. 2000, "Policy gradient methods for reinforcement learning
        with function approximation", section 1).
    reward
        As in `planning.expected_reward`.

    Returns
    -------
    Tensor
        [*B]; differentiable in policy, reward and transition.

    Examples
    --------
    >>> from likely.envs import TabularMDP
    >>> mdp = TabularMDP([[[1.0], [1.0]]], [[0.0, 1.0]], 0.5, 0)
    >>> float(objective(mdp, [[0.5, 0.5]]))
    1.0
    """
    plan = evaluate(mdp, policy, reward=reward)
    where = mdp.initial
    if distribution is not None:
        where = as_double(distribution, "distribution")
        if where.shape[-1:] != (mdp.n_states,):
            raise DataError(
                f"distribution must have shape [..., S] with S = {mdp.n_states}, got "
                f"{tuple(where.shape)}"
            )
        check_distribution(where, "distribution", ())
    return (where * (plan.policy * plan.q).sum(-1)).sum(-1)


def performance_difference(
    mdp: TabularMDP, policy: Any, reference: Any, *, reward: Any = None
) -> Tensor:
    r"""J(π) − J(π'), as advantages of π' where π goes.

    .. math:: J(\pi) - J(\pi') = \sum_s d^\pi(s) \sum_a \pi(a \mid s) A^{\pi'}(s, a)

    with d the unnormalised occupancy (Kakade & Langford 2002, "Approximately optimal approximate
    reinforcement learning", lemma 6.1).

    Parameters
    ----------
    mdp, reward
        As in `objective`.
    policy, reference
        π and π': [*B, S, A].

    Returns
    -------
    Tensor
        [*B].

    Examples
    --------
    >>> from likely.envs import TabularMDP
    >>> mdp = TabularMDP([[[1.0], [1.0]]], [[0.0, 1.0]], 0.5, 0)
    >>> float(performance_difference(mdp, [[0.0, 1.0]], [[0.5, 0.5]]))
    1.0
    """
    advantage = evaluate(mdp, reference, reward=reward).advantage
    return (state_action_occupancy(mdp, policy) * advantage).sum((-2, -1))
