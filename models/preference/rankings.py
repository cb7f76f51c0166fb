"""Rankings of several items: who came in which place among whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import check_index, encode, read_frame, shown


@dataclass(frozen=True, eq=False)
class Rankings:
    """Partial or complete rankings of different lengths, the best item first.

    Attributes
    ----------
    order
        int64 [R, L]: positions in ``items``, −1 beyond a ranking's end.
    depth
        int64 [R]: how many places were decided; the items after them are known only to be behind.
    items
        [n_items] the user's ids in tensor order.
    decided
        Whether ``order`` holds outcomes; a design knows only who took part.

    Raises
    ------
    DataError
        For positions out of range, rankings of fewer than two items, and an item that comes twice.

    Examples
    --------
    >>> races = Rankings.from_lists([["ann", "bo", "cy"], ["cy", "ann"]])
    >>> races
    Rankings(2 rankings, 3 items)
    >>> Rankings.from_lists([["ann", "bo", "cy"]], depth=1).depth  # ann won, no more is known
    tensor([1])
    """

    order: Tensor
    depth: Tensor
    items: NDArray[Any]
    decided: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.order, Tensor) or self.order.dim() != 2 or not len(self.order):
            raise DataError("order: expected a tensor int64 [R, L] of at least one ranking")
        check_index(self.order.reshape(-1), "order", self.order.numel(), self.n_items, -1)
        if self.depth is None or not isinstance(self.decided, bool):
            raise DataError("depth, decided: expected int64 [R] and True or False")
        check_index(self.depth, "depth", len(self.order), self.order.shape[1] + 1, 1)
        length = self.lengths
        if bool((self.depth > length).any()):
            raise DataError("depth: expected at most as many places as a ranking has items")
        inside = torch.arange(self.order.shape[1], device=self.order.device) < length[:, None]
        if bool(((self.order >= 0) != inside).any()) or bool((length < 2).any()):
            raise DataError("order: expected rankings of two or more items, −1 after their end")
        ordered = self.order.sort(-1).values
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if bool(twice.any()):
            who = self.items[ordered[:, 1:][twice][:5].cpu().numpy()]
            raise DataError(f"order: an item comes twice in one ranking: {shown(who)}")

    @classmethod
    def from_lists(
        cls,
        rankings: Iterable[Sequence[Any]],
        *,
        depth: Any = None,
        items: Any = None,
        decided: bool = True,
    ) -> Rankings:
        """Read rankings, each a sequence of ids with the best first.

        Parameters
        ----------
        rankings
            The rankings.
        depth
            How many places were decided, a number or one for each ranking; all by default.
        items
            All ids, in the order wanted; by default those that occur, sorted.
        decided
            False for a design: only who took part counts, and the program simulates the order.

        Raises
        ------
        DataError
            For no rankings, unknown ids, an item twice in a ranking, and a depth out of range.
        """
        if isinstance(rankings, Tensor):
            rankings = rankings.tolist()
        try:
            lists = [x.tolist() if isinstance(x, Tensor) else list(x) for x in rankings]
        except TypeError as error:
            raise DataError(f"rankings: expected sequences of ids; {error}") from error
        if not lists:
            raise DataError("rankings: expected at least one, got none")
        short = [number for number, ranking in enumerate(lists) if len(ranking) < 2]
        if short:
            raise DataError(
                f"rankings: expected two items or more in each, got {len(lists[short[0]])} in "
                f"number {short[0]}"
            )
        flat = [item for ranking in lists for item in ranking]
        position, ids = encode(flat, "rankings", items, "items")
        length = np.array([len(ranking) for ranking in lists])
        order = np.full((len(lists), int(length.max())), -1, dtype=np.int64)
        order[np.arange(order.shape[1]) < length[:, None]] = position
        if depth is None:
            deep = length
        else:
            try:
                deep = np.broadcast_to(np.asarray(depth), length.shape)
            except ValueError as error:
                raise DataError(
                    f"depth: expected a number or one for each ranking; {error}"
                ) from error
            if deep.dtype.kind not in "iu" or (deep < 1).any():
                raise DataError(f"depth: expected integers of at least 1, got {depth!r}")
        deep = np.minimum(deep, length).astype(np.int64)
        return cls(torch.from_numpy(order), torch.from_numpy(deep), ids, decided)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        ranking: str = "ranking",
        item: str = "item",
        place: str = "place",
        **options: Any,
    ) -> Rankings:
        """Read a long table, one row for each item of each ranking.

        Parameters
        ----------
        frame
            A pandas data frame, or any table with the data frame interchange protocol.
        ranking, item, place
            Columns: which ranking, who, and the place, 1 being the best.
        **options
            Those of `from_lists`.

        Raises
        ------
        DataError
            For a missing column, and for places that are missing, no numbers, or there twice.

        Examples
        --------
        >>> import pandas as pd
        >>> table = pd.DataFrame({"race": [1, 1, 2, 2], "who": list("abba"), "place": [1, 2, 1, 2]})
        >>> Rankings.from_frame(table, "race", "who").order
        tensor([[0, 1],
                [1, 0]])
        """
        table = read_frame(frame, [ranking, item, place])
        for name in (ranking, place):
            if table[name].isna().any():
                raise DataError(f"{name}: expected a value in every row, got missing ones")
        places = pd.to_numeric(table[place], errors="coerce")
        numbers = pd.api.types.is_numeric_dtype(table[place].infer_objects())
        if not numbers or not np.isfinite(places).all() or (places < 0).any():
            raise DataError(f"{place}: expected finite numbers of at least 0, 1 being the best")
        if table.duplicated([ranking, place]).any():
            raise DataError(f"{place}: two items of one ranking have the same place")
        ordered = table.sort_values([ranking, place], kind="stable")
        lists = [group.tolist() for _, group in ordered.groupby(ranking, sort=True)[item]]
        return cls.from_lists(lists, **options)

    @property
    def n_items(self) -> int:
        """Number of items, those never ranked included."""
        return len(self.items)

    @property
    def lengths(self) -> Tensor:
        """How many items take part in each ranking, [R]."""
        return (self.order >= 0).sum(-1)

    def __len__(self) -> int:
        return len(self.order)

    def __repr__(self) -> str:
        what = "" if self.decided else ", no outcomes"
        return f"Rankings({len(self)} rankings, {self.n_items} items{what})"

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Rankings:
        """The same rankings on ``device``."""
        order, depth = self.order.to(device=device), self.depth.to(device=device)
        if order is self.order and depth is self.depth:
            return self
        return replace(self, order=order, depth=depth)

    def subset(self, index: Tensor) -> Rankings:
        """Some rankings, by int64 positions or a mask; items stay."""
        return replace(self, order=self.order[index], depth=self.depth[index])

    def with_order(self, order: Tensor) -> Rankings:
        """The same rankings in another order ``[R, L]``, for example a simulated one."""
        order = torch.as_tensor(order)
        if order.shape != self.order.shape:
            raise DataError(
                f"order: expected shape {tuple(self.order.shape)}, got {tuple(order.shape)}"
            )
        new = replace(self, order=order, decided=True)
        if not torch.equal(new.order.sort(-1).values, self.order.sort(-1).values):
            raise DataError("order: expected the same items in each ranking")
        return new
