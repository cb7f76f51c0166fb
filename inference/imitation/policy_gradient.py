"""Policy gradients: the trajectory program weighted by what was earned (REINFORCE and its kin)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from likely.envs import TabularMDP, Trajectories
from likely.inference.checkpoints import Checkpoint, seed_of
from likely.inference.engines.checks import (
    check_bool,
    check_choice,
    check_int,
    check_positive,
    check_seed,
    is_number,
    unbox,
)
from likely.inference.engines.stochastic import check_factory
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.advantages import Baseline, check_choices, step_weights
from likely.inference.imitation.learner import PolicyLearner
from likely.inference.imitation.playing import play, spaces
from likely.inference.imitation.result import INTERRUPTED, Imitation
from likely.inference.optimise import OptimizerFactory
from likely.models.policy import Policy

METHOD = "policy_gradient"
STEPS = ("gradient", "natural", "trust_region")
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
        Of the first two, in unconstrained coordinates.
    radius
        Most KL divergence of a natural step, nats a step of an episode.
    damping, products, halvings
        Of these steps: share of the gradient's curvature added to the diagonal of the Fisher
        information, most steps of the conjugate gradient, and of the line search.
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
    learning_rate: float = 0.05
    radius: float = 0.01
    damping: float = 0.1
    products: int = 10
    halvings: int = 10
    target: float | None = None
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        unbox(self)
        for name in ("iterations", "episodes", "products", "halvings"):
            check_int(name, getattr(self, name), 1)
        if self.horizon is not None:
            check_int("horizon", self.horizon, 1)
        for name in ("discount", "trace"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 <= value <= 1):
                raise OptionError(f"{name} must be a number from 0 to 1, got {value!r}")
        check_choices(self.weight, self._baseline)
        if self.weight == "gae" and self._baseline in ("none", "mean"):
            raise OptionError("baseline: the generalised advantage needs 'value', or a function")
        if self.weight == "return" and self._baseline not in ("none", "mean"):
            raise OptionError("baseline: a whole return takes 'none' or 'mean'")
        if self.episodes < 2 and self._baseline in ("mean", "value"):
            raise OptionError(f"baseline {self._baseline!r} needs episodes=2 or more")
        for name in ("learning_rate", "radius"):
            check_positive(name, getattr(self, name))
        for name in ("entropy", "damping"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < float("inf"):
                raise OptionError(f"{name} must be a finite number of at least 0, got {value!r}")
        if self.target is not None and not is_number(self.target):
            raise OptionError(f"target must be a number, got {self.target!r}")
        check_choice("step", self.step, STEPS)
        if isinstance(self.optimizer, str):
            check_choice("optimizer", self.optimizer, ("adam", "sgd"))
        elif not callable(self.optimizer):
            raise OptionError(f"optimizer must be 'adam', 'sgd' or a callable: {self.optimizer!r}")
        else:
            check_factory(self.optimizer)
        check_seed("seed", self.seed)
        for name in ("discount_steps", "normalize", "progress"):
            check_bool(name, getattr(self, name))

    @property
    def _baseline(self) -> Baseline:
        if self.baseline is not None:
            return self.baseline
        return "value" if self.weight == "gae" else "mean"

    def make_optimizer(self, tensors: list[Tensor]) -> torch.optim.Optimizer:
        """A torch optimiser of these tensors."""
        known: dict[Any, OptimizerFactory] = {
            "adam": partial(torch.optim.Adam, lr=self.learning_rate),
            "sgd": partial(torch.optim.SGD, lr=self.learning_rate),
        }
        made = known[self.optimizer] if isinstance(self.optimizer, str) else self.optimizer
        return made(tensors)

    def weights(self, trajectories: Trajectories) -> Tensor:
        """Weights [N] of the steps by these options."""
        found = step_weights(
            trajectories,
            self.weight,
            discount=1.0 if self.discount is None else self.discount,
            baseline=self._baseline,
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
        return {n: v if isinstance(v, plain) else _name(v) for n, v in found.items()}

    def learner(
        self,
        policy: Policy,
        state_space: Any,
        action_space: Any,
        init: Mapping[str, Any] | Fit | Imitation | None = None,
    ) -> PolicyLearner:
        """What takes single steps by these options, for methods that make rewards themselves."""
        fit = init.fit if isinstance(init, Imitation) else init
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
        learner = self.learner(policy, *spaces(env, **options), init)
        kept = Checkpoint(None if path is None else Path(path), self._about(policy, learner))
        rows, stopped, spent = [], "", 0.0
        if (state := kept.load()) is not None:
            learner.restore(state["learner"])
            rows, spent = list(state["rows"]), float(state["seconds"])
        started = time.perf_counter()

        def played(number: int) -> Trajectories:
            seed = seed_of(self.seed, number)
            return play(env, learner.acting(), self.episodes, seed, self.horizon, **options)

        with tqdm(total=self.iterations, initial=len(rows), disable=not self.progress) as bar:
            bar.set_description(METHOD.replace("_", " "))
            while len(rows) < self.iterations and not (stopped := self._reached(rows)):
                begun = time.perf_counter()
                try:
                    seen = played(len(rows))
                    facts = learner.update(seen)
                except KeyboardInterrupt:
                    stopped = INTERRUPTED
                    break
                gamma = 1.0 if self.discount is None else self.discount
                row = {
                    "iteration": len(rows),
                    "return": float(seen.returns().mean()),
                    "discounted": float(seen.returns(gamma).mean()),
                    "length": float(seen.lengths.double().mean()),
                    **facts,
                    "seconds": time.perf_counter() - begun,
                }
                rows.append(row)
                total = spent + time.perf_counter() - started
                kept.save({"learner": learner.state(), "rows": rows, "seconds": total})
                bar.update(1)
                bar.set_postfix_str(f"return {row['return']:.4g}", refresh=False)
                if callback is not None and callback(dict(row)) is True:
                    stopped = "the callback said so"
                    break
        history = pd.DataFrame(rows, columns=list(COLUMNS))
        fit = learner.fit(
            played(len(rows)),
            history.rename(columns={"return": "objective"}),
            name=METHOD,
            seconds=spent + time.perf_counter() - started,
            converged=bool(self._reached(rows)),
        )
        return Imitation(METHOD, learner.acting(), fit, history, stopped)

    def _reached(self, rows: list[dict[str, Any]]) -> str:
        """Why to stop, if the target is reached."""
        last = [row["return"] for row in rows[-WINDOW:]]
        if self.target is None or len(last) < WINDOW or np.mean(last) < self.target:
            return ""
        return f"the return reached {self.target:g}"

    def _about(self, policy: Policy, learner: PolicyLearner) -> dict[str, Any]:
        """What a run that is continued must share with the one before."""
        free = ("iterations", "progress", "target")
        own = {n: v for n, v in self.described().items() if n not in free}
        states, actions = map(repr, learner.program.spaces)
        return {
            "method": METHOD,
            "policy": type(policy).__name__,
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


def _name(value: Any) -> str:
    if isinstance(value, partial):
        return f"{_name(value.func)} {sorted(value.keywords.items())}"
    return getattr(value, "__qualname__", None) or type(value).__qualname__
