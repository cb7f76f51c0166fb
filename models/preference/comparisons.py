"""Pairwise comparisons: who met whom, how often, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import read_frame
from likely.models.preference._checks import check_rows
from likely.models.preference._graph import group_labels, members
from likely.models.preference._reading import Columns, aggregate, read_columns
from likely.models.preference.outcomes import log_coefficient


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Outcomes of comparisons of two items each, equal comparisons counted together.

    A row is a pair of items (and an annotator, a period, a home side and covariates where there
    are any) with the number of times that the first won, that the second won, and that they tied.
    Make it with `from_arrays` or `from_frame`, which check everything once.

    Attributes
    ----------
    first, second
        int64 [m]: positions in ``items``.
    counts
        [m, 3]: wins of the first, wins of the second, ties; None in a design to simulate from.
    total
        [m]: number of comparisons in a row.
    items
        [n_items] the user's ids in tensor order.
    home
        [m]: 1 where the first is at home (or moved first, or stood on the left), −1 where the
        second is, 0 where neither is; None if that was not recorded.
    covariates
        [m, d]: what speaks for the first, against the second; None without covariates.
    annotator, annotators
        int64 [m], positions in the ids [n_annotators]; None if not recorded.
    period, periods
        int64 [m], positions in the labels [n_periods], in order of time; None if not recorded.

    Raises
    ------
    DataError
        For indices out of range, an item compared with itself, counts that are negative or not
        finite, and parts that do not fit together.

    Examples
    --------
    >>> games = Comparisons.from_arrays(["ann", "ann", "bo"], ["bo", "cy", "ann"])
    >>> games
    Comparisons(2 rows, 3 comparisons, 3 items)
    >>> games.counts.tolist()
    [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """

    first: Tensor
    second: Tensor
    counts: Tensor | None
    total: Tensor
    items: NDArray[Any]
    home: Tensor | None = None
    covariates: Tensor | None = None
    annotator: Tensor | None = None
    annotators: NDArray[Any] | None = None
    period: Tensor | None = None
    periods: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        check_rows(self)

    @classmethod
    def from_arrays(
        cls,
        first: Any,
        second: Any,
        wins: Any = None,
        losses: Any = None,
        ties: Any = None,
        *,
        total: Any = None,
        home: Any = None,
        covariates: Any = None,
        annotator: Any = None,
        period: Any = None,
        items: Any = None,
        annotators: Any = None,
        periods: Any = None,
    ) -> Comparisons:
        """Read columns of equal length.

        ``from_arrays(winner, loser)`` is all that wins and losses need.

        Parameters
        ----------
        first, second
            [m] ids of any hashable kind: the winners and the losers, unless counts are given.
        wins, losses, ties
            [m] or a number: how often the first won, lost and tied. Where all are missing the first
            won once; where some are given the others are 0. Truth values count as 0 and 1; weights
            need not be whole.
        total
            [m] or a number of comparisons in a row, in place of outcomes: a design to simulate.
        home
            [m] or a number: 1 (or True) where the first is at home, −1 where the second is, 0 (or
            False) where neither.
        covariates
            [m, d] finite numbers that speak for the first: differences of the two items' features,
            or what holds for the first alone. Rows with covariates are not counted together.
        annotator
            [m] ids of who judged.
        period
            [m] numbers, dates or labels that sort by time; an ordered categorical of pandas has
            its own order.
        items, annotators, periods
            All ids, in the order wanted; they may hold ids that never occur. By default those that
            occur, sorted. Abilities that drift take one step from each period to the next: list the
            periods where some of them had no comparisons.

        Raises
        ------
        DataError
            For empty or unequal columns, missing or unknown ids, an item compared with itself,
            counts that are negative, NaN or infinite, and outcomes together with ``total``.
        """
        found = read_columns(
            first,
            second,
            (wins, losses, ties),
            total,
            home,
            covariates,
            (annotator, annotators),
            (period, periods),
            items,
        )
        return cls._of(aggregate(found))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        first: str = "winner",
        second: str = "loser",
        wins: str | None = None,
        losses: str | None = None,
        ties: str | None = None,
        *,
        total: str | None = None,
        home: Any = None,
        covariates: Sequence[str] | None = None,
        annotator: str | None = None,
        period: str | None = None,
        **options: Any,
    ) -> Comparisons:
        """Read a table, one row for each comparison or each count of them.

        Parameters
        ----------
        frame
            A pandas data frame, or any table with the data frame interchange protocol.
        first, second, wins, losses, ties, total, home, annotator, period
            Column names, as in `from_arrays`; ``home`` may be a number for all rows.
        covariates
            Names of columns.
        **options
            ``items``, ``annotators`` and ``periods`` of `from_arrays`.

        Raises
        ------
        DataError
            For a missing column, and as `from_arrays`.

        Examples
        --------
        >>> import pandas as pd
        >>> games = pd.DataFrame({"host": ["a"], "guest": ["b"], "w": [4], "l": [3]})
        >>> Comparisons.from_frame(games, "host", "guest", "w", "l", home=1)
        Comparisons(1 rows, 7 comparisons, 2 items)
        """
        if isinstance(covariates, str):
            raise DataError(f"covariates: expected a list of columns, got {covariates!r}")
        names = [wins, losses, ties, total, home, annotator, period]
        columns = [first, second, *(name for name in names if isinstance(name, str))]
        frame = read_frame(frame, [*columns, *(covariates or [])])

        def column(name: Any) -> Any:
            return frame[name] if isinstance(name, str) else name

        return cls.from_arrays(
            frame[first],
            frame[second],
            *(column(name) for name in (wins, losses, ties)),
            total=column(total),
            home=column(home),
            covariates=None if covariates is None else frame[list(covariates)],
            annotator=column(annotator),
            period=column(period),
            **options,
        )

    @classmethod
    def _of(cls, columns: Columns) -> Comparisons:
        """The container of columns that were read."""
        counts, dtype = columns.counts, torch.float64

        def tensor(value: Any, kind: torch.dtype | None = None) -> Any:
            if value is None:
                return None
            return torch.from_numpy(np.ascontiguousarray(value)).to(kind)

        return cls(
            first=torch.from_numpy(columns.first),
            second=torch.from_numpy(columns.second),
            # Columns are read one by one: they lie together.
            counts=None if counts is None else tensor(counts.T, dtype).T,
            total=torch.from_numpy(columns.total).to(dtype),
            items=columns.items,
            home=tensor(columns.home, dtype),
            covariates=tensor(columns.covariates, dtype),
            annotator=tensor(columns.annotator),
            annotators=columns.annotators,
            period=tensor(columns.period),
            periods=columns.periods,
        )

    @property
    def n_items(self) -> int:
        """Number of items, those never compared included."""
        return len(self.items)

    @property
    def n_annotators(self) -> int:
        """Number of annotators; 0 if they were not recorded."""
        return 0 if self.annotators is None else len(self.annotators)

    @property
    def n_periods(self) -> int:
        """Number of periods; 1 if they were not recorded."""
        return 1 if self.periods is None else len(self.periods)

    def __len__(self) -> int:
        return len(self.first)

    def __repr__(self) -> str:
        number = f"{float(self.total.sum()):g}"
        what = "" if self.counts is not None else ", no outcomes"
        judges = f", {self.n_annotators} annotators" if self.annotators is not None else ""
        return (
            f"Comparisons({len(self)} rows, {number} comparisons, {self.n_items} items{judges}"
            f"{what})"
        )

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Comparisons:
        """The same comparisons with numbers in ``dtype`` and all tensors on ``device``."""
        tensors: dict[str, Any] = {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name in self.__dataclass_fields__
        }
        if all(value is getattr(self, name) for name, value in tensors.items()):
            return self
        return replace(self, **tensors)

    def subset(self, index: Tensor) -> Comparisons:
        """Some rows, in the order given; items, annotators and periods stay.

        Parameters
        ----------
        index
            int64 [k]: rows; or bool [m]: whether a row is taken.
        """
        rows: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[index]
            for name in ("counts", "total", "home", "covariates", "annotator", "period")
        }
        return replace(self, first=self.first[index], second=self.second[index], **rows)

    def with_counts(self, counts: Tensor) -> Comparisons:
        """The same rows with other outcomes ``[m, 3]``, for example simulated ones."""
        counts = torch.as_tensor(counts).to(self.total)
        if counts.shape != (len(self), 3):
            raise DataError(f"counts: expected {(len(self), 3)}, got {tuple(counts.shape)}")
        return replace(self, counts=counts, total=counts.sum(-1))

    def outcomes(self) -> Tensor:
        """The counts ``[m, 3]``.

        Raises
        ------
        DataError
            For a design without outcomes.
        """
        if self.counts is None:
            raise DataError("counts: this design has no outcomes; give them to with_counts")
        return self.counts

    @cached_property
    def has_ties(self) -> bool:
        """Whether there are ties."""
        return self.counts is not None and bool((self.counts[:, 2] > 0).any())

    @cached_property
    def halved(self) -> Comparisons:
        """The same comparisons with each tie as half a win of both items."""
        counts = self.outcomes()
        half = 0.5 * counts[:, 2]
        parts = [counts[:, 0] + half, counts[:, 1] + half, torch.zeros_like(half)]
        return replace(self, counts=torch.stack(parts).T)

    @cached_property
    def coefficient(self) -> Tensor:
        """Logarithm of each row's multinomial coefficient ``[m]``, which depends on no unknown."""
        return log_coefficient(self.outcomes())

    def components(self) -> list[NDArray[Any]]:
        """Groups of items that never meet items of another group, the largest first.

        Abilities compare within a group only. Between groups the likelihood says nothing; a prior
        holds each group's mean near zero, and that is all that is then known of the difference.

        Examples
        --------
        >>> apart = Comparisons.from_arrays(["a", "b", "x"], ["b", "c", "y"])
        >>> [group.tolist() for group in apart.components()]
        [['a', 'b', 'c'], ['x', 'y']]
        """
        return self._groups("weak")

    def strong_components(self) -> list[NDArray[Any]]:
        """Groups within which chains of wins lead from every item to every other.

        Maximum likelihood is finite if and only if there is one such group (Ford 1957). Otherwise
        some group never lost to the rest, and its abilities run off to infinity. A tie counts as
        half a win of either.
        """
        return self._groups("strong")

    def _groups(self, connection: str) -> list[NDArray[Any]]:
        return [self.items[group] for group in members(self._labels[connection])]

    @cached_property
    def _labels(self) -> dict[str, NDArray[np.int64]]:
        """Number of the group of each item, by kind of connection."""
        if self.counts is None:
            won = lost = self.total.cpu().numpy() > 0
        else:
            first, second, both = self.counts.T.cpu().numpy()
            won, lost = first + both > 0, second + both > 0
        pairs = self.first.cpu().numpy(), self.second.cpu().numpy()
        weak, strong = group_labels(*pairs, won, lost, self.n_items)
        return {"weak": weak, "strong": strong}
