"""Fisher information against closed forms: observed, expected by simulation, and with a prior."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, MAP, MLE, BoundaryWarning, FitError, Laplace
from likely.models import (
    BernoulliModel,
    CategoricalModel,
    GaussianModel,
    LinearRegression,
    LogisticRegression,
    PoissonModel,
)

GENERATOR = np.random.default_rng(5)
X = torch.as_tensor(GENERATOR.normal(size=(60, 2)))
NORMAL = torch.as_tensor(GENERATOR.normal(3.0, 2.0, 80))
COUNTS = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
TOSSES = torch.tensor([1.0] * 13 + [0.0] * 27)
# Monte-Carlo means are within so many of their errors; the draws are fixed.
ERRORS = 4.0


def test_observed_information_is_in_the_units_of_the_sites():
    scale2 = float(NORMAL.var(correction=0))
    found = MLE(tol=1e-14).fit(GaussianModel(), NORMAL).fisher_information()
    assert found.labels == ["loc", "scale"]
    np.testing.assert_allclose(found.matrix, np.diag([80 / scale2, 160 / scale2]), atol=1e-5)
    assert float(found.error.abs().max()) == 0.0
    assert (found.kind, found.draws) == ("observed", 0)
    p = 13 / 40
    tosses = MLE(tol=1e-14).fit(BernoulliModel(), TOSSES).fisher_information()
    assert float(tosses.matrix) == pytest.approx(40 / (p * (1 - p)), rel=1e-6)
    rate = MLE(tol=1e-14).fit(PoissonModel(), COUNTS).fisher_information()
    assert float(rate.matrix) == pytest.approx(8 / float(COUNTS.mean()), rel=1e-6)


def test_elements_have_the_names_that_tables_give_them():
    frame = MLE().fit(LinearRegression(), X, NORMAL[:60]).fisher_information().to_frame()
    names = ["intercept", "coefficients[0]", "coefficients[1]", "scale"]
    assert frame.columns.tolist() == frame.index.tolist() == names


def test_a_row_of_probabilities_has_one_direction_less_than_cells():
    y = torch.tensor([0] * 5 + [1] * 12 + [2] * 3)
    found = MLE(tol=1e-14).fit(CategoricalModel(3), y).fisher_information()
    assert found.labels == ["probabilities: direction 0", "probabilities: direction 1"]
    # Whatever basis of the sum-zero directions B it is, its inverse is that of the multinomial:
    # B (Bᵀ diag(n / p) B)⁻¹ Bᵀ is the covariance, whose eigenvalues do not depend on B.
    p = np.array([5, 12, 3]) / 20
    covariance = (np.diag(p) - np.outer(p, p)) / 20
    np.testing.assert_allclose(
        np.linalg.eigvalsh(np.linalg.inv(found.matrix)),
        np.linalg.eigvalsh(covariance)[1:],
        rtol=1e-5,
    )


def test_elements_on_the_boundary_are_left_out():
    with pytest.warns(BoundaryWarning):
        fit = MLE().fit(CategoricalModel(4), torch.tensor([0, 0, 0, 2, 2, 3]))
    assert fit.fisher_information().matrix.shape == (2, 2)
    with pytest.warns(BoundaryWarning):
        heads = MLE().fit(BernoulliModel(), torch.ones(5))
    assert heads.fisher_information().matrix.shape == (0, 0)


def test_expected_information_is_the_closed_form_within_its_error():
    fit = MLE(tol=1e-14).fit(GaussianModel(), NORMAL)
    scale2 = float(fit.params["scale"]) ** 2
    expected = np.diag([80 / scale2, 160 / scale2])
    found = fit.fisher_information("expected", draws=200)
    away = np.abs(found.matrix.numpy() - expected)
    assert (away <= ERRORS * found.error.numpy() + 1e-9).all()
    # The mean of y does not enter ∂²/∂loc², which is the same in every draw.
    assert float(found.error[0, 0]) < 1e-9 < float(found.error[1, 1])
    # Four times the draws, half the error (an estimate itself, with an error of 1 in 20).
    more = fit.fisher_information("expected", draws=800).error[1, 1]
    assert float(found.error[1, 1] / more) == pytest.approx(2.0, rel=0.3)


def test_expected_information_is_reproducible_and_follows_its_seed():
    fit = MLE().fit(GaussianModel(), NORMAL)
    first, again, other = (
        fit.fisher_information("expected", draws=5, seed=seed).matrix for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_canonical_link_makes_observed_and_expected_information_equal():
    y = (
        torch.as_tensor(GENERATOR.random(60))
        < torch.sigmoid(X @ torch.tensor([1.0, -1.0]).double())
    ).double()
    fit = MLE().fit(LogisticRegression(), X, y)
    observed, expected = (
        fit.fisher_information(kind, draws=3) for kind in ("observed", "expected")
    )
    torch.testing.assert_close(observed.matrix, expected.matrix, rtol=1e-10, atol=1e-10)
    assert float(expected.error.max()) < 1e-9
    errors = fit.standard_errors(), fit.standard_errors("expected", draws=3)
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-9, atol=0)


def cauchy(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Cauchy(loc, 1.0), obs=x)


def test_cauchy_data_tell_more_or_less_than_expected():
    x = torch.as_tensor(np.random.default_rng(2).standard_cauchy(30))
    fit = MLE().fit(cauchy, x)
    u = x - fit.params["loc"]
    by_hand = (2 * (1 - u.square()) / (1 + u.square()).square()).sum()
    assert float(fit.fisher_information().matrix) == pytest.approx(float(by_hand), rel=1e-9)
    # One half for each observation (Efron & Hinkley 1978).
    expected = fit.fisher_information("expected", draws=400)
    assert abs(float(expected.matrix) - 15.0) < ERRORS * float(expected.error)
    assert abs(float(by_hand) - 15.0) > ERRORS * float(expected.error)
    error = fit.standard_errors("expected", draws=400)["loc"]
    assert float(error) == pytest.approx(float(expected.matrix) ** -0.5)


def two_bells(x):
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("point", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_latents_are_simulated_and_summed_out():
    x = torch.cat([NORMAL[:20] + 100.0, NORMAL[:20] - 100.0])
    fit = EM(init={"loc": [100.0, -100.0]}).fit(two_bells, x)
    # So far apart each component has the points that were drawn from it, 20 on average.
    found = fit.fisher_information("expected", draws=200)
    away = (found.matrix - torch.diag(torch.tensor([20.0, 20.0]))).abs()
    assert bool((away <= ERRORS * found.error + 1e-9).all())
    assert float(found.error[0, 0]) == pytest.approx((10 / 200) ** 0.5, rel=0.2)


def test_a_prior_adds_its_curvature_where_it_was_maximised():
    program = GaussianModel(loc_scale=0.5, scale_scale=0.25)
    fit = MAP(tol=1e-14).fit(program, NORMAL)
    alone, both = fit.fisher_information(prior=False).matrix, fit.fisher_information().matrix
    curvature = torch.diag(torch.tensor([0.5, 0.25]).double() ** -2)
    torch.testing.assert_close(both - alone, curvature, rtol=1e-9, atol=1e-9)
    # Away from the optimum of the likelihood, too, minus the Hessian by the sites themselves.
    loc, scale = float(fit.params["loc"]), float(fit.params["scale"])
    left = NORMAL - loc
    by_scale = float((3 * left.square() / scale**4 - 1 / scale**2).sum())
    assert float(alone[1, 1]) == pytest.approx(by_scale, rel=1e-9)
    assert float(alone[0, 1]) == pytest.approx(float(2 * left.sum() / scale**3), rel=1e-9)
    error = torch.linalg.inv(both).diagonal().sqrt()
    assert float(fit.standard_errors()["scale"]) == pytest.approx(float(error[1]), rel=1e-6)
    point = MLE(tol=1e-14).fit(program, NORMAL)
    more = point.fisher_information(prior=True).matrix - point.fisher_information().matrix
    torch.testing.assert_close(more, curvature, rtol=1e-9, atol=1e-9)


def test_a_posterior_fit_has_an_information_too():
    found = Laplace(draws=100).fit(GaussianModel(), NORMAL).fisher_information()
    assert found.matrix.shape == (2, 2)
    assert bool((torch.linalg.eigvalsh(found.matrix) > 0).all())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "estimated"}, "'observed' or 'expected'"),
        ({"kind": None}, "'observed' or 'expected'"),
        ({"kind": "expected", "draws": 1}, "draws"),
        ({"kind": "expected", "draws": 2.5}, "draws"),
        ({"kind": "expected", "seed": -1}, "seed"),
        ({"kind": "expected", "seed": "a"}, "seed"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments, named):
    fit = MLE().fit(PoissonModel(), COUNTS)
    with pytest.raises(FitError, match=named):
        fit.fisher_information(**arguments)
    information = arguments.pop("kind")
    with pytest.raises(FitError, match=named):
        fit.standard_errors(information, **arguments)
