from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate

from likely.inference import EM
from likely.inference.program import Program
from likely.models import HiddenMarkovModel, Sequences

PROGRAMS = {
    "full": (HiddenMarkovModel(2), 2),
    "diag": (HiddenMarkovModel(2, covariance="diag"), 2),
    "tied": (HiddenMarkovModel(3, covariance="tied"), 2),
    "spherical": (HiddenMarkovModel(2, covariance="spherical"), 2),
    "poisson": (HiddenMarkovModel(2, "poisson"), 2),
    "bernoulli": (HiddenMarkovModel(3, "bernoulli"), 2),
    "categorical": (HiddenMarkovModel(2, "categorical", options={"n_categories": 3}), 1),
}
LENGTHS = [3, 1, 4]


def drawn(program, dim, seed=0):
    """Data [N, D] and values of all sites from the program itself."""
    pyro.set_rng_seed(seed)
    nodes = poutine.trace(program).get_trace(lengths=LENGTHS, dim=dim).nodes
    values = {
        name: node["value"]
        for name, node in nodes.items()
        if node["type"] == "sample"
        and name != "x"
        and not node["infer"].get("_deterministic")
        and type(node["fn"]).__name__ != "_Subsample"
    }
    return nodes["x"]["value"], values


def log_emissions(program, values, x):
    """[N, K] by each family's own distribution, missing features left out."""
    k = program.n_states
    if program.emission == "gaussian":
        d = x.shape[1]
        scales = values["scales"]
        if program.covariance == "tied":
            scales = scales.expand(k, d)
        if program.covariance == "spherical":
            scales = scales.unsqueeze(-1).expand(k, d)
        factor = scales.diag_embed()
        if "correlation_cholesky" in values:
            factor = factor @ values["correlation_cholesky"]
        covariance = factor @ factor.mT
        rows = []
        for row in x:
            there = ~row.isnan()
            if not bool(there.any()):
                rows.append(torch.zeros(k))
                continue
            own = dist.MultivariateNormal(
                values["locs"][:, there], covariance[:, there][:, :, there]
            )
            rows.append(own.log_prob(row[there]))
        return torch.stack(rows)
    there = ~x.isnan()
    filled = torch.where(there, x, 0.0).unsqueeze(1)
    if program.emission == "poisson":
        density = dist.Poisson(values["rates"]).log_prob(filled)
    elif program.emission == "bernoulli":
        density = dist.Bernoulli(values["probabilities"]).log_prob(filled)
    else:
        density = dist.Categorical(values["probabilities"]).log_prob(filled)
    return torch.where(there.unsqueeze(1), density, 0.0).sum(-1)


def enumerated(values, emissions):
    """Log-likelihood of one sequence and the posterior of its states, path by path."""
    k, n = len(values["initial"]), len(emissions)
    totals, paths = [], list(itertools.product(range(k), repeat=n))
    for path in paths:
        total = values["initial"][path[0]].log() + emissions[0, path[0]]
        for t in range(1, n):
            total = total + values["transition"][path[t - 1], path[t]].log()
            total = total + emissions[t, path[t]]
        totals.append(total)
    densities = torch.stack(totals)
    posterior = torch.zeros(n, k)
    for path, weight in zip(paths, densities.softmax(0), strict=True):
        posterior[torch.arange(n), list(path)] += weight
    return densities.logsumexp(0), posterior


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_log_density_and_posterior_are_those_of_all_paths(name, missing):
    program, dim = PROGRAMS[name]
    x, values = drawn(program, dim)
    if missing:
        x = x.clone().double()
        x[1] = torch.nan  # a whole step
        x[4, 0] = torch.nan
    bound = Program(program, x, lengths=LENGTHS)
    with bound.session(0):
        run = bound.run(values, apart=True)
    (site,) = run.summed
    density, posterior = site.fn.log_prob(site.value), site.fn.latent_posterior(site.value)
    emissions = log_emissions(program, values, x)
    start = 0
    for number, length in enumerate(LENGTHS):
        total, states = enumerated(values, emissions[start : start + length])
        start += length
        torch.testing.assert_close(density[number], total, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(posterior[number, :length], states, rtol=1e-9, atol=1e-10)
        assert bool(posterior[number, length:].isnan().all())


def chain(initial, transition, locs, scales, x):
    """The same model in Pyro's own words, a latent site a step."""
    state = None
    for t in pyro.markov(range(len(x))):
        probabilities = initial if state is None else transition[state]
        state = pyro.sample(f"z{t}", dist.Categorical(probabilities))
        pyro.sample(f"x{t}", dist.Normal(locs[state], scales[state]), obs=x[t])


def test_pyros_enumeration_gives_the_same_evidence():
    program = HiddenMarkovModel(3, covariance="diag")
    x = torch.tensor([0.3, -1.0, 2.0, 0.1])
    pyro.set_rng_seed(1)
    values = {
        "initial": torch.rand(3).softmax(0),
        "transition": torch.rand(3, 3).softmax(-1),
        "locs": torch.randn(3, 1),
        "scales": torch.rand(3, 1) + 0.5,
    }
    arguments = (*values.values(), x)
    arguments = [a.squeeze(-1) if a.dim() > 1 and a.shape[-1] == 1 else a for a in arguments]
    elbo = TraceEnum_ELBO(max_plate_nesting=0)
    expected = -elbo.loss(config_enumerate(chain), lambda *_: None, *arguments)
    found = Program(program, x).log_likelihood(values)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_ragged_padded_and_separate_sequences_agree():
    program, dim = PROGRAMS["full"]
    x, values = drawn(program, dim)
    ragged = Program(program, x, lengths=LENGTHS).log_likelihood(values)
    parts = x.split(LENGTHS)
    separate = sum(Program(program, part).log_likelihood(values) for part in parts)
    padded = torch.full((3, 4, dim), torch.nan)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    missing = Program(program, padded).log_likelihood(values)
    torch.testing.assert_close(ragged, separate, rtol=1e-12, atol=0)
    torch.testing.assert_close(ragged, missing, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["full", "poisson"])
def test_plates_outside_give_each_set_of_values_its_own_density(name):
    program, dim = PROGRAMS[name]
    x, _ = drawn(program, dim)
    sequences = Sequences.from_arrays(x, LENGTHS)

    def several():
        with pyro.plate("particle", 5, dim=-2):
            return program(sequences)

    pyro.set_rng_seed(3)
    trace = poutine.trace(several).get_trace()
    found = trace.nodes["x"]["fn"].log_prob(x)
    assert found.shape == (5, 3)
    for number in range(5):
        values = {}
        for site, node in trace.nodes.items():
            if site in ("initial", "transition", "locs", "scales", "correlation_cholesky", "rates"):
                own = node["value"][number]
                values[site] = own.squeeze(0) if site == "initial" else own
        with Program(program, sequences).session(0):
            alone = poutine.trace(poutine.condition(program, values)).get_trace(sequences)
        torch.testing.assert_close(
            found[number], alone.nodes["x"]["fn"].log_prob(x), rtol=1e-12, atol=1e-12
        )


def test_a_sample_shape_draws_sets_of_sequences():
    program, dim = PROGRAMS["diag"]
    x, values = drawn(program, dim)
    chains = poutine.trace(poutine.condition(program, values)).get_trace(x, lengths=LENGTHS)
    fn = chains.nodes["x"]["fn"]
    draws = fn.sample((6,))
    assert draws.shape == (6, 1, 8, 2)
    density = fn.log_prob(draws)
    assert density.shape == (6, 3)
    torch.testing.assert_close(density[4], fn.log_prob(draws[4, 0]), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="value: expected shape"):
        fn.log_prob(x[:-1])


def test_many_features_in_blocks_are_those_kept(monkeypatch):
    program, dim = PROGRAMS["full"]
    x, values = drawn(program, dim)
    kept = Program(program, x, lengths=LENGTHS)

    def derivatives(bound):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        total = bound.log_likelihood(leaves)
        first = torch.autograd.grad(total, leaves["locs"], create_graph=True)[0]
        (second,) = torch.autograd.grad(first.square().sum(), leaves["locs"])
        return total.detach(), first.detach(), second

    expected = derivatives(kept)
    monkeypatch.setattr("likely.models.markov._emission._KEPT", 0)
    monkeypatch.setattr("likely.models._loglinear._SMALLEST_BLOCK", 3)
    monkeypatch.setattr("likely.models._loglinear._BLOCK_CPU", 1)
    for one, other in zip(derivatives(Program(program, x, lengths=LENGTHS)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_an_impossible_category_makes_a_sequence_impossible():
    program, _ = PROGRAMS["categorical"]
    values = {
        "initial": torch.tensor([0.5, 0.5]),
        "transition": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "probabilities": torch.tensor([[[0.5, 0.5, 0.0]], [[0.0, 0.5, 0.5]]]),
    }
    scores = program.score_sequences(values, [[0.0, 1.0], [0.0, 2.0], [2.0, 1.0]])
    expected = torch.tensor([0.125, 0.0, 0.125]).log()
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore::likely.inference.errors.ConvergenceWarning")
def test_weights_count_sequences():
    program, dim = PROGRAMS["diag"]
    x, values = drawn(program, dim)
    sequences = Sequences.from_arrays(x, LENGTHS)
    twice = sequences.subset(torch.tensor([0, 0, 2, 2, 2]))
    weights = [2.0, 0.0, 3.0]
    expected = Program(program, twice).log_likelihood(values)
    found = Program(program, sequences, weights=weights).log_likelihood(values)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    engine = EM(init=values, max_iter=3)
    one, other = engine.fit(program, sequences, weights=weights), engine.fit(program, twice)
    # The bound on the variances is in units of all steps, and does not bind here.
    for name, value in one.params.items():
        torch.testing.assert_close(value, other.params[name], rtol=1e-8, atol=1e-10)
