"""Grids of cells as tables: which cell a move leads to, and what describes a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from likely.envs.errors import DataError

Step = tuple[int, int]
Array = NDArray[np.float64]

KINDS = {".": "free", "S": "free", "G": "goal", "T": "trap"}
STRAIGHT: dict[str, Step] = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
DIAGONAL: dict[str, Step] = {
    "up-left": (-1, -1),
    "up-right": (-1, 1),
    "down-left": (1, -1),
    "down-right": (1, 1),
}
MOVES = {"straight": STRAIGHT, "diagonal": DIAGONAL}


@dataclass(frozen=True)
class Grid:
    """The cells of a layout that are no walls, numbered row by row.

    Attributes
    ----------
    layout
        Lines of text of one length.
    cells
        (row, column) of each cell.
    """

    layout: tuple[str, ...]
    cells: tuple[Step, ...]

    @classmethod
    def read(cls, layout: Any) -> Grid:
        """Read lines of ``# . S G T``, given as a sequence or as one text.

        Raises
        ------
        DataError
            For no line, lines of unequal length, other characters, or no start.
        """
        lines = layout.split() if isinstance(layout, str) else layout
        if not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
            raise DataError(f"layout must be lines of text, got {layout!r}")
        lines = tuple(lines)
        if not lines or not lines[0]:
            raise DataError("layout must have at least one cell, got none")
        for row, line in enumerate(lines):
            if len(line) != len(lines[0]):
                raise DataError(
                    f"layout must have lines of one length, but line 0 has {len(lines[0])} cells "
                    f"and line {row} has {len(line)}"
                )
            for column, kind in enumerate(line):
                if kind != "#" and kind not in KINDS:
                    raise DataError(
                        f"layout may hold # . S G T, got {kind!r} at row {row}, column {column}"
                    )
        if not any("S" in line for line in lines):
            raise DataError("layout must have a start S, got none")
        cells = [(i, j) for i, line in enumerate(lines) for j, c in enumerate(line) if c != "#"]
        return cls(lines, tuple(cells))

    @property
    def shape(self) -> Step:
        """Rows and columns."""
        return len(self.layout), len(self.layout[0])

    @property
    def marks(self) -> list[str]:
        """The character of each cell."""
        return [self.layout[row][column] for row, column in self.cells]


def move_table(grid: Grid, moves: Mapping[str, Step], slip: float, wind: float) -> sp.csr_array:
    """P(s' | s, a) between cells, as if none were terminal.

    Parameters
    ----------
    grid
        The cells.
    moves
        Step of each action.
    slip
        Probability of going at a right angle to the action, half of it to either side.
    wind
        Probability of being blown one row further up.

    Returns
    -------
    csr_array
        [N·A, N]; row s·A + a holds the moves of action a in cell s.
    """
    n_rows, n_columns = grid.shape
    row, column = np.array(grid.cells).T
    here = np.arange(len(row))
    numbers = np.full(grid.shape, -1)
    numbers[row, column] = here
    parts = []
    for a, (down, right) in enumerate(moves.values()):
        ways = [(1 - slip, (down, right))]
        ways += [(slip / 2, (right, -down)), (slip / 2, (-right, down))]
        blown = [(p * (1 - wind), step) for p, step in ways]
        blown += [(p * wind, (step[0] - 1, step[1])) for p, step in ways]
        for p, step in blown:
            i = (row + step[0]).clip(0, n_rows - 1)
            j = (column + step[1]).clip(0, n_columns - 1)
            # A wall is no cell: whoever runs into it stays.
            there = np.where(numbers[i, j] < 0, here, numbers[i, j])
            parts.append((np.full(len(here), p), here * len(moves) + a, there))
    chances, starts, ends = (np.concatenate(column) for column in zip(*parts, strict=True))
    shape = (len(here) * len(moves), len(here))
    # Entries that name one place are added up.
    table = sp.coo_array((chances, (starts, ends)), shape=shape).tocsr()
    table.eliminate_zeros()
    return table


def cell_features(grid: Grid, names: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """ψ of every cell, [N, F], and the names of its columns.

    Raises
    ------
    DataError
        For an unknown name or none, or distances without a goal.
    """
    if isinstance(names, str):
        names = (names,)
    unknown = [name for name in names if name not in FEATURES]
    if unknown or not names:
        raise DataError(
            f"features must be some of {', '.join(FEATURES)}, got {', '.join(unknown) or 'none'}"
        )
    parts = [FEATURES[name](grid) for name in names]
    columns = tuple(column for _, names_of in parts for column in names_of)
    return np.concatenate([table for table, _ in parts], 1), columns


Part = tuple[Array, list[str]]


def _kinds(grid: Grid) -> Part:
    kinds = [KINDS[mark] for mark in grid.marks]
    names = [kind for kind in dict.fromkeys(KINDS.values()) if kind in kinds]
    return np.array([[kind == name for name in names] for kind in kinds], dtype=float), names


def _cells(grid: Grid) -> Part:
    return np.eye(len(grid.cells)), [f"{row},{column}" for row, column in grid.cells]


def _position(grid: Grid) -> Part:
    longest = np.maximum(np.array(grid.shape) - 1, 1)
    return np.array(grid.cells) / longest, ["row", "column"]


def _distance(grid: Grid) -> Part:
    goals = [cell for cell, mark in zip(grid.cells, grid.marks, strict=True) if mark == "G"]
    if not goals:
        raise DataError("features: distances need a goal G in the layout, got none")
    steps = np.abs(np.array(grid.cells)[:, None] - np.array(goals)).sum(-1).min(-1, keepdims=True)
    return steps / max(sum(grid.shape) - 2, 1), ["distance"]


FEATURES: dict[str, Callable[[Grid], Part]] = {
    "kind": _kinds,
    "cell": _cells,
    "position": _position,
    "distance": _distance,
}
