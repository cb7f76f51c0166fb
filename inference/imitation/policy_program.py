"""The trajectory program of a policy as a function of one flat vector: densities, entropy, KL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from likely.envs import TabularMDP, Trajectories
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
        self.policy, self.seed = policy, seed
        self.spaces = state_space, action_space
        self.program = Program(TrajectoryModel(policy), blank(*self.spaces), seed=seed)
        self.coordinates = Coordinates(self.program)

    @property
    def whole(self) -> bool:
        """Whether all actions of an episode are one event, as they share a mode."""
        return isinstance(self.policy, MixturePolicy) and self.policy.per == "episode"

    @property
    def closed(self) -> bool:
        """Whether the entropy of actions, and their divergence, have a closed form."""
        fn, _ = self.actions(self.program, self.start())
        return not bool(torch.isnan(entropy(fn)).any())

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
            if unknown and (not isinstance(init, Fit) or not set(given) & set(values)):
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
        """The distribution of the batch's actions at a position, and the actions.

        Its batch shape is [N]; [E] where all actions of an episode are one event.
        """
        with self.program.session(0):
            values = self.coordinates.constrain(x)
            trace = batch.trace(lambda name, _: values.get(name), enumerate_latents=False)
        node = trace.nodes["action"]
        return node["fn"], node["value"]

    def distribution(self, x: Tensor, states: Tensor) -> Any:
        """The distribution [n] of actions in states [n, *state] at a position."""
        with self.program.session(0):
            return self.policy.distribution(self.coordinates.constrain(x), states)


def check_playable(env: Any, policy: Any) -> None:
    """Raise an `OptionError` unless a policy is one, and can play in an environment.

    A mode of each episode cannot play in a process, which is played from a table.
    """
    if not isinstance(policy, Policy):
        raise OptionError(f"policy must be one of likely.models, got {policy!r}")
    whole = isinstance(policy, MixturePolicy) and policy.per == "episode"
    if whole and isinstance(env, TabularMDP):
        raise OptionError(
            "policy: a mode for each episode has no table, from which a TabularMDP is played; use "
            "MixturePolicy(..., per='step'), or the environment"
        )


def entropy(fn: Any, taken: Tensor | None = None) -> Tensor:
    """Entropies [n] of distributions of actions, in nats.

    Where they have no closed form (mixtures of vectors, modes of whole episodes) they are nan, or,
    with actions that were drawn from them, −log p of these, whose mean is the entropy.
    """
    if fn.has_enumerate_support:
        logs = _logs(fn)
        return -(logs.exp() * _finite(logs)).sum(0)
    try:
        found: Tensor = fn.entropy()
    except NotImplementedError:
        if taken is not None:
            return -_log_prob(fn, taken)
        return torch.full(fn.batch_shape, torch.nan, dtype=torch.float64)
    return found


def divergence(before: Any, after: Any, taken: Tensor | None = None) -> Tensor:
    """KL(before ‖ after) [n] of distributions of actions, in nats.

    Where it has no closed form it is estimated from actions that were drawn from ``before``, as
    ρ − 1 − log ρ with the ratio ρ of densities: at least zero, of the right mean, and curved like
    the Fisher information of these actions (Schulman 2020, "Approximating KL divergence").

    Raises
    ------
    OptionError
        If it has no closed form, and no actions are given.
    """
    if before.has_enumerate_support:
        old, new = _logs(before), _logs(after)
        return (old.exp() * torch.where(old > -torch.inf, old - new, 0.0)).sum(0)
    try:
        return torch.distributions.kl_divergence(before, after)
    except NotImplementedError as error:
        if taken is None:
            raise OptionError(
                "policy: the divergence of these distributions is not closed"
            ) from error
    log_ratio = _log_prob(after, taken) - _log_prob(before, taken)
    return log_ratio.exp() - 1 - log_ratio


def _log_prob(fn: Any, taken: Tensor) -> Tensor:
    found: Tensor = fn.log_prob(taken)
    return found


def _logs(fn: Any) -> Tensor:
    """Log-probabilities [A, N]."""
    found: Tensor = fn.log_prob(fn.enumerate_support())
    return found


def _finite(logs: Tensor) -> Tensor:
    return torch.where(logs > -torch.inf, logs, 0.0)
