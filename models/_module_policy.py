"""Policies that a torch module computes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from gymnasium.spaces import Box, Discrete
from pyro.nn import PyroModule
from torch import Tensor
from torch.func import functional_call

from likely.envs import DataError, Trajectories
from likely.models._options import check_count, check_number
from likely.models._policy_base import Params, Policy, Sites, checked_value, float_like

# What parameters of a module are called: this, three dollar signs, and their name in the module;
# sites with priors have a dot in their place.
NAME = "policy"


@dataclass(frozen=True, eq=False)
class ModulePolicy(Policy):
    r"""Actions that depend on states through a torch module.

    .. math:: a \mid s \sim \mathrm{Categorical}(\mathrm{softmax}(f(s))) \quad\text{or}\quad
              \mathcal{N}(f(s), \mathrm{diag}(\text{scale}^2))

    Parameters
    ----------
    module
        From states [n, \*state] to scores [n, A] of the actions, or to their means [n, U]. It must
        not draw random numbers when it is called (dropout).
    size
        A, or U.
    is_discrete
        Whether actions are one of A; else vectors [U].
    prior_scale
        Standard deviation of normal priors of all weights. Without it they have none
        (``pyro.module``): `MLE`, `MAP`, `EM` and `SVI` fit them, starting where the module is.
    noise_scale
        Scale of the half-normal prior of ``scale``, the spread of actions in a Box.

    Notes
    -----
    Sites ``policy$$$...``, a parameter each; with a prior ``policy....`` instead; and ``scale`` [U]
    for actions in a Box.

    Raises
    ------
    DataError
        For no module, and, when it is used, for outputs of another shape.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> sorted(ModulePolicy(net, 2).dims)
    ['policy$$$0.bias', 'policy$$$0.weight', 'policy$$$2.bias', 'policy$$$2.weight']
    """

    module: torch.nn.Module
    size: int
    is_discrete: bool = True
    prior_scale: float | None = None
    noise_scale: float = 10.0

    def __post_init__(self) -> None:
        if not isinstance(self.module, torch.nn.Module) or isinstance(self.module, PyroModule):
            raise DataError(
                f"module: expected a plain torch.nn.Module, got {type(self.module).__name__}"
            )
        check_count(self.size, "size", 1)
        check_number(self.noise_scale, "noise_scale", positive=True)
        if not isinstance(self.is_discrete, bool):
            raise DataError(f"is_discrete must be True or False, got {self.is_discrete!r}")
        if self.prior_scale is not None:
            check_number(self.prior_scale, "prior_scale", positive=True)

    @property
    def action_space(self) -> Box | Discrete:
        """One of A actions, or vectors [U] without bounds."""
        if self.is_discrete:
            return Discrete(self.size)
        return Box(-np.inf, np.inf, (self.size,), np.float64)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of each site; weights have their own."""
        found = {
            name: tuple(f"{name}_{i}" for i in range(parameter.dim()))
            for name, parameter in self._parameters().items()
        }
        return found if self.is_discrete else {**found, "scale": ("control",)}

    def _parameters(self) -> dict[str, Tensor]:
        between = "$$$" if self.prior_scale is None else "."
        return {f"{NAME}{between}{n}": p for n, p in self.module.named_parameters()}

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` unless there are as many actions or controls as outputs."""
        super().check(trajectories)
        space: Any = trajectories.action_space
        found = (int(space.n),) if self.is_discrete else space.shape
        if found != (self.size,):
            raise DataError(f"trajectories: expected actions of size {self.size}, got {space}")

    def sample_sites(self, states: Tensor) -> Sites:
        """Register the module's parameters, or sample them where they have a prior."""
        like, sites = float_like(states), {}
        if self.prior_scale is None:
            pyro.module(NAME, self.module)
        else:
            spread = like.new_tensor(float(self.prior_scale))
            for name, parameter in self._parameters().items():
                prior = dist.Normal(torch.zeros_like(spread), spread).expand(parameter.shape)
                sites[name] = pyro.sample(name, prior.to_event(parameter.dim()))
        if not self.is_discrete:
            spread = like.new_full((self.size,), float(self.noise_scale))
            sites["scale"] = pyro.sample("scale", dist.HalfNormal(spread).to_event(1))
        return sites

    def distribution(self, sites: Sites, states: Tensor) -> Any:
        """Categories with the module's outputs as scores, or normal actions around them."""
        states = states if states.is_floating_point() else states.to(float_like(states).dtype)
        own = {name[len(NAME) + 1 :]: v for name, v in sites.items() if name != "scale"}
        plain = {name.lstrip("$"): value for name, value in own.items()}
        output = functional_call(self.module, plain, (states,)) if plain else self.module(states)
        rows = states.shape[:1]
        if not isinstance(output, Tensor) or output.shape[:1] + output.shape[-1:] != (
            *rows,
            self.size,
        ):
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise DataError(f"module: expected outputs {(*rows, self.size)}, got {got}")
        if self.is_discrete:
            return dist.Categorical(logits=output)
        return dist.Normal(output, sites["scale"]).to_event(1)

    def initial(self, states: Tensor, actions: Tensor, weights: Tensor | None) -> Sites:
        """Start where the module is."""
        if self.prior_scale is None:
            return {}
        like = float_like(states)
        return {name: value.detach().to(like) for name, value in self._parameters().items()}

    def _values(self, params: Params, states: Tensor) -> Sites:
        """Values of all parameters, for a call of the module with these in place of its own."""
        found = {n: checked_value(params, n, p.shape) for n, p in self._parameters().items()}
        if not self.is_discrete:
            found["scale"] = checked_value(params, "scale", torch.Size([self.size]))
        return found

    def _ready(self, params: Params, states: Tensor) -> tuple[Policy, Sites]:
        """A copy whose module is float64, buffers included, and the values of its parameters."""
        module = copy.deepcopy(self.module).double().eval()
        return replace(self, module=module), self._values(params, states)
