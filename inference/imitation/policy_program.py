"""The trajectory program of a policy as a function of one flat vector: densities, entropy, KL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from likely.envs import Trajectories
from likely.inference.coordinates import Coordinates
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.playing import blank
from likely.inference.program import Program
from likely.models.policy import MixturePolicy, ModulePolicy, Policy
from likely.models.trajectory import TrajectoryModel

# Spread of the modes of a mixture around one start, from which they could not part.
_JITTER = 0.1


class PolicyProgram:
    """A policy's trajectory program, read once and given other trajectories in every iteration.

    Positions are flat unconstrained vectors [n], as engines have them.

    Parameters
    ----------
    policy
        Of the program.
    state_space, action_space
        Of the environment.
    seed
        Of the start.

    Attributes
    ----------
    program : Program
        With one step of zeros for data.
    coordinates : Coordinates
        Layout of the positions.
    """

    def __init__(self, policy: Policy, state_space: Any, action_space: Any, seed: int = 0) -> None:
        if isinstance(policy, MixturePolicy) and policy.per == "episode":
            raise OptionError(
                "policy: a mode for each episode makes its steps depend on each other; use "
                "MixturePolicy(..., per='step')"
            )
        self.policy, self.seed = policy, seed
        self.spaces = state_space, action_space
        self.program = Program(TrajectoryModel(policy), blank(*self.spaces), seed=seed)
        self.coordinates = Coordinates(self.program)

    # -- positions ---------------------------------------------------------------------------

    def start(self, init: Mapping[str, Any] | Fit | None = None) -> Tensor:
        """Where to begin: at ``init``, else at the origin, a module where it is.

        The origin has even tables, zero coefficients and a spread of one. Probabilities of zero,
        which a gradient could not change, become tiny.
        """
        given = init.params if isinstance(init, Fit) else dict(init or {})
        unknowns = self.program.sites.unknowns
        with self.program.session(self.seed), torch.no_grad():
            x = torch.zeros(self.coordinates.size, dtype=self.program.dtype)
            if isinstance(self.policy, MixturePolicy):
                x += _JITTER * torch.randn_like(x)
            values = self.coordinates.constrain(x)
            values |= {name: u.start for name, u in unknowns.items() if u.is_param}
            if isinstance(self.policy, ModulePolicy):
                states, actions = self.program.args[0].state_action_pairs()
                values |= self.policy.initial(states, actions, None)
            for name in values:
                if name in given:
                    values[name] = self._checked(name, given[name], values[name])
            unknown = sorted(set(given) - set(values))
            if unknown and not isinstance(init, Fit):
                raise OptionError(f"init: the policy has no sites {unknown}")
            # Where a sigmoid's slope is 1e-3, a step can still be seen.
            return self.coordinates.unconstrain(values, edge=7.0).detach()

    def _checked(self, name: str, value: Any, like: Tensor) -> Tensor:
        found = torch.as_tensor(value).detach().to(like)
        if found.shape != like.shape or not bool(torch.isfinite(found).all()):
            raise OptionError(
                f"init: expected finite numbers {tuple(like.shape)} for {name!r}, got "
                f"{tuple(found.shape)}"
            )
        return found

    def params(self, x: Tensor) -> dict[str, Tensor]:
        """Site to constrained value at a position."""
        with self.program.session(0), torch.no_grad():
            return {n: v.detach().clone() for n, v in self.coordinates.constrain(x).items()}

    # -- densities ---------------------------------------------------------------------------

    def with_data(self, trajectories: Trajectories, weights: Tensor | None = None) -> Program:
        """The program of these trajectories; weights [N] or [E] may be negative."""
        options = {} if weights is None else {"weights": weights, "signed": True}
        return self.program.rebind(trajectories, **options)

    def log_likelihood(self, batch: Program, x: Tensor) -> Tensor:
        """Σ w_t log π(a_t | s_t) at a position; differentiable."""
        with self.program.session(0):
            return batch.density(self.coordinates.split(x), unconstrained=True).log_likelihood

    def actions(self, batch: Program, x: Tensor) -> tuple[Any, Tensor]:
        """The distribution [N] of the batch's actions at a position, and the actions."""
        with self.program.session(0):
            values = self.coordinates.constrain(x)
            trace = batch.trace(lambda name, _: values.get(name), enumerate_latents=False)
        node = trace.nodes["action"]
        return node["fn"], node["value"]


def entropy(fn: Any) -> Tensor:
    """Entropies [N] of distributions of actions, in nats; nan where they have no closed form."""
    if fn.has_enumerate_support:
        logs = _logs(fn)
        return -(logs.exp() * _finite(logs)).sum(0)
    try:
        found: Tensor = fn.entropy()
    except NotImplementedError:
        return torch.full(fn.batch_shape, torch.nan, dtype=torch.float64)
    return found


def divergence(before: Any, after: Any) -> Tensor:
    """KL(before ‖ after) [N] of distributions of actions, in nats.

    Raises
    ------
    OptionError
        If it has no closed form, as between mixtures of vectors.
    """
    if before.has_enumerate_support:
        old, new = _logs(before), _logs(after)
        return (old.exp() * torch.where(old > -torch.inf, old - new, 0.0)).sum(0)
    try:
        return torch.distributions.kl_divergence(before, after)
    except NotImplementedError as error:
        raise OptionError("policy: the divergence of these distributions is not closed") from error


def _logs(fn: Any) -> Tensor:
    """Log-probabilities [A, N]."""
    found: Tensor = fn.log_prob(fn.enumerate_support())
    return found


def _finite(logs: Tensor) -> Tensor:
    return torch.where(logs > -torch.inf, logs, 0.0)
