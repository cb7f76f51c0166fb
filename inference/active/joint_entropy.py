r"""Entropy of the classes of several points together, averaged over posterior draws.

Given the parameters the classes are independent, so that

.. math:: p(y_1, \dots, y_b) = \frac1S \sum_s \prod_i p(y_i \mid \theta_s).

The sum over all :math:`K^b` configurations of classes is exact; where these are too many,
configurations are drawn (Kirsch et al. 2019, §4). In both cases a configuration m has a weight, and
keeps how much it favours each draw, :math:`p(y_m \mid \theta_s) / p(y_m)`: products of many
probabilities then neither underflow nor need logarithms, and one more point's conditional entropy
is that of its predictive reweighted so: one matrix product for all configurations and points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from likely.inference.active.blocks import (
    ROOM,
    TOLERANCE,
    as_probabilities,
    check_rows,
    minus_plogp,
    room_of,
    working_dtype,
)
from likely.inference.engines.checks import check_int, check_seed
from likely.inference.errors import OptionError

# What is made while configurations are extended: the old ones, factors, products, those kept.
COPIES = 4


@dataclass(frozen=True, eq=False)
class Configurations:
    """Classes that some points may have together.

    Attributes
    ----------
    favour
        [configurations, draws]: p(configuration | draw) / p(configuration).
    weights
        [configurations]: their probabilities, or equal ones where they were drawn.
    origin
        int64 [configurations]: the draw that each came from; None while all are listed.
    entropy
        Joint entropy of the points so far, in nats.
    """

    favour: Tensor
    weights: Tensor
    origin: Tensor | None
    entropy: float


def no_points(probs: Tensor) -> Configurations:
    """The one configuration of no points, for probabilities [draws, pool, classes]."""
    like = probs.new_zeros((), dtype=working_dtype(probs.dtype))
    return Configurations(like.new_ones(1, len(probs)), like.new_ones(1), None, 0.0)


def add_point(
    state: Configurations,
    points: Tensor,
    *,
    configurations: int,
    budget: int,
    source: torch.Generator,
) -> Configurations:
    """The configurations of one more point.

    Parameters
    ----------
    state : Configurations
        Of all points but the last.
    points : Tensor
        [draws, points, classes]: all points so far, the new one last.
    configurations : int
        How many are listed at most; beyond, as many are drawn.
    budget : int
        Most bytes.
    source : torch.Generator
        On the CPU: draws are the same on every device.

    Raises
    ------
    OptionError
        If the budget does not hold the configurations.
    """
    points = points.to(state.favour.dtype)
    new = points[:, -1]
    entropy = state.entropy + float(_conditional(state, new))
    classes = new.shape[-1]
    listed = len(state.weights) * classes
    if state.origin is None and listed <= configurations:
        check_room(listed, points, budget)
        return replace(_listed(state, new), entropy=entropy)
    check_room(configurations, points, budget)
    if state.origin is None:
        state = _none_drawn(points, configurations)
        for i in range(points.shape[1] - 1):
            state = _drawn(state, points[:, i], source)
    return replace(_drawn(state, new, source), entropy=entropy)


def conditional_entropies(state: Configurations, probs: Tensor, budget: int) -> Tensor:
    """Entropy of each point's class given the classes of those in ``state``, [pool] in nats.

    Parameters
    ----------
    state : Configurations
    probs : Tensor
        [draws, pool, classes].
    budget : int
        Most bytes of the products and what is made from them.
    """
    draws, size, classes = probs.shape
    favour, dtype = state.favour, state.favour.dtype
    # Weights and origins are eight bytes at most.
    left = budget - favour.numel() * dtype.itemsize - 16 * len(favour)
    # Two numbers for each class, the point's own, and sums.
    least = dtype.itemsize * classes * (draws + 4)
    floats = min(left, max(least, room_of(probs.device))) // dtype.itemsize
    rows, columns = _block(floats, draws, classes, len(favour), size)
    product, logs = (favour.new_empty(rows * columns * classes) for _ in range(2))
    found = favour.new_empty(size)
    for start in range(0, size, columns):
        block = probs[:, start : start + columns].to(dtype).reshape(draws, -1)
        width = block.shape[1]
        total = favour.new_zeros(width)
        for first in range(0, len(favour), rows):
            part = favour[first : first + rows]
            p = product[: len(part) * width].view(len(part), width)
            log = logs[: len(part) * width].view(len(part), width)
            torch.addmm(p, part, block, beta=0, alpha=1 / draws, out=p)
            total.addmv_(minus_plogp(p, out=log).T, state.weights[first : first + rows])
        found[start : start + columns] = total.view(-1, classes).sum(-1)
    return found


@torch.no_grad()
def joint_entropy(
    probs: Any, *, configurations: int = 100_000, seed: int = 0, budget: int = ROOM
) -> Tensor:
    r"""Entropy of the classes of all given points together.

    Exact while the configurations of all points but the last are no more than
    ``configurations``; beyond, as many are drawn, evenly from all posterior draws, and the
    entropy of each further point is averaged over them.

    Parameters
    ----------
    probs : Tensor
        [draws, points, classes]. A point that is given twice is answered twice.
    configurations : int
        How many are listed, or drawn.
    seed : int
        For the drawn ones; the same on every device.
    budget : int
        Most bytes of the configurations, and of the blocks made from them.

    Returns
    -------
    Tensor
        The entropy in nats, without dimensions.

    Raises
    ------
    DataError
        If ``probs`` are no probabilities.
    OptionError
        If an option has a value it cannot have, or the budget does not hold the configurations.

    Examples
    --------
    Two coins that are the same, of which either may be two-headed:

    >>> joint_entropy(torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]))
    tensor(0.6931)
    """
    probs = as_probabilities(probs, 3)
    check_options(configurations, seed, budget)
    check_rows(probs.to(working_dtype(probs.dtype)), TOLERANCE[probs.dtype])
    source = torch.Generator().manual_seed(int(seed))
    state = no_points(probs)
    for i in range(probs.shape[1] - 1):
        state = add_point(
            state, probs[:, : i + 1], configurations=configurations, budget=budget, source=source
        )
    last = probs[:, -1:]
    conditional = conditional_entropies(state, last, budget)[0]
    return conditional + state.entropy


def check_options(configurations: Any, seed: Any, budget: Any) -> None:
    """Raise an `OptionError` unless all are what they must be."""
    check_int("configurations", configurations, 1)
    check_seed("seed", seed)
    check_int("budget", budget, 1)


def check_room(configurations: int, probs: Tensor, budget: int) -> None:
    """Raise an `OptionError` unless the budget holds configurations while they are extended."""
    each = COPIES * len(probs) * working_dtype(probs.dtype).itemsize
    # Of one point: chances of its classes, and in double precision what they are drawn by.
    each += 8 * (4 * probs.shape[-1] + 4)
    needed = configurations * each
    if needed > budget:
        raise OptionError(
            f"budget must be at least {needed} bytes for {configurations} configurations of "
            f"{len(probs)} draws, got {budget}: raise it, or lower configurations"
        )


def _conditional(state: Configurations, new: Tensor) -> Tensor:
    """Entropy of one point's class [draws, classes] given those in ``state``."""
    return state.weights @ minus_plogp(state.favour @ new / len(new)).sum(-1)


def _listed(state: Configurations, new: Tensor) -> Configurations:
    """Every configuration with every class of a new point; impossible ones are left out."""
    chance = state.favour @ new / len(new)
    weights = (state.weights.unsqueeze(-1) * chance).reshape(-1)
    favour = state.favour.unsqueeze(1) * (new.T / chance.clamp(min=_tiny(new)).unsqueeze(-1))
    favour = favour.reshape(len(weights), -1)
    possible = weights > 0
    if not bool(possible.all()):
        favour, weights = favour[possible], weights[possible]
    return Configurations(favour, weights, None, 0.0)


def _none_drawn(points: Tensor, configurations: int) -> Configurations:
    """Drawn configurations of no points, as evenly as can be from all draws."""
    origin = torch.arange(configurations, device=points.device) % len(points)
    favour = points.new_ones(configurations, len(points))
    weights = points.new_full((configurations,), 1 / configurations)
    return Configurations(favour, weights, origin, 0.0)


def _drawn(state: Configurations, new: Tensor, source: torch.Generator) -> Configurations:
    """Each drawn configuration with a class of a new point that its draw gives it."""
    assert state.origin is not None
    uniform = torch.rand(len(state.weights), generator=source, dtype=torch.float64)
    bounds = new.double().cumsum(-1)
    # Up to the sum itself: a class without probability is never drawn.
    level = uniform.to(new.device) * bounds[state.origin, -1]
    label = (bounds[state.origin] <= level.unsqueeze(-1)).sum(-1).clamp_(max=new.shape[-1] - 1)
    favour = state.favour * new.T[label]
    favour /= favour.mean(-1, keepdim=True).clamp_(min=_tiny(new))
    return replace(state, favour=favour)


def _block(floats: int, draws: int, classes: int, rows: int, columns: int) -> tuple[int, int]:
    """Configurations and points of one product: two results of these, and the points' own."""
    points = max(1, min(columns, int((floats / 2) ** 0.5) // (2 * classes)))
    left = floats - (draws + 2) * points * classes
    each = 2 * points * classes
    if left < each:
        points, left, each = 1, floats - (draws + 2) * classes, 2 * classes
    if left < each:
        raise OptionError(
            f"budget is too small for one point of {draws} draws and {classes} classes: it holds "
            f"{floats} numbers"
        )
    return min(rows, left // each), points


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
