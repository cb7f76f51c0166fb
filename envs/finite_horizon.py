"""Planning over a finite horizon: values, policies and visits that depend on the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from likely.envs._checks import as_count, as_double
from likely.envs._endings import best_actions, first_of
from likely.envs.errors import DataError
from likely.envs.planning import Plan, as_policy, backup, expected_reward
from likely.envs.soft import as_temperature, entropy_bonus, scaled

if TYPE_CHECKING:
    from likely.envs.mdp import TabularMDP


def backward_induction(
    mdp: TabularMDP, horizon: int, *, reward: Any = None, terminal: Any = None
) -> Plan:
    """The optimum over T steps (Puterman 1994, section 4.5).

    Parameters
    ----------
    mdp
        The process; its discount may be 1.
    horizon
        T, steps from the first action to the end.
    reward
        As in `planning.expected_reward`; a batch is planned at once.
    terminal
        What the last state is worth, [*B, S]; nothing by default, and nothing in the sink.

    Returns
    -------
    Plan
        Value [*B, T + 1, S], the last row ``terminal``; Q and the greedy policy [*B, T, S, A].

    Raises
    ------
    DataError
        If the horizon is no positive integer, or a shape is wrong.

    Examples
    --------
    >>> from likely.envs import TabularMDP
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
    >>> round(float(lake.initial @ backward_induction(lake, 100).value[0]), 3)
    0.744
    """
    paid, values = _begin(mdp, reward, terminal)
    qs: list[Tensor] = []
    for _ in range(as_count(horizon, "horizon")):
        qs.append(backup(mdp, paid, values[-1]))
        # Along the chosen action, so that equal ones do not share the derivative.
        values.append((qs[-1] * _first(qs[-1])).sum(-1))
    q = _forward(qs, -3)
    return Plan(_forward(values, -2), q, _first(q))


def soft_backward_induction(
    mdp: TabularMDP,
    horizon: int,
    temperature: Any = 1.0,
    *,
    reward: Any = None,
    prior: Any = None,
    terminal: Any = None,
) -> Plan:
    """The optimum over T steps with an entropy bonus, or a Kullback–Leibler penalty.

    Parameters
    ----------
    mdp, horizon, reward, terminal
        As in `backward_induction`.
    temperature, prior
        As in `soft.soft_value_iteration`; the prior is the same at all times, [*B, S, A].

    Returns
    -------
    Plan
        Value [*B, T + 1, S], Q and policy [*B, T, S, A]; differentiable to any order.

    Raises
    ------
    DataError
        As `backward_induction`; and for a wrong temperature or prior.
    """
    heat = as_temperature(temperature)
    base = None if prior is None else as_policy(mdp, prior, "prior")
    paid, values = _begin(mdp, reward, terminal)
    qs: list[Tensor] = []
    policies: list[Tensor] = []
    for _ in range(as_count(horizon, "horizon")):
        qs.append(backup(mdp, paid, values[-1]))
        action = scaled(qs[-1], heat, base)
        policies.append(torch.softmax(action, -1))
        values.append(heat * torch.logsumexp(action, -1) * mdp.alive)
    policy = _forward(policies, -3)
    return Plan(_forward(values, -2), _forward(qs, -3).expand(policy.shape), policy)


def evaluate_horizon(
    mdp: TabularMDP,
    policy: Any,
    horizon: int | None = None,
    *,
    reward: Any = None,
    terminal: Any = None,
    temperature: Any = 0.0,
    prior: Any = None,
) -> Plan:
    """Value of a policy over T steps, with the entropy bonus if there is a temperature.

    Parameters
    ----------
    mdp, reward, terminal
        As in `backward_induction`.
    policy
        [*B, T, S, A], one a step; or [S, A], the same at all times.
    horizon
        T; needed for [S, A] alone.
    temperature, prior
        As in `soft.soft_evaluate`.

    Returns
    -------
    Plan
        Value [*B, T + 1, S], Q and the policy [*B, T, S, A]; differentiable.

    Raises
    ------
    DataError
        As `backward_induction`; and if policy and horizon contradict each other.
    """
    table = as_timed_policy(mdp, policy, horizon)
    heat = as_temperature(temperature, zero=True)
    paid, values = _begin(mdp, reward, terminal)
    qs: list[Tensor] = []
    for now in reversed(table.unbind(-3)):
        qs.append(backup(mdp, paid, values[-1]))
        bonus = heat * entropy_bonus(mdp, now, prior) if heat > 0 else 0.0
        values.append(((qs[-1] * now).sum(-1) + bonus) * mdp.alive)
    value = _forward(values, -2)
    shape = (*value.shape[:-2], *table.shape[-3:])
    return Plan(value, _forward(qs, -3).expand(shape), table.expand(shape))


def state_marginals(mdp: TabularMDP, policy: Any, horizon: int | None = None) -> Tensor:
    """Distribution of the state at every time, forward from the initial one.

    Parameters
    ----------
    mdp, policy, horizon
        As in `evaluate_horizon`.

    Returns
    -------
    Tensor
        Pr(s_t = s): [*B, T + 1, S], each row summing to one, the sink included; differentiable.
    """
    table = as_timed_policy(mdp, policy, horizon)
    now = mdp.initial.expand(*table.shape[:-3], mdp.n_states)
    rows = [now]
    for step in table.unbind(-3):
        # The kernel has no move out of the sink, where an episode stays.
        now = mdp.kernel.push(now.unsqueeze(-1) * step) + now * (1 - mdp.alive)
        rows.append(now)
    return torch.stack(rows, -2)


def horizon_occupancy(mdp: TabularMDP, policy: Any, horizon: int | None = None) -> Tensor:
    """Discounted visits of states and actions within T steps, Σ_t<T γ^t Pr(s_t = s, a_t = a).

    Parameters
    ----------
    mdp, policy, horizon
        As in `evaluate_horizon`.

    Returns
    -------
    Tensor
        [*B, S, A], the sink included. It sums to (1 − γ^T) / (1 − γ), at discount 1 to T.

    Examples
    --------
    >>> import torch
    >>> from likely.envs import TabularMDP
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
    >>> round(float(horizon_occupancy(lake, torch.full((17, 4), 0.25), 40).sum()), 9)
    40.0
    """
    table = as_timed_policy(mdp, policy, horizon)
    times = torch.arange(table.shape[-3], dtype=table.dtype, device=table.device)
    weights = mdp.discount**times
    visits = state_marginals(mdp, table)[..., :-1, :] * weights.unsqueeze(-1)
    return (visits.unsqueeze(-1) * table).sum(-3)


def as_timed_policy(mdp: TabularMDP, policy: Any, horizon: int | None = None) -> Tensor:
    """Check a policy and return it as [*B, T, S, A].

    Raises
    ------
    DataError
        If its shape or rows are wrong, or its length is not ``horizon``.
    """
    table = as_policy(mdp, policy)
    if table.dim() == 2:
        if horizon is None:
            raise DataError("horizon must be given for a policy [S, A]")
        return table.expand(as_count(horizon, "horizon"), *table.shape)
    if horizon is not None and as_count(horizon, "horizon") != table.shape[-3]:
        raise DataError(
            f"policy must have shape [..., T, S, A] with T = horizon = {horizon}, got "
            f"{tuple(table.shape)}"
        )
    return table


def _begin(mdp: TabularMDP, reward: Any, terminal: Any) -> tuple[Tensor, list[Tensor]]:
    """Rewards [*B, S, A], and the value [*B, S] that is left at the end."""
    paid = expected_reward(mdp, reward)
    value = paid.new_zeros(paid.shape[:-1])
    if terminal is not None:
        last = as_double(terminal, "terminal")
        if last.shape[-1:] != (mdp.n_states,):
            raise DataError(
                f"terminal must have shape [..., S] with S = {mdp.n_states}, got "
                f"{tuple(last.shape)}"
            )
        value = value + last * mdp.alive
    return paid, [value]


def _first(q: Tensor) -> Tensor:
    """The policy [*B, S, A] that takes the first of the best actions."""
    return first_of(best_actions(q.detach())).to(q.dtype)


def _forward(backward: list[Tensor], axis: int) -> Tensor:
    """Stack what was found from the last step to the first."""
    return torch.stack(torch.broadcast_tensors(*reversed(backward)), axis)
