"""What inverse reinforcement learning comes back with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import xarray as xr
from gymnasium.spaces import Discrete
from torch import Tensor

from likely.inference.checkpoints import UNREADABLE, write_whole
from likely.inference.errors import FitError, OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.acting import ActingPolicy
from likely.models.policy import TabularPolicy

FIT, RECORD, TABLES = "fit.nc", "inverse_rl.json", "tables.nc"
# Of the files' layout.
VERSION = 1
ARRAYS = ("weights", "reward", "policies", "mixture", "table", "expected", "met")


@dataclass(frozen=True, eq=False)
class InverseRL:
    """A reward that explains an expert, and the policies that were tried on the way.

    Attributes
    ----------
    method : str
        ``"maxent"``, ``"apprenticeship"`` or ``"mwal"``.
    weights : Tensor
        float64 [F]: of the last reward; empty for a network's.
    reward : Tensor
        The last reward, [S] or [S, A].
    policies : Tensor
        [K, S, A], or over a horizon [K, T, S, A].
    mixture : Tensor
        [K]: probability of playing each of them for a whole episode.
    table : Tensor
        The one policy [S, A] or [T, S, A] whose visits are those of the mixture.
    expected, met : Tensor
        [F]: feature expectations of the expert, and of the mixture.
    history : DataFrame
        A row for each round; ``gap`` is the largest difference of feature expectations.
    converged : bool
        Whether the search reached its goal.
    stopped : str
        Why it ended otherwise, or nothing.
    seconds : float
        Wall time, over all parts of a run that was continued.
    fit : Fit, optional
        The program's fit, of ``"maxent"``.
    """

    method: str
    weights: Tensor
    reward: Tensor
    policies: Tensor
    mixture: Tensor
    table: Tensor
    expected: Tensor
    met: Tensor
    history: pd.DataFrame
    converged: bool
    stopped: str
    seconds: float
    fit: Fit | None = None

    @property
    def gap(self) -> float:
        """Largest difference of feature expectations, max |μ_E − μ|, of the mixture."""
        return float((self.expected - self.met).abs().max())

    @property
    def policy(self) -> ActingPolicy:
        """The mixture's policy as `likely.envs.rollout` takes it.

        Raises
        ------
        FitError
            If it depends on the time: `rollout_tabular` plays the ``table`` of a horizon.
        """
        if self.table.dim() == 3:
            raise FitError(
                "policy: over a horizon it depends on the time; play table [T, S, A] with "
                "rollout_tabular"
            )
        sizes = self.table.shape
        spaces = Discrete(int(sizes[0])), Discrete(int(sizes[1]))
        return ActingPolicy(TabularPolicy(*map(int, sizes)), {"policy": self.table}, *spaces)

    def __repr__(self) -> str:
        state = f", stopped: {self.stopped}" if self.stopped else ""
        return f"InverseRL({self.method}, {len(self.history)} rounds, gap {self.gap:.3g}{state})"

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the result to a folder, without pickle; `load` reads it.

        Raises
        ------
        FitError
            If the folder cannot be written to.
        OptionError
            If it is no path.
        """
        where = _folder(folder)
        record = {
            "version": VERSION,
            "method": self.method,
            "history": self.history.to_dict("list"),
            "converged": self.converged,
            "stopped": self.stopped,
            "seconds": self.seconds,
            "fit": self.fit is not None,
        }
        arrays = xr.Dataset(
            {
                name: ([f"{name}_{i}" for i in range(value.dim())], value.numpy())
                for name in ARRAYS
                for value in [getattr(self, name).detach()]
            }
        )
        text = json.dumps(record).encode()
        try:
            where.mkdir(parents=True, exist_ok=True)
            if self.fit is not None:
                self.fit.save(where / FIT, log_likelihood=False)
            part = where / f".{TABLES}.part"
            arrays.to_netcdf(part, engine="h5netcdf")
            part.replace(where / TABLES)
            # The last one: without it there is no result.
            write_whole(where / RECORD, lambda file: file.write(text))
        except OSError as error:
            raise FitError(f"cannot write '{where}': {error}") from error

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> InverseRL:
        """Read what `save` wrote.

        Raises
        ------
        FitError
            If the files are missing or damaged.
        OptionError
            If ``folder`` is no path.
        """
        where = _folder(folder)
        try:
            record: dict[str, Any] = json.loads((where / RECORD).read_text(encoding="utf-8"))
            version = record.pop("version")
            if version != VERSION:
                raise FitError(f"folder: {where} has layout {version}, expected {VERSION}")
            with xr.open_dataset(where / TABLES, engine="h5netcdf") as data:
                arrays: dict[str, Any] = {
                    name: torch.from_numpy(data[name].to_numpy().copy()) for name in ARRAYS
                }
            history = pd.DataFrame(record.pop("history"))
            fit = Fit.load(where / FIT) if record.pop("fit") else None
            return cls(**arrays, history=history, fit=fit, **record)
        except FitError:
            raise
        except (*UNREADABLE, AttributeError) as error:
            raise FitError(f"folder: {where} does not hold a result: {error}") from error


def _folder(folder: Any) -> Path:
    if not isinstance(folder, str | PathLike):
        raise OptionError(f"folder: expected a path, got {folder!r}")
    return Path(folder)
