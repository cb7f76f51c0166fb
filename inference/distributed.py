"""Processes that share one fit: sums over them, and failures that all of them hear of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

from likely.inference.errors import DistributedError, NonFiniteError, OptionError, ProgramError
from likely.inference.monitor import FROM_CALLBACK

T = TypeVar("T")


class Ranks:
    """The processes that share a fit; here the only one.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.
    """

    rank: int = 0
    size: int = 1

    def total(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Sums over all ranks, the same to the last bit on each of them."""
        return list(tensors)

    def first(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What rank 0 has, on all of them."""
        return list(tensors)

    def gathered(self, value: Any) -> list[Any]:
        """What every rank has, in their order; anything that can be pickled."""
        return [value]

    def sent(self, value: Any, source: int) -> Any:
        """What one rank has, on all of them; anything that can be pickled."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        return flag

    def together(self, work: Callable[[], T]) -> T:
        """Do something on every rank; where it fails on one, it fails on all.

        Raises
        ------
        ProgramError, OptionError, NonFiniteError
            On every rank, with the failed rank's number and message.
        DistributedError
            For a failure of another kind, or if a rank is gone.
        """
        return work()


class ProcessGroup(Ranks):
    """The ranks of a ``torch.distributed`` process group.

    Parameters
    ----------
    group : ProcessGroup, optional
        By default all processes.
    device : torch.device, optional
        That of the fit.

    Raises
    ------
    ProgramError
        If ``torch.distributed`` was not started, or this process is not in the group.
    """

    def __init__(self, group: Any = None, device: torch.device | None = None) -> None:
        if not (distributed.is_available() and distributed.is_initialized()):
            raise ProgramError(
                "Shards(distributed=True) needs a process group: start the script with torchrun "
                "and call torch.distributed.init_process_group() first"
            )
        if distributed.get_rank(group) < 0:
            raise ProgramError("this process is not in the group that Shards was given")
        self.group = group
        self.rank, self.size = distributed.get_rank(group), distributed.get_world_size(group)
        # NCCL carries tensors of a GPU only, gloo those in memory.
        self._device = torch.device("cpu")
        if "nccl" in str(distributed.get_backend(group)) and torch.cuda.is_available():
            self._device = torch.device("cuda", torch.cuda.current_device())
            if device is not None and device.type == "cuda":
                self._device = device

    def _global(self, rank: int) -> int:
        return rank if self.group is None else distributed.get_global_rank(self.group, rank)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise DistributedError(
                f"rank {self.rank} of {self.size} lost the others: one of them has ended, or did "
                "not answer within the time-out of the process group. See its own messages, and "
                f"start all ranks again. torch says: {error}"
            ) from error

    def total(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Sums over all ranks, the same to the last bit on each of them."""
        # Summed in one place and sent back: ranks that disagree in a bit could part ways.
        return self._exchange(tensors, summed=True)

    def first(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What rank 0 has, on all of them."""
        return self._exchange(tensors, summed=False)

    def _exchange(self, tensors: Sequence[torch.Tensor], summed: bool) -> list[torch.Tensor]:
        if not tensors:
            return []
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        sent = flat.to(self._device)
        with self._connected():
            if summed:
                distributed.reduce(sent, self._global(0), group=self.group)
            distributed.broadcast(sent, self._global(0), group=self.group)
        pieces = sent.to(flat.device).split([tensor.numel() for tensor in tensors])
        return [piece.reshape(t.shape) for piece, t in zip(pieces, tensors, strict=True)]

    def gathered(self, value: Any) -> list[Any]:
        """What every rank has, in their order; anything that can be pickled."""
        found: list[Any] = [None] * self.size
        with self._connected():
            distributed.all_gather_object(found, value, group=self.group)
        return found

    def sent(self, value: Any, source: int) -> Any:
        """What one rank has, on all of them; anything that can be pickled."""
        box = [value if self.rank == source else None]
        with self._connected():
            distributed.broadcast_object_list(
                box, self._global(source), group=self.group, device=self._device
            )
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank."""
        return bool(self.total([torch.tensor([float(flag)])])[0] > 0)

    def together(self, work: Callable[[], T]) -> T:
        """Do something on every rank; where it fails on one, it fails on all."""
        failure: Exception | None = None
        try:
            result = work()
        except DistributedError:
            raise
        except Exception as error:
            failure = error
        if not self.any(failure is not None):
            return result
        told = self.gathered(None if failure is None else _described(failure))
        rank, (kind, message, from_callback) = next(
            (rank, found) for rank, found in enumerate(told) if found is not None
        )
        heard = _KINDS[kind](f"rank {rank} of {self.size}: {message}")
        setattr(heard, FROM_CALLBACK, from_callback)
        raise heard from failure


_KINDS: dict[str, type[Exception]] = {
    "arithmetic": NonFiniteError,
    "option": OptionError,
    "value": ProgramError,
    "other": DistributedError,
}


def _described(failure: Exception) -> tuple[str, str, bool]:
    """Kind and message of a failure, and whether a callback raised it."""
    kind = "other"
    if isinstance(failure, ArithmeticError):
        kind = "arithmetic"
    elif isinstance(failure, ValueError):
        kind = "option" if isinstance(failure, OptionError) else "value"
    own = type(failure).__module__.startswith("likely.")
    message = str(failure) if own else f"{type(failure).__name__}: {failure}"
    return kind, message, bool(getattr(failure, FROM_CALLBACK, False))
