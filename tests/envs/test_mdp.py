"""The container: what it reads, what it keeps, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from likely.envs import DataError, TabularMDP

TABLE = [[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]
REWARD = [[1.0, 2.0], [0.0, 0.0]]


def build(**changes: Any) -> TabularMDP:
    parts = {"transition": TABLE, "reward": REWARD, "discount": 0.9, "initial": 0}
    return TabularMDP(**{**parts, **changes})


def test_everything_is_float64_and_labelled() -> None:
    mdp = build(transition=torch.tensor(TABLE), states=("a", "b"))
    assert mdp.transition.dtype == mdp.reward.dtype == mdp.initial.dtype == torch.float64
    assert (mdp.n_states, mdp.n_actions) == (2, 2)
    assert mdp.states == ("a", "b")
    assert mdp.actions == (0, 1)
    assert mdp.initial.tolist() == [1.0, 0.0]


def test_float32_rows_are_normalised() -> None:
    table = torch.rand(7, 3, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    mdp = TabularMDP(table, torch.zeros(7), 0.9, 0)
    assert (table.double().sum(-1) - 1).abs().max() > 1e-9
    torch.testing.assert_close(
        mdp.transition.sum(-1), torch.ones(7, 3).double(), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transition": [[0.5, 0.5]]}, r"transition must have shape \[S, A, S\].*got \(1, 2\)"),
        ({"transition": np.ones((2, 2, 3)) / 3}, r"transition.*got \(2, 2, 3\)"),
        ({"transition": []}, "transition is empty"),
        ({"transition": "table"}, "transition must hold real numbers"),
        ({"transition": torch.ones(2, 1, 2) * 1j}, "transition must hold real numbers"),
        (
            {"transition": [TABLE[0], [[0.0, 1.0], [0.3, 0.6]]]},
            r"transition must sum to 1.*1 of 4 rows.*transition\[s=1, a=1\] with 0.9",
        ),
        (
            {"transition": [TABLE[0], [[-0.5, 1.5], [0.0, 1.0]]]},
            r"transition must not be negative, got -0.5 at transition\[s=1, a=0, entry=0\]",
        ),
        (
            {"transition": [TABLE[0], [[np.nan, 1.0], [0.0, 1.0]]]},
            r"transition must be finite: 1 of 8 entries.*\[1, 0, 0\]",
        ),
        ({"reward": [1.0, 2.0, 3.0]}, r"reward must have shape.*S = 2 and A = 2.*got \(3,\)"),
        ({"reward": [[1.0], [2.0]]}, r"reward must have shape.*got \(2, 1\)"),
        ({"reward": 1.0}, r"reward must have shape.*got \(\)"),
        ({"reward": [[1.0, np.nan], [0.0, 0.0]]}, r"reward must be finite.*\[0, 1\]"),
        ({"reward": [[1.0, np.inf], [0.0, -np.inf]]}, r"reward must be finite: 2 of 4"),
        ({"discount": 1.5}, "discount must be a number from 0, at most 1, got 1.5"),
        ({"discount": -0.1}, "discount must be"),
        ({"discount": "0.9"}, "discount must be"),
        ({"discount": np.nan}, "discount must be"),
        ({"initial": [0.5, 0.4]}, r"initial must sum to 1.*0.9"),
        ({"initial": [0.5, 0.5, 0.0]}, r"initial must have shape \[S\] = \[2\], got \(3,\)"),
        ({"initial": 2}, "initial must be a state below 2, got 2"),
        ({"states": ("a",)}, "states must be 2 different labels"),
        ({"states": ("a", "a")}, "states must be 2 different labels"),
        ({"actions": ("x", "y", "z")}, "actions must be 2 different labels"),
        ({"states": 5}, "states must be 2 different labels"),
        ({"states": [["a"], ["b"]]}, "states must be 2 different labels"),
        ({"transition": sp.coo_array([1.0])}, r"transition must be \[S·A, S\].*got \(1,\)"),
        ({"transition": sp.csr_array(np.eye(2) * 1j)}, "transition must hold real numbers"),
        ({"transition": (torch.eye(2) * 1j).to_sparse()}, "transition must hold real numbers"),
        ({"transition": torch.ones(2, 1, 2).to_sparse()}, r"where it is sparse, got \(2, 1, 2\)"),
        (
            {"transition": torch.eye(2).to_sparse().requires_grad_()},
            "transition must not require a gradient",
        ),
        ({"sink": 2}, "sink must be a state below 2"),
        ({"sink": -1}, "sink must be an integer >= 0"),
        ({"sink": 0}, r"sink must be left by no action.*state 0.*probability 0.5 by action 0"),
        ({"sink": 1, "reward": [0.0, 3.0]}, "reward must be 0 in the sink, state 1"),
        ({"transition": sp.eye_array(3, format="csr")[:, :2]}, r"transition must be \[S·A, S\]"),
        (
            {"transition": sp.csr_array(np.array([[0.5, 0.5], [0.5, 0.4]] * 2))},
            r"transition must sum to 1 in every row; 2 of 4.*transition\[s=0, a=1\] with 0.9",
        ),
        (
            {"transition": sp.csr_array(np.array([[0.5, 0.5]] * 3 + [[-0.5, 1.5]]))},
            r"negative entry in transition\[s=1, a=1\]",
        ),
        (
            {
                "transition": sp.csr_array(np.array(TABLE).reshape(4, 2)),
                "reward": np.ones((2, 2, 2)),
            },
            "where the transition is sparse",
        ),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(**changes)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_sparse_tensors_and_matrices_are_read_alike() -> None:
    dense = torch.tensor(TABLE).flatten(0, 1)
    for sparse in (dense.to_sparse_coo(), dense.to_sparse_csr(), sp.coo_array(dense.numpy())):
        mdp = build(transition=sparse)
        assert mdp.is_sparse
        assert mdp.transition.toarray().tolist() == dense.tolist()


def test_a_users_matrix_is_left_as_it_is() -> None:
    matrix = sp.coo_array(np.array(TABLE).reshape(4, 2)).tocsr()
    matrix.indices = matrix.indices.copy()
    before = matrix.toarray()
    build(transition=matrix)
    assert (matrix.toarray() == before).all()


# -- gymnasium -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_table_agrees_with_the_environment_step_by_step(name: str) -> None:
    env = gymnasium.make(name).unwrapped
    mdp = TabularMDP.from_gymnasium(env)
    random = np.random.default_rng(0)
    for s, a in zip(
        random.integers(len(env.P), size=60), random.integers(mdp.n_actions, size=60), strict=True
    ):
        mass = np.zeros(mdp.n_states)
        gain = 0.0
        for p, to, r, done in env.P[s][a]:
            mass[mdp.sink if done else to] += p
            gain += p * r
        np.testing.assert_allclose(mdp.transition[s, a], mass, atol=1e-15)
        np.testing.assert_allclose(mdp.expected_reward[s, a], gain, atol=1e-12)
    assert mdp.n_states == len(env.P) + 1
    assert mdp.initial[:-1].numpy() == pytest.approx(env.initial_state_distrib)


def test_repeated_successors_are_added_up() -> None:
    # Left in the upper left corner: left and up both stay, down goes on.
    mdp = TabularMDP.from_gymnasium("FrozenLake-v1")
    assert mdp.transition[0, 0, [0, 4]].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_terminal_states_lead_to_the_sink_without_reward() -> None:
    # CliffWalking's own table lets an agent walk on from the goal, for −1 a step.
    env = gymnasium.make("CliffWalking-v1").unwrapped
    assert all(not done for _, _, _, done in env.P[47][0])
    mdp = TabularMDP.from_gymnasium(env)
    assert mdp.transition[35, 2, mdp.sink] == 1
    assert mdp.reward[35, 2, mdp.sink] == -1
    assert float(mdp.transition[:-1, :, 47].sum()) == float(mdp.transition[47, :, 47].sum())
    assert float(mdp.evaluate(torch.full((49, 4), 0.25)).value[-1]) == 0


def test_slippery_cliff_and_lists_of_options_are_read() -> None:
    env = gymnasium.make("FrozenLake-v1", map_name="8x8", is_slippery=False)
    mdp = TabularMDP.from_gymnasium(env, discount=0.9)
    # Fourteen steps to the goal, the last of which pays.
    assert float(mdp.initial @ mdp.value_iteration().value) == pytest.approx(0.9**13)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Blackjack-v1", "env must have a transition table P, and BlackjackEnv has none"),
        ("NoSuchLake-v1", "env must be an environment or its id"),
        (3, "env must be a gymnasium environment or its id, got int"),
    ],
)
def test_environments_without_a_table_are_refused(env: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TabularMDP.from_gymnasium(env)


def test_holes_in_a_table_are_named() -> None:
    env = gymnasium.make("FrozenLake-v1").unwrapped
    env.P[3][1] = [(1.0, 99, 0.0, False)]
    with pytest.raises(DataError, match=r"env.P\[3\]\[1\] leads to state 99"):
        TabularMDP.from_gymnasium(env)
    del env.P[3][1]
    with pytest.raises(DataError, match="no entry for state 3, action 1"):
        TabularMDP.from_gymnasium(env)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "it has none"),
        ({1: {0: [(1.0, 0, 0.0, True)]}}, "it has none"),
        (3, "it has none"),
        ({0: {0: [(1.0, 0, 0.0)]}}, r"env.P\[0\]\[0\] must list \(probability, successor"),
        ({0: {0: [("a", 0, 0.0, True)]}}, r"env.P\[0\]\[0\] must list"),
        ({0: {0: [(1.0, 0.5, 0.0, False)]}}, r"env.P\[0\]\[0\] must list"),
        ({0: {0: 1.0}}, r"env.P\[0\]\[0\] must list"),
        ({0: {0: [(0.7, 0, 0.0, True)]}}, r"transition must sum to 1.*s=0, a=0\] with 0.7"),
        ({0: {0: [(1.0, 0, np.nan, True)]}}, r"reward must be finite.*\[0, 0, 1\]"),
    ],
)
def test_broken_tables_are_refused(table: Any, message: str) -> None:
    env = gymnasium.make("FrozenLake-v1").unwrapped
    env.P, env.initial_state_distrib = table, [1.0]
    with pytest.raises(DataError, match=message):
        TabularMDP.from_gymnasium(env)


def test_another_start_can_be_given() -> None:
    assert TabularMDP.from_gymnasium("FrozenLake-v1", initial=5).initial[5] == 1
    assert TabularMDP.from_gymnasium("FrozenLake-v1", initial=np.int64(5)).initial[5] == 1
    for wrong, message in (("a", "initial must hold real numbers"), (17, "below 17, got 17")):
        with pytest.raises(DataError, match=message):
            TabularMDP.from_gymnasium("FrozenLake-v1", initial=wrong)
    env = gymnasium.make("FrozenLake-v1").unwrapped
    del env.initial_state_distrib
    with pytest.raises(DataError, match="initial must be given"):
        TabularMDP.from_gymnasium(env)


def test_another_reward_keeps_the_moves(random_mdp: Callable[..., TabularMDP]) -> None:
    mdp = random_mdp()
    other = mdp.with_reward(torch.arange(6.0))
    assert torch.equal(other.transition, mdp.transition)
    assert other.expected_reward[:, 0].tolist() == list(range(6))
