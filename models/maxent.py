"""Inverse reinforcement learning as a program: actions of somebody who is softly optimal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import torch
from pyro.util import ignore_jit_warnings
from torch import Tensor

from likely.envs import (
    DataError,
    Plan,
    TabularMDP,
    Trajectories,
    horizon_occupancy,
    rollout_tabular,
    soft_backward_induction,
    soft_value_iteration,
    state_action_occupancy,
)
from likely.envs._checks import as_double
from likely.envs.planning import as_policy
from likely.models._data import as_size, as_weights, plate_rows, plate_weights
from likely.models._left_open import MOST, shifts
from likely.models._options import check_count, check_number
from likely.models._policy_base import float_like
from likely.models._reward_tables import RewardTable, flattened
from likely.models._sampled_maxent import SampledMaxEntIRL, TiltedSamples, trajectory_features
from likely.models._shared_rewards import as_reward_table
from likely.models._soft_policy import LogRows, soft_log_policy
from likely.models._visits import Visits, check_fits
from likely.models.policy import without_rows

__all__ = ["MaxEntIRL", "SampledMaxEntIRL", "TiltedSamples", "Visits", "trajectory_features"]

Params = Mapping[str, Any]


class _Rows(NamedTuple):
    """What was done where: rows of the policy's table, actions, and how often they count."""

    row: Tensor
    action: Tensor | None
    weight: Tensor | None
    like: Tensor


@dataclass(frozen=True, eq=False)
class MaxEntIRL:
    r"""Maximum causal entropy inverse reinforcement learning.

    .. math:: r(s) = w^\top \psi(s), \qquad w \sim \mathcal{N}(0, \sigma^2), \qquad
              a_t \mid s_t \sim \pi_w(\cdot \mid s_t), \qquad
              \pi_w = \arg\max_\pi \mathbb{E} \sum_t \gamma^t (r(s_t) + \lambda H(\pi(\cdot \mid
              s_t)))

    (Ziebart 2010, "Modeling purposeful adaptive behavior", chapters 5 and 9; with a posterior, the
    Bayesian inverse reinforcement learning of Ramachandran & Amir 2007 with this policy for its
    likelihood.) Dynamics may be stochastic. The policy is the differentiable soft optimum, so any
    engine fits the program; the gradient of the log-likelihood is λ⁻¹ (μ_E − E[μ]), features of
    the data minus those that the policy meets, from one forward pass of occupancies (see
    `soft_log_policy`).

    **Not every weight can be known.** Adding c (1 − γ) to every step's reward and c to all ends
    changes no policy; neither do a constant on all states over an undiscounted horizon, or any
    F(s) − γ E F(s') where features can express it. Indicators of cells can. There the likelihood
    is flat: MLE finds one of many rewards, all with the same policy, and says so. Hold on to a
    prior (``prior_scale``), leave a feature out, which fixes its weight at 0, or put what is known
    into ``known``. Temperature and the size of rewards are one and the same unknown, so λ is given.

    Parameters
    ----------
    mdp
        The process; its own reward has no part in the program.
    features
        ψ: [S, F] or [S, A, F]; or ``"state"``, ``"state-action"`` for one weight each (the sink
        has none, since its reward has no effect). Or a reward with its own prior, as
        `TrajectoryPreference` takes it: a linear one or a network over a table of features, or a
        tabular one.
    horizon
        T; None for an infinite horizon, where the process must end or discount.
    temperature
        λ, in units of the reward.
    prior_scale
        σ, standard deviation of the weights' normal priors; None for flat ones (improper).
    known
        A part of the reward that is known, [S] or [S, A].
    network
        A torch module from ψ [S, F] to rewards [S, 1] in place of the weights, its parameters
        ``pyro.module``'s, without priors; with ``network_scale`` they have normal ones.
    network_scale
        Standard deviation of these.
    base_policy
        π0 [S, A]: the entropy is then −KL(π ‖ π0).
    names
        Of the features, for labels.

    Notes
    -----
    Site ``reward_weights`` [F] (or ``reward$$$...``, ``reward....`` of a network,
    ``reward_table`` of a tabular reward), observed ``action``. The plate ``step`` holds all N steps
    of all episodes, or the kinds of step that `Visits` tell apart, weighted by how often they
    occurred: as fast for a million episodes as for one. Trajectories without actions are
    simulated, an action for each state.

    Every action counts once, which makes the posterior what it says it is. With γ < 1 the maximum
    of that likelihood need not meet the data's discounted features; that of
    ``Visits.from_trajectories(..., discounted=True)`` does.

    Examples
    --------
    Two rooms and a preference for the second:

    >>> rooms = TabularMDP([[[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]]], [0.0, 0.0], 0.9, 0)
    >>> program = MaxEntIRL(rooms, [[0.0], [1.0]])
    >>> program.policy({"reward_weights": [2.0]})
    tensor([[0.1419, 0.8581],
            [0.1419, 0.8581]], dtype=torch.float64)
    """

    mdp: TabularMDP
    features: Any = "state"
    horizon: int | None = None
    temperature: float = 1.0
    prior_scale: float | None = 10.0
    known: Any = None
    network: torch.nn.Module | None = None
    network_scale: float | None = None
    base_policy: Any = None
    names: Sequence[str] = ()
    reward_part: RewardTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.mdp, TabularMDP):
            raise DataError(f"mdp: expected a TabularMDP, got {type(self.mdp).__name__}")
        if self.horizon is not None:
            check_count(self.horizon, "horizon", 1)
        check_number(self.temperature, "temperature", positive=True)
        scale = self.prior_scale if self.network is None else self.network_scale
        if scale is not None:
            check_number(scale, "prior_scale", positive=True)
        if self.network is None and self.network_scale is not None:
            got = self.network_scale
            raise DataError(f"network_scale: expected None without a network, got {got!r}")
        part = as_reward_table(self.mdp, self.features, scale, self.names, self.network)
        object.__setattr__(self, "reward_part", part)
        if self.known is not None:
            known, sizes = as_double(self.known, "known"), (self.mdp.n_states, self.mdp.n_actions)
            if known.shape not in (sizes[:1], sizes):
                raise DataError(
                    f"known: expected [S] or [S, A] with {sizes}, got {tuple(known.shape)}"
                )
            object.__setattr__(self, "known", known)
        if self.base_policy is not None:
            base = as_policy(self.mdp, self.base_policy, "base_policy")
            if base.dim() != 2:
                raise DataError(f"base_policy: expected [S, A], got {tuple(base.shape)}")
            object.__setattr__(self, "base_policy", base)

    # -- the program -------------------------------------------------------------------------

    def __call__(
        self,
        data: Trajectories | Visits | None = None,
        *,
        episodes: int | None = None,
        steps: int | None = None,
        weights: Any = None,
    ) -> Any:
        """Run the program.

        Parameters
        ----------
        data
            `Trajectories`, whose actions are simulated if it has none; or `Visits`.
        episodes, steps
            How many episodes of at most how many steps to simulate, where there are no data.
        weights
            How often each episode [E] or step [N] of trajectories counts.

        Returns
        -------
        Tensor or Trajectories
            The actions [N]; or whole simulated trajectories.

        Raises
        ------
        DataError
            If data do not fit the process, or weights the data.
        """
        if data is None:
            return self._simulate(episodes, steps)
        if episodes is not None or steps is not None:
            raise DataError("episodes, steps: expected None where there are data")
        seen = self._rows(data, weights)
        logs = self._log_policy(self.reward_part.sample_sites(seen.like))
        table = logs.flatten(-3, -2) if self.horizon is not None else logs
        n = len(seen.row)
        with pyro.plate("step", n, device=str(seen.row.device)) as index:
            rows = plate_rows(index, n, seen.row.device)
            with plate_weights(seen.weight, rows):
                fn = LogRows(table.to(seen.like), seen.row[rows])
                given = None if seen.action is None else seen.action[rows]
                found: Tensor = pyro.sample("action", fn, obs=given)
        return found

    def _log_policy(self, sites: Mapping[str, Tensor]) -> Tensor:
        """log π, [*outside, S, A] or [*outside, T, S, A]."""
        if self.reward_part.batched:
            shapes = self.reward_part.shapes
            sites = {name: without_rows(sites[name], len(own)) for name, own in shapes.items()}
        return soft_log_policy(
            self.mdp,
            self._with_known(self.reward_part.table(dict(sites))),
            self.temperature,
            horizon=self.horizon,
            prior=self.base_policy,
        )

    def _with_known(self, reward: Tensor) -> Tensor:
        if self.known is None:
            return reward
        known = self.known
        if known.dim() == 2 and not self.reward_part.of_actions:
            reward = reward.unsqueeze(-1)
        elif known.dim() == 1 and self.reward_part.of_actions:
            known = known.unsqueeze(-1)
        return reward + known

    def _rows(self, data: Any, weights: Any) -> _Rows:
        if isinstance(data, Visits):
            if weights is not None:
                raise DataError("weights: expected None, as Visits are weights")
            return self._possible(self._counted(data))
        with ignore_jit_warnings():
            check_fits(self.mdp, data, self.horizon)
        like = float_like(data.states)
        row = data.step_states
        if self.horizon is not None:
            row = row + data.step * self.mdp.n_states
        if weights is not None:
            length = len(weights) if hasattr(weights, "__len__") else 0
            if length not in (len(data), data.n_steps):
                raise DataError(
                    f"weights: expected one for each of {len(data)} episodes or {data.n_steps} "
                    f"steps, got {length or weights!r}"
                )
            weights = as_weights(weights, length, like)
            weights = weights[data.episode] if length == len(data) else weights
        return self._possible(_Rows(row, data.actions, weights, like))

    @ignore_jit_warnings()
    def _possible(self, seen: _Rows) -> _Rows:
        """Raise `DataError` for an action that the base policy never takes."""
        if self.base_policy is None or seen.action is None:
            return seen
        state = seen.row.cpu() % self.mdp.n_states
        never = (self.base_policy[state, seen.action.cpu()] == 0) & (self.mdp.alive[state] > 0)
        if bool(never.any()):
            first = int(never.nonzero()[0])
            raise DataError(
                f"base_policy: it never takes action {int(seen.action[first])} in state "
                f"{int(state[first])}, and the data do; {int(never.sum())} kinds of step are so"
            )
        return seen

    def _counted(self, visits: Visits) -> _Rows:
        sizes = (self.mdp.n_states, self.mdp.n_actions)
        expected = sizes if self.horizon is None else (self.horizon, *sizes)
        if visits.counts.shape != expected:
            raise DataError(f"counts: expected {expected}, got {tuple(visits.counts.shape)}")
        flat = visits.counts.flatten()
        kept = flat.nonzero().squeeze(-1)
        return _Rows(kept // sizes[1], kept % sizes[1], flat[kept], flat.new_empty(()))

    def _simulate(self, episodes: int | None, steps: int | None) -> Trajectories:
        if episodes is None or steps is None:
            raise DataError("give data, or the numbers of episodes and steps to simulate")
        count, length = as_size(episodes, "episodes"), as_size(steps, "steps")
        if self.horizon is not None and length > self.horizon:
            raise DataError(f"steps: expected at most {self.horizon}, the horizon, got {length}")
        with torch.no_grad():
            like = torch.empty((), dtype=torch.get_default_dtype())
            policy = self._log_policy(self.reward_part.sample_sites(like)).exp()
            if self.horizon is not None:
                policy = policy[:length]
            seed = int(torch.randint(2**31, ()))
            seen = rollout_tabular(self.mdp, policy, count, length, seed)
        return seen.trajectories(self.mdp).with_rewards(None)

    # -- hooks -------------------------------------------------------------------------------

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions of ``reward_weights``."""
        return self.reward_part.dims

    def coords(self, data: Any = None, **options: Any) -> dict[str, Any]:
        """Names of the features."""
        return self.reward_part.coords()

    def initial(self, data: Any = None, **options: Any) -> dict[str, Tensor]:
        """Start at no reward, where all actions are equally good, or where a network is."""
        return self.reward_part.start(torch.empty((), dtype=torch.get_default_dtype()))

    def left_open(self, params: Params, data: Any = None, **options: Any) -> list[str]:
        """Say which weights the likelihood alone cannot tell, whatever the data."""
        if not self.reward_part.batched:
            return []
        ((site, own),) = self.reward_part.shapes.items()
        if own.numel() > MOST:
            return []
        units = torch.eye(own.numel(), dtype=torch.float64).reshape(-1, *own)
        features = self.reward_part.table({site: units}).movedim(0, -1)
        open_ways = shifts(self.mdp, features, self.horizon, self.base_policy)
        if open_ways.shape[1] == 0:
            return []
        share = open_ways.square().sum(1)
        shown = [str(i) for i in (share > 1e-3 * share.max()).nonzero().squeeze(-1).tolist()]
        names = list(self.coords().get("feature", ()))
        if names:
            shown = [str(names[int(i)]) for i in shown]
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        return [
            f"rewards in {open_ways.shape[1]} direction(s) of '{site}' change no policy, whatever "
            f"was seen, so that these are some of many: entries {', '.join(shown[:5])}{more}. "
            "Leave a feature out, put what is known into known, or hold on to a prior (MAP)"
        ]

    # -- after a fit -------------------------------------------------------------------------

    def reward(self, params: Params) -> Tensor:
        r"""The reward, [\*B, S] or [\*B, S, A].

        Parameters
        ----------
        params
            Site to value: a fit's ``params``, or its ``draws`` [chain, draw, ...]; leading axes \*B
            are kept.
        """
        part = self.reward_part
        sites, batch = flattened(params, {name: len(own) for name, own in part.shapes.items()})
        for name, own in part.shapes.items():
            if sites[name].shape[1:] != own:
                raise DataError(
                    f"params[{name!r}]: expected {tuple(own)} at the end of its shape, got "
                    f"{(*batch, *sites[name].shape[1:])}"
                )
        if part.batched:
            found = part.table(sites)
        else:
            count = len(next(iter(sites.values())))
            with torch.no_grad():
                each = [part.table({n: v[i] for n, v in sites.items()}) for i in range(count)]
            found = torch.stack(each)
        found = self._with_known(found)
        return found.reshape(*batch, *found.shape[1:])

    def plan(self, params: Params) -> Plan:
        r"""Soft-optimal value, Q and policy at values of the sites, with their leading axes \*B."""
        reward, heat, base = self.reward(params), self.temperature, self.base_policy
        if self.horizon is None:
            return soft_value_iteration(self.mdp, heat, reward=reward, prior=base)
        return soft_backward_induction(self.mdp, self.horizon, heat, reward=reward, prior=base)

    def policy(self, params: Params) -> Tensor:
        r"""π, [\*B, S, A] or [\*B, T, S, A]: of a point, or of every draw of a posterior."""
        return self.plan(params).policy

    def occupancy(self, params: Params) -> Tensor:
        r"""Discounted visits of states and actions by the policy, [\*B, S, A]; 0 in the sink."""
        policy = self.policy(params)
        if self.horizon is None:
            found = state_action_occupancy(self.mdp, policy)
        else:
            found = horizon_occupancy(self.mdp, policy)
        return found * self.mdp.alive.unsqueeze(-1)
