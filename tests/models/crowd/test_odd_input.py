"""Ids, tables and tensors of kinds that people really have."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from likely.envs import DataError
from likely.inference import EM, MAP, ConvergenceWarning, Fit, OptionError
from likely.models.crowd import Annotations, DawidSkene, OneCoin

FRAME = pd.DataFrame({"task": ["x", "x", "y"], "annotator": [0, 1, 0], "label": [1, 0, 1]})


def crowd(task, annotator=(0, 1), label=(0, 1), **options):
    return Annotations.from_arrays(task, annotator, label, **options)


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["b", "a"]),
        pa.chunked_array([["b"], ["a"]]),
        pa.array(["b", "a"]).dictionary_encode(),
        pd.Index(["b", "a"]),
        np.ma.array(["b", "a"]),
    ],
)
def test_ids_come_out_as_plain_values(ids):
    found = crowd(ids)
    assert found.tasks.tolist() == ["a", "b"]
    assert all(type(task) is str for task in found.tasks.tolist())
    assert found.task.tolist() == [1, 0]


@pytest.mark.parametrize("unit", ["ns", "us", "D"])
def test_days_as_ids_stay_days(unit, tmp_path):
    days = np.array(["2024-01-01", "2024-01-02"], dtype=f"datetime64[{unit}]")
    data = crowd(days.repeat(2), ["a", "b"] * 2, [0, 0, 1, 1])
    fit = EM(objective="posterior").fit(DawidSkene(2), data)
    fit.save(tmp_path / "fit.nc")
    for found in (fit, Fit.load(tmp_path / "fit.nc")):
        labels = found.to_arviz()["latent_posterior"]["truth"].coords["task"].values
        assert labels.dtype.kind == "M"
        assert (labels == days).all()
    assert EM(objective="posterior", init=fit).fit(DawidSkene(2), data).n_iter <= 1


def test_what_is_masked_is_missing():
    masked = np.ma.array([0, 1], mask=[False, True])
    with pytest.raises(DataError, match=r"label: 1 missing value.*row 1"):
        crowd([0, 1], label=masked)
    assert crowd([0, 1], truth=masked).truth.tolist() == [0, -1]


@pytest.mark.parametrize(
    "ids", [torch.tensor([0.0, 1.0], dtype=torch.bfloat16), torch.tensor([0.0, 1.0]).to_sparse()]
)
def test_tensors_that_numpy_cannot_hold_are_named(ids):
    with pytest.raises(DataError, match="task: expected a dense tensor"):
        crowd(ids)


def test_pandas_objects_go_by_their_index_where_it_names_the_tasks():
    truth = pd.Series([1, 0], index=["y", "x"])
    features = pd.DataFrame({"a": [5.0, 7.0]}, index=["y", "x"])
    found = crowd(["x", "y"], truth=truth, features=features)
    assert found.truth.tolist() == [0, 1]
    assert found.features.tolist() == [[7.0], [5.0]]
    # An index that is a mere count, or names something else, says nothing of the tasks.
    for index in (range(2), ["p", "q"]):
        found = crowd(["x", "y"], truth=truth.set_axis(index), features=features.set_axis(index))
        assert found.truth.tolist() == [1, 0]
        assert found.features.tolist() == [[5.0], [7.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Annotations.from_frame(FRAME[["task", *FRAME]]), "frame: several columns 'task'"),
        (lambda: Annotations.from_frame(FRAME, ["task"]), r"frame: no column \[\['task'\]\]"),
        (
            lambda: Annotations.from_frame(FRAME[[*FRAME, "label"]], label=None, truth="label"),
            "frame: several columns 'label'",
        ),
        (lambda: crowd([0, 1], features=[[1j], [1]]), "features: expected real numbers"),
        (lambda: Annotations.from_frame(FRAME).subset("x"), "index: expected positions or a mask"),
        (lambda: Annotations.from_frame(FRAME).subset(None), "index: expected positions or a mask"),
        (lambda: Annotations([0], [0], None, FRAME, FRAME, FRAME), "task: expected a tensor int64"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_labels_may_be_a_list():
    assert Annotations.from_frame(FRAME).with_labels([0, 0, 1]).label.tolist() == [0, 0, 1]


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
def test_curvature_that_is_no_number_gives_no_standard_errors():
    """Two annotators who are never wrong, on the boundary of every table."""
    odd = crowd([0, 1, 2, 3], ["a", "b"] * 2, [0, 1, 2, 3], classes=range(8))
    fit = EM(objective="posterior").fit(OneCoin(8), odd)
    with pytest.warns(ConvergenceWarning, match="not positive definite"):
        errors = fit.standard_errors()
    assert all(bool(error.isnan().all()) for error in errors.values())


def test_devices_that_are_not_there_are_named():
    with pytest.raises(OptionError, match="device 'xla' is not available"):
        MAP(device="xla").fit(OneCoin(2), Annotations.from_frame(FRAME))
