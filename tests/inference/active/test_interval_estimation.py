"""How often annotators are right, and who is worth a chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from likely.inference import MAP, OptionError
from likely.inference.active import (
    ActiveLearner,
    Budget,
    Context,
    IntervalEstimation,
    LabelledSet,
    SimulatedAnnotators,
    annotator_intervals,
)
from likely.models import LogisticRegression


def test_published_intervals_to_the_last_digit(published: Any) -> None:
    content = published("ie_annotator_model.json")
    labels = np.array([[-1 if v is None else int(v) for v in row] for row in content["labels"]])
    index, who = np.indices(labels.shape)
    answers = LabelledSet.empty(3).add(index.ravel(), labels.ravel(), who.ravel())
    # Ties of the vote were broken at random there.
    votes = np.array(content["majority_vote"], dtype=np.int64)[answers.points]

    def truth(annotations: Any) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.from_numpy(votes), 3)

    found = annotator_intervals(answers, 5, truth=truth)
    np.testing.assert_allclose(found[["lower", "mean", "upper"]], content["A_perf"], atol=1e-9)


def test_intervals_shrink_with_answers_and_with_the_level() -> None:
    answers = LabelledSet.empty(2).add([0] * 3 + [1] * 3, [0, 0, 0, 1, 1, 1], [0, 1, 2] * 2)
    found = annotator_intervals(answers, 4)
    width = found["upper"] - found["lower"]
    assert width[0] < width[3]
    assert found["answers"].tolist() == [2, 2, 2, 0]
    narrow = annotator_intervals(answers, 4, level=0.5)
    assert ((narrow["upper"] - narrow["lower"]) < width).all()
    with pytest.raises(OptionError, match="level must be between 0 and 1"):
        annotator_intervals(answers, 4, level=1.0)
    with pytest.raises(OptionError, match="n_annotators must be at least 3"):
        annotator_intervals(answers, 2)


def context(answers: LabelledSet, share: float, points: int = 2000) -> Any:
    def pairs(index: Any) -> Any:
        return np.repeat(np.arange(len(index)), 3), np.tile(np.arange(3), len(index))

    own = Context(
        torch.zeros(points, 1), np.arange(points), answers, (), 2, n_annotators=3, pairs=pairs
    )
    return np.bincount(IntervalEstimation(share)(own, np.arange(points)), minlength=3)


def test_only_those_near_the_highest_bound_are_asked_all_alike() -> None:
    # Two who agree and one who contradicts them.
    index, who = np.repeat(np.arange(40), 3), np.tile(np.arange(3), 40)
    answers = LabelledSet.empty(2).add(index, np.where(who == 2, 1, 0), who)
    counts = context(answers, 0.9)
    assert counts[2] == 0
    # Binomial with 2000 draws: five standard deviations are 112.
    assert abs(int(counts[0]) - 1000) < 112
    assert (context(answers, 0.0) > 500).all()
    with pytest.raises(OptionError, match="share must be from 0 to 1"):
        IntervalEstimation(1.5)


def test_a_learner_leaves_poor_annotators() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(150, 2)))
    truth = (x[:, 0] > 0).long()
    good, poor = [[0.95, 0.05], [0.05, 0.95]], [[0.2, 0.8], [0.8, 0.2]]
    learner = ActiveLearner(
        program=LogisticRegression(),
        engine=MAP(),
        acquisition="random",
        oracle=SimulatedAnnotators(truth, [good, good, poor, good], seed=1),
        annotators=IntervalEstimation(),
        relabel=True,
        batch_size=20,
        stopping=Budget(200),
    )
    asked = learner.run(x).labelled.annotator
    counts = np.bincount(asked[100:], minlength=4)
    assert counts[2] < 0.1 * counts.sum()
