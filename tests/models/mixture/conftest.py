"""What the tests of mixtures share: data, values of the unknowns, and an enumerated twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex

from likely.models import GaussianMixture, Mixture, _loglinear

FAITHFUL = Path(__file__).parents[3] / "examples" / "data" / "faithful.csv"
DISCRETE = {
    "poisson": Mixture(3, "poisson", options={"alpha": 2.0, "beta": 0.5}),
    "bernoulli": Mixture(3, "bernoulli", options={"alpha": 1.5, "beta": 2.0}),
    "categorical": Mixture(3, "categorical", options={"n_categories": 3, "concentration": 1.5}),
}

Params = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def faithful() -> torch.Tensor:
    return torch.tensor(pd.read_csv(FAITHFUL).to_numpy(), dtype=torch.float64)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """Pyro gives deterministic sites densities of the default dtype, and does not mix dtypes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let twenty rows take several blocks, the last one shorter."""
    monkeypatch.setattr(_loglinear, "_BLOCK_CPU", 1)
    monkeypatch.setattr(_loglinear, "_SMALLEST_BLOCK", 7)


@pytest.fixture(scope="session")
def params_of() -> Callable[..., Params]:
    return _params_of


@pytest.fixture(scope="session")
def covariances_of() -> Callable[[Params, str], torch.Tensor]:
    return _covariances_of


@pytest.fixture(scope="session")
def component_densities() -> Callable[[Params, str, torch.Tensor], torch.Tensor]:
    return _component_densities


@pytest.fixture(scope="session")
def responsibilities_of() -> Callable[..., tuple[torch.Tensor, float]]:
    return _responsibilities_of


@pytest.fixture(scope="session")
def statistics_of() -> Callable[..., dict[str, dict[str, torch.Tensor]]]:
    return _statistics_of


@pytest.fixture(scope="session")
def trace_of() -> Callable[..., dict[str, Any]]:
    return _trace_of


@pytest.fixture(scope="session")
def enumerated() -> Callable[[GaussianMixture | Mixture], Callable[..., Any]]:
    return _enumerated


@pytest.fixture(scope="session")
def discrete_params() -> Callable[[str], Params]:
    return _discrete_params


@pytest.fixture(scope="session")
def simulated() -> Callable[..., torch.Tensor]:
    return _simulated


@pytest.fixture(params=list(DISCRETE))
def emission(request: pytest.FixtureRequest) -> Any:
    """Name of each discrete family."""
    return request.param


@pytest.fixture(scope="session")
def discrete() -> dict[str, Mixture]:
    """A mixture of three components of each discrete family."""
    return DISCRETE


def _params_of(covariance: str, d: int = 2, equal_weights: bool = False) -> Params:
    """Values of the unknowns of a mixture of three components."""
    generator = torch.Generator().manual_seed(d)
    k = 3

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch = () if covariance in ("tied", "tied_spherical") else (k,)
    event = () if covariance.endswith("spherical") else (d,)
    params = {
        "weights": torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
        "locs": 2 * normal(k, d),
        "scales": (0.3 * normal(*batch, *event)).exp(),
    }
    if covariance in ("full", "tied") and d > 1:
        factor = normal(*batch, d, d).tril(-1) + torch.eye(d)
        params["correlation_cholesky"] = factor / factor.norm(dim=-1, keepdim=True)
    if equal_weights:
        del params["weights"]
    return params


def _covariances_of(params: Params, covariance: str) -> torch.Tensor:
    """Covariance of each component, [K, D, D], written out element by element."""
    k, d = params["locs"].shape
    scales = params["scales"]
    if covariance == "spherical":
        scales = scales.unsqueeze(-1)
    scales = scales.expand(k, d)
    correlation = torch.eye(d, dtype=torch.float64).expand(k, d, d)
    if "correlation_cholesky" in params:
        factor = params["correlation_cholesky"]
        correlation = (factor @ factor.mT).expand(k, d, d)
    return scales.unsqueeze(-1) * correlation * scales.unsqueeze(-2)


def _component_densities(params: Params, covariance: str, x: torch.Tensor) -> torch.Tensor:
    """log N(x_i | component k), [n, K]."""
    normal = dist.MultivariateNormal(params["locs"], _covariances_of(params, covariance))
    return normal.log_prob(x.unsqueeze(1))


def _responsibilities_of(
    params: Params, covariance: str, x: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """E-step: posterior probabilities [n, K] and the mean log-likelihood."""
    joint = _component_densities(params, covariance, x) + params["weights"].log()
    evidence = joint.logsumexp(-1)
    return (joint - evidence.unsqueeze(-1)).exp(), float(evidence.mean())


def _statistics_of(
    program: Any, shares: torch.Tensor, x: torch.Tensor
) -> dict[str, dict[str, torch.Tensor]]:
    """What an E-step with posterior probabilities ``shares`` [n, K] hands to the M-step."""
    phi = program.family.features(x)(x)
    return {"x": {"components": shares.T @ phi.T}}


def _trace_of(program: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    trace = poutine.trace(program).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return {n: node for n, node in trace.nodes.items() if node["type"] == "sample"}


def _enumerated(program: GaussianMixture | Mixture) -> Callable[..., Any]:
    """The same model with its component as a plain discrete site, and no hooks."""
    k, family = program.n_components, program.family

    def gaussian_sites(d: int) -> Callable[[torch.Tensor], Any]:
        covariance = program.covariance  # type: ignore[union-attr]
        cluster = pyro.plate("cluster", k)
        scale_prior = dist.LogNormal(
            torch.tensor(float(family.scale_median)).log(), family.scale_log_sd
        )

        def covariance_factor() -> torch.Tensor:
            if covariance.endswith("spherical"):
                scales = pyro.sample("scales", scale_prior)
                return scales[..., None, None] * torch.eye(d)
            scales = pyro.sample("scales", scale_prior.expand([d]).to_event(1))
            if covariance == "diag" or d == 1:
                return torch.diag_embed(scales)
            lkj = dist.LKJCholesky(d, family.correlation_concentration)
            return scales.unsqueeze(-1) * pyro.sample("correlation_cholesky", lkj)

        if covariance.startswith("tied"):
            factor = covariance_factor().expand(k, d, d)
        else:
            with cluster:
                factor = covariance_factor()
        with cluster:
            prior = dist.Normal(torch.tensor(family.loc_mean), torch.tensor(family.loc_scale))
            locs = pyro.sample("locs", prior.expand([d]).to_event(1))
        return lambda z: dist.MultivariateNormal(
            Vindex(locs)[z, :], scale_tril=Vindex(factor)[z, :, :]
        )

    def discrete_sites(d: int) -> Callable[[torch.Tensor], Any]:
        with pyro.plate("cluster", k):
            if program.emission == "poisson":  # type: ignore[union-attr]
                rates = dist.Gamma(family.alpha, family.beta).expand([d]).to_event(1)
                values, kind = pyro.sample("rates", rates), dist.Poisson
            elif program.emission == "bernoulli":  # type: ignore[union-attr]
                shares = dist.Beta(family.alpha, family.beta).expand([d]).to_event(1)
                values, kind = pyro.sample("probabilities", shares), dist.Bernoulli
            else:
                alpha = torch.full((d, family.n_categories), family.concentration)
                table = pyro.sample("probabilities", dist.Dirichlet(alpha).to_event(1))
                return lambda z: dist.Categorical(Vindex(table)[z, :, :]).to_event(1)
        return lambda z: kind(Vindex(values)[z, :]).to_event(1)

    def twin(x: torch.Tensor) -> None:
        mix = torch.full((k,), 1.0 / k)
        if not program.equal_weights:
            alpha = torch.full((k,), program.weight_concentration)
            mix = pyro.sample("weights", dist.Dirichlet(alpha))
        sites = gaussian_sites if isinstance(program, GaussianMixture) else discrete_sites
        rows = sites(x.shape[1])
        with pyro.plate("observation", len(x)):
            component = pyro.sample("component", dist.Categorical(mix))
            pyro.sample("x", rows(component), obs=x)

    return twin


def _discrete_params(emission: str, d: int = 4) -> Params:
    """Values of the unknowns of a mixture of three components of ``d`` features."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64)
    cluster, feature = torch.arange(3).unsqueeze(1), torch.arange(d)
    own = feature % 3 == cluster
    jitter = torch.rand(3, d, generator=generator, dtype=torch.float64)
    if emission == "poisson":
        return {"weights": weights, "rates": torch.where(own, 9.0, 1.0) + jitter}
    if emission == "bernoulli":
        return {"weights": weights, "probabilities": torch.where(own, 0.8, 0.1) + 0.15 * jitter}
    table = torch.full((3, d, 3), 0.15, dtype=torch.float64)
    table = table.scatter(-1, ((feature + cluster) % 3).unsqueeze(-1), 0.7)
    table[..., 0] += 0.1 * jitter
    return {"weights": weights, "probabilities": table / table.sum(-1, keepdim=True)}


def _simulated(program: Any, params: Params, n: int, seed: int = 0) -> torch.Tensor:
    """Rows [n, D] drawn at given values."""
    rows: torch.Tensor = program.sample(params, n, seed=seed)[0]
    return rows.double()
