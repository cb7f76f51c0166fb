"""What a long run leaves on disk, so that it can be continued: whole files, and whose they are."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from likely.inference.errors import FitError, OptionError

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

    A crash on the way leaves the file that was there before, and so does a full disk. Of two
    processes that write at once the later one's file stays, whole.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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


def as_folder(path: Any) -> Path:
    """The folder of a run, made where there is none: before there is anything to lose.

    Raises
    ------
    OptionError
        If it is no path.
    FitError
        If it cannot be made.
    """
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"path: expected a folder, got {path!r}")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FitError(f"path: cannot write to {folder}: {error}") from error
    return folder


def options_of(engine: Any) -> str:
    """Options of an engine on which its result depends, as text."""
    shown = {"progress", "callback"}
    found = {name: value for name, value in engine.described().items() if name not in shown}
    return json.dumps(found, sort_keys=True)


def rounded(values: torch.Tensor) -> str:
    """Numbers to six digits of the largest, as solves differ between machines, in a few letters."""
    largest = float(values.abs().max())
    whole = (values * (1e6 / largest if largest > 0 else 1.0)).round().long().tolist()
    return f"{largest:.6g} {zlib.crc32(repr(whole).encode()):08x}"


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
        """Write a state of tensors, numbers, texts, lists and dicts of these.

        Raises
        ------
        FitError
            If the folder cannot be written to.
        """
        if self.folder is None:
            return
        content = {"version": VERSION, "about": self.about, "state": dict(state)}
        # In memory first: torch hides why a file could not be written.
        packed = BytesIO()
        torch.save(content, packed)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / STATE, lambda file: file.write(packed.getbuffer()))
        except OSError as error:
            raise FitError(f"path: cannot write to {self.folder}: {error}") from error

    def load(self) -> dict[str, Any] | None:
        """The last state that was saved; None if there is none.

        Raises
        ------
        FitError
            If the file is damaged, or another run's, or if the folder is none.
        """
        if self.folder is None:
            return None
        if self.folder.exists() and not (self.folder.is_dir() and os.access(self.folder, os.W_OK)):
            raise FitError(f"path: cannot write to {self.folder}: a folder of one's own is needed")
        if not (self.folder / STATE).exists():
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
        self._made: dict[str, str] = {}
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

    def require(self, name: str, value: str, found: str | None = None) -> None:
        """Say what the search was made with, which that of an earlier run has to be, too.

        Parameters
        ----------
        name, value
            What of it, and with what.
        found
            What the earlier run was made with, where its state tells; else it is kept along.

        Raises
        ------
        FitError
            If what was found was made with something else.
        """
        if self._checkpoint.folder is None:
            return
        if found is None:
            self._made[name] = value
        if self.found is not None:
            before = self.found["made"] if found is None else {name: found}
            check_belongs(before, {name: value}, self._checkpoint.folder)

    def keep(self, iteration: int, state: Callable[[], dict[str, Any]]) -> None:
        """Save the state before an iteration, if it is one whose turn it is."""
        if self._checkpoint.folder is None or iteration == 0 or iteration % self._every:
            return
        random = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            random += torch.cuda.get_rng_state_all()
        made = {"made": self._made, "random": random}
        self._checkpoint.save({**self.beside(), **state(), **made})


# Keeps nothing, and finds nothing.
NOTHING = Memory(Checkpoint(None))
