"""The one-pass densities of regressions against the plain ones."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.func import jacrev, vmap

from likely.inference import MLE
from likely.models import LogisticRegression, PoissonRegression
from likely.models._glm import LinearBernoulli, LinearPoisson, _blocks, normal_equations

GENERATOR = torch.Generator().manual_seed(0)
# Several blocks, the last of them shorter.
N, D = 9000, 20
X = torch.randn(N, D, generator=GENERATOR, dtype=torch.float64)
W = 0.3 * torch.randn(D, generator=GENERATOR, dtype=torch.float64)
B = torch.tensor(-0.4, dtype=torch.float64)
OFFSET = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
FAMILIES = [LinearBernoulli, LinearPoisson]


def outcomes(family, offset=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return family(X, W, B, offset).sample()


def plain(family, w, b, offset):
    u = X @ w + b + (0.0 if offset is None else offset)
    return dist.Bernoulli(logits=u) if family is LinearBernoulli else dist.Poisson(u.exp())


def of_flat(family, y, offset, weight, by_hand):
    """Weighted log-likelihood as a function of intercept and coefficients [1 + d]."""

    def total(flat):
        b, w = flat[0], flat[1:]
        fn = plain(family, w, b, offset) if by_hand else family(X, w, b, offset)
        return (weight * fn.log_prob(y)).sum()

    return total


@pytest.mark.parametrize("offset", [None, OFFSET])
@pytest.mark.parametrize("weight", [1.0, -2.0, WEIGHTS])
@pytest.mark.parametrize("family", FAMILIES)
def test_density_gradient_and_hessian_are_those_of_the_plain_one(family, weight, offset):
    assert len(list(_blocks(X))) > 2
    assert N % (next(_blocks(X)).stop) > 0
    y, flat = outcomes(family, offset), torch.cat([B[None], W])
    functions = [of_flat(family, y, offset, weight, by_hand) for by_hand in (False, True)]
    with torch.no_grad():
        one, other = (f(flat) for f in functions)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    for derivative in (torch.autograd.functional.jacobian, torch.autograd.functional.hessian):
        one, other = (derivative(f, flat) for f in functions)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-9)
    # Rows of a Hessian, all at once.
    leaf = flat.clone().requires_grad_()
    (slope,) = torch.autograd.grad(functions[0](leaf), leaf, create_graph=True)
    (rows,) = torch.autograd.grad(slope, leaf, torch.eye(D + 1).double(), is_grads_batched=True)
    torch.testing.assert_close(rows, other, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_third_derivatives_and_those_by_the_cotangent(family):
    y = outcomes(family)
    direction = torch.linspace(-1.0, 1.0, D).double()

    def third(by_hand):
        w, t = W.clone().requires_grad_(), torch.ones(N).double().requires_grad_()
        fn = plain(family, w, B, None) if by_hand else family(X, w, B)
        (first,) = torch.autograd.grad((t * fn.log_prob(y)).sum(), w, create_graph=True)
        second, mixed = torch.autograd.grad(first @ direction, (w, t), create_graph=True)
        (last,) = torch.autograd.grad(second @ direction, w)
        return second.detach(), mixed.detach(), last

    for one, other in zip(third(False), third(True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_transforms_and_many_covariates_take_the_plain_way(family):
    y = outcomes(family)
    found = jacrev(lambda w: family(X, w, B).log_prob(y).sum())(W)
    expected = jacrev(lambda w: plain(family, w, B, None).log_prob(y).sum())(W)
    torch.testing.assert_close(found, expected)
    shifts = torch.linspace(-1.0, 1.0, 3).double()
    many = vmap(lambda b: family(X, W, b).log_prob(y).sum())(shifts)
    torch.testing.assert_close(many[1], family(X, W, shifts[1]).log_prob(y).sum())
    wide = torch.randn(100, 150, generator=GENERATOR, dtype=torch.float64)

    def total(w):
        return family(wide, 0.1 * w, B).log_prob(y[:100]).sum()

    def by_hand(w):
        u = wide @ (0.1 * w) + B
        fn = dist.Bernoulli(logits=u) if family is LinearBernoulli else dist.Poisson(u.exp())
        return fn.log_prob(y[:100]).sum()

    at = torch.linspace(-1.0, 1.0, 150).double()
    one, other = (torch.autograd.functional.hessian(f, at) for f in (total, by_hand))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_distribution_that_its_plain_one_is(family):
    fn, same = family(X, W, B, OFFSET), plain(family, W, B, OFFSET)
    assert fn.batch_shape == (N,)
    assert fn.support is same.support
    torch.testing.assert_close(fn.mean, same.mean)
    torch.testing.assert_close(fn.variance, same.variance)
    assert fn.sample((3,)).shape == (3, N)
    assert fn.expand([N]) is fn
    assert fn.expand([2, N]).batch_shape == (2, N)
    y = outcomes(family)
    stacked = torch.stack([y, y.flip(0)])
    torch.testing.assert_close(fn.log_prob(stacked), same.log_prob(stacked))
    with pytest.raises(ValueError, match="support"):
        family(X, W, B, validate_args=True).log_prob(y + 0.5)
    if family is LinearBernoulli:
        torch.testing.assert_close(fn.enumerate_support(), same.enumerate_support())


def test_extreme_predictors_keep_their_digits():
    x = torch.full((1 << 14, 1), 1.0).double()
    for u in (-800.0, 800.0):
        w = torch.tensor([u]).double().requires_grad_()
        value = LinearBernoulli(x, w).log_prob(torch.ones(len(x)).double())
        assert float(value[0].detach()) == min(u, 0.0)
        (slope,) = torch.autograd.grad(value.sum(), w)
        assert float(slope) == (len(x) if u < 0 else 0.0)


def test_a_prediction_without_covariates_that_matter_is_not_small_enough():
    assert not LinearBernoulli.serves(X[:100], W)
    assert LinearBernoulli.serves(X, W)
    assert not LinearBernoulli.serves(X, W[None])
    assert not LinearBernoulli.serves(X.clone().requires_grad_(), W)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("intercept", [True, False])
def test_normal_equations_are_those_of_the_design(intercept, weights):
    design = torch.cat([torch.ones(N, 1).double(), X], 1) if intercept else X
    left = design.T if weights is None else design.T * weights
    square, right = normal_equations(X, OFFSET, weights, intercept)
    torch.testing.assert_close(square, left @ design, rtol=1e-11, atol=1e-10)
    torch.testing.assert_close(right, left @ OFFSET, rtol=1e-11, atol=1e-10)


def by_hand_logistic(x, y):
    b = pyro.sample("intercept", dist.Normal(0.0, 10.0))
    w = pyro.sample("coefficients", dist.Normal(torch.zeros(D), 10.0).to_event(1))
    with pyro.plate("observation", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)


def by_hand_poisson(x, y):
    b = pyro.sample("intercept", dist.Normal(0.0, 3.0))
    w = pyro.sample("coefficients", dist.Normal(torch.zeros(D), 1.0).to_event(1))
    with pyro.plate("observation", len(x)):
        pyro.sample("y", dist.Poisson((x @ w + b).exp()), obs=y)


@pytest.mark.parametrize(
    ("program", "written", "family"),
    [
        (LogisticRegression(), by_hand_logistic, LinearBernoulli),
        (PoissonRegression(), by_hand_poisson, LinearPoisson),
    ],
)
def test_regressions_are_those_written_by_hand(program, written, family):
    y = outcomes(family)
    fit, peer = (MLE(tol=1e-14).fit(one, X, y) for one in (program, written))
    torch.testing.assert_close(fit.params, peer.params, rtol=0, atol=1e-7)
    assert fit.log_likelihood == pytest.approx(peer.log_likelihood, rel=1e-12)
    one, other = fit.standard_errors(), peer.standard_errors()
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_many_rows_start_near_the_optimum_at_that_of_a_part():
    x = torch.randn(70_000, 2, generator=GENERATOR, dtype=torch.float64)
    y = (torch.rand(70_000, generator=GENERATOR) < torch.sigmoid(2 * x[:, 0] - 1)).double()
    program = LogisticRegression()
    start, fit = program.initial(x, y), MLE().fit(program, x, y)
    # Half of the rows: as far from the optimum of all as a standard error, if the search on them
    # were perfect.
    errors = fit.standard_errors()
    assert float((start["intercept"] - fit.params["intercept"]).abs() / errors["intercept"]) < 4.0
    # Of covariates far from zero all rows are looked at, and that is the optimum.
    away = program.initial(x + 1e4, y)
    shift = 1e4 * float(away["coefficients"].sum())
    assert float(away["intercept"]) + shift == pytest.approx(
        float(fit.params["intercept"]), abs=1e-6
    )
