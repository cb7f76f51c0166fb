"""Reading programs: what sites are, densities and derivatives, simulation and batches."""

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
from pyro.ops.indexing import Vindex
from scipy import stats
from scipy.special import logsumexp

from likely.inference import Program, ProgramError
from likely.inference.coordinates import Coordinates
from likely.inference.quantities import simulate
from likely.models import GaussianMixture, GaussianModel, LogisticRegression
from program_reading import X, density, drawn, tensor

pytestmark = pytest.mark.usefixtures("in_double")

# -- what sites are --------------------------------------------------------------------------------


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


# -- densities by hand -----------------------------------------------------------------------------


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


# -- derivatives -----------------------------------------------------------------------------------


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


# -- simulation ------------------------------------------------------------------------------------


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


# -- mini-batches ----------------------------------------------------------------------------------


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
