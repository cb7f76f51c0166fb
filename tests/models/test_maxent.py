"""`MaxEntIRL`: the gradient, what is observed, posteriors, and what no behaviour tells apart."""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from likely.envs import (
    DataError,
    GridWorld,
    TabularMDP,
    Trajectories,
    horizon_occupancy,
    soft_backward_induction,
    soft_value_iteration,
    state_action_occupancy,
)
from likely.inference import MAP, MLE, SVI, ConvergenceWarning, DegenerateWarning, Laplace
from likely.models import MaxEntIRL, SampledMaxEntIRL, Visits, trajectory_features
from likely.models._soft_policy import LogRows, soft_log_policy

pytestmark = pytest.mark.usefixtures("in_double")


def windy(discount: float = 0.9, **options: Any) -> GridWorld:
    """Six cells and a sink, with slippery floors."""
    layout = ("S.G", ".T#")
    chosen = {"slip": 0.2, "rewarded": "departure", "features": ("kind", "distance")}
    return GridWorld(layout, discount=discount, **{**chosen, **options})


def score(program: MaxEntIRL, data: Any, weights: torch.Tensor) -> torch.Tensor:
    """Log-likelihood at weights, differentiable."""
    conditioned = poutine.condition(program, {"reward_weights": weights})
    nodes = poutine.trace(conditioned).get_trace(data).nodes
    site = nodes["action"]
    scale = site["scale"] if isinstance(site["scale"], torch.Tensor) else torch.tensor(1.0)
    total: torch.Tensor = (site["fn"].log_prob(site["value"]) * scale).sum()
    return total


def unrolled(mdp: TabularMDP, reward: torch.Tensor, heat: float, horizon: int) -> torch.Tensor:
    """log π over a horizon, written down step by step for automatic differentiation."""
    alive = torch.ones(mdp.n_states)
    if mdp.sink is not None:
        alive[mdp.sink] = 0.0
    value = torch.zeros(mdp.n_states)
    rows = []
    for _ in range(horizon):
        q = (reward * alive).unsqueeze(-1) + mdp.discount * (mdp.transition @ value)
        value = heat * torch.logsumexp(q / heat, -1) * alive
        rows.append(torch.log_softmax(q / heat, -1))
    return torch.stack(rows[::-1])


# -- the gradient --------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("heat", [1.0, 0.3])
def test_gradient_is_that_of_the_unrolled_recursion(discount: float, heat: float) -> None:
    world = windy(discount)
    mdp, features = world.mdp, world.features
    horizon = 12
    counts = torch.rand(horizon, mdp.n_states, mdp.n_actions)
    counts[:, mdp.sink] = 0.0
    program = MaxEntIRL(mdp, features, horizon, heat)
    weights = torch.randn(features.shape[1]).requires_grad_()
    value = score(program, Visits(counts), weights)
    (gradient,) = torch.autograd.grad(value, weights)

    plain = torch.tensor(weights.detach().numpy(), requires_grad=True)
    expected = (counts * unrolled(mdp, features @ plain, heat, horizon)).sum()
    (by_hand,) = torch.autograd.grad(expected, plain)
    assert float((value - expected).detach().abs()) < 1e-9
    assert float((gradient - by_hand).abs().max()) < 1e-9


def test_second_derivative_is_that_of_the_unrolled_recursion() -> None:
    world = windy(0.9)
    counts = torch.rand(7, world.mdp.n_states, world.mdp.n_actions)

    def ours(weights: torch.Tensor) -> torch.Tensor:
        return (counts * soft_log_policy(world.mdp, world.features @ weights, horizon=7)).sum()

    def plain(weights: torch.Tensor) -> torch.Tensor:
        return (counts * unrolled(world.mdp, world.features @ weights, 1.0, 7)).sum()

    at = torch.randn(world.features.shape[1])
    found, expected = (torch.autograd.functional.hessian(f, at) for f in (ours, plain))
    assert float((found - expected).abs().max()) < 1e-9


def test_gradient_is_the_difference_of_feature_expectations() -> None:
    world = windy(0.9)
    mdp, features, heat = world.mdp, world.features, 0.5
    expert = torch.softmax(torch.randn(mdp.n_states, mdp.n_actions), -1)
    weights = torch.randn(features.shape[1]).requires_grad_()
    for horizon in (None, 9):
        program = MaxEntIRL(mdp, features, horizon, heat)
        value = score(program, Visits.from_policy(mdp, expert, horizon, episodes=3.0), weights)
        (gradient,) = torch.autograd.grad(value, weights)
        if horizon is None:
            learned = soft_value_iteration(mdp, heat, reward=features @ weights.detach()).policy
            away = state_action_occupancy(mdp, expert) - state_action_occupancy(mdp, learned)
        else:
            plan = soft_backward_induction(mdp, 9, heat, reward=features @ weights.detach())
            away = horizon_occupancy(mdp, expert, 9) - horizon_occupancy(mdp, plan.policy)
        exact = 3.0 * (away.sum(-1) * mdp.alive) @ features / heat
        assert float((gradient - exact).abs().max()) < 1e-9, horizon


def test_derivative_passes_a_base_policy_with_zeros_and_batches() -> None:
    world = windy(1.0)
    base = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(world.mdp.n_states, 4)
    reward = torch.randn(3, world.mdp.n_states, requires_grad=True)
    together = soft_log_policy(world.mdp, reward, 0.7, horizon=5, prior=base)
    assert together.shape == (3, 5, world.mdp.n_states, 4)
    assert bool((together[..., 2:] == -torch.inf).all())
    (gradient,) = torch.autograd.grad(together[..., 0].sum(), reward)
    for i in range(3):
        one = reward[i].detach().requires_grad_()
        plan = soft_backward_induction(world.mdp, 5, 0.7, reward=one, prior=base)
        assert torch.allclose(together[i].exp(), plan.policy, atol=1e-12)
        (alone,) = torch.autograd.grad(plan.policy[..., 0].log().sum(), one)
        assert float((gradient[i] - alone).abs().max()) < 1e-9


def test_log_rows_are_categories() -> None:
    logs = torch.log_softmax(torch.randn(3, 4), -1)
    row = torch.tensor([2, 0, 0, 1])
    plain = torch.distributions.Categorical(logits=logs[row])
    value = plain.sample((5,))
    assert torch.allclose(LogRows(logs, row).log_prob(value), plain.log_prob(value))


# -- what is observed ----------------------------------------------------------------------------


def episodes(world: GridWorld, weights: Any, count: int, steps: int, **options: Any) -> Any:
    program = MaxEntIRL(world.mdp, world.features, **options)
    values = {"reward_weights": torch.as_tensor(weights)}
    return program, poutine.condition(program, values)(episodes=count, steps=steps)


@pytest.mark.parametrize("horizon", [None, 20])
def test_visits_stand_for_trajectories(horizon: int | None) -> None:
    world = windy()
    program, seen = episodes(world, [1.0, 2.0, -1.0, 0.5], 50, 20, horizon=horizon)
    visits = Visits.from_trajectories(world.mdp, seen, horizon)
    assert float(visits.counts.sum()) == seen.n_steps
    weights = torch.randn(4)
    one, other = score(program, seen, weights), score(program, visits, weights)
    assert float(one) == pytest.approx(float(other), rel=1e-12)
    many = Visits(visits.counts * 1e6)
    assert float(score(program, many, weights)) == pytest.approx(1e6 * float(one), rel=1e-12)


def test_weights_count_episodes_and_steps() -> None:
    world = windy()
    program, seen = episodes(world, [1.0, 2.0, -1.0, 0.5], 6, 10)
    given = torch.arange(1.0, 7.0)
    by_step = given[seen.episode]
    values = {"reward_weights": torch.randn(4)}
    totals = [
        poutine.trace(poutine.condition(program, values)).get_trace(seen, weights=w).log_prob_sum()
        for w in (given, by_step)
    ]
    assert float(totals[0]) == pytest.approx(float(totals[1]), rel=1e-12)
    with pytest.raises(DataError, match="weights: expected one for each of 6 episodes"):
        program(seen, weights=torch.ones(5))
    with pytest.raises(DataError, match="weights: expected None"):
        program(Visits.from_trajectories(world.mdp, seen), weights=torch.ones(6))


def test_discounted_visits_of_many_episodes_are_the_occupancy() -> None:
    world = windy(0.8)
    expert = soft_value_iteration(world.mdp, 0.5).policy
    program = MaxEntIRL(world.mdp, "state", known=world.mdp.reward, temperature=0.5)
    count = 20_000
    zeros = {"reward_weights": torch.zeros(program.reward_part.width)}
    seen = poutine.condition(program, zeros)(episodes=count, steps=60)
    counted = Visits.from_trajectories(world.mdp, seen, discounted=True).counts / count
    exact = Visits.from_policy(world.mdp, expert).counts
    # Each entry is a mean of numbers from 0 to 1 / (1 − γ) = 5: sd at most 2.5.
    assert float((counted - exact).abs().max()) < 5 * 2.5 / count**0.5


def test_states_without_actions_are_simulated() -> None:
    world = windy()
    program, seen = episodes(world, [0.0, 3.0, -3.0, 0.0], 400, 10)
    with pyro.poutine.condition(data={"reward_weights": torch.tensor([0.0, 3.0, -3.0, 0.0])}):
        drawn = program(seen.with_actions(None))
    assert drawn.shape == (seen.n_steps,)
    policy = program.policy({"reward_weights": [0.0, 3.0, -3.0, 0.0]})
    for state in range(2):
        here = seen.step_states == state
        share = torch.bincount(drawn[here], minlength=4) / int(here.sum())
        # Five standard deviations of a share.
        assert float((share - policy[state]).abs().max()) < 2.5 / int(here.sum()) ** 0.5


# -- rewards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [MLE(), MAP()])
def test_expert_is_met_for_every_kind_of_reward(engine: Any) -> None:
    world = windy(0.9)
    mdp = world.mdp
    expert = soft_value_iteration(mdp, 0.5).policy
    data = Visits.from_policy(mdp, expert, episodes=1e6)
    # Free, goal and trap together can express the shift that changes no policy.
    three = world.features[:, 1:]
    kinds: list[dict[str, Any]] = [
        {"features": three},
        {"features": "state", "prior_scale": 5.0},
        {"features": "state-action", "prior_scale": 5.0},
        {"features": torch.eye(mdp.n_states).unsqueeze(1).expand(-1, 4, -1)[..., :-1]},
    ]
    if isinstance(engine, MLE):  # the others have flat directions
        kinds = kinds[:1]
    for options in kinds:
        program = MaxEntIRL(mdp, temperature=0.5, **options)
        fit = engine.fit(program, data)
        assert fit.converged
        # A prior of scale 5 against a million episodes moves features by about 1e-6.
        gap = program.occupancy(fit.params) - data.counts / 1e6
        met = gap if isinstance(options["features"], str) else gap.sum(-1) @ world.features
        assert float(met.abs().max()) < 1e-4, options["features"]
    # What is known need not be learned.
    mixed = MaxEntIRL(mdp, three, temperature=0.5, known=torch.randn(mdp.n_states, 4))
    at = mixed.policy({"reward_weights": [0.5, -0.5, 0.1]})
    found = engine.fit(mixed, Visits.from_policy(mdp, at, episodes=1e6)).params["reward_weights"]
    assert float((found - torch.tensor([0.5, -0.5, 0.1])).abs().max()) < 1e-3


# Whether the search itself notices depends on where it ends.
@pytest.mark.filterwarnings("ignore::likely.inference.errors.ConvergenceWarning")
def test_one_hot_rewards_of_cells_are_flat_without_a_prior() -> None:
    world = windy(0.9)
    data = Visits.from_policy(world.mdp, soft_value_iteration(world.mdp).policy)
    program = MaxEntIRL(world.mdp, "state")
    # Adding c (1 − γ) to every step and c to all ends changes no policy.
    n = world.mdp.n_states - 1
    ends = torch.tensor([float(m in "GT") for m in "S.G.T"])
    shift = torch.full((n,), 0.1) * (1 - ends) + ends
    at = torch.randn(n)
    one, other = (score(program, data, at + c * shift) for c in (0.0, 3.0))
    assert float(one) == pytest.approx(float(other), abs=1e-9)
    starts = [{"reward_weights": 3.0 * torch.randn(n)} for _ in range(2)]
    with pytest.warns(DegenerateWarning, match="change no policy"):
        first, second = (MLE(init=start).fit(program, data).params for start in starts)
    apart = (first["reward_weights"] - second["reward_weights"]).abs().max()
    assert float(apart) > 0.1
    assert float((program.policy(first) - program.policy(second)).abs().max()) < 1e-3
    found = [MAP(init=start).fit(program, data).params["reward_weights"] for start in starts]
    assert float((found[0] - found[1]).abs().max()) < 1e-3


@pytest.mark.parametrize("scale", [None, 3.0])
def test_network_reward_meets_the_expert(scale: float | None) -> None:
    world = windy(0.9)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
    ).double()
    expert = soft_value_iteration(world.mdp, 0.5).policy
    data = Visits.from_policy(world.mdp, expert, episodes=1e5)
    program = MaxEntIRL(
        world.mdp, world.features, temperature=0.5, network=net, network_scale=scale
    )
    engine = MAP(max_iter=300)
    with warnings.catch_warnings():
        # Without priors hidden units can be rescaled, and the optimum is a ridge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = engine.fit(program, data)
    gap = (program.occupancy(fit.params) - data.counts / 1e5).sum(-1)
    assert float(gap.abs().max()) < 1e-2
    assert program.reward(fit.params).shape == (world.mdp.n_states,)


# -- posteriors ----------------------------------------------------------------------------------


def test_posteriors_bring_rewards_and_optimal_policies() -> None:
    world = windy(0.9)
    truth = torch.tensor([-0.3, 2.0, -2.0, 0.0])
    program, seen = episodes(world, truth, 300, 30, prior_scale=3.0)
    data = Visits.from_trajectories(world.mdp, seen)
    laplace = Laplace(draws=200).fit(program, data)
    svi = SVI(guide="multivariate", max_iter=600, learning_rate=0.05, draws=200).fit(program, data)
    rewards = program.reward(laplace.draws)
    policies = program.policy(laplace.draws)
    assert rewards.shape == (1, 200, world.mdp.n_states)
    assert policies.shape == (1, 200, world.mdp.n_states, 4)
    assert torch.allclose(policies.sum(-1), torch.ones(()), atol=1e-12)
    spread = laplace.draws["reward_weights"].std((0, 1))
    assert bool(((laplace.params["reward_weights"] - truth).abs() < 4 * spread).all())
    away = (svi.params["reward_weights"] - laplace.params["reward_weights"]).abs()
    assert bool((away < 0.5 * spread).all())
    table = laplace.to_arviz()
    assert list(table.posterior["reward_weights"].dims) == ["chain", "draw", "feature"]


# -- sampled expectations ------------------------------------------------------------------------


def test_sampled_gradient_is_the_difference_of_features() -> None:
    samples, features = torch.randn(200, 3), torch.randn(5, 3)
    weights = torch.randn(3).requires_grad_()
    conditioned = poutine.condition(SampledMaxEntIRL(), {"reward_weights": weights})
    node = poutine.trace(conditioned).get_trace(features, samples).nodes["features"]
    (gradient,) = torch.autograd.grad(node["fn"].log_prob(features).sum(), weights)
    shares = torch.softmax(samples @ weights.detach(), 0)
    assert torch.allclose(gradient, features.sum(0) - 5 * shares @ samples, atol=1e-10)


def test_sampled_version_agrees_with_planning_where_nothing_is_left_to_chance() -> None:
    world = GridWorld(
        ("S..", "..G"), rewarded="departure", terminal=(), discount=1.0, features=("distance",)
    )
    mdp, horizon, count = world.mdp, 5, 100_000
    features = torch.cat([world.features, torch.eye(6)[:, 2:3]], -1)
    exact = MaxEntIRL(mdp, features, horizon)
    expert = exact.policy({"reward_weights": [-1.0, 0.7]})
    base = poutine.condition(exact, {"reward_weights": torch.zeros(2)})
    tried = trajectory_features(base(episodes=count, steps=horizon), features)
    demonstrated = exact_features = Visits.from_policy(mdp, expert, horizon).counts.sum((0, 2))
    demonstrated = (exact_features @ features).unsqueeze(0)
    fit = MLE().fit(SampledMaxEntIRL(), demonstrated, tried)
    # The error of the weights is that of E[μ], sd / sqrt(M) over its derivative, the variance.
    spread = tried.std(0).amin()
    tolerance = 5 * 3 / (float(spread) * count**0.5)
    assert float((fit.params["reward_weights"] - torch.tensor([-1.0, 0.7])).abs().max()) < tolerance


def test_few_effective_samples_are_told() -> None:
    program, samples = SampledMaxEntIRL(), torch.linspace(0.0, 1.0, 50).unsqueeze(-1)
    assert program.review({"reward_weights": [0.0]}, samples, samples) == []
    told = program.review({"reward_weights": [300.0]}, samples, samples)
    assert "hangs on 1.0 of 50" in told[0]


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": torch.ones(3, 2)}, r"features: expected \[S, F\]"),
        ({"features": "cells"}, "features: expected an array or one of"),
        ({"features": torch.full((6, 1), torch.nan)}, "features must be finite"),
        ({"temperature": 0.0}, "temperature must be a positive"),
        ({"horizon": 0}, "horizon must be an integer >= 1"),
        ({"prior_scale": -1.0}, "prior_scale must be a positive"),
        ({"known": torch.ones(2)}, "known: expected"),
        ({"base_policy": torch.ones(6, 4)}, "base_policy must sum to 1"),
        ({"names": ("a",)}, "names: expected 5 different ones"),
        ({"network": torch.nn.Linear(1, 1)}, "a network needs a table"),
        ({"features": torch.ones(6, 1), "network": 3}, "network: expected a plain"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MaxEntIRL(windy().mdp, **options)


def test_data_that_do_not_fit() -> None:
    mdp = windy().mdp
    program = MaxEntIRL(mdp, "state", horizon=3)
    long = Trajectories.from_arrays([[0, 1, 1, 1, 1]], [[0, 1, 2, 3]])
    with pytest.raises(DataError, match="at most 3 steps, the horizon, got 4 in episode 0"):
        program(long)
    with pytest.raises(DataError, match="expected 6 states"):
        program(Trajectories.from_arrays([[0, 9]], [[0]]))
    with pytest.raises(DataError, match="expected Trajectories or Visits, got list"):
        program([1, 2])
    with pytest.raises(DataError, match=r"counts: expected \(3, 6, 4\)"):
        program(Visits(torch.ones(6, 4)))
    with pytest.raises(DataError, match="give data, or the numbers"):
        program()
    with pytest.raises(DataError, match="at most 3, the horizon"):
        program(episodes=1, steps=4)
    for counts, message in (
        (torch.zeros(6, 4), "at least one above 0"),
        (-torch.ones(6, 4), "expected at least 0"),
        (torch.full((6, 4), torch.nan), "must be finite"),
        (torch.ones(6), r"expected \[S, A\]"),
    ):
        with pytest.raises(DataError, match=message):
            Visits(counts)
    with pytest.raises(DataError, match="expected a value of 'reward_weights'"):
        program.reward({"weights": torch.ones(5)})
