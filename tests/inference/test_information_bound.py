"""Standard errors against repeated data, the Cramér-Rao bound, and statsmodels."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy.special import expit

from likely.inference import MLE
from likely.models import (
    BernoulliModel,
    GaussianModel,
    LogisticRegression,
    PoissonModel,
    PoissonRegression,
)

REPLICATIONS = 200
N = 250
# A right answer fails three of these in a thousand times; the data are fixed.
ERRORS = 3.0
X = torch.as_tensor(np.random.default_rng(9).normal(size=(N, 2)))
WEIGHTS = np.array([-0.3, 0.8, -0.5])
LOGITS = WEIGHTS[0] + X.numpy() @ WEIGHTS[1:]

CASES = {
    "gaussian": (GaussianModel(), (), lambda g: g.normal(3.0, 2.0, N), {"loc": 3.0, "scale": 2.0}),
    "bernoulli": (BernoulliModel(), (), lambda g: g.random(N) < 0.4, {"probability": 0.4}),
    "poisson": (PoissonModel(), (), lambda g: g.poisson(2.5, N), {"rate": 2.5}),
    "logistic": (
        LogisticRegression(),
        (X,),
        lambda g: g.random(N) < expit(LOGITS),
        {"intercept": WEIGHTS[0], "coefficients": WEIGHTS[1:]},
    ),
}


@cache
def repeated(name):
    """Distances from the truth and standard errors [replications, elements], and a bound [n, n]."""
    program, covariates, draw, truth = CASES[name]
    generator = np.random.default_rng(17)
    away, errors = [], []
    for _ in range(REPLICATIONS):
        y = torch.as_tensor(draw(generator), dtype=torch.float64)
        fit = MLE().fit(program, *covariates, y)
        found = fit.standard_errors()
        away.append(
            np.concatenate([np.ravel(fit.params[site].numpy() - truth[site]) for site in truth])
        )
        errors.append(np.concatenate([np.ravel(found[site]) for site in truth]))
    # Information at the truth: that of a fit which is put there.
    fit.params |= {site: torch.as_tensor(value).double() for site, value in truth.items()}
    information = fit.fisher_information("expected", draws=50).matrix
    return np.array(away), np.array(errors), torch.linalg.inv(information).numpy()


@pytest.mark.parametrize("name", CASES)
def test_intervals_cover_the_truth_as_often_as_they_say(name):
    away, errors, _ = repeated(name)
    covered = (np.abs(away) <= 1.959964 * errors).mean(0)
    chance = (0.95 * 0.05 / REPLICATIONS) ** 0.5
    assert (np.abs(covered - 0.95) <= ERRORS * chance).all(), covered
    # The squares of standard normal numbers have mean 1 and variance 2.
    squares = (away / errors) ** 2
    assert (np.abs(squares.mean(0) - 1) <= ERRORS * (2 / REPLICATIONS) ** 0.5).all()


@pytest.mark.parametrize("name", CASES)
def test_estimates_scatter_as_the_cramer_rao_bound_says(name):
    away, errors, bound = repeated(name)
    # A variance estimated from R normal numbers has a relative error of sqrt(2 / R).
    chance = (2 / REPLICATIONS) ** 0.5
    ratio = away.var(0, ddof=1) / bound.diagonal()
    assert (np.abs(ratio - 1) <= ERRORS * chance).all(), ratio
    # Observed information scatters around the expected one, and does so far less.
    mean = (errors**2).mean(0) / bound.diagonal()
    assert (np.abs(mean - 1) <= 0.1).all(), mean


def design():
    generator = np.random.default_rng(4)
    x = generator.normal(size=(400, 3)) * [1.0, 5.0, 0.2]
    return x, generator, sm.add_constant(x)


def compared(fit, peer):
    errors = fit.standard_errors()
    names = ("intercept", "coefficients")
    found = np.concatenate([np.ravel(fit.params[name]) for name in names])
    np.testing.assert_allclose(found, peer.params, rtol=1e-4)
    np.testing.assert_allclose(
        np.concatenate([np.ravel(errors[name]) for name in names]), peer.bse, rtol=1e-4
    )
    assert fit.log_likelihood == pytest.approx(peer.llf, rel=1e-9)


def test_a_logistic_regression_has_the_errors_of_statsmodels():
    x, generator, full = design()
    y = (generator.random(400) < expit(0.3 + x @ [1.0, -0.2, 2.0])).astype(float)
    compared(MLE().fit(LogisticRegression(), x, y), sm.Logit(y, full).fit(disp=0))


def test_a_poisson_regression_has_the_errors_of_statsmodels():
    x, generator, full = design()
    y = generator.poisson(np.exp(0.3 + x @ [0.5, -0.1, 1.0])).astype(float)
    peer = sm.GLM(y, full, family=sm.families.Poisson()).fit(tol=1e-12)
    compared(MLE().fit(PoissonRegression(), x, y), peer)
