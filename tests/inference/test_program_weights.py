"""Masks, weights and unknowns below latents; numbers that neither underflow nor overflow."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from scipy import stats
from scipy.special import logsumexp

from likely.inference import Program, ProgramError
from likely.inference.quantities import latent_posterior, pointwise_log_likelihood
from program_reading import LOC, TABLE, X, density, log_normal, nested_plates, tensor

pytestmark = pytest.mark.usefixtures("in_double")

# -- masks, weights, unknowns below latents --------------------------------------------------------


def test_a_masked_latent_still_sums_to_one() -> None:
    mask = torch.tensor([True, False, True, False])

    def program(x: torch.Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 4), poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Categorical(TABLE[0]))
            pyro.sample("x", dist.Normal(shift + LOC[0][z], 1.0), obs=x)

    joint = [math.log(TABLE[0, k]) + log_normal(X, 0.4 + LOC[0, k]) for k in range(3)]
    expected = logsumexp(joint, axis=0)[mask.numpy()].sum()
    read = Program(program, X)
    values = {"shift": tensor(0.4)}
    assert float(read.log_likelihood(values)) == pytest.approx(float(expected), rel=1e-13)
    with read.session(0):
        posterior = latent_posterior(read, values, "z")
    # Nothing is known about a latent whose data are masked but its prior.
    torch.testing.assert_close(posterior[~mask], TABLE[0].expand(2, 3), rtol=0, atol=1e-13)


@pytest.mark.parametrize("enumerated", [True, False])
def test_weights_are_repeated_rows(enumerated: bool) -> None:
    weight = torch.tensor([1.0, 3.0, 2.0, 1.0])

    def program(x: torch.Tensor, weight: torch.Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(x)), poutine.scale(scale=weight):
            z = torch.tensor(1)
            if enumerated:
                z = pyro.sample("z", dist.Categorical(TABLE[0]))
            pyro.sample("x", dist.Normal(shift + LOC[0][z], 1.0), obs=x)

    values = {"shift": tensor(0.4)}
    weighted = Program(program, X, weight).log_likelihood(values)
    rows = X.repeat_interleave(weight.long())
    repeated = Program(program, rows, torch.ones(7)).log_likelihood(values)
    assert float(weighted) == pytest.approx(float(repeated), rel=1e-13)


def test_a_weight_of_two_on_everything_doubles_the_density() -> None:
    values = {"shift": tensor(0.4)}
    doubled = density(Program(poutine.scale(nested_plates, scale=2.0), X), values)
    plain = density(Program(nested_plates, X), values)
    assert float(doubled.log_likelihood) == pytest.approx(2 * float(plain.log_likelihood))
    assert float(doubled.log_prior) == pytest.approx(2 * float(plain.log_prior))


def test_different_weights_around_one_latent_are_refused() -> None:
    def program(x: torch.Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 4):
            z = pyro.sample("z", dist.Categorical(TABLE[0]))
            with poutine.scale(scale=2.0):
                pyro.sample("x", dist.Normal(shift + LOC[0][z], 1.0), obs=x)

    with pytest.raises(ProgramError, match=r"'z' and 'x' share a discrete latent"):
        Program(program, X).log_likelihood({"shift": tensor(0.4)})


def test_an_unknown_below_a_latent_has_a_mixture_for_a_prior() -> None:
    def program(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        u = pyro.sample("u", dist.Normal(torch.tensor([-1.0, 2.0])[z], 0.5))
        with pyro.plate("n", 4):
            pyro.sample("x", dist.Normal(u + 0.5 * z, 1.0), obs=x)

    def joint(z: int, data: bool) -> float:
        total = np.log([0.3, 0.7][z]) + stats.norm([-1.0, 2.0][z], 0.5).logpdf(0.6)
        return total + data * log_normal(X, 0.6 + 0.5 * z).sum()

    prior = logsumexp([joint(z, False) for z in (0, 1)])
    both = [joint(z, True) for z in (0, 1)]
    read, values = Program(program, X), {"u": tensor(0.6)}
    assert float(read.log_prior(values)) == pytest.approx(prior, rel=1e-13)
    assert float(read.log_likelihood(values)) == pytest.approx(logsumexp(both) - prior, rel=1e-12)
    with read.session(0):
        posterior = latent_posterior(read, values, "z")
        ((pointwise, _),) = pointwise_log_likelihood(read, values).values()
    np.testing.assert_allclose(posterior, np.exp(both - logsumexp(both)), rtol=1e-12)
    assert float(pointwise.sum()) == pytest.approx(logsumexp(both) - prior, rel=1e-12)


# -- numbers ---------------------------------------------------------------------------------------


def test_sites_that_disagree_by_a_thousand_nats_do_not_underflow() -> None:
    def program(left: torch.Tensor, right: torch.Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("n", 1):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.25, 0.75])))
            loc = torch.tensor([0.0, 50.0])[z]
            pyro.sample("left", dist.Normal(loc, scale), obs=left)
            pyro.sample("right", dist.Normal(loc, scale), obs=right)

    # State 0 explains the left site and state 1 the right one, each 1250 nats better.
    args = (tensor([0.0]), tensor([50.0]))
    read = Program(program, *args)
    value = tensor(1.0).requires_grad_(True)
    found = read.log_likelihood({"scale": value})
    expected = stats.norm.logpdf(0.0) + stats.norm.logpdf(50.0)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-14)
    (slope,) = torch.autograd.grad(found, value)
    # d/ds of −2 log s − 2500 / (2 s²) at 1.
    assert float(slope) == pytest.approx(-2.0 + 2500.0, rel=1e-13)
    with read.session(0):
        posterior = latent_posterior(read, {"scale": tensor(1.0)}, "z")
    np.testing.assert_allclose(posterior, [[0.25, 0.75]], rtol=1e-12)
    # Pyro's ring multiplies the exponentials, whose maxima lie in different states.
    conditioned = config_enumerate(poutine.condition(program, {"scale": tensor(1.0)}))
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(conditioned, lambda *_: None, *args)
    assert -float(loss) != pytest.approx(expected, rel=1e-6)


def test_an_impossible_state_leaves_value_and_gradient_finite() -> None:
    def program(x: torch.Tensor) -> None:
        rate = pyro.sample("rate", dist.Beta(2.0, 2.0))
        with pyro.plate("n", 2):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.0, 0.4, 0.6])))
            probability = torch.stack([rate, rate / 2, rate * 0.0 + 1.0])[z]
            pyro.sample("x", dist.Bernoulli(probability), obs=x)

    value = tensor(0.3).requires_grad_(True)
    found = Program(program, tensor([1.0, 0.0])).log_likelihood({"rate": value})
    # Heads: 0.4 r/2 + 0.6. Tails: 0.4 (1 − r/2).
    assert float(found.detach()) == pytest.approx(math.log(0.66 * 0.34), rel=1e-6)
    (slope,) = torch.autograd.grad(found, value)
    assert float(slope) == pytest.approx(0.2 / 0.66 - 0.2 / 0.34, rel=1e-5)
