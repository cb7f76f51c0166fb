"""Planning over an infinite horizon: Bellman backups, optimal and soft-optimal policies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from likely.envs._checks import as_count, as_double, as_number, check_distribution
from likely.envs._endings import check_can_end, check_ends, greedy
from likely.envs._fixed_point import Search
from likely.envs.errors import DataError, PlanningError

if TYPE_CHECKING:
    from likely.envs.mdp import TabularMDP


class Plan(NamedTuple):
    """A policy with its values; what every planner returns.

    Attributes
    ----------
    value
        V: [*B, S]; over a finite horizon [*B, T + 1, S].
    q
        Q: [*B, S, A]; over a finite horizon [*B, T, S, A].
    policy
        π(a | s): of the shape of ``q``. Greedy policies take the first of equally good actions;
        without a discount, where episodes would then never end, one that leads to the end.
    """

    value: Tensor
    q: Tensor
    policy: Tensor

    @property
    def advantage(self) -> Tensor:
        """A = Q − V, of the shape of ``q``."""
        value = self.value
        if value.shape != self.q.shape[:-1]:  # a value is left at the end of the horizon
            value = value[..., :-1, :]
        return self.q - value.unsqueeze(-1)


# -- what all planners read ----------------------------------------------------------------------


def expected_reward(mdp: TabularMDP, reward: Any = None, kind: str | None = None) -> Tensor:
    """r(s, a), averaged over successors.

    Parameters
    ----------
    mdp
        The process.
    reward
        [*B, S], [*B, S, A] or, with a dense transition, [*B, S, A, S]; None for the process's
        own. The rightmost axes say which it is, the longest match first.
    kind : {"state", "action", "move"}, optional
        Says so where sizes leave a doubt, as for a batch of S rewards [S, S] where S = A.

    Returns
    -------
    Tensor
        [*B, S, A], 0 in the sink, whatever ``reward`` says there; differentiable.

    Raises
    ------
    DataError
        If no shape matches or an entry is not finite.

    Examples
    --------
    >>> from likely.envs import TabularMDP
    >>> mdp = TabularMDP([[[0.5, 0.5]], [[0.0, 1.0]]], [[1.0], [0.0]], 0.9, 0)
    >>> expected_reward(mdp, [3.0, 4.0]).tolist()
    [[3.0], [4.0]]
    >>> expected_reward(mdp, [[[2.0, 4.0]], [[0.0, 1.0]]]).tolist()
    [[3.0], [1.0]]
    """
    n, k = mdp.n_states, mdp.n_actions
    table = mdp.reward if reward is None else as_double(reward, "reward")
    shapes = {"move": (n, k, n), "action": (n, k), "state": (n,)}
    if kind is not None and kind not in shapes:
        raise DataError(f"kind must be one of state, action, move, got {kind!r}")
    tried = shapes if kind is None else {kind: shapes[kind]}
    found = [name for name, end in tried.items() if table.shape[-len(end) :] == end]
    if not found:
        expected = ", ".join(f"[..., {str(list(end))[1:-1]}]" for end in tried.values())
        raise DataError(f"reward must have shape {expected}, got {tuple(table.shape)}")
    if found[0] == "move":
        if mdp.is_sparse:
            raise DataError("reward must end in [S] or [S, A] where the transition is sparse")
        table = (table * mdp.transition).sum(-1)
    elif found[0] == "state":
        table = table.unsqueeze(-1).expand(*table.shape, k)
    return table * mdp.alive.unsqueeze(-1)


def as_policy(mdp: TabularMDP, policy: Any, name: str = "policy") -> Tensor:
    """Check a stationary policy, or several, and return it as float64 [*B, S, A].

    Raises
    ------
    DataError
        If it has another shape, or its rows are no probabilities.
    """
    table = as_double(policy, name)
    if table.dim() < 2 or table.shape[-2:] != (mdp.n_states, mdp.n_actions):
        raise DataError(
            f"{name} must have shape [..., S, A] with S = {mdp.n_states} and A = {mdp.n_actions}, "
            f"got {tuple(table.shape)}"
        )
    check_distribution(table, name, ("s",))
    return table


def bellman_backup(mdp: TabularMDP, value: Any, *, reward: Any = None) -> Tensor:
    """Q(s, a) = r(s, a) + γ Σ_s' P(s' | s, a) V(s').

    Parameters
    ----------
    mdp
        The process.
    value
        V: [*B, S]; taken as zero in the sink.
    reward
        As in `expected_reward`.

    Returns
    -------
    Tensor
        [*B, S, A]; differentiable in value and reward.
    """
    value = as_double(value, "value")
    if value.shape[-1:] != (mdp.n_states,):
        raise DataError(
            f"value must have shape [..., S] with S = {mdp.n_states}, got {tuple(value.shape)}"
        )
    return backup(mdp, expected_reward(mdp, reward), value * mdp.alive)


def backup(mdp: TabularMDP, paid: Tensor, value: Tensor) -> Tensor:
    """`bellman_backup` without checks: r(s, a) [*B, S, A] and V [*B, S], which is 0 in the sink."""
    return paid + mdp.discount * mdp.kernel.expect(value)


# -- optimal policies ----------------------------------------------------------------------------


def value_iteration(
    mdp: TabularMDP, *, reward: Any = None, tol: float = 1e-10, max_iter: int = 100_000
) -> Plan:
    r"""Optimal value by repeated backups, V ← max_a Q (Puterman 1994, section 6.3).

    Parameters
    ----------
    mdp
        The process.
    reward
        As in `expected_reward`; a batch is planned at once.
    tol
        When the search ends: below discount 1 at this error of the value, relative to
        max(1, \|V\|), by the contraction's bound γ / (1 − γ) · \|ΔV\|; at discount 1, where
        there is no such bound, once \|ΔV\| itself is as small.
    max_iter
        Backups at most.

    Returns
    -------
    Plan
        Value, Q and the greedy policy. At discount 1, and where reward or transition require a
        gradient, the value is that of the greedy policy, solved exactly, whose derivative is the
        optimum's wherever the best action is unique.

    Raises
    ------
    PlanningError
        If values have not settled after ``max_iter`` backups; at discount 1, if there is no sink,
        a state cannot reach it, or never to end is better than any end.

    Examples
    --------
    >>> from likely.envs import TabularMDP
    >>> cliff = TabularMDP.from_gymnasium("CliffWalking-v1", discount=0.99)
    >>> plan = value_iteration(cliff)
    >>> round(float(cliff.initial @ plan.value), 8)
    -12.2478977
    """
    paid = expected_reward(mdp, reward)
    search = search_options(tol, max_iter, "sweeps")
    check_can_end(mdp)
    with torch.no_grad():
        value = _sweep(mdp, paid.detach(), search)
        policy = greedy(mdp, backup(mdp, paid.detach(), value))
        check_ends(mdp, policy, mdp.discount)
    learned = paid.requires_grad or getattr(mdp.transition, "requires_grad", False)
    # Without a discount, how little a backup moves the value says not how far off it is.
    if learned or mdp.discount == 1:
        return _evaluate(mdp, policy, paid)
    return Plan(value, backup(mdp, paid, value), policy)


def _sweep(mdp: TabularMDP, paid: Tensor, search: Search) -> Tensor:
    value = paid.new_zeros(paid.shape[:-1])
    bound, scale = torch.inf, 1.0
    for _ in range(search.max_iter):
        new = backup(mdp, paid, value).amax(-1)
        moved, scale = float((new - value).abs().max()), max(1.0, float(new.abs().max()))
        bound = moved * (mdp.discount / (1 - mdp.discount) if mdp.discount < 1 else 1.0)
        value = new
        if not math.isfinite(scale):
            break
        # Backups of a value that no longer moves return it for ever.
        if bound <= search.tol * scale or moved == 0.0:
            return value
    raise PlanningError(
        f"value iteration did not converge in {search.max_iter} backups: the value may still be "
        f"off by {bound:.3g} (it has size {scale:.3g}); raise max_iter or tol"
        + ("" if mdp.discount < 1 else ", or use a discount below 1 or a finite horizon")
    )


def policy_iteration(mdp: TabularMDP, *, reward: Any = None, max_iter: int = 1000) -> Plan:
    """Optimal value by exact evaluation and greedy improvement (Howard 1960).

    Parameters
    ----------
    mdp, reward
        As in `value_iteration`.
    max_iter
        Improvements at most.

    Returns
    -------
    Plan
        Value, Q and policy of the last evaluation: exact but for rounding, differentiable. At
        discount 1 the best of the policies under which episodes end.

    Raises
    ------
    PlanningError
        If the policy still improves after ``max_iter`` steps or, at discount 1, episodes under it
        need not end.
    """
    paid = expected_reward(mdp, reward)
    max_iter = as_count(max_iter, "max_iter")
    # Under the uniform policy an episode ends whenever it can.
    policy = torch.full_like(paid, 1 / mdp.n_actions)
    with torch.no_grad():
        for _ in range(max_iter):
            check_ends(mdp, policy, mdp.discount)
            plan = _evaluate(mdp, policy, paid.detach())
            # Only a gain beyond rounding changes an action; otherwise equal ones would alternate.
            best = plan.q.amax(-1, keepdim=True)
            current = (policy * plan.q).sum(-1, keepdim=True)
            better = best > current + 1e-12 * best.abs().clamp_min(1.0)
            settled = (policy.amax(-1, keepdim=True) == 1) & ~better
            if bool(settled.all()):
                break
            policy = torch.where(settled, policy, greedy(mdp, plan.q))
        else:
            raise PlanningError(
                f"policy iteration still improves after {max_iter} steps; raise max_iter"
            )
    return _evaluate(mdp, policy, paid)


def evaluate(mdp: TabularMDP, policy: Any, *, reward: Any = None) -> Plan:
    """Exact value of a policy, V = (I − γ P_π)^−1 r_π.

    Parameters
    ----------
    mdp, reward
        As in `value_iteration`.
    policy
        π(a | s): [*B, S, A].

    Returns
    -------
    Plan
        V^π, Q^π and the policy; differentiable in policy, reward and a dense transition.

    Raises
    ------
    DataError
        If the policy's shape or rows are wrong.
    PlanningError
        At discount 1, if an episode need not end.
    """
    table = as_policy(mdp, policy)
    check_ends(mdp, table, mdp.discount)
    return _evaluate(mdp, table, expected_reward(mdp, reward))


def _evaluate(mdp: TabularMDP, policy: Tensor, paid: Tensor) -> Plan:
    gained = (policy * paid).sum(-1)
    value = mdp.kernel.solve(policy, gained, mdp.discount, transposed=False)
    return Plan(value, backup(mdp, paid, value), policy.expand(*value.shape, -1))


def search_options(tol: Any, max_iter: Any, method: str) -> Search:
    """Check how a search is to be made, and raise `DataError` for what is no way."""
    if method not in ("newton", "sweeps"):
        raise DataError(f"method must be newton or sweeps, got {method!r}")
    if max_iter is None:
        max_iter = 100 if method == "newton" else 100_000
    tol = as_number(tol, "tol", 0.0, above=True)
    return Search(tol, as_count(max_iter, "max_iter"), method == "newton")
