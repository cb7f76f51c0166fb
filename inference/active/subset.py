"""Batches that stand for the pool: sparse subsets of a posterior, and centres in space."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.blocks import (
    TOLERANCE,
    Batch,
    as_floats,
    as_probabilities,
    check_batch_size,
    check_rows,
    slices,
    working_dtype,
)
from likely.inference.engines.checks import check_int

# Keeps the norm of a point without information above zero (Pinsler's published experiments).
JITTER = 1e-6
# Frank–Wolfe steps for each point of a batch; steps come back to points that they took before.
STEPS_EACH = 20


class FrankWolfe(NamedTuple):
    """Where some steps of Frank–Wolfe ended.

    Attributes
    ----------
    weights : Tensor
        [pool], at least 0.
    residual_norms : Tensor
        [steps]: distance of the weighted sum from the sum of all points, after each step.
    picked : Tensor
        int64 [steps]: the point that each step moved towards.
    """

    weights: Tensor
    residual_norms: Tensor
    picked: Tensor


@torch.no_grad()
def likelihood_projections(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""Expected log-likelihood of each point at random parameters, for `sparse_subset`.

    :math:`L_n(\theta_s) / \sqrt S` with :math:`L_n(\theta) = \sum_k \bar p_{nk} \log p(k \mid x_n,
    \theta) + H(\bar p_n)` (Pinsler et al. 2019, §3 and §4): their inner products estimate those of
    functions under the posterior. Probabilities below the smallest step from 1 (2e-16 in double
    precision) count as that, so that no logarithm is infinite.

    Parameters
    ----------
    probs : Tensor
        [draws, pool, classes].
    budget : int, optional
        Most bytes of a block beside the result.

    Returns
    -------
    Tensor
        [pool, draws].

    Raises
    ------
    DataError
        If ``probs`` are no probabilities.
    OptionError
        If the budget does not hold one point.

    Examples
    --------
    >>> likelihood_projections(torch.full((4, 3, 2), 0.5)).abs().max() < 1e-6
    tensor(True)
    """
    probs = as_probabilities(probs, 3)
    draws, size, classes = probs.shape
    dtype = working_dtype(probs.dtype)
    least = torch.finfo(dtype).eps
    found = torch.empty(size, draws, dtype=dtype, device=probs.device)
    bytes_each = dtype.itemsize * (5 * draws * classes + 4 * classes)
    for part in slices(size, bytes_each, budget, probs.device):
        p = probs[:, part].to(dtype)
        check_rows(p, TOLERANCE[probs.dtype], part.start)
        mean = p.mean(0)
        logs = p.clamp(min=least).log_()
        surprise = (mean * mean.clamp(min=least).log_()).sum(-1)
        found[part] = (logs.mul_(mean).sum(-1) - surprise).T / draws**0.5
    return found


@torch.no_grad()
def frank_wolfe(projections: Any, steps: int) -> FrankWolfe:
    r"""Few weighted points whose sum is near that of all (Pinsler et al. 2019, algorithm 1).

    Minimises :math:`\| \sum_n (1 - w_n) L_n \|` over :math:`w \ge 0, \sum_n w_n \sigma_n = \sum_n
    \sigma_n` with :math:`\sigma_n = \| L_n \|`, from :math:`w = 0`. A step goes towards the point
    whose :math:`L_n / \sigma_n` has the largest inner product with what is left (of equal ones
    the first), as far as the distance falls; it may come back to a point.

    Parameters
    ----------
    projections : Tensor
        [pool, dim], such as those of `likelihood_projections`.
    steps : int
        Number of steps; fewer are taken where one no longer moves.

    Returns
    -------
    FrankWolfe
        Weights, and the course.

    Raises
    ------
    DataError
        If ``projections`` is no finite matrix.
    OptionError
        If ``steps`` is no integer of at least 1.

    Examples
    --------
    >>> frank_wolfe(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 2).picked
    tensor([0, 1])
    """
    check_int("steps", steps, 1)
    return _search(_as_vectors(projections, "projections"), steps, None)


@torch.no_grad()
def sparse_subset(projections: Any, batch_size: int, *, max_steps: int | None = None) -> Batch:
    r"""A batch that stands for the pool: Bayesian batch active learning as a sparse subset.

    Steps of `frank_wolfe` are taken until ``batch_size`` points have a weight. Steps come back to
    points, so that a batch takes more steps than it has points; where ``max_steps`` are not
    enough, or no step moves any more, the batch is filled with the points, among those without
    weight, that agree most with what is left (the criterion of a step, all at once; of equal
    ones the first). A batch therefore always has ``batch_size`` different points.

    Parameters
    ----------
    projections : Tensor
        [pool, dim], such as those of `likelihood_projections`.
    batch_size : int
        Number of points.
    max_steps : int, optional
        20 for each point of the batch by default.

    Returns
    -------
    Batch
        Points with a weight in the order in which steps first came to them, then those that fill
        the batch. Scores are the weights, 0 for the latter.

    Raises
    ------
    DataError
        If ``projections`` is no finite matrix.
    OptionError
        If an option has a value it cannot have, or the batch is larger than the pool.

    Examples
    --------
    >>> sparse_subset(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 2).indices
    tensor([0, 1])
    """
    vectors = _as_vectors(projections, "projections")
    check_batch_size(batch_size, len(vectors))
    if max_steps is None:
        max_steps = STEPS_EACH * batch_size
    check_int("max_steps", max_steps, 1)
    found = _search(vectors, max_steps, batch_size)
    weights = found.weights
    chosen = [i for i in dict.fromkeys(found.picked.tolist()) if float(weights[i]) > 0]
    missing = batch_size - len(chosen)
    if missing > 0:
        left = vectors.sum(0) - weights @ vectors
        agreement = vectors @ left / _norms(vectors)
        agreement[chosen] = -torch.inf
        chosen += agreement.sort(descending=True, stable=True).indices[:missing].tolist()
    indices = torch.tensor(chosen, device=vectors.device)
    return Batch(indices, weights[indices])


@torch.no_grad()
def core_set(
    features: Any, batch_size: int, *, labelled: Any = None, budget: int | None = None
) -> Batch:
    r"""Points that cover the pool: k-centre greedy (Gonzalez 1985; Sener & Savarese 2018).

    Each point is the one farthest from the nearest centre, which are the labelled points and those
    chosen before; of equally far ones the first. Without labelled points the first choice
    is the point nearest to the mean of the pool.

    Parameters
    ----------
    features : Tensor
        [pool, dim]: where the points are.
    batch_size : int
        Number of points.
    labelled : Tensor, optional
        [labelled, dim]: where labelled points are; none by default.
    budget : int, optional
        Most bytes of a block of differences.

    Returns
    -------
    Batch
        Indices in the order chosen, and the Euclidean distance of each from the nearest centre
        when it was chosen (infinite where there was none).

    Raises
    ------
    DataError
        If features are no finite matrix, or have different numbers of columns.
    OptionError
        If an option has a value it cannot have, or the batch is larger than the pool.

    Examples
    --------
    >>> core_set(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), 2, labelled=torch.tensor([[0.0]]))
    Batch(indices=tensor([3, 2]), scores=tensor([9., 4.]))
    """
    features = _as_vectors(features, "features")
    check_batch_size(batch_size, len(features))
    nearest = features.new_full((len(features),), torch.inf)
    if labelled is not None and len(labelled):
        centres = _as_vectors(labelled, "labelled").to(features)
        if centres.shape[1] != features.shape[1]:
            raise DataError(
                f"labelled must have the {features.shape[1]} columns of features, got "
                f"{centres.shape[1]}"
            )
        _draw_nearer(nearest, features, centres, budget)
    chosen: list[int] = []
    distances: list[float] = []
    for _ in range(batch_size):
        if bool(nearest[0].isinf()):
            middle = _draw_nearer(nearest.clone(), features, features.mean(0, True), budget)
            pick = int(middle.argmin())
        else:
            # A point that was chosen before is no choice, even where all distances are 0.
            free = nearest.clone()
            free[chosen] = -1.0
            pick = int(free.argmax())
        chosen.append(pick)
        distances.append(float(nearest[pick]))
        _draw_nearer(nearest, features, features[pick : pick + 1], budget)
    return Batch(torch.tensor(chosen, device=features.device), features.new_tensor(distances))


def _search(vectors: Tensor, steps: int, distinct: int | None) -> FrankWolfe:
    """Steps of Frank–Wolfe, until some number of points has a weight if that is given."""
    norms = _norms(vectors)
    radius, total = norms.sum(), vectors.sum(0)
    weights = vectors.new_zeros(len(vectors))
    reached = torch.zeros_like(total)
    residuals: list[Tensor] = []
    picked: list[int] = []
    for _ in range(steps):
        left = total - reached
        pick = int((vectors @ left / norms).argmax())
        direction = radius / norms[pick] * vectors[pick] - reached
        length = direction @ direction
        share = float((direction @ left / length).clamp(0, 1)) if float(length) > 0 else 0.0
        if share == 0.0:
            break
        weights *= 1 - share
        weights[pick] += share * radius / norms[pick]
        reached = weights @ vectors
        residuals.append(torch.linalg.vector_norm(total - reached))
        picked.append(pick)
        if distinct is not None and int((weights > 0).sum()) >= distinct:
            break
    norm = torch.stack(residuals) if residuals else vectors.new_empty(0)
    return FrankWolfe(weights, norm, torch.tensor(picked, dtype=torch.int64, device=vectors.device))


def _norms(vectors: Tensor) -> Tensor:
    return (torch.linalg.vector_norm(vectors, dim=1).square() + JITTER).sqrt()


def _draw_nearer(nearest: Tensor, features: Tensor, centres: Tensor, budget: int | None) -> Tensor:
    """Distances [pool] from the nearest centre, some centres [m, dim] more; in place."""
    exact = "donot_use_mm_for_euclid_dist"
    bytes_each = features.element_size() * (len(centres) + 1)
    for part in slices(len(features), bytes_each, budget, features.device):
        distance = torch.cdist(features[part], centres, compute_mode=exact).amin(1)
        torch.minimum(nearest[part], distance, out=nearest[part])
    return nearest


def _as_vectors(value: Any, name: str) -> Tensor:
    """A finite matrix [points, dim] that is not empty, in single or double precision."""
    vectors = as_floats(value, name, "[points, dim]")
    if vectors.dim() != 2 or 0 in vectors.shape:
        raise DataError(
            f"{name} must be [points, dim] and not empty, got shape {tuple(vectors.shape)}"
        )
    vectors = vectors.to(working_dtype(vectors.dtype))
    # A sum that is finite has finite terms; one that is not may only have overflowed.
    if not bool(vectors.sum().isfinite()) and not bool(vectors.isfinite().all()):
        raise DataError(f"{name} must be finite, got NaN or an infinite number")
    return vectors
