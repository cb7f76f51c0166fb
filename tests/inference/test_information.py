"""Standard errors against closed forms, at boundaries, and where nothing is identified."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import expit, logsumexp

from likely.inference import (
    EM,
    MAP,
    MLE,
    BoundaryWarning,
    ConvergenceWarning,
    Laplace,
)
from likely.models import (
    BernoulliModel,
    CategoricalModel,
    GaussianModel,
    LinearRegression,
    LogisticRegression,
    PoissonModel,
)


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def finite_differences(function, at, step=1e-4):
    """Hessian [n, n] of a NumPy function by central differences."""
    n = len(at)
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            corners = 0.0
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                x = at.copy()
                x[i] += a * step
                x[j] += b * step
                corners += a * b * function(x)
            matrix[i, j] = corners / (4 * step**2)
    return matrix


# -- closed forms ----------------------------------------------------------------------------


def test_a_mean_and_a_scale():
    y = double(np.random.default_rng(0).normal(3.0, 2.0, 80))
    fit = MLE(tol=1e-14).fit(GaussianModel(), y)
    errors = fit.standard_errors()
    scale = float(y.std(correction=0))
    assert set(errors) == {"loc", "scale"}
    assert float(errors["loc"]) == pytest.approx(scale / math.sqrt(80), rel=1e-6)
    assert float(errors["scale"]) == pytest.approx(scale / math.sqrt(160), rel=1e-6)


def test_a_probability():
    y = double([1] * 13 + [0] * 27)
    errors = MLE(tol=1e-14).fit(BernoulliModel(), y).standard_errors()
    p = 13 / 40
    assert float(errors["probability"]) == pytest.approx(math.sqrt(p * (1 - p) / 40), rel=1e-6)


def test_a_rate():
    y = double([3, 1, 4, 1, 5, 9, 2, 6])
    errors = MLE(tol=1e-14).fit(PoissonModel(), y).standard_errors()
    assert float(errors["rate"]) == pytest.approx(math.sqrt(float(y.mean()) / 8), rel=1e-6)


def test_shares_of_a_multinomial():
    y = torch.tensor([0] * 5 + [1] * 12 + [2] * 3)
    fit = MLE(tol=1e-14).fit(CategoricalModel(3), y)
    shares = double([5, 12, 3]) / 20
    expected = (shares * (1 - shares) / 20).sqrt()
    found = fit.standard_errors()["probabilities"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_linear_regression():
    generator = np.random.default_rng(1)
    x = double(generator.normal(size=(50, 2)) * [1.0, 20.0])
    y = x @ double([1.0, -0.1]) + double(generator.normal(size=50))
    fit = MLE(tol=1e-14).fit(LinearRegression(), x, y)
    design = torch.cat([torch.ones(50, 1).double(), x], 1)
    residual = y - design @ torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    variance = residual.square().mean()
    expected = (variance * torch.linalg.inv(design.T @ design).diagonal()).sqrt()
    errors = fit.standard_errors()
    found = torch.cat([errors["intercept"][None], errors["coefficients"]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    scale_error = variance.sqrt() / math.sqrt(100)
    torch.testing.assert_close(errors["scale"], scale_error, rtol=1e-5, atol=0)


def logistic_data():
    generator = np.random.default_rng(2)
    x = generator.normal(size=(120, 2)) * [1.0, 3.0]
    y = (generator.random(120) < expit(0.4 + x @ [1.0, -0.5])).astype(float)
    return x, y


def test_a_logistic_regression_has_the_errors_of_its_weighted_design():
    x, y = logistic_data()
    fit = MLE(tol=1e-14).fit(LogisticRegression(), x, y)
    design = np.column_stack([np.ones(120), x])
    beta = np.append(fit.params["intercept"], fit.params["coefficients"])
    chance = expit(design @ beta)
    information = (design * (chance * (1 - chance))[:, None]).T @ design
    expected = np.sqrt(np.linalg.inv(information).diagonal())
    errors = fit.standard_errors()
    np.testing.assert_allclose(errors["intercept"], expected[0], rtol=1e-8)
    np.testing.assert_allclose(errors["coefficients"], expected[1:], rtol=1e-8)


def test_the_prior_counts_where_it_was_maximised():
    y = double([1] * 13 + [0] * 27)
    program = BernoulliModel(alpha=4.0, beta=3.0)
    p = 16 / 45
    of_prior = 3 / p**2 + 2 / (1 - p) ** 2
    of_data = 13 / p**2 + 27 / (1 - p) ** 2
    for estimator in (MAP(tol=1e-14), EM(objective="posterior", tol=1e-14)):
        fit = estimator.fit(program, y)
        assert float(fit.params["probability"]) == pytest.approx(p, abs=1e-6)
        errors = fit.standard_errors()
        # At a maximum in the inside the curvature is the same in any coordinates.
        assert float(errors["probability"]) == pytest.approx((of_prior + of_data) ** -0.5, rel=1e-5)
    likelihood = MLE(tol=1e-14).fit(program, y).standard_errors()["probability"]
    share = 13 / 40
    assert float(likelihood) == pytest.approx(math.sqrt(share * (1 - share) / 40), rel=1e-6)


def test_a_posteriors_errors_are_those_of_the_likelihood_at_its_mean():
    # A normal likelihood of the level has the same curvature everywhere.
    def program(y):
        level = pyro.sample("level", dist.Normal(0.0, 0.1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(level, 2.0), obs=y)

    fit = Laplace(draws=50).fit(program, torch.arange(9.0))
    assert float(fit.standard_errors()["level"]) == pytest.approx(2.0 / 3.0, rel=1e-8)


# -- latents ---------------------------------------------------------------------------------


def two_rates(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
    with pyro.plate("count", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)


@pytest.mark.parametrize("estimator", [MLE(tol=1e-13), EM(tol=1e-14, max_iter=5000)])
def test_a_mixture_has_the_curvature_of_its_sum(estimator):
    counts = np.array([0, 1, 1, 2, 0, 3, 9, 12, 8, 10, 1, 2, 11, 7, 0], dtype=float)
    fit = estimator.fit(two_rates, counts)

    def log_likelihood(v):
        log_weights = np.log([v[0], 1 - v[0]])
        terms = log_weights + counts[:, None] * np.log(v[1:]) - v[1:]
        return logsumexp(terms, axis=1).sum()

    at = np.append(fit.params["weights"][:1], fit.params["rate"])
    information = -finite_differences(log_likelihood, at)
    expected = np.sqrt(np.linalg.inv(information).diagonal())
    errors = fit.standard_errors()
    # Central differences with steps of 1e-4 are good to about 1e-6; what EM left to gain, less.
    np.testing.assert_allclose(errors["weights"], [expected[0]] * 2, rtol=1e-4)
    np.testing.assert_allclose(errors["rate"], expected[1:], rtol=1e-4)


# -- boundaries ------------------------------------------------------------------------------


def test_a_boundary_has_no_standard_error():
    with pytest.warns(BoundaryWarning):
        fit = MLE().fit(BernoulliModel(), torch.ones(5))
    with pytest.warns(BoundaryWarning, match="'probability' have elements there, given as nan"):
        errors = fit.standard_errors()
    assert math.isnan(errors["probability"])


def test_certain_classes_have_no_standard_error():
    with pytest.warns(BoundaryWarning):
        fit = MLE().fit(CategoricalModel(3), torch.ones(4))
    with pytest.warns(BoundaryWarning, match="'probabilities'"):
        errors = fit.standard_errors()
    assert bool(errors["probabilities"].isnan().all())


def test_empty_cells_leave_the_others_their_errors():
    y = torch.tensor([0] * 5 + [2] * 12 + [3] * 3)
    with pytest.warns(BoundaryWarning):
        fit = MLE(tol=1e-14).fit(CategoricalModel(4), y)
    with pytest.warns(BoundaryWarning, match="'probabilities'"):
        found = fit.standard_errors()["probabilities"]
    shares = double([5, 12, 3]) / 20
    expected = (shares * (1 - shares) / 20).sqrt()
    assert math.isnan(found[1])
    torch.testing.assert_close(found[[0, 2, 3]], expected, rtol=1e-4, atol=0)


def test_other_sites_keep_their_errors_beside_a_boundary():
    def program(heads, y):
        chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
        level = pyro.sample("level", dist.Normal(0.0, 10.0))
        with pyro.plate("toss", len(heads)):
            pyro.sample("heads", dist.Bernoulli(chance), obs=heads)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(level, 3.0), obs=y)

    with pytest.warns(BoundaryWarning):
        fit = MLE().fit(program, torch.zeros(4), torch.arange(9.0))
    with pytest.warns(BoundaryWarning):
        errors = fit.standard_errors()
    assert math.isnan(errors["chance"])
    assert float(errors["level"]) == pytest.approx(1.0, rel=1e-8)


def test_a_table_with_one_certain_row():
    """Annotators' tables: one row is sure of itself, the other has a share to be wrong about."""

    def program(truth, label):
        table = pyro.sample("table", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
        with pyro.plate("row", len(truth)):
            pyro.sample("label", dist.Categorical(table[truth]), obs=label)

    truth = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    label = torch.tensor([0, 0, 0, 1, 1, 0, 1, 1])
    fit = EM().fit(program, truth, label)
    assert fit.params["table"][0].tolist() == [1.0, 0.0]
    with pytest.warns(BoundaryWarning, match="'table'"):
        errors = fit.standard_errors()["table"]
    assert bool(errors[0].isnan().all())
    torch.testing.assert_close(errors[1], torch.full((2,), (0.16 / 5) ** 0.5).double())


# -- nothing to go by ------------------------------------------------------------------------


def test_what_the_data_do_not_identify_has_no_error_and_says_so():
    def program(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a + b, scale), obs=y)

    y = torch.arange(9.0)
    fit = MAP(tol=1e-14).fit(program, y)
    assert bool(torch.isfinite(fit.standard_errors()["a"]))  # the priors identify them
    likelihood = MLE().fit(program, y)
    with pytest.warns(ConvergenceWarning, match="'a', 'b'"):
        errors = likelihood.standard_errors()
    assert math.isnan(errors["a"])
    assert math.isnan(errors["b"])


def test_a_point_far_from_the_optimum_is_told_apart():
    with pytest.warns(ConvergenceWarning):
        fit = MLE(max_iter=1, init={"loc": 0.0, "scale": 100.0}).fit(
            GaussianModel(), double([3.0, 4.0, 5.0, 3.5])
        )
    with pytest.warns(ConvergenceWarning, match="not at an optimum"):
        errors = fit.standard_errors()
    assert math.isnan(errors["scale"])


# -- parameters ------------------------------------------------------------------------------


def test_parameters_have_errors_in_their_constrained_space():
    def program(y, classes):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        shares = pyro.param("shares", torch.ones(3) / 3, constraint=dist.constraints.simplex)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(0.0, scale), obs=y)
        with pyro.plate("draw", len(classes)):
            pyro.sample("classes", dist.Categorical(shares), obs=classes)

    y = double(np.random.default_rng(3).normal(size=60))
    classes = torch.tensor([0] * 5 + [1] * 12 + [2] * 3)
    fit = MLE(tol=1e-14).fit(program, y, classes)
    errors = fit.standard_errors()
    scale = float(y.square().mean().sqrt())
    assert float(errors["scale"]) == pytest.approx(scale / math.sqrt(120), rel=1e-5)
    shares = double([5, 12, 3]) / 20
    expected = (shares * (1 - shares) / 20).sqrt()
    torch.testing.assert_close(errors["shares"], expected, rtol=1e-4, atol=0)
