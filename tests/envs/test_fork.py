"""The tree: who passes it, who does not, and its exact table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from likely.envs import (
    DataError,
    Fork,
    cliff_world,
    fork_expert,
    fork_expert_policy,
    fork_mdp,
    rollout,
    rollout_tabular,
    state_marginals,
)
from likely.envs._drawing import TRAP_MARK

Act = Callable[[Any], Any]


def drive(act: Act, episodes: int, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations [n, 2], actions [n] and crashes [episodes]."""
    env = Fork(**options)
    seen, done, crashes = [], [], []
    for episode in range(episodes):
        observation, info = env.reset(seed=episode)
        over = False
        while not over:
            action = act(observation)
            seen.append(observation)
            done.append(float(action[0]))
            observation, reward, over, late, info = env.step(action)
            assert not late
            assert reward == (0.0 if not over else -1.0 if info["crashed"] else 1.0)
        crashes.append(info["crashed"])
    return np.array(seen), np.array(done), np.array(crashes)


def test_experts_pass_on_both_sides_equally_often() -> None:
    seen, done, crashes = drive(fork_expert(0), 400)
    assert not crashes.any()
    first = done[seen[:, 0] == 1]
    assert len(first) == 400
    assert abs((first > 0).mean() - 0.5) < 4 * 0.5 / 400**0.5
    # A side is kept to the end.
    assert (np.sign(done.reshape(400, 5)) == np.sign(first)[:, None]).all()


@pytest.mark.parametrize(("mode", "sign"), [("left", -1), ("right", 1)])
def test_experts_of_one_side(mode: str, sign: int) -> None:
    _, done, crashes = drive(fork_expert(1, mode), 50)
    assert not crashes.any()
    assert (np.sign(done) == sign).all()


def test_experts_are_repeatable_and_take_batches() -> None:
    batch = np.tile(np.array([1.0, 0.0], dtype=np.float32), (7, 1))
    one, other = fork_expert(3)(batch), fork_expert(3)(batch)
    assert one.shape == (7, 1)
    assert one.dtype == np.float32
    assert (one == other).all()
    assert set(np.sign(one.ravel())) == {-1.0, 1.0}


def test_experts_without_a_seed_follow_the_rollouts() -> None:
    one, other, another = (
        rollout("likely/Fork-v0", fork_expert(), 20, seed=seed, n_envs=n)
        for seed, n in ((0, 16), (0, 1), (1, 16))
    )
    assert torch.equal(one.actions, other.actions)
    assert not torch.equal(one.actions, another.actions)
    assert set(np.sign(one.actions.numpy().ravel())) == {-1.0, 1.0}
    # A seed of their own comes first.
    seeded = [rollout("likely/Fork-v0", fork_expert(3), 20, seed=seed) for seed in (0, 1)]
    assert torch.equal(seeded[0].actions, seeded[1].actions)


def test_a_policy_with_one_mode_crashes() -> None:
    # The best Gaussian policy with a cubic mean, by maximum likelihood: behaviour cloning.
    seen, done, _ = drive(fork_expert(0), 500)

    def cubic(observation: Any) -> np.ndarray:
        t, y = np.atleast_2d(observation).astype(float).T
        return np.stack([t**i * y**j for i in range(3) for j in range(4)], 1)

    weights, *_ = np.linalg.lstsq(cubic(seen), done, rcond=None)
    spread = np.sqrt(np.mean((cubic(seen) @ weights - done) ** 2))
    random = np.random.default_rng(0)

    def mean(observation: Any) -> np.ndarray:
        return np.clip(cubic(observation) @ weights, -1, 1)

    def draw(observation: Any) -> np.ndarray:
        noisy = cubic(observation) @ weights + spread * random.normal(size=1)
        return np.clip(noisy, -1, 1)

    assert drive(mean, 200)[2].mean() > 0.95
    assert drive(draw, 200)[2].mean() > 0.6


def test_registered_and_checked() -> None:
    check_env(gymnasium.make("likely/Fork-v0").unwrapped)
    check_env(gymnasium.make("likely/Fork-v0", render_mode="rgb_array", n_steps=9).unwrapped)


def test_pictures() -> None:
    env = Fork(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(np.ones(1))
    after = env.render()
    assert before.shape == after.shape == (240, 240, 3)
    assert before.dtype == np.uint8
    moved = (before != after).any(-1)
    assert moved.any()
    assert Fork().render() is None
    ends = []
    for steering in (0.0, 1.0):
        env.reset(seed=0)
        for _ in range(5):
            env.step(np.full(1, steering))
        ends.append(env.render())
    # The cross of a crash lies on the tree, and nowhere else is anything like it.
    crosses = [(picture == TRAP_MARK).all(-1) for picture in ends]
    assert crosses[0].any()
    assert not crosses[1].any()


def test_more_steps_are_the_same_road() -> None:
    assert not drive(fork_expert(0), 30, n_steps=20)[2].any()
    assert drive(lambda seen: np.zeros(1), 5, n_steps=20)[2].all()


# -- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_steps", "n_actions"), [(5, 3), (4, 5), (1, 3)])
def test_table_is_the_environment(n_steps: int, n_actions: int) -> None:
    mdp = fork_mdp(n_steps, n_actions)
    env = Fork(n_steps, start_noise=0.0)
    random = np.random.default_rng(0)
    for _ in range(100):
        env.reset(seed=0)
        state, total = 0, 0.0
        for t in range(n_steps):
            action = int(random.integers(n_actions))
            seen, reward, over, _, _ = env.step(np.array([mdp.actions[action]], np.float32))
            (state,) = mdp.transition[state, action].nonzero().ravel().tolist()
            total += reward
            step, offset = mdp.states[state]
            assert step == t + 1
            assert offset == pytest.approx(float(seen[1]), abs=1e-6)
        assert over
        assert float(mdp.reward[state]) == total
        assert mdp.transition[state, :, mdp.sink].tolist() == [1.0] * n_actions


def test_objectives_of_the_table() -> None:
    mdp = fork_mdp()
    expert = fork_expert_policy(mdp)
    straight = torch.tensor([0.0, 1.0, 0.0]).double().expand(mdp.n_states, 3)
    # The expert's own actions on average over time, without its memory: a side anew each step.
    forgetful = torch.tensor([0.5, 0.0, 0.5]).double().expand(mdp.n_states, 3)
    values = [float(mdp.initial @ mdp.evaluate(p).value) for p in (expert, straight, forgetful)]
    assert values == pytest.approx([1.0, -1.0, 2 * 2 / 2**5 - 1])
    ends = state_marginals(mdp, expert, 5)[-1]
    sides = {mdp.states[s][1]: float(ends[s]) for s in ends.nonzero().ravel().tolist()}
    assert sides == {-1.0: 0.5, 1.0: 0.5}
    assert float(mdp.initial @ mdp.value_iteration().value) == 1.0


def test_passing_is_rewarded_at_the_width_itself() -> None:
    assert fork_mdp(4, tree_half_width=0.75).reward.max() == 1
    mdp = fork_mdp(4, tree_half_width=0.75)
    at = [float(mdp.reward[i]) for i, s in enumerate(mdp.states[:-1]) if s == (4, 0.75)]
    assert at == [1.0]
    # Eight tenths, added up, are a little less than 0.8.
    env = Fork(10, tree_half_width=0.8, start_noise=0.0)
    env.reset(seed=0)
    for steering in (1.0,) * 8 + (0.0,) * 2:
        *_, info = env.step(np.array([steering]))
    assert not info["crashed"]


def test_episodes_of_the_table() -> None:
    mdp = fork_mdp()
    episodes = rollout_tabular(mdp, fork_expert_policy(mdp), 500, 8, seed=0)
    assert bool((episodes.rewards.sum(-1) == 1).all())
    assert episodes.lengths.tolist() == [6] * 500


# -- input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Fork(0), "n_steps must be an integer >= 1"),
        (lambda: Fork(tree_half_width=0), "tree_half_width must be a number above 0, at most 1"),
        (lambda: Fork(tree_half_width=1.5), "tree_half_width must be"),
        (lambda: Fork(start_noise=-1), "start_noise must be"),
        (lambda: Fork(render_mode="human"), "render_mode must be rgb_array or None"),
        (lambda: fork_expert(0, "straight"), "mode must be one of left, right, both"),
        (lambda: fork_expert(0, noise=2), "noise must be"),
        (lambda: fork_expert(0)(np.zeros(3)), r"observation must have shape \[n, 2\] or \[2\]"),
        (lambda: fork_expert(0)([np.nan, 0.0]), "observation must be finite"),
        (lambda: fork_expert(0)("ab"), "observation must hold numbers"),
        (lambda: fork_expert("a"), "seed must be an integer >= 0"),
        (lambda: fork_expert_policy(cliff_world().mdp), "mdp must come from fork_mdp"),
        (lambda: fork_mdp(5, 4), "n_actions must be odd, got 4"),
        (lambda: fork_mdp(5, 1), "n_actions must be an integer >= 3"),
        (lambda: fork_mdp(tree_half_width=2), "tree_half_width must be"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize("action", [[1.5], [np.nan], [0.1, 0.1], 0.5, "left", None])
def test_actions_outside_the_space_are_refused(action: Any) -> None:
    env = Fork()
    env.reset(seed=0)
    with pytest.raises(DataError, match=r"action must be one number \[1\] from -1 to 1, got"):
        env.step(action)


def test_an_episode_must_be_going_on() -> None:
    env = Fork(1)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))
    env.reset(seed=0)
    env.step(np.zeros(1))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))
