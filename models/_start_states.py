"""What states are drawn from: a part of trajectory programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.models._options import check_count, check_number
from likely.models._policy_base import Sites


class States(ABC):
    """What states are drawn from: those in which episodes start, or all of them.

    Attributes
    ----------
    dims : dict
        Site to the names of all its dimensions.
    space : Discrete or Box
        What states may be.
    """

    @property
    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Site to the names of all its dimensions."""

    @property
    @abstractmethod
    def space(self) -> Box | Discrete:
        """What states may be."""

    @abstractmethod
    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` if spaces do not fit."""

    @abstractmethod
    def sample_sites(self, like: Tensor) -> Sites:
        """Make the Pyro statements, outside the plates of the data."""

    @abstractmethod
    def distribution(self, sites: Sites) -> Any:
        """Distribution of one state."""

    def coords(self) -> dict[str, Any]:
        """Labels of the dimensions."""
        return {}

    @abstractmethod
    def initial(self, states: Tensor, weights: Tensor | None) -> Sites:
        """The maximum of the likelihood of states with weights [n], as a start."""

    def m_step(self, states: Tensor, weights: Tensor | None, objective: str) -> Sites:
        """Sites in closed form; tables are for the engine, and priors leave none."""
        return {}


@dataclass(frozen=True)
class TabularStates(States):
    r"""One of finitely many states, with unknown probabilities.

    Parameters
    ----------
    n_states
        S.
    concentration
        Dirichlet parameter of each state.

    Notes
    -----
    Site ``state_probabilities`` [S].

    Examples
    --------
    >>> TabularStates(4).dims
    {'state_probabilities': ('state',)}
    """

    n_states: int
    concentration: float = 1.0

    def __post_init__(self) -> None:
        check_count(self.n_states, "n_states", 1)
        check_number(self.concentration, "concentration", positive=True)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of ``state_probabilities``."""
        return {"state_probabilities": ("state",)}

    def coords(self) -> dict[str, Any]:
        """Numbers of the states."""
        return {"state": range(self.n_states)}

    @property
    def space(self) -> Discrete:
        """One of S states."""
        return Discrete(self.n_states)

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` unless there are as many states."""
        check_discrete(trajectories.state_space, self.n_states, "states")

    def sample_sites(self, like: Tensor) -> Sites:
        """Sample ``state_probabilities`` [S]."""
        alpha = like.new_full((self.n_states,), float(self.concentration))
        found = pyro.sample("state_probabilities", dist.Dirichlet(alpha))
        return {"state_probabilities": found}

    def distribution(self, sites: Sites) -> Any:
        """The categories."""
        return dist.Categorical(sites["state_probabilities"])

    def initial(self, states: Tensor, weights: Tensor | None) -> Sites:
        """Shares of the states."""
        return {"state_probabilities": shares(states, weights, (self.n_states,))}


@dataclass(frozen=True)
class GaussianStates(States):
    r"""Vectors whose entries are normal and independent.

    Parameters
    ----------
    n_features
        D, the length of a state.
    prior_scale
        Standard deviation of the normal priors of ``state_loc``.
    noise_scale
        Scale of the half-normal priors of ``state_scale``.

    Notes
    -----
    Sites ``state_loc`` [D] and ``state_scale`` [D].

    Examples
    --------
    >>> sorted(GaussianStates(4).dims)
    ['state_loc', 'state_scale']
    """

    n_features: int
    prior_scale: float = 10.0
    noise_scale: float = 10.0

    def __post_init__(self) -> None:
        check_count(self.n_features, "n_features", 1)
        check_number(self.prior_scale, "prior_scale", positive=True)
        check_number(self.noise_scale, "noise_scale", positive=True)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of each site."""
        return {"state_loc": ("dimension",), "state_scale": ("dimension",)}

    def coords(self) -> dict[str, Any]:
        """Numbers of the entries of a state."""
        return {"dimension": range(self.n_features)}

    @property
    def space(self) -> Box:
        """Vectors [D] without bounds."""
        return Box(-np.inf, np.inf, (self.n_features,), np.float64)

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` unless states are vectors of that length."""
        space = trajectories.state_space
        if not isinstance(space, Box) or space.shape != (self.n_features,):
            raise DataError(
                f"trajectories: expected states that are vectors of {self.n_features}, got {space}"
            )

    def sample_sites(self, like: Tensor) -> Sites:
        """Sample ``state_loc`` and ``state_scale``, [D] each."""
        zero = like.new_zeros(self.n_features)
        loc = dist.Normal(zero, zero + self.prior_scale).to_event(1)
        scale = dist.HalfNormal(zero + self.noise_scale).to_event(1)
        return {
            "state_loc": pyro.sample("state_loc", loc),
            "state_scale": pyro.sample("state_scale", scale),
        }

    def distribution(self, sites: Sites) -> Any:
        """Independent normal entries."""
        return dist.Normal(sites["state_loc"], sites["state_scale"]).to_event(1)

    def initial(self, states: Tensor, weights: Tensor | None) -> Sites:
        """Weighted mean and standard deviation."""
        each = states.new_ones(len(states)) if weights is None else weights
        loc = each @ states / each.sum()
        scale = (each @ (states - loc).square() / each.sum()).sqrt()
        # Entries that are all the same have no scale that a density could take.
        floor = torch.finfo(states.dtype).eps * loc.abs().clamp_min(1.0)
        return {"state_loc": loc, "state_scale": scale.maximum(floor)}

    def m_step(self, states: Tensor, weights: Tensor | None, objective: str) -> Sites:
        """Weighted mean and standard deviation; with priors there is no closed form."""
        return self.initial(states, weights) if objective == "likelihood" else {}


def shares(place: Tensor, weights: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Shares of the last axis of a table of counts; even in a row without any."""
    size = int(torch.tensor(shape).prod())
    counts = torch.bincount(place, weights, size).reshape(shape)
    counts = counts.to(torch.get_default_dtype() if weights is None else weights.dtype)
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / torch.where(total > 0, total, 1.0), 1 / shape[-1])


def check_discrete(space: Any, size: int, name: str) -> None:
    """Raise `DataError` unless a space is ``Discrete(size)``."""
    if not isinstance(space, Discrete) or int(space.n) != size:
        raise DataError(f"trajectories: expected {name} in Discrete({size}), got {space}")
