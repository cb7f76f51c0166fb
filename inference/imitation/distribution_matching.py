"""Policies whose trajectories are distributed as the expert's, by the divergence that is meant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from likely.envs import TabularMDP, Trajectories
from likely.inference.active.answers_log import fingerprint
from likely.inference.engines import MLE
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_choice, check_positive, is_number
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.cloning import behaviour_cloning
from likely.inference.imitation.discriminator import Discriminator
from likely.inference.imitation.gail import gail
from likely.inference.imitation.judged import follow
from likely.inference.imitation.playing import blank, spaces
from likely.inference.imitation.policy_gradient import PolicyGradient
from likely.inference.imitation.policy_program import check_playable
from likely.inference.imitation.result import Imitation
from likely.inference.imitation.target_occupancy import target_occupancy
from likely.inference.program import Program
from likely.models.occupancy_matching import OccupancyMatching
from likely.models.policy import MixturePolicy, Policy
from likely.models.trajectory import TrajectoryModel

METHOD = "distribution_matching"
DIVERGENCES = ("forward", "factorised", "reverse")
# Options of `behaviour_cloning`.
_PARTS = ("weights", "dynamics", "state_marginal")
# Options in a process.
_EXACT = ("over", "state_weight", "smoothing", "horizon", "steps")


def distribution_matching(
    expert: Trajectories | Tensor,
    policy: Policy,
    divergence: str = "forward",
    *,
    env: Any = None,
    engine: Engine | None = None,
    **options: Any,
) -> Imitation:
    r"""Match what the expert does, in one of three senses.

    ``"forward"``
        KL(p_E(τ) ‖ p_π(τ)): maximum likelihood of the trajectory program. The dynamics are the
        same on both sides, so that this is behaviour cloning. It covers what the expert does, and
        of a policy with one mode everything between.
    ``"factorised"``
        KL(ρ_E(s, a) ‖ ρ_π(s) π(a \| s)) = KL(ρ_E(s) ‖ ρ_π(s)) + E_E KL(π_E ‖ π), exact in a
        `TabularMDP`: beside cloning, the learner's own state marginal has to cover the expert's.
        That regularises: it says what to do in states that the expert never saw, from where the
        learner has to come back.
    ``"reverse"``
        KL(p_π ‖ p_E): the learner keeps to what the expert does, and may leave out some of it. It
        seeks a mode. Exact in a `TabularMDP`, by the score function elsewhere.

    Parameters
    ----------
    expert
        Its episodes; in a process also its exact policy [S, A].
    policy
        Of `likely.models`.
    divergence
        Which of the three.
    env
        A `TabularMDP`; for ``"reverse"`` also what `likely.envs.rollout` takes.
    engine
        What fits the program; by default `MLE`. Not for ``"reverse"`` in an environment.
    **options
        ``"forward"``: ``weights``, ``dynamics``, ``state_marginal`` of `behaviour_cloning`. In a
        process: those of `OccupancyMatching`, and ``steps``, how many the expert stands for against
        a prior: by default those of its episodes, and 1 of a policy. ``"reverse"`` in an
        environment: those of `reverse_by_score`.

    Returns
    -------
    Imitation
        ``history`` is the fit's; by the score function that of `policy_gradient`.

    Raises
    ------
    OptionError
        If there is no such divergence, an option cannot be used, or it needs an environment.

    Examples
    --------
    >>> from likely.models import TabularPolicy
    >>> choice = TabularMDP([[[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2], [[0.0, 0.0], [0.0, 0.0]],
    ...                     discount=1, initial=0, sink=1)
    >>> expert = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    >>> found = distribution_matching(expert, TabularPolicy(2, 2), "reverse", env=choice)
    >>> found.table[0]
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    check_choice("divergence", divergence, DIVERGENCES)
    if divergence == "forward":
        unknown = sorted(set(options) - set(_PARTS))
        if unknown or not isinstance(expert, Trajectories):
            what = f"no options {unknown}" if unknown else "Trajectories for the expert"
            raise OptionError(f"the forward divergence takes {what}")
        cloned = behaviour_cloning(expert, policy, engine, **options)
        return Imitation(METHOD, cloned.policy, cloned.fit, cloned.history)
    if isinstance(env, TabularMDP):
        return _exact(expert, policy, divergence, env, engine, options)
    if divergence == "factorised" or env is None:
        raise OptionError(f"env: the {divergence} divergence needs a TabularMDP, got {env!r}")
    if engine is not None or not isinstance(expert, Trajectories):
        raise OptionError("in an environment the reverse divergence takes episodes and no engine")
    return reverse_by_score(expert, policy, env, **options)


def _exact(
    expert: Any, policy: Policy, divergence: str, mdp: TabularMDP, engine: Any, options: Any
) -> Imitation:
    chosen = MLE() if engine is None else engine
    if not isinstance(chosen, Engine):
        raise OptionError(f"engine must be an engine such as MLE(), got {engine!r}")
    unknown = sorted(set(options) - set(_EXACT))
    if unknown:
        raise OptionError(f"in a process the {divergence} divergence takes no options {unknown}")
    # Against a prior, episodes count as often as they have steps.
    n = expert.n_steps if isinstance(expert, Trajectories) else 1
    steps = options.pop("steps", n)
    check_positive("steps", steps)
    program = OccupancyMatching(mdp, policy, divergence, **options)
    check_playable(mdp, policy)
    policy.check(blank(*spaces(mdp)))
    target = target_occupancy(mdp, expert, program.smoothing, program.horizon)
    fit = chosen.fit(program, target, float(steps))
    acting = ActingPolicy(policy, fit.params, *spaces(mdp))
    return Imitation(METHOD, acting, fit, fit.history)


# -- by the score function ---------------------------------------------------------------------


@dataclass(eq=False)
class Density:
    """A judge who knows the expert's density: log p_E − log p_π.

    Parameters
    ----------
    policy, params
        The expert's policy as a program's, and values of its sites.
    floor
        Least log-density of a step, nats: densities of narrow experts fall without end.
    """

    policy: Policy
    params: Mapping[str, Tensor]
    floor: float = -math.inf

    def learn(self, learner: Trajectories, policy: ActingPolicy) -> dict[str, float]:
        """Nothing: the density stays what it is."""
        return {}

    def rewards(self, learner: Trajectories, policy: ActingPolicy) -> Tensor:
        """The difference of the log-densities of each step, [N].

        With a mode for each episode, the expert's density is that of whole episodes, and the last
        steps have it.
        """
        wanted = log_density(self.policy, self.params, learner)
        own = log_density(policy.policy, policy.params, learner)
        if len(wanted) == len(learner) != len(own):
            wanted = wanted.maximum(self.floor * learner.lengths.to(wanted))
            last = learner.starts + learner.lengths - 1
            wanted = wanted.new_zeros(learner.n_steps).index_add(0, last, wanted)
            return wanted - own
        return wanted.clamp_min(self.floor) - own

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing changes."""


def log_density(policy: Policy, params: Mapping[str, Tensor], trajectories: Trajectories) -> Tensor:
    """Log-densities of actions given states by the trajectory program.

    Parameters
    ----------
    policy, params
        Of the program, and values of its sites.
    trajectories
        Episodes.

    Returns
    -------
    Tensor
        [N]; [E] of a mixture with a mode for each episode.

    Examples
    --------
    >>> from likely.models import TabularPolicy
    >>> seen = Trajectories.from_arrays([[0, 0]], [[1]])
    >>> log_density(TabularPolicy(1, 2), {"policy": torch.tensor([[0.75, 0.25]])}, seen).exp()
    tensor([0.2500], dtype=torch.float64)
    """
    program = Program(TrajectoryModel(policy), trajectories.with_rewards(None))
    values = {name: torch.as_tensor(value).to(program.dtype) for name, value in params.items()}
    with program.session(0), torch.no_grad():
        trace = program.trace(lambda name, _: values.get(name), enumerate_latents=False)
        node = trace.nodes["action"]
        found: Tensor = node["fn"].log_prob(node["value"])
    return found


def reverse_by_score(
    expert: Trajectories,
    policy: Policy,
    env: Any,
    *,
    density: Policy | Fit | Imitation | None = None,
    discriminator: Discriminator | None = None,
    density_engine: Engine | None = None,
    floor: float = -1e3,
    init: Mapping[str, Any] | Fit | Imitation | None = None,
    path: str | PathLike[str] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Imitation:
    """Descend KL(p_π ‖ p_E) by policy gradients with the reward log p_E − log p_π.

    Of trajectories, where dynamics cancel: Σ_t log π_E(a_t | s_t) − log π(a_t | s_t), with a
    density of the expert's actions. Of states and actions visited, where they do not, with the
    log-odds of a discriminator.

    Parameters
    ----------
    expert
        Its episodes.
    policy
        Of `likely.models`.
    env
        What `likely.envs.rollout` takes.
    density
        A policy that is fitted to the expert to estimate its density (one with several modes, where
        the expert has them), or a fit of one.
    discriminator
        Estimates the ratio in its place. By default there is one, unless there is a density.
    density_engine
        What fits the density; by default `EM` for a mixture, `MLE` otherwise.
    floor
        Least log-density of a step.
    init, path, callback, env_options
        As in `policy_gradient`.
    **options
        Of `PolicyGradient`; by default trust-region steps.

    Returns
    -------
    Imitation
        As of `gail`; ``reward`` of an episode estimates −KL with a density.
    """
    rest: dict[str, Any] = {
        "init": init,
        "path": path,
        "callback": callback,
        "env_options": env_options,
    }
    if density is None:
        found = gail(env, policy, expert, discriminator=discriminator, **rest, **options)
        return Imitation(METHOD, found.policy, found.fit, found.history, found.stopped, found.extra)
    if discriminator is not None:
        raise OptionError("density, discriminator: expected one of them, got both")
    # What cannot be played is found before anything is fitted.
    spaces(env, **dict(env_options or {}))
    if not is_number(floor) or not floor < math.inf:
        raise OptionError(f"floor must be a number of nats, got {floor!r}")
    judge = Density(*_density(density, expert, density_engine), float(floor))
    steps = PolicyGradient(**{"step": "trust_region", "normalize": True, **options})
    about = {
        "density": type(judge.policy).__name__,
        "values": fingerprint(judge.params),
        "floor": judge.floor,
        "expert": fingerprint({"states": expert.states, "actions": expert.actions}),
    }
    return follow(METHOD, env, policy, judge, steps, about=about, **rest)


def _density(given: Any, expert: Trajectories, engine: Engine | None) -> tuple[Policy, Any]:
    if isinstance(given, Imitation):
        return given.policy.policy, given.params
    if isinstance(given, Fit):
        model = given.bound("a density").source
        if not isinstance(model, TrajectoryModel):
            raise OptionError("density: expected a fit of TrajectoryModel")
        return model.policy, given.params
    if not isinstance(given, Policy):
        raise OptionError(f"density: expected a policy, a fit or a result, got {given!r}")
    if engine is None:
        from likely.inference.engines import EM

        engine = EM(restarts=5) if isinstance(given, MixturePolicy) else MLE()
    return given, behaviour_cloning(expert, given, engine).params
