"""Rewards of trajectories' steps, as parts of programs of preferences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.models import _reward_tables
from likely.models._linear import coefficient_prior
from likely.models._options import check_count
from likely.models._policy_base import Sites, checked_value
from likely.models._reward_tables import WEIGHTS, flattened
from likely.models.policy import without_rows
from likely.models.preference._reward_base import (
    Params,
    Rows,
    TrajectoryReward,
    check_scale,
    check_table,
    checked_features,
    drawn_value,
    entries,
    step_features,
    visits,
)
from likely.models.preference.pairs import PairSteps, TrajectoryPairs

TABLE = "reward_table"


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
        object.__setattr__(self, "features", checked_features(self.features))
        check_scale(self.prior_scale)
        table = self.features
        listed = isinstance(self.names, Collection) and not isinstance(self.names, str)
        names = list(self.names) if listed else []
        width = table.shape[-1] if isinstance(table, Tensor) else len(names)
        if not listed or len(names) not in (0, width):
            raise DataError(f"names: expected {width} or none, got {self.names!r}")
        if len(set(names)) < len(names):
            raise DataError(f"names: expected different ones, got {names}")
        object.__setattr__(self, "names", tuple(names))

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
        rows = step_features(self.features, pairs.first, steps.states, steps.actions).double()
        if self.names and rows.shape[1] != len(self.names):
            raise DataError(f"features: {rows.shape[1]} for {len(self.names)} names")
        return steps.summed(rows.T, len(pairs)).T.contiguous()

    def shapes(self, differences: Tensor) -> dict[str, tuple[int, ...]]:
        """[F]."""
        return {WEIGHTS: tuple(differences.shape[1:])}

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
        rows = step_features(self.features, trajectories, states, trajectories.actions).double()
        return rows @ checked_value(params, WEIGHTS, rows.shape[1:])

    def table(self, params: Params) -> Tensor:
        """ψ·w of each state."""
        if not isinstance(self.features, Tensor):
            raise DataError("features: only a table of them gives a table of rewards")
        weights = drawn_value(params, WEIGHTS, self.features.shape[-1:])
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
        check_scale(self.prior_scale)

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
        return visits(pairs, discount, self._shape)

    def shapes(self, differences: Tensor) -> dict[str, tuple[int, ...]]:
        """[S] or [S, A]."""
        return {TABLE: self._shape}

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
        check_table(trajectories, self._shape)
        return entries(checked_value(params, TABLE, torch.Size(self._shape)), trajectories)

    def table(self, params: Params) -> Tensor:
        """The table itself."""
        return drawn_value(params, TABLE, self._shape)


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
    Sites ``reward$$$...``; with priors ``reward....``. The module and its buffers compute in the
    precision of the engine (double, as a rule), whatever their own. Parameters that need no
    gradient stay as they are, unless there is a prior, which is one of all.
    """

    module: torch.nn.Module
    features: Any = None
    prior_scale: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", checked_features(self.features))
        check_scale(self.prior_scale)
        self._part(torch.empty(0))
        if not self._unknowns():
            raise DataError("network: it has no parameters to learn, so that nothing is unknown")

    def _part(self, rows: Tensor) -> _reward_tables.NetworkReward:
        return _reward_tables.NetworkReward(rows, self.module, self.prior_scale)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """The parameters' dimensions have no names."""
        return {}

    def differences(self, pairs: TrajectoryPairs, discount: float) -> Any:
        """Visits of the table's rows [m, K], or all steps' features."""
        if isinstance(self.features, Tensor):
            return visits(pairs, discount, self.features.shape[:-1])
        steps = pairs.steps(discount)
        rows = step_features(self.features, pairs.first, steps.states, steps.actions)
        return _Features(rows, steps, len(pairs))

    def shapes(self, differences: Any) -> dict[str, tuple[int, ...]]:
        """Those of the parameters."""
        return {name: tuple(value.shape) for name, value in self._unknowns().items()}

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
        return self._part(rows).table(sites)

    def steps(self, params: Params, trajectories: Trajectories) -> Tensor:
        """Outputs at the steps."""
        states = trajectories.step_states
        rows = step_features(self.features, trajectories, states, trajectories.actions)
        with torch.no_grad():
            return self._outputs(self._own(params), rows)

    def table(self, params: Params) -> Tensor:
        """Outputs at the table's rows."""
        if not isinstance(self.features, Tensor):
            raise DataError("features: only a table of them gives a table of rewards")
        sizes = {name: p.dim() for name, p in self._unknowns().items()}
        sites, batch = flattened({name: params[name] for name in sizes if name in params}, sizes)
        count = len(next(iter(sites.values())))
        with torch.no_grad():
            each = [
                self._outputs({n: v[i] for n, v in sites.items()}, self.features)
                for i in range(count)
            ]
        return torch.stack(each).reshape(*batch, *each[0].shape)

    def _own(self, params: Params) -> Sites:
        return {n: checked_value(params, n, p.shape) for n, p in self._unknowns().items()}

    def _unknowns(self) -> dict[str, Tensor]:
        """Parameters that a fit has values of."""
        return self._part(torch.empty(0)).unknowns
