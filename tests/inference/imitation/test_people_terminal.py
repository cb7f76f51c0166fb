"""A person at a terminal of their own: pictures, keys, skipping, going back, quitting, going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from likely.inference.imitation import Person, dagger
from likely.models import SoftmaxPolicy, TabularPolicy
from pseudo_terminal import typist

pytest.importorskip("pygame")
ARROWS = {"↑": "up", "→": "right", "↓": "down", "←": "left"}
CODES = {"↑": "\x1b[A", "↓": "\x1b[B", "→": "\x1b[C", "←": "\x1b[D"}


def test_cartpole_by_keys(tmp_path: Path) -> None:
    def run(*keys: str) -> tuple[Any, Any]:
        with typist(*keys) as (typed, terminal):
            person = Person({"a": "left", "d": "right"}, path=tmp_path / "answers.jsonl", trail=10,
                            stdin=terminal, stdout=terminal)  # fmt: skip
            found = dagger("CartPole-v1", SoftmaxPolicy(2), person, iterations=2, queries=4,
                           horizon=6, beta="never", path=tmp_path / "run")  # fmt: skip
            return found, typed

    # An unknown key, back at the first, an answer, a skip, back to it, the skip kept, two answers,
    # all sent; then one answer of the second iteration.
    found, typed = run("x", "b", "a", "s", "b", "\r", "d", "d", "\r", "a", "q")
    assert found.stopped == "the expert stopped"
    assert found.history["labels"].tolist() == [3, 4]
    assert typed.left == []
    assert "[1 of 4] Which action?" in typed.words
    assert "a left  d right · s skip · b back · q quit" in typed.words
    assert "This is the first one." in typed.words
    assert "Before: skipped. Enter keeps it." in typed.words
    assert "state  " in typed.words
    assert "▀\x1b[0m" in typed.screen
    assert "\x1b[38;2;255;255;255;48;2;255;255;255m▀" in typed.screen  # the sky
    # As large as there is room: 80 columns or 30 lines, of which the question takes some.
    pictures = typed.screen.split("] Which action?")[1:]
    assert {part.count("▀\x1b[0m") for part in pictures} == {23}

    again, typed = run("d", "d", "d", "\r")
    assert again.stopped == ""
    assert again.history["labels"].tolist() == [3, 7]
    assert typed.left == []
    assert "[1 of 3] Which action?" in typed.words


def test_a_grid_by_arrows() -> None:
    moves = "→↓↓→"
    with typist(*(CODES[move] for move in moves), "q") as (typed, terminal):
        person = Person(ARROWS, stdin=terminal, stdout=terminal)
        found = dagger("likely/GridWorld-v0", TabularPolicy(85, 4, 1.1), person, iterations=1,
                       horizon=9, env_options={"slip": 0.0})  # fmt: skip
    assert found.stopped == "the expert stopped"
    seen = found.fit.program.args[0]
    asked = found.fit.program.kwargs["weights"] > 0
    wanted = ["→", "↓", "↓", "→"]
    assert [list(ARROWS)[a] for a in seen.actions[:4].tolist()] == wanted
    assert asked[:4].all()
    assert "\nWhich action?\n" in typed.words
    assert typed.words.count("↑ up  → right  ↓ down  ← left") == 5
