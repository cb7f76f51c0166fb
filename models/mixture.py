"""Mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from likely.models._discrete_families import family_of
from likely.models._gaussian_family import GaussianFamily
from likely.models._mixture_base import MixtureProgram


@dataclass(frozen=True)
class GaussianMixture(MixtureProgram):
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
    covariance : {"full", "tied", "diag", "spherical", "tied_spherical"}
        Any covariance for each component; one for all; independent features; independent
        features with one variance; one variance for all features of all components.
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
    equal_weights : bool
        Whether all weights are 1/K; there is no site ``weights`` then. With
        ``covariance="tied_spherical"``, ``EM(hard=True)`` is k-means (`k_means`).
    init : {"k-means++", "random"}
        Whether a search starts at k-means clusters or at the cells of K random rows. An
        engine's own ``init=`` starts it anywhere.

    Attributes
    ----------
    dims : dict
        Names of the event dimensions of each site.

    Notes
    -----
    Sites ``weights`` ``[K]``, ``locs`` ``[K, D]``, ``scales`` (``[K, D]`` for ``"full"``
    and ``"diag"``, ``[D]`` for ``"tied"``, ``[K]`` for ``"spherical"``, ``[]`` for
    ``"tied_spherical"``), ``correlation_cholesky`` (``[K, D, D]`` or, ``"tied"``, ``[D, D]``;
    only there for ``"full"`` and ``"tied"`` with D > 1), and, deterministic, ``covariances``
    (``[K, D, D]`` or, where one is shared, ``[D, D]``). Discrete latent ``component`` ``[n]``,
    which the distribution of the observed ``x`` ``[n, D]`` sums out. Plates ``cluster`` (K) and
    ``observation`` (n). Missing entries of x, as NaN, are integrated out. The priors do not
    know the units of the data: standardise these, or set the priors.

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
    equal_weights: bool = False
    init: str = "k-means++"

    def __post_init__(self) -> None:
        self._check_options()
        family = self.family
        for name in ("loc_mean", "loc_scale", "scale_median"):
            # A list would keep the program from being hashed and compared.
            object.__setattr__(self, name, getattr(family, name))

    @property
    def family(self) -> GaussianFamily:
        """The components."""
        return GaussianFamily(**{f.name: getattr(self, f.name) for f in fields(GaussianFamily)})

    @classmethod
    def k_means(cls, n_clusters: int, **options: Any) -> GaussianMixture:
        r"""The program whose classification likelihood k-means climbs.

        With equal weights and one variance :math:`\sigma^2` for all features of all components,
        the most probable component is that of the nearest centre, and the best centre is the mean
        of its points: ``EM(hard=True)`` makes the steps of Lloyd's algorithm (Celeux & Govaert
        1992, section 3). Inertia is :math:`n D \sigma^2` at the fitted :math:`\sigma`.

        Parameters
        ----------
        n_clusters : int
            Number of clusters.
        **options
            Other options of the class.
        """
        return cls(n_clusters, covariance="tied_spherical", equal_weights=True, **options)


@dataclass(frozen=True)
class Mixture(MixtureProgram):
    r"""Rows of independent discrete features from K components.

    .. math:: z_i \sim \mathrm{Categorical}(\text{weights}), \qquad
              x_{id} \sim \mathrm{Emission}(\theta_{z_i d})

    Mixtures of Poisson counts, of binary features (Bishop 2006, *Pattern Recognition and Machine
    Learning*, section 9.3.3) and of categorical ones, which is latent class analysis (Lazarsfeld &
    Henry 1968; Goodman 1974).

    Parameters
    ----------
    n_components : int
        Number of components K.
    emission : {"poisson", "bernoulli", "categorical"}
        What the features are.
    weight_concentration : float
        Parameter of the symmetric Dirichlet prior on ``weights``.
    equal_weights, init
        As in `GaussianMixture`.
    options : dict
        Of the emission: for ``"poisson"`` shape ``alpha`` and inverse scale ``beta`` of the Gamma
        prior on the rates; for ``"bernoulli"`` ``alpha`` and ``beta`` of the Beta prior; for
        ``"categorical"`` the number ``n_categories`` of categories (required) and the
        ``concentration`` of the Dirichlet prior.

    Notes
    -----
    Sites ``weights`` ``[K]`` and ``rates`` ``[K, D]`` (Poisson), ``probabilities`` ``[K, D]``
    (Bernoulli) or ``probabilities`` ``[K, D, C]`` (categorical). Discrete latent ``component``
    ``[n]``, which the distribution of the observed ``x`` ``[n, D]`` sums out. Plates ``cluster``
    and ``observation``. Missing entries of x, as NaN, are left out.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> Mixture(2, "categorical", options={"n_categories": 3})(n=100, dim=4).shape
    torch.Size([100, 4])
    """

    n_components: int
    emission: str
    weight_concentration: float = 1.0
    equal_weights: bool = False
    init: str = "k-means++"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._check_options()
        _ = self.family

    @property
    def family(self) -> Any:
        """The components."""
        return family_of(self.emission, self.options)
