"""Pictures of environments: kept one a state, and drawn in characters and in coloured blocks."""

from __future__ import annotations

import io
import re
from typing import Any

import gymnasium
import numpy as np
import pytest

from likely.inference import OptionError
from likely.inference.imitation.pictures import (
    Pictures,
    is_picture,
    on_terminal,
    shown,
    with_pictures,
)


class Dot(gymnasium.Env[Any, Any]):
    """A white dot that moves one pixel to the right at each step."""

    observation_space = gymnasium.spaces.Discrete(6)
    action_space = gymnasium.spaces.Discrete(2)
    render_mode = "rgb_array"
    closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = 0
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place += 1
        return self.place, 0.0, self.place == 5, False, {}

    def render(self) -> Any:
        picture = np.zeros((1, 6, 3), dtype=np.uint8)
        picture[0, self.place] = 200
        return picture

    def close(self) -> None:
        Dot.closed = True


def test_one_picture_a_state() -> None:
    env = Pictures(Dot())
    env.reset()
    env.step(0)
    assert [len(episode) for episode in env.episodes] == [2]
    assert env.latest[0, :, 0].tolist() == [0, 200, 0, 0, 0, 0]
    env.forget()
    assert env.episodes == []


def test_a_trail_shows_what_moves() -> None:
    env = Pictures(Dot(), trail=2)
    env.reset()
    for _ in range(3):
        env.step(0)
    # Of the first states, the first of the episode shines through.
    rows = [picture[0, :, 0].tolist() for picture in env.episodes[0]]
    assert rows == [
        [200, 0, 0, 0, 0, 0],
        [60, 140, 0, 0, 0, 0],
        [60, 0, 140, 0, 0, 0],
        [0, 60, 0, 140, 0, 0],
    ]
    env.reset()
    assert env.latest[0, :, 0].tolist() == [200, 0, 0, 0, 0, 0]


def test_environments_without_pictures() -> None:
    bare = Dot()
    bare.render_mode = None  # type: ignore[assignment]
    env = Pictures(bare, trail=2)
    env.reset()
    env.step(0)
    assert env.episodes == [[None, None]]


def test_what_drawing_needs_is_named() -> None:
    class Undrawn(Dot):
        def render(self) -> Any:
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    with pytest.raises(OptionError, match="pygame is not installed"):
        Pictures(Undrawn()).reset()


def test_options_are_for_what_is_made_here() -> None:
    assert isinstance(with_pictures("CartPole-v1", render_mode="rgb_array"), Pictures)
    with pytest.raises(OptionError, match="env_options"):
        with_pictures(Dot(), render_mode="rgb_array")
    with pytest.raises(OptionError, match="env_options"):
        with_pictures(Dot, 0, sab=True)


def test_characters() -> None:
    flat = np.zeros((40, 80, 3), dtype=np.uint8)
    flat[:, 40:] = 255
    lines = shown(flat, 20).split("\n")
    assert len(lines) == 5
    assert set(lines) == {" " * 10 + "@" * 10}
    # Contrast is stretched to what there is.
    assert shown(flat // 50 + 100, 20) == shown(flat, 20)
    assert shown("a map") == "a map"
    assert shown(np.array([0.5, 2.0])) == "0.5  2"
    assert shown(np.full((2, 2), 255, dtype=np.uint8)) == "@@"


def test_no_more_room_than_there_is() -> None:
    for shape in ((400, 600, 3), (600, 40, 3), (10, 900, 3), (1, 1), (3, 2, 4)):
        for coloured in (False, True):
            text = shown(np.zeros(shape, dtype=np.uint8), 70, 20, coloured)
            lines = re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")
            assert len(lines) <= 20
            assert max(map(len, lines)) <= 70


def test_coloured_blocks_are_two_pixels_each() -> None:
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    picture[0], picture[1, 2] = (255, 0, 0), (0, 0, 9)
    above = "\x1b[38;2;255;0;0;48;2;"
    assert shown(picture, coloured=True) == f"{above}0;0;0m▀▀{above}0;0;9m▀\x1b[0m"
    grey = np.array([[7], [9], [11]], dtype=np.uint8)
    first, last = shown(grey, coloured=True).split("\n")
    assert first == "\x1b[38;2;7;7;7;48;2;9;9;9m▀\x1b[0m"
    assert last == "\x1b[38;2;11;11;11;48;2;11;11;11m▀\x1b[0m"


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "▀" in on_terminal(Terminal())(picture)
    assert "▀" not in on_terminal(io.StringIO())(picture)
    both = on_terminal(io.StringIO())({"picture": picture, "state": np.array([0.12345, -2.0])})
    assert both.endswith("\nstate  0.123  -2")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "▀" not in on_terminal(Terminal())(picture)


def test_what_counts_as_a_picture() -> None:
    assert is_picture(np.zeros((2, 2), dtype=np.uint8))
    for other in (np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8), "x"):
        assert not is_picture(other)
