"""The graph of who won against whom, and the groups into which it falls."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

Index = NDArray[np.int64]

# Steps in which most graphs of comparisons are walked through.
_ROUNDS = 6


def group_labels(
    first: Index, second: Index, won: NDArray[np.bool_], lost: NDArray[np.bool_], n: int
) -> tuple[Index, Index]:
    """Number of the group of each item: connected by comparisons, and by wins both ways.

    Parameters
    ----------
    first, second
        Positions [m] among n items.
    won, lost
        Whether the first ever won, and ever lost, [m]; both where there was a tie.
    n
        Number of items.

    Returns
    -------
    weak, strong
        [n] each.
    """
    if _is_strong(first, second, won, lost, n):
        one = np.zeros(n, np.int64)
        return one, one
    from scipy.sparse.csgraph import connected_components

    tail, head = np.r_[first[won], second[lost]], np.r_[second[won], first[lost]]
    graph = coo_array((np.ones(len(tail), np.int8), (tail, head)), shape=(n, n)).tocsr()
    count, strong = connected_components(graph, directed=True, connection="strong")
    weak = strong
    if count > 1:
        _, weak = connected_components(graph, directed=True, connection="weak")
    return np.asarray(weak, np.int64), np.asarray(strong, np.int64)


def _is_strong(
    first: Index, second: Index, won: NDArray[np.bool_], lost: NDArray[np.bool_], n: int
) -> bool:
    """Whether a few rounds of wins lead from one item to all, and from all to it.

    That is so of most tables, and is found in a fraction of the time that all groups take.
    """
    if (first[1:] < first[:-1]).any():
        order = np.argsort(first, kind="stable")
        first, second, won, lost = first[order], second[order], won[order], lost[order]
    pointer = np.searchsorted(first, np.arange(n + 1))
    by_win, by_loss = (
        csr_array((x.astype(np.float64), second, pointer), shape=(n, n)) for x in (won, lost)
    )
    for down, up in ((by_win.T, by_loss), (by_loss.T, by_win)):
        reached = np.zeros(n)
        reached[first[0]] = 1.0
        for _ in range(_ROUNDS):
            flow: Any = down @ reached + up @ reached
            new = np.maximum(reached, flow > 0)
            if new.all() or np.array_equal(new, reached):
                break
            reached = new
        if not new.all():
            return False
    return True


def members(label: Index) -> list[Index]:
    """Positions of the members of each group, the largest group first."""
    size = np.bincount(label)
    parts = np.split(np.argsort(label, kind="stable"), np.cumsum(size)[:-1])
    return [parts[k] for k in np.argsort(-size, kind="stable")]
