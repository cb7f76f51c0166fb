"""Gaussian mixtures: the program, its density, its start and its M-step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO, config_enumerate
from pyro.poutine.messenger import Messenger
from scipy import stats
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture as Reference

from likely.envs import DataError
from likely.models import GaussianMixture, _gaussian
from likely.models._clustering import k_means
from likely.models._gaussian import ComponentNormal

COVARIANCES = ["full", "tied", "diag", "spherical"]
FAITHFUL = Path(__file__).parents[2] / "examples" / "data" / "faithful.csv"

Params = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def faithful() -> torch.Tensor:
    return torch.tensor(pd.read_csv(FAITHFUL).to_numpy(), dtype=torch.float64)


def params_of(covariance: str, d: int = 2) -> Params:
    """Values of the unknowns of a mixture of three components."""
    generator = torch.Generator().manual_seed(d)
    k = 3

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    batch = () if covariance == "tied" else (k,)
    params = {
        "weights": torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
        "locs": 2 * normal(k, d),
        "scales": (0.3 * normal(*batch, *(() if covariance == "spherical" else (d,)))).exp(),
    }
    if covariance in ("full", "tied") and d > 1:
        factor = normal(*batch, d, d).tril(-1) + torch.eye(d)
        params["correlation_cholesky"] = factor / factor.norm(dim=-1, keepdim=True)
    return params


def covariances_of(params: Params, covariance: str) -> torch.Tensor:
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


def component_densities(params: Params, covariance: str, x: torch.Tensor) -> torch.Tensor:
    """log N(x_i | component k), [n, K]."""
    normal = dist.MultivariateNormal(params["locs"], covariances_of(params, covariance))
    return normal.log_prob(x.unsqueeze(1))


def responsibilities_of(
    params: Params, covariance: str, x: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """E-step: posterior probabilities [n, K] and the mean log-likelihood."""
    joint = component_densities(params, covariance, x) + params["weights"].log()
    evidence = joint.logsumexp(-1)
    return (joint - evidence.unsqueeze(-1)).exp(), float(evidence.mean())


def trace_of(program: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    trace = poutine.trace(program).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return {n: node for n, node in trace.nodes.items() if node["type"] == "sample"}


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2, 4])
def test_sites_shapes_and_plates(covariance: str, d: int) -> None:
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
    if covariance == "tied":
        expected |= {
            "scales": ((d,), []),
            "correlation_cholesky": ((d, d), []),
            "covariances": ((d, d), []),
        }
    if covariance == "spherical":
        expected["scales"] = ((3,), ["cluster"])
    if covariance in ("diag", "spherical") or d == 1:
        del expected["correlation_cholesky"]
    found = {
        name: (tuple(node["value"].shape), [f.name for f in node["cond_indep_stack"]])
        for name, node in nodes.items()
        if name not in ("cluster", "observation")
    }
    assert found == expected
    # A plain discrete site: engines find it and sum it out.
    assert isinstance(nodes["component"]["fn"], dist.Categorical)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_covariances_are_built_from_the_factors(covariance: str) -> None:
    params = params_of(covariance)
    nodes = trace_of(poutine.condition(GaussianMixture(3, covariance), params), n=5, dim=2)
    found = nodes["covariances"]["value"].expand(3, 2, 2)
    torch.testing.assert_close(found, covariances_of(params, covariance))


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """Pyro gives deterministic sites densities of the default dtype, and does not mix dtypes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2])
def test_enumeration_is_scipys_log_sum(covariance: str, d: int) -> None:
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
    enumerated = config_enumerate(poutine.condition(program, params))
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(enumerated, lambda x: None, x)

    covariances = covariances_of(params, covariance).numpy()
    joint = np.stack(
        [
            stats.multivariate_normal(loc, cov).logpdf(x) + np.log(weight)
            for loc, cov, weight in zip(
                params["locs"], covariances, params["weights"].numpy(), strict=True
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
    assert -loss == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_simulation_follows_the_parameters(covariance: str) -> None:
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
def test_many_parameter_values_at_once(covariance: str) -> None:
    params = params_of(covariance)
    many = {}
    for name, value in params.items():
        outside = name == "weights" or (covariance == "tied" and name != "locs")
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


class Indices(Messenger):
    """Put subsample indices into the plate ``observation``."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "observation":
            msg["value"], msg["done"] = torch.tensor([3, 0, 0]), True


def test_plate_indices_are_honoured(faithful: torch.Tensor) -> None:
    program = poutine.condition(GaussianMixture(3), params_of("full"))
    with Indices():
        nodes = trace_of(program, faithful)
    torch.testing.assert_close(nodes["x"]["value"], faithful[[3, 0, 0]])
    assert nodes["x"]["scale"] == pytest.approx(272 / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_priors_follow_the_dtype_of_the_data(covariance: str, dtype: torch.dtype) -> None:
    program = GaussianMixture(2, covariance, loc_mean=(0.0, 1.0, 2.0))
    nodes = trace_of(program, torch.randn(9, 3, dtype=dtype))
    floats = [n["value"].dtype for name, n in nodes.items() if n["value"].is_floating_point()]
    assert set(floats) == {dtype}


def test_frames_label_the_dimensions() -> None:
    frame = pd.DataFrame({"eruptions": [1.0, 2.0], "waiting": [3.0, 5.0]}, index=["a", "b"])
    coords = GaussianMixture(2).coords(frame)
    assert coords["feature"] == coords["feature_bis"] == ["eruptions", "waiting"]
    assert coords["cluster"] == range(2)
    assert list(coords["observation"]) == ["a", "b"]
    assert GaussianMixture(2).coords(n=5, dim=3)["feature"] == range(3)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_dims_name_every_event_dimension(covariance: str) -> None:
    program = GaussianMixture(3, covariance)
    nodes = trace_of(program, n=5, dim=2)
    for name, node in nodes.items():
        if name == "component":  # a latent: the axis of its probabilities
            assert program.dims[name] == ("cluster",)
        elif name not in ("cluster", "observation"):
            assert len(program.dims.get(name, ())) == node["fn"].event_dim, name


# -- start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2])
def test_start_has_a_finite_density(covariance: str, d: int, faithful: torch.Tensor) -> None:
    program = GaussianMixture(3, covariance)
    x = faithful[:, :d]
    pyro.set_rng_seed(0)
    start = program.initial(x)
    nodes = trace_of(poutine.condition(program, start), x)
    unknown = {n for n in nodes if n not in ("cluster", "observation", "component", "x")}
    assert set(start) == unknown - {"covariances"}
    assert all(bool(torch.isfinite(node["log_prob_sum"])) for node in nodes.values())
    for name, value in start.items():
        support = nodes[name]["fn"].support
        assert value.dtype == x.dtype
        assert bool(support.check(value).all()), name
    assert program.initial(n=3, dim=2) == {}


def test_start_is_drawn_from_the_seed_and_follows_the_units(faithful: torch.Tensor) -> None:
    def start(x: torch.Tensor, seed: int) -> Params:
        pyro.set_rng_seed(seed)
        return GaussianMixture(6).initial(x)

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


# -- M-step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("d", [1, 2])
def test_m_step_is_a_stationary_point(covariance: str, d: int, faithful: torch.Tensor) -> None:
    x = faithful[:, :d]
    program = GaussianMixture(3, covariance)
    pyro.set_rng_seed(0)
    start = program.initial(x)
    weights, _ = responsibilities_of(start, covariance, x)
    found = program.m_step({"component": weights}, start, x, objective="likelihood")
    assert set(found) == set(start) - {"weights"}

    supports = {n: node["fn"].support for n, node in trace_of(program, x).items() if n in found}
    transforms = {n: torch.distributions.biject_to(s) for n, s in supports.items()}
    free = {n: transforms[n].inv(v).requires_grad_() for n, v in found.items()}
    params = {n: transforms[n](u) for n, u in free.items()}
    expected = (weights * component_densities(params, covariance, x)).sum() / len(x)
    for name, slope in zip(free, torch.autograd.grad(expected, list(free.values())), strict=True):
        assert float(slope.abs().max()) < 1e-8, name


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_em_reaches_scikit_learns_optimum(covariance: str, faithful: torch.Tensor) -> None:
    program = GaussianMixture(2, covariance)
    pyro.set_rng_seed(0)
    params = program.initial(faithful)
    history = []
    for _ in range(200):
        weights, loglik = responsibilities_of(params, covariance, faithful)
        history.append(loglik)
        moved = program.m_step({"component": weights}, params, faithful, objective="likelihood")
        params = {"weights": weights.mean(0), **moved}
    assert min(np.diff(history)) > -1e-12
    reference = Reference(
        2,
        covariance_type=covariance,
        n_init=10,
        reg_covar=0,
        tol=1e-12,
        max_iter=2000,
        random_state=0,
    ).fit(faithful.numpy())
    assert history[-1] == pytest.approx(reference.score(faithful.numpy()), abs=1e-6)


def test_m_step_leaves_the_posterior_to_the_engine(faithful: torch.Tensor) -> None:
    params = params_of("full")
    weights, _ = responsibilities_of(params, "full", faithful)
    program = GaussianMixture(3)
    assert program.m_step({"component": weights}, params, faithful, objective="posterior") == {}


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_component_without_points_keeps_its_values(covariance: str, faithful: torch.Tensor) -> None:
    params = params_of(covariance)
    weights = torch.zeros(272, 3, dtype=torch.float64)
    weights[:, 0] = 1
    found = GaussianMixture(3, covariance).m_step(
        {"component": weights}, params, faithful, objective="likelihood"
    )
    torch.testing.assert_close(found["locs"][1:], params["locs"][1:])
    if covariance != "tied":
        kept = covariances_of(params, covariance)[1:]
        torch.testing.assert_close(covariances_of(found, covariance)[1:], kept)
    torch.testing.assert_close(found["locs"][0], faithful.mean(0))


@pytest.mark.parametrize("covariance", ["full", "diag", "spherical"])
def test_floor_bounds_a_component_on_one_point(covariance: str, faithful: torch.Tensor) -> None:
    params = params_of(covariance)
    weights = torch.full((272, 3), 0.5, dtype=torch.float64)
    weights[:, 2] = 0
    weights[0] = torch.tensor([0.0, 0.0, 1.0])
    floor = 1e-3
    found = GaussianMixture(3, covariance, covariance_floor=floor).m_step(
        {"component": weights}, params, faithful, objective="likelihood"
    )
    bound = floor * faithful.var(0, correction=0)
    covariances = covariances_of(found, covariance)
    if covariance == "spherical":
        bound = bound.max().expand(2)
    torch.testing.assert_close(covariances[2], bound.diag())
    # Components that respect the bound are what they are without it.
    without = GaussianMixture(3, covariance).m_step(
        {"component": weights}, params, faithful, objective="likelihood"
    )
    torch.testing.assert_close(covariances[:2], covariances_of(without, covariance)[:2])
    with pytest.raises(DataError, match=r"singular covariance.*covariance_floor"):
        GaussianMixture(3, covariance, covariance_floor=0.0).m_step(
            {"component": weights}, params, faithful, objective="likelihood"
        )


def test_floor_is_the_constrained_optimum(faithful: torch.Tensor) -> None:
    """No covariance that respects the bound gives the points a higher density."""
    x = faithful[:40]
    floor = 0.5
    weights = torch.ones(40, 1, dtype=torch.float64)
    program = GaussianMixture(1, covariance_floor=floor)
    params = {"locs": x.mean(0, keepdim=True)}
    found = program.m_step({"component": weights}, params, x, objective="likelihood")
    best = covariances_of(found, "full")[0]
    bound = (floor * x.var(0, correction=0)).diag()

    def density(covariance: torch.Tensor) -> float:
        return float(dist.MultivariateNormal(x.mean(0), covariance).log_prob(x).sum())

    units = bound.diagonal().sqrt()
    generator = torch.Generator().manual_seed(0)
    assert float(torch.linalg.eigvalsh(best - bound).min()) > -1e-9 * float(bound.max())
    for _ in range(200):
        root = torch.randn(2, 2, generator=generator, dtype=torch.float64) * units.unsqueeze(-1)
        for step in (1e-3, 0.1, 1.0):
            assert density((1 - step) * best + step * (bound + root @ root.T)) < density(best)


# -- distribution ----------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let twenty points take several blocks."""
    monkeypatch.setattr(_gaussian, "_SMALL", 0)
    monkeypatch.setattr(_gaussian, "_BLOCK_CPU", 1)
    monkeypatch.setattr(_gaussian, "_SMALLEST_BLOCK", 7)


def density_of(kind: Any, x: torch.Tensor, k: int, d: int) -> Any:
    """Log-density of points under k enumerated components, as a function of one flat vector."""

    def function(flat: torch.Tensor) -> torch.Tensor:
        loc = flat[: k * d].reshape(k, 1, d)
        raw = flat[k * d :].reshape(k, 1, d, d)
        factor = raw.tril(-1) + raw.diagonal(dim1=-2, dim2=-1).exp().diag_embed()
        return kind(loc, scale_tril=factor).log_prob(x)

    return function


@pytest.mark.usefixtures("small_blocks")
def test_component_normal_is_the_multivariate_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    k, d = 3, 2
    x = torch.randn(20, d, generator=generator, dtype=torch.float64) + 100
    flat = torch.randn(k * d + k * d * d, generator=generator, dtype=torch.float64)
    flat[: k * d] += 100
    found, expected = (
        density_of(kind, x, k, d) for kind in (ComponentNormal, dist.MultivariateNormal)
    )
    assert found(flat).shape == (k, 20)
    torch.testing.assert_close(found(flat), expected(flat))

    def evidence(function: Any) -> Any:
        return lambda flat: function(flat).logsumexp(0).sum()

    f, g = evidence(found), evidence(expected)
    jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
    torch.testing.assert_close(jacobian(f, flat), jacobian(g, flat))
    torch.testing.assert_close(hessian(f, flat), hessian(g, flat))
    torch.testing.assert_close(hessian(f, flat, vectorize=True), hessian(g, flat))
    torch.testing.assert_close(torch.func.hessian(f)(flat), hessian(g, flat))


@pytest.mark.usefixtures("small_blocks")
def test_component_normal_can_be_differentiated_by_the_points() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    flat = torch.randn(18, generator=generator, dtype=torch.float64)
    slopes = [
        torch.autograd.grad(density_of(kind, x, 3, 2)(flat).logsumexp(0).sum(), x)[0]
        for kind in (ComponentNormal, dist.MultivariateNormal)
    ]
    torch.testing.assert_close(*slopes)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("loc", "factor", "x"),
    [
        ((3, 1), (3, 1), (20,)),
        ((3, 1), (), (20,)),
        ((3, 1), (1,), (20,)),
        ((4, 3, 1), (3, 1), (20,)),
        ((3, 1, 1), (3, 1, 1), (20,)),
        ((20,), (20,), (20,)),
        ((), (), (20,)),
        ((1,), (1,), (1,)),
        ((3, 1), (3, 1), (4, 1, 20)),
    ],
)
def test_component_normal_broadcasts(
    loc: tuple[int, ...], factor: tuple[int, ...], x: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(*loc, 2, generator=generator, dtype=torch.float64)
    tril = torch.randn(*factor, 2, 2, generator=generator, dtype=torch.float64).tril(-1)
    tril = tril + torch.eye(2, dtype=torch.float64)
    points = torch.randn(*x, 2, generator=generator, dtype=torch.float64)
    fast = ComponentNormal(mean, tril)
    plain = dist.MultivariateNormal(mean, scale_tril=tril)
    torch.testing.assert_close(fast.log_prob(points), plain.log_prob(points))
    assert fast.batch_shape == plain.batch_shape
    batch = torch.broadcast_shapes(plain.batch_shape, x)
    wide = fast.expand(batch)
    assert wide.batch_shape == batch
    torch.testing.assert_close(wide.log_prob(points), plain.expand(batch).log_prob(points))


@pytest.mark.usefixtures("small_blocks")
def test_component_normal_checks_its_points() -> None:
    normal = ComponentNormal(torch.zeros(3, 1, 2), torch.eye(2), validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        normal.log_prob(torch.full((5, 2), math.nan))


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "args", "kwargs", "message"),
    [
        ({}, (), {}, "give x, or the numbers n of points and dim of features"),
        ({}, (), {"n": 5}, "give x, or the numbers n"),
        ({}, (), {"n": 5, "dim": 0}, "dim must be a positive integer, got 0"),
        ({}, (torch.zeros(5),), {}, r"x must be two-dimensional.*got shape \(5,\)"),
        ({}, (torch.zeros(2, 2),), {}, "at least one row for each of 3 components, got 2"),
        ({}, ([[0.0], [1.0], [math.nan]],), {}, r"x must be finite: 1 of 3 entries"),
        ({}, (torch.zeros(5, 2),), {"n": 4}, r"x has shape \(5, 2\), but n=4"),
        ({"loc_mean": [0.0] * 3}, (torch.zeros(5, 2),), {}, "loc_mean has 3 entries, but x has 2"),
    ],
)
def test_wrong_data_is_refused(
    options: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        GaussianMixture(3, **options)(*args, **kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components must be an integer >= 1, got 0"),
        ({"covariance": "round"}, "covariance must be one of full, tied, .* got 'round'"),
        ({"loc_scale": (1.0, 0.0)}, "loc_scale must be a positive finite number, got 0"),
        ({"scale_median": ()}, "scale_median must be a number or several, got none"),
        ({"scale_log_sd": -1.0}, "scale_log_sd must be a positive finite number"),
        ({"covariance_floor": -1e-6}, "covariance_floor must be >= 0, got -1e-06"),
        (
            {"covariance": "spherical", "scale_median": (1.0, 2.0)},
            "scale_median must be one number for a spherical",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GaussianMixture(**{"n_components": 3, **options})
