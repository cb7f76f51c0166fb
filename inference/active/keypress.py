"""One key of a terminal, without waiting for Enter."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Any

try:
    import termios
    import tty
except ImportError:  # not a Unix
    termios = tty = None  # type: ignore[assignment]

ARROWS = {"A": "↑", "B": "↓", "C": "→", "D": "←"}
# What stands for keys without a character.
OTHER = "\N{REPLACEMENT CHARACTER}"
# Ctrl-D that was typed ahead arrives as a zero.
_ENTER, _END, _ESCAPE = "\r\n", "\x04\x00", b"\x1b"
# Seconds in which the rest of an arrow's three characters arrives.
_REST = 0.05


def can_press(stream: Any) -> bool:
    """Whether a stream is a terminal whose keys can be read one by one."""
    try:
        return termios is not None and os.isatty(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return False


def pressed(stream: Any, prompt: Callable[[], None] | None = None) -> str:
    """Wait for a key of a terminal: its character, an arrow, "" for Enter, `OTHER` for the rest.

    Parameters
    ----------
    stream
        A terminal, as `can_press` finds it.
    prompt
        Called when keys are no longer shown as they are typed.

    Raises
    ------
    EOFError
        For Ctrl-D, and when the terminal is gone.
    KeyboardInterrupt
        For Ctrl-C.
    """
    number = stream.fileno()
    before = termios.tcgetattr(number)
    try:
        # What was typed ahead stays: a quick hand may be a question in front.
        tty.setcbreak(number, termios.TCSADRAIN)
        if prompt is not None:
            prompt()
        found = _key(number)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
    if not found or found in _END:
        raise EOFError
    if found in _ENTER:
        return ""
    return found if found.isprintable() else OTHER


def _key(number: int) -> str:
    try:
        first = os.read(number, 1)
    except OSError:
        return ""
    if first == _ESCAPE:
        rest = b""
        # "[" or "O", perhaps numbers, and a letter or "~" at the end.
        while rest in (b"", b"[", b"O") or not (rest[-1:].isalpha() or rest[-1:] == b"~"):
            if not select.select([number], [], [], _REST)[0]:
                break
            rest += os.read(number, 1)
        return ARROWS.get(rest[1:].decode(errors="replace"), OTHER)
    # What follows in a character beyond ASCII.
    leads = ((3, 0xF0), (2, 0xE0), (1, 0xC0))
    more = next((n for n, lead in leads if first and first[0] >= lead), 0)
    return (first + os.read(number, more) if more else first).decode(errors="replace")
