"""Searches that go on where they were killed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch

from likely.inference.checkpoints import NOTHING, Checkpoint, Memory
from likely.inference.coordinates import Coordinates
from likely.inference.engines.base import SearchOptions
from likely.inference.engines.checks import check_int
from likely.inference.errors import OptionError
from likely.inference.program import Program, Values
from likely.inference.streams import Streamed

# Options that may differ between a run and the one that goes on from it.
_FREE = frozenset({"path", "save_every", "progress", "callback", "relabel", "init"})
# How far from the start densities are looked at, in unconstrained coordinates, and how far inside.
_ASIDE, _EDGE = 0.1, 3.0
# Digits of a log-density that do not depend on the number of threads, in double precision or less.
_DOUBLE, _LESS = 12, 5


@dataclass(frozen=True, kw_only=True)
class ResumableOptions(SearchOptions):
    """Options of searches whose state can be kept.

    Parameters
    ----------
    path : str or path, optional
        Folder that the state of the search is kept in. A run that finds one there goes on from it
        to the numbers that it would have had, and refuses that of another program, other data or
        other options.
    save_every : int
        Iterations between two savings.
    """

    path: str | PathLike[str] | None = None
    save_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("save_every", self.save_every, 1)
        if self.path is None:
            return
        if not isinstance(self.path, str | PathLike):
            raise OptionError(f"path must be a folder's name, got {self.path!r}")
        object.__setattr__(self, "path", os.fspath(self.path))
        if self.restarts != 1:
            raise OptionError(
                f"path: the state of one search is kept, and restarts={self.restarts} are several; "
                "give each a seed and a folder of its own"
            )

    def memory(self, program: Program, start: Values) -> Memory:
        """What an earlier run of this very search left, and the place for this one's state.

        Program, data and start are told by their densities next to the start, where rows that look
        alike at an even start differ.

        Raises
        ------
        OptionError
            If data come from a loader or in parts.
        FitError
            If the folder holds the state of another search.
        """
        if self.path is None:
            return NOTHING
        if isinstance(program, Streamed):
            raise OptionError(
                "path: the state of a search is kept for data in memory, not for a DataLoader or "
                "Shards, whose order is not ours"
            )
        sites = {name: list(u.shape) for name, u in program.sites.unknowns.items()}
        plates = {name: plate.size for name, plate in program.sites.plates.items()}
        about = {"engine": self.name, "sites": sites, "plates": plates}
        about |= {n: v for n, v in self.described().items() if n not in _FREE}
        about["log-densities near the start"] = _densities(program, start)
        return Memory(Checkpoint(Path(self.path), about), self.save_every)


def _densities(program: Program, start: Values) -> dict[str, list[str]]:
    """Sums of the log-densities and weights of each site next to the start.

    Each sum is there once more with its terms times their place: it changes with the order of rows.
    """
    coordinates = Coordinates(program)
    digits = _DOUBLE if program.dtype == torch.float64 else _LESS
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        x = coordinates.unconstrain(start, _EDGE)
        aside = _ASIDE * torch.arange(1.0, len(x) + 1, dtype=x.dtype, device=x.device).cos()
        run = program.run(coordinates.split(x + aside), unconstrained=True)
    found: dict[str, list[str]] = {}
    for factor in (*run.direct, *run.enumerated):
        own = found.setdefault(factor.name, [])
        for terms in (factor.log_prob, torch.as_tensor(factor.scale)):
            flat = terms.detach().double().reshape(-1)
            place = torch.linspace(0.0, 1.0, len(flat), dtype=flat.dtype, device=flat.device)
            own += [f"{float(total):.{digits}g}" for total in (flat.sum(), (flat * place).sum())]
    return found
