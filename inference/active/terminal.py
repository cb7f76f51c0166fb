"""Labels that a person types at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, TextIO

import numpy as np

from likely.envs import DataError
from likely.inference.active.answers_log import AnswersLog
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.keypress import can_press, pressed
from likely.inference.active.oracle import Ints, Queries
from likely.inference.active.session import LabellingSession, check_keys, chosen, shortcuts
from likely.inference.engines.checks import check_bool

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
    question
        What is asked.
    keys
        A character for each class, such as ``"ad"``; by default digits, then letters.
    keypress
        Whether a key answers at once, without Enter, where input is a terminal's.
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
        question: str | None = None,
        keys: Sequence[str] | None = None,
        keypress: bool = False,
        review: bool | None = None,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
    ) -> None:
        if show is not None and not callable(show):
            raise DataError(f"show: expected a callable, got {type(show).__name__}")
        if review is not None:
            check_bool("review", review)
        check_bool("keypress", keypress)
        self.log = AnswersLog(path, classes)
        self.keys = check_keys(keys, self.log.names)
        self.question, self.keypress = question, keypress
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
            self._say(self._asked(session))
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
                label = chosen(typed, names, self.keys)
                if label is not None:
                    session.answer(label)
                    return
                asked = f"Which class is {typed!r}?" if self.question is None else self.question
                self._say(f"{asked} {_choices(names, self.keys)} · {_HELP}\n")

    def _asked(self, session: LabellingSession) -> str:
        """A question as it is shown."""
        names, query = self.log.names, session.query
        assert query is not None
        index, annotator = session.queries.key(query)
        who = "" if annotator is None else f", annotator {annotator}"
        what = f"point {index}" if self.question is None else self.question
        count = f"[{session.position + 1} of {len(session.todo)}] "
        if self.question is not None and len(session.todo) == 1:
            count = ""
        lines = [f"\n{count}{what}{who}"]
        item = session.item(query)
        if item is not None:
            text = (self.show or as_text)(item)
            if not isinstance(text, str):
                raise DataError(f"show: expected text, got {type(text).__name__}")
            lines.append(text)
        if session.given is not None:
            before = names[session.given] if session.given >= 0 else "skipped"
            lines.append(f"Before: {before}. Enter keeps it.")
        lines.append(f"{_choices(names, self.keys)} · {_HELP}\n")
        return "\n".join(lines)

    def _line(self) -> str:
        stdin = self._stdin or sys.stdin
        if self.keypress and can_press(stdin):
            key = pressed(stdin, lambda: self._say("> "))
            self._say(f"{key}\n")
            return key
        self._say("> ")
        line = stdin.readline()
        if not line:
            raise EOFError
        return line.strip()

    def _say(self, text: str) -> None:
        stream = self._stdout or sys.stdout
        try:
            stream.write(text)
        except UnicodeEncodeError as error:
            # A terminal without these characters shows others in their place.
            stream.write(text.encode(error.encoding, "replace").decode(error.encoding))
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


def _choices(names: tuple[str, ...], keys: tuple[str, ...] | None) -> str:
    """The classes with their keys, those that have other keys than their names."""
    return "  ".join(
        f"{key} {name}" if key not in ("", name.casefold()) else name
        for key, name in zip(shortcuts(names, keys), names, strict=True)
    )


def _count(session: LabellingSession) -> str:
    total = len(session.todo)
    skipped = sum(session.answers.get(key, 0) < 0 for key in map(session.queries.key, session.todo))
    return f"{session.n_answered} of {total} answered" + (f", {skipped} skipped" if skipped else "")
