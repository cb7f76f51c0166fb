"""Votes, and classifiers that take labels at their word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import linear_model

from likely.envs import DataError
from likely.inference import MAP
from likely.models import (
    Annotations,
    SoftmaxRegression,
    each_class,
    each_label,
    majority_vote,
    weighted_vote,
)

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("LIKELY_DATA", ROOT.parent / "shared" / "data"))
pytestmark = pytest.mark.usefixtures("in_double")


def crowd(**options: Any) -> Annotations:
    """Three votes to none, one to one, a repeated label, and a task without labels."""
    return Annotations.from_arrays(
        ["a", "a", "a", "b", "b", "c", "c", "c"],
        ["x", "y", "z", "x", "y", "x", "x", "y"],
        [1, 1, 1, 2, 0, 0, 0, 1],
        tasks=["a", "b", "c", "d"],
        classes=[0, 1, 2],
        **options,
    )


def test_a_majority_wins_the_first_of_several_is_taken_and_ties_are_told() -> None:
    votes = majority_vote(crowd())
    expected = [[0, 1, 0], [1 / 2, 0, 1 / 2], [2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3]]
    torch.testing.assert_close(votes.shares, torch.tensor(expected))
    torch.testing.assert_close(votes.shares, crowd().vote_shares())
    assert votes.labels.tolist() == [1, 0, 0, -1]
    assert votes.tied.tolist() == [False, True, False, False]


def test_weights_decide() -> None:
    votes = weighted_vote(crowd(), [1, 3, 0])
    expected = [[0, 1, 0], [3 / 4, 0, 1 / 4], [2 / 5, 3 / 5, 0], [1 / 3, 1 / 3, 1 / 3]]
    torch.testing.assert_close(votes.shares, torch.tensor(expected))
    assert votes.labels.tolist() == [1, 0, 1, -1]
    only = weighted_vote(crowd(), torch.tensor([0.0, 0.0, 1.0]))
    assert only.labels.tolist() == [1, -1, -1, -1]
    torch.testing.assert_close(only.shares[1], torch.full((3,), 1 / 3))


def test_weights_that_name_their_annotators_go_by_these() -> None:
    expected = weighted_vote(crowd(), [1, 3, 0]).shares
    sorted_series = pd.Series({"x": 1.0, "y": 3.0, "z": 0.0}).sort_values()
    for weights in ({"z": 0, "y": 3, "x": 1}, sorted_series, pd.Series([1, 3, 0])):
        torch.testing.assert_close(weighted_vote(crowd(), weights).shares, expected)
    rows = each_label(crowd(features=torch.zeros(4, 1)), sorted_series)
    assert rows.weights.tolist() == [1, 3, 0, 1, 3, 1, 1, 3]
    shuffled = pd.Series([1, 3, 0]).sort_values()  # whose these are, nobody can tell
    for bad in (
        {"x": 1, "y": 3},
        {"x": 1, "y": 3, "w": 0},
        sorted_series.iloc[[0, 0, 1]],
        shuffled,
    ):
        with pytest.raises(DataError, match="weights: expected one for each of the annotators 'x'"):
            weighted_vote(crowd(), bad)


def test_ties_of_weights_survive_rounding() -> None:
    task, annotator = [0] * 4, [0, 1, 2, 3]
    tied = Annotations.from_arrays(task, annotator, [0, 0, 0, 1])
    votes = weighted_vote(tied, [0.1, 0.2, 0.3, 0.6])
    assert 0.1 + 0.2 + 0.3 != 0.6
    assert votes.tied.tolist() == [True]
    assert votes.labels.tolist() == [0]


def test_each_label_is_an_observation() -> None:
    features = torch.randn(4, 2)
    rows = each_label(crowd(features=features), [2.0, 1.0, 0.5])
    assert torch.equal(rows.x, features[[0, 0, 0, 1, 1, 2, 2, 2]])
    assert rows.y.tolist() == [1, 1, 1, 2, 0, 0, 0, 1]
    assert rows.weights.tolist() == [2.0, 1.0, 0.5, 2.0, 1.0, 2.0, 2.0, 1.0]
    assert each_label(crowd(features=features)).weights.tolist() == [1.0] * 8


def test_a_classifier_of_labels_is_scikit_learns() -> None:
    x, labels = torch.randn(60, 2), torch.randint(0, 3, (60, 3))
    asked = torch.arange(3).repeat(60)
    task = torch.arange(60).repeat_interleave(3)
    annotated = Annotations.from_arrays(task, asked, labels.flatten(), features=x)
    rows = each_label(annotated, [1.0, 0.5, 2.0])
    program = SoftmaxRegression(3, intercept_scale=1e4, coefficients_scale=1.0)
    fit = MAP().fit(program, rows.x, rows.y, weights=rows.weights)
    reference = linear_model.LogisticRegression(tol=1e-12, max_iter=10_000)
    reference.fit(x[task], labels.flatten(), sample_weight=torch.tensor([1.0, 0.5, 2.0])[asked])
    np.testing.assert_allclose(fit.params["coefficients"], reference.coef_, atol=1e-5)


def test_soft_labels_weigh_the_classes_of_a_task() -> None:
    x, p = torch.randn(50, 2), torch.rand(50, 3).softmax(-1)
    p[:10] = torch.eye(3)[torch.arange(10) % 3]
    rows = each_class(x, p)
    assert len(rows.x) == 10 + 40 * 3
    values = {"intercept": torch.randn(3), "coefficients": torch.randn(3, 2)}
    logs = (x @ values["coefficients"].T + values["intercept"]).log_softmax(-1)
    each = (rows.x @ values["coefficients"].T + values["intercept"]).log_softmax(-1)
    found = (rows.weights * each[torch.arange(len(rows.y)), rows.y]).sum()
    assert found.item() == pytest.approx((p * logs).sum().item(), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: majority_vote([0, 1]), "expected Annotations, got list"),
        (
            lambda: majority_vote(Annotations.from_arrays([0], [0], None, classes=[0, 1])),
            "expected labels",
        ),
        (lambda: weighted_vote(crowd(), [1, 2]), r"weights: expected shape \[3\]"),
        (lambda: weighted_vote(crowd(), [1, 2, -1]), "weights: expected finite"),
        (lambda: weighted_vote(crowd(), [1, 2, np.nan]), "weights: expected finite"),
        (lambda: weighted_vote(crowd(), ["a", "b", "c"]), "weights"),
        (lambda: each_label(crowd()), "expected features"),
        (lambda: each_label(crowd(features=np.ones((4, 1))), [1.0]), "weights: expected shape"),
        (lambda: each_class(np.ones((2, 1)), np.ones((3, 2))), "probabilities: expected 2 rows"),
        (lambda: each_class(np.ones((2, 1)), -np.ones((2, 2))), "probabilities: expected finite"),
        (lambda: each_class(np.ones(2), np.ones((2, 2))), "x must be two-dimensional"),
    ],
)
def test_bad_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        ("bluebirds", 0.759),
        ("rte", 0.875),
        ("labelme", 0.762),
        ("web", 0.688),
        ("d_product", 0.897),
    ],
)
def test_votes_on_published_crowds(name: str, accuracy: float) -> None:
    folder = DATA / "crowd" / name
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set LIKELY_DATA")
    annotated = Annotations.from_frame(pd.read_csv(folder / "labels.csv"), annotator="worker")
    gold = pd.read_csv(folder / "truth.csv").set_index("task")["label"]
    votes = majority_vote(annotated)
    known = np.isin(annotated.tasks, gold.index)
    truth = gold.loc[annotated.tasks[known]].to_numpy()
    right = annotated.classes[votes.labels.numpy()][known] == truth
    tied = votes.tied.numpy()[known]
    # A tie broken otherwise may be right or wrong.
    others = (~right & tied).sum() / len(truth)
    lost = (right & tied).sum() / len(truth)
    # The published accuracies have three digits.
    assert right.mean() - lost - 5e-4 <= accuracy <= right.mean() + others + 5e-4
