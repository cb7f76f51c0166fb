"""The method of moments against closed forms, and as a start."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from likely.inference import EM, MAP, MLE, ProgramError, method_of_moments
from likely.models import (
    BernoulliModel,
    GaussianModel,
    LinearRegression,
    LogisticRegression,
    PoissonModel,
)

GENERATOR = np.random.default_rng(3)
POSITIVE = torch.as_tensor(GENERATOR.gamma(3.0, 0.5, 40))
SHARES = torch.as_tensor(GENERATOR.beta(2.0, 5.0, 40))
MEAN, VARIANCE = float(POSITIVE.mean()), float(POSITIVE.var(correction=0))
SHARE, SPREAD = float(SHARES.mean()), float(SHARES.var(correction=0))
TOTAL = SHARE * (1 - SHARE) / SPREAD - 1


def one_site(family, names, data, **fixed):
    """A program whose only observed site has unknowns for parameters, or fixed numbers."""

    def program(x):
        own = {name: pyro.sample(name, dist.LogNormal(0.0, 1.0)) for name in names}
        with pyro.plate("observation", len(x)):
            pyro.sample("x", family(**own, **fixed), obs=x)

    return program, data


CLOSED_FORMS = [
    (one_site(dist.Normal, ["loc", "scale"], POSITIVE), {"loc": MEAN, "scale": VARIANCE**0.5}),
    (
        one_site(dist.Normal, ["scale"], POSITIVE, loc=1.0),
        {"scale": float((POSITIVE - 1.0).square().mean()) ** 0.5},
    ),
    (
        one_site(dist.Laplace, ["loc", "scale"], POSITIVE),
        {"loc": MEAN, "scale": (VARIANCE / 2) ** 0.5},
    ),
    (
        one_site(dist.Gamma, ["concentration", "rate"], POSITIVE),
        {"concentration": MEAN**2 / VARIANCE, "rate": MEAN / VARIANCE},
    ),
    (one_site(dist.Gamma, ["rate"], POSITIVE, concentration=3.0), {"rate": 3.0 / MEAN}),
    (one_site(dist.Gamma, ["concentration"], POSITIVE, rate=2.0), {"concentration": 2.0 * MEAN}),
    (one_site(dist.Exponential, ["rate"], POSITIVE), {"rate": 1 / MEAN}),
    (one_site(dist.Poisson, ["rate"], POSITIVE.round()), {"rate": float(POSITIVE.round().mean())}),
    (
        one_site(dist.Beta, ["concentration1", "concentration0"], SHARES),
        {"concentration1": SHARE * TOTAL, "concentration0": (1 - SHARE) * TOTAL},
    ),
    (
        one_site(dist.Beta, ["concentration0"], SHARES, concentration1=2.0),
        {"concentration0": 2.0 * (1 - SHARE) / SHARE},
    ),
    (
        one_site(dist.Beta, ["concentration1"], SHARES, concentration0=5.0),
        {"concentration1": 5.0 * SHARE / (1 - SHARE)},
    ),
    (
        one_site(dist.Bernoulli, ["logits"], (SHARES > 0.15).double()),
        {"logits": float((SHARES > 0.15).double().mean().logit())},
    ),
    (
        (BernoulliModel(), (SHARES > 0.15).double()),
        {"probability": float((SHARES > 0.15).double().mean())},
    ),
    ((PoissonModel(), POSITIVE.round()), {"rate": float(POSITIVE.round().mean())}),
    ((GaussianModel(), POSITIVE), {"loc": MEAN, "scale": VARIANCE**0.5}),
]


@pytest.mark.parametrize(("case", "expected"), CLOSED_FORMS)
def test_moments_of_one_site_are_those_of_the_closed_form(case, expected):
    found = method_of_moments(*case)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def grouped(x, group):
    """Means by group, one scale for all, a weight and a mask."""
    with pyro.plate("group", 3):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(5.0))
    keep, weight = torch.arange(len(x)) != 0, torch.arange(len(x)) % 2 + 1.0
    with pyro.plate("n", len(x)), poutine.mask(mask=keep), poutine.scale(scale=weight):
        pyro.sample("x", dist.Normal(loc[group], scale), obs=x)


def test_observations_that_share_an_element_are_a_group_of_their_own():
    group = torch.arange(40) % 3
    found = method_of_moments(grouped, POSITIVE, group)
    x, which, weight = POSITIVE[1:].numpy(), group[1:].numpy(), np.arange(1, 40) % 2 + 1.0
    means = [np.average(x[which == k], weights=weight[which == k]) for k in range(3)]
    np.testing.assert_allclose(found["loc"], means)
    scale = np.average((x - np.array(means)[which]) ** 2, weights=weight) ** 0.5
    assert float(found["scale"]) == pytest.approx(scale)


def events(x):
    """Two columns in one event, with a location each; the scale of one is known."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    with pyro.plate("n", len(x)):
        mask = torch.tensor([[True, False], [True, True], [True, True]])
        pyro.sample("x", dist.Normal(loc, 1.0).mask(mask).to_event(1), obs=x)


def test_an_event_has_a_location_for_each_column():
    x = torch.tensor([[1.0, 100.0], [2.0, 5.0], [6.0, 7.0]])
    np.testing.assert_allclose(method_of_moments(events, x)["loc"], [3.0, 6.0])


def test_a_regression_has_a_location_that_no_site_is():
    x = torch.as_tensor(GENERATOR.normal(size=(40, 2)))
    with pytest.raises(ProgramError, match=r"'intercept', 'coefficients', 'scale'.*Normal"):
        method_of_moments(LinearRegression(), x, POSITIVE)
    with pytest.raises(ProgramError, match="no moment"):
        method_of_moments(LogisticRegression(), x, (SHARES > 0.15).double())


def two_bells(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("point", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_what_lies_below_a_latent_is_left_out():
    with pytest.raises(ProgramError, match="no moment"):
        method_of_moments(two_bells, POSITIVE)


def twice(x, y):
    rate = pyro.sample("rate", dist.Exponential(1.0))
    pyro.sample("unused", dist.Normal(0.0, 1.0))
    with pyro.plate("hour", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)
    with pyro.plate("day", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def test_two_sites_of_one_unknown_are_pooled_by_their_sizes():
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([8.0])
    found = method_of_moments(twice, x, y)
    assert set(found) == {"rate"}
    assert float(found["rate"]) == pytest.approx(14 / 4)


@pytest.mark.parametrize(
    ("program", "data", "left"),
    [
        # A scale of zero and a Beta without spread are no values to start from.
        (one_site(dist.Normal, ["loc", "scale"], None)[0], torch.ones(4), {"loc"}),
        (one_site(dist.Gamma, ["concentration", "rate"], None)[0], torch.ones(4), set()),
        (
            one_site(dist.Beta, ["concentration1", "concentration0"], None)[0],
            torch.full((3,), 0.5),
            set(),
        ),
    ],
)
def test_data_that_do_not_vary_identify_no_spread(program, data, left):
    if left:
        assert set(method_of_moments(program, data)) == left
        return
    with pytest.raises(ProgramError, match="whose data vary"):
        method_of_moments(program, data)


@pytest.mark.parametrize("engine", [MLE, MAP, EM])
def test_moments_are_a_start_for_any_engine(engine):
    program, data = one_site(dist.Gamma, ["concentration", "rate"], POSITIVE)
    start = method_of_moments(program, data)
    seen = []
    fit = engine(init=start, callback=lambda step: seen.append(step.params()) and None).fit(
        program, data
    )
    for name, value in start.items():
        torch.testing.assert_close(seen[0][name], value)
    # The moments of a Gamma are not its maximum likelihood, but near it.
    plain = engine().fit(program, data)
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-6)
    assert fit.n_iter <= plain.n_iter


def test_a_program_that_cannot_be_read_says_why():
    with pytest.raises(ProgramError, match="no observed site"):
        method_of_moments(lambda: pyro.sample("loc", dist.Normal(0.0, 1.0)))
