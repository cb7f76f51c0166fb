"""MLE and MAP where the optimum lies on a boundary or nowhere, and of programs with parameters."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample

from likely.inference import (
    MAP,
    MLE,
    BoundaryWarning,
    ConvergenceWarning,
    NonFiniteError,
)
from likely.models import (
    BernoulliModel,
    CategoricalModel,
    GaussianModel,
    LogisticRegression,
)
from problems import double, line_data

# -- boundaries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outcome", "limit"), [(1.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("n", [1, 50])
def test_all_heads_and_all_tails_lie_exactly_on_the_boundary(outcome, limit, n):
    with pytest.warns(BoundaryWarning, match="boundary of the support at 'probability'"):
        fit = MLE().fit(BernoulliModel(), torch.full((n,), outcome))
    assert float(fit.params["probability"]) == limit
    assert fit.converged


def test_an_empty_category_has_probability_exactly_zero():
    with pytest.warns(BoundaryWarning, match="'probabilities'"):
        fit = MLE().fit(CategoricalModel(4), torch.tensor([0, 0, 0, 2, 2, 3]))
    assert float(fit.params["probabilities"][1]) == 0.0
    shares = double([3, 0, 2, 1]) / 6
    torch.testing.assert_close(fit.params["probabilities"], shares, atol=1e-5, rtol=0)


def test_a_prior_that_vanishes_on_the_boundary_keeps_the_optimum_inside():
    fit = MAP().fit(CategoricalModel(3, concentration=1.01), torch.tensor([0, 0, 1]))
    shares = double([2.01, 1.01, 0.01])
    torch.testing.assert_close(fit.params["probabilities"], shares / 3.03, atol=1e-7, rtol=0)


def test_an_optimum_close_to_the_boundary_is_not_moved_there():
    # Warnings are errors here, so that nothing was said about a boundary, either.
    tosses = torch.zeros(20_000)
    tosses[:10] = 1.0
    fit = MLE().fit(BernoulliModel(), tosses)
    assert float(fit.params["probability"]) == pytest.approx(5e-4, rel=1e-5)
    flipped = MLE().fit(BernoulliModel(), 1 - tosses)
    assert 1 - float(flipped.params["probability"]) == pytest.approx(5e-4, rel=1e-5)
    classes = torch.cat([torch.full((10,), 2), torch.arange(19_990) % 2])
    table = MLE().fit(CategoricalModel(3), classes).params["probabilities"]
    assert float(table[2]) == pytest.approx(5e-4, rel=1e-5)


def bounded_line(y):
    """A slope in (-1, 2); the data may want a steeper one."""
    slope = pyro.sample("slope", dist.Uniform(-1.0, 2.0))
    with pyro.plate("point", len(y)):
        pyro.sample("y", dist.Normal(slope * torch.arange(1.0, 1.0 + len(y)), 1.0), obs=y)


def test_bounds_on_both_sides_are_respected():
    steep = double([3.0, 6.1, 8.9])
    with pytest.warns(BoundaryWarning, match="'slope'"):
        assert float(MLE().fit(bounded_line, steep).params["slope"]) == 2.0
    with pytest.warns(BoundaryWarning, match="'slope'"):
        assert float(MLE().fit(bounded_line, -steep).params["slope"]) == -1.0
    inside = MLE().fit(bounded_line, 0.5 * steep).params["slope"]
    assert float(inside) == pytest.approx(0.5 * (3.0 + 12.2 + 26.7) / 14, abs=1e-6)


@pytest.mark.parametrize("estimator", [MLE(), MLE(optimizer=partial(torch.optim.Adam, lr=2.0))])
def test_a_likelihood_without_bound_raises(estimator):
    with pytest.raises(NonFiniteError):
        estimator.fit(GaussianModel(), torch.full((5,), 3.0))


def test_separable_data_have_no_optimum_and_say_so():
    x = torch.arange(-5.0, 5.0)[:, None]
    y = (x[:, 0] >= 0).double()
    with pytest.warns(ConvergenceWarning, match=r"'coefficients'.*infinity"):
        fit = MLE().fit(LogisticRegression(), x, y)
    assert not fit.converged
    assert MAP().fit(LogisticRegression(), x, y).converged


def test_a_prior_bounds_what_the_likelihood_does_not():
    def program(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.InverseGamma(2.0, 1.0))
        with pyro.plate("point", len(y)):
            pyro.sample("y", dist.Normal(loc, scale), obs=y)

    fit = MAP().fit(program, torch.full((5,), 3.0))
    # log p = -(5 + 2 + 1) log s - 1 / s with its mode at s = 1 / 8, where all points are alike up
    # to the pull of the prior on loc.
    assert float(fit.params["scale"]) == pytest.approx(1 / 8, abs=1e-4)


# -- parameters and modules ------------------------------------------------------------------------


def least_squares(x, y, ridge=0.0):
    design = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    penalty = ridge * torch.eye(3, dtype=torch.float64)
    return torch.linalg.solve(design.T @ design + penalty, design.T @ y)


def test_parameters_with_constraints_are_learnt():
    def program(x, y):
        bias = pyro.param("bias", torch.tensor(0.0))
        slope = pyro.param("slope", torch.zeros(2))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("point", len(y)):
            pyro.sample("y", dist.Normal(bias + x @ slope, scale), obs=y)

    x, y = line_data()
    beta = least_squares(x, y)
    residual = y - beta[0] - x @ beta[1:]
    fit = MLE().fit(program, x, y)
    torch.testing.assert_close(fit.params["bias"], beta[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(fit.params["slope"], beta[1:], atol=1e-6, rtol=0)
    scale = residual.square().mean().sqrt()
    torch.testing.assert_close(fit.params["scale"], scale, atol=1e-6, rtol=0)
    # A parameter has no prior: MAP finds the same.
    again = MAP().fit(program, x, y)
    assert again.log_prior == 0.0
    torch.testing.assert_close(again.params["slope"], beta[1:], atol=1e-6, rtol=0)
    assert list(pyro.get_param_store()) == []


def test_a_modules_parameters_are_learnt_and_the_module_is_left_alone():
    net = torch.nn.Linear(2, 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def program(x, y):
        pyro.module("net", net)
        with pyro.plate("point", len(y)):
            pyro.sample("y", dist.Normal(net(x)[:, 0], 1.0), obs=y)

    x, y = line_data()
    beta = least_squares(x, y)
    fit = MLE().fit(program, x, y)
    found = fit.params
    torch.testing.assert_close(found["net$$$weight"], beta[None, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["net$$$bias"], beta[:1], atol=1e-6, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.weight.grad is None


class BayesianLine(PyroModule):
    """Weights with priors, a bias without one."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](2, 1, bias=False)
        self.linear.weight = PyroSample(lambda _: dist.Normal(torch.zeros(1, 2), 0.5).to_event(2))
        self.bias = PyroParam(torch.tensor(0.0))

    def forward(self, x, y):
        mean = self.linear(x)[:, 0] + self.bias
        with pyro.plate("point", len(y)):
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_a_pyro_module_is_a_program():
    x, y = line_data()
    design = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    penalty = torch.diag(double([0.0, 4.0, 4.0]))  # 1 / .5² on the weights
    beta = torch.linalg.solve(design.T @ design + penalty, design.T @ y)
    fit = MAP().fit(BayesianLine(), x, y)
    torch.testing.assert_close(fit.params["linear.weight"], beta[None, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(fit.params["bias"], beta[0], atol=1e-6, rtol=0)
    likelihood = MLE().fit(BayesianLine(), x, y)
    torch.testing.assert_close(
        likelihood.params["linear.weight"], least_squares(x, y)[None, 1:], atol=1e-6, rtol=0
    )
