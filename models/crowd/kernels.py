"""Log-density of ragged crowd labels as one sparse product, differentiable to any order.

With S the tasks × (annotator · reported class) matrix of label counts and π the confusion table,
entry (i, k) of S log π is the log-density of all labels of task i given true class k. Its
derivative is the product with Sᵀ; taken at the posterior of the classes, that gives the expected
counts of EM's M-step (Dawid & Skene 1979, eq. 2.3). Both orientations are stored once, so nothing
is sorted or scattered during a fit.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """How often each task got each label from each annotator.

    Attributes
    ----------
    rows
        CSR matrix [n_tasks, n_annotators · n_labels] of counts.
    columns
        Its transpose, in CSR form as well.
    shape
        (n_tasks, n_annotators, n_labels).
    """

    rows: sp.csr_array
    columns: sp.csr_array
    shape: tuple[int, int, int]
    _tensors: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def build(
        cls, task: Tensor, annotator: Tensor, label: Tensor, shape: tuple[int, int, int]
    ) -> LabelCounts:
        """Count the labels; O(n) in time and memory.

        Parameters
        ----------
        task, annotator, label
            int64 [n]: one row per given label; repeated rows add up.
        shape
            (n_tasks, n_annotators, n_labels).
        """
        n_tasks, n_annotators, n_labels = shape
        column = annotator.cpu().numpy() * n_labels + label.cpu().numpy()
        ones = np.ones(len(column))
        rows = sp.coo_array(
            (ones, (task.cpu().numpy(), column)), shape=(n_tasks, n_annotators * n_labels)
        ).tocsr()
        return cls(rows, rows.T.tocsr(), shape)

    def product(self, dense: Tensor, transposed: bool = False) -> Tensor:
        """Product of ``rows`` (or ``columns``, if ``transposed``) and a dense matrix.

        Parameters
        ----------
        dense
            [n_annotators · n_labels, c], or [n_tasks, c] if ``transposed``.

        Returns
        -------
        Tensor
            [n_tasks, c], or [n_annotators · n_labels, c]; differentiable to any order.
        """
        if torch.jit.is_tracing():
            return _traceable_product(self.columns if transposed else self.rows, dense)
        result: Tensor = _SparseProduct.apply(dense, self, transposed)
        return result

    def tensors(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """``rows`` and ``columns`` as CSR tensors; made once and kept."""
        key = (dtype, device)
        if key not in self._tensors:
            self._tensors[key] = (
                _csr_tensor(self.rows, dtype, device),
                _csr_tensor(self.columns, dtype, device),
            )
        return self._tensors[key]

    def __getstate__(self) -> dict[str, Any]:
        # Tensors are cheap to make again and may live on a device that the reader lacks.
        return {"rows": self.rows, "columns": self.columns, "shape": self.shape, "_tensors": {}}


class _SparseProduct(torch.autograd.Function):
    """Product with a constant matrix; the derivative is the same function, transposed.

    Torch's own backward of a CSR product transposes the matrix anew on every call. Everything
    beside ``dense`` travels as plain objects, so that function transforms never wrap CSR tensors.
    """

    @staticmethod
    def forward(dense: Tensor, counts: LabelCounts, transposed: bool) -> Tensor:
        return counts.tensors(dense.dtype, dense.device)[transposed] @ dense.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LabelCounts, bool], output: Tensor) -> None:
        _, ctx.counts, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.counts.product(grad, not ctx.transposed), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        result: Tensor = ctx.counts.product(tangent, ctx.transposed)
        return result

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], dense: Tensor, *constants: Any
    ) -> tuple[Tensor, int]:
        # Columns are independent, so a batch is only more columns.
        folded = dense.movedim(in_dims[0], -1)
        counts, transposed = constants
        out = counts.product(folded.flatten(1), transposed)
        return out.reshape(-1, *folded.shape[1:]), folded.dim() - 1


def log_sum_exp(scores: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials over the last axis.

    Rows of −inf give −inf and have no derivative, where torch's gives nan. The exponentials serve
    the derivative as well.

    Parameters
    ----------
    scores
        ``[n, K]``.

    Returns
    -------
    Tensor
        ``[n]``; differentiable to any order.
    """
    if torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        highest = scores.detach().amax(-1, keepdim=True)
        highest = torch.where(highest.isneginf(), 0.0, highest)
        return (scores - highest).exp().sum(-1).log() + highest.squeeze(-1)
    result: Tensor = _LogSumExp.apply(scores)
    return result


def shares_of(scores: Tensor) -> Tensor:
    """Softmax over the last axis; rows of −inf give zeros."""
    highest = scores.amax(-1, keepdim=True)
    highest = torch.where(highest.isneginf(), 0.0, highest)
    shares = (scores - highest).exp()
    total = shares.sum(-1, keepdim=True)
    return shares / torch.where(total > 0, total, 1.0)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        highest = scores.amax(-1, keepdim=True)
        highest = torch.where(highest.isneginf(), 0.0, highest)
        shares = (scores - highest).exp_()
        total = shares.sum(-1, keepdim=True)
        ctx.save_for_backward(scores)
        if ctx.needs_input_grad[0]:
            ctx.shares = shares.div_(torch.where(total > 0, total, 1.0))
        return (total.log() + highest).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        if torch.is_grad_enabled():
            return shares_of(ctx.saved_tensors[0]) * gradient.unsqueeze(-1)
        shares: Tensor = ctx.shares * gradient.unsqueeze(-1)
        return shares


def label_log_density(counts: LabelCounts, log_confusion: Tensor) -> Tensor:
    """Log-density of all labels of every task given each true class.

    Parameters
    ----------
    counts
        Label counts of the crowd, of shape (n_tasks, L, J).
    log_confusion
        [*batch, L, K, J]: log-probability that annotator l reports class j of a task of class k; L
        may be 1, a table shared by all annotators. −inf is allowed.

    Returns
    -------
    Tensor
        [*batch, n_tasks, K] in nats; the class axis is the contiguous one when there is no batch. A
        task without labels has 0.
    """
    n_tasks, n_annotators, n_labels = counts.shape
    *batch, _, n_classes, _ = log_confusion.shape
    # [*batch, L, K, J] → [L·J, *batch·K]: the batch is only more columns.
    table = log_confusion.expand(*batch, n_annotators, n_classes, n_labels)
    table = table.movedim((-3, -1), (0, 1)).reshape(n_annotators * n_labels, -1)
    product = counts.product(table)
    if not batch:
        return product
    return product.reshape(n_tasks, *batch, n_classes).movedim(0, -2)


def _traceable_product(matrix: sp.csr_array, dense: Tensor) -> Tensor:
    """The same product by gathering and adding: slower, but a trace cannot hold CSR tensors."""
    entries = matrix.tocoo()
    row, column = (
        torch.as_tensor(i, dtype=torch.int64, device=dense.device) for i in entries.coords
    )
    count = torch.as_tensor(entries.data, dtype=dense.dtype, device=dense.device)
    zeros = dense.new_zeros(matrix.shape[0], dense.shape[1])
    return zeros.index_add(0, row, count.unsqueeze(-1) * dense[column])


def _csr_tensor(matrix: sp.csr_array, dtype: torch.dtype, device: torch.device) -> Tensor:
    # 32-bit indices spare MKL and cuSPARSE a conversion on every product.
    small = max(matrix.nnz, *matrix.shape) < torch.iinfo(torch.int32).max
    index_dtype = torch.int32 if small else torch.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # "in beta state", once per process
        return torch.sparse_csr_tensor(
            torch.as_tensor(matrix.indptr, dtype=index_dtype, device=device),
            torch.as_tensor(matrix.indices, dtype=index_dtype, device=device),
            torch.as_tensor(matrix.data, dtype=dtype, device=device),
            size=matrix.shape,
            check_invariants=False,
        )
