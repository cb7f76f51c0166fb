"""The program of trajectories: how episodes start, what is done, and what follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.envs._episodes import ranges
from likely.models._data import as_outcomes, as_size, as_weights, plate_rows, plate_weights
from likely.models._mixture_policy import MixturePolicy
from likely.models._policy_base import Policy, Sites, float_like
from likely.models._start_states import States
from likely.models._trajectory_simulation import simulated
from likely.models.dynamics import Dynamics

Params = Mapping[str, Tensor]


class _Counts(NamedTuple):
    """How often episodes [E] and steps [N] count; None for once."""

    episode: Tensor | None
    step: Tensor | None
    by_step: bool
    signed: bool


@dataclass(frozen=True, eq=False)
class TrajectoryModel:
    r"""Trajectories of a policy in an environment.

    .. math:: p(\tau) = p(s_0) \prod_t \pi(a_t \mid s_t) \, P(s_{t+1} \mid s_t, a_t)

    (Sutton & Barto 2018, "Reinforcement Learning", equation 3.2 and section 13.1.) With the policy
    alone, states are given and what is left is behaviour cloning: the regression of actions on
    states. Weights make the same program a policy gradient, whose derivative is
    Σ w_t ∇ log π(a_t | s_t).

    Parameters
    ----------
    policy
        `TabularPolicy`, `SoftmaxPolicy`, `GaussianPolicy`, `ModulePolicy` or `MixturePolicy`.
    dynamics
        P: `TabularDynamics` or `LinearGaussianDynamics`; None where states are given.
    state_marginal
        `TabularStates` or `GaussianStates`. With dynamics, where episodes start; without, what
        every state is drawn from, q(s) of the factorised model Π q(s_t) π(a_t | s_t).
    padded
        Lay episodes out as blocks [episode, step], masked where they have ended, with discrete
        latents as sites that engines enumerate. The same density as flat rows, but slower.

    Notes
    -----
    Sites are those of the parts, and observed: ``action`` and, with them, ``next_state``,
    ``first_state`` and ``state``. Plates: ``step`` has all N steps of all episodes, ``episode``
    the E episodes; with ``padded`` the first has as many as the longest episode, inside the second.
    One action is one observation; of a mixture with a mode for each episode, all actions of an
    episode are.

    Trajectories without actions are simulated: an action for each state. Where they come with
    dynamics, and an engine fits them, Discrete actions are latents, summed out: states were seen
    and actions were not.

    Examples
    --------
    >>> from likely.models import TabularPolicy
    >>> demonstrations = Trajectories.from_arrays([[0, 1, 0, 1]], [[0, 1, 1]])
    >>> model = TrajectoryModel(TabularPolicy(2, 2))
    >>> model.initial(demonstrations)["policy"].tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """

    policy: Policy
    dynamics: Dynamics | None = None
    state_marginal: States | None = None
    padded: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("policy", Policy), ("dynamics", Dynamics), ("state_marginal", States)):
            value = getattr(self, name)
            if not isinstance(value, kind) and (name == "policy" or value is not None):
                raise DataError(f"{name}: expected one of likely.models, got {value!r}")
        if not isinstance(self.padded, bool):
            raise DataError(f"padded must be True or False, got {self.padded!r}")

    # -- the program -------------------------------------------------------------------------

    def __call__(
        self,
        trajectories: Trajectories | None = None,
        *,
        episodes: int | None = None,
        steps: int | None = None,
        weights: Any = None,
        signed: bool = False,
    ) -> Any:
        """Run the program.

        Parameters
        ----------
        trajectories
            What was seen. Without actions, these are simulated; left out, whole episodes are.
        episodes, steps
            How many episodes of how many steps to simulate.
        weights
            How often each episode counts, [E], or each step, [N]; at least 0.
        signed
            Whether weights may be negative, as advantages are. Such a density has a gradient, which
            is what it is for, but perhaps no maximum.

        Returns
        -------
        Tensor or Trajectories
            The actions [N, *action], given or simulated; or whole simulated trajectories.

        Raises
        ------
        DataError
            If spaces do not fit the parts, weights do not fit the trajectories, or whole episodes
            are asked for without dynamics and a distribution of their first states.
        """
        if trajectories is None:
            return self._simulate(episodes, steps)
        data = self._checked(trajectories)
        if episodes is not None or steps is not None:
            raise DataError("episodes, steps: expected None, as the trajectories know theirs")
        counts = self._counts(data, weights, signed)
        sites = self.policy.sample_sites(data.states)
        like = float_like(data.states)
        if self.dynamics is not None:
            sites |= self.dynamics.sample_sites(like, self.policy.action_width)
        if self.state_marginal is not None:
            sites |= self.state_marginal.sample_sites(like)
        return (self._blocks if self.padded else self._rows)(data, sites, counts)

    def _simulate(self, episodes: int | None, steps: int | None) -> Trajectories:
        if self.dynamics is None or self.state_marginal is None:
            raise DataError(
                "trajectories: expected some, as a program without dynamics and state_marginal "
                "cannot simulate states"
            )
        if episodes is None or steps is None:
            raise DataError("give trajectories, or the numbers of episodes and steps to simulate")
        size = as_size(episodes, "episodes"), as_size(steps, "steps")
        return simulated(self.policy, self.dynamics, self.state_marginal, *size)

    def _rows(self, data: Trajectories, sites: Sites, counts: _Counts) -> Tensor:
        """All steps side by side."""
        device, policy = str(data.states.device), self.policy
        whole = isinstance(policy, MixturePolicy) and policy.per == "episode"
        starts = self.dynamics is not None and self.state_marginal is not None
        mode, actions, n = None, data.actions, data.n_steps
        if whole or starts:
            with pyro.plate("episode", len(data), device=device) as index:
                rows = plate_rows(index, len(data), data.states.device)
                if starts and self.state_marginal is not None:
                    first = self.state_marginal.distribution(sites)
                    with _weighed(counts.episode, rows, counts.signed):
                        pyro.sample("first_state", first, obs=data.first_states[rows])
                if whole and actions is not None:
                    self._observe_episodes(data, sites, counts, rows)
                elif whole:
                    mode = pyro.sample("mode", dist.Categorical(sites["mode_weights"]))
                    mode = mode[..., data.episode]
        if whole and actions is not None and self.dynamics is None and self.state_marginal is None:
            return actions
        with pyro.plate("step", n, device=device) as index:
            rows = plate_rows(index, n, data.states.device)
            with _weighed(counts.step, rows, counts.signed):
                states = data.step_states[rows]
                if self.state_marginal is not None and self.dynamics is None:
                    pyro.sample("state", self.state_marginal.distribution(sites), obs=states)
                given = None if actions is None else actions[rows]
                if not whole or given is None:
                    chosen = None if mode is None else mode[..., rows]
                    given = self._act(sites, states, given, chosen)
                if self.dynamics is not None:
                    after = self.dynamics.distribution(sites, states, given)
                    pyro.sample("next_state", after, obs=data.next_states[rows])
        return given if actions is None else actions

    def _act(self, sites: Sites, states: Tensor, actions: Tensor | None, mode: Any) -> Tensor:
        """Sample ``action`` inside the plate of the steps."""
        policy = self.policy
        if not isinstance(policy, MixturePolicy):
            fn = policy.distribution(sites, states)
        elif actions is not None and mode is None:
            fn = policy.summed(sites, states, observed=actions)
        else:
            if mode is None:
                mode = pyro.sample("mode", dist.Categorical(sites["mode_weights"]))
            fn = policy.selected(sites, states, mode)
        found: Tensor = pyro.sample("action", fn, obs=actions)
        return found

    def _observe_episodes(
        self, data: Trajectories, sites: Sites, counts: _Counts, rows: Tensor | slice
    ) -> None:
        """Observe all actions of each episode at once, their mode summed out."""
        assert isinstance(self.policy, MixturePolicy)
        part, each = data, counts.step if counts.by_step else None
        if isinstance(rows, Tensor):
            if each is not None:
                each = each[ranges(data.starts[rows], data.lengths[rows])]
            part = data[rows]
        fn = self.policy.summed(sites, part.step_states, part.episode, each, part.actions)
        outside = None if counts.by_step else counts.episode
        with _weighed(outside, rows, counts.signed):
            pyro.sample("action", fn, obs=part.actions)

    def _blocks(self, data: Trajectories, sites: Sites, counts: _Counts) -> Tensor:
        """Episodes below each other, masked where they have ended."""
        device, block = data.states.device, data.padded()
        longest = block.mask.shape[1]
        by_step = by_episode = None
        if counts.by_step and counts.step is not None:
            by_step = counts.step.new_zeros(block.mask.shape)
            by_step[block.mask] = counts.step
        elif counts.episode is not None:
            by_episode = counts.episode.unsqueeze(-1)
        episode = pyro.plate("episode", len(data), dim=-2, device=str(device))
        step = pyro.plate("step", longest, dim=-1, device=str(device))
        policy, mode = self.policy, None
        with episode as index:
            rows = plate_rows(index, len(data), device)
            mask: Any = block.mask[rows]
            # One weight around all that an episode's mode touches, so that it can be summed out.
            with _weighed(by_episode, rows, counts.signed):
                if self.dynamics is not None and self.state_marginal is not None:
                    first = block.states[rows][:, :1]
                    pyro.sample("first_state", self.state_marginal.distribution(sites), obs=first)
                if isinstance(policy, MixturePolicy) and policy.per == "episode":
                    mode = pyro.sample("mode", dist.Categorical(sites["mode_weights"]))
                with step, poutine.mask(mask=mask), _weighed(by_step, rows, counts.signed):
                    states = block.states[rows][:, :-1]
                    if self.state_marginal is not None and self.dynamics is None:
                        pyro.sample("state", self.state_marginal.distribution(sites), obs=states)
                    given = None if block.actions is None else block.actions[rows]
                    if isinstance(policy, MixturePolicy) and mode is None:
                        mode = pyro.sample("mode", dist.Categorical(sites["mode_weights"]))
                    given = self._act(sites, states, given, mode)
                    if self.dynamics is not None:
                        after = self.dynamics.distribution(sites, states, given)
                        pyro.sample("next_state", after, obs=block.states[rows][:, 1:])
        if data.actions is not None:
            return data.actions
        kept = (..., mask) if policy.discrete else (..., mask, slice(None))
        found: Tensor = given[kept]
        return found

    # -- hooks -------------------------------------------------------------------------------

    @property
    def exchangeable(self) -> tuple[str, ...]:
        """The modes of a mixture may come in any order."""
        return ("expert",) if isinstance(self.policy, MixturePolicy) else ()

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions of each site."""
        policy = self.policy
        inner = policy.policy if isinstance(policy, MixturePolicy) else policy
        found = {**inner.dims, "mode_weights": ("expert",), "mode": ("expert",)}
        for part in (self.dynamics, self.state_marginal):
            found |= {} if part is None else part.dims
        # A module's parameters have no names for their dimensions.
        return {n: names for n, names in found.items() if not names or not names[0].startswith(n)}

    def coords(self, trajectories: Trajectories | None = None, **options: Any) -> dict[str, Any]:
        """Labels of the dimensions: the user's own ids of the episodes."""
        found = self.policy.coords(trajectories)
        for part in (self.dynamics, self.state_marginal):
            found |= {} if part is None else part.coords()
        if trajectories is not None:
            found["episode"] = trajectories.episodes.tolist()
        return found

    def initial(
        self, trajectories: Trajectories | None = None, *, weights: Any = None, **options: Any
    ) -> Sites:
        """Start at weighted counts and least squares, where these are the maximum already."""
        if trajectories is None or trajectories.actions is None:
            return {}
        data = self._checked(trajectories)
        counts = self._counts(data, weights, bool(options.get("signed", False)))
        # What counts against an action is no count.
        each = None if counts.step is None else counts.step.clamp_min(0.0)
        states, actions = data.state_action_pairs()
        if isinstance(self.policy, MixturePolicy):
            rows = torch.arange(data.n_steps, device=states.device)
            group = data.episode if self.policy.per == "episode" else rows
            found = self.policy.start(states, actions, each, group)
        else:
            found = self.policy.initial(states, actions, each)
        if self.dynamics is not None:
            found |= self.dynamics.initial(states, actions, data.next_states, each)
        if self.state_marginal is not None:
            found |= self.state_marginal.initial(*self._marginal_rows(data, counts))
        return found

    def m_step(
        self,
        expected: Mapping[str, Any],
        params: Params,
        trajectories: Trajectories | None = None,
        *,
        objective: str,
        weights: Any = None,
        signed: bool = False,
        **options: Any,
    ) -> Sites:
        """Weighted least squares of normal parts, by mode; tables are for the engine."""
        if trajectories is None or trajectories.actions is None or signed:
            return {}
        data = self._checked(trajectories)
        counts = self._counts(data, weights, signed)
        states, actions = data.state_action_pairs()
        if isinstance(self.policy, MixturePolicy):
            shares = self._shares(data, expected, counts)
            found = self.policy.m_step_by(states, actions, shares, objective)
        else:
            found = self.policy.m_step(states, actions, counts.step, objective)
        if self.dynamics is not None:
            rows = (states, actions, data.next_states, counts.step)
            found |= self.dynamics.m_step(*rows, objective)
        if self.state_marginal is not None:
            rows_of = self._marginal_rows(data, counts)
            found |= self.state_marginal.m_step(*rows_of, objective)
        return found

    def _shares(self, data: Trajectories, expected: Mapping[str, Any], counts: _Counts) -> Tensor:
        """Responsibilities [N, M] of the modes for the steps, times their weights."""
        if not self.padded:
            shares: Tensor = expected["action"]["actions"]
            return shares
        given = expected["mode"]
        by_episode = isinstance(self.policy, MixturePolicy) and self.policy.per == "episode"
        found: Tensor
        found = given.flatten(0, -2)[data.episode] if by_episode else given[data.padded().mask]
        return found if counts.step is None else found * counts.step.unsqueeze(-1)

    def _marginal_rows(self, data: Trajectories, counts: _Counts) -> tuple[Tensor, Tensor | None]:
        """The states that ``state_marginal`` is about, and their weights."""
        if self.dynamics is not None:
            return data.first_states, counts.episode
        return data.step_states, counts.step

    def _checked(self, data: Any) -> Trajectories:
        if not isinstance(data, Trajectories):
            raise DataError(f"trajectories: expected Trajectories, got {type(data).__name__}")
        for part in (self.policy, self.dynamics, self.state_marginal):
            if part is not None:
                part.check(data)
        return data

    def _counts(self, data: Trajectories, weights: Any, signed: bool) -> _Counts:
        if weights is None:
            return _Counts(None, None, False, signed)
        like = float_like(data.states)
        length = len(weights) if hasattr(weights, "__len__") else 0
        if length not in (len(data), data.n_steps):
            raise DataError(
                f"weights: expected one for each of {len(data)} episodes or {data.n_steps} steps, "
                f"got {length or weights!r}"
            )
        found = as_outcomes(weights, "weights", length, like) if signed else None
        if found is None:
            found = as_weights(weights, length, like)
            assert found is not None
        if length == len(data):
            return _Counts(found, found[data.episode], False, signed)
        whole = isinstance(self.policy, MixturePolicy) and self.policy.per == "episode"
        if whole and self.padded:
            raise DataError("weights: expected one an episode, as all its steps have one mode")
        return _Counts(None, found, True, signed)


@contextmanager
def _weighed(weights: Tensor | None, rows: Tensor | slice, signed: bool) -> Iterator[None]:
    """Weigh the sites inside, as `plate_weights`; negative weights turn a density's sign."""
    if weights is None or not signed:
        with plate_weights(weights, rows):
            yield
        return
    chosen = weights[rows]
    scale = torch.where(chosen == 0, torch.finfo(chosen.dtype).tiny, chosen)
    # Pyro's check of scales is for weights of data.
    with pyro.validation_enabled(False):
        handler = poutine.scale(scale=scale)
    with handler, poutine.mask(mask=chosen != 0):  # type: ignore[call-overload]
        yield
