"""The features of an expert, and how those of other policies are found to compare with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.envs import (
    TabularMDP,
    Trajectories,
    backward_induction,
    horizon_occupancy,
    policy_iteration,
    rollout_tabular,
    state_action_occupancy,
    value_iteration,
)
from likely.envs.finite_horizon import state_marginals
from likely.inference.checkpoints import seed_of
from likely.inference.engines.checks import check_int, check_seed
from likely.inference.errors import OptionError
from likely.inference.imitation.acting import as_table
from likely.models._reward_tables import LinearReward, reward_table
from likely.models.maxent import Visits


@dataclass(frozen=True, eq=False)
class FeatureMatching:
    """A process, features that its reward is linear in, and what an expert met of them.

    Parameters
    ----------
    mdp
        The process; its own reward does not count.
    features
        ψ: [S, F] or [S, A, F]; ``"state"`` or ``"state-action"`` for indicators.
    expert
        A policy [S, A] or [T, S, A] (or what `as_table` takes), whose features are exact;
        `Trajectories` or `Visits`, whose features are averaged; or feature expectations [F].
    horizon
        T; None for an infinite horizon.
    episodes
        Number of episodes that each policy's features are estimated from, for processes too large
        to solve; None for exact ones.
    seed
        Of these episodes.

    Attributes
    ----------
    expected : Tensor
        μ_E: float64 [F], Σ_t γ^t ψ of one episode.
    length : float
        Σ_t γ^t, which no feature expectation exceeds in units of its feature; infinite without
        discount and horizon.

    Examples
    --------
    >>> rooms = TabularMDP([[[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]]], [0.0, 0.0], 0.5, 0)
    >>> FeatureMatching(rooms, "state", [[0.0, 1.0], [0.0, 1.0]]).expected.tolist()
    [1.0, 1.0]
    """

    mdp: TabularMDP
    features: Any
    expert: Any
    horizon: int | None = None
    episodes: int | None = None
    seed: int = 0
    linear: LinearReward = field(init=False, repr=False)
    expected: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.mdp, TabularMDP):
            raise OptionError(f"mdp: expected a TabularMDP, got {type(self.mdp).__name__}")
        check_seed("seed", self.seed)
        for name in ("horizon", "episodes"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        linear = reward_table(self.mdp, self.features, None, (), None)
        assert isinstance(linear, LinearReward)
        object.__setattr__(self, "linear", linear)
        object.__setattr__(self, "expected", self._expected())

    def _expected(self) -> Tensor:
        given = self.expert
        if isinstance(given, Trajectories | Visits):
            counts = self.visits().counts.to(torch.float64).reshape(self._flat)
            return self.linear.met(counts.sum(0))
        array = None
        if not callable(given) and not hasattr(given, "table"):
            try:
                array = torch.as_tensor(given)
            except (TypeError, ValueError, RuntimeError) as error:
                raise OptionError(
                    "expert: expected a policy, trajectories, Visits or feature expectations, got "
                    f"{type(given).__name__}"
                ) from error
        if array is not None and array.dim() == 3 and self.horizon is None:
            raise OptionError("horizon: expected one, as the expert's policy has three axes")
        if array is not None and array.dim() == 1:
            found = array.double()
            if found.shape != (self.linear.width,) or not bool(torch.isfinite(found).all()):
                raise OptionError(
                    f"expert: expected {self.linear.width} finite feature expectations, got "
                    f"{tuple(found.shape)}"
                )
            return found
        return self.linear.met(self.occupancy(self._policy()))

    @property
    def _flat(self) -> tuple[int, ...]:
        """Visits of a horizon have times in front, which features do not tell apart."""
        return (-1, self.mdp.n_states, self.mdp.n_actions)

    def _policy(self) -> Tensor:
        found = getattr(self.expert, "table", self.expert)
        if isinstance(found, Tensor) and found.dim() == 3:
            return found
        return as_table(self.mdp, self.expert, "expert")

    def visits(self) -> Visits:
        """The expert's visits of states and actions: those of one episode, by time if T is set.

        Raises
        ------
        OptionError
            If nothing but feature expectations are known.
        """
        given = self.expert
        if isinstance(given, Trajectories):
            given = Visits.from_trajectories(self.mdp, given, self.horizon, discounted=True)
        if isinstance(given, Visits):
            sizes = (self.mdp.n_states, self.mdp.n_actions)
            expected = sizes if self.horizon is None else (self.horizon, *sizes)
            if given.counts.shape != expected:
                raise OptionError(
                    f"expert: expected visits {expected}, got {tuple(given.counts.shape)}"
                )
            return Visits(given.counts / given.episodes)
        if not callable(given) and not hasattr(given, "table") and np.ndim(given) == 1:
            raise OptionError("expert: expected a policy, trajectories or Visits, got features")
        return Visits.from_policy(self.mdp, self._policy(), self.horizon)

    @property
    def length(self) -> float:
        """Σ_t γ^t, the discounted number of steps of the longest episode."""
        gamma, steps = self.mdp.discount, self.horizon
        if gamma == 1:
            return float("inf") if steps is None else float(steps)
        return (1 - (0.0 if steps is None else gamma**steps)) / (1 - gamma)

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and largest value that a feature expectation can take."""
        given, low, high = self.linear.features, 0.0, 1.0
        if isinstance(given, Tensor):
            there = given[self.mdp.alive > 0]
            low, high = float(there.min()), float(there.max())
        if self.mdp.sink is not None:  # an episode may end at any time
            low, high = min(low, 0.0), max(high, 0.0)
        return low * self.length, high * self.length

    # -- the steps of the loop that know the process -----------------------------------------

    def reward(self, weights: Tensor) -> Tensor:
        """ψ·w, [S] or [S, A]."""
        return self.linear.table({"reward_weights": weights})

    def plan(self, weights: Tensor) -> Tensor:
        """An optimal policy for the reward ψ·w, [S, A] or [T, S, A].

        For a reward of zero it is the uniform one, as good as any.
        """
        if not bool((weights != 0).any()):
            sizes = (self.mdp.n_states, self.mdp.n_actions)
            lead = () if self.horizon is None else (self.horizon,)
            return torch.full((*lead, *sizes), 1 / sizes[1], dtype=torch.float64)
        reward = self.reward(weights)
        if self.horizon is None:
            # A handful of solves, where they can be had, instead of hundreds of sweeps.
            plan = value_iteration if self.mdp.is_sparse else policy_iteration
            return plan(self.mdp, reward=reward).policy
        return backward_induction(self.mdp, self.horizon, reward=reward).policy

    def occupancy(self, policy: Tensor) -> Tensor:
        """Discounted visits of one episode, [S, A]; 0 in the sink."""
        if self.horizon is None:
            found = state_action_occupancy(self.mdp, policy)
        else:
            found = horizon_occupancy(self.mdp, policy, self.horizon)
        return found * self.mdp.alive.unsqueeze(-1)

    def met(self, policy: Tensor, number: int = 0) -> Tensor:
        """μ(π): feature expectations [F], exact or from ``episodes``."""
        if self.episodes is None:
            return self.linear.met(self.occupancy(policy))
        steps = self.horizon or _steps(self.mdp.discount)
        seen = rollout_tabular(self.mdp, policy, self.episodes, steps, seed_of(self.seed, number))
        going = seen.actions >= 0
        weights = (self.mdp.discount ** torch.arange(steps).double()).expand_as(going)[going]
        place = seen.states[:, :-1][going] * self.mdp.n_actions + seen.actions[going]
        sizes = (self.mdp.n_states, self.mdp.n_actions)
        flat = torch.bincount(place, weights, sizes[0] * sizes[1]) / self.episodes
        return self.linear.met(flat.reshape(sizes))

    def blend(self, policies: Tensor, mixture: Tensor) -> Tensor:
        """The one policy that goes where a mixture of policies goes, [S, A] or [T, S, A].

        A policy that is drawn for a whole episode has the visits Σ α_k ρ_k; the policy
        Σ α_k ρ_k(s, a) / Σ α_k ρ_k(s) has the same (Puterman 1994, theorem 5.5.1).
        """
        if self.horizon is None:
            visits = state_action_occupancy(self.mdp, policies)
        else:
            where = state_marginals(self.mdp, policies)[..., :-1, :]
            visits = where.unsqueeze(-1) * policies
        shares = mixture.reshape(-1, *(1,) * (policies.dim() - 1))
        total = (shares * visits).sum(0)
        there = total.sum(-1, keepdim=True)
        # Where none of them goes nothing is decided.
        plain = (shares * policies).sum(0)
        found = torch.where(there > 0, total / torch.where(there > 0, there, 1.0), plain)
        return found / found.sum(-1, keepdim=True)


def _steps(discount: float) -> int:
    """Steps after which less than a millionth of an episode's discounted length is left."""
    if discount == 1:
        raise OptionError("episodes: with discount 1, sampled episodes need a horizon")
    return 1 if discount == 0 else max(1, int(np.ceil(np.log(1e-6) / np.log(discount))))
