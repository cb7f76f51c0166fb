"""Forward–backward and Viterbi for many sequences at once.

The recursions are those of Rabiner (1989, "A tutorial on hidden Markov models", section III and
V.A), scaled to one at every step. States are rows and observations columns, packed by step (see
`Packing`), so a step is one small matrix product for all sequences together.

Log-potentials may be anything: log-probabilities or not, and −inf. Within a step the emissions are
divided by the largest of them, so they may lie hundreds of nats apart. Where a chain has moves of
probability zero, that is not enough: a state's share can fall below the smallest number and turn
out, steps later, to have been the only possible one. Such shares are looked for, and if what came
later could have raised one of them, everything is done again with logarithms.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.models.markov._packing import Packing
from likely.models.markov._recursions import Scaled, backward, forward

# Size of the imaginary step that takes second derivatives; its square is below all rounding.
_STEP = 1e-20


def evidence(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    packing: Packing,
    hard: bool = False,
) -> Tensor:
    """Log-evidence of every sequence, the states summed out.

    Differentiable twice in reverse mode; the first derivatives are the posterior probabilities of
    first states, moves and states, from one backward recursion.

    Parameters
    ----------
    log_initial
        [K]: log-potential of the first state.
    log_transition
        [K, K]: of a move from the row's state to the column's.
    log_emission
        [K, N]: of each observation in each state, columns in the order of ``packing``.
    packing
        Where the sequences' steps are.
    hard
        Take the best path instead of the sum over all paths (first derivatives only).

    Returns
    -------
    Tensor
        [S], in nats; −inf where no path is possible, with derivatives of 0.

    Examples
    --------
    >>> stay = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    >>> packing = Packing.build(torch.tensor([2]))
    >>> emission = torch.tensor([[0.8, 0.2], [0.1, 0.7]]).log()
    >>> evidence(torch.tensor([0.5, 0.5]).log(), stay, emission, packing).exp()
    tensor([0.1325])
    """
    plain = torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    if hard:
        path = viterbi(
            log_initial.detach(), log_transition.detach(), log_emission.detach(), packing
        )
        return path_density(log_initial, log_transition, log_emission, path, packing)
    if plain:
        return evidence_by_logarithms(log_initial, log_transition, log_emission, packing)
    result: Tensor = _Evidence.apply(log_initial, log_transition, log_emission, packing)
    return result


def smoothed(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, packing: Packing
) -> Tensor:
    """Posterior probabilities of the states given whole sequences, [K, N].

    Arguments as in `evidence`, of which this is the derivative by ``log_emission``.
    """
    with torch.enable_grad():
        leaf = log_emission.detach().clone().requires_grad_(True)
        total = evidence(log_initial.detach(), log_transition.detach(), leaf, packing)
        (found,) = torch.autograd.grad(total.sum(), leaf)
    result: Tensor = found
    return result


def filtered(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, packing: Packing
) -> tuple[Tensor, Tensor]:
    """States given the past [K, N], and log p(observation | earlier ones) [N].

    Arguments as in `evidence`.
    """
    transition = log_transition.exp()
    scaled = forward(log_initial.exp(), transition, log_emission, packing)
    if not _lost(scaled, None) or not _lost(scaled, backward(transition, scaled, packing)[0]):
        return scaled.filtered, scaled.log_scale
    joint = torch.cat(_log_forward(log_initial, log_transition, log_emission, packing), 1)
    total = _log_sum(joint)
    state = (joint - torch.where(torch.isfinite(total), total, 0.0)).exp()
    log_scale = total.clone()
    past = total[packing.earlier]
    log_scale[packing.later] -= torch.where(torch.isfinite(past), past, 0.0)
    return state, log_scale


def viterbi(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, packing: Packing
) -> Tensor:
    """Most probable states of every sequence, int64 [N] in the order of ``packing``.

    Arguments as in `evidence`. Among equal paths the one of lower states from the end on. A plain
    loop over steps, at tens of microseconds each: all sequences together cost no more than the
    longest, but one sequence of 100,000 steps takes seconds, where `evidence` cuts it into chunks.
    """
    pointers = torch.zeros(log_emission.shape, dtype=torch.long, device=log_emission.device)
    emissions = log_emission.split(packing.widths, 1)
    links = pointers.split(packing.widths, 1)
    best = emissions[0] + log_initial.unsqueeze(-1)
    ends = [best] * packing.n_steps
    for t in range(1, packing.n_steps):
        width = packing.widths[t]
        reached, links[t][:] = (best[:, None, :width] + log_transition.unsqueeze(-1)).max(0)
        best = reached + emissions[t]
        ends[t] = best
    path = torch.empty(len(packing.owner), dtype=torch.long, device=log_emission.device)
    states = path.split(packing.widths)
    for t in range(packing.n_steps - 1, -1, -1):
        states[t][:] = ends[t].argmax(0)
        if t + 1 < packing.n_steps:
            width = packing.widths[t + 1]
            states[t][:width] = links[t + 1].gather(0, states[t + 1].unsqueeze(0)).squeeze(0)
    return path


def path_density(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    path: Tensor,
    packing: Packing,
) -> Tensor:
    """Joint log-potential [S] of every sequence and given states ``path`` [N]."""
    first = packing.widths[0]
    steps = log_emission.gather(0, path.unsqueeze(0)).squeeze(0)
    into = torch.cat(
        [log_initial[path[:first]], log_transition[path[packing.earlier], path[packing.later]]]
    )
    return by_sequence(steps + into, packing)


def evidence_by_logarithms(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, packing: Packing
) -> Tensor:
    """`evidence` in plain operations on logarithms: slower, never out of range, any derivative."""
    joint = _log_forward(log_initial, log_transition, log_emission, packing)
    widths = [*packing.widths[1:], 0]
    # Sequences end shortest first, that is, in reverse of the packing's order.
    ends = [reached[:, width:] for reached, width in zip(joint, widths, strict=True)]
    total = _log_sum(torch.cat(ends[::-1], 1))
    return torch.zeros_like(total).index_copy(0, packing.order, total)


def _log_forward(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, packing: Packing
) -> list[Tensor]:
    """Log-potential of each state with all observations so far, [K, width] for every step."""
    emissions = log_emission.split(packing.widths, 1)
    joint = [emissions[0] + log_initial.unsqueeze(-1)]
    for width, emission in zip(packing.widths[1:], emissions[1:], strict=True):
        moved = joint[-1][:, None, :width] + log_transition.unsqueeze(-1)
        joint.append(_log_sum(moved) + emission)
    return joint


def _log_sum(terms: Tensor) -> Tensor:
    """Log-sum-exp over the first dimension; −inf, with derivatives of 0, where all terms are."""
    top = terms.detach().amax(0)
    top = torch.where(torch.isfinite(top), top, 0.0)
    total = (terms - top).exp().sum(0)
    positive = total > 0
    return torch.where(positive, torch.where(positive, total, 1.0).log() + top, -math.inf)


def by_sequence(columns: Tensor, packing: Packing) -> Tensor:
    """Sums [S] of columns [N] over each sequence."""
    if packing.widths[0] == packing.widths[-1]:
        # Sequences of one length stay in order.
        return columns.reshape(packing.n_steps, packing.n_sequences).sum(0)
    return columns.new_zeros(packing.n_sequences).index_add(0, packing.owner, columns)


def _lost(scaled: Scaled, future: Tensor | None) -> bool:
    """Whether a share that is too small for a number may have mattered.

    Without ``future`` the answer errs on the side of yes. A share below the smallest number that
    keeps its digits is wrong by less than that number, and the evidence by that times ``future``.
    """
    limits = torch.finfo(scaled.filtered.real.dtype)
    # A share is found as a product, which must keep its digits, over a scale.
    lowest = limits.tiny ** (1 / 3)
    smallest = limits.tiny / limits.eps / lowest
    if not bool(scaled.scale.real.amin() > lowest):
        return True
    if not bool(scaled.filtered.real.amin() < smallest):
        return False
    small = scaled.filtered.real < smallest
    return future is None or not bool((future.real[small] < limits.eps**2 / smallest).all())


class _Found(NamedTuple):
    """What both recursions together find.

    Attributes
    ----------
    log_scale
        [N]: log p(observation | earlier ones).
    first, moves, states
        [K], [K, K] and [K, N]: posterior probabilities of first states, moves and states, the
        former two summed over sequences.
    lost
        Whether numbers were too small for that.
    """

    log_scale: Tensor
    first: Tensor
    moves: Tensor
    states: Tensor
    lost: bool


def _smoother(
    initial: Tensor,
    transition: Tensor,
    log_emission: Tensor,
    packing: Packing,
    weight: Tensor | None = None,
) -> _Found:
    """Both recursions; a ``weight`` [S] multiplies the probabilities of each sequence."""
    with packing.room(log_emission) as room:
        scaled = forward(initial, transition, log_emission, packing, room[0])
        doubtful = _lost(scaled, None)
        future, arrival = backward(transition, scaled, packing, room[1])
        lost = doubtful and _lost(scaled, future)
        filtered = scaled.filtered
        if weight is not None:
            filtered.mul_(weight[packing.owner])
        moves = filtered[:, packing.earlier] @ arrival[:, packing.later].T
        states = filtered.mul_(future)
    first = states[:, : packing.widths[0]].sum(1)
    return _Found(scaled.log_scale, first, moves.mul_(transition), states, lost)


def _statistics_by_logarithms(
    weight: Tensor, potentials: tuple[Tensor, ...], packing: Packing
) -> tuple[Tensor, ...]:
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = (
            potentials if further else tuple(p.detach().requires_grad_(True) for p in potentials)
        )
        # Views, so that potentials that need no gradient can be differentiated by.
        leaves = tuple(p.view_as(p) if p.requires_grad else p.clone() for p in inputs)
        for leaf in leaves:
            if not leaf.requires_grad:
                leaf.requires_grad_(True)
        total = evidence_by_logarithms(leaves[0], leaves[1], leaves[2], packing)
        # A sequence without evidence has no posterior, whatever its weight.
        possible = torch.where(torch.isfinite(total), total, 0.0) @ weight
        found = torch.autograd.grad(possible, leaves, create_graph=further, allow_unused=True)
    return tuple(
        torch.zeros_like(p) if f is None else f for p, f in zip(potentials, found, strict=True)
    )


class _Evidence(torch.autograd.Function):
    """`evidence` by the scaled recursions."""

    @staticmethod
    def forward(
        ctx: Any,
        log_initial: Tensor,
        log_transition: Tensor,
        log_emission: Tensor,
        packing: Packing,
    ) -> Tensor:
        """Compute the log-evidence ``[S]``."""
        ctx.save_for_backward(log_initial, log_transition, log_emission)
        ctx.packing, ctx.found = packing, None
        potentials = log_initial.exp(), log_transition.exp(), log_emission
        if any(ctx.needs_input_grad):
            found = _smoother(*potentials, packing)
            log_scale, lost = found.log_scale, found.lost
            ctx.found = None if lost else found
        else:
            scaled = forward(*potentials, packing)
            log_scale = scaled.log_scale
            lost = _lost(scaled, None) and _lost(
                scaled, backward(potentials[1], scaled, packing)[0]
            )
        if lost:
            return evidence_by_logarithms(log_initial, log_transition, log_emission, packing)
        return by_sequence(log_scale, packing)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Posterior probabilities, weighted by the gradient ``[S]``, summed over sequences."""
        (weight,) = gradients
        if ctx.found is None:
            return *_statistics_by_logarithms(weight, ctx.saved_tensors, ctx.packing), None
        if torch.is_grad_enabled():
            found = _Statistics.apply(weight, *ctx.saved_tensors, ctx.found, ctx.packing)
            return *found, None
        return *_weighted(weight, ctx.found, ctx.saved_tensors, ctx.packing), None


def _weighted(
    weight: Tensor, found: _Found, potentials: tuple[Tensor, ...], packing: Packing
) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics whose sequences count ``weight`` [S] times."""
    # A sum over sequences comes as a weight that is expanded from one number.
    if weight.stride(0) == 0 or len(weight) == 1:
        if bool(weight[0] == 1):
            return found.first, found.moves, found.states
        return found.first * weight[0], found.moves * weight[0], found.states * weight[0]
    log_initial, log_transition, log_emission = potentials
    own = _smoother(log_initial.exp(), log_transition.exp(), log_emission, packing, weight)
    return own.first, own.moves, own.states


class _Statistics(torch.autograd.Function):
    """`_weighted` as a function of the log-potentials, for second derivatives.

    The statistics are a gradient, so their Jacobian is symmetric, and its product with a direction
    is the statistics' change along it. An imaginary step in that direction gives it without
    cancellation (Squire & Trapp 1998, "Using complex variables to estimate derivatives of real
    functions"), from the same recursions.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        log_initial: Tensor,
        log_transition: Tensor,
        log_emission: Tensor,
        found: _Found,
        packing: Packing,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the statistics ``[K]``, ``[K, K]`` and ``[K, N]``."""
        ctx.save_for_backward(weight, log_initial, log_transition, log_emission)
        ctx.packing = packing
        return _weighted(weight, found, (log_initial, log_transition, log_emission), packing)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        """Change of the evidence and of the statistics along the directions."""
        for direction in directions:
            # Several directions at once come without memory of their own, which raises: the
            # recursions work in place.
            direction.data_ptr()
        weight, *potentials = ctx.saved_tensors
        moved = [
            torch.complex(p.double(), _STEP * v.double())
            for p, v in zip(potentials, directions, strict=True)
        ]
        initial, transition = moved[0].exp(), moved[1].exp()
        weights = weight.to(transition.dtype)
        found = _smoother(initial, transition, moved[2], ctx.packing, weights)
        by_weight = by_sequence(found.log_scale, ctx.packing)
        changes = (by_weight, found.first, found.moves, found.states)
        return *((change.imag / _STEP).to(weight.dtype) for change in changes), None, None
