from dataclasses import replace

import numpy as np
import pytest

from likely.envs import DataError
from likely.inference import EM
from likely.models.crowd import (
    Annotations,
    DawidSkene,
    accuracy_gain,
    information_gain,
    tasks_to_label,
    truth_entropy,
    truth_table,
)

CROWD = Annotations.from_arrays(
    ["b", "a", "b", "c"], ["ann", "ann", "bo", "bo"], ["no", "yes", "yes", "no"], tasks=list("bacz")
)
TRUTH = np.array([[0.5, 0.5], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
TABLES = np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.6, 0.4], [0.4, 0.6]]])


def test_truth_goes_by_the_users_own_ids():
    table = truth_table(CROWD, TRUTH)
    assert table.index.tolist() == ["b", "a", "c", "z"]
    assert table["truth"].tolist() == ["no", "no", "no", "yes"]
    assert table["probability"].tolist() == [0.5, 0.9, 0.6, 0.7]
    assert table["labels"].tolist() == [2, 1, 1, 0]
    assert table[["p_no", "p_yes"]].to_numpy().tolist() == TRUTH.tolist()


def test_truth_table_of_a_fit_is_its_latent():
    fit = EM().fit(DawidSkene(2), CROWD)
    latent = fit.latent("truth").numpy()
    np.testing.assert_array_equal(truth_table(CROWD, latent)[["p_no", "p_yes"]], latent)


def test_information_is_the_expected_fall_of_entropy():
    for table in TABLES:
        after = np.zeros(4)
        gained = np.zeros(4)
        for i, p in enumerate(TRUTH):
            for j in range(2):
                reported = (p * table[:, j]).sum()
                posterior = p * table[:, j] / reported
                after[i] += reported * float(truth_entropy(posterior))
                gained[i] += reported * posterior.max()
        fall = truth_entropy(TRUTH).numpy() - after
        np.testing.assert_allclose(information_gain(TRUTH, table), fall, atol=1e-14)
        np.testing.assert_allclose(accuracy_gain(TRUTH, table), gained - TRUTH.max(1), atol=1e-14)


def test_nothing_is_learnt_from_a_spammer_or_about_a_certain_task():
    spammer = np.array([[0.3, 0.7], [0.3, 0.7]])
    assert float(information_gain(TRUTH, spammer).abs().max()) < 1e-15
    assert information_gain([[1.0, 0.0]], np.eye(2)).tolist() == [0.0]


def test_the_least_certain_tasks_are_asked_about_first():
    asked = tasks_to_label(CROWD, TRUTH, TABLES, most=3)
    assert asked.index.tolist() == ["b", "c", "z"]
    # Both annotators gave two labels: the mean table weighs them alike.
    mean = TABLES.mean(0)
    np.testing.assert_allclose(asked["gain"], information_gain(TRUTH[[0, 2, 3]], mean), atol=1e-14)
    pooled = tasks_to_label(CROWD, TRUTH, mean, gain="accuracy")
    np.testing.assert_allclose(
        pooled["gain"].sort_index(), accuracy_gain(TRUTH[[1, 0, 2, 3]], mean), atol=1e-14
    )


def test_annotators_are_not_asked_twice_nor_anybody_about_gold():
    assert tasks_to_label(CROWD, TRUTH, TABLES, annotator="ann").index.tolist() == ["c", "z"]
    gain = tasks_to_label(CROWD, TRUTH, TABLES, annotator="bo").loc["a", "gain"]
    assert gain == pytest.approx(float(information_gain(TRUTH[1:2], TABLES[1])))
    known = Annotations.from_arrays(["b", "a"], ["ann", "bo"], ["no", "yes"], truth={"b": "no"})
    assert known.tasks.tolist() == ["a", "b"]
    assert tasks_to_label(known, TRUTH[:2], TABLES).index.tolist() == ["a"]


def test_classes_that_look_alike_have_columns_of_their_own():
    crowd = Annotations.from_arrays([0, 1], [0, 0], [1, "1"])
    table = truth_table(crowd, [[1.0, 0.0], [0.25, 0.75]])
    assert list(table)[3:] == ["p_1", "p_'1'"]
    assert table["p_'1'"].tolist() == [0.0, 0.75]


def test_nobody_has_labelled_anything_yet():
    crowd = replace(CROWD, task=CROWD.task[:0], annotator=CROWD.annotator[:0], label=None)
    asked = tasks_to_label(crowd, TRUTH, TABLES, most=np.int64(1))
    np.testing.assert_allclose(asked["gain"], information_gain(TRUTH[:1], TABLES.mean(0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: truth_table(CROWD, TRUTH[:3]), "truth: expected shape"),
        (lambda: truth_table(CROWD, TRUTH + 0.1), "truth: .*sum to one"),
        (lambda: truth_table([1], TRUTH), "annotations: expected Annotations"),
        (lambda: truth_entropy([np.nan, 1]), "truth: .*finite"),
        (lambda: information_gain(TRUTH, np.eye(3)), "truth: expected 3 classes"),
        (lambda: information_gain(TRUTH, TABLES), "truth: .*broadcast"),
        (lambda: accuracy_gain(TRUTH, TABLES), "truth: .*broadcast"),
        (lambda: tasks_to_label(CROWD, TRUTH, TABLES, gain=["fun"]), "gain: expected"),
        (lambda: tasks_to_label(CROWD, TRUTH, TABLES, annotator=["ann"]), "annotator: .'ann'. is"),
        (lambda: tasks_to_label(CROWD, TRUTH, TABLES[:1]), "confusion: expected"),
        (lambda: tasks_to_label(CROWD, TRUTH, TABLES, most=0), "most: expected"),
        (lambda: tasks_to_label(CROWD, TRUTH, TABLES, gain="fun"), "gain: expected"),
        (lambda: tasks_to_label(CROWD, TRUTH, TABLES, annotator="cy"), "annotator: 'cy'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(DataError, match=message):
        call()
