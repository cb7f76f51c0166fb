"""A person at a pseudo-terminal: reads what is asked and presses keys."""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import pytest

pty = pytest.importorskip("pty", reason="needs a Unix terminal")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

_ROWS, _COLUMNS = 30, 80


class Typist(threading.Thread):
    """Presses the next key each time that a question ends with ``> ``.

    Attributes
    ----------
    screen : str
        What came out so far.
    left : list of str
        Keys that were not asked for.
    """

    def __init__(self, end: int, keys: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.end, self.left = end, list(keys)
        self._seen, self._over = b"", threading.Event()

    @property
    def screen(self) -> str:
        return self._seen.decode(errors="replace").replace("\r\n", "\n")

    @property
    def words(self) -> str:
        """What came out, without pictures in blocks."""
        return re.sub(r"\x1b\[[0-9;]*m|▀", "", self.screen)

    def run(self) -> None:
        while True:
            over = self._over.is_set()
            if not select.select([self.end], [], [], 0.0 if over else 0.02)[0]:
                if over:
                    return
                continue
            self._seen += os.read(self.end, 1 << 16)
            if self._seen.endswith(b"> ") and self.left:
                os.write(self.end, self.left.pop(0).encode())

    def finish(self) -> None:
        self._over.set()
        self.join(10)


@contextmanager
def typist(*keys: str) -> Iterator[tuple[Typist, TextIO]]:
    """A person with these keys in mind, and the terminal, both for input and for output."""
    outer, inner = pty.openpty()
    size = _ROWS.to_bytes(2, "little") + _COLUMNS.to_bytes(2, "little") + bytes(4)
    fcntl.ioctl(inner, termios.TIOCSWINSZ, size)
    person = Typist(outer, keys)
    with open(inner, "r+b", buffering=0) as raw:
        terminal: Any = _Terminal(raw)
        person.start()
        try:
            yield person, terminal
        finally:
            person.finish()
    os.close(outer)


class _Terminal:
    """Both ends of a terminal as one stream of text."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def fileno(self) -> int:
        return int(self.raw.fileno())

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        left = text.encode()
        while left:
            left = left[self.raw.write(left) :]

    def flush(self) -> None:
        self.raw.flush()

    def readline(self) -> str:
        return str(self.raw.readline().decode())
