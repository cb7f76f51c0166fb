"""Episodes that end early go on in an absorbing state, so that all are of one length."""

from __future__ import annotations

import pytest
from gymnasium.spaces import Discrete

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
