"""Probability tables whose gradient counts.

For a table of probabilities π that a program uses only to draw categories, the expected
complete-data log-density is Σ n log π, so ``π ⊙ ∂Q/∂π`` is the table of expected counts n (Fisher's
identity). ``Categorical(probs)`` divides by ``probs.sum(-1)`` first, and that division takes the
row totals out of the gradient. On the simplex the sum is the constant one, so a `Table` says that
it is: the value of the program is unchanged and the gradient keeps the counts.
"""

from __future__ import annotations

from typing import Any

import torch

# Operations after which the last dimension still is the simplex (or its logarithm).
_KEEPING = {
    torch.Tensor.expand,
    torch.Tensor.unsqueeze,
    torch.Tensor.reshape,
    torch.Tensor.view,
    torch.Tensor.contiguous,
    torch.Tensor.clone,
    torch.Tensor.__getitem__,
    torch.Tensor.index_select,
    torch.Tensor.to,
    torch.Tensor.float,
    torch.Tensor.double,
    torch.index_select,
    torch.reshape,
    torch.unsqueeze,
    torch.clone,
    torch.Tensor.log,
    torch.log,
}
_LOGARITHMS = {torch.Tensor.log, torch.log}
_SUMS = {torch.Tensor.sum, torch.sum}
_LOGSUMS = {torch.Tensor.logsumexp, torch.logsumexp}


class Table(torch.Tensor):
    """A tensor of probabilities [..., K] whose sum over the last dimension is a constant.

    Any operation that may leave the simplex gives back a plain tensor, and a sum that is not one
    (a slice of a table, say) is differentiated as usual.
    """

    _log: bool = False
    # Whether the sum is taken for one whatever it is: exp E[log π] of variational Bayes is no
    # distribution, and must not be made one.
    _declared: bool = False

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        source = args[0] if args and isinstance(args[0], Table) else None
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if source is None or not isinstance(result, torch.Tensor):
            return result
        if func in _KEEPING:
            table = result.as_subclass(Table)
            table._log = source._log or func in _LOGARITHMS
            table._declared = source._declared
            return table
        if func in (_LOGSUMS if source._log else _SUMS) and _over_last(source, args, kwargs):
            target = 0.0 if source._log else 1.0
            if source._declared:
                return torch.full_like(_plain(result).detach(), target)
            tolerance = 1e3 * torch.finfo(result.dtype).eps
            if bool(((result.detach() - target).abs() < tolerance).all()):
                return _plain(result).detach()
        return _plain(result)


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.as_subclass(torch.Tensor) if isinstance(value, Table) else value


def _over_last(source: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if isinstance(dim, list | tuple):
        dim = dim[0] if len(dim) == 1 else None
    return isinstance(dim, int) and dim in (-1, source.dim() - 1)
