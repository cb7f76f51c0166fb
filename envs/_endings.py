"""Whether episodes end, without which nothing undiscounted has a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order
from torch import Tensor

from likely.envs.errors import PlanningError

if TYPE_CHECKING:
    from likely.envs.mdp import TabularMDP


def check_ends(mdp: TabularMDP, policy: Tensor, discount: float) -> None:
    """Raise `PlanningError` at discount 1 unless every episode under a policy [*B, S, A] ends."""
    if discount < 1:
        return
    if mdp.sink is None:
        raise PlanningError(
            "with discount 1 and without a sink, episodes never end and values are infinite; use a "
            "discount below 1 or plan over a finite horizon"
        )
    stuck = _stuck(mdp, policy, mdp.sink)
    if len(stuck):
        raise PlanningError(
            f"with discount 1 every episode must end, but from {len(stuck)} states the policy "
            f"never reaches the sink, the first is {mdp.states[stuck[0]]}; use a discount below 1 "
            "or a finite horizon"
        )


def _stuck(mdp: TabularMDP, policy: Tensor, sink: int) -> NDArray[np.int64]:
    """States from which the first policy of a batch [*B, S, A] that has any never ends."""
    for one in policy.detach().reshape(-1, mdp.n_states, mdp.n_actions):
        moves = mdp.kernel.support(one).T
        reaches = breadth_first_order(moves, sink, return_predecessors=False)
        if len(reaches) < mdp.n_states:
            return np.setdiff1d(np.arange(mdp.n_states), reaches)
    return np.zeros(0, dtype=np.int64)


def check_can_end(mdp: TabularMDP) -> None:
    """Raise `PlanningError` at discount 1 unless actions at random end every episode."""
    if mdp.discount == 1:
        shape = (mdp.n_states, mdp.n_actions)
        everything = torch.full(shape, 1 / mdp.n_actions, dtype=torch.float64)
        check_ends(mdp, everything.to(mdp.initial.device), 1.0)


def best_actions(q: Tensor) -> Tensor:
    """Mask [*B, S, A] of the actions that none is better than."""
    best = q.amax(-1, keepdim=True)
    # Actions that differ by rounding alone are equal, or the choice would differ by machine.
    return q >= best - 1e-13 * best.abs().clamp_min(1.0)


def first_of(allowed: Tensor) -> Tensor:
    """Mask [*B, S, A] of the first of the actions that a mask allows; the first if none."""
    n = allowed.shape[-1]
    return torch.nn.functional.one_hot(allowed.to(torch.int8).argmax(-1), n).bool()


def greedy(mdp: TabularMDP, q: Tensor) -> Tensor:
    """The policy [*B, S, A] that takes the best action of a process.

    Of equally good actions it takes the first. Where episodes would then never end, as when a step
    costs nothing and a wall is as good as the way to the goal, an undiscounted process takes one
    that leads to the end.
    """
    best = best_actions(q)
    chosen = first_of(best)
    policy = chosen.to(q.dtype)
    if mdp.discount == 1 and mdp.sink is not None and len(_stuck(mdp, policy, mdp.sink)):
        policy = _ending(mdp, chosen, best, mdp.sink).to(q.dtype)
    return policy


def _ending(mdp: TabularMDP, chosen: Tensor, best: Tensor, sink: int) -> Tensor:
    """Best actions that reach the sink with some probability wherever any of them do."""
    ends = torch.zeros(chosen.shape[:-1], dtype=torch.bool, device=chosen.device)
    ends[..., sink] = True
    for allowed in (chosen, best):
        while True:
            leads = allowed & (mdp.kernel.expect(ends.to(torch.float64)).detach() > 0)
            new = leads.any(-1) & ~ends
            if not bool(new.any()):
                break
            chosen = torch.where(new.unsqueeze(-1), first_of(leads), chosen)
            ends = ends | new
    return chosen
