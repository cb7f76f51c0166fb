"""A policy that goes where an expert goes: the program knows where each policy goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from likely.envs import DataError, TabularMDP, horizon_occupancy, state_action_occupancy
from likely.models._options import check_count, check_number
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
    DataError
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
            raise DataError(f"policy: expected one of Discrete actions, got {self.policy!r}")
        for name, choices in (
            ("divergence", ("factorised", "reverse")),
            ("over", ("occupancy", "trajectory")),
        ):
            if getattr(self, name) not in choices:
                raise DataError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name, top in (("state_weight", float("inf")), ("smoothing", 1.0)):
            value = getattr(self, name)
            if not 0 <= check_number(value, name) < top:
                raise DataError(f"{name} must be from 0 to below {top:g}, got {value!r}")
        for name, of, usual in (
            ("over", "reverse", "occupancy"),
            ("state_weight", "factorised", 1),
        ):
            if self.divergence != of and getattr(self, name) != usual:
                raise DataError(f"{name}: an option of the {of} divergence alone")
        if self.horizon is not None:
            check_count(self.horizon, "horizon", 1)

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
