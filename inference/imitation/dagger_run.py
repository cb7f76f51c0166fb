"""One run of DAgger: playing, asking, learning, and what lies on disk in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from likely.envs import DataError, TabularMDP, Trajectories
from likely.inference.active.answers_log import fingerprint
from likely.inference.active.training import with_options
from likely.inference.checkpoints import seed_of
from likely.inference.engines import MAP
from likely.inference.engines.base import Engine
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation._loop import Rounds
from likely.inference.imitation._unbounded import environment_name
from likely.inference.imitation.acting import ActingPolicy, as_table
from likely.inference.imitation.people import Person
from likely.inference.imitation.pictures import with_pictures
from likely.inference.imitation.playing import blank, play, spaces
from likely.inference.imitation.policy_program import check_playable
from likely.inference.imitation.queries import Answered, Mixed, Round, asked_about, joined
from likely.inference.imitation.result import INTERRUPTED, Imitation
from likely.inference.program import Program
from likely.models.policy import MixturePolicy, Policy
from likely.models.trajectory import TrajectoryModel

if TYPE_CHECKING:
    from likely.inference.imitation.dagger import Dagger

METHOD = "dagger"
STOPPED = "the expert stopped"
COLUMNS = (
    "iteration", "beta", "labels", "acted", "return", "length", "disagreement", "seconds"
)  # fmt: skip


class _NothingNewError(Exception):
    """An iteration without a single answer, and why."""


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
        if not isinstance(policy, Policy):
            raise OptionError(f"policy must be one of likely.models, got {policy!r}")
        check_playable(env, policy)
        self.engine = MAP() if engine is None else engine
        if not isinstance(self.engine, Engine):
            raise OptionError(f"engine must be an engine such as MAP(), got {engine!r}")
        if own.variant == "fused" and isinstance(policy, MixturePolicy):
            raise OptionError("policy: the fused variant makes a mixture of policies of one mode")
        self.own, self.policy, self.expert, self.options = own, policy, expert, options
        self.named = environment_name(env, {}), repr(options)
        self.pictures, self.borrowed = None, hasattr(env, "step")
        person = isinstance(expert, Person)
        if person and expert.renders and not isinstance(env, TabularMDP):
            self.pictures = with_pictures(env, expert.trail, **options)
            env, self.options = self.pictures, {}
        self.env, self.spaces = env, spaces(env, **self.options)
        space = self.spaces[1]
        if person and len(expert.names) != getattr(space, "n", 0):
            self._close()
            raise OptionError(f"expert: {len(expert.names)} names for the actions {space}")
        # What does not fit together is found before anybody is asked.
        self.empty = blank(*self.spaces)
        Program(TrajectoryModel(policy), self.empty)
        self.rounds: list[Round] = []
        self.values: list[dict[str, Any]] = []
        # Answers that are still to be learnt from, and the expert's wish to stop.
        self.pending: Round | None = None
        self.stopped = ""
        self.fit: Fit | None = None

    def go(self, given: Trajectories | None, path: Any, callback: Any) -> Imitation:
        """All iterations, from where a run in ``path`` stopped; the result."""
        own, first = self.own, 0 if given is None else 1
        if given is not None:
            _check_episodes(given, self.empty)
        tabular = isinstance(self.expert, Person) and isinstance(self.env, TabularMDP)
        if tabular and any(own.share(number) > 0 for number in range(first, own.iterations)):
            raise OptionError("beta: a person plays in environments; in a process, 'never'")
        loop = Rounds(
            METHOD,
            own.iterations,
            path,
            self._about(given),
            progress=own.progress,
            callback=callback,
            shown="labels",
        )

        def step(number: int) -> dict[str, Any]:
            if self.pending is None:
                self.pending = self._collect(number, given)
                loop.save(self._state())
            return self._learn()

        try:
            self._restore(loop.resume(), loop.rows)
            loop.go(step, self._state, self._reached)
        except _NothingNewError as error:
            self.stopped = str(error)
        finally:
            self._close()
        stopped = loop.stopped or self.stopped
        if not self.rounds:
            if stopped == INTERRUPTED:
                raise KeyboardInterrupt
            raise OptionError(f"expert: nothing was answered ({stopped or 'no label'})")
        return Imitation(METHOD, self._acting(), self._result(), loop.history(COLUMNS), stopped)

    def _reached(self, rows: list[dict[str, Any]]) -> str:
        """Why to stop, if it is time."""
        labels, spent = self.own.labels, sum(part.answers for part in self.rounds)
        return self.stopped or (
            "all labels are spent" if labels is not None and spent >= labels else ""
        )

    def _close(self) -> None:
        if isinstance(self.expert, Person):
            self.expert.close()
        if self.pictures is not None and not self.borrowed:
            self.pictures.close()

    # -- playing and asking ------------------------------------------------------------------

    def _collect(self, number: int, given: Trajectories | None) -> Round:
        """Episodes of an iteration, and the expert's answers."""
        own = self.own
        if number == 0 and given is not None:
            counted = torch.ones(len(given.state_action_pairs()[1]), dtype=torch.float64)
            if own.labels is not None:
                counted[own.labels :] = 0.0
            return Round(given, counted, 1.0)
        seed, beta = seed_of(own.seed, number), own.share(number)
        if self.pictures is not None:
            self.pictures.forget()
        answered = Answered(self.expert, self.spaces[1], seed)
        seen, acted = self._play(answered, beta, seed)
        pictures = None
        if self.pictures is not None:
            pictures = [one for episode in self.pictures.episodes for one in episode[:-1]]
            pictures = pictures[: seen.n_steps]
        left_over = None
        if own.labels is not None:
            left_over = own.labels - sum(part.answers for part in self.rounds)
        rows = np.arange(seen.n_steps)
        if answered.stopped:
            # There is nobody to ask: what is known already.
            rows = rows[answered.about(seen.step_states, rows, None)[1]]
        rows = rows[asked_about(len(rows), own.queries, left_over, seed)]
        labels, known = answered.about(seen.step_states, rows, pictures)
        if answered.stopped:
            self.stopped = STOPPED
        if not known.any():
            raise _NothingNewError(self.stopped or "no state was answered")
        actions = seen.state_action_pairs()[1].clone()
        chosen = torch.as_tensor(known)
        actions[chosen] = torch.as_tensor(labels[known]).to(actions)
        return Round(seen.with_actions(actions), chosen.double(), beta, acted)

    def _play(self, answered: Answered, beta: float, seed: int) -> tuple[Trajectories, int]:
        """Episodes of the mixed policy, and how many steps of them were the expert's."""
        own, learner = self.own, self._behaviour()
        if not isinstance(self.env, TabularMDP):
            policy = Mixed(learner, answered, beta, self.pictures)
            seen = play(self.env, policy, own.episodes, seed, own.horizon, **self.options)
            return seen, policy.acted
        # A process plays all its episodes at once, from a table.
        sizes = self.env.n_states, self.env.n_actions
        table = torch.full(sizes, 1 / sizes[1], dtype=torch.float64)
        if learner is not None:
            table = as_table(self.env, learner)
        if beta > 0:
            table = beta * self._expert_table(answered, table) + (1 - beta) * table
        seen = play(self.env, table, own.episodes, seed, own.horizon)
        # Whose a step was is not drawn.
        return seen, round(beta * seen.n_steps)

    def _expert_table(self, answered: Answered, learner: Tensor) -> Tensor:
        """The expert's π(a | s) [S, A]; the learner's where there is no answer."""
        if hasattr(self.expert, "table"):
            return as_table(self.env, self.expert, "expert")
        actions = torch.as_tensor(answered(np.arange(self.env.n_states)))
        table = torch.nn.functional.one_hot(actions.clamp_min(0), self.env.n_actions).to(learner)
        return torch.where((actions < 0).unsqueeze(-1), learner, table)

    def _behaviour(self) -> ActingPolicy | None:
        return self._acting() if self.values else None

    # -- learning ----------------------------------------------------------------------------

    def _learn(self) -> dict[str, Any]:
        """Fit with an iteration's answers; facts for the history."""
        new = self.pending
        assert new is not None
        disagreement = new.disagreement(self._behaviour())
        fit = self._fitted([*self.rounds, new], self.values[-1] if self.values else None)
        self.rounds.append(new)
        self.values.append(fit.params)
        self.fit, self.pending = fit, None
        seen = new.trajectories
        return {
            "beta": new.beta,
            "labels": sum(part.answers for part in self.rounds),
            "acted": new.acted,
            "return": float("nan") if seen.rewards is None else float(seen.returns().mean()),
            "length": float(seen.lengths.double().mean()),
            "disagreement": disagreement,
        }

    def _fitted(self, rounds: list[Round], start: Any) -> Fit:
        """The fit of the last of some iterations, from the one before."""
        trajectories, weights = joined(rounds[-1:] if self.own.variant == "fused" else rounds)
        more = {} if weights is None else {"weights": weights}
        engine = with_options(self.engine, init=start)
        return engine.fit(TrajectoryModel(self.policy), trajectories, **more)

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

    def _result(self) -> Fit:
        """The last fit; of fused policies the mixture's program, at all answers."""
        if self.fit is None:
            # The run in the folder had ended already.
            self.fit = self._fitted(self.rounds, self.values[-2] if self.values[1:] else None)
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

    def _state(self) -> dict[str, Any]:
        return {
            "rounds": [part.state() for part in self.rounds],
            "pending": None if self.pending is None else self.pending.state(),
            "values": [{n: v.detach().clone() for n, v in value.items()} for value in self.values],
            "stopped": bool(self.stopped),
            "memory": self.expert.memory if isinstance(self.expert, Person) else {},
        }

    def _restore(self, state: Mapping[str, Any] | None, rows: list[dict[str, Any]]) -> None:
        """Take over what a run left.

        An iteration in which the expert stopped is taken up again, with the answers that a person
        gave until then.
        """
        if state is None:
            return
        self.rounds = [Round.restored(part, *self.spaces) for part in state["rounds"]]
        self.values = [dict(value) for value in state["values"]]
        if state["pending"] is not None:
            self.pending = Round.restored(state["pending"], *self.spaces)
        if isinstance(self.expert, Person):
            self.expert.recall(state["memory"])
        if not state["stopped"]:
            return
        if self.pending is not None:
            self.pending = None
        else:
            del self.rounds[-1], self.values[-1], rows[-1]

    def _about(self, given: Trajectories | None) -> dict[str, Any]:
        free = ("iterations", "progress", "labels")
        own = {n: v for n, v in self.own.described().items() if n not in free}
        data = None if given is None else {"s": given.states, "a": given.actions}
        return {
            "method": METHOD,
            "env": self.named[0],
            "env_options": self.named[1],
            "policy": _described(self.policy),
            "engine": _described(self.engine),
            "states": repr(self.spaces[0]),
            "actions": repr(self.spaces[1]),
            "demonstrations": fingerprint(data),
            **own,
        }


def _check_episodes(given: Any, empty: Trajectories) -> None:
    """Raise unless episodes are of the environment."""
    for space in ("state_space", "action_space"):
        wanted, found = getattr(empty, space), getattr(given, space, None)
        if found != wanted:
            raise DataError(f"demonstrations: expected {space} {wanted}, got {found}")


def _described(value: Any) -> str:
    """A dataclass by its plain options."""
    plain = (bool, int, float, str, type(None))
    found = {n: v for n, v in vars(value).items() if isinstance(v, plain) and n != "progress"}
    parts = {n: _described(v) for n, v in vars(value).items() if is_dataclass(v)}
    return f"{type(value).__name__}{found | parts}"
