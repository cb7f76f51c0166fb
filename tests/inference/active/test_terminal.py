"""A person at the terminal, played by lines of text."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from likely.envs import DataError
from likely.inference.active import LabellingStopped, Queries, TerminalOracle
from likely.inference.active.answers_log import AnswersLog
from likely.inference.active.session import chosen, shortcuts
from likely.inference.active.terminal import as_text
from likely.inference.errors import OptionError

CLASSES = ("cat", "cow", "dog")
ITEMS = [f"text {index}" for index in range(10)]


class Person:
    """Types some lines and keeps what was shown."""

    def __init__(self, *lines: str) -> None:
        self.stdin = io.StringIO("".join(f"{line}\n" for line in lines))
        self.stdout = io.StringIO()

    @property
    def shown(self) -> str:
        return self.stdout.getvalue()

    @property
    def left(self) -> str:
        return self.stdin.read()

    def oracle(self, path: Path | None = None, **options: Any) -> TerminalOracle:
        streams = {"stdin": self.stdin, "stdout": self.stdout}
        return TerminalOracle(CLASSES, path=path, **{"items": ITEMS, **streams, **options})


def queries(*index: int, **options: Any) -> Queries:
    return Queries(index, classes=CLASSES, **options)


def test_names_keys_and_beginnings_are_understood() -> None:
    person = Person("cat", "3", "CO", "Dog", "")
    assert person.oracle()(queries(4, 5, 6, 7)).tolist() == [0, 2, 1, 2]
    assert (
        "[1 of 4] point 4\ntext 4\n1 cat  2 cow  3 dog · s skip · b back · q quit" in person.shown
    )
    assert "[4 of 4] point 7\ntext 7" in person.shown
    assert "4 of 4 answered. Enter sends them" in person.shown


def test_what_is_not_understood_is_asked_again() -> None:
    person = Person("horse", "c", "4", "", "0", "dog")
    assert person.oracle()(queries(4)).tolist() == [2]
    assert person.left == ""
    for typed in ("horse", "c", "4", "", "0"):
        assert f"Which class is {typed!r}? 1 cat  2 cow  3 dog" in person.shown


def test_skip_leaves_a_query_open() -> None:
    person = Person("s", "cow", "")
    assert person.oracle()(queries(4, 5)).tolist() == [-1, 1]
    assert "1 of 2 answered, 1 skipped. Enter sends them" in person.shown


def test_back_corrects_and_enter_keeps(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    person = Person("b", "cat", "cat", "b", "b", "dog", "", "s", "b", "cow", "")
    assert person.oracle(path)(queries(4, 5, 6)).tolist() == [2, 0, 1]
    assert person.left == ""
    assert "This is the first one." in person.shown
    assert "Before: cat. Enter keeps it." in person.shown
    assert "Before: skipped. Enter keeps it." in person.shown
    log = AnswersLog(path, CLASSES)
    assert [log.label((index, None)) for index in (4, 5, 6)] == [2, 0, 1]


def test_a_skip_withdraws_an_answer(tmp_path: Path) -> None:
    person = Person("cat", "cat", "b", "b", "s", "", "")
    assert person.oracle(tmp_path / "answers.jsonl")(queries(4, 5)).tolist() == [-1, 0]
    again = Person("dog")
    oracle = again.oracle(tmp_path / "answers.jsonl", review=False)
    assert oracle(queries(4, 5)).tolist() == [2, 0]


def test_the_last_look_waits_for_enter() -> None:
    person = Person("cat", "dog", "cat", "b", "cow", "")
    assert person.oracle()(queries(4, 5)).tolist() == [0, 1]
    assert "Enter sends the answers · b back · q quit" in person.shown
    person = Person("cat", "dog", "unread")
    assert person.oracle(review=False)(queries(4, 5)).tolist() == [0, 2]
    assert person.left == "unread\n"
    assert Person("cat").oracle()(queries(4)).tolist() == [0]


@pytest.mark.parametrize("end", [["q"], ["Q", "unread"], []], ids=["q", "Q", "end of input"])
def test_stopping_loses_nothing(tmp_path: Path, end: list[str]) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(LabellingStopped) as stopped:
        Person("cat", "s", "dog", *end).oracle(path)(queries(1, 2, 3, 4))
    assert stopped.value.labels.tolist() == [0, -1, 2, -1]

    person = Person("cow", "cow", "")
    assert person.oracle(path)(queries(1, 2, 3, 4)).tolist() == [0, 1, 2, 1]
    assert "[2 of 2] point 4" in person.shown


def test_stopping_at_the_last_look_keeps_the_answers() -> None:
    person = Person("cat", "dog", "q")
    with pytest.raises(LabellingStopped) as stopped:
        person.oracle()(queries(1, 2))
    assert stopped.value.labels.tolist() == [0, 2]
    assert "Stopped: 2 of 2 answered." in person.shown


def test_interrupting_is_stopping(tmp_path: Path) -> None:
    class Interrupting(io.StringIO):
        def readline(self, *args: Any) -> str:
            line = super().readline(*args)
            if not line:
                raise KeyboardInterrupt
            return line

    oracle = Person().oracle(tmp_path / "answers.jsonl", stdin=Interrupting("dog\n"))
    with pytest.raises(LabellingStopped) as stopped:
        oracle(queries(1, 2))
    assert stopped.value.labels.tolist() == [2, -1]


def test_all_answered_before_asks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Person("cat", "dog", "").oracle(path)(queries(1, 2))
    person = Person()
    assert person.oracle(path)(queries(2, 1, 2)).tolist() == [2, 0, 2]
    assert person.shown == ""
    assert person.oracle(path)(queries()).tolist() == []


def test_a_question_asked_twice_is_put_once_and_annotators_apart() -> None:
    person = Person("cat", "dog", "")
    asked = queries(3, 3, 3, annotator=[0, 1, 0])
    assert person.oracle()(asked).tolist() == [0, 2, 0]
    assert "[2 of 2] point 3, annotator 1" in person.shown


def test_points_are_shown_where_there_are_no_items() -> None:
    frame = pd.DataFrame({"age": [41, 42], "blood pressure": [1.23456789, 2.0]})
    person = Person("cat", "dog", "")
    person.oracle(items=None)(queries(8, 9, points=frame))
    assert "age             41\nblood pressure  1.23457" in person.shown
    person = Person("cat")
    person.oracle(items=None)(queries(8))
    assert "point 8\n1 cat" in person.shown
    person = Person("cat")
    person.oracle(items=np.arange(20.0), show=lambda value: f"<{value:.1f}>")(queries(8))
    assert "\n<8.0>\n" in person.shown


def test_numbers_in_rows_are_written_as_they_are_read() -> None:
    assert as_text({"a": 1, "bc": 1e-9}) == "a   1\nbc  1e-09"
    assert as_text(np.array([1, 2])) == "[1 2]"
    assert as_text("x\ny") == "x\ny"


def test_bad_input_is_refused() -> None:
    person = Person("cat")
    with pytest.raises(DataError, match="items: expected one for each row of the pool, 10"):
        person.oracle()(queries(10))
    with pytest.raises(DataError, match="classes: expected those of the oracle"):
        person.oracle()(Queries([1], classes=("cat", "dog")))
    with pytest.raises(DataError, match="show: expected a callable, got str"):
        person.oracle(show="x")
    with pytest.raises(DataError, match="show: expected text, got int"):
        person.oracle(show=len)(queries(1))
    with pytest.raises(OptionError, match="review must be True or False, got 'no'"):
        person.oracle(review="no")
    with pytest.raises(DataError, match="classes: expected at least two"):
        TerminalOracle(("cat",), path=None)
    assert person.oracle()(Queries([1], classes=range(3))).tolist() == [0]


def test_a_terminal_without_some_characters_shows_others() -> None:
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    oracle = Person("dog").oracle(items=["日本"], stdout=plain)
    assert oracle(queries(0)).tolist() == [2]
    plain.seek(0)
    assert "[1 of 1] point 0\n??\n1 cat" in plain.read()


def test_keys_never_mean_two_things() -> None:
    assert shortcuts(["x", "Y"]) == ("x", "y")
    assert shortcuts(["x", "X"]) == ("1", "2")
    assert shortcuts(["q", "r"]) == ("1", "2")
    assert shortcuts(["1", "x", "10"]) == ("a", "c", "d")
    many = shortcuts([f"class {k}" for k in range(50)])
    used = [key for key in many if key]
    assert many[:11] == (*"1234567890", "a")
    assert len(set(used)) == len(used) == 33
    assert not set("sbq") & set(used)


def test_a_number_that_is_a_name_means_the_name() -> None:
    assert [chosen(text, ["2", "1", "0"]) for text in "012"] == [2, 1, 0]
    assert [chosen(text, ["10", "1", "2"]) for text in ("10", "1", "2", "a")] == [0, 1, 2, 0]
    assert [chosen(text, ["x", "X"]) for text in ("x", "X", "1", "2")] == [0, 1, 0, 1]
    assert chosen("STRASSE", ["straße", "weg"]) == 0
    assert chosen(" ", ["a", "b"]) is None


# -- a terminal of its own -----------------------------------------------------------------------

PROGRAM = """
    import sys
    from likely.inference.active import LabellingStopped, Queries, TerminalOracle

    oracle = TerminalOracle(("cat", "dog"), path=sys.argv[1], items=["a", "b", "c"])
    try:
        labels = oracle(Queries([0, 1, 2], classes=("cat", "dog")))
    except LabellingStopped as stopped:
        labels = stopped.labels
    print("labels", labels.tolist())
"""


def started(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", textwrap.dedent(PROGRAM), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def typed(process: subprocess.Popen[bytes], text: str, until: str) -> None:
    """Type text once the process waits for it, and read on to a line that it leads to."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(text.encode())
    process.stdin.flush()
    while until not in (line := process.stdout.readline().decode()):
        assert line, f"the process ended before {until!r}"


def test_control_c_and_a_kill_lose_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with started(path) as process:
        typed(process, "dog\n", "[2 of 3]")
        process.send_signal(signal.SIGKILL)
    with started(path) as process:
        typed(process, "cat\n", "[2 of 2]")
        os.kill(process.pid, signal.SIGINT)
        rest = process.stdout.read().decode()  # type: ignore[union-attr]
        assert "labels [1, 0, -1]" in rest
        assert process.wait(60) == 0
