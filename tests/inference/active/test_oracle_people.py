"""Simulated annotators, and the replay of recorded ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from likely.envs import DataError
from likely.inference import OptionError
from likely.inference.active import Queries, RecordedAnswers, SimulatedAnnotators
from likely.models import Annotations

CLASSES = ("cat", "dog", "eel")
RNG = np.random.default_rng(5)
CONFUSION = RNG.dirichlet(np.ones(3), size=(2, 3))
TRUTH = np.repeat([0, 1, 2], 4000)


def everybody(n: int, n_annotators: int) -> Queries:
    """Every point asked of every annotator."""
    return Queries(
        np.repeat(np.arange(n), n_annotators),
        annotator=np.tile(np.arange(n_annotators), n),
        classes=CLASSES,
    )


# -- simulated -----------------------------------------------------------------------------------


def test_answers_follow_the_confusion_tables() -> None:
    asked = everybody(len(TRUTH), 2)
    labels = SimulatedAnnotators(TRUTH, CONFUSION, seed=3)(asked)
    for annotator in range(2):
        for true in range(3):
            here = (asked.annotator == annotator) & (TRUTH[asked.index] == true)
            counts = np.bincount(labels[here], minlength=3)
            expected = CONFUSION[annotator, true]
            # Eighteen cells: each two-sided interval misses one time in a hundred thousand.
            low, high = binom.interval(1 - 1e-5, here.sum(), expected)
            assert ((counts >= low) & (counts <= high)).all()


def test_annotators_answer_independently_of_each_other() -> None:
    asked = everybody(len(TRUTH), 2)
    labels = SimulatedAnnotators(TRUTH, CONFUSION, seed=3)(asked).reshape(-1, 2)
    first = labels[TRUTH == 0]
    both = ((first == 0).sum(1) == 2).sum()
    low, high = binom.interval(1 - 1e-5, len(first), CONFUSION[0, 0, 0] * CONFUSION[1, 0, 0])
    assert low <= both <= high


def test_neither_order_nor_grouping_matters() -> None:
    asked = everybody(200, 2)
    together = SimulatedAnnotators(TRUTH, CONFUSION, seed=1)(asked)
    order = np.random.default_rng(0).permutation(len(asked))
    oracle = SimulatedAnnotators(TRUTH, torch.from_numpy(CONFUSION), seed=1)
    one_by_one = np.empty_like(together)
    for query in order:
        index, annotator = asked.key(query)
        one_by_one[query] = oracle(Queries([index], annotator=[annotator], classes=CLASSES))[0]
    assert (one_by_one == together).all()
    assert (oracle(asked) == together).all()
    other = SimulatedAnnotators(TRUTH, CONFUSION, seed=2)(asked)
    assert (other != together).any()


def test_repeats_are_new_answers_where_wanted() -> None:
    again = Queries([0] * 3000, annotator=[0] * 3000, classes=CLASSES)
    same = SimulatedAnnotators(TRUTH, CONFUSION, seed=1)(again)
    assert len(set(same.tolist())) == 1
    oracle = SimulatedAnnotators(TRUTH, CONFUSION, seed=1, independent_repeats=True)
    fresh = oracle(again)
    assert fresh[0] == same[0]
    low, high = binom.interval(1 - 1e-6, 3000, CONFUSION[0, 0, 0])
    assert low <= (fresh == 0).sum() <= high
    assert (oracle(again) != fresh).any()


def test_without_an_annotator_somebody_answers() -> None:
    oracle = SimulatedAnnotators(TRUTH, CONFUSION, seed=1)
    asked = Queries(np.arange(4000), classes=CLASSES)
    labels, who = oracle.answers(asked)
    low, high = binom.interval(1 - 1e-6, 4000, 0.5)
    assert low <= who.sum() <= high
    named = Queries(asked.index, annotator=who, classes=CLASSES)
    assert (oracle(named) == labels).all()
    assert (oracle(asked) == labels).all()


def test_impossible_answers_never_come() -> None:
    tables = [[[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]]]
    labels = SimulatedAnnotators(TRUTH, tables, seed=0)(everybody(len(TRUTH), 1))
    assert (labels[TRUTH == 0] == 1).all()
    assert set(labels[TRUTH == 1]) == {0, 2}
    assert (labels[TRUTH == 2] == 2).all()


def test_one_table_is_one_annotator() -> None:
    oracle = SimulatedAnnotators([2, 0], np.eye(3), seed=0)
    assert oracle.n_annotators == 1
    assert oracle(Queries([0, 1], classes=CLASSES)).tolist() == [2, 0]
    assert oracle.can_answer([0, 1, 2], [0, 1, 0]).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth": [0, 3]}, "truth: expected positions below 3"),
        ({"truth": [0, -1]}, "truth: expected positions from 0 on"),
        ({"truth": []}, "truth: expected at least one"),
        ({"truth": [0.0]}, "truth: expected a vector of integers"),
        ({"confusion": np.ones((2, 3, 3))}, "confusion: expected rows that sum to one"),
        ({"confusion": np.ones((2, 3, 4)) / 4}, "confusion: expected shape"),
        ({"confusion": np.ones(3) / 3}, "confusion: expected shape"),
        ({"confusion": np.zeros((0, 3, 3))}, "confusion: expected shape"),
        ({"confusion": np.full((1, 3, 3), np.nan)}, "confusion: expected probabilities"),
        ({"confusion": [[1.5, -0.5], [0, 1]]}, "confusion: expected probabilities"),
        ({"confusion": "good"}, "confusion: expected an array of numbers"),
        ({"confusion": [[1.0], [0.5, 0.5]]}, "confusion: expected an array of numbers"),
    ],
)
def test_simulation_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SimulatedAnnotators(**{"truth": [0, 1], "confusion": CONFUSION, **options})


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": 0.5}, {"independent_repeats": 1}])
def test_simulation_refuses_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        SimulatedAnnotators([0, 1], CONFUSION, **options)


def test_simulation_refuses_strangers() -> None:
    oracle = SimulatedAnnotators([0, 1], CONFUSION)
    with pytest.raises(DataError, match="annotator: expected positions below 2"):
        oracle(Queries([0], annotator=[2], classes=CLASSES))
    with pytest.raises(DataError, match="index: expected positions below 2"):
        oracle(Queries([2], classes=CLASSES))
    with pytest.raises(DataError, match="classes: expected 3"):
        oracle(Queries([0], classes=("cat", "dog")))


# -- recorded ------------------------------------------------------------------------------------


def sparse_crowd(seed: int = 0) -> Annotations:
    """About a third of 40 × 6 pairs, each at most once."""
    rng = np.random.default_rng(seed)
    task, annotator = np.nonzero(rng.random((40, 6)) < 0.35)
    return Annotations.from_arrays(
        task,
        annotator,
        np.array(CLASSES)[rng.integers(0, 3, len(task))],
        tasks=np.arange(40),
        annotators=np.arange(6),
        classes=CLASSES,
    )


def test_only_recorded_pairs_are_answered() -> None:
    crowd = sparse_crowd()
    oracle = RecordedAnswers(crowd)
    asked = everybody(40, 6)
    said = np.full((40, 6), -1)
    said[crowd.task, crowd.annotator] = crowd.label
    assert (oracle(asked) == said.ravel()).all()
    assert (oracle.can_answer(asked.index, asked.annotator) == (said.ravel() >= 0)).all()
    # What a person said of a point does not wear out.
    assert (oracle(asked) == said.ravel()).all()


def test_without_an_annotator_each_answer_comes_once() -> None:
    crowd = sparse_crowd()
    oracle = RecordedAnswers(crowd, seed=4)
    got: list[tuple[int, int, int]] = []
    points = np.arange(40)
    while (able := oracle.can_answer(points)).any():
        labels, who = oracle.answers(Queries(points[able], classes=CLASSES))
        assert (labels >= 0).all()
        got += zip(points[able].tolist(), who.tolist(), labels.tolist(), strict=True)
    columns = (crowd.task, crowd.annotator, crowd.label)
    recorded = list(zip(*(column.tolist() for column in columns), strict=True))
    assert sorted(got) == sorted(recorded)
    assert oracle(Queries(points, classes=CLASSES)).tolist() == [-1] * 40
    oracle.reset()
    assert oracle.can_answer(points).sum() == len(np.unique(crowd.task))


def test_the_order_is_seeded_and_owes_nothing_to_the_questions() -> None:
    crowd = sparse_crowd()
    points = np.flatnonzero(np.bincount(crowd.task, minlength=40) >= 2)
    twice = Queries(np.repeat(points, 2), classes=CLASSES)
    first, second = RecordedAnswers(crowd, seed=1), RecordedAnswers(crowd, seed=1)
    together = first.answers(twice)
    for position in np.random.default_rng(0).permutation(len(points)):
        one = Queries([points[position]] * 2, classes=CLASSES)
        expected = together.annotator[2 * position : 2 * position + 2]
        assert second.answers(one).annotator.tolist() == expected.tolist()
    others = RecordedAnswers(crowd, seed=2).answers(twice).annotator
    assert (others != together.annotator).any()


def test_an_answer_that_was_asked_for_by_name_is_given() -> None:
    crowd = Annotations.from_arrays([0, 0, 1], [0, 1, 1], ["a", "b", "b"])
    oracle = RecordedAnswers(crowd)
    assert oracle(Queries([0], annotator=[1], classes=("a", "b"))).tolist() == [1]
    labels, who = oracle.answers(Queries([0, 0], classes=("a", "b")))
    assert labels.tolist() == [0, -1]
    assert who.tolist() == [0, -1]


def test_positions_will_do_for_names() -> None:
    crowd = Annotations.from_arrays([0, 1], [0, 0], ["cat", "dog"])
    assert RecordedAnswers(crowd)(Queries([1, 0], classes=(0, 1))).tolist() == [1, 0]
    turned = Annotations.from_arrays([0, 1], [0, 0], [0, 1], classes=[1, 0])
    with pytest.raises(DataError, match="classes: expected those of the recorded answers"):
        RecordedAnswers(turned)(Queries([1, 0], classes=(0, 1)))


def test_replay_refuses() -> None:
    crowd = sparse_crowd()
    with pytest.raises(DataError, match="annotations: expected Annotations, got list"):
        RecordedAnswers([])  # type: ignore[arg-type]
    design = Annotations.from_arrays([0], [0], None, classes=["a", "b"])
    with pytest.raises(DataError, match="annotations: expected recorded labels"):
        RecordedAnswers(design)
    with pytest.raises(OptionError, match="seed"):
        RecordedAnswers(crowd, seed=-1)
    oracle = RecordedAnswers(crowd)
    with pytest.raises(DataError, match="index: expected positions below 40"):
        oracle(Queries([40], classes=CLASSES))
    with pytest.raises(DataError, match="annotator: expected positions below 6"):
        oracle.can_answer([0], [6])
    with pytest.raises(DataError, match="annotator: expected 2 positions, got 1"):
        oracle.can_answer([0, 1], [0])
    named = RecordedAnswers(Annotations.from_arrays([0, 0], [0, 1], ["cat", "dog"]))
    with pytest.raises(DataError, match="classes: expected those of the recorded answers"):
        named(Queries([0], classes=("dog", "cat")))
