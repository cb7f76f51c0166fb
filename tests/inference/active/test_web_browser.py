"""The labelling page in headless Chromium, with the keys and clicks of a person."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from browser import SECONDS, Keys, Viewer, needs_browser
from likely.inference.active import LabellingStopped, Queries, WebOracle

pytestmark = needs_browser


class Person(Viewer):
    """Answers batches of queries, one after the other."""

    def __init__(self, browser: Any, oracle: WebOracle, *batches: Queries) -> None:
        self.labels: list[list[int]] = []
        self.stopped: list[int] | None = None
        super().__init__(browser, oracle, lambda: self._ask(oracle, batches))

    def _ask(self, oracle: WebOracle, batches: tuple[Queries, ...]) -> None:
        try:
            for batch in batches:
                self.labels.append(oracle(batch).tolist())
        except LabellingStopped as stopped:
            self.stopped = stopped.labels.tolist()
        finally:
            oracle.close()


def oracle_of(kind: str, classes: Any, **options: Any) -> WebOracle:
    return WebOracle(classes, kind, **{"path": None, "stream": io.StringIO(), **options})


def ask(classes: Any, *index: int, **options: Any) -> Queries:
    return Queries(index, classes=classes, **options)


def test_images_by_keys_alone(chromium: Any, tmp_path: Path) -> None:
    digits = tuple("0123456789")
    images = np.random.default_rng(0).random((5, 6 * 4))
    path = tmp_path / "answers.jsonl"
    oracle = oracle_of("image", digits, items=images, image_shape=(6, 4), path=path)
    person = Person(chromium, oracle, ask(digits, 1, 2, 3), ask(digits, 4))
    person.sees("1 of 3")
    image = person.find("#item img")
    person.until(lambda: person.script("return arguments[0].naturalWidth", image) == 4)
    assert person.script("return arguments[0].naturalHeight", image) == 6
    assert image.get_attribute("alt") == "Point 1"
    assert image.size["height"] / image.size["width"] == pytest.approx(1.5, rel=0.02)
    assert image.size["height"] >= 200
    assert not person.find("#back").is_enabled()

    person.types("7")
    person.sees("2 of 3")
    person.sees("The one before: 7 (b to change).")
    person.types("8", "s")
    person.sees("2 of 3 answered, 1 skipped.")
    person.types("b")
    person.sees("You skipped this one.")
    person.types(Keys.BACKSPACE)
    person.sees("You answered: 8.")
    assert person.pressed() == ["8"]
    person.types("9", Keys.ENTER, Keys.ENTER)
    person.reach("asking")
    person.sees("1 of 1 · 2 answered in all")
    person.until(lambda: person.find("#item img").get_attribute("alt") == "Point 4")
    person.types("0")
    person.sees("All done, thank you")
    person.sees("kept in answers.jsonl")
    person.end()
    assert person.labels == [[7, 9, -1], [0]]


def test_text_is_shown_as_text(chromium: Any) -> None:
    classes = ("spam", "ham & <i>eggs</i>")
    text = (
        "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\n\n  two & three"
    )
    oracle = oracle_of("text", classes, items=[text], question="Spam </script> or <b>ham</b>?")
    person = Person(chromium, oracle, ask(classes, 0))
    assert person.find("#item .text").get_property("textContent") == text
    assert person.find("h1").text == "Spam </script> or <b>ham</b>?"
    assert person.find("#classes button:nth-child(2)").text.endswith("ham & <i>eggs</i>")
    assert person.script("return window.hacked") is None
    person.types("2")
    person.end()
    assert person.labels == [[1]]


def test_tables_by_mouse(chromium: Any) -> None:
    classes = ("well", "ill")
    frame = pd.DataFrame({"age": [41, 35], "smokes": ["yes", "no"], "dose": [0.123456789, 2.0]})
    person = Person(chromium, oracle_of("table", classes, items=frame), ask(classes, 0, 1))
    rows = person.script(
        "return [...document.querySelectorAll('tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert rows == [["age", "41"], ["smokes", "yes"], ["dose", "0.123457"]]
    person.find("#classes button:nth-child(2)").click()
    person.sees("2 of 2")
    # After a click, Enter must not press the same button for an item that is not yet judged.
    person.types(Keys.ENTER)
    person.sees("2 of 2")
    assert person.pressed() == []
    person.find("#skip").click()
    person.sees("1 of 2 answered, 1 skipped.")
    person.find("#back").click()
    person.sees("You skipped this one.")
    person.find("#classes button:nth-child(1)").click()
    person.sees("2 of 2 answered.")
    person.find("#keep").click()
    person.end()
    assert person.labels == [[1, 0]]


def test_tab_and_enter_reach_every_button(chromium: Any) -> None:
    classes = ("first of all", "second")
    person = Person(chromium, oracle_of("text", classes, items=["a", "b"]), ask(classes, 0, 1))
    names = []
    for _ in range(6):
        person.types(Keys.TAB)
        names.append(person.script("return document.activeElement.textContent.trim()"))
    assert {"1first of all", "2second", "sSkip", "qQuit"} <= set(names)
    while person.script("return document.activeElement.textContent") != "2second":
        person.types(Keys.TAB)
    person.types(Keys.ENTER)
    person.sees("2 of 2")
    person.types("1")
    # Keys are not taken while an answer is on its way.
    person.sees("2 of 2 answered.")
    person.types(Keys.ENTER)
    person.end()
    assert person.labels == [[1, 0]]


def test_quitting_asks_once(chromium: Any) -> None:
    classes = ("x-ray", "yes")
    person = Person(chromium, oracle_of("text", classes, items=list("abc")), ask(classes, 0, 1, 2))
    person.types("2", "q")
    person.sees("Stop labelling?")
    person.types("1")
    person.types(Keys.ESCAPE)
    person.until(lambda: "Stop labelling?" not in person.text)
    person.sees("2 of 3")
    person.types("q", "q")
    person.sees("Stopped")
    assert person.find("#controls").is_displayed() is False
    person.end()
    assert person.stopped == [1, -1, -1]


def test_a_held_key_and_shortcuts_of_the_browser_answer_nothing(chromium: Any) -> None:
    classes = ("cat", "dog")
    person = Person(chromium, oracle_of("text", classes, items=list("abc")), ask(classes, 0, 1, 2))
    for event in (
        "{key: '1', repeat: true}",
        "{key: '1', ctrlKey: true}",
        "{key: '1', altKey: true}",
    ):
        person.script(f"document.dispatchEvent(new KeyboardEvent('keydown', {event}))")
    person.types("x", Keys.ENTER)
    assert "1 of 3" in person.text
    # Two presses at once: the second was meant for the item that was still to be seen.
    press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '2'}));"
    person.script(press + press)
    person.sees("2 of 3")
    person.types("q", "q")
    person.end()
    assert person.stopped == [1, -1, -1]


def test_reloading_and_a_second_window(chromium: Any) -> None:
    classes = ("cat", "dog")
    person = Person(chromium, oracle_of("text", classes, items=list("abc")), ask(classes, 0, 1, 2))
    person.types("2")
    chromium.refresh()
    person.sees("2 of 3")
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    chromium.get(person.oracle.url)
    person.sees("2 of 3")
    person.types("1")
    person.sees("3 of 3")
    chromium.close()
    chromium.switch_to.window(first)
    person.sees("3 of 3")
    person.types("b")
    person.sees("You answered: cat.")
    person.types("q", "q")
    person.end()
    assert person.stopped == [1, 0, -1]


def test_the_page_says_when_the_program_is_gone(chromium: Any) -> None:
    classes = ("cat", "dog")
    person = Person(chromium, oracle_of("text", classes, items=list("abc")), ask(classes, 0, 1, 2))
    assert person.find("#lost").is_displayed() is False
    person.oracle._server.close()  # type: ignore[union-attr]
    person.types("1")
    person.sees("The program does not answer")
    assert "1 of 3" in person.text
    chromium.get("about:blank")
    assert chromium.get_log("browser") != []
    person.oracle._desk.end("stopped")  # type: ignore[union-attr]
    person._thread.join(SECONDS)
    assert person.stopped == [-1, -1, -1]


CONTRAST = """
const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const ground = node => {
  for (; node; node = node.parentElement) {
    const colour = numbers(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
};
return [...document.querySelectorAll("h1, button:enabled, kbd, th, td, #count, #said, p")]
  .filter(node => node.offsetParent && !node.closest(":disabled")).map(node => {
    const a = luminance(numbers(getComputedStyle(node).color)), b = luminance(ground(node));
    return [node.outerHTML, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(chromium: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    classes = tuple(f"group {k} of patients" for k in range(40))
    items = [{"age": 41, "a long name that wraps " * 4: "y" * 200}] * 2
    person = Person(chromium, oracle_of("table", classes, items=items), ask(classes, 0, 1))
    person.types("3", "b")
    person.sees("You answered: group 2 of patients.")
    measured = person.script(CONTRAST)
    assert len(measured) > 40
    # WCAG 2.2, 1.4.3: at least 4.5 to 1.
    assert {html: ratio for html, ratio in measured if ratio < 4.5} == {}
    for width in (1200, 500):
        chromium.set_window_size(width, 700)
        person.until(lambda width=width: person.script("return innerWidth") <= width)
        wide = person.script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        assert person.find("#skip").is_displayed()
    person.types("q", "q")
    person.end()
