"""Many episodes at once: their frequencies, their ends, their seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from likely.envs import DataError, TabularMDP, fork_mdp, rollout_tabular
from likely.envs.rollout_tabular import _Rows

Make = Callable[..., TabularMDP]
MakePolicy = Callable[..., torch.Tensor]


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_frequencies_are_the_probabilities(
    random_mdp: Make, random_policy: MakePolicy, sparse: bool
) -> None:
    mdp = random_mdp(sparse=sparse)
    policy = random_policy(mdp)
    found = rollout_tabular(mdp, policy, 3000, 40, seed=0)
    here, actions, there = found.states[:, :-1], found.actions, found.states[:, 1:]
    counts = torch.zeros(6, 3, 6).double()
    counts.index_put_((here, actions, there), torch.ones(()).double(), accumulate=True)
    pairs = counts.sum(-1)
    _close(pairs / pairs.sum(-1, keepdim=True), policy, pairs.sum(-1, keepdim=True))
    table = random_mdp().transition
    _close(counts / pairs.unsqueeze(-1), table, pairs.unsqueeze(-1))
    first = torch.bincount(found.states[:, 0], minlength=6) / 3000
    _close(first.double(), mdp.initial, torch.tensor(3000.0))
    assert found.lengths.tolist() == [40] * 3000
    assert not bool(found.terminated.any())
    assert torch.equal(found.rewards, mdp.reward[here, actions])


def _close(shares: torch.Tensor, expected: torch.Tensor, n: torch.Tensor) -> None:
    error = (expected * (1 - expected) / n).sqrt()
    # Of about 130 numbers, one in 15,000 is beyond four standard errors.
    assert bool(((shares - expected).abs() <= 4.5 * error).all())


def test_what_follows_the_end(random_mdp: Make, random_policy: MakePolicy) -> None:
    mdp = random_mdp(sink=True)
    found = rollout_tabular(mdp, random_policy(mdp), 400, 6, seed=2)
    assert 0 < int(found.terminated.sum()) < 400
    for states, actions, rewards, length, ended in zip(*found, strict=True):
        steps = int(length)
        assert bool((states[:steps] != 5).all())
        assert bool(ended) == (int(states[-1]) == 5)
        assert bool((states[steps:] == 5).all()) or steps == 6
        assert bool((actions[:steps] >= 0).all())
        assert actions[steps:].tolist() == [-1] * (6 - steps)
        assert rewards[steps:].tolist() == [0.0] * (6 - steps)
        assert rewards[:steps].tolist() == mdp.reward[states[:steps], actions[:steps]].tolist()


def test_episodes_as_trajectories() -> None:
    lake = TabularMDP.from_gymnasium("FrozenLake-v1")
    seen = rollout_tabular(lake, torch.full((17, 4), 0.25), 40, 12, seed=3)
    found = seen.trajectories(lake)
    assert torch.equal(found.lengths, seen.lengths)
    assert torch.equal(found.terminated, seen.terminated)
    assert torch.equal(found.truncated, ~seen.terminated)
    assert found.terminated.any()
    assert found.truncated.any()
    assert torch.equal(found.returns(), seen.rewards.sum(-1))
    assert (found.state_space.n, found.action_space.n) == (17, 4)
    for i, part in enumerate(found):
        assert part.states.tolist() == seen.states[i, : part.n_steps + 1].tolist()
        assert part.actions.tolist() == seen.actions[i, : part.n_steps].tolist()
    nowhere = rollout_tabular(replace(lake, initial=16), torch.full((17, 4), 0.25), 2, 5)
    with pytest.raises(DataError, match="got none in episode 0; drop empty episodes"):
        nowhere.trajectories(lake)


def test_rewards_of_moves_are_those_that_happened() -> None:
    lake = TabularMDP.from_gymnasium("FrozenLake-v1")
    found = rollout_tabular(lake, lake.value_iteration().policy, 2000, 300, seed=0)
    assert sorted(set(found.rewards.sum(-1).tolist())) == [0.0, 1.0]
    # Every episode ends at the goal or in a hole.
    last = found.states.gather(1, (found.lengths - 1).unsqueeze(1))
    assert bool((last[found.terminated] != lake.sink).all())


def test_a_policy_for_each_step() -> None:
    mdp = fork_mdp(3)
    zigzag = torch.zeros(4, mdp.n_states, 3)
    for t, action in enumerate((0, 2, 0, 1)):
        zigzag[t, :, action] = 1
    found = rollout_tabular(mdp, zigzag, 5, 4)
    assert found.actions.tolist() == [[0, 2, 0, 1]] * 5
    assert [mdp.states[s] for s in found.states[0, :4].tolist()] == [
        (0, 0.0),
        (1, -1 / 3),
        (2, 0.0),
        (3, -1 / 3),
    ]


def test_moves_without_probability_never_happen() -> None:
    # Zeros before, between and after, in rows one behind the other.
    table = torch.zeros(3, 1, 3)
    table[0, 0] = torch.tensor([0.0, 1.0, 0.0])
    table[1, 0] = torch.tensor([0.5, 0.0, 0.5])
    table[2, 0] = torch.tensor([1.0, 0.0, 0.0])
    mdp = TabularMDP(table, torch.zeros(3), 0.9, 0)
    states = rollout_tabular(mdp, torch.ones(3, 1), 500, 60).states
    moves = torch.stack([states[:, :-1].ravel(), states[:, 1:].ravel()], 1).unique(dim=0)
    assert moves.tolist() == [[0, 1], [1, 0], [1, 2], [2, 0]]


def test_extreme_uniform_numbers_stay_within_their_row() -> None:
    table = torch.rand(100_000, 3, generator=torch.Generator().manual_seed(0)).double()
    table[:, 0] = 0
    rows = _Rows.dense(table / table.sum(-1, keepdim=True))
    every = torch.arange(100_000)
    lowest, highest = torch.zeros(100_000).double(), torch.full((100_000,), 1 - 2**-53).double()
    assert rows.draw(every, lowest).tolist() == [1] * 100_000
    assert rows.draw(every, highest).tolist() == [2] * 100_000


def test_the_seed_decides(random_mdp: Make, random_policy: MakePolicy) -> None:
    mdp = random_mdp()
    policy = random_policy(mdp)
    before = torch.get_rng_state()
    one, same, other = (rollout_tabular(mdp, policy, 50, 10, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.states, same.states)
    assert not torch.equal(one.states, other.states)


def test_long_tables_do_not_spill_into_the_next_row() -> None:
    # 400,000 rows: sums that grow must not shift the draws of the last of them.
    mdp = TabularMDP.from_gymnasium("Taxi-v4", sparse=True)
    found = rollout_tabular(mdp, torch.full((501, 6), 1 / 6), 4000, 50, seed=0)
    here, actions, there = found.states[:, :-1], found.actions, found.states[:, 1:]
    dense = TabularMDP.from_gymnasium("Taxi-v4").transition
    alive = actions >= 0
    assert bool((dense[here[alive], actions[alive], there[alive]] > 0).all())


def test_it_is_no_python_loop_over_episodes(random_mdp: Make, random_policy: MakePolicy) -> None:
    mdp = random_mdp(sink=True)
    policy = random_policy(mdp)
    rollout_tabular(mdp, policy, 10, 10)

    def seconds(episodes: int) -> float:
        start = time.process_time()
        rollout_tabular(mdp, policy, episodes, 100)
        return time.process_time() - start

    # A thousand times the episodes for far less than a thousand times the work.
    assert seconds(20_000) < 200 * max(seconds(20), 1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "episodes must be an integer >= 1"),
        ({"horizon": -3}, "horizon must be an integer >= 1"),
        ({"horizon": 2.0}, "horizon must be an integer"),
        ({"policy": torch.ones(6, 3)}, "policy must sum to 1"),
        ({"policy": torch.full((7, 6, 3), 1 / 3)}, r"policy must have shape.*horizon = 5"),
        ({"policy": torch.full((2, 5, 6, 3), 1 / 3)}, r"policy must be \[S, A\] or \[T, S, A\]"),
        ({"seed": "x"}, "seed must be an integer"),
    ],
)
def test_bad_input_is_named(random_mdp: Make, changes: dict[str, Any], message: str) -> None:
    options = {"policy": torch.full((6, 3), 1 / 3), "episodes": 2, "horizon": 5, **changes}
    with pytest.raises(DataError, match=message):
        rollout_tabular(random_mdp(), **options)
