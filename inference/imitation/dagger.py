"""Learning from an expert who is asked about the states that the learner itself gets into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from likely.envs import Trajectories
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import (
    check_bool,
    check_choice,
    check_int,
    check_seed,
    is_number,
)
from likely.inference.errors import OptionError
from likely.inference.imitation.dagger_run import Run
from likely.inference.imitation.result import Imitation
from likely.models.policy import Policy

VARIANTS = ("aggregate", "fused")
Schedule = str | float | Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Dagger:
    r"""Asks an expert what to do where the learner goes, and fits the policy again.

    Each iteration i plays with π_i = β_i π* + (1 − β_i) π̂_i, the expert chosen at each step with
    probability β_i, asks the expert about the states that came up, and fits the policy. Cloning
    learns where the expert goes; the learner's own mistakes lead elsewhere.

    Parameters
    ----------
    iterations
        How many.
    episodes
        Episodes played in each.
    horizon
        Time limit of an episode; needed in a `TabularMDP`.
    variant
        ``"aggregate"``: each fit is to all answers so far (Ross, Gordon & Bagnell 2011, algorithm
        3.1). ``"fused"``: each fit is to its own iteration's answers, and the result chooses among
        all these policies at every step, the j-th with weight ∝ α(1 − α)^(j − 1) (SMILe, Ross &
        Bagnell 2010, "Efficient reductions for imitation learning", algorithm 4.1); it then plays
        with the expert's share (1 − α)^i, and ``beta`` has no effect.
    beta
        β_i: ``"first"``, 1 in the first iteration and 0 after it; ``"never"``, 0; a number p for
        p^i; or a function of i = 0, 1, ... With demonstrations these are the first iteration.
        Without a policy yet, what is not the expert's is left to chance.
    mixing
        α of the fused variant, above 0 and at most 1.
    labels
        Most answers to learn from in all, demonstrations among them; None for no limit. What the
        expert does while it plays is not counted unless it is asked about as well: with ``"never"``
        there is no more than these.
    queries
        Most states of an iteration that the expert is asked about, drawn at random; None for all.
    greedy
        Whether the policy takes the most probable action, on the way and at the end.
    seed
        The same seed and the same answers give the same policy.
    progress
        Show a progress bar.

    Raises
    ------
    OptionError
        If an option cannot be used.
    """

    iterations: int = 10
    episodes: int = 1
    horizon: int | None = None
    variant: str = "aggregate"
    beta: Schedule = "first"
    mixing: float = 0.3
    labels: int | None = None
    queries: int | None = None
    greedy: bool = False
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "episodes"):
            check_int(name, getattr(self, name), 1)
        for name in ("horizon", "labels", "queries"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        check_choice("variant", self.variant, VARIANTS)
        check_seed("seed", self.seed)
        for name in ("greedy", "progress"):
            check_bool(name, getattr(self, name))
        if not is_number(self.mixing) or not 0 < self.mixing <= 1:
            raise OptionError(f"mixing must be above 0 and at most 1, got {self.mixing!r}")
        if isinstance(self.beta, str):
            check_choice("beta", self.beta, ("first", "never"))
        self.share(0)

    def share(self, iteration: int) -> float:
        """β_i, the expert's share of the actions.

        Raises
        ------
        OptionError
            If a schedule leaves the range from 0 to 1.
        """
        if self.variant == "fused":
            return (1 - self.mixing) ** iteration
        if isinstance(self.beta, str):
            return float(self.beta == "first" and iteration == 0)
        found: Any = self.beta(iteration) if callable(self.beta) else self.beta
        if not is_number(found) or not 0 <= found <= 1:
            raise OptionError(f"beta must give numbers from 0 to 1, got {found!r}")
        return float(found) if callable(self.beta) else float(found) ** iteration

    def described(self) -> dict[str, Any]:
        """Options as plain values, for the record."""
        found = dict(vars(self))
        return {**found, "beta": getattr(self.beta, "__qualname__", self.beta)}


def dagger(
    env: Any,
    policy: Policy,
    expert: Any,
    *,
    demonstrations: Trajectories | None = None,
    engine: Engine | None = None,
    path: str | PathLike[str] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Imitation:
    """Learn a policy from an expert who is asked about the learner's own states.

    Parameters
    ----------
    env
        What `likely.envs.rollout` takes, or a `TabularMDP`.
    policy
        Of `likely.models`.
    expert
        From observations [n, *state], and random numbers if it takes them, to actions [n, *action]:
        a function, a scripted policy, a result; of Discrete actions −1 means no answer. Or a
        `Person`, who sees pictures. It may raise `LabellingStopped`.
    demonstrations
        The expert's episodes, in place of the first iteration.
    engine
        What fits the program after each iteration, starting at the last fit; by default `MAP`, as
        an expert without noise can be told apart perfectly and has no finite `MLE` in many
        policies.
    path
        Folder in which each iteration's answers are saved; if there is a run in it, it is
        continued, and ends where it would have without the break.
    callback
        Called with each row of the history; True stops.
    env_options
        Of `gymnasium.make`, with a name or spec.
    **options
        Of `Dagger`.

    Returns
    -------
    Imitation
        ``history`` has a row for each iteration: ``beta``, ``labels`` so far, steps that the
        expert ``acted``, mean ``return`` and ``length`` of the episodes played, ``disagreement``
        (share of answers that were not what the policy had most probable before it learnt them; of
        vectors, the mean distance), ``seconds``. A person who stops ends the run; the answers given
        until then count, the learner or chance plays the episode to its end, and a run that goes
        on asks for the rest of that iteration first.

    Raises
    ------
    OptionError
        If an option cannot be used, or the expert never answered.
    DataError
        If the expert's actions cannot be used.
    FitError
        If ``path`` holds another run.

    Examples
    --------
    >>> import torch
    >>> from likely.envs import TabularMDP, tabular_expert
    >>> from likely.models import TabularPolicy
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
    >>> expert = tabular_expert(TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.99))
    >>> found = dagger(lake, TabularPolicy(17, 4, 1.1), expert, episodes=20, horizon=100,
    ...                iterations=3)
    >>> float((found.table[:15].argmax(-1) == torch.as_tensor(expert(range(15)))).double().mean())
    1.0
    """
    run = Run(Dagger(**options), env, policy, expert, engine, dict(env_options or {}))
    return run.go(demonstrations, path, callback)
