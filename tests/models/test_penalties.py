"""Penalties are priors: posterior modes against scikit-learn's penalised fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from sklearn import linear_model

from likely.inference import MAP, MLE, NUTS, SVI, Laplace
from likely.models import LinearRegression, LogisticRegression, PoissonRegression
from likely.models._linear import Flat

N = 80
SCALE = 0.8


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Covariates [80, 6], real and binary outcomes, weights with zeros."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(N, 6))
    y = 1 + x @ np.array([2.0, -1.0, 0.0, 0.0, 0.5, 0.0]) + generator.normal(size=N)
    weights = generator.integers(0, 4, size=N).astype(float)
    return x, y, (y > 1).astype(float), weights


X, Y, Z, WEIGHTS = data()
WEIGHTED = pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])


def agree(fit: Any, reference: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(
        fit.params["coefficients"], np.ravel(reference.coef_), atol=tolerance
    )
    if "intercept" in fit.params:
        np.testing.assert_allclose(
            fit.params["intercept"], np.squeeze(reference.intercept_), atol=tolerance
        )


@WEIGHTED
@pytest.mark.parametrize("decay", [0.1, 10.0])
@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_is_a_normal_prior(weights: Any, decay: float, intercept: bool) -> None:
    program = LinearRegression(
        intercept=intercept,
        intercept_scale=None,
        scale=SCALE,
        coefficients_scale=SCALE / decay**0.5,
    )
    reference = linear_model.Ridge(alpha=decay, fit_intercept=intercept, solver="cholesky")
    reference.fit(X, Y, sample_weight=weights)
    agree(MAP().fit(program, X, Y, weights=weights), reference, 1e-8)


@WEIGHTED
@pytest.mark.parametrize("inverse", [0.1, 1.0])
def test_weight_decay_of_a_classifier_is_a_normal_prior(weights: Any, inverse: float) -> None:
    program = LogisticRegression(intercept_scale=None, coefficients_scale=inverse**0.5)
    reference = linear_model.LogisticRegression(C=inverse, tol=1e-12, max_iter=10_000)
    reference.fit(X, Z, sample_weight=weights)
    agree(MAP().fit(program, X, Z, weights=weights), reference)


@WEIGHTED
@pytest.mark.parametrize("penalty", [0.01, 0.1, 0.5, 5.0])
@pytest.mark.parametrize("intercept", [True, False])
def test_lasso_is_a_laplace_prior(weights: Any, penalty: float, intercept: bool) -> None:
    total = N if weights is None else weights.sum()
    program = LinearRegression(
        intercept=intercept,
        intercept_scale=None,
        scale=SCALE,
        prior="laplace",
        coefficients_scale=SCALE**2 / (total * penalty),
    )
    reference = linear_model.Lasso(penalty, fit_intercept=intercept, tol=1e-14, max_iter=10**6)
    reference.fit(X, Y, sample_weight=weights)
    fit = MAP().fit(program, X, Y, weights=weights)
    agree(fit, reference, 1e-7)
    # What is not selected is exactly zero.
    np.testing.assert_array_equal(fit.params["coefficients"] == 0, reference.coef_ == 0)


@WEIGHTED
@pytest.mark.parametrize("inverse", [0.1, 1.0])
def test_sparse_classifier_is_a_laplace_prior(weights: Any, inverse: float) -> None:
    program = LogisticRegression(intercept_scale=None, prior="laplace", coefficients_scale=inverse)
    reference = linear_model.LogisticRegression(
        C=inverse, l1_ratio=1, solver="saga", tol=1e-12, max_iter=10**6
    )
    reference.fit(X, Z, sample_weight=weights)
    fit = MAP().fit(program, X, Z, weights=weights)
    agree(fit, reference)
    np.testing.assert_array_equal(fit.params["coefficients"] == 0, reference.coef_[0] == 0)


def test_more_coefficients_than_a_hessian_has_rows() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(120, 150))
    y = x[:, :5].sum(1) + generator.normal(size=120)
    program = LinearRegression(
        intercept_scale=None, scale=1.0, prior="laplace", coefficients_scale=1 / (120 * 0.2)
    )
    reference = linear_model.Lasso(0.2, tol=1e-14, max_iter=10**6).fit(x, y)
    fit = MAP(max_iter=5000).fit(program, x, y)
    agree(fit, reference)
    np.testing.assert_array_equal(fit.params["coefficients"] == 0, reference.coef_ == 0)


def test_an_unknown_scale_goes_with_sparse_coefficients() -> None:
    """At the joint mode the coefficients solve the lasso for the scale that was found."""
    program = LinearRegression(intercept_scale=None, prior="laplace", coefficients_scale=0.05)
    fit = MAP().fit(program, X, Y)
    scale = float(fit.params["scale"])
    reference = linear_model.Lasso(scale**2 / (N * 0.05), tol=1e-14, max_iter=10**6).fit(X, Y)
    agree(fit, reference)


def test_a_flat_prior_is_no_penalty() -> None:
    flat = LinearRegression(intercept_scale=None, coefficients_scale=None, scale=SCALE)
    mode, best = MAP().fit(flat, X, Y), MLE().fit(flat, X, Y)
    reference = linear_model.LinearRegression().fit(X, Y)
    agree(mode, reference, 1e-8)
    agree(best, reference, 1e-8)
    assert mode.log_prior == 0.0


def test_a_flat_prior_says_nothing_and_starts_at_zero() -> None:
    prior = Flat(torch.zeros((), dtype=torch.float64)).expand([3]).to_event(1)
    assert prior.sample().tolist() == [0.0] * 3
    assert float(prior.log_prob(torch.tensor([1.0, -5.0, 1e9]))) == 0.0
    for program in (LinearRegression, LogisticRegression, PoissonRegression):
        trace = poutine.trace(program(intercept_scale=None)).get_trace(torch.tensor(X))
        assert float(trace.nodes["intercept"]["value"]) == 0.0
        assert trace.nodes["y"]["value"].shape == (N,)


@pytest.mark.parametrize(
    "engine",
    [
        SVI(guide="multivariate", max_iter=300, learning_rate=0.05, draws=100),
        Laplace(draws=200),
        NUTS(chains=1, draws=200, warmup=100),
    ],
    ids=lambda engine: engine.name,
)
def test_posterior_engines_take_a_flat_prior(engine: Any) -> None:
    """With a flat prior and a known scale the posterior of the mean is Normal(mean, s / √n)."""
    program = LinearRegression(intercept_scale=None, scale=SCALE, coefficients_scale=1.0)
    # A centred covariate tells nothing of the intercept.
    fit = engine.fit(program, X[:, :1] - X[:, :1].mean(), Y)
    error = SCALE / N**0.5
    draws = fit.draws["intercept"].flatten()
    assert abs(float(fit.params["intercept"]) - Y.mean()) < 0.5 * error
    assert float(draws.std()) == pytest.approx(error, rel=0.3)
