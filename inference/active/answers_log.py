"""What people answered, on disk before the next question is asked."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.checks import checked_classes
from likely.inference.active.errors import AnswersWarning
from likely.inference.engines.checks import is_int

_FORMAT = "answers of likely"
_VERSION = 1

Key = tuple[int, int | None]


class Entry(NamedTuple):
    """The newest answer to a question: a class's position, and what was shown (None: unknown)."""

    label: int
    shown: str | None


class AnswersLog:
    """A file of JSON lines, one an answer, each on disk when `append` returns.

    The first line names the classes; every other one holds the row of the pool, the annotator, the
    answer in words (null: skipped), a fingerprint of what was shown, and when. The last line about
    a question counts. An existing file is read and continued.

    Parameters
    ----------
    path
        The file; None keeps the answers in memory alone, which a crash loses.
    classes
        Names of the classes, all different when written as text.

    Raises
    ------
    DataError
        For a file of other classes, or one that is none of these files.

    Warns
    -----
    AnswersWarning
        If the last line is broken, as a crash while writing leaves it; it is dropped.

    Examples
    --------
    >>> log = AnswersLog("answers.jsonl", ("cat", "dog"))
    >>> log.append((7, None), 1)
    >>> AnswersLog("answers.jsonl", ("cat", "dog")).label((7, None))
    1
    """

    def __init__(self, path: str | PathLike[str] | None, classes: Any) -> None:
        self.classes: tuple[Hashable, ...] = checked_classes(classes)
        self.names = tuple(map(str, self.classes))
        if len(set(self.names)) < len(self.names) or not all(map(str.strip, self.names)):
            raise DataError(f"classes: expected different names when written out, got {self.names}")
        self.entries: dict[Key, Entry] = {}
        if path is not None and not isinstance(path, str | PathLike):
            raise DataError(f"path: expected the path of a file or None, got {path!r}")
        self.path = None if path is None else Path(path)
        if self.path is not None:
            if self.path.is_dir() or not self.path.parent.is_dir():
                raise DataError(f"path: expected a file in an existing folder, got {self.path}")
            self._open(self.path)

    @property
    def n_answered(self) -> int:
        """Number of questions with an answer."""
        return sum(entry.label >= 0 for entry in self.entries.values())

    def label(self, key: Key, shown: str | None = None) -> int:
        """The recorded answer to a question, −1 where there is none.

        Parameters
        ----------
        key
            Row of the pool, and annotator or None.
        shown
            Fingerprint of what is to be shown. An answer to something else does not count.

        Warns
        -----
        AnswersWarning
            If the recorded answer is to something else.
        """
        entry = self.entries.get(key)
        if entry is None:
            return -1
        if None not in (shown, entry.shown) and shown != entry.shown:
            warnings.warn(
                f"{self.path or 'answers'}: point {key[0]} is not what it was when it was "
                "answered; it is asked again",
                AnswersWarning,
                stacklevel=2,
            )
            return -1
        return entry.label

    def append(self, key: Key, label: int, shown: str | None = None) -> None:
        """Record an answer; −1 says that it was skipped, and withdraws an earlier one."""
        if self.path is not None:
            index, annotator = key
            record = {
                "index": index,
                "annotator": annotator,
                "label": self.names[label] if label >= 0 else None,
                "shown": shown,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            _write(self.path, record)
        self.entries[key] = Entry(label, shown)

    def _open(self, path: Path) -> None:
        header = {"format": _FORMAT, "version": _VERSION, "classes": list(self.names)}
        written = path.read_bytes() if path.exists() else b""
        if not written.endswith(b"\n") and _line(header).startswith(written):
            # New, or the crash came with the very first line.
            path.write_bytes(b"")
            _write(path, header)
            return
        lines = written.split(b"\n")
        self._check_header(path, _parsed(lines[0]))
        end = len(lines[0]) + 1
        for number, line in enumerate(lines[1:], start=2):
            record = _parsed(line)
            if record is None and not any(lines[number:]):
                self._mend(path, written, end, line)
                return
            self._take(path, number, record)
            end += len(line) + 1
        # The crash came between an answer and the end of its line.
        with path.open("ab") as file:
            file.write(b"\n")

    def _mend(self, path: Path, written: bytes, end: int, line: bytes) -> None:
        """Drop a last line that cannot be read."""
        if not line:
            return
        warnings.warn(
            f"{path}: the last line is broken and is dropped, as a crash while writing leaves it: "
            f"{line[:80]!r}",
            AnswersWarning,
            stacklevel=4,
        )
        with path.open("r+b") as file:
            file.truncate(end)

    def _check_header(self, path: Path, header: Any) -> None:
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise DataError(f"path: expected a new file or one of recorded answers, got {path}")
        if header.get("version") != _VERSION:
            raise DataError(
                f"path: expected version {_VERSION} of recorded answers, got "
                f"{header.get('version')!r} in {path}"
            )
        if header.get("classes") != list(self.names):
            raise DataError(
                f"path: expected answers for the classes {self.names}, got those for "
                f"{header.get('classes')} in {path}"
            )

    def _take(self, path: Path, number: int, record: Any) -> None:
        where = f"path: line {number} of {path}"
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a recorded answer, which it is not")
        index: Any = record.get("index")
        annotator: Any = record.get("annotator")
        if not is_int(index) or index < 0 or not (annotator is None or is_int(annotator)):
            raise DataError(f"{where}: expected positions, got {index!r} and {annotator!r}")
        label = record.get("label")
        if label is not None and label not in self.names:
            raise DataError(f"{where}: expected one of {self.names} or null, got {label!r}")
        position = -1 if label is None else self.names.index(label)
        self.entries[index, annotator] = Entry(position, record.get("shown"))


def fingerprint(item: Any) -> str | None:
    """A short digest of what a person is shown, to notice that a pool has changed; or None.

    Numbers count with single precision, so that rounding elsewhere does not matter.

    Parameters
    ----------
    item
        Text, an array, a row of a table or a mapping of these; None has no fingerprint.
    """
    if item is None:
        return None
    digest = hashlib.sha256()
    _digest(item, digest)
    return digest.hexdigest()[:16]


def _digest(item: Any, digest: Any) -> None:
    if isinstance(item, pd.Series | Mapping):
        for name, value in item.items():
            digest.update(f"{name}\0".encode())
            _digest(value, digest)
        return
    if isinstance(item, Tensor):
        item = item.detach().cpu().numpy()
    if isinstance(item, float | np.floating) or (
        isinstance(item, np.ndarray) and item.dtype.kind == "f"
    ):
        # Minus zero looks like zero.
        item = np.asarray(item, dtype=np.float32) + np.float32(0.0)
    if isinstance(item, np.ndarray) and item.dtype.kind != "O":
        digest.update(f"{item.dtype}{item.shape}".encode())
        digest.update(np.ascontiguousarray(item).tobytes())
    else:
        digest.update(f"{type(item).__name__}\0{item}".encode(errors="surrogatepass"))


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"


def _parsed(line: bytes) -> Any:
    """What a line holds; None for one that cannot be read."""
    try:
        return json.loads(line.decode(errors="surrogatepass"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return None


def _write(path: Path, record: dict[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(_line(record))
        file.flush()
        os.fsync(file.fileno())
