"""GAIL: what it reaches, what an episode's end means to it, and how it goes on after a break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alike import alike
from killed import killed
from likely.envs import (
    DataError,
    GridWorld,
    TabularMDP,
    Trajectories,
    absorbed,
    cartpole_expert,
    rollout,
    soft_value_iteration,
)
from likely.inference import MAP, FitError, OptionError
from likely.inference.imitation import (
    Discriminator,
    evaluate_returns,
    gail,
    occupancy_distance,
    play,
)
from likely.inference.imitation._unbounded import unbounded
from likely.inference.imitation.judged import Ends, ends_of
from likely.models import GaussianPolicy, SoftmaxPolicy, TabularPolicy

CHOICE = TabularMDP(
    [[[0.0, 1.0]] * 3, [[0.0, 1.0]] * 3], [[0.0] * 3] * 2, discount=1, initial=0, sink=1
)
CHOSEN = Trajectories.from_arrays([[0, 1]] * 10, [[0]] * 5 + [[1]] * 3 + [[2]] * 2)
# One setting for all of CartPole.
CARTPOLE: dict[str, Any] = {
    "ends": "absorbed", "discount": 0.99, "discount_steps": False,
}  # fmt: skip


def test_a_choice_is_imitated_to_its_probabilities() -> None:
    for over in ("step", "trajectory"):
        found = gail(
            CHOICE, TabularPolicy(2, 3), CHOSEN, discriminator=Discriminator(over=over),
            iterations=40, horizon=1, episodes=400, radius=0.02, anneal=0.02, memory=1,
        )  # fmt: skip
        expected = torch.tensor([0.5, 0.3, 0.2]).double()
        # Three spreads of the frequencies in 400 draws, within which nobody can tell; the last
        # steps, √(2 · 0.0004 / 4) at most, are lost in them.
        assert (found.table[0] - expected).abs().max() < 3 * 0.025
        # Nobody can tell: the loss is near log 2, its value for a coin.
        assert found.history["loss"].iloc[-1] > 0.68
    # A point, with what a point can tell of itself.
    assert found.fit.is_point
    assert np.isfinite(found.fit.aic())
    assert sorted(found.extra["discriminator"]) == ["coefficients", "intercept"]


def test_absorbed_ends_pay_the_last_step_for_what_comes_after() -> None:
    seen = Trajectories.from_arrays(
        [[0, 1, 1], [0, 0, 0, 0]], [[0, 1], [0, 0, 0]], [[1.0, 1.0], [1.0] * 3],
        terminated=[True, False], truncated=[False, True], state_space=2,
    )  # fmt: skip
    ends = Ends("absorbed", 5, 0.5)
    longer = ends.seen(seen)
    assert longer.lengths.tolist() == [5, 3]
    rewards = torch.tensor([1.0, 2.0, 10.0, 10.0, 10.0, 4.0, 5.0, 6.0]).double()
    paid = ends.paid(seen, rewards)
    assert paid.rewards is not None
    # After the second step: 10 in one, two and three steps.
    assert paid.rewards.tolist() == [1.0, 2.0 + 10 * (0.5 + 0.25 + 0.125), 4.0, 5.0, 6.0]
    # The discounted return is that of the longer episode.
    whole = longer.with_rewards(rewards).returns(0.5)
    torch.testing.assert_close(paid.returns(0.5), whole)
    assert Ends("ignored", None, 1.0).seen(seen) is seen


def test_absorbed_ends_know_the_time_limit() -> None:
    assert ends_of("absorbed", "CartPole-v1", None, 1.0).horizon == 500
    assert ends_of("absorbed", "CartPole-v1", 30, 1.0).horizon == 30
    with pytest.raises(OptionError, match="time limit"):
        ends_of("absorbed", CHOICE, None, 1.0)
    with pytest.raises(OptionError, match="ends"):
        ends_of("forgotten", CHOICE, None, 1.0)


def test_actions_go_beyond_their_bounds_and_the_environment_cuts_them() -> None:
    made, options = unbounded("likely/Fork-v0", {"n_steps": 3})
    assert options == {}
    env = made()
    assert not np.isfinite(env.action_space.high).any()
    env.reset(seed=0)
    env.step(np.array([7.0], dtype=np.float32))
    assert unbounded("CartPole-v1", {}) == ("CartPole-v1", {})
    assert unbounded(CHOICE, {}) == (CHOICE, {})
    # A horizon replaces the limit that a name is registered with, as in `rollout`.
    made, _ = unbounded("likely/Fork-v0", {"n_steps": 3}, 7)
    assert made().spec.max_episode_steps == 7
    with pytest.raises(DataError, match="options"):
        gail(
            lambda: env, GaussianPolicy(1), rollout(env, lambda s: np.zeros((len(s), 1)), 1, 0),
            env_options={"n_steps": 3},
        )  # fmt: skip


KILLED = """
from likely.envs import cartpole_expert, rollout
from likely.inference.imitation import gail
from likely.models import SoftmaxPolicy
expert = rollout("CartPole-v1", cartpole_expert, 2, seed=0, max_steps=60)
gail(
    "CartPole-v1", SoftmaxPolicy(2), expert, iterations=6, episodes=4, horizon=60, memory=3,
    anneal=0.2, ends="absorbed", path=sys.argv[1], callback=kill,
)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    assert killed(KILLED, tmp_path / "run") == 3
    expert = rollout("CartPole-v1", cartpole_expert, 2, seed=0, max_steps=60)
    options: dict[str, Any] = {
        "iterations": 6, "episodes": 4, "horizon": 60, "memory": 3, "anneal": 0.2,
        "ends": "absorbed",
    }  # fmt: skip
    policy = SoftmaxPolicy(2)
    found = gail("CartPole-v1", policy, expert, **options, path=tmp_path / "run")
    whole = gail("CartPole-v1", policy, expert, **options)
    # The discriminator goes on from the very numbers that it had.
    for site, value in whole.params.items():
        assert alike(found.params[site], value)
    assert alike(found.extra, whole.extra)
    assert alike(found.history.drop(columns="seconds"), whole.history.drop(columns="seconds"))


def test_a_run_of_other_demonstrations_is_not_gone_on_with(tmp_path: Path) -> None:
    expert = rollout("CartPole-v1", cartpole_expert, 2, seed=0, max_steps=20)
    options: dict[str, Any] = {"iterations": 1, "episodes": 2, "horizon": 20, "path": tmp_path}
    gail("CartPole-v1", SoftmaxPolicy(2), expert, **options)
    # As many episodes of as many steps.
    other = rollout("CartPole-v1", cartpole_expert, 2, seed=1, max_steps=20)
    with pytest.raises(FitError, match="expert"):
        gail("CartPole-v1", SoftmaxPolicy(2), other, **options)


@pytest.mark.parametrize("memory", [1, 3])
def test_a_broken_run_goes_on_to_the_same_result(tmp_path: Path, memory: int) -> None:
    expert = rollout("CartPole-v1", cartpole_expert, 2, seed=0, max_steps=60)
    options: dict[str, Any] = {
        **CARTPOLE, "horizon": 60, "episodes": 4, "memory": memory, "seed": 4,
    }  # fmt: skip
    whole = gail("CartPole-v1", SoftmaxPolicy(2), expert, iterations=5, **options)
    gail("CartPole-v1", SoftmaxPolicy(2), expert, iterations=3, path=tmp_path, **options)
    found = gail("CartPole-v1", SoftmaxPolicy(2), expert, iterations=5, path=tmp_path, **options)
    for site, value in whole.params.items():
        torch.testing.assert_close(found.params[site], value, rtol=1e-9, atol=1e-12)
    shown = ["iteration", "return", "length"]
    assert alike(found.history[shown], whole.history[shown])
    with pytest.raises(FitError, match="reward"):
        gail("CartPole-v1", SoftmaxPolicy(2), expert, path=tmp_path, reward="expert", **options)


def test_the_callback_stops() -> None:
    found = gail(
        CHOICE, TabularPolicy(2, 3), CHOSEN, iterations=9, horizon=1,
        callback=lambda row: row["iteration"] == 2,
    )  # fmt: skip
    assert len(found.history) == 3
    assert found.stopped == "the callback said so"


def test_bad_input() -> None:
    table = TabularPolicy(2, 3)
    for options, word in (
        ({"reward": "best"}, "reward"),
        ({"ends": "lost"}, "ends"),
        ({"memory": 0}, "memory"),
        ({"limit": -1.0}, "limit"),
        ({"discriminator": 3}, "discriminator"),
        ({"iterations": 0}, "iterations"),
    ):
        with pytest.raises(OptionError, match=word):
            gail(CHOICE, table, CHOSEN, **{"horizon": 1, **options})
    with pytest.raises(OptionError, match="Trajectories"):
        gail(CHOICE, table, torch.eye(2), horizon=1)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        gail(CHOICE, GaussianPolicy(1), CHOSEN, horizon=1)
    with pytest.raises(OptionError, match=r"one of likely\.models"):
        gail(CHOICE, torch.eye(2), CHOSEN, horizon=1)  # type: ignore[arg-type]
    poles = rollout("CartPole-v1", cartpole_expert, 1, 0, 5)
    with pytest.raises(DataError, match="expected states in Discrete"):
        gail(CHOICE, SoftmaxPolicy(2), poles, horizon=1)
    with pytest.raises(DataError, match=r"expected states in Box.*\(6,\)"):
        gail("Acrobot-v1", SoftmaxPolicy(2), poles)
    with pytest.raises(DataError, match="actions"):
        gail(CHOICE, table, CHOSEN.with_actions(None), horizon=1)


# -- what it reaches ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_is_balanced(seed: int) -> None:
    expert = rollout("CartPole-v1", cartpole_expert, 10, seed=100 + seed)
    found = gail(
        "CartPole-v1", SoftmaxPolicy(2), expert, iterations=90, episodes=24, anneal=0.05,
        seed=seed, **CARTPOLE,
    )  # fmt: skip
    assert evaluate_returns("CartPole-v1", found, episodes=100, seed=7).mean >= 450


@pytest.mark.slow
def test_an_expert_who_falls_is_imitated() -> None:
    expert = rollout("CartPole-v1", lambda seen: np.zeros(len(seen), dtype=int), 50, seed=100)
    reached = float(expert.returns().mean())
    assert 9 < reached < 10
    found = gail("CartPole-v1", SoftmaxPolicy(2), expert, iterations=40, **CARTPOLE)
    assert abs(evaluate_returns("CartPole-v1", found, episodes=50, seed=7).mean - reached) < 0.5
    # The discriminator does see what comes after the end.
    assert absorbed(expert, 500).n_steps == 50 * 500


@pytest.mark.slow
def test_a_grid_is_walked_as_the_expert_does() -> None:
    world = GridWorld(slip=0.1)
    expert = soft_value_iteration(world.mdp, 0.01).policy
    demonstrations = play(world.mdp, expert, 2000, 11, 150)
    even = torch.full_like(expert, 0.25)
    assert occupancy_distance(world.mdp, even, expert, 150) > 0.5
    found = gail(
        world.mdp, TabularPolicy(world.mdp.n_states, 4), demonstrations, iterations=60,
        episodes=1000, horizon=150, radius=0.05, anneal=0.02, memory=1,
    )  # fmt: skip
    assert occupancy_distance(world.mdp, found, expert, 150) < 0.05


def test_a_run_of_other_features_or_another_process_is_refused(tmp_path: Path) -> None:
    def rooms(prize: float) -> TabularMDP:
        return TabularMDP([[[1.0, 0.0], [0.0, 1.0]]] * 2, [0.0, prize], 0.5, 0)

    seen = play(rooms(1.0), torch.full((2, 2), 0.5).double(), 20, seed=0, horizon=5)

    def run(prize: float = 1.0, judge: Discriminator | None = None) -> None:
        options: dict[str, Any] = {"iterations": 1, "episodes": 10, "horizon": 5}
        policy = TabularPolicy(2, 2)
        gail(rooms(prize), policy, seen, discriminator=judge, path=tmp_path, **options)

    run()
    run(judge=Discriminator())
    with pytest.raises(FitError, match="environment"):
        run(2.0)
    with pytest.raises(FitError, match="engine"):
        run(judge=Discriminator(engine=MAP(max_iter=3)))
    with pytest.raises(FitError, match="features = 'None'"):
        run(judge=Discriminator(lambda states, actions: actions.double().unsqueeze(-1)))
