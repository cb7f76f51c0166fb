"""Who did this, the expert or the learner? A Bernoulli program, fitted by an engine."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from likely.envs import Trajectories
from likely.inference.active.training import with_options
from likely.inference.engines import MAP
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_choice
from likely.inference.errors import ConvergenceWarning, OptionError
from likely.inference.fit import Fit
from likely.inference.program import Program
from likely.models import LogisticRegression

Features = Callable[[Tensor, Tensor], Tensor]
# Standard deviations beyond which a state is as strange as it gets.
_FAR = 50.0


@dataclass(frozen=True, eq=False)
class Discriminator:
    r"""Tells the expert's steps, or whole episodes, from the learner's.

    .. math:: \log h(x) - \log(1 - h(x)) \to \log \frac{p_E(x)}{p_\pi(x)}

    Both sides weigh the same, whatever their numbers, so that the log-odds estimate the log ratio
    of their densities: this is where the best discriminator is (Goodfellow et al. 2014, proposition
    1), and the reward of a learner who descends KL(p_π ‖ p_E).

    Parameters
    ----------
    features
        From states [n, *state] and actions [n, *action] to covariates [n, d]; by default
        `pair_features` of the expert's episodes.
    program
        ``program(x, y, weights=...)`` with outcomes 1 for the expert: `LogisticRegression`,
        `ModuleClassifier`, or a user's own.
    engine
        What fits it, each time from the last fit on; by default `MAP` with 20 iterations.
    over : {"step", "trajectory"}
        What is told apart. Covariates of an episode are sums over its steps, so that a linear
        program's log-odds are a sum over the steps as well; other programs' are paid with the
        episode's last step.

    Raises
    ------
    OptionError
        If an option cannot be used.

    Examples
    --------
    >>> expert = Trajectories.from_arrays([[0, 0, 0, 0]], [[1, 1, 0]], state_space=1)
    >>> learner = Trajectories.from_arrays([[0, 0, 0, 0]], [[1, 0, 0]], state_space=1)
    >>> judge = Discriminator(program=LogisticRegression(intercept=False, coefficients_scale=None))
    >>> judge = judge.for_expert(expert)
    >>> fit = judge.fit(expert, learner)
    >>> judge.log_ratio(fit.params, learner).exp()  # 2/3 to 1/3, and 1/3 to 2/3
    tensor([2.0000, 0.5000, 0.5000], dtype=torch.float64)
    """

    features: Features | None = None
    program: Callable[..., Any] = field(default_factory=LogisticRegression)
    engine: Engine = field(default_factory=lambda: MAP(max_iter=20))
    over: str = "step"

    def __post_init__(self) -> None:
        for name in ("features", "program"):
            value = getattr(self, name)
            if not callable(value) and (name == "program" or value is not None):
                raise OptionError(f"{name} must be a callable, got {value!r}")
        if not isinstance(self.engine, Engine):
            raise OptionError(f"engine must be an engine such as MAP(), got {self.engine!r}")
        check_choice("over", self.over, ("step", "trajectory"))

    def for_expert(self, expert: Trajectories) -> Discriminator:
        """The same with default features of these episodes, if it has none."""
        if self.features is not None:
            return self
        return Discriminator(pair_features(expert), self.program, self.engine, self.over)

    def fit(
        self,
        expert: Trajectories,
        learner: Trajectories,
        init: Any = None,
        discount: float = 1.0,
    ) -> Fit:
        """Learn to tell the two apart.

        Parameters
        ----------
        expert, learner
            Their episodes.
        init
            Where to start: values of sites, or another fit.
        discount
            γ: step t counts γ^t, which makes the ratio that of discounted occupancies.
        """
        parts = [self._weighed(part, discount) for part in (expert, learner)]
        x, sides = torch.cat([rows for rows, _ in parts]), [counts for _, counts in parts]
        half = (sides[0].sum() + sides[1].sum()) / 2
        weights = torch.cat([side * (half / side.sum()) for side in sides])
        y = torch.cat([torch.ones(len(sides[0])), torch.zeros(len(sides[1]))]).to(x)
        engine = with_options(self.engine, init=init)
        with warnings.catch_warnings():
            # The next round goes on from here; the learner has moved until then.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return engine.fit(self.program, x, y, weights=weights)

    def covariates(self, trajectories: Trajectories) -> Tensor:
        """Covariates of the steps [N, d], or of the episodes [E, d]."""
        pairs = _distinct(trajectories)
        found = self._of_pairs(pairs)
        if self.over == "step":
            return found[pairs.row]
        size = len(trajectories), len(found)
        if len(found) == len(pairs.row):
            total = found.new_zeros(size[0], found.shape[-1])
            return total.index_add_(0, trajectories.episode, found)
        flat = torch.bincount(trajectories.episode * size[1] + pairs.row, minlength=math.prod(size))
        return flat.reshape(size).to(found) @ found

    def _weighed(self, trajectories: Trajectories, discount: float) -> tuple[Tensor, Tensor]:
        """Covariates [n, d] and how often each counts [n]; pairs that come up again are one row."""
        if self.over == "trajectory":
            rows = self.covariates(trajectories)
            return rows, rows.new_ones(len(rows))
        pairs = _distinct(trajectories)
        rows, step = self._of_pairs(pairs), trajectories.step.double()
        counts = torch.ones_like(step) if discount == 1 else discount**step
        return rows, rows.new_zeros(len(rows)).index_add_(0, pairs.row, counts)

    def _of_pairs(self, pairs: _Pairs) -> Tensor:
        if self.features is None:
            raise OptionError("features: none are known; for_expert(...) gives default ones")
        states, actions = pairs.states, pairs.actions
        found = self.features(states, actions)
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(states):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise OptionError(f"features: expected [{len(states)}, d], got {got}")
        if not bool(torch.isfinite(found).all()):
            raise OptionError("features: expected finite numbers")
        return found.double()

    def log_odds(self, params: Mapping[str, Any], x: Tensor) -> Tensor:
        """log h − log(1 − h), [n], of covariates [n, d]: the program's own."""
        reading = Program(self.program, x, x.new_zeros(len(x)))
        with reading.session(0), torch.no_grad():
            trace = reading.trace(lambda name, _: params.get(name), enumerate_latents=False)
            seen = [node for node in trace.nodes.values() if _is_outcome(node)]
            if len(seen) != 1:
                raise OptionError(f"program: expected one observed site, got {len(seen)}")
            fn = seen[0]["fn"]
            found: Tensor = fn.log_prob(x.new_ones(len(x))) - fn.log_prob(x.new_zeros(len(x)))
        return found

    def odds(self, params: Mapping[str, Any], trajectories: Trajectories) -> Tensor:
        """The log-odds of the steps [N], or of the episodes [E]."""
        if self.over == "trajectory":
            return self.log_odds(params, self.covariates(trajectories))
        pairs = _distinct(trajectories)
        return self.log_odds(params, self._of_pairs(pairs))[pairs.row]

    def log_ratio(self, params: Mapping[str, Any], trajectories: Trajectories) -> Tensor:
        """The log-odds as rewards of the steps, [N].

        Over whole trajectories their sum over an episode is the log-odds of the episode: of a
        linear program each step has its share, of others the last step has all.
        """
        if self.over == "step":
            return self.odds(params, trajectories)
        pairs = _distinct(trajectories)
        if isinstance(self.program, LogisticRegression):
            rows = self._of_pairs(pairs)
            # Linear: what a step adds is its log-odds less those of no step at all.
            nothing = self.log_odds(params, rows.new_zeros(1, rows.shape[1]))
            rewards = (self.log_odds(params, rows) - nothing)[pairs.row]
            whole = nothing.expand(len(trajectories))
        else:
            whole = self.odds(params, trajectories)
            rewards = whole.new_zeros(trajectories.n_steps)
        last = trajectories.starts + trajectories.lengths - 1
        return rewards.index_add(0, last, whole)


class _Pairs(NamedTuple):
    """States [n, *state] and actions [n, *action], and which of them each step [N] has."""

    states: Tensor
    actions: Tensor
    row: Tensor


def _distinct(trajectories: Trajectories) -> _Pairs:
    """Distinct pairs of Discrete states and actions; of vectors all N."""
    states, actions = trajectories.state_action_pairs()
    if states.is_floating_point() or actions.is_floating_point():
        return _Pairs(states, actions, torch.arange(len(states)))
    k = int(actions.max()) + 1
    found, row = torch.unique(states * k + actions, return_inverse=True)
    return _Pairs(found // k, found % k, row)


def rewards_of(log_ratio: Tensor, kind: str) -> Tensor:
    r"""Rewards [n] from log-odds u = log h − log(1 − h), [n].

    Parameters
    ----------
    log_ratio
        u.
    kind
        ``"log_ratio"``, u itself, as in AIRL (Fu et al. 2018): of both signs, so that neither a
        long nor a short episode is a gain in itself. ``"expert"``, log h, never positive: an end
        is a relief. ``"not_learner"``, −log(1 − h), never negative, that of GAIL (Ho & Ermon 2016)
        in most implementations: to live on is a gain.

    Examples
    --------
    >>> rewards_of(torch.zeros(1), "not_learner")
    tensor([0.6931])
    """
    check_choice("reward", kind, ("log_ratio", "expert", "not_learner"))
    if kind == "log_ratio":
        return log_ratio
    sign = 1.0 if kind == "not_learner" else -1.0
    return sign * torch.nn.functional.softplus(sign * log_ratio)


def pair_features(expert: Trajectories, order: int = 1) -> Features:
    """Covariates that tell steps of an expert from others.

    Discrete states have an indicator for each pair of state and action. Vectors are standardised by
    the expert's mean and spread, and cut at fifty spreads; covariates are these, the action (an
    indicator, or vectors and squares), and its products with the state. With squares of the state
    as well, a learner who is still far off is told apart so surely that its rewards say little of
    which way to go.

    Parameters
    ----------
    expert
        Its episodes; their spaces and the spread of their states count.
    order : {1, 2}
        Whether squares and products of the state are among them.

    Returns
    -------
    callable
        States [n, *state] and actions [n, *action] to [n, d], float64.
    """
    if order not in (1, 2):
        raise OptionError(f"order must be 1 or 2, got {order!r}")
    states, actions = expert.state_action_pairs()
    n_actions = int(expert.action_space.n) if isinstance(expert.action_space, Discrete) else 0
    if isinstance(expert.state_space, Discrete) and n_actions:
        size = int(expert.state_space.n) * n_actions

        def pairs(s: Tensor, a: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(s * n_actions + a, size).double()

        return pairs
    scale_state = _standardised(states, expert.state_space)
    scale_action = None if n_actions else _standardised(actions, expert.action_space)

    def products(s: Tensor, a: Tensor) -> Tensor:
        z = scale_state(s)
        if scale_action is None:
            act = torch.nn.functional.one_hot(a, n_actions)[:, 1:].double()
        else:
            flat = scale_action(a)
            act = torch.cat([flat, flat.square()], -1)
        cross = (act.unsqueeze(-1) * z.unsqueeze(-2)).flatten(1)
        i, j = torch.triu_indices(z.shape[1], z.shape[1])
        squares = [z[:, i] * z[:, j]] if order == 2 else []
        return torch.cat([z, act, cross, *squares], -1)

    return products


def state_features(expert: Trajectories) -> Callable[[Tensor], Tensor]:
    """Features of states: indicators of Discrete ones, else entries, squares and products.

    Parameters
    ----------
    expert
        Its episodes; vectors are standardised by the spread of its states.

    Returns
    -------
    callable
        States [n, *state] to [n, d], float64.
    """
    scale = _standardised(expert.states, expert.state_space)
    if isinstance(expert.state_space, Discrete):
        return scale

    def squares(states: Tensor) -> Tensor:
        z = scale(states)
        i, j = torch.triu_indices(z.shape[1], z.shape[1])
        return torch.cat([z, z[:, i] * z[:, j]], -1)

    return squares


def _standardised(rows: Tensor, space: Any) -> Callable[[Tensor], Tensor]:
    """A function to standardised vectors [n, d], or indicators of Discrete values."""
    if isinstance(space, Discrete):
        return lambda values: torch.nn.functional.one_hot(values.long(), int(space.n)).double()
    flat = rows.flatten(1).double()
    mean, spread = flat.mean(0), flat.std(0, correction=0)
    # Where the expert never moves, any move is telling; a tiny spread would make it infinite.
    spread = torch.where(spread > 1e-6 * (1 + mean.abs()), spread, 1.0)
    return lambda values: ((values.flatten(1).double() - mean) / spread).clamp(-_FAR, _FAR)


def _is_outcome(node: Mapping[str, Any]) -> bool:
    return node["type"] == "sample" and bool(node["is_observed"]) and not _is_plate(node)


def _is_plate(node: Mapping[str, Any]) -> bool:
    return type(node["fn"]).__name__ == "_Subsample"
