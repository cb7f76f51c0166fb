"""How states follow each other: a part of trajectory programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.models._action_distributions import TableRows
from likely.models._options import check_count, check_number
from likely.models._policy_base import Sites
from likely.models._start_states import check_discrete, shares
from likely.models.policy import least_squares, linear_scores, linear_sites, without_rows


class Dynamics(ABC):
    """How the next state depends on state and action: a part of a program.

    Attributes
    ----------
    dims : dict
        Site to the names of all its dimensions.
    """

    @property
    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Site to the names of all its dimensions."""

    @abstractmethod
    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` if spaces do not fit."""

    @abstractmethod
    def sample_sites(self, like: Tensor, n_controls: int) -> Sites:
        """Make the Pyro statements, outside the plates of the data.

        Parameters
        ----------
        like
            Tensor whose dtype and device the sites take.
        n_controls
            Length of an action, 1 where they are Discrete.
        """

    @abstractmethod
    def distribution(self, sites: Sites, states: Tensor, actions: Tensor) -> Any:
        """Distribution of the states after ``actions`` in ``states``, batch shape [*batch]."""

    def coords(self) -> dict[str, Any]:
        """Labels of the dimensions."""
        return {}

    @abstractmethod
    def initial(
        self, states: Tensor, actions: Tensor, after: Tensor, weights: Tensor | None
    ) -> Sites:
        """The maximum of the likelihood of rows with weights [n], as a start."""

    def m_step(
        self,
        states: Tensor,
        actions: Tensor,
        after: Tensor,
        weights: Tensor | None,
        objective: str,
    ) -> Sites:
        """Sites in closed form; tables are for the engine, and priors leave none."""
        return {}


@dataclass(frozen=True)
class TabularDynamics(Dynamics):
    r"""Moves between finitely many states.

    .. math:: \text{transition}_{s a} \sim \mathrm{Dirichlet}(\alpha), \qquad
              s' \mid s, a \sim \mathrm{Categorical}(\text{transition}_{s a})

    Parameters
    ----------
    n_states, n_actions
        Sizes S and A.
    concentration
        Dirichlet parameter α of every next state.

    Notes
    -----
    Site ``transition`` [S, A, S]. Where an episode terminated, the move into its last state counts
    like others; that it ended there is no part of the model.

    Examples
    --------
    >>> TabularDynamics(3, 2).dims["transition"]
    ('state', 'action', 'state_to')
    """

    n_states: int
    n_actions: int
    concentration: float = 1.0

    def __post_init__(self) -> None:
        check_count(self.n_states, "n_states", 1)
        check_count(self.n_actions, "n_actions", 1)
        check_number(self.concentration, "concentration", positive=True)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of ``transition``."""
        return {"transition": ("state", "action", "state_to")}

    def coords(self) -> dict[str, Any]:
        """Numbers of the states and actions."""
        states = range(self.n_states)
        return {"state": states, "state_to": states, "action": range(self.n_actions)}

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` unless there are as many states and actions as the table has."""
        check_discrete(trajectories.state_space, self.n_states, "states")
        check_discrete(trajectories.action_space, self.n_actions, "actions")

    def sample_sites(self, like: Tensor, n_controls: int = 1) -> Sites:
        """Sample ``transition`` [S, A, S]."""
        alpha = like.new_full((self.n_states,), float(self.concentration))
        rows = dist.Dirichlet(alpha).expand([self.n_states, self.n_actions]).to_event(2)
        return {"transition": pyro.sample("transition", rows)}

    def distribution(self, sites: Sites, states: Tensor, actions: Tensor) -> Any:
        """The rows of the table for states and actions [*batch]."""
        table = without_rows(sites["transition"], 3, states.dim()).flatten(-3, -2)
        return TableRows(table, states.long() * self.n_actions + actions.long())

    def initial(
        self, states: Tensor, actions: Tensor, after: Tensor, weights: Tensor | None
    ) -> Sites:
        """Shares of the moves; even where an action was never taken."""
        shape = (self.n_states, self.n_actions, self.n_states)
        place = (states * self.n_actions + actions) * self.n_states + after
        return {"transition": shares(place, weights, shape)}


@dataclass(frozen=True)
class LinearGaussianDynamics(Dynamics):
    r"""Vectors that move linearly, with normal noise.

    .. math:: s' = c + A s + B a + \varepsilon, \qquad
              \varepsilon_d \sim \mathcal{N}(0, \text{noise}_d^2)

    Parameters
    ----------
    n_features
        D, the length of a state.
    n_actions
        Number of actions where they are Discrete: each but the first then has its own column of B.
        None for vectors of actions.
    prior_scale
        Standard deviation of the normal priors of c, A and B; None makes them flat (improper).
    noise_scale
        Scale of the half-normal priors of ``noise``.

    Notes
    -----
    Sites ``drift`` [D], ``effects`` [D, D + U], the columns of A before those of B, and ``noise``
    [D].

    Examples
    --------
    >>> LinearGaussianDynamics(2).dims["effects"]
    ('dimension', 'cause')
    """

    n_features: int
    n_actions: int | None = None
    prior_scale: float | None = 10.0
    noise_scale: float = 10.0

    def __post_init__(self) -> None:
        check_count(self.n_features, "n_features", 1)
        if self.n_actions is not None:
            check_count(self.n_actions, "n_actions", 2)
        check_number(self.noise_scale, "noise_scale", positive=True)
        if self.prior_scale is not None:
            check_number(self.prior_scale, "prior_scale", positive=True)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of each site."""
        return {
            "drift": ("dimension",),
            "effects": ("dimension", "cause"),
            "noise": ("dimension",),
        }

    def coords(self) -> dict[str, Any]:
        """Numbers of the entries of a state."""
        return {"dimension": range(self.n_features)}

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` unless states are vectors [D] and actions of the right kind."""
        space, actions = trajectories.state_space, trajectories.action_space
        if not isinstance(space, Box) or space.shape != (self.n_features,):
            raise DataError(
                f"trajectories: expected states that are vectors of {self.n_features}, got {space}"
            )
        if self.n_actions is not None:
            check_discrete(actions, self.n_actions, "actions")
        elif isinstance(actions, Discrete) or len(actions.shape) != 1:
            raise DataError(
                f"trajectories: expected actions that are vectors, or n_actions=, got {actions}"
            )

    def _causes(self, states: Tensor, actions: Tensor) -> Tensor:
        """States and actions side by side, [*batch, D + U]."""
        if self.n_actions is not None:
            actions = torch.nn.functional.one_hot(actions.long(), self.n_actions)[..., 1:]
        return torch.cat([states, actions.to(states)], -1)

    def sample_sites(self, like: Tensor, n_controls: int = 1) -> Sites:
        """Sample ``drift``, ``effects`` and ``noise``."""
        controls = n_controls if self.n_actions is None else self.n_actions - 1
        width = self.n_features + controls
        sites = linear_sites(like, self.n_features, width, self.prior_scale, "drift", "effects")
        spread = like.new_full((self.n_features,), float(self.noise_scale))
        sites["noise"] = pyro.sample("noise", dist.HalfNormal(spread).to_event(1))
        return sites

    def distribution(self, sites: Sites, states: Tensor, actions: Tensor) -> Any:
        """Independent normal entries around the linear prediction."""
        linear = {"intercept": sites["drift"], "coefficients": sites["effects"]}
        mean = linear_scores(linear, self._causes(states, actions))
        return dist.Normal(mean, sites["noise"]).to_event(1)

    def initial(
        self, states: Tensor, actions: Tensor, after: Tensor, weights: Tensor | None
    ) -> Sites:
        """Weighted least squares."""
        causes = self._causes(states, actions)
        effects, drift, noise = least_squares(causes, after, weights, True)
        return {"drift": drift, "effects": effects, "noise": noise}

    def m_step(
        self,
        states: Tensor,
        actions: Tensor,
        after: Tensor,
        weights: Tensor | None,
        objective: str,
    ) -> Sites:
        """Weighted least squares; with priors there is no closed form."""
        if objective != "likelihood":
            return {}
        return self.initial(states, actions, after, weights)
