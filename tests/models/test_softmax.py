"""Classes that depend linearly on covariates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from scipy.special import log_softmax
from sklearn import linear_model

from likely.envs import DataError
from likely.inference import MAP
from likely.models import LogisticRegression, SoftmaxRegression

N, K, D = 90, 3, 2
VALUES = {
    "intercept": torch.tensor([0.2, -0.1, 0.0], dtype=torch.float64),
    "coefficients": torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=torch.float64),
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, dtype=torch.float64, generator=generator)
    logits = x @ VALUES["coefficients"].T + VALUES["intercept"]
    return x, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


X, Y = data()


def density(program: Any, values: dict[str, torch.Tensor], *args: Any) -> float:
    trace = poutine.trace(poutine.condition(program, values)).get_trace(*args)
    trace.compute_log_prob()
    return float(trace.nodes["y"]["log_prob_sum"])


def test_log_density_is_scipys() -> None:
    logits = X.numpy() @ VALUES["coefficients"].numpy().T + VALUES["intercept"].numpy()
    expected = log_softmax(logits, axis=1)[np.arange(N), Y.numpy()].sum()
    assert density(SoftmaxRegression(K), VALUES, X, Y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [None, np.arange(N) % 3], ids=["equal", "weighted"])
@pytest.mark.parametrize("inverse", [0.1, 10.0])
def test_the_mode_is_scikit_learns(weights: Any, inverse: float) -> None:
    program = SoftmaxRegression(K, intercept_scale=1e4, coefficients_scale=inverse**0.5)
    fit = MAP().fit(program, X, Y, weights=weights)
    reference = linear_model.LogisticRegression(C=inverse, tol=1e-12, max_iter=10_000)
    reference.fit(X, Y, sample_weight=weights)
    np.testing.assert_allclose(fit.params["coefficients"], reference.coef_, atol=1e-5)
    # Only differences of intercepts are told by the data.
    found = fit.params["intercept"] - fit.params["intercept"].mean()
    expected = reference.intercept_ - reference.intercept_.mean()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_two_classes_are_a_logistic_regression() -> None:
    """Normal priors of both classes give their difference twice the variance."""
    y = (Y == 1).long()
    soft = MAP().fit(SoftmaxRegression(2, intercept_scale=1.0, coefficients_scale=1.0), X, y).params
    program = LogisticRegression(intercept_scale=2**0.5, coefficients_scale=2**0.5)
    plain = MAP().fit(program, X, y).params
    for name in plain:
        difference = soft[name][1] - soft[name][0]
        torch.testing.assert_close(difference, plain[name], rtol=0, atol=1e-6)


def test_no_intercept_and_simulation() -> None:
    pyro.set_rng_seed(0)
    n = 20_000
    x = torch.ones(n, D, dtype=torch.float64)
    program = SoftmaxRegression(K, intercept=False)
    assert "intercept" not in poutine.trace(program).get_trace(X, Y).nodes
    assert set(program.initial(X, Y)) == {"coefficients"}
    drawn = poutine.condition(program, VALUES)(x)
    share = torch.bincount(drawn, minlength=K) / n
    expected = VALUES["coefficients"].sum(-1).softmax(-1)
    # Four standard errors are passed once in 16,000 runs.
    error = (expected * (1 - expected) / n).sqrt()
    assert bool(((share - expected).abs() < 4 * error).all())


def test_many_parameter_values_at_once() -> None:
    many = {n: torch.stack([v, 2 * v]).unsqueeze(1) for n, v in VALUES.items()}
    program = SoftmaxRegression(K)
    assert Predictive(program, posterior_samples=many, parallel=True)(X)["y"].shape == (2, N)

    def vectorised() -> None:
        with pyro.plate("draw", 2, dim=-2):
            poutine.condition(program, many)(X, Y)

    trace = poutine.trace(vectorised).get_trace()
    trace.compute_log_prob()
    for row in range(2):
        one = density(program, {n: v[row, 0] for n, v in many.items()}, X, Y)
        assert float(trace.nodes["y"]["log_prob"][row].sum()) == pytest.approx(one, rel=1e-12)


def test_frames_label_the_dimensions() -> None:
    frame = pd.DataFrame(X.numpy(), columns=["age", "dose"])
    coords = SoftmaxRegression(K).coords(frame, Y)
    assert coords["feature"] == ["age", "dose"]
    assert coords["class"] == range(K)
    summary = MAP().fit(SoftmaxRegression(K), frame, Y).summary()
    assert "coefficients[0, dose]" in summary.index


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0], [2.0]], [0, 3], "y must hold classes 0, ..., 2, got 3 at position 1"),
        ([[1.0], [2.0]], [0, -1], "y must hold classes 0, ..., 2, got -1 at position 1"),
        ([[1.0], [2.0]], [0, 0.5], "got 0.5 at position 1"),
        ([[1.0], [2.0]], [0], "y must have one entry per observation: expected 2, got 1"),
        ([[1.0], [math.nan]], [0, 1], "x must be finite"),
        ([1.0, 2.0], None, "x must be two-dimensional"),
    ],
)
def test_wrong_data_are_refused(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SoftmaxRegression(3)(x, y)
    with pytest.raises(DataError, match="n_classes must be an integer >= 2"):
        SoftmaxRegression(1)
