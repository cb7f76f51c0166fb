"""Ids to positions: counting whole numbers finds what hashing finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.models._ids import encode

SOURCE = np.random.default_rng(0)
NARROW = {
    "int64": SOURCE.integers(1_000_000, 1_000_300, 400),
    "int8": SOURCE.integers(0, 128, 300).astype(np.int8),
    "one": np.array([7]),
    "series": pd.Series(SOURCE.integers(5, 9, 20), index=SOURCE.permutation(20)),
    "tensor": torch.tensor([3, 1, 3, 2]),
}


@pytest.mark.parametrize("values", NARROW.values(), ids=NARROW)
def test_counting_finds_what_sorting_finds(values):
    codes, labels = encode(values, "task", None, "tasks")
    expected, places = np.unique(np.asarray(values), return_inverse=True)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(codes, places)
    assert labels.dtype == np.asarray(values).dtype
    assert codes.dtype == np.int64


@pytest.mark.parametrize("values", NARROW.values(), ids=NARROW)
def test_listed_ids_keep_their_order(values):
    listed = np.unique(np.asarray(values))[::-1]
    codes, labels = encode(values, "task", listed, "tasks")
    np.testing.assert_array_equal(labels, listed)
    np.testing.assert_array_equal(labels[codes], np.asarray(values))


@pytest.mark.parametrize(
    "values",
    [
        np.array([2**62, -(2**62) * -1, 5]),
        np.array([0, 2**63 + 5], dtype=np.uint64),
        np.array([True, False]),
        np.array([1.5, 0.5, 1.5]),
        pd.Series([3, 1], dtype="Int64"),
    ],
)
def test_other_numbers_are_hashed(values):
    codes, labels = encode(values, "task", None, "tasks")
    np.testing.assert_array_equal(labels[codes], np.asarray(values))
    assert labels.tolist() == sorted(set(np.asarray(values).tolist()))


def test_negative_and_unknown_numbers_are_refused():
    values = np.tile(np.array([0, 1, -1, 2, 127, -128], dtype=np.int8), 50)
    with pytest.raises(DataError, match=r"task: negative id\(s\) \[.*-1.*\].*tasks="):
        encode(values, "task", None, "tasks")
    with pytest.raises(DataError, match=r"label: 2 value\(s\) not in classes: -128, 127"):
        encode(values, "label", [-1, 0, 1, 2], "classes")
    with pytest.raises(DataError, match="label: 1 missing value"):
        encode(pd.Series([1, None], dtype="Int64"), "label", [1], "classes")
