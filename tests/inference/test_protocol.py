"""What every engine does alike, whatever it finds."""

from __future__ import annotations

import dataclasses
import inspect
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import is_validation_enabled

from likely.inference import (
    EM,
    ENGINES,
    MAP,
    MLE,
    NUTS,
    SVI,
    VBEM,
    ConvergenceWarning,
    Engine,
    Fit,
    InferenceError,
    Laplace,
    NonFiniteError,
    OptionError,
    ProgramError,
    Step,
    fit,
)

# The budgets here are far too small for some engines to converge; the tests of that ask for it.
pytestmark = pytest.mark.filterwarnings(
    "ignore::likely.inference.errors.ConvergenceWarning",
)

X = torch.tensor([1.9, -0.3, 1.1, 2.4, 0.6, 1.5, 3.0, 0.2], dtype=torch.float64)
# Not where any engine would start by itself, and near enough for a curvature that is positive.
NEAR = {"loc": 1.8, "scale": 1.3}
QUICK: dict[str, dict[str, Any]] = {
    "svi": {"max_iter": 40, "draws": 20},
    "laplace": {"draws": 20},
    "nuts": {"draws": 20, "warmup": 20, "chains": 2},
}


class BoomError(Exception):
    """An error that nothing but these tests raises."""


def measured(x: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    pyro.deterministic("precision", scale**-2)
    with pyro.plate("reading", len(x)) as index:
        pyro.sample("x", dist.Normal(loc, scale), obs=x[index])


def quick(by: Any, **options: Any) -> Any:
    """An engine with a small budget."""
    return replace(by.engine, **{**QUICK.get(by.engine.name, {}), **options})


def same(first: Fit, second: Fit) -> bool:
    """Whether two fits have the same numbers to the last bit."""
    return first.params.keys() == second.params.keys() and all(
        torch.equal(first.params[name], second.params[name])
        and torch.equal(first.draws[name], second.draws[name])
        for name in first.params
    )


# -- the protocol --------------------------------------------------------------------------------


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


# -- what comes back -----------------------------------------------------------------------------


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


# -- seeds and global state ----------------------------------------------------------------------


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


@contextmanager
def untouched() -> Iterator[None]:
    """Check that a block leaves everything global as it was."""

    def state() -> list[Any]:
        numpy_state = np.random.get_state()  # noqa: NPY002
        return [
            torch.get_rng_state().tolist(),
            [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy_state],
            random.getstate(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            {name: value.tolist() for name, value in pyro.get_param_store().items()},
            is_validation_enabled(),
            pyro.infer.util.is_validation_enabled(),
            dist.is_validation_enabled(),
            torch.distributions.Distribution._validate_args,
            len(_PYRO_STACK),
        ]

    before = state()
    yield
    assert state() == before


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


# -- arguments and types -------------------------------------------------------------------------


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


# -- watching ------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_shown_on_request_and_only_then(
    engine: Any, progress: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    quick(engine, progress=progress).fit(measured, X)
    out, err = capfd.readouterr()
    assert out == ""
    if progress and not engine.watched:
        return  # nutpie shows its bar where there is a terminal
    assert bool(err.strip()) is progress
    assert (engine.engine.name in err) is progress


def test_a_callback_sees_every_iteration(watched_engine: Any) -> None:
    seen: list[Step] = []

    def callback(step: Step) -> None:
        values = step.params()
        assert set(values) == {"loc", "scale"}
        assert float(values["scale"]) > 0
        seen.append(step)

    found = quick(watched_engine, callback=callback).fit(measured, X)
    assert [step.iteration for step in seen] == list(range(len(seen)))
    assert {step.restart for step in seen} == {0}
    if found.engine == "nuts":
        # The callback is told of the first chain; the history is a mean over chains.
        lp = found.sample_stats["lp"][0].tolist()
        assert [step.objective for step in seen] == lp
        last = seen[-1].params()
        assert torch.equal(last["loc"], found.draws["loc"][0, -1])
    else:
        assert [step.objective for step in seen] == found.history["objective"].tolist()


def test_restarts_are_told_apart_and_the_best_one_is_kept(searching_engine: Any) -> None:
    seen: list[Step] = []
    found = quick(searching_engine, restarts=3, callback=seen.append).fit(measured, X)
    assert {step.restart for step in seen} == {0, 1, 2}
    finals = [
        [step.objective for step in seen if step.restart == restart][-1] for restart in range(3)
    ]
    assert found.history["objective"].iloc[-1] == max(finals)


def test_a_callback_that_returns_true_stops_the_fit(watched_engine: Any) -> None:
    last = 9 if watched_engine.engine.name == "nuts" else 1
    made = quick(watched_engine, init=NEAR, callback=lambda step: step.iteration == last)
    with pytest.warns(ConvergenceWarning, match="stopped before it converged|interrupted"):
        found = made.fit(measured, X)
    assert found.converged is False
    assert len(found.history) == last + 1
    assert all(bool(torch.isfinite(v).all()) for v in found.params.values())


def test_what_a_callback_returns_only_counts_if_it_is_true(watched_engine: Any) -> None:
    made = quick(watched_engine, callback=lambda step: step.iteration)  # a truthy number
    assert same(
        made.fit(measured, X), quick(watched_engine, callback=print_nothing).fit(measured, X)
    )


def print_nothing(step: Step) -> None:
    pass


def test_a_keyboard_interrupt_keeps_what_was_found(watched_engine: Any) -> None:
    last = 9 if watched_engine.engine.name == "nuts" else 1

    def callback(step: Step) -> None:
        if step.iteration == last:
            raise KeyboardInterrupt

    made = quick(watched_engine, init=NEAR, callback=callback)
    with untouched(), pytest.warns(ConvergenceWarning):
        found = made.fit(measured, X)
    assert found.converged is False
    assert len(found.history) == last + 1
    assert all(bool(torch.isfinite(v).all()) for v in found.params.values())


def test_nuts_interrupted_too_early_has_nothing_to_return() -> None:
    def callback(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InferenceError, match="before it had four draws"):
        NUTS(draws=20, warmup=5, chains=1, callback=callback).fit(measured, X)


def test_an_error_in_a_callback_is_not_swallowed(watched_engine: Any) -> None:
    def callback(step: Step) -> None:
        raise BoomError

    with untouched(), pytest.raises(BoomError):
        quick(watched_engine, callback=callback).fit(measured, X)


# -- convergence ---------------------------------------------------------------------------------


def test_too_few_iterations_are_never_silent(engine: Any) -> None:
    few = {
        "nuts": {"draws": 4, "warmup": 1, "chains": 1},
        "svi": {"max_iter": 5},
    }.get(engine.engine.name, {"max_iter": 1})
    with pytest.warns(ConvergenceWarning, match=f"^{engine.engine.name}: "):
        found = quick(engine, init=NEAR, **few).fit(measured, X)
    assert found.converged is False


def test_a_converged_search_is_silent_and_says_so(
    searching_engine: Any, recwarn: pytest.WarningsRecorder
) -> None:
    found = searching_engine.engine.fit(measured, X)
    assert found.converged is True
    assert not recwarn.list


def cliff(x: Any) -> None:
    """The density grows towards loc = 1 and is infinite beyond, where the data lie."""
    measured(x)
    loc = pyro.sample("edge", dist.Normal(0.0, 10.0))
    with pyro.plate("other", len(x)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=x)
    pyro.factor("cliff", torch.where(loc < 1.0, 0.0, math.inf))


@pytest.mark.parametrize(
    "made",
    [MLE(), MAP(), MAP(optimizer="adam"), EM(), SVI(max_iter=100, draws=5), Laplace()],
    ids=["mle", "map", "map-adam", "em", "svi", "laplace"],
)
def test_an_objective_that_stops_being_a_number_raises(made: Any) -> None:
    with pytest.raises(NonFiniteError):
        replace(made, init={**NEAR, "edge": 0.2}).fit(cliff, X)


def wall(x: Any) -> None:
    """Where the data lie, the density is zero: trajectories run into a wall."""
    measured(x)
    edge = pyro.sample("edge", dist.Normal(0.0, 10.0))
    with pyro.plate("other", len(x)):
        pyro.sample("y", dist.Normal(edge, 1.0), obs=x)
    pyro.factor("wall", torch.where(edge < 1.0, 0.0, -math.inf))


@pytest.mark.parametrize("backend", ["pyro", "nutpie"])
def test_divergences_are_never_silent(backend: str) -> None:
    if backend == "nutpie":
        pytest.importorskip("nutpie")
    made = NUTS(draws=60, warmup=60, chains=1, backend=backend, init={**NEAR, "edge": 0.2})
    with pytest.warns(ConvergenceWarning, match="of 60 draws diverged"):
        found = made.fit(wall, X)
    assert found.converged is False
    assert found.diagnostics["divergences"] == int(found.sample_stats["diverging"].sum()) > 0


def test_a_likelihood_without_a_bound_is_refused() -> None:
    # One point and a free scale: the likelihood grows for ever as the scale shrinks onto it.
    with pytest.raises(NonFiniteError, match="no maximum"):
        MLE().fit(measured, torch.tensor([1.0]))


def test_a_prior_makes_the_same_likelihood_bounded() -> None:
    found = MAP().fit(measured, torch.tensor([1.0]))
    assert found.converged is True
    assert 0.1 < float(found.params["scale"]) < 1.0


# -- starts --------------------------------------------------------------------------------------


def test_a_search_starts_where_init_says(searching_engine: Any) -> None:
    starts: list[dict[str, torch.Tensor]] = []

    def callback(step: Step) -> None:
        if step.iteration == 0:
            starts.append(step.params())

    quick(searching_engine, init=NEAR, callback=callback).fit(measured, X)
    (start,) = starts
    assert {name: float(value) for name, value in start.items()} == pytest.approx(NEAR, rel=1e-9)


def test_init_may_be_for_some_sites_only(searching_engine: Any) -> None:
    starts: list[dict[str, torch.Tensor]] = []

    def callback(step: Step) -> None:
        starts.append(step.params())

    quick(searching_engine, init={"loc": 1.8}, callback=callback).fit(measured, X)
    assert float(starts[0]["loc"]) == pytest.approx(1.8, rel=1e-9)


def test_a_warm_start_takes_fewer_iterations(searching_engine: Any) -> None:
    cold = searching_engine.engine.fit(measured, X)
    point = MAP().fit(measured, X) if searching_engine.engine.name == "laplace" else cold
    warm = replace(searching_engine.engine, init=point).fit(measured, X)
    assert warm.n_iter < cold.n_iter
    if searching_engine.engine.name != "laplace":
        assert warm.log_likelihood == pytest.approx(cold.log_likelihood, rel=1e-6)


def test_every_engine_starts_at_every_engines_fit(engine: Any) -> None:
    for start in (MAP(), SVI(max_iter=40, draws=20)):
        found = quick(engine, init=start.fit(measured, X)).fit(measured, X)
        assert all(bool(torch.isfinite(v).all()) for v in found.params.values())


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"location": 1.0}, r"'location', which is not an unknown.*'loc', 'scale'"),
        ({"loc": [1.0, 2.0]}, r"'loc' a value of shape \(2,\); its shape is \(\)"),
        ({"scale": math.nan}, r"'scale' a value that is not finite"),
        ({"scale": math.inf}, r"'scale' a value that is not finite"),
        ({"scale": -1.0}, r"'scale' a value outside its support"),
    ],
    ids=["unknown", "shape", "nan", "inf", "support"],
)
def test_a_wrong_init_is_refused_by_site(engine: Any, init: Any, message: str) -> None:
    with pytest.raises(ProgramError, match=f"init gives .*{message}"):
        quick(engine, init=init).fit(measured, X)


@pytest.mark.parametrize("weights", [[0.7, 0.7], [1.2, -0.2]])
def test_an_init_off_the_simplex_is_refused(weights: list[float], configs: Any) -> None:
    config = configs["two-bells"]
    with pytest.raises(ProgramError, match="'weights' a value outside its support"):
        MLE(init={"weights": weights}).fit(config.program, *config.args)


def test_an_init_on_the_boundary_is_allowed() -> None:
    def coin(heads: Any) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("toss", len(heads)):
            pyro.sample("heads", dist.Bernoulli(p), obs=heads)

    heads = torch.tensor([1.0, 1.0, 1.0])
    with pytest.warns(UserWarning, match="boundary"):
        edge = MLE().fit(coin, heads)
    assert float(edge.params["p"]) == 1.0
    # A MAP estimate from there: (2 + 3 − 1) / (4 + 3 − 2).
    found = MAP(init=edge).fit(coin, heads)
    assert float(found.params["p"]) == pytest.approx(0.8, rel=1e-6)


# -- options -------------------------------------------------------------------------------------

EVERYONE = (MLE, MAP, EM, SVI, Laplace, NUTS, VBEM)
SEARCHES = (MLE, MAP, EM, SVI, Laplace, VBEM)
BAD_OPTIONS: list[tuple[tuple[Any, ...], str, list[Any]]] = [
    (EVERYONE, "seed", [-1, 1.5, "0", True, None]),
    (EVERYONE, "dtype", [torch.int64, "float64", None]),
    (EVERYONE, "device", ["nowhere", 1.5]),
    (EVERYONE, "init", [3, [("loc", 1.0)], "map"]),
    (EVERYONE, "callback", [3, "print"]),
    (EVERYONE, "progress", ["yes", 1, None]),
    (EVERYONE, "relabel", ["yes", 1, None]),
    (SEARCHES, "max_iter", [0, -5, 10.0, True]),
    (SEARCHES, "tol", [0, -1e-6, math.nan, math.inf, "small", True]),
    (SEARCHES, "restarts", [0, 2.0]),
    ((MLE, MAP), "optimizer", ["newton", 3]),
    ((MLE, MAP, SVI), "batch_size", [0, 2.5]),
    ((MLE, MAP), "em_steps", [-1, 1.0]),
    ((EM,), "objective", ["posteriori", None]),
    ((EM,), "m_step_iter", [0, 1.5]),
    ((EM,), "hard", ["yes", 1]),
    ((SVI,), "guide", ["normals", 3]),
    ((SVI,), "learning_rate", [0.0, -0.1, math.nan, "fast"]),
    ((SVI,), "num_particles", [0, 1.5]),
    ((SVI,), "optimizer", [torch.optim.Adam, "adam"]),
    ((SVI, Laplace, VBEM), "draws", [1, 10.0]),
    ((NUTS,), "draws", [3, 10.0]),
    ((NUTS,), "warmup", [0, 10.0]),
    ((NUTS,), "chains", [0, 1.5]),
    ((NUTS,), "cores", [0, 1.5]),
    ((NUTS,), "backend", ["stan", None]),
    ((NUTS,), "target_accept", [0.0, 1.0, 1.5, math.nan, "high"]),
    ((NUTS,), "max_tree_depth", [0, 2.5]),
    ((NUTS,), "dense_mass", ["yes", 1]),
    ((NUTS,), "jit", ["yes", 1]),
]


@pytest.mark.parametrize(
    ("made", "option", "value"),
    [
        pytest.param(made, option, value, id=f"{made.name}-{option}-{value}")
        for classes, option, values in BAD_OPTIONS
        for made in classes
        for value in values
    ],
)
def test_a_bad_value_of_an_option_is_refused_by_name(made: Any, option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=option):
        made(**{option: value})


def test_every_option_of_every_engine_has_a_bad_value_above() -> None:
    tested = {(made, option) for classes, option, _ in BAD_OPTIONS for made in classes}
    declared = {(made, f.name) for made in EVERYONE for f in dataclasses.fields(made)}
    assert tested == declared


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"'mle', 'map', 'em', .*got 'gibbs'"):
        fit(measured, X, engine="gibbs")


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"'em' has no option 'itermax'; .*max_iter"):
        fit(measured, X, engine="em", itermax=3)


def test_options_beside_an_engine_are_refused() -> None:
    with pytest.raises(OptionError, match=r"'seed' were given beside an engine"):
        fit(measured, X, engine=MAP(), seed=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [{"callback": print}, {"dense_mass": True}], ids=str)
def test_nutpie_refuses_what_it_cannot_do(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(OptionError, match=f"{name} needs backend='pyro'"):
        NUTS(backend="nutpie", **option)


# -- what some engines cannot fit ----------------------------------------------------------------


@pytest.mark.parametrize("made", [NUTS(), NUTS(backend="nutpie"), Laplace()], ids=str)
def test_a_posterior_needs_priors(made: Any, configs: Any) -> None:
    config = configs["module"]
    with pytest.raises(ProgramError, match=r"'net\$\$\$weight', 'net\$\$\$bias' are parameters"):
        made.fit(config.program, *config.args)


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_of_a_program_that_does_not_index_its_data_is_refused(
    size: int, configs: Any
) -> None:
    config = configs["two-bells"]
    with pytest.raises(ProgramError, match="plate 'point' cannot be subsampled"):
        MLE(batch_size=size).fit(config.program, *config.args)


def test_a_batch_larger_than_the_plate_is_refused() -> None:
    with pytest.raises(OptionError, match="batch_size must be at most the 8 members"):
        MLE(batch_size=9).fit(measured, X)


def below_a_latent(x: Any) -> None:
    z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
    u = pyro.sample("u", dist.Normal(torch.tensor([-1.0, 2.0])[z], 0.5))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Normal(u, 1.0), obs=x)


def test_the_likelihood_has_no_e_step_where_a_prior_depends_on_a_latent() -> None:
    with pytest.raises(ProgramError, match=r"prior of site 'u' depends on a discrete latent"):
        EM().fit(below_a_latent, X)


@pytest.mark.parametrize("made", [MAP(), EM(objective="posterior")], ids=["map", "em"])
def test_a_posterior_mode_below_a_latent_is_found(made: Any) -> None:
    found = made.fit(below_a_latent, X)
    # The mode of a mixture of two normals times eight normal factors, on a fine grid.
    grid = torch.linspace(-1.0, 3.0, 400_001, dtype=torch.float64)
    prior = torch.logaddexp(
        math.log(0.3) + dist.Normal(-1.0, 0.5).log_prob(grid),
        math.log(0.7) + dist.Normal(2.0, 0.5).log_prob(grid),
    )
    total = prior - 0.5 * (len(X) * grid**2 - 2 * X.sum() * grid)
    assert float(found.params["u"]) == pytest.approx(float(grid[total.argmax()]), abs=2e-5)


# -- chains --------------------------------------------------------------------------------------


def test_chains_in_processes_draw_what_chains_in_turn_draw() -> None:
    made = NUTS(draws=20, warmup=20, chains=3, cores=1)
    assert same(made.fit(measured, X), replace(made, cores=2).fit(measured, X))


def test_chains_from_one_point_go_their_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likely.inference.engines.nuts._SPREAD", 0.0)
    draws = NUTS(draws=20, warmup=5, chains=2, cores=1, init=NEAR).fit(measured, X).draws["loc"]
    assert not torch.equal(draws[0], draws[1])
