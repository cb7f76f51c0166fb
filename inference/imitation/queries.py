"""States that an expert is asked about, and the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.envs._spaces import outside
from likely.envs.rollout import _with_rng
from likely.inference.active.errors import LabellingStopped
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.people import Person
from likely.inference.imitation.pictures import Pictures

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Round:
    """Episodes of one iteration, with the expert's answers for actions.

    Attributes
    ----------
    trajectories : Trajectories
        Actions are the expert's where it answered.
    known : Tensor
        float64 [N]: 1 where it did, 0 elsewhere.
    beta : float
        Its share of the actions that were played.
    acted : int
        How many of these were its own, whether or not anything is learnt from them.
    """

    trajectories: Trajectories
    known: Tensor
    beta: float
    acted: int = 0

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return int(self.known.sum())

    def disagreement(self, policy: ActingPolicy | None) -> float:
        """Share of the answers that a policy has not most probable; distance of vectors."""
        if policy is None:
            return float("nan")
        states, wanted = self.trajectories.state_action_pairs()
        rows = self.known > 0
        found = torch.as_tensor(policy.policy.best(policy.distribution(states[rows])))
        wanted = wanted[rows]
        if wanted.is_floating_point():
            return float(torch.linalg.vector_norm((found - wanted).flatten(1), dim=-1).mean())
        return float((found != wanted).double().mean())

    def state(self) -> dict[str, Any]:
        """As tensors and numbers, for a file."""
        seen = self.trajectories
        names = ("states", "actions", "lengths", "rewards", "terminated", "truncated")
        return {
            **{name: getattr(seen, name) for name in names},
            "known": self.known,
            "beta": self.beta,
            "acted": self.acted,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], state_space: Any, action_space: Any) -> Round:
        """From what `state` gave."""
        rest = {n: v for n, v in state.items() if n not in ("known", "beta", "acted")}
        seen = Trajectories.from_arrays(**rest, state_space=state_space, action_space=action_space)
        return cls(seen, state["known"], float(state["beta"]), int(state["acted"]))


def joined(rounds: Sequence[Round]) -> tuple[Trajectories, Tensor | None]:
    """All episodes, and the weights [N] of their steps; None where each counts once."""
    weights = torch.cat([part.known for part in rounds])
    seen = Trajectories.concat([part.trajectories.with_rewards(None) for part in rounds])
    return seen, None if bool((weights == 1).all()) else weights


def asked_about(n: int, queries: int | None, left: int | None, seed: int) -> NDArray[np.int64]:
    """Rows of n states to ask about, in order.

    Parameters
    ----------
    n
        How many states came up.
    queries
        Most to ask, drawn at random.
    left
        Most to ask, from the first on.
    seed
        Of the draw.

    Examples
    --------
    >>> asked_about(5, None, 3, 0).tolist()
    [0, 1, 2]
    """
    rows = np.arange(n)
    if queries is not None and queries < n:
        rows = np.sort(np.random.default_rng(seed).choice(n, queries, replace=False))
    return rows if left is None else rows[: max(left, 0)]


class Answered:
    """An expert whose answers are checked, until it stops.

    Parameters
    ----------
    expert
        From observations [n, *state] to actions [n, *action]; it may take random numbers too.
    action_space
        What actions may be.
    seed
        Of these random numbers.

    Attributes
    ----------
    stopped : bool
        Whether it stopped, and is asked no more.
    """

    def __init__(self, expert: Any, action_space: Any, seed: int = 0) -> None:
        self.expert, self.space, self.stopped = expert, action_space, False
        self._call: Any = None if isinstance(expert, Person) else _with_rng(expert)
        # A stream, so that an expert who draws does not draw the same each time.
        self._rng = np.random.default_rng([seed, 1])

    def __call__(self, observations: Array, pictures: Sequence[Any] | None = None) -> Array:
        """Actions [n, *action]; −1 where there is no answer, if they are Discrete.

        Raises
        ------
        DataError
            If they have another shape or lie outside the space.
        """
        if isinstance(self.expert, Person):
            found: Any = self.expert(observations, pictures)
        else:
            found = self._call(observations, self._rng)
        if isinstance(found, Tensor):
            found = found.detach().cpu().numpy()
        try:
            found = np.asarray(found)
        except ValueError:
            found = np.empty(0, dtype=object)
        expected = (len(observations), *(self.space.shape or ()))
        if found.shape != expected or found.dtype.kind not in "fiub":
            raise DataError(
                f"expert: expected actions {expected}, one for each of {len(observations)} "
                f"observations, which come as an array, got {found.dtype} {found.shape}"
            )
        if isinstance(self.space, Discrete):
            bad = ~np.isfinite(found)
            whole = np.where(bad, -1, found).astype(np.int64)
            bad = bad | (whole != found) | (whole < -1) | (whole >= self.space.n)
        else:
            assert isinstance(self.space, Box)
            rows = outside(torch.from_numpy(found.astype(np.float64)), self.space, bounds=True)
            bad = np.zeros(len(found), dtype=bool) if rows is None else rows.numpy()
            whole = found.astype(self.space.dtype)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"expert: expected actions in {self.space}, got {found[row].tolist()} for the "
                f"observation {np.asarray(observations)[row].tolist()}"
            )
        return whole

    def attempt(
        self, observations: Array, pictures: Sequence[Any] | None = None
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Answers [n, *action], and where there are any, [n]; also of an expert who stops."""
        discrete = isinstance(self.space, Discrete)
        nothing = np.zeros((len(observations), *(self.space.shape or ())), dtype=self.space.dtype)
        found: Array = nothing - 1 if discrete else nothing
        known = np.zeros(len(found), dtype=bool)
        if not self.stopped and len(observations):
            try:
                found = self(observations, pictures)
                known[:] = True
            except LabellingStopped as stop:
                self.stopped = True
                if discrete and stop.labels.shape == found.shape:
                    found = stop.labels
        if self.stopped and isinstance(self.expert, Person):
            # The questions may have been fewer than the rows: some states come up twice.
            found = self.expert.known(observations)
        if discrete:
            known = found >= 0
            found = np.maximum(found, 0)
        return found, known

    def about(
        self, states: Tensor, rows: NDArray[np.int64], pictures: Sequence[Any] | None
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Answers [N, *action] about some rows of states [N, *state], and where there are any."""
        known = np.zeros(len(states), dtype=bool)
        labels = np.zeros((len(states), *(self.space.shape or ())), dtype=self.space.dtype)
        shown = None if pictures is None else [pictures[i] for i in rows]
        labels[rows], known[rows] = self.attempt(states[torch.as_tensor(rows)].cpu().numpy(), shown)
        return labels, known


class Mixed:
    """Plays the expert with some probability, at each step, and the policy otherwise.

    Parameters
    ----------
    policy
        The learner; None for none yet.
    expert
        Whose answer −1 leaves the step to the learner, or to chance where there is none; so does
        the end of its answers.
    beta
        The expert's share, from 0 to 1.
    pictures
        The environment, where a person is to see it.

    Attributes
    ----------
    acted : int
        How many steps were the expert's.
    """

    def __init__(
        self,
        policy: ActingPolicy | None,
        expert: Answered,
        beta: float,
        pictures: Pictures | None = None,
    ) -> None:
        self.policy, self.expert, self.beta, self.pictures = policy, expert, beta, pictures
        self.acted = 0

    def __call__(self, observations: Array, rng: Any) -> Array:
        """Actions [n, *action]."""
        n = len(observations)
        # Drawn in any case, so that a row's numbers do not depend on the rows beside it.
        takes = rng.random(n) < self.beta
        space = self.expert.space
        if self.policy is not None:
            actions = np.array(self.policy(observations, rng))
        elif isinstance(space, Discrete):
            actions = np.floor(rng.random(n) * int(space.n)).astype(np.int64)
        else:
            actions = np.zeros((n, *space.shape), dtype=space.dtype)
        if takes.any():
            # There is one environment where there are pictures.
            shown = None if self.pictures is None else [self.pictures.latest]
            wanted, known = self.expert.attempt(observations[takes], shown)
            actions[np.flatnonzero(takes)[known]] = wanted[known]
            self.acted += int(known.sum())
        return actions
