"""K-means, as a start for mixtures."""

from __future__ import annotations

import torch
from torch import Tensor

# A start needs no more rows than this, however many there are.
_MAX_ROWS = 20_000


def k_means(x: Tensor, n_clusters: int, n_iter: int = 12) -> Tensor:
    """Cluster standardised rows.

    The centres are seeded by k-means++ (Arthur & Vassilvitskii 2007, "k-means++: the
    advantages of careful seeding", section 2.2) from torch's random numbers, then moved by
    Lloyd's algorithm. About 20,000 rows, drawn at random, take part in that.

    Parameters
    ----------
    x
        Points, ``[n, D]``, with n of at least ``n_clusters``.
    n_clusters
        Number of clusters K.
    n_iter
        Lloyd steps.

    Returns
    -------
    Tensor
        Cluster of each row, ``[n]``, ``int64``. A cluster can be empty when rows repeat.
    """
    points = (x - x.mean(0)) / positive_or_one(x.std(0, correction=0))
    sample = points[start_rows(len(points), n_clusters, x.device)]
    centres = _seed_centres(sample, n_clusters)
    for _ in range(n_iter):
        members = torch.nn.functional.one_hot(_nearest(sample, centres), n_clusters).to(x.dtype)
        sizes = members.sum(0).unsqueeze(-1)
        means = members.T @ sample / sizes.clamp_min(1)
        centres = torch.where(sizes > 0, means, centres)
    return _nearest(points, centres)


def random_clusters(x: Tensor, n_clusters: int) -> Tensor:
    """Cluster of each row ``[n]``: the nearest of so many rows drawn at random.

    Features are standardised first. Rows that repeat can leave a cluster empty.
    """
    points = (x - x.mean(0)) / positive_or_one(x.std(0, correction=0))
    chosen = torch.randperm(len(points), device=x.device)[:n_clusters]
    return _nearest(points, points[chosen])


def start_rows(n: int, n_clusters: int, device: torch.device) -> Tensor | slice:
    """Which of n rows a start looks at: all of them, or one at random from each of many strata."""
    most = max(_MAX_ROWS, 20 * n_clusters)
    if n <= most:
        return slice(None)
    edges = torch.arange(most + 1, device=device) * n // most
    offset = torch.rand(most, device=device, dtype=torch.float64) * edges.diff()
    return edges[:-1] + offset.long()


def positive_or_one(values: Tensor) -> Tensor:
    """Replace values that are not positive by one."""
    return torch.where(values > 0, values, torch.ones_like(values))


def _seed_centres(points: Tensor, n_clusters: int) -> Tensor:
    """Draw rows ``[K, D]`` with probability proportional to their squared distance."""
    first = torch.randint(len(points), (1,), device=points.device)
    centres = [points[first].squeeze(0)]
    distance = (points - centres[0]).square().sum(-1)
    for _ in range(1, n_clusters):
        # Where every row already is a centre, any will do.
        odds = distance if bool(distance.sum() > 0) else torch.ones_like(distance)
        centres.append(points[torch.multinomial(odds, 1)].squeeze(0))
        distance = torch.minimum(distance, (points - centres[-1]).square().sum(-1))
    return torch.stack(centres)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    # |p|^2 is the same for every centre, so the comparison can do without it.
    return (0.5 * centres.square().sum(-1) - points @ centres.T).argmin(-1)
