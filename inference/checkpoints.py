"""What a long run leaves on disk, so that it can be continued: whole files, and whose they are."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from likely.inference.errors import FitError

# Of the state's layout.
VERSION = 1
STATE = "state.pt"
# What reading a damaged or a foreign file ends with.
UNREADABLE = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    pickle.UnpicklingError,
)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that is moved to its place when it is complete and on disk.

    A crash on the way leaves the file that was there before.
    """
    part = path.with_name(f"{path.name}.new")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def check_belongs(found: Mapping[str, Any], about: Mapping[str, Any], folder: Path) -> None:
    """Raise a `FitError` unless what a folder holds is of this run.

    Parameters
    ----------
    found, about
        What the run in the folder and this one are: name to value.
    folder
        Where it lies, for the message.
    """
    for name, wanted in about.items():
        if found.get(name) != wanted:
            raise FitError(
                f"path: {folder} holds a run with {name} = {found.get(name)!r}, and this one has "
                f"{wanted!r}; choose another folder, or make them agree"
            )


def seed_of(seed: int, number: int) -> int:
    """A seed for each round of a run, whatever happened in the rounds before."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run in a folder, replaced at once by each save.

    Parameters
    ----------
    folder
        Where it lies; None keeps nothing.
    about
        What the run is: numbers and names that a run which goes on must share.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     kept = Checkpoint(Path(folder), {"seed": 1})
    ...     kept.save({"x": torch.ones(2), "iteration": 3})
    ...     kept.load()["iteration"]
    3
    """

    folder: Path | None
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state of tensors, numbers, texts, lists and dicts of these."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"version": VERSION, "about": self.about, "state": dict(state)}
        write_whole(self.folder / STATE, lambda file: torch.save(content, file))

    def load(self) -> dict[str, Any] | None:
        """The last state that was saved; None if there is none.

        Raises
        ------
        FitError
            If the file is damaged, or another run's.
        """
        if self.folder is None or not (self.folder / STATE).exists():
            return None
        path = self.folder / STATE
        try:
            # Tensors and plain values only: a file cannot run anything.
            content = torch.load(path, weights_only=True)
            version, found, state = content["version"], content["about"], content["state"]
        except UNREADABLE as error:
            raise FitError(f"path: {path} is not the state of a run: {error}") from error
        if version != VERSION:
            raise FitError(f"path: {path} has layout {version}, expected {VERSION}")
        check_belongs(found, self.about, self.folder)
        loaded: dict[str, Any] = state
        return loaded


class Memory:
    """What a search needs to go on where it was killed: kept now and then, read at its start.

    Parameters
    ----------
    checkpoint
        Where it lies.
    every
        Number of iterations between two savings.

    Attributes
    ----------
    beside : callable
        What the caller of the search wants kept along: its own tensors and plain values by name.
    found : dict or None
        What an earlier run left.
    """

    def __init__(self, checkpoint: Checkpoint, every: int = 1) -> None:
        self._checkpoint, self._every = checkpoint, every
        self.beside: Callable[[], dict[str, Any]] = dict
        self.found = checkpoint.load()

    def load(self) -> dict[str, Any] | None:
        """What was found; torch's random numbers then go on from where they were."""
        if self.found is not None:
            first, *others = self.found["random"]
            torch.set_rng_state(first)
            if others:
                torch.cuda.set_rng_state_all(others)
        return self.found

    def keep(self, iteration: int, state: Callable[[], dict[str, Any]]) -> None:
        """Save the state before an iteration, if it is one whose turn it is."""
        if self._checkpoint.folder is None or iteration == 0 or iteration % self._every:
            return
        random = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            random += torch.cuda.get_rng_state_all()
        self._checkpoint.save({**self.beside(), **state(), "random": random})


# Keeps nothing, and finds nothing.
NOTHING = Memory(Checkpoint(None))
