"""Batches by scores: the best ones, drawn ones, and the best ones together (BatchBALD)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.acquisition import bald, entropies
from likely.inference.active.blocks import (
    ROOM,
    Batch,
    as_probabilities,
    as_scores,
    check_batch_size,
    pointwise,
)
from likely.inference.active.joint_entropy import (
    add_point,
    check_options,
    conditional_entropies,
    no_points,
)
from likely.inference.engines.checks import check_bool, check_positive, check_seed


@torch.no_grad()
def top_batch(scores: Any, batch_size: int) -> Batch:
    """The points with the highest scores; of equal scores the lowest index comes first.

    Parameters
    ----------
    scores : Tensor
        [pool]; ``-inf`` keeps a point out while others are left.
    batch_size : int
        Number of points.

    Returns
    -------
    Batch
        Indices, best first, and their scores.

    Raises
    ------
    DataError
        If the scores are no vector or hold NaN.
    OptionError
        If the batch is larger than the pool.

    Examples
    --------
    >>> top_batch(torch.tensor([0.1, 0.7, 0.7, 0.3]), 2).indices
    tensor([1, 2])
    """
    scores = as_scores(scores)
    check_batch_size(batch_size, len(scores))
    # `topk` breaks ties as it likes: it only says which scores are in question.
    least = scores.topk(batch_size).values[-1]
    kept = (scores >= least).nonzero()[:, 0]
    order = scores[kept].sort(descending=True, stable=True).indices[:batch_size]
    return Batch(kept[order], scores[kept[order]])


@torch.no_grad()
def power_bald(scores: Any, batch_size: int, *, beta: float = 1.0, seed: int = 0) -> Batch:
    r"""Points drawn without replacement, each in proportion to a power of its score.

    Kirsch et al. (2023, "Stochastic batch acquisition"): Gumbel noise is added to
    :math:`\beta \log` score and the highest sums are taken, which draws by
    :math:`\text{score}^\beta` from those that are left. Points of score 0 come last, by index.

    Parameters
    ----------
    scores : Tensor
        Scores [pool] such as those of `bald`, or posterior draws [draws, pool, classes] of which
        `bald` is taken. Negative scores count as 0.
    batch_size : int
        Number of points.
    beta : float
        The power; the higher, the nearer to `top_batch`.
    seed : int
        The same seed draws the same points on every device.

    Returns
    -------
    Batch
        Indices in the order drawn, and their scores, which need not fall.

    Raises
    ------
    DataError
        If the scores are not finite, or the probabilities none.
    OptionError
        If an option has a value it cannot have, or the batch is larger than the pool.

    Examples
    --------
    >>> power_bald(torch.tensor([0.0, 0.5, 1e-9, 0.0]), 2, beta=4.0).indices
    tensor([1, 2])
    """
    check_seed("seed", seed)
    check_positive("beta", beta)
    scores = as_scores(bald(scores) if getattr(scores, "ndim", 1) == 3 else scores)
    check_batch_size(batch_size, len(scores))
    if not bool(scores.isfinite().all()):
        raise DataError("scores must be finite, got an infinite one")
    source = torch.Generator().manual_seed(int(seed))
    uniform = torch.rand(len(scores), generator=source, dtype=torch.float64)
    # -log(-log u) is infinite at u = 0.
    tiny = torch.finfo(torch.float64).tiny
    uniform.clamp_(min=tiny).log_().neg_().clamp_(min=tiny).log_().neg_()
    perturbed = scores.double().clamp(min=0).log_().mul_(beta).add_(uniform.to(scores.device))
    picked = top_batch(perturbed, batch_size).indices
    return Batch(picked, scores[picked])


@torch.no_grad()
def batch_bald(
    probs: Any,
    batch_size: int,
    *,
    configurations: int = 10_000,
    distinct: bool = True,
    seed: int = 0,
    budget: int = ROOM,
) -> Batch:
    r"""Points whose classes together tell most about the parameters (Kirsch et al. 2019).

    Greedily, each point maximises :math:`I(y_1, \dots, y_b; \theta) = H(y_1, \dots, y_b) -
    \sum_i E_\theta H(y_i \mid \theta)` with those chosen before. The joint entropy is exact while
    the batch's configurations of classes are no more than ``configurations``; then as many are
    drawn, evenly from all posterior draws, and kept while the batch grows.

    Scores that differ by no more than rounding (64 units in the last place) count as equal, and of
    equal ones the lowest index is chosen.

    Parameters
    ----------
    probs : Tensor
        [draws, pool, classes].
    batch_size : int
        Number of points.
    configurations : int
        How many configurations of the batch's classes are listed, or drawn.
    distinct : bool
        Whether a point is chosen once at most. Otherwise a second, independent answer to the
        same question may be worth more than a first one to another.
    seed : int
        For drawn configurations; the same on every device.
    budget : int
        Most bytes of the configurations, and of the blocks made from them.

    Returns
    -------
    Batch
        Indices in the order chosen, and the mutual information of each with all before it, in
        nats: the last score is the batch's.

    Raises
    ------
    DataError
        If ``probs`` are no probabilities.
    OptionError
        If an option has a value it cannot have, the batch is larger than the pool (unless
        ``distinct`` is false), or the budget does not hold the configurations.

    Examples
    --------
    The second point tells the same as the first, the third something else:

    >>> sure, even = [1.0, 0.0], [0.5, 0.5]
    >>> draws = [[sure, sure, sure], [sure, sure, even], [even, even, sure], [even, even, even]]
    >>> batch_bald(torch.tensor(draws), 2).indices
    tensor([0, 2])
    """
    probs = as_probabilities(probs, 3)
    check_options(configurations, seed, budget)
    check_bool("distinct", distinct)
    check_batch_size(batch_size, probs.shape[1] if distinct else max(probs.shape[1], batch_size))
    draws, _, classes = probs.shape
    width = draws * classes + 4 * classes + 4
    # Checks the probabilities as well.
    conditional = pointwise(lambda p: entropies(p)[1], probs, width, budget)

    source = torch.Generator().manual_seed(int(seed))
    state = no_points(probs)
    chosen: list[int] = []
    found: list[Tensor] = []
    for _ in range(batch_size):
        if chosen:
            state = add_point(
                state,
                probs[:, chosen],
                configurations=configurations,
                budget=budget,
                source=source,
            )
        known = float(conditional[chosen].sum()) if chosen else 0.0
        scores = conditional_entropies(state, probs, budget)
        scores.sub_(conditional).add_(state.entropy - known)
        if distinct:
            scores[chosen] = -torch.inf
        chosen.append(_first_best(scores, scale=state.entropy))
        # A view would keep all scores of all steps.
        found.append(scores[chosen[-1]].clone())
    return Batch(torch.tensor(chosen, device=probs.device), torch.stack(found))


def _first_best(scores: Tensor, scale: float) -> int:
    """Lowest index whose score is the highest but for rounding of numbers up to ``scale``."""
    best = float(scores.max())
    slack = 64 * torch.finfo(scores.dtype).eps * max(1.0, abs(scale), abs(best))
    return int((scores >= best - slack).nonzero()[0, 0])
