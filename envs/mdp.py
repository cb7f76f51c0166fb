"""The container of a finite Markov decision process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from likely.envs import _toy_text, finite_horizon, occupancy, planning, soft
from likely.envs._checks import SUM_TOLERANCE, as_count, as_double, as_number, check_distribution
from likely.envs._kernel import DenseKernel, Kernel, SparseKernel
from likely.envs.errors import DataError

# Sums of float64 probabilities miss 1 by this much at most.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class TabularMDP:
    r"""A finite Markov decision process (Puterman 1994, "Markov Decision Processes").

    .. math:: s_0 \sim \text{initial}, \qquad a_t \sim \pi(\cdot \mid s_t), \qquad
              s_{t+1} \sim P(\cdot \mid s_t, a_t), \qquad
              J = \mathbb{E} \sum_t \gamma^t r(s_t, a_t, s_{t+1})

    Everything is float64. Episodes that end do so in the ``sink``, one absorbing state without
    reward: its value is zero, and planning counts no entropy there.

    Parameters
    ----------
    transition
        P: [S, A, S], rows over the last axis summing to one. For large S a sparse matrix
        [S·A, S], SciPy's or torch's, whose row s·A + a is P(· | s, a); it is kept as SciPy's CSR.
        A dense tensor may require a gradient.
    reward
        [S], paid for being in a state, at every step that starts there; [S, A]; or, with a dense
        transition, [S, A, S]. May require a gradient.
    discount
        γ, from 0 to 1. At 1, values over an infinite horizon exist only where episodes end.
    initial
        Distribution of the first state, [S]; or one state's index.
    sink
        The state in which episodes end, if any: all its moves lead to itself, its rewards are 0.
    states, actions
        Labels of the states [S] and of the actions [A], in tensor order; by default their indices.

    Raises
    ------
    DataError
        If shapes disagree, probabilities are negative or do not sum to one, a number is not
        finite, or the sink is not absorbing or pays.

    Examples
    --------
    Work until the machine breaks, or repair it for 2:

    >>> mdp = TabularMDP(
    ...     transition=[[[0.8, 0.2], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]],
    ...     reward=[[3.0, 0.0], [0.0, -2.0]],
    ...     discount=0.9,
    ...     initial=0,
    ...     states=("running", "broken"),
    ...     actions=("work", "repair"),
    ... )
    >>> mdp
    TabularMDP(2 states, 2 actions, discount 0.9)
    >>> plan = mdp.value_iteration()
    >>> [round(v, 4) for v in plan.value.tolist()]
    [22.3729, 18.1356]
    >>> plan.policy.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    transition: Any
    reward: Any
    discount: float
    initial: Any
    sink: int | None = None
    states: Sequence[Any] = ()
    actions: Sequence[Any] = ()
    n_states: int = field(init=False)
    n_actions: int = field(init=False)

    def __post_init__(self) -> None:
        rows = _sparse_rows(self.transition)
        table = _dense_table(self.transition) if rows is None else _checked_rows(rows)
        n_states = table.shape[-1]
        n_actions = table.shape[1] if rows is None else table.shape[0] // n_states
        self._set("n_states", n_states)
        self._set("n_actions", n_actions)
        self._set("transition", table)
        reward = as_double(self.reward, "reward")
        sizes3 = (self.n_states, self.n_actions, self.n_states)
        if not 1 <= reward.dim() <= 3 or reward.shape != sizes3[: reward.dim()]:
            raise DataError(
                f"reward must have shape [S], [S, A] or [S, A, S] with S = {sizes3[0]} and A = "
                f"{sizes3[1]}, got {tuple(reward.shape)}"
            )
        if reward.dim() == 3 and self.is_sparse:
            raise DataError("reward must have shape [S] or [S, A] where the transition is sparse")
        self._set("reward", reward)
        self._set("discount", as_number(self.discount, "discount", 0.0, 1.0))
        self._set("initial", _start(self.initial, self.n_states))
        for name, size in (("states", self.n_states), ("actions", self.n_actions)):
            self._set(name, _labels(getattr(self, name), size, name))
        if self.sink is not None:
            self._check_sink(as_count(self.sink, "sink", 0))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_sink(self, sink: int) -> None:
        if sink >= self.n_states:
            raise DataError(f"sink must be a state below {self.n_states}, got {sink}")
        rows = slice(sink * self.n_actions, (sink + 1) * self.n_actions)
        if self.is_sparse:
            stay = torch.from_numpy(self.transition[rows][:, [sink]].toarray().ravel())
        else:
            stay = self.transition[sink, :, sink].detach()
        if bool(((stay - 1).abs() > SUM_TOLERANCE).any()):
            action = int(((stay - 1).abs() > SUM_TOLERANCE).nonzero()[0])
            raise DataError(
                f"sink must be left by no action, but state {sink} is left with probability "
                f"{1 - float(stay[action]):g} by action {action}"
            )
        paid = self.reward[sink, ..., sink] if self.reward.dim() == 3 else self.reward[sink]
        if bool((paid.detach() != 0).any()):
            raise DataError(f"reward must be 0 in the sink, state {sink}")

    @classmethod
    def from_gymnasium(
        cls, env: Any, discount: float | None = None, *, initial: Any = None, sparse: bool = False
    ) -> TabularMDP:
        """Read an environment that shows its transition table ``P``.

        Terminal states of such tables are not always absorbing, so whatever ends an episode is
        sent to a sink, which is added as the last state; successors that are listed more than
        once are added up, and their rewards averaged by probability. Time limits are no part of
        the process.

        Parameters
        ----------
        env
            An environment or its id: FrozenLake, CliffWalking, Taxi, or any with ``P[s][a]`` a
            list of (probability, successor, reward, done). One with an attribute ``mdp``, such as
            `GridWorld`, is read from there.
        discount
            γ, from 0 to 1; by default that of the attribute ``mdp``, or else 0.99.
        initial
            Distribution of the first state; by default the environment's own
            ``initial_state_distrib``.
        sparse
            Whether to keep the table as a sparse matrix; rewards are then expected ones, [S, A].

        Raises
        ------
        DataError
            If there is no table, as in Blackjack, or it holds no probabilities.

        Examples
        --------
        >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.95)
        >>> lake
        TabularMDP(17 states, 4 actions, discount 0.95, sink 16)
        >>> round(float(lake.initial @ lake.value_iteration().value), 8)
        0.18047158
        """
        found = _toy_text.open_env(env)
        own = getattr(found, "mdp", None)
        if isinstance(own, cls):
            given = {"discount": discount, "initial": initial}
            found = replace(own, **{name: x for name, x in given.items() if x is not None})
            return found.to_sparse() if sparse else found
        discount = 0.99 if discount is None else discount
        return cls(**_toy_text.read_table(found, initial, sparse), discount=discount)

    # -- parts -------------------------------------------------------------------------------

    @property
    def is_sparse(self) -> bool:
        """Whether the transition is a sparse matrix."""
        return sp.issparse(self.transition)

    @cached_property
    def alive(self) -> Tensor:
        """1 for states where an episode goes on, 0 for the sink: [S]."""
        alive = torch.ones(self.n_states, dtype=torch.float64, device=self.initial.device)
        if self.sink is not None:
            alive[self.sink] = 0
        return alive

    @cached_property
    def kernel(self) -> Kernel:
        """The moves between states where an episode goes on; the sink's row is zero."""
        if self.is_sparse:
            keep = self.alive.repeat_interleave(self.n_actions).numpy()
            return SparseKernel(
                sp.csr_array(sp.diags_array(keep) @ self.transition), self.n_actions
            )
        table = self.transition
        return DenseKernel(table if self.sink is None else table * self.alive[:, None, None])

    @cached_property
    def expected_reward(self) -> Tensor:
        """r(s, a), averaged over successors; 0 in the sink: [S, A]."""
        return planning.expected_reward(self, self.reward)

    def with_reward(self, reward: Any) -> TabularMDP:
        """The same process with another reward, [S], [S, A] or [S, A, S]."""
        return replace(self, reward=reward)

    def to_sparse(self) -> TabularMDP:
        """The same process with a sparse transition and expected rewards [S, A].

        Raises
        ------
        DataError
            If the transition requires a gradient, which a sparse one does not carry.
        """
        if self.is_sparse:
            return self
        if self.transition.requires_grad:
            raise DataError("transition must not require a gradient where it is sparse; detach it")
        rows = sp.csr_array(self.transition.flatten(0, 1).cpu().numpy())
        return replace(self, transition=rows, reward=self.expected_reward)

    # -- planning; see the functions of the same names ---------------------------------------

    def value_iteration(self, **options: Any) -> planning.Plan:
        """Optimal value, Q and greedy policy; see `planning.value_iteration`."""
        return planning.value_iteration(self, **options)

    def policy_iteration(self, **options: Any) -> planning.Plan:
        """The same by policy iteration; see `planning.policy_iteration`."""
        return planning.policy_iteration(self, **options)

    def soft_value_iteration(self, temperature: Any = 1.0, **options: Any) -> planning.Plan:
        """Entropy-regularised optimum; see `soft.soft_value_iteration`."""
        return soft.soft_value_iteration(self, temperature, **options)

    def evaluate(self, policy: Any, **options: Any) -> planning.Plan:
        """Exact value and Q of a policy; see `planning.evaluate`."""
        return planning.evaluate(self, policy, **options)

    def backward_induction(self, horizon: int, **options: Any) -> planning.Plan:
        """The optimum over a finite horizon; see `finite_horizon.backward_induction`."""
        return finite_horizon.backward_induction(self, horizon, **options)

    def occupancy(self, policy: Any, **options: Any) -> Tensor:
        """Discounted visits of states and actions; see `occupancy.state_action_occupancy`."""
        return occupancy.state_action_occupancy(self, policy, **options)

    def __repr__(self) -> str:
        parts = [f"{self.n_states} states", f"{self.n_actions} actions"]
        parts += [f"discount {self.discount:g}"]
        parts += [f"sink {self.sink}"] if self.sink is not None else []
        parts += ["sparse"] if self.is_sparse else []
        return f"TabularMDP({', '.join(parts)})"


def _labels(given: Any, size: int, name: str) -> tuple[Any, ...]:
    try:
        labels = tuple(given) or tuple(range(size))
        distinct = len(labels) == size == len(set(labels))
    except TypeError as error:
        raise DataError(f"{name} must be {size} different labels: {error}") from error
    if not distinct:
        raise DataError(f"{name} must be {size} different labels, got {labels!r}")
    return labels


def _sparse_rows(transition: Any) -> Any:
    """A sparse transition as SciPy's CSR matrix; None if it is not sparse."""
    is_tensor = isinstance(transition, Tensor) and transition.layout != torch.strided
    if not is_tensor and not sp.issparse(transition):
        return None
    shape = tuple(transition.shape)
    if len(shape) != 2:
        raise DataError(f"transition must be [S·A, S] where it is sparse, got {shape}")
    if not is_tensor:
        if transition.dtype.kind not in "fiub":
            raise DataError(f"transition must hold real numbers, got dtype {transition.dtype}")
        return sp.csr_array(transition).astype(np.float64)
    if transition.requires_grad:
        raise DataError(
            "transition must not require a gradient where it is sparse; detach it, or give a dense "
            "one [S, A, S]"
        )
    listed = transition.cpu().to_sparse_coo().coalesce()
    values = as_double(listed.values(), "transition").numpy()
    return sp.coo_array((values, tuple(listed.indices().numpy())), shape=shape).tocsr()


def _dense_table(transition: Any) -> Tensor:
    table = as_double(transition, "transition")
    if table.dim() != 3 or table.shape[0] != table.shape[2]:
        raise DataError(
            f"transition must have shape [S, A, S], or be sparse [S·A, S]; got {tuple(table.shape)}"
        )
    check_distribution(table, "transition", ("s", "a"))
    totals = table.sum(-1, keepdim=True)
    # Rows that miss 1 by float32's rounding would miss every identity by as much.
    return table / totals if bool(((totals - 1).abs() > ROUNDING).any()) else table


def _checked_rows(rows: Any) -> Any:
    n_rows, n_states = rows.shape
    if n_states == 0 or n_rows == 0 or n_rows % n_states:
        raise DataError(f"transition must be [S·A, S] where it is sparse, got {(n_rows, n_states)}")
    n_actions = n_rows // n_states
    rows.sum_duplicates()
    as_double(rows.data, "transition")
    totals = np.asarray(rows.sum(axis=1)).ravel()
    if (rows.data < 0).any():
        row = int(np.searchsorted(rows.indptr, (rows.data < 0).argmax(), side="right")) - 1
        raise DataError(
            "transition must not be negative, but has a negative entry in "
            f"transition[s={row // n_actions}, a={row % n_actions}]"
        )
    wrong = np.abs(totals - 1) > SUM_TOLERANCE
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"transition must sum to 1 in every row; {int(wrong.sum())} of {len(totals)} rows do "
            f"not, the first is transition[s={row // n_actions}, a={row % n_actions}] with "
            f"{totals[row]:.9g}"
        )
    if (np.abs(totals - 1) > ROUNDING).any():
        return sp.csr_array(sp.diags_array(1 / totals) @ rows)
    return rows


def _start(initial: Any, n_states: int) -> Tensor:
    if isinstance(initial, (int, np.integer)) and not isinstance(initial, bool):
        if not 0 <= initial < n_states:
            raise DataError(f"initial must be a state below {n_states}, got {initial}")
        one = torch.zeros(n_states, dtype=torch.float64)
        one[int(initial)] = 1
        return one
    start = as_double(initial, "initial")
    if start.shape != (n_states,):
        raise DataError(f"initial must have shape [S] = [{n_states}], got {tuple(start.shape)}")
    check_distribution(start, "initial", ())
    total = start.sum()
    return start / total if abs(float(total) - 1) > ROUNDING else start
