"""Sequences of different lengths side by side, without padding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Packing:
    """The columns of all sequences ordered by step, longest sequence first within a step.

    Column ``starts[t] + r`` holds step t of the r-th longest sequence. Steps are therefore
    contiguous blocks that only get narrower, so ended sequences cost nothing.

    Attributes
    ----------
    lengths
        int64 [S]: steps of each sequence, at least 1, in the user's order.
    order
        int64 [S]: sequences by falling length.
    widths
        Number of sequences that have a step t, for each t.
    rows
        int64 [N]: row of each column where sequences lie one after another.
    owner
        int64 [N]: sequence of each column.
    step
        int64 [N]: step of each column.

    Examples
    --------
    >>> packing = Packing.build(torch.tensor([1, 3, 2]))
    >>> packing.widths, packing.owner.tolist(), packing.rows.tolist()
    ([3, 2, 1], [1, 2, 0, 1, 2, 1], [1, 4, 0, 2, 5, 3])
    """

    lengths: Tensor
    order: Tensor
    widths: list[int]
    rows: Tensor
    owner: Tensor
    step: Tensor

    @classmethod
    def build(cls, lengths: Tensor) -> Packing:
        """Order the columns of sequences of these lengths ``[S]``."""
        order = torch.argsort(lengths, descending=True, stable=True)
        n_steps = int(lengths[order[0]])
        # Sequences that are longer than t, for each t.
        ended = torch.bincount(lengths, minlength=n_steps + 1).cumsum(0)
        widths = len(lengths) - ended[:n_steps]
        step = torch.repeat_interleave(widths)
        starts = widths.cumsum(0) - widths
        rank = torch.arange(len(step), device=step.device) - starts[step]
        owner = order[rank]
        first_row = lengths.cumsum(0) - lengths
        return cls(lengths, order, widths.tolist(), first_row[owner] + step, owner, step)

    @property
    def n_sequences(self) -> int:
        """Number of sequences S."""
        return len(self.lengths)

    @property
    def n_steps(self) -> int:
        """Steps of the longest sequence."""
        return len(self.widths)

    @cached_property
    def spans(self) -> list[slice]:
        """Columns of each step."""
        ends = list(accumulate(self.widths))
        return [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]

    @cached_property
    def runs(self) -> list[tuple[slice, int]]:
        """Columns of consecutive steps of one width, and that width."""
        found, start = [], 0
        for width, steps in groupby(self.widths):
            stop = start + width * len(list(steps))
            found.append((slice(start, stop), width))
            start = stop
        return found

    @cached_property
    def later(self) -> slice | Tensor:
        """Columns that have a step before them: all but the first block."""
        return slice(self.widths[0], None)

    @cached_property
    def earlier(self) -> slice | Tensor:
        """Columns that have a step after them, in the order of `later`."""
        n, first, last = len(self.owner), self.widths[0], self.widths[-1]
        if first == last:
            return slice(0, n - first)
        widths = torch.tensor(self.widths, device=self.owner.device)
        starts = widths.cumsum(0) - widths
        step = self.step[first:]
        rank = torch.arange(first, n, device=step.device) - starts[step]
        return starts[step - 1] + rank

    @cached_property
    def last(self) -> slice | Tensor:
        """Columns that have no step after them."""
        n, first, last = len(self.owner), self.widths[0], self.widths[-1]
        if first == last:
            return slice(n - first, None)
        return (self.step == self.lengths[self.owner] - 1).nonzero().squeeze(-1)

    @cached_property
    def chunks(self) -> Chunks:
        """The sequences cut into chunks of about the square root of the longest."""
        return Chunks.build(self, math.isqrt(self.n_steps))

    @contextmanager
    def room(self, like: Tensor) -> Iterator[Tensor]:
        """Lend two arrays of the shape of ``like``, kept from one evaluation to the next.

        Memory that is given back to the system and asked for again costs as much as arithmetic.
        """
        shape = (2, *like.shape)
        # Taken out while in use, so that two users at a time get arrays of their own.
        work = self._kept.pop() if self._kept else None
        if (
            work is None
            or work.shape != shape
            or (work.dtype, work.device) != (like.dtype, like.device)
        ):
            work = like.new_empty(shape)
        try:
            yield work
        finally:
            self._kept[:] = [work]

    @cached_property
    def _kept(self) -> list[Tensor]:
        return []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": []}

    def padded(self, columns: Tensor, fill: float = float("nan")) -> Tensor:
        """Columns ``[..., N]`` as ``[S, n_steps, ...]``, ``fill`` beyond a sequence's end."""
        shape = (self.n_sequences, self.n_steps, *columns.shape[:-1])
        result = columns.new_full(shape, fill) if columns.is_floating_point() else None
        if result is None:
            result = torch.full(shape, int(fill), dtype=columns.dtype, device=columns.device)
        result[self.owner, self.step] = columns.movedim(-1, 0)
        return result


@dataclass(frozen=True, eq=False)
class Chunks:
    """Sequences cut into chunks, which are packed like sequences of their own.

    Attributes
    ----------
    packing
        Of the C chunks; those of a sequence follow one another.
    along
        Packing of the chunks as steps of their sequences: its ``rows`` are chunks.
    columns
        int64 [N]: column of the whole sequences' packing for each column of the chunks'.
    back
        int64 [N]: the other way round.
    ends
        int64 [C]: column of each chunk's last step.
    """

    packing: Packing
    along: Packing
    columns: Tensor
    back: Tensor
    ends: Tensor

    @classmethod
    def build(cls, whole: Packing, size: int) -> Chunks:
        """Cut sequences into chunks of ``size`` steps, the last of each shorter."""
        counts = -(-whole.lengths // size)
        along = Packing.build(counts)
        lengths = torch.full_like(along.rows, size)
        last = counts.cumsum(0) - 1
        lengths[last] = whole.lengths - (counts - 1) * size
        packing = Packing.build(lengths)
        of_row = _inverse(packing.rows)
        return cls(
            packing,
            along,
            _inverse(whole.rows)[packing.rows],
            of_row[whole.rows],
            of_row[lengths.cumsum(0) - 1],
        )

    @property
    def back_ends(self) -> Tensor:
        """int64 [C]: column of each chunk's last step in the whole sequences' packing."""
        return self.columns[self.ends]


def _inverse(permutation: Tensor) -> Tensor:
    result = torch.empty_like(permutation)
    result[permutation] = torch.arange(len(permutation), device=permutation.device)
    return result
