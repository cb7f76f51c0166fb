"""A person at the page, shown what the environments draw."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from browser import Keys, Viewer, needs_browser
from likely.inference.imitation import Person, dagger
from likely.models import SoftmaxPolicy, TabularPolicy

pytest.importorskip("pygame")
pytestmark = needs_browser


def press(viewer: Viewer, *keys: str) -> None:
    """Keys one by one, each at a question."""
    for key in keys:
        viewer.reach("asking")
        viewer.types(key)


def test_cartpole_in_the_browser(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    person = Person({"a": "left", "d": "right"}, "browser", path=path, trail=10,
                    stream=io.StringIO())  # fmt: skip
    viewer = Viewer(
        chromium,
        person.oracle,
        lambda: dagger("CartPole-v1", SoftmaxPolicy(2), person, iterations=2, horizon=3, queries=3),
    )
    assert viewer.find("h1").text == "Which action?"
    buttons = chromium.find_elements("css selector", "#classes button")
    assert [button.text for button in buttons] == ["aleft", "dright"]
    image = viewer.find("#item img")
    viewer.until(lambda: viewer.script("return arguments[0].naturalWidth", image) == 600)
    # As large as it is, not cut off, between the question and the buttons.
    assert image.size["width"] >= 500
    assert viewer.script("return document.body.scrollWidth <= window.innerWidth")
    # The person plays the first episode: each answer is a step, and there is no way back.
    press(viewer, "a")
    viewer.sees("The one before: left.")
    assert not viewer.find("#back").is_enabled()
    press(viewer, "d", "a")
    # Then come the states of the learner's own.
    viewer.sees("1 of 3")
    press(viewer, "d")
    viewer.sees("The one before: right (b to change).")
    press(viewer, "b", "a", "s", "d")
    viewer.reach("review")
    viewer.types(Keys.ENTER)
    viewer.sees("All done, thank you")
    viewer.end()
    assert viewer.result.history["labels"].tolist() == [3, 5]
    assert person.asked == 6


def test_a_grid_by_arrows_in_the_browser(chromium: Any) -> None:
    names = {"↑": "up", "→": "right", "↓": "down", "←": "left"}
    person = Person(names, "browser", stream=io.StringIO())
    policy = TabularPolicy(85, 4, 1.1)
    viewer = Viewer(
        chromium,
        person.oracle,
        lambda: dagger("likely/GridWorld-v0", policy, person, iterations=1, horizon=5,
                       env_options={"slip": 0.0}),
    )  # fmt: skip
    press(viewer, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, "q")
    viewer.types("q")
    viewer.sees("Stopped")
    viewer.end()
    assert viewer.result.stopped == "the expert stopped"
    seen = viewer.result.fit.program.args[0]
    assert seen.actions[:2].tolist() == [1, 2]
