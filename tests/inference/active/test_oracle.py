"""Queries, the protocol of oracles, and the oracles that know everything beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.inference import InferenceError
from likely.inference.active import ArrayOracle, FunctionOracle, LabellingStopped, Queries
from likely.inference.active.oracle import ask, can_answer

CLASSES = ("cat", "dog", "eel")


def queries(index: Any, **options: Any) -> Queries:
    return Queries(index, classes=CLASSES, **options)


@pytest.mark.parametrize(
    "points",
    [
        np.arange(6.0).reshape(3, 2),
        torch.arange(6.0).reshape(3, 2),
        [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
        pd.DataFrame({"a": [0.0, 2.0, 4.0], "b": [1.0, 3.0, 5.0]}, index=[7, 7, 7]),
    ],
    ids=lambda points: type(points).__name__,
)
def test_points_of_queries_are_rows(points: Any) -> None:
    asked = queries(torch.tensor([9, 4, 9]), points=points, annotator=[1, 0, 2])
    assert np.asarray(asked.point(1)).tolist() == [2.0, 3.0]
    assert [asked.key(query) for query in range(len(asked))] == [(9, 1), (4, 0), (9, 2)]
    assert asked.index.dtype == asked.annotator.dtype == np.int64


def test_queries_without_points_or_annotators() -> None:
    asked = Queries(np.array([], dtype=np.int32), classes=np.array(["a", "b"]))
    assert len(asked) == 0
    assert asked.classes == ("a", "b")
    assert queries([3]).point(0) is None
    assert queries([3]).key(0) == (3, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": [-1]}, "index: expected positions from 0 on"),
        ({"index": [0.5]}, "index: expected a vector of integers"),
        ({"index": [[1]]}, "index: expected a vector of integers"),
        ({"index": [True]}, "index: expected a vector of integers"),
        ({"index": 3}, "index: expected a vector of integers"),
        ({"annotator": [-1, 0]}, "annotator: expected positions from 0 on"),
        ({"annotator": [1]}, "annotator: expected 2, one for each query, got 1"),
        ({"points": [1.0]}, "points: expected 2, one for each query, got 1"),
        ({"points": 1.0}, "points: expected 2, one for each query, got float"),
        ({"classes": ("cat",)}, "classes: expected at least two different names"),
        ({"classes": ("cat", "cat")}, "classes: expected at least two different names"),
        ({"classes": "ab"}, "classes: expected the names"),
        ({"classes": 2}, "classes: expected the names"),
    ],
)
def test_queries_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Queries(**{"index": [0, 1], "classes": CLASSES, **options})


def test_array_oracle_gives_the_labels_of_the_rows() -> None:
    oracle = ArrayOracle(torch.tensor([2, 0, -1, 1]))
    assert oracle(queries([3, 0, 2, 3], annotator=[0, 1, 2, 3])).tolist() == [1, 2, -1, 1]
    assert can_answer(oracle, [3, 2]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], "expected a vector of integers, got float64"),
        ([[0, 1]], "expected a vector of integers"),
        ([], "expected at least one"),
        ([0, -2], "expected positions, or −1, got -2"),
        ([np.nan], "expected a vector of integers"),
        (["cat"], "expected a vector of integers"),
    ],
)
def test_array_oracle_refuses(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"labels: {message}"):
        ArrayOracle(labels)


def test_array_oracle_refuses_other_pools_and_classes() -> None:
    with pytest.raises(DataError, match="index: expected positions below 2"):
        ArrayOracle([0, 1])(queries([2]))
    with pytest.raises(DataError, match="index: expected positions below 2"):
        ArrayOracle([0, 1]).can_answer([5])
    with pytest.raises(DataError, match="labels: expected positions of 3 classes"):
        ArrayOracle([0, 3])(queries([0]))


def test_functions_are_oracles() -> None:
    asked = queries([4, 1], points=np.array([[1.0], [-1.0]]))

    def sign(given: Queries) -> Any:
        return (given.points[:, 0] > 0).astype(int)

    for oracle in (sign, FunctionOracle(sign)):
        labels = ask(oracle, asked)
        assert labels.tolist() == [1, 0]
        assert labels.dtype == np.int64
        assert can_answer(oracle, [4, 1]).tolist() == [True, True]
    assert ask(lambda _: torch.tensor([-1, 2]), asked).tolist() == [-1, 2]
    assert ask(lambda _: [], queries([])).tolist() == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0], "labels: expected 2, one for each query, got 1"),
        ([0, 3], "labels: expected positions of 3 classes, 0 to 2, or −1 for no answer, got 3"),
        ([0, -2], "got -2"),
        ([0.0, 1.0], "labels: expected a vector of integers"),
        (["cat", "dog"], "labels: expected a vector of integers"),
        (None, "labels: expected a vector of integers"),
        ([[0], [1]], "labels: expected a vector of integers"),
    ],
)
def test_answers_are_checked(answer: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FunctionOracle(lambda _: answer)(queries([4, 1]))


def test_what_cannot_be_called_is_no_oracle() -> None:
    with pytest.raises(DataError, match="function: expected a callable, got list"):
        FunctionOracle([0, 1])  # type: ignore[arg-type]


def test_a_wrong_can_answer_is_noticed() -> None:
    class Odd:
        def can_answer(self, index: Any, annotator: Any = None) -> Any:
            return [1, 0]

    with pytest.raises(DataError, match="can_answer: expected a truth value for each of 2"):
        can_answer(Odd(), [0, 1])


def test_can_answer_of_a_wrapped_function_is_heard() -> None:
    class Even:
        def __call__(self, given: Queries) -> Any:
            return np.zeros(len(given), dtype=int)

        def can_answer(self, index: Any, annotator: Any = None) -> Any:
            return np.asarray(index) % 2 == 0

    assert FunctionOracle(Even()).can_answer([0, 1, 2]).tolist() == [True, False, True]


def test_stopping_brings_the_answers_along() -> None:
    def stops(given: Queries) -> Any:
        raise LabellingStopped([1] + [-1] * (len(given) - 1))

    with pytest.raises(LabellingStopped, match="1 of 3 queries are answered") as stopped:
        FunctionOracle(stops)(queries([5, 6, 7]))
    assert stopped.value.labels.tolist() == [1, -1, -1]
    assert isinstance(stopped.value, InferenceError)
