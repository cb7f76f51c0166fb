"""Policies to learn from: planned ones for tables, scripted ones for classic control.

All are callables from observations to actions. One observation gives one action, a batch gives a
batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from likely.envs._checks import as_rows, as_seed
from likely.envs.errors import DataError
from likely.envs.mdp import TabularMDP

Actions = NDArray[np.int64]


def tabular_expert(
    mdp: TabularMDP, *, temperature: float = 0.0, seed: int | None = None
) -> Callable[[Any], Actions]:
    """The optimal policy of a process, or its soft optimum.

    Parameters
    ----------
    mdp
        The process.
    temperature
        0 for value iteration's greedy policy; above, actions are drawn from the soft-optimal one.
    seed
        Seed of these draws. Without one, `rollout` makes them from its own seed; elsewhere they
        differ from call to call.

    Returns
    -------
    callable
        States, integers [n] or one, to actions int64 of the same shape; ``rng``, if given, is
        used where there is no seed.

    Raises
    ------
    DataError
        If temperature or seed is no number of at least 0, or (the callable) a state does not exist.
    PlanningError
        If there is no such optimum.

    Examples
    --------
    >>> from likely.envs import TabularMDP
    >>> expert = tabular_expert(TabularMDP.from_gymnasium("CliffWalking-v1"))
    >>> expert([36, 24, 35]).tolist()
    [0, 1, 2]
    """
    plan = mdp.soft_value_iteration(temperature) if temperature != 0 else mdp.value_iteration()
    cumulative = plan.policy.detach().numpy().cumsum(-1)
    own = np.random.default_rng(as_seed(seed))

    def act(observation: Any, rng: Any = None) -> Actions:
        states = np.asarray(observation)
        if states.dtype.kind not in "iu" or (states < 0).any() or (states >= mdp.n_states).any():
            raise DataError(
                f"observation must hold states from 0 to {mdp.n_states - 1}, got {observation!r}"
            )
        drawn = (own if rng is None or seed is not None else rng).random(states.shape + (1,))
        # Rounding may leave the last sum a little below a draw.
        chosen = (cumulative[states] <= drawn).sum(-1).clip(max=mdp.n_actions - 1)
        return np.asarray(chosen, dtype=np.int64)

    return act


def cartpole_expert(observation: Any) -> Actions:
    """Keep CartPole-v1 upright for its 500 steps: push towards where the pole falls.

    Parameters
    ----------
    observation
        [n, 4] or [4]: cart position and velocity, pole angle and angular velocity.

    Returns
    -------
    NDArray
        int64 [n] or []: 0 left, 1 right.

    Examples
    --------
    >>> cartpole_expert([[0.0, 0.0, 0.1, 0.0], [0.0, 0.0, -0.1, 0.0]]).tolist()
    [1, 0]
    """
    place, speed, angle, turning = _columns(observation, 4)
    # Small terms of the cart's own state bring it back to the middle.
    return _binary(angle + 0.25 * turning + 0.05 * place + 0.1 * speed, 0, 1)


def mountain_car_expert(observation: Any) -> Actions:
    """Climb MountainCar-v0's hill in about 120 steps: push the way the car rolls.

    Parameters
    ----------
    observation
        [n, 2] or [2]: position and velocity.

    Returns
    -------
    NDArray
        int64 [n] or []: 0 left, 2 right.
    """
    _, speed = _columns(observation, 2)
    return _binary(speed, 0, 2)


def acrobot_expert(observation: Any) -> Actions:
    """Swing Acrobot-v1 up in about 80 steps: torque along the second joint's turning adds energy.

    Parameters
    ----------
    observation
        [n, 6] or [6]: cosine and sine of both angles, and both angular velocities.

    Returns
    -------
    NDArray
        int64 [n] or []: 0 for torque −1, 2 for torque 1.
    """
    return _binary(_columns(observation, 6)[-1], 0, 2)


def _columns(observation: Any, width: int) -> list[NDArray[np.float64]]:
    return list(np.moveaxis(as_rows(observation, "observation", width), -1, 0))


def _binary(score: NDArray[np.float64], below: int, above: int) -> Actions:
    return np.where(score >= 0, above, below).astype(np.int64)
