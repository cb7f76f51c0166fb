"""Where an expert goes, as data of `OccupancyMatching`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    horizon_occupancy,
    state_action_occupancy,
)
from likely.envs._checks import as_double, check_distribution
from likely.inference.errors import OptionError
from likely.inference.imitation.acting import as_table


def target_occupancy(
    mdp: TabularMDP, expert: Any, smoothing: float = 0.0, horizon: int | None = None
) -> Tensor:
    """ρ_E [S, A], Σ = 1, of episodes or of a policy [S, A]; nothing in the sink.

    Parameters
    ----------
    mdp
        The process.
    expert
        `Trajectories`, whose visits are counted, step t as γ^t; or what `as_table` takes.
    smoothing
        Share of the uniform distribution.
    horizon
        Number of steps; None for all.

    Raises
    ------
    OptionError
        If the expert is neither, or the episodes are not of the process.
    DataError
        If a table holds no probabilities of its actions.
    """
    if isinstance(expert, Trajectories):
        states, actions = expert.state_action_pairs()
        if states.is_floating_point() or actions.is_floating_point():
            raise OptionError("expert: expected Discrete states and actions")
        if int(expert.states.max()) >= mdp.n_states or int(actions.max()) >= mdp.n_actions:
            raise OptionError(f"expert: expected states and actions of {mdp}")
        counts = mdp.discount ** expert.step.double()
        flat = torch.zeros(mdp.n_states * mdp.n_actions, dtype=torch.float64)
        flat.index_add_(0, states * mdp.n_actions + actions, counts)
        found = flat.reshape(mdp.n_states, mdp.n_actions)
    else:
        try:
            table = as_double(as_table(mdp, expert, "expert"), "expert")
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, DataError):
                raise
            raise OptionError(f"expert: expected episodes or a policy, got {expert!r}") from error
        check_distribution(table, "expert", ("s",))
        found = (
            state_action_occupancy(mdp, table)
            if horizon is None
            else horizon_occupancy(mdp, table, horizon)
        )
    found = found * mdp.alive.unsqueeze(-1)
    even = mdp.alive.unsqueeze(-1).expand(found.shape)
    return (1 - smoothing) * found / found.sum() + smoothing * even / even.sum()
