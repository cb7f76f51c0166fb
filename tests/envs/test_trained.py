"""Trained policies play as their library plays them, and leave everything else alone."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from likely.envs import DataError, Fork, rollout, sb3_expert, train_expert

sb3 = pytest.importorskip("stable_baselines3")

SHORT: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 1}


@pytest.fixture(scope="module")
def cart() -> Any:
    """A model of CartPole that has hardly been trained, so that its actions are uncertain."""
    return train_expert("CartPole-v1", 64, seed=1, **SHORT)


@pytest.fixture(scope="module")
def road() -> Any:
    """The same of the fork, whose actions are a Box."""
    return train_expert(Fork, 64, seed=1, **SHORT)


def distribution(model: Any, seen: np.ndarray) -> Any:
    """What a model draws its actions from, float32 observations [n, *shape]."""
    with torch.no_grad():
        return model.policy.get_distribution(torch.from_numpy(seen)).distribution


def test_training_helps() -> None:
    options = {"n_steps": 256, "learning_rate": 1e-3, "gamma": 0.98}
    expert = sb3_expert(train_expert("CartPole-v1", 3000, seed=0, **options))
    # Actions at random hold the pole for about 22 steps, one action for 9.
    assert float(rollout("CartPole-v1", expert, 10, seed=0).returns().mean()) > 100


def test_the_seed_decides_and_nothing_else_is_touched(cart: Any) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    expected = random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    try:
        again = train_expert("CartPole-v1", 64, seed=1, **SHORT)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert (random.random(), np.random.random(), float(torch.rand(()))) == expected  # noqa: NPY002
    other = train_expert("CartPole-v1", 64, seed=2, **SHORT)
    seen = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    chances = [distribution(model, seen).probs for model in (cart, again, other)]
    assert torch.equal(chances[0], chances[1])
    assert not torch.equal(chances[0], chances[2])


def test_the_most_likely_action_is_the_librarys(cart: Any, road: Any) -> None:
    drawn = np.random.default_rng(0)
    for model, seen in ((cart, drawn.normal(size=(40, 4))), (road, drawn.uniform(size=(40, 2)))):
        act = sb3_expert(model)
        expected = model.predict(seen, deterministic=True)[0]
        assert (act(seen) == expected).all()
        # Another size of the batch rounds otherwise.
        np.testing.assert_allclose(act(seen[0]), expected[0], rtol=1e-4, atol=1e-7)


def test_drawn_actions_have_their_probabilities(cart: Any, road: Any) -> None:
    seen = np.tile(np.float32([0.1, 0.2, -0.1, 0.3]), (4000, 1))
    share = sb3_expert(cart, deterministic=False, seed=0)(seen).mean()
    chance = distribution(cart, seen[:1]).probs[0, 1].item()
    assert 0.3 < chance < 0.7
    assert share == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 4000))
    # Steering is normal, and cut off at ±1 as the library does.
    places = np.tile(np.float32([0.5, 0.1]), (4000, 1))
    found = distribution(road, places[:1])
    normal = torch.distributions.Normal(found.loc.double().item(), found.scale.double().item())
    steered = sb3_expert(road, deterministic=False, seed=0)(places)
    assert steered.shape == (4000, 1)
    assert steered.dtype == np.float32
    for bound, side in ((-1.0, steered == -1), (0.0, steered < 0), (1.0, steered < 1)):
        chance = float(normal.cdf(torch.tensor(bound)))
        assert side.mean() == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 4000))


def test_drawn_episodes_belong_to_the_rollouts_seed(cart: Any) -> None:
    before = torch.random.get_rng_state()
    act = sb3_expert(cart, deterministic=False)
    one, other, another = (
        rollout("CartPole-v1", act, 4, seed=seed, n_envs=n, max_steps=20)
        for seed, n in ((3, 4), (3, 1), (4, 4))
    )
    assert torch.equal(one.actions, other.actions)
    assert not torch.equal(one.actions[:20], another.actions[:20])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("as_text", [True, False])
def test_a_saved_model_plays_the_same(cart: Any, tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "cart.zip"
    cart.save(path)
    state = torch.random.get_rng_state()
    loaded = sb3_expert(str(path) if as_text else path, algorithm="PPO")
    # A model that was trained with a seed sets all seeds again when it is read.
    assert torch.equal(state, torch.random.get_rng_state())
    seen = np.random.default_rng(0).normal(size=(40, 4))
    assert (loaded(seen) == sb3_expert(cart)(seen)).all()


def test_models_that_see_normalised_observations_still_do() -> None:
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    env = vec_env.VecNormalize(vec_env.DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]))
    model = sb3.PPO("MlpPolicy", env, seed=0, device="cpu", **SHORT)
    model.learn(64)
    seen = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    expected = model.predict(env.normalize_obs(seen), deterministic=True)[0]
    assert (sb3_expert(model)(seen) == expected).all()
    assert (expected != model.predict(seen, deterministic=True)[0]).any()


def test_off_policy_models_play_their_best_action_only() -> None:
    model = sb3.DQN("MlpPolicy", gymnasium.make("CartPole-v1"), seed=0, device="cpu")
    assert sb3_expert(model)(np.zeros((3, 4))).shape == (3,)
    with pytest.raises(DataError, match="actions of DQN cannot be drawn"):
        sb3_expert(model, deterministic=False)


def test_numbered_states_are_seen_too() -> None:
    lake = train_expert("FrozenLake-v1", 64, seed=0, **SHORT)
    act = sb3_expert(lake)
    expected = lake.predict(np.arange(16), deterministic=True)[0]
    assert (act(np.arange(16)) == expected).all()
    assert act(3) == expected[3]
    for drawn in (True, False):
        played = rollout("FrozenLake-v1", sb3_expert(lake, deterministic=not drawn), 3, seed=0)
        assert played.action_space.n == 4
    for wrong in (16, [-1], 0.5):
        with pytest.raises(DataError, match="observation"):
            act(wrong)


def test_squashed_actions_are_not_drawn() -> None:
    options = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
    model = train_expert(Fork, 5, "A2C", **options)
    assert np.abs(sb3_expert(model)(np.zeros((3, 2)))).max() <= 1
    with pytest.raises(DataError, match="squashed actions cannot be drawn"):
        sb3_expert(model, deterministic=False)(np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CartPole-v1", 0), "steps must be an integer >= 1"),
        (("CartPole-v1", 10, "Sarsa"), r"algorithm must be one of A2C.*got 'Sarsa'"),
        (("Nowhere-v0", 10), "env: gymnasium cannot make 'Nowhere-v0'"),
        ((3, 10), "env: expected a name"),
        (("Blackjack-v1", 10), "observation space: expected a Discrete or a Box"),
        (("CartPole-v1", 10, "SAC"), "SAC refuses"),
    ],
)
def test_bad_training_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        train_expert(*arguments)


def test_bad_options_are_refused() -> None:
    with pytest.raises(DataError, match=r"PPO refuses them.*no_such"):
        train_expert("CartPole-v1", 10, no_such=1)
    with pytest.raises(DataError, match="seed must be an integer >= 0"):
        train_expert("CartPole-v1", 10, seed=-1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, d: sb3_expert(3), r"expected a model of Stable-Baselines3.*got int"),
        (lambda m, d: sb3_expert(str(d / "none.zip")), "algorithm must be given with a path"),
        (lambda m, d: sb3_expert(d / "none.zip", algorithm="PPO"), "cannot be read as one of PPO"),
        (lambda m, d: sb3_expert(m, deterministic="yes"), "deterministic: expected True or False"),
        (lambda m, d: sb3_expert(m, seed="x"), "seed must be an integer"),
        (lambda m, d: sb3_expert(m)(np.zeros((3, 5))), r"observation.*'n', 4.*\(3, 5\)"),
        (lambda m, d: sb3_expert(m)(np.full((3, 4), np.nan)), "observation must be finite"),
        (lambda m, d: sb3_expert(m)("left"), "observation must be of Box"),
    ],
)
def test_bad_models_and_observations_are_refused(
    cart: Any, tmp_path: Path, call: Callable[..., Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        call(cart, tmp_path)


def test_a_file_of_something_else_is_refused(cart: Any, tmp_path: Path) -> None:
    path = tmp_path / "cart.zip"
    path.write_text("no model")
    with pytest.raises(DataError, match="cannot be read as one of PPO"):
        sb3_expert(path, algorithm="PPO")


@pytest.mark.parametrize("algorithm", ["DQN", "SAC", "TD3"])
def test_a_model_of_another_algorithm_is_refused(algorithm: str, cart: Any, tmp_path: Path) -> None:
    cart.save(tmp_path / "cart.zip")
    with pytest.raises(DataError, match=f"cannot be read as one of {algorithm}"):
        sb3_expert(tmp_path / "cart.zip", algorithm=algorithm)


def test_spoilt_parameters_and_no_observations_are_refused(cart: Any, tmp_path: Path) -> None:
    cart.save(tmp_path / "cart.zip")
    spoilt = tmp_path / "spoilt.zip"
    with zipfile.ZipFile(tmp_path / "cart.zip") as whole, zipfile.ZipFile(spoilt, "w") as part:
        for name in whole.namelist():
            part.writestr(name, b"x" if name == "policy.pth" else whole.read(name))
    with pytest.raises(DataError, match="cannot be read as one of PPO"):
        sb3_expert(spoilt, algorithm="PPO")
    with pytest.raises(DataError, match=r"at least one, got shape \(0, 4\)"):
        sb3_expert(cart)(np.zeros((0, 4)))


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(f"no {name} here")

    monkeypatch.setattr("importlib.import_module", refuse)
    for call in (lambda: train_expert("CartPole-v1", 10), lambda: sb3_expert(None)):
        with pytest.raises(DataError, match=r'pip install "likely\[rl\]"'):
            call()
