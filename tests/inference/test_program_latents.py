"""Discrete latents are summed out: the evidence is that of every assignment."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.ops.indexing import Vindex
from scipy import stats
from scipy.special import logsumexp

from likely.inference import Program
from likely.inference.quantities import latent_posterior, pointwise_log_likelihood
from program_reading import LOC, TABLE, Values, X, drawn, log_normal, nested_plates, tensor

pytestmark = pytest.mark.usefixtures("in_double")


def test_the_evidence_is_that_of_pyros_enumeration(latent_config: Any) -> None:
    program = Program(latent_config.program, *latent_config.args)
    for seed in range(3):
        values = drawn(program, seed)
        conditioned = poutine.condition(latent_config.program, values)
        elbo = TraceEnum_ELBO(
            max_plate_nesting=program.sites.max_plate_nesting,
            # A distribution may sum its latent out by itself.
            strict_enumeration_warning=bool(program.sites.latents),
        )
        joint = -elbo.loss(config_enumerate(conditioned), lambda *_: None, *latent_config.args)
        nodes = poutine.trace(conditioned).get_trace(*latent_config.args).nodes
        prior = sum(float(nodes[n]["fn"].log_prob(v).sum()) for n, v in values.items())
        assert float(program.log_likelihood(values)) == pytest.approx(joint - prior, abs=1e-8)
        assert float(program.log_prior(values)) == pytest.approx(prior, abs=1e-8)


def every_assignment(
    program: Callable[..., Any], args: tuple[Any, ...], values: Values
) -> tuple[list[dict[str, torch.Tensor]], np.ndarray]:
    """Every joint value of the discrete latents, and log p(data, latents, θ) at each of them."""
    conditioned = poutine.condition(program, values)
    nodes = poutine.trace(conditioned).get_trace(*args).nodes
    choices: list[list[torch.Tensor]] = []
    names = []
    for name, node in nodes.items():
        if node["type"] != "sample" or node["is_observed"] or name in values:
            continue
        if type(node["fn"]).__name__ == "_Subsample":
            continue
        support = list(
            node["fn"].enumerate_support(expand=False).reshape(-1, *node["fn"].event_shape)
        )
        cells = node["fn"].batch_shape.numel()
        names.append(name)
        choices.append(
            [
                torch.stack(chosen).reshape(node["value"].shape)
                for chosen in itertools.product(support, repeat=cells)
            ]
        )
    assignments, logs = [], []
    for chosen in itertools.product(*choices):
        assignment = dict(zip(names, chosen, strict=True))
        everything = poutine.condition(program, {**values, **assignment})
        logs.append(float(poutine.trace(everything).get_trace(*args).log_prob_sum()))
        assignments.append(assignment)
    return assignments, np.array(logs)


def dependent_pair(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 3):
        a = pyro.sample("a", dist.Bernoulli(0.4))
        b = pyro.sample("b", dist.Categorical(Vindex(TABLE)[a.long()]))
        pyro.sample("x", dist.Normal(shift + Vindex(LOC)[a.long(), b], 0.7), obs=x[:3])


def outside_the_plate(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Categorical(TABLE[0]))
    with pyro.plate("n", 4):
        pyro.sample("x", dist.Normal(shift + LOC[0][z], 1.0), obs=x)


def outside_and_inside(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    a = pyro.sample("a", dist.Bernoulli(0.4))
    with pyro.plate("n", 4):
        b = pyro.sample("b", dist.Categorical(Vindex(TABLE)[a.long()]))
        pyro.sample("x", dist.Normal(shift + Vindex(LOC)[a.long(), b], 1.0), obs=x)


def markov_chain(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    transition = torch.stack([TABLE[0], TABLE[1], TABLE[0].flip(0)])
    z = 1
    for t in pyro.markov(range(4)):
        z = pyro.sample(f"z_{t}", dist.Categorical(Vindex(transition)[z]))
        pyro.sample(f"x_{t}", dist.Normal(shift + LOC[0][z], 0.8), obs=x[t])


def markov_chains_in_a_plate(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    stay = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    with pyro.plate("sequence", 2):
        z = torch.zeros(2, dtype=torch.long)
        for t in pyro.markov(range(2)):
            z = pyro.sample(f"z_{t}", dist.Categorical(Vindex(stay)[z]))
            pyro.sample(f"x_{t}", dist.Normal(shift + 3.0 * z, 0.8), obs=x[2 * t : 2 * t + 2])


def one_hot(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.OneHotCategorical(TABLE[1]))
        pyro.sample("x", dist.Normal(shift + z @ LOC[0], 1.0), obs=x)


def bounded_counts(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 3):
        z = pyro.sample("z", dist.Binomial(3, 0.3))
        pyro.sample("x", dist.Normal(shift + z, 1.0), obs=x[:3])


def one_state(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.Categorical(torch.ones(1)))
        pyro.sample("x", dist.Normal(shift + LOC[0][z], 1.0), obs=x)


def plate_of_one(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("one", 1, dim=-2):
        z = pyro.sample("z", dist.Categorical(TABLE[0]))
        with pyro.plate("n", 4, dim=-1):
            w = pyro.sample("w", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(shift + w + LOC[0][z], 1.0), obs=x.reshape(1, 4))


def plate_at_minus_two(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4, dim=-2):
        z = pyro.sample("z", dist.Categorical(TABLE[0]))
        pyro.sample("x", dist.Normal(shift + LOC[0][z], 1.0), obs=x.reshape(4, 1))


def two_reports(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.Categorical(TABLE[0]))
        pyro.sample("x", dist.Normal(shift + LOC[0][z], 1.0), obs=x)
        pyro.sample("y", dist.Normal(LOC[1][z], 2.0), obs=x.flip(0))
    with pyro.plate("m", 2):
        pyro.sample("unrelated", dist.Normal(shift, 1.0), obs=x[:2])


def events_around(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 2):
        z = pyro.sample("z", dist.Categorical(TABLE[0]))
        mean = shift + LOC[:, z].movedim(0, -1)
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x.reshape(2, 2))


def loop_over_a_plate(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    for i in pyro.plate("n", 3):
        z = pyro.sample(f"z_{i}", dist.Categorical(TABLE[0]))
        pyro.sample(f"x_{i}", dist.Normal(shift + LOC[0][z], 1.0), obs=x[i])


def factor_of_a_latent(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.Categorical(TABLE[0]))
        pyro.factor("score", -((x - shift - LOC[0][z]) ** 2))


def masked_data(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.Categorical(TABLE[0]))
        with poutine.mask(mask=torch.tensor([True, False, True, True])):
            pyro.sample("x", dist.Normal(shift + LOC[0][z], 1.0), obs=x)


EXACT = [
    nested_plates,
    dependent_pair,
    outside_the_plate,
    outside_and_inside,
    markov_chain,
    markov_chains_in_a_plate,
    one_hot,
    bounded_counts,
    one_state,
    plate_of_one,
    plate_at_minus_two,
    two_reports,
    events_around,
    loop_over_a_plate,
    factor_of_a_latent,
    masked_data,
]


@pytest.mark.parametrize("source", EXACT, ids=lambda source: source.__name__)
def test_the_evidence_is_the_sum_over_every_assignment(source: Callable[..., Any]) -> None:
    program = Program(source, X)
    values = {"shift": tensor(0.4)}
    _, logs = every_assignment(source, (X,), values)
    prior = stats.norm.logpdf(0.4)
    found = float(program.log_likelihood(values))
    assert found == pytest.approx(float(logsumexp(logs)) - prior, abs=1e-11)
    assert float(program.log_prior(values)) == pytest.approx(prior, rel=1e-14)


@pytest.mark.parametrize("source", EXACT, ids=lambda source: source.__name__)
def test_latent_posteriors_are_bayes_over_every_assignment(source: Callable[..., Any]) -> None:
    program = Program(source, X)
    values = {"shift": tensor(0.4)}
    assignments, logs = every_assignment(source, (X,), values)
    weights = np.exp(logs - logsumexp(logs))
    for name, latent in program.sites.latents.items():
        expected = torch.zeros(latent.batch_shape + (len(latent.values),))
        for assignment, weight in zip(assignments, weights, strict=True):
            value = assignment[name]
            chosen = value.unsqueeze(value.dim() - latent.values.dim() + 1) == latent.values
            if latent.values.dim() > 1:
                chosen = chosen.all(-1)
            expected += weight * chosen.to(expected.dtype)
        with program.session(0):
            found = latent_posterior(program, values, name)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("source", EXACT, ids=lambda source: source.__name__)
def test_pointwise_log_likelihoods_sum_to_the_total(source: Callable[..., Any]) -> None:
    program = Program(source, X)
    values = {"shift": tensor(0.4)}
    with program.session(0):
        pieces = pointwise_log_likelihood(program, values)
        total = program.density(values).log_likelihood
    assert float(sum(v.sum() for v, _ in pieces.values())) == pytest.approx(float(total), abs=1e-12)
    for value, names in pieces.values():
        assert value.shape == tuple(program.sites.plates[name].size for name in names)


def test_pointwise_log_likelihoods_of_every_program_sum_to_the_total(config: Any) -> None:
    program = Program(config.program, *config.args)
    values = drawn(program)
    with program.session(0), torch.no_grad():
        pieces = pointwise_log_likelihood(program, values)
        total = program.density(values).log_likelihood
    assert float(sum(v.sum() for v, _ in pieces.values())) == pytest.approx(float(total), rel=1e-11)


def test_pointwise_log_likelihoods_of_a_mixture_are_by_point() -> None:
    program = Program(two_reports, X)
    with program.session(0):
        pieces = pointwise_log_likelihood(program, {"shift": tensor(0.4)})
    # Both reports of one latent are one observation; what has no latent stands alone.
    assert set(pieces) == {"x+y", "unrelated"}
    joint = [
        math.log(TABLE[0, k]) + log_normal(X, 0.4 + LOC[0, k]) + log_normal(X.flip(0), LOC[1, k], 2)
        for k in range(3)
    ]
    np.testing.assert_allclose(pieces["x+y"][0], logsumexp(joint, axis=0), rtol=1e-13)
    np.testing.assert_allclose(pieces["unrelated"][0], log_normal(X[:2], 0.4), rtol=1e-13)
    assert pieces["x+y"][1] == ("n",)


def test_pointwise_log_likelihoods_of_a_chain_are_by_sequence() -> None:
    program = Program(markov_chains_in_a_plate, X)
    with program.session(0):
        ((value, names),) = pointwise_log_likelihood(program, {"shift": tensor(0.4)}).values()
    assert names == ("sequence",)
    # Each sequence on its own: the other one's data moved elsewhere leave it alone.
    moved = X.clone()
    moved[1::2] += 1.0
    other = Program(markov_chains_in_a_plate, moved)
    with other.session(0):
        ((again, _),) = pointwise_log_likelihood(other, {"shift": tensor(0.4)}).values()
    assert float(again[0]) == float(value[0])
    assert float(again[1]) != float(value[1])


def test_a_prior_that_a_latent_masks_counts_even_where_priors_do_not() -> None:
    """Where z is 0 there is no m: p(z | m) is not p(z), and the likelihood has it."""

    def program(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Bernoulli(0.3))
        with poutine.mask(mask=z > 0):
            m = pyro.sample("m", dist.Normal(1.0, 2.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(z * m, 1.0), obs=x)

    reading = Program(program, tensor([1.0, 2.0, 0.5]))
    values = {"m": tensor(2.5)}
    with reading.session(0):
        whole = reading.density(values)
        alone = reading.density(values, priors=False)
    assert float(alone.log_likelihood) == pytest.approx(float(whole.log_likelihood), abs=1e-12)
    below = 0.3 * stats.norm.pdf(2.5, 1.0, 2.0)
    weights = np.array([0.7, below]) / (0.7 + below)
    rows = stats.norm.logpdf([1.0, 2.0, 0.5], [[0.0], [2.5]], 1.0).sum(-1)
    expected = logsumexp(rows, b=weights)
    assert float(whole.log_likelihood) == pytest.approx(expected, abs=1e-12)
