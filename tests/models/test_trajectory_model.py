"""The trajectory program: counts, weights, masks, modes and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from gymnasium.spaces import Box
from pyro import poutine

from likely.envs import DataError, Trajectories
from likely.inference import EM, MAP, MLE
from likely.inference.masks import count_observations
from likely.inference.program import Program
from likely.models import (
    GaussianPolicy,
    GaussianStates,
    LinearGaussianDynamics,
    MixturePolicy,
    SoftmaxPolicy,
    TabularDynamics,
    TabularPolicy,
    TabularStates,
    TrajectoryModel,
)

pytestmark = pytest.mark.usefixtures("in_double")

STATES, ACTIONS = 4, 3
LENGTHS = [3, 1, 5, 2, 4, 6]


def tabular(seed: int = 0, lengths: Any = None) -> Trajectories:
    torch.manual_seed(seed)
    lengths = torch.tensor(LENGTHS if lengths is None else lengths)
    n = int(lengths.sum())
    return Trajectories.from_arrays(
        torch.randint(0, STATES, (n + len(lengths),)),
        torch.randint(0, ACTIONS, (n,)),
        lengths=lengths,
        state_space=STATES,
        action_space=ACTIONS,
    )


def vectors(seed: int = 0) -> Trajectories:
    torch.manual_seed(seed)
    n, e = sum(LENGTHS), len(LENGTHS)
    states = torch.randn(n + e, 2)
    return Trajectories.from_arrays(
        states,
        torch.randn(n, 1),
        lengths=LENGTHS,
        action_space=Box(-np.inf, np.inf, (1,), np.float64),
    )


TABLES = TabularPolicy(STATES, ACTIONS), TabularDynamics(STATES, ACTIONS), TabularStates(STATES)
NORMAL = GaussianPolicy(1), LinearGaussianDynamics(2), GaussianStates(2)
PARTS = {
    "policy": (TABLES[:1], tabular),
    "states": ((TABLES[0], None, TABLES[2]), tabular),
    "dynamics": (TABLES[:2], tabular),
    "whole": (TABLES, tabular),
    "normal": (NORMAL, vectors),
    "softmax": ((SoftmaxPolicy(ACTIONS, torch.eye(STATES)[:, 1:]), *TABLES[1:]), tabular),
    "modes": ((MixturePolicy(TABLES[0], 2), *TABLES[1:]), tabular),
    "episodes": ((MixturePolicy(TABLES[0], 2, per="episode"), *TABLES[1:]), tabular),
    "normal-modes": ((MixturePolicy(NORMAL[0], 2, per="episode"), *NORMAL[1:]), vectors),
}


@pytest.fixture(params=PARTS)
def parts(request: pytest.FixtureRequest) -> Any:
    """Parts of a program and trajectories for it."""
    made, data = PARTS[request.param]
    return made, data()


def drawn(program: Program, seed: int = 1) -> dict[str, torch.Tensor]:
    """Values of the unknowns, from their priors."""
    pyro.set_rng_seed(seed)
    return {n: u.prior.sample() for n, u in program.sites.unknowns.items()}


def counted(data: Trajectories, weights: Any = None) -> torch.Tensor:
    each = torch.ones(data.n_steps) if weights is None else weights
    table = torch.zeros(STATES, ACTIONS)
    return table.index_put_(data.state_action_pairs(), each, accumulate=True)


def repeated(data: Trajectories, times: list[int]) -> Trajectories:
    index = [i for i, n in enumerate(times) for _ in range(n)]
    return Trajectories.concat([data[i] for i in index])


# -- estimates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("engine", [MLE(), EM(), MAP()], ids=lambda e: e.name)
def test_a_tabular_policy_is_the_shares_of_actions(engine: Any, padded: bool) -> None:
    data = tabular(lengths=[9, 4, 12, 15])
    fit = engine.fit(TrajectoryModel(TABLES[0], padded=padded), data)
    counts = counted(data)
    np.testing.assert_allclose(
        fit.params["policy"], counts / counts.sum(-1, keepdim=True), rtol=0, atol=1e-14
    )
    logs = torch.where(counts > 0, (counts / counts.sum(-1, keepdim=True)).log(), 0.0)
    assert abs(fit.log_likelihood - float((counts * logs).sum())) < 1e-10


def test_pseudo_counts_of_a_prior_are_added() -> None:
    data = tabular()
    policy = TabularPolicy(STATES, ACTIONS, concentration=1.5)
    fit = MAP(tol=1e-14).fit(TrajectoryModel(policy), data)
    counts = counted(data) + 0.5
    np.testing.assert_allclose(
        fit.params["policy"], counts / counts.sum(-1, keepdim=True), rtol=0, atol=1e-6
    )


def test_a_normal_policy_is_least_squares() -> None:
    data = vectors()
    states, actions = data.state_action_pairs()
    weights = torch.rand(data.n_steps) + 0.5
    columns = torch.cat([states, torch.ones(len(states), 1)], -1)
    root = weights.sqrt()[:, None]
    solution = torch.linalg.lstsq(columns * root, actions * root).solution[:, 0]
    left = (actions[:, 0] - columns @ solution).square()
    for engine in (MLE(), EM()):
        fit = engine.fit(TrajectoryModel(NORMAL[0]), data, weights=weights)
        np.testing.assert_allclose(fit.params["coefficients"][0], solution[:2], atol=1e-8)
        np.testing.assert_allclose(fit.params["intercept"][0], solution[2], atol=1e-8)
        scale = (weights @ left / weights.sum()).sqrt()
        np.testing.assert_allclose(fit.params["scale"][0], scale, atol=1e-8)


def test_the_moves_of_a_linear_system_are_found() -> None:
    model = TrajectoryModel(*NORMAL)
    truth = {
        "intercept": torch.tensor([0.2]),
        "coefficients": torch.tensor([[0.5, -0.3]]),
        "scale": torch.tensor([0.7]),
        "drift": torch.tensor([0.1, -0.1]),
        "effects": torch.tensor([[0.9, 0.1, 0.3], [-0.2, 0.8, 0.5]]),
        "noise": torch.tensor([0.2, 0.3]),
        "state_loc": torch.zeros(2),
        "state_scale": torch.ones(2),
    }
    pyro.set_rng_seed(3)
    data = poutine.condition(model, truth)(episodes=200, steps=10)
    assert (len(data), data.n_steps, tuple(data.states.shape)) == (200, 2000, (2200, 2))
    fit = MLE().fit(model, data)
    errors = fit.standard_errors()
    for name, value in truth.items():
        assert bool(((fit.params[name] - value).abs() < 4.5 * errors[name]).all()), name


# -- layouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_and_rows_have_one_density(parts: Any, weighted: bool) -> None:
    made, data = parts
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 1.0]) if weighted else None
    read = [
        Program(TrajectoryModel(*made, padded=padded), data, weights=weights)
        for padded in (False, True)
    ]
    values = drawn(read[0])
    flat, block = (program.log_likelihood(values) for program in read)
    assert torch.isfinite(flat)
    assert abs(flat - block) < 1e-12 * max(1.0, abs(float(flat)))


def test_what_is_masked_is_not_counted(parts: Any) -> None:
    made, data = parts
    read = [Program(TrajectoryModel(*made, padded=padded), data) for padded in (False, True)]
    values = drawn(read[0])
    found = []
    for program in read:
        with program.session(0):
            found.append(count_observations(program, values))
    policy, n, e = made[0], data.n_steps, len(data)
    whole = isinstance(policy, MixturePolicy) and policy.per == "episode"
    # Sites in the same plates are about the same: an action and the state after it are one.
    by_step = not whole or len(made) > 1
    by_episode = whole or (len(made) > 2 and made[1] is not None)
    expected = n * by_step + e * by_episode
    assert found[0] == expected
    assert found[1] == expected


def test_an_impossible_action_beyond_an_end_does_no_harm() -> None:
    """Zeros that fill a block are an action of state 0, which may have probability zero there."""
    data = Trajectories.from_arrays([[1, 1, 1], [0, 1]], [[0, 0], [1]], action_space=2)
    fit = EM().fit(TrajectoryModel(TabularPolicy(2, 2), padded=True), data)
    assert fit.params["policy"].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert fit.log_likelihood == 0.0


# -- weights ---------------------------------------------------------------------------------------


def test_a_weight_repeats_an_episode(parts: Any) -> None:
    made, data = parts
    times = [2, 0, 1, 3, 1, 1]
    weighed = Program(TrajectoryModel(*made), data, weights=torch.tensor(times, dtype=float))
    plain = Program(TrajectoryModel(*made), repeated(data, times))
    values = drawn(weighed)
    left, right = weighed.log_likelihood(values), plain.log_likelihood(values)
    assert abs(left - right) < 1e-12 * abs(float(right))


@pytest.mark.parametrize("engine", [MLE(), EM()], ids=lambda e: e.name)
def test_weights_of_steps_count_actions(engine: Any) -> None:
    data = tabular(lengths=[9, 4, 12, 15])
    weights = torch.rand(data.n_steps) * 2
    weights[::7] = 0.0
    fit = engine.fit(TrajectoryModel(TABLES[0]), data, weights=weights)
    counts = counted(data, weights)
    np.testing.assert_allclose(
        fit.params["policy"], counts / counts.sum(-1, keepdim=True), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["policy", "softmax"])
def test_the_gradient_is_the_weighted_sum_of_scores(name: str, padded: bool) -> None:
    policy, data = PARTS[name][0][0], tabular()
    weights = torch.randn(data.n_steps)
    model = TrajectoryModel(policy, padded=padded)
    values = {n: v.requires_grad_(True) for n, v in drawn(Program(model, data)).items()}
    trace = poutine.trace(poutine.condition(model, values)).get_trace(
        data, weights=weights, signed=True
    )
    trace.compute_log_prob()
    total = trace.nodes["action"]["log_prob_sum"]
    found = torch.autograd.grad(total, list(values.values()))
    expected = [torch.zeros_like(v) for v in values.values()]
    for state, action, weight in zip(*data.state_action_pairs(), weights, strict=True):
        score = policy.distribution(values, state[None]).log_prob(action[None])[0]
        scores = torch.autograd.grad(score, list(values.values()))
        expected = [total + weight * part for total, part in zip(expected, scores, strict=True)]
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-12 * float(right.abs().max()))


# -- simulation ------------------------------------------------------------------------------------


def test_states_without_actions_are_given_some(parts: Any) -> None:
    made, data = parts
    if len(made) > 1 and made[1] is not None:
        return
    program = Program(TrajectoryModel(*made), data)
    values = drawn(program)
    for padded in (False, True):
        model = poutine.condition(TrajectoryModel(*made, padded=padded), values)
        actions = model(data.with_actions(None))
        assert data.with_actions(actions).n_steps == len(actions)


@pytest.mark.parametrize("name", ["whole", "normal", "softmax", "modes", "episodes"])
def test_whole_episodes_are_simulated(name: str) -> None:
    made, like = PARTS[name]
    model = TrajectoryModel(*made)
    pyro.set_rng_seed(0)
    found = model(episodes=6, steps=9)
    assert found.lengths.tolist() == [9] * 6
    assert found.states.shape[1:] == like().states.shape[1:]
    assert found.truncated.all()
    # What a program makes, the same program takes.
    assert torch.isfinite(Program(model, found).log_likelihood(drawn(Program(model, found))))


def test_actions_that_nobody_saw_are_summed_out() -> None:
    data = tabular()
    model = TrajectoryModel(TABLES[0], TABLES[1])
    program = Program(model, data.with_actions(None))
    values = drawn(program)
    joint = values["policy"].unsqueeze(-1) * values["transition"]
    expected = joint.sum(1)[data.step_states, data.next_states].log().sum()
    assert abs(program.log_likelihood(values) - expected) < 1e-12


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrajectoryModel("left"), "policy: expected"),  # type: ignore[arg-type]
        (lambda: TrajectoryModel(TABLES[0], TABLES[2]), "dynamics: expected"),  # type: ignore[arg-type]
        (lambda: TrajectoryModel(TABLES[0], padded=1), "padded"),  # type: ignore[arg-type]
        (lambda: TrajectoryModel(TABLES[0])([[0, 1]]), "expected Trajectories, got list"),
        (lambda: TrajectoryModel(TABLES[0])(), "trajectories: expected some"),
        (lambda: TrajectoryModel(*TABLES)(episodes=3), "numbers of episodes and steps"),
        (lambda: TrajectoryModel(*TABLES)(episodes=0, steps=3), "episodes"),
        (lambda: TrajectoryModel(*TABLES)(tabular(), steps=3), "expected None"),
        (lambda: TrajectoryModel(TABLES[0])(vectors()), "expected Discrete actions"),
        (lambda: TrajectoryModel(NORMAL[0], TABLES[1])(vectors()), "states in Discrete"),
        (lambda: TrajectoryModel(TABLES[0], NORMAL[1])(tabular()), "vectors of 2"),
        (lambda: TabularDynamics(0, 2), "n_states"),
        (lambda: LinearGaussianDynamics(2, prior_scale=0.0), "prior_scale"),
        (lambda: GaussianStates(2, noise_scale=-1.0), "noise_scale"),
        (lambda: TabularStates(2, concentration=np.inf), "concentration"),
    ],
)
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "one for each of 6 episodes or 21 steps, got 2"),
        (2.0, "got 2.0"),
        ([1.0, -1.0, 1.0, 1.0, 1.0, 1.0], "at least 0"),
        ([1.0, np.nan, 1.0, 1.0, 1.0, 1.0], "finite"),
        ([0.0] * 6, "zero for all"),
    ],
)
def test_wrong_weights_are_refused(weights: Any, message: str) -> None:
    for engine in (MLE(), EM()):
        with pytest.raises(DataError, match=message):
            engine.fit(TrajectoryModel(TABLES[0]), tabular(), weights=weights)
