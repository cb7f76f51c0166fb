"""Generative adversarial imitation: a discriminator's log-odds are the rewards of a policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from likely.envs import DataError, TabularMDP, Trajectories
from likely.inference.active.answers_log import fingerprint
from likely.inference.engines.checks import check_choice, check_int, check_positive
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation._gradient_options import engine_name, name_of
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.discriminator import Discriminator, rewards_of
from likely.inference.imitation.judged import ends_of, follow
from likely.inference.imitation.playing import spaces
from likely.inference.imitation.policy_gradient import PolicyGradient
from likely.inference.imitation.policy_program import check_playable
from likely.inference.imitation.result import Imitation
from likely.models.policy import Policy

METHOD = "gail"
REWARDS = ("log_ratio", "expert", "not_learner")
# Numbers of a discriminator that go into the record of a result.
_MOST = 10_000


class Adversary:
    """A judge who rewards what it takes for the expert's.

    Parameters
    ----------
    discriminator
        With features.
    expert
        The expert's episodes, as the judge is to see them.
    reward
        As in `rewards_of`.
    discount
        γ.
    memory
        How many of the learner's last batches of episodes it is told apart from.
    limit
        Most log-odds of a step either way.

    Attributes
    ----------
    fit : Fit or None
        The discriminator's last fit.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        expert: Trajectories,
        reward: str = "log_ratio",
        discount: float = 1.0,
        memory: int = 1,
        limit: float | None = None,
    ) -> None:
        check_choice("reward", reward, REWARDS)
        check_int("memory", memory, 1)
        if limit is not None:
            check_positive("limit", limit)
        self.discriminator, self.expert = discriminator, expert
        self.reward, self.discount, self.memory = reward, discount, memory
        self.limit = math.inf if limit is None else float(limit)
        self.fit: Fit | None = None
        self.params: dict[str, Tensor] = {}
        self.past: list[Trajectories] = []

    def learn(self, learner: Trajectories, policy: ActingPolicy) -> dict[str, float]:
        """Fit the discriminator; ``loss``, its mean negative log-likelihood, at most log 2.

        ``accuracy`` is the share that it gets right: ½ where nobody can tell the two apart.
        """
        self.past = [*self.past, learner.with_rewards(None)][-self.memory :]
        against = Trajectories.concat(self.past) if len(self.past) > 1 else self.past[0]
        judge = self.discriminator
        self.fit = judge.fit(self.expert, against, self.params or None, self.discount)
        self.params = self.fit.params
        odds = [judge.odds(self.params, part) for part in (self.expert, learner)]
        right = ((odds[0] > 0).double().mean() + (odds[1] < 0).double().mean()) / 2
        lost = torch.nn.functional.softplus
        loss = (lost(-odds[0]).mean() + lost(odds[1]).mean()) / 2
        return {"loss": float(loss), "accuracy": float(right)}

    def rewards(self, learner: Trajectories, policy: ActingPolicy) -> Tensor:
        """The reward of each step, [N]."""
        ratio = self.discriminator.log_ratio(self.params, learner)
        return rewards_of(ratio.clamp(-self.limit, self.limit), self.reward)

    def state(self) -> dict[str, Any]:
        """What the next fit starts from, and looks at."""
        kept = self.past[-(self.memory - 1) :] if self.memory > 1 else []
        names = ("states", "actions", "lengths", "terminated", "truncated")
        return {
            "params": {name: value.detach().clone() for name, value in self.params.items()},
            "past": [{name: getattr(part, name) for name in names} for part in kept],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.params = dict(state["params"])
        like = self.expert
        self.past = [
            Trajectories.from_arrays(
                **part, state_space=like.state_space, action_space=like.action_space
            )
            for part in state["past"]
        ]

    def record(self) -> dict[str, Any]:
        """The discriminator's values, as lists."""
        if sum(value.numel() for value in self.params.values()) > _MOST:
            return {}
        return {"discriminator": {name: value.tolist() for name, value in self.params.items()}}


def gail(
    env: Any,
    policy: Policy,
    expert: Trajectories,
    *,
    discriminator: Discriminator | None = None,
    reward: str = "log_ratio",
    ends: str = "ignored",
    memory: int = 5,
    limit: float | None = None,
    init: Mapping[str, Any] | Fit | Imitation | None = None,
    path: str | PathLike[str] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Imitation:
    """Imitate until nobody can tell (Ho & Ermon 2016, algorithm 1).

    Each iteration plays episodes, fits a discriminator that tells them from the expert's, and takes
    one policy-gradient step with its log-odds for rewards.

    Parameters
    ----------
    env
        What `likely.envs.rollout` takes, or a `TabularMDP`.
    policy
        Of `likely.models`.
    expert
        Its episodes.
    discriminator
        Program, engine, features, and whether steps or whole trajectories are told apart.
    reward
        ``"log_ratio"``, ``"expert"`` or ``"not_learner"``; see `rewards_of`. The latter two reward
        early, or late, ends in themselves.
    ends
        ``"ignored"``, or ``"absorbed"``: what comes after an early end is a state like others, up
        to the horizon, that the discriminator judges; see `likely.envs.absorbed`.
    memory
        How many of the learner's last batches the discriminator looks at: with one alone, the two
        may chase each other in circles.
    limit
        Most log-odds of a step either way, nats; by default none. A discriminator that is sure of
        itself makes rewards in which the next small improvement cannot be seen.
    init, path, callback, env_options
        As in `policy_gradient`.
    **options
        Of `PolicyGradient`; by default trust-region steps of radius 0.01 along generalised
        advantages, normalised. ``anneal=0.05`` lets the policy settle: its rewards are noise once
        nobody can tell, and a step still is as long as its radius.

    Returns
    -------
    Imitation
        ``history`` has a row for each iteration: the discriminator's ``reward`` and the
        environment's ``return`` of an episode, ``length``, ``entropy``, ``kl``, the discriminator's
        ``loss`` (log 2 at most) and ``accuracy`` (½ where nobody can tell), ``seconds``.
        ``extra["discriminator"]`` has the values of the discriminator's sites.

    Raises
    ------
    OptionError
        If an option cannot be used.
    DataError
        If the expert's episodes do not fit the environment or the policy.
    FitError
        If ``path`` holds another run.

    Examples
    --------
    >>> from likely.models import TabularPolicy
    >>> choice = TabularMDP([[[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2], [[0.0, 0.0], [0.0, 0.0]],
    ...                     discount=1, initial=0, sink=1)
    >>> expert = Trajectories.from_arrays([[0, 1]] * 4, [[1], [1], [1], [0]])
    >>> found = gail(choice, TabularPolicy(2, 2), expert, iterations=30, horizon=1, episodes=200)
    >>> bool(0.6 < found.table[0, 1] < 0.9)  # the expert's share is 0.75
    True
    """
    given = {"step": "trust_region", "radius": 0.01, "weight": "gae", "normalize": True, **options}
    steps = PolicyGradient(**given)
    if not isinstance(expert, Trajectories):
        raise OptionError(f"expert: expected Trajectories, got {type(expert).__name__}")
    check_playable(env, policy)
    policy.check(expert)
    if discriminator is not None and not isinstance(discriminator, Discriminator):
        raise OptionError(f"discriminator: expected a Discriminator, got {discriminator!r}")
    gamma = steps.discount
    if gamma is None:
        gamma = env.discount if isinstance(env, TabularMDP) else 1.0
    seen = ends_of(ends, env, steps.horizon, gamma).seen(
        fitting(expert, env, **dict(env_options or {})).with_rewards(None)
    )
    judge = (discriminator or Discriminator()).for_expert(seen)
    adversary = Adversary(judge, seen, reward, gamma, memory, limit)
    about = {
        "reward": reward,
        "memory": memory,
        "limit": limit,
        "over": judge.over,
        "discriminator": type(judge.program).__name__,
        "engine": engine_name(judge.engine),
        "features": name_of(None if discriminator is None else discriminator.features),
        "expert": fingerprint({"states": expert.states, "actions": expert.actions}),
    }
    return follow(
        METHOD,
        env,
        policy,
        adversary,
        steps,
        ends=ends,
        init=init,
        path=path,
        callback=callback,
        env_options=env_options,
        about=about,
        extra=adversary.record,
    )


def fitting(expert: Trajectories, env: Any, **options: Any) -> Trajectories:
    """The expert's episodes in the spaces of an environment, which may have more than occurs.

    Raises
    ------
    DataError
        If they are of another environment.
    """
    found = []
    for name, space in zip(("state", "action"), spaces(env, **options), strict=True):
        own = getattr(expert, f"{name}_space")
        if isinstance(own, Discrete) != isinstance(space, Discrete) or own.shape != space.shape:
            raise DataError(f"expert: expected {name}s in {space}, got {own}")
        found.append(space if isinstance(space, Discrete) else own)
    return Trajectories.from_arrays(
        expert.states,
        expert.actions,
        expert.rewards,
        lengths=expert.lengths,
        terminated=expert.terminated,
        truncated=expert.truncated,
        state_space=found[0],
        action_space=found[1],
    )
