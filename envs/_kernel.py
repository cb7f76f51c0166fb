"""What planning does with a transition table: products and linear solves, dense or sparse.

A kernel holds the moves *between states where an episode goes on*: the sink's own row is zero, so
its value is zero whatever happens there. Everything is linear, and differentiable to any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import splu
from torch import Tensor

from likely.envs.errors import PlanningError


class DenseKernel:
    """Moves as one tensor.

    Parameters
    ----------
    table
        [S, A, S], with zeros in the rows of the sink; may require a gradient.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.n_states, self.n_actions = table.shape[:2]
        self._rows = table.reshape(-1, self.n_states)

    def expect(self, value: Tensor) -> Tensor:
        """Σ_s' P(s' | s, a) V(s'): [*B, S] to [*B, S, A]."""
        return (value @ self._rows.T).unflatten(-1, (self.n_states, self.n_actions))

    def push(self, mass: Tensor) -> Tensor:
        """Σ_s,a m(s, a) P(s' | s, a): [*B, S, A] to [*B, S]."""
        # Not flatten, which has no rule for a vectorised second derivative.
        return mass.reshape(*mass.shape[:-2], -1) @ self._rows

    def under(self, policy: Tensor) -> Tensor:
        """The chain under a policy: [*B, S, A] to [*B, S, S]."""
        return (policy.unsqueeze(-2) @ self.table).squeeze(-2)

    def solve(self, policy: Tensor, rhs: Tensor, discount: float, *, transposed: bool) -> Tensor:
        """Solve (I − γ P_π) x = b, or with the transpose.

        Parameters
        ----------
        policy
            [*B, S, A].
        rhs
            [*B, S].

        Returns
        -------
        Tensor
            [*B, S].

        Raises
        ------
        PlanningError
            If the matrix is singular: an episode need not end.
        """
        chain = self.under(policy)
        matrix = torch.eye(self.n_states, dtype=chain.dtype, device=chain.device) - discount * chain
        batch = torch.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-1])
        rhs = rhs.expand(*batch, self.n_states).unsqueeze(-1)
        try:
            return torch.linalg.solve(matrix.mT if transposed else matrix, rhs).squeeze(-1)
        except torch.linalg.LinAlgError as error:
            raise _endless() from error

    def support(self, policy: Tensor) -> sp.csr_array:
        """Moves that a policy [S, A] can make: [S, S]."""
        return sp.csr_array(self.under(policy).detach().cpu().numpy() > 0)

    def within(self, states: NDArray[np.bool_], end: int | None) -> DenseKernel:
        """The moves that start in some states [S] and do not lead to ``end``."""
        starts = torch.from_numpy(states).to(self.table)
        ends = torch.from_numpy(np.arange(self.n_states) != end).to(self.table)
        return DenseKernel(self.table * starts[:, None, None] * ends)


class SparseKernel:
    """Moves as a sparse matrix, on the processor.

    Parameters
    ----------
    rows
        [S·A, S], with empty rows for the sink; row s·A + a holds P(· | s, a).
    """

    def __init__(self, rows: sp.csr_array, n_actions: int) -> None:
        self.rows = rows
        self.columns = rows.T.tocsr()
        self.n_states, self.n_actions = rows.shape[1], n_actions

    def expect(self, value: Tensor) -> Tensor:
        """Σ_s' P(s' | s, a) V(s'): [*B, S] to [*B, S, A]."""
        product: Tensor = _Product.apply(value, self, False)
        return product.unflatten(-1, (self.n_states, self.n_actions))

    def push(self, mass: Tensor) -> Tensor:
        """Σ_s,a m(s, a) P(s' | s, a): [*B, S, A] to [*B, S]."""
        product: Tensor = _Product.apply(mass.flatten(-2), self, True)
        return product

    def under(self, policy: NDArray[np.float64]) -> sp.csr_array:
        """The chain under one policy: [S, A] to [S, S]."""
        n_rows = self.n_states * self.n_actions
        places = (np.repeat(np.arange(self.n_states), self.n_actions), np.arange(n_rows))
        weights = sp.csr_array((policy.ravel(), places), shape=(self.n_states, n_rows))
        return weights @ self.rows

    def solve(self, policy: Tensor, rhs: Tensor, discount: float, *, transposed: bool) -> Tensor:
        """Solve (I − γ P_π) x = b, or with the transpose; see `DenseKernel.solve`."""
        result: Tensor = _Solve.apply(policy, rhs, self, discount, transposed)
        return result

    def solve_one(
        self,
        policy: NDArray[np.float64],
        rhs: NDArray[np.float64],
        discount: float,
        transposed: bool,
    ) -> NDArray[np.float64]:
        """`solve` for one policy [S, A] and right-hand sides [n, S]."""
        matrix = sp.eye_array(self.n_states, format="csc") - discount * self.under(policy)
        try:
            factors = splu(sp.csc_array(matrix.T if transposed else matrix))
        except RuntimeError as error:
            raise _endless() from error
        return np.asarray(factors.solve(np.asfortranarray(rhs.T)).T)

    def support(self, policy: Tensor) -> sp.csr_array:
        """Moves that a policy [S, A] can make: [S, S]."""
        return self.under(policy.detach().cpu().numpy()) > 0

    def within(self, states: NDArray[np.bool_], end: int | None) -> SparseKernel:
        """The moves that start in some states [S] and do not lead to ``end``."""
        starts = np.repeat(states, self.n_actions).astype(np.float64)
        ends = np.arange(self.n_states) != end
        rows = sp.diags_array(starts) @ self.rows @ sp.diags_array(ends.astype(np.float64))
        return SparseKernel(sp.csr_array(rows), self.n_actions)


Kernel = DenseKernel | SparseKernel


class _Product(torch.autograd.Function):
    """Product with a constant sparse matrix; its derivative is the transposed product."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, kernel: SparseKernel, transposed: bool) -> Tensor:
        ctx.kernel, ctx.transposed = kernel, transposed
        matrix = kernel.columns if transposed else kernel.rows
        flat = vector.detach().reshape(-1, vector.shape[-1]).numpy()
        product = np.ascontiguousarray((matrix @ flat.T).T)
        return torch.from_numpy(product).reshape(*vector.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(grad, ctx.kernel, not ctx.transposed), None, None


class _Solve(torch.autograd.Function):
    """x = (I − γ P_π)^−1 b, or with the transpose.

    The derivative by b is a solve with the other matrix, and that by π is an outer product of the
    two solutions, seen through P.
    """

    @staticmethod
    def forward(
        ctx: Any,
        policy: Tensor,
        rhs: Tensor,
        kernel: SparseKernel,
        discount: float,
        transposed: bool,
    ) -> Tensor:
        batch = torch.broadcast_shapes(policy.shape[:-2], rhs.shape[:-1])
        sides = rhs.detach().expand(*batch, rhs.shape[-1]).reshape(-1, rhs.shape[-1]).numpy()
        if policy.dim() == 2:  # one factorisation does for all sides
            parts = [kernel.solve_one(policy.detach().numpy(), sides, discount, transposed)]
        else:
            policies = policy.detach().expand(*batch, *policy.shape[-2:])
            policies = policies.reshape(-1, *policy.shape[-2:])
            parts = [
                kernel.solve_one(one.numpy(), side[None], discount, transposed)
                for one, side in zip(policies, sides, strict=True)
            ]
        solution = torch.from_numpy(np.concatenate(parts)).reshape(*batch, -1)
        ctx.save_for_backward(policy, rhs, solution)
        ctx.options = (kernel, discount, transposed)
        return solution

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        policy, rhs, solution = ctx.saved_tensors
        kernel, discount, transposed = ctx.options
        adjoint = kernel.solve(policy, grad, discount, transposed=not transposed)
        by_policy = None
        if ctx.needs_input_grad[0]:
            left, right = (solution, adjoint) if transposed else (adjoint, solution)
            by_policy = discount * left.unsqueeze(-1) * kernel.expect(right)
            by_policy = by_policy.sum_to_size(policy.shape)
        return by_policy, adjoint.sum_to_size(rhs.shape), None, None, None


def _endless() -> PlanningError:
    return PlanningError(
        "the value has no finite solution: under this policy an episode need not end; use a "
        "discount below 1, a policy that reaches the sink, or a finite horizon"
    )
