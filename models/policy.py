"""Policies as parts of programs: how actions depend on states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.models._action_distributions import TableRows
from likely.models._linear import coefficient_prior
from likely.models._linear_categories import LinearCategories
from likely.models._mixture_policy import MixturePolicy
from likely.models._module_policy import ModulePolicy
from likely.models._options import check_count, check_number
from likely.models._policy_base import Features, Policy, Sites, featurise, float_like
from likely.models._start_states import check_discrete

__all__ = [
    "GaussianPolicy",
    "MixturePolicy",
    "ModulePolicy",
    "Policy",
    "SoftmaxPolicy",
    "TabularPolicy",
]


@dataclass(frozen=True)
class TabularPolicy(Policy):
    r"""A table of action probabilities, one row a state.

    .. math:: \text{policy}_s \sim \mathrm{Dirichlet}(\alpha), \qquad
              a \mid s \sim \mathrm{Categorical}(\text{policy}_s)

    Parameters
    ----------
    n_states, n_actions
        Sizes S and A.
    concentration
        Dirichlet parameter α of every action; with 1 + c MAP adds c to every count.

    Notes
    -----
    Site ``policy`` [S, A].

    Examples
    --------
    >>> import pyro
    >>> policy = TabularPolicy(2, 2)
    >>> policy.probabilities({"policy": [[0.5, 0.5], [0.0, 1.0]]}, [1, 0]).tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """

    n_states: int
    n_actions: int
    concentration: float = 1.0

    def __post_init__(self) -> None:
        check_count(self.n_states, "n_states", 1)
        check_count(self.n_actions, "n_actions", 1)
        check_number(self.concentration, "concentration", positive=True)

    @property
    def action_space(self) -> Discrete:
        """One of A actions."""
        return Discrete(self.n_actions)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of ``policy``."""
        return {"policy": ("state", "action")}

    def coords(self, trajectories: Trajectories | None) -> dict[str, Any]:
        """Numbers of the states and actions."""
        return {"state": range(self.n_states), "action": range(self.n_actions)}

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` unless there are as many states and actions as the table has."""
        super().check(trajectories)
        check_discrete(trajectories.state_space, self.n_states, "states")
        check_discrete(trajectories.action_space, self.n_actions, "actions")

    def sample_sites(self, states: Tensor) -> Sites:
        """Sample ``policy`` [S, A]."""
        alpha = float_like(states).new_full((self.n_actions,), float(self.concentration))
        rows = dist.Dirichlet(alpha).expand([self.n_states]).to_event(1)
        return {"policy": pyro.sample("policy", rows)}

    def distribution(self, sites: Sites, states: Tensor) -> Any:
        """The states' rows of the table."""
        if states.is_floating_point():
            raise DataError("states: expected whole numbers, the rows of the table")
        return TableRows(without_rows(sites["policy"], 2, states.dim()), states.long())

    def initial(self, states: Tensor, actions: Tensor, weights: Tensor | None) -> Sites:
        """Start at the shares of the actions; even where a state never occurs."""
        size = self.n_states * self.n_actions
        counts = torch.bincount(states * self.n_actions + actions, weights, size)
        counts = counts.to(float_like(states)).reshape(self.n_states, self.n_actions)
        total = counts.sum(-1, keepdim=True)
        shares = counts / torch.where(total > 0, total, 1.0)
        return {"policy": torch.where(total > 0, shares, 1 / self.n_actions)}


@dataclass(frozen=True, eq=False)
class SoftmaxPolicy(Policy):
    r"""Actions whose log-odds are linear in features of the state.

    .. math:: a \mid s \sim \mathrm{Categorical}(\mathrm{softmax}(0, \; b_a + w_a^\top \phi(s)))

    The score of the first action is 0, so that the others are log-odds against it, and their
    maximum likelihood, where it exists, is at one place.

    Parameters
    ----------
    n_actions
        A, at least 2.
    features
        φ: None for states that are vectors, a table [S, d] for discrete states, or a function from
        states [\*batch, \*state] to [\*batch, d].
    intercept
        Whether each action has an intercept b.
    prior_scale
        Standard deviation of the normal priors; None makes them flat (improper).

    Notes
    -----
    Sites ``intercept`` [A − 1] and ``coefficients`` [A − 1, d].

    Examples
    --------
    >>> params = {"intercept": [0.0], "coefficients": [[2.0, 0.0]]}
    >>> SoftmaxPolicy(2).probabilities(params, [[0.0, 5.0], [1.0, 0.0]])
    tensor([[0.5000, 0.5000],
            [0.1192, 0.8808]], dtype=torch.float64)
    """

    n_actions: int
    features: Features = None
    intercept: bool = True
    prior_scale: float | None = 10.0

    def __post_init__(self) -> None:
        check_count(self.n_actions, "n_actions", 2)
        if self.prior_scale is not None:
            check_number(self.prior_scale, "prior_scale", positive=True)
        if not isinstance(self.intercept, bool):
            raise DataError(f"intercept must be True or False, got {self.intercept!r}")

    @property
    def action_space(self) -> Discrete:
        """One of A actions."""
        return Discrete(self.n_actions)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions: ``choice`` counts the actions after the first."""
        first = {"intercept": ("choice",)} if self.intercept else {}
        return {**first, "coefficients": ("choice", "feature")}

    def coords(self, trajectories: Trajectories | None) -> dict[str, Any]:
        """Numbers of the actions after the first."""
        return {"choice": range(1, self.n_actions)}

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` unless there are as many actions as scores."""
        super().check(trajectories)
        check_discrete(trajectories.action_space, self.n_actions, "actions")

    def sample_sites(self, states: Tensor) -> Sites:
        """Sample ``intercept`` [A − 1] and ``coefficients`` [A − 1, d]."""
        width = featurise(self.features, states[:1]).shape[-1]
        intercept = "intercept" if self.intercept else None
        return linear_sites(states, self.n_actions - 1, width, self.prior_scale, intercept)

    def distribution(self, sites: Sites, states: Tensor) -> Any:
        """Categories with the scores as log-odds."""
        x = featurise(self.features, states)
        if LinearCategories.serves(x, sites["coefficients"]):
            return LinearCategories(x, sites["coefficients"], sites.get("intercept"))
        scores = linear_scores(sites, x)
        return dist.Categorical(logits=torch.nn.functional.pad(scores, (1, 0)))

    def initial(self, states: Tensor, actions: Tensor, weights: Tensor | None) -> Sites:
        """Start where all actions are equally likely, which nothing can make infinite."""
        like, k = float_like(states), self.n_actions - 1
        width = featurise(self.features, states[:1]).shape[-1]
        start = {"coefficients": like.new_zeros(k, width)}
        return {**start, "intercept": like.new_zeros(k)} if self.intercept else start


@dataclass(frozen=True, eq=False)
class GaussianPolicy(Policy):
    r"""Vectors of actions around a linear function of features of the state.

    .. math:: a_u \mid s \sim \mathcal{N}(b_u + w_u^\top \phi(s), \text{scale}_u^2)

    Parameters
    ----------
    n_controls
        U, the length of an action.
    features
        φ, as in `SoftmaxPolicy`.
    intercept
        Whether there is one for each control.
    prior_scale
        Standard deviation of the normal priors of intercepts and coefficients; None makes these
        flat (improper).
    noise_scale
        Scale of the half-normal priors of ``scale``.

    Notes
    -----
    Sites ``intercept`` [U], ``coefficients`` [U, d] and ``scale`` [U].

    Examples
    --------
    >>> params = {"intercept": [0.5], "coefficients": [[2.0]], "scale": [0.1]}
    >>> GaussianPolicy(1).at(params, [[1.0]]).mean.tolist()
    [[2.5]]
    """

    n_controls: int
    features: Features = None
    intercept: bool = True
    prior_scale: float | None = 10.0
    noise_scale: float = 10.0

    def __post_init__(self) -> None:
        check_count(self.n_controls, "n_controls", 1)
        check_number(self.noise_scale, "noise_scale", positive=True)
        if self.prior_scale is not None:
            check_number(self.prior_scale, "prior_scale", positive=True)
        if not isinstance(self.intercept, bool):
            raise DataError(f"intercept must be True or False, got {self.intercept!r}")

    @property
    def action_space(self) -> Box:
        """Vectors [U] without bounds."""
        return Box(-np.inf, np.inf, (self.n_controls,), np.float64)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of each site."""
        first = {"intercept": ("control",)} if self.intercept else {}
        return {**first, "coefficients": ("control", "feature"), "scale": ("control",)}

    def coords(self, trajectories: Trajectories | None) -> dict[str, Any]:
        """Numbers of the controls."""
        return {"control": range(self.n_controls)}

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` unless actions are vectors of the policy's length."""
        super().check(trajectories)
        if trajectories.action_space.shape != (self.n_controls,):
            raise DataError(
                f"trajectories: expected actions that are vectors of {self.n_controls}, got "
                f"{trajectories.action_space}"
            )

    def sample_sites(self, states: Tensor) -> Sites:
        """Sample ``intercept`` [U], ``coefficients`` [U, d] and ``scale`` [U]."""
        width = featurise(self.features, states[:1]).shape[-1]
        intercept = "intercept" if self.intercept else None
        sites = linear_sites(states, self.n_controls, width, self.prior_scale, intercept)
        spread = float_like(states).new_full((self.n_controls,), float(self.noise_scale))
        sites["scale"] = pyro.sample("scale", dist.HalfNormal(spread).to_event(1))
        return sites

    def distribution(self, sites: Sites, states: Tensor) -> Any:
        """Independent normal controls."""
        mean = linear_scores(sites, featurise(self.features, states))
        return dist.Normal(mean, sites["scale"]).to_event(1)

    def initial(self, states: Tensor, actions: Tensor, weights: Tensor | None) -> Sites:
        """Start at weighted least squares, which is the maximum of the likelihood."""
        x = featurise(self.features, states)
        w, b, scale = least_squares(x, actions.to(x), weights, self.intercept)
        found = {"coefficients": w, "scale": scale}
        return {**found, "intercept": b} if self.intercept else found

    def m_step(
        self, states: Tensor, actions: Tensor, weights: Tensor | None, objective: str
    ) -> Sites:
        """Weighted least squares; with priors there is no closed form."""
        return self.initial(states, actions, weights) if objective == "likelihood" else {}


def without_rows(value: Tensor, event_dim: int, rows: int = 1) -> Tensor:
    """A site's value without the dimensions of one that plates outside leave where rows will be.

    Parameters
    ----------
    value
        [*event], or [*outside, 1, *event] below plates that vectorise the program.
    event_dim
        Number of the event's dimensions.
    rows
        Number of the rows' dimensions.
    """
    if value.dim() <= event_dim:
        return value
    return value.squeeze(tuple(range(-rows - event_dim, -event_dim)))


def linear_sites(
    states: Tensor,
    outputs: int,
    width: int,
    scale: float | None,
    intercept: str | None = "intercept",
    coefficients: str = "coefficients",
) -> Sites:
    """Sample an intercept [outputs], if it has a name, and coefficients [outputs, width]."""
    like, sites = float_like(states), {}
    prior = coefficient_prior("normal", scale, like)
    if intercept is not None:
        sites[intercept] = pyro.sample(intercept, prior.expand([outputs]).to_event(1))
    shape = [outputs, width]
    sites[coefficients] = pyro.sample(coefficients, prior.expand(shape).to_event(2))
    return sites


def linear_scores(sites: Sites, x: Tensor) -> Tensor:
    """Scores [*outside, *batch, outputs] at features [*batch, d]."""
    scores: Tensor = x @ without_rows(sites["coefficients"], 2).mT
    return scores + sites["intercept"] if "intercept" in sites else scores


def least_squares(
    x: Tensor, target: Tensor, weights: Tensor | None, intercept: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted least squares of several outcomes on the same features.

    Parameters
    ----------
    x, target
        [n, d] and [n, U].
    weights
        [n]; None for ones.
    intercept
        Whether there is one.

    Returns
    -------
    coefficients, intercept, scale : Tensor
        [U, d], [U] (zeros without one) and the root of the mean square of what is left, [U].
    """
    columns = torch.cat([x, x.new_ones(len(x), 1)], -1) if intercept else x
    root = x.new_ones(len(x), 1) if weights is None else weights.sqrt().unsqueeze(-1)
    found = torch.linalg.lstsq(columns * root, target * root).solution.T
    w = found[:, : x.shape[1]].contiguous()
    b = found[:, -1].contiguous() if intercept else found.new_zeros(len(found))
    left = ((target - x @ w.T - b) * root).square().sum(0) / root.square().sum()
    # A perfect fit has no scale that a density could take.
    floor = torch.finfo(x.dtype).eps * target.abs().amax(0).clamp_min(1.0)
    return w, b, left.sqrt().maximum(floor)
