"""One step of a policy gradient at a time, for every method that moves a policy by rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from likely.envs import Trajectories
from likely.inference.coordinates import require_finite
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.policy_program import PolicyProgram, divergence, entropy
from likely.inference.imitation.trust_region import fisher_product, natural_step, search_line
from likely.inference.program import Program
from likely.models.policy import Policy

if TYPE_CHECKING:
    from likely.inference.imitation.policy_gradient import PolicyGradient


class PolicyLearner:
    """A policy that policy gradients move; `PolicyGradient.learner` makes it.

    Where rewards come from is not its business: `update` takes trajectories with rewards.

    Attributes
    ----------
    x : Tensor
        Where the policy is, flat and unconstrained, [n].
    updates : int
        How often it was moved.
    """

    def __init__(
        self,
        options: PolicyGradient,
        policy: Policy,
        state_space: Any,
        action_space: Any,
        init: Mapping[str, Any] | Fit | None = None,
    ) -> None:
        self.options = options
        self.program = PolicyProgram(policy, state_space, action_space, options.seed)
        if self.program.whole and options.weight != "return":
            raise OptionError(
                f"weight: with a mode for each episode its steps cannot be told apart; use "
                f"weight='return', got {options.weight!r}"
            )
        if options.entropy > 0 and not self.program.closed:
            raise OptionError("entropy: that of this policy has no closed form; expected 0")
        self.x = torch.nn.Parameter(self.program.start(init))
        self.optimizer = options.make_optimizer([self.x])
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.updates = 0

    @property
    def params(self) -> dict[str, Tensor]:
        """Site to value."""
        return self.program.params(self.x)

    def acting(self, greedy: bool = False) -> ActingPolicy:
        """The policy as it is now, ready to play."""
        return ActingPolicy(self.program.policy, self.params, *self.program.spaces, greedy)

    # -- moving ------------------------------------------------------------------------------

    def update(self, trajectories: Trajectories, weights: Tensor | None = None) -> dict[str, float]:
        """Move once by what episodes of the present policy earned.

        Parameters
        ----------
        trajectories
            Episodes of `acting`, with rewards.
        weights
            [N] or [E]; by default those of `step_weights` by the options. Only [E] where a mode
            is chosen for each episode.

        Returns
        -------
        dict
            ``entropy``, the mean over the states visited, before; ``kl``, of the policy after the
            step from that before; nats a step, estimated where they are not closed.

        Raises
        ------
        NonFiniteError
            If the objective is no number.
        """
        if weights is None:
            weights = self.weights(trajectories)
        batch, n = self.program.with_data(trajectories, weights), trajectories.n_steps
        before = self.x.detach().clone()
        with torch.no_grad():
            old, taken = self.program.actions(batch, before)
            spread = float(entropy(old, taken).sum() / n)
        self._move(batch, trajectories, weights, old, taken)
        require_finite(float(self.x.detach().sum()), "the policy", self.updates)
        self.updates += 1
        with torch.no_grad():
            new, _ = self.program.actions(batch, self.x)
            moved = float(divergence(old, new, taken).sum() / n)
        return {"entropy": spread, "kl": moved}

    def _move(
        self, batch: Program, trajectories: Trajectories, weights: Tensor, old: Any, taken: Tensor
    ) -> None:
        if self.options.step == "gradient":
            self._climb(batch, len(trajectories))
        else:
            self._leap(batch, trajectories, weights, old, taken)

    def weights(self, trajectories: Trajectories) -> Tensor:
        """Weights of the steps [N] by the options, or of whole episodes [E]."""
        found = self.options.weights(trajectories)
        return found[trajectories.starts] if self.program.whole else found

    def gradient(self, trajectories: Trajectories, weights: Tensor | None = None) -> Tensor:
        """Gradient [n] of the objective at the present position, a mean over the episodes."""
        if weights is None:
            weights = self.weights(trajectories)
        batch = self.program.with_data(trajectories, weights)
        return self._gradient(batch, len(trajectories))

    def _objective(self, batch: Program, x: Tensor, episodes: int) -> Tensor:
        total = self.program.log_likelihood(batch, x) / episodes
        if self.options.entropy > 0:
            fn, _ = self.program.actions(batch, x)
            total = total + self.options.entropy * entropy(fn).sum() / episodes
        return total

    def _gradient(self, batch: Program, episodes: int) -> Tensor:
        x = self.x.detach().requires_grad_(True)
        with torch.enable_grad():
            objective = self._objective(batch, x, episodes)
            require_finite(float(objective.detach()), "the weighted density", self.updates)
            (found,) = torch.autograd.grad(objective, x)
        return found

    def _climb(self, batch: Program, episodes: int) -> None:
        # Optimisers go down.
        self.x.grad = -self._gradient(batch, episodes)
        share = self.options.share(self.updates)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = share * rate
        self.optimizer.step()

    def _leap(
        self,
        batch: Program,
        trajectories: Trajectories,
        weights: Tensor,
        old: Any,
        taken: Tensor,
    ) -> None:
        own, episodes, n = self.options, len(trajectories), trajectories.n_steps
        with torch.no_grad():
            logs, spread = old.log_prob(taken), entropy(old).sum()
        by_row = weights if len(weights) == len(logs) else weights[trajectories.episode]

        def away(x: Tensor) -> Tensor:
            return divergence(old, self.program.actions(batch, x)[0], taken).sum() / n

        def gain(x: Tensor) -> Tensor:
            fn, _ = self.program.actions(batch, x)
            ratio = (fn.log_prob(taken) - logs).exp()
            gained = (by_row * (ratio - 1)).sum()
            if own.entropy > 0:
                gained = gained + own.entropy * (entropy(fn).sum() - spread)
            return gained / episodes

        here = self.x.detach()
        product, radius = fisher_product(away, here), own.radius * own.share(self.updates)
        gradient = self._gradient(batch, episodes)
        step = natural_step(gradient, product, radius, own.damping, own.products)
        there = here + step
        if own.step == "trust_region":
            there = search_line(gain, away, here, step, radius, own.halvings)
        with torch.no_grad():
            self.x.copy_(there)

    # -- files -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the next step depends on, as tensors and plain values."""
        return {
            "x": self.x.detach().clone(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        with torch.no_grad():
            self.x.copy_(state["x"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = int(state["updates"])

    def fit(
        self,
        trajectories: Trajectories,
        history: pd.DataFrame,
        *,
        name: str,
        seconds: float,
        converged: bool = False,
    ) -> Fit:
        """The policy as a `Fit`: of the program of these episodes, at the present position."""
        own, params = self.options, self.params
        program = Program(self.program.program.source, trajectories, seed=own.seed)
        with program.session(0), torch.no_grad():
            density = program.density(params)
        return Fit(
            engine=name,
            options=own.described(),
            params=params,
            draws={site: value[None, None] for site, value in params.items()},
            log_likelihood=float(density.log_likelihood),
            log_prior=float(density.log_prior),
            history=history,
            converged=converged,
            n_iter=self.updates,
            seconds=seconds,
            seed=own.seed,
            program=program,
        )
