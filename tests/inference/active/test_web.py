"""The labelling page without a browser: what the server answers, and what the program gets."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from likely.envs import DataError
from likely.inference import OptionError
from likely.inference.active import LabellingStopped, Queries, WebOracle, label_in_browser
from likely.inference.active.answers_log import AnswersLog
from likely.inference.active.session import LabellingSession
from likely.inference.active.web import oracle as web_oracle
from likely.inference.active.web.desk import Desk

CLASSES = ("cat", "dog")
ITEMS = [f"text {index}" for index in range(10)]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def queries(*index: int, **options: Any) -> Queries:
    return Queries(index, classes=CLASSES, **options)


class Waiting:
    """A program that waits for a person, in a thread of its own."""

    def __init__(self, oracle: WebOracle, *batches: Queries) -> None:
        self.oracle, self.batches = oracle, batches
        self.labels: list[list[int]] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        patiently(lambda: oracle.url is not None or not self._thread.is_alive())

    def _run(self) -> None:
        try:
            for batch in self.batches:
                self.labels.append(self.oracle(batch).tolist())
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the program still waits"


def patiently(condition: Any, seconds: float = 30.0) -> None:
    """Wait until a condition holds; a machine may be busy."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Page:
    """What the page does, by hand."""

    def __init__(self, oracle: WebOracle) -> None:
        self.oracle = oracle
        assert oracle.url is not None
        self.url = oracle.url

    def call(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers = {"Content-Type": "application/json", **headers}
        asked = urllib.request.Request(self.url + path, data, headers)
        try:
            with DIRECT.open(asked, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
            return error.code, json.loads(text) if error.code == 409 else text.decode()

    def state(self) -> dict[str, Any]:
        return self.call("state")[1]

    def reach(self, phase: str) -> dict[str, Any]:
        patiently(lambda: self.state()["phase"] == phase)
        return self.state()

    def act(self, do: str, label: int | None = None) -> dict[str, Any]:
        code, state = self.call("act", {"do": do, "label": label, "ticket": self.state()["ticket"]})
        assert code == 200, state
        return state


@pytest.fixture(autouse=True)
def _brief_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    # These pages ask only when a test does.
    monkeypatch.setattr(web_oracle, "_FAREWELL", 0.2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


@pytest.fixture
def oracle(path: Path) -> Iterator[WebOracle]:
    with WebOracle(CLASSES, "text", path=path, items=ITEMS, stream=io.StringIO()) as made:
        yield made


# -- rounds --------------------------------------------------------------------------------------


def test_one_server_serves_all_rounds(oracle: WebOracle, path: Path) -> None:
    program = Waiting(oracle, queries(3, 5), queries(7))
    page = Page(oracle)
    state = page.reach("asking")
    assert state["item"] == {"text": "text 3"}
    assert (state["position"], state["total"], state["given"]) == (0, 2, None)
    state = page.act("answer", 1)
    assert (state["point"], state["item"], state["answered"]) == (5, {"text": "text 5"}, 1)
    assert AnswersLog(path, CLASSES).label((3, None)) == 1, "an answer is on disk at once"
    state = page.act("back")
    assert (state["point"], state["given"]) == (3, 1)
    state = page.act("keep")
    assert (state["point"], state["given"]) == (5, None)
    assert page.act("skip")["phase"] == "review"
    page.act("keep")
    state = page.reach("asking")
    assert (state["point"], state["total"]) == (7, 1)
    page.act("answer", 0)
    program.end()
    assert program.labels == [[1, -1], [0]]
    assert page.state() == {"phase": "waiting", "ticket": page.state()["ticket"]}
    oracle.close()
    assert oracle.url is None
    with pytest.raises(urllib.error.URLError):
        page.state()


def test_a_crash_loses_nothing_and_the_person_goes_on(oracle: WebOracle, path: Path) -> None:
    Waiting(oracle, queries(3, 5, 7))
    page = Page(oracle)
    page.act("answer", 1)
    page.act("answer", 0)
    # Another process would find this, whatever becomes of the first.
    with WebOracle(CLASSES, "text", path=path, items=ITEMS, stream=io.StringIO()) as later:
        program = Waiting(later, queries(3, 5, 7))
        state = Page(later).reach("asking")
        assert (state["point"], state["total"]) == (7, 1)
        Page(later).act("answer", 1)
        program.end()
        assert program.labels == [[1, 0, 1]]
    page.act("quit")


def test_quitting_brings_the_answers_along(oracle: WebOracle) -> None:
    program = Waiting(oracle, queries(3, 5, 7))
    page = Page(oracle)
    page.act("answer", 1)
    assert page.act("quit")["phase"] == "stopped"
    program.end()
    assert isinstance(program.error, LabellingStopped)
    assert program.error.labels.tolist() == [1, -1, -1]
    assert oracle.url is None


def test_quitting_while_the_program_thinks_stops_the_next_round(oracle: WebOracle) -> None:
    go_on = threading.Event()

    class Slow(Waiting):
        def _run(self) -> None:
            try:
                self.oracle(self.batches[0])
                go_on.wait(30)
                self.oracle(self.batches[1])
            except LabellingStopped as error:
                self.error = error

    program = Slow(oracle, queries(3), queries(3, 5))
    page = Page(oracle)
    page.act("answer", 1)
    page.reach("waiting")
    assert page.act("quit")["phase"] == "stopped"
    go_on.set()
    program.end()
    assert isinstance(program.error, LabellingStopped)
    assert program.error.labels.tolist() == [1, -1]


def test_an_open_page_learns_that_all_is_done(oracle: WebOracle) -> None:
    program = Waiting(oracle, queries(3))
    page = Page(oracle)
    page.act("answer", 1)
    program.end()
    seen: list[str] = []

    def watch() -> None:
        while not seen or seen[-1] != "finished":
            seen.append(page.state()["phase"])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    oracle.close()
    watcher.join(30)
    assert seen[-1] == "finished"


def test_what_was_answered_before_needs_no_server(oracle: WebOracle) -> None:
    program = Waiting(oracle, queries(3, 5))
    page = Page(oracle)
    page.act("answer", 1)
    page.act("answer", 0)
    page.act("keep")
    program.end()
    oracle.close()
    assert oracle(queries(5, 3)).tolist() == [0, 1]
    assert oracle.url is None


def test_an_item_that_cannot_be_shown_is_the_programs_error(oracle: WebOracle) -> None:
    oracle.items = [*ITEMS[:5], 5]
    program = Waiting(oracle, queries(3, 5))
    page = Page(oracle)
    assert page.act("answer", 1)["phase"] == "failed"
    program.end()
    assert isinstance(program.error, DataError)
    assert "items: expected text, got int" in str(program.error)


def test_a_disk_that_fails_is_the_programs_error(oracle: WebOracle, path: Path) -> None:
    program = Waiting(oracle, queries(3, 5))
    path.unlink()
    path.mkdir()
    assert Page(oracle).act("answer", 1)["phase"] == "failed"
    program.end()
    assert isinstance(program.error, OSError)


def test_control_c_stops(oracle: WebOracle, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(desk: Desk, session: LabellingSession) -> bool:
        session.answer(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Desk, "serve", interrupted)
    with pytest.raises(LabellingStopped) as stopped:
        oracle(queries(3, 5))
    assert stopped.value.labels.tolist() == [1, -1]
    assert oracle.url is None


def test_label_in_browser_labels_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[WebOracle] = []

    class Seen(WebOracle):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(web_oracle, "WebOracle", Seen)
    labels: list[Any] = []
    thread = threading.Thread(
        target=lambda: labels.append(
            label_in_browser(ITEMS[:3], CLASSES, "text", path=path, stream=io.StringIO())
        ),
        daemon=True,
    )
    thread.start()
    patiently(lambda: made and made[0].url)
    page = Page(made[0])
    page.act("answer", 1)
    page.act("skip")
    page.act("quit")
    thread.join(30)
    assert labels[0].tolist() == [1, -1, -1]


# -- what the server refuses ---------------------------------------------------------------------


def test_stale_actions_change_nothing(oracle: WebOracle) -> None:
    program = Waiting(oracle, queries(3, 5))
    page = Page(oracle)
    seen = page.reach("asking")["ticket"]
    twice = [page.call("act", {"do": "answer", "label": 1, "ticket": seen}) for _ in range(2)]
    assert [code for code, _ in twice] == [200, 409]
    assert twice[1][1]["point"] == 5
    assert twice[1][1]["given"] is None
    assert page.call("act", {"do": "back"})[0] == 409
    page.act("quit")
    program.end()


def test_the_item_is_sent_once(oracle: WebOracle) -> None:
    program = Waiting(oracle, queries(3, 5))
    page = Page(oracle)
    state = page.reach("asking")
    assert "item" not in page.call(f"state?have={state['ticket']}")[1]
    assert "item" in page.call(f"state?have={state['ticket'] - 1}")[1]
    page.act("quit")
    program.end()


@pytest.mark.parametrize(
    "body",
    [
        {"do": "answer", "label": 2},
        {"do": "answer", "label": -1},
        {"do": "answer", "label": "cat"},
        {"do": "answer", "label": True},
        {"do": "answer"},
        {"do": "delete"},
        {},
        [],
        "quit",
    ],
)
def test_nonsense_is_refused(oracle: WebOracle, path: Path, body: Any) -> None:
    program = Waiting(oracle, queries(3, 5))
    page = Page(oracle)
    ticket = page.reach("asking")["ticket"]
    if isinstance(body, dict):
        body = {**body, "ticket": ticket}
    assert page.call("act", body)[0] == 400
    assert page.state()["ticket"] == ticket
    assert AnswersLog(path, CLASSES).entries == {}
    page.act("quit")
    program.end()


def test_a_taken_port_is_an_error_of_the_option(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        oracle = WebOracle(CLASSES, "text", path=path, items=ITEMS, port=port)
        with pytest.raises(OptionError, match=f"port must be one that is free, got {port}"):
            oracle(queries(3))
    assert oracle.url is None


def test_only_this_machine_is_served(oracle: WebOracle) -> None:
    program = Waiting(oracle, queries(3))
    assert oracle.url is not None
    host, port = oracle.url.removeprefix("http://").split("/")[0].split(":")
    assert host == "127.0.0.1"
    # Every address 127.x is this machine's; a server on all of them would answer here.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=30)
    Page(oracle).act("quit")
    program.end()
