"""Latents that a distribution sums out by itself: the E-step, and fits against enumeration."""

from __future__ import annotations

import math
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from likely.inference import EM, MAP, MLE, ProgramError
from likely.inference.engines.expectation import expect, expected_log_density, find_tables
from likely.inference.inner import Summed, sums_out
from likely.inference.program import Program

TOSSES = 10
HEADS = torch.tensor([9.0, 8.0, 2.0, 1.0, 9.0, 0.0, 7.0, 3.0], dtype=torch.float64)
START = {
    "weights": torch.tensor([0.4, 0.6], dtype=torch.float64),
    "heads": torch.tensor([0.3, 0.8], dtype=torch.float64),
}


class Coins(dist.TorchDistribution):
    """Heads of ten tosses of one of K coins; which coin is summed out."""

    arg_constraints: ClassVar[dict[str, object]] = {}
    support = dist.constraints.nonnegative_integer
    latent_dims: tuple[str, ...] = ()

    def __init__(self, weights, heads, latent="which", unused=None, shape=()):
        self.latent, self.n_states = latent, len(heads)
        self.natural = {
            "weights": weights.log(),
            "tosses": torch.stack([heads.log(), (1 - heads).log()], -1),
        }
        if unused is not None:
            self.natural["unused"] = unused
        super().__init__(torch.Size(shape), torch.Size(), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Coins, _instance)
        new.latent, new.n_states, new.natural = self.latent, self.n_states, self.natural
        dist.TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        return new

    def joint(self, value, natural):
        tails = TOSSES - value
        counts = torch.stack([value, tails], -1).unsqueeze(-2)
        binomial = math.lgamma(TOSSES + 1) - torch.lgamma(value + 1) - torch.lgamma(tails + 1)
        # What did not happen may be impossible: 0 · log 0 = 0.
        log_odds = torch.where(counts > 0, counts * natural["tosses"], 0.0).sum(-1)
        return natural["weights"] + binomial.unsqueeze(-1) + log_odds

    def evidence(self, value, natural, hard=False):
        joint = self.joint(value, natural)
        return joint.amax(-1) if hard else joint.logsumexp(-1)

    def log_prob(self, value):
        return self.evidence(value, self.natural)

    def latent_posterior(self, value):
        return self.joint(value, self.natural).softmax(-1)

    def sample(self, sample_shape=()):
        return torch.zeros(torch.Size(sample_shape) + self.batch_shape)


def priors():
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("coin", 2):
        heads = pyro.sample("heads", dist.Beta(2.0, 2.0))
    return weights, heads


def summed_coins(y):
    weights, heads = priors()
    with pyro.plate("bag", len(y)):
        pyro.sample("y", Coins(weights, heads), obs=y)


def enumerated_coins(y):
    weights, heads = priors()
    with pyro.plate("bag", len(y)):
        which = pyro.sample("which", dist.Categorical(weights))
        pyro.sample("y", dist.Binomial(TOSSES, heads[which]), obs=y)


def site_of(program, values=START, y=HEADS):
    reading = Program(program, y)
    with reading.session(0):
        (site,) = reading.run(values, apart=True).summed
    return site


def expectation_of(program, values=START, hard=False, y=HEADS, with_prior=False):
    reading = Program(program, y)
    with reading.session(0):
        tables = find_tables(reading, values, hard=hard, with_prior=with_prior)
        return tables, expect(reading, values, tables, hard=hard, with_prior=with_prior)


def test_only_distributions_that_say_so_sum_out() -> None:
    coins = Coins(torch.ones(2) / 2, torch.tensor([0.2, 0.7]))
    assert sums_out(coins)
    assert not sums_out(dist.Normal(0.0, 1.0))
    assert not sums_out(dist.Categorical(torch.ones(3)))
    coins.latent = None
    assert not sums_out(coins)


def test_reading_knows_the_latent_and_its_plate() -> None:
    reading = Program(summed_coins, HEADS)
    assert not reading.sites.latents
    assert reading.sites.hidden
    assert reading.sites.inner["which"].site == "y"
    assert reading.sites.inner["which"].dims == ("bag",)


@pytest.mark.parametrize("hard", [False, True])
def test_e_step_is_that_of_enumeration(hard: bool) -> None:
    tables, ours = expectation_of(summed_coins, hard=hard)
    twin_tables, twin = expectation_of(enumerated_coins, hard=hard)
    assert tables == twin_tables == {"weights"}
    torch.testing.assert_close(ours.log_likelihood, twin.log_likelihood)
    torch.testing.assert_close(ours.log_prior, twin.log_prior)
    torch.testing.assert_close(ours.counts["weights"], twin.counts["weights"])
    shares = twin.responsibilities("which")
    found = ours.statistics["y"]
    torch.testing.assert_close(found["weights"], shares.sum(0))
    expected = shares.T @ torch.stack([HEADS, TOSSES - HEADS], -1)
    torch.testing.assert_close(found["tosses"], expected)


def test_expected_density_is_that_of_enumeration_up_to_a_constant() -> None:
    """It may lack what is free of the unknowns: the binomial coefficients."""
    other = {
        "weights": torch.tensor([0.7, 0.3], dtype=torch.float64),
        "heads": torch.tensor([0.25, 0.9], dtype=torch.float64),
    }
    changes = []
    for program in (summed_coins, enumerated_coins):
        reading = Program(program, HEADS)
        with reading.session(0):
            found = expect(reading, START, frozenset())
            there, here = (
                expected_log_density(reading.run(values, apart=True), found, with_prior=True)
                for values in (other, START)
            )
        changes.append(float(there - here))
    assert changes[0] == pytest.approx(changes[1], rel=1e-12)


def test_gradient_terms_are_the_gradient_of_the_expected_density() -> None:
    values = {name: value.clone().requires_grad_(True) for name, value in START.items()}
    site = site_of(summed_coins, values)
    _, statistics = site.expectation(hard=False)
    leaves = list(values.values())
    direct = torch.autograd.grad(site.expected(statistics), leaves, retain_graph=True)
    outputs, cotangents = site.gradient_terms(statistics)
    terms = torch.autograd.grad(outputs, leaves, cotangents)
    for first, second in zip(direct, terms, strict=True):
        torch.testing.assert_close(first, second)
    # Fisher's identity: at the same values it is also the gradient of the log-likelihood.
    with torch.enable_grad():
        reading = Program(summed_coins, HEADS)
        total = reading.log_likelihood(values)
    for first, second in zip(direct, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(first, second)


def test_an_impossible_parameter_has_no_statistics() -> None:
    values = {
        "weights": torch.tensor([1.0, 0.0], dtype=torch.float64),
        "heads": torch.tensor([0.5, 0.2], dtype=torch.float64),
    }
    site = site_of(summed_coins, values)
    total, statistics = site.expectation(hard=False)
    assert math.isfinite(float(total))
    assert float(statistics["weights"][1]) == 0.0
    assert float(statistics["tosses"][1].abs().sum()) == 0.0
    # 0 · log 0 = 0, and its derivative is none.
    assert math.isfinite(float(site.expected(statistics)))


def test_what_the_density_does_not_use_has_statistics_of_zero() -> None:
    fn = Coins(START["weights"], START["heads"], unused=torch.ones(3, dtype=torch.float64))
    _, statistics = Summed("y", fn, HEADS, 1.0).expectation(hard=False)
    assert torch.equal(statistics["unused"], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("hard", [False, True])
def test_weights_multiply_and_masks_leave_out(hard: bool) -> None:
    fn = Coins(START["weights"], START["heads"])
    weight = torch.tensor([2.0, 1.0, 0.0, 0.5, 1.0, 0.0, 3.0, 1.0], dtype=torch.float64)
    total, found = Summed("y", fn, HEADS, weight).expectation(hard)
    parts = [Summed("y", fn, HEADS[i : i + 1], 1.0).expectation(hard) for i in range(8)]
    assert float(total) == pytest.approx(
        sum(float(w * part) for w, (part, _) in zip(weight, parts, strict=True))
    )
    for key, value in found.items():
        expected = sum(w * part[key] for w, (_, part) in zip(weight, parts, strict=True))
        torch.testing.assert_close(value, expected)
    doubled, twice = Summed("y", fn, HEADS, 2.0).expectation(hard)
    once, single = Summed("y", fn, HEADS, 1.0).expectation(hard)
    assert float(doubled) == pytest.approx(2 * float(once))
    torch.testing.assert_close(twice["tosses"], 2 * single["tosses"])


def test_a_masked_observation_may_be_impossible() -> None:
    fn = Coins(START["weights"], torch.tensor([0.0, 0.0], dtype=torch.float64))
    heads = torch.tensor([0.0, 3.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0], dtype=torch.float64)
    total, _ = Summed("y", fn, heads, weight).expectation(hard=False)
    assert float(total) == pytest.approx(0.0, abs=1e-12)


def masked(site_program):
    """The program with three bags hidden and the rest counted twice."""
    shown = torch.tensor([True, True, False, True, True, False, True, False])

    def program(y):
        weights, heads = priors()
        with pyro.plate("bag", len(y)), poutine.scale(scale=2.0), poutine.mask(mask=shown):
            if site_program == "summed":
                pyro.sample("y", Coins(weights, heads), obs=y)
            else:
                which = pyro.sample("which", dist.Categorical(weights))
                pyro.sample("y", dist.Binomial(TOSSES, heads[which]), obs=y)

    return program


PAIRS = {
    "plain": (summed_coins, enumerated_coins),
    "masked": (masked("summed"), masked("enumerated")),
}


ENGINES = {
    "em": EM(),
    "em-posterior": EM(objective="posterior"),
    "em-hard": EM(hard=True),
    "mle": MLE(),
    "map": MAP(),
}
# A masked latent that is enumerated takes its most probable value; one summed out is not there.
FITS = [(p, e) for p in PAIRS for e in ENGINES if (p, e) != ("masked", "em-hard")]


@pytest.mark.parametrize(("pair", "name"), FITS)
def test_fits_are_those_of_enumeration(pair: str, name: str) -> None:
    engine = type(ENGINES[name])(**{**vars(ENGINES[name]), "init": START, "tol": 1e-13})
    ours, twin = (engine.fit(program, HEADS) for program in PAIRS[pair])
    assert ours.converged
    # Only what is maximised is the same to rounding.
    prior = float(name in ("em-posterior", "map"))
    first, second = (fit.log_likelihood + prior * fit.log_prior for fit in (ours, twin))
    assert first == pytest.approx(second, rel=1e-9)
    for site, value in twin.params.items():
        torch.testing.assert_close(ours.params[site], value, rtol=1e-4, atol=1e-4)
    if pair == "plain":
        mine, theirs = ours.latent("which"), twin.latent("which")
        assert mine.shape == (8, 2)
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-4)


def test_em_climbs_step_by_step() -> None:
    fit = EM(init=START, tol=1e-13).fit(summed_coins, HEADS)
    history = fit.history["objective"]
    assert len(history) > 3
    assert bool((history.diff().dropna() >= -1e-12 * history.abs().max()).all())


def test_two_sites_and_an_enumerated_latent_together() -> None:
    """Each latent keeps to its own site."""

    def program(y, z, enumerate_second):
        weights, heads = priors()
        bias = pyro.sample("bias", dist.Dirichlet(torch.ones(2)))
        level = torch.tensor([0.15, 0.6])
        with pyro.plate("bag", len(y)):
            pyro.sample("y", Coins(weights, heads), obs=y)
        with pyro.plate("box", len(z)):
            if enumerate_second:
                other = pyro.sample("other", dist.Categorical(bias))
                pyro.sample("z", dist.Binomial(TOSSES, level[other]), obs=z)
            else:
                pyro.sample("z", Coins(bias, level, latent="other"), obs=z)

    boxes = torch.tensor([1.0, 2.0, 7.0, 5.0, 0.0], dtype=torch.float64)
    engine = EM(init={**START, "bias": torch.tensor([0.5, 0.5]).double()}, tol=1e-13)
    inner, mixed = (engine.fit(program, HEADS, boxes, flag) for flag in (False, True))
    assert inner.log_likelihood == pytest.approx(mixed.log_likelihood, rel=1e-9)
    for name, value in mixed.params.items():
        torch.testing.assert_close(inner.params[name], value, rtol=1e-4, atol=1e-4)
    for fit in (inner, mixed):
        assert fit.latent("which").shape == (8, 2)
        assert fit.latent("other").shape == (5, 2)
    torch.testing.assert_close(inner.latent("other"), mixed.latent("other"), rtol=0.0, atol=1e-4)


def test_an_unknown_latent_is_named() -> None:
    fit = EM(init=START).fit(summed_coins, HEADS)
    with pytest.raises(ProgramError, match=r"'who' is not a discrete latent.*it has 'which'"):
        fit.latent("who")


def test_hook_gets_the_statistics_by_site() -> None:
    class Hooked:
        def __init__(self):
            self.seen = []

        def __call__(self, y):
            summed_coins(y)

        def initial(self, y):
            return START

        def m_step(self, expected, params, y, *, objective):
            self.seen.append(set(expected["y"]))
            counts = expected["y"]["tosses"]
            return {"heads": counts[:, 0] / counts.sum(-1)}

    hooked = Hooked()
    fit = EM(tol=1e-13).fit(hooked, HEADS)
    plain = EM(init=START, tol=1e-13).fit(enumerated_coins, HEADS)
    assert hooked.seen[0] == {"weights", "tosses"}
    torch.testing.assert_close(fit.params["heads"], plain.params["heads"], rtol=1e-4, atol=1e-4)
