"""Gaussian mixtures: sites, plates, simulation and start."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.poutine.messenger import Messenger
from scipy import stats
from scipy.special import logsumexp

from likely.models import GaussianMixture
from likely.models._clustering import k_means, random_clusters

COVARIANCES = ["full", "tied", "diag", "spherical", "tied_spherical"]

Params = dict[str, torch.Tensor]
ParamsOf = Callable[..., Params]
CovariancesOf = Callable[[Params, str], torch.Tensor]
TraceOf = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2, 4])
def test_sites_shapes_and_plates(covariance: str, d: int, trace_of: TraceOf) -> None:
    pyro.set_rng_seed(0)
    nodes = trace_of(GaussianMixture(3, covariance), n=50, dim=d)
    expected = {
        "weights": ((3,), []),
        "locs": ((3, d), ["cluster"]),
        "scales": ((3, d), ["cluster"]),
        "correlation_cholesky": ((3, d, d), ["cluster"]),
        "covariances": ((3, d, d), ["cluster"]),
        "component": ((50,), ["observation"]),
        "x": ((50, d), ["observation"]),
    }
    if covariance in ("tied", "tied_spherical"):
        expected |= {
            "scales": ((d,), []),
            "correlation_cholesky": ((d, d), []),
            "covariances": ((d, d), []),
        }
    if covariance == "spherical":
        expected["scales"] = ((3,), ["cluster"])
    if covariance == "tied_spherical":
        expected["scales"] = ((), [])
    if covariance not in ("full", "tied") or d == 1:
        del expected["correlation_cholesky"]
    found = {
        name: (tuple(node["value"].shape), [f.name for f in node["cond_indep_stack"]])
        for name, node in nodes.items()
        if name not in ("cluster", "observation")
    }
    assert found == expected
    # A plain discrete site where rows are simulated; given rows, it is summed out.
    assert isinstance(nodes["component"]["fn"], dist.Categorical)
    given = trace_of(GaussianMixture(3, covariance), nodes["x"]["value"])
    assert set(given) == set(nodes) - {"component"}
    assert given["x"]["fn"].latent == "component"
    assert given["x"]["fn"].batch_shape == (50,)


def test_equal_weights_are_no_site(trace_of: TraceOf) -> None:
    nodes = trace_of(GaussianMixture(4, equal_weights=True), n=10, dim=2)
    assert "weights" not in nodes
    torch.testing.assert_close(nodes["component"]["fn"].probs, torch.full((10, 4), 0.25))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_covariances_are_built_from_the_factors(
    covariance: str, params_of: ParamsOf, covariances_of: CovariancesOf, trace_of: TraceOf
) -> None:
    params = params_of(covariance)
    nodes = trace_of(poutine.condition(GaussianMixture(3, covariance), params), n=5, dim=2)
    found = nodes["covariances"]["value"].expand(3, 2, 2)
    torch.testing.assert_close(found, covariances_of(params, covariance))


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2])
def test_density_is_scipys_log_sum_and_priors(
    covariance: str, d: int, params_of: ParamsOf, covariances_of: CovariancesOf
) -> None:
    params = params_of(covariance, d)
    program = GaussianMixture(
        3,
        covariance,
        weight_concentration=2.0,
        loc_mean=1.0,
        loc_scale=3.0,
        scale_median=0.5,
        scale_log_sd=0.7,
    )
    x = torch.tensor([[0.3, -1.0], [2.0, 1.5], [-0.7, 0.2], [0.0, 4.0]], dtype=torch.float64)[:, :d]
    found = poutine.trace(poutine.condition(program, params)).get_trace(x).log_prob_sum()

    joint = np.stack(
        [
            stats.multivariate_normal(loc, cov).logpdf(x) + np.log(weight)
            for loc, cov, weight in zip(
                params["locs"],
                covariances_of(params, covariance).numpy(),
                params["weights"].numpy(),
                strict=True,
            )
        ]
    )
    expected = logsumexp(joint, axis=0).sum()
    expected += stats.dirichlet([2.0] * 3).logpdf(params["weights"])
    expected += stats.norm(1.0, 3.0).logpdf(params["locs"]).sum()
    expected += stats.lognorm(0.7, scale=0.5).logpdf(params["scales"]).sum()
    if "correlation_cholesky" in params:
        # Uniform over correlations in (-1, 1).
        expected += math.log(0.5) * params["correlation_cholesky"].reshape(-1, 2, 2).shape[0]
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_simulation_follows_the_parameters(
    covariance: str, params_of: ParamsOf, covariances_of: CovariancesOf, trace_of: TraceOf
) -> None:
    n = 20_000
    params = params_of(covariance)
    pyro.set_rng_seed(5)
    nodes = trace_of(poutine.condition(GaussianMixture(3, covariance), params), n=n, dim=2)
    component, x = nodes["component"]["value"], nodes["x"]["value"]
    shares = torch.bincount(component, minlength=3) / n
    weights = params["weights"]
    assert bool(((shares - weights).abs() < 4 * (weights * (1 - weights) / n).sqrt()).all())
    for k, cov in enumerate(covariances_of(params, covariance)):
        mine = x[component == k]
        m = len(mine)
        centred = mine - params["locs"][k]
        assert bool((centred.mean(0).abs() < 4 * (cov.diagonal() / m).sqrt()).all())
        # A product of two normal deviations has variance s_ii s_jj + s_ij^2.
        variance = torch.outer(cov.diagonal(), cov.diagonal()) + cov.square()
        assert bool(((centred.T @ centred / m - cov).abs() < 4 * (variance / m).sqrt()).all())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_sample_draws_from_fitted_values(covariance: str, params_of: ParamsOf) -> None:
    program, params = GaussianMixture(3, covariance), params_of(covariance)
    x, component = program.sample(params, 50, seed=3)
    again, _ = program.sample(params, 50, seed=3)
    other, _ = program.sample(params, 50, seed=4)
    assert x.shape == (50, 2)
    assert x.dtype == torch.float64
    assert component.shape == (50,)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_draws_of_the_observed_site_are_rows_of_the_mixture(
    covariance: str, params_of: ParamsOf, trace_of: TraceOf, faithful: torch.Tensor
) -> None:
    params = params_of(covariance)
    x = faithful[:20]
    fn = trace_of(poutine.condition(GaussianMixture(3, covariance), params), x)["x"]["fn"]
    pyro.set_rng_seed(2)
    draws = fn.sample((2000,)).flatten(0, 1)
    assert draws.shape == (40_000, 2)
    mean = params["weights"] @ params["locs"]
    spread = fn.sample((2000,)).flatten(0, 1).std(0)
    assert bool(((draws.mean(0) - mean).abs() < 4 * spread / math.sqrt(40_000)).all())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_many_parameter_values_at_once(covariance: str, params_of: ParamsOf) -> None:
    params = params_of(covariance)
    many = {}
    for name, value in params.items():
        outside = name == "weights" or (covariance.startswith("tied") and name != "locs")
        stacked = torch.stack([value, value])
        many[name] = stacked.unsqueeze(1) if outside else stacked
    # Second means far away: each draw has to take its own.
    many["locs"] = many["locs"] + torch.tensor([0.0, 1e4])[:, None, None]
    pyro.set_rng_seed(6)
    program = GaussianMixture(3, covariance)
    x = Predictive(program, posterior_samples=many, parallel=True)(n=40, dim=2)["x"]
    assert x.shape == (2, 40, 2)
    assert float(x[0].abs().max()) < 100
    assert float((x[1] - 1e4).abs().max()) < 100


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_densities_at_many_parameter_values_at_once(
    covariance: str, params_of: ParamsOf, trace_of: TraceOf
) -> None:
    one, x = params_of(covariance), params_of("full", 2)["locs"] + 0.3
    values = [one, {**one, "locs": one["locs"] + 0.5, "weights": one["weights"].flip(0)}]
    program = GaussianMixture(3, covariance)
    many = {}
    for name in one:
        outside = name == "weights" or (covariance.startswith("tied") and name != "locs")
        stacked = torch.stack([value[name] for value in values])
        many[name] = stacked.unsqueeze(1) if outside else stacked

    def vectorised(x: torch.Tensor) -> Any:
        with pyro.plate("draw", 2, dim=-2):
            return program(x)

    found = trace_of(poutine.condition(vectorised, many), x)["x"]["log_prob"]
    expected = [trace_of(poutine.condition(program, v), x)["x"]["log_prob"] for v in values]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


class Indices(Messenger):
    """Put subsample indices into the plate ``observation``."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "observation":
            msg["value"], msg["done"] = torch.tensor([3, 0, 0]), True


def test_plate_indices_are_honoured(
    faithful: torch.Tensor, params_of: ParamsOf, trace_of: TraceOf
) -> None:
    program = poutine.condition(GaussianMixture(3), params_of("full"))
    with Indices():
        nodes = trace_of(program, faithful)
    torch.testing.assert_close(nodes["x"]["value"], faithful[[3, 0, 0]])
    assert nodes["x"]["scale"] == pytest.approx(272 / 3)
    whole = trace_of(program, faithful)["x"]["fn"].log_prob(faithful)
    torch.testing.assert_close(nodes["x"]["fn"].log_prob(faithful[[3, 0, 0]]), whole[[3, 0, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_priors_follow_the_dtype_of_the_data(
    covariance: str, dtype: torch.dtype, trace_of: TraceOf
) -> None:
    mean = 0.5 if covariance.endswith("spherical") else (0.0, 1.0, 2.0)
    program = GaussianMixture(2, covariance, loc_mean=mean)
    nodes = trace_of(program, torch.randn(9, 3, dtype=dtype))
    floats = [n["value"].dtype for name, n in nodes.items() if n["value"].is_floating_point()]
    assert set(floats) == {dtype}
    assert nodes["x"]["log_prob"].dtype == dtype


def test_frames_label_the_dimensions() -> None:
    frame = pd.DataFrame({"eruptions": [1.0, 2.0], "waiting": [3.0, 5.0]}, index=["a", "b"])
    coords = GaussianMixture(2).coords(frame)
    assert coords["feature"] == coords["feature_bis"] == ["eruptions", "waiting"]
    assert coords["cluster"] == range(2)
    assert list(coords["observation"]) == ["a", "b"]
    assert GaussianMixture(2).coords(n=5, dim=3)["feature"] == range(3)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_dims_name_every_event_dimension(covariance: str, trace_of: TraceOf) -> None:
    program = GaussianMixture(3, covariance)
    nodes = trace_of(program, n=5, dim=2)
    for name, node in nodes.items():
        if name == "component":  # a latent: the axis of its probabilities
            assert program.dims[name] == ("cluster",)
        elif name not in ("cluster", "observation"):
            assert len(program.dims.get(name, ())) == node["fn"].event_dim, name


# -- start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2])
def test_start_has_a_finite_density(
    covariance: str, d: int, init: str, faithful: torch.Tensor, trace_of: TraceOf
) -> None:
    program = GaussianMixture(3, covariance, init=init)
    x = faithful[:, :d]
    pyro.set_rng_seed(0)
    start = program.initial(x)
    nodes = trace_of(poutine.condition(program, start), x)
    unknown = {n for n in nodes if n not in ("cluster", "observation", "x")}
    assert set(start) == unknown - {"covariances"}
    assert all(bool(torch.isfinite(node["log_prob_sum"])) for node in nodes.values())
    for name, value in start.items():
        support = nodes[name]["fn"].support
        assert value.dtype == x.dtype
        assert bool(support.check(value).all()), name
    assert program.initial(n=3, dim=2) == {}


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_start_is_drawn_from_the_seed_and_follows_the_units(
    init: str, faithful: torch.Tensor
) -> None:
    def start(x: torch.Tensor, seed: int) -> Params:
        pyro.set_rng_seed(seed)
        return GaussianMixture(6, init=init).initial(x)

    first, again, other = start(faithful, 0), start(faithful, 0), start(faithful, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["locs"], other["locs"])
    units = torch.tensor([1e3, 1e-3], dtype=torch.float64)
    scaled = start(faithful * units, 0)
    torch.testing.assert_close(scaled["locs"], first["locs"] * units)
    torch.testing.assert_close(scaled["scales"], first["scales"] * units)
    torch.testing.assert_close(scaled["correlation_cholesky"], first["correlation_cholesky"])


def test_k_means_finds_separated_clusters_and_survives_repeated_rows() -> None:
    pyro.set_rng_seed(0)
    truth = torch.arange(30_000) % 3
    x = torch.randn(30_000, 2) * 0.1 + truth.unsqueeze(-1) * 5.0
    found = k_means(x, 3)
    table = torch.zeros(3, 3).index_put((truth, found), torch.ones(30_000), accumulate=True)
    assert int((table > 0).sum()) == 3
    assert k_means(torch.ones(5, 2), 3).shape == (5,)
    assert random_clusters(torch.ones(5, 2), 3).shape == (5,)
