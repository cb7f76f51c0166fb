"""Adversarial inverse reinforcement learning: a discriminator from which a reward can be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from likely.envs import DataError, TabularMDP, Trajectories
from likely.inference.active.answers_log import fingerprint
from likely.inference.active.training import with_options
from likely.inference.engines import MAP
from likely.inference.engines.base import Engine
from likely.inference.errors import ConvergenceWarning, OptionError
from likely.inference.fit import Fit
from likely.inference.imitation._gradient_options import engine_name, name_of
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.discriminator import state_features
from likely.inference.imitation.gail import fitting
from likely.inference.imitation.judged import follow
from likely.inference.imitation.policy_gradient import PolicyGradient
from likely.inference.imitation.policy_program import check_playable
from likely.inference.imitation.result import Imitation
from likely.models.discriminators import ShapedReward, ShapedSteps
from likely.models.policy import Policy

METHOD = "airl"
# Least log-probability of an expert's action by the learner, nats.
FLOOR = -30.0
Features = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class RewardJudge:
    """A judge whose log-odds are a reward, shaped, less the learner's log π.

    Parameters
    ----------
    expert
        Its episodes.
    features, potential
        From states [n, *state] to those of g [n, F] and of h [n, H].
    discount
        γ.
    program, engine
        `ShapedReward`, and what fits it.

    Attributes
    ----------
    params : dict
        The sites at the last fit.
    """

    expert: Trajectories
    features: Features
    potential: Features
    discount: float
    program: ShapedReward = field(default_factory=ShapedReward)
    engine: Engine = field(default_factory=lambda: MAP(max_iter=50))
    params: dict[str, Tensor] = field(default_factory=dict)

    def steps(self, trajectories: Trajectories, policy: ActingPolicy) -> ShapedSteps:
        """What the program sees of a policy's, or the expert's, steps [N]."""
        states, actions = trajectories.state_action_pairs()
        logs = policy.distribution(states).log_prob(actions).clamp_min(FLOOR)
        after = _featured(self.potential, trajectories.next_states, "potential")
        last = trajectories.step == trajectories.lengths[trajectories.episode] - 1
        over = last & trajectories.terminated[trajectories.episode]
        after = after.masked_fill(over.unsqueeze(-1), 0.0)
        here = _featured(self.potential, states, "potential")
        reward = _featured(self.features, states, "features")
        return ShapedSteps(reward, self.discount * after - here, logs.double())

    def learn(self, learner: Trajectories, policy: ActingPolicy) -> dict[str, float]:
        """Fit the program; ``loss`` and ``accuracy`` as in `gail`."""
        sides = [self.steps(part, policy) for part in (self.expert, learner)]
        rows = [_distinct(part, self.discount) for part in (self.expert, learner)]
        half = sum(float(counts.sum()) for _, counts in rows) / 2
        weights = torch.cat([counts * (half / counts.sum()) for _, counts in rows])
        kept = [[part[row] for part in side] for side, (row, _) in zip(sides, rows, strict=True)]
        steps = ShapedSteps(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
        y = torch.arange(len(weights)) < len(rows[0][0])
        engine = with_options(self.engine, init=self.params or None)
        with warnings.catch_warnings():
            # The next round goes on from here; the learner has moved until then.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.params = engine.fit(self.program, steps, y.double(), weights=weights).params
        odds = [self.program.log_odds(self.params, side) for side in sides]
        right = ((odds[0] > 0).double().mean() + (odds[1] < 0).double().mean()) / 2
        lost = torch.nn.functional.softplus
        loss = (lost(-odds[0]).mean() + lost(odds[1]).mean()) / 2
        return {"loss": float(loss), "accuracy": float(right)}

    def rewards(self, learner: Trajectories, policy: ActingPolicy) -> Tensor:
        """f − log π of each step, [N]: the return's own entropy bonus is in it."""
        return self.program.log_odds(self.params, self.steps(learner, policy))

    def state(self) -> dict[str, Any]:
        """What the next fit starts from."""
        return {"params": {name: value.detach().clone() for name, value in self.params.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.params = dict(state["params"])

    def record(self) -> dict[str, Any]:
        """The sites' values, as lists."""
        return {name: value.tolist() for name, value in self.params.items()}


def airl(
    env: Any,
    policy: Policy,
    expert: Trajectories,
    *,
    features: Features | None = None,
    potential: Features | None = None,
    program: ShapedReward | None = None,
    engine: Engine | None = None,
    init: Mapping[str, Any] | Fit | Imitation | None = None,
    path: str | PathLike[str] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Imitation:
    r"""Imitate, and find a reward of states that explains the expert elsewhere as well.

    GAIL with the discriminator `ShapedReward` (Fu, Luo & Levine 2018, algorithm 1). The expert is
    taken to maximise E Σ γ^t (r + H(π)), so rewards come out in units of its temperature. GAIL's
    own log-odds are of states and actions, and go to nothing as the learner becomes the expert: in
    other dynamics they say nothing. The potential takes up what comes of the dynamics, so that g
    is still the expert's reward there.

    Parameters
    ----------
    env
        What `likely.envs.rollout` takes, or a `TabularMDP`.
    policy
        Of `likely.models`.
    expert
        Its episodes.
    features, potential
        From states [n, \*state] to features [n, d] of the reward and of the potential; by default
        indicators of Discrete states, and of vectors entries, squares and products, standardised.
    program, engine
        `ShapedReward`, and what fits it, each time from the last fit on; by default `MAP` with 50
        iterations.
    init, path, callback, env_options
        As in `policy_gradient`.
    **options
        Of `PolicyGradient`; by default as in `gail`.

    Returns
    -------
    Imitation
        ``history`` as of `gail`. ``extra`` has ``reward_weights``, of indicators the reward of each
        state but for a constant, and ``potential``. Nothing comes after an end: its potential is 0.

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
    >>> from likely.envs import soft_value_iteration
    >>> from likely.inference.imitation import play
    >>> from likely.models import TabularPolicy
    >>> rooms = TabularMDP([[[1.0, 0.0], [0.0, 1.0]]] * 2, [0.0, 1.0], 0.5, 0)
    >>> expert = play(rooms, soft_value_iteration(rooms).policy, 2000, seed=0, horizon=10)
    >>> options = {"iterations": 15, "episodes": 1000, "horizon": 10, "anneal": 0.1}
    >>> found = airl(rooms, TabularPolicy(2, 2), expert, radius=0.05, **options)
    >>> empty, paid = found.extra["reward_weights"]
    >>> bool(0.6 < paid - empty < 1.4)  # of samples; it is 1
    True
    """
    given = {"step": "trust_region", "radius": 0.01, "weight": "gae", "normalize": True, **options}
    steps = PolicyGradient(**given)
    if not isinstance(expert, Trajectories):
        raise OptionError(f"expert: expected Trajectories, got {type(expert).__name__}")
    if expert.actions is None:
        raise DataError("expert: expected actions, got none")
    check_playable(env, policy)
    policy.check(expert)
    for name, value in (("features", features), ("potential", potential)):
        if value is not None and not callable(value):
            raise OptionError(f"{name} must be a callable, got {value!r}")
    if program is not None and not isinstance(program, ShapedReward):
        raise OptionError(f"program: expected a ShapedReward, got {program!r}")
    if engine is not None and not isinstance(engine, Engine):
        raise OptionError(f"engine must be an engine such as MAP(), got {engine!r}")
    gamma = steps.discount
    if gamma is None:
        gamma = env.discount if isinstance(env, TabularMDP) else 1.0
    seen = fitting(expert, env, **dict(env_options or {})).with_rewards(None)
    plain = state_features(seen)
    judge = RewardJudge(seen, features or plain, potential or plain, gamma)
    judge.program = program or judge.program
    judge.engine = engine or judge.engine
    about = {
        "scale": judge.program.scale,
        "engine": engine_name(judge.engine),
        "features": [name_of(features), name_of(potential)],
        "expert": fingerprint({"states": expert.states, "actions": expert.actions}),
    }
    return follow(
        METHOD,
        env,
        policy,
        judge,
        steps,
        init=init,
        path=path,
        callback=callback,
        env_options=env_options,
        about=about,
        extra=judge.record,
    )


def _featured(features: Features, states: Tensor, name: str) -> Tensor:
    found = features(states)
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(states):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise OptionError(f"{name}: expected [{len(states)}, d], got {got}")
    if not bool(found.isfinite().all()):
        raise OptionError(f"{name}: expected finite numbers")
    return found.double()


def _distinct(trajectories: Trajectories, discount: float) -> tuple[Tensor, Tensor]:
    """Rows of distinct steps [n], and how often each counts, with γ^t; of vectors all rows."""
    counts = discount ** trajectories.step.double()
    states, actions = trajectories.state_action_pairs()
    if states.is_floating_point() or actions.is_floating_point():
        counted = counts.nonzero().squeeze(-1)
        return counted, counts[counted]
    after, over = trajectories.next_states, trajectories.terminated[trajectories.episode]
    columns = torch.stack([states, actions, after, over.long()])
    found, row = torch.unique(columns, dim=1, return_inverse=True)
    n = found.shape[1]
    first = row.new_zeros(n).scatter(0, row.flip(0), torch.arange(len(row)).flip(0))
    counts = counts.new_zeros(n).index_add(0, row, counts)
    # A discount may leave nothing of what only comes late.
    return first[counts > 0], counts[counts > 0]
