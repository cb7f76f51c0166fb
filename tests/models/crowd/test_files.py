import gzip

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likely.envs import DataError
from likely.models.crowd import Annotations

ROWS = pd.DataFrame(
    {
        "task": ["007", "7", "10", "7"],
        "worker": ["NA", "b", "None", "b"],
        "answer": ["2", "10", "2", "9"],
        "gold": ["2", "", "10", ""],
    }
)
NAMES = ("task", "worker", "answer")


def written(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "labels.csv"
    ROWS.to_csv(path, index=False)
    return path


def test_ids_stay_the_text_of_the_file(csv):
    crowd = Annotations.from_csv(csv, *NAMES)
    assert crowd.tasks.tolist() == ["007", "7", "10"]  # by number
    assert crowd.annotators.tolist() == ["NA", "None", "b"]
    assert crowd.classes.tolist() == ["2", "9", "10"]
    assert crowd.tasks[crowd.task.numpy()].tolist() == ROWS["task"].tolist()
    assert crowd.annotators[crowd.annotator.numpy()].tolist() == ROWS["worker"].tolist()
    assert crowd.classes[crowd.label.numpy()].tolist() == ROWS["answer"].tolist()


def test_a_column_of_true_classes(csv):
    crowd = Annotations.from_csv(csv, *NAMES, truth="gold")
    assert crowd.truth.tolist() == [0, -1, 2]


def test_designs_and_listed_ids(csv):
    design = Annotations.from_csv(csv, "task", "worker", None, classes=["x", "y"])
    assert design.label is None
    crowd = Annotations.from_csv(csv, *NAMES, tasks=["10", "7", "007", "8"])
    assert (crowd.n_tasks, crowd.task.tolist()) == (4, [2, 1, 0, 1])


def test_tabs_compression_byte_order_marks_and_windows_lines(tmp_path):
    text = "task\tannotator\tlabel\r\nä\ta\tx\r\nö\tb\ty\r\n"
    tabs = written(tmp_path, "\ufeff" + text, "labels.tsv")
    packed = tmp_path / "labels.tsv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    other = written(tmp_path, text.replace("\t", ";"), "labels.txt")
    for path, options in ((tabs, {}), (packed, {}), (other, {"separator": ";"})):
        crowd = Annotations.from_csv(path, **options)
        assert (crowd.tasks.tolist(), crowd.classes.tolist()) == (["ä", "ö"], ["x", "y"])


def test_parquet_keeps_types_and_the_order_of_levels(tmp_path):
    frame = ROWS.assign(
        task=[7, 3, 10, 3], answer=pd.Categorical(["z", "a", "z", "b"], categories=["z", "b", "a"])
    )
    folder = tmp_path / "parts"
    folder.mkdir()
    frame.iloc[:2].to_parquet(folder / "1.parquet")
    frame.iloc[2:].to_parquet(folder / "2.parquet")
    frame.to_parquet(tmp_path / "labels.parquet")
    for path in (folder, tmp_path / "labels.parquet"):
        crowd = Annotations.from_parquet(str(path), *NAMES)
        assert crowd.tasks.tolist() == [3, 7, 10]
        assert crowd.tasks[crowd.task.numpy()].tolist() == [7, 3, 10, 3]
        assert crowd.classes.tolist() == ["z", "b", "a"]
    known = frame.assign(gold=["z", None, "a", None])
    known.to_parquet(tmp_path / "gold.parquet")
    crowd = Annotations.from_parquet(tmp_path / "gold.parquet", *NAMES, truth="gold")
    assert crowd.truth.tolist() == [-1, 0, 2]


def test_true_classes_as_other_programs_write_them(tmp_path):
    text = "task,annotator,label,gold\n1,a,0,1.0\n1,b,1,1.0\n2,a,1,\n3,a,1,-1\n4,b,1,0\n"
    crowd = Annotations.from_csv(written(tmp_path, text), truth="gold")
    assert crowd.truth.tolist() == [1, -1, -1, 0]
    text = "task,annotator,label,gold\n1,a,-1,-1\n2,b,1,\n2,b,1.0,\n3,a,1,01\n"
    path, classes = written(tmp_path, text), ["-1", "1", "1.0"]
    with pytest.raises(DataError, match=r"truth: 1 value.*'01'"):  # which one is it?
        Annotations.from_csv(path, truth="gold", classes=classes)
    crowd = Annotations.from_csv(path, truth={"1": "-1"}, classes=classes)
    assert crowd.truth.tolist() == [0, -1, -1]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("task,annotator,label\n1,2,3\n".encode("utf-16"), "text in UTF-16"),
        (b"PK\x03\x04\x14\x00", "a zip archive or a spreadsheet"),
        (b"\xfd7zXZ\x00\x00", "compressed by xz"),
        (b"PAR1\x15\x04", "a Parquet file"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, content, what):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"path: expected text in UTF-8.* is {what}"):
        Annotations.from_csv(path)


def test_another_separator_is_guessed_in_the_message_only(tmp_path):
    for separator, name in ((";", "';'"), ("\t", "a tab"), ("|", r"'\|'")):
        text = "task,annotator,label\n1,2,3\n".replace(",", separator)
        with pytest.raises(DataError, match=f"seems to have {name} between fields.*separator="):
            Annotations.from_csv(written(tmp_path, text))
        assert len(Annotations.from_csv(written(tmp_path, text), separator=separator)) == 1
    with pytest.raises(DataError, match="seems to have a comma"):
        Annotations.from_csv(written(tmp_path, "task,annotator,label\n1,2,3\n", "x.TSV"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read .*labels.csv' as a table"),
        ("task,annotator,label\n", "expected at least one row, got none"),
        ("task,annotator\n1,2\n", r"has no column \['label'\]; its columns are \['task', 'anno"),
        ("task,annotator,label\n1,2,3\n1,2,3,4,5\n", "cannot read .* as a table"),
        ("task,annotator,label\n1,2,3,4\n", "cannot read .* as a table"),
        ("task,annotator,label\n1,2\n", "cannot read .* as a table"),
        ("task,annotator,label,label\n1,2,3,4\n", "has several columns 'label'"),
        ("task,annotator,label\n1,,3\n", "annotator: 1 missing value.*row 0"),
        ("task,annotator,label\n1,2,3\n1,2,-1\n", r"label: negative id\(s\) '-1'.*classes="),
        ("task,annotator,label\n-4,2,3\n", r"task: negative id\(s\) '-4'.*tasks="),
        ("task,annotator,label\n4,-2,3\n", r"annotator: negative id\(s\) '-2'.*annotators="),
    ],
)
def test_bad_text_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        Annotations.from_csv(written(tmp_path, text))


def test_negative_classes_are_taken_when_listed(tmp_path):
    path = written(tmp_path, "task,annotator,label\n1,2,1\n2,2,-1\n")
    assert Annotations.from_csv(path, classes=["-1", "1"]).label.tolist() == [1, 0]


def test_bad_paths_are_named(tmp_path):
    noise = tmp_path / "noise.csv"
    noise.write_bytes(b"task,annotator,label\n\xff\xfe,1,2\n")
    for read in (Annotations.from_csv, Annotations.from_parquet):
        with pytest.raises(DataError, match="path: there is no file"):
            read(tmp_path / "nowhere.csv")
        with pytest.raises(DataError, match="path: expected a path"):
            read(3)
    with pytest.raises(DataError, match="is a folder"):
        Annotations.from_csv(tmp_path)
    with pytest.raises(DataError, match=r"path: cannot look for 'xxx.*too long"):
        Annotations.from_csv("x" * 5000)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there is no Parquet file in the folder"):
        Annotations.from_parquet(tmp_path / "empty")
    with pytest.raises(DataError, match=r"cannot read .*noise.csv' as a table"):
        Annotations.from_csv(noise)
    with pytest.raises(DataError, match="single character"):
        Annotations.from_csv(noise, separator="::")
    with pytest.raises(DataError, match="as Parquet"):
        Annotations.from_parquet(noise)
    ROWS.to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(DataError, match="has no column"):
        Annotations.from_parquet(tmp_path / "labels.parquet")


# -- adding labels -------------------------------------------------------------------------------


def arrays(rows, **options):
    return Annotations.from_arrays(*zip(*rows, strict=True), **options)


MONDAY = arrays([("y", "bo", "cat"), ("x", "ann", "dog")], truth={"x": "dog"})
TUESDAY = arrays(
    [("w", "bo", "dog"), ("x", "al", "ape"), ("y", "bo", "ape")], truth={"w": "ape", "x": "dog"}
)


def test_new_ids_follow_the_old_ones():
    both = MONDAY.concat(TUESDAY)
    assert both.tasks.tolist() == ["x", "y", "w"]
    assert both.annotators.tolist() == ["ann", "bo", "al"]
    assert both.classes.tolist() == ["cat", "dog", "ape"]
    assert both.truth.tolist() == [1, -1, 2]
    assert torch.equal(both.task[:2], MONDAY.task)
    assert both.tasks[both.task[2:].numpy()].tolist() == ["w", "x", "y"]
    assert both.annotators[both.annotator[2:].numpy()].tolist() == ["bo", "al", "bo"]
    assert both.classes[both.label[2:].numpy()].tolist() == ["dog", "ape", "ape"]


row = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2))


@given(st.lists(row, min_size=1, max_size=8), st.lists(row, min_size=1, max_size=8))
def test_all_rows_are_there_in_order(first, second):
    both = arrays(first).concat(arrays(second))
    ids = zip(
        both.tasks[both.task.numpy()].tolist(),
        both.annotators[both.annotator.numpy()].tolist(),
        both.classes[both.label.numpy()].tolist(),
        strict=True,
    )
    assert list(ids) == first + second
    for names in (both.tasks, both.annotators, both.classes):
        assert len(set(names.tolist())) == len(names)


def test_features_come_along():
    one = arrays([(0, 0, 0), (1, 0, 1)], features=[[1.0], [2.0]])
    two = arrays([(2, 0, 0), (1, 1, 1)], features=[[2.0], [3.0]])
    assert one.concat(two).features.tolist() == [[1.0], [2.0], [3.0]]
    plain = arrays([(2, 0, 0)])
    assert plain.concat(plain).truth is None


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (MONDAY, [1], "more: expected Annotations"),
        (MONDAY, arrays([(1, "bo", "cat")]), "tasks: expected ids of one kind"),
        (MONDAY, arrays([("x", "bo", "cat")], truth=["cat"]), "truth: .*disagree.*'x'"),
        (
            MONDAY,
            Annotations.from_arrays(["x"], ["bo"], None, classes=["cat"]),
            "labels on both sides",
        ),
        (
            arrays([(0, 0, 0)], features=np.ones((1, 2))),
            arrays([(0, 0, 0)]),
            "features on both sides",
        ),
        (
            arrays([(0, 0, 0)], features=np.ones((1, 2))),
            arrays([(0, 0, 0)], features=np.ones((1, 3))),
            "features: expected 2 columns",
        ),
        (
            arrays([(0, 0, 0)], features=np.ones((1, 2))),
            arrays([(0, 0, 0)], features=np.zeros((1, 2))),
            "features: 1 task",
        ),
    ],
)
def test_what_does_not_go_together_is_named(first, second, message):
    with pytest.raises(DataError, match=message):
        first.concat(second)
