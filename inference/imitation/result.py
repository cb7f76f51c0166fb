"""What every method of imitation comes back with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from likely.inference.checkpoints import write_whole
from likely.inference.errors import FitError
from likely.inference.fit import Fit
from likely.inference.imitation.acting import ActingPolicy
from likely.models.policy import Policy

FIT, RECORD = "fit.nc", "imitation.json"
# Of the record's layout.
VERSION = 1
INTERRUPTED = "interrupted"


@dataclass(frozen=True, eq=False)
class Imitation:
    """A policy, and how it was found.

    Attributes
    ----------
    method : str
        ``"behaviour_cloning"``, ``"policy_gradient"``, ...
    policy : ActingPolicy
        Observations to actions, as `likely.envs.rollout` takes it; a policy of Discrete states
        and actions has a ``table`` [S, A] as well.
    fit : Fit
        The program at the values that were found, or its posterior.
    history : DataFrame
        How it went: one row an iteration.
    stopped : str
        Why it ended before its time, or nothing.
    extra : dict
        What a method has to say beside: name to values that JSON takes.
    """

    method: str
    policy: ActingPolicy
    fit: Fit
    history: pd.DataFrame
    stopped: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Tensor]:
        """Site to value: the fit's ``params``, at which the policy acts."""
        return self.fit.params

    @property
    def table(self) -> Tensor:
        """π(a | s), float64 [S, A], where states and actions are Discrete."""
        return self.policy.table

    @property
    def seconds(self) -> float:
        """Wall time of the fit."""
        return self.fit.seconds

    def __repr__(self) -> str:
        state = f", stopped: {self.stopped}" if self.stopped else ""
        return f"Imitation({self.method}, {len(self.history)} iterations{state}, {self.fit!r})"

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the result to a folder, without pickle; `load` reads it.

        Raises
        ------
        FitError
            If the folder cannot be written to.
        """
        where = Path(folder)
        spaces = self.policy.state_space, self.policy.action_space
        record = {
            "version": VERSION,
            "method": self.method,
            "policy": type(self.policy.policy).__name__,
            "greedy": self.policy.greedy,
            "spaces": [repr(space) for space in spaces],
            "history": self.history.to_dict("list"),
            "stopped": self.stopped,
            "extra": self.extra,
        }
        text = json.dumps(record).encode()
        try:
            where.mkdir(parents=True, exist_ok=True)
            self.fit.save(where / FIT, log_likelihood=False)
            write_whole(where / RECORD, lambda file: file.write(text))
        except OSError as error:
            raise FitError(f"cannot write '{where}': {error}") from error

    @classmethod
    def load(
        cls,
        folder: str | PathLike[str],
        policy: Policy,
        state_space: Any = None,
        action_space: Any = None,
    ) -> Imitation:
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            Where.
        policy
            The policy of the program, which is not in the files; a module's weights are.
        state_space, action_space
            Of the environment, as the result's policy had them.

        Raises
        ------
        FitError
            If the files are missing or damaged, or those of another kind of policy.
        """
        where = Path(folder)
        try:
            record = json.loads((where / RECORD).read_text(encoding="utf-8"))
            if record["version"] != VERSION:
                raise FitError(
                    f"folder: {where} has layout {record['version']}, expected {VERSION}"
                )
            kind, named = record["policy"], [repr(state_space), repr(action_space)]
            method, stopped, extra = record["method"], record["stopped"], record["extra"]
            history, greedy, spaces = record["history"], record["greedy"], record["spaces"]
            history = pd.DataFrame(history)
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, FitError):
                raise
            raise FitError(f"folder: {where / RECORD} is not a result's: {error}") from error
        if kind != type(policy).__name__:
            raise FitError(f"policy: {where} holds a {kind}, and this is {policy!r}")
        if named != spaces:
            raise FitError(
                f"state_space, action_space: {where} holds a policy for {', '.join(spaces)}, and "
                f"these are {', '.join(named)}"
            )
        fit = Fit.load(where / FIT)
        acting = ActingPolicy(policy, fit.params, state_space, action_space, greedy)
        return cls(method, acting, fit, history, stopped, extra)
