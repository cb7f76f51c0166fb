"""Sequences of different lengths: one row per step, one sequence after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._data import as_floating, as_tensor
from likely.models._ids import distinct, encode, read_frame
from likely.models.markov._emission import Steps
from likely.models.markov._packing import Packing


@dataclass(frozen=True, eq=False, repr=False)
class Sequences:
    """Sequences of vectors, of any length each.

    Build them with `from_list`, `from_arrays` or `from_frame`.

    Attributes
    ----------
    x
        [N, D]: one row per step, one sequence after another; NaN where an entry is missing.
    lengths
        int64 [S]: steps of each sequence, at least 1; they sum to N.
    sequences
        [S]: the user's own ids of the sequences.
    features
        [D]: names of the columns.

    Raises
    ------
    DataError
        If shapes, lengths or ids disagree, or an entry is infinite.

    Examples
    --------
    >>> pair = Sequences.from_list([[0.5, 1.0, 0.2], [2.0]])
    >>> pair
    Sequences(2 sequences, 4 steps, 1 feature)
    >>> [part.squeeze(-1).tolist() for part in pair]
    [[0.5, 1.0, 0.20000000298023224], [2.0]]
    """

    x: Tensor
    lengths: Tensor
    sequences: NDArray[Any]
    features: NDArray[Any]

    def __post_init__(self) -> None:
        if self.x.dim() != 2 or 0 in self.x.shape:
            raise DataError(
                "x: expected rows [N, D] with at least one row and one column, got shape "
                f"{tuple(self.x.shape)}"
            )
        lengths = self.lengths
        if lengths.dim() != 1 or len(lengths) == 0 or lengths.dtype != torch.int64:
            raise DataError(
                f"lengths: expected whole numbers [S], got {lengths.dtype} of shape "
                f"{tuple(lengths.shape)}"
            )
        if bool((lengths < 1).any()):
            empty = int((lengths < 1).nonzero()[0])
            raise DataError(
                f"lengths: expected at least one step in every sequence, got {int(lengths[empty])} "
                f"in sequence {empty}; drop empty sequences"
            )
        if int(lengths.sum()) != len(self.x):
            raise DataError(
                f"lengths: expected a sum of {len(self.x)}, the number of rows, got "
                f"{int(lengths.sum())}"
            )
        for name, size in (("sequences", len(lengths)), ("features", self.x.shape[1])):
            found = np.shape(getattr(self, name))
            if found != (size,):
                raise DataError(f"{name}: expected {size} ids, got shape {found}")
        infinite = torch.isinf(self.x)
        if bool(infinite.any()):
            row, column = infinite.nonzero()[0].tolist()
            raise DataError(
                "x: expected finite numbers, or NaN where an entry is missing; got an infinite one "
                f"at row {row}, column {column}"
            )

    # -- reading -----------------------------------------------------------------------------

    @classmethod
    def from_list(
        cls, sequences: Sequence[Any], *, ids: Any = None, features: Any = None
    ) -> Sequences:
        """Read one array a sequence.

        Parameters
        ----------
        sequences
            S arrays [T_i, D], or [T_i] where there is one feature.
        ids, features
            Names of the sequences and of the columns; by default their positions.

        Raises
        ------
        DataError
            For no sequence, an empty one, or unequal numbers of features.
        """
        if len(sequences) == 0:
            raise DataError("sequences: expected at least one, got none")
        parts = [_rows(part, f"sequences[{i}]") for i, part in enumerate(sequences)]
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            raise DataError(
                f"sequences: expected one number of features in all, got {sorted(widths)}"
            )
        lengths = torch.tensor([len(part) for part in parts], device=parts[0].device)
        return cls(torch.cat(parts), lengths, *_names(len(parts), parts[0].shape[1], ids, features))

    @classmethod
    def from_arrays(
        cls, x: Any, lengths: Any = None, *, ids: Any = None, features: Any = None
    ) -> Sequences:
        """Read rows that lie one sequence after another, as hmmlearn has them.

        Parameters
        ----------
        x
            [N, D] or [N]; or [S, T, D], sequences of equal length.
        lengths
            [S]: steps of each sequence; by default one sequence of all rows.
        ids, features
            Names of the sequences and of the columns; by default their positions.

        Raises
        ------
        DataError
            For lengths that do not add up to the rows, and as `Sequences` does.
        """
        rows = as_floating(x, "x")
        if rows.dim() == 3:
            if lengths is not None:
                raise DataError("lengths: expected None where x has shape [S, T, D]")
            size = rows.shape[:2]
            rows, lengths = rows.flatten(0, 1), torch.full(size[:1], size[1])
        rows = _rows(rows, "x")
        if lengths is None:
            lengths = torch.tensor([len(rows)])
        lengths = as_tensor(lengths, "lengths")
        if lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise DataError(f"lengths: expected whole numbers [S], got {lengths.dtype}")
        lengths = lengths.to(device=rows.device, dtype=torch.int64)
        return cls(rows, lengths, *_names(lengths.numel(), rows.shape[1], ids, features))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        sequence: str | None = None,
        columns: str | Sequence[str] | None = None,
        *,
        ids: Any = None,
    ) -> Sequences:
        """Read a long table, one row per step, the steps of a sequence in order.

        Parameters
        ----------
        frame
            A pandas data frame, or any table with the data frame interchange protocol. Rows of
            different sequences may be mixed.
        sequence
            Column that says which sequence a row belongs to; None for a single sequence.
        columns
            Columns that hold the data; by default all others.
        ids
            All ids of sequences in the order wanted; by default those that occur, sorted.

        Raises
        ------
        DataError
            For a missing column, a missing id, or data that are no numbers.
        """
        if isinstance(columns, str):
            columns = [columns]
        wanted = [*(columns or []), *([sequence] if sequence is not None else [])]
        frame = read_frame(frame, wanted)
        if columns is None:
            columns = [name for name in frame.columns if name != sequence]
        rows = as_floating(frame[list(columns)], "columns")
        if sequence is None:
            return cls.from_arrays(rows, features=columns)
        which, ids = encode(frame[sequence], "sequence", ids, "ids")
        order = torch.from_numpy(np.argsort(which, kind="stable"))
        lengths = torch.bincount(torch.from_numpy(which), minlength=len(ids))
        return cls.from_arrays(rows[order], lengths, ids=ids, features=columns)

    # -- what is in them ---------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x.split(self.lengths.tolist()))

    def __repr__(self) -> str:
        counts = {"sequence": len(self), "step": self.n_steps, "feature": self.n_features}
        shown = (f"{n} {name}" + "s" * (n != 1) for name, n in counts.items())
        return f"Sequences({', '.join(shown)})"

    @property
    def n_steps(self) -> int:
        """Number of steps N of all sequences together."""
        return len(self.x)

    @property
    def n_features(self) -> int:
        """Number of features D."""
        return self.x.shape[1]

    @cached_property
    def packing(self) -> Packing:
        """The order in which the recursions see the rows; made once."""
        return Packing.build(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """int64 [S]: first row of each sequence."""
        return self.lengths.cumsum(0) - self.lengths

    def steps(self, family: Any) -> Steps:
        """What the emissions of a family need of the rows; made once."""
        if family not in self._steps:
            self._steps[family] = Steps.of(self.x, family.features(self.x), self.packing, keep=True)
        return self._steps[family]

    @cached_property
    def _steps(self) -> dict[Any, Steps]:
        return {}

    # -- others like them --------------------------------------------------------------------

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Sequences:
        """The same sequences with ``x`` in ``dtype`` and all tensors on ``device``."""
        x, lengths = self.x.to(dtype=dtype, device=device), self.lengths.to(device=device)
        if x is self.x and lengths is self.lengths:
            return self
        return replace(self, x=x, lengths=lengths)

    def subset(self, index: Tensor) -> Sequences:
        """Some of the sequences, ``index`` int64 [m], in the order given."""
        lengths = self.lengths[index]
        ends = lengths.cumsum(0)
        first = torch.repeat_interleave(self.starts[index] - ends + lengths, lengths)
        rows = first + torch.arange(len(first), device=first.device)
        return replace(
            self, x=self.x[rows], lengths=lengths, sequences=self.sequences[index.cpu().numpy()]
        )


def as_sequences(value: Any, lengths: Any = None) -> Sequences:
    """What a program was given, as `Sequences`.

    Parameters
    ----------
    value
        `Sequences`; a list or tuple of arrays [T_i, D] or [T_i]; or an array as in
        `Sequences.from_arrays`.
    lengths
        As in `Sequences.from_arrays`; only with an array.

    Raises
    ------
    DataError
        As the constructors do.
    """
    if isinstance(value, Sequences):
        if lengths is not None:
            raise DataError("lengths: expected None, as the sequences know theirs")
        return value
    if isinstance(value, list | tuple) and value and np.ndim(value[0]) > 0:
        if lengths is not None:
            raise DataError("lengths: expected None for a list of sequences")
        return Sequences.from_list(value)
    return Sequences.from_arrays(value, lengths)


def check_columns(sequences: Sequences) -> None:
    """Raise `DataError` for a feature that is missing everywhere."""
    gone = torch.isnan(sequences.x).all(0)
    if bool(gone.any()):
        column = int(gone.nonzero()[0])
        raise DataError(f"x: expected some entry in every column, got none in column {column}")


def _rows(value: Any, name: str) -> Tensor:
    rows = as_floating(value, name)
    if rows.dim() == 1:
        rows = rows.unsqueeze(-1)
    if rows.dim() != 2 or 0 in rows.shape:
        raise DataError(
            f"{name}: expected shape [T] or [T, D] with at least one step and one feature, got "
            f"{tuple(np.shape(value))}"
        )
    return rows


def _names(
    n_sequences: int, n_features: int, ids: Any, features: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    return (
        np.arange(n_sequences) if ids is None else distinct(ids, "ids"),
        np.arange(n_features) if features is None else distinct(features, "features"),
    )
