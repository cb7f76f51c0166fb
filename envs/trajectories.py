"""Trajectories of different lengths: what was seen and done, one episode after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import _episodes, _minari
from likely.envs._ragged import Padded, Ragged
from likely.envs._spaces import Space, outside
from likely.envs.errors import DataError

__all__ = ["Padded", "Trajectories"]


@dataclass(frozen=True, eq=False, repr=False)
class Trajectories(Ragged):
    """Episodes of any length: T + 1 states for T actions.

    Build them with `from_arrays`, `from_padded`, `from_frame`, `from_minari` or `rollout`. Rows lie
    flat, one episode after another, so that memory follows the number of steps.

    An episode that ``terminated`` reached a state after which nothing comes; one that was
    ``truncated`` was cut off by a limit on time, and its last state would have had a future. The
    two are kept apart, as a value function must not take the second for the first. How long an
    episode lasted may itself tell what was rewarded (Kostrikov et al. 2019, "Discriminator-
    Actor-Critic", section 4.1); `absorbed` gives all episodes one length.

    Attributes
    ----------
    states
        [N + E, *state]: int64 where ``state_space`` is Discrete, else floating-point. Episode i
        has ``lengths[i] + 1`` rows.
    actions
        [N, *action], in the same way; None for states without actions, a design from which a
        program simulates them.
    lengths
        int64 [E]: steps of each episode, at least 1; N is their sum.
    rewards
        [N], or None where they are unknown.
    terminated, truncated
        bool [E]: how each episode ended. Both may be false: nobody knows, or the record stops.
    state_space, action_space
        `gymnasium.spaces.Discrete` or `gymnasium.spaces.Box`.
    episodes
        [E]: the user's own ids of the episodes.

    Raises
    ------
    DataError
        If shapes disagree, an episode is empty, a state or reward is not finite, a discrete state
        or an action lies outside its space. The message says in which episode, at which step. The
        bounds of a Box are checked for actions; observations may stray a little.

    Examples
    --------
    >>> pair = Trajectories.from_arrays(
    ...     states=[[0, 1, 2], [0, 2]], actions=[[1, 1], [0]], rewards=[[0.0, 1.0], [2.0]]
    ... )
    >>> pair
    Trajectories(2 episodes, 3 steps, states Discrete(3), actions Discrete(2))
    >>> pair.returns(discount=0.5)
    tensor([0.5000, 2.0000], dtype=torch.float64)
    >>> pair.state_action_pairs()
    (tensor([0, 1, 0]), tensor([1, 1, 0]))
    """

    states: Tensor
    actions: Tensor | None
    lengths: Tensor
    rewards: Tensor | None
    terminated: Tensor
    truncated: Tensor
    state_space: Space
    action_space: Space
    episodes: NDArray[Any]

    def __post_init__(self) -> None:
        lengths = self.lengths
        if lengths.dim() != 1 or lengths.dtype != torch.int64:
            raise DataError(
                f"lengths: expected whole numbers [E], got {lengths.dtype} of shape "
                f"{tuple(lengths.shape)}"
            )
        if len(lengths) == 0:
            raise DataError("trajectories: expected at least one episode, got none")
        _episodes.check_lengths(lengths)
        n, e = int(lengths.sum()), len(lengths)
        self._check_shape("states", n + e, "one a step and the last of each episode")
        for name in ("actions", "rewards"):
            if getattr(self, name) is not None:
                self._check_shape(name, n, "one a step")
        for name in ("terminated", "truncated"):
            flag = getattr(self, name)
            if flag.shape != (e,) or flag.dtype != torch.bool:
                raise DataError(
                    f"{name}: expected truth values [{e}], one an episode, got {flag.dtype} of "
                    f"shape {tuple(flag.shape)}"
                )
        if np.shape(self.episodes) != (e,):
            raise DataError(f"episodes: expected {e} ids, got shape {np.shape(self.episodes)}")
        self._check_values("states", self.states, self.state_space, lengths + 1)
        if self.actions is not None:
            self._check_values("actions", self.actions, self.action_space, lengths)
        if self.rewards is not None and not bool(torch.isfinite(self.rewards.sum())):
            self._refuse("rewards", self.rewards, ~torch.isfinite(self.rewards), lengths, "finite")

    def _check_shape(self, name: str, rows: int, what: str) -> None:
        value: Tensor = getattr(self, name)
        space = {"states": self.state_space, "actions": self.action_space}.get(name)
        expected = (rows, *(space.shape or () if space is not None else ()))
        if value.shape != expected:
            raise DataError(f"{name}: expected {expected}, {what}, got {tuple(value.shape)}")

    def _check_values(self, name: str, values: Tensor, space: Space, lengths: Tensor) -> None:
        if values.is_floating_point() != isinstance(space, Box):
            raise DataError(f"{name}: expected the dtype of {space}, got {values.dtype}")
        bad = outside(values, space, bounds=name == "actions")
        if bad is not None:
            self._refuse(name, values, bad, lengths, f"elements of {space}")

    def _refuse(
        self, name: str, values: Tensor, bad: Tensor, lengths: Tensor, expected: str
    ) -> None:
        row = int(bad.nonzero()[0])
        ends = lengths.cumsum(0)
        episode = int(torch.searchsorted(ends, row, right=True))
        step = row - int(ends[episode] - lengths[episode])
        raise DataError(
            f"{name}: expected {expected}, got {values[row].tolist()} in episode "
            f"{self.episodes[episode]}, step {step}; {int(bad.sum())} of {len(values)} are not"
        )

    # -- reading -----------------------------------------------------------------------------

    @classmethod
    def from_arrays(
        cls,
        states: Any,
        actions: Any,
        rewards: Any = None,
        *,
        lengths: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        state_space: Any = None,
        action_space: Any = None,
        episodes: Any = None,
    ) -> Trajectories:
        """Read one array an episode, or flat rows with the lengths of the episodes.

        Parameters
        ----------
        states
            E arrays [T_i + 1, *state]; with ``lengths`` one array [N + E, *state].
        actions
            E arrays [T_i, *action], or one array [N, *action]; None for a design.
        rewards
            E arrays [T_i], or one array [N].
        lengths
            [E]: steps T_i of each episode, where rows lie flat.
        terminated, truncated
            [E]: how each episode ended; false by default. One value stands for all.
        state_space, action_space
            Gymnasium spaces, or numbers of elements. By default whole numbers [N] are one of as
            many as occur, and everything else is a vector of real numbers.
        episodes
            [E]: ids of the episodes; by default their positions.

        Raises
        ------
        DataError
            For unequal numbers of episodes or steps, and as `Trajectories` does.
        """
        return cls(
            **_episodes.from_arrays(
                states,
                actions,
                rewards,
                lengths,
                {"terminated": terminated, "truncated": truncated},
                {"state_space": state_space, "action_space": action_space},
                episodes,
            )
        )

    @classmethod
    def from_padded(
        cls, states: Any, actions: Any, lengths: Any, rewards: Any = None, **options: Any
    ) -> Trajectories:
        """Read blocks [E, T + 1, *state], [E, T, *action] and [E, T]; the rest is cut off.

        ``options`` are those of `from_arrays`.
        """
        flat = _episodes.flatten(states, actions, lengths, rewards)
        return cls.from_arrays(*flat[:3], lengths=flat[3], **options)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        state: str | Sequence[str],
        action: str | Sequence[str],
        episode: str | None = None,
        reward: str | None = None,
        *,
        next_state: str | Sequence[str] | None = None,
        terminated: str | None = None,
        truncated: str | None = None,
        state_space: Any = None,
        action_space: Any = None,
    ) -> Trajectories:
        """Read a long table, one row a step, the steps of an episode in order.

        Parameters
        ----------
        frame
            A pandas data frame, or any table with the data frame interchange protocol. Rows of
            different episodes may be mixed.
        state, action
            Columns; a name for numbers [N], a list of names for vectors.
        episode
            Column of the episodes' ids; None for a single episode.
        reward
            Column, if there is one.
        next_state
            Columns of the state after the step. Without them the last row of each episode holds
            its last state, and its action (and reward) is missing.
        terminated, truncated
            Columns of truth values; an episode's flag is that of its last step.
        state_space, action_space
            As in `from_arrays`.

        Raises
        ------
        DataError
            For a missing column or entry, rows whose ``next_state`` is not the next row's state,
            and as `from_arrays`.
        """
        from likely.envs import _frames

        flags = {"terminated": terminated, "truncated": truncated}
        pieces = _frames.from_frame(frame, state, action, episode, reward, next_state, flags)
        return cls.from_arrays(**pieces, state_space=state_space, action_space=action_space)

    @classmethod
    def from_minari(cls, dataset: Any) -> Trajectories:
        """Read a Minari data set, or the name of one that is on this machine.

        Raises
        ------
        DataError
            If Minari is not installed, the data set is not to be had, or its spaces are neither
            Discrete nor Box.
        """
        return cls.from_arrays(**_minari.read(dataset))

    def to_minari(self, name: str, **options: Any) -> Any:
        """Write a Minari data set, and return it; `from_minari` gives the same trajectories.

        Minari has no place for what is not known: rewards that are None are written as zeros, and
        an episode that ended in neither way as a truncated one. The data set's metadata say so, and
        hold the episodes' ids where these are numbers or text.

        Parameters
        ----------
        name
            ``"namespace/task-v0"``, say.
        **options
            Of `minari.create_dataset_from_buffers`: ``description``, ``author``, ... Pictures are
            kept as they are, unless ``jpeg_encoding=True``.

        Raises
        ------
        DataError
            If Minari is not installed, refuses the data set (there may be one of that name), or
            there are no actions.
        """
        return _minari.write(self, name, options)

    # -- what is in them ---------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        counts = {"episode": len(self), "step": self.n_steps}
        shown = [f"{n} {name}" + "s" * (n != 1) for name, n in counts.items()]
        spaces = {"states": self.state_space, "actions": self.action_space}
        shown += [f"{name} {_episodes.short(space)}" for name, space in spaces.items()]
        return f"Trajectories({', '.join(shown)})"

    # -- others like them --------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Trajectories:
        """Some episodes: a position, a slice, positions, or a mask [E]."""
        chosen = _episodes.positions(index, len(self))
        lengths = self.lengths[chosen]
        rows = _episodes.ranges(self.starts[chosen], lengths)
        held = _episodes.ranges(self.starts[chosen] + chosen, lengths + 1)
        return replace(
            self,
            states=self.states[held],
            actions=None if self.actions is None else self.actions[rows],
            rewards=None if self.rewards is None else self.rewards[rows],
            lengths=lengths,
            terminated=self.terminated[chosen],
            truncated=self.truncated[chosen],
            episodes=self.episodes[chosen.cpu().numpy()],
        )

    def __iter__(self) -> Iterator[Trajectories]:
        return (self[i] for i in range(len(self)))

    @classmethod
    def concat(cls, parts: Sequence[Trajectories]) -> Trajectories:
        """Episodes of several, one after another; ids that repeat are numbered anew.

        Raises
        ------
        DataError
            For no part, different spaces, or actions or rewards that only some parts have.
        """
        return cls(**_episodes.joined(list(parts)))

    def with_actions(self, actions: Any) -> Trajectories:
        """The same states with other actions [N, *action]; None takes them off."""
        if actions is not None:
            actions = _episodes.converted(actions, self.action_space, "actions")
        return replace(self, actions=actions)

    def with_rewards(self, rewards: Any) -> Trajectories:
        """The same steps with other rewards [N]; None takes them off."""
        if rewards is not None:
            rewards = _episodes.real(rewards, "rewards")
        return replace(self, rewards=rewards)

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Trajectories:
        """The same with floating-point tensors in ``dtype`` and all tensors on ``device``."""
        moved: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                moved[name] = value.to(device, dtype if value.is_floating_point() else None)
        if all(value is getattr(self, name) for name, value in moved.items()):
            return self
        return replace(self, **moved)
