"""Columns of comparisons: read, checked, and equal rows counted together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import categories, column, encode, factorize, shown

# Keys in a range of so many per row are counted in a table, which is faster than sorting them.
_TABLE = 64


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of `Comparisons` as NumPy arrays; see there for what each is."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    counts: NDArray[np.float64] | None
    total: NDArray[np.float64]
    items: NDArray[Any]
    home: NDArray[np.float64] | None
    covariates: NDArray[np.float64] | None
    annotator: NDArray[np.int64] | None
    annotators: NDArray[Any] | None
    period: NDArray[np.int64] | None
    periods: NDArray[Any] | None


def read_columns(
    first: Any,
    second: Any,
    outcomes: tuple[Any, Any, Any],
    total: Any,
    home: Any,
    covariates: Any,
    judges: tuple[Any, Any],
    times: tuple[Any, Any],
    items: Any,
) -> Columns:
    """Read what a user gives; `Comparisons.from_arrays` says what each argument is.

    Raises
    ------
    DataError
        As there.
    """
    first, second = column(first, "first"), column(second, "second")
    m = len(first)
    if m != len(second):
        raise DataError(f"first, second: expected equal lengths, got {m} and {len(second)}")
    if not m:
        raise DataError("first: expected at least one row, got none")
    position, ids = _encode_items(first, second, items)
    _check_two(position[:m], position[m:], ids)
    given = any(part is not None for part in outcomes)
    if given and total is not None:
        raise DataError("total: expected outcomes or a total to simulate, got both")
    counts = None
    if total is None:
        parts = outcomes if given else (1.0, None, None)
        names = ("wins", "losses", "ties")
        counts = np.stack([_numbers(p, n, m, 0.0) for p, n in zip(parts, names, strict=True)], -1)
    totals = _numbers(total, "total", m, 0.0) if counts is None else counts.sum(-1)
    if home is not None:
        home = _numbers(home, "home", m, -1.0)
        if not np.isin(home, (-1.0, 0.0, 1.0)).all():
            raise DataError("home: expected 1 (the first), −1 (the second) or 0 (neither)")
    if covariates is not None:
        covariates = _matrix(covariates, m)
    who, judge_ids = _codes(judges, "annotator", m)
    when, labels = _codes(_in_order(times), "period", m)
    return Columns(
        position[:m], position[m:], counts, totals, ids, home, covariates,
        who, judge_ids, when, labels,
    )  # fmt: skip


def _check_two(first: NDArray[np.int64], second: NDArray[np.int64], ids: NDArray[Any]) -> None:
    same = first == second
    if same.any():
        raise DataError(
            f"second: {int(same.sum())} row(s) compare an item with itself, the first in row "
            f"{int(same.argmax())}: {shown(ids[first[same][:5]])}"
        )


def _encode_items(first: Any, second: Any, items: Any) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Positions [2m] of both columns in one list of ids."""
    whole = [np.asarray(part) for part in (first, second)]
    if all(part.dtype.kind in "iu" for part in whole):
        return encode(np.concatenate(whole), "first, second", items, "items")
    # As lists, since NumPy would turn numbers beside text into text.
    both = np.empty(len(first) + len(second), dtype=object)
    both[: len(first)] = list(first)
    both[len(first) :] = list(second)
    return encode(both, "first, second", items, "items")


def _in_order(times: tuple[Any, Any]) -> tuple[Any, Any]:
    """Periods, and all of them in order where an ordered categorical says which there are."""
    values, listed = times
    if values is None or listed is not None:
        return times
    if getattr(getattr(values, "dtype", None), "ordered", False):
        return values, categories(values)
    _, found = factorize(values, "period")
    try:
        np.sort(found)
    except TypeError as error:
        raise DataError(
            f"period: expected labels that sort by time, or periods= in their order; {error}"
        ) from error
    return times


def _codes(
    given: tuple[Any, Any], name: str, m: int
) -> tuple[NDArray[np.int64] | None, NDArray[Any] | None]:
    """Positions of ids in their list, both None where there are none."""
    values, listed = given
    if values is None:
        if listed is not None:
            raise DataError(f"{name}s: expected None where {name} is None")
        return None, None
    values = column(values, name)
    if len(values) != m:
        raise DataError(f"{name}: expected {m} entries, one for each row, got {len(values)}")
    return encode(values, name, listed, f"{name}s")


def _numbers(value: Any, name: str, m: int, least: float) -> NDArray[np.float64]:
    """A column [m] of finite numbers of at least ``least``; 0 for None."""
    if value is None:
        return np.zeros(m)
    found = _floats(value, name)
    if found.ndim == 0:
        found = np.full(m, float(found))
    if found.shape != (m,):
        raise DataError(f"{name}: expected a number or shape ({m},), got {found.shape}")
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).argmax())
        raise DataError(f"{name}: expected finite numbers, got {found[row]} in row {row}")
    if found.min() < least:
        raise DataError(f"{name}: expected numbers of at least {least:g}, got {found.min():g}")
    return found


def _floats(value: Any, name: str) -> NDArray[np.float64]:
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        found = np.asarray(value)
        if found.dtype.kind not in "biufO":
            raise DataError(f"{name}: expected numbers, got {found.dtype}")
        return found.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name}: expected numbers; {error}") from error


def _matrix(value: Any, m: int) -> NDArray[np.float64]:
    # What is kept is no view of the user's own numbers.
    found = _floats(value, "covariates").copy()
    if found.ndim != 2 or len(found) != m or not found.shape[1]:
        raise DataError(f"covariates: expected shape ({m}, d), got {found.shape}")
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).any(1).argmax())
        raise DataError(f"covariates: expected finite numbers, got NaN or infinity in row {row}")
    return found


def aggregate(columns: Columns) -> Columns:
    """Count equal rows together, sorted by pair; as they are where there are covariates.

    Rows of the same two items are turned the same way round: the home side first, else the
    earlier item.
    """
    if columns.covariates is not None:
        return columns
    first, second, home = columns.first, columns.second, columns.home
    turned = first > second if home is None else (home < 0) | ((home == 0) & (first > second))
    lead, other = np.where(turned, second, first), np.where(turned, first, second)
    n = len(columns.items)
    key, span = lead * n + other, n * n
    for codes, size in (
        (columns.period, 0 if columns.periods is None else len(columns.periods)),
        (columns.annotator, 0 if columns.annotators is None else len(columns.annotators)),
        (None if home is None else np.abs(home).astype(np.int64), 2),
    ):
        if codes is not None:
            if span > np.iinfo(np.int64).max // size:
                raise DataError("first: too many items, annotators and periods for 64-bit keys")
            key, span = key * size + codes, span * size
    if columns.counts is None:
        sums = [columns.total]
    else:
        wins, losses, ties = columns.counts.T
        sums = [np.where(turned, losses, wins), np.where(turned, wins, losses), ties]
    keys, added = _sum_by_key(key, span, sums)
    rest = keys
    if home is not None:
        rest, side = np.divmod(rest, 2)
        home = side.astype(np.float64)
    who, when = columns.annotator, columns.period
    if who is not None and columns.annotators is not None:
        rest, who = np.divmod(rest, len(columns.annotators))
    if when is not None and columns.periods is not None:
        rest, when = np.divmod(rest, len(columns.periods))
    lead, other = np.divmod(rest, n)
    counts = None if columns.counts is None else np.stack(added, -1)
    total = added[0] if counts is None else counts.sum(-1)
    return replace(
        columns, first=lead, second=other, counts=counts, total=total, home=home,
        annotator=who, period=when,
    )  # fmt: skip


def _sum_by_key(
    key: NDArray[np.int64], span: int, columns: list[NDArray[np.float64]]
) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Distinct keys in order, and the sums of columns over rows of equal keys."""
    if span <= _TABLE * len(key):
        keys = np.flatnonzero(np.bincount(key, minlength=span))
        none = np.zeros(len(keys))
        sums = [np.bincount(key, part, span)[keys] if part.any() else none for part in columns]
        return keys, [np.asarray(total, np.float64) for total in sums]
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return ordered[starts], [np.add.reduceat(part[order], starts) for part in columns]
