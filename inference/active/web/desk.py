"""What the program and the page share: the session, and whose turn it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from likely.inference.active.session import LabellingSession, shortcuts

# How often a page that has nothing to do asks, in seconds, with room for a slow one.
_RECENTLY = 10.0


class StaleError(Exception):
    """An action is about something that is no longer on the desk."""


class Desk:
    """A batch lies on the desk until it is answered; actions come from other threads.

    The ticket counts what happens. An action names the ticket that the page had shown, and one
    with another ticket changes nothing: neither a second window nor a key pressed twice can answer
    a question that nobody has seen.

    Parameters
    ----------
    names
        The classes.
    show
        From an item to what the page is told of it.
    keys
        Of the classes, as `check_keys` gives them.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        show: Callable[[Any], dict[str, Any]],
        keys: tuple[str, ...] | None = None,
    ) -> None:
        self.names, self.show, self.keys = names, show, keys
        self.session: LabellingSession | None = None
        self.ending = ""
        self.failure: Exception | None = None
        self.ticket = 0
        self._changed = threading.Condition()
        self._seen = -_RECENTLY
        self._told = False

    def serve(self, session: LabellingSession) -> bool:
        """Wait until a batch is done; whether it is, or the person wants to stop.

        Raises
        ------
        Exception
            What went wrong while the page was served, such as an item that cannot be shown.
        """
        with self._changed:
            if session.done:
                return True
            self.session = session
            self._bump()
            try:
                while not (session.done or self.ending or self.failure):
                    # Only a wait with an end can be interrupted on every system.
                    self._changed.wait(1.0)
            finally:
                self.session = None
                self._bump()
            if self.failure is not None:
                raise self.failure
            return session.done

    def state(self, have: int | None = None) -> dict[str, Any]:
        """What the page is to show; the item only where its ticket is another than ``have``."""
        with self._changed:
            self._seen = time.monotonic()
            try:
                return self._state(have)
            except Exception as error:
                # The program is the one to hear of it.
                self.failure = error
                self._bump()
                return self._state(have)

    def act(self, action: str, ticket: Any = None, label: Any = None) -> None:
        """Do what the person wants.

        Parameters
        ----------
        action
            ``"answer"``, ``"skip"``, ``"keep"``, ``"back"`` or ``"quit"``.
        ticket
            That of the state that the person saw; ``"quit"`` needs none.
        label
            Position of a class, for ``"answer"``.

        Raises
        ------
        ValueError
            If there is no such action or class.
        StaleError
            If the ticket is an old one.
        """
        with self._changed:
            if action == "quit":
                self.end("stopped")
                return
            if action not in ("answer", "skip", "keep", "back"):
                raise ValueError(f"no such action: {action!r}")
            if action == "answer" and not (type(label) is int and 0 <= label < len(self.names)):
                raise ValueError(f"no such class: {label!r}")
            session = self.session
            if session is None or session.done or ticket != self.ticket or self.phase == "failed":
                raise StaleError
            try:
                if action == "answer":
                    session.answer(label)
                elif action == "skip":
                    session.answer(-1)
                elif action == "keep":
                    session.keep()
                else:
                    session.back()
            except Exception as error:
                self.failure = error
            self._bump()

    def settle(self, seconds: float) -> None:
        """Give a quick program the time to ask what comes next, so that nothing flickers."""
        with self._changed:
            self._changed.wait_for(lambda: self.phase != "waiting", seconds)

    def end(self, ending: str) -> None:
        """Tell the page that there is nothing more to do: ``"stopped"`` or ``"finished"``."""
        with self._changed:
            if not self.ending:
                self.ending = ending
                self._bump()

    def told(self) -> None:
        """Note that the page has received how it ended."""
        with self._changed:
            self._told = True
            self._changed.notify_all()

    def wait_until_told(self, seconds: float) -> None:
        """Give a page that is open the time to learn that it has ended."""
        with self._changed:
            if time.monotonic() - self._seen < _RECENTLY:
                self._changed.wait_for(lambda: self._told, seconds)

    @property
    def phase(self) -> str:
        """Waiting, asking, review; stopped, finished or failed when there is no more to come."""
        if self.failure is not None:
            return "failed"
        if self.ending:
            return self.ending
        if self.session is None or self.session.done:
            return "waiting"
        return "asking" if self.session.query is not None else "review"

    def _bump(self) -> None:
        self.ticket += 1
        self._changed.notify_all()

    def _state(self, have: int | None) -> dict[str, Any]:
        found: dict[str, Any] = {"phase": self.phase, "ticket": self.ticket}
        session = self.session
        if found["phase"] not in ("asking", "review") or session is None:
            return found
        total = len(session.todo)
        found |= {"total": total, "position": session.position, "answered": session.n_answered}
        found["recorded"] = session.log.n_answered
        query = session.query
        if query is not None:
            index, annotator = session.queries.key(query)
            found |= {"point": index, "annotator": annotator, "given": session.given}
            if have != self.ticket:
                found["item"] = self.show(session.item(query))
        return found

    @property
    def classes(self) -> list[dict[str, str]]:
        """The classes with their keys, as the page draws them."""
        pairs = zip(self.names, shortcuts(self.names, self.keys), strict=True)
        return [{"name": name, "key": key} for name, key in pairs]
