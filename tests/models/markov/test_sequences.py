from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.models import Sequences
from likely.models.markov.sequences import as_sequences

PARTS = [[[1.0, 2.0]], [[3.0, 4.0], [5.0, float("nan")], [7.0, 8.0]]]


def same(one, other):
    return (
        torch.equal(one.x.nan_to_num(-1.0), other.x.nan_to_num(-1.0))
        and torch.equal(one.lengths, other.lengths)
        and one.sequences.tolist() == other.sequences.tolist()
    )


def test_a_list_and_stacked_arrays_are_the_same_sequences():
    listed = Sequences.from_list([np.array(part) for part in PARTS])
    stacked = Sequences.from_arrays(np.array(PARTS[0] + PARTS[1]), [1, 3])
    assert same(listed, stacked)
    assert (len(listed), listed.n_steps, listed.n_features) == (2, 4, 2)
    assert [len(part) for part in listed] == [1, 3]


def test_arrays_without_lengths():
    assert Sequences.from_arrays([1.0, 2.0, 3.0]).lengths.tolist() == [3]
    assert Sequences.from_arrays(torch.zeros(4, 2)).lengths.tolist() == [4]
    block = torch.arange(24.0).reshape(2, 3, 4)
    found = Sequences.from_arrays(block)
    assert found.lengths.tolist() == [3, 3]
    assert torch.equal(torch.stack(list(found)), block)


def test_a_frame_may_mix_sequences():
    frame = pd.DataFrame(
        {
            "who": ["b", "a", "b", "a", "b"],
            "speed": [1.0, 10.0, 2.0, 20.0, 3.0],
            "heart": [4.0, 40.0, None, 50.0, 6.0],
        }
    )
    found = Sequences.from_frame(frame, "who")
    assert found.sequences.tolist() == ["a", "b"]
    assert found.features.tolist() == ["speed", "heart"]
    assert found.lengths.tolist() == [2, 3]
    assert found.x[:, 0].tolist() == [10.0, 20.0, 1.0, 2.0, 3.0]
    assert bool(found.x[3, 1].isnan())
    listed = Sequences.from_frame(frame, "who", "speed", ids=["b", "a"])
    assert listed.sequences.tolist() == ["b", "a"]
    assert listed.x.squeeze(-1).tolist() == [1.0, 2.0, 3.0, 10.0, 20.0]
    assert Sequences.from_frame(frame[["speed"]]).lengths.tolist() == [5]


def test_what_a_program_may_be_called_with():
    sequences = Sequences.from_list(PARTS)
    assert as_sequences(sequences) is sequences
    assert same(as_sequences([torch.tensor(part) for part in PARTS]), sequences)
    assert same(as_sequences(sequences.x, [1, 3]), sequences)
    assert as_sequences([1.0, 2.0]).lengths.tolist() == [2]


def test_subsets_and_casts():
    sequences = Sequences.from_list([*PARTS, [[9.0, 9.0]]], ids=["x", "y", "z"])
    some = sequences.subset(torch.tensor([2, 1]))
    assert some.sequences.tolist() == ["z", "y"]
    assert some.lengths.tolist() == [1, 3]
    assert some.x[:, 0].tolist() == [9.0, 3.0, 5.0, 7.0]
    assert sequences.to() is sequences
    assert sequences.to(dtype=torch.float32).x.dtype == torch.float32
    assert sequences.to(dtype=torch.float32).lengths.dtype == torch.int64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sequences.from_list([]), "sequences: expected at least one"),
        (lambda: Sequences.from_list([[1.0], []]), r"sequences\[1\]: expected shape"),
        (lambda: Sequences.from_list([[[1.0]], [[1.0, 2.0]]]), "one number of features"),
        (lambda: Sequences.from_list([[1.0, float("inf")]]), "infinite one at row 1, column 0"),
        (lambda: Sequences.from_list([["a"]]), "strings|numbers"),
        (lambda: Sequences.from_list([[1.0], [2.0]], ids=["a", "a"]), "ids: expected distinct"),
        (lambda: Sequences.from_list([[1.0], [2.0]], ids=["a"]), "sequences: expected 2 ids"),
        (lambda: Sequences.from_list([[1.0]], features=["a", "b"]), "features: expected 1 ids"),
        (lambda: Sequences.from_arrays(torch.zeros(0, 2)), "x: expected shape"),
        (lambda: Sequences.from_arrays(torch.zeros(2, 2, 2, 2)), "x: expected shape"),
        (lambda: Sequences.from_arrays(torch.zeros(2, 2, 2), [4]), "lengths: expected None"),
        (lambda: Sequences.from_arrays([1.0, 2.0], [1, 2]), "lengths: expected a sum of 2"),
        (lambda: Sequences.from_arrays([1.0, 2.0], [2, 0]), "at least one step.*sequence 1"),
        (lambda: Sequences.from_arrays([1.0, 2.0], [3, -1]), "at least one step"),
        (lambda: Sequences.from_arrays([1.0, 2.0], [1.0, 1.0]), "lengths: expected whole"),
        (lambda: Sequences.from_arrays([1.0, 2.0], [[2]]), "lengths: expected whole"),
        (lambda: Sequences.from_frame([1.0]), "frame: expected a pandas"),
        (lambda: Sequences.from_frame(pd.DataFrame({"a": [1.0]}), "b"), "no column"),
        (lambda: Sequences.from_frame(pd.DataFrame({"a": ["x"]})), "strings|numbers"),
        (lambda: as_sequences(Sequences.from_list(PARTS), [1, 3]), "lengths: expected None"),
        (lambda: as_sequences([torch.zeros(2)], [2]), "lengths: expected None"),
    ],
)
def test_what_is_no_sequence_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()
