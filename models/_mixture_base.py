"""What mixtures have in common, whatever their components."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from likely.envs import DataError
from likely.models._clustering import k_means, random_clusters, start_rows
from likely.models._data import (
    as_floating,
    as_size,
    as_weights,
    column_labels,
    plate_rows,
    plate_weights,
    row_labels,
)
from likely.models._mixture_distribution import LogLinearMixture
from likely.models._options import check_count, check_number
from likely.models._rows import as_rows, default_dtype
from likely.models._values import site_values

INITS = ("k-means++", "random")


class Family(Protocol):
    """Components that are log-linear in features; see `GaussianFamily` for the shapes."""

    @property
    def dims(self) -> dict[str, tuple[str, ...]]: ...

    def n_features(self, params: Mapping[str, Tensor]) -> int: ...

    def check(self, x: Tensor) -> Tensor: ...

    def check_size(self, d: int) -> None: ...

    def sample(self, like: Tensor, d: int, plate: AbstractContextManager[Any]) -> Any: ...

    def features(self, x: Tensor, weights: Tensor | None = None) -> Any: ...

    def natural(self, params: Any, features: Any) -> Tensor: ...

    def distribution(self, params: Any, component: Tensor) -> Any: ...

    def initial(
        self, x: Tensor, clusters: Tensor, weights: Tensor | None = None
    ) -> dict[str, Tensor]: ...

    def m_step(
        self,
        total: Tensor,
        params: Mapping[str, Tensor],
        x: Tensor,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]: ...

    def review(self, params: Mapping[str, Tensor], x: Tensor) -> list[str]: ...


class MixtureProgram(ABC):
    """A mixture of components of one family; `GaussianMixture` and `Mixture` are dataclasses."""

    n_components: int
    weight_concentration: float
    equal_weights: bool
    init: str
    exchangeable: ClassVar[tuple[str, ...]] = ("cluster",)

    @property
    @abstractmethod
    def family(self) -> Any:
        """The components."""

    def _check_options(self) -> None:
        check_count(self.n_components, "n_components", 1)
        check_number(self.weight_concentration, "weight_concentration", positive=True)
        if not isinstance(self.equal_weights, bool):
            raise DataError(f"equal_weights must be True or False, got {self.equal_weights!r}")
        if self.init not in INITS:
            raise DataError(f"init must be one of {', '.join(INITS)}, got {self.init!r}")

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions of each site."""
        return {
            "weights": ("cluster",),
            "x": ("feature",),
            "component": ("cluster",),
            **self.family.dims,
        }

    def coords(
        self, x: Any = None, *, n: int | None = None, dim: int | None = None, weights: Any = None
    ) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: the columns and the index of a data frame."""
        labels: dict[str, Sequence[Any]] = {"cluster": range(self.n_components), **row_labels(x)}
        if x is not None or dim is not None:
            features = range(as_size(dim, "dim")) if x is None else column_labels(x)
            labels["feature"] = labels["feature_bis"] = features
        return labels

    def __call__(
        self, x: Any = None, *, n: int | None = None, dim: int | None = None, weights: Any = None
    ) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Rows ``[n, D]``, missing entries as NaN; left out to simulate them.
        n, dim
            How many rows of how many features to simulate.
        weights
            How often each row counts, ``[n]``, at least 0.

        Returns
        -------
        Tensor
            The rows ``[n, D]``, given or simulated.

        Raises
        ------
        DataError
            If neither ``x`` nor both ``n`` and ``dim`` are given, ``x`` is not a matrix, or a prior
            has another number of features; looked at while Pyro validates: ``x`` holds infinite
            entries, impossible ones, or a feature that is missing everywhere.
        """
        x, n, d = self._rows_or_size(x, n, dim)
        like = torch.empty(()) if x is None else x
        row_weights = as_weights(weights, n, like)
        if self.equal_weights:
            mix = like.new_full((self.n_components,), 1.0 / self.n_components)
        else:
            concentration = like.new_tensor(self.weight_concentration)
            mix = pyro.sample("weights", dist.Dirichlet(concentration.expand(self.n_components)))
        cluster = pyro.plate("cluster", self.n_components, device=str(like.device))
        params = self.family.sample(like, d, cluster)
        with pyro.plate("observation", n, device=str(like.device)) as index:
            if x is None:
                component = pyro.sample("component", dist.Categorical(mix))
                return pyro.sample("x", self.family.distribution(params, component))
            rows = plate_rows(index, n, x.device)
            features = self.family.features(x, row_weights)
            mixture = LogLinearMixture(
                # Plates outside leave a dimension of one where the rows would be.
                mix if mix.dim() == 1 else mix.squeeze(-2),
                self.family.natural(params, features),
                features,
                lambda component: self.family.distribution(params, component).sample(),
                d,
            )
            with plate_weights(row_weights, rows):
                return pyro.sample("x", mixture, obs=x[rows])

    def initial(
        self, x: Any = None, *, n: int | None = None, dim: int | None = None, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at the moments of clusters, drawn with torch's random numbers.

        Raises
        ------
        DataError
            As for a call, and if there are fewer rows than components.
        """
        if x is None:
            return {}
        x, n, _ = self._rows_or_size(x, n, dim)
        # Fewer rows start no fit; for what a fit predicts they are enough.
        if n < self.n_components:
            raise DataError(
                f"x must have at least one row for each of {self.n_components} components, got {n}"
            )
        whole = x
        x, row_weights = _counted(x, as_weights(weights, n, x))
        chosen = start_rows(len(x), self.n_components, x.device)
        row_weights = None if row_weights is None else row_weights[chosen]
        x = x[chosen]
        if bool(torch.isnan(x.sum())):
            means = x.nanmean(0)
            if bool(torch.isnan(means).any()):
                means = whole.nanmean(0)
            x = torch.where(torch.isnan(x), means, x)
        find = k_means if self.init == "k-means++" else random_clusters
        clusters = torch.nn.functional.one_hot(find(x, self.n_components), self.n_components)
        shares = clusters.to(x.dtype)
        start = self.family.initial(x, shares, row_weights)
        if not self.equal_weights:
            sizes = shares.sum(0) if row_weights is None else row_weights @ shares
            start["weights"] = (sizes + 1) / (sizes.sum() + self.n_components)
        return start

    def m_step(
        self,
        expected: Mapping[str, Any],
        params: dict[str, Tensor],
        x: Any = None,
        *,
        objective: str,
        n: int | None = None,
        dim: int | None = None,
        weights: Any = None,
    ) -> dict[str, Tensor]:
        """Maximise the expected complete-data log-likelihood over the components.

        Parameters
        ----------
        expected
            ``x``: expected sufficient statistics of the components, ``"components"`` ``[K, F]``.
        params
            Current values of the sites.
        x, n, dim, weights
            As in the call of the program.
        objective
            ``"likelihood"``; with priors there is no closed form, and nothing is returned.

        Raises
        ------
        DataError
            If a covariance is singular, which needs ``covariance_floor=0``.
        """
        if objective != "likelihood" or x is None:
            return {}
        x, n, _ = self._rows_or_size(x, n, dim)
        found: dict[str, Tensor] = self.family.m_step(
            expected["x"]["components"], params, x, as_weights(weights, n, x)
        )
        return found

    def review(
        self,
        params: Mapping[str, Tensor],
        x: Any = None,
        *,
        n: int | None = None,
        dim: int | None = None,
        weights: Any = None,
    ) -> list[str]:
        """What a user should know about a fit: components that are empty or have collapsed."""
        if x is None:
            return []
        x, n, _ = self._rows_or_size(x, n, dim)
        row_weights = as_weights(weights, n, x)
        found: list[str] = self.family.review(params, _counted(x, row_weights)[0])
        if "weights" in params:
            total = n if row_weights is None else float(row_weights.sum())
            empty = (params["weights"] * total < 0.5).nonzero()[:, 0]
            if len(empty):
                found.append(
                    f"component {', '.join(str(int(k)) for k in empty)} is empty: less than half a "
                    "row belongs there. Use fewer components, or restarts"
                )
        return found

    # -- predictions -------------------------------------------------------------------------

    def responsibilities(self, params: Mapping[str, Tensor], x: Any) -> Tensor:
        """Posterior probabilities of the components at new rows.

        Parameters
        ----------
        params
            Values of the sites, a fit's ``params``.
        x
            Rows ``[n, D]``, missing entries as NaN.

        Returns
        -------
        Tensor
            ``[n, K]``.

        Raises
        ------
        DataError
            If ``params`` lacks a site of the program, has a foreign one or one of another shape,
            or ``x`` is not what the components make.
        """
        value, mixture = self._at(params, x)
        return mixture.latent_posterior(value)

    def score_samples(self, params: Mapping[str, Tensor], x: Any) -> Tensor:
        """Log-density of new rows, ``[n]`` nats; see `responsibilities` for the arguments."""
        value, mixture = self._at(params, x)
        return mixture.log_prob(value)

    def sample(
        self, params: Mapping[str, Tensor], n: int, *, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Simulate rows from fitted components.

        Parameters
        ----------
        params
            Values of the sites, a fit's ``params``.
        n
            How many rows.
        seed
            The same seed gives the same rows.

        Returns
        -------
        x : Tensor
            ``[n, D]``.
        component : Tensor
            ``[n]``.
        """
        values = site_values(self, params, n=1, dim=self._dim(params))
        like = next(iter(values.values()))
        with torch.random.fork_rng(devices=[]), default_dtype(like.dtype), torch.no_grad():
            torch.manual_seed(seed)
            trace = poutine.trace(poutine.condition(self, data=values)).get_trace(
                n=as_size(n, "n"), dim=self._dim(values)
            )
        nodes: dict[str, Any] = trace.nodes
        return nodes["x"]["value"], nodes["component"]["value"]

    def _at(self, params: Mapping[str, Any], x: Any) -> tuple[Tensor, LogLinearMixture]:
        d = self._dim(params)
        values = site_values(self, params, n=1, dim=d)
        like = next(iter(values.values()))
        with pyro.validation_enabled(True), default_dtype(like.dtype):
            value = self.family.check(as_rows(as_floating(x, "x", like=like), gaps=True))
        value = value.to(like.device)
        if value.shape[1] != d:
            raise DataError(f"x has {value.shape[1]} features, but the components have {d}")
        # The components give the units, so that no row's density depends on the other rows.
        typical = values.get("locs", like.new_zeros(self.n_components, d))
        weights = like.new_ones(len(typical))
        if bool(torch.isnan(value.sum())):
            typical = torch.cat([typical, torch.full_like(typical[:1], torch.nan)])
            weights = torch.cat([weights, weights.new_zeros(1)])
        with torch.no_grad():
            conditioned = poutine.condition(self, data=values)
            trace = poutine.trace(poutine.block(conditioned, expose=["x"])).get_trace(
                typical, weights=weights
            )
        nodes: dict[str, Any] = trace.nodes
        mixture = nodes["x"]["fn"]
        return value, mixture.expand(torch.Size([len(value)]))

    def _dim(self, params: Mapping[str, Any]) -> int:
        try:
            given = {
                name: as_floating(value, f"params[{name!r}]") for name, value in params.items()
            }
            return int(self.family.n_features(given))
        except (AttributeError, KeyError, IndexError) as error:
            raise DataError(
                "params must map the sites of the program to values, such as a fit's params, got "
                f"{sorted(params) if isinstance(params, Mapping) else type(params).__name__}"
            ) from error

    def _rows_or_size(
        self, x: Any, n: int | None, dim: int | None
    ) -> tuple[Tensor | None, int, int]:
        if x is None:
            if n is None or dim is None:
                raise DataError("give x, or the numbers n of rows and dim of features")
            shape = as_size(n, "n"), as_size(dim, "dim")
        else:
            x = self.family.check(as_rows(x))
            shape = tuple(x.shape)
            if n not in (None, shape[0]) or dim not in (None, shape[1]):
                raise DataError(f"x has shape {shape}, but n={n} and dim={dim} were given")
        self.family.check_size(shape[1])
        return x, *shape


def _counted(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Rows of positive weight, and their weights."""
    if weights is None or bool((weights > 0).all()):
        return x, weights
    return x[weights > 0], weights[weights > 0]
