"""The loop of inverse reinforcement learning: fit a reward, plan, compare, and again."""

from __future__ import annotations

import time
import warnings
from functools import partial
from os import PathLike
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from likely.inference.checkpoints import Checkpoint, as_folder, rounded
from likely.inference.engines.checks import check_bool, check_int
from likely.inference.errors import ConvergenceWarning, OptionError
from likely.inference.imitation.demonstrations import FeatureMatching
from likely.inference.imitation.inverse_rl import InverseRL
from likely.inference.imitation.reward_rules import RewardRule, Verdict
from likely.inference.monitor import Monitor

# Seconds between two writes of a run's state, which may take longer than a round.
EVERY = 2.0


def match_expert(
    problem: FeatureMatching,
    rule: RewardRule,
    *,
    max_iter: int,
    progress: bool = False,
    callback: Any = None,
    path: str | PathLike[str] | None = None,
) -> InverseRL:
    """The loop that all of inverse reinforcement learning shares.

    1. Fit a reward to what the expert and the policies so far met.
    2. Find a policy for it.
    3. Compare its features with the expert's.
    4. Repeat.

    Parameters
    ----------
    problem
        Process, features and expert.
    rule
        How rewards are fitted; a new one for each run.
    max_iter
        Rounds at most.
    progress
        Show a bar.
    callback
        Called with a `likely.inference.Step` after each round, whose objective is minus the gap;
        returning True stops.
    path
        Folder for the state of the run, written every few seconds and at the end. A run that was
        cut short goes on from there, and comes to the same result; one that had ended ends at
        once, or goes on if ``max_iter`` is larger now.

    Returns
    -------
    InverseRL
        Also if the search did not reach its goal, with a `ConvergenceWarning`.

    Raises
    ------
    FitError
        If the folder holds another problem's run or a damaged one, or cannot be made.
    """
    check_int("max_iter", max_iter, 1)
    check_bool("progress", progress)
    if callback is not None and not callable(callback):
        raise OptionError(f"callback must be callable, got {callback!r}")
    run = Run(problem, rule, path)
    done = len(run.history)
    with Monitor(rule.name, max(max_iter - done, 0), progress, callback) as monitor:
        monitor.objectives.extend(-row["gap"] for row in run.history)
        for number in range(done, max_iter):
            if run.verdict is not None and run.verdict.done:
                break
            weights = rule.weights(problem, run.met)
            policy = rule.plan(problem, weights)
            run.add(weights, policy, problem.met(policy, number))
            stop = monitor.step(-run.history[-1]["gap"], partial(dict, reward_weights=weights))
            if stop:
                break
    return run.result()


class Run:
    """What the rounds of one run found so far, in memory and in a folder."""

    def __init__(
        self, problem: FeatureMatching, rule: RewardRule, path: str | PathLike[str] | None
    ) -> None:
        self.problem, self.rule = problem, rule
        self.begun = self.saved = time.perf_counter()
        self.met = problem.expected.new_zeros(0, len(problem.expected))
        self.policies: list[Tensor] = []
        self.history: list[dict[str, float]] = []
        self.last = problem.expected.new_zeros(0)
        self.verdict: Verdict | None = None
        self.memory: dict[str, Any] = {}
        self.spent = 0.0
        about = {"method": rule.name, **fingerprint(problem), **rule.described()}
        self.kept = Checkpoint(None if path is None else as_folder(path), about)
        self._restore(self.kept.load())

    def add(self, weights: Tensor, policy: Tensor, met: Tensor) -> None:
        """Compare the policy of a round with the expert."""
        everything = torch.cat([self.met, met.unsqueeze(0)])
        verdict = self.rule.compare(self.problem, everything)
        # All at once: an interrupt leaves whole rounds.
        self.met, self.verdict, self.last = everything, verdict, weights
        self.policies.append(policy)
        self.history.append({"round": len(self.history), **verdict.row})
        if self.kept.folder is None:
            return
        self.memory = self.rule.memory()
        if time.perf_counter() - self.saved > EVERY:
            self.save()

    def result(self) -> InverseRL:
        """What was found, said and saved."""
        self.save()
        verdict, name = self.verdict, self.rule.name
        assert verdict is not None
        stopped = verdict.stopped
        if not verdict.done:
            stopped = f"it has not reached its goal after {len(self.history)} rounds"
        if stopped:
            warnings.warn(f"{name}: {stopped}", ConvergenceWarning, stacklevel=4)
        # An interrupt may leave a policy that was not compared.
        tried = torch.stack(self.policies[: len(verdict.mixture)])
        # Policies without a share would cost a solve each.
        used = verdict.mixture > 0
        return InverseRL(
            method=name,
            weights=self.last,
            reward=self.rule.reward(self.problem, self.last),
            policies=tried,
            mixture=verdict.mixture,
            table=self.problem.blend(tried[used], verdict.mixture[used]),
            expected=self.problem.expected,
            met=verdict.mixture @ self.met[: len(verdict.mixture)],
            history=pd.DataFrame(self.history),
            converged=not stopped,
            stopped=stopped,
            seconds=self.spent + time.perf_counter() - self.begun,
            fit=self.rule.fit,
        )

    def save(self) -> None:
        """Write all rounds."""
        if self.kept.folder is None or self.verdict is None:
            return
        state = {
            "policies": torch.stack(self.policies),
            "met": self.met,
            "history": self.history,
            "weights": self.last,
            "verdict": self.verdict._asdict(),
            "memory": self.memory,
            "seconds": self.spent + time.perf_counter() - self.begun,
        }
        self.kept.save(state)
        self.saved = time.perf_counter()

    def _restore(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self.policies, self.met = list(state["policies"]), state["met"]
        self.history, self.last = list(state["history"]), state["weights"]
        self.verdict, self.spent = Verdict(**state["verdict"]), float(state["seconds"])
        self.memory = state["memory"]
        self.rule.recall(self.memory)


def fingerprint(problem: FeatureMatching) -> dict[str, Any]:
    """What tells a problem from others, in plain values."""
    mdp = problem.mdp
    ramp = torch.arange(mdp.n_states, dtype=torch.float64).sin()
    moves = mdp.kernel.expect(ramp)
    counts = torch.arange(mdp.n_states * mdp.n_actions, dtype=torch.float64).cos()
    counts = counts.reshape(mdp.n_states, mdp.n_actions)
    return {
        "horizon": problem.horizon,
        "episodes": problem.episodes,
        "seed": problem.seed,
        "states": mdp.n_states,
        "actions": mdp.n_actions,
        "discount": f"{mdp.discount:.9g}",
        "process": rounded((moves * counts).sum(-1)),
        "start": rounded(mdp.initial * ramp),
        "features": rounded(problem.linear.met(counts)),
        "expert": rounded(problem.expected),
    }
