"""The scaled forward and backward recursions, step by step for all sequences together.

States are rows and observations columns, packed by step (see `Packing`), so a step is one small
matrix product. Where there are few sequences and many steps, the sequences are cut into chunks:
what a chunk makes of each first state is found for all chunks at once, these small matrices are
chained along each sequence, and the chunks then run side by side from their known ends (the scan
of Särkkä & García-Fernández 2021, "Temporal parallelization of Bayesian smoothers", with one level
of blocks).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from likely.models.markov._packing import Chunks, Packing

# Chunks multiply the arithmetic by the number of states and divide the number of steps: they pay
# where there are so many steps, and so few sequences times squared states in each.
_FEWEST_STEPS = 256
_MOST_WORK = 600
# Largest step, states times sequences, for which NumPy is the faster library.
_MOST_ENTRIES = 2048


class Transfer(NamedTuple):
    """What each chunk makes of its first state.

    Attributes
    ----------
    shares
        [K, K, C]: share of the last state (first axis) given the first one, before its emission.
    weight
        [K, C]: potential of the chunk given its first state, over the largest of them.
    """

    shares: Tensor
    weight: Tensor


class Scaled(NamedTuple):
    """The forward recursion with every step scaled to one.

    Attributes
    ----------
    filtered
        [K, N]: p(state | observations up to this step).
    emission
        [K, N]: emission potentials over the largest of their column.
    scale
        [1, N]: p(observation | earlier ones), over that same number.
    log_scale
        [N]: log p(observation | earlier ones).
    transfer
        Of the chunks, where there are any.
    """

    filtered: Tensor
    emission: Tensor
    scale: Tensor
    log_scale: Tensor
    transfer: Transfer | None


def forward(
    initial: Tensor,
    transition: Tensor,
    log_emission: Tensor,
    packing: Packing,
    room: Tensor | None = None,
) -> Scaled:
    """The scaled forward recursion; Rabiner 1989, equations 92 and 95.

    Parameters
    ----------
    initial, transition
        [K] and [K, K]: potentials, not their logarithms. Complex numbers are welcome.
    log_emission
        [K, N].
    packing
        Where the sequences' steps are.
    room
        [K, N]: where to put the emission potentials.
    """
    top = log_emission.real.amax(0)
    top = torch.nan_to_num(top, nan=0.0, posinf=0.0, neginf=0.0)
    emission = torch.sub(log_emission, top, out=room).exp_()
    chunks = _chunks(packing, len(initial))
    if chunks is None:
        filtered, scale = _filter(initial.unsqueeze(-1), transition, emission, packing)
        return Scaled(filtered, emission, scale, scale.squeeze(0).log() + top, None)
    cut = emission.index_select(1, chunks.columns)
    transfer = _transfer(transition, cut, chunks)
    first = _first_states(initial, transition, transfer, chunks)
    filtered, scale = (
        found.index_select(1, chunks.back)
        for found in _filter(first[:, chunks.packing.order], transition, cut, chunks.packing)
    )
    return Scaled(filtered, emission, scale, scale.squeeze(0).log() + top, transfer)


def backward(
    transition: Tensor, scaled: Scaled, packing: Packing, room: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The scaled backward recursion; overwrites ``scaled.emission``.

    Parameters
    ----------
    transition, packing
        As in `forward`.
    scaled
        What `forward` returned.
    room
        [K, N]: where to put ``future``.

    Returns
    -------
    future
        [K, N]: p(later observations | state) / p(later observations | earlier ones); times
        ``filtered`` it is the posterior of the state.
    arrival
        [K, N]: the same for a state and its own observation as well, given the state before.
    """
    arrival = scaled.emission.div_(scaled.scale)
    if scaled.transfer is None:
        future = torch.empty_like(arrival) if room is None else room
        future[:, packing.last] = 1.0
        return _smooth(transition, arrival, future, packing)
    chunks = packing.chunks
    ends = scaled.filtered.index_select(1, chunks.back_ends)
    future = torch.empty_like(arrival)
    future[:, chunks.ends] = _last_futures(transition, scaled.transfer, ends, chunks)
    arrival = arrival.index_select(1, chunks.columns)
    found = _smooth(transition, arrival, future, chunks.packing)
    return found[0].index_select(1, chunks.back), found[1].index_select(1, chunks.back)


def _chunks(packing: Packing, n_states: int) -> Chunks | None:
    """The chunks of a packing, if they pay."""
    together = len(packing.owner) / packing.n_steps
    if packing.n_steps < _FEWEST_STEPS or together * n_states**2 > _MOST_WORK:
        return None
    return packing.chunks


# A sequence that comes out impossible is looked at by whoever asked.
@np.errstate(all="ignore")
def _filter(
    first: Tensor, transition: Tensor, emission: Tensor, packing: Packing
) -> tuple[Tensor, Tensor]:
    """Filtered states [K, N] and scales [1, N] from ``first`` [K, 1] or [K, S as packed]."""
    k, before = len(transition), packing.widths[0]
    filtered = torch.empty_like(emission)
    # One product predicts the next states and sums the present ones, which are not yet scaled.
    both = torch.cat([transition.T, torch.ones_like(transition[:1])])
    work = emission.new_empty(k + 1, before)
    xp, (both, first, work, potential, out) = _library(
        packing, both, first, work, emission, filtered
    )
    # Steps of their own memory: short rows that lie far apart cost more than the copies.
    blocks = [_own(_steps_first(potential, run)) for run in packing.runs]
    steps = [step for block in blocks for step in block]
    # NumPy's dot takes less time to start than its matmul.
    product = xp.dot if xp is np else xp.matmul
    divide, multiply = xp.divide, xp.multiply
    predicted, total, past = work[:k], work[k:], steps[0]
    multiply(past, first, out=past)
    for now, width in zip(steps[1:], packing.widths[1:], strict=True):
        if width < before:
            past, before = past[:, :width], width
            work = xp.empty((k + 1, width), dtype=work.dtype, **_place(work))
            predicted, total = work[:k], work[k:]
        product(both, past, out=work)
        divide(predicted, total, out=predicted)
        multiply(now, predicted, out=now)
        past = now
    for run, block in zip(packing.runs, blocks, strict=True):
        _steps_first(out, run)[:] = block
    scale = filtered.sum(0, keepdim=True)
    return filtered.div_(scale), scale


@np.errstate(all="ignore")
def _smooth(
    transition: Tensor, arrival: Tensor, future: Tensor, packing: Packing
) -> tuple[Tensor, Tensor]:
    """Fill ``future`` [K, N], right in each last column, and complete ``arrival``, in place."""
    xp, (moves, *arrays) = _library(packing, transition, arrival, future)
    arrivals, futures = (_by_step(array, packing) for array in arrays)
    product, multiply = xp.matmul, xp.multiply
    for t in range(packing.n_steps - 1, 0, -1):
        now, before, width = arrivals[t], futures[t - 1], packing.widths[t]
        multiply(now, futures[t], out=now)
        product(moves, now, out=before if before.shape[1] == width else before[:, :width])
    multiply(arrivals[0], futures[0], out=arrivals[0])
    return future, arrival


def _library(packing: Packing, *tensors: Tensor) -> tuple[Any, list[Any]]:
    """NumPy and arrays that share the tensors' memory where a step is small, else torch.

    A call of NumPy takes about half as long to start, and a step is hardly more than that.
    """
    entries = len(tensors[0]) * len(packing.owner) / packing.n_steps
    if tensors[0].device.type != "cpu" or entries > _MOST_ENTRIES:
        return torch, list(tensors)
    return np, [tensor.numpy() for tensor in tensors]


def _by_step(array: Any, packing: Packing) -> Any:
    if isinstance(array, Tensor):
        return array.split(packing.widths, 1)
    return [array[:, span] for span in packing.spans]


def _steps_first(array: Any, run: tuple[slice, int]) -> Any:
    """Steps of one width as a view [steps, K, width] of columns [K, N]."""
    columns, width = run
    return array[:, columns].reshape(len(array), -1, width).swapaxes(0, 1)


def _own(array: Any) -> Any:
    """A contiguous copy."""
    if isinstance(array, Tensor):
        return array.clone(memory_format=torch.contiguous_format)
    return array.copy()


def _place(array: Any) -> dict[str, Any]:
    return {"device": array.device} if isinstance(array, Tensor) else {}


def _transfer(transition: Tensor, emission: Tensor, chunks: Chunks) -> Transfer:
    """Run every chunk from each of its first states; ``emission`` [K, N] in chunk order."""
    k, packing = len(transition), chunks.packing
    back, ones = transition.T.contiguous(), torch.ones_like(transition[:1])
    emissions = emission.split(packing.widths, 1)
    n = packing.n_sequences
    shares = torch.diag_embed(emissions[0].T).permute(1, 2, 0).reshape(k, k * n)
    shares, total = _normalised(shares, ones)
    shares, log_weight = shares.reshape(k, k, n), total.log().reshape(k, n)
    done = []
    for t in range(1, packing.n_steps):
        width = packing.widths[t]
        if width < shares.shape[-1]:
            done.append((shares[..., width:], log_weight[:, width:]))
            shares, log_weight = shares[..., :width], log_weight[:, :width]
        moved = (back @ shares.reshape(k, k * width)).reshape(k, k, width)
        moved *= emissions[t].unsqueeze(1)
        shares, total = _normalised(moved.reshape(k, k * width), ones)
        shares = shares.reshape(k, k, width)
        log_weight = log_weight + total.log().reshape(k, width)
    done.append((shares, log_weight))
    shares, log_weight = (torch.cat(parts[::-1], -1) for parts in zip(*done, strict=True))
    alive = shares.real.sum(0) > 0
    level = torch.where(alive, log_weight.real, -torch.inf).amax(0)
    weight = (log_weight - torch.where(torch.isfinite(level), level, 0.0)).exp()
    weight = torch.where(alive, weight, torch.zeros_like(weight))
    # From the packing's order to that of the chunks.
    shares_by_chunk, weight_by_chunk = torch.empty_like(shares), torch.empty_like(weight)
    shares_by_chunk[..., packing.order] = shares
    weight_by_chunk[:, packing.order] = weight
    return Transfer(shares_by_chunk, weight_by_chunk)


def _normalised(columns: Tensor, ones: Tensor) -> tuple[Tensor, Tensor]:
    """Columns over their sums, and the sums; a column of zeros stays, with sum one."""
    total = ones @ columns
    total = torch.where(total.real > 0, total, torch.ones_like(total))
    return columns / total, total


@np.errstate(all="ignore")
def _first_states(
    initial: Tensor, transition: Tensor, transfer: Transfer, chunks: Chunks
) -> Tensor:
    """Predicted first state [K, C] of every chunk given all observations before it."""
    along = chunks.along
    found = torch.empty_like(transfer.weight)
    _, (moves, first, shares, weight, rows) = _library(
        along, transition, found, *transfer, along.rows
    )
    at = [rows[span] for span in along.spans]
    first[:, at[0]] = _library(along, initial.unsqueeze(-1))[1][0]
    for t in range(1, along.n_steps):
        before = at[t - 1][: along.widths[t]]
        joint = first[:, before] * weight[:, before]
        last = (shares[..., before] * joint).sum(1)
        first[:, at[t]] = moves.T @ (last / last.sum(0))
    return found


@np.errstate(all="ignore")
def _last_futures(transition: Tensor, transfer: Transfer, ends: Tensor, chunks: Chunks) -> Tensor:
    """``future`` [K, C] of every chunk's last step; ``ends`` [K, C]: filtered states there."""
    along = chunks.along
    found = torch.ones_like(ends)
    _, (moves, future, shares, weight, filtered, rows) = _library(
        along, transition, found, *transfer, ends, along.rows
    )
    at = [rows[span] for span in along.spans]
    for t in range(along.n_steps - 1, 0, -1):
        now, before = at[t], at[t - 1][: along.widths[t]]
        message = (shares[..., now] * future[:, None, now]).sum(0)
        message = moves @ (message * weight[:, now])
        future[:, before] = message / (message * filtered[:, before]).sum(0)
    return found
