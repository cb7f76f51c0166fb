"""Trajectories are read, checked, cut and put together without losing what belongs together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from likely.envs import DataError, Trajectories


def random_trajectories(lengths: list[int], seed: int = 0, box: bool = False) -> Trajectories:
    """Random episodes of these lengths, with rewards."""
    rng = np.random.default_rng(seed)
    n, e = sum(lengths), len(lengths)
    states: Any = rng.normal(size=(n + e, 3)) if box else rng.integers(0, 7, n + e)
    actions: Any = rng.normal(size=(n, 2)) if box else rng.integers(0, 4, n)
    spaces = {} if box else {"state_space": 7, "action_space": 4}
    return Trajectories.from_arrays(
        states,
        actions,
        rng.normal(size=n),
        lengths=lengths,
        terminated=rng.random(e) < 0.5,
        truncated=rng.random(e) < 0.5,
        **spaces,
    )


def same(left: Trajectories, right: Trajectories) -> bool:
    """Whether two hold the same numbers under the same ids."""
    tensors = ("states", "actions", "rewards", "lengths", "terminated", "truncated")
    return all(torch.equal(getattr(left, n), getattr(right, n)) for n in tensors) and (
        left.episodes.tolist() == right.episodes.tolist()
    )


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


# -- sums over episodes ----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from([0.0, 0.3, 0.95, 1.0]), st.integers(0, 1000))
def test_returns_are_discounted_sums_within_each_episode(
    lengths: list[int], discount: float, seed: int
) -> None:
    data = random_trajectories(lengths, seed)
    expected: list[float] = []
    for rewards in data.rewards.split(lengths):  # type: ignore[union-attr]
        total, found = 0.0, []
        for reward in reversed(rewards.tolist()):
            total = reward + discount * total
            found.append(total)
        expected += reversed(found)
    to_go = data.returns_to_go(discount)
    np.testing.assert_allclose(to_go, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(data.returns(discount), to_go[data.starts], rtol=0, atol=1e-12)


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan"), "much"])
def test_a_discount_beyond_zero_and_one_is_refused(discount: Any) -> None:
    data = random_trajectories([2])
    for sums in (data.returns, data.returns_to_go):
        with pytest.raises(DataError, match="discount"):
            sums(discount)


def test_returns_need_rewards() -> None:
    with pytest.raises(DataError, match="rewards: these trajectories have none"):
        random_trajectories([2]).with_rewards(None).returns()


# -- layout ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.booleans(), st.integers(0, 1000))
def test_rows_belong_to_their_episode_and_step(lengths: list[int], box: bool, seed: int) -> None:
    data = random_trajectories(lengths, seed, box)
    states, actions = data.state_action_pairs()
    row = 0
    for i, (part, length) in enumerate(zip(data, lengths, strict=True)):
        for t in range(length):
            assert torch.equal(states[row], part.states[t])
            assert torch.equal(data.next_states[row], part.states[t + 1])
            assert torch.equal(actions[row], part.actions[t])  # type: ignore[index]
            assert (int(data.episode[row]), int(data.step[row])) == (i, t)
            row += 1
        assert torch.equal(data.first_states[i], part.states[0])
    assert row == data.n_steps == len(states)


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.booleans(), st.integers(0, 1000))
def test_blocks_hold_the_rows_and_zeros_elsewhere(lengths: list[int], box: bool, seed: int) -> None:
    data = random_trajectories(lengths, seed, box)
    block = data.padded()
    assert block.actions is not None
    assert block.rewards is not None
    assert block.mask.sum(1).tolist() == lengths
    assert torch.equal(block.actions[block.mask], data.state_action_pairs()[1])
    assert torch.equal(block.states[:, :-1][block.mask], data.step_states)
    assert torch.equal(block.states[:, 1:][block.mask], data.next_states)
    assert not block.rewards[~block.mask].any()
    again = Trajectories.from_padded(
        *block[:2],
        lengths,
        block.rewards,
        terminated=data.terminated,
        truncated=data.truncated,
        state_space=data.state_space,
        action_space=data.action_space,
    )
    assert same(data, again)


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (1, [1]),
        (-1, [3]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [3, 1]),
        ([2, 0, 2], [2, 0, 2]),
        (torch.tensor([3]), [3]),
        (np.array([True, False, False, True]), [0, 3]),
    ],
)
def test_an_index_chooses_episodes(index: Any, chosen: list[int]) -> None:
    data = random_trajectories([3, 1, 4, 2])
    found = data[index]
    parts = list(data)
    assert found.episodes.tolist() == chosen
    assert found.lengths.tolist() == [int(data.lengths[i]) for i in chosen]
    for got, i in zip(found, chosen, strict=True):
        assert same(got, parts[i])


def test_an_index_that_chooses_none_is_refused() -> None:
    data = random_trajectories([3, 1])
    with pytest.raises(DataError, match="no episode"):
        data[2:]
    with pytest.raises(IndexError, match="2 episodes"):
        data[2]
    with pytest.raises(DataError, match="mask of 2"):
        data[np.array([True, False, True])]
    for index in ("a", None, [None], 0.5):
        with pytest.raises(DataError, match="index: expected"):
            data[index]


def test_parts_make_the_whole_again() -> None:
    data = random_trajectories([3, 1, 4])
    assert same(Trajectories.concat([data[:1], data[1:]]), data)
    twice = Trajectories.concat([data, data])
    assert twice.episodes.tolist() == list(range(6))
    assert same(twice[:3], data)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    data = random_trajectories([3, 1])
    with pytest.raises(DataError, match=r"parts\[1\]: expected state_space Discrete\(7\)"):
        Trajectories.concat([data, random_trajectories([2], box=True)])
    with pytest.raises(DataError, match=r"rewards: parts\[1\] has none"):
        Trajectories.concat([data, data.with_rewards(None)])
    with pytest.raises(DataError, match="at least one"):
        Trajectories.concat([])


def test_casting_keeps_whole_numbers_whole() -> None:
    data = random_trajectories([3, 1]).to(torch.float32)
    assert data.states.dtype == data.lengths.dtype == torch.int64
    assert data.rewards is not None
    assert data.rewards.dtype == torch.float32
    assert data.to(torch.float32) is data


def test_it_is_frozen() -> None:
    with pytest.raises(AttributeError):
        random_trajectories([2]).states = torch.zeros(3)  # type: ignore[misc]


# -- reading ---------------------------------------------------------------------------------------


def test_lists_and_flat_rows_are_the_same() -> None:
    data = random_trajectories([3, 1, 4], box=True)
    parts = list(data)
    again = Trajectories.from_arrays(
        [part.states.numpy() for part in parts],
        [part.actions.tolist() for part in parts],  # type: ignore[union-attr]
        [part.rewards for part in parts],
        terminated=data.terminated.numpy(),
        truncated=data.truncated.tolist(),
    )
    assert same(data, again)


def frame_of(data: Trajectories, last_rows: bool) -> pd.DataFrame:
    """A table of discrete trajectories, its episodes mixed."""
    rows = []
    for key, part in zip("bac", data, strict=True):
        assert part.actions is not None
        assert part.rewards is not None
        steps: list[Any] = list(zip(part.actions.tolist(), part.rewards.tolist(), strict=True))
        steps += [(None, None)] if last_rows else []
        for t, (action, reward) in enumerate(steps):
            state = int(part.states[t])
            after = int(part.states[min(t + 1, part.n_steps)])
            rows.append([t, key, state, action, reward, after, bool(part.terminated)])
    columns = ["t", "who", "state", "action", "reward", "after", "over"]
    return pd.DataFrame(rows, columns=columns).sort_values("t", kind="stable")


@pytest.mark.parametrize("last_rows", [True, False])
def test_a_table_gives_the_trajectories(last_rows: bool) -> None:
    data = random_trajectories([3, 1, 4])
    found = Trajectories.from_frame(
        frame_of(data, last_rows),
        "state",
        "action",
        "who",
        "reward",
        next_state=None if last_rows else "after",
        terminated="over",
        state_space=7,
        action_space=4,
    )
    assert found.episodes.tolist() == ["b", "a", "c"]
    for name in ("states", "actions", "rewards", "terminated"):
        assert torch.equal(getattr(found, name), getattr(data, name))


def test_a_table_of_vectors_may_be_a_single_episode() -> None:
    table = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.5, 1.5, 2.5], "u": [1, 0, None]})
    found = Trajectories.from_frame(table, ["x", "y"], "u")
    assert found.states.tolist() == [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]
    assert found.action_space == Discrete(2)


def test_columns_of_other_kinds_mean_the_same() -> None:
    data = random_trajectories([3, 1, 4])
    table = frame_of(data, last_rows=True)
    columns = ("state", "action", "who", "reward")
    expected = Trajectories.from_frame(table, *columns)
    for other in (table.convert_dtypes(), pa.Table.from_pandas(table, preserve_index=False)):
        assert same(Trajectories.from_frame(other, *columns), expected)
    marked = table.assign(over=table.over.astype(int))
    found = Trajectories.from_frame(marked, *columns, terminated="over")
    assert torch.equal(found.terminated, data.terminated)


@pytest.mark.parametrize("over", ["False", None, np.nan, 2, "yes"])
def test_flags_that_are_no_truth_values_are_refused(over: Any) -> None:
    table = pd.DataFrame({"s": [0, 1], "a": [1, None]})
    table["over"] = pd.Series([over, True], dtype=object)
    with pytest.raises(DataError, match=r"episode 0: expected a truth value.*column 'over', got"):
        Trajectories.from_frame(table, "s", "a", terminated="over")


@pytest.mark.parametrize("state", [5, [], [5], {"s": 1}])
def test_columns_need_names(state: Any) -> None:
    table = pd.DataFrame({"s": [0, 1], "a": [1, None]})
    with pytest.raises(DataError, match="expected the name of a column or a list of names"):
        Trajectories.from_frame(table, state, "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="state"), r"no column \['state'\]"),
        (lambda table: table.iloc[:0], "at least one row"),
        (lambda table: table.assign(who=None), "missing id in column 'who'"),
        (lambda table: table.assign(action=1), "last row with a state and no action"),
        (lambda table: table.assign(state="left"), "'state' must hold numbers"),
        (lambda table: table[table.t == 0], "at least one step and a last state|no action"),
        (lambda table: 3, "data frame"),
        (lambda table: pd.concat([table, table[["state"]]], axis=1), "one column 'state', got sev"),
    ],
)
def test_a_wrong_table_is_refused(change: Any, message: str) -> None:
    table = change(frame_of(random_trajectories([3, 1, 4]), last_rows=True))
    with pytest.raises(DataError, match=message):
        Trajectories.from_frame(table, "state", "action", "who")


def test_a_table_whose_states_do_not_follow_each_other_is_refused() -> None:
    table = pd.DataFrame({"s": [0, 1, 2], "a": [0, 0, 0], "n": [1, 3, 3]})
    with pytest.raises(DataError, match="next_state in step 1 is 3, but the state of step 2 is 2"):
        Trajectories.from_frame(table, "s", "a", next_state="n")


# -- bad input -------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "states": [[0, 1, 2], [0, 2]],
    "actions": [[1, 1], [0]],
    "rewards": [[0.0, 1.0], [2.0]],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": []}, "states: expected at least one episode"),
        ({"states": [[0, 1, 2], [0]]}, r"states\[1\]: expected at least two"),
        ({"actions": [[1, 1, 0], [0]]}, r"actions\[0\]: expected 2, as episode 0 has 3 states"),
        ({"actions": [[1, 1], []]}, r"actions\[1\]: expected 1"),
        ({"actions": [[1, 1]]}, "actions: expected 2 episodes"),
        ({"rewards": [[0.0, 1.0], [np.nan]]}, "rewards: expected finite.*episode 1, step 0"),
        ({"rewards": [[0.0, np.inf], [1.0]]}, "rewards: expected finite.*episode 0, step 1"),
        ({"rewards": [[0.0], [1.0]]}, r"rewards\[0\]: expected 2"),
        ({"states": [[0.0, 1, np.nan], [0, 2]]}, "states: expected.*episode 0, step 2"),
        ({"states": [["a", "b", "c"], [0, 2]]}, r"states\[0\]: expected real numbers"),
        ({"states": [[0, 1, -1], [0, 2]]}, "states: expected.*-1 in episode 0, step 2"),
        ({"states": [[[0.0], [1], [2]], [0.0, 2]]}, r"states\[1\]: expected rows of shape \(1,\)"),
        ({"states": "abc"}, "states: expected one array an episode"),
        ({"states": [3, 4]}, r"states\[0\]: expected the array of an episode"),
        ({"action_space": 1}, r"actions: expected.*Discrete\(1\), got 1 in episode 0, step 0"),
        ({"state_space": 2}, "states: expected.*got 2 in episode 0, step 2"),
        ({"state_space": Discrete(4, start=1)}, "starts at 0"),
        ({"state_space": Dict({"a": Discrete(2)})}, "a Discrete or a Box"),
        ({"state_space": 0}, "state_space"),
        ({"terminated": [True]}, "terminated: expected truth values"),
        ({"terminated": [1, 0]}, "terminated: expected truth values"),
        ({"terminated": [True, None]}, "terminated: expected truth values"),
        ({"truncated": "yes"}, "truncated: expected truth values"),
        ({"episodes": ["a", "a"]}, "distinct ids"),
        ({"episodes": ["a"]}, "2 ids"),
    ],
)
def test_bad_input_is_refused_where_it_is(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Trajectories.from_arrays(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([2, 2], "states: expected"),
        ([3, 0], "got none in episode 1"),
        ([0], "got none in episode 0"),
        ([4, -1], "got none in episode 1"),
        ([], "at least one episode"),
        ([1.5, 1.5], "whole numbers"),
        (3, "whole numbers"),
    ],
)
def test_lengths_must_fit_flat_rows(lengths: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Trajectories.from_arrays([0, 1, 2, 0, 2], [1, 1, 0], lengths=lengths)


def test_actions_must_lie_in_their_box() -> None:
    box = Box(-1.0, np.array([0.7, 1.0], dtype=np.float32), (2,))
    # 0.7 in double precision exceeds the bound, which has fewer digits.
    Trajectories.from_arrays([[0, 1]], [[[0.7, -1.0]]], action_space=box)
    with pytest.raises(DataError, match=r"episode 0, step 1; 1 of 2"):
        Trajectories.from_arrays([[0, 1, 1]], [[[0.7, -1.0], [0.0, 1.01]]], action_space=box)
