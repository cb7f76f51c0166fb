"""Gaussian mixture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from likely.envs import DataError
from likely.models._clustering import k_means, positive_or_one
from likely.models._covariance import (
    COVARIANCES,
    average_of_sites,
    component_moments,
    covariance_sites,
    sample_covariance,
)
from likely.models._data import as_matrix, as_size, column_labels, plate_rows, row_labels
from likely.models._gaussian import ComponentNormal
from likely.models._options import check_count, check_number, check_numbers


@dataclass(frozen=True)
class GaussianMixture:
    r"""Points from K multivariate normal components.

    .. math:: z_i \sim \mathrm{Categorical}(\text{weights}), \qquad
              x_i \sim \mathrm{Normal}(\text{locs}_{z_i}, \text{covariances}_{z_i})

    A covariance is :math:`\mathrm{diag}(s) L L^\top \mathrm{diag}(s)` with standard
    deviations s (site ``scales``) and the Cholesky factor L of a correlation matrix (site
    ``correlation_cholesky``), which has an LKJ prior (Lewandowski, Kurowicka & Joe 2009).

    Parameters
    ----------
    n_components : int
        Number of components K.
    covariance : {"full", "tied", "diag", "spherical"}
        Any covariance for each component; one for all; independent features; independent
        features with one variance.
    weight_concentration : float
        Parameter of the symmetric Dirichlet prior on ``weights``.
    loc_mean, loc_scale : float or tuple of float
        Mean and standard deviation of the normal prior on ``locs``, in the units of x; one
        for all features, or one a feature.
    scale_median : float or tuple of float
        Median of the log-normal prior on ``scales``, in the units of x. Its density
        vanishes fast enough at 0 to keep the posterior density bounded where a component
        shrinks onto one point.
    scale_log_sd : float
        Standard deviation of the logarithm of ``scales``.
    correlation_concentration : float
        LKJ concentration; 1 is uniform over correlation matrices, more favours none.
    covariance_floor : float
        Lower bound on the covariances that the closed-form M-step keeps, relative to the
        variance of each feature in the data: ``covariance - floor * diag(var(x))`` stays
        positive semi-definite. The likelihood has no maximum where a component shrinks
        onto few points; the default stops that at 1/1000 of each feature's standard
        deviation and changes nothing else. 0 removes the bound.

    Attributes
    ----------
    dims : dict
        Names of the event dimensions of each site.

    Notes
    -----
    Sites ``weights`` ``[K]``, ``locs`` ``[K, D]``, ``scales`` (``[K, D]`` for ``"full"``
    and ``"diag"``, ``[D]`` for ``"tied"``, ``[K]`` for ``"spherical"``),
    ``correlation_cholesky`` (``[K, D, D]`` or, ``"tied"``, ``[D, D]``; only there for
    ``"full"`` and ``"tied"`` with D > 1), and, deterministic, ``covariances``
    (``[K, D, D]`` or, ``"tied"``, ``[D, D]``). Discrete latent ``component`` ``[n]``;
    observed ``x`` ``[n, D]``. Plates ``cluster`` (K) and ``observation`` (n). The priors do
    not know the units of the data: standardise these, or set the priors.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> GaussianMixture(2)(n=100, dim=3).shape
    torch.Size([100, 3])
    """

    n_components: int
    covariance: str = "full"
    weight_concentration: float = 1.0
    loc_mean: float | tuple[float, ...] = 0.0
    loc_scale: float | tuple[float, ...] = 10.0
    scale_median: float | tuple[float, ...] = 1.0
    scale_log_sd: float = 1.0
    correlation_concentration: float = 1.0
    covariance_floor: float = 1e-6

    def __post_init__(self) -> None:
        check_count(self.n_components, "n_components", 1)
        if self.covariance not in COVARIANCES:
            raise DataError(
                f"covariance must be one of {', '.join(COVARIANCES)}, got {self.covariance!r}"
            )
        for name in ("weight_concentration", "scale_log_sd", "correlation_concentration"):
            check_number(getattr(self, name), name, positive=True)
        for name in ("loc_mean", "loc_scale", "scale_median"):
            value = check_numbers(getattr(self, name), name, positive=name != "loc_mean")
            # A list would keep the program from being hashed and compared.
            object.__setattr__(self, name, value)
        if self.covariance == "spherical" and isinstance(self.scale_median, tuple):
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
        names: dict[str, tuple[str, ...]] = {
            "weights": ("cluster",),
            "locs": ("feature",),
            "covariances": matrix,
            "x": ("feature",),
            "component": ("cluster",),
        }
        if self.covariance != "spherical":
            names["scales"] = ("feature",)
        if self.covariance in ("full", "tied"):
            names["correlation_cholesky"] = matrix
        return names

    def coords(
        self, x: Any = None, *, n: int | None = None, dim: int | None = None
    ) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: the columns and the index of a data frame."""
        labels: dict[str, Sequence[Any]] = {"cluster": range(self.n_components), **row_labels(x)}
        if x is not None or dim is not None:
            features = range(as_size(dim, "dim")) if x is None else column_labels(x)
            labels["feature"] = labels["feature_bis"] = features
        return labels

    def __call__(self, x: Any = None, *, n: int | None = None, dim: int | None = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Points ``[n, D]``; missing to simulate them.
        n, dim
            How many points of how many features to simulate.

        Returns
        -------
        Tensor
            The points ``[n, D]``, given or simulated.

        Raises
        ------
        DataError
            If neither ``x`` nor both ``n`` and ``dim`` are given, ``x`` is not a matrix, it
            has fewer rows than there are components, a prior has another number of
            features, or ``x`` holds NaN or infinite entries (looked at while Pyro
            validates).
        """
        x, n, d = self._points_or_size(x, n, dim)
        like = torch.empty(()) if x is None else x
        concentration = like.new_tensor(self.weight_concentration)
        weights = pyro.sample("weights", dist.Dirichlet(concentration.expand(self.n_components)))
        cluster = pyro.plate("cluster", self.n_components, device=str(like.device))
        tied = self.covariance == "tied"
        with nullcontext() if tied else cluster:
            scale_tril = sample_covariance(
                self.covariance,
                like,
                d,
                median=self.scale_median,
                log_sd=self.scale_log_sd,
                concentration=self.correlation_concentration,
            )
        with cluster:
            mean, scale = like.new_tensor(self.loc_mean), like.new_tensor(self.loc_scale)
            locs = pyro.sample("locs", dist.Normal(mean.expand(d), scale).to_event(1))
        with pyro.plate("observation", n, device=str(like.device)) as index:
            component = pyro.sample("component", dist.Categorical(weights))
            # The new dimension is this plate's, for plates outside that vectorise the program.
            loc = Vindex(locs.unsqueeze(-3))[..., component, :]
            if not tied:
                scale_tril = Vindex(scale_tril.unsqueeze(-4))[..., component, :, :]
            points = None if x is None else x[plate_rows(index, n, x.device)]
            return pyro.sample("x", ComponentNormal(loc, scale_tril), obs=points)

    def initial(
        self, x: Any = None, *, n: int | None = None, dim: int | None = None
    ) -> dict[str, Tensor]:
        """Start at the moments of k-means clusters, seeded from torch's random numbers.

        Each covariance is drawn towards the features' overall variances, as if D + 1
        points had those.
        """
        if x is None:
            return {}
        x, n, d = self._points_or_size(x, n, dim)
        clusters = k_means(x, self.n_components)
        members = torch.nn.functional.one_hot(clusters, self.n_components).to(x.dtype)
        variances = positive_or_one(x.var(0, correction=0))
        overall = average_of_sites({"scales": variances.sqrt()}, self.covariance)
        if self.covariance == "spherical":
            overall = variances.mean()
        moments = component_moments(
            x, members, self.covariance, x.mean(0).expand(self.n_components, d)
        )
        average = (moments.scatter + (d + 1) * overall) / (moments.counts + d + 1)
        return {
            "weights": (moments.sizes + 1) / (n + self.n_components),
            "locs": moments.means,
            **covariance_sites(average, self.covariance, variances, self.covariance_floor),
        }

    def m_step(
        self,
        responsibilities: dict[str, Tensor],
        params: dict[str, Tensor],
        x: Any = None,
        *,
        objective: str,
        n: int | None = None,
        dim: int | None = None,
    ) -> dict[str, Tensor]:
        """Maximise the expected complete-data log-likelihood.

        The weighted means and covariances of Bishop (2006), *Pattern Recognition and
        Machine Learning*, equations 9.17 and 9.19, as factors. A component without
        responsibility keeps its values.

        Parameters
        ----------
        responsibilities
            ``component``: posterior probabilities ``[n, K]``.
        params
            Current values of the sites.
        x
            Points ``[n, D]``.
        objective
            ``"likelihood"``; the posterior has no closed form, and then nothing is
            returned.
        n, dim
            As in the call of the program.

        Returns
        -------
        dict
            ``locs``, ``scales`` and, where there is one, ``correlation_cholesky``.

        Raises
        ------
        DataError
            If a covariance is singular, which needs ``covariance_floor=0``.
        """
        if objective != "likelihood" or x is None:
            return {}
        x, n, _ = self._points_or_size(x, n, dim)
        _, means, scatter, counts = component_moments(
            x, responsibilities["component"], self.covariance, params["locs"]
        )
        average = scatter / positive_or_one(counts)
        if bool((counts <= 0).any()):
            average = torch.where(counts > 0, average, average_of_sites(params, self.covariance))
        variances = positive_or_one(x.var(0, correction=0))
        sites = covariance_sites(average, self.covariance, variances, self.covariance_floor)
        return {"locs": means, **sites}

    def _points_or_size(
        self, x: Any, n: int | None, dim: int | None
    ) -> tuple[Tensor | None, int, int]:
        if x is None:
            if n is None or dim is None:
                raise DataError("give x, or the numbers n of points and dim of features")
            shape = as_size(n, "n"), as_size(dim, "dim")
        else:
            x = as_matrix(x, "x")
            shape = tuple(x.shape)
            if n not in (None, shape[0]) or dim not in (None, shape[1]):
                raise DataError(f"x has shape {shape}, but n={n} and dim={dim} were given")
            if shape[0] < self.n_components:
                raise DataError(
                    f"x must have at least one row for each of {self.n_components} components, "
                    f"got {shape[0]}"
                )
        for name in ("loc_mean", "loc_scale", "scale_median"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != shape[1]:
                raise DataError(f"{name} has {len(value)} entries, but x has {shape[1]} features")
        return x, *shape
