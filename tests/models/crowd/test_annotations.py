import dataclasses
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.models import Annotations

TASK = ["b", "a", "b", "c", "a", "a"]
ANNOTATOR = [30, 4, 4, 30, 4, 4]
LABEL = [10, 9, 10, 9, 9, 10]


def crowd(**options):
    return Annotations.from_arrays(TASK, ANNOTATOR, LABEL, **options)


def test_rows_point_into_the_users_own_ids():
    a = crowd()
    assert (len(a), a.n_tasks, a.n_annotators, a.n_classes) == (6, 3, 2, 2)
    assert a.tasks[a.task.numpy()].tolist() == TASK
    assert a.annotators[a.annotator.numpy()].tolist() == ANNOTATOR
    assert a.classes[a.label.numpy()].tolist() == LABEL
    assert {t.dtype for t in (a.task, a.annotator, a.label)} == {torch.int64}
    assert repr(a) == "Annotations(6 labels, 3 tasks, 2 annotators, 2 classes)"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 10], [9, 10]),
        (["10", "9", "10"], ["10", "9"]),
        ([True, False, True], [False, True]),
        ([2.5, 0.5, 2.5], [0.5, 2.5]),
        (["x", 1, "x"], ["x", 1]),  # these do not compare: order of first appearance
        ([("a", 2), ("a", 1), ("a", 2)], [("a", 1), ("a", 2)]),
        (pd.Categorical(["z", "a", "z"]), ["a", "z"]),
        (np.array(["z", "a", "z"]), ["a", "z"]),
        (torch.tensor([7, 3, 7]), [3, 7]),
    ],
)
def test_classes_are_sorted_where_they_compare(labels, classes):
    a = Annotations.from_arrays([0, 1, 2], [0, 0, 0], labels)
    assert a.classes.tolist() == classes
    assert [classes[i] for i in a.label] == list(labels)


def test_listed_ids_set_the_order_and_may_lack_labels():
    a = crowd(tasks=["c", "b", "a", "z"], annotators=[4, 5, 30], classes=[10, 9, 8])
    assert a.tasks.tolist() == ["c", "b", "a", "z"]
    assert (a.n_tasks, a.n_annotators, a.n_classes) == (4, 3, 3)
    assert a.task.tolist() == [1, 2, 1, 0, 2, 2]
    assert a.annotator.tolist() == [2, 0, 0, 2, 0, 0]
    assert a.label.tolist() == [0, 1, 0, 1, 1, 0]


def test_negative_classes_are_taken_when_listed():
    a = Annotations.from_arrays([0, 1], [0, 0], [-1, 1], classes=[-1, 1], truth=[1, -1])
    assert a.label.tolist() == [0, 1]
    assert a.truth.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (([], [], []), {}, "task: expected at least one row"),
        (([0, 1], [0], [0, 1]), {}, "equal lengths.*'annotator': 1"),
        (([0, None], [0, 0], [0, 1]), {}, "task: 1 missing value.*row 1"),
        (([0, 1], ["a", float("nan")], [0, 1]), {}, "annotator: 1 missing value.*row 1"),
        (([0, 1], [0, 0], np.array([np.nan, 1.0])), {}, "label: 1 missing value.*row 0"),
        (([0, -1], [0, 0], [0, 1]), {}, r"task: negative id\(s\) \[-1\].*tasks="),
        (([0, 1], [-3, 0], [0, 1]), {}, r"annotator: negative id\(s\) \[-3\].*annotators="),
        (([0, 1], [0, 0], [0.0, -1.0]), {}, r"label: negative id\(s\) \[-1.0\].*classes="),
        (([0, 1], [0, 0], ["x", -1]), {}, "label: negative"),
        (([0, 1], [0, 0], [0, 2]), {"classes": [0, 1]}, "label: 1 value.*not in classes: 2"),
        (([0, 1], [0, 0], ["0", "1"]), {"classes": [0, 1]}, "label.*not in classes: '0', '1'"),
        (([0, 1], [0, 0], [0, 1]), {"tasks": [0]}, "task: 1 value.*not in tasks: 1"),
        (([0, 1], [0, 0], [0, 1]), {"annotators": ["0"]}, "annotator: 1 value.*not in annotators"),
        (
            ([0, 1], [0, 0], [0, 1]),
            {"classes": [0, 1, 1]},
            "classes: expected distinct.*repeated 1",
        ),
        (([0, 1], [0, 0], [0, 1]), {"classes": [0, None]}, "classes: missing value.*position 1"),
        (([[0], [1]], [0, 0], np.zeros((2, 1))), {}, "label: expected one dimension"),
        (([[0], [1]], [0, 0], [0, 1]), {}, "task: expected hashable ids.*list"),
        (([0, 1], [{}, {}], [0, 1]), {}, "annotator: expected hashable ids.*dict"),
        (([0, 1], [0, 0], [0, 1]), {"classes": [[0], [1]]}, "classes: expected hashable ids"),
        (([0, 1], [0, 0], [0, 1]), {"truth": [[0], [1]]}, "truth: expected hashable ids"),
        (
            ([0, 1], [0, 0], pd.Categorical([0, -1])),
            {},
            r"label: negative id\(s\) \[-1\].*classes=",
        ),
        (("ab", [0, 0], [0, 1]), {}, "task: expected a one-dimensional array.*'ab'"),
        ((0, [0, 0], [0, 1]), {}, "task: expected a one-dimensional array"),
        (([0, 1], [0, 0], None), {}, "classes: expected the list of classes"),
        (([0, 1], [0, 0], [0, 1]), {"truth": [0]}, "truth: expected 2 entries.*got 1"),
        (([0, 1], [0, 0], [0, 1]), {"truth": [0, 5]}, "truth: 1 value.*not in classes: 5"),
        (([0, 1], [0, 0], [0, 1]), {"truth": {0: "x"}}, "truth: 1 value.*not in classes: 'x'"),
        (([0, 1], [0, 0], [0, 1]), {"truth": {"0": 1}}, "truth: 1 task.*not in the annot.*'0'"),
        (([0, 1], [0, 0], [0, 1]), {"features": [[1.0]]}, r"features: expected shape \[2, d\]"),
        (([0, 1], [0, 0], [0, 1]), {"features": [1.0, 2.0]}, r"features.*\[n_tasks, d\].*\[2\]"),
        (
            ([0, 1], [0, 0], [0, 1]),
            {"features": [[1.0], [np.nan]]},
            "features.*nan or inf in row 1",
        ),
        (([0, 1], [0, 0], [0, 1]), {"features": [["x"], ["y"]]}, "features: expected numbers"),
        (([0, 1], [0, 0], [0, 1]), {"features": [[1.0], [1.0, 2.0]]}, "features: expected numbers"),
    ],
)
def test_bad_data_are_named(columns, options, message):
    with pytest.raises(DataError, match=message):
        Annotations.from_arrays(*columns, **options)


def test_tensors_out_of_range_are_refused():
    a = crowd()
    for change in (
        {"label": a.label + 1},
        {"task": a.task - 1},
        {"annotator": a.annotator[:-1]},
        {"label": a.label.to(torch.float64)},
        {"truth": torch.tensor([0, 1, 2])},
    ):
        with pytest.raises(DataError, match=next(iter(change))):
            dataclasses.replace(a, **change)


@pytest.mark.parametrize(
    "truth",
    [
        {"a": 9, "c": 10},
        {"a": 9, "b": None, "c": 10},
        [9, None, 10],
        [9, -1, 10],
        np.array([9.0, np.nan, 10.0]),
        torch.tensor([9, -1, 10]),
        pd.Series([9, pd.NA, 10], dtype="Int64"),
    ],
)
def test_truth_may_be_partly_known(truth):
    a = crowd(truth=truth)
    assert a.truth.tolist() == [0, -1, 1]
    assert a.n_known == 2


def test_no_truth_at_all():
    assert crowd().truth is None
    assert crowd().n_known == 0
    assert crowd(truth={}).truth.tolist() == [-1, -1, -1]


def test_features_keep_their_dtype_and_integers_become_floats():
    assert crowd(features=np.ones((3, 2), dtype=np.float32)).features.dtype == torch.float32
    assert crowd(features=[[1, 2], [3, 4], [5, 6]]).features.dtype == torch.get_default_dtype()
    assert crowd(features=pd.DataFrame({"x": [0.0, 1.0, 2.0]})).features.tolist() == [[0], [1], [2]]


FRAME = pd.DataFrame(
    {"item": TASK, "who": ANNOTATOR, "says": LABEL, "gold": [10, 9, 10, None, 9, 9]}
)


def test_from_frame():
    a = Annotations.from_frame(FRAME, "item", "who", "says", truth="gold", classes=[9, 10, 11])
    assert a.tasks[a.task.numpy()].tolist() == TASK
    assert a.truth.tolist() == [0, 1, -1]
    assert a.n_classes == 3
    plain = FRAME.set_axis(["task", "annotator", "label", "gold"], axis=1)
    assert torch.equal(Annotations.from_frame(plain).label, a.label)


def test_from_frame_ignores_the_row_index():
    shuffled = FRAME.sample(frac=1.0, random_state=0)
    a = Annotations.from_frame(shuffled, "item", "who", "says")
    assert a.classes[a.label.numpy()].tolist() == shuffled["says"].tolist()


def test_from_frame_reads_the_interchange_protocol():
    arrow = pytest.importorskip("pyarrow")
    a = Annotations.from_frame(arrow.Table.from_pandas(FRAME), "item", "who", "says", truth="gold")
    b = Annotations.from_frame(FRAME, "item", "who", "says", truth="gold")
    for name in ("task", "annotator", "label", "truth"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.tasks.tolist() == b.tasks.tolist()


def test_from_frame_names_what_is_wrong():
    with pytest.raises(DataError, match=r"no column \['task', 'annotator', 'label'\].*item"):
        Annotations.from_frame(FRAME)
    with pytest.raises(DataError, match=r"frame: expected a pandas data frame.*got list"):
        Annotations.from_frame([1, 2])
    with pytest.raises(DataError, match="rows of one task disagree in column 'says', 'a'"):
        Annotations.from_frame(FRAME, "item", "who", "says", truth="says")


def test_design_without_labels():
    design = Annotations.from_frame(FRAME, "item", "who", None, classes=[9, 10])
    assert design.label is None
    assert repr(design) == "Annotations(6 rows, no labels, 3 tasks, 2 annotators, 2 classes)"
    with pytest.raises(DataError, match="label: this design has no labels"):
        design.vote_shares()
    filled = design.with_labels(torch.tensor([[1, 0, 1, 0, 0, 1]]))
    assert filled.label.tolist() == crowd().label.tolist()
    with pytest.raises(DataError, match="label: expected indices from 0 to 1, got 0 to 2"):
        design.with_labels(torch.tensor([1, 0, 1, 0, 0, 2]))


def test_vote_shares_count_repeats_and_are_uniform_without_votes():
    shares = crowd(tasks=["a", "b", "c", "z"]).vote_shares()
    expected = torch.tensor([[2 / 3, 1 / 3], [0, 1], [1, 0], [0.5, 0.5]])
    torch.testing.assert_close(shares, expected)


def test_to_casts_features_only_and_keeps_the_counts():
    a = crowd(features=np.ones((3, 2)), truth=[9, None, 10])
    b = a.to(dtype=torch.float32, device="cpu")
    assert b.features.dtype == torch.float32
    assert {b.task.dtype, b.label.dtype, b.truth.dtype} == {torch.int64}
    assert b.label_counts is a.label_counts
    design = dataclasses.replace(a, label=None).to(torch.float32)
    assert design.features.dtype == torch.float32
    assert a.to() is a
    assert b.to(torch.float32) is b


def test_subset_keeps_the_rows_of_its_tasks_in_order():
    a = crowd(
        tasks=["a", "b", "c", "z"], features=[[0.0], [1.0], [2.0], [3.0]], truth={"a": 9, "c": 10}
    )
    b = a.subset(torch.tensor([2, 3, 0]))
    assert b.tasks.tolist() == ["c", "z", "a"]
    assert b.task.tolist() == [0, 2, 2, 2]
    assert b.annotators[b.annotator.numpy()].tolist() == [30, 4, 4, 4]
    assert b.classes[b.label.numpy()].tolist() == [9, 9, 9, 10]
    assert b.features.flatten().tolist() == [2, 3, 0]
    assert b.truth.tolist() == [1, -1, 0]
    full = a.label_counts.rows.toarray()
    np.testing.assert_array_equal(b.label_counts.rows.toarray(), full[[2, 3, 0]])


def test_subset_takes_a_mask_and_any_integers():
    a = crowd()
    expected = a.subset(torch.tensor([0, 2]))
    for index in (torch.tensor([True, False, True]), [0, 2], np.array([0, 2], dtype=np.int32)):
        b = a.subset(index)
        assert b.tasks.tolist() == ["a", "c"]
        assert torch.equal(b.task, expected.task)
        assert torch.equal(b.label, expected.label)
    assert a.subset([]).n_tasks == 0


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 3], "index: expected indices from 0 to 2, got 0 to 3"),
        ([-1], "index: expected indices from 0 to 2, got -1"),
        ([True, False], r"index: expected a mask of shape \[3\], got \[2\]"),
        ([[0]], r"index: expected one dimension, got shape \[1, 1\]"),
        (1, r"index: expected one dimension, got shape \[\]"),
        ([0.5], "index: expected int64"),
    ],
)
def test_subset_names_a_wrong_index(index, message):
    with pytest.raises(DataError, match=message):
        crowd().subset(index)


def test_a_categorical_keeps_its_order_and_its_unused_levels():
    levels = ["severe", "mild", "none"]
    label = pd.Categorical(["mild", "severe"], categories=levels)
    frame = pd.DataFrame({"task": [0, 1], "annotator": [0, 0], "label": label})
    for a in (
        Annotations.from_arrays([0, 1], [0, 0], label, truth=["none", "mild"]),
        Annotations.from_frame(frame, truth={0: "none", 1: "mild"}),
        Annotations.from_arrays([0, 1], [0, 0], pd.CategoricalIndex(label), truth=["none", "mild"]),
    ):
        assert a.classes.tolist() == levels
        assert a.label.tolist() == [1, 0]
        assert a.truth.tolist() == [2, 1]
    listed = Annotations.from_frame(frame, classes=["mild", "severe"])
    assert listed.classes.tolist() == ["mild", "severe"]


def test_subset_of_tasks_without_labels_has_no_rows():
    b = crowd(tasks=["a", "b", "c", "z"]).subset(torch.tensor([3]))
    assert (len(b), b.n_tasks, b.n_annotators) == (0, 1, 2)
    assert b.label_counts.rows.nnz == 0


def test_pickle_round_trip():
    a = crowd()
    a.label_counts.tensor(False, torch.float64, torch.device("cpu"))
    b = pickle.loads(pickle.dumps(a))
    assert torch.equal(a.label, b.label)
    assert (a.label_counts.rows != b.label_counts.rows).nnz == 0
