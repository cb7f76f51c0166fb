"""Policies of several modes, of which nobody saw which was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.envs._randomness import choose
from likely.models._action_distributions import ModeActions, SelectedMode
from likely.models._module_policy import ModulePolicy
from likely.models._options import check_count, check_number
from likely.models._policy_base import Policy, Sites, float_like


@dataclass(frozen=True, eq=False)
class MixturePolicy(Policy):
    r"""One of M policies of the same kind, chosen at each step or for each episode.

    .. math:: z \sim \mathrm{Categorical}(\text{mode\_weights}), \qquad
              a_t \mid s_t, z \sim \pi_z(\cdot \mid s_t)

    (A mixture of experts, Bishop 2006, section 14.5.3.) A demonstrator who passes an obstacle left
    or right, but never in between, has two modes.

    Parameters
    ----------
    policy
        What each mode is, with its own values of the sites.
    n_modes
        M, at least 1.
    per
        ``"step"``: a new mode for each action; ``"episode"``: one for all actions of an episode.
    concentration
        Dirichlet parameter of ``mode_weights``.

    Notes
    -----
    Sites ``mode_weights`` [M] and those of ``policy``, with plate ``expert``. The discrete latent
    ``mode`` is summed out by the actions' distribution (`ModeActions`).

    Raises
    ------
    DataError
        For a module without priors, whose parameters cannot be there M times, and another mixture.

    Examples
    --------
    >>> from likely.models.policy import TabularPolicy
    >>> params = {"mode_weights": [0.5, 0.5], "policy": [[[1.0, 0.0]], [[0.0, 1.0]]]}
    >>> MixturePolicy(TabularPolicy(1, 2), 2).probabilities(params, [0])
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """

    policy: Policy
    n_modes: int
    per: str = "step"
    concentration: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Policy) or isinstance(self.policy, MixturePolicy):
            raise DataError(f"policy: expected a policy of one mode, got {self.policy!r}")
        if isinstance(self.policy, ModulePolicy) and self.policy.prior_scale is None:
            raise DataError("policy: a module has one set of parameters; give it a prior_scale")
        check_count(self.n_modes, "n_modes", 1)
        check_number(self.concentration, "concentration", positive=True)
        if self.per not in ("step", "episode"):
            raise DataError(f"per must be 'step' or 'episode', got {self.per!r}")

    @property
    def action_space(self) -> Box | Discrete:
        """That of the modes."""
        return self.policy.action_space

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of each site."""
        inner = {name: ("expert", *names) for name, names in self.policy.dims.items()}
        return {"mode_weights": ("expert",), **inner}

    def coords(self, trajectories: Trajectories | None) -> dict[str, Any]:
        """Numbers of the modes, and the labels of the policy."""
        return {"expert": range(self.n_modes), **self.policy.coords(trajectories)}

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` if spaces do not fit the modes."""
        self.policy.check(trajectories)

    def sample_sites(self, states: Tensor) -> Sites:
        """Sample ``mode_weights`` [M] and the sites of the policy below a plate ``expert``."""
        alpha = float_like(states).new_full((self.n_modes,), float(self.concentration))
        weights = pyro.sample("mode_weights", dist.Dirichlet(alpha))
        with pyro.plate("expert", self.n_modes, device=str(states.device)):
            sites = self.policy.sample_sites(states)
        return {"mode_weights": weights, **sites}

    def modes(self, sites: Sites, states: Tensor) -> list[Any]:
        """Distributions of the actions in each mode, M of batch shape [*batch]."""
        return [self.policy.distribution(self._of(sites, m), states) for m in range(self.n_modes)]

    def _of(self, sites: Sites, mode: int) -> Sites:
        """Values of the policy's sites in one mode."""
        found = {}
        for name, names in self.policy.dims.items():
            if name in sites:
                axis = sites[name].dim() - len(names) - 1
                value = sites[name].select(axis, mode)
                # Plates outside the modes leave room for rows, as they do without modes.
                found[name] = value.unsqueeze(axis) if axis else value
        return found

    def distribution(self, sites: Sites, states: Tensor) -> Any:
        """Actions with a mode of their own, summed out: what is known of one step."""
        return self.summed(sites, states)

    def summed(
        self,
        sites: Sites,
        states: Tensor,
        episode: Tensor | None = None,
        counts: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> ModeActions:
        """The mode summed out, for each step or, with ``episode``, for each episode."""
        weights = sites["mode_weights"]
        modes = self.modes(sites, states)
        weights = weights if weights.dim() == 1 else weights.squeeze(-2)
        return ModeActions(weights, modes, episode, counts, observed)

    def selected(self, sites: Sites, states: Tensor, mode: Tensor) -> SelectedMode:
        """Actions given the mode, integers that broadcast to the states' batch."""
        return SelectedMode(self.modes(sites, states), mode)

    def initial(self, states: Tensor, actions: Tensor, weights: Tensor | None) -> Sites:
        """Nothing: modes start at the best of some draws of their priors."""
        return {}

    def start(
        self, states: Tensor, actions: Tensor, weights: Tensor | None, group: Tensor
    ) -> Sites:
        """Start where modes share the groups [n] of rows at random, from torch's random numbers."""
        like = float_like(states)
        shares = torch.rand(int(group[-1]) + 1, self.n_modes).to(like).pow(4.0) + 0.01
        shares = (shares / shares.sum(-1, keepdim=True))[group]
        if weights is not None:
            shares = shares * weights.unsqueeze(-1)
        parts = [self.policy.initial(states, actions, shares[:, m]) for m in range(self.n_modes)]
        if not parts[0]:
            return {}
        total = like.new_full((self.n_modes,), 1.0 / self.n_modes)
        return {"mode_weights": total, **_stacked(parts)}

    def m_step_by(
        self, states: Tensor, actions: Tensor, shares: Tensor, objective: str
    ) -> dict[str, Tensor]:
        """The policy's closed form for each mode, rows weighted by ``shares`` [n, M]."""
        parts = [
            self.policy.m_step(states, actions, shares[:, m], objective)
            for m in range(self.n_modes)
        ]
        return _stacked(parts)

    def draw(self, fn: Any, rng: Any) -> NDArray[Any]:
        """Draw a mode, then an action; with ``per="episode"`` the same mode all along.

        That needs an `EpisodeRandom`, which `likely.envs.rollout` gives; any other generator draws
        a mode for each row.
        """
        n = fn.batch_shape[-1]
        constants = getattr(rng, "constants", None)
        kept = self.per == "episode" and constants is not None
        uniform = np.asarray(constants) if kept else rng.random(n)
        mode = choose(fn.weights.expand(n, self.n_modes).numpy(), uniform)
        drawn = np.stack([self.policy.draw(part, rng) for part in fn.modes])
        return np.asarray(drawn[mode, np.arange(n)])

    def best(self, fn: Any) -> NDArray[Any]:
        """The most probable action of the most probable mode; of the mixture, where Discrete."""
        if self.discrete:
            return super().best(fn)
        return self.policy.best(fn.modes[int(fn.weights.argmax())])


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
