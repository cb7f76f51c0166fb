"""Planning with an entropy bonus, or a penalty for leaving a prior policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from likely.envs._checks import as_double, as_number
from likely.envs._endings import check_ends
from likely.envs._fixed_point import soft_fixed_point
from likely.envs.errors import DataError, PlanningError
from likely.envs.planning import (
    Plan,
    as_policy,
    backup,
    expected_reward,
    search_options,
)

if TYPE_CHECKING:
    from likely.envs.mdp import TabularMDP


def soft_value_iteration(
    mdp: TabularMDP,
    temperature: Any = 1.0,
    *,
    reward: Any = None,
    prior: Any = None,
    tol: float = 1e-10,
    max_iter: int | None = None,
    method: str = "newton",
) -> Plan:
    r"""Optimal value with an entropy bonus, or a Kullback–Leibler penalty.

    .. math:: V(s) = \lambda \log \sum_a \pi_0(a \mid s) \exp(Q(s, a) / \lambda), \qquad
              \pi(a \mid s) = \pi_0(a \mid s) \exp((Q(s, a) - V(s)) / \lambda)

    with π0 = 1 where there is no ``prior``. This maximises E Σ γ^t (r + λ H(π)), or with a prior
    E Σ γ^t (r − λ KL(π ‖ π0)), and is the forward model of maximum causal entropy inverse
    reinforcement learning (Ziebart 2010, "Modeling purposeful adaptive behavior", chapter 9). No
    bonus is paid in the sink.

    Parameters
    ----------
    mdp
        The process.
    temperature
        λ, above zero, a number or a tensor without axes; in the units of the reward.
    reward
        As in `expected_reward`; a batch is planned at once.
    prior
        π0(a | s): [*B, S, A]; may hold zeros.
    tol
        Largest error of V, relative to max(1, \|V\|), in units of λ: the last Newton step, or the
        bound γ / (1 − γ) · \|ΔV\| of sweeps.
    max_iter
        Iterations at most: 100 Newton steps or 100,000 sweeps unless given.
    method : {"newton", "sweeps"}
        Newton's method, which is policy iteration with soft policies: a handful of linear solves.
        Sweeps apply the equation again and again, for processes too large to solve.

    Returns
    -------
    Plan
        Value, Q and policy, differentiable any number of times in reward, temperature, prior and
        a dense transition by one linear solve each (implicit function theorem), whatever the
        search took.

    Raises
    ------
    DataError
        If a shape, the temperature or the prior is wrong.
    PlanningError
        If the search does not converge; at discount 1 also without a sink that all of the prior's
        actions let episodes reach, or where entropy outweighs every reward. Also under
        ``torch.jit.trace``, which would record the steps of one search.

    Examples
    --------
    >>> import torch
    >>> from likely.envs import TabularMDP
    >>> mdp = TabularMDP([[[1.0], [1.0]]], [[0.0, 1.0]], 0.5, 0)
    >>> plan = soft_value_iteration(mdp, temperature=0.5)
    >>> torch.allclose(plan.policy, torch.tensor([[0.0, 1.0]]).double().div(0.5).softmax(-1))
    True
    """
    if torch.jit.is_tracing():
        raise PlanningError(
            "soft value iteration takes as many steps as it needs and cannot be traced; do without "
            "jit, or plan over a finite horizon"
        )
    paid = expected_reward(mdp, reward)
    heat = as_temperature(temperature)
    base = None if prior is None else as_policy(mdp, prior, "prior")
    search = search_options(tol, max_iter, method)
    everything = torch.full_like(mdp.expected_reward.detach(), 1 / mdp.n_actions)
    check_ends(mdp, everything if base is None else base, mdp.discount)
    # In units of the temperature; the prior is a bonus of its own.
    utility = scaled(paid, heat, base)
    scaled_value = soft_fixed_point(utility, mdp.kernel, mdp.alive, mdp.discount, search)
    action = utility + mdp.discount * mdp.kernel.expect(scaled_value)
    value = heat * scaled_value
    return Plan(value, backup(mdp, paid, value), torch.softmax(action, -1))


def soft_evaluate(
    mdp: TabularMDP, policy: Any, temperature: Any = 1.0, *, reward: Any = None, prior: Any = None
) -> Plan:
    """Exact value of a policy with the bonus that `soft_value_iteration` maximises.

    Parameters
    ----------
    mdp, temperature, reward, prior
        As in `soft_value_iteration`; a temperature of zero is plain `evaluate`.
    policy
        [*B, S, A]; it must not do what the prior never does.

    Returns
    -------
    Plan
        V with the bonus from now on, Q with the bonus from the next step on, and the policy.

    Raises
    ------
    DataError
        As `evaluate`; and for a policy outside the prior's support.
    """
    table = as_policy(mdp, policy)
    heat = as_temperature(temperature, zero=True)
    paid = expected_reward(mdp, reward)
    check_ends(mdp, table, mdp.discount)
    gained = (table * paid).sum(-1)
    bonus = entropy_bonus(mdp, table, prior) * mdp.alive
    if heat > 0:  # an entropy that does not count has no derivative at a probability of 0 either
        gained = gained + heat * bonus
    value = mdp.kernel.solve(table, gained, mdp.discount, transposed=False)
    return Plan(value, backup(mdp, paid, value), table.expand(*value.shape, -1))


def entropy_bonus(mdp: TabularMDP, policy: Tensor, prior: Any = None) -> Tensor:
    """Entropy of each state's actions, or −KL(π ‖ π0): [*B, S], for policies [*B, S, A]."""
    bonus = -torch.special.xlogy(policy, policy).sum(-1)
    if prior is None:
        return bonus
    base = as_policy(mdp, prior, "prior")
    outside = (policy.detach() > 0) & (base.detach() == 0)
    if bool(outside.any()):
        raise DataError(
            "policy must not take actions that the prior never takes; it does at "
            f"{outside.nonzero()[0].tolist()}"
        )
    return bonus + torch.special.xlogy(policy, torch.where(policy > 0, base, 1.0)).sum(-1)


def scaled(paid: Tensor, heat: Tensor, base: Tensor | None) -> Tensor:
    """r / λ + log π0: [*B, S, A]."""
    if base is None:
        return paid / heat
    # log 0 has no derivative, and none is needed.
    possible = base > 0
    logs = torch.where(possible, base, 1.0).log().masked_fill(~possible, -torch.inf)
    return paid / heat + logs


def as_temperature(value: Any, *, zero: bool = False) -> Tensor:
    """λ as a float64 tensor without axes.

    Raises
    ------
    DataError
        If it is no positive finite number (or zero where that has a meaning).
    """
    if not isinstance(value, Tensor):
        return torch.tensor(
            as_number(value, "temperature", 0.0, above=not zero), dtype=torch.float64
        )
    heat = as_double(value, "temperature")
    if heat.dim() > 0:
        raise DataError(f"temperature must be one number, got shape {tuple(heat.shape)}")
    as_number(heat.item(), "temperature", 0.0, above=not zero)
    return heat
