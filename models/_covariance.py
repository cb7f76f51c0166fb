"""Covariances of mixture components: their sites and their M-step."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models._clustering import positive_or_one
from likely.models._gaussian_features import Moments

COVARIANCES = ("full", "tied", "diag", "spherical", "tied_spherical")
CORRELATED = ("full", "tied")
SHARED = ("tied", "tied_spherical")

_SINGULAR = (
    "x leaves a component with a singular covariance: it has too few distinct points, or "
    "features that depend on each other. Set covariance_floor above 0, use fewer components, "
    "or another covariance type"
)


def average_scatter(
    moments: Moments, covariance: str, pseudo: float = 0.0, overall: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Covariances that maximise the likelihood, and what lies behind each.

    Parameters
    ----------
    moments
        Weighted moments of the components.
    covariance
        One of `COVARIANCES`.
    pseudo, overall
        So many imagined points of variances ``overall`` ``[D]`` are added to each component.

    Returns
    -------
    average : Tensor
        ``[K, D, D]`` for ``"full"``, ``[D, D]`` for ``"tied"``, ``[K, D]`` for ``"diag"``, ``[K]``
        for ``"spherical"`` and ``[]`` for ``"tied_spherical"``.
    counts : Tensor
        Expected number of points (for a spherical covariance, of entries), shaped to divide it.
    """
    scatter, sizes = moments.scatter, moments.sizes
    if overall is not None:
        more = overall.diag_embed() if scatter.dim() == 3 else overall
        scatter, sizes = scatter + pseudo * more, sizes + pseudo
    if covariance == "full":
        counts = sizes[:, :1, None]
    elif covariance == "tied":
        scatter, counts = scatter.sum(0), sizes[:, 0].sum()
    elif covariance == "diag":
        counts = sizes
    elif covariance == "spherical":
        scatter, counts = scatter.sum(-1), sizes.sum(-1)
    else:
        scatter, counts = scatter.sum(), sizes.sum()
    return scatter / positive_or_one(counts), counts


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
        As `average_scatter` returns it.
    covariance
        One of `COVARIANCES`.
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
    if covariance in CORRELATED and len(variances) > 1:
        scales, factor = correlation_factors(raise_to_floor(average, variances, floor))
        return {"scales": scales, "correlation_cholesky": factor}
    if covariance in CORRELATED:
        average = average.squeeze(-1)
    # One variance for all features has to reach the bound of each.
    bound = floor * (variances.max() if covariance.endswith("spherical") else variances)
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
        One of `COVARIANCES`.
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
    if covariance.endswith("spherical"):
        scales = pyro.sample("scales", prior)
        scales = scales.unsqueeze(-1).expand(*scales.shape, d)
    else:
        scales = pyro.sample("scales", prior.expand([d]).to_event(1))
    factor = scales.diag_embed()
    if covariance in CORRELATED and d > 1:
        lkj = dist.LKJCholesky(d, like.new_tensor(concentration))
        factor = factor @ pyro.sample("correlation_cholesky", lkj)
    pyro.deterministic("covariances", factor @ factor.mT, event_dim=2)
    return factor


def average_of_sites(params: Mapping[str, Tensor], covariance: str) -> Tensor:
    """Covariances in the shape of `average_scatter`, from the sites' values."""
    scales = params["scales"]
    if covariance not in CORRELATED:
        return scales.square()
    factor = scales.diag_embed()
    if "correlation_cholesky" in params:
        factor = factor @ params["correlation_cholesky"]
    return factor @ factor.mT
