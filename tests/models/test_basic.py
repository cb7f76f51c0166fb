"""Programs of outcomes without covariates, and the conversions that all programs share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from scipy import stats

from likely.envs import DataError
from likely.inference import MAP, MLE
from likely.models import (
    BernoulliModel,
    CategoricalModel,
    GaussianModel,
    LaplaceModel,
    PoissonModel,
)
from likely.models._data import as_tensor, column_labels, plate_rows, row_labels

# program, constrained values of its unknowns, outcomes
CONFIGS = [
    (BernoulliModel(2.0, 3.0), {"probability": 0.3}, [1.0, 0.0, 0.0, 1.0, 1.0]),
    (CategoricalModel(3, (1.0, 2.0, 3.0)), {"probabilities": [0.2, 0.5, 0.3]}, [0, 2, 1, 1, 2]),
    (PoissonModel(2.0, 0.5), {"rate": 3.5}, [0.0, 4.0, 2.0, 7.0, 3.0]),
    (GaussianModel(1.0, 2.0, 3.0), {"loc": 0.5, "scale": 1.5}, [0.1, -2.0, 1.3, 4.0, 0.7]),
    (LaplaceModel(1.0, 2.0, 3.0), {"loc": 0.5, "scale": 1.5}, [0.1, -2.0, 1.3, 4.0, 0.7]),
]
IDS = [type(program).__name__ for program, _, _ in CONFIGS]


def double(values: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


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
def test_sites_and_plates(program: Any, values: dict[str, Any], y: list[float]) -> None:
    trace = poutine.trace(program).get_trace(y)
    samples = {n: node for n, node in trace.nodes.items() if node["type"] == "sample"}
    assert set(samples) == {*values, "observation", "y"}
    assert [frame.name for frame in samples["y"]["cond_indep_stack"]] == ["observation"]
    assert samples["y"]["is_observed"]
    assert all(not samples[name]["cond_indep_stack"] for name in values)
    for name, value in values.items():
        assert samples[name]["value"].shape == torch.tensor(value).shape


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_missing_outcomes_are_simulated(
    program: Any, values: dict[str, Any], y: list[float]
) -> None:
    pyro.set_rng_seed(0)
    simulated = program(n=7)
    assert simulated.shape == (7,)
    # What was simulated is data for the same program.
    assert math.isfinite(sum(log_prob(program, double(values), simulated).values()))


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_log_density_is_scipys(program: Any, values: dict[str, Any], y: list[float]) -> None:
    at, outcomes = double(values), np.asarray(y)
    expected: dict[str, float]
    match program:
        case BernoulliModel():
            expected = {
                "probability": stats.beta(2, 3).logpdf(0.3),
                "y": stats.bernoulli(0.3).logpmf(outcomes).sum(),
            }
        case CategoricalModel():
            p = np.asarray(values["probabilities"])
            expected = {
                "probabilities": stats.dirichlet([1, 2, 3]).logpdf(p),
                "y": np.log(p[outcomes.astype(int)]).sum(),
            }
        case PoissonModel():
            expected = {
                "rate": stats.gamma(2, scale=1 / 0.5).logpdf(3.5),
                "y": stats.poisson(3.5).logpmf(outcomes).sum(),
            }
        case _:
            outcome = stats.laplace if isinstance(program, LaplaceModel) else stats.norm
            expected = {
                "loc": stats.norm(1, 2).logpdf(0.5),
                "scale": stats.halfnorm(scale=3).logpdf(1.5),
                "y": outcome(0.5, 1.5).logpdf(outcomes).sum(),
            }
    found = log_prob(program, at, torch.tensor(y, dtype=torch.float64))
    assert found == {name: pytest.approx(value, rel=1e-12) for name, value in expected.items()}


@pytest.mark.parametrize(
    ("program", "optimum", "y"),
    [
        (BernoulliModel(), {"probability": 0.75}, [1.0, 1.0, 1.0, 0.0]),
        (PoissonModel(), {"rate": 3.2}, [0.0, 4.0, 2.0, 7.0, 3.0]),
        (
            GaussianModel(),
            # The maximum-likelihood variance divides by N.
            {"loc": 30.1 / 3, "scale": float(np.std([10.1, 9.8, 10.2]))},
            [10.1, 9.8, 10.2],
        ),
    ],
)
def test_likelihood_is_stationary_at_the_known_optimum(
    program: Any, optimum: dict[str, float], y: list[float]
) -> None:
    at = {name: value.requires_grad_() for name, value in double(optimum).items()}
    loglik = log_prob(program, at, torch.tensor(y, dtype=torch.float64))["y"]
    for slope in torch.autograd.grad(loglik, list(at.values())):
        assert abs(float(slope)) < 1e-9


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
@pytest.mark.parametrize("indices", [[3, 1], [4, 3, 2, 1, 0], [0, 0, 2, 2, 2]])
def test_plate_indices_are_honoured(
    program: Any, values: dict[str, Any], y: list[float], indices: list[int]
) -> None:
    at = double(values)
    with Indices(indices):
        found = log_prob(program, at, torch.tensor(y, dtype=torch.float64))["y"]
    chosen = log_prob(program, at, torch.tensor([y[i] for i in indices], dtype=torch.float64))["y"]
    assert float(found) == pytest.approx(float(chosen) * len(y) / len(indices), rel=1e-12)


def test_simulation_follows_the_parameters() -> None:
    n = 20_000
    pyro.set_rng_seed(1)
    p = torch.tensor([0.1, 0.3, 0.6])
    draws = {
        "bernoulli": poutine.condition(BernoulliModel(), {"probability": torch.tensor(0.3)})(n=n),
        "poisson": poutine.condition(PoissonModel(), {"rate": torch.tensor(4.0)})(n=n),
        "normal": poutine.condition(
            GaussianModel(), {"loc": torch.tensor(-1.0), "scale": torch.tensor(2.0)}
        )(n=n),
        "laplace": poutine.condition(
            LaplaceModel(), {"loc": torch.tensor(-1.0), "scale": torch.tensor(2.0)}
        )(n=n),
    }
    # mean and standard deviation of one outcome: the mean of n is off by 4 standard errors
    # once in 16,000 runs
    for name, (mean, sd) in {
        "bernoulli": (0.3, math.sqrt(0.21)),
        "poisson": (4.0, 2.0),
        "normal": (-1.0, 2.0),
        "laplace": (-1.0, math.sqrt(2) * 2.0),
    }.items():
        assert abs(float(draws[name].double().mean()) - mean) < 4 * sd / math.sqrt(n), name
    # The sample standard deviation of normal outcomes has standard error sd / sqrt(2 n).
    assert abs(float(draws["normal"].double().std()) - 2.0) < 4 * 2.0 / math.sqrt(2 * n)
    # A deviation of Laplace outcomes is exponential, with mean and sd both the scale.
    deviation = (draws["laplace"].double() + 1.0).abs().mean()
    assert abs(float(deviation) - 2.0) < 4 * 2.0 / math.sqrt(n)
    classes = poutine.condition(CategoricalModel(3), {"probabilities": p})(n=n)
    shares = torch.bincount(classes, minlength=3) / n
    assert bool(((shares - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_priors_follow_the_dtype_of_the_data(
    program: Any, values: dict[str, Any], y: list[float], dtype: torch.dtype
) -> None:
    trace = poutine.trace(program).get_trace(torch.tensor(y, dtype=dtype))
    assert all(trace.nodes[name]["value"].dtype == dtype for name in values)


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_integers_arrays_and_series_are_data(
    program: Any, values: dict[str, Any], y: list[float]
) -> None:
    whole = np.round(np.asarray(y))
    expected = log_prob(program, double(values), torch.tensor(whole))["y"]
    for data in (whole, whole.astype(int).tolist(), pd.Series(whole), torch.tensor(whole).int()):
        found = log_prob(program, double(values), data)["y"]
        assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("program", "values", "y"), CONFIGS, ids=IDS)
def test_starts_are_inside_the_support(
    program: Any, values: dict[str, Any], y: list[float]
) -> None:
    # All outcomes alike put the optimum on the boundary of the support.
    for outcomes in (y, [0.0] * 5):
        start = program.initial(torch.tensor(outcomes, dtype=torch.float64))
        assert set(start) == set(values)
        assert math.isfinite(sum(log_prob(program, start, outcomes).values()))
    assert program.initial(n=3) == {}


def test_laplace_starts_at_its_maximum_likelihood() -> None:
    """The median and the mean absolute deviation (Laplace 1774); any point between two middles."""
    for y in ([3.0, -1.0, 0.5, 9.0, 0.7], [3.0, -1.0, 0.5, 9.0]):
        start = LaplaceModel().initial(y)
        assert float(start["loc"]) == pytest.approx(float(np.median(y)), rel=1e-6)
        deviation = float(np.abs(np.asarray(y) - np.median(y)).mean())
        assert float(start["scale"]) == pytest.approx(deviation, rel=1e-6)


@pytest.mark.parametrize("n", [4, 5, 20, 51])
def test_laplace_fits_converge_on_kinks(n: int) -> None:
    y = torch.tensor(np.random.default_rng(0).laplace(3.0, 2.0, size=n))
    found = MLE().fit(LaplaceModel(), y)
    assert found.converged
    deviation = float((y - np.median(y)).abs().mean())
    assert float(found.params["scale"]) == pytest.approx(deviation, rel=1e-8)
    # So weak a prior moves the mode within the middle, if at all.
    mode = MAP().fit(LaplaceModel(loc_scale=1e3), y)
    assert mode.converged
    middle = y.sort().values[(n - 1) // 2 : n // 2 + 1]
    assert float(middle[0]) - 1e-6 <= float(mode.params["loc"]) <= float(middle[-1]) + 1e-6


def test_smoothed_shares_are_the_posterior_mode() -> None:
    y = torch.tensor([0, 0, 2, 0, 3])
    for smoothing in (0.1, 1.0, 2.5):
        found = MAP(tol=1e-14).fit(CategoricalModel(4, 1 + smoothing), y).params["probabilities"]
        expected = (np.array([3, 0, 1, 1]) + smoothing) / (5 + 4 * smoothing)
        np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("program", "args", "size", "message"),
    [
        (BernoulliModel(), (), None, "give y, or the number n"),
        (BernoulliModel(), (), 0, "n must be a positive integer, got 0"),
        (BernoulliModel(), (), 2.5, "n must be a positive integer, got 2.5"),
        (BernoulliModel(), ([0, 1],), 3, "expected 3, got 2"),
        (BernoulliModel(), ([],), None, "y is empty"),
        (BernoulliModel(), ([[0.0, 1.0]],), None, r"one-dimensional.*got shape \(1, 2\)"),
        (BernoulliModel(), ([0.0, 0.5],), None, "y must hold 0 or 1, got 0.5 at position 1"),
        (BernoulliModel(), (["a", "b"],), None, "y must hold real numbers, got dtype <U1"),
        (PoissonModel(), ([1.0, -1.0],), None, "counts 0, 1, 2, ..., got -1 at position 1"),
        (PoissonModel(), ([1.5],), None, "got 1.5 at position 0"),
        (CategoricalModel(3), ([0, 3],), None, "classes 0, ..., 2, got 3 at position 1"),
        (CategoricalModel(3), ([0.5],), None, "got 0.5 at position 0"),
        (GaussianModel(), ([0.0, math.nan, math.inf],), None, r"finite: 2 of 3 .* first at \[1\]"),
        # Some versions of pandas make the missing value NaN, some leave it an object.
        (GaussianModel(), (pd.Series([1, None], dtype="Int64"),), None, "y must"),
        (GaussianModel(), ([1j],), None, "y must hold real numbers, got dtype complex"),
    ],
)
def test_wrong_data_is_refused(program: Any, args: Any, size: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        program(*args, n=size)


def test_values_are_looked_at_only_while_pyro_validates() -> None:
    with pyro.validation_enabled(False):
        y = GaussianModel()([0.0, math.nan])
    assert bool(y.isnan().any())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BernoulliModel(alpha=0), "alpha must be a positive finite number, got 0"),
        (lambda: BernoulliModel(beta=math.inf), "beta must be a positive finite number, got inf"),
        (lambda: PoissonModel(alpha="1"), "alpha must be a positive finite number, got '1'"),
        (lambda: GaussianModel(loc_mean=math.nan), "loc_mean must be a finite number, got nan"),
        (lambda: GaussianModel(scale_scale=-1.0), "scale_scale must be a positive"),
        (lambda: CategoricalModel(1), "n_classes must be an integer >= 2, got 1"),
        (lambda: CategoricalModel(2.5), "n_classes must be an integer >= 2, got 2.5"),
        (lambda: CategoricalModel(3, (1.0, 2.0)), "one for each of 3 classes, got 2"),
    ],
)
def test_wrong_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


def test_programs_are_values() -> None:
    assert CategoricalModel(2, [1.0, 2.0]) == CategoricalModel(2, (1.0, 2.0))
    assert len({BernoulliModel(), BernoulliModel(), BernoulliModel(2.0)}) == 2


def test_labels() -> None:
    y = pd.Series([0, 1], index=["Ann", "Bo"])
    assert list(BernoulliModel().coords(y)["observation"]) == ["Ann", "Bo"]
    assert BernoulliModel().coords(torch.zeros(2)) == {}
    assert BernoulliModel().coords(n=2) == {}
    assert CategoricalModel(3).coords([0, 1]) == {"class": range(3)}
    assert CategoricalModel(3).dims == {"probabilities": ("class",)}


def test_row_labels_can_be_written_to_a_file() -> None:
    zoned = pd.date_range("2024-01-01", periods=2, tz="UTC")
    assert row_labels(pd.Series([1, 2], index=zoned))["observation"].dtype.kind == "U"
    nested = pd.MultiIndex.from_product([["a"], [1, 2]])
    assert row_labels(pd.Series([1, 2], index=nested)) == {}
    assert row_labels([1, 2]) == {}


def test_labels_that_repeat_name_nothing() -> None:
    assert row_labels(pd.Series([1, 2, 3], index=["a", "b", "a"])) == {}
    assert column_labels(pd.DataFrame([[1, 2]], columns=["a", "a"])) == range(2)


def test_column_labels() -> None:
    assert column_labels(pd.DataFrame({"a": [1], 2: [3]})) == ["a", "2"]
    assert column_labels(torch.zeros(3, 2)) == range(2)
    with pytest.raises(DataError, match="expected a matrix"):
        column_labels(torch.zeros(3))


def test_conversion_keeps_kinds_and_copies() -> None:
    floats = np.array([1.0, 2.0])[::-1]
    tensor = as_tensor(floats, "x")
    assert tensor.dtype == torch.get_default_dtype()
    tensor[0] = 9
    assert floats.tolist() == [2.0, 1.0]
    assert as_tensor(np.array([1, 2], dtype=np.uint8), "x").dtype == torch.int64
    assert as_tensor([True, False], "x").dtype == torch.bool
    half = torch.zeros(2, dtype=torch.float16)
    assert as_tensor(half, "x") is half
    # Mixed numeric columns arrive as objects.
    mixed = pd.DataFrame({"a": [1.5, 2.5], "b": [True, False]})
    assert as_tensor(mixed, "x").tolist() == [[1.5, 1.0], [2.5, 0.0]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pd.DataFrame({"a": [1.0], "b": ["1"]}), "x must hold numbers, got strings"),
        (np.array(["2024-01-01"], dtype="datetime64[D]"), "x must hold real numbers"),
        ([[1.0], [1.0, 2.0]], "x must hold numbers"),
        (torch.zeros(2, dtype=torch.complex64), "x must hold real numbers"),
    ],
)
def test_conversion_refuses_what_is_no_number(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_tensor(value, "x")


def test_rows_are_gathered_only_when_needed() -> None:
    cpu = torch.device("cpu")
    assert plate_rows(torch.arange(4), 4, cpu) == slice(None)
    assert plate_rows(None, 4, cpu) == slice(None)
    for index in (torch.tensor([1, 0, 2, 3]), torch.tensor([0, 1])):
        assert plate_rows(index, 4, cpu) is index


def test_what_lies_under_a_mask_is_no_data() -> None:
    masked = np.ma.masked_array([1, 7, 3], [False, True, False])
    found = as_tensor(masked, "y")
    assert found.isnan().tolist() == [False, True, False]
    assert as_tensor(np.ma.masked_array([1, 7, 3]), "y").tolist() == [1, 7, 3]
    with pytest.raises(DataError, match="y must be finite: 1 of 3"):
        PoissonModel()(masked)
