"""PPO: stable-baselines3 moves the program's own policy, and leaves no trace of its randomness."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from alike import alike
from likely.envs import DataError, TabularMDP, Trajectories, evaluate_horizon
from likely.inference import OptionError
from likely.inference.imitation import (
    PolicyGradient,
    evaluate_returns,
    gail,
    log_density,
    play,
    policy_gradient,
    step_weights,
)
from likely.models import GaussianPolicy, MixturePolicy, ModulePolicy, SoftmaxPolicy, TabularPolicy

pytest.importorskip("stable_baselines3")

QUICK: dict[str, Any] = {
    "step": "ppo", "iterations": 8, "episodes": 30, "horizon": 20, "learning_rate": 0.05,
}  # fmt: skip


@pytest.fixture
def corridor() -> TabularMDP:
    """Five places in a row, the prize at one end."""
    n = 5
    rows = torch.zeros(n, 2, n).double()
    for place in range(n - 1):
        rows[place, 0, max(place - 1, 0)] = 1.0
        rows[place, 1, place + 1] = 1.0
    rows[-1, :, -1] = 1.0
    reward = torch.zeros(n, 2, n).double()
    reward[n - 2, 1, n - 1] = 1.0
    return TabularMDP(rows, reward, 0.9, 0, sink=n - 1)


def states_of_the_generators() -> list[Any]:
    array = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), array[1].tolist(), array[2], torch.get_rng_state().tolist()]


def test_it_learns_and_leaves_global_state_alone(corridor: TabularMDP) -> None:
    before = [*states_of_the_generators(), torch.get_num_threads(), torch.get_default_dtype()]
    found = policy_gradient(corridor, TabularPolicy(5, 2), **QUICK)
    after = [*states_of_the_generators(), torch.get_num_threads(), torch.get_default_dtype()]
    assert after == before
    best = float(corridor.initial @ corridor.value_iteration().value)
    even = float(evaluate_horizon(corridor, torch.full((5, 2), 0.5), 20).value[0, 0])
    earned = float(evaluate_horizon(corridor, found.table, 20).value[0, 0])
    assert earned > even + 0.5 * (best - even)
    assert (found.history["kl"] > 0).all()
    # The result is the program at what was found, as of any other step.
    assert found.fit.program is not None
    assert found.fit.log_likelihood < 0


@pytest.mark.usefixtures("in_double")
def test_run_in_two_parts_is_the_run_in_one(corridor: TabularMDP, tmp_path: Path) -> None:
    whole = policy_gradient(corridor, TabularPolicy(5, 2), **QUICK)
    policy_gradient(corridor, TabularPolicy(5, 2), **(QUICK | {"iterations": 3}), path=tmp_path)
    np.random.seed(3)  # noqa: NPY002
    found = policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, path=tmp_path)
    assert alike(found.table, whole.table)
    pd.testing.assert_frame_equal(*(run.history.drop(columns="seconds") for run in (found, whole)))
    other = policy_gradient(corridor, TabularPolicy(5, 2), **(QUICK | {"seed": 1}))
    assert not torch.equal(other.table, whole.table)


def test_the_actor_is_the_program() -> None:
    random_numbers = torch.Generator().manual_seed(0)
    states = torch.randn(9, 3, generator=random_numbers).double()
    moves = torch.randint(2, (8,), generator=random_numbers)
    vectors = torch.randn(8, 2, generator=random_numbers).double()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    cases = [
        (SoftmaxPolicy(2), Trajectories.from_arrays([states], [moves], action_space=2)),
        (ModulePolicy(net, 2), Trajectories.from_arrays([states], [moves], action_space=2)),
        (MixturePolicy(SoftmaxPolicy(2), 2), Trajectories.from_arrays([states], [moves])),
        (GaussianPolicy(2), Trajectories.from_arrays([states], [vectors])),
        (MixturePolicy(GaussianPolicy(2), 2), Trajectories.from_arrays([states], [vectors])),
        (TabularPolicy(4, 2), Trajectories.from_arrays([[0, 3, 2, 1]], [[1, 0, 1]])),
    ]
    options = PolicyGradient(step="ppo", episodes=2)
    for policy, seen in cases:
        learner: Any = options.learner(policy, seen.state_space, seen.action_space)
        obs, actions = seen.state_action_pairs()
        values, logs, spread = learner.algorithm.policy.evaluate_actions(obs, actions)
        wanted = log_density(policy, learner.params, seen)
        torch.testing.assert_close(logs.detach(), wanted, rtol=0, atol=1e-12)
        assert values.shape == (seen.n_steps, 1)
        closed = not (isinstance(policy, MixturePolicy) and not policy.discrete)
        assert (spread is not None) == closed
        # One vector has all that moves, but for the critic.
        names = [name for name, _ in learner.algorithm.policy.named_parameters()]
        assert [name for name in names if "value" not in name] == ["x"]


def test_its_advantages_are_the_generalised_ones_of_its_critic(corridor: TabularMDP) -> None:
    options = PolicyGradient(step="ppo", weight="gae", trace=0.8, discount=0.9, episodes=6)
    learner: Any = options.learner(TabularPolicy(5, 2), Discrete(5), Discrete(2))
    seen = play(corridor, torch.full((5, 2), 0.5), 6, 1, 9)
    assert bool(seen.terminated.any())
    assert bool(seen.truncated.any())

    def critic(states: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = learner.algorithm.policy.predict_values(states).flatten()
        return found

    wanted = step_weights(
        seen, "gae", discount=0.9, trace=0.8, baseline=critic, discount_steps=False
    )
    # The critic and its sums are float32, over up to nine steps of size one.
    torch.testing.assert_close(learner.weights(seen), wanted, rtol=1e-5, atol=1e-5)


class Reach(gymnasium.Env[Any, Any]):
    """A number to be met by an action, three times."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left, self.here = 3, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.here, {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        reward = -float(((action - self.here) ** 2).sum())
        self.left, self.here = self.left - 1, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.here, reward, self.left == 0, False, {}


def test_vectors_of_actions_are_learnt() -> None:
    found = policy_gradient(
        Reach, GaussianPolicy(1), step="ppo", iterations=12, episodes=40, learning_rate=0.03
    )
    first, last = found.history["return"].iloc[[0, -1]]
    # A unit normal error costs 1 a step, and what is off the mark another 1/3.
    assert first < -2.5
    assert last > -1.5


def test_gail_takes_its_steps() -> None:
    choice = TabularMDP(
        [[[0.0, 1.0]] * 3, [[0.0, 1.0]] * 3], [[0.0] * 3] * 2, discount=1, initial=0, sink=1
    )
    chosen = Trajectories.from_arrays([[0, 1]] * 10, [[0]] * 5 + [[1]] * 3 + [[2]] * 2)
    found = gail(
        choice, TabularPolicy(2, 3), chosen, iterations=25, horizon=1, episodes=200, memory=1,
        step="ppo", learning_rate=0.05, anneal=0.05, ppo={"n_epochs": 4, "batch_size": 200},
    )  # fmt: skip
    expected = torch.tensor([0.5, 0.3, 0.2]).double()
    assert found.history["loss"].iloc[-1] > 0.68
    # Three spreads of the last batch, which is what the discriminator cannot see through.
    assert (found.table[0] - expected).abs().max() < 3 * (0.25 / 200) ** 0.5


def test_bad_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, word in (
        ({"weight": "return"}, "critic"),
        ({"baseline": "mean"}, "critic"),
        ({"ppo": 3}, "expected a dict"),
        ({"ppo": {"gamma": 0.5}}, "'discount'"),
        ({"ppo": {"epochs": 4}}, "n_epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ):
        with pytest.raises(OptionError, match=word):
            PolicyGradient(**{"step": "ppo", **options})
    with pytest.raises(OptionError, match="options of step='ppo'"):
        PolicyGradient(ppo={"n_epochs": 4})
    known = TabularPolicy(5, 2), Discrete(5), Discrete(2)
    bad = PolicyGradient(step="ppo", ppo={"policy_kwargs": {"net": 3}})
    with pytest.raises(OptionError, match="refuses"):
        bad.learner(*known)
    bare = Trajectories.from_arrays([[0, 1]], [[0]], state_space=5, action_space=2)
    with pytest.raises(DataError, match="rewards"):
        PolicyGradient(step="ppo").learner(TabularPolicy(5, 2), Discrete(5), Discrete(2)).update(
            bare
        )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"likely\[rl\]"):
        PolicyGradient(step="ppo")


CARTPOLE: dict[str, Any] = {
    "step": "ppo", "episodes": 16, "learning_rate": 0.02, "discount": 0.99, "weight": "gae",
    "trace": 0.95, "anneal": 0.1,
}  # fmt: skip


def test_cartpole_is_balanced_for_longer() -> None:
    found = policy_gradient("CartPole-v1", SoftmaxPolicy(2), iterations=5, **CARTPOLE)
    assert found.history["return"].iloc[-1] > 2 * found.history["return"].iloc[0]


@pytest.mark.slow
def test_cartpole_is_balanced() -> None:
    found = policy_gradient("CartPole-v1", SoftmaxPolicy(2), iterations=50, **CARTPOLE)
    assert evaluate_returns("CartPole-v1", found, episodes=100, seed=99).mean >= 450


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_epochs", 0),
        ("n_epochs", 2.5),
        ("batch_size", "8"),
        ("batch_size", 1),
        ("clip_range", -0.1),
        ("clip_range", float("nan")),
        ("clip_range_vf", 0),
        ("vf_coef", float("nan")),
        ("max_grad_norm", None),
        ("target_kl", -1),
        ("normalize_advantage", "yes"),
        ("policy_kwargs", 3),
        ("policy_kwargs", {"program": 1}),
        ("policy_kwargs", {"unheard_of": 1}),
    ],
)
def test_values_that_ppo_would_trip_over_are_refused(
    corridor: TabularMDP, name: str, value: Any
) -> None:
    with pytest.raises(OptionError, match=f"ppo: .*{name}"):
        policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, ppo={name: value})


def test_one_episode_is_enough_for_a_critic(corridor: TabularMDP) -> None:
    quick = QUICK | {"episodes": 1, "iterations": 2}
    assert len(policy_gradient(corridor, TabularPolicy(5, 2), **quick).history) == 2


def test_functions_among_options_have_the_same_name_in_every_process() -> None:
    def options() -> PolicyGradient:
        own = {"clip_range": lambda share: 0.2 * share, "policy_kwargs": {"net_arch": {"vf": [8]}}}
        return PolicyGradient(step="ppo", ppo=own)

    assert (told := options().described()["ppo"]) == options().described()["ppo"]
    assert "net_arch: {vf: [8]}" in told
