"""Rewards of states, or of states and actions, as parts of programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.func import functional_call

from likely.envs import DataError, TabularMDP
from likely.envs._checks import as_double
from likely.models._linear import coefficient_prior
from likely.models._policy_base import Sites

WEIGHTS, NETWORK = "reward_weights", "reward"
ONE_HOT = ("state", "state-action")


class RewardTable(ABC):
    """A reward with unknowns.

    Attributes
    ----------
    dims : dict
        Site to the names of its event dimensions.
    of_actions : bool
        Whether the reward depends on the action.
    scale : float or None
        Standard deviation of the normal priors; None for none.
    batched : bool
        Whether `table` takes values with leading axes.
    """

    batched: ClassVar[bool] = True
    scale: float | None

    @property
    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Site to the names of its event dimensions."""

    @property
    @abstractmethod
    def of_actions(self) -> bool:
        """Whether the reward depends on the action."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, torch.Size]:
        """Site to the shape of its value, for all that make the table."""

    @abstractmethod
    def sample_sites(self, like: Tensor) -> Sites:
        """Make the Pyro statements, in the dtype of ``like``."""

    @abstractmethod
    def table(self, sites: Sites) -> Tensor:
        r"""The reward, float64 [\*B, S] or [\*B, S, A], at values with leading axes \*B."""

    @abstractmethod
    def start(self, like: Tensor) -> Sites:
        """Where a search begins."""

    def coords(self) -> dict[str, Any]:
        """Labels of the dimensions."""
        return {}


@dataclass(frozen=True, eq=False)
class LinearReward(RewardTable):
    """r = ψ·w, or a number for each state, or for each state and action.

    Parameters
    ----------
    mdp
        The process.
    features
        ψ: [S, F] or [S, A, F]; ``"state"`` or ``"state-action"`` for indicators.
    scale
        Standard deviation of the normal priors; None for flat ones.
    names
        Of the features.
    """

    mdp: TabularMDP
    features: Tensor | str
    scale: float | None
    names: Sequence[str] = ()
    width: int = field(init=False)

    def __post_init__(self) -> None:
        n, k = self.mdp.n_states, self.mdp.n_actions
        if isinstance(self.features, str):
            # What the sink pays has no effect.
            alive = n - (self.mdp.sink is not None)
            width = alive if self.features == "state" else alive * k
        else:
            width = self.features.shape[-1]
        object.__setattr__(self, "width", width)
        if len(self.names) not in (0, width) or len(set(self.names)) != len(self.names):
            raise DataError(f"names: expected {width} different ones, got {list(self.names)!r}")

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """One for each feature."""
        return {WEIGHTS: ("feature",)}

    @property
    def of_actions(self) -> bool:
        """Whether the reward depends on the action."""
        if isinstance(self.features, str):
            return self.features == "state-action"
        return self.features.dim() == 3

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """[F]."""
        return {WEIGHTS: torch.Size([self.width])}

    def coords(self) -> dict[str, Any]:
        """Names of the features."""
        return {"feature": list(self.names) if self.names else range(self.width)}

    def sample_sites(self, like: Tensor) -> Sites:
        """Sample ``reward_weights`` [F]."""
        prior = coefficient_prior("normal", self.scale, like).expand([self.width])
        return {WEIGHTS: pyro.sample(WEIGHTS, prior.to_event(1))}

    def table(self, sites: Sites) -> Tensor:
        """[*B, S] or [*B, S, A]."""
        weights = sites[WEIGHTS].to(torch.float64)
        if not isinstance(self.features, str):
            rows = weights @ self.features.flatten(0, -2).T
            return rows.unflatten(-1, self.features.shape[:-1])
        k, sink = self.mdp.n_actions, self.mdp.sink
        sizes = (1,) if self.features == "state" else (k,)
        rows = weights.unflatten(-1, (-1, *sizes))
        if sink is not None:
            blank = rows.new_zeros(*rows.shape[:-2], 1, *sizes)
            rows = torch.cat([rows[..., :sink, :], blank, rows[..., sink:, :]], -2)
        return rows.squeeze(-1) if self.features == "state" else rows

    def start(self, like: Tensor) -> Sites:
        """Zeros, at which all actions are equally good."""
        return {WEIGHTS: like.new_zeros(self.width)}

    def met(self, counts: Tensor) -> Tensor:
        """Features summed over visits [*B, S, A]: [*B, F], zero in the sink."""
        counts = counts.to(torch.float64) * self.mdp.alive.unsqueeze(-1)
        if not isinstance(self.features, str):
            if self.features.dim() == 2:
                return counts.sum(-1) @ self.features
            return counts.flatten(-2) @ self.features.flatten(0, 1)
        kept = [s for s in range(self.mdp.n_states) if s != self.mdp.sink]
        rows = counts[..., kept, :]
        return rows.sum(-1) if self.features == "state" else rows.flatten(-2)


@dataclass(frozen=True, eq=False)
class NetworkReward(RewardTable):
    """A torch module from features [S, F] to rewards [S]; or [S, A, F] to [S, A].

    Parameters
    ----------
    features
        Its input.
    module
        Gives one number for each row; it must not draw random numbers.
    scale
        Standard deviation of normal priors of its parameters; None for none (``pyro.module``).
    """

    batched: ClassVar[bool] = False

    features: Tensor
    module: torch.nn.Module
    scale: float | None

    def __post_init__(self) -> None:
        if not isinstance(self.module, torch.nn.Module) or isinstance(self.module, PyroModule):
            raise DataError(
                f"network: expected a plain torch.nn.Module, got {type(self.module).__name__}"
            )

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """The parameters' dimensions have no names."""
        return {}

    @property
    def of_actions(self) -> bool:
        """Whether the reward depends on the action."""
        return self.features.dim() == 3

    def _parameters(self) -> dict[str, Tensor]:
        between = "$$$" if self.scale is None else "."
        return {f"{NETWORK}{between}{n}": p for n, p in self.module.named_parameters()}

    @property
    def unknowns(self) -> dict[str, Tensor]:
        """Site to parameter; frozen ones without a prior are no sites."""
        found = self._parameters().items()
        return {n: p for n, p in found if p.requires_grad or self.scale is not None}

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Those of the parameters that are unknown."""
        return {name: parameter.shape for name, parameter in self.unknowns.items()}

    def sample_sites(self, like: Tensor) -> Sites:
        """Register the module's parameters, or sample them where they have a prior."""
        if self.scale is None:
            pyro.module(NETWORK, self.module)
            return {}
        sites, spread = {}, like.new_tensor(float(self.scale))
        for name, parameter in self._parameters().items():
            prior = dist.Normal(torch.zeros_like(spread), spread).expand(parameter.shape)
            sites[name] = pyro.sample(name, prior.to_event(parameter.dim()))
        return sites

    def table(self, sites: Sites) -> Tensor:
        """[S] or [S, A]; of one value of each parameter."""
        own = {n[len(NETWORK) :].lstrip("$."): v for n, v in sites.items()}
        return module_rewards(self.module, own, self.features)

    def start(self, like: Tensor) -> Sites:
        """Where the module is."""
        if self.scale is None:
            return {}
        return {name: value.detach().to(like) for name, value in self._parameters().items()}


def module_rewards(module: torch.nn.Module, values: Sites, rows: Tensor) -> Tensor:
    """What a module says of features [*rows, F]: float64 [*rows].

    Parameters
    ----------
    module
        From features to one number.
    values
        What is put in the place of some of its parameters, by their names in the module.
    rows
        [*rows, F].

    Raises
    ------
    DataError
        If the module cannot take them, or gives something else than one number for each.
    """
    held = {**dict(module.named_parameters()), **dict(module.named_buffers()), **values}
    # Engines put parameters of their precision, the default one, in the place of the module's;
    # buffers and what is frozen keep theirs.
    kinds = [value.dtype for value in held.values() if value.is_floating_point()]
    wanted = reduce(torch.promote_types, kinds, torch.get_default_dtype())
    held = {n: v.to(wanted) if v.is_floating_point() else v for n, v in held.items()}
    try:
        found = functional_call(module, held, (rows.to(wanted),))
    except RuntimeError as error:
        raise DataError(
            f"network: it cannot take features of shape {tuple(rows.shape)}: {error}"
        ) from error
    shape = rows.shape[:-1]
    if not isinstance(found, Tensor) or found.shape not in (shape, (*shape, 1)):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"network: expected rewards {(*shape, 1)}, got {got}")
    return found.reshape(shape).to(torch.float64)


def reward_table(
    mdp: TabularMDP,
    features: Any,
    scale: float | None,
    names: Sequence[str],
    network: torch.nn.Module | None,
) -> LinearReward | NetworkReward:
    """Check the arguments and choose.

    Raises
    ------
    DataError
        For features of another shape, or a network without features.
    """
    if isinstance(features, str):
        if features not in ONE_HOT:
            raise DataError(f"features: expected an array or one of {ONE_HOT}, got {features!r}")
        if network is not None:
            raise DataError("features: a network needs a table of them, [S, F] or [S, A, F]")
        return LinearReward(mdp, features, scale, tuple(names))
    table = feature_table(mdp, features)
    if network is not None:
        found = NetworkReward(table, network, scale)
        if not found.shapes:
            raise DataError("network: it has no parameters to learn, so that nothing is unknown")
        return found
    return LinearReward(mdp, table, scale, tuple(names))


def feature_table(mdp: TabularMDP, features: Any) -> Tensor:
    """Features as float64 [S, F] or [S, A, F].

    Raises
    ------
    DataError
        For another shape, or what is not finite.
    """
    table = as_double(features, "features").detach()
    sizes = (mdp.n_states, mdp.n_actions)
    if table.dim() not in (2, 3) or table.shape[:-1] != sizes[: table.dim() - 1]:
        raise DataError(
            f"features: expected [S, F] or [S, A, F] with S = {sizes[0]} and A = {sizes[1]}, got "
            f"{tuple(table.shape)}"
        )
    return table


def flattened(draws: Mapping[str, Any], event_dims: Mapping[str, int]) -> tuple[Sites, torch.Size]:
    """Values with leading axes [*B] as one axis, and those axes.

    Raises
    ------
    DataError
        If sites differ in their leading axes, or one is missing.
    """
    found, batch = {}, None
    for name, width in event_dims.items():
        if name not in draws:
            raise DataError(f"params: expected a value of {name!r}, got {sorted(draws)}")
        value = as_double(draws[name], f"params[{name!r}]").detach()
        lead = value.shape[: value.dim() - width]
        if batch is not None and lead != batch:
            raise DataError(f"params[{name!r}]: expected leading axes {tuple(batch)}, got {lead}")
        batch = lead
        found[name] = value.reshape(-1, *value.shape[value.dim() - width :])
    assert batch is not None
    return found, batch
