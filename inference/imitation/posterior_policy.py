"""A posterior over policies at work: integrated over, or one of its policies an episode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.envs import DataError, EpisodeRandom
from likely.envs._randomness import choose
from likely.inference.engines.checks import check_bool, check_choice, check_int
from likely.inference.errors import FitError, OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.acting import ActingPolicy, Array
from likely.inference.imitation.result import Imitation
from likely.models.policy import MixturePolicy
from likely.models.trajectory import TrajectoryModel


@dataclass(frozen=True, eq=False)
class PosteriorPolicy:
    r"""Actions of a posterior over policies, as `likely.envs.rollout` takes them.

    Made by `posterior_policy`.

    Parameters
    ----------
    members
        The policies of the posterior's draws.
    per
        ``"step"``: a draw for each action, the predictive mixture
        :math:`\bar\pi(a \mid s) = \mathbb{E}[\pi_\theta(a \mid s)]`. ``"episode"``: one draw for
        all actions of an episode (Thompson 1933).
    greedy
        Take the most probable action of the mixture, or of the episode's draw.
    """

    members: tuple[ActingPolicy, ...]
    per: str
    greedy: bool = False

    def __call__(self, observations: Any, rng: Any) -> Array:
        """Actions [n, *action] for observations [n, *state], drawn with numbers of ``rng``.

        One draw an episode needs an `EpisodeRandom`, which `likely.envs.rollout` gives; any other
        generator takes a draw for each row.
        """
        seen = np.asarray(observations)
        if self.per == "step" and self.members[0].policy.discrete:
            rows = self.probabilities(seen).numpy()
            return rows.argmax(-1) if self.greedy else choose(rows, rng.random(len(rows)))
        own = self.per == "episode" and isinstance(rng, EpisodeRandom)
        uniform = np.asarray(rng.constants if own else rng.random(len(seen)))
        scaled = uniform * len(self.members)
        which = np.minimum(scaled.astype(int), len(self.members) - 1)
        actions: Array | None = None
        for number in np.unique(which):
            rows = np.flatnonzero(which == number)
            part = rng
            if isinstance(rng, EpisodeRandom):
                # What is left of a uniform number is uniform again: for the policy's own mode.
                rest = (scaled - which)[rows] if own else np.asarray(rng.constants)[rows]
                part = EpisodeRandom([rng.generators[i] for i in rows], rest)
            found = self.members[int(number)](seen[rows], part)
            if actions is None:
                actions = np.empty((len(seen), *found.shape[1:]), found.dtype)
            actions[rows] = found
        assert actions is not None
        return actions

    def probabilities(self, states: Any) -> Tensor:
        r"""The predictive mixture's probabilities of Discrete actions, [n, A], in states."""
        if self._tables is not None:
            return self._tables[torch.as_tensor(np.asarray(states)).long()]
        return torch.stack([one.probabilities(states) for one in self.members]).mean(0)

    @cached_property
    def _tables(self) -> Tensor | None:
        if not self.members[0].is_table:
            return None
        return torch.stack([one.table for one in self.members]).mean(0)

    @property
    def table(self) -> Tensor:
        """The predictive mixture π̄(a | s) of Discrete states and actions, float64 [S, A].

        Raises
        ------
        DataError
            If states or actions are not Discrete, or an episode has one draw for all its actions:
            these depend on what was done before.
        """
        if self.per == "episode":
            raise DataError("policy: one draw an episode is not a table of steps; play episodes")
        found = self._tables
        if found is None:
            raise DataError("policy: only one with Discrete states and actions has a table")
        if not self.greedy:
            return found
        return torch.nn.functional.one_hot(found.argmax(-1), found.shape[-1]).to(found)


def posterior_policy(
    found: Imitation | Fit, per: str = "step", *, draws: int = 200, greedy: bool = False
) -> PosteriorPolicy:
    """Act by a whole posterior over policies instead of its mean.

    Parameters
    ----------
    found
        A result or a fit of `TrajectoryModel` with posterior draws.
    per
        ``"step"``: the predictive mixture, the best guess of the expert's next action; an episode
        mixes policies that each would have kept to one way. ``"episode"``: one policy of the
        posterior for all of it.
    draws
        Most draws that are used, evenly spread; a step of the mixture evaluates all of them.
    greedy
        Take the most probable action instead of drawing one.

    Raises
    ------
    FitError
        For a point fit, or one that is not of `TrajectoryModel`.
    OptionError
        If an option cannot be used, or modes of whole episodes are to change from step to step.

    Examples
    --------
    >>> from likely.envs import Trajectories
    >>> from likely.inference import VBEM
    >>> from likely.inference.imitation import behaviour_cloning
    >>> from likely.models import TabularPolicy
    >>> seen = Trajectories.from_arrays([[0] * 9], [[0] * 8], state_space=1, action_space=2)
    >>> clone = behaviour_cloning(seen, TabularPolicy(1, 2), VBEM())
    >>> acts = posterior_policy(clone)
    >>> bool((acts.table[0, 0] - 0.9).abs() < 0.05)
    True
    """
    check_choice("per", per, ("step", "episode"))
    check_int("draws", draws, 1)
    check_bool("greedy", greedy)
    fit = found.fit if isinstance(found, Imitation) else found
    model, values = posterior_draws(fit, draws, "posterior_policy")
    policy = model.policy
    if isinstance(policy, MixturePolicy) and policy.per == "episode" and per == "step":
        raise OptionError(
            "per: a policy with a mode for each episode has no mixture of steps; use per='episode'"
        )
    program = fit.bound("posterior_policy")
    seen = (*program.source_args, program.source_kwargs.get("trajectories"))[0]
    spaces = seen.state_space, seen.action_space
    # The mixture is made of the policies, and its most probable action not of theirs.
    own = greedy and not (per == "step" and policy.discrete)
    members = tuple(ActingPolicy(policy, value, *spaces, own) for value in values)
    return PosteriorPolicy(members, per, greedy)


def posterior_draws(
    fit: Fit, draws: int, purpose: str
) -> tuple[TrajectoryModel, list[dict[str, Tensor]]]:
    """The program of a posterior over policies, and draws of its sites.

    Raises
    ------
    FitError
        For a point fit, or one that is not of `TrajectoryModel`, naming the ``purpose``.
    """
    if fit.is_point or next(iter(fit.draws.values())).shape[:2].numel() < 2:
        raise FitError(
            f"{purpose} needs posterior draws and {fit.engine!r} gives a point; fit the policy "
            "with VBEM, Laplace, SVI or NUTS"
        )
    model = fit.bound(purpose).source
    if not isinstance(model, TrajectoryModel):
        raise FitError(f"{purpose} is for fits of TrajectoryModel")
    return model, fit.each_draw(draws)
