"""Active learning given what users give it: odd pools, broken answers, folders of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.inference import MAP, FitError, InferenceError, Laplace, OptionError
from likely.inference.active import (
    ActiveLearner,
    ArrayOracle,
    Budget,
    Committee,
    CoreSet,
    ErrorReduction,
    GainBelowCost,
    IntervalEstimation,
    Joint,
    LabelledSet,
    LabellingStopped,
    LeastError,
    Picks,
    Plateau,
    PointThenPerson,
    Pointwise,
    SimulatedAnnotators,
    annotator_intervals,
    cohen_kappa,
)
from likely.inference.errors import ProgramError
from likely.models import LogisticRegression

N = 40
X = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 2)))
LABELS = (X[:, 0] > 0.2).long()
PEOPLE = SimulatedAnnotators(LABELS, torch.eye(2).repeat(3, 1, 1))


def learner(**options: Any) -> ActiveLearner:
    defaults: dict[str, Any] = {
        "program": LogisticRegression(),
        "engine": MAP(),
        "acquisition": "margin",
        "oracle": ArrayOracle(LABELS),
        "batch_size": 4,
        "stopping": Budget(8),
    }
    return ActiveLearner(**{**defaults, **options})


@pytest.mark.parametrize("pool", [None, 5, "abc", {"a": 1}, {1, 2}, torch.tensor(3.0)])
def test_what_is_no_pool_is_named(pool: Any) -> None:
    with pytest.raises(OptionError, match="pool must be an array, a tensor"):
        learner().run(pool)


def test_a_point_without_a_prediction_is_named_by_its_row() -> None:
    pool = X.clone()
    pool[37] = torch.nan
    with pytest.raises(ProgramError, match=r"no probabilities .* point 37"):
        learner(seed=1).run(pool)


def test_pools_of_all_kinds_ask_the_same() -> None:
    asked = learner().run(X).labelled.index.tolist()
    frame = pd.DataFrame(X.numpy(), index=np.arange(N)[::-1])
    for pool in (X.numpy(), frame, X.tolist()):
        assert learner().run(pool).labelled.index.tolist() == asked


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (X, r"test: expected \(x, labels\)"),
        ((X,), r"test: expected \(x, labels\)"),
        ((X, LABELS[:5]), "one label for each of at least one point, got 40 and 5"),
        ((X, LABELS + 5), "test labels: expected positions below 2"),
        ((X, LABELS - 1), "test labels: expected positions from 0"),
        ((X, ["a"] * N), "test labels: expected a vector of integers"),
        ((X[:0], LABELS[:0]), "at least one point, got 0 and 0"),
    ],
)
def test_bad_test_points_are_named_before_anybody_is_asked(test: Any, message: str) -> None:
    def nobody(queries: Any) -> Any:
        raise AssertionError("asked")

    with pytest.raises(DataError, match=message):
        learner(oracle=nobody).run(X, test=test)


def test_test_labels_may_be_a_series_of_a_shuffled_frame() -> None:
    series = pd.Series(LABELS.numpy(), index=np.arange(N)[::-1] + 7)
    found = learner().run(X, test=(X, series)).history["metric"]
    np.testing.assert_array_equal(found, learner().run(X, test=(X, LABELS)).history["metric"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth": ["last"]}, "truth must be 'last'"),
        ({"committee": 5}, "committee must be a Committee, got 5"),
        ({"annotators": LeastError}, "annotators must be a function"),
        ({"call": None}, "call must be a function"),
        ({"classes": 5}, "classes must be 2 names, got 5"),
        ({"costs": "a"}, "costs must be numbers"),
        ({"acquisition": ErrorReduction}, "must be an instance, got the class ErrorReduction"),
        ({"stopping": Budget}, "stopping must hold rules"),
        ({"call": lambda x, y: x}, "call must return the program's positional"),
        ({"metric": lambda p, y: "good"}, "metric must return a number, got 'good'"),
        ({"acquisition": lambda p: None}, "one score for each of .* got NoneType"),
        ({"acquisition": Joint("j", lambda p, b, s: None)}, r"must return \(indices, scores\)"),
        ({"acquisition": Joint("j", lambda p, b, s: ([0, 0], [1, 1]))}, "choose different rows"),
        ({"acquisition": Joint("j", lambda p, b, s: ([0, 99], [1, 1]))}, "hold positions among"),
        ({"acquisition": CoreSet(lambda x: x[:3])}, "a vector for each of the 40 points"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        learner(engine=Laplace(draws=3), **options).run(X, test=(X, LABELS))


def test_parts_check_their_own_options() -> None:
    for make, message in (
        (lambda: Pointwise("z", 3), "score must be a function"),
        (lambda: Pointwise("z", torch.sum, "much"), "needs must be one of"),
        (lambda: Joint("z", 3), "choose must be a function"),
        (lambda: CoreSet(3), "features must be a function"),
        (lambda: LeastError(truth=5), "truth must be"),
        (lambda: PointThenPerson("x"), "acquisition must be one of"),
        (lambda: PointThenPerson("entropy", 4), "person must be a function"),
        (lambda: IntervalEstimation("a"), "share must be from 0 to 1"),
        (lambda: IntervalEstimation(level=3), "level must be between 0 and 1"),
        (lambda: annotator_intervals(LabelledSet.empty(2), -1), "n_annotators must be"),
        (lambda: annotator_intervals("x", 2), "labelled must be a LabelledSet"),
        (lambda: LabelledSet.empty(1), "n_classes must be"),
        (lambda: cohen_kappa([0, -1], [0, 1]), "first: expected positions"),
        (lambda: LabelledSet([0.5], [1], [-1], [0], 2), "index: expected a vector of integers"),
        (lambda: LabellingStopped(["a"]), "labels: expected a vector of integers"),
    ):
        with pytest.raises((InferenceError, DataError), match=message):
            make()
    assert cohen_kappa([0, 0, 1, 1], torch.tensor([0, 0, 1, 0])) == 0.5


@pytest.mark.parametrize("value", [torch.nan, 3.0, -1.0])
def test_a_truth_that_is_no_probability_is_refused(value: float) -> None:
    answers = LabelledSet.empty(2).add([0], [1])
    with pytest.raises(DataError, match="truth must be probabilities"):
        answers.posterior(lambda annotations: torch.full((1, 2), value))


def test_a_rule_without_what_it_looks_at_is_refused_or_silent() -> None:
    with pytest.raises(OptionError, match=r"Plateau looks at the metric.*test="):
        learner(stopping=Plateau(2)).run(X)
    # Random sampling expects nothing of any point; it does not expect that points bring nothing.
    found = learner(acquisition="random", stopping=[GainBelowCost(0.5), Budget(12)]).run(X)
    assert found.stopped == "budget of 12 answers is spent"
    assert isinstance(learner(stopping=lambda progress: True).run(X).stopped, str)


def test_the_gain_of_a_batch_chosen_together_is_that_of_its_best_point() -> None:
    known = LabelledSet.empty(2).add(np.arange(6), LABELS[:6])
    gains = {
        name: learner(acquisition=name, engine=Laplace(draws=8), stopping=Budget(12))
        .run(X, initial=known)
        .history["gain"][0]
        for name in ("bald", "batch_bald", "power_bald", "sparse_subset")
    }
    np.testing.assert_allclose(list(gains.values()), gains["bald"], rtol=1e-9)


def test_arguments_of_another_order_are_trained_on_and_predicted_with() -> None:
    def program(labels: Any, *, features: Any, weights: Any = None) -> Any:
        return LogisticRegression()(features, labels, weights=weights)

    def call(x: Any, labels: Any) -> Any:
        return (labels,), {"features": x}

    for acquisition in ("margin", ErrorReduction(shortlist=2)):
        other = learner(program=program, call=call, acquisition=acquisition).run(X)
        plain = learner(acquisition=acquisition).run(X)
        assert other.labelled.index.tolist() == plain.labelled.index.tolist()


def test_pools_of_words_are_learnt_from() -> None:
    words = ["good film", "bad film", "nice", "awful", "good nice", "awful bad"] * 5
    labels = torch.tensor([1, 0] * 15)
    known = sorted({word for text in words for word in text.split()})

    def counts(texts: Any) -> torch.Tensor:
        rows = [[float(word in text.split()) for word in known] for text in texts]
        return torch.tensor(rows, dtype=torch.float64)

    def program(texts: Any, y: Any = None) -> Any:
        return LogisticRegression()(counts(texts), y)

    for acquisition in ("margin", ErrorReduction(shortlist=2), CoreSet(counts)):
        own = learner(program=program, acquisition=acquisition, oracle=ArrayOracle(labels))
        assert own.run(words, test=(words, labels)).history["metric"].iloc[-1] > 0.7
    with pytest.raises(OptionError, match=r"CoreSet\(features=...\)"):
        learner(program=program, acquisition="core_set", oracle=ArrayOracle(labels)).run(words)


def test_an_error_of_the_oracle_loses_no_earlier_answer(tmp_path: Path) -> None:
    def oracle(queries: Any) -> Any:
        if len(asked) == 2:
            raise RuntimeError("no connection")
        asked.append(queries.index)
        return LABELS.numpy()[queries.index]

    asked: list[Any] = []
    with pytest.raises(RuntimeError, match="no connection"):
        learner(oracle=oracle, stopping=Budget(12)).run(X, path=tmp_path)
    found = learner(stopping=Budget(12)).run(X, path=tmp_path)
    assert found.labelled.index[:8].tolist() == np.concatenate(asked).tolist()


def test_folders_that_cannot_be_written_are_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below", 5, ""):
        with pytest.raises(FitError, match="path: "):
            learner(oracle=lambda queries: 1 / 0).run(X, path=path)


def test_state_is_plain_json_and_comes_back_as_it_was(tmp_path: Path) -> None:
    own = learner(
        seed=np.int64(3), n_classes=np.int64(2), acquisition="core_set", cold_start=1,
        metric=lambda p, y: torch.tensor(0.5),
    )  # fmt: skip
    found = own.run(X, test=(X, LABELS), path=tmp_path)

    def none(word: str) -> None:
        raise AssertionError(word)

    json.loads((tmp_path / "state.json").read_text(), parse_constant=none)
    again = own.run(X, test=(X, LABELS), path=tmp_path)
    pd.testing.assert_frame_equal(
        again.history.drop(columns="seconds"), found.history.drop(columns="seconds")
    )


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("about", None), ("about", [1]), ("answers", []), ("answers", "x"), ("rows", [1]),
        ("rows", [{"round": 0}]), ("n_classes", [1]), ("refused", [1]),
    ],
)  # fmt: skip
def test_damaged_states_are_named(tmp_path: Path, part: str, value: Any) -> None:
    learner().run(X, path=tmp_path, rounds=1)
    content = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(content | {part: value}))
    with pytest.raises(FitError, match=r"state.json is not a learner's state"):
        learner().run(X, path=tmp_path)


def test_runs_about_other_points_programs_and_people_are_refused(tmp_path: Path) -> None:
    learner(oracle=PEOPLE).run(X, path=tmp_path, rounds=2)

    def other(x: Any, y: Any = None) -> Any:
        return LogisticRegression()(x, y)

    with pytest.raises(FitError, match="with pool = "):
        learner(oracle=PEOPLE).run(X + 1, path=tmp_path)
    with pytest.raises(FitError, match=r"with program = 'LogisticRegression', and .* 'other'"):
        learner(oracle=PEOPLE, program=other).run(X, path=tmp_path)
    alone = SimulatedAnnotators(LABELS, torch.eye(2))
    with pytest.raises(OptionError, match="answers of annotator 2, and the oracle has 1"):
        learner(oracle=alone).run(X, path=tmp_path)
    with pytest.raises(OptionError, match="initial must be a LabelledSet, got list"):
        learner().run(X, initial=[0, 1])


def test_a_run_that_ended_cold_goes_on_where_there_are_more_answers(tmp_path: Path) -> None:
    few = torch.full((N,), -1)
    few[:3] = 0
    assert learner(oracle=ArrayOracle(few), stopping=()).run(X, path=tmp_path).fits
    found = learner().run(X, path=tmp_path)
    assert found.stopped == "budget of 8 answers is spent"


def test_a_strategy_may_not_choose_what_was_not_offered() -> None:
    class Stubborn:
        name, needs = "stubborn", "nothing"

        def select(self, context: Any, batch_size: int) -> Picks:
            return Picks(np.arange(batch_size), np.zeros(batch_size))

    with pytest.raises(OptionError, match="different rows of the pool among the candidates"):
        learner(acquisition=Stubborn(), cold_start=1).run(X)


def test_committees_of_restarts_and_bootstraps_are_as_large_as_they_say() -> None:
    for kind in ("bootstrap", "restarts"):
        own = learner(acquisition="vote_entropy", committee=Committee(2, kind))
        assert len(own.run(X).fits) == 2
