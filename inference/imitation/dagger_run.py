"""One run of DAgger: playing, asking, learning, and what lies on disk in between."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from likely.envs import TabularMDP, Trajectories
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.training import with_options
from likely.inference.checkpoints import Checkpoint, seed_of
from likely.inference.engines import MAP
from likely.inference.engines.base import Engine
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

if TYPE_CHECKING:
    from likely.inference.imitation.dagger import Dagger

METHOD = "dagger"
COLUMNS = ("iteration", "beta", "labels", "return", "length", "disagreement", "seconds")


class Run:
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
        space = self.spaces[1]
        if isinstance(expert, Person) and len(expert.names) != getattr(space, "n", 0):
            raise OptionError(f"expert: {len(expert.names)} names for the actions {space}")
        self.rounds: list[Round] = []
        self.values: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.fit: Fit | None = None

    def go(self, demonstrations: Trajectories | None, path: Any, callback: Any) -> Imitation:
        """All iterations, from where a run in ``path`` stopped; the result."""
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
                    stopped = stopped or "the callback said so"
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
            counted = torch.ones(len(given.state_action_pairs()[1]), dtype=torch.float64)
            if own.labels is not None:
                counted[own.labels :] = 0.0
            return Round(given, counted, 1.0), ""
        seed, stopped = seed_of(own.seed, number), ""
        beta = own.share(number)
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
            sizes = self.env.n_states, self.env.n_actions
            table = torch.full(sizes, 1 / sizes[1], dtype=torch.float64)
            if self.values:
                table = as_table(self.env, self._acting())
            if beta > 0:
                table = beta * as_table(self.env, self.expert, "expert") + (1 - beta) * table
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
        more: dict[str, Any] = {} if weights is None else {"weights": weights}
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
