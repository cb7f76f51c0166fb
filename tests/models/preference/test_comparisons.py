"""Reading comparisons: what is counted together, what is refused, and how the graph falls apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likely.envs import DataError
from likely.models import Comparisons


def test_winners_and_losers_are_counted_by_pair() -> None:
    data = Comparisons.from_arrays(["b", "a", "a", "c"], ["a", "b", "b", "a"])
    assert data.items.tolist() == ["a", "b", "c"]
    assert data.first.tolist() == [0, 0]
    assert data.second.tolist() == [1, 2]
    assert data.counts is not None
    assert data.counts.tolist() == [[2, 1, 0], [0, 1, 0]]
    assert data.total.tolist() == [3, 1]


def test_home_sides_come_first_and_keep_apart() -> None:
    data = Comparisons.from_arrays(
        ["a", "b", "a", "a"], ["b", "a", "b", "b"], home=[1, 1, -1, 0], ties=[0, 0, 0, 1], wins=1
    )
    assert data.home is not None
    assert data.counts is not None
    rows = zip(data.first.tolist(), data.second.tolist(), data.home.tolist(), strict=True)
    found = dict(zip(rows, data.counts.tolist(), strict=True))
    assert found == {(0, 1, 0): [1, 0, 1], (0, 1, 1): [1, 0, 0], (1, 0, 1): [1, 1, 0]}


def test_annotators_and_periods_keep_rows_apart() -> None:
    data = Comparisons.from_arrays(
        ["a", "a", "a"], ["b", "b", "b"], annotator=["x", "y", "x"], period=[2020, 2020, 2021]
    )
    assert len(data) == 3
    assert data.annotators is not None
    assert data.periods is not None
    assert data.annotators.tolist() == ["x", "y"]
    assert data.periods.tolist() == [2020, 2021]
    assert data.annotator is not None
    assert data.period is not None
    assert sorted(zip(data.period.tolist(), data.annotator.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 0),
    ]


def test_rows_with_covariates_stay_as_they_are() -> None:
    data = Comparisons.from_arrays(["b", "b"], ["a", "a"], covariates=[[0.5], [0.5]])
    assert data.first.tolist() == [1, 1]
    assert data.covariates is not None
    assert data.covariates.shape == (2, 1)


def test_frames_give_what_arrays_give() -> None:
    frame = pd.DataFrame(
        {"w": ["a", "b"], "l": ["b", "c"], "times": [2, 5], "who": [7, 8], "x": [0.1, 0.2]}
    )
    data = Comparisons.from_frame(frame, "w", "l", "times", annotator="who", covariates=["x"])
    assert data.counts is not None
    assert data.counts[:, 0].tolist() == [2, 5]
    assert data.annotators is not None
    assert data.annotators.tolist() == [7, 8]
    with pytest.raises(DataError, match="no column"):
        Comparisons.from_frame(frame, "winner", "l")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2), st.integers(-1, 1)),
        min_size=1,
        max_size=60,
    )
)
def test_counting_together_loses_nothing(rows: list[tuple[int, int, int, int]]) -> None:
    rows = [row for row in rows if row[0] != row[1]] or [(0, 1, 0, 0)]
    first, second, what, home = (np.array(x) for x in zip(*rows, strict=True))
    data = Comparisons.from_arrays(
        first, second, what == 0, what == 1, what == 2, home=home, items=range(7)
    )
    assert data.counts is not None
    assert data.home is not None
    # Wins by (winner, loser, winner's side), and ties, from either form.
    wanted: dict[Any, float] = {}
    for i, j, k, h in zip(first, second, what, home, strict=True):
        key = {0: (i, j, h), 1: (j, i, -h), 2: ("tie", *sorted([(i, h), (j, -h)]))}[int(k)]
        wanted[key] = wanted.get(key, 0) + 1
    found: dict[Any, float] = {}
    for i, j, h, (w, lost, t) in zip(
        data.first.tolist(), data.second.tolist(), data.home.tolist(), data.counts.tolist(),
        strict=True,
    ):  # fmt: skip
        keys = ((i, j, h), w), ((j, i, -h), lost), (("tie", *sorted([(i, h), (j, -h)])), t)
        for key, count in keys:
            if count:
                assert key not in found
                found[key] = count
    assert found == wanted


@pytest.mark.parametrize("span", ["narrow", "wide"])
def test_both_ways_of_counting_agree(span: str) -> None:
    source = np.random.default_rng(0)
    first = source.integers(0, 5, 400)
    second = (first + source.integers(1, 5, 400)) % 5
    # Many items that never occur make the range of pairs wide.
    items = range(5 if span == "narrow" else 5000)
    data = Comparisons.from_arrays(first, second, items=items)
    assert len(data) == 10
    assert data.counts is not None
    wins = np.zeros((5, 5))
    np.add.at(wins, (first, second), 1)
    i, j = data.first.numpy(), data.second.numpy()
    assert np.array_equal(data.counts[:, 0].numpy(), wins[i, j])
    assert np.array_equal(data.counts[:, 1].numpy(), wins[j, i])


BAD = [
    ({"first": [], "second": []}, "at least one row"),
    ({"first": ["a", "b"], "second": ["b"]}, "equal lengths"),
    ({"first": ["a", "b"], "second": ["b", "b"]}, "with itself, the first in row 1: 'b'"),
    ({"first": ["a", None], "second": ["b", "c"]}, "missing"),
    ({"first": ["a"], "second": ["b"], "items": ["a", "c"]}, "not in items"),
    ({"first": ["a"], "second": ["b"], "wins": [np.nan]}, "wins: expected finite"),
    ({"first": ["a"], "second": ["b"], "losses": [np.inf]}, "losses: expected finite"),
    ({"first": ["a"], "second": ["b"], "ties": [-1]}, "ties: expected numbers of at least 0"),
    ({"first": ["a"], "second": ["b"], "wins": ["many"]}, "wins: expected numbers"),
    ({"first": ["a"], "second": ["b"], "wins": [1, 2]}, "wins: expected a number or shape"),
    ({"first": ["a"], "second": ["b"], "wins": 1, "total": 2}, "total: expected"),
    ({"first": ["a"], "second": ["b"], "home": 2}, "home: expected 1"),
    ({"first": ["a"], "second": ["b"], "home": [np.nan]}, "home: expected finite"),
    ({"first": ["a"], "second": ["b"], "covariates": [1.0]}, "covariates: expected shape"),
    ({"first": ["a"], "second": ["b"], "covariates": [[np.nan]]}, "covariates: expected finite"),
    ({"first": ["a"], "second": ["b"], "annotator": ["x", "y"]}, "annotator: expected 1"),
    ({"first": ["a"], "second": ["b"], "annotator": [None]}, "annotator: 1 missing"),
    ({"first": ["a"], "second": ["b"], "annotators": ["x"]}, "annotators: expected None"),
    ({"first": "ab", "second": ["b"]}, "first: expected a one-dimensional array"),
    ({"first": ["a"], "second": ["b"], "wins": ["3"]}, "wins: expected numbers, got"),
    ({"first": ["a"], "second": ["b"], "wins": np.array(["2020"], "M8[D]")}, "wins: expected numb"),
    ({"first": ["a"], "second": ["b"], "ties": torch.ones(1).to_sparse()}, "ties: expected numb"),
    ({"first": ["a"], "second": ["b"], "wins": torch.ones(1).bfloat16()}, "wins: expected numb"),
    ({"first": ["a"], "second": ["b"], "covariates": [["x"]]}, "covariates: expected numbers"),
    ({"first": ["a"], "second": ["b"], "period": [np.nan]}, "period: 1 missing"),
    ({"first": ["a"], "second": ["b"], "periods": [1, 2]}, "periods: expected None"),
    ({"first": ["a"], "second": ["b"], "period": [3], "periods": [1, 2]}, "not in periods"),
    ({"first": ["a", "b"], "second": ["b", "a"], "period": [1, "x"]}, "period: .*sort by time"),
]


@pytest.mark.parametrize(("given", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Comparisons.from_arrays(**given)


def test_periods_may_be_listed_in_order() -> None:
    first, second = ["a", "b", "a"], ["b", "a", "b"]
    years = Comparisons.from_arrays(first, second, period=[20, 22, 22], periods=[20, 21, 22])
    assert years.n_periods == 3
    assert years.period is not None
    assert years.period.tolist() == [0, 2]
    order = ["spring", "summer", "autumn"]
    season = pd.Categorical(["autumn", "spring", "spring"], categories=order, ordered=True)
    assert years.counts is not None
    assert years.counts.tolist() == [[1, 0, 0], [1, 1, 0]]
    named = Comparisons.from_arrays(first, second, period=season)
    assert named.periods is not None
    assert named.periods.tolist() == order


def test_tables_name_their_covariates_in_a_list() -> None:
    frame = pd.DataFrame({"winner": ["a"], "loser": ["b"], "x": ["high"]})
    with pytest.raises(DataError, match="covariates: expected a list"):
        Comparisons.from_frame(frame, covariates="x")
    with pytest.raises(DataError, match="covariates: expected numbers"):
        Comparisons.from_frame(frame, covariates=["x"])


ROW = {
    "first": torch.tensor([0]),
    "second": torch.tensor([1]),
    "counts": torch.tensor([[1.0, 0.0, 0.0]]),
    "total": torch.tensor([1.0]),
    "items": np.array(["a", "b"]),
}
BAD_PARTS = [
    ({"first": [0]}, "first: expected a tensor"),
    ({"first": torch.tensor(0)}, "first: expected a tensor"),
    ({"second": torch.tensor([0])}, "with itself: 'a'"),
    ({"second": torch.tensor([2])}, "second: expected indices from 0 to 1"),
    ({"items": ["a", "b"]}, "items: expected a NumPy array"),
    ({"items": None}, "items: expected them"),
    ({"items": np.array(["a"])}, "items: expected at least two"),
    ({"total": None}, "total: expected a tensor"),
    ({"total": torch.tensor([5.0])}, "total: expected the sum of counts.* in row 0"),
    ({"counts": [[1, 0, 0]]}, "counts: expected a tensor"),
    ({"counts": torch.tensor([[1, 0, 0]])}, "counts: expected a tensor of floating numbers"),
    ({"counts": torch.tensor([[1.0, 0.0]])}, r"counts: expected \(1, 3\)"),
    ({"counts": torch.tensor([[2.0, -1.0, 0.0]])}, "counts: expected numbers of at least 0"),
    ({"home": torch.tensor([7.0])}, "home: expected 1"),
    ({"covariates": torch.tensor([float("nan")]).reshape(1, 1)}, "covariates: expected finite"),
    ({"annotator": torch.tensor([0])}, "annotators: expected them"),
    ({"periods": np.array([2020])}, "periods: expected them"),
]


@pytest.mark.parametrize(("given", "said"), BAD_PARTS, ids=[said for _, said in BAD_PARTS])
def test_parts_that_do_not_fit_are_refused_by_name(given: dict[str, Any], said: str) -> None:
    parts: dict[str, Any] = {**ROW, **given}
    with pytest.raises(DataError, match=said):
        Comparisons(**parts)


def test_numbers_and_text_are_different_ids() -> None:
    data = Comparisons.from_arrays([1, "1"], ["1", 2])
    assert set(data.items.tolist()) == {1, "1", 2}


def test_groups() -> None:
    data = Comparisons.from_arrays(["a", "b", "c", "x"], ["b", "a", "a", "y"])
    assert [group.tolist() for group in data.components()] == [["a", "b", "c"], ["x", "y"]]
    strong = sorted(group.tolist() for group in data.strong_components())
    assert strong == [["a", "b"], ["c"], ["x"], ["y"]]
    tied = Comparisons.from_arrays(["a", "b"], ["b", "c"], ties=1)
    assert len(tied.strong_components()) == 1


def test_dtype_subset_and_new_counts() -> None:
    data = Comparisons.from_arrays(["a", "b"], ["b", "c"], [2, 3], [1, 0])
    assert data.to(torch.float64) is data
    single = data.to(torch.float32)
    assert single.counts is not None
    assert single.counts.dtype == torch.float32
    part = data.subset(torch.tensor([1]))
    assert part.total.tolist() == [3]
    assert part.n_items == 3
    new = data.with_counts(torch.tensor([[0.0, 3.0, 0.0], [1.0, 2.0, 0.0]]))
    assert new.total.tolist() == [3, 3]
    whole = data.with_counts(torch.tensor([[0, 3, 0], [1, 2, 0]]))
    assert whole.total.dtype == torch.float64
    with pytest.raises(DataError, match=r"counts: expected \(2, 3\), got \(3, 2\)"):
        data.with_counts(torch.ones(3, 2))
    design = Comparisons.from_arrays(["a"], ["b"], total=5)
    with pytest.raises(DataError, match="no outcomes"):
        design.outcomes()


def test_the_coefficient_is_that_of_the_multinomial() -> None:
    data = Comparisons.from_arrays(
        ["a", "a", "b"], ["b", "c", "c"], [2, 1, 3], [1, 0, 2], [1, 0, 0]
    )
    # 4! / (2! 1! 1!), 1 and 5! / (3! 2!).
    assert torch.allclose(data.coefficient.exp(), torch.tensor([12.0, 1.0, 10.0]).double())
