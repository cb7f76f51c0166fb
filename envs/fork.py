"""A tree that can be passed left or right, but not straight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from likely.envs._checks import as_count, as_number, as_rows, as_seed
from likely.envs._drawing import draw_fork
from likely.envs.errors import DataError
from likely.envs.mdp import TabularMDP

HALF_WIDTH = 0.75
SIDES = {"left": (-1.0,), "right": (1.0,), "both": (-1.0, 1.0)}

Array = NDArray[Any]


class Fork(gymnasium.Env[Any, Any]):
    """Drive at constant speed towards a tree and steer past it, on either side.

    Registered as ``likely/Fork-v0``. Full steering from the first step on leads one unit to the
    side; less than ``tree_half_width`` is a crash. Experts pass left and right equally often, so
    their mean action is straight ahead: a policy with one mode that covers both sides, as
    behaviour cloning's does, hits the tree, and one that seeks a mode does not.

    Parameters
    ----------
    n_steps
        Steps to the tree.
    tree_half_width
        Least offset that passes, above 0 and at most 1.
    start_noise
        Largest offset at the start, uniform to both sides.
    render_mode : {"rgb_array"}, optional
        A picture.

    Notes
    -----
    Observations float32 [2]: distance to the tree, from 1 to 0, and offset, left negative. Actions
    float32 [1]: steering from −1 (left) to 1 (right), which moves the offset by steering /
    ``n_steps``. The reward comes at the tree: 1 for having passed, −1 for a crash; then
    ``info["crashed"]`` says which.

    Raises
    ------
    DataError
        For an option out of range, or (`step`) an action outside the space.

    Examples
    --------
    >>> import numpy as np
    >>> env = Fork()
    >>> seen, info = env.reset(seed=0)
    >>> for _ in range(5):
    ...     seen, reward, ended, late, info = env.step(np.zeros(1, dtype=np.float32))
    >>> reward, ended, info["crashed"]
    (-1.0, True, True)
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self,
        n_steps: int = 5,
        *,
        tree_half_width: float = HALF_WIDTH,
        start_noise: float = 0.02,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise DataError(f"render_mode must be rgb_array or None, got {render_mode!r}")
        self.n_steps = as_count(n_steps, "n_steps")
        self.tree_half_width = as_number(tree_half_width, "tree_half_width", 0.0, 1.0, above=True)
        self.start_noise = as_number(start_noise, "start_noise", 0.0, 1.0)
        self.render_mode = render_mode
        low, high = np.array([0, -2], np.float32), np.array([1, 2], np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._path: list[tuple[float, float]] = []
        self._crashed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode one unit before the tree.

        Returns
        -------
        tuple
            The observation, and ``{"crashed": False}``.
        """
        super().reset(seed=seed)
        offset = float(self.np_random.uniform(-self.start_noise, self.start_noise))
        self._path, self._crashed = [(1.0, offset)], False
        return self._look()

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Steer for one step.

        Parameters
        ----------
        action
            [1], from −1 to 1; clip draws of unbounded policies.

        Raises
        ------
        DataError
            If it is outside the space.
        gymnasium.error.ResetNeeded
            If no episode is going on.
        """
        try:
            steering = np.asarray(action, dtype=np.float32)
        except (TypeError, ValueError):
            steering = np.empty(0, dtype=np.float32)
        if steering.shape != (1,) or not abs(float(steering[0])) <= 1:
            raise DataError(f"action must be one number [1] from -1 to 1, got {action!r}")
        done = len(self._path) - 1
        if not 0 <= done < self.n_steps:
            raise gymnasium.error.ResetNeeded("no episode is going on: call reset first")
        offset = self._path[-1][1] + float(steering[0]) / self.n_steps
        self._path.append((1 - (done + 1) / self.n_steps, offset))
        ended = done + 1 == self.n_steps
        # Full steering that adds up to the half width but for rounding has passed.
        self._crashed = ended and abs(offset) < self.tree_half_width - 1e-9
        reward = 0.0 if not ended else -1.0 if self._crashed else 1.0
        seen, info = self._look()
        return seen, reward, ended, False, info

    def _look(self) -> tuple[Array, dict[str, Any]]:
        return np.array(self._path[-1], dtype=np.float32), {"crashed": self._crashed}

    def render(self) -> Any:
        """Road, tree and the way so far, from above: pixels uint8 [H, W, 3]."""
        if self.render_mode is None:
            return None
        return draw_fork(self._path, self.tree_half_width, self._crashed)


def fork_expert(
    seed: int | None = None, mode: str = "both", *, noise: float = 0.05
) -> Callable[[Any], Array]:
    """A driver who picks a side at the start and keeps to it.

    Parameters
    ----------
    seed
        Seed of sides and noise. Without one, `rollout` makes them from its own seed; elsewhere they
        differ from call to call.
    mode : {"both", "left", "right"}
        Which sides; ``"both"`` equally often.
    noise
        The steering is between 1 − noise and 1 towards the side.

    Returns
    -------
    callable
        Observations [n, 2] or [2] to actions float32 [n, 1] or [1]; ``rng``, if given, is used
        where there is no seed.

    Raises
    ------
    DataError
        If there is no such mode, the noise is not from 0 to 1, the seed is no integer of at least
        0, or (the callable) observations have another shape or are not finite.

    Examples
    --------
    >>> fork_expert(0, "left", noise=0)([1.0, 0.01])
    array([-1.], dtype=float32)
    """
    if mode not in SIDES:
        raise DataError(f"mode must be one of {', '.join(SIDES)}, got {mode!r}")
    noise = as_number(noise, "noise", 0.0, 1.0)
    sides = np.array(SIDES[mode])
    own = np.random.default_rng(as_seed(seed))

    def act(observation: Any, rng: Any = None) -> Array:
        seen = np.atleast_2d(as_rows(observation, "observation", 2))
        random = own if rng is None or seed is not None else rng
        drawn = sides[random.integers(0, len(sides), size=len(seen))]
        # Underway, the offset says which side was picked.
        side = np.where(seen[:, 0] > 1 - 1e-6, drawn, np.where(seen[:, 1] < 0, -1.0, 1.0))
        steering = side * (1 - noise * random.random(len(seen)))
        actions = steering.astype(np.float32)[:, None]
        return actions if np.ndim(observation) == 2 else actions[0]

    return act


def fork_mdp(
    n_steps: int = 5, n_actions: int = 3, *, tree_half_width: float = HALF_WIDTH
) -> TabularMDP:
    """The fork with steering in equal steps from −1 to 1, as an exact decision process.

    Parameters
    ----------
    n_steps
        Steps to the tree.
    n_actions
        An odd number of at least 3: as many to the left as to the right of straight on.
    tree_half_width
        Least offset that passes, above 0 and at most 1.

    Returns
    -------
    TabularMDP
        Undiscounted. States are labelled (step, offset), actions by their steering; a state at the
        tree pays 1 or −1 and leads to the sink, so that J = P(passed) − P(crashed), and occupancy
        holds the probability of every trajectory's end.

    Raises
    ------
    DataError
        For an option out of range.

    Examples
    --------
    >>> mdp = fork_mdp()
    >>> mdp.actions
    (-1.0, 0.0, 1.0)
    >>> float(mdp.initial @ mdp.evaluate(fork_expert_policy(mdp)).value)
    1.0
    """
    n_steps, n_actions = as_count(n_steps, "n_steps"), as_count(n_actions, "n_actions", 3)
    if n_actions % 2 == 0:
        raise DataError(f"n_actions must be odd, got {n_actions}")
    width = as_number(tree_half_width, "tree_half_width", 0.0, 1.0, above=True)
    most = n_actions // 2
    places = [(t, j) for t in range(n_steps + 1) for j in range(-most * t, most * t + 1)]
    number = {place: i for i, place in enumerate(places)}
    sink = len(places)
    table = np.zeros((sink + 1, n_actions, sink + 1))
    reward = np.zeros(sink + 1)
    for (t, j), s in number.items():
        if t == n_steps:
            table[s, :, sink] = 1
            reward[s] = -1.0 if abs(j) / (most * n_steps) < width - 1e-9 else 1.0
            continue
        for a in range(n_actions):
            table[s, a, number[t + 1, j + a - most]] = 1
    table[sink, :, sink] = 1
    labels: list[Any] = [(t, j / (most * n_steps)) for t, j in places]
    steering = tuple((a - most) / most for a in range(n_actions))
    return TabularMDP(table, reward, 1.0, 0, sink, [*labels, "sink"], steering)


def fork_expert_policy(mdp: TabularMDP) -> Tensor:
    """The driver who picks a side and keeps to it, in `fork_mdp`: [S, A].

    Wherever the offset is zero, both sides are equally likely.

    Raises
    ------
    DataError
        For another process.
    """
    if not isinstance(mdp.states[0], tuple) or mdp.sink is None:
        raise DataError("mdp must come from fork_mdp: its states are labelled (step, offset)")
    policy = torch.zeros(mdp.n_states, mdp.n_actions, dtype=torch.float64)
    for s, label in enumerate(mdp.states):
        offset = 0.0 if s == mdp.sink else label[1]
        policy[s, 0] = 0.5 if offset == 0 else float(offset < 0)
        policy[s, -1] = 1 - policy[s, 0]
    return policy
