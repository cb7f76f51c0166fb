"""Reading gymnasium's transition tables."""

from __future__ import annotations

import operator
from typing import Any

import gymnasium
import numpy as np
import scipy.sparse as sp
import torch

from likely.envs._checks import as_double
from likely.envs.errors import DataError


def open_env(env: Any) -> Any:
    """The bare environment behind an id or wrappers.

    Raises
    ------
    DataError
        If it is neither an environment nor the id of one.
    """
    if isinstance(env, str):
        try:
            env = gymnasium.make(env)
        except gymnasium.error.Error as error:
            raise DataError(f"env must be an environment or its id: {error}") from error
    if not isinstance(env, gymnasium.Env):
        raise DataError(f"env must be a gymnasium environment or its id, got {type(env).__name__}")
    return env.unwrapped


def read_table(env: Any, initial: Any, sparse: bool) -> dict[str, Any]:
    """Arguments of `TabularMDP` from ``env.P``, with a sink as the last state.

    Parameters
    ----------
    env
        A bare environment.
    initial
        Distribution over its states [S], or None for its own.
    sparse
        Whether to give the transition as a sparse matrix and rewards as expected ones.

    Raises
    ------
    DataError
        If there is no table, it has holes or names states that do not exist, or the start is not
        known.
    """
    table = getattr(env, "P", None)
    if table is None:
        raise DataError(
            f"env must have a transition table P, and {type(env).__name__} has none; tabular "
            "environments are FrozenLake, CliffWalking and Taxi"
        )
    try:
        n_states, n_actions = len(table), len(table[0])
    except (KeyError, IndexError, TypeError) as error:
        raise DataError("env.P must hold the actions of state 0, 1, ...; it has none") from error
    sink = n_states
    listed = []
    for s in range(n_states):
        for a in range(n_actions):
            try:
                moves = [
                    (s, a, sink if done else operator.index(to), float(p), float(r))
                    for p, to, r, done in table[s][a]
                ]
            except (KeyError, IndexError) as error:
                raise DataError(f"env.P has no entry for state {s}, action {a}") from error
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"env.P[{s}][{a}] must list (probability, successor, reward, done): {error}"
                ) from error
            listed += moves
    listed += [(sink, a, sink, 1.0, 0.0) for a in range(n_actions)]
    s, a, to = np.array([move[:3] for move in listed], dtype=np.int64).T
    p, r = np.array([move[3:] for move in listed], dtype=np.float64).T
    if (to < 0).any() or (to > sink).any():
        bad = int(((to < 0) | (to > sink)).argmax())
        raise DataError(f"env.P[{s[bad]}][{a[bad]}] leads to state {to[bad]}, which does not exist")

    start = getattr(env, "initial_state_distrib", None) if initial is None else initial
    if start is None:
        raise DataError(f"initial must be given: {type(env).__name__} has no initial_state_distrib")
    if not isinstance(start, int | np.integer):
        start = as_double(start, "initial").flatten()
        start = torch.cat([start, start.new_zeros(1)]) if len(start) == n_states else start
    arguments: dict[str, Any] = {"initial": start, "sink": sink}

    size = n_states + 1
    if sparse:
        expected = np.zeros((size, n_actions))
        np.add.at(expected, (s, a), p * r)
        # Entries that name one place are added up.
        rows = sp.coo_array((p, (s * n_actions + a, to)), shape=(size * n_actions, size)).tocsr()
        return {**arguments, "transition": rows, "reward": expected}
    transition = np.zeros((size, n_actions, size))
    paid = np.zeros_like(transition)
    np.add.at(transition, (s, a, to), p)
    np.add.at(paid, (s, a, to), p * r)
    reward = np.divide(paid, transition, out=np.zeros_like(paid), where=transition > 0)
    return {**arguments, "transition": transition, "reward": reward}
