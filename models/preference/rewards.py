"""Rewards of trajectories' steps, as parts of programs of preferences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.envs._checks import as_double
from likely.models import _reward_tables
from likely.models._linear import coefficient_prior
from likely.models._options import check_count, check_number
from likely.models._policy_base import Sites, featurise
from likely.models._reward_tables import WEIGHTS, flattened
from likely.models._start_states import check_discrete
from likely.models.policy import without_rows
from likely.models.preference.pairs import PairSteps, TrajectoryPairs

TABLE = "reward_table"
Rows = Tensor | slice
Params = Mapping[str, Any]


class TrajectoryReward(ABC):
    """A reward of states, or of states and actions, with unknowns."""

    @property
    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Site to the names of its event dimensions."""

    def coords(self) -> dict[str, Any]:
        """Labels of the dimensions."""
        return {}

    @abstractmethod
    def differences(self, pairs: TrajectoryPairs, discount: float) -> Any:
        """What the reward knows of the pairs, the first's less the second's."""

    @abstractmethod
    def sample_sites(self, like: Tensor, differences: Any) -> Sites:
        """Make the Pyro statements, in the dtype of ``like``."""

    @abstractmethod
    def start(self, like: Tensor, differences: Any) -> Sites:
        """Where a search begins."""

    @abstractmethod
    def ahead(self, sites: Sites, differences: Any, rows: Rows) -> Tensor:
        """R(first) − R(second) of some of the pairs, [*outside, rows]."""

    @abstractmethod
    def steps(self, params: Params, trajectories: Trajectories) -> Tensor:
        """Rewards float64 [N] of all steps, at one value of each site."""

    @abstractmethod
    def table(self, params: Params) -> Tensor:
        r"""The reward of Discrete states, float64 [\*B, S] or [\*B, S, A].

        Parameters
        ----------
        params
            A fit's ``params``, or its ``draws`` [chain, draw, ...], whose leading axes \*B are
            kept.
        """


@dataclass(frozen=True, eq=False)
class LinearReward(TrajectoryReward):
    r"""r = ψ·w, with normal weights.

    Parameters
    ----------
    features
        ψ: a table [S, F] or [S, A, F], a function from states [N, \*state] to [N, F], or None for
        states that are vectors.
    prior_scale
        Standard deviation of the weights; None for flat priors (improper).
    names
        Of the features, for labels.

    Notes
    -----
    Site ``reward_weights`` [F]. A feature whose sum over episodes is always the same cannot be
    known from preferences, which tell differences.

    Examples
    --------
    >>> reward = LinearReward(torch.tensor([[1.0], [0.5]]))
    >>> reward.table({"reward_weights": [2.0]})
    tensor([2., 1.], dtype=torch.float64)
    """

    features: Any = None
    prior_scale: float | None = 1.0
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _checked(self.features))
        _check_scale(self.prior_scale)
        table = self.features
        width = table.shape[-1] if isinstance(table, Tensor) else len(self.names)
        if len(self.names) not in (0, width):
            raise DataError(f"names: expected {width}, got {len(self.names)}")

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """One for each feature."""
        return {WEIGHTS: ("feature",)}

    def coords(self) -> dict[str, Any]:
        """Names of the features, if they have any."""
        return {"feature": list(self.names)} if self.names else {}

    def differences(self, pairs: TrajectoryPairs, discount: float) -> Tensor:
        """Discounted sums of features, [m, F]."""
        steps = pairs.steps(discount)
        rows = _step_features(self.features, pairs.first, steps.states, steps.actions).double()
        return steps.summed(rows.T, len(pairs)).T.contiguous()

    def sample_sites(self, like: Tensor, differences: Tensor) -> Sites:
        """Sample ``reward_weights`` [F]."""
        prior = coefficient_prior("normal", self.prior_scale, like).expand(differences.shape[1:])
        return {WEIGHTS: pyro.sample(WEIGHTS, prior.to_event(1))}

    def start(self, like: Tensor, differences: Tensor) -> Sites:
        """Zeros, at which everything is equally good."""
        return {WEIGHTS: like.new_zeros(differences.shape[1])}

    def ahead(self, sites: Sites, differences: Tensor, rows: Rows) -> Tensor:
        """w·f of the differences."""
        weights = without_rows(sites[WEIGHTS], 1)
        found: Tensor = weights @ differences[rows].to(weights).T
        return found

    def steps(self, params: Params, trajectories: Trajectories) -> Tensor:
        """ψ·w of each step."""
        states = trajectories.step_states
        rows = _step_features(self.features, trajectories, states, trajectories.actions).double()
        return rows @ as_double(params[WEIGHTS], WEIGHTS).detach()

    def table(self, params: Params) -> Tensor:
        """ψ·w of each state."""
        if not isinstance(self.features, Tensor):
            raise DataError("features: only a table of them gives a table of rewards")
        weights = as_double(params[WEIGHTS], WEIGHTS).detach()
        rows = weights @ self.features.flatten(0, -2).T
        return rows.unflatten(-1, self.features.shape[:-1])


@dataclass(frozen=True, eq=False)
class TabularReward(TrajectoryReward):
    """A number for each state, or for each state and action, with normal priors.

    Parameters
    ----------
    n_states
        S.
    n_actions
        A; None for a reward of states alone.
    prior_scale
        Standard deviation; None for flat priors (improper).

    Notes
    -----
    Site ``reward_table`` [S] or [S, A]. What no pair tells apart, the prior puts near 0.
    """

    n_states: int
    n_actions: int | None = None
    prior_scale: float | None = 1.0

    def __post_init__(self) -> None:
        check_count(self.n_states, "n_states", 1)
        if self.n_actions is not None:
            check_count(self.n_actions, "n_actions", 1)
        _check_scale(self.prior_scale)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.n_states,) if self.n_actions is None else (self.n_states, self.n_actions)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """States, and actions."""
        return {TABLE: ("state", "action")[: len(self._shape)]}

    def coords(self) -> dict[str, Any]:
        """Their numbers."""
        return dict(zip(("state", "action"), map(range, self._shape), strict=False))

    def differences(self, pairs: TrajectoryPairs, discount: float) -> Tensor:
        """Discounted visits, [m, S] or [m, S · A]."""
        return _visits(pairs, discount, self._shape)

    def sample_sites(self, like: Tensor, differences: Tensor) -> Sites:
        """Sample ``reward_table``."""
        prior = coefficient_prior("normal", self.prior_scale, like).expand(self._shape)
        return {TABLE: pyro.sample(TABLE, prior.to_event(len(self._shape)))}

    def start(self, like: Tensor, differences: Tensor) -> Sites:
        """Zeros."""
        return {TABLE: like.new_zeros(self._shape)}

    def ahead(self, sites: Sites, differences: Tensor, rows: Rows) -> Tensor:
        """Visits times rewards."""
        width = len(self._shape)
        table = without_rows(sites[TABLE], width).flatten(-width)
        found: Tensor = table @ differences[rows].to(table).T
        return found

    def steps(self, params: Params, trajectories: Trajectories) -> Tensor:
        """The entries of the steps."""
        _check_table(trajectories, self._shape)
        return _read(self.table(params), trajectories)

    def table(self, params: Params) -> Tensor:
        """The table itself."""
        return as_double(params[TABLE], TABLE).detach()


class _Features(NamedTuple):
    """Features of the steps of pairs, for a network that no table describes."""

    rows: Tensor
    steps: PairSteps
    size: int


@dataclass(frozen=True, eq=False)
class NetworkReward(TrajectoryReward):
    """A torch module from features to one number.

    Parameters
    ----------
    module
        From [N, F] to [N, 1]; from [S, A, F] to [S, A, 1] for a table of states and actions.
    features
        As in `LinearReward`. With a table the module runs once for each state, not for each step.
    prior_scale
        Standard deviation of normal priors of all parameters. Without it they have none
        (``pyro.module``): `MLE`, `MAP` and `SVI` fit them, starting where the module is.

    Notes
    -----
    Sites ``reward$$$...``; with priors ``reward....``.
    """

    module: torch.nn.Module
    features: Any = None
    prior_scale: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _checked(self.features))
        _check_scale(self.prior_scale)
        self._part(torch.empty(0))

    def _part(self, rows: Tensor) -> _reward_tables.NetworkReward:
        return _reward_tables.NetworkReward(rows, self.module, self.prior_scale)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """The parameters' dimensions have no names."""
        return {}

    def differences(self, pairs: TrajectoryPairs, discount: float) -> Any:
        """Visits of the table's rows [m, K], or all steps' features."""
        if isinstance(self.features, Tensor):
            return _visits(pairs, discount, self.features.shape[:-1])
        steps = pairs.steps(discount)
        rows = _step_features(self.features, pairs.first, steps.states, steps.actions)
        return _Features(rows, steps, len(pairs))

    def sample_sites(self, like: Tensor, differences: Any) -> Sites:
        """Register the parameters, or sample them where they have a prior."""
        return self._part(torch.empty(0)).sample_sites(like)

    def start(self, like: Tensor, differences: Any) -> Sites:
        """Where the module is."""
        return self._part(torch.empty(0)).start(like)

    def ahead(self, sites: Sites, differences: Any, rows: Rows) -> Tensor:
        """Sums of the module's outputs."""
        if isinstance(differences, Tensor):
            return differences[rows] @ self._outputs(sites, self.features).flatten()
        values = self._outputs(sites, differences.rows)
        return differences.steps.summed(values, differences.size)[rows]

    def _outputs(self, sites: Sites, rows: Tensor) -> Tensor:
        """The module at features [*rows, F], float64."""
        if sites:
            return self._part(rows).table(sites)
        # Engines put parameters of their precision, the default one, in the place of the module's.
        own = next(self.module.parameters()).dtype
        found = self.module(rows.to(torch.promote_types(own, torch.get_default_dtype())))
        shape = rows.shape[:-1]
        if not isinstance(found, Tensor) or found.shape not in (shape, (*shape, 1)):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(f"module: expected rewards {(*shape, 1)}, got {got}")
        return found.reshape(shape).double()

    def steps(self, params: Params, trajectories: Trajectories) -> Tensor:
        """Outputs at the steps."""
        states = trajectories.step_states
        rows = _step_features(self.features, trajectories, states, trajectories.actions)
        with torch.no_grad():
            return self._part(rows).table(self._own(params))

    def table(self, params: Params) -> Tensor:
        """Outputs at the table's rows."""
        if not isinstance(self.features, Tensor):
            raise DataError("features: only a table of them gives a table of rewards")
        part = self._part(self.features)
        sizes = {name: p.dim() for name, p in part._parameters().items()}
        sites, batch = flattened(params, sizes)
        count = len(next(iter(sites.values())))
        with torch.no_grad():
            each = [part.table({n: v[i] for n, v in sites.items()}) for i in range(count)]
        return torch.stack(each).reshape(*batch, *each[0].shape)

    def _own(self, params: Params) -> Sites:
        names = self._part(torch.empty(0))._parameters()
        return {name: as_double(params[name], name).detach() for name in names}


def _checked(features: Any) -> Any:
    """A table as float64; functions and None as they are."""
    if features is None or (callable(features) and not isinstance(features, Tensor)):
        return features
    table = as_double(features, "features").detach()
    if table.dim() not in (2, 3):
        raise DataError(f"features: expected [S, F] or [S, A, F], got {tuple(table.shape)}")
    return table


def _check_scale(scale: Any) -> None:
    if scale is not None:
        check_number(scale, "prior_scale", positive=True)


def _check_table(trajectories: Trajectories, shape: Sequence[int]) -> None:
    """Raise `DataError` unless states, and actions if they count, are those of a table."""
    check_discrete(trajectories.state_space, shape[0], "states")
    if len(shape) > 1:
        check_discrete(trajectories.action_space, shape[1], "actions")
        if trajectories.actions is None:
            raise DataError("actions: the reward depends on them, and these trajectories have none")


def _step_features(
    features: Any, trajectories: Trajectories, states: Tensor, actions: Tensor | None
) -> Tensor:
    """Features [N, F] of steps, whose spaces are those of some trajectories."""
    if not isinstance(features, Tensor):
        if features is None and isinstance(trajectories.state_space, Discrete):
            raise DataError("features: expected a table or a function, as states are Discrete")
        return featurise(features, states)
    _check_table(trajectories, features.shape[:-1])
    return features[states] if features.dim() == 2 else features[states, actions]


def _visits(pairs: TrajectoryPairs, discount: float, shape: Sequence[int]) -> Tensor:
    """Discounted visits of states, or of states and actions, [m, K] in float64."""
    _check_table(pairs.first, shape)
    steps, m, size = pairs.steps(discount), len(pairs), int(torch.Size(shape).numel())
    place = steps.states
    if len(shape) > 1:
        assert steps.actions is not None
        place = place * shape[1] + steps.actions
    flat = steps.weight.new_zeros(m * size)
    return flat.index_add(0, steps.pair * size + place, steps.weight).reshape(m, size)


def _read(table: Tensor, trajectories: Trajectories) -> Tensor:
    states = trajectories.step_states
    return table[states] if table.dim() == 1 else table[states, trajectories.actions]
