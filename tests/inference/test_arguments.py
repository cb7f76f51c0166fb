"""What a program's arguments become."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from likely.inference.arguments import convert

Pair = namedtuple("Pair", ["first", "second"])


def converted(value: Any) -> Any:
    return convert(value, torch.float64, None)


@dataclass
class Container:
    x: torch.Tensor

    def to(self, dtype: Any = None, device: Any = None) -> Container:
        return Container(self.x.to(dtype=dtype, device=device))


class Report:
    def to(self, path: str) -> None:
        raise AssertionError("a report is not to be written")


class Anything:
    def to(self, **options: Any) -> None:
        raise AssertionError("nothing says what the options are")


class Room(list):  # type: ignore[type-arg]
    """A list that is made from its size."""

    def __init__(self, size: int) -> None:
        super().__init__([torch.ones(1)] * size)


def test_only_a_to_that_names_dtype_and_device_is_called() -> None:
    assert converted(Container(torch.ones(2))).x.dtype is torch.float64
    for other in (Report(), Anything(), Container, np.dtype):
        assert converted(other) is other


@pytest.mark.parametrize("kind", [list, tuple, lambda items: Pair(*items)])
def test_sequences_keep_their_class(kind: Any) -> None:
    given = kind([torch.ones(2), np.ones(3, dtype=np.float32)])
    found = converted(given)
    assert type(found) is type(given)
    assert [item.dtype for item in found] == [torch.float64] * 2


def test_mappings_keep_their_class_and_what_it_knows() -> None:
    given = defaultdict(int, a=torch.ones(2))
    found = converted(given)
    assert found["a"].dtype is torch.float64
    assert given["a"].dtype is torch.float32
    assert found["missing"] == 0
    assert type(converted(OrderedDict(a=np.ones(1)))) is OrderedDict


def test_what_needs_no_conversion_or_cannot_be_rebuilt_is_returned_as_it_is() -> None:
    for same in (["a", 1], {"a": None}, ("b",), torch.Size([2, 3]), Room(2), "text", None, 3):
        assert converted(same) is same


@pytest.mark.parametrize(
    "table",
    [
        xr.DataArray([1.0, 2.0], dims="x"),
        pd.Series([1, 2], dtype="Int64"),
        pd.Series([1.0, 2.0], dtype="Float64"),
        pd.array([1.0, 2.0], dtype="Float64"),
        pd.Index([1.0, 2.0]),
        np.array([1.0, 2.0], dtype=">f8"),
        np.array([2.0, 1.0])[::-1],
    ],
)
def test_arrays_and_tables_of_numbers_become_tensors(table: Any) -> None:
    found = converted(table)
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [1.0, 2.0]


def test_columns_of_different_number_types_become_one_tensor() -> None:
    frame = pd.DataFrame({"a": [1.5, 2.0], "b": [True, False], "c": pd.array([1, None], "Int64")})
    expected = torch.tensor([[1.5, 1.0, 1.0], [2.0, 0.0, torch.nan]], dtype=torch.float64)
    torch.testing.assert_close(converted(frame), expected, equal_nan=True)


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"task": ["a", "b"], "label": [0, 1]}),
        pd.Series(["a", "b"]),
        pd.Series(pd.to_datetime(["2020-01-01"])),
        np.array(["a", None], dtype=object),
        xr.Dataset({"a": ("x", [1.0])}),
    ],
)
def test_tables_of_other_things_are_returned_as_they_are(table: Any) -> None:
    assert converted(table) is table
