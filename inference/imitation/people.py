"""A person as the expert: shown what the environment draws, asked which action to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from likely.envs import DataError
from likely.inference.active.errors import LabellingStopped
from likely.inference.active.oracle import Queries, ask
from likely.inference.active.session import RESERVED
from likely.inference.active.terminal import TerminalOracle, as_text
from likely.inference.errors import OptionError

Ints = NDArray[np.int64]
# From dark to light.
_SHADES = " .:-=+*#%@"


class Person:
    r"""An expert who is asked, state by state, and is shown a picture of each.

    What was answered for a state once is not asked again. The answers lie in the oracle's file, so
    that a run with the same seed that goes on after a break asks only what is new.

    Parameters
    ----------
    actions
        Names of the actions, in their order; or a key map, key to name, such as
        ``{"a": "left", "d": "right"}``. The keys s, b and q skip, go back and quit.
    oracle
        From `Queries` to positions of actions, −1 for no answer: a `WebOracle` with images, say.
        Its classes must be `names`. By default a `TerminalOracle`, which draws pictures in
        characters.
    path
        File of answers of the default oracle; None keeps them in memory alone.
    picture
        From an observation to what is shown. By default what the environment renders; the
        observation itself where it renders nothing.
    **options
        Of `TerminalOracle`: ``stdin``, ``stdout``.

    Attributes
    ----------
    names : tuple of str
        The actions as they are shown: "a left" where there is a key map.
    asked : int
        How many states were put to the person.

    Raises
    ------
    DataError
        For fewer than two actions, keys that are no single characters or are taken, and (when
        called) answers that are no actions.
    LabellingStopped
        When the person stops.

    Examples
    --------
    >>> import io
    >>> typed = io.StringIO("d\na\n\n")
    >>> person = Person({"a": "left", "d": "right"}, stdin=typed, stdout=io.StringIO())
    >>> person.names
    ('a left', 'd right')
    >>> person(np.array([[0.5], [-0.5]])).tolist()
    [1, 0]
    """

    def __init__(
        self,
        actions: Sequence[str] | Mapping[str, str],
        oracle: Callable[[Queries], Any] | None = None,
        *,
        path: str | PathLike[str] | None = None,
        picture: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self.names = _named(actions)
        if picture is not None and not callable(picture):
            raise DataError(f"picture: expected a callable, got {type(picture).__name__}")
        if oracle is None:
            options = {"show": shown, "review": None, **options}
            oracle = TerminalOracle(self.names, path=path, **options)
        elif options or path is not None:
            given = sorted({*options, *(["path"] if path is not None else [])})
            raise DataError(f"{', '.join(given)}: for the default oracle, and another was given")
        if not callable(oracle):
            raise DataError(f"oracle: expected a callable, got {type(oracle).__name__}")
        self.oracle, self.picture = oracle, picture
        self._known: dict[bytes, int] = {}
        self._number: dict[bytes, int] = {}

    @property
    def asked(self) -> int:
        """How many states were put to the person."""
        return len(self._number)

    @property
    def renders(self) -> bool:
        """Whether the environment's own pictures are wanted."""
        return self.picture is None

    def __call__(self, observations: Any, pictures: Sequence[Any] | None = None) -> Ints:
        """Ask for the actions [n] in states [n, *state], −1 where there is no answer.

        Parameters
        ----------
        observations
            [n, *state].
        pictures
            What to show for each, [n].
        """
        seen = np.asarray(observations)
        if pictures is not None and len(pictures) != len(seen):
            raise DataError(f"pictures: expected {len(seen)}, one a state, got {len(pictures)}")
        new: dict[bytes, int] = {}
        for i, key in enumerate(map(_key, seen)):
            if key not in self._known:
                new.setdefault(key, i)
        if new:
            self._ask(new, [self._item(i, seen, pictures) for i in new.values()])
        return self.known(seen)

    def known(self, observations: Any) -> Ints:
        """What was answered about states [n, *state] already, −1 for nothing; nobody is asked."""
        keys = map(_key, np.asarray(observations))
        return np.array([self._known.get(key, -1) for key in keys], dtype=np.int64)

    def _item(self, i: int, seen: Any, pictures: Sequence[Any] | None) -> Any:
        if self.picture is not None:
            return self.picture(seen[i])
        return seen[i] if pictures is None or pictures[i] is None else pictures[i]

    def _ask(self, new: Mapping[bytes, int], items: list[Any]) -> None:
        numbers = np.array([self._number.setdefault(key, len(self._number)) for key in new])
        queries = Queries(numbers, items, classes=self.names)
        try:
            labels = ask(self.oracle, queries)
        except LabellingStopped as stopped:
            self._keep(new, stopped.labels)
            raise
        self._keep(new, labels)

    def _keep(self, new: Mapping[bytes, int], labels: Ints) -> None:
        for key, label in zip(new, labels.tolist(), strict=True):
            if label >= 0:
                self._known[key] = label


class Pictures(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that remembers what it looked like, one picture a state.

    Attributes
    ----------
    episodes : list of list
        Pictures of each episode since the last `forget`, T + 1 of T steps; None where the
        environment renders nothing.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes: list[list[Any]] = []

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
        self.episodes.append([self._look()])
        return found

    def step(self, action: Any) -> Any:
        """Take a step."""
        found = self.env.step(action)
        self.episodes[-1].append(self._look())
        return found

    def _look(self) -> Any:
        return None if self.env.render_mode is None else self.env.render()


def with_pictures(env: Any, **options: Any) -> Pictures:
    """One environment that remembers its pictures.

    Parameters
    ----------
    env
        A name, a spec, an environment, or a function that makes one.
    **options
        Of `gymnasium.make`, with a name; ``render_mode="rgb_array"`` unless they say otherwise.

    Raises
    ------
    OptionError
        If it cannot be made, or actions are not Discrete.
    """
    if isinstance(env, gymnasium.Env):
        made = env
    elif callable(env) and not hasattr(env, "entry_point"):
        made = env()
    else:
        try:
            made = gymnasium.make(env, **{"render_mode": "rgb_array", **options})
        except (gymnasium.error.Error, TypeError) as error:
            raise OptionError(f"env: gymnasium cannot make {env!r}: {error}") from error
    if not isinstance(made.action_space, Discrete):
        raise OptionError(f"expert: a person picks one of a few actions, not {made.action_space}")
    return Pictures(made)


def shown(item: Any, width: int = 64) -> str:
    """A picture in characters; text and numbers as they are.

    Parameters
    ----------
    item
        Pixels [H, W] or [H, W, 3], text, or an observation.
    width
        Characters a line, at most.

    Examples
    --------
    >>> print(shown(np.array([[0, 255], [255, 0], [0, 0], [0, 0]], dtype=np.uint8)))
    ==
    <BLANKLINE>
    """
    if not isinstance(item, np.ndarray) or item.ndim not in (2, 3) or item.dtype != np.uint8:
        if isinstance(item, np.ndarray) and item.ndim <= 1:
            return "  ".join(as_text(value) for value in np.atleast_1d(item))
        return as_text(item)
    grey = item.astype(np.float64) if item.ndim == 2 else item[..., :3].mean(-1)
    # A character is about twice as high as it is wide; each shows the mean of its pixels.
    columns = min(width, grey.shape[1])
    lines = max(1, round(grey.shape[0] * columns / grey.shape[1] / 2))
    rows = np.array_split(grey, lines, 0)
    cells = [[part.mean() for part in np.array_split(row, columns, 1)] for row in rows]
    shade = (np.array(cells) / 256 * len(_SHADES)).astype(int)
    return "\n".join("".join(_SHADES[i] for i in line).rstrip() for line in shade)


def _key(observation: Any) -> bytes:
    # Precision is lost between an environment and its record.
    return np.asarray(observation, dtype=np.float32).tobytes()


def _named(actions: Sequence[str] | Mapping[str, str]) -> tuple[str, ...]:
    if isinstance(actions, str) or len(actions) < 2:
        raise DataError(f"actions: expected names of at least two, got {actions!r}")
    if not isinstance(actions, Mapping):
        return tuple(str(name) for name in actions)
    for key in actions:
        if not isinstance(key, str) or len(key) != 1 or key.casefold() in RESERVED:
            raise DataError(
                f"actions: expected a single character other than {', '.join(RESERVED)} for each "
                f"key, got {key!r}"
            )
    if len({key.casefold() for key in actions}) < len(actions):
        raise DataError(f"actions: expected keys that differ, got {sorted(actions)}")
    return tuple(f"{key} {name}" for key, name in actions.items())
