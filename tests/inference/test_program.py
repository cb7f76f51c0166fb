"""Reading programs: what their sites are, what their densities are, and what cannot be read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.ops.indexing import Vindex
from scipy import stats
from scipy.special import logsumexp

from likely.envs import DataError
from likely.inference import MLE, Program, ProgramError
from likely.inference.coordinates import Coordinates
from likely.inference.program import Density
from likely.inference.quantities import latent_posterior, pointwise_log_likelihood, simulate
from likely.models import DawidSkene, GaussianMixture, GaussianModel, LogisticRegression

Values = dict[str, torch.Tensor]

pytestmark = pytest.mark.usefixtures("in_double")


def tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def drawn(program: Program, seed: int = 0) -> Values:
    """Values of the unknowns: draws from their priors; parameters a little off their starts."""
    unknowns = program.sites.unknowns
    values = {n: u.start + 0.3 * torch.randn(u.shape) for n, u in unknowns.items() if u.is_param}
    with program.session(seed):
        nodes = program.trace(lambda name, _: values.get(name), enumerate_latents=False).nodes
    return {name: values.get(name, nodes[name]["value"]).detach() for name in unknowns}


def density(program: Program, values: Values, **options: Any) -> Density:
    with program.session(0), torch.no_grad():
        return program.density(values, **options)


# -- what sites are ------------------------------------------------------------------------------


def zoo(x: torch.Tensor, net: torch.nn.Module) -> None:
    """One site of every kind."""
    pyro.module("net", net)
    shift = pyro.param("shift", torch.tensor([0.5, 1.5]), constraint=dist.constraints.positive)
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("component", 3):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.deterministic("spread", loc.std(0))
    with pyro.plate("row", len(x), dim=-1):
        z = pyro.sample("z", dist.Categorical(weights))
        with pyro.plate("repeat", 2, dim=-2):
            on = pyro.sample("on", dist.Bernoulli(0.5))
            mean = net(Vindex(loc)[z] + shift).squeeze(-1) + on
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x.T)


@pytest.fixture
def animals() -> Program:
    return Program(zoo, torch.randn(5, 2), torch.nn.Linear(2, 1))


def test_every_site_is_sorted_by_what_an_engine_does_with_it(animals: Program) -> None:
    sites = animals.sites
    assert list(sites.unknowns) == ["net$$$weight", "net$$$bias", "shift", "weights", "loc"]
    assert list(sites.latents) == ["z", "on"]
    assert list(sites.observed) == ["x"]
    assert list(sites.deterministic) == ["spread"]
    assert {p.name: (p.size, p.dim) for p in sites.plates.values()} == {
        "component": (3, -1),
        "row": (5, -1),
        "repeat": (2, -2),
    }
    assert sites.max_plate_nesting == 2
    assert {n: u.is_param for n, u in sites.unknowns.items()} == {
        "net$$$weight": True,
        "net$$$bias": True,
        "shift": True,
        "weights": False,
        "loc": False,
    }
    assert list(sites.parameter_objects) == ["net$$$weight", "net$$$bias"]


def test_shapes_and_plates_of_sites_are_those_of_the_program(animals: Program) -> None:
    sites = animals.sites
    shapes = {n: (tuple(u.shape), u.dims, u.event_dim) for n, u in sites.unknowns.items()}
    assert shapes["weights"] == ((3,), (), 1)
    assert shapes["loc"] == ((3, 2), ("component",), 1)
    assert shapes["shift"] == ((2,), (None,), 0)
    assert sites.unknowns["weights"].unconstrained_shape == (2,)
    assert sites.latents["z"].dims == ("row",)
    assert sites.latents["z"].values.tolist() == [0, 1, 2]
    assert sites.latents["on"].dims == ("repeat", "row")
    assert sites.latents["on"].batch_shape == (2, 5)
    assert sites.observed["x"].dims == ("repeat", "row")
    assert sites.observed["x"].value.shape == (2, 5)


def test_a_parameter_keeps_its_constraint_and_its_start(animals: Program) -> None:
    shift = animals.sites.unknowns["shift"]
    assert shift.start.tolist() == [0.5, 1.5]
    assert bool((shift.transform(torch.tensor([-50.0, 50.0])) >= 0).all())
    net = animals.args[1]
    assert torch.equal(animals.sites.unknowns["net$$$weight"].start, net.weight.detach().double())


def test_one_hot_latents_list_their_values_as_events() -> None:
    def program(x: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 2):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(a + z[..., 0], 1.0), obs=x)

    latent = Program(program, torch.zeros(2)).sites.latents["z"]
    assert torch.equal(latent.values, torch.eye(3))
    assert latent.batch_shape == (2,)


def test_only_a_support_that_moves_with_other_sites_is_not_static() -> None:
    def program(x: torch.Tensor) -> None:
        top = pyro.sample("top", dist.Gamma(2.0, 1.0))
        low = pyro.sample("low", dist.Uniform(0.0, 1.0))
        pyro.sample("inner", dist.Uniform(0.0, top))
        pyro.sample("x", dist.Normal(low, 1.0), obs=x)

    unknowns = Program(program, torch.tensor(0.3)).sites.unknowns
    assert {n: u.static for n, u in unknowns.items()} == {"top": True, "low": True, "inner": False}


def test_every_program_has_the_sites_that_its_truth_names(config: Any) -> None:
    program = Program(config.program, *config.args)
    assert set(program.sites.unknowns) == set(config.values)
    assert program.sites.hidden == config.latents
    for name, value in config.values.items():
        assert program.sites.unknowns[name].shape == value.shape


@pytest.mark.parametrize("of", [np.asarray, pd.Series, list])
def test_arrays_and_series_become_tensors_of_the_fits_dtype(of: Callable[..., Any]) -> None:
    seen = []

    def program(x: Any) -> None:
        x = torch.as_tensor(x)
        seen.append(x)
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    given = of(np.array([0.5, 1.5], dtype=np.float64))
    if of is list:
        given = [torch.tensor(v) for v in given]  # containers of tensors are converted inside
    with torch.no_grad():
        program_read = Program(program, given, dtype=torch.float32)
    assert seen[0].dtype == torch.float32
    assert program_read.sites.observed["x"].value.tolist() == [0.5, 1.5]


# -- densities by hand ---------------------------------------------------------------------------


def test_densities_of_a_regression_are_scipys() -> None:
    x, y = torch.randn(7, 2), torch.tensor([0.0, 1, 1, 0, 1, 0, 1])
    program = Program(LogisticRegression(intercept_scale=2.0, coefficients_scale=3.0), x, y)
    values = {"intercept": tensor(0.4), "coefficients": tensor([1.2, -0.3])}
    logits = x.numpy() @ np.array([1.2, -0.3]) + 0.4
    likelihood = -np.logaddexp(0.0, np.where(y.numpy() == 1, -logits, logits)).sum()
    prior = stats.norm(0, 2).logpdf(0.4) + stats.norm(0, 3).logpdf([1.2, -0.3]).sum()
    assert float(program.log_likelihood(values)) == pytest.approx(likelihood, rel=1e-12)
    assert float(program.log_prior(values)) == pytest.approx(prior, rel=1e-12)


def test_densities_of_a_mixture_are_scipys() -> None:
    x = torch.randn(9, 2) * 2
    program = Program(GaussianMixture(2, "diag", loc_scale=3.0, scale_log_sd=0.7), x)
    values = {
        "weights": tensor([0.3, 0.7]),
        "locs": tensor([[0.0, 1.0], [2.0, -1.0]]),
        "scales": tensor([[1.0, 2.0], [0.5, 1.5]]),
    }
    joint = [
        np.log(weight) + stats.norm(loc, scale).logpdf(x.numpy()).sum(1)
        for weight, loc, scale in zip(*(v.numpy() for v in values.values()), strict=True)
    ]
    prior = stats.dirichlet([1.0, 1.0]).logpdf([0.3, 0.7])
    prior += stats.norm(0, 3).logpdf(values["locs"]).sum()
    prior += stats.lognorm(0.7).logpdf(values["scales"]).sum()
    expected = logsumexp(joint, axis=0).sum()
    assert float(program.log_likelihood(values)) == pytest.approx(expected, rel=1e-12)
    assert float(program.log_prior(values)) == pytest.approx(prior, rel=1e-12)


def test_a_factor_statement_counts_as_likelihood() -> None:
    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        pyro.factor("penalty", -3.0 * a.abs())

    found = density(Program(program), {"a": tensor(-1.5)})
    assert float(found.log_likelihood) == pytest.approx(-4.5, rel=1e-14)
    assert float(found.log_prior) == pytest.approx(stats.norm(0, 2).logpdf(-1.5), rel=1e-14)


def test_a_parameter_has_no_prior_density() -> None:
    def program(x: torch.Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    found = density(
        Program(program, tensor([0.1, 0.2])),
        {"scale": tensor(0.7), "loc": tensor(0.4)},
        unconstrained=False,
    )
    assert float(found.log_prior) == pytest.approx(stats.norm.logpdf(0.4), rel=1e-14)
    assert float(found.log_jacobian) == 0.0
    free = {"scale": tensor(math.log(0.7)), "loc": tensor(0.4)}
    again = density(Program(program, tensor([0.1, 0.2])), free, unconstrained=True)
    assert float(again.log_likelihood) == pytest.approx(float(found.log_likelihood), rel=1e-14)
    # No density, so no change of variables either.
    assert float(again.log_jacobian) == 0.0


def test_a_modules_parameters_are_what_is_put_in_and_not_the_modules_own(animals: Program) -> None:
    net = animals.args[1]
    values = drawn(animals)
    before = float(animals.log_likelihood(values))
    with torch.no_grad():
        net.weight.mul_(-2.0)
        net.bias.add_(1.0)
    assert float(animals.log_likelihood(values)) == before
    moved = {**values, "net$$$bias": values["net$$$bias"] + 0.5}
    assert float(animals.log_likelihood(moved)) != before


# -- derivatives ---------------------------------------------------------------------------------


def test_densities_have_right_gradients_in_constrained_values(config: Any) -> None:
    program = Program(config.program, *config.args)
    values = drawn(program)
    names = list(values)
    leaves = [values[name].clone().requires_grad_(True) for name in names]

    def both(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        point = dict(zip(names, given, strict=True))
        return program.log_likelihood(point), program.log_prior(point)

    # gradcheck's tolerance is absolute as well as relative; log-densities are in the hundreds.
    assert torch.autograd.gradcheck(both, leaves, eps=1e-6, atol=1e-4, rtol=1e-5)


def test_densities_have_right_gradients_in_unconstrained_values(config: Any) -> None:
    program = Program(config.program, *config.args)
    names = list(program.sites.unknowns)
    shapes = [program.sites.unknowns[name].unconstrained_shape for name in names]
    leaves = [(0.5 * torch.randn(shape)).requires_grad_(True) for shape in shapes]

    def total(*given: torch.Tensor) -> torch.Tensor:
        with program.session(0):
            found = program.density(dict(zip(names, given, strict=True)), unconstrained=True)
        return torch.stack([found.log_likelihood, found.log_prior, found.log_jacobian])

    assert torch.autograd.gradcheck(total, leaves, eps=1e-6, atol=1e-4, rtol=1e-5)


def test_unconstrained_values_give_the_density_of_what_they_map_to(config: Any) -> None:
    program = Program(config.program, *config.args)
    coordinates = Coordinates(program)
    flat = 0.5 * torch.randn(coordinates.size)
    with program.session(0):
        values = coordinates.constrain(flat)
        back = coordinates.unconstrain(values)
    torch.testing.assert_close(back, flat, rtol=0, atol=1e-10)
    there = density(program, coordinates.split(flat), unconstrained=True)
    here = density(program, values)
    assert float(there.log_likelihood) == pytest.approx(float(here.log_likelihood), rel=1e-12)
    assert float(there.log_prior) == pytest.approx(float(here.log_prior), rel=1e-12)
    assert float(here.log_jacobian) == 0.0


def test_a_program_that_does_not_index_its_data_cannot_be_subsampled(configs: Any) -> None:
    config = configs["two-bells"]
    program = Program(config.program, *config.args)
    with pytest.raises(ProgramError, match="'x'"):
        density(program, config.values, indices={"point": torch.tensor([3, 5])})


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(0.3, 0.8),
        dist.Gamma(2.0, 1.5),
        dist.HalfNormal(2.0),
        dist.Beta(2.0, 3.0),
        dist.Uniform(-1.0, 2.0),
        dist.Dirichlet(torch.tensor([2.0, 3.0])),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_the_unconstrained_prior_integrates_to_one(prior: Any) -> None:
    def program(x: torch.Tensor) -> None:
        pyro.sample("u", prior)
        pyro.sample("x", dist.Normal(0.0, pyro.param("scale", torch.tensor(1.0))), obs=x)

    read = Program(program, tensor(0.0))
    shape = read.sites.unknowns["u"].unconstrained_shape
    # The trapezoidal rule converges exponentially for smooth integrands that decay.
    grid = torch.linspace(-25.0, 25.0, 501)
    logs = []
    for point in grid:
        values = {"u": point.reshape(shape), "scale": tensor(1.0)}
        found = density(read, values, unconstrained=["u"])
        logs.append(float(found.log_prior + found.log_jacobian))
    assert np.exp(logs).sum() * 0.1 == pytest.approx(1.0, abs=1e-6)


def test_a_support_that_depends_on_another_site_integrates_to_one() -> None:
    def program(x: torch.Tensor) -> None:
        top = pyro.sample("top", dist.LogNormal(0.0, 0.5))
        inner = pyro.sample("inner", dist.Uniform(0.0, top))
        pyro.sample("x", dist.Normal(inner, 1.0), obs=x)

    read = Program(program, tensor(0.0))
    total = 0.0
    # In free coordinates the inner integrand is logistic and the outer one normal: on this grid
    # the trapezoidal rule and the tails leave errors below 1e-6.
    for top, inner in itertools.product(torch.arange(-3, 3.1, 0.3), torch.arange(-18, 18.1, 1.0)):
        found = density(read, {"top": top, "inner": inner}, unconstrained=True)
        total += 0.3 * math.exp(float(found.log_prior + found.log_jacobian))
    assert total == pytest.approx(1.0, abs=1e-6)


# -- discrete latents, summed out ----------------------------------------------------------------


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


LOC = torch.tensor([[-1.0, 0.5, 2.0], [0.0, 1.5, -2.0]], dtype=torch.float64)
TABLE = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
X = torch.tensor([0.3, -1.2, 2.1, 0.8], dtype=torch.float64)


def log_normal(x: torch.Tensor, loc: Any, scale: float = 1.0) -> np.ndarray:
    """Normal log-densities by SciPy."""
    return stats.norm(float(loc), scale).logpdf(x.numpy())


def nested_plates(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("outer", 2, dim=-2):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        with pyro.plate("inner", 2, dim=-1):
            w = pyro.sample("w", dist.Bernoulli(0.2 + 0.5 * z))
            pyro.sample("x", dist.Normal(shift + w - 2 * z, 1.0), obs=x.reshape(2, 2))


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


# -- masks, weights, unknowns below latents ------------------------------------------------------


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


# -- numbers -------------------------------------------------------------------------------------


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


# -- simulation ----------------------------------------------------------------------------------


def test_simulations_have_the_shapes_of_the_data(config: Any) -> None:
    program = Program(config.program, *config.args)
    with program.session(3), torch.no_grad():
        one = simulate(program, config.values)
        two = simulate(program, config.values)
    assert set(program.sites.observed) <= set(one)
    for name, site in program.sites.observed.items():
        assert one[name].shape == site.value.shape
        assert not torch.equal(one[name], two[name])
    for name, latent in program.sites.latents.items():
        assert one[name].shape == latent.batch_shape + latent.values.shape[1:]
    with program.session(3), torch.no_grad():
        again = simulate(program, config.values)
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_simulations_follow_the_values_put_in() -> None:
    program = Program(GaussianModel(), torch.zeros(4000))
    with program.session(0):
        draw = simulate(program, {"loc": tensor(3.0), "scale": tensor(2.0)})["y"]
    # Four standard errors of a mean and of a standard deviation of 4000 normals.
    assert float(draw.mean()) == pytest.approx(3.0, abs=4 * 2.0 / math.sqrt(4000))
    assert float(draw.std()) == pytest.approx(2.0, abs=4 * 2.0 / math.sqrt(8000))


def test_a_rebound_program_simulates_other_sizes() -> None:
    x = torch.randn(6, 2)
    program = Program(LogisticRegression(), x, torch.ones(6))
    other = program.rebind(torch.randn(11, 2))
    values = {"intercept": tensor(0.0), "coefficients": tensor([1.0, 1.0])}
    with other.session(0):
        assert simulate(other, values)["y"].shape == (11,)


# -- mini-batches --------------------------------------------------------------------------------


def test_batches_of_one_average_to_the_full_density(batch_config: Any) -> None:
    config = batch_config
    program = Program(config.program, *config.args)
    values = drawn(program)
    size = program.sites.plates[config.plate].size
    full = density(program, values)
    parts = [
        density(program, values, indices={config.plate: torch.tensor([i])}) for i in range(size)
    ]
    mean = sum(float(part.log_likelihood) for part in parts) / size
    assert mean == pytest.approx(float(full.log_likelihood), rel=1e-10)
    # Priors outside the plate are not weighted.
    assert float(parts[0].log_prior) == pytest.approx(float(full.log_prior), rel=1e-12)


def test_batches_take_their_rows_of_local_unknowns() -> None:
    def program(x: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 4) as index:
            local = pyro.sample("local", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(local, 0.5), obs=x[index])

    read = Program(program, X)
    values = {"mean": tensor(0.2), "local": tensor([0.1, 0.2, 0.3, 0.4])}
    found = density(read, values, indices={"n": torch.tensor([2, 0])})
    likelihood = stats.norm([0.3, 0.1], 0.5).logpdf(X[[2, 0]].numpy()).sum()
    prior = stats.norm.logpdf(0.2) + 2 * stats.norm(0.2, 1.0).logpdf([0.3, 0.1]).sum()
    assert float(found.log_likelihood) == pytest.approx(2 * likelihood, rel=1e-12)
    assert float(found.log_prior) == pytest.approx(prior, rel=1e-12)


# -- what cannot be read -------------------------------------------------------------------------


def observe(x: torch.Tensor, loc: Any, size: int = 4) -> None:
    with pyro.plate("n", size):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def without_unknowns(x: torch.Tensor) -> None:
    observe(x, pyro.sample("z", dist.Bernoulli(0.5)))


def without_data(x: torch.Tensor) -> None:
    pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("left_out", dist.Bernoulli(0.5))


def infinite_support(x: torch.Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("n", 4):
        count = pyro.sample("count", dist.Poisson(rate))
        pyro.sample("x", dist.Normal(count, 1.0), obs=x)


def outside_its_support(x: torch.Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("n", 4):
        pyro.sample("events", dist.Poisson(rate), obs=x)


def with_nan(x: torch.Tensor) -> None:
    observe(torch.where(x > 2, torch.nan, x), pyro.sample("a", dist.Normal(0.0, 1.0)))


def one_name_twice(x: torch.Tensor) -> None:
    pyro.sample("twin", dist.Normal(0.0, 1.0))
    observe(x, pyro.sample("twin", dist.Normal(0.0, 1.0)))


def plate_of_a_sites_name(x: torch.Tensor) -> None:
    observe(x, pyro.sample("n", dist.Normal(0.0, 1.0)))


def python_branch(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    chosen = pyro.sample("chosen", dist.Bernoulli(0.5))
    observe(x, a if chosen else -a)


def too_many_rows(x: torch.Tensor) -> None:
    observe(x, pyro.sample("a", dist.Normal(0.0, 1.0)), size=5)


def too_many_locations(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    observe(x, a + torch.zeros(4), size=5)


def unnamed_around_a_latent(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.sample("x", dist.Normal(a + z, 1.0), obs=x)


def unnamed_latents(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(torch.full((4,), 0.5)))
    pyro.sample("x", dist.Normal(a + z, 1.0), obs=x)


def unnamed_data_below_a_latent(x: torch.Tensor) -> None:
    # As many rows as the latent has values: the shapes alone would fit.
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.sample("x", dist.Normal(a + z, 1.0), obs=x[:2])


def its_own_subsample(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 4, subsample_size=2) as index:
        pyro.sample("x", dist.Normal(a, 1.0), obs=x[index])


def index_out_of_range(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    observe(x[torch.arange(5)], a)


UNREADABLE = [
    (without_unknowns, r"no unknowns: .*continuous pyro\.sample site or a pyro\.param"),
    (without_data, r"no observed site.*obs=.*'left_out'"),
    (infinite_support, r"'count' is a discrete latent with distribution Poisson"),
    (outside_its_support, r"'events' cannot have come from Poisson"),
    (with_nan, r"'x' .*"),
    (one_name_twice, r"two sites are called 'twin'"),
    (plate_of_a_sites_name, r"two sites are called 'n'"),
    (python_branch, r"after site 'chosen'.*cannot branch.*torch\.where"),
    (too_many_rows, r"'x' cannot have come from"),
    (too_many_locations, r"(?s)'x'.*plate and.*|Shape mismatch inside plate.*'n'.*disagree"),
    (unnamed_around_a_latent, r"'x' .*no plate names.*pyro\.plate"),
    (unnamed_latents, r"'z' .*no plate names.*pyro\.plate"),
    (unnamed_data_below_a_latent, r"'x' .*no plate names.*pyro\.plate"),
    (its_own_subsample, r"plate 'rows' subsamples itself.*batch_size"),
    (index_out_of_range, r"after site 'a': index 4 is out of bounds"),
]


@pytest.mark.parametrize(
    ("source", "message"), UNREADABLE, ids=[source.__name__ for source, _ in UNREADABLE]
)
def test_an_unreadable_program_is_refused_by_site(source: Callable[..., Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        Program(source, X)


def crossed_plates(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 2, dim=-1)
    with rows:
        u = pyro.sample("u", dist.Bernoulli(0.5))
    with columns:
        v = pyro.sample("v", dist.Bernoulli(0.5))
    with rows, columns:
        pyro.sample("x", dist.Normal(a + u * v, 1.0), obs=x.reshape(2, 2))


def test_latents_across_crossed_plates_are_refused_by_every_engine(engine: Any) -> None:
    with pytest.raises(ProgramError, match=r"'u', 'v', 'x' cannot be summed out: they cross"):
        engine.engine.fit(crossed_plates, X)


@pytest.mark.parametrize("given", [3, "two_bells", None])
def test_what_is_not_callable_is_no_program(given: Any) -> None:
    with pytest.raises(ProgramError, match="must be a callable"):
        Program(given, X)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ProgramError, match=r"at its start.*missing 1 required .*'x'"):
        Program(nested_plates)


def test_a_start_without_a_finite_density_names_the_site() -> None:
    def program(x: torch.Tensor) -> None:
        top = pyro.sample("top", dist.Gamma(2.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("below", dist.Uniform(0.0, top), obs=x)

    with pytest.raises(ProgramError, match=r"not finite at the start.*'below'.*init"):
        MLE(init={"top": 1.0}).fit(program, tensor([0.5, 1.5]))


@pytest.mark.parametrize(
    ("source", "args", "message"),
    [
        (GaussianModel(), (torch.ones(2, 2),), "y must be one-dimensional"),
        (GaussianModel(), (torch.tensor([1.0, math.nan]),), "y must be finite"),
        (GaussianMixture(3), (torch.ones(4),), "x must be two-dimensional"),
    ],
)
def test_data_errors_of_built_in_programs_pass_through(
    source: Any, args: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Program(source, *args)
    assert type(caught.value) is DataError


def test_data_errors_pass_through_every_engine(engine: Any) -> None:
    with pytest.raises(DataError, match="y must be one-dimensional"):
        engine.engine.fit(GaussianModel(), torch.ones(2, 2))


def test_a_program_that_wants_other_arguments_is_refused_by_every_engine(engine: Any) -> None:
    with pytest.raises(ProgramError, match="at its start"):
        engine.engine.fit(DawidSkene(2))
