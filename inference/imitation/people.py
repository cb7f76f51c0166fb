"""A person as the expert: shown what the environment draws, asked which action to take."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from likely.envs import DataError
from likely.inference.active.answers_log import AnswersLog
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.oracle import Queries, ask
from likely.inference.active.session import check_keys
from likely.inference.active.terminal import TerminalOracle
from likely.inference.active.web import WebOracle
from likely.inference.engines.checks import is_int
from likely.inference.imitation.pictures import is_picture, on_terminal

Ints = NDArray[np.int64]
QUESTION = "Which action?"
PLACES = ("terminal", "browser")
# Shapes of states whose numbers are shown beside a picture of few pixels.
_CAPTIONS = [(n,) for n in range(1, 9)]


class Person:
    r"""An expert who is asked, state by state, and is shown a picture of each.

    What was answered for a state once is not asked again, nor is what was skipped until the program
    starts anew. An answer belongs to its state, so that a file of answers serves any later run.

    Parameters
    ----------
    actions
        Names of the actions, in their order; or a key map, key to name, such as
        ``{"a": "left", "d": "right"}``; ↑, ↓, ← and → are keys too. The keys s, b and q skip, go
        back and quit.
    oracle
        Where the person is asked: ``"terminal"``, where a key answers at once and pictures are
        drawn in coloured blocks, or in characters where there are no colours, with the numbers of
        a short state below; ``"browser"``, at a page on this machine; or anything from `Queries`
        to positions of actions, −1 for no answer. That one has keys of its own, and its classes
        must be `names`.
    path
        File of answers; None keeps them in memory alone.
    picture
        From an observation to what is shown. By default what the environment renders; the
        observation itself where it renders nothing.
    trail
        How many steps back the picture lies that shines through each of the environment's, as a
        still does not show how fast things move; 0 for none. About 10 for CartPole.
    **options
        Of `TerminalOracle` or `WebOracle`: ``stdin``, ``open_browser``, say. A page shows images
        unless ``kind`` says otherwise.

    Attributes
    ----------
    names : tuple of str
        The actions.
    asked : int
        How many states were put to the person.

    Raises
    ------
    DataError
        For fewer than two actions, keys that are no single characters or are taken, and (when
        called) answers that are no actions.
    LabellingStopped
        When the person stops.

    Examples
    --------
    >>> import io
    >>> typed = io.StringIO("d\na\n\n")
    >>> person = Person({"a": "left", "d": "right"}, stdin=typed, stdout=io.StringIO())
    >>> person.names
    ('left', 'right')
    >>> person(np.array([[0.5], [-0.5]])).tolist()
    [1, 0]
    """

    def __init__(
        self,
        actions: Sequence[str] | Mapping[str, str],
        oracle: str | Callable[[Queries], Any] = "terminal",
        *,
        path: str | PathLike[str] | None = None,
        picture: Callable[[Any], Any] | None = None,
        trail: int = 0,
        **options: Any,
    ) -> None:
        self.names, keys = _named(actions)
        if picture is not None and not callable(picture):
            raise DataError(f"picture: expected a callable, got {type(picture).__name__}")
        if not is_int(trail) or trail < 0:
            raise DataError(f"trail: expected a number of steps, or 0, got {trail!r}")
        self._own, self._captions = isinstance(oracle, str), oracle == "terminal"
        if isinstance(oracle, str):
            oracle = _oracle(oracle, self.names, {"path": path, "keys": keys, **options})
        elif options or path is not None or keys is not None:
            wrong = [*(["path"] if path is not None else []), *sorted(options)]
            if keys is not None:
                wrong.append("a key map")
            raise DataError(f"{', '.join(wrong)}: not for an oracle that is made already")
        if not callable(oracle):
            raise DataError(f"oracle: expected a callable, got {type(oracle).__name__}")
        self.oracle, self.picture, self.trail = oracle, picture, trail
        self._known: dict[bytes, int] = {}
        self._asked: set[bytes] = set()

    @property
    def asked(self) -> int:
        """How many states were put to the person."""
        return len(self._asked)

    @property
    def renders(self) -> bool:
        """Whether the environment's own pictures are wanted."""
        return self.picture is None

    def __call__(self, observations: Any, pictures: Sequence[Any] | None = None) -> Ints:
        """Ask for the actions [n] in states [n, *state], −1 where there is no answer.

        Parameters
        ----------
        observations
            [n, *state].
        pictures
            What to show for each, [n].
        """
        seen = np.asarray(observations)
        if not seen.ndim or seen.dtype.kind not in "fiub":
            raise DataError(
                f"observations: expected numbers [n, *state], got {seen.dtype} {seen.shape}"
            )
        if pictures is not None and len(pictures) != len(seen):
            raise DataError(f"pictures: expected {len(seen)}, one a state, got {len(pictures)}")
        new: dict[bytes, int] = {}
        for i, key in enumerate(map(_key, seen)):
            if key not in self._known and (recorded := self._recorded(key)) >= 0:
                self._known[key] = recorded
            if key not in self._known:
                new.setdefault(key, i)
        if new:
            self._ask(new, [self._item(i, seen, pictures) for i in new.values()])
        return self.known(seen)

    @property
    def memory(self) -> dict[str, int]:
        """All answers so far, by state, as plain values for a file; `recall` takes them back."""
        return {key.hex(): label for key, label in self._known.items() if label >= 0}

    def recall(self, memory: Mapping[str, int]) -> None:
        """Take over answers that were given before."""
        self._known.update((bytes.fromhex(key), label) for key, label in memory.items())

    def close(self) -> None:
        """Tell a page that all is done; a later question opens another."""
        if self._own and hasattr(self.oracle, "close"):
            self.oracle.close()

    def known(self, observations: Any) -> Ints:
        """What was answered about states [n, *state] already, −1 for nothing; nobody is asked."""
        keys = map(_key, np.asarray(observations))
        return np.array([self._known.get(key, -1) for key in keys], dtype=np.int64)

    def _item(self, i: int, seen: Any, pictures: Sequence[Any] | None) -> Any:
        if self.picture is not None:
            return self.picture(seen[i])
        found = None if pictures is None else pictures[i]
        if self._captions and is_picture(found) and seen[i].shape in _CAPTIONS:
            return {"picture": found, "state": seen[i]}
        return seen[i] if found is None else found

    def _ask(self, new: Mapping[bytes, int], items: list[Any]) -> None:
        self._asked.update(new)
        numbers = np.array([_number(key) for key in new])
        queries = Queries(numbers, items, classes=self.names)
        try:
            labels = ask(self.oracle, queries)
        except LabellingStopped as stopped:
            given = [(key, label) for key, label in zip(new, stopped.labels, strict=True)]
            self._known.update((key, int(label)) for key, label in given if label >= 0)
            raise
        self._known.update(zip(new, labels.tolist(), strict=True))

    def _recorded(self, key: bytes) -> int:
        """What the oracle's file says of a state; its picture may have been another."""
        log = getattr(self.oracle, "log", None)
        return log.label((_number(key), None)) if isinstance(log, AnswersLog) else -1


def _oracle(place: str, names: tuple[str, ...], options: dict[str, Any]) -> Any:
    if place == "terminal":
        show = on_terminal(options.get("stdout"))
        given = {"show": show, "review": None, "keypress": True, "question": QUESTION}
        return TerminalOracle(names, **{**given, **options})
    if place == "browser":
        return WebOracle(names, **{"kind": "image", "question": QUESTION, **options})
    raise DataError(f"oracle: expected one of {', '.join(PLACES)}, or a callable, got {place!r}")


def _key(observation: Any) -> bytes:
    found = np.asarray(observation)
    if found.ndim == 0 and found.dtype.kind in "iu":
        return found.astype(np.int64).tobytes()
    # Precision is lost between an environment and its record; minus zero is zero.
    return (found.astype(np.float32) + np.float32(0)).tobytes()


def _number(key: bytes) -> int:
    # 48 bits: whole in a page's numbers, and no two states in practice share one.
    return int.from_bytes(hashlib.sha256(key).digest()[:6])


def _named(
    actions: Sequence[str] | Mapping[str, str],
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Names of actions, and their keys where there is a map."""
    try:
        names = tuple(map(str, actions.values() if isinstance(actions, Mapping) else actions))
    except TypeError:
        names = ()
    if isinstance(actions, str) or len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"actions: expected different names of at least two, got {actions!r}")
    if not isinstance(actions, Mapping):
        return names, None
    try:
        return names, check_keys(actions, names)
    except DataError as error:
        raise DataError(f"actions: {error}") from None
