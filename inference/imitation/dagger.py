"""Learning from an expert who is asked about the states that the learner itself gets into."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from likely.envs import TabularMDP, Trajectories
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.training import with_options
from likely.inference.checkpoints import Checkpoint, seed_of
from likely.inference.engines import MAP
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import (
    check_bool,
    check_choice,
    check_int,
    check_seed,
    is_number,
)
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.acting import ActingPolicy, as_table
from likely.inference.imitation.people import Person, with_pictures
from likely.inference.imitation.playing import play, spaces
from likely.inference.imitation.queries import Answered, Mixed, Round, asked_about, joined
from likely.inference.imitation.result import INTERRUPTED, Imitation
from likely.inference.program import Program
from likely.models.policy import MixturePolicy, Policy
from likely.models.trajectory import TrajectoryModel

METHOD = "dagger"
VARIANTS = ("aggregate", "fused")
COLUMNS = ("iteration", "beta", "labels", "return", "length", "disagreement", "seconds")
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
        β_i: ``"first"``, 1 in the first iteration and 0 after it; a number p for p^i; or a
        function of i = 0, 1, ... With demonstrations these are the first iteration.
    mixing
        α of the fused variant, above 0 and at most 1.
    labels
        Most answers of the expert in all, demonstrations among them; None for no limit.
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
            check_choice("beta", self.beta, ("first",))
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
        if self.beta == "first":
            return float(iteration == 0)
        found = self.beta(iteration) if callable(self.beta) else self.beta
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
        From observations [n, *state] to actions [n, *action]: a function, a scripted policy, a
        result; of Discrete actions −1 means no answer. Or a `Person`, who sees pictures.
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
        ``history`` has a row for each iteration: ``beta``, ``labels`` so far, mean ``return`` and
        ``length`` of the episodes played, ``disagreement`` (share of answers that were not what
        the policy had most probable before it learnt them; of vectors, the mean distance),
        ``seconds``. A person who stops ends the run; the answers given until then count.

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
    >>> from likely.envs import tabular_expert
    >>> from likely.models import TabularPolicy
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
    >>> expert = tabular_expert(TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.99))
    >>> found = dagger(lake, TabularPolicy(17, 4, 1.1), expert, episodes=20, horizon=100,
    ...                iterations=3)
    >>> float((found.table[:15].argmax(-1) == torch.as_tensor(expert(range(15)))).double().mean())
    1.0
    """
    run = _Run(Dagger(**options), env, policy, expert, engine, dict(env_options or {}))
    return run.go(demonstrations, path, callback)


class _Run:
    """One run: what was answered, what was fitted to it, and how it went."""

    def __init__(
        self,
        own: Dagger,
        env: Any,
        policy: Policy,
        expert: Any,
        engine: Engine | None,
        options: dict[str, Any],
    ) -> None:
        expert = getattr(expert, "policy", expert)
        if not callable(expert):
            raise OptionError(f"expert must be a function of observations, got {expert!r}")
        self.engine = MAP() if engine is None else engine
        if not isinstance(self.engine, Engine):
            raise OptionError(f"engine must be an engine such as MAP(), got {engine!r}")
        if own.variant == "fused" and isinstance(policy, MixturePolicy):
            raise OptionError("policy: the fused variant makes a mixture of policies of one mode")
        self.own, self.policy, self.expert, self.options = own, policy, expert, options
        self.pictures = None
        if isinstance(expert, Person) and expert.renders and not isinstance(env, TabularMDP):
            self.pictures = with_pictures(env, **options)
            env, self.options = self.pictures, {}
        self.env, self.spaces = env, spaces(env, **self.options)
        self.rounds: list[Round] = []
        self.values: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.fit: Fit | None = None

    def go(self, demonstrations: Trajectories | None, path: Any, callback: Any) -> Imitation:
        own, stopped = self.own, ""
        kept = Checkpoint(None if path is None else Path(path), self._about(demonstrations))
        pending = self._restore(kept.load())
        with tqdm(total=own.iterations, initial=len(self.rows), disable=not own.progress) as bar:
            bar.set_description(METHOD)
            while not stopped and (pending is not None or len(self.rows) < own.iterations):
                begun = time.perf_counter()
                try:
                    if pending is None:
                        pending, stopped = self._collect(len(self.rows), demonstrations)
                        if pending is None:
                            break
                        kept.save(self._state(pending))
                    row = self._learn(pending, begun)
                except KeyboardInterrupt:
                    stopped = INTERRUPTED
                    break
                pending = None
                bar.update(1)
                bar.set_postfix_str(f"{row['labels']} labels", refresh=False)
                if callback is not None and callback(dict(row)) is True:
                    stopped = "the callback said so"
                elif own.labels is not None and row["labels"] >= own.labels:
                    stopped = stopped or "all labels are spent"
        if self.fit is None:
            raise OptionError(f"expert: nothing was answered ({stopped or 'no label'})")
        history = pd.DataFrame(self.rows, columns=list(COLUMNS))
        return Imitation(METHOD, self._acting(), self._fit(), history, stopped)

    # -- playing and asking ------------------------------------------------------------------

    def _collect(self, number: int, given: Trajectories | None) -> tuple[Round | None, str]:
        """Episodes of an iteration, and the expert's answers; and why it was the last, if so."""
        own = self.own
        if number == 0 and given is not None:
            known = torch.ones(len(given.state_action_pairs()[1]), dtype=torch.float64)
            if own.labels is not None:
                known[own.labels :] = 0.0
            return Round(given, known, 1.0), ""
        seed, stopped = seed_of(own.seed, number), ""
        beta = own.share(number) if self.values else 1.0
        if self.pictures is not None:
            self.pictures.forget()
        answered = Answered(self.expert, self.spaces[1])
        acting = Mixed(self._behaviour(), answered, beta, self.pictures)
        try:
            seen = self._play(acting, beta, seed)
        except LabellingStopped:
            return None, "the expert stopped"
        pictures = None
        if self.pictures is not None:
            pictures = [one for episode in self.pictures.episodes for one in episode[:-1]]
            pictures = pictures[: seen.n_steps]
        left_over = None
        if own.labels is not None:
            left_over = own.labels - sum(part.answers for part in self.rounds)
        rows = asked_about(seen.n_steps, own.queries, left_over, seed)
        labels, known = answered.about(seen.step_states, rows, pictures)
        if answered.stopped:
            stopped = "the expert stopped"
        if not known.any():
            return None, stopped or "no state was answered"
        actions = seen.state_action_pairs()[1].clone()
        chosen = torch.as_tensor(known)
        actions[chosen] = torch.as_tensor(labels[known]).to(actions)
        return Round(seen.with_actions(actions), chosen.double(), beta), stopped

    def _play(self, policy: Any, beta: float, seed: int) -> Trajectories:
        own = self.own
        if isinstance(self.env, TabularMDP):
            # A process plays all its episodes at once, from a table.
            table = as_table(self.env, self.expert, "expert") if beta > 0 else 0.0
            if self.values and beta < 1:
                table = beta * table + (1 - beta) * as_table(self.env, self._acting())
            return play(self.env, table, own.episodes, seed, own.horizon)
        return play(self.env, policy, own.episodes, seed, own.horizon, **self.options)

    def _behaviour(self) -> Any:
        return self._acting() if self.values else None

    # -- learning ----------------------------------------------------------------------------

    def _learn(self, new: Round, begun: float) -> dict[str, Any]:
        """Fit with an iteration's answers; its row of the history."""
        disagreement = new.disagreement(self._behaviour())
        self.rounds.append(new)
        data = [new] if self.own.variant == "fused" else self.rounds
        trajectories, weights = joined(data)
        start = self.values[-1] if self.values else None
        engine = with_options(self.engine, init=start)
        more = {} if weights is None else {"weights": weights}
        fit = engine.fit(TrajectoryModel(self.policy), trajectories, **more)
        self.values.append(fit.params)
        self.fit = fit
        seen = new.trajectories
        row = {
            "iteration": len(self.rows),
            "beta": new.beta,
            "labels": sum(part.answers for part in self.rounds),
            "return": float("nan") if seen.rewards is None else float(seen.returns().mean()),
            "length": float(seen.lengths.double().mean()),
            "disagreement": disagreement,
            "seconds": time.perf_counter() - begun,
        }
        self.rows.append(row)
        return row

    def _fused(self) -> tuple[MixturePolicy, dict[str, Any]]:
        """All policies so far as the modes of one."""
        n, keep = len(self.values), 1 - self.own.mixing
        weights = keep ** torch.arange(n, dtype=torch.float64)
        sites = {site: torch.stack([v[site] for v in self.values]) for site in self.values[0]}
        params = {"mode_weights": weights / weights.sum(), **sites}
        return MixturePolicy(self.policy, n), params

    def _acting(self) -> ActingPolicy:
        if self.own.variant == "fused":
            return ActingPolicy(*self._fused(), *self.spaces, self.own.greedy)
        return ActingPolicy(self.policy, self.values[-1], *self.spaces, self.own.greedy)

    def _fit(self) -> Fit:
        """The last fit; of fused policies the mixture's program, at all answers."""
        assert self.fit is not None
        if self.own.variant != "fused":
            return self.fit
        policy, params = self._fused()
        trajectories, weights = joined(self.rounds)
        more = {} if weights is None else {"weights": weights}
        program = Program(TrajectoryModel(policy), trajectories, **more)
        with program.session(0), torch.no_grad():
            density = program.density(params)
        return replace(
            self.fit,
            params=params,
            draws={site: value[None, None] for site, value in params.items()},
            log_likelihood=float(density.log_likelihood),
            log_prior=float(density.log_prior),
            program=program,
        )

    # -- files -------------------------------------------------------------------------------

    def _state(self, pending: Round) -> dict[str, Any]:
        return {
            "rounds": [part.state() for part in [*self.rounds, pending]],
            "values": [{n: v.detach().clone() for n, v in value.items()} for value in self.values],
            "rows": self.rows,
        }

    def _restore(self, state: Mapping[str, Any] | None) -> Round | None:
        """Take over what a run left; its last answers, which are still to be learnt from."""
        if state is None:
            return None
        rounds = [Round.restored(part, *self.spaces) for part in state["rounds"]]
        self.rounds, self.rows = rounds[:-1], list(state["rows"])
        self.values = [dict(value) for value in state["values"]]
        return rounds[-1]

    def _about(self, demonstrations: Trajectories | None) -> dict[str, Any]:
        free = ("iterations", "progress", "labels")
        own = {n: v for n, v in self.own.described().items() if n not in free}
        return {
            "method": METHOD,
            "policy": type(self.policy).__name__,
            "engine": getattr(self.engine, "name", type(self.engine).__name__),
            "states": repr(self.spaces[0]),
            "actions": repr(self.spaces[1]),
            "demonstrations": 0 if demonstrations is None else demonstrations.n_steps,
            **own,
        }
