"""Streams of all kinds of points, and made-up points of all kinds of generators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.inference import MAP, OptionError
from likely.inference.active import (
    ActiveLearner,
    ArrayOracle,
    Ascent,
    Budget,
    GainBelowCost,
    LeastError,
    SimulatedAnnotators,
    Threshold,
    ascend,
    stream,
    synthesise,
)
from likely.models import LearningFromCrowds, LogisticRegression

N = 40
X = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 2)))
LABELS = (X[:, 0] > 0.5).long()
PEOPLE = SimulatedAnnotators(LABELS, torch.eye(2).repeat(3, 1, 1))
BOX = ([-3.0, -3.0], [3.0, 3.0])
QUICK = Ascent(starts=8, steps=5)
OFTEN = Threshold(0.5)


def label(queries: Any) -> Any:
    assert not getattr(queries.points, "requires_grad", False)
    return (torch.as_tensor(queries.points)[:, 0] > 0.5).long()


def learner(**options: Any) -> ActiveLearner:
    defaults: dict[str, Any] = {
        "program": LogisticRegression(),
        "engine": MAP(),
        "acquisition": "margin",
        "oracle": ArrayOracle(LABELS),
    }
    return ActiveLearner(**{**defaults, **options})


def test_points_of_all_kinds_are_asked_alike() -> None:
    asked = stream(learner(), X, threshold=OFTEN, refit_every=5).history["asked"]
    frame = pd.DataFrame(X.numpy(), index=np.arange(N)[::-1])
    for points in (X.numpy(), X.tolist(), [tuple(row) for row in X.tolist()], frame):
        other = stream(learner(), points, threshold=OFTEN, refit_every=5)
        assert other.history["asked"].equals(asked)
        assert len(other.points) == asked.sum()


def test_points_may_be_words() -> None:
    def program(texts: Any, y: Any = None) -> Any:
        x = torch.tensor([[float(len(text))] for text in texts], dtype=torch.float64)
        return LogisticRegression()(x - 3, y)

    words = ["a", "abcde", "ab", "abcdef"] * 5
    oracle = ArrayOracle([0, 1] * 10)
    found = stream(learner(program=program, oracle=oracle), words, threshold=OFTEN, refit_every=3)
    assert set(found.points) <= set(words)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (None, "expected an iterable of points, got NoneType"),
        ("words", "expected an iterable of points, got str"),
        ([1.0, 2.0], "got the number 1.0"),
        ([torch.zeros(2), torch.ones(3)] * 9, "points of one kind and shape"),
    ],
)
def test_what_are_no_points_is_named(points: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        stream(learner(), points)


def test_people_are_chosen_and_paid() -> None:
    own = {"oracle": PEOPLE, "annotators": LeastError(), "costs": [1.0, 2.0, 4.0]}
    found = stream(
        learner(**own, stopping=Budget(cost=15.0)), X, threshold=Threshold(0.9), refit_every=3
    )
    assert set(found.labelled.annotator) <= {0, 1, 2}
    price = np.array([1.0, 2.0, 4.0])[found.labelled.annotator].sum()
    assert 11.0 < price <= 15.0
    few = stream(learner(**own, stopping=Budget(cost=3.5)), X, threshold=OFTEN)
    assert found.labelled.annotator[0] == few.labelled.annotator[0]
    assert few.stopped == "what is left of the budget does not pay for another answer"
    crowd = learner(program=LearningFromCrowds(2), oracle=PEOPLE, stopping=Budget(8))
    assert len(stream(crowd, X, threshold=OFTEN, refit_every=4).labelled) == 8


def test_whom_nobody_can_answer_is_not_asked() -> None:
    known = LABELS.clone()
    known[::2] = -1
    history = stream(learner(oracle=ArrayOracle(known)), X, threshold=OFTEN, refit_every=5).history
    assert (history["label"][::2] == -1).all()
    assert (history["label"][1::2] >= 0).any()


def test_what_a_stream_does_not_look_at_is_refused() -> None:
    with pytest.raises(OptionError, match="ends by a Budget only, got GainBelowCost"):
        stream(learner(stopping=GainBelowCost(0.1)), X)
    with pytest.raises(OptionError, match="threshold must be a Threshold, got 3"):
        stream(learner(), X, threshold=3)
    with pytest.raises(DataError, match="test: expected"):
        stream(learner(), X, test=(X,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (None, 1.0)}, "bounds must be numbers"),
        ({"bounds": ("a", 1.0)}, "bounds must be numbers"),
        ({"bounds": ([], [])}, "bounds must be finite"),
        ({"generator": 5}, "generator must be a function"),
        ({"generator": lambda z: None}, "must return a tensor of 1 points"),
        ({"generator": lambda z: z.detach().numpy()}, "must return a tensor of 1 points"),
        ({"generator": lambda z: torch.zeros(7, 2)}, "must return a tensor of 1 points"),
        ({"generator": torch.nn.Linear(2, 2)}, "generator failed with inputs of torch.float64"),
        ({"initial": X[:3]}, r"initial must be \(x, labels\)"),
        ({"initial": (X[:3, :1], [0, 1, 0])}, "initial must hold points of shape"),
        ({"ascent": 5}, "ascent must be an Ascent"),
    ],
)
def test_bad_arguments_of_synthesis_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        synthesise(learner(oracle=label), **{"bounds": BOX, "queries": 2, **options})


def test_a_crowd_program_has_no_gradient_over_points() -> None:
    with pytest.raises(OptionError, match="has no gradient over points"):
        synthesise(learner(program=LearningFromCrowds(2), oracle=PEOPLE), BOX, queries=2)


def test_scores_without_a_number_are_refused() -> None:
    box = (torch.zeros(2), torch.ones(2))
    with pytest.raises(OptionError, match="no point that was tried has a finite score"):
        ascend(lambda x: x.sum(-1) * torch.nan, box, options=QUICK)
    with pytest.raises(OptionError, match="must return one score for each of 8 points"):
        ascend(lambda x: x.sum(), box, options=QUICK)


def test_decoders_of_both_precisions_make_points() -> None:
    torch.manual_seed(0)
    single = torch.nn.Linear(1, 2)
    double = torch.nn.Linear(1, 2).double()
    for generator, low, high in (
        (single, torch.tensor([-3.0]), torch.tensor([3.0])),
        (double, [-3.0], [3.0]),
    ):
        found = synthesise(
            learner(oracle=label), (low, high), queries=4, generator=generator, ascent=QUICK
        )
        assert found.points.shape == (4, 2)
        assert found.points.dtype == generator.weight.dtype
        assert not found.points.requires_grad


def test_ctrl_c_keeps_made_up_points_and_people_are_asked_from_the_start() -> None:
    calls: list[Any] = []

    def oracle(queries: Any) -> Any:
        calls.append(queries.annotator)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return label(queries)

    oracle.n_annotators = 2  # type: ignore[attr-defined]
    own = learner(oracle=oracle, annotators=LeastError())
    found = synthesise(own, BOX, queries=9, ascent=QUICK)
    assert found.stopped == "interrupted"
    assert len(found.points) == len(found.labelled) == 3
    assert all(len(who) == 1 for who in calls)


def test_prices_end_a_synthesis() -> None:
    own = learner(oracle=label, costs=2.0, stopping=Budget(cost=5.0))
    found = synthesise(own, BOX, queries=9, ascent=QUICK)
    assert len(found.labelled) == 2
    assert found.stopped == "what is left of the budget does not pay for another answer"
