"""The pool-based loop: what it asks, remembers, refuses, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.inference import MAP, MLE, FitError, Laplace, OptionError
from likely.inference.active import (
    ActiveLearner,
    ArrayOracle,
    Budget,
    Committee,
    CoreSet,
    LabelledSet,
    LabellingStopped,
    Picks,
    entropy,
)
from likely.inference.active.strategies import ACQUISITIONS
from likely.models import LogisticRegression, NaiveBayes, SoftmaxRegression

N = 80
X = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 2)))
LABELS = (X[:, 0] + 0.5 * X[:, 1] > 0.3).long()
TIMES = ["seconds"]


def learner(**options: Any) -> ActiveLearner:
    defaults: dict[str, Any] = {
        "program": LogisticRegression(),
        "engine": MAP(),
        "acquisition": "margin",
        "oracle": ArrayOracle(LABELS),
        "batch_size": 4,
        "stopping": Budget(24),
    }
    return ActiveLearner(**{**defaults, **options})


def without_times(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns=TIMES)


def test_history_says_what_was_asked_and_what_it_brought() -> None:
    found = learner().run(X, test=(X, LABELS))
    history = found.history
    assert found.stopped == "budget of 24 answers is spent"
    assert history["n_answers"].tolist() == [0, 4, 8, 12, 16, 20, 24]
    asked = np.concatenate(history["indices"].tolist()).astype(int)
    assert len(set(asked.tolist())) == 24
    assert np.concatenate(history["labels"].tolist()).tolist() == LABELS[asked].tolist()
    assert sorted(asked) == found.labelled.points.tolist()
    guess = torch.sigmoid(found.fit.params["intercept"] + X @ found.fit.params["coefficients"])
    assert history["metric"].iloc[-1] == float(((guess > 0.5) == LABELS).double().mean())


def test_each_batch_is_the_acquisitions_choice_at_the_fit_of_the_labels_before() -> None:
    found = learner(acquisition="entropy").run(X)
    row = found.history.iloc[3]
    before = np.concatenate(found.history["indices"].iloc[:3].tolist()).astype(int)
    fit = MAP().fit(LogisticRegression(), X[before], LABELS[before])
    logits = fit.params["intercept"] + X @ fit.params["coefficients"]
    p = torch.sigmoid(logits)
    scores = entropy(torch.stack([1 - p, p], -1))
    scores[before] = -1.0
    assert row["indices"] == scores.argsort(descending=True)[:4].tolist()
    assert row["scores"] == pytest.approx(scores.sort(descending=True).values[:4].tolist(), 1e-6)


def test_same_seed_same_questions_another_seed_others() -> None:
    first, second = learner(seed=3).run(X), learner(seed=3).run(X)
    pd.testing.assert_frame_equal(without_times(first.history), without_times(second.history))
    other = learner(seed=4).run(X)
    assert other.history["indices"].iloc[0] != first.history["indices"].iloc[0]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_saved_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path, stop_after: int) -> None:
    own = learner(acquisition="bald", engine=Laplace(draws=20))
    whole = own.run(X, test=(X, LABELS))
    part = own.run(X, test=(X, LABELS), path=tmp_path / "run", rounds=stop_after)
    assert part.stopped == f"{stop_after} rounds are done"
    rest = own.run(X, test=(X, LABELS), path=tmp_path / "run")
    pd.testing.assert_frame_equal(without_times(rest.history), without_times(whole.history))
    for name, value in whole.fit.params.items():
        assert torch.equal(rest.fit.params[name], value)
    # A run that had ended stays as it was.
    again = own.run(X, test=(X, LABELS), path=tmp_path / "run")
    pd.testing.assert_frame_equal(without_times(again.history), without_times(whole.history))


class Killer(ArrayOracle):
    """Kills the process at its third call."""

    calls = 0

    def __call__(self, queries: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(queries)


def _killed(path: str) -> None:
    learner(oracle=Killer(LABELS)).run(X, path=path)


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['_killed'](sys.argv[2])"
    command = [sys.executable, "-P", "-c", code, __file__, str(tmp_path)]
    done = subprocess.run(command, timeout=120, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert json.loads((tmp_path / "state.json").read_text())["rows"]
    resumed = learner().run(X, path=tmp_path)
    whole = learner().run(X)
    pd.testing.assert_frame_equal(without_times(resumed.history), without_times(whole.history))


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    learner().run(X, path=tmp_path, rounds=1)
    with pytest.raises(FitError, match="seed = 0, and this one has 1"):
        learner(seed=1).run(X, path=tmp_path)
    with pytest.raises(FitError, match="points = 80"):
        learner().run(X[:50], path=tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(FitError, match="not a learner's state"):
        learner().run(X, path=tmp_path)


def test_ctrl_c_keeps_the_answers_that_are_in(tmp_path: Path) -> None:
    calls = []

    def oracle(queries: Any) -> Any:
        calls.append(queries.index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return LABELS.numpy()[queries.index]

    found = learner(oracle=oracle).run(X, path=tmp_path)
    assert found.stopped == "interrupted"
    assert len(found.labelled) == 8
    resumed = learner().run(X, path=tmp_path)
    whole = learner().run(X)
    pd.testing.assert_frame_equal(without_times(resumed.history), without_times(whole.history))


def test_an_oracle_that_stops_loses_nothing() -> None:
    calls = []

    def oracle(queries: Any) -> Any:
        calls.append(1)
        labels = LABELS.numpy()[queries.index].copy()
        if len(calls) == 3:
            labels[1:] = -1
            raise LabellingStopped(labels)
        return labels

    found = learner(oracle=oracle).run(X, test=(X, LABELS))
    assert found.stopped == "the oracle stopped"
    assert len(found.labelled) == 9
    # The last answers are in the last fit, too.
    assert found.history["n_answers"].iloc[-1] == 9
    assert np.isfinite(found.history["metric"].iloc[-1])


def test_skipped_points_are_not_asked_again_and_the_pool_runs_out() -> None:
    known = LABELS.clone()
    known[::2] = -1
    asked: list[int] = []

    def oracle(queries: Any) -> Any:
        asked.extend(queries.index.tolist())
        return known.numpy()[queries.index]

    found = learner(oracle=oracle, stopping=(), batch_size=16).run(X)
    assert found.stopped == "nobody has anything more to answer"
    assert sorted(asked) == list(range(N))
    assert found.labelled.points.tolist() == list(range(1, N, 2))


def test_only_points_with_an_answer_are_asked() -> None:
    known = LABELS.clone()
    known[10:] = -1
    found = learner(oracle=ArrayOracle(known), stopping=()).run(X)
    assert found.labelled.points.tolist() == list(range(10))


def test_a_cold_start_asks_until_two_classes_were_seen() -> None:
    rare = torch.zeros(N, dtype=torch.int64)
    rare[7] = 1
    found = learner(oracle=ArrayOracle(rare), stopping=(), batch_size=5, engine=MLE()).run(X)
    cold = found.history["gain"].isna()
    first = next(i for i, row in enumerate(found.history["indices"]) if 7 in row)
    # Drawn at random until the one of the other class is among the answers.
    assert cold.iloc[: first + 1].all()
    assert not cold.iloc[first + 1 : -1].any()


def test_a_class_that_nobody_has_named_yet_has_a_probability() -> None:
    labels = LABELS.clone()
    found = learner(program=SoftmaxRegression(3), oracle=ArrayOracle(labels)).run(X)
    assert found.fit.params["coefficients"].shape == (3, 2)
    assert found.labelled.n_classes == 3


def test_initial_answers_count() -> None:
    initial = LabelledSet.empty(2).add([0, 1, 2, 3, 4], LABELS[:5])
    found = learner(stopping=Budget(9)).run(X, initial=initial)
    assert len(found.labelled) == 9
    assert found.history["n_answers"].tolist() == [5, 9]


def test_a_committee_of_bootstraps_disagrees_and_its_members_start_at_their_last_fits() -> None:
    found = learner(acquisition="vote_entropy", committee=Committee(4)).run(X)
    assert len(found.fits) == 4
    slopes = torch.stack([fit.params["coefficients"] for fit in found.fits])
    assert float(slopes.std(0).min()) > 0
    assert found.history["gain"].max() <= np.log(2) + 1e-12


def test_an_acquisition_of_draws_refuses_a_point_fit_at_once() -> None:
    with pytest.raises(
        OptionError, match=r"'bald' compares posterior draws.*Laplace\(\).*committee"
    ):
        learner(acquisition="bald")
    learner(acquisition="bald", committee=Committee(2))
    learner(acquisition="bald", engine=Laplace())


class Last:
    """Always the last candidates."""

    name, needs = "last", "nothing"

    def select(self, context: Any, batch_size: int) -> Picks:
        return Picks(context.candidates[-batch_size:], np.zeros(batch_size))


def test_own_strategies_and_functions_are_acquisitions() -> None:
    found = learner(acquisition=Last(), cold_start=1).run(X)
    assert found.history["indices"].iloc[-2] == sorted(found.history["indices"].iloc[-2])
    shapes = []

    def score(probabilities: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(probabilities.shape))
        return probabilities[0, :, 0]

    learner(acquisition=score, stopping=Budget(12)).run(X)
    assert shapes[0][0] == 1
    assert shapes[0][2] == 2
    with pytest.raises(OptionError, match="one score for each of"):
        learner(acquisition=lambda p: p[0]).run(X)


@pytest.mark.parametrize("name", sorted(ACQUISITIONS))
def test_every_named_acquisition_fills_its_batches(name: str) -> None:
    engine = MAP() if name == "expected_error_reduction" else Laplace(draws=8)
    found = learner(
        acquisition=name, engine=engine, oracle=ArrayOracle(LABELS[:30]), stopping=Budget(12)
    ).run(X[:30])
    picked = np.concatenate(found.history["indices"].tolist())
    assert len(set(picked.tolist())) == 12


def test_naive_bayes_error_reduction_in_one_pass_is_that_of_refits() -> None:
    pool = (X > 0).double()
    options = {"program": NaiveBayes(2), "acquisition": "expected_error_reduction"}
    one_pass = learner(**options, stopping=Budget(8)).run(pool)

    def program(x: Any, y: Any = None) -> Any:
        return NaiveBayes(2)(x, y)

    refits = learner(**{**options, "program": program}, stopping=Budget(8)).run(pool)
    ours, theirs = one_pass.history, refits.history
    assert ours["indices"].tolist()[:2] == theirs["indices"].tolist()[:2]
    np.testing.assert_allclose(ours["scores"].iloc[1], theirs["scores"].iloc[1], atol=1e-6)


def test_core_set_can_be_given_features() -> None:
    seen = []

    def features(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape)
        return x[:, :1]

    learner(acquisition=CoreSet(features)).run(X)
    assert seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"program": 3}, "program must be a callable"),
        ({"engine": "map"}, "engine must be an engine"),
        ({"acquisition": "nonsense"}, "acquisition must be one of"),
        ({"acquisition": 3}, "acquisition must be a name"),
        ({"oracle": LABELS}, "oracle must be callable"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"stopping": 30}, "stopping must hold rules"),
        ({"n_classes": 1}, "n_classes must be an integer of at least 2"),
        ({"classes": ["a"]}, "classes must be 2 names, got 1"),
        ({"metric": "f1"}, "metric must be one of"),
        ({"seed": -1}, "seed must be"),
        ({"cold_start": 0}, "cold_start must be"),
        ({"truth": "votes"}, "truth must be 'last'"),
        ({"costs": -1.0}, "costs must be finite numbers"),
        ({"costs": [1.0, 2.0]}, "costs must be one number"),
        ({"relabel": 1}, "relabel must be True or False"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        learner(**options).run(X)


def test_bad_answers_and_pools_are_named() -> None:
    with pytest.raises(ValueError, match="labels: expected positions of 2 classes"):
        learner(oracle=lambda queries: queries.index + 5).run(X)
    with pytest.raises(ValueError, match="labels: expected 4, one for each query"):
        learner(oracle=lambda queries: np.zeros(3, dtype=int)).run(X)
    with pytest.raises(OptionError, match="initial must be about the 10 points"):
        learner().run(X[:10], initial=LabelledSet.empty(2).add([11], [0]))
    with pytest.raises(OptionError, match="initial must have 2 classes"):
        learner().run(X, initial=LabelledSet.empty(3))
    with pytest.raises(OptionError, match="pool must hold at least one point"):
        learner().run(X[:0])
