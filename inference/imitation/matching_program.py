"""Where an expert goes, as data of a program that knows where each policy goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    horizon_occupancy,
    state_action_occupancy,
)
from likely.envs._checks import as_double, check_distribution
from likely.inference.engines.checks import check_choice, check_int, is_number
from likely.inference.errors import OptionError
from likely.inference.imitation.acting import as_table
from likely.models.policy import Policy


@dataclass(frozen=True, eq=False)
class OccupancyMatching:
    r"""A policy whose exact occupancy ρ_π is at a divergence from an expert's ρ_E.

    .. math:: \text{factorised:}\quad \log p = n \sum_{s,a} \rho_E(s, a)
              \left(\lambda \log \rho_\pi(s) + \log \pi(a \mid s)\right), \qquad
              \text{reverse:}\quad \log p = -n \, KL(\rho_\pi \| \rho_E)

    The occupancy is solved for exactly and differentiable, so that engines find the optimum by its
    gradient. n is the number of steps that the expert's distribution stands for.

    Parameters
    ----------
    mdp
        The process.
    policy
        Of `likely.models`, with Discrete states and actions.
    divergence : {"factorised", "reverse"}
        Which.
    over : {"occupancy", "trajectory"}
        Of the reverse divergence: KL of the occupancies, or of trajectories,
        Σ_s,a ρ_π(s, a) log π(a | s) / π_E(a | s), where dynamics cancel.
    state_weight
        λ of the factorised divergence: 1 is that of the joint; 0 leaves cloning.
    smoothing
        Share of the uniform distribution that is mixed into the expert's, which must not be zero
        where the learner goes; and weight of even actions, which decide where neither goes.
    horizon
        Number of steps; None for all.

    Notes
    -----
    Sites are the policy's. Data are ρ_E, [S, A].

    Raises
    ------
    OptionError
        If an option cannot be used.
    """

    mdp: TabularMDP
    policy: Policy
    divergence: str = "factorised"
    over: str = "occupancy"
    state_weight: float = 1.0
    smoothing: float = 1e-4
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Policy) or not self.policy.discrete:
            raise OptionError(f"policy: expected one of Discrete actions, got {self.policy!r}")
        check_choice("divergence", self.divergence, ("factorised", "reverse"))
        check_choice("over", self.over, ("occupancy", "trajectory"))
        for name, top in (("state_weight", float("inf")), ("smoothing", 1.0)):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < top:
                raise OptionError(f"{name} must be from 0 to below {top:g}, got {value!r}")
        for name, of, usual in (
            ("over", "reverse", "occupancy"),
            ("state_weight", "factorised", 1),
        ):
            if self.divergence != of and getattr(self, name) != usual:
                raise OptionError(f"{name}: an option of the {of} divergence alone")
        if self.horizon is not None:
            check_int("horizon", self.horizon, 1)

    def __call__(self, expert: Tensor, n: float = 1.0) -> None:
        """Run the program on ρ_E [S, A], of n steps."""
        states = torch.arange(self.mdp.n_states)
        sites = self.policy.sample_sites(states)
        table = self.table(sites, states)
        alive = self.mdp.alive
        # What is done where neither goes has no effect: a trace of even actions settles it, and in
        # a sink, where nothing can come of it, more than a trace; else the density would be flat.
        even = self.smoothing * _log(table).mean() + (_log(table).mean(-1) * (1 - alive)).sum()
        # Of the states before the end: a sink has neither choices nor a share.
        own = alive > 0
        rho, wanted = self._visits(table)[own], expert.to(table)[own]
        rho, wanted, table = rho / rho.sum(), wanted / wanted.sum(), table[own]
        where = rho.sum(-1, keepdim=True)
        if self.divergence == "factorised":
            value = (wanted * (self.state_weight * _log(where) + _log(table))).sum()
        elif self.over == "occupancy":
            value = -(rho * (_log(rho) - _log(wanted))).sum()
        else:
            given = _log(wanted) - _log(wanted.sum(-1, keepdim=True))
            value = -(rho * (_log(table) - given)).sum()
        pyro.factor("divergence", n * (value + even))

    def table(self, sites: dict[str, Any], states: Tensor) -> Tensor:
        """The program's own π(a | s), [S, A], differentiable."""
        fn = self.policy.distribution(sites, states)
        found: Tensor = fn.log_prob(fn.enumerate_support()).exp().movedim(0, -1)
        return found / found.sum(-1, keepdim=True)

    def _visits(self, table: Tensor) -> Tensor:
        if self.horizon is None:
            return state_action_occupancy(self.mdp, table)
        return horizon_occupancy(self.mdp, table, self.horizon)

    def initial(self, expert: Tensor, n: float = 1.0) -> dict[str, Tensor]:
        """Start at cloning."""
        rows = (expert > 0).nonzero()
        return self.policy.initial(rows[:, 0], rows[:, 1], expert[rows[:, 0], rows[:, 1]])


def _log(values: Tensor) -> Tensor:
    # Finite, with a derivative of zero, where nobody goes.
    return values.clamp_min(torch.finfo(values.dtype).tiny).log()


def target_occupancy(
    mdp: TabularMDP, expert: Any, smoothing: float = 0.0, horizon: int | None = None
) -> Tensor:
    """ρ_E [S, A], Σ = 1, of episodes or of a policy [S, A]; nothing in the sink.

    Parameters
    ----------
    mdp
        The process.
    expert
        `Trajectories`, whose visits are counted, step t as γ^t; or what `as_table` takes.
    smoothing
        Share of the uniform distribution.
    horizon
        Number of steps; None for all.

    Raises
    ------
    OptionError
        If the expert is neither, or the episodes are not of the process.
    DataError
        If a table holds no probabilities of its actions.
    """
    if isinstance(expert, Trajectories):
        states, actions = expert.state_action_pairs()
        if states.is_floating_point() or actions.is_floating_point():
            raise OptionError("expert: expected Discrete states and actions")
        if int(expert.states.max()) >= mdp.n_states or int(actions.max()) >= mdp.n_actions:
            raise OptionError(f"expert: expected states and actions of {mdp}")
        counts = mdp.discount ** expert.step.double()
        flat = torch.zeros(mdp.n_states * mdp.n_actions, dtype=torch.float64)
        flat.index_add_(0, states * mdp.n_actions + actions, counts)
        found = flat.reshape(mdp.n_states, mdp.n_actions)
    else:
        try:
            table = as_double(as_table(mdp, expert, "expert"), "expert")
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, DataError):
                raise
            raise OptionError(f"expert: expected episodes or a policy, got {expert!r}") from error
        check_distribution(table, "expert", ("s",))
        found = (
            state_action_occupancy(mdp, table)
            if horizon is None
            else horizon_occupancy(mdp, table, horizon)
        )
    found = found * mdp.alive.unsqueeze(-1)
    even = mdp.alive.unsqueeze(-1).expand(found.shape)
    return (1 - smoothing) * found / found.sum() + smoothing * even / even.sum()
