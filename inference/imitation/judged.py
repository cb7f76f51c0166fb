"""Policy gradients whose rewards a judge makes up, who learns as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Protocol

import gymnasium
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from likely.envs import TabularMDP, Trajectories, absorbed
from likely.inference.checkpoints import seed_of
from likely.inference.engines.checks import check_choice
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation._loop import Rounds
from likely.inference.imitation._unbounded import environment_name, unbounded
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.playing import play, spaces
from likely.inference.imitation.policy_gradient import PolicyGradient
from likely.inference.imitation.policy_program import check_playable
from likely.inference.imitation.result import Imitation
from likely.models.policy import Policy

ENDS = ("ignored", "absorbed")
COLUMNS = ("iteration", "reward", "return", "length", "entropy", "kl")


class Judge(Protocol):
    """Makes rewards of what a learner does."""

    def learn(self, learner: Trajectories, policy: ActingPolicy) -> dict[str, float]:
        """Look at new episodes of a policy; facts for the history."""
        ...

    def rewards(self, learner: Trajectories, policy: ActingPolicy) -> Tensor:
        """Rewards [N] of the steps of a policy's episodes."""
        ...

    def state(self) -> dict[str, Any]:
        """What the next round depends on, as tensors and plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        ...


@dataclass(frozen=True)
class Ends:
    """What an episode's end means to a judge.

    Parameters
    ----------
    kind
        ``"ignored"``: nothing comes after it, which makes it a gain where rewards are negative and
        a loss where they are positive. ``"absorbed"``: a state like others does, up to the
        horizon, whose rewards the last step gets (Kostrikov et al. 2019, section 4.1).
    horizon
        T.
    discount
        γ.
    """

    kind: str
    horizon: int | None
    discount: float

    def seen(self, trajectories: Trajectories) -> Trajectories:
        """Episodes as the judge sees them."""
        if self.kind == "ignored":
            return trajectories
        assert self.horizon is not None
        return absorbed(trajectories, self.horizon)

    def paid(self, trajectories: Trajectories, rewards: Tensor) -> Trajectories:
        """Episodes of the learner with the rewards [N'] of what the judge saw of them."""
        if self.kind == "ignored":
            return trajectories.with_rewards(rewards)
        assert self.horizon is not None
        longer = self.seen(trajectories.with_rewards(None))
        own = longer.step < trajectories.lengths[longer.episode]
        found = rewards[own].clone()
        # How long after the last step of one's own.
        late = longer.step - trajectories.lengths[longer.episode] + 1
        after = rewards[~own] * self.discount ** late[~own].double()
        last = trajectories.starts + trajectories.lengths - 1
        return trajectories.with_rewards(
            found.index_add(0, last[longer.episode[~own]], after.to(found))
        )


def ends_of(kind: str, env: Any, horizon: int | None, discount: float) -> Ends:
    """What ends mean in an environment.

    Raises
    ------
    OptionError
        If there is no such way, or no time limit is known up to which states are absorbed.
    """
    check_choice("ends", kind, ENDS)
    if kind == "absorbed" and horizon is None:
        known = gymnasium.spec(env) if isinstance(env, str) else getattr(env, "spec", env)
        horizon = known.max_episode_steps if isinstance(known, EnvSpec) else None
        if horizon is None:
            raise OptionError("horizon: absorbed ends need a time limit, and none is known")
    return Ends(kind, horizon, discount)


def follow(
    method: str,
    env: Any,
    policy: Policy,
    judge: Judge,
    options: PolicyGradient,
    *,
    ends: str = "ignored",
    init: Mapping[str, Any] | Fit | Imitation | None = None,
    path: str | PathLike[str] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    extra: Callable[[], dict[str, Any]] | None = None,
) -> Imitation:
    """Play, let the judge learn, move the policy by the judge's rewards; again.

    Parameters
    ----------
    method
        Name of the result's method.
    env
        As in `policy_gradient`.
    policy
        Of `likely.models`.
    judge
        Makes the rewards; those of the environment are shown and have no effect.
    options
        Of the steps. ``target`` has no effect, as it is about rewards that nobody knows.
    ends
        As in `Ends`.
    init, path, callback, env_options
        As in `policy_gradient`.
    about
        What the judge is: names and numbers that a run which goes on must share.
    extra
        Gives the result's ``extra`` at the end.

    Returns
    -------
    Imitation
        ``history`` has a row for each iteration: ``reward``, the judge's, and ``return``, the
        environment's, of an episode; ``length``, ``entropy``, ``kl``, what the judge says, and
        ``seconds``.
    """
    more = dict(env_options or {})
    if options.discount is None:
        gamma = env.discount if isinstance(env, TabularMDP) else 1.0
        options = replace(options, discount=gamma)
    assert options.discount is not None
    check_playable(env, policy)
    until = ends_of(ends, env, options.horizon, options.discount)
    shown_space = spaces(env, **more)[1]
    environment = environment_name(env, more)
    env, more = unbounded(env, more, options.horizon)
    learner = options.learner(policy, *spaces(env, **more), init)
    named = {"environment": environment, "ends": ends, **options.about(method, learner)}
    rounds = Rounds(
        method,
        options.iterations,
        path,
        {**named, **(about or {})},
        progress=options.progress,
        callback=callback,
        shown="reward",
    )
    if (state := rounds.resume()) is not None:
        learner.restore(state["learner"])
        judge.restore(state["judge"])

    def played(number: int) -> Trajectories:
        seed = seed_of(options.seed, number)
        return play(env, learner.acting(), options.episodes, seed, options.horizon, **more)

    def step(number: int) -> dict[str, Any]:
        seen = played(number)
        shown = until.seen(seen)
        told = judge.learn(shown, learner.acting())
        paid = until.paid(seen, judge.rewards(shown, learner.acting()))
        facts = learner.update(paid)
        return {
            "reward": float(paid.returns().mean()),
            "return": torch.nan if seen.rewards is None else float(seen.returns().mean()),
            "length": float(seen.lengths.double().mean()),
            **facts,
            **told,
        }

    rounds.go(step, lambda: {"learner": learner.state(), "judge": judge.state()})
    history = rounds.history(COLUMNS)
    fit = learner.fit(
        played(len(rounds.rows)),
        history.rename(columns={"reward": "objective"}),
        name=method,
        seconds=rounds.seconds,
        converged=False,
    )
    acting = replace(learner.acting(), action_space=shown_space)
    return Imitation(method, acting, fit, history, rounds.stopped, {} if extra is None else extra())
