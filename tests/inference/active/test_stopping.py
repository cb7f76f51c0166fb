"""Rules that end the asking."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from likely.inference import MAP, Laplace, OptionError
from likely.inference.active import (
    ActiveLearner,
    ArrayOracle,
    Budget,
    GainBelowCost,
    Plateau,
    Progress,
    StablePredictions,
    cohen_kappa,
)
from likely.models import LogisticRegression

X = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 2)))
LABELS = (X[:, 0] > 0.2).long()


def progress(**columns: Any) -> Progress:
    frame = pd.DataFrame({"n_answers": [0], "cost": [0.0], "metric": [np.nan], **columns})
    return Progress(frame, ())


def run(stopping: Any, **options: Any) -> Any:
    learner = ActiveLearner(
        program=LogisticRegression(),
        engine=options.pop("engine", MAP()),
        acquisition=options.pop("acquisition", "margin"),
        oracle=ArrayOracle(LABELS),
        batch_size=2,
        stopping=stopping,
        **options,
    )
    return learner.run(X, test=(X, LABELS))


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 4, (2, 50))
    assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_kappa_of_constants() -> None:
    zeros = np.zeros(5, dtype=np.int64)
    assert cohen_kappa(zeros, zeros) == 1.0
    assert cohen_kappa(zeros, zeros + 1) == 0.0


def test_a_budget_is_kept_to_the_last_answer() -> None:
    found = run(Budget(7))
    assert len(found.labelled) == 7
    assert found.stopped == "budget of 7 answers is spent"


def test_a_plateau_is_a_metric_that_does_not_rise() -> None:
    rising = progress(n_answers=range(6), cost=[0.0] * 6, metric=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert Plateau(3)(rising) is None
    flat = progress(n_answers=range(6), cost=[0.0] * 6, metric=[0.1, 0.6, 0.6, 0.59, 0.6, 0.6])
    assert "has not risen" in str(Plateau(3)(flat))
    assert Plateau(5)(flat) is None  # the rise to .6 is one of the last five
    assert Plateau(3)(progress()) is None
    found = run(Plateau(4, tol=0.0))
    metric = found.history["metric"].dropna().to_numpy()
    assert metric[-4:].max() <= metric[:-4].max()
    assert "for 4 rounds" in found.stopped


def test_stable_predictions_stop_as_soon_as_kappa_says_so() -> None:
    found = run(StablePredictions(0.97, rounds=3))
    assert found.stopped.startswith("predictions are stable: kappa")
    # The same run without the rule: kappa of the fits, by hand.
    asked = [i for row in found.history["indices"] for i in row]
    seen = []
    for n in range(2, len(asked) + 1, 2):
        labels = LABELS[asked[:n]]
        if len(labels.unique()) < 2:
            continue
        fit = MAP().fit(LogisticRegression(), X[asked[:n]], labels)
        logits = fit.params["intercept"] + X @ fit.params["coefficients"]
        seen.append((logits > 0).long().numpy())
    kappas = [cohen_kappa(a, b) for a, b in pairwise(seen)]
    means = [np.mean(kappas[i - 2 : i + 1]) for i in range(2, len(kappas))]
    assert means[-1] >= 0.97
    assert max(means[:-1], default=0.0) < 0.97


def test_an_answer_that_costs_more_than_it_brings_is_not_asked() -> None:
    found = run(GainBelowCost(0.25), acquisition="bald", engine=Laplace(draws=50))
    gain = found.history["gain"].dropna().to_numpy()
    assert gain[-1] < 0.25
    assert (gain[:-1] >= 0.25).all()
    assert found.stopped.startswith("expected gain")


def test_several_rules_and_own_ones() -> None:
    assert run([Budget(50), Plateau(2, tol=1.0)]).stopped.startswith("the metric")
    found = run(lambda progress: "enough" if len(progress.history) > 4 else None)
    assert found.stopped == "enough"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(), "answers or cost must be given"),
        (lambda: Budget(0), "answers must be an integer of at least 1"),
        (lambda: Budget(cost=-1.0), "cost must be a positive"),
        (lambda: Plateau(0), "rounds must be"),
        (lambda: Plateau(tol=-1.0), "tol must be"),
        (lambda: StablePredictions(1.5), "kappa must be at most 1"),
        (lambda: StablePredictions(rounds=0), "rounds must be"),
        (lambda: GainBelowCost(0.0), "cost must be a positive"),
        (lambda: cohen_kappa(np.zeros(0, dtype=int), np.zeros(0, dtype=int)), "of equal length"),
    ],
)
def test_bad_rules_are_refused(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
