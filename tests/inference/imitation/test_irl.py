"""The four-step loop: maximum entropy, maximum margin, projection, and the game."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from pyro.poutine import condition
from scipy.optimize import minimize
from torch import Tensor

from alike import alike
from likely.envs import (
    GridWorld,
    TabularMDP,
    backward_induction,
    cliff_world,
    evaluate,
    evaluate_horizon,
    feature_expectations,
    soft_backward_induction,
    soft_value_iteration,
    value_iteration,
)
from likely.inference import MAP, ConvergenceWarning
from likely.inference.errors import FitError, OptionError
from likely.inference.imitation import (
    FeatureMatching,
    InverseRL,
    apprenticeship_learning,
    evaluate_returns,
    match_expert,
    maxent_irl,
    mwal,
)
from likely.inference.imitation.reward_rules import MaxMargin, nearest_mixture
from likely.models import MaxEntIRL, Visits

pytestmark = pytest.mark.usefixtures("in_double")


def rooms(discount: float = 0.9) -> GridWorld:
    return GridWorld(slip=0.2, features=("kind", "distance"), discount=discount)


def earned(mdp: TabularMDP, policy: Tensor) -> float:
    return float(mdp.initial @ evaluate(mdp, policy).value)


# -- maximum entropy -----------------------------------------------------------------------------


def test_cliff_world_is_matched_to_a_millionth() -> None:
    world = cliff_world()
    expert = soft_backward_induction(world.mdp, 40).policy
    found = maxent_irl(world.mdp, "state", expert, horizon=40)
    assert found.converged
    assert found.gap <= 1e-6
    # The same from the policies themselves.
    program = MaxEntIRL(world.mdp, "state", 40)
    exact = Visits.from_policy(world.mdp, expert, 40).counts.sum((0, 2))
    assert float((program.occupancy(found.fit.params).sum(-1) - exact).abs().max()) <= 1e-6
    best = evaluate_horizon(world.mdp, expert).value[0] @ world.mdp.initial
    ours = evaluate_horizon(world.mdp, found.table).value[0] @ world.mdp.initial
    assert float(ours) == pytest.approx(float(best), rel=1e-3)
    assert float((found.table - found.policies[-1]).abs().max()) < 1e-12
    with pytest.raises(FitError, match="depends on the time"):
        str(found.policy)


def test_frozen_lake_of_65_states_is_matched() -> None:
    env = gymnasium.make("FrozenLake-v1", map_name="8x8")
    lake = TabularMDP.from_gymnasium(env, discount=0.99)
    assert lake.n_states == 65
    expert = soft_value_iteration(lake, 0.002).policy
    # Where one is, and the chance to step onto the goal, which ends the episode.
    cells = torch.eye(65)[:, :64].unsqueeze(1).expand(-1, 4, -1)
    features = torch.cat([cells, lake.expected_reward.unsqueeze(-1)], -1)
    # What is known as a scale of rewards puts the start within reach of the search.
    found = maxent_irl(lake, features, expert, temperature=0.002, tol=1e-3)
    assert found.converged
    assert found.gap <= 1e-3
    assert earned(lake, found.table) == pytest.approx(earned(lake, expert), rel=1e-3)


def test_posterior_engines_and_priors_keep_a_gap_that_is_told() -> None:
    world = rooms()
    expert = soft_value_iteration(world.mdp, 0.5).policy
    with pytest.warns(ConvergenceWarning, match="the likelihood has its maximum at a gap of"):
        found = maxent_irl(
            world.mdp, world.features, expert, temperature=0.5, engine=MAP(), prior_scale=0.5
        )
    assert not found.converged
    assert found.gap > 1e-3
    many = Visits.from_policy(world.mdp, expert, episodes=1e9)
    assert maxent_irl(
        world.mdp, world.features, many, temperature=0.5, engine=MAP(), prior_scale=0.5
    ).converged


def test_maxent_from_episodes() -> None:
    world = rooms()
    # Free, goal and trap together could express what changes no policy.
    features = world.features[:, 1:]
    program = MaxEntIRL(world.mdp, features, temperature=0.1)
    truth = torch.tensor([1.0, -1.0, -0.1])
    drawn = condition(program, {"reward_weights": truth})(episodes=2000, steps=150)
    with pytest.warns(ConvergenceWarning, match="the likelihood has its maximum"):
        found = maxent_irl(world.mdp, features, drawn, temperature=0.1)
    exact = program.occupancy({"reward_weights": truth}).sum(-1) @ features
    # Features of an episode sum to at most 10, so the sd of a mean is below 5 / sqrt(2000).
    assert float((found.met - exact).abs().max()) < 5 * 5 / 2000**0.5
    assert found.fit is not None
    assert found.fit.converged


# -- apprenticeship ------------------------------------------------------------------------------


def margin_program(met: Tensor, target: Tensor) -> float:
    """max t with w·(μ_E − μ_k) ≥ t and ‖w‖ ≤ 1, as a general solver finds it."""
    away = (target - met).numpy()
    f = away.shape[1]
    constraints = [
        {"type": "ineq", "fun": lambda x: away @ x[:f] - x[f], "jac": lambda x: _rows(away)},
        {"type": "ineq", "fun": lambda x: 1 - x[:f] @ x[:f]},
    ]
    start = [*(away.mean(0) / max(1e-9, float((away.mean(0) ** 2).sum()) ** 0.5)), -10.0]
    found = minimize(lambda x: -x[f], start, constraints=constraints, method="SLSQP", tol=1e-12)
    assert found.success
    return float(found.x[f])


def _rows(away: Any) -> Any:
    return np.hstack([away, -np.ones((len(away), 1))])


@pytest.mark.parametrize("seed", range(5))
def test_nearest_mixture_is_the_margin_program(seed: int) -> None:
    torch.manual_seed(seed)
    met = torch.randn(7, 3) + 1.0
    target = torch.randn(3) - 1.0
    alpha = nearest_mixture(met, target)
    assert bool((alpha >= 0).all())
    assert float(alpha.sum()) == pytest.approx(1.0, abs=1e-14)
    margin = float((target - alpha @ met).norm())
    assert margin == pytest.approx(margin_program(met, target), abs=1e-6)


def test_nearest_mixture_of_points_around_the_target_is_the_target() -> None:
    met = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    assert float((nearest_mixture(met, torch.zeros(2)) @ met).abs().max()) < 1e-14


@pytest.mark.parametrize(("method", "tol"), [("max-margin", 1e-3), ("projection", 0.05)])
@pytest.mark.parametrize("heat", [0.0, 0.2])
def test_margin_reaches_the_tolerance(method: str, tol: float, heat: float) -> None:
    world = rooms()
    mdp = world.mdp
    best = value_iteration(mdp).policy if heat == 0 else soft_value_iteration(mdp, heat).policy
    found = apprenticeship_learning(mdp, world.features, best, method=method)
    assert found.converged
    margins = found.history["margin"]
    assert margins.iloc[-1] <= tol
    assert bool((margins.diff().iloc[1:] <= 1e-9).all())
    assert bool((margins <= found.history["bound"] * (1 + 1e-9) + 1e-12).all())
    # The mixture's one policy goes where the mixture goes.
    exact = feature_expectations(mdp, found.table, world.features)
    assert float((exact - found.met).abs().max()) < 1e-9
    # Under any weights the two returns differ by no more than ‖w‖ ε: here, under the truth.
    away = abs(earned(mdp, found.table) - earned(mdp, best))
    assert away <= tol * 2**0.5 + 1e-9
    assert found.policy.table.shape == (mdp.n_states, 4)


def test_projection_of_a_corner_ends_at_it_and_else_keeps_to_its_bound() -> None:
    world = cliff_world()
    corner = backward_induction(world.mdp, 40).policy
    options: dict[str, Any] = {"horizon": 40, "method": "projection"}
    found = apprenticeship_learning(world.mdp, "state", corner, tol=1e-3, **options)
    assert found.converged
    assert len(found.history) < 50
    soft = soft_backward_induction(world.mdp, 40).policy
    found = apprenticeship_learning(world.mdp, "state", soft, **options)
    assert found.converged
    history = found.history
    assert bool((history["margin"] <= history["bound"] * (1 + 1e-9) + 1e-12).all())
    # Features sum to 40, so no two policies are farther apart than 40 √2.
    rounds = torch.arange(1, len(history) + 1).numpy()
    assert bool((history["bound"] <= 40 * 2**0.5 / rounds**0.5).all())


def test_apprentice_over_a_horizon() -> None:
    world = cliff_world(features=("kind", "position"))
    expert = soft_backward_induction(world.mdp, 40).policy
    found = apprenticeship_learning(world.mdp, world.features, expert, horizon=40, tol=1e-2)
    assert found.converged
    assert found.table.shape == (40, 28, 4)
    ours = evaluate_horizon(world.mdp, found.table).value[0] @ world.mdp.initial
    best = evaluate_horizon(world.mdp, expert).value[0] @ world.mdp.initial
    # Rewards −1, 10 and −10 of the three kinds.
    assert abs(float(ours - best)) <= 1e-2 * 201**0.5


def test_expert_beyond_reach_ends_at_its_distance() -> None:
    world = rooms()
    with pytest.warns(ConvergenceWarning, match="no policy comes nearer"):
        found = apprenticeship_learning(
            world.mdp, world.features, torch.tensor([0.0, 9.0, 0.0, 0.0])
        )
    assert not found.converged
    assert found.history["margin"].iloc[-1] > 1.0


def test_sampled_features_serve_where_exact_ones_cannot_be_had() -> None:
    world = rooms()
    best = value_iteration(world.mdp).policy
    count = 4000
    found = apprenticeship_learning(
        world.mdp, world.features, best, tol=0.1, episodes=count, seed=3
    )
    assert found.converged
    exact = feature_expectations(world.mdp, found.table, world.features)
    # A feature sums to at most 10 in an episode: sd at most 5, four features.
    assert float((exact - found.expected).norm()) <= 0.1 + 4 * 2 * 5 / count**0.5


# -- the game ------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [0.9, 0.5])
def test_regret_stays_under_its_bound(discount: float) -> None:
    world = rooms(discount)
    goods = torch.stack([world.features[:, 1], -world.features[:, 2], -world.features[:, 3]], -1)
    expert = soft_value_iteration(world.mdp, 0.2).policy
    found = mwal(world.mdp, goods, expert, rounds=150)
    history = found.history
    assert bool((history["regret"] <= history["bound"]).all())
    assert bool((history["advantage"] >= -history["bound"]).all())
    assert history["bound"].iloc[-1] < history["bound"].iloc[0] / 20
    assert found.converged
    assert len(found.policies) == 150
    # What is ahead in the worst case is ahead under the truth.
    weights = torch.tensor([0.5, 0.5, 0.0])
    assert float((found.met - found.expected) @ weights) >= history["advantage"].iloc[-1] - 1e-9


def test_dominant_expert_is_matched_and_a_poor_one_beaten() -> None:
    # Three rooms in a row, each better than the one before in both respects.
    moves = torch.zeros(3, 2, 3)
    for state in range(3):
        moves[state, 0, max(state - 1, 0)] = moves[state, 1, min(state + 1, 2)] = 1.0
    mdp = TabularMDP(moves, torch.zeros(3), 0.9, 0)
    features = torch.tensor([[0.0, 0.0], [0.5, 0.2], [1.0, 1.0]])
    best = torch.tensor([[0.0, 1.0]]).expand(3, 2)
    dominant = mwal(mdp, features, best, rounds=50)
    assert bool((dominant.met >= dominant.expected - 1e-9).all())
    poor = mwal(mdp, features, torch.full((3, 2), 0.5), rounds=50)
    assert bool((poor.met > poor.expected + 1.0).all())
    assert poor.history["advantage"].iloc[-1] > 1.0


def test_weights_turn_to_where_the_expert_is_better() -> None:
    # A fork: each end is good in one respect, and the expert goes to both equally often.
    moves = torch.zeros(3, 2, 3)
    moves[0, 0, 1] = moves[0, 1, 2] = 1.0
    moves[1, :, 1] = moves[2, :, 2] = 1.0
    mdp = TabularMDP(moves, torch.zeros(3), 0.5, 0)
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = mwal(mdp, features, torch.full((3, 2), 0.5), rounds=400)
    # The value of the game is 0: no policy is better in both respects.
    assert found.history["advantage"].iloc[-1] <= 1e-12
    assert found.history["advantage"].iloc[-1] >= -found.history["bound"].iloc[-1]
    assert found.gap < 0.05
    assert float(found.table[0, 0]) == pytest.approx(0.5, abs=0.05)


# -- results and errors --------------------------------------------------------------------------


def test_results_play_in_environments() -> None:
    world = rooms(0.95)
    best = value_iteration(world.mdp).policy
    found = apprenticeship_learning(world.mdp, world.features, best)
    seen = evaluate_returns(world, found.policy, episodes=2000, horizon=200, discount=0.95)
    spread = float(seen.returns.std()) / 2000**0.5
    assert abs(seen.mean - earned(world.mdp, found.table)) < 5 * spread
    assert "apprenticeship" in repr(found)
    assert isinstance(found, InverseRL)


def test_a_callback_watches_and_stops() -> None:
    world = rooms()
    seen: list[float] = []

    def watch(step: Any) -> bool:
        seen.append(step.objective)
        return len(seen) == 3

    expert = soft_value_iteration(world.mdp, 0.5).policy
    with pytest.warns(ConvergenceWarning, match="after 3 rounds"):
        found = apprenticeship_learning(
            world.mdp, "state", expert, method="projection", tol=1e-3, callback=watch
        )
    assert seen == (-found.history["gap"]).tolist()
    assert found.mixture.shape == (3,)


def test_own_rules_run_in_the_same_loop() -> None:
    world = rooms()
    problem = FeatureMatching(world.mdp, world.features, value_iteration(world.mdp).policy)
    found = match_expert(problem, MaxMargin(1e-3), max_iter=100)
    again = apprenticeship_learning(world.mdp, world.features, problem.expected)
    assert alike(found.table, again.table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, "tol must be a positive"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
        ({"method": "bisection"}, "method must be one of"),
        ({"horizon": 2.5}, "horizon must be an integer of at least 1"),
        ({"episodes": 0}, "episodes must be an integer of at least 1"),
        ({"expert": torch.ones(3)}, "expert: expected 4 finite feature expectations"),
        ({"expert": torch.full((4,), torch.nan)}, "expert: expected 4 finite"),
        ({"expert": Visits(torch.ones(2, 2))}, "expert: expected visits"),
        ({"expert": None}, "expert: expected a policy, trajectories, Visits or"),
        ({"expert": {}}, "expert: expected a policy, trajectories, Visits or"),
        ({"expert": torch.full((3, 86, 4), 0.25)}, "horizon: expected one"),
        ({"tol": float("nan")}, "tol must be a positive"),
        ({"callback": 3}, "callback must be callable"),
        ({"progress": "yes"}, "progress must be True or False"),
        ({"path": 3}, "path: expected a folder"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    world = rooms()
    chosen = {"expert": torch.full((world.mdp.n_states, 4), 0.25), **options}
    with pytest.raises(OptionError, match=message):
        apprenticeship_learning(world.mdp, world.features, **chosen)


def test_experts_that_say_too_little_or_too_much() -> None:
    world = rooms()
    with pytest.raises(OptionError, match="expected a policy, trajectories or Visits"):
        maxent_irl(world.mdp, world.features, torch.ones(4))
    with pytest.raises(OptionError, match="expected features from"):
        mwal(world.mdp, world.features, torch.tensor([0.0, 99.0, 0.0, 0.0]))
    endless = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
    with pytest.raises(OptionError, match="no bound without"):
        mwal(endless, "state", value_iteration(endless).policy)
    with pytest.raises(OptionError, match="engine: expected an engine"):
        maxent_irl(world.mdp, world.features, torch.full((86, 4), 0.25), engine="mle")
    with pytest.raises(OptionError, match="mdp: expected a TabularMDP"):
        FeatureMatching(None, "state", torch.ones(4))  # type: ignore[arg-type]
