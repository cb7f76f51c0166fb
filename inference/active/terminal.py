"""Labels that a person types at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from os import PathLike
from typing import Any, TextIO

import numpy as np

from likely.envs import DataError
from likely.inference.active.answers_log import AnswersLog
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.oracle import Ints, Queries
from likely.inference.active.session import LabellingSession, chosen, shortcuts

_HELP = "s skip · b back · q quit"


class TerminalOracle:
    r"""A person at the terminal labels one query after the other.

    A class is typed as its key (shown), its name, or as much of its name as is needed. ``s``
    skips, ``b`` goes back, ``q``, Ctrl-D and Ctrl-C stop, an empty line keeps what was answered
    before. Each answer is on disk before the next question. With an existing file the person goes
    on where they stopped; what was skipped is asked again when it comes up again.

    Parameters
    ----------
    classes
        Names of the classes.
    path
        File of answers (`AnswersLog`); None keeps them in memory alone, which a crash loses.
    items
        What the person is shown, by row of the pool (a sequence, array or data frame); by default
        the points of the queries.
    show
        From an item to text; by default text as it is, rows of tables as columns and values.
    review
        Whether a last look ends a batch, from which ``b`` leads back; by default where more than
        one question is asked.
    stdin, stdout
        Where lines come from and where text goes; by default the terminal.

    Raises
    ------
    DataError
        If classes, file or items cannot be used; when asked, if the queries have other classes.
    LabellingStopped
        When the person stops; its ``labels`` hold what was answered.

    Examples
    --------
    >>> import io
    >>> oracle = TerminalOracle(("cat", "dog"), path=None, items=["purrs", "barks"],
    ...                         stdin=io.StringIO("cat\n2\n\n"), stdout=io.StringIO())
    >>> oracle(Queries([0, 1], classes=("cat", "dog"))).tolist()
    [0, 1]
    """

    def __init__(
        self,
        classes: Any,
        *,
        path: str | PathLike[str] | None,
        items: Any = None,
        show: Callable[[Any], str] | None = None,
        review: bool | None = None,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
    ) -> None:
        if show is not None and not callable(show):
            raise DataError(f"show: expected a callable, got {type(show).__name__}")
        self.log = AnswersLog(path, classes)
        self.items, self.show, self.review = items, show, review
        self._stdin, self._stdout = stdin, stdout

    def __call__(self, queries: Queries) -> Ints:
        """Ask about each query that has no answer yet."""
        session = LabellingSession(queries, self.log, self.items, self.review)
        try:
            while not session.done:
                self._step(session)
        except (EOFError, KeyboardInterrupt):
            self._say(f"\nStopped: {_count(session)}{self._where()}.\n")
            raise LabellingStopped(session.labels) from None
        return session.labels

    def _step(self, session: LabellingSession) -> None:
        """Show one question and do what is typed."""
        names = self.log.names
        if session.query is None:
            self._say(f"\n{_count(session).capitalize()}. Enter sends them · b back · q quit\n")
        else:
            self._say(_question(session, self.show or as_text, names))
        while True:
            typed = self._line()
            if typed.casefold() == "q":
                raise EOFError
            if typed.casefold() == "b":
                if session.back():
                    return
                self._say("This is the first one.\n")
            elif not typed and session.keep():
                return
            elif session.query is None:
                self._say("Enter sends the answers · b back · q quit\n")
            elif typed.casefold() == "s":
                session.answer(-1)
                return
            else:
                label = chosen(typed, names)
                if label is not None:
                    session.answer(label)
                    return
                self._say(f"Which class is {typed!r}? {_choices(names)} · {_HELP}\n")

    def _line(self) -> str:
        self._say("> ")
        line = (self._stdin or sys.stdin).readline()
        if not line:
            raise EOFError
        return line.strip()

    def _say(self, text: str) -> None:
        stream = self._stdout or sys.stdout
        stream.write(text)
        stream.flush()

    def _where(self) -> str:
        return f", kept in {self.log.path}" if self.log.path else ""


def as_text(item: Any) -> str:
    """An item as it is shown at a terminal: text as it is, a table's row line by line."""
    if isinstance(item, str):
        return item
    if hasattr(item, "items"):
        pairs = [(str(name), as_text(value)) for name, value in item.items()]
        width = max((len(name) for name, _ in pairs), default=0)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)
    if isinstance(item, float | np.floating):
        return f"{item:.6g}"
    return str(item)


def _question(session: LabellingSession, show: Callable[[Any], str], names: tuple[str, ...]) -> str:
    query = session.query
    assert query is not None
    index, annotator = session.queries.key(query)
    who = "" if annotator is None else f", annotator {annotator}"
    lines = [f"\n[{session.position + 1} of {len(session.todo)}] point {index}{who}"]
    item = session.item(query)
    if item is not None:
        lines.append(show(item))
    if session.given is not None:
        before = names[session.given] if session.given >= 0 else "skipped"
        lines.append(f"Before: {before}. Enter keeps it.")
    lines.append(f"{_choices(names)} · {_HELP}\n")
    return "\n".join(lines)


def _choices(names: tuple[str, ...]) -> str:
    """The classes with their keys, those that have other keys than their names."""
    keys = shortcuts(names)
    return "  ".join(
        f"{key} {name}" if key not in ("", name.casefold()) else name
        for key, name in zip(keys, names, strict=True)
    )


def _count(session: LabellingSession) -> str:
    total = len(session.todo)
    skipped = sum(session.answers.get(key, 0) < 0 for key in map(session.queries.key, session.todo))
    return f"{session.n_answered} of {total} answered" + (f", {skipped} skipped" if skipped else "")
