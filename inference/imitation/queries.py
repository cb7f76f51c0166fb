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
from likely.inference.active.errors import LabellingStopped
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.people import Person, Pictures

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
    """

    trajectories: Trajectories
    known: Tensor
    beta: float

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
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], state_space: Any, action_space: Any) -> Round:
        """From what `state` gave."""
        rest = {n: v for n, v in state.items() if n not in ("known", "beta")}
        seen = Trajectories.from_arrays(**rest, state_space=state_space, action_space=action_space)
        return cls(seen, state["known"], float(state["beta"]))


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
    """An expert whose answers are checked.

    Parameters
    ----------
    expert
        From observations [n, *state] to actions [n, *action].
    action_space
        What actions may be.

    Attributes
    ----------
    stopped : bool
        Whether the expert wants no more questions.
    """

    def __init__(self, expert: Any, action_space: Any) -> None:
        self.expert, self.space, self.stopped = expert, action_space, False

    def __call__(self, observations: Array, pictures: Sequence[Any] | None = None) -> Array:
        """Actions [n, *action]; −1 where there is no answer, if they are Discrete.

        Raises
        ------
        DataError
            If they have another shape or lie outside the space.
        """
        if isinstance(self.expert, Person):
            found: Any = self.expert(observations, pictures)
        elif isinstance(self.expert, ActingPolicy):
            found = self.expert(observations, np.random.default_rng(0))
        else:
            found = self.expert(observations)
        if isinstance(found, Tensor):
            found = found.detach().cpu().numpy()
        found = np.asarray(found)
        expected = (len(observations), *(self.space.shape or ()))
        if found.shape != expected or found.dtype.kind not in "fiub":
            raise DataError(
                f"expert: expected actions {expected}, one an observation, got {found.dtype} "
                f"{found.shape}"
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

    def about(
        self, states: Tensor, rows: NDArray[np.int64], pictures: Sequence[Any] | None
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Answers [N, *action] about some rows of states [N, *state], and where there are any."""
        known = np.zeros(len(states), dtype=bool)
        labels = np.zeros((len(states), *(self.space.shape or ())), dtype=self.space.dtype)
        if not len(rows):
            return labels, known
        shown = None if pictures is None else [pictures[i] for i in rows]
        try:
            found = self(states[torch.as_tensor(rows)].cpu().numpy(), shown)
        except LabellingStopped as stop:
            self.stopped = True
            if isinstance(self.expert, Person):
                # The questions were fewer than the rows: some states came up twice.
                found = self.expert.known(states[torch.as_tensor(rows)].cpu().numpy())
            else:
                found = stop.labels
        labels[rows] = np.maximum(found, 0) if isinstance(self.space, Discrete) else found
        known[rows] = found >= 0 if isinstance(self.space, Discrete) else True
        return labels, known


class Mixed:
    """Plays the expert with some probability, at each step, and the policy otherwise.

    Parameters
    ----------
    policy
        The learner; None for none yet.
    expert
        Whose answer −1 leaves the step to the learner, or to chance where there is none.
    beta
        The expert's share, from 0 to 1.
    pictures
        The environment, where a person is to see it.
    """

    def __init__(
        self,
        policy: ActingPolicy | None,
        expert: Answered,
        beta: float,
        pictures: Pictures | None = None,
    ) -> None:
        self.policy, self.expert, self.beta, self.pictures = policy, expert, beta, pictures

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
            wanted = self.expert(observations[takes], shown)
            if isinstance(space, Discrete):
                wanted = np.where(wanted < 0, actions[takes], wanted)
            actions[takes] = wanted
        return actions
