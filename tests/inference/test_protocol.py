"""What every engine promises: what comes back, seeds and global state, types of arguments."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import (
    EM,
    ENGINES,
    MAP,
    MLE,
    NUTS,
    SVI,
    VBEM,
    Engine,
    Fit,
    Laplace,
    ProgramError,
    Step,
    fit,
)
from protocol_cases import NEAR, BoomError, X, measured, quick, same, untouched

# The budgets here are far too small for some engines to converge; the tests of that ask for it.
pytestmark = pytest.mark.filterwarnings(
    "ignore::likely.inference.errors.ConvergenceWarning",
)

# -- the protocol ----------------------------------------------------------------------------------


def test_an_engine_is_a_frozen_dataclass_with_a_name_and_a_fit(engine: Any) -> None:
    options = engine.engine
    assert isinstance(options, Engine)
    assert ENGINES[options.name] is type(options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 3
    parameters = list(inspect.signature(options.fit).parameters.values())
    assert [p.kind for p in parameters] == [
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    ]
    # Options are equal by value, which lets engines be keys and be compared.
    assert replace(options) == options
    assert replace(options, seed=3) != options


def test_the_registry_has_every_engine_by_its_name() -> None:
    assert {e: e.name for e in (MLE, MAP, EM, SVI, Laplace, NUTS, VBEM)} == {
        e: name for name, e in ENGINES.items()
    }


def test_fit_by_name_is_the_engine_with_those_options(engine: Any) -> None:
    made = quick(engine, seed=4)
    options = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    by_name = fit(measured, X, engine=made.name, **options)
    assert same(by_name, made.fit(measured, X))
    assert same(by_name, fit(measured, X, engine=made))
    assert by_name.engine == made.name


def test_keyword_arguments_reach_the_program(engine: Any) -> None:
    def shifted(x: Any, *, shift: float = 0.0) -> None:
        measured(x - shift)

    made = quick(engine)
    assert same(made.fit(shifted, X, shift=1.5), made.fit(measured, X - 1.5))


# -- what comes back -------------------------------------------------------------------------------


def test_a_fit_has_every_member_in_its_shape(engine: Any, configs: Any) -> None:
    config = configs["two-bells"]
    data = config.args[0][:40]
    found = quick(engine, init=config.values).fit(config.program, data)
    sites = found.program.sites
    shapes = {"weights": (2,), "loc": (2,), "scale": (2,)}
    assert {n: tuple(v.shape) for n, v in found.params.items()} == shapes
    kept = (1, 1)
    if engine.posterior:
        kept = (2, 20) if found.engine == "nuts" else (1, 20)
    assert {n: tuple(v.shape) for n, v in found.draws.items()} == {
        n: kept + shape for n, shape in shapes.items()
    }
    for name, value in found.draws.items():
        assert bool(sites.unknowns[name].support.check(value).all())
        assert value.dtype == found.params[name].dtype == torch.float64
        # Supports here are convex: the point is the mean of the draws.
        torch.testing.assert_close(value.mean((0, 1)), found.params[name])
        assert not value.requires_grad
        assert not found.params[name].requires_grad
    assert found.is_point is not engine.posterior
    point = found.point()
    likelihood = float(found.program.log_likelihood(point))
    assert found.log_likelihood == pytest.approx(likelihood, rel=1e-12)
    assert found.log_prior == pytest.approx(float(found.program.log_prior(point)), rel=1e-12)
    assert list(found.history.columns) == ["objective"]
    assert found.history.index.name == "iteration"
    assert bool(np.isfinite(found.history["objective"]).all())
    assert len(found.history) >= 1
    assert isinstance(found.converged, bool)
    assert isinstance(found.n_iter, int)
    assert found.n_iter > 0
    assert found.seconds > 0
    assert found.seed == 0
    assert found.options["seed"] == 0
    assert found.options["dtype"] == "torch.float64"
    assert set(found.options) == {f.name for f in dataclasses.fields(engine.engine)}
    for stat in found.sample_stats.values():
        assert tuple(stat.shape) == kept
    assert bool(found.sample_stats) is (engine.posterior and found.engine != "laplace")
    assert all(isinstance(value, float) for value in found.diagnostics.values())
    assert found.n_parameters == 5
    assert found.n_observations == 40
    latent = found.latent("z")
    assert latent.shape == (40, 2)
    torch.testing.assert_close(latent.sum(-1), torch.ones(40, dtype=torch.float64))
    predicted = found.predict(draws=3)
    assert {n: tuple(v.shape) for n, v in predicted.items()} == {"x": (1, 3, 40)}
    assert isinstance(found.summary(), pd.DataFrame)
    assert f"engine={found.engine!r}" in repr(found)


def test_deterministic_sites_are_computed_draw_by_draw(engine: Any) -> None:
    found = quick(engine).fit(measured, X)
    assert found.draws["precision"].shape == found.draws["scale"].shape
    torch.testing.assert_close(found.draws["precision"], found.draws["scale"] ** -2)
    torch.testing.assert_close(found.params["precision"], found.draws["precision"].mean((0, 1)))
    assert "precision" not in found.point()


# -- seeds and global state ------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(engine: Any) -> None:
    made = quick(engine, seed=11)
    first = made.fit(measured, X)
    torch.manual_seed(999)
    torch.randn(7)
    second = made.fit(measured, X)
    assert same(first, second)
    assert first.history.equals(second.history)


def test_another_seed_gives_other_numbers_where_chance_plays(engine: Any) -> None:
    first = quick(engine, seed=1).fit(measured, X)
    second = quick(engine, seed=2).fit(measured, X)
    if engine.stochastic:
        assert all(bool((first.draws[n] != second.draws[n]).any()) for n in first.draws)
        return
    # Another start, the same optimum.
    for name, value in first.params.items():
        torch.testing.assert_close(value, second.params[name], rtol=1e-3, atol=1e-3)


@pytest.fixture(params=[True, False], ids=["validating", "not-validating"])
def somebodys_state(request: pytest.FixtureRequest) -> Iterator[None]:
    """Global state with a mark on everything that a fit could disturb."""
    store = pyro.get_param_store()
    with store.scope(), pyro.validation_enabled(request.param), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.randn(3)
        pyro.param("loc", torch.tensor(-7.0))
        pyro.param("net$$$bias", torch.tensor([3.0]))
        yield


@pytest.mark.usefixtures("somebodys_state")
def test_a_fit_leaves_global_state_as_it_was(engine: Any) -> None:
    with untouched():
        quick(engine).fit(measured, X)


@pytest.mark.usefixtures("somebodys_state")
def test_a_failing_fit_leaves_global_state_as_it_was(engine: Any) -> None:
    runs = 0

    def fails(x: Any) -> None:
        nonlocal runs
        runs += 1
        measured(x)
        if runs > 5:
            raise BoomError

    with untouched(), pytest.raises(BoomError):
        quick(engine, init=NEAR).fit(fails, X)
    # Nothing is left running or half done either: the next fit is none the wiser.
    assert same(quick(engine).fit(measured, X), quick(engine).fit(measured, X))


def test_a_refused_program_leaves_global_state_as_it_was(engine: Any) -> None:
    with untouched(), pytest.raises(ProgramError):
        quick(engine).fit(lambda x: None, X)


def test_a_fit_works_where_the_caller_has_turned_gradients_off(engine: Any) -> None:
    with torch.no_grad(), untouched():
        off = quick(engine).fit(measured, X)
    assert same(off, quick(engine).fit(measured, X))


def test_a_users_module_is_never_written_to(param_engine: Any, configs: Any) -> None:
    config = configs["module"]
    net = torch.nn.Linear(2, 1)

    def network(x: torch.Tensor, y: torch.Tensor) -> None:
        pyro.module("net", net)
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(net(x).squeeze(-1), noise), obs=y)

    net.bias.requires_grad_(True)
    identities = [id(p) for p in net.parameters()]
    before = [p.detach().clone() for p in net.parameters()]
    found = quick(param_engine).fit(network, *config.args)
    assert [id(p) for p in net.parameters()] == identities
    for parameter, value in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.dtype == torch.float32
        assert parameter.grad is None
        assert parameter.requires_grad
    # And the fit did move its own copies.
    assert found.params["net$$$weight"].dtype == torch.float64
    assert not torch.equal(found.params["net$$$weight"].float(), before[0])


def test_a_fit_within_a_fit_meets_it_nowhere(watched_engine: Any, configs: Any) -> None:
    other = configs["module"]
    inner_engines = [MAP(), SVI(max_iter=5, draws=3, seed=3)]

    def inside() -> list[Fit]:
        return [inner.fit(other.program, *other.args) for inner in inner_engines]

    alone, within = inside(), []

    def callback(step: Step) -> None:
        if step.iteration == 1:
            within.extend(inside())

    disturbed = quick(watched_engine, callback=callback).fit(measured, X)
    assert same(disturbed, quick(watched_engine, callback=lambda step: None).fit(measured, X))
    assert len(within) == 2
    assert all(same(a, b) for a, b in zip(alone, within, strict=True))


# -- arguments and types ---------------------------------------------------------------------------


@pytest.mark.parametrize("of", [np.asarray, pd.Series], ids=["numpy", "pandas"])
def test_arrays_give_the_same_fit_as_tensors(engine: Any, of: Callable[..., Any]) -> None:
    made = quick(engine)
    assert same(made.fit(measured, of(X.numpy())), made.fit(measured, X))


def test_single_precision_is_kept_throughout(engine: Any) -> None:
    found = quick(engine, dtype=torch.float32).fit(measured, X)
    for values in (found.params, found.draws):
        assert {v.dtype for v in values.values()} == {torch.float32}
    if not engine.posterior:
        exact = quick(engine).fit(measured, X)
        for name, value in exact.params.items():
            # Optima of a density with seven digits are good to half of them.
            torch.testing.assert_close(found.params[name].double(), value, rtol=3e-3, atol=3e-3)


def test_a_device_may_be_named(engine: Any) -> None:
    assert same(quick(engine, device="cpu").fit(measured, X), quick(engine).fit(measured, X))


# -- chains ----------------------------------------------------------------------------------------


def test_chains_in_processes_draw_what_chains_in_turn_draw() -> None:
    made = NUTS(draws=20, warmup=20, chains=3, cores=1)
    assert same(made.fit(measured, X), replace(made, cores=2).fit(measured, X))


def test_chains_from_one_point_go_their_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likely.inference.engines.nuts._SPREAD", 0.0)
    draws = NUTS(draws=20, warmup=5, chains=2, cores=1, init=NEAR).fit(measured, X).draws["loc"]
    assert not torch.equal(draws[0], draws[1])
