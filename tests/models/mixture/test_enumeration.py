"""Mixtures against the same model with its component enumerated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate

from likely.inference import EM
from likely.inference.coordinates import Coordinates
from likely.inference.engines.expectation import expect, find_tables
from likely.inference.program import Program
from likely.models import GaussianMixture, Mixture

COVARIANCES = ["full", "tied", "diag", "spherical", "tied_spherical"]

Params = dict[str, torch.Tensor]
ParamsOf = Callable[..., Params]
Enumerated = Callable[[Any], Callable[..., Any]]

pytestmark = pytest.mark.usefixtures("double_by_default")


def rows_of(d: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.randn(25, d, generator=generator, dtype=torch.float64)


def compare(mixture: Any, twin: Any, values: Params, x: torch.Tensor) -> None:
    """Log-likelihood, gradient and second derivatives in unconstrained coordinates."""
    ours, plain = Program(mixture, x), Program(twin, x)
    assert set(ours.sites.unknowns) == set(plain.sites.unknowns)
    coordinates = Coordinates(ours)
    point = coordinates.unconstrain(values)

    def density(program: Program) -> Callable[[torch.Tensor], torch.Tensor]:
        def function(flat: torch.Tensor) -> torch.Tensor:
            return program.log_likelihood(coordinates.split(flat), unconstrained=True)

        return function

    with pyro.validation_enabled(False):
        found = [_derivatives(density(program), point) for program in (ours, plain)]
        enumerated = config_enumerate(poutine.condition(twin, values))
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(enumerated, lambda x: None, x)
    for mine, reference in zip(*found, strict=True):
        scale = float(reference.abs().max())
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10 * scale)
    prior = float(ours.log_prior(values))
    assert float(found[0][0]) + prior == pytest.approx(-loss, rel=1e-10)


def _derivatives(
    function: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    point = point.detach().clone().requires_grad_(True)
    value = function(point)
    (slope,) = torch.autograd.grad(value, point)
    return value.detach(), slope, torch.autograd.functional.hessian(function, point)


@pytest.mark.parametrize("equal_weights", [False, True])
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_gaussian_density_and_derivatives(
    covariance: str, d: int, equal_weights: bool, params_of: ParamsOf, enumerated: Enumerated
) -> None:
    mixture = GaussianMixture(3, covariance, equal_weights=equal_weights, loc_scale=3.0)
    values = params_of(covariance, d, equal_weights)
    compare(mixture, enumerated(mixture), values, rows_of(d))


def test_discrete_density_and_derivatives(
    emission: str,
    discrete: dict[str, Mixture],
    discrete_params: Callable[[str], Params],
    simulated: Callable[..., torch.Tensor],
    enumerated: Enumerated,
) -> None:
    mixture, values = discrete[emission], discrete_params(emission)
    compare(mixture, enumerated(mixture), values, simulated(mixture, values, 25))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_e_step_is_that_of_enumeration(
    covariance: str, hard: bool, params_of: ParamsOf, enumerated: Enumerated
) -> None:
    mixture, values, x = GaussianMixture(3, covariance), params_of(covariance), rows_of(2)
    found = []
    for source in (mixture, enumerated(mixture)):
        program = Program(source, x)
        with program.session(0):
            tables = find_tables(program, values, hard=hard)
            assert tables == {"weights"}
            found.append(expect(program, values, tables, hard=hard))
    ours, plain = found
    torch.testing.assert_close(ours.log_likelihood, plain.log_likelihood, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(ours.log_prior, plain.log_prior, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(ours.counts["weights"], plain.counts["weights"])
    shares = plain.responsibilities("component")
    phi = mixture.family.features(x)(x)
    torch.testing.assert_close(
        ours.statistics["x"]["components"], shares.T @ phi.T, rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(ours.statistics["x"]["weights"], shares.sum(0))


class Twin:
    """An enumerated program that starts where told and maximises over the responsibilities."""

    def __init__(self, program: Callable[..., Any], mixture: Any, start: Params) -> None:
        self._program, self._mixture, self._start = program, mixture, start

    def __call__(self, x: torch.Tensor) -> None:
        self._program(x)

    def initial(self, x: torch.Tensor) -> Params:
        return self._start

    def m_step(
        self, expected: Any, params: Params, x: torch.Tensor, *, objective: str
    ) -> dict[str, torch.Tensor]:
        phi = self._mixture.family.features(x)(x)
        total = {"x": {"components": expected["component"].T @ phi.T}}
        found: Params = self._mixture.m_step(total, params, x, objective=objective)
        return found


@pytest.mark.filterwarnings("ignore::likely.inference.ConvergenceWarning")
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_em_takes_the_steps_of_generic_em(
    covariance: str, hard: bool, enumerated: Enumerated, faithful: torch.Tensor
) -> None:
    mixture = GaussianMixture(3, covariance)
    pyro.set_rng_seed(0)
    start = mixture.initial(faithful)
    engine = EM(max_iter=60, tol=1e-7, hard=hard)
    ours = EM(max_iter=60, tol=1e-7, hard=hard, init=start).fit(mixture, faithful)
    twin = engine.fit(Twin(enumerated(mixture), mixture, start), faithful)
    history, reference = (f.history["objective"].to_numpy() for f in (ours, twin))
    assert len(history) == len(reference)
    assert len(history) > 3
    torch.testing.assert_close(torch.tensor(history), torch.tensor(reference), rtol=1e-9, atol=0.0)
    for name, value in twin.params.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(ours.params[name], value, rtol=1e-7, atol=1e-7 * scale)
    mine, theirs = ours.latent("component"), twin.latent("component")
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore::likely.inference.ConvergenceWarning")
def test_discrete_em_takes_the_steps_of_generic_em(
    emission: str,
    discrete: dict[str, Mixture],
    discrete_params: Callable[[str], Params],
    simulated: Callable[..., torch.Tensor],
    enumerated: Enumerated,
) -> None:
    mixture, truth = discrete[emission], discrete_params(emission)
    x = simulated(mixture, truth, 250, seed=1)
    engine = EM(init=truth, max_iter=25, tol=1e-10)
    # Tables need no hook: engines derive their M-step.
    plain = enumerated(mixture)
    twin = engine.fit(plain if emission == "categorical" else Twin(plain, mixture, truth), x)
    ours = engine.fit(mixture, x)
    history, reference = list(ours.history["objective"]), list(twin.history["objective"])
    assert len(history) > 4
    assert history == pytest.approx(reference, rel=1e-10)
    for name, value in twin.params.items():
        torch.testing.assert_close(ours.params[name], value, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        ours.latent("component"), twin.latent("component"), rtol=1e-6, atol=1e-8
    )


def test_numerical_m_steps_end_at_the_same_optimum(
    discrete: dict[str, Mixture],
    discrete_params: Callable[[str], Params],
    simulated: Callable[..., torch.Tensor],
    enumerated: Enumerated,
) -> None:
    mixture, truth = discrete["poisson"], discrete_params("poisson")
    x = simulated(mixture, truth, 150, seed=1)
    engine = EM(init=truth, tol=1e-12)
    ours, twin = engine.fit(mixture, x), engine.fit(enumerated(mixture), x)
    assert ours.log_likelihood == pytest.approx(twin.log_likelihood, rel=1e-9)
    # The height is known to 1e-9 of 1500 nats, the place to the root of that.
    for name, value in twin.params.items():
        torch.testing.assert_close(ours.params[name], value, rtol=2e-3, atol=2e-3)


def test_posterior_em_is_generic_em(enumerated: Enumerated, faithful: torch.Tensor) -> None:
    """With priors the M-step is numerical; one that needs no pass over the data is no worse."""
    mixture = GaussianMixture(2, "diag", loc_mean=(3.5, 70.0), loc_scale=(2.0, 20.0))
    pyro.set_rng_seed(0)
    start = mixture.initial(faithful)
    engine = EM(objective="posterior", init=start)
    ours, twin = engine.fit(mixture, faithful), engine.fit(enumerated(mixture), faithful)
    assert ours.converged
    last = [f.history["objective"].iloc[-1] for f in (ours, twin)]
    assert last[0] == pytest.approx(last[1], rel=1e-8)
    torch.testing.assert_close(
        ours.latent("component"), twin.latent("component"), rtol=0.0, atol=1e-4
    )
