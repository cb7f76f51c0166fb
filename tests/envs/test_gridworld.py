"""Cells, walls and wind: the table, the environment, and that they agree."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from likely.envs import DataError, GridWorld, TabularMDP, cliff_world

UP, RIGHT, DOWN, LEFT = range(4)
#       columns 0 1 2
SMALL = ("S.G", ".#T")
A, B, GOAL, C, TRAP, SINK = range(6)


def row(world: GridWorld, cell: int, action: int) -> dict[int, float]:
    probabilities = world.mdp.transition[cell, action]
    return {s: float(probabilities[s]) for s in probabilities.nonzero().ravel().tolist()}


def test_steps_walls_and_borders() -> None:
    world = GridWorld(SMALL)
    assert world.mdp.states == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), "sink")
    assert world.mdp.actions == ("up", "right", "down", "left")
    assert row(world, A, RIGHT) == {B: 1}
    assert row(world, A, UP) == row(world, A, LEFT) == {A: 1}
    assert row(world, A, DOWN) == {C: 1}
    assert row(world, B, DOWN) == {B: 1}
    for cell in (GOAL, TRAP, SINK):
        assert row(world, cell, UP) == {SINK: 1}


def test_slip_goes_to_both_sides() -> None:
    world = GridWorld(SMALL, slip=0.2)
    assert row(world, A, DOWN) == pytest.approx({C: 0.8, A: 0.1, B: 0.1})
    assert row(world, A, RIGHT) == pytest.approx({B: 0.8, A: 0.1, C: 0.1})


def test_wind_blows_up() -> None:
    world = GridWorld(("...", "...", "S.."), wind=0.25, terminal=())
    assert world.mdp.sink is None
    bottom, middle = 6, 3
    # From the left edge: right, and one row up with the wind.
    assert row(world, bottom, RIGHT) == pytest.approx({7: 0.75, 4: 0.25})
    assert row(world, bottom, UP) == pytest.approx({middle: 0.75, 0: 0.25})
    # Down, blown up again by one.
    assert row(world, 0, DOWN) == pytest.approx({middle: 0.75, 0: 0.25})


def test_rewards_on_arrival_and_on_departure() -> None:
    arrival = GridWorld(SMALL, rewards={"G": 5.0, ".": -1.0}, discount=0.9)
    assert arrival.mdp.reward[A, RIGHT, B] == -1
    assert arrival.mdp.reward[B, RIGHT, GOAL] == 5
    assert bool((arrival.mdp.reward[GOAL] == 0).sum() > 0)
    assert float(arrival.mdp.evaluate(_always(arrival, RIGHT)).value[A]) == pytest.approx(3.5)
    departure = GridWorld(SMALL, rewards={"G": 5.0, ".": -1.0}, rewarded="departure", discount=0.9)
    assert departure.mdp.reward.tolist() == [0.0, -1.0, 5.0, -1.0, -1.0, 0.0]
    expected = 0 + 0.9 * -1 + 0.81 * 5
    assert float(departure.mdp.evaluate(_always(departure, RIGHT)).value[A]) == pytest.approx(
        expected
    )


def _always(world: GridWorld, action: int) -> torch.Tensor:
    policy = torch.zeros(world.mdp.n_states, world.mdp.n_actions)
    policy[:, action] = 1
    return policy


@pytest.mark.parametrize("rewarded", ["arrival", "departure"])
@pytest.mark.parametrize("moves", ["straight", "diagonal"])
def test_episodes_have_the_return_that_planning_says(rewarded: str, moves: str) -> None:
    world = GridWorld(
        ("S..#.", "..T..", "....G"),
        slip=0.3,
        wind=0.1,
        rewards={".": -0.1},
        rewarded=rewarded,
        moves=moves,
        discount=0.9,
    )
    plan = world.mdp.soft_value_iteration(0.1)
    random, sums = np.random.default_rng(99), plan.policy.cumsum(-1).numpy()
    returns = []
    world.reset(seed=0)
    for _ in range(1000):
        cell, _ = world.reset()
        total, weight, over = 0.0, 1.0, False
        while not over:
            action = min(int(sums[cell].searchsorted(random.random())), 3)
            cell, reward, over, late, info = world.step(action)
            assert world.mdp.states[cell] == info["cell"]
            assert not late
            total, weight = total + weight * reward, weight * 0.9
        returns.append(total)
    exact = float(world.mdp.initial @ world.mdp.evaluate(plan.policy).value)
    error = np.std(returns) / len(returns) ** 0.5
    assert abs(np.mean(returns) - exact) < 4 * error
    assert error < 0.06


def test_environment_moves_as_its_table_says() -> None:
    world = GridWorld(("S.", ".."), slip=0.4, terminal=())
    counts = np.zeros(4)
    world.reset(seed=0)
    for _ in range(4000):
        world.reset()
        counts[world.step(RIGHT)[0]] += 1
    expected = world.mdp.transition[0, RIGHT].numpy()
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert (np.abs(counts / 4000 - expected) <= 4 * error).all()


def test_starts_are_equally_likely() -> None:
    world = GridWorld(("S.S", ".GS"))
    assert world.mdp.initial.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 1 / 3, 0])
    seen = {world.reset(seed=seed)[0] for seed in range(50)}
    assert seen == {0, 2, 5}


def test_features() -> None:
    every = ("kind", "cell", "position", "distance")
    world = GridWorld(SMALL, features=every)
    assert world.feature_names[:3] == ("free", "goal", "trap")
    assert world.feature_names[-3:] == ("row", "column", "distance")
    assert world.features.shape == (6, 3 + 5 + 2 + 1)
    assert world.features[SINK].abs().sum() == 0
    kinds = world.features[:-1, :3].argmax(-1).tolist()
    assert kinds == [0, 0, 1, 0, 2]
    assert torch.equal(world.features[:-1, 3:8], torch.eye(5).double())
    assert world.features[TRAP, -3:].tolist() == pytest.approx([1.0, 1.0, 1 / 3])
    assert world.features[A, -1] == pytest.approx(2 / 3)
    # A reward that is linear in them is the world's own.
    own = GridWorld(SMALL, rewarded="departure", rewards={".": -1.0, "S": -1.0})
    weights = torch.tensor([-1.0, 1.0, -1.0]).double()
    assert torch.equal(own.features @ weights, own.mdp.reward)


def test_features_as_observations() -> None:
    world = GridWorld(SMALL, observation="features", features=("kind", "position"))
    seen, _ = world.reset(seed=0)
    assert seen.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    seen[:] = 7
    assert world.reset(seed=0)[0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["likely/GridWorld-v0", "likely/CliffWorld-v0"])
def test_gymnasium_is_content(name: str) -> None:
    check_env(gymnasium.make(name).unwrapped)
    check_env(gymnasium.make(name, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_gymnasium_is_content_with_features(sparse: bool) -> None:
    options = {"observation": "features", "features": ("kind", "distance"), "sparse": sparse}
    check_env(gymnasium.make("likely/GridWorld-v0", slip=0.3, **options).unwrapped)


def test_registered_world_stops_after_a_hundred_steps() -> None:
    env = gymnasium.make("likely/GridWorld-v0")
    env.reset(seed=0)
    for _ in range(100):
        _, _, over, late, _ = env.step(UP)
    assert (over, late) == (False, True)


def test_pictures() -> None:
    world = GridWorld(SMALL, render_mode="rgb_array")
    empty = world.render()
    world.reset(seed=0)
    picture = world.render()
    assert picture.shape == (64, 96, 3)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) >= 6
    # Goal and trap differ in shape, not in colour alone.
    goal, trap = empty[1:31, 65:95], empty[33:63, 65:95]
    shapes = [(part != part[1, 14]).any(-1) for part in (goal, trap)]
    assert (shapes[0] != shapes[1]).mean() > 0.1
    different = (picture != empty).any(-1).nonzero()
    assert different[0].max() < 32
    assert different[1].max() < 32
    text = GridWorld(SMALL, render_mode="ansi")
    text.reset(seed=0)
    assert text.render() == "A.G\n.#T"
    assert GridWorld(SMALL).render() is None


def test_it_is_its_own_table() -> None:
    env = gymnasium.make("likely/GridWorld-v0", slip=0.1)
    mdp = TabularMDP.from_gymnasium(env, discount=0.5)
    assert mdp.discount == 0.5
    assert TabularMDP.from_gymnasium(env).discount == 0.95
    assert torch.equal(mdp.transition, env.unwrapped.mdp.transition)


def test_cliff_world_by_its_definition() -> None:
    # Four diagonal moves in an upward wind, clipped at the borders; start, cliff and goal on top.
    world = cliff_world()
    table = np.zeros((28, 4, 28))
    for s in range(28):
        for a in range(4):
            down, right = 2 * (a // 2) - 1, 2 * (a % 2) - 1
            for p, lift in ((0.7, 0), (0.3, 1)):
                i = np.clip(s // 7 + down - lift, 0, 3)
                j = np.clip(s % 7 + right, 0, 6)
                table[s, a, 7 * i + j] += p
    np.testing.assert_allclose(world.mdp.transition, table, atol=1e-15)
    assert world.mdp.reward[:8].tolist() == [-1, -10, -10, -10, -10, -10, 10, -1]
    assert world.mdp.reward[8:].unique().tolist() == [-1]
    assert world.mdp.initial[0] == 1
    assert torch.equal(world.features, torch.eye(28).double())
    world.reset(seed=0)
    ends = [world.step(0)[2:4] for _ in range(40)]
    assert ends == [(False, False)] * 39 + [(False, True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": ()}, "layout must have at least one cell"),
        ({"layout": ("S..", "..")}, "line 0 has 3 cells and line 1 has 2"),
        ({"layout": ("S.x",)}, "got 'x' at row 0, column 2"),
        ({"layout": ("..G",)}, "layout must have a start S"),
        ({"layout": 3}, "layout must be lines of text"),
        ({"slip": 1.2}, "slip must be a number from 0, at most 1"),
        ({"slip": float("nan")}, "slip must be"),
        ({"wind": -0.1}, "wind must be"),
        ({"rewards": {"x": 1.0}}, "a mark of terminal or rewards must be one of"),
        ({"rewards": {"G": float("nan")}}, r"rewards\['G'\] must be a finite number"),
        ({"rewards": [1.0]}, "rewards must map marks to numbers"),
        ({"terminal": 5}, "terminal must be a sequence, got 5"),
        ({"sparse": "no"}, "sparse must be True or False, got 'no'"),
        ({"features": 5}, "features must be a sequence, got 5"),
        ({"rewarded": "never"}, "rewarded must be one of arrival, departure"),
        ({"terminal": ("S",)}, "terminal must not hold the start"),
        ({"terminal": ("#",)}, "a mark of terminal or rewards must be one of"),
        ({"moves": "knight"}, "moves must be one of straight, diagonal"),
        ({"discount": 2}, "discount must be"),
        ({"horizon": 0}, "horizon must be an integer >= 1"),
        ({"features": ()}, "features must be some of kind, cell, position, distance, got none"),
        ({"features": ("colour",)}, "features must be some of.*got colour"),
        ({"layout": ("S.",), "features": ("distance",)}, "distances need a goal"),
        ({"observation": "pixels"}, "observation must be one of"),
        ({"render_mode": "human"}, "render_mode must be one of"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GridWorld(**options)


@pytest.mark.parametrize("action", [4, -1, 1.0, "up", None, np.array([0, 1])])
def test_actions_outside_the_space_are_refused(action: Any) -> None:
    world = GridWorld(SMALL)
    world.reset(seed=0)
    with pytest.raises(DataError, match="action must be an integer from 0 to 3, got"):
        world.step(action)


def test_an_episode_must_have_begun() -> None:
    world = GridWorld(("SG",))
    with pytest.raises(gymnasium.error.ResetNeeded):
        world.step(0)
    world.reset(seed=0)
    assert world.step(RIGHT)[2]
    with pytest.raises(gymnasium.error.ResetNeeded):
        world.step(0)
