"""Acting by a posterior: the mixture is the mean of its policies, an episode keeps to one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from likely.envs import DataError, EpisodeRandom, Trajectories, cartpole_expert, rollout
from likely.inference import MAP, VBEM, FitError, Laplace, OptionError
from likely.inference.imitation import (
    ActingPolicy,
    PosteriorPolicy,
    behaviour_cloning,
    evaluate_returns,
    posterior_policy,
)
from likely.models import GaussianPolicy, MixturePolicy, SoftmaxPolicy, TabularPolicy

pytestmark = pytest.mark.usefixtures("in_double")


def torn(states: int = 16, actions: int = 2) -> tuple[ActingPolicy, ...]:
    """Two draws: one always takes the first action, one always the last."""
    tables = torch.zeros(2, states, actions)
    tables[0, :, 0] = tables[1, :, -1] = 1.0
    spaces = Discrete(states), Discrete(actions)
    policy = TabularPolicy(states, actions)
    return tuple(ActingPolicy(policy, {"policy": table}, *spaces) for table in tables)


def rows(n: int, constants: Any = None) -> EpisodeRandom:
    given = np.linspace(0, 1, n, endpoint=False) if constants is None else np.asarray(constants)
    return EpisodeRandom([np.random.default_rng(i) for i in range(n)], given)


@pytest.fixture(scope="module")
def clone() -> Any:
    with torch.random.fork_rng(devices=[]):
        seen = rollout("CartPole-v1", cartpole_expert, 1, seed=0, max_steps=30)
        return behaviour_cloning(seen, SoftmaxPolicy(2), Laplace(draws=100))


def test_the_mixture_is_the_mean_of_the_posterior(clone: Any) -> None:
    states = torch.randn(9, 4)
    acts = posterior_policy(clone, draws=100)
    policy, each = clone.policy.policy, clone.fit.each_draw(100)
    wanted = torch.stack([policy.probabilities(one, states) for one in each]).mean(0)
    torch.testing.assert_close(acts.probabilities(states), wanted)
    # Not what the mean of the coefficients does, which is far surer.
    mean = clone.policy.probabilities(states)
    assert float((mean - wanted).abs().max()) > 0.05
    repeated = states[:1].expand(20_000, -1).numpy()
    drawn = acts(repeated, np.random.default_rng(0)).mean()
    p = float(wanted[0, 1])
    assert abs(drawn - p) < 5 * (p * (1 - p) / 20_000) ** 0.5
    best = posterior_policy(clone, draws=100, greedy=True)(states.numpy(), None)
    np.testing.assert_array_equal(best, wanted.argmax(-1))


def test_of_a_dirichlet_posterior_the_mixture_is_the_mean() -> None:
    seen = Trajectories.from_arrays([[0] * 7 + [1]], [[0] * 5 + [1] * 2], state_space=2)
    found = behaviour_cloning(seen, TabularPolicy(2, 2), VBEM(draws=4000))
    acts = posterior_policy(found, draws=4000)
    wanted = torch.tensor([[6 / 9, 3 / 9], [0.5, 0.5]])
    # Standard deviations of the two Betas over the root of the draws, five times.
    error = 5 * (wanted.prod(-1) / torch.tensor([10.0, 3.0]) / 4000).sqrt()
    assert bool(((acts.table - wanted).abs() <= error[:, None]).all())


def test_an_episode_keeps_to_one_policy_and_a_step_does_not() -> None:
    kept, mixed = PosteriorPolicy(torn(), "episode"), PosteriorPolicy(torn(), "step")
    seen = rollout("FrozenLake-v1", kept, 60, seed=0)
    changed = rollout("FrozenLake-v1", mixed, 60, seed=0)
    assert all(len(part.actions.unique()) == 1 for part in seen)  # type: ignore[union-attr]
    assert not all(len(part.actions.unique()) == 1 for part in changed)  # type: ignore[union-attr]
    share = np.mean([int(part.actions[0]) for part in seen])  # type: ignore[index]
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 60)
    torch.testing.assert_close(mixed.table, torch.full((16, 2), 0.5))
    with pytest.raises(DataError, match="not a table of steps"):
        _ = kept.table


@pytest.mark.parametrize("per", ["step", "episode"])
def test_a_row_draws_by_its_own_numbers(per: str, clone: Any) -> None:
    states = torch.randn(7, 4).numpy()
    acts = posterior_policy(clone, per, draws=20)
    constants = np.linspace(0, 0.99, 7)
    together = acts(states, rows(7, constants))
    for i in range(7):
        alone = EpisodeRandom([np.random.default_rng(i)], constants[i : i + 1])
        assert acts(states[i : i + 1], alone)[0] == together[i]


@pytest.mark.parametrize("per", ["step", "episode"])
def test_vectors_are_drawn_within_their_bounds(per: str) -> None:
    draws = [{"coefficients": [[0.0]], "intercept": [m], "scale": [1e-9]} for m in (-9.0, 0.5)]
    box = Box(-1.0, 1.0, (1,), np.float32)
    members = tuple(
        ActingPolicy(GaussianPolicy(1), {n: torch.tensor(v) for n, v in one.items()}, None, box)
        for one in draws
    )
    acts = PosteriorPolicy(members, per)(np.zeros((400, 1)), rows(400))
    assert acts.dtype == np.float32
    assert acts.shape == (400, 1)
    assert sorted(set(acts.round(6).ravel().tolist())) == [-1.0, 0.5]
    share = (acts == -1.0).mean()
    if per == "episode":
        assert share == 0.5  # constants are evenly spread
    else:
        assert abs(share - 0.5) < 5 * (0.25 / 400) ** 0.5


def test_modes_of_episodes_are_drawn_beside_the_policies() -> None:
    """Four kinds of episodes: two policies of the posterior, with two modes each."""
    policy = MixturePolicy(TabularPolicy(1, 4), 2, per="episode")
    tables = torch.eye(4).reshape(2, 2, 1, 4)
    members = tuple(
        ActingPolicy(
            policy, {"mode_weights": torch.tensor([0.5, 0.5]), "policy": table}, Discrete(1)
        )
        for table in tables
    )
    acts = PosteriorPolicy(members, "episode")(np.zeros(400, int), rows(400))
    assert np.bincount(acts).tolist() == [100] * 4
    seen = Trajectories.from_arrays([[0, 0]], [[0]], state_space=1, action_space=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one step says little of two modes
        found = behaviour_cloning(seen, policy, Laplace(draws=5))
    with pytest.raises(OptionError, match="per='episode'"):
        posterior_policy(found)
    assert posterior_policy(found, "episode")(np.zeros(3, int), rows(3)).shape == (3,)


def test_bad_input_is_refused(clone: Any) -> None:
    seen = Trajectories.from_arrays([[0, 1, 0]], [[0, 1]])
    point = behaviour_cloning(seen, TabularPolicy(2, 2, concentration=2.0), MAP())
    with pytest.raises(FitError, match="posterior draws"):
        posterior_policy(point)
    with pytest.raises(OptionError, match="per must be one of"):
        posterior_policy(clone, "run")
    for draws in (0, 1.5, None):
        with pytest.raises(OptionError, match="draws must be an integer"):
            posterior_policy(clone, draws=draws)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has a table"):
        _ = posterior_policy(clone).table


@pytest.mark.slow
def test_returns_of_the_ways_to_act() -> None:
    """After thirty steps of CartPole: all three are evaluated by the same function."""
    seen = rollout("CartPole-v1", cartpole_expert, 1, seed=0, max_steps=30)
    found = behaviour_cloning(seen, SoftmaxPolicy(2, prior_scale=100.0), Laplace(draws=200))
    ways = [found, posterior_policy(found), posterior_policy(found, "episode")]
    earned = [evaluate_returns("CartPole-v1", way, episodes=20, seed=3) for way in ways]
    # A policy of even chances falls after some 22 steps.
    assert all(each.lower > 25.0 for each in earned)
    # Episodes of different policies differ more than those of one.
    spread = [float(each.returns.std()) for each in earned]
    assert spread[2] > 2 * max(spread[:2])
    again = evaluate_returns("CartPole-v1", ways[2], episodes=20, seed=3)
    assert torch.equal(again.returns, earned[2].returns)
