"""Policies at work: a fitted policy as `rollout` plays it, and as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError, TabularMDP
from likely.envs._checks import as_double, check_distribution
from likely.envs._randomness import choose
from likely.models._rows import default_dtype
from likely.models.policy import MixturePolicy, Policy

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ActingPolicy:
    """A policy at values of its sites, ready to play.

    The distribution is the program's own, made once; a call draws from it.

    Parameters
    ----------
    policy
        The policy of the program.
    params
        Site to value, such as a fit's ``params``.
    state_space, action_space
        Of the environment. Actions are cut to the bounds of a Box, which a normal distribution
        does not have; with Discrete states there is a ``table``.
    greedy
        Take the most probable action instead of drawing one.

    Examples
    --------
    >>> from likely.models import TabularPolicy
    >>> sure = ActingPolicy(TabularPolicy(2, 2), {"policy": torch.eye(2)}, Discrete(2))
    >>> sure(np.array([1, 0, 1]), np.random.default_rng(0)).tolist()
    [1, 0, 1]
    """

    policy: Policy
    params: Mapping[str, Tensor]
    state_space: Any = None
    action_space: Any = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Policy):
            raise DataError(f"policy: expected one of likely.models, got {self.policy!r}")

    def __call__(self, observations: Any, rng: Any) -> Array:
        """Actions [n, *action] for observations [n, *state], drawn with numbers of ``rng``."""
        if self.is_table and not isinstance(self.policy, MixturePolicy):
            rows = self.table.numpy()[np.asarray(observations)]
            return choose(rows, rng.random(len(rows)))
        fn = self.distribution(observations)
        actions = self.policy.best(fn) if self.greedy else self.policy.draw(fn, rng)
        if isinstance(self.action_space, Box):
            low, high = self.action_space.low, self.action_space.high
            actions = np.clip(actions, low, high).astype(self.action_space.dtype)
        return actions

    def distribution(self, states: Any) -> Any:
        """The program's distribution of actions in states [n, *state], batch shape [n]."""
        return self._distribution(states)

    @cached_property
    def _distribution(self) -> Callable[[Any], Any]:
        ready: list[Any] = []

        def at(states: Any) -> Any:
            found = torch.as_tensor(np.asarray(states))
            found = found.to(torch.float64 if found.is_floating_point() else torch.int64)
            with torch.no_grad(), default_dtype(torch.float64):
                if not ready:
                    # Once, instead of in every step of an episode.
                    ready.extend(self.policy._ready(self.params, found))
                policy, sites = ready
                try:
                    return policy.distribution(sites, found)
                except IndexError as error:
                    raise DataError(f"states: some are not the policy's: {error}") from error

        return at

    @property
    def is_table(self) -> bool:
        """Whether states and actions are Discrete, so that there is a ``table``."""
        return self.policy.discrete and isinstance(self.state_space, Discrete)

    @cached_property
    def table(self) -> Tensor:
        """π(a | s) of Discrete states and actions, float64 [S, A].

        Raises
        ------
        DataError
            If states or actions are not Discrete.
        """
        if not self.is_table:
            raise DataError("policy: only one with Discrete states and actions has a table")
        states = torch.arange(int(self.state_space.n))
        rows = self.probabilities(states)
        if not self.greedy:
            return rows
        best = torch.as_tensor(np.asarray(rows.argmax(-1)))
        return torch.nn.functional.one_hot(best, rows.shape[-1]).to(rows)

    def probabilities(self, states: Any) -> Tensor:
        r"""Probabilities of Discrete actions, [n, A], in states [n, \*state]."""
        fn = self.distribution(states)
        if not self.policy.discrete:
            raise DataError("policy: only Discrete actions have probabilities")
        try:
            found: Tensor = fn.log_prob(fn.enumerate_support()).exp().movedim(0, -1)
        except IndexError as error:
            raise DataError(f"states: some are not the policy's: {error}") from error
        return found

    def most_probable(self) -> ActingPolicy:
        """The same policy, which always takes the most probable action."""
        return replace(self, greedy=True)


def as_table(mdp: TabularMDP, policy: Any, name: str = "policy") -> Tensor:
    """π(a | s) as a process's table, float64 [S, A].

    Parameters
    ----------
    mdp
        The process.
    policy
        A table [S, A]; something with a ``table``, such as `ActingPolicy` or an `Imitation`; or a
        function from states [n] to actions [n] that draws nothing, such as a greedy expert. The
        row of a sink may be missing, as environments do not show theirs.
    name
        The argument's name, for messages.

    Raises
    ------
    DataError
        If it is none of these, of another size, or its rows are no probabilities; if ``mdp`` is no
        process.
    """
    check_process(mdp)
    found = getattr(policy, "table", policy)
    sizes = mdp.n_states, mdp.n_actions
    if callable(found):
        actions = torch.as_tensor(np.asarray(found(np.arange(mdp.n_states))))
        if actions.shape != sizes[:1] or actions.is_floating_point():
            raise DataError(f"{name}: expected an action for each of {sizes[0]} states")
        if not bool(((actions >= 0) & (actions < sizes[1])).all()):
            raise DataError(f"{name}: expected actions below {sizes[1]}")
        return torch.nn.functional.one_hot(actions.long(), sizes[1]).double()
    table = as_double(found, name).detach()
    short = (sizes[0] - 1, sizes[1])
    if mdp.sink == sizes[0] - 1 and table.shape == short:
        # What is done in the sink has no effect.
        table = torch.cat([table, table.new_full((1, sizes[1]), 1 / sizes[1])])
    if table.shape != sizes:
        raise DataError(f"{name}: expected probabilities {sizes}, got {tuple(table.shape)}")
    check_distribution(table, name, ("s",))
    return table


def check_process(mdp: Any) -> None:
    """Raise `DataError` unless it is a `TabularMDP`."""
    if not isinstance(mdp, TabularMDP):
        raise DataError(f"mdp: expected a TabularMDP, got {mdp!r}"[:200])
