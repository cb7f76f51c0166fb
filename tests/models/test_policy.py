"""Policies give the program's own probabilities, draw from them, and refuse what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from gymnasium.spaces import Box
from pyro import poutine

from likely.envs import DataError, EpisodeRandom, Trajectories, rollout
from likely.inference import EM, MLE, Laplace
from likely.models import (
    GaussianPolicy,
    MixturePolicy,
    ModulePolicy,
    SoftmaxPolicy,
    TabularPolicy,
    TrajectoryModel,
)
from likely.models._action_distributions import ModeActions, SelectedMode, TableRows

pytestmark = pytest.mark.usefixtures("in_double")

STATES, ACTIONS = 5, 3
ROWS = torch.arange(7) % STATES


def net(outputs: int, inputs: int = 2) -> torch.nn.Module:
    layers = [torch.nn.Linear(inputs, 4), torch.nn.Tanh(), torch.nn.Linear(4, outputs)]
    return torch.nn.Sequential(*layers)


def policies() -> dict[str, tuple[Any, Any]]:
    """Each kind with states that it takes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        vectors = torch.randn(7, 2, dtype=torch.float64)
        modules = net(ACTIONS), net(2)
    tabular, normal = TabularPolicy(STATES, ACTIONS), GaussianPolicy(2)
    table = torch.eye(STATES)[:, 1:]
    return {
        "tabular": (tabular, ROWS),
        "softmax": (SoftmaxPolicy(ACTIONS), vectors),
        "softmax-table": (SoftmaxPolicy(ACTIONS, table, intercept=False), ROWS),
        "softmax-function": (SoftmaxPolicy(ACTIONS, lambda s: s.square()), vectors),
        "gaussian": (normal, vectors),
        "module": (ModulePolicy(modules[0], ACTIONS), vectors),
        "module-prior": (ModulePolicy(modules[0], ACTIONS, prior_scale=1.0), vectors),
        "module-box": (ModulePolicy(modules[1], 2, is_discrete=False), vectors),
        "mixture": (MixturePolicy(tabular, 2), ROWS),
        "mixture-episode": (MixturePolicy(normal, 3, per="episode"), vectors),
    }


@pytest.fixture(params=sorted(policies()))
def case(request: pytest.FixtureRequest) -> Any:
    return policies()[request.param]


def params_of(policy: Any, states: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """One value of each site and parameter."""
    pyro.set_rng_seed(seed)
    with pyro.get_param_store().scope():
        trace = poutine.trace(policy.sample_sites).get_trace(states)
        nodes = {n: node["value"] for n, node in trace.nodes.items() if n in policy.dims}
    return {name: value.detach().double() for name, value in nodes.items()}


def test_names_of_dimensions_fit_the_sites(case: Any) -> None:
    policy, states = case
    params = params_of(policy, states)
    assert params.keys() == policy.dims.keys()
    assert all(len(policy.dims[name]) == value.dim() for name, value in params.items())


def test_probabilities_are_those_of_the_program(case: Any) -> None:
    policy, states = case
    params = params_of(policy, states)
    if not policy.discrete:
        with pytest.raises(DataError, match="not Discrete"):
            policy.probabilities(params, states)
        return
    found = policy.probabilities(params, states)
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=0, atol=1e-12)
    space = {} if states.is_floating_point() else {"state_space": STATES}
    module = {n: v for n, v in params.items() if "$$$" in n}
    for action in range(ACTIONS):
        data = Trajectories.from_arrays(
            torch.cat([states, states[:1]]),
            torch.full((7,), action),
            lengths=[7],
            action_space=ACTIONS,
            **space,
        )
        model = TrajectoryModel(policy)
        with pyro.get_param_store().scope():
            if module:
                own = {n.removeprefix("policy$$$"): v for n, v in module.items()}
                policy.module.double().load_state_dict(own)
            conditioned = poutine.condition(
                model, {n: params[n] for n in params if n not in module}
            )
            trace = poutine.trace(conditioned).get_trace(data)
            trace.compute_log_prob()
        density = trace.nodes["action"]["log_prob"]
        np.testing.assert_allclose(found[:, action].log(), density.detach(), rtol=0, atol=1e-10)


def test_draws_follow_the_distribution(case: Any) -> None:
    policy, states = case
    params = params_of(policy, states)
    n = 20_000
    one = states[2:3].expand(n, *states.shape[1:])
    drawn = torch.from_numpy(policy.act(params, one, np.random.default_rng(0)))
    if policy.discrete:
        expected = policy.probabilities(params, states[2:3])[0]
        found = torch.bincount(drawn, minlength=ACTIONS) / n
        error = (expected * (1 - expected) / n).sqrt()
        assert bool(((found - expected).abs() <= 4.5 * error + 1e-12).all())
        return
    fn = policy.at(params, states[2:3])
    pyro.set_rng_seed(0)
    other = torch.stack([fn.sample()[0] for _ in range(4000)])
    error = (drawn.var(0) / n + other.var(0) / 4000).sqrt()
    assert bool(((drawn.mean(0) - other.mean(0)).abs() <= 4.5 * error).all())
    np.testing.assert_allclose(drawn.std(0), other.std(0), rtol=0.06)


def test_a_row_draws_by_its_own_numbers(case: Any) -> None:
    policy, states = case
    params = params_of(policy, states)

    def rng(rows: Any) -> EpisodeRandom:
        return EpisodeRandom([np.random.default_rng(i) for i in rows], np.linspace(0, 0.9, 7)[rows])

    together = policy.act(params, states, rng(np.arange(7)))
    alone = [policy.act(params, states[i : i + 1], rng([i]))[0] for i in range(7)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_the_best_action_is_the_most_probable(case: Any) -> None:
    policy, states = case
    params = params_of(policy, states)
    best = policy.behaviour(params, greedy=True)(states.numpy(), None)
    if policy.discrete:
        expected = policy.probabilities(params, states).argmax(-1)
        np.testing.assert_array_equal(best, expected)
    else:
        assert best.shape == (7, 2)


def test_missing_and_wrong_values_are_refused(case: Any) -> None:
    policy, states = case
    params = params_of(policy, states)
    name = next(iter(policy.dims))
    with pytest.raises(DataError, match="params: expected a value of"):
        policy.at({n: v for n, v in params.items() if n != name}, states)
    with pytest.raises(DataError, match="expected shape"):
        policy.at({**params, name: torch.ones(9, 9, 9, 9)}, states)


def test_a_mode_lasts_for_an_episode_of_a_rollout() -> None:
    policy = MixturePolicy(TabularPolicy(100, 2), 2, per="episode")
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, None].expand(2, 100, 2)
    params = {"mode_weights": [0.5, 0.5], "policy": table}
    step = MixturePolicy(policy.policy, 2)
    kept = rollout("FrozenLake-v1", policy_on_lake(policy, params), 60, seed=0)
    mixed = rollout("FrozenLake-v1", policy_on_lake(step, params), 60, seed=0)
    assert all(len(part.actions.unique()) == 1 for part in kept)  # type: ignore[union-attr]
    assert not all(len(part.actions.unique()) == 1 for part in mixed)  # type: ignore[union-attr]
    share = np.mean([int(part.actions[0]) for part in kept])  # type: ignore[index]
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 60)


def policy_on_lake(policy: Any, params: Any) -> Any:
    return policy.behaviour(params)


def test_actions_may_be_cut_to_a_box() -> None:
    policy = GaussianPolicy(1)
    params = {"intercept": [3.0], "coefficients": [[0.0]], "scale": [1.0]}
    box = Box(-1.0, 1.0, (1,))
    acts = policy.behaviour(params, box)(np.zeros((50, 1)), np.random.default_rng(0))
    assert acts.max() == 1.0


def test_a_posterior_says_how_sure_it_is_of_each_state() -> None:
    counts = torch.tensor([[400, 100], [2, 1], [0, 0]])
    states = torch.repeat_interleave(torch.arange(3).repeat_interleave(2), counts.flatten())
    actions = torch.repeat_interleave(torch.arange(2).repeat(3), counts.flatten())
    data = Trajectories.from_arrays(
        torch.cat([states, states[:1]]), actions, lengths=[len(states)], state_space=3
    )
    # Drawn from the known posterior: a Dirichlet for each state.
    posterior = dist.Dirichlet(1.0 + counts)
    pyro.set_rng_seed(0)
    draws = {"policy": posterior.sample((2, 4000))}
    mean, sd = TabularPolicy(3, 2).uncertainty(draws, torch.arange(3))
    exact = posterior.variance.sqrt()
    np.testing.assert_allclose(mean, posterior.mean, rtol=0, atol=4.5 * float(exact.max()) / 89)
    np.testing.assert_allclose(sd, exact, rtol=0.05)
    fit = Laplace(draws=2000, seed=0).fit(TrajectoryModel(TabularPolicy(3, 2)), data)
    _, found = TabularPolicy(3, 2).uncertainty(fit.draws, torch.arange(3))
    assert found[0].max() < found[1].min() < found[2].min()


# -- distributions ---------------------------------------------------------------------------------


def test_rows_of_a_table_are_categories() -> None:
    table = dist.Dirichlet(torch.ones(4, 3)).sample().requires_grad_(True)
    row, value = torch.arange(8) % 4, torch.arange(8) % 3
    fast, plain = TableRows(table, row), dist.Categorical(table[row])
    np.testing.assert_allclose(fast.log_prob(value).detach(), plain.log_prob(value).detach())
    every = fast.enumerate_support()
    assert every.shape == (3, 8)
    np.testing.assert_allclose(fast.log_prob(every).exp().sum(0).detach(), 1.0)
    (gradient,) = torch.autograd.grad(fast.log_prob(value).sum(), table)
    counts = torch.zeros(4, 3).index_put_((row, value), torch.ones(8), accumulate=True)
    np.testing.assert_allclose(table.detach() * gradient, counts, atol=1e-12)


@pytest.mark.parametrize("episodes", [False, True])
def test_the_mode_is_summed_out(episodes: bool) -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.2, 0.5, 0.3])
    tables = dist.Dirichlet(torch.ones(3, 4, 2)).sample()
    row, value = torch.randint(0, 4, (9,)), torch.randint(0, 2, (9,))
    modes = [TableRows(table, row) for table in tables]
    episode = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3])
    group = episode if episodes else torch.arange(9)
    fn = ModeActions(weights, modes, episode if episodes else None, observed=value)
    joint = torch.zeros(int(group[-1]) + 1, 3)
    for i in range(len(joint)):
        for m in range(3):
            likelihood = tables[m][row, value][group == i].prod()
            joint[i, m] = weights[m] * likelihood
    np.testing.assert_allclose(fn.log_prob(value), joint.sum(-1).log(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        fn.evidence(value, fn.natural, hard=True), joint.amax(-1).log(), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        fn.latent_posterior(value), joint / joint.sum(-1, keepdim=True), rtol=0, atol=1e-12
    )


def test_a_mode_may_be_named() -> None:
    table = dist.Dirichlet(torch.ones(2, 3, 2)).sample()
    row, value = torch.tensor([0, 1, 2]), torch.tensor([1, 0, 1])
    modes = [TableRows(part, row) for part in table]
    every = SelectedMode(modes, torch.arange(2).reshape(2, 1)).log_prob(value)
    np.testing.assert_allclose(every, torch.stack([mode.log_prob(value) for mode in modes]))


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TabularPolicy(0, 2), "n_states"),
        (lambda: TabularPolicy(2, 2, concentration=0.0), "concentration"),
        (lambda: SoftmaxPolicy(1), "n_actions"),
        (lambda: SoftmaxPolicy(2, intercept="yes"), "intercept"),  # type: ignore[arg-type]
        (lambda: SoftmaxPolicy(2, prior_scale=-1.0), "prior_scale"),
        (lambda: GaussianPolicy(0), "n_controls"),
        (lambda: GaussianPolicy(1, noise_scale=float("nan")), "noise_scale"),
        (lambda: ModulePolicy("net", 2), "module: expected"),  # type: ignore[arg-type]
        (lambda: ModulePolicy(net(2), 2, prior_scale=0.0), "prior_scale"),
        (lambda: MixturePolicy(ModulePolicy(net(2), 2), 2), "give it a prior_scale"),
        (lambda: MixturePolicy(TabularPolicy(2, 2), 0), "n_modes"),
        (lambda: MixturePolicy(TabularPolicy(2, 2), 2, per="day"), "per must be"),
        (lambda: MixturePolicy(MixturePolicy(TabularPolicy(2, 2), 2), 2), "policy of one mode"),
    ],
)
def test_options_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


DISCRETE = Trajectories.from_arrays([[0, 1, 1]], [[0, 1]])
CONTINUOUS = Trajectories.from_arrays([[[0.0, 1.0], [1.0, 2.0]]], [[[0.5]]])


@pytest.mark.parametrize(
    ("policy", "data", "message"),
    [
        (TabularPolicy(3, 2), DISCRETE, r"states in Discrete\(3\)"),
        (TabularPolicy(2, 3), DISCRETE, r"actions in Discrete\(3\)"),
        (TabularPolicy(2, 2), CONTINUOUS, "expected Discrete actions"),
        (GaussianPolicy(1), DISCRETE, "actions in a Box"),
        (GaussianPolicy(2), CONTINUOUS, "vectors of 2"),
        (SoftmaxPolicy(2), DISCRETE, "features: expected a table"),
        (SoftmaxPolicy(2, lambda s: s[0]), DISCRETE, "features: expected"),
        (ModulePolicy(net(3), 2, is_discrete=False), CONTINUOUS, "actions of size 2"),
        (ModulePolicy(net(3), 1, is_discrete=False), CONTINUOUS, "module: expected outputs"),
    ],
)
@pytest.mark.parametrize("engine", [MLE(), EM()])
def test_data_that_do_not_fit_are_refused(
    policy: Any, data: Any, message: str, engine: Any
) -> None:
    with pytest.raises(DataError, match=message):
        engine.fit(TrajectoryModel(policy), data)
