"""Covariances of mixture components: their sites and their M-step."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models._clustering import positive_or_one

# Entries of the centred points [K, m, D] that one pass keeps in cache, and the fewest rows m
# that make a pass worth its calls.
_BLOCK = 1 << 15
_SMALLEST_BLOCK = 256

COVARIANCES = ("full", "tied", "diag", "spherical")

_SINGULAR = (
    "x leaves a component with a singular covariance: it has too few distinct points, or "
    "features that depend on each other. Set covariance_floor above 0, use fewer components, "
    "or another covariance type"
)


class Moments(NamedTuple):
    """Weighted moments of mixture components.

    Attributes
    ----------
    sizes : Tensor
        Expected number of points of each component, ``[K]``.
    means : Tensor
        ``[K, D]``.
    scatter : Tensor
        Sums of squares about the means: ``[K, D, D]`` for ``"full"``, their sum
        ``[D, D]`` for ``"tied"``, ``[K, D]`` for ``"diag"`` and, averaged over the
        features, ``[K]`` for ``"spherical"``.
    counts : Tensor
        Points behind each covariance, shaped to divide ``scatter``.
    """

    sizes: Tensor
    means: Tensor
    scatter: Tensor
    counts: Tensor


def component_moments(
    x: Tensor, responsibilities: Tensor, covariance: str, locs: Tensor
) -> Moments:
    """Weighted moments of each component.

    Parameters
    ----------
    x
        Points, ``[n, D]``.
    responsibilities
        Posterior probabilities of the components, ``[n, K]``.
    covariance
        ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
    locs
        Means ``[K, D]`` that components without responsibility keep.
    """
    # The component axis first makes the rows of weights contiguous.
    weights = responsibilities.to(x.dtype).T.contiguous()
    sizes = weights.sum(-1)
    present = (sizes > 0).unsqueeze(-1)
    means = torch.where(present, weights @ x / positive_or_one(sizes).unsqueeze(-1), locs)
    k, d = means.shape
    correlated = covariance in ("full", "tied")
    scatter = x.new_zeros((k, d, d) if correlated else (k, 1, d))
    size = max(_SMALLEST_BLOCK, _BLOCK // (k * d))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        centred = x[rows] - means.unsqueeze(1)
        if correlated:
            scatter.baddbmm_((centred * weights[:, rows, None]).mT, centred)
        else:
            scatter.baddbmm_(weights[:, None, rows], centred.square())
    if covariance == "tied":
        return Moments(sizes, means, scatter.sum(0), sizes.sum())
    if covariance == "full":
        return Moments(sizes, means, scatter, sizes.reshape(-1, 1, 1))
    scatter = scatter.squeeze(1)
    if covariance == "diag":
        return Moments(sizes, means, scatter, sizes.unsqueeze(-1))
    return Moments(sizes, means, scatter.mean(-1), sizes)


def raise_to_floor(matrix: Tensor, variances: Tensor, floor: float) -> Tensor:
    r"""Maximise the Gaussian likelihood under a lower bound on the covariance.

    Over all :math:`\Sigma \succeq \epsilon\,\mathrm{diag}(v)`, the density of points with
    scatter :math:`S` per point is largest where the eigenvalues of
    :math:`\mathrm{diag}(v)^{-1/2} S\,\mathrm{diag}(v)^{-1/2}` below :math:`\epsilon` are
    raised to it. Being the constrained maximum, it keeps EM monotone (Ingrassia & Rocci
    2007, "Constrained monotone EM algorithms for finite mixture of multivariate
    Gaussians"), unlike adding to the diagonal.

    Parameters
    ----------
    matrix
        Scatter per point S, ``[*batch, D, D]``.
    variances
        The units v, ``[D]``, positive.
    floor
        The bound epsilon, at least 0.

    Returns
    -------
    Tensor
        ``[*batch, D, D]``; where the bound holds already, ``matrix`` itself.
    """
    if floor == 0:
        return matrix
    units = variances.sqrt()
    units = units.unsqueeze(-1) * units
    values, vectors = torch.linalg.eigh(matrix / units)
    raised = (vectors * values.clamp_min(floor).unsqueeze(-2)) @ vectors.mT
    low = (values[..., :1] < floor).unsqueeze(-1)
    return torch.where(low, raised * units, matrix)


def correlation_factors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations and Cholesky factors of the correlations.

    Parameters
    ----------
    matrix
        Covariances, ``[*batch, D, D]``.

    Returns
    -------
    scales : Tensor
        ``[*batch, D]``.
    correlation_cholesky : Tensor
        Lower triangular with rows of length 1, ``[*batch, D, D]``.

    Raises
    ------
    DataError
        If a matrix is not positive definite.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool((info > 0).any()):
        raise DataError(_SINGULAR)
    scales = torch.linalg.vector_norm(factor, dim=-1)
    return scales, factor / scales.unsqueeze(-1)


def covariance_sites(
    average: Tensor, covariance: str, variances: Tensor, floor: float
) -> dict[str, Tensor]:
    """Values of the sites that make up the covariances.

    Parameters
    ----------
    average
        Scatter per point, shaped as `component_moments` returns it.
    covariance
        ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
    variances
        Variance of each feature, ``[D]``, positive: the units of the floor.
    floor
        Relative lower bound, at least 0; see `raise_to_floor`.

    Returns
    -------
    dict
        ``scales`` and, for more than one feature of a full or tied covariance,
        ``correlation_cholesky``.

    Raises
    ------
    DataError
        If a covariance is singular.
    """
    if covariance in ("full", "tied") and len(variances) > 1:
        scales, factor = correlation_factors(raise_to_floor(average, variances, floor))
        return {"scales": scales, "correlation_cholesky": factor}
    if covariance in ("full", "tied"):
        average = average.squeeze(-1)
    # One variance for all features has to reach the bound of each.
    bound = floor * (variances.max() if covariance == "spherical" else variances)
    average = torch.maximum(average, bound)
    if bool((average <= 0).any()):
        raise DataError(_SINGULAR)
    return {"scales": average.sqrt()}


def sample_covariance(
    covariance: str,
    like: Tensor,
    d: int,
    *,
    median: float | tuple[float, ...],
    log_sd: float,
    concentration: float,
) -> Tensor:
    """Sample the sites of one covariance, or of K within a plate.

    Parameters
    ----------
    covariance
        ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
    like
        Tensor whose dtype and device the priors take.
    d
        Number of features D.
    median, log_sd
        Median (one, or D of them) of the log-normal prior on ``scales``, and standard
        deviation of the logarithm.
    concentration
        LKJ concentration.

    Returns
    -------
    Tensor
        Lower Cholesky factor of the covariance, ``[D, D]`` or ``[K, D, D]``.
    """
    prior = dist.LogNormal(like.new_tensor(median).log(), like.new_tensor(log_sd))
    if covariance == "spherical":
        scales = pyro.sample("scales", prior)
        scales = scales.unsqueeze(-1).expand(*scales.shape, d)
    else:
        scales = pyro.sample("scales", prior.expand([d]).to_event(1))
    factor = scales.diag_embed()
    if covariance in ("full", "tied") and d > 1:
        lkj = dist.LKJCholesky(d, like.new_tensor(concentration))
        factor = factor @ pyro.sample("correlation_cholesky", lkj)
    pyro.deterministic("covariances", factor @ factor.mT, event_dim=2)
    return factor


def average_of_sites(params: dict[str, Tensor], covariance: str) -> Tensor:
    """Covariances in the shape of `component_moments`' scatter, from the sites' values."""
    scales = params["scales"]
    if covariance not in ("full", "tied"):
        return scales.square()
    factor = scales.diag_embed()
    if "correlation_cholesky" in params:
        factor = factor @ params["correlation_cholesky"]
    return factor @ factor.mT
