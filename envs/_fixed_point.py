"""The soft Bellman equation, solved by Newton's method and differentiated where it holds."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.envs._kernel import Kernel
from likely.envs.errors import PlanningError


class Search(NamedTuple):
    """How to look for a fixed point.

    Attributes
    ----------
    tol
        Largest error of the solution, relative to max(1, |V|): the last Newton step, or the bound
        γ / (1 − γ) |T V − V| of repeated application (at γ = 1, |T V − V| itself).
    max_iter
        Iterations at most.
    newton
        Whether to take Newton steps, or apply T again and again.
    """

    tol: float
    max_iter: int
    newton: bool


def soft_fixed_point(
    utility: Tensor, kernel: Kernel, alive: Tensor, discount: float, search: Search
) -> Tensor:
    r"""Solve V(s) = log Σ_a exp(u(s, a) + γ Σ_s' P(s' | s, a) V(s')).

    Parameters
    ----------
    utility
        u: [*B, S, A]; −inf for actions that are never taken, but not for all of a state.
    kernel, alive, discount
        The moves, the states [S] where V is not held at zero, and γ.
    search
        How exact, how long, and how.

    Returns
    -------
    Tensor
        [*B, S]. By the implicit function theorem its derivative is dV = (I − γ P_π)^−1 Σ_a π du,
        with π the policy at the solution: one linear solve, however long the search took. It can
        be differentiated again.

    Raises
    ------
    PlanningError
        If the search does not converge.
    """
    table = getattr(kernel, "table", None)
    result: Tensor = _SoftFixedPoint.apply(utility, table, kernel, alive, discount, search)
    return result


class _SoftFixedPoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        utility: Tensor,
        table: Tensor | None,
        kernel: Kernel,
        alive: Tensor,
        discount: float,
        search: Search,
    ) -> Tensor:
        value = _search(utility, kernel, alive, discount, search)
        ctx.save_for_backward(utility, value)
        ctx.problem = (kernel, alive, discount)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The value is this function's own output, so a second derivative passes through here too.
        utility, value = ctx.saved_tensors
        kernel, alive, discount = ctx.problem
        policy = torch.softmax(utility + discount * kernel.expect(value), -1)
        adjoint = kernel.solve(policy, grad, discount, transposed=True)
        visits = (adjoint * alive).unsqueeze(-1) * policy
        by_table = None
        if ctx.needs_input_grad[1]:
            left, right = visits.reshape(-1, *visits.shape[-2:]), value.reshape(-1, len(alive))
            by_table = discount * torch.einsum("bsa,bt->sat", left, right)
        return visits, by_table, None, None, None, None


def _search(
    utility: Tensor, kernel: Kernel, alive: Tensor, discount: float, search: Search
) -> Tensor:
    value = utility.new_zeros(utility.shape[:-1])
    error, scale = torch.inf, 1.0
    for _ in range(search.max_iter):
        action = utility + discount * kernel.expect(value)
        step = torch.logsumexp(action, -1) * alive - value
        if search.newton:
            # A small residual proves nothing where episodes are long; a small step does.
            policy = torch.softmax(action, -1)
            step = kernel.solve(policy, step, discount, transposed=False)
        value = value + step
        error, scale = float(step.abs().max()), max(1.0, float(value.abs().max()))
        if not search.newton and discount < 1:
            error *= discount / (1 - discount)
        if error <= search.tol * scale:
            return value
        if not error < torch.inf:
            break
    hint = (
        "raise max_iter or tol"
        if discount < 1
        else "with discount 1 entropy may outweigh every reward: lower the temperature, give a "
        "prior, or plan over a finite horizon"
    )
    raise PlanningError(
        f"soft value iteration did not converge in {search.max_iter} iterations: the value "
        f"may still be off by {error:.3g} (it has size {scale:.3g}); {hint}"
    )
