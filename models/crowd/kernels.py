"""Log-density of ragged crowd labels as one sparse product, differentiable to any order.

With S the tasks × (annotator · reported class) matrix of label counts and π the confusion table,
entry (i, k) of S log π is the log-density of all labels of task i given true class k. Its
derivative is the product with Sᵀ; taken at the posterior of the classes, that gives the expected
counts of EM's M-step (Dawid & Skene 1979, eq. 2.3). With few threads both products go through the
rows of S, the second one adding to a table that stays in the processor's cache; otherwise Sᵀ is
stored as well, once, so that threads need not write to the same cells.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

# Most threads with which one thread that adds up rows is no slower than all with the transpose.
_FEW_THREADS = 2
# In float32: nothing beside the rounding of a share of one, and far above the subnormal numbers.
_LEAST_SHARE = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """How often each task got each label from each annotator.

    Attributes
    ----------
    rows
        CSR matrix [n_tasks, n_annotators · n_labels] of counts.
    shape
        (n_tasks, n_annotators, n_labels).
    """

    rows: sp.csr_array
    shape: tuple[int, int, int]
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

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
        n_columns = n_annotators * n_labels
        column = annotator.cpu().numpy() * n_labels + label.cpu().numpy()
        # Half the memory to read in every product, and what MKL and cuSPARSE want.
        small = max(len(column), n_tasks, n_columns) < np.iinfo(np.int32).max
        kind: type[np.integer[Any]] = np.int32 if small else np.int64
        places = (task.cpu().numpy().astype(kind), column.astype(kind))
        ones = np.ones(len(column))
        rows = sp.coo_array((ones, places), shape=(n_tasks, n_columns)).tocsr()
        return cls(rows, shape)

    @cached_property
    def columns(self) -> sp.csr_array:
        """The transpose of ``rows``, in CSR form as well."""
        return self.rows.T.tocsr()

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

    def tensor(self, transposed: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``rows`` or ``columns`` as a CSR tensor; made once and kept."""
        key = (transposed, dtype, device)
        if key not in self._kept:
            matrix = self.columns if transposed else self.rows
            self._kept[key] = _csr_tensor(matrix, dtype, device)
        found: Tensor = self._kept[key]
        return found

    def added(self, dense: Tensor) -> Tensor:
        """The transposed product by adding every row's share, on the processor."""
        values = dense.detach().numpy()
        if values.dtype not in self._kept:
            data = self.rows.data.astype(values.dtype, copy=False)
            parts = (data, self.rows.indices, self.rows.indptr)
            self._kept[values.dtype] = sp.csc_array(parts, shape=self.rows.shape[::-1])
        return torch.from_numpy(self._kept[values.dtype] @ values)

    def __getstate__(self) -> dict[str, Any]:
        # Tensors are cheap to make again and may live on a device that the reader lacks.
        return {"rows": self.rows, "shape": self.shape, "_kept": {}}


class _SparseProduct(torch.autograd.Function):
    """Product with a constant matrix; the derivative is the same function, transposed.

    Torch's own backward of a CSR product transposes the matrix anew on every call. Everything
    beside ``dense`` travels as plain objects, so that function transforms never wrap CSR tensors.
    """

    @staticmethod
    def forward(dense: Tensor, counts: LabelCounts, transposed: bool) -> Tensor:
        if transposed and _one_thread_will_do(dense):
            return counts.added(dense)
        return counts.tensor(transposed, dense.dtype, dense.device) @ dense.contiguous()

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


def _one_thread_will_do(dense: Tensor) -> bool:
    return (
        dense.device.type == "cpu"
        and dense.dtype in (torch.float32, torch.float64)
        and torch.get_num_threads() <= _FEW_THREADS
        # Gradients in batches have no memory of their own.
        and not torch._C._functorch.is_legacy_batchedtensor(dense)
    )


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
        highest.masked_fill_(highest.isneginf(), 0.0)
        shares = (scores - highest).exp_()
        if shares.dtype == torch.float32:
            # Products of what is below are subnormal, which takes processors ten times as long.
            shares.masked_fill_(shares < _LEAST_SHARE, 0.0)
        # A product with ones: faster than a sum over a short axis.
        total = shares @ shares.new_ones(shares.shape[-1])
        found = total.log().add_(highest.squeeze(-1))
        ctx.save_for_backward(scores)
        if ctx.needs_input_grad[0]:
            total.masked_fill_(total == 0, 1.0)
            ctx.shares = shares.mul_(total.reciprocal_().unsqueeze(-1))
        return found

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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # "in beta state", once per process
        return torch.sparse_csr_tensor(
            torch.as_tensor(matrix.indptr, device=device),
            torch.as_tensor(matrix.indices, device=device),
            torch.as_tensor(matrix.data, dtype=dtype, device=device),
            size=matrix.shape,
            check_invariants=False,
        )
