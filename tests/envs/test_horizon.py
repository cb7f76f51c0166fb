"""Episodes that end early go on in an absorbing state, so that all are of one length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from likely.envs import DataError, Trajectories, absorbed


def test_ended_episodes_go_on_in_a_state_of_their_own() -> None:
    data = Trajectories.from_arrays(
        [[0, 1], [0, 1, 0], [0, 0, 0, 0, 0]],
        [[1], [0, 1], [0, 0, 1, 0]],
        [[1.0], [2.0, 3.0], [4.0, 5.0, 6.0, 7.0]],
        terminated=[True, False, True],
        truncated=[False, True, False],
    )
    found = absorbed(data, 3, action=1)
    assert found.lengths.tolist() == [3, 2, 3]
    assert [part.states.tolist() for part in found] == [[0, 1, 2, 2], [0, 1, 0], [0, 0, 0, 0]]
    assert found.actions is not None
    assert found.actions.tolist() == [1, 1, 1, 0, 1, 0, 0, 1]
    assert found.returns().tolist() == [1.0, 5.0, 15.0]
    assert found.state_space == Discrete(3)
    assert not found.terminated.any()
    assert found.truncated.all()


def test_absorbing_vectors_have_a_mark() -> None:
    data = Trajectories.from_arrays([[[0.5], [1.5]]], [[0]], terminated=True)
    found = absorbed(data, 2)
    assert found.states.tolist() == [[0.5, 0.0], [1.5, 0.0], [0.0, 1.0]]
    assert found.rewards is None
    with pytest.raises(DataError, match="horizon"):
        absorbed(data, 0)


@pytest.mark.parametrize(
    ("space", "high"),
    [
        (Box(-2.0, 2.0, (1,), np.float32), [2.0, 1.0]),
        (Box(-np.inf, np.inf, (1,), np.float64), [np.inf, 1.0]),
        (Box(2, 255, (1,), np.uint8), [255, 1]),
    ],
    ids=["single", "unbounded", "bytes"],
)
def test_the_space_of_absorbing_vectors_holds_them_in_its_own_precision(
    space: Box, high: list[float]
) -> None:
    data = Trajectories.from_arrays([[[2.0], [2.0]]], [[0]], terminated=True, state_space=space)
    for one in (data, data.to(torch.float32)):
        found = absorbed(one, 2)
        assert found.state_space.dtype == space.dtype
        assert found.state_space.high.tolist() == high
        assert found.states.dtype == one.states.dtype
        for state in found.states.numpy():
            assert found.state_space.contains(state.astype(space.dtype))


def test_an_action_may_be_a_number_for_all_its_entries() -> None:
    data = Trajectories.from_arrays([[[0.5], [1.5]]], [[[0.5, 0.7]]], terminated=True)
    assert absorbed(data, 2, 0.25).actions.tolist() == [[0.5, 0.7], [0.25, 0.25]]
    assert absorbed(data, 2, [1, 2]).actions.tolist() == [[0.5, 0.7], [1.0, 2.0]]


@pytest.mark.parametrize("action", [0.5, 2, -1, np.nan, "left", None, [0, 1]])
def test_impossible_actions_are_refused(action: Any) -> None:
    data = Trajectories.from_arrays([[0, 1]], [[1]], terminated=True)
    with pytest.raises(DataError, match="action: expected"):
        absorbed(data, 3, action)
    vectors = Trajectories.from_arrays(
        [[0, 1]], [[[0.5, 0.7]]], terminated=True, action_space=Box(0.0, 1.0, (2,))
    )
    for wrong in (2.0, np.inf, [0.1], [0.1, 0.2, 0.3], "left"):
        with pytest.raises(DataError, match="action: expected"):
            absorbed(vectors, 3, wrong)


def test_other_data_and_spaces_are_refused() -> None:
    with pytest.raises(DataError, match="trajectories: expected Trajectories, got list"):
        absorbed([[0, 1]], 3)
    pictures = Trajectories.from_arrays([np.zeros((2, 3, 3))], [[1]], terminated=True)
    with pytest.raises(DataError, match="states: expected Discrete ones or vectors"):
        absorbed(pictures, 3)
