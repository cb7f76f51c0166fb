"""Weights of observations: a weight counts a row so many times, and zero leaves it out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import poutine

from likely.envs import DataError
from likely.inference import EM, MAP, MLE
from likely.models import (
    BernoulliModel,
    CategoricalModel,
    GaussianModel,
    LaplaceModel,
    LinearRegression,
    LogisticRegression,
    NaiveBayes,
    PoissonModel,
    PoissonRegression,
)
from likely.models._outcomes import weighted_median

N = 40


@dataclass(frozen=True, eq=False)
class Weighted:
    """A program and its data, rows first."""

    program: Any
    args: tuple[torch.Tensor, ...]

    def repeated(self, counts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(arg.repeat_interleave(counts, 0) for arg in self.args)


def data() -> list[Weighted]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 2, dtype=torch.float64, generator=generator)
    noise = torch.randn(N, dtype=torch.float64, generator=generator)
    real = 0.5 + x @ torch.tensor([1.0, -0.5], dtype=torch.float64) + noise
    binary = (real > 0.5).double()
    counts = (2 * real.abs()).floor()
    classes = torch.randint(0, 3, (N,), generator=generator)
    features = (torch.rand(N, 3, dtype=torch.float64, generator=generator) < 0.5).double()
    features[:, 0] = torch.where(classes == 1, 1.0, features[:, 0])
    labels = torch.where(torch.arange(N) < 25, classes, -1)
    return [
        Weighted(BernoulliModel(2.0, 2.0), (binary,)),
        Weighted(CategoricalModel(3, 2.0), (classes,)),
        Weighted(PoissonModel(), (counts,)),
        Weighted(GaussianModel(), (real,)),
        Weighted(LinearRegression(), (x, real)),
        Weighted(LinearRegression(noise="student"), (x, real)),
        Weighted(LogisticRegression(coefficients_scale=1.0), (x, binary)),
        Weighted(PoissonRegression(), (x, counts)),
        Weighted(NaiveBayes(3), (features, classes)),
        Weighted(NaiveBayes(3), (features, labels)),
        Weighted(NaiveBayes(3, "multinomial"), (features + features.roll(1), labels)),
    ]


CASES = data()
IDS = [f"{type(case.program).__name__}-{i}" for i, case in enumerate(CASES)]
EVERY = pytest.mark.parametrize("case", CASES, ids=IDS)
GRADIENT = [MLE(tol=1e-14), MAP(tol=1e-14)]
STEPS = [EM(tol=1e-15, max_iter=5000), EM(objective="posterior", tol=1e-15, max_iter=5000)]
FITS = [
    (case, engine)
    for case in CASES
    for engine in (STEPS if isinstance(case.program, NaiveBayes) else GRADIENT)
]


def counts_of_rows(seed: int = 1) -> torch.Tensor:
    """Weights of a bootstrap sample, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, N, (N,), generator=generator)
    return torch.bincount(drawn, minlength=N)


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
@pytest.mark.parametrize(("case", "engine"), FITS)
def test_integer_weights_are_repeated_rows(case: Weighted, engine: Any) -> None:
    counts = counts_of_rows()
    assert bool((counts == 0).any())
    weighted = engine.fit(case.program, *case.args, weights=counts)
    repeated = engine.fit(case.program, *case.repeated(counts))
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, rel=1e-8)
    for name, value in repeated.params.items():
        torch.testing.assert_close(weighted.params[name], value, rtol=0, atol=1e-8)


@EVERY
def test_weights_of_one_change_nothing(case: Weighted) -> None:
    plain, weighted = (
        MAP().fit(case.program, *case.args, **options)
        for options in ({}, {"weights": np.ones(N, dtype=int)})
    )
    for name, value in plain.params.items():
        torch.testing.assert_close(weighted.params[name], value, rtol=1e-9, atol=1e-9)


def test_mini_batches_take_the_weights_of_their_rows() -> None:
    case, counts = CASES[4], counts_of_rows()
    rows = torch.tensor([3, 17, 30, 8])
    with poutine.trace() as tracer, Rows(rows):
        poutine.condition(case.program, VALUES)(*case.args, weights=counts)
    tracer.trace.compute_log_prob()
    found = float(tracer.trace.nodes["y"]["log_prob_sum"])
    expected = sum(float(counts[i]) * density(case.program, case.args, i) for i in rows.tolist())
    assert found == pytest.approx(expected * N / 4, rel=1e-12)


VALUES = {
    "intercept": torch.tensor(0.3, dtype=torch.float64),
    "coefficients": torch.tensor([0.8, -0.4], dtype=torch.float64),
    "scale": torch.tensor(1.5, dtype=torch.float64),
}


def density(program: Any, args: tuple[torch.Tensor, ...], row: int) -> float:
    one = [arg[row : row + 1] for arg in args]
    trace = poutine.trace(poutine.condition(program, VALUES)).get_trace(*one)
    trace.compute_log_prob()
    return float(trace.nodes["y"]["log_prob_sum"])


class Rows(poutine.messenger.Messenger):
    """Put subsample indices into the plate ``observation``."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = rows

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "observation":
            msg["value"], msg["done"] = self.rows, True


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
def test_a_row_of_weight_zero_may_be_impossible() -> None:
    """Feature 1 occurs in that row alone, so the optimum gives it no probability."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    fit = EM().fit(NaiveBayes(2), x, [0, 1, 0], weights=[1.0, 1.0, 0.0])
    assert fit.params["feature_probabilities"].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert fit.log_likelihood == pytest.approx(2 * math.log(0.5), rel=1e-12)


def test_weighted_median_minimises_weighted_deviations() -> None:
    generator = torch.Generator().manual_seed(2)
    for n in (1, 2, 5, 8):
        y = torch.randn(n, dtype=torch.float64, generator=generator)
        for weights in (torch.ones(n).double(), torch.rand(n, generator=generator).double()):
            median = weighted_median(y, weights)
            cost = (weights * (y.unsqueeze(-1) - y).abs()).sum(-1).min()
            assert float((weights * (y - median).abs()).sum()) <= float(cost) + 1e-12
    whole = torch.tensor([0.0, 5.0, 1.0, 2.0])
    assert float(weighted_median(whole, torch.tensor([1.0, 0.0, 1.0, 2.0]))) == 1.5


WRONG = [
    ([1.0] * (N - 1), f"weights must have one entry per observation: expected {N}, got {N - 1}"),
    ([[1.0]] * N, "weights must be one-dimensional"),
    ([-1.0] + [1.0] * (N - 1), "weights must hold numbers of at least 0, got -1 at position 0"),
    ([math.nan] + [1.0] * (N - 1), "weights must be finite"),
    ([1.0] * (N - 1) + [math.inf], "weights must be finite"),
    ([0.0] * N, "weights must not be zero for all observations"),
    (["a"] * N, "weights must hold real numbers"),
    ([], "weights is empty"),
]


@EVERY
@pytest.mark.parametrize(("weights", "message"), WRONG)
def test_wrong_weights_are_refused(case: Weighted, weights: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        case.program(*case.args, weights=weights)


def test_weights_may_be_a_series_and_serve_simulation() -> None:
    weights = pd.Series([2.0, 0.0, 1.0])
    for program in (BernoulliModel(), LaplaceModel()):
        assert program(n=3, weights=weights).shape == (3,)
    y = torch.tensor([1.0, 0.0, 0.0])
    assert float(BernoulliModel().initial(y, weights=weights)["probability"]) == 2.5 / 4
    share = MLE().fit(BernoulliModel(), y, weights=weights).params["probability"]
    assert float(share) == pytest.approx(2 / 3, rel=1e-8)
