"""Worlds of cells: walls, goals, traps, slippery floors and wind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import scipy.sparse as sp
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from likely.envs._checks import as_count, as_number
from likely.envs._drawing import draw_grid
from likely.envs._grid import MOVES, Grid, Step, cell_features, move_table
from likely.envs.errors import DataError
from likely.envs.mdp import TabularMDP

FOUR_ROOMS = (
    "S....#....",
    ".....#....",
    "..........",
    ".....#..T.",
    "#.####....",
    ".....##.##",
    "..T..#....",
    "..........",
    ".....#....",
    ".....#...G",
)
REWARDS = {".": 0.0, "S": 0.0, "G": 1.0, "T": -1.0}


class GridWorld(gymnasium.Env[Any, Any]):
    """A grid of cells that an agent walks over, and its exact decision process.

    Registered as ``likely/GridWorld-v0``. Steps never cross the border, and lead nowhere if
    there is a wall. Actions are up, right, down, left (or, diagonal, up-left, up-right, down-left,
    down-right).

    Parameters
    ----------
    layout
        Lines of one length, or one text: ``#`` wall, ``S`` start (one of them at random), ``G``
        goal, ``T`` trap, ``.`` free. Ten by ten cells, four rooms, unless given.
    slip
        Probability of going at a right angle to the action, half of it to either side.
    wind
        Probability of being blown one row further up.
    rewards
        Mark to reward; those left out have goal 1, trap −1 and 0 for the rest.
    rewarded : {"arrival", "departure"}
        Whether a cell pays when it is entered, r(s, a, s'), or whenever a step starts in it, r(s),
        as inverse reinforcement learning has it.
    terminal
        Marks of the cells that end an episode: on entering, or, where departure is rewarded, with
        the step after, so that the cell pays once.
    moves : {"straight", "diagonal"}
        The four actions.
    discount
        γ of `mdp`.
    horizon
        Steps after which an episode is truncated; by default none.
    features
        What ψ holds, side by side: ``"kind"`` (indicators of free, goal and trap), ``"cell"``
        (of each cell), ``"position"`` (row and column from 0 to 1), ``"distance"`` (steps to the
        nearest goal, walls ignored, from 0 to 1).
    observation : {"cell", "features"}
        What the agent sees: the cell's number, or ψ.
    sparse
        Whether `mdp` holds its moves as a sparse matrix, for worlds of thousands of cells; rewards
        are then expected ones, [S, A].
    render_mode : {"rgb_array", "ansi"}, optional
        A picture or text.

    Attributes
    ----------
    mdp
        The decision process, `TabularMDP`. Its states are the cells that are no walls, row by
        row, labelled (row, column); where something is terminal, a sink follows, to which all
        moves of terminal cells lead.
    features, feature_names
        ψ: float64 [S, F], zero in the sink; and the names of its columns [F].
    layout
        The lines.

    Raises
    ------
    DataError
        For a layout that cannot be read, an option out of range, or (`step`) an action outside
        the space.

    Examples
    --------
    >>> world = GridWorld(["S.G", ".#T"], slip=0.2, discount=0.9)
    >>> world.mdp
    TabularMDP(6 states, 4 actions, discount 0.9, sink 5)
    >>> plan = world.mdp.value_iteration()
    >>> [world.mdp.actions[a] for a in plan.policy[:2].argmax(-1).tolist()]
    ['right', 'right']
    >>> world.reset(seed=0)
    (0, {'cell': (0, 0)})
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 4,
    }

    def __init__(
        self,
        layout: Any = FOUR_ROOMS,
        *,
        slip: float = 0.0,
        wind: float = 0.0,
        rewards: Mapping[str, float] | None = None,
        rewarded: str = "arrival",
        terminal: Sequence[str] = ("G", "T"),
        moves: str = "straight",
        discount: float = 0.95,
        horizon: int | None = None,
        features: Sequence[str] = ("kind",),
        observation: str = "cell",
        sparse: bool = False,
        render_mode: str | None = None,
    ) -> None:
        grid = Grid.read(layout)
        _one_of(rewarded, "rewarded", ("arrival", "departure"))
        _one_of(moves, "moves", tuple(MOVES))
        _one_of(observation, "observation", ("cell", "features"))
        if not isinstance(sparse, bool):
            raise DataError(f"sparse must be True or False, got {sparse!r}")
        if render_mode is not None:
            _one_of(render_mode, "render_mode", tuple(self.metadata["render_modes"]))
        if rewards is not None and not isinstance(rewards, Mapping):
            raise DataError(f"rewards must map marks to numbers, got {rewards!r}")
        for name, value in (("terminal", terminal), ("features", features)):
            if not isinstance(value, Collection):
                raise DataError(f"{name} must be a sequence, got {value!r}")
        for mark in (*terminal, *(rewards or {})):
            _one_of(mark, "a mark of terminal or rewards", tuple(REWARDS))
        if "S" in terminal:
            raise DataError("terminal must not hold the start S")
        self.slip = as_number(slip, "slip", 0.0, 1.0)
        self.wind = as_number(wind, "wind", 0.0, 1.0)
        self.horizon = None if horizon is None else as_count(horizon, "horizon")
        self.layout, self.grid = grid.layout, grid
        self.rewarded, self.render_mode = rewarded, render_mode
        paid = {**REWARDS, **(rewards or {})}
        pays = np.array([as_number(paid[mark], f"rewards[{mark!r}]") for mark in grid.marks])
        self._ends = np.array([mark in terminal for mark in grid.marks])
        moves_of = MOVES[moves]
        self._moves = _moves(grid, self._ends, moves_of, self.slip, self.wind)
        self._pays = np.append(pays, 0.0)
        self.mdp = _process(self, tuple(moves_of), discount, sparse)

        table, self.feature_names = cell_features(grid, features)
        self.features: Tensor = torch.zeros(self.mdp.n_states, table.shape[1], dtype=torch.float64)
        self.features[: len(table)] = torch.from_numpy(table)
        self._seen = table if observation == "features" else None
        self.action_space = spaces.Discrete(self.mdp.n_actions)
        if self._seen is None:
            self.observation_space: spaces.Space[Any] = spaces.Discrete(len(grid.cells))
        else:
            self.observation_space = spaces.Box(0.0, 1.0, (table.shape[1],), np.float64)
        self._cell: int | None = None
        self._time, self._over = 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a start cell.

        Returns
        -------
        tuple
            The observation, and ``{"cell": (row, column)}``.
        """
        super().reset(seed=seed)
        starts = np.flatnonzero(self.mdp.initial.numpy())
        self._cell, self._time = int(starts[self.np_random.integers(len(starts))]), 0
        self._over = False
        return self._look()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Parameters
        ----------
        action
            0 to 3.

        Raises
        ------
        DataError
            If there is no such action.
        gymnasium.error.ResetNeeded
            If no episode is going on.
        """
        if not self.action_space.contains(action):
            raise DataError(f"action must be an integer from 0 to 3, got {action!r}")
        if self._cell is None or self._over:
            raise gymnasium.error.ResetNeeded("no episode is going on: call reset first")
        here, row = self._cell, self._cell * self.mdp.n_actions + int(action)
        span = slice(*self._moves.indptr[row : row + 2])
        # Rounding may leave the last sum a little below a draw.
        below = self._moves.data[span].cumsum()[:-1]
        there = int(self._moves.indices[span][below.searchsorted(self.np_random.random(), "right")])
        reward = self._pays[there if self.rewarded == "arrival" else here]
        ended = there == self.mdp.sink or (self.rewarded == "arrival" and bool(self._ends[there]))
        self._cell = here if there == self.mdp.sink else there
        self._time += 1
        late = self.horizon is not None and self._time >= self.horizon and not ended
        self._over = ended or late
        observation, info = self._look()
        return observation, float(reward), ended, late, info

    def _look(self) -> tuple[Any, dict[str, Any]]:
        cell = self._cell or 0
        observation = cell if self._seen is None else self._seen[cell].copy()
        return observation, {"cell": self.grid.cells[cell]}

    def render(self) -> Any:
        """The grid and the agent: pixels uint8 [H, W, 3], or lines of text with an ``A``."""
        agent = None if self._cell is None else self.grid.cells[self._cell]
        if self.render_mode == "rgb_array":
            return draw_grid(self.layout, agent)
        if self.render_mode == "ansi":
            lines = [list(line) for line in self.layout]
            if agent is not None:
                lines[agent[0]][agent[1]] = "A"
            return "\n".join("".join(line) for line in lines)
        return None


def cliff_world(**options: Any) -> GridWorld:
    """Four rows of seven cells: from one end of a cliff to the other, in an upward wind.

    The cells of the top row between start and goal are the cliff: −10 a step, against −1 elsewhere
    and 10 at the goal. Moves are diagonal, the wind blows a row further up with probability .3,
    and nothing ends an episode before its 40 steps, undiscounted. It is the ``CliffWorldEnv`` of
    the package ``seals``, a common test of maximum causal entropy inverse reinforcement learning.

    Parameters
    ----------
    **options
        Of `GridWorld`, instead of these.

    Examples
    --------
    >>> world = cliff_world()
    >>> world.mdp, world.horizon
    (TabularMDP(28 states, 4 actions, discount 1), 40)
    >>> world.mdp.backward_induction(world.horizon).value.shape
    torch.Size([41, 28])
    """
    chosen: dict[str, Any] = {
        "layout": ("STTTTTG", ".......", ".......", "......."),
        "wind": 0.3,
        "rewards": {".": -1.0, "S": -1.0, "G": 10.0, "T": -10.0},
        "rewarded": "departure",
        "terminal": (),
        "moves": "diagonal",
        "discount": 1.0,
        "horizon": 40,
        "features": ("cell",),
    }
    return GridWorld(**{**chosen, **options})


def _moves(
    grid: Grid, ends: NDArray[np.bool_], steps: Mapping[str, Step], slip: float, wind: float
) -> Any:
    """P as a sparse matrix [S·A, S]; where cells are terminal, with a sink as the last state."""
    table: Any = move_table(grid, steps, slip, wind)
    if not ends.any():
        return table
    size, n = len(ends), len(steps)
    over = np.repeat(ends, n).astype(float)
    rows = sp.hstack([sp.diags_array(1 - over) @ table, sp.csr_array(over[:, None])])
    stay = sp.csr_array((np.ones(n), (np.arange(n), np.full(n, size))), shape=(n, size + 1))
    whole = sp.csr_array(sp.vstack([rows, stay]))
    whole.eliminate_zeros()
    whole.sort_indices()
    return whole


def _process(
    world: GridWorld, actions: tuple[str, ...], discount: float, sparse: bool
) -> TabularMDP:
    moves, starts = world._moves, np.array([mark == "S" for mark in world.grid.marks], dtype=float)
    labels: list[Any] = list(world.grid.cells)
    sink = len(labels) if moves.shape[1] > len(labels) else None
    if sink is not None:
        labels.append("sink")
        starts = np.append(starts, 0.0)
    pays = world._pays[: len(labels)]
    shape = (len(labels), len(actions), len(labels))
    table, reward = moves, pays
    if world.rewarded == "arrival":
        reward = (
            (moves @ pays).reshape(shape[:2]) if sparse else np.broadcast_to(pays, shape).copy()
        )
    if not sparse:
        table = moves.toarray().reshape(shape)
    return TabularMDP(table, reward, discount, starts / starts.sum(), sink, labels, actions)


def _one_of(value: Any, name: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
