"""The soft-optimal policy as a function of the reward, whose derivative is an occupancy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from likely.envs import TabularMDP, expected_reward, soft_backward_induction, soft_value_iteration
from likely.envs._kernel import Kernel
from likely.envs.soft import as_temperature, scaled
from likely.models._action_distributions import TableRows
from likely.models._shapes import broadcast_shapes


def soft_log_policy(
    mdp: TabularMDP,
    reward: Tensor,
    temperature: float = 1.0,
    *,
    horizon: int | None = None,
    prior: Tensor | None = None,
    **search: Any,
) -> Tensor:
    r"""Logarithm of the soft-optimal policy.

    The derivative of Σ c(s, a) log π(a | s) by λ⁻¹ r is the matrix c minus where π goes, in visits
    of states and actions, if it starts from what c does not explain itself:

    .. math:: c(s, a) - \pi(a \mid s) \, d(s), \qquad
              d = \nu + \gamma P_\pi^\top d, \qquad
              \nu(s') = \sum_a c(s', a) - \gamma \sum_{s, a} c(s, a) P(s' \mid s, a)

    For the exact occupancy c of an expert, ν is the initial distribution, and the derivative by
    weights of features is μ_E − E[μ] (Ziebart 2010, "Modeling purposeful adaptive behavior",
    theorem 6.10). It is one linear solve, or over a horizon one pass forward in time.

    Parameters
    ----------
    mdp
        The process; its own reward does not count.
    reward
        [\*B, S] or [\*B, S, A].
    temperature
        λ, above 0.
    horizon
        T; None for an infinite horizon.
    prior
        Base policy [S, A].
    **search
        Of `likely.envs.soft_value_iteration`, over an infinite horizon.

    Returns
    -------
    Tensor
        [\*B, S, A], or [\*B, T, S, A]; differentiable any number of times.

    Raises
    ------
    DataError
        If a shape, the temperature or the prior is wrong.
    PlanningError
        If there is no soft optimum.

    Examples
    --------
    >>> mdp = TabularMDP([[[1.0], [1.0]]], [0.0], 0.5, 0)
    >>> soft_log_policy(mdp, torch.tensor([[0.0, 1.0]]), 0.5).exp()
    tensor([[0.1192, 0.8808]], dtype=torch.float64)
    """
    if horizon is None:
        plan = soft_value_iteration(mdp, temperature, reward=reward, prior=prior, **search)
        return torch.log_softmax(scaled(plan.q, as_temperature(temperature), prior), -1)
    learned = getattr(mdp.transition, "requires_grad", False)
    if learned or torch.jit.is_tracing():
        induced = soft_backward_induction(mdp, horizon, temperature, reward=reward, prior=prior)
        return torch.log_softmax(scaled(induced.q, as_temperature(temperature), prior), -1)
    utility = scaled(expected_reward(mdp, reward), as_temperature(temperature), prior)
    result: Tensor = _LogPolicy.apply(utility, mdp.kernel, mdp.alive, mdp.discount, horizon)
    return result


class _LogPolicy(torch.autograd.Function):
    """Backward induction in units of the temperature; its derivative goes forward in time."""

    @staticmethod
    def forward(
        ctx: Any, utility: Tensor, kernel: Kernel, alive: Tensor, discount: float, horizon: int
    ) -> Tensor:
        value = utility.new_zeros(utility.shape[:-1])
        rows = []
        for _ in range(horizon):
            action = utility + discount * kernel.expect(value)
            total = torch.logsumexp(action, -1)
            rows.append(action - total.unsqueeze(-1))
            value = total * alive
        found = torch.stack(rows[::-1], -3)
        ctx.save_for_backward(found)
        ctx.problem = (kernel, alive, discount)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The policy is this function's own output, so a second derivative comes through here too.
        (logs,) = ctx.saved_tensors
        kernel, alive, discount = ctx.problem
        policies = logs.exp().unbind(-3)
        steps = grad.unbind(-3)
        total = arriving = None
        for policy, given in zip(policies, steps, strict=True):
            net = -given.sum(-1) if arriving is None else arriving - given.sum(-1)
            visits = given + net.unsqueeze(-1) * policy
            total = visits if total is None else total + visits
            arriving = discount * kernel.push(visits) * alive
        return total, None, None, None, None


class LogRows(TableRows):
    """Categories, each drawn from one row of a table of log-probabilities.

    Parameters
    ----------
    logs
        [*outside, R, K], normalised; −inf for what never happens.
    row
        int64 [*batch]: the row each category is drawn from.

    Examples
    --------
    >>> logs = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    >>> LogRows(logs, torch.tensor([0, 0, 1])).log_prob(torch.tensor([0, 1, 0])).exp()
    tensor([0.2500, 0.7500, 0.5000])
    """

    def __init__(self, logs: Tensor, row: Tensor, validate_args: bool | None = None) -> None:
        self.logs = logs
        super().__init__(logs.exp(), row, validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of categories [*sample, *batch]."""
        if self._validate_args:
            self._validate_sample(value)
        shape = broadcast_shapes(value.shape, self.row.shape)
        place = (self.row * self.logs.shape[-1] + value.long()).expand(shape)
        found = self.logs.flatten(-2).index_select(-1, place.reshape(-1))
        return found.reshape(*self.logs.shape[:-2], *shape)
