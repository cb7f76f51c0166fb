"""A person's way through a batch of queries: answer, skip, go back, stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from likely.envs import DataError
from likely.inference.active.answers_log import AnswersLog, Key, fingerprint
from likely.inference.active.checks import check_names
from likely.inference.active.oracle import Ints, Queries, row

# The letters that skip, go back and quit are no classes' keys.
RESERVED = "sbq"
_DIGITS = "1234567890"
_LETTERS = "".join(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in RESERVED)


class LabellingSession:
    """The state of a person who labels one batch; every answer goes to the log at once.

    What the log has an answer to is not asked again, and a question that the batch holds twice is
    asked once.

    Parameters
    ----------
    queries
        What is to be labelled.
    log
        Where answers go, and where earlier ones come from.
    items
        What a person is shown, by row of the pool; None for the points of the queries.
    review
        Whether a last look follows, from which `back` still leads back; None: where more than one
        question is asked.

    Raises
    ------
    DataError
        If the classes are not those of the log, or the items do not hold a row that is asked for.
    """

    def __init__(
        self, queries: Queries, log: AnswersLog, items: Any = None, review: bool | None = None
    ) -> None:
        check_names(queries.classes, log.names, "the oracle")
        if items is not None and len(queries) and queries.index.max() >= len(items):
            raise DataError(
                f"items: expected one for each row of the pool, {queries.index.max()} among them, "
                f"got {len(items)}"
            )
        self.queries, self.log, self.items = queries, log, items
        self.answers: dict[Key, int] = {}
        todo: dict[Key, int] = {}
        for query in range(len(queries)):
            key = queries.key(query)
            if key not in self.answers and key not in todo:
                known = log.label(key, fingerprint(self.item(query)))
                if known >= 0:
                    self.answers[key] = known
                else:
                    todo[key] = query
        self.todo = list(todo.values())
        self.position = 0
        self.review = len(self.todo) > 1 if review is None else review
        self.done = not self.todo

    @property
    def query(self) -> int | None:
        """The query that is being asked; None when all were."""
        return self.todo[self.position] if self.position < len(self.todo) else None

    @property
    def given(self) -> int | None:
        """What was answered here before: a class's position, −1 for skipped; None for nothing."""
        return None if self.query is None else self.answers.get(self.queries.key(self.query))

    @property
    def n_answered(self) -> int:
        """How many of the questions asked here have an answer."""
        keys = map(self.queries.key, self.todo)
        return sum(self.answers.get(key, -1) >= 0 for key in keys)

    @property
    def labels(self) -> Ints:
        """Answers to all queries, earlier ones included, −1 where there is none; int64 [B]."""
        keys = map(self.queries.key, range(len(self.queries)))
        return np.array([self.answers.get(key, -1) for key in keys], dtype=np.int64)

    def item(self, query: int) -> Any:
        """What is shown for a query; None where nothing is known but its number."""
        if self.items is None:
            return self.queries.point(query)
        return row(self.items, int(self.queries.index[query]))

    def answer(self, label: int) -> None:
        """Record a class's position, or −1 to skip, and go on."""
        if self.query is None:
            return
        key = self.queries.key(self.query)
        self.log.append(key, label, fingerprint(self.item(self.query)))
        self.answers[key] = label
        self._go_on()

    def keep(self) -> bool:
        """Go on without a change where there is an answer or a skip already; whether there was.

        At the last look this ends the session.
        """
        if self.query is None:
            self.done = True
            return True
        if self.given is None:
            return False
        self._go_on()
        return True

    def back(self) -> bool:
        """Return to the question before; whether there is one."""
        if not self.position:
            return False
        self.position -= 1
        return True

    def _go_on(self) -> None:
        self.position += 1
        if self.query is None and not self.review:
            self.done = True


def check_keys(keys: Any, names: Sequence[str]) -> tuple[str, ...] | None:
    """Keys of one's own for the classes; None where there are none.

    Parameters
    ----------
    keys
        A character for each class, in their order, or None.
    names
        The classes.

    Raises
    ------
    DataError
        If they are not one character for each class, all different (capitals do not count), or
        one of them skips, goes back or quits.

    Examples
    --------
    >>> check_keys("ad", ["left", "right"])
    ('a', 'd')
    """
    if keys is None:
        return None
    try:
        found = tuple(keys)
    except TypeError:
        found = (keys,)
    for key in found:
        plain = isinstance(key, str) and len(key) == 1 and key.isprintable() and not key.isspace()
        if not plain or key.lower() in RESERVED or key.casefold() in RESERVED:
            raise DataError(
                f"keys: expected a single character other than {', '.join(RESERVED)} for each "
                f"class, got {key!r}"
            )
    # One character stays one, as at the page; casefold would make two of a sharp s.
    lower = tuple(key.lower() for key in found)
    if len(found) != len(names) or len(set(lower)) < len(lower):
        raise DataError(
            f"keys: expected {len(names)} that differ, one for each class, got {list(found)}"
        )
    return lower


def shortcuts(names: Sequence[str], keys: Sequence[str] | None = None) -> tuple[str, ...]:
    """A key for each class, "" where keys have run out.

    Names of one letter or digit are their own keys. Else the keys are 1 to 9 and 0, then letters;
    letters alone where names begin with digits, which a number would be taken for.

    Parameters
    ----------
    names
        The classes.
    keys
        Those of one's own, as `check_keys` gives them.

    Examples
    --------
    >>> shortcuts(["cat", "dog"])
    ('1', '2')
    >>> shortcuts(["0", "1", "2"])
    ('0', '1', '2')
    >>> shortcuts(["10 to 20", "above 20"])
    ('a', 'c')
    """
    if keys is not None:
        return tuple(keys)
    lower = [name.casefold() for name in names]
    if len(set(lower)) == len(lower) and all(
        len(name) == 1 and name.isascii() and name.isalnum() and name not in RESERVED
        for name in lower
    ):
        return tuple(lower)
    numbers = any(name[0].isdigit() or name[0] in "+-." for name in names)
    keys = _LETTERS if numbers else _DIGITS + _LETTERS
    return tuple(keys[: len(names)]) + ("",) * (len(names) - len(keys))


def chosen(text: str, names: Sequence[str], keys: Sequence[str] | None = None) -> int | None:
    """The class that is meant by its name, its key or the beginning of its name alone.

    Parameters
    ----------
    text
        What was typed; capital letters do not matter unless names differ in nothing else.
    names
        The classes.
    keys
        Those of one's own, as `check_keys` gives them.

    Returns
    -------
    int or None
        Its position; None where no class or more than one can be meant.

    Examples
    --------
    >>> names = ["cat", "cow", "dog"]
    >>> [chosen(text, names) for text in ("3", "Cat", "d", "c")]
    [2, 0, 2, None]
    """
    text = text.strip()
    if not text:
        return None
    if text in names:
        return list(names).index(text)
    lower, wanted = [name.casefold() for name in names], text.casefold()
    # As `check_keys` has it.
    pressed = text.lower()
    for found in (
        [i for i, name in enumerate(lower) if name == wanted],
        [i for i, key in enumerate(shortcuts(names, keys)) if key == pressed],
        [i for i, key in enumerate(shortcuts(names, keys)) if key == wanted],
        [i for i, name in enumerate(lower) if name.startswith(wanted)],
    ):
        if found:
            return found[0] if len(found) == 1 else None
    return None
