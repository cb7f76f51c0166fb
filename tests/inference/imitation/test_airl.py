"""AIRL: the reward is recovered, and still right where the dynamics are others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alike import alike
from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    cartpole_expert,
    objective,
    rollout,
    soft_value_iteration,
    state_action_occupancy,
    value_iteration,
)
from likely.inference import MAP, FitError, OptionError
from likely.inference.imitation import (
    ActingPolicy,
    airl,
    gail,
    occupancy_distance,
    play,
)
from likely.inference.imitation.airl import RewardJudge
from likely.inference.imitation.discriminator import state_features
from likely.models import GaussianPolicy, ShapedReward, SoftmaxPolicy, TabularPolicy
from likely.models.discriminators import ShapedSteps

SIDE, ACTIONS, GAMMA = 3, 4, 0.9
S = SIDE * SIDE
REWARD = torch.tensor([0.0, -0.5, 0.0, 0.3, -1.0, 0.0, 0.0, 0.5, 2.0]).double()
MOVES = (0, 1), (0, -1), (1, 0), (-1, 0)


def board(order: tuple[int, ...] = (0, 1, 2, 3)) -> TabularMDP:
    """Nine squares, walked without slipping; ``order`` says which action goes which way."""
    rows = torch.zeros(S, ACTIONS, S).double()
    for s in range(S):
        for a in range(ACTIONS):
            row, column = (
                min(max(here + move, 0), SIDE - 1)
                for here, move in zip(divmod(s, SIDE), MOVES[order[a]], strict=True)
            )
            rows[s, a, row * SIDE + column] = 1.0
    return TabularMDP(rows, REWARD, GAMMA, torch.full((S,), 1 / S).double())


def centred(reward: Tensor) -> Tensor:
    return reward - reward.mean()


def test_of_exact_visits_the_reward_is_exact() -> None:
    """With the expert for a learner, f is log π, and g what the reward is but for a constant."""
    mdp = board()
    plan = soft_value_iteration(mdp, 1.0)
    rho = state_action_occupancy(mdp, plan.policy, normalized=True).flatten()
    s, a = torch.arange(S * ACTIONS) // ACTIONS, torch.arange(S * ACTIONS) % ACTIONS
    after, eye = mdp.transition[s, a].argmax(-1), torch.eye(S).double()
    side = eye[s], GAMMA * eye[after] - eye[s], plan.policy[s, a].log()
    steps = ShapedSteps(*(torch.cat([part, part]) for part in side))
    y = torch.arange(2 * len(s)) < len(s)
    program, weights = ShapedReward(scale=1e3), 1e3 * torch.cat([rho, rho])
    fit = MAP(tol=1e-14, max_iter=2000).fit(program, steps, y.double(), weights=weights)
    # Its log-odds are nothing, to the gradient's tolerance over the rarest step's weight.
    odds = program.log_odds(fit.params, steps)
    torch.testing.assert_close(odds, torch.zeros_like(odds), rtol=0, atol=1e-4)
    found = fit.params["reward_weights"]
    torch.testing.assert_close(centred(found), centred(REWARD), rtol=0, atol=1e-4)
    potential = fit.params["potential"]
    torch.testing.assert_close(centred(potential), centred(plan.value), rtol=0, atol=1e-3)


def test_log_odds_are_the_programs() -> None:
    random = torch.Generator().manual_seed(0)
    parts = [torch.randn(7, d, generator=random).double() for d in (2, 3, 1)]
    steps = ShapedSteps(parts[0], parts[1], parts[2][:, 0])
    params = {"reward_weights": torch.ones(2).double(), "potential": torch.ones(3).double()}
    found = ShapedReward().log_odds(params, steps)
    torch.testing.assert_close(found, parts[0].sum(-1) + parts[1].sum(-1) - parts[2][:, 0])


def test_nothing_comes_after_an_end_and_repeated_steps_are_counted() -> None:
    seen = Trajectories.from_arrays(
        [[0, 1, 2], [0, 1, 2]], [[1, 0], [1, 0]], terminated=[True, False], state_space=3
    )
    acting = TabularPolicy(3, 2)
    policy = ActingPolicy(acting, {"policy": torch.full((3, 2), 0.5)}, seen.state_space)
    plain = state_features(seen)
    judge = RewardJudge(seen, plain, plain, 0.5)
    steps = judge.steps(seen, policy)
    assert steps.shaping.tolist() == [
        [-1.0, 0.5, 0.0], [0.0, -1.0, 0.0], [-1.0, 0.5, 0.0], [0.0, -1.0, 0.5]
    ]  # fmt: skip
    torch.testing.assert_close(steps.log_policy.exp(), torch.full((4,), 0.5).double())
    # Merged rows, of which the first comes twice, give what all of them would.
    learner = play(board(), torch.full((S, ACTIONS), 0.25).double(), 20, 0, 6)
    expert = play(board(), soft_value_iteration(board(), 1.0).policy, 20, 1, 6)
    acting = TabularPolicy(S, ACTIONS)
    table = {"policy": torch.full((S, ACTIONS), 1 / ACTIONS)}
    policy = ActingPolicy(acting, table, expert.state_space)
    plain = state_features(expert)
    judge = RewardJudge(expert, plain, plain, GAMMA, engine=MAP(tol=1e-12, max_iter=500))
    judge.learn(learner, policy)
    sides = [judge.steps(part, policy) for part in (expert, learner)]
    counts = [GAMMA ** part.step.double() for part in (expert, learner)]
    half = (counts[0].sum() + counts[1].sum()) / 2
    fit = MAP(tol=1e-12, max_iter=500).fit(
        ShapedReward(),
        ShapedSteps(*(torch.cat(parts) for parts in zip(*sides, strict=True))),
        torch.cat([torch.ones(120), torch.zeros(120)]).double(),
        weights=torch.cat([side * (half / side.sum()) for side in counts]),
    )
    for site, value in fit.params.items():
        torch.testing.assert_close(judge.params[site], value, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_reward_is_recovered_and_goes_to_other_dynamics() -> None:
    mdp, mirrored = board(), board((1, 0, 3, 2))
    expert = soft_value_iteration(mdp, 1.0).policy
    seen = play(mdp, expert, 2000, 50, 40)
    options: dict[str, Any] = {
        "iterations": 60, "episodes": 400, "horizon": 40, "radius": 0.02, "anneal": 0.05,
    }  # fmt: skip
    found = airl(mdp, TabularPolicy(S, ACTIONS), seen, **options)
    assert occupancy_distance(mdp, found, expert) < 0.02
    reward = torch.tensor(found.extra["reward_weights"]).double()
    # Samples of these sizes of the expert itself, for both sides, leave errors of 0.26 (root mean
    # square over states and ten draws); the bound is twice that. The reward's own spread is 0.77.
    assert (centred(reward) - centred(REWARD)).square().mean().sqrt() < 0.52

    def earned(given: Tensor) -> float:
        return float(objective(mirrored, value_iteration(mirrored, reward=given).policy))

    best, even = earned(REWARD), float(objective(mirrored, torch.full((S, 4), 0.25).double()))
    assert earned(reward) > 0.99 * best
    # The log-odds of GAIL are of actions, which now do something else.
    other = gail(mdp, TabularPolicy(S, ACTIONS), seen, memory=1, **options)
    assert occupancy_distance(mdp, other, expert) < 0.02
    odds = torch.tensor(other.extra["discriminator"]["coefficients"]).double()
    assert earned(odds.reshape(S, ACTIONS)) < even + 0.5 * (best - even)


def test_a_broken_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    mdp = board()
    seen = play(mdp, soft_value_iteration(mdp, 1.0).policy, 50, 50, 10)
    options: dict[str, Any] = {"episodes": 10, "horizon": 10, "seed": 4}
    whole = airl(mdp, TabularPolicy(S, ACTIONS), seen, iterations=4, **options)
    airl(mdp, TabularPolicy(S, ACTIONS), seen, iterations=2, path=tmp_path, **options)
    found = airl(mdp, TabularPolicy(S, ACTIONS), seen, iterations=4, path=tmp_path, **options)
    assert alike(found.table, whole.table)
    assert alike(found.extra, whole.extra)
    assert alike(found.history.drop(columns="seconds"), whole.history.drop(columns="seconds"))
    narrow = ShapedReward(1.0)
    with pytest.raises(FitError, match="scale"):
        airl(mdp, TabularPolicy(S, ACTIONS), seen, path=tmp_path, program=narrow, **options)


def test_vectors_have_squares_and_products() -> None:
    seen = rollout("CartPole-v1", cartpole_expert, 3, seed=0, max_steps=40)
    found = airl("CartPole-v1", SoftmaxPolicy(2), seen, iterations=2, episodes=4, horizon=40)
    assert len(found.extra["reward_weights"]) == len(found.extra["potential"]) == 4 + 10
    assert (found.history["loss"] < 0.7).all()


def test_bad_input() -> None:
    mdp, policy = board(), TabularPolicy(S, ACTIONS)
    seen = play(mdp, torch.full((S, ACTIONS), 0.25).double(), 4, 0, 5)
    wrong: Any = {"horizon": 5, "episodes": 4, "iterations": 1}
    for options, word in (
        ({"features": 3}, "features"),
        ({"potential": "all"}, "potential"),
        ({"program": 3}, "program"),
        ({"engine": "map"}, "engine"),
        ({"features": lambda s: torch.ones(1, 1)}, "features: expected"),
        ({"potential": lambda s: torch.ones(len(s))}, "potential: expected"),
        ({"potential": lambda s: [1.0]}, "potential: expected"),
        ({"features": lambda s: torch.full((len(s), 1), torch.nan)}, "finite numbers"),
        ({"iterations": 0}, "iterations"),
    ):
        with pytest.raises(OptionError, match=word):
            airl(mdp, policy, seen, **(wrong | options))
    with pytest.raises(OptionError, match="Trajectories"):
        airl(mdp, policy, torch.eye(2), **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="actions"):
        airl(mdp, policy, seen.with_actions(None), **wrong)
    with pytest.raises(DataError):
        airl(mdp, GaussianPolicy(1), seen, **wrong)
    for scale in (0.0, float("nan"), -1.0):
        with pytest.raises(DataError, match="scale"):
            ShapedReward(scale)


def test_a_run_of_another_world_engine_or_features_is_refused(tmp_path: Path) -> None:
    mdp = board()
    seen = play(mdp, soft_value_iteration(mdp, 1.0).policy, 20, seed=0, horizon=5)
    policy = TabularPolicy(S, ACTIONS)

    def run(world: TabularMDP = mdp, **more: Any) -> None:
        airl(world, policy, seen, iterations=1, episodes=10, horizon=5, path=tmp_path, **more)

    run()
    run()
    with pytest.raises(FitError, match="environment"):
        run(board((1, 0, 3, 2)))
    with pytest.raises(FitError, match=r"engine = 'MAP .*max_iter: 50.*max_iter: 3"):
        run(engine=MAP(max_iter=3))
    with pytest.raises(FitError, match="features"):
        run(features=lambda states: states.double().unsqueeze(-1))


@pytest.mark.parametrize("discount", [0.0, 0.5])
def test_steps_that_a_discount_leaves_nothing_of_do_no_harm(discount: float) -> None:
    """0.5 to the power of 1100 is 0 in double precision."""
    rooms = TabularMDP([[[1.0, 0.0], [0.0, 1.0]]] * 2, [0.0, 1.0], 0.5, 0)
    expert = Trajectories.from_arrays(
        [[0] + [1] * 1100], [[1] * 1100], state_space=2, action_space=2
    )
    options = {"iterations": 1, "episodes": 4, "horizon": 1100, "discount": discount}
    found = airl(rooms, TabularPolicy(2, 2), expert, **options)
    assert bool(torch.isfinite(found.table).all())
