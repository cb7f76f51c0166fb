"""Components of independent counts, binary features or categories."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from likely.envs import DataError
from likely.models._logarithms import log_or_impossible
from likely.models._loglinear import Features, statistics
from likely.models._options import check_count, check_number
from likely.models._rows import check_entries

Params = dict[str, Tensor]


class _DiscreteFamily:
    """What families of independent discrete features have in common."""

    def check_size(self, d: int) -> None:
        """Any number of features will do."""

    def review(self, params: Mapping[str, Tensor], x: Tensor) -> list[str]:
        """Discrete components have no density that grows without limit."""
        return []


class _CountFeatures(Features):
    """Indicators of the entries that are there, and the counts; b(x) = -log x!."""

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``[2 D, m]`` of rows ``[m, D]``."""
        there = ~torch.isnan(x)
        return torch.cat([there.to(x.dtype), torch.where(there, x, 0.0)], 1).T.contiguous()

    def base(self, x: Tensor) -> Tensor:
        """Minus the sum of log x! over the entries that are there, ``[m]``."""
        return -torch.lgamma(torch.nan_to_num(x) + 1.0).sum(1)


@dataclass(frozen=True)
class PoissonFamily(_DiscreteFamily):
    """Independent counts.

    Parameters
    ----------
    alpha, beta : float
        Shape and inverse scale of the Gamma prior on ``rates``.
    """

    alpha: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        check_number(self.alpha, "alpha", positive=True)
        check_number(self.beta, "beta", positive=True)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        return {"rates": ("feature",)}

    def n_features(self, params: Mapping[str, Tensor]) -> int:
        """Number of features D that values of the sites are for."""
        return params["rates"].shape[-1]

    def check(self, x: Tensor) -> Tensor:
        """Counts ``[n, D]``."""
        check_entries((x >= 0) & (x == x.floor()), x, "x", "counts 0, 1, 2, ...")
        return x

    def sample(self, like: Tensor, d: int, plate: AbstractContextManager[Any]) -> Params:
        """Sample ``rates`` ``[K, D]``."""
        prior = dist.Gamma(like.new_tensor(self.alpha).expand(d), like.new_tensor(self.beta))
        with plate:
            return {"rates": pyro.sample("rates", prior.to_event(1))}

    def features(self, x: Tensor, weights: Tensor | None = None) -> Features:
        """Features of data ``[n, D]``, whatever the rows' weights."""
        return _CountFeatures()

    def natural(self, params: Params, features: Features) -> Tensor:
        """Natural parameters ``[*batch, K, 2 D]``: minus the rates, and their logarithms."""
        rates = params["rates"]
        return torch.cat([-rates, log_or_impossible(rates)], -1)

    def distribution(self, params: Params, component: Tensor) -> Any:
        """Distribution of rows ``[*shape, D]`` given their components ``[*shape]``."""
        return dist.Poisson(Vindex(params["rates"].unsqueeze(-3))[..., component, :]).to_event(1)

    def initial(self, x: Tensor, clusters: Tensor, weights: Tensor | None = None) -> Params:
        """Mean counts of clusters ``[n, K]``, each with half a row of the overall mean more."""
        shares = clusters if weights is None else clusters * weights.unsqueeze(-1)
        overall = x.mean(0).clamp_min(0.5 / len(x))
        sizes, sums = statistics(x, shares, _CountFeatures()).chunk(2, -1)
        return {"rates": (sums + 0.5 * overall) / (sizes + 0.5)}

    def m_step(
        self,
        total: Tensor,
        params: Mapping[str, Tensor],
        x: Tensor,
        weights: Tensor | None = None,
    ) -> Params:
        """Expected mean counts, zero included; a component without rows keeps its own."""
        sizes, sums = total.chunk(2, -1)
        rates = sums / sizes
        # What is left of a rate that shrinks towards zero is no evidence, and would underflow.
        rates = torch.where(rates > torch.finfo(total.dtype).eps ** 3, rates, 0.0)
        return {"rates": torch.where(sizes > 0, rates, params["rates"])}


class _BinaryFeatures(Features):
    """Indicators of zeros and of ones."""

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``[2 D, m]`` of rows ``[m, D]``."""
        return torch.cat([x == 0, x == 1], 1).to(x.dtype).T.contiguous()


@dataclass(frozen=True)
class BernoulliFamily(_DiscreteFamily):
    """Independent binary features.

    Parameters
    ----------
    alpha, beta : float
        Parameters of the Beta prior on ``probabilities``.
    """

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.alpha, "alpha", positive=True)
        check_number(self.beta, "beta", positive=True)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        return {"probabilities": ("feature",)}

    def n_features(self, params: Mapping[str, Tensor]) -> int:
        """Number of features D that values of the sites are for."""
        return params["probabilities"].shape[-1]

    def check(self, x: Tensor) -> Tensor:
        """Zeros and ones ``[n, D]``."""
        check_entries((x == 0) | (x == 1), x, "x", "0 or 1")
        return x

    def sample(self, like: Tensor, d: int, plate: AbstractContextManager[Any]) -> Params:
        """Sample ``probabilities`` ``[K, D]``."""
        prior = dist.Beta(like.new_tensor(self.alpha).expand(d), like.new_tensor(self.beta))
        with plate:
            return {"probabilities": pyro.sample("probabilities", prior.to_event(1))}

    def features(self, x: Tensor, weights: Tensor | None = None) -> Features:
        """Features of data ``[n, D]``, whatever the rows' weights."""
        return _BinaryFeatures()

    def natural(self, params: Params, features: Features) -> Tensor:
        """Natural parameters ``[*batch, K, 2 D]``: log-probabilities of zero and of one."""
        return log_or_impossible(
            torch.cat([1.0 - params["probabilities"], params["probabilities"]], -1)
        )

    def distribution(self, params: Params, component: Tensor) -> Any:
        """Distribution of rows ``[*shape, D]`` given their components ``[*shape]``."""
        table = params["probabilities"].unsqueeze(-3)
        return dist.Bernoulli(Vindex(table)[..., component, :]).to_event(1)

    def initial(self, x: Tensor, clusters: Tensor, weights: Tensor | None = None) -> Params:
        """Shares of ones in clusters ``[n, K]``, each with half a zero and half a one more."""
        shares = clusters if weights is None else clusters * weights.unsqueeze(-1)
        zeros, ones = statistics(x.round(), shares, _BinaryFeatures()).chunk(2, -1)
        return {"probabilities": (ones + 0.5) / (zeros + ones + 1.0)}

    def m_step(
        self,
        total: Tensor,
        params: Mapping[str, Tensor],
        x: Tensor,
        weights: Tensor | None = None,
    ) -> Params:
        """Expected shares of ones; a component without rows keeps its own."""
        zeros, ones = total.chunk(2, -1)
        sizes = zeros + ones
        return {"probabilities": torch.where(sizes > 0, ones / sizes, params["probabilities"])}


class _CategoryFeatures(Features):
    """Indicators of each category of each feature, features outermost."""

    def __init__(self, n_categories: int) -> None:
        self.n_categories = n_categories

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``[D C, m]`` of rows ``[m, D]``."""
        categories = torch.arange(self.n_categories, dtype=x.dtype, device=x.device)
        return (x.T.unsqueeze(1) == categories[:, None]).to(x.dtype).flatten(0, 1)


@dataclass(frozen=True)
class CategoricalFamily(_DiscreteFamily):
    """Independent categorical features, all of C categories (latent class analysis).

    Parameters
    ----------
    n_categories : int
        C.
    concentration : float
        Parameter of the symmetric Dirichlet priors on the rows of ``probabilities``.
    """

    n_categories: int
    concentration: float = 1.0

    def __post_init__(self) -> None:
        check_count(self.n_categories, "n_categories", 2)
        check_number(self.concentration, "concentration", positive=True)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        return {"probabilities": ("feature", "category")}

    def n_features(self, params: Mapping[str, Tensor]) -> int:
        """Number of features D that values of the sites are for."""
        return params["probabilities"].shape[-2]

    def check(self, x: Tensor) -> Tensor:
        """Categories ``[n, D]``."""
        valid = (x >= 0) & (x < self.n_categories) & (x == x.floor())
        check_entries(valid, x, "x", f"categories 0, ..., {self.n_categories - 1}")
        return x

    def sample(self, like: Tensor, d: int, plate: AbstractContextManager[Any]) -> Params:
        """Sample ``probabilities`` ``[K, D, C]``."""
        alpha = like.new_tensor(self.concentration).expand(d, self.n_categories)
        with plate:
            table = pyro.sample("probabilities", dist.Dirichlet(alpha).to_event(1))
        return {"probabilities": table}

    def features(self, x: Tensor, weights: Tensor | None = None) -> Features:
        """Features of data ``[n, D]``, whatever the rows' weights."""
        return _CategoryFeatures(self.n_categories)

    def natural(self, params: Params, features: Features) -> Tensor:
        """Natural parameters ``[*batch, K, D C]``: log-probabilities."""
        return log_or_impossible(params["probabilities"]).flatten(-2)

    def distribution(self, params: Params, component: Tensor) -> Any:
        """Distribution of rows ``[*shape, D]`` given their components ``[*shape]``."""
        table = params["probabilities"].unsqueeze(-4)
        return dist.Categorical(Vindex(table)[..., component, :, :]).to_event(1)

    def initial(self, x: Tensor, clusters: Tensor, weights: Tensor | None = None) -> Params:
        """Shares in clusters ``[n, K]``, each category with half an observation more."""
        shares = clusters if weights is None else clusters * weights.unsqueeze(-1)
        counts = statistics(x.round(), shares, _CategoryFeatures(self.n_categories)) + 0.5
        table = counts.unflatten(-1, (-1, self.n_categories))
        return {"probabilities": table / table.sum(-1, keepdim=True)}

    def m_step(
        self,
        total: Tensor,
        params: Mapping[str, Tensor],
        x: Tensor,
        weights: Tensor | None = None,
    ) -> Params:
        """Nothing: engines derive the M-step of probability tables."""
        return {}


def family_of(name: Any, options: Mapping[str, Any]) -> Any:
    """The family of a name, with its options.

    Raises
    ------
    DataError
        If there is no such family, or it has no such option.
    """
    known = {
        "poisson": PoissonFamily,
        "bernoulli": BernoulliFamily,
        "categorical": CategoricalFamily,
    }
    if not isinstance(name, str) or name not in known:
        raise DataError(f"emission must be one of {', '.join(known)}, got {name!r}")
    if not isinstance(options, Mapping):
        raise DataError(f"options must be a mapping, got {options!r}")
    try:
        return known[name](**options)
    except TypeError as error:
        raise DataError(f"options of emission {name!r}: {error}") from error
