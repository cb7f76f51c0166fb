"""Policy gradients: the trajectory program weighted by what was earned (REINFORCE and its kin)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.envs import TabularMDP, Trajectories
from likely.inference.checkpoints import seed_of
from likely.inference.engines.checks import unbox
from likely.inference.fit import Fit
from likely.inference.imitation._gradient_options import check_gradient, name_of
from likely.inference.imitation._loop import Rounds
from likely.inference.imitation._unbounded import environment_name, unbounded
from likely.inference.imitation.advantages import Baseline, step_weights
from likely.inference.imitation.learner import PolicyLearner
from likely.inference.imitation.playing import play, spaces
from likely.inference.imitation.policy_program import check_playable
from likely.inference.imitation.result import Imitation
from likely.inference.optimise import OptimizerFactory
from likely.models.policy import Policy

METHOD = "policy_gradient"
# Of the optimiser where none is chosen.
RATES = {"ppo": 3e-4}
COLUMNS = ("iteration", "return", "discounted", "length", "entropy", "kl", "seconds")
# Iterations whose mean return is compared with the target.
WINDOW = 5


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    r"""Moves a policy along the gradient of what it earns (Williams 1992, REINFORCE).

    .. math:: \nabla J = \mathbb{E}_\tau \sum_t w_t \nabla \log \pi(a_t \mid s_t)

    Each iteration plays episodes and takes one step. The gradient is that of `TrajectoryModel` with
    weights: weights of one on an expert's episodes would clone the expert.

    Parameters
    ----------
    iterations
        How many steps.
    episodes
        Episodes played for each.
    horizon
        Time limit of an episode; needed in a `TabularMDP`.
    discount
        γ; by default the process's own, and 1 in an environment.
    weight
        ``"return"``, ``"reward_to_go"`` or ``"gae"``; see `step_weights`.
    baseline
        ``"none"``, ``"mean"``, ``"value"`` or a function; see `step_weights`. By default the mean,
        and values for ``"gae"``.
    trace
        λ of the generalised advantage.
    discount_steps
        Whether step t counts γ^t; see `step_weights`.
    normalize
        Whether weights are divided by their standard deviation, so that the size of rewards does
        not matter. The direction stays, its length is no longer that of the gradient.
    entropy
        Reward of a step for each nat of the policy's entropy there. Its gradient is taken along
        the states as they were visited (Mnih et al. 2016, section 4).
    step
        ``"gradient"``, by the optimiser; ``"natural"``, along F⁻¹g to where the KL divergence is
        about ``radius``; ``"trust_region"``, the same with a line search that keeps to the radius
        and to steps that gain (TRPO, Schulman et al. 2015).
    optimizer
        ``"adam"``, ``"sgd"``, or what makes a torch optimiser from a list of tensors.
    learning_rate
        Of gradient steps, in unconstrained coordinates: by default 0.05; of PPO 0.0003.
    radius
        Most KL divergence of a natural step, nats a step of an episode.
    anneal
        Share of the step size, the learning rate or the radius, that is left in the last iteration;
        it falls to it linearly. A policy that is judged by noisy rewards keeps moving as long as
        its steps have one size.
    damping, products, halvings
        Of these steps: share of the gradient's curvature added to the diagonal of the Fisher
        information, most steps of the conjugate gradient, and of the line search.
    ppo
        Options of `stable_baselines3.PPO`: ``batch_size``, ``n_epochs``, ``clip_range``,
        ``normalize_advantage``, ``vf_coef``, ``max_grad_norm``, ``target_kl``, and in
        ``policy_kwargs`` the critic's, such as ``{"net_arch": {"vf": [64, 64]}}``.
    target
        Return at which to stop, as a mean over the last five iterations.
    seed
        The same seed gives the same policy.
    progress
        Show a progress bar.

    Raises
    ------
    OptionError
        If an option cannot be used.

    Examples
    --------
    >>> from likely.models import TabularPolicy
    >>> choice = TabularMDP([[[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2], [[0.0, 1.0], [0.0, 0.0]],
    ...                     discount=1, initial=0, sink=1)
    >>> options = PolicyGradient(iterations=40, horizon=1, learning_rate=0.2)
    >>> found = options.run(choice, TabularPolicy(2, 2))
    >>> bool(found.table[0, 1] > 0.9), list(found.history)[:2]
    (True, ['iteration', 'return'])
    """

    iterations: int = 100
    episodes: int = 16
    horizon: int | None = None
    discount: float | None = None
    weight: str = "reward_to_go"
    baseline: Baseline | None = None
    trace: float = 0.97
    discount_steps: bool = True
    normalize: bool = False
    entropy: float = 0.0
    step: str = "gradient"
    optimizer: str | OptimizerFactory = "adam"
    learning_rate: float | None = None
    radius: float = 0.01
    anneal: float = 1.0
    damping: float = 0.1
    products: int = 10
    halvings: int = 10
    ppo: Mapping[str, Any] | None = None
    target: float | None = None
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        unbox(self)
        check_gradient(self)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return RATES.get(self.step, 0.05) if self.learning_rate is None else self.learning_rate

    @property
    def judged_by(self) -> Baseline:
        """The baseline, chosen or by default."""
        if self.baseline is not None:
            return self.baseline
        return "value" if self.weight == "gae" else "mean"

    def share(self, number: int) -> float:
        """Share of the step size in an iteration, from 0 on."""
        done = min(number / max(self.iterations - 1, 1), 1.0)
        return 1.0 - (1.0 - self.anneal) * done

    def make_optimizer(self, tensors: list[Tensor]) -> torch.optim.Optimizer:
        """A torch optimiser of these tensors."""
        known: dict[Any, OptimizerFactory] = {
            "adam": partial(torch.optim.Adam, lr=self.rate),
            "sgd": partial(torch.optim.SGD, lr=self.rate),
        }
        made = known[self.optimizer] if isinstance(self.optimizer, str) else self.optimizer
        return made(tensors)

    def weights(self, trajectories: Trajectories) -> Tensor:
        """Weights [N] of the steps by these options."""
        found = step_weights(
            trajectories,
            self.weight,
            discount=1.0 if self.discount is None else self.discount,
            baseline=self.judged_by,
            trace=self.trace,
            discount_steps=self.discount_steps,
        )
        if not self.normalize or len(found) < 2:
            return found
        spread = found.std()
        return found / spread if bool(spread > 0) else found

    def described(self) -> dict[str, Any]:
        """Options as plain values, for the record."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = (int, float, str, bool, type(None))
        return {n: v if isinstance(v, plain) else name_of(v) for n, v in found.items()}

    def learner(
        self,
        policy: Policy,
        state_space: Any,
        action_space: Any,
        init: Mapping[str, Any] | Fit | Imitation | None = None,
    ) -> PolicyLearner:
        """What takes single steps by these options, for methods that make rewards themselves."""
        fit = init.fit if isinstance(init, Imitation) else init
        if self.step == "ppo":
            from likely.inference.imitation._ppo import PPOLearner

            return PPOLearner(self, policy, state_space, action_space, fit)
        return PolicyLearner(self, policy, state_space, action_space, fit)

    def run(
        self,
        env: Any,
        policy: Policy,
        *,
        init: Mapping[str, Any] | Fit | Imitation | None = None,
        path: str | PathLike[str] | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        **options: Any,
    ) -> Imitation:
        """Learn; see `policy_gradient`."""
        chosen = self
        if self.discount is None and isinstance(env, TabularMDP):
            chosen = replace(self, discount=env.discount)
        return chosen._run(env, policy, init, path, callback, options)

    def _run(
        self,
        env: Any,
        policy: Policy,
        init: Any,
        path: Any,
        callback: Any,
        options: dict[str, Any],
    ) -> Imitation:
        check_playable(env, policy)
        shown = spaces(env, **options)[1]
        environment = environment_name(env, options)
        env, options = unbounded(env, options, self.horizon)
        learner = self.learner(policy, *spaces(env, **options), init)
        rounds = Rounds(
            METHOD,
            self.iterations,
            path,
            {**self.about(METHOD, learner), "environment": environment},
            progress=self.progress,
            callback=callback,
            shown="return",
        )
        if (state := rounds.resume()) is not None:
            learner.restore(state["learner"])
        gamma = 1.0 if self.discount is None else self.discount

        def played(number: int) -> Trajectories:
            seed = seed_of(self.seed, number)
            return play(env, learner.acting(), self.episodes, seed, self.horizon, **options)

        def step(number: int) -> dict[str, Any]:
            seen = played(number)
            facts = learner.update(seen)
            return {
                "return": float(seen.returns().mean()),
                "discounted": float(seen.returns(gamma).mean()),
                "length": float(seen.lengths.double().mean()),
                **facts,
            }

        rounds.go(step, lambda: {"learner": learner.state()}, self._reached)
        history = rounds.history(COLUMNS)
        fit = learner.fit(
            played(len(rounds.rows)),
            history.rename(columns={"return": "objective"}),
            name=METHOD,
            seconds=rounds.seconds,
            converged=bool(self._reached(rounds.rows)),
        )
        acting = replace(learner.acting(), action_space=shown)
        return Imitation(METHOD, acting, fit, history, rounds.stopped)

    def _reached(self, rows: list[dict[str, Any]]) -> str:
        """Why to stop, if the target is reached."""
        last = [row["return"] for row in rows[-WINDOW:]]
        if self.target is None or len(last) < WINDOW or np.mean(last) < self.target:
            return ""
        return f"the return reached {self.target:g}"

    def about(self, method: str, learner: PolicyLearner) -> dict[str, Any]:
        """What a run that is continued must share with the one before."""
        # Step sizes that fall to the last iteration depend on which it is.
        free = ("iterations", "progress", "target") if self.anneal == 1 else ("progress", "target")
        own = {n: v for n, v in self.described().items() if n not in free}
        states, actions = map(repr, learner.program.spaces)
        return {
            "method": method,
            "policy": type(learner.program.policy).__name__,
            "unknowns": learner.program.coordinates.size,
            "states": states,
            "actions": actions,
            **own,
        }


def policy_gradient(
    env: Any,
    policy: Policy,
    *,
    init: Mapping[str, Any] | Fit | Imitation | None = None,
    path: str | PathLike[str] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Imitation:
    """Find a policy that earns much, by policy gradients.

    Parameters
    ----------
    env
        What `likely.envs.rollout` takes, or a `TabularMDP`.
    policy
        Of `likely.models`.
    init
        Where to start: values of sites, a fit, or another result (clone first, then improve). By
        default even tables, zero coefficients, modules as they are.
    path
        Folder in which each iteration is saved; if there is a run in it, it is continued, and ends
        where it would have without the break.
    callback
        Called with each row of the history; True stops.
    env_options
        Of `gymnasium.make`, with a name or spec.
    **options
        Of `PolicyGradient`.

    Returns
    -------
    Imitation
        ``history`` has a row for each iteration: mean ``return`` and ``discounted`` return of the
        episodes and their ``length``, ``entropy`` of the policy, ``kl`` of the step, ``seconds``.
        ``fit.converged`` says whether the target was reached; noisy steps have no other test.

    Raises
    ------
    OptionError
        If an option cannot be used.
    FitError
        If ``path`` holds another run.
    """
    made = PolicyGradient(**options)
    more = dict(env_options or {})
    return made.run(env, policy, init=init, path=path, callback=callback, **more)
