"""Programs of outcomes that depend linearly on covariates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import statsmodels.api as sm
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.poutine.messenger import Messenger
from scipy import stats

from likely.envs import DataError
from likely.inference import MAP, MLE, NonFiniteError
from likely.models import LinearRegression, LogisticRegression, PoissonRegression

X = torch.tensor(
    [[0.5, -1.0], [1.5, 0.0], [-0.3, 2.0], [2.0, 1.0], [0.0, 0.7]], dtype=torch.float64
)
COEFFICIENTS = torch.tensor([0.8, -0.4], dtype=torch.float64)
INTERCEPT = torch.tensor(0.3, dtype=torch.float64)
SCALE = torch.tensor(1.5, dtype=torch.float64)
Y_REAL = torch.tensor([1.0, 0.5, -2.0, 1.2, 0.1], dtype=torch.float64)
Y_BINARY = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
Y_COUNTS = torch.tensor([3.0, 1.0, 0.0, 7.0, 1.0], dtype=torch.float64)

# program, values of its unknowns, outcomes
CONFIGS = [
    (
        LinearRegression(intercept_scale=5.0, coefficients_scale=2.0, scale_scale=3.0),
        {"intercept": INTERCEPT, "coefficients": COEFFICIENTS, "scale": SCALE},
        Y_REAL,
    ),
    (LinearRegression(intercept=False), {"coefficients": COEFFICIENTS, "scale": SCALE}, Y_REAL),
    (
        LogisticRegression(intercept_scale=5.0, coefficients_scale=2.0),
        {"intercept": INTERCEPT, "coefficients": COEFFICIENTS},
        Y_BINARY,
    ),
    (LogisticRegression(intercept=False), {"coefficients": COEFFICIENTS}, Y_BINARY),
    (
        PoissonRegression(intercept_scale=5.0, coefficients_scale=2.0),
        {"intercept": INTERCEPT, "coefficients": COEFFICIENTS},
        Y_COUNTS,
    ),
    (PoissonRegression(intercept=False), {"coefficients": COEFFICIENTS}, Y_COUNTS),
]
IDS = [
    "linear",
    "linear, no intercept",
    "logistic",
    "logistic, no intercept",
    "poisson",
    "poisson, no intercept",
]


def log_prob(program: Any, values: dict[str, torch.Tensor], *args: Any) -> dict[str, torch.Tensor]:
    """Summed log-density of each site, with the scale of subsampled plates."""
    trace = poutine.trace(poutine.condition(program, values)).get_trace(*args)
    trace.compute_log_prob()
    return {
        name: node["log_prob_sum"]
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and name != "observation"
    }


class Indices(Messenger):
    """Put subsample indices into the plate ``observation``."""

    def __init__(self, indices: list[int]) -> None:
        super().__init__()
        self.indices = torch.tensor(indices)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "observation":
            msg["value"], msg["done"] = self.indices, True


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_sites_and_plates(program: Any, values: dict[str, Any], y: torch.Tensor) -> None:
    trace = poutine.trace(program).get_trace(X, y)
    samples = {n: node for n, node in trace.nodes.items() if node["type"] == "sample"}
    assert set(samples) == {*values, "observation", "y"}
    assert [frame.name for frame in samples["y"]["cond_indep_stack"]] == ["observation"]
    assert {n: samples[n]["value"].shape for n in values} == {n: v.shape for n, v in values.items()}
    assert samples["coefficients"]["fn"].event_shape == (2,)


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_log_density_is_scipys(program: Any, values: dict[str, Any], y: torch.Tensor) -> None:
    predictor = X.numpy() @ COEFFICIENTS.numpy()
    expected = {
        "coefficients": stats.norm(0, program.coefficients_scale).logpdf(COEFFICIENTS).sum()
    }
    if program.intercept:
        predictor = predictor + float(INTERCEPT)
        expected["intercept"] = stats.norm(0, program.intercept_scale).logpdf(float(INTERCEPT))
    if isinstance(program, LinearRegression):
        expected["scale"] = stats.halfnorm(scale=program.scale_scale).logpdf(float(SCALE))
        expected["y"] = stats.norm(predictor, float(SCALE)).logpdf(y).sum()
    elif isinstance(program, PoissonRegression):
        expected["y"] = stats.poisson(np.exp(predictor)).logpmf(y).sum()
    else:
        expected["y"] = stats.bernoulli(1 / (1 + np.exp(-predictor))).logpmf(y).sum()
    found = log_prob(program, values, X, y)
    assert found == {name: pytest.approx(value, rel=1e-12) for name, value in expected.items()}


def test_line_through_the_origin_has_the_known_optimum() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    y = torch.tensor([2.1, 3.9, 6.2], dtype=torch.float64)
    slope = torch.tensor([28.5 / 14], dtype=torch.float64)
    scale = (y - x @ slope).square().mean().sqrt()
    at = {"coefficients": slope.requires_grad_(), "scale": scale.detach().requires_grad_()}
    loglik = log_prob(LinearRegression(intercept=False), at, x, y)["y"]
    for gradient in torch.autograd.grad(loglik, list(at.values())):
        assert float(gradient.abs().max()) < 1e-9
    start = LinearRegression(intercept=False).initial(x, y)
    assert float(start["coefficients"]) == pytest.approx(28.5 / 14, rel=1e-12)
    assert float(start["scale"]) == pytest.approx(float(scale), rel=1e-9)


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
@pytest.mark.parametrize("indices", [[3, 1], [4, 3, 2, 1, 0], [0, 0, 2, 2, 2]])
def test_plate_indices_are_honoured(
    program: Any, values: dict[str, Any], y: torch.Tensor, indices: list[int]
) -> None:
    with Indices(indices):
        found = log_prob(program, values, X, y)["y"]
    chosen = log_prob(program, values, X[indices], y[indices])["y"]
    assert float(found) == pytest.approx(float(chosen) * len(y) / len(indices), rel=1e-12)


def test_simulation_follows_the_parameters() -> None:
    n = 20_000
    pyro.set_rng_seed(2)
    x = torch.randn(n, 2, dtype=torch.float64)
    linear, _, logistic, _, poisson, _ = (
        poutine.condition(program, values)(x) for program, values, _ in CONFIGS
    )
    predictor = x @ COEFFICIENTS + INTERCEPT
    # Residuals have mean 0; four standard errors are passed once in 16,000 runs.
    assert abs(float((linear - predictor).mean())) < 4 * float(SCALE) / math.sqrt(n)
    residual = linear - predictor
    error = float(SCALE) / math.sqrt(2 * n)
    assert abs(float(residual.std()) - float(SCALE)) < 4 * error
    slopes = residual @ x / n
    assert bool((slopes.abs() < 4 * float(SCALE) / math.sqrt(n)).all())
    probability = predictor.sigmoid()
    score = x.T @ (logistic - probability) / n
    spread = ((x.square() * (probability * (1 - probability)).unsqueeze(-1)).mean(0) / n).sqrt()
    assert bool((score.abs() < 4 * spread).all())
    rate = predictor.exp()
    score = x.T @ (poisson - rate) / n
    spread = ((x.square() * rate.unsqueeze(-1)).mean(0) / n).sqrt()
    assert bool((score.abs() < 4 * spread).all())


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_many_parameter_values_at_once(
    program: Any, values: dict[str, Any], y: torch.Tensor
) -> None:
    """A plate outside vectorises the program: one value of the parameters a row."""
    many = {
        name: torch.stack([value, 2 * value, 3 * value]).unsqueeze(1)
        for name, value in values.items()
    }
    pyro.set_rng_seed(3)
    drawn = Predictive(program, posterior_samples=many, parallel=True)(X)["y"]
    assert drawn.shape == (3, 5)

    def vectorised() -> None:
        with pyro.plate("draw", 3, dim=-2):
            poutine.condition(program, many)(X, y)

    trace = poutine.trace(vectorised).get_trace()
    trace.compute_log_prob()
    for row in range(3):
        one = log_prob(program, {n: v[row, 0] for n, v in many.items()}, X, y)["y"]
        found = trace.nodes["y"]["log_prob"][row].sum()
        assert float(found) == pytest.approx(float(one), rel=1e-12)


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_priors_follow_the_dtype_of_the_covariates(
    program: Any, values: dict[str, Any], y: torch.Tensor, dtype: torch.dtype
) -> None:
    trace = poutine.trace(program).get_trace(X.to(dtype), y.int().clamp(0, 1))
    assert all(trace.nodes[name]["value"].dtype == dtype for name in (*values, "y"))


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_frames_are_data_and_label_the_dimensions(
    program: Any, values: dict[str, Any], y: torch.Tensor
) -> None:
    frame = pd.DataFrame(X.numpy(), columns=["age", "dose"], index=list("abcde"))
    # Frames come in torch's default dtype, float32 here.
    single = {name: value.float() for name, value in values.items()}
    found = log_prob(program, single, frame, pd.Series(y.numpy()))["y"]
    assert float(found) == pytest.approx(float(log_prob(program, values, X, y)["y"]), rel=1e-5)
    coords = program.coords(frame, y)
    assert coords["feature"] == ["age", "dose"]
    assert list(coords["observation"]) == list("abcde")
    assert program.coords(X, y) == {"feature": range(2)}
    assert program.dims == {"coefficients": ("feature",)}


def test_least_squares_is_the_start() -> None:
    pyro.set_rng_seed(4)
    # Units that differ by 10^6 do not trouble it.
    x = torch.randn(200, 3, dtype=torch.float64) * torch.tensor([1.0, 1e3, 1e-3])
    y = 1.0 + x @ torch.tensor([2.0, -1e-3, 5e2], dtype=torch.float64)
    start = LinearRegression().initial(x, y)
    solution = np.linalg.lstsq(np.column_stack([np.ones(200), x]), y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(start["coefficients"], solution[1:], rtol=1e-6)
    assert float(start["intercept"]) == pytest.approx(solution[0], rel=1e-6)
    # Points on a plane leave no residual, and yet the scale starts above zero.
    assert 0 < float(start["scale"]) < 0.01 * float(y.std())


@pytest.mark.parametrize("program", [LogisticRegression(), PoissonRegression()], ids=str)
def test_the_start_of_a_few_rows_is_their_optimum(program: Any) -> None:
    y = Y_BINARY if isinstance(program, LogisticRegression) else Y_COUNTS
    start = program.initial(X, y)

    def loglik(w: torch.Tensor) -> torch.Tensor:
        return log_prob(program, {"intercept": w[0], "coefficients": w[1:]}, X, y)["y"]

    found = torch.cat([start["intercept"].reshape(1), start["coefficients"]])
    gradient = torch.autograd.functional.jacobian(loglik, found)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_starts_are_finite_for_dependent_covariates_and_constant_outcomes(
    program: Any, values: dict[str, Any], y: torch.Tensor
) -> None:
    x = torch.cat([X, X[:, :1], torch.ones_like(X[:, :1])], 1)
    for outcomes in (y, torch.zeros_like(y)):
        start = program.initial(x, outcomes)
        assert set(start) == set(values)
        assert math.isfinite(sum(log_prob(program, start, x, outcomes).values()))
    assert program.initial(x) == {}


EACH = pytest.mark.parametrize(
    "program", [LinearRegression(), LogisticRegression(), PoissonRegression()]
)


@EACH
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3), None, r"x must be two-dimensional.*got shape \(3,\)"),
        (torch.zeros(3, 0), None, r"x is empty: it has shape \(3, 0\)"),
        (torch.zeros(0, 2), None, "x is empty"),
        (torch.zeros(3, 2), torch.zeros(2), "y must have one entry per observation: expected 3"),
        (torch.zeros(3, 2), torch.zeros(3, 1), "y must be one-dimensional"),
        ([[0.0, math.nan]], None, r"x must be finite: 1 of 2 entries .* at \[0, 1\]"),
        (torch.zeros(2, 2), [1.0, math.inf], "y must be finite"),
        (pd.DataFrame({"a": ["u", "v"]}), None, "x must hold"),
    ],
)
def test_wrong_data_is_refused(program: Any, x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        program(x, y)


def test_logistic_outcomes_are_binary() -> None:
    with pytest.raises(DataError, match="y must hold 0 or 1, got 2 at position 1"):
        LogisticRegression()(torch.zeros(2, 1), [1, 2])


def test_exposure_multiplies_the_rate() -> None:
    program, values = CONFIGS[4][:2]
    exposure = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0], dtype=torch.float64)
    trace = poutine.trace(poutine.condition(program, values)).get_trace(
        X, Y_COUNTS, exposure=exposure
    )
    trace.compute_log_prob()
    rate = (X @ COEFFICIENTS + INTERCEPT).exp() * exposure
    expected = stats.poisson(rate.numpy()).logpmf(Y_COUNTS.numpy()).sum()
    assert float(trace.nodes["y"]["log_prob_sum"]) == pytest.approx(expected, rel=1e-12)


def test_poisson_fit_is_statsmodels() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(80, 2, dtype=torch.float64, generator=generator)
    exposure = 0.5 + torch.rand(80, dtype=torch.float64, generator=generator)
    rate = (0.4 + x @ torch.tensor([0.5, -0.3], dtype=torch.float64)).exp() * exposure
    y = torch.poisson(rate, generator=generator)
    reference = sm.GLM(
        y.numpy(), sm.add_constant(x.numpy()), sm.families.Poisson(), exposure=exposure.numpy()
    ).fit(tol=1e-12)
    fit = MLE().fit(PoissonRegression(), x, y, exposure=exposure)
    found = [float(fit.params["intercept"]), *fit.params["coefficients"].tolist()]
    np.testing.assert_allclose(found, reference.params, atol=1e-7)
    assert fit.log_likelihood == pytest.approx(reference.llf, rel=1e-10)
    errors = fit.standard_errors()
    found = [float(errors["intercept"]), *errors["coefficients"].tolist()]
    np.testing.assert_allclose(found, reference.bse, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": [1.0, -1.0]}, "y must hold counts 0, 1, 2, ..., got -1 at position 1"),
        ({"y": [1.0, 0.5]}, "y must hold counts 0, 1, 2, ..., got 0.5 at position 1"),
        ({"exposure": [1.0, 0.0]}, "exposure must hold positive numbers, got 0 at position 1"),
        ({"exposure": [1.0, -1.0]}, "exposure must hold positive numbers, got -1 at position 1"),
        ({"exposure": [1.0, math.inf]}, "exposure must be finite"),
        ({"exposure": [1.0]}, "exposure must have one entry per observation: expected 2, got 1"),
    ],
)
def test_wrong_counts_and_exposures_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        PoissonRegression()(torch.zeros(2, 1), **options)


def test_one_row_and_constant_columns_are_no_trouble() -> None:
    # As many rows as weights leave no residual, and the density of an unknown scale no bound.
    with pytest.raises(NonFiniteError, match="no maximum"):
        MAP().fit(LinearRegression(), [[1.0, 0.0]], [1.0])
    for program in (LinearRegression(scale=1.0), LogisticRegression(), PoissonRegression()):
        fit = MAP().fit(program, [[1.0, 0.0]], [1.0])
        assert fit.converged
        x = torch.cat([X, torch.ones(5, 1), torch.zeros(5, 1)], 1)
        fit = MAP().fit(program, x, Y_BINARY)
        assert fit.converged
        # Nothing is known of a column of zeros but its prior.
        assert float(fit.params["coefficients"][3]) == pytest.approx(0.0, abs=1e-6)


@EACH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intercept": 1}, "intercept must be True or False, got 1"),
        ({"intercept_scale": 0.0}, "intercept_scale must be a positive finite number"),
        ({"coefficients_scale": "wide"}, "coefficients_scale must be a positive finite number"),
        ({"prior": "cauchy"}, "prior must be one of normal, laplace, got 'cauchy'"),
    ],
)
def test_wrong_options_are_refused(program: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        type(program)(**options)


def test_noise_prior_is_checked() -> None:
    with pytest.raises(DataError, match="scale_scale must be a positive finite number, got -1"):
        LinearRegression(scale_scale=-1)


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6, 1e8])
def test_least_squares_do_not_feel_where_covariates_lie(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # Multiples of 2^-20 keep their differences when the offset is added.
    x = (torch.randn(50, 2, generator=generator, dtype=torch.float64) * 2**20).round() / 2**20
    y = x @ torch.tensor([1.0, -2.0]).double() + torch.randn(50, generator=generator).double()
    near, far = (MLE().fit(LinearRegression(), at, y) for at in (x, x + offset))
    # The predictor is a difference of numbers near the offset, known to their last digits.
    slack = 1e-8 + 50 * offset * torch.finfo(torch.float64).eps
    torch.testing.assert_close(
        far.params["coefficients"], near.params["coefficients"], rtol=0.0, atol=slack
    )
    assert far.log_likelihood == pytest.approx(near.log_likelihood, abs=50 * slack)


def test_start_serves_covariates_of_any_units() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(50, generator=generator).double() + x.sum(-1)
    units = torch.tensor([1e8, 1e-8]).double()
    near, far = (LinearRegression().initial(at, y) for at in (x, x * units))
    torch.testing.assert_close(far["coefficients"] * units, near["coefficients"])
    torch.testing.assert_close(far["intercept"], near["intercept"])
