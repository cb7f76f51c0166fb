"""Keys of a terminal that answer at once, and keys of one's own."""

from __future__ import annotations

import io
from typing import Any

import pytest

from likely.envs import DataError
from likely.inference import OptionError
from likely.inference.active import LabellingStopped, Queries, TerminalOracle, WebOracle
from likely.inference.active.keypress import OTHER, can_press, pressed
from likely.inference.active.session import check_keys, chosen, shortcuts
from pseudo_terminal import termios, typist

CLASSES = ("left", "right")


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("a", "a"),
        ("\r", ""),
        ("\n", ""),
        ("\x1b[A", "↑"),
        ("\x1bOD", "←"),
        ("\x1b", OTHER),
        ("\x1b[3~", OTHER),
        ("\x1b[1;5C", OTHER),
        ("\t", OTHER),
        ("é", "é"),
        ("→", "→"),
        ("𝒳", "𝒳"),
    ],
)
def test_a_key_is_read_at_once_and_whole(typed: str, read: str) -> None:
    with typist(typed, "z") as (_, terminal):
        before = termios.tcgetattr(terminal.fileno())
        assert pressed(terminal, lambda: terminal.write("> ")) == read
        # Nothing of it is left for the next question.
        assert pressed(terminal, lambda: terminal.write("> ")) == "z"
        assert termios.tcgetattr(terminal.fileno()) == before


def test_the_end_of_input() -> None:
    with typist("\x04") as (_, terminal), pytest.raises(EOFError):
        pressed(terminal, lambda: terminal.write("> "))
    assert not can_press(io.StringIO("a"))
    assert not can_press(None)


def test_keys_answer_without_enter() -> None:
    with typist("d", "x", "b", "a", "\x1b[D", "s", "d", "\r") as (person, terminal):
        oracle = TerminalOracle(CLASSES, path=None, keys="ad", keypress=True, question="Where?",
                                stdin=terminal, stdout=terminal)  # fmt: skip
        assert oracle(Queries([4, 5, 6], classes=CLASSES)).tolist() == [0, -1, 1]
        assert person.left == []
    assert "[1 of 3] Where?\na left  d right · s skip · b back · q quit\n> d\n" in person.screen
    assert "Where? a left  d right" in person.screen
    assert "Before: right. Enter keeps it." in person.screen


def test_one_question_has_no_count() -> None:
    with typist("q") as (person, terminal):
        oracle = TerminalOracle(CLASSES, path=None, keypress=True, question="Where?",
                                stdin=terminal, stdout=terminal)  # fmt: skip
        with pytest.raises(LabellingStopped):
            oracle(Queries([4], classes=CLASSES))
    assert "\nWhere?\n1 left  2 right" in person.screen


def test_keys_of_ones_own() -> None:
    assert check_keys("aD", CLASSES) == ("a", "d")
    assert check_keys(None, CLASSES) is None
    assert shortcuts(CLASSES, ("a", "d")) == ("a", "d")
    assert [chosen(text, CLASSES, ("r", "l")) for text in ("r", "L", "rig", "1")] == [0, 1, 1, None]
    typed = io.StringIO("d\n1\na\n\n")
    oracle = TerminalOracle(CLASSES, path=None, keys="ad", stdin=typed, stdout=io.StringIO())
    assert oracle(Queries([1, 2], classes=CLASSES)).tolist() == [1, 0]


def test_keys_of_other_alphabets_are_those_of_the_page() -> None:
    # As JavaScript's toLowerCase gives them.
    keys = check_keys("ßµ", CLASSES)
    assert keys == ("ß", "µ")
    assert [chosen(one, CLASSES, keys) for one in ("ß", "µ")] == [0, 1]
    keys = check_keys("ςσ", CLASSES)
    assert [chosen(one, CLASSES, keys) for one in "ςσΣ"] == [0, 1, 1]


@pytest.mark.parametrize("keys", ["a", "abc", "as", "aA", ["a", "dd"], ["a", 1], 3, "a ", "a\t"])
def test_bad_keys(keys: Any) -> None:
    with pytest.raises(DataError, match="keys"):
        TerminalOracle(CLASSES, path=None, keys=keys)
    with pytest.raises(DataError, match="keys"):
        WebOracle(CLASSES, "text", path=None, keys=keys)
    with pytest.raises(OptionError, match="keypress"):
        TerminalOracle(CLASSES, path=None, keypress="yes")  # type: ignore[arg-type]
