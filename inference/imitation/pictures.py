"""What an environment looks like: its pictures, kept step by step, and drawn at a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from likely.inference.active.terminal import as_text
from likely.inference.errors import OptionError

# From dark to light.
_SHADES = " .:-=+*#%@"
# Share of an earlier picture that shines through.
_FAINT = 0.3
# Lines of a terminal that the question needs, and most characters of a line.
_REST, _WIDEST = 7, 80


class Pictures(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that remembers what it looked like, one picture a state.

    Parameters
    ----------
    env
        The environment.
    trail
        How many steps back the picture lies that shines through each picture and so shows what
        moves and how fast; 0 for none.

    Attributes
    ----------
    episodes : list of list
        Pictures of each episode since the last `forget`, T + 1 of T steps; None where the
        environment renders nothing.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], trail: int = 0) -> None:
        super().__init__(env)
        self.episodes: list[list[Any]] = []
        self.trail = trail
        self._before: deque[Any] = deque(maxlen=trail + 1)

    @property
    def latest(self) -> Any:
        """What the present state looks like."""
        return self.episodes[-1][-1]

    def forget(self) -> None:
        """Drop all pictures."""
        self.episodes = []

    def reset(self, **options: Any) -> Any:
        """Begin an episode."""
        found = self.env.reset(**options)
        self._before.clear()
        self.episodes.append([self._look()])
        return found

    def step(self, action: Any) -> Any:
        """Take a step."""
        found = self.env.step(action)
        self.episodes[-1].append(self._look())
        return found

    def _look(self) -> Any:
        try:
            found: Any = None if self.env.render_mode is None else self.env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise OptionError(f"env: {self.env} cannot be drawn: {error}") from error
        self._before.append(found)
        before = self._before[0]
        if not (is_picture(found) and is_picture(before) and before.shape == found.shape):
            return found
        mixed = (1 - _FAINT) * found.astype(np.float64) + _FAINT * before
        return np.rint(mixed).astype(np.uint8)


def with_pictures(env: Any, trail: int = 0, **options: Any) -> Pictures:
    """One environment that remembers its pictures.

    Parameters
    ----------
    env
        A name, a spec, an environment, or a function that makes one.
    trail
        As for `Pictures`.
    **options
        Of `gymnasium.make`, with a name; ``render_mode="rgb_array"`` unless they say otherwise.

    Raises
    ------
    OptionError
        If it cannot be made, or actions are not Discrete.
    """
    named = isinstance(env, str) or hasattr(env, "entry_point")
    if options and not named:
        raise OptionError(f"env_options: {sorted(options)} are for a name or a spec, got {env!r}")
    if isinstance(env, gymnasium.Env):
        made = env
    elif callable(env) and not named:
        made = env()
    else:
        try:
            made = gymnasium.make(env, **{"render_mode": "rgb_array", **options})
        except (gymnasium.error.Error, TypeError) as error:
            raise OptionError(f"env: gymnasium cannot make {env!r}: {error}") from error
    if not isinstance(made.action_space, Discrete):
        raise OptionError(f"expert: a person picks one of a few actions, not {made.action_space}")
    return Pictures(made, trail)


def is_picture(item: Any) -> bool:
    """Whether something is an array of pixels, uint8 [H, W] or [H, W, 3 or 4]."""
    return (
        isinstance(item, np.ndarray)
        and item.dtype == np.uint8
        and item.size > 0
        and (item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (3, 4)))
    )


def on_terminal(stream: TextIO | None = None) -> Callable[[Any], str]:
    """What draws items for a stream, by default standard output, as large as there is room.

    An item may be a mapping of ``picture`` and ``state``, whose numbers are written below.

    Parameters
    ----------
    stream
        Where it goes: with colours if it is a terminal, unless the variable NO_COLOR is set.
    """

    def draw(item: Any) -> str:
        where = sys.stdout if stream is None else stream
        size = _size(where)
        coloured = where.isatty() and not os.environ.get("NO_COLOR")
        room = min(size.columns, _WIDEST), max(size.lines - _REST, 8), coloured
        if not isinstance(item, Mapping):
            return shown(item, *room)
        numbers = "  ".join(f"{value:.3g}" for value in item["state"])
        return f"{shown(item['picture'], *room)}\nstate  {numbers}"

    return draw


def _size(stream: TextIO) -> os.terminal_size:
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return shutil.get_terminal_size()
    # A terminal that does not know has none.
    return found if found.columns and found.lines else shutil.get_terminal_size()


def shown(item: Any, width: int = 64, height: int = 40, coloured: bool = False) -> str:
    """A picture in characters; text and numbers as they are.

    Parameters
    ----------
    item
        Pixels [H, W] or [H, W, 3 or 4], text, or an observation.
    width, height
        Characters a line, and lines, at most.
    coloured
        Whether the terminal draws colours (24 bits): a character is then two pixels.

    Examples
    --------
    >>> print(shown(np.array([[0, 255], [0, 255], [0, 0], [0, 0]], dtype=np.uint8)))
     @
    <BLANKLINE>
    """
    if not is_picture(item):
        if isinstance(item, np.ndarray) and item.ndim <= 1:
            return "  ".join(as_text(value) for value in np.atleast_1d(item))
        return as_text(item)
    pixels = (item[..., None] if item.ndim == 2 else item[..., :3]).astype(np.float64)
    # A character is about twice as high as it is wide; each shows the mean of its pixels.
    high, wide = pixels.shape[:2]
    columns = max(1, min(width, wide, round(2 * height * wide / high)))
    lines = max(1, min(height, round(high * columns / wide / 2)))
    if coloured:
        return _blocks(_means(pixels, min(2 * lines, high), columns))
    grey = _means(pixels, lines, columns).mean(-1)
    low, range_ = grey.min(), np.ptp(grey)
    share = (grey - low) / range_ if range_ else grey / 255
    shade = np.minimum((share * len(_SHADES)).astype(int), len(_SHADES) - 1)
    return "\n".join("".join(_SHADES[i] for i in line).rstrip() for line in shade)


def _means(pixels: NDArray[np.float64], lines: int, columns: int) -> NDArray[np.float64]:
    """Means of the pixels [H, W, C] of each cell, [lines, columns, C]."""
    rows = [part.mean(0) for part in np.array_split(pixels, lines, 0)]
    return np.array([[part.mean(0) for part in np.array_split(r, columns, 0)] for r in rows])


def _blocks(cells: NDArray[np.float64]) -> str:
    """Lines of half blocks, the upper half in one colour and the lower in another."""
    if len(cells) % 2:
        cells = np.concatenate([cells, cells[-1:]])
    lines = []
    for upper, lower in zip(cells[::2], cells[1::2], strict=True):
        line, last = "", ""
        for pair in np.rint(np.stack([upper, lower], 1)).astype(int):
            above, below = (";".join(map(str, np.resize(colour, 3))) for colour in pair)
            colours = f"\x1b[38;2;{above};48;2;{below}m"
            line += (colours if colours != last else "") + "▀"
            last = colours
        lines.append(f"{line}\x1b[0m")
    return "\n".join(lines)
