"""Optima that are none, and honest ones that look like it."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, ConvergenceWarning
from likely.models import LogisticRegression

SEPARABLE = torch.arange(-5.0, 5.0)[:, None], (torch.arange(-5.0, 5.0) > -0.5).double()


def test_em_says_that_separable_data_have_no_optimum():
    with pytest.warns(ConvergenceWarning, match="'coefficients'.*separable"):
        fit = EM().fit(LogisticRegression(), *SEPARABLE)
    assert not fit.converged
    assert EM(objective="posterior").fit(LogisticRegression(), *SEPARABLE).converged


def test_em_trusts_an_optimum_far_from_zero():
    def far(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1000.0).to_event(1))
        with pyro.plate("point", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    x = torch.tensor([-900.0, -901.0, 800.0, 801.0], dtype=torch.float64)
    fit = EM(init={"loc": [-800.0, 700.0]}).fit(far, x)
    assert fit.converged
    torch.testing.assert_close(fit.params["loc"], torch.tensor([-900.5, 800.5]).double())


@pytest.mark.parametrize("n", [50, 5000])
def test_em_trusts_a_steep_but_finite_regression(n):
    # Nearly separable: coefficients of 8, and a few outcomes on the wrong side.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    y = (torch.rand(n, generator=generator) < torch.sigmoid(8 * x[:, 0])).double()
    fit = EM().fit(LogisticRegression(), x, y)
    assert fit.converged
    assert float(fit.params["coefficients"][0]) > 5.0
