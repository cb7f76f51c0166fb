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
# Repeated labels of a task with more labels than this are counted first: sums in float32 have
# fewer terms. Elsewhere it would only cost time.
_LONG = 1000


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """How often each task got each label from each annotator.

    Attributes
    ----------
    rows
        CSR matrix [n_tasks, n_annotators · n_labels] of counts; short rows have one entry a label.
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
            int64 [n]: one row per given label; repeated rows add up in every product.
        shape
            (n_tasks, n_annotators, n_labels).
        """
        n_tasks, n_annotators, n_labels = shape
        n_columns = n_annotators * n_labels
        n = len(task)
        # Half the memory to read in every product, and what MKL and cuSPARSE want.
        small = max(n, n_tasks, n_columns) < np.iinfo(np.int32).max
        kind: type[np.integer[Any]] = np.int32 if small else np.int64
        column = annotator.cpu().numpy().astype(kind)
        column *= n_labels
        column += label.cpu().numpy().astype(kind, copy=False)
        # Transposing one label a row sorts the labels by task, in one pass over them.
        first = np.arange(n + 1, dtype=kind)
        by_row = sp.csr_array((column, task.cpu().numpy().astype(kind), first), shape=(n, n_tasks))
        sorted_ = by_row.tocsc()
        parts = (np.ones(n), sorted_.data, sorted_.indptr)
        rows = sp.csr_array(parts, shape=(n_tasks, n_columns))
        if np.diff(rows.indptr).max(initial=0) > _LONG:
            rows.sum_duplicates()
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
    *batch, _, n_classes, _ = log_confusion.shape
    product = counts.product(by_label(counts, log_confusion))
    if not batch:
        return product
    return product.reshape(-1, *batch, n_classes).movedim(0, -2)


def by_label(counts: LabelCounts, log_confusion: Tensor) -> Tensor:
    """[*batch, L, K, J] as the matrix [L·J, *batch·K] that ``counts`` multiply."""
    _, n_annotators, n_labels = counts.shape
    *batch, _, n_classes, _ = log_confusion.shape
    # The batch is only more columns.
    table = log_confusion.expand(*batch, n_annotators, n_classes, n_labels)
    return table.movedim((-3, -1), (0, 1)).reshape(n_annotators * n_labels, -1)


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
