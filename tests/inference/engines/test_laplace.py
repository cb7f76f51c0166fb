"""Laplace: exact on Gaussian posteriors, inside supports, loud where there is no Gaussian."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

from likely.inference import (
    MAP,
    ConvergenceWarning,
    FlatDirectionError,
    Laplace,
    NonFiniteError,
    OptionError,
    ProgramError,
)
from likely.inference.curvature import flat_sites, hessian
from likely.models import CategoricalModel, GaussianModel


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


# -- a Gaussian posterior --------------------------------------------------------------------

GENERATOR = np.random.default_rng(5)
X = double(GENERATOR.normal(size=(30, 3)) @ [[1.0, 0.6, 0.0], [0.0, 0.8, 0.5], [0.0, 0.0, 0.2]])
Y = X @ double([1.0, -2.0, 0.5]) + 0.7 * double(GENERATOR.normal(size=30))
PRIOR_SDS = double([10.0, 2.0, 0.5])
PRECISION = X.T @ X / 0.49 + PRIOR_SDS.square().reciprocal().diag()
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = COVARIANCE @ (X.T @ Y / 0.49)


def line(x, y):
    """Known noise; the first weight is a site of its own."""
    first = pyro.sample("first", dist.Normal(0.0, 10.0))
    others = pyro.sample(
        "others", dist.Normal(torch.zeros(2), torch.tensor([2.0, 0.5])).to_event(1)
    )
    with pyro.plate("point", len(y)):
        mean = first * x[:, 0] + x[:, 1:] @ others
        pyro.sample("y", dist.Normal(mean, 0.7), obs=y)


def nothing_known(x, y):
    """The same unknowns, standard normal, and no information."""
    pyro.sample("first", dist.Normal(0.0, 1.0))
    pyro.sample("others", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("point", len(y)):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def flat(fit):
    return torch.cat([fit.draws["first"][0, :, None], fit.draws["others"][0]], 1)


def test_a_gaussian_posterior_is_found_exactly():
    fit = Laplace(draws=500, tol=1e-15).fit(line, X, Y)
    # Draws are an affine image of standard normal noise, and with the same seed the posterior
    # that knows nothing is that noise: the map between the two is the fit, free of sampling error.
    noise = flat(Laplace(draws=500).fit(nothing_known, X, Y))
    design = torch.cat([torch.ones(500, 1).double(), noise], 1)
    solution = torch.linalg.lstsq(design, flat(fit)).solution
    torch.testing.assert_close(design @ solution, flat(fit), atol=1e-10, rtol=0)
    torch.testing.assert_close(solution[0], MEAN, atol=1e-8, rtol=0)
    torch.testing.assert_close(solution[1:].T @ solution[1:], COVARIANCE, atol=1e-8, rtol=0)


def test_the_evidence_of_a_gaussian_model_is_exact():
    fit = Laplace(draws=2, tol=1e-15).fit(line, X, Y)
    marginal = 0.49 * torch.eye(30).double() + X * PRIOR_SDS.square() @ X.T
    evidence = MultivariateNormal(torch.zeros(30).double(), marginal).log_prob(Y)
    assert fit.diagnostics["log_evidence"] == pytest.approx(float(evidence), abs=1e-8)
    joint = (
        dist.Normal(X @ MEAN, 0.7).log_prob(Y).sum()
        + dist.Normal(0.0, PRIOR_SDS).log_prob(MEAN).sum()
    )
    assert fit.history.objective.iloc[-1] == pytest.approx(float(joint), abs=1e-8)


def test_draws_of_a_gaussian_posterior_have_its_moments():
    draws = flat(Laplace(draws=20_000).fit(line, X, Y))
    # Independent draws: standard errors of 1/sqrt(n) sds for means, 1/sqrt(2n) for sds.
    sds = COVARIANCE.diagonal().sqrt()
    assert float(((draws.mean(0) - MEAN) / sds).abs().max()) < 4 / math.sqrt(20_000)
    assert float((draws.std(0) / sds - 1).abs().max()) < 4 / math.sqrt(40_000)


def test_a_mean_and_its_scale_have_their_textbook_curvature():
    y = double(np.random.default_rng(0).normal(3.0, 2.0, 50))
    program = GaussianModel(loc_scale=1e4, scale_scale=1e4)
    fit = Laplace(draws=20_000).fit(program, y)
    # In (loc, log scale) the information at the mode is diagonal. The flat prior on the scale has
    # the Jacobian left, one observation less: s² = S / (n − 1), and curvature 2 (n − 1).
    scale = float(y.std(correction=1))
    log_scale = fit.draws["scale"].log()
    assert float(log_scale.mean()) == pytest.approx(math.log(scale), abs=4 / math.sqrt(98 * 2e4))
    assert float(log_scale.std()) == pytest.approx(1 / math.sqrt(98), rel=4 / math.sqrt(4e4))
    assert float(fit.draws["loc"].std()) == pytest.approx(
        scale / math.sqrt(50), rel=4 / math.sqrt(4e4)
    )


def test_warm_starts_restarts_and_seeds():
    first = Laplace(draws=50, seed=4).fit(line, X, Y)
    again = Laplace(draws=50, seed=4, init=MAP().fit(line, X, Y), restarts=3).fit(line, X, Y)
    torch.testing.assert_close(flat(first), flat(again), atol=1e-4, rtol=0)
    other = Laplace(draws=50, seed=5).fit(line, X, Y)
    assert not torch.allclose(flat(first), flat(other), atol=1e-2)
    assert first.draws["others"].shape == (1, 50, 2)


# -- supports --------------------------------------------------------------------------------


def constrained(y):
    shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([0.5, 1.0, 3.0])))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    bound = pyro.sample("bound", dist.Uniform(-1.0, 2.0))
    factor = pyro.sample("factor", dist.LKJCholesky(3, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("class", dist.Categorical(shares), obs=y)
        pyro.sample("count", dist.Poisson(rate), obs=y.double())
    pyro.sample("level", dist.Normal(bound, 1.0), obs=torch.tensor(1.8))
    pyro.sample("size", dist.Normal(factor[1, 0], 0.3), obs=torch.tensor(0.5))


def test_draws_lie_within_their_supports():
    fit = Laplace(draws=1000).fit(constrained, torch.tensor([0, 0, 1, 2]))
    shares, rate, bound = (fit.draws[name] for name in ("shares", "rate", "bound"))
    assert shares.shape == (1, 1000, 3)
    assert bool((shares > 0).all())
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 1000).double())
    assert bool((rate > 0).all())
    assert bool(((bound > -1) & (bound < 2)).all())
    # It is not the support that keeps them there: they come close to the bound.
    assert float(bound.max()) > 1.9
    factor = fit.draws["factor"]
    torch.testing.assert_close(factor.square().sum(-1), torch.ones(1, 1000, 3).double())
    assert bool((factor.diagonal(dim1=-2, dim2=-1) > 0).all())
    # A mean of factors has rows shorter than one; what is reported is a factor.
    torch.testing.assert_close(fit.params["factor"].square().sum(-1), torch.ones(3).double())
    torch.testing.assert_close(fit.params["shares"].sum(), double(1.0))


def test_a_class_without_rows_has_a_mode_because_of_the_jacobian():
    fit = Laplace(draws=4000).fit(CategoricalModel(3), torch.tensor([0, 0, 0, 1, 1]))
    # The density of unconstrained shares is Π s^(n + 1) where that of shares is Π s^n, for these
    # coordinates: the stick-breaking Jacobian is the product of the shares.
    mode = double([4, 3, 1]) / 8
    peak = float((double([4, 3, 1]) * mode.log()).sum()) + math.log(2)
    assert fit.history.objective.iloc[-1] == pytest.approx(peak, abs=1e-7)


# -- no Gaussian -----------------------------------------------------------------------------


def redundant(y):
    """Only the sum of ``a`` and ``b`` shows in the data."""
    a = pyro.sample("a", dist.Normal(0.0, 1e6))
    b = pyro.sample("b", dist.Normal(0.0, 1e6))
    c = pyro.sample("c", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)
        pyro.sample("z", dist.Normal(c, 1.0), obs=y)


def test_a_flat_direction_names_its_sites():
    with pytest.raises(FlatDirectionError, match="'a', 'b'") as caught:
        Laplace().fit(redundant, torch.arange(5.0))
    assert "'c'" not in str(caught.value)


def test_an_informative_prior_mends_a_flat_direction():
    def mended(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    y = torch.arange(5.0).double()
    fit = Laplace(draws=2, tol=1e-15).fit(mended, y)
    marginal = torch.eye(5).double() + 2.0
    evidence = MultivariateNormal(torch.zeros(5).double(), marginal).log_prob(y)
    assert fit.diagnostics["log_evidence"] == pytest.approx(float(evidence), abs=1e-8)


def test_a_density_without_a_mode_raises():
    def unbounded(y):
        scale = pyro.sample("scale", dist.Uniform(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(0.0, scale), obs=y)

    with pytest.raises(NonFiniteError):
        Laplace().fit(unbounded, torch.zeros(5))


def test_parameters_without_a_prior_are_refused():
    def program(y):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, scale), obs=y)

    with pytest.raises(ProgramError, match="'loc'"):
        Laplace().fit(program, torch.arange(4.0))


def test_options_and_early_stops():
    with pytest.raises(OptionError, match="draws"):
        Laplace(draws=1)
    with pytest.warns(ConvergenceWarning, match="laplace"):
        fit = Laplace(max_iter=1, draws=10).fit(line, X, Y)
    assert not fit.converged


# -- curvature -------------------------------------------------------------------------------


def test_hessian_is_that_of_a_polynomial():
    def function(x):
        return x[0] ** 3 + 2 * x[0] * x[1] ** 2 - x[2]

    found = hessian(function, double([1.0, 2.0, 3.0]))
    expected = double([[6.0, 8.0, 0.0], [8.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_hessian_of_many_coordinates_takes_rows_in_parts(monkeypatch):
    matrix = torch.randn(37, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = matrix + matrix.T
    passes = []
    gradient = torch.autograd.grad

    def counted(*args, **kwargs):
        passes.append(kwargs.get("is_grads_batched", False))
        return gradient(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    found = hessian(lambda x: 0.5 * x @ matrix @ x + x.exp().sum(), torch.zeros(37).double())
    torch.testing.assert_close(found, matrix + torch.eye(37, dtype=torch.float64))
    # The gradient, and 37 rows by 16.
    assert passes == [False, True, True, True]


def test_flat_sites_do_not_depend_on_units():
    slices = {"a": slice(0, 1), "b": slice(1, 2), "c": slice(2, 3)}
    matrix = double([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    units = torch.diag(double([1e-6, 1e4, 1e-3]))
    assert flat_sites(matrix, slices) == ["b", "c"]
    assert flat_sites(units @ matrix @ units, slices) == ["b", "c"]
    healthy = double([[2.0, 0.0, 0.0], [0.0, 1.0, 0.9], [0.0, 0.9, 1.0]])
    assert flat_sites(units @ healthy @ units, slices) == []
    upwards = torch.diag(double([1.0, -1.0, 1.0]))
    assert flat_sites(upwards, slices) == ["b"]
