"""Labels in a Parquet file, part by part."""

from __future__ import annotations

import gc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likely.envs import DataError
from likely.inference import EM, Shards, latent_by_part
from likely.models.crowd import Annotations, AnnotationShards, DawidSkene, OneCoin
from likely.models.crowd import shards as module


def frame(n_tasks=80, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n_tasks)
    task = np.repeat(np.arange(n_tasks), 4)
    wrong = rng.random(task.size) < 0.3
    label = np.where(wrong, rng.integers(3, size=task.size), truth[task])
    table = pd.DataFrame(
        {
            "item": [f"t{i}" for i in task],
            "worker": rng.integers(20, 27, size=task.size),
            "answer": np.array(["cat", "dog", "eel"])[label],
            "gold": np.where(task % 4 == 0, np.array(["cat", "dog", "eel"])[truth[task]], None),
        }
    )
    # Rows of one task stand anywhere.
    return table.sample(frac=1, random_state=seed, ignore_index=True)


NAMES = ("item", "worker", "answer")


@pytest.fixture
def path(tmp_path):
    frame().to_parquet(tmp_path / "labels.parquet", row_group_size=50)
    return tmp_path / "labels.parquet"


def rows_of(parts, truth=False):
    """All rows with the user's ids, sorted."""
    found = []
    for part in parts:
        columns = [
            part.tasks[part.task.numpy()],
            part.annotators[part.annotator.numpy()],
            part.classes[part.label.numpy()],
        ]
        if truth:
            known = np.append(part.classes, None)[part.truth]
            columns.append(known[part.task.numpy()])
        found += [tuple(map(str, row)) for row in zip(*columns, strict=True)]
    return sorted(found)


def test_the_parts_hold_every_label_once_and_whole_tasks(path):
    parts = AnnotationShards.from_parquet(path, *NAMES, truth="gold", rows=60)
    assert len(parts) == 6
    assert parts.n_labels == sum(parts.sizes) == 320
    assert repr(parts) == "AnnotationShards(320 labels in 6 parts, 7 annotators, 3 classes)"
    seen = [set(part.tasks) for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 80
    table = frame().astype(object).fillna("None")
    wanted = sorted(tuple(map(str, row)) for row in table.itertuples(index=False))
    assert rows_of(parts, truth=True) == wanted
    # As often as wanted, and the same again.
    assert rows_of(parts, truth=True) == wanted
    whole = Annotations.from_parquet(path, *NAMES)
    for part in parts:
        assert part.annotators.tolist() == whole.annotators.tolist()
        assert part.classes.tolist() == whole.classes.tolist()
        assert part.annotators.dtype == whole.annotators.dtype


@pytest.mark.parametrize("program", [DawidSkene(3), OneCoin(3)], ids=["ds", "coin"])
def test_a_fit_by_parts_is_the_fit_in_memory(path, program):
    engine = EM(objective="posterior")
    whole = Annotations.from_parquet(path, *NAMES, truth="gold")
    one = engine.fit(program, whole)
    parts = AnnotationShards.from_parquet(path, *NAMES, truth="gold", rows=60)
    many = engine.fit(program, Shards(parts))
    np.testing.assert_allclose(many.history, one.history, rtol=0, atol=1e-9)
    for name, value in one.params.items():
        torch.testing.assert_close(many.params[name], value, rtol=0, atol=1e-9)
    wanted = dict(zip(whole.tasks, one.latent("truth"), strict=True))
    count = 0
    for part, found in latent_by_part(many, "truth"):
        expected = torch.stack([wanted[task] for task in part.tasks])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
        count += len(found)
    assert count == 80


def test_ranks_share_the_parts(path):
    alone = AnnotationShards.from_parquet(path, *NAMES, rows=60)
    shared = [
        AnnotationShards.from_parquet(path, *NAMES, rows=60, rank=rank, ranks=4)
        for rank in range(4)
    ]
    assert [len(parts) for parts in shared] == [2, 2, 1, 1]
    assert rows_of(p for parts in shared for p in parts) == rows_of(alone)
    assert all(p.annotators.tolist() == alone.annotators.tolist() for p in shared)
    many = AnnotationShards.from_parquet(path, *NAMES, rows=1000, rank=2, ranks=3)
    assert len(many) == 0
    assert list(many) == []


def test_many_parts_take_several_passes(path, monkeypatch):
    monkeypatch.setattr(module, "_OPEN", 3)
    parts = AnnotationShards.from_parquet(path, *NAMES, rows=20)
    assert rows_of(parts) == rows_of([Annotations.from_parquet(path, *NAMES)])


def test_temporary_files_go_with_the_object(path, tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    parts = AnnotationShards.from_parquet(path, *NAMES, rows=60, folder=folder)
    (scratch,) = folder.iterdir()
    # What is on disk is what is read again, nothing else.
    assert len(list(scratch.iterdir())) == 2 * len(parts)
    del parts
    gc.collect()
    assert list(folder.iterdir()) == []


def test_files_are_removed_if_a_part_is_bad(tmp_path):
    table = frame()
    table.loc[:, "gold"] = ["cat", "dog"] * 160
    table.to_parquet(tmp_path / "x.parquet")
    folder = tmp_path / "scratch"
    folder.mkdir()
    with pytest.raises(DataError, match="rows of one task disagree"):
        AnnotationShards.from_parquet(tmp_path / "x.parquet", *NAMES, truth="gold", folder=folder)
    gc.collect()
    assert list(folder.iterdir()) == []


def test_listed_ids_and_categorical_columns(tmp_path):
    table = frame()
    table["answer"] = pd.Categorical(table["answer"], ["eel", "dog", "cat"])
    table["item"] = table["item"].astype("category")
    table.to_parquet(tmp_path / "x.parquet")
    parts = AnnotationShards.from_parquet(
        tmp_path / "x.parquet",
        *NAMES,
        classes=["dog", "cat", "eel", "fly"],
        annotators=range(30),
        rows=100,
    )
    assert parts.classes.tolist() == ["dog", "cat", "eel", "fly"]
    assert len(parts.annotators) == 30
    assert rows_of(parts) == rows_of([Annotations.from_frame(frame(), *NAMES)])


def test_a_folder_of_files(tmp_path):
    table = frame()
    table[:100].to_parquet(tmp_path / "a.parquet")
    table[100:].to_parquet(tmp_path / "b.parquet")
    parts = AnnotationShards.from_parquet(tmp_path, *NAMES, rows=100)
    assert rows_of(parts) == rows_of([Annotations.from_frame(table, *NAMES)])


@settings(deadline=None, max_examples=15)
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 2)), min_size=1),
    size=st.integers(1, 12),
)
def test_any_table_is_divided_without_loss(tmp_path_factory, rows, size):
    table = pd.DataFrame(rows, columns=["task", "annotator", "label"])
    path = tmp_path_factory.mktemp("any") / "x.parquet"
    table.to_parquet(path)
    parts = AnnotationShards.from_parquet(path, rows=size)
    assert rows_of(parts) == rows_of([Annotations.from_frame(table)])


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows: expected an integer of at least 1"),
        ({"rows": 2.5}, "rows: expected an integer"),
        ({"ranks": True}, "ranks: expected an integer"),
        ({"rank": -1}, "rank: expected an integer of at least 0"),
        ({"rank": 2, "ranks": 2}, "rank: expected at most 1"),
        ({"truth": "nothing"}, "has no column"),
        ({"classes": ["cat", "dog"]}, "not in classes: 'eel'"),
        ({"annotators": [20]}, "not in annotators"),
    ],
)
def test_bad_options(path, options, message):
    with pytest.raises(DataError, match=message):
        AnnotationShards.from_parquet(path, *NAMES, **options)


def test_bad_files(tmp_path):
    table = frame()

    def written(changed, name):
        changed.to_parquet(tmp_path / name)
        return tmp_path / name

    with pytest.raises(DataError, match="there is no file"):
        AnnotationShards.from_parquet(tmp_path / "none.parquet", *NAMES)
    with pytest.raises(DataError, match="expected a path"):
        AnnotationShards.from_parquet(3, *NAMES)
    with pytest.raises(DataError, match="has no column"):
        AnnotationShards.from_parquet(written(table, "a.parquet"))
    with pytest.raises(DataError, match="at least one row"):
        AnnotationShards.from_parquet(written(table[:0], "b.parquet"), *NAMES)
    (tmp_path / "c.parquet").write_text("item,worker,answer")
    with pytest.raises(DataError, match="as Parquet"):
        AnnotationShards.from_parquet(tmp_path / "c.parquet", *NAMES)
    for name, argument in zip(NAMES, ("task", "annotator", "label"), strict=True):
        gap = table.astype(object)
        gap.loc[7, name] = None
        gap[name] = gap[name].astype("string") if name != "worker" else gap[name].astype("Int64")
        gap["gold"] = gap["gold"].astype("string")
        with pytest.raises(DataError, match=rf"{argument}: missing value \(null\) in row 7"):
            AnnotationShards.from_parquet(written(gap, f"{name}.parquet"), *NAMES)
    negative = table.assign(worker=table["worker"].where(table.index != 5, -1))
    with pytest.raises(DataError, match=r"annotator: negative id\(s\)"):
        AnnotationShards.from_parquet(written(negative, "d.parquet"), *NAMES)
    negative = table.assign(item=np.where(table.index != 5, 3, -1))
    with pytest.raises(DataError, match=r"task: negative id\(s\)"):
        AnnotationShards.from_parquet(written(negative, "e.parquet"), *NAMES)


def test_numbers_with_nan_are_missing(tmp_path):
    table = pa.table({"task": [1.0, 2.0], "annotator": [1.0, float("nan")], "label": [0, 1]})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="annotator: 1 missing value"):
        AnnotationShards.from_parquet(tmp_path / "x.parquet")
