"""Normal components: their sites, their natural parameters and their M-step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from likely.envs import DataError
from likely.models._clustering import positive_or_one
from likely.models._covariance import (
    CORRELATED,
    COVARIANCES,
    SHARED,
    average_of_sites,
    average_scatter,
    covariance_sites,
    sample_covariance,
)
from likely.models._gaussian_features import GaussianFeatures, moments
from likely.models._loglinear import statistics
from likely.models._options import check_number, check_numbers

Params = dict[str, Tensor]


@dataclass(frozen=True)
class GaussianFamily:
    """Multivariate normal components.

    Parameters
    ----------
    covariance, loc_mean, loc_scale, scale_median, scale_log_sd, correlation_concentration
        As in `GaussianMixture`.
    covariance_floor
        As in `GaussianMixture`.
    """

    covariance: str = "full"
    loc_mean: float | tuple[float, ...] = 0.0
    loc_scale: float | tuple[float, ...] = 10.0
    scale_median: float | tuple[float, ...] = 1.0
    scale_log_sd: float = 1.0
    correlation_concentration: float = 1.0
    covariance_floor: float = 1e-6

    def __post_init__(self) -> None:
        if self.covariance not in COVARIANCES:
            raise DataError(
                f"covariance must be one of {', '.join(COVARIANCES)}, got {self.covariance!r}"
            )
        for name in ("scale_log_sd", "correlation_concentration"):
            check_number(getattr(self, name), name, positive=True)
        for name in ("loc_mean", "loc_scale", "scale_median"):
            value = check_numbers(getattr(self, name), name, positive=name != "loc_mean")
            # A list would keep the program from being hashed and compared.
            object.__setattr__(self, name, value)
        if self.covariance.endswith("spherical") and isinstance(self.scale_median, tuple):
            raise DataError(
                "scale_median must be one number for a spherical covariance, "
                f"got {self.scale_median!r}"
            )
        if check_number(self.covariance_floor, "covariance_floor") < 0:
            raise DataError(f"covariance_floor must be >= 0, got {self.covariance_floor!r}")

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions of each site."""
        matrix = ("feature", "feature_bis")
        names: dict[str, tuple[str, ...]] = {"locs": ("feature",), "covariances": matrix}
        if not self.covariance.endswith("spherical"):
            names["scales"] = ("feature",)
        if self.covariance in CORRELATED:
            names["correlation_cholesky"] = matrix
        return names

    def n_features(self, params: Mapping[str, Tensor]) -> int:
        """Number of features D that values of the sites are for."""
        return params["locs"].shape[-1]

    def check(self, x: Tensor) -> Tensor:
        """Data ``[n, D]``: any finite number will do."""
        return x

    def check_size(self, d: int) -> None:
        """Raise `DataError` if a prior has another number of features."""
        for name in ("loc_mean", "loc_scale", "scale_median"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != d:
                raise DataError(f"{name} has {len(value)} entries, but x has {d} features")

    def sample(self, like: Tensor, d: int, plate: AbstractContextManager[Any]) -> Params:
        """Sample the sites of the components.

        Parameters
        ----------
        like
            Tensor whose dtype and device the priors take.
        d
            Number of features D.
        plate
            Plate of the K components.

        Returns
        -------
        dict
            ``locs`` ``[K, D]`` and ``scale_tril`` ``[K, D, D]``, or ``[D, D]`` where all
            components share one covariance.
        """
        with nullcontext() if self.covariance in SHARED else plate:
            scale_tril = sample_covariance(
                self.covariance,
                like,
                d,
                median=self.scale_median,
                log_sd=self.scale_log_sd,
                concentration=self.correlation_concentration,
            )
        with plate:
            mean, scale = like.new_tensor(self.loc_mean), like.new_tensor(self.loc_scale)
            locs = pyro.sample("locs", dist.Normal(mean.expand(d), scale).to_event(1))
        return {"locs": locs, "scale_tril": scale_tril}

    def features(self, x: Tensor, weights: Tensor | None = None) -> GaussianFeatures:
        """Features of data ``[n, D]`` whose rows have weights ``[n]``."""
        return GaussianFeatures(x, self.covariance in CORRELATED, weights)

    def natural(self, params: Params, features: GaussianFeatures) -> Tensor:
        """Natural parameters ``[*batch, K, F]`` from what `sample` returned."""
        locs, factor = params["locs"], params["scale_tril"]
        if features.products:
            eye = torch.eye(locs.shape[-1], dtype=factor.dtype, device=factor.device)
            whiten = torch.linalg.solve_triangular(factor, eye.expand(factor.shape), upper=False)
            # A shared factor has a dimension of one, or none, where the components have theirs.
            return features.natural(locs, whiten.expand(*locs.shape, locs.shape[-1]))
        whiten = factor.diagonal(dim1=-2, dim2=-1).reciprocal()
        return features.natural(locs, whiten.expand(locs.shape))

    def distribution(self, params: Params, component: Tensor) -> Any:
        """Distribution of rows ``[*shape, D]`` given their components ``[*shape]``."""
        # The new dimension is the rows', for plates outside that vectorise the program.
        locs, factor = params["locs"], params["scale_tril"]
        factor = factor.expand(*locs.shape, locs.shape[-1])
        loc = Vindex(locs.unsqueeze(-3))[..., component, :]
        return dist.MultivariateNormal(
            loc, scale_tril=Vindex(factor.unsqueeze(-4))[..., component, :, :]
        )

    def initial(self, x: Tensor, clusters: Tensor, weights: Tensor | None = None) -> Params:
        """Sites at the moments of clusters.

        Each covariance is drawn towards the features' overall variances, as if D + 1 points had
        those.

        Parameters
        ----------
        x
            Points without gaps, ``[n, D]``.
        clusters
            Shares of each row in the components, ``[n, K]``.
        weights
            Weights of the rows, ``[n]``.
        """
        features = self.features(x, weights)
        shares = clusters if weights is None else clusters * weights.unsqueeze(-1)
        found = moments(
            statistics(x, shares, features), features, x.mean(0).expand(shares.shape[1], -1)
        )
        variances = positive_or_one(found.variances)
        overall = variances
        if self.covariance.endswith("spherical"):
            overall = variances.mean().expand_as(variances)
        average, _ = average_scatter(found, self.covariance, x.shape[1] + 1, overall)
        sites = covariance_sites(average, self.covariance, variances, self.covariance_floor)
        return {"locs": found.means, **sites}

    def m_step(
        self,
        total: Tensor,
        params: Mapping[str, Tensor],
        x: Tensor,
        weights: Tensor | None = None,
    ) -> Params:
        """Maximise the expected complete-data log-likelihood.

        The weighted means and covariances of Bishop (2006), *Pattern Recognition and Machine
        Learning*, equations 9.17 and 9.19, as factors. A component without responsibility keeps
        its values.

        Parameters
        ----------
        total
            Expected sufficient statistics, ``[K, F]``.
        params
            Current values of the sites.
        x
            The data ``[n, D]``.
        weights
            Weights of the rows ``[n]``, those that the features were made with.
        """
        found = moments(total, self.features(x, weights), params["locs"])
        average, counts = average_scatter(found, self.covariance)
        if bool((counts <= 0).any()):
            average = torch.where(counts > 0, average, average_of_sites(params, self.covariance))
        sites = covariance_sites(
            average, self.covariance, positive_or_one(found.variances), self.covariance_floor
        )
        return {"locs": found.means, **sites}

    def review(self, params: Mapping[str, Tensor], x: Tensor) -> list[str]:
        """What a user should know about components that shrank, one sentence each."""
        if self.covariance_floor == 0:
            return []
        spread = x.var(0, correction=0)
        if bool(torch.isnan(spread).any()):
            there = [column[~torch.isnan(column)] for column in x.unbind(1)]
            spread = torch.stack([column.var(correction=0) for column in there])
        unit = positive_or_one(spread).sqrt()
        average = average_of_sites(params, self.covariance)
        if self.covariance in CORRELATED:
            lowest = torch.linalg.eigvalsh(average / (unit.unsqueeze(-1) * unit))[..., 0]
        elif self.covariance.endswith("spherical"):
            lowest = average / unit.max().square()
        else:
            lowest = (average / unit.square()).amin(-1)
        # A feature that does not vary at all has nothing to shrink onto.
        low = lowest.reshape(-1) <= 1.01 * self.covariance_floor
        if not bool(low.any()) or bool((spread <= 0).any()):
            return []
        whose = ", ".join(str(int(k)) for k in low.nonzero()[:, 0])
        where = "the shared covariance" if self.covariance in SHARED else f"component {whose}"
        return [
            f"{where} has shrunk to the bound of covariance_floor={self.covariance_floor:g}: "
            "it sits on a few points, or on features that depend on each other, and the likelihood "
            "would grow without limit. Try restarts, fewer components, another covariance, or MAP"
        ]
