"""What every engine promises while it runs: bars, callbacks, interrupts, convergence, starts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import (
    EM,
    MAP,
    MLE,
    NUTS,
    SVI,
    ConvergenceWarning,
    InferenceError,
    Laplace,
    NonFiniteError,
    ProgramError,
    Step,
)
from protocol_cases import NEAR, BoomError, X, measured, quick, same, untouched

# The budgets here are far too small for some engines to converge; the tests of that ask for it.
pytestmark = pytest.mark.filterwarnings(
    "ignore::likely.inference.errors.ConvergenceWarning",
)

# -- watching --------------------------------------------------------------------------------------


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
    # NumPy's truth is as good as Python's.
    made = quick(watched_engine, init=NEAR, callback=lambda step: np.bool_(step.iteration == last))
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


# -- convergence -----------------------------------------------------------------------------------


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


# -- starts ----------------------------------------------------------------------------------------


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
