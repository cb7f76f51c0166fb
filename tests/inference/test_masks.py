"""Masked observations: neither counted nor among the terms of the log-likelihood."""

from __future__ import annotations

import math

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from likely.inference import MAP, MLE, Laplace
from likely.models import NaiveBayes

X = torch.tensor([1.0, 2.0, 50.0, 4.0, 5.0, 60.0], dtype=torch.float64)
KEEP = torch.tensor([True, True, False, True, True, False])


def by_handler(x, keep):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("day", len(x)), poutine.mask(mask=keep):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def by_distribution(x, keep):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("day", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).mask(keep), obs=x)


def by_mixture(x, keep):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("day", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
        with poutine.mask(mask=keep):
            pyro.sample("x", dist.Normal(loc + 0.1 * z, 1.0), obs=x)


def unmasked(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("day", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


@pytest.mark.parametrize("program", [by_handler, by_distribution, by_mixture])
def test_masked_observations_are_not_counted(program):
    fit = MLE().fit(program, X, KEEP)
    assert fit.n_observations == 4
    assert fit.bic() == pytest.approx(math.log(4) - 2 * fit.log_likelihood)
    terms = fit.to_arviz()["log_likelihood"]["x"]
    assert terms.dims == ("chain", "draw", "x_observed")
    assert terms.shape == (1, 1, 4)
    assert float(terms.sum()) == pytest.approx(fit.log_likelihood)


@pytest.mark.parametrize("program", [by_handler, by_distribution])
def test_a_mask_is_the_same_as_leaving_the_data_out(program):
    masked, dropped = MLE().fit(program, X, KEEP), MLE().fit(unmasked, X[KEEP])
    assert masked.log_likelihood == pytest.approx(dropped.log_likelihood)
    assert masked.bic() == pytest.approx(dropped.bic())
    np.testing.assert_allclose(
        masked.to_arviz()["log_likelihood"]["x"], dropped.to_arviz()["log_likelihood"]["x"]
    )


def test_observations_that_count_keep_their_labels():
    class Labelled:
        def __call__(self, x, keep):
            by_handler(x, keep)

        def coords(self, x, keep):
            return {"day": x.index}

    x = pd.Series(X.numpy(), index=["mon", "tue", "wed", "thu", "fri", "sat"])
    data = MLE().fit(Labelled(), x, KEEP).to_arviz()
    assert data["log_likelihood"]["x_observed"].values.tolist() == ["mon", "tue", "thu", "fri"]
    # The data as they were given.
    assert data["observed_data"]["x"].sizes == {"day": 6}


def table(x, keep):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("column", 3, dim=-1), pyro.plate("row", 2, dim=-2), poutine.mask(mask=keep):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def test_a_masked_table_is_a_list_of_the_cells_that_count():
    fit = MLE().fit(table, X.reshape(2, 3), KEEP.reshape(2, 3))
    assert fit.n_observations == 4
    assert fit.to_arviz()["log_likelihood"]["x"].shape == (1, 1, 4)


def two_sites(x, y, keep):
    """Points below one latent, of which one site may be hidden."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    with pyro.plate("day", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
        with poutine.mask(mask=keep):
            pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


def test_an_observation_of_two_sites_counts_if_one_of_them_does():
    y = torch.where(KEEP, X, 0.0)
    assert MLE(init={"loc": [0.0, 50.0]}).fit(two_sites, X, y, KEEP).n_observations == 6


def test_an_observed_class_and_its_outcome_are_one_observation():
    x, y = torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0]]), torch.tensor([0, 1, 1, 0])
    some = torch.tensor([0, 1, 1, -1])
    for labels in (y, some):
        assert MAP().fit(NaiveBayes(2), x, labels).n_observations == 4


def by_event(x, keep):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("day", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).mask(keep).expand([len(x), 2]).to_event(1), obs=x)


def test_an_event_counts_if_one_of_its_entries_does():
    keep = torch.tensor([[True, False], [False, False], [True, True]])
    fit = MLE().fit(by_event, X.reshape(3, 2), keep)
    assert fit.n_observations == 2


def test_loo_sees_the_observations_that_count():
    x = torch.as_tensor(np.random.default_rng(0).normal(size=40))
    fit = Laplace(draws=500).fit(by_handler, x, torch.arange(40) % 4 > 0)
    assert az.loo(fit.to_arviz()).n_data_points == 30
