"""How often each action was taken in each state: all that a soft-optimal policy is judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from likely.envs import DataError, TabularMDP, Trajectories, state_action_occupancy
from likely.envs._checks import as_double, as_number
from likely.envs.finite_horizon import as_timed_policy, state_marginals
from likely.models._options import check_count


@dataclass(frozen=True, eq=False)
class Visits:
    """Weighted visits of states and actions, in place of the episodes they were counted in.

    Attributes
    ----------
    counts
        [S, A], or [T, S, A] where the time matters; at least 0, and fractions are allowed.
    episodes
        How many episodes they were counted in.

    Raises
    ------
    DataError
        For another shape, or numbers that are no weights.

    Examples
    --------
    >>> seen = Trajectories.from_arrays([[0, 1, 0, 1]], [[0, 1, 0]])
    >>> mdp = TabularMDP(torch.full((2, 2, 2), 0.5), [0.0, 0.0], 0.5, 0)
    >>> Visits.from_trajectories(mdp, seen).counts.tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    >>> Visits.from_trajectories(mdp, seen, discounted=True).counts.tolist()
    [[1.25, 0.0], [0.0, 0.5]]
    """

    counts: Tensor
    episodes: float = 1.0

    def __post_init__(self) -> None:
        as_number(self.episodes, "episodes", 0.0, above=True)
        counts = as_double(self.counts, "counts")
        if counts.dim() not in (2, 3):
            raise DataError(
                f"counts: expected [S, A] or [T, S, A], got shape {tuple(counts.shape)}"
            )
        if bool((counts < 0).any()):
            where = (counts < 0).nonzero()[0].tolist()
            raise DataError(f"counts: expected at least 0, got {counts[tuple(where)]:g} at {where}")
        if not bool((counts > 0).any()):
            raise DataError("counts: expected at least one above 0")
        if not isinstance(self.counts, Tensor) or not self.counts.is_floating_point():
            object.__setattr__(self, "counts", counts)

    @classmethod
    def from_policy(
        cls, mdp: TabularMDP, policy: Any, horizon: int | None = None, episodes: float = 1.0
    ) -> Visits:
        """The exact occupancy of a policy, Σ_t γ^t Pr(s_t = s, a_t = a).

        Parameters
        ----------
        mdp
            The process.
        policy
            [S, A], or over a horizon [T, S, A].
        horizon
            T; visits are then kept by time. None for an infinite horizon.
        episodes
            How many episodes the occupancy counts for: the more, the narrower a posterior.
        """
        check_process(mdp)
        scale = as_number(episodes, "episodes", 0.0, above=True)
        if horizon is None:
            found = state_action_occupancy(mdp, policy).detach()
        else:
            table = as_timed_policy(mdp, policy, horizon).detach()
            times = torch.arange(len(table), dtype=table.dtype)
            where = state_marginals(mdp, table)[:-1] * (mdp.discount**times).unsqueeze(-1)
            found = where.unsqueeze(-1) * table
        return cls(scale * found * mdp.alive.unsqueeze(-1), scale)

    @classmethod
    def from_trajectories(
        cls,
        mdp: TabularMDP,
        trajectories: Trajectories,
        horizon: int | None = None,
        *,
        discounted: bool = False,
    ) -> Visits:
        """Counts of states and actions; steps in the sink are left out.

        Parameters
        ----------
        mdp
            The process.
        trajectories
            With Discrete states and actions of the process.
        horizon
            T, to count by time.
        discounted
            Whether step t counts γ^t. The maximum of the likelihood then meets the discounted
            features of the data; without, it is the likelihood of the actions.

        Raises
        ------
        DataError
            If states or actions are not those of the process, or episodes are longer than T.
        """
        check_process(mdp)
        if horizon is not None:
            check_count(horizon, "horizon", 1)
        check_fits(mdp, trajectories, horizon)
        states, actions = trajectories.state_action_pairs()
        sizes = (horizon or 1, mdp.n_states, mdp.n_actions)
        time = trajectories.step if horizon is not None else torch.zeros_like(states)
        weight = mdp.alive[states]
        if discounted:
            weight = weight * mdp.discount ** trajectories.step.double()
        place = (time * sizes[1] + states) * sizes[2] + actions
        flat = torch.bincount(place, weight, sizes[0] * sizes[1] * sizes[2])
        counts = flat.reshape(sizes)
        return cls(counts if horizon is not None else counts[0], len(trajectories))

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Visits:
        """The same in ``dtype`` on ``device``."""
        counts = self.counts.to(device, dtype)
        return self if counts is self.counts else replace(self, counts=counts)


def check_process(mdp: Any) -> None:
    """Raise `DataError` unless this is a `TabularMDP`."""
    if not isinstance(mdp, TabularMDP):
        raise DataError(f"mdp: expected a TabularMDP, got {type(mdp).__name__}")


def check_fits(mdp: TabularMDP, trajectories: Any, horizon: int | None) -> None:
    """Raise `DataError` unless trajectories are some of the process, of at most T steps."""
    if not isinstance(trajectories, Trajectories):
        raise DataError(
            f"trajectories: expected Trajectories or Visits, got {type(trajectories).__name__}"
        )
    pairs = {
        "states": (trajectories.state_space, trajectories.states, mdp.n_states),
        "actions": (trajectories.action_space, trajectories.actions, mdp.n_actions),
    }
    for name, (space, values, size) in pairs.items():
        # Environments do not show their sink, and read spaces are as large as what occurred.
        too_many = values is not None and not values.is_floating_point() and values.amax() >= size
        if not isinstance(space, Discrete) or too_many:
            raise DataError(f"trajectories: expected {size} {name} of {mdp}, got {space}")
    if horizon is not None and int(trajectories.lengths.max()) > horizon:
        where = int(trajectories.lengths.argmax())
        raise DataError(
            f"trajectories: expected at most {horizon} steps, the horizon, got "
            f"{int(trajectories.lengths[where])} in episode {trajectories.episodes[where]}"
        )
