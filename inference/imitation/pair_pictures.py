"""What a person sees of two episodes: paths over a grid, or strips of film."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from likely.envs import GridWorld, Trajectories
from likely.envs._drawing import draw_grid
from likely.inference.engines.checks import check_int
from likely.inference.errors import OptionError
from likely.models.preference.pairs import TrajectoryPairs
from likely.models.preference.trajectory import check_pairs

Picture = NDArray[np.uint8]
# The step of each frame, and the frame.
Film = list[tuple[int, Picture]]
SIDES = ("first", "second")
ARROWS = {
    **{"up": "↑", "right": "→", "down": "↓", "left": "←"},
    **{"up-left": "↖", "up-right": "↗", "down-left": "↙", "down-right": "↘"},
}
# Least and most pixels of a board's width, and how far from a cell's middle, in cells, a path may
# pass.
_NARROW, _WIDE, _SPREAD = 300, 600, 0.22


class Filmed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that keeps a strip of film of each episode, a few small frames.

    Frames are as far apart as the episode's length demands: where there are twice as many as
    wanted, every other one is dropped. The first frame is the beginning; the last is the end where
    the environment ends its episodes itself.

    Parameters
    ----------
    env
        A name, a spec, an environment, or a function that makes one. It must render pixels.
    frames
        Most frames that are kept of an episode, beside the last; at least 2.
    height
        Most pixels of their height; larger ones are made smaller by means over squares.
    **options
        Of `gymnasium.make`, with a name; ``render_mode="rgb_array"`` unless they say otherwise.

    Attributes
    ----------
    films : list
        Of each episode since the last `forget`, a list of pairs: the step, and a frame
        uint8 [H, W, 3].

    Raises
    ------
    OptionError
        If it cannot be made, or renders no pixels.

    Examples
    --------
    >>> pole = Filmed("CartPole-v1", frames=4)
    >>> start = pole.reset(seed=0)
    >>> for _ in range(5):
    ...     step = pole.step(0)
    >>> [(t, frame.shape) for t, frame in pole.films[0]]
    [(0, (100, 150, 3)), (2, (100, 150, 3)), (4, (100, 150, 3))]
    """

    def __init__(self, env: Any, frames: int = 8, height: int = 120, **options: Any) -> None:
        check_int("frames", frames, 2)
        check_int("height", height, 1)
        if isinstance(env, gymnasium.Env):
            made = env
        elif callable(env) and not hasattr(env, "entry_point"):
            made = env()
        else:
            try:
                made = gymnasium.make(env, **{"render_mode": "rgb_array", **options})
            except (gymnasium.error.Error, TypeError, AttributeError) as error:
                raise OptionError(f"env: gymnasium cannot make {env!r}: {error}") from error
        if getattr(made, "render_mode", None) != "rgb_array":
            raise OptionError(f"env: expected one with render_mode='rgb_array', got {made!r}")
        super().__init__(made)
        self.frames, self.height = frames, height
        self.films: list[Film] = []
        self._time, self._stride = 0, 1

    def forget(self) -> None:
        """Drop all films."""
        self.films = []

    def reset(self, **options: Any) -> Any:
        """Begin an episode, and a film."""
        found = self.env.reset(**options)
        self._time, self._stride = 0, 1
        self.films.append([(0, self._frame())])
        return found

    def step(self, action: Any) -> Any:
        """Take a step, and a frame now and then."""
        found = self.env.step(action)
        self._time += 1
        if not self.films:
            # Forgotten within an episode; the next one has a film again.
            return found
        film, ended = self.films[-1], bool(found[2] or found[3])
        if self._time % self._stride == 0 or ended:
            film.append((self._time, self._frame()))
        if len(film) > self.frames and not ended:
            self._stride *= 2
            film[:] = film[::2]
        return found

    def _frame(self) -> Picture:
        found = np.asarray(self.env.render())
        if found.ndim != 3 or found.shape[-1] != 3 or found.dtype != np.uint8:
            raise OptionError(
                f"env: expected pixels uint8 [H, W, 3], got {found.dtype} {found.shape}"
            )
        size = -(-found.shape[0] // self.height)
        rows, columns = found.shape[0] // size, found.shape[1] // size
        blocks = found[: rows * size, : columns * size].reshape(rows, size, columns, size, 3)
        small: Picture = np.rint(blocks.mean((1, 3))).astype(np.uint8)
        return small


class PairPictures(Sequence[Any]):
    """Pictures of pairs, [m], each drawn when it is asked for; see `pair_pictures`."""

    def __init__(self, pairs: TrajectoryPairs, source: GridWorld | Filmed) -> None:
        self.pairs, self.source = pairs, source

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: Any) -> Any:
        """A picture, uint8 [H, W, 3]; of a slice, a list of them."""
        if isinstance(position, slice):
            return [self[i] for i in range(len(self))[position]]
        pair = self.pairs[range(len(self))[position]]
        if isinstance(self.source, Filmed):
            return _strips(self.source.films, [pair.first, pair.second])
        return _boards(self.source, [pair.first, pair.second])


def pair_pictures(pairs: TrajectoryPairs, source: GridWorld | Filmed) -> PairPictures:
    """Pictures of pairs, for a `WebOracle` of images.

    Parameters
    ----------
    pairs
        What somebody is asked about.
    source
        The `GridWorld` whose cells are the states: two boards with a path on each, from dark at
        its start to light at its end. Or the `Filmed` environment in which the episodes were
        played, all of them since its last ``forget``: two strips of film.

    Raises
    ------
    OptionError
        If states are no cells of the world, or there is no film of an episode.

    Examples
    --------
    >>> from likely.inference.imitation import candidate_pairs, play
    >>> world = GridWorld(["S.G", "..."])
    >>> seen = play(world.mdp, world.mdp.value_iteration().policy, 3, 0, 10)
    >>> pair_pictures(candidate_pairs(seen, 2), world)[0].ndim
    3
    """
    check_pairs(pairs)
    if isinstance(source, Filmed):
        sides = np.concatenate([pairs.first.episodes, pairs.second.episodes])
        films = range(len(source.films))
        missing = [one for one in sides.tolist() if not (isinstance(one, int) and one in films)]
        if missing:
            raise OptionError(
                f"source: {len(films)} films, and none of episode {missing[0]!r}; play the "
                "episodes in this environment, and forget no film before people have seen it"
            )
    else:
        _check_world(pairs, source)
    return PairPictures(pairs, source)


def path_texts(pairs: TrajectoryPairs, world: GridWorld) -> list[str]:
    """Pairs of paths as boards in characters, for a `TerminalOracle`.

    An arrow is the last action that was taken in a cell.

    Parameters
    ----------
    pairs
        What somebody is asked about.
    world
        The `GridWorld` whose cells are the states.

    Raises
    ------
    OptionError
        If states are no cells of the world, or there are no actions.

    Examples
    --------
    >>> seen = Trajectories.from_arrays([[0, 1, 2], [0, 3, 4]], [[1, 1], [2, 1]], state_space=7,
    ...                                 action_space=4)
    >>> world = GridWorld(["S.G", "..."])
    >>> print(path_texts(TrajectoryPairs.among(seen, [0], [1]), world)[0])
    first     second
    → → ◆     ↓ · G
    · · ·     → ◆ ·
    2 steps   2 steps
    """
    check_pairs(pairs)
    _check_world(pairs, world)
    if pairs.first.actions is None:
        raise OptionError("pairs: paths are drawn with their actions, and these have none")
    found = []
    for one, two in zip(pairs.first, pairs.second, strict=True):
        boards = [[SIDES[0], *_lines(one, world)], [SIDES[1], *_lines(two, world)]]
        width = max(map(len, boards[0])) + 3
        rows = zip(*boards, strict=True)
        found.append("\n".join(f"{left:<{width}}{right}".rstrip() for left, right in rows))
    return found


def _check_world(pairs: TrajectoryPairs, world: Any) -> None:
    if not isinstance(world, GridWorld):
        raise OptionError(
            f"source: expected a GridWorld or a Filmed environment, got {type(world).__name__}"
        )
    space, cells = pairs.first.state_space, len(world.grid.cells)
    if not isinstance(space, Discrete) or int(space.n) not in (cells, world.mdp.n_states):
        raise OptionError(f"pairs: expected the world's {cells} cells for states, got {space}")


def _walked(side: Trajectories, world: GridWorld) -> list[tuple[int, int]]:
    """Cells (row, column) in their order, without the sink."""
    cells = world.grid.cells
    return [cells[s] for s in side.states.tolist() if s < len(cells)]


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _lines(side: Trajectories, world: GridWorld) -> list[str]:
    board = [["·" if mark == "." else mark for mark in line] for line in world.layout]
    path, names = _walked(side, world), world.mdp.actions
    assert side.actions is not None
    assert names is not None
    for (row, column), action in zip(path, side.actions.tolist(), strict=False):
        board[row][column] = ARROWS[names[action]]
    row, column = path[-1]
    board[row][column] = "◆"
    return [*(" ".join(line) for line in board), _steps(int(side.lengths[0]))]


def _boards(world: GridWorld, sides: Sequence[Trajectories]) -> Picture:
    """Two boards with paths, side by side."""
    columns = len(world.layout[0])
    cell = min(max(64, -(-_NARROW // columns)), max(16, _WIDE // columns))
    board = draw_grid(world.layout, None, cell)
    figure = _figure(2 * board.shape[1] + 80, board.shape[0] + 80)
    for number, (name, side) in enumerate(zip(SIDES, sides, strict=True)):
        ax = figure.add_subplot(1, 2, number + 1)
        ax.imshow(board)
        path = np.array(_walked(side, world), dtype=float)
        # Passages of one cell lie beside each other, the later ones further down and right.
        late = np.linspace(-_SPREAD, _SPREAD, len(path)) if len(path) > 1 else np.zeros(1)
        y, x = ((path[:, axis] + 0.5 + late) * cell for axis in (0, 1))
        shade = _shades(len(path))
        for t in range(len(path) - 1):
            ax.plot(x[t : t + 2], y[t : t + 2], color=shade[t], lw=3.5, solid_capstyle="round")
        ax.plot(x[0], y[0], "o", ms=11, mfc="white", mec=shade[0], mew=3)
        ax.plot(x[-1], y[-1], "D", ms=11, mfc=shade[-1], mec="black", mew=1.5)
        ax.set_title(f"{name}: {_steps(int(side.lengths[0]))}", fontsize=15)
        ax.set_axis_off()
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 60 / (board.shape[0] + 80), wspace=0.05)
    return _pixels(figure)


def _strips(reel: Sequence[Film], sides: Sequence[Trajectories]) -> Picture:
    """Two strips of film, one above the other."""
    films = [reel[int(side.episodes[0])] for side in sides]
    lengths = [_steps(int(side.lengths[0])) for side in sides]
    count = max(map(len, films))
    height, width = films[0][0][1].shape[:2]
    figure = _figure(count * (width + 8) + 30, 2 * (height + 40) + 20)
    for row, (name, length, film) in enumerate(zip(SIDES, lengths, films, strict=True)):
        for place, (time, frame) in enumerate(film):
            ax = figure.add_subplot(2, count, row * count + place + 1)
            ax.imshow(frame)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"after {time}" if place else f"{name}: {length}", fontsize=11, loc="left")
    figure.tight_layout(w_pad=0.4)
    return _pixels(figure)


def _shades(count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["plasma"](np.linspace(0.0, 0.85, max(count, 1)))


def _figure(width: int, height: int) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    return figure


def _pixels(figure: Any) -> Picture:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
