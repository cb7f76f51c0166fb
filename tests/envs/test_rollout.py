"""Rollouts record whole episodes, the same ones whatever runs beside them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary

from likely.envs import DataError, EpisodeRandom, Trajectories, rollout


class Counter(gymnasium.Env[Any, Any]):
    """Counts its steps from a random start; ends at 5, or pays for the action taken."""

    observation_space = Discrete(100)
    action_space: Any = Discrete(2)

    def __init__(self) -> None:
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.resets += 1
        self.count = int(self.np_random.integers(0, 3))
        return self.count, {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.count, float(np.sum(action)), self.count >= 5, False, {}


class Slider(Counter):
    action_space = Box(-1.0, 1.0, (2,), np.float32)


def coin(observations: Any, rng: EpisodeRandom) -> Any:
    return (rng.random(len(observations)) < 0.5).astype(int)


def lean(observations: Any) -> Any:
    return (observations[:, 2] + observations[:, 3] > 0).astype(int)


def equal(left: Trajectories, right: Trajectories) -> bool:
    names = ("states", "actions", "rewards", "lengths", "terminated", "truncated")
    return all(torch.equal(getattr(left, n), getattr(right, n)) for n in names)


@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake-v1", Counter])
def test_the_same_seed_gives_the_same_episodes_however_many_run_beside_them(env: Any) -> None:
    found = [rollout(env, coin, 7, seed=3, n_envs=n) for n in (1, 2, 7, 16)]
    assert all(equal(found[0], other) for other in found[1:])
    assert equal(rollout(env, coin, 3, seed=3), found[0][:3])
    assert not equal(rollout(env, coin, 7, seed=4), found[0])


def test_every_transition_is_one_that_the_environment_made() -> None:
    data = rollout(Counter, coin, 9, seed=0, n_envs=4)
    # A step that gymnasium takes to reset by itself would not count one up.
    assert torch.equal(data.next_states, data.step_states + 1)
    assert (data.first_states < 3).all()
    assert all(int(part.states[-1]) == 5 for part in data)
    assert torch.equal(data.rewards, data.state_action_pairs()[1].double())  # type: ignore[arg-type]
    assert data.terminated.all()
    assert not data.truncated.any()


def test_each_step_is_what_the_environment_alone_would_do() -> None:
    data = rollout("CartPole-v1", coin, 3, seed=1, n_envs=2)
    env = gymnasium.make("CartPole-v1").unwrapped
    for part in data:
        env.reset(seed=0)
        assert part.actions is not None
        # Single precision of observations is all that is lost.
        env.state = part.states[0].numpy()  # type: ignore[attr-defined]
        for t, action in enumerate(part.actions.tolist()):
            observation, _, over, _, _ = env.step(action)
            np.testing.assert_allclose(observation, part.states[t + 1], rtol=0, atol=1e-5)
            assert over == (t == part.n_steps - 1)


def test_a_limit_on_time_truncates_and_does_not_terminate() -> None:
    data = rollout("CartPole-v1", lean, 4, seed=0, max_steps=20)
    assert data.lengths.tolist() == [20] * 4
    assert data.truncated.all()
    assert not data.terminated.any()
    cut = rollout(Counter, coin, 6, seed=0, max_steps=3)
    whole = rollout(Counter, coin, 6, seed=0)
    assert torch.equal(cut.truncated, whole.lengths > 3)
    assert torch.equal(cut.terminated, whole.lengths <= 3)
    assert torch.equal(cut.first_states, whole.first_states)


def test_a_limit_replaces_the_registered_one() -> None:
    data = rollout("CartPole-v1", lean, 3, seed=0, max_steps=700)
    assert int(data.lengths.max()) > 500


def test_an_environment_that_is_given_plays_all_and_stays_open() -> None:
    env = Counter()
    data = rollout(env, coin, 5, seed=3)
    assert env.resets >= 5
    assert equal(data, rollout(Counter, coin, 5, seed=3))
    env.reset(seed=0)


def test_options_reach_the_environment() -> None:
    right = rollout("FrozenLake-v1", lambda o: np.full(len(o), 2), 2, seed=0, is_slippery=False)
    assert right.step_states[:4].tolist() == [0, 1, 2, 3]


def test_a_policy_may_use_numbers_of_its_rows_alone() -> None:
    rows = EpisodeRandom([np.random.default_rng(i) for i in range(3)], np.zeros(3))
    alone = EpisodeRandom([np.random.default_rng(2)], np.zeros(1))
    for draw in ("random", "standard_normal"):
        np.testing.assert_array_equal(getattr(rows, draw)((3, 2))[2:], getattr(alone, draw)((1, 2)))
    np.testing.assert_array_equal(rows.integers(10, size=3)[2:], alone.integers(10, size=1))
    with pytest.raises(DataError, match="expected 3 rows"):
        rows.random(2)


def test_an_episodes_constant_number_is_constant() -> None:
    seen: dict[int, set[float]] = {}

    def watch(observations: Any, *, rng: EpisodeRandom) -> Any:
        seen.setdefault(len(rng), set()).update(rng.constants.tolist())
        return np.zeros(len(observations), dtype=int)

    rollout(Counter, watch, 4, seed=0)
    assert len(set().union(*seen.values())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "NoSuch-v0"}, "gymnasium cannot make 'NoSuch-v0'"),
        ({"env": 3}, "env: expected a name"),
        ({"policy": "left"}, "policy: expected a function"),
        ({"policy": lambda o: np.zeros(len(o) + 1)}, "policy: expected actions"),
        ({"policy": lambda o: ["left"] * len(o)}, "policy: expected actions"),
        ({"policy": lambda o: np.full(len(o), 2)}, "got 2 in episode 0, step 0"),
        ({"policy": lambda o: np.full(len(o), 0.5)}, "got 0.5 in episode 0, step 0"),
        ({"policy": lambda o: np.full(len(o), np.nan)}, "got nan in episode 0, step 0"),
        ({"policy": lambda o: np.full(len(o), 1e30)}, r"got 1e\+30 in episode 0, step 0"),
        ({"policy": lambda o: [[1], [1, 2]]}, "policy: expected actions of one shape"),
        ({"policy": lambda o: (o >= 3) * 2}, r"got 2 in episode \d, step [1-3]"),
        ({"episodes": 0}, "episodes must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"max_steps": 0}, "max_steps must be"),
        ({"n_envs": 0}, "n_envs must be"),
        ({"is_slippery": True}, "options: "),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"env": Counter, "policy": coin, "episodes": 2, "seed": 0, **arguments}
    with pytest.raises(DataError, match=message):
        rollout(**given)


def test_actions_outside_a_box_are_refused() -> None:
    data = rollout(Slider, lambda o: np.full((len(o), 2), 1.0), 2, seed=0)
    assert data.action_space == Slider.action_space
    with pytest.raises(DataError, match=r"got \[1.5, 1.5\] in episode 0"):
        rollout(Slider, lambda o: np.full((len(o), 2), 1.5), 2, seed=0)
    with pytest.raises(DataError, match="nan"):
        rollout(Slider, lambda o: np.full((len(o), 2), np.nan), 2, seed=0)


def test_other_spaces_are_refused() -> None:
    class Switches(Counter):
        action_space = MultiBinary(3)

    with pytest.raises(DataError, match="action space: expected a Discrete or a Box"):
        rollout(Switches, coin, 1, seed=0)
