"""What mixtures refuse, what they take, and what they warn about."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.inference import EM, DegenerateWarning
from likely.models import GaussianMixture, Mixture

NAN, INF = math.nan, math.inf
COVARIANCES = ["full", "tied", "diag", "spherical", "tied_spherical"]


@pytest.mark.parametrize(
    ("options", "args", "kwargs", "message"),
    [
        ({}, (), {}, "give x, or the numbers n of rows and dim of features"),
        ({}, (), {"n": 5}, "give x, or the numbers n"),
        ({}, (), {"n": 5, "dim": 0}, "dim must be a positive integer, got 0"),
        ({}, (torch.zeros(5),), {}, r"x must be two-dimensional.*x\[:, None\].*got shape \(5,\)"),
        ({}, (torch.zeros(5, 2, 2),), {}, "x must be two-dimensional"),
        ({}, (torch.zeros(0, 2),), {}, r"x is empty: it has shape \(0, 2\)"),
        ({}, (torch.zeros(5, 0),), {}, r"x is empty: it has shape \(5, 0\)"),
        ({}, ([[0.0], [1.0], [INF]],), {}, r"1 of 3 entries are infinite, the first at \[2, 0\]"),
        ({}, ([[0.0, NAN]] * 4,), {}, "x has no entry that is there in column 1"),
        ({}, ([["a"], ["b"], ["c"]],), {}, "x must hold"),
        ({}, (torch.zeros(5, 2, dtype=torch.complex64),), {}, "x must hold real numbers"),
        ({}, (torch.zeros(5, 2),), {"n": 4}, r"x has shape \(5, 2\), but n=4"),
        ({}, (torch.zeros(5, 2),), {"weights": [1.0] * 4}, "weights must have one entry"),
        ({}, (torch.zeros(5, 2),), {"weights": [-1.0] * 5}, "weights must hold numbers of at"),
        ({}, (torch.zeros(5, 2),), {"weights": [NAN] * 5}, "weights must be finite"),
        ({"loc_mean": [0.0] * 3}, (torch.zeros(5, 2),), {}, "loc_mean has 3 entries, but x has 2"),
    ],
)
def test_wrong_data_is_refused(
    options: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    program = GaussianMixture(3, **options)
    with pytest.raises(DataError, match=message):
        program(*args, **kwargs)
    if args:
        with pytest.raises(DataError, match=message):
            EM().fit(program, *args, **kwargs)


def test_few_rows_make_no_fit_and_are_enough_for_a_prediction() -> None:
    program = GaussianMixture(3)
    with pytest.raises(DataError, match="at least one row for each of 3 components, got 2"):
        EM().fit(program, torch.zeros(2, 2))
    x = torch.tensor([[0.0], [0.2], [4.0], [4.2], [9.0], [9.2]], dtype=torch.float64)
    fit = EM(objective="posterior").fit(program, x)
    assert fit.predict(x[:2], draws=5)["x"].shape == (1, 5, 2, 1)


@pytest.mark.parametrize(
    ("emission", "options", "x", "message"),
    [
        ("poisson", {}, [[0.0], [-1.0]], r"counts 0, 1, 2, \.\.\., got -1 at row 1, column 0"),
        ("poisson", {}, [[0.0], [0.5]], r"counts 0, 1, 2, \.\.\., got 0.5 at row 1, column 0"),
        ("bernoulli", {}, [[0.0, 1.0], [1.0, 2.0]], "0 or 1, got 2 at row 1, column 1"),
        ("categorical", {"n_categories": 3}, [[0, 3], [1, 2]], r"0, \.\.\., 2, got 3 at row 0"),
        ("categorical", {"n_categories": 3}, [[0, -1], [1, 2]], "got -1 at row 0, column 1"),
        ("categorical", {"n_categories": 3}, [[0, 1.5], [1, 2]], "got 1.5 at row 0, column 1"),
        ("poisson", {}, [[0.0], [INF]], "1 of 2 entries are infinite"),
        ("bernoulli", {}, [[0.0, NAN], [1.0, NAN]], "no entry that is there in column 1"),
        ("bernoulli", {}, [0.0, 1.0], "x must be two-dimensional"),
    ],
)
def test_impossible_discrete_data_is_refused(
    emission: str, options: dict[str, Any], x: Any, message: str
) -> None:
    program = Mixture(2, emission, options=options)
    with pytest.raises(DataError, match=message):
        EM().fit(program, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components must be an integer >= 1, got 0"),
        ({"n_components": 2.5}, "n_components must be an integer >= 1, got 2.5"),
        ({"covariance": "round"}, "covariance must be one of full, tied, .* got 'round'"),
        ({"weight_concentration": 0.0}, "weight_concentration must be a positive finite"),
        ({"loc_mean": NAN}, "loc_mean must be a finite number"),
        ({"loc_scale": (1.0, 0.0)}, "loc_scale must be a positive finite number, got 0"),
        ({"scale_median": ()}, "scale_median must be a number or several, got none"),
        ({"scale_log_sd": -1.0}, "scale_log_sd must be a positive finite number"),
        ({"correlation_concentration": INF}, "correlation_concentration must be a positive"),
        ({"covariance_floor": -1e-6}, "covariance_floor must be >= 0, got -1e-06"),
        ({"equal_weights": 1}, "equal_weights must be True or False, got 1"),
        ({"init": "kmeans"}, r"init must be one of k-means\+\+, random, got 'kmeans'"),
        (
            {"covariance": "spherical", "scale_median": (1.0, 2.0)},
            "scale_median must be one number for a spherical",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GaussianMixture(**{"n_components": 3, **options})


@pytest.mark.parametrize(
    ("emission", "options", "message"),
    [
        ("binomial", {}, "emission must be one of poisson, bernoulli, categorical, got 'binomial'"),
        ("poisson", {"rate": 1.0}, "options of emission 'poisson': .*rate"),
        ("categorical", {}, "options of emission 'categorical': .*n_categories"),
        ("categorical", {"n_categories": 1}, "n_categories must be an integer >= 2, got 1"),
        ("poisson", {"alpha": 0.0}, "alpha must be a positive finite number"),
        ("bernoulli", {"beta": "x"}, "beta must be a positive finite number"),
        (["poisson"], {}, "emission must be one of"),
        ("poisson", 3, "options must be a mapping"),
    ],
)
def test_wrong_emissions_are_refused(emission: Any, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Mixture(2, emission, options=options)


def test_predictions_for_other_features_are_refused(faithful: torch.Tensor) -> None:
    program = GaussianMixture(2)
    params = program.initial(faithful)
    for method in (program.responsibilities, program.score_samples):
        with pytest.raises(DataError, match="x has 1 features, but the components have 2"):
            method(params, faithful[:, :1])
        with pytest.raises(DataError, match="x must be two-dimensional"):
            method(params, faithful[0])
        with pytest.raises(DataError, match="infinite"):
            method(params, torch.full((3, 2), INF))
    # One row alone can be asked for, although it could not be fitted.
    assert program.responsibilities(params, faithful[:1]).shape == (1, 2)
    assert program.score_samples(params, [[3.0, NAN]]).shape == (1,)
    alone = program.score_samples(params, [[3.0, NAN]] * 4)
    far = {**params, "locs": params["locs"] + 1e8}
    torch.testing.assert_close(program.score_samples(far, [[1e8 + 3.0, NAN]] * 4), alone)
    with pytest.raises(DataError, match="n must be a positive integer"):
        program.sample(params, 0)


def test_programs_can_be_compared_and_hashed() -> None:
    assert GaussianMixture(2, loc_mean=[0.0, 1.0]) == GaussianMixture(2, loc_mean=(0.0, 1.0))
    assert len({GaussianMixture(2), GaussianMixture(2), GaussianMixture(3)}) == 2
    first, second = (Mixture(2, "categorical", options={"n_categories": c}) for c in (2, 3))
    assert first != second
    assert hash(first) is not None


# -- what is taken ---------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_component_is_the_sample_mean_and_covariance(
    covariance: str, faithful: torch.Tensor
) -> None:
    fit = EM().fit(GaussianMixture(1, covariance), faithful)
    torch.testing.assert_close(fit.params["locs"][0], faithful.mean(0))
    cov = faithful.T.cov(correction=0)
    if covariance in ("diag", "spherical", "tied_spherical"):
        cov = cov.diagonal().diag()
    if covariance.endswith("spherical"):
        cov = cov.diagonal().mean() * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(fit.params["covariances"].reshape(2, 2), cov)
    assert bool((fit.latent("component") == 1).all())


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_a_constant_column_gets_a_small_variance(
    covariance: str, value: float, faithful: torch.Tensor
) -> None:
    """The bound on the covariance is one millionth there, as if the column had variance one."""
    x = torch.cat([faithful[1:], torch.full((271, 1), value, dtype=torch.float64)], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        fit = EM(max_iter=2000).fit(GaussianMixture(2, covariance), x)
    assert math.isfinite(fit.log_likelihood)
    torch.testing.assert_close(fit.params["locs"][:, 2], x[:2, 2], rtol=1e-12, atol=1e-12)
    if covariance.endswith("spherical"):
        return
    found = fit.params["covariances"].expand(2, 3, 3)
    torch.testing.assert_close(found[:, 2, 2], torch.full((2,), 1e-6).double(), rtol=1e-6, atol=0)
    if covariance == "full":
        plain = EM().fit(GaussianMixture(2, covariance), faithful[1:])
        shares = [f.latent("component").sort().values for f in (fit, plain)]
        torch.testing.assert_close(*shares, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_repeated_rows_and_one_feature(covariance: str) -> None:
    x = torch.tensor([[0.0]] * 5 + [[1.0]] * 5 + [[1.5]] * 2, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        fit = EM().fit(GaussianMixture(2, covariance), x)
    assert math.isfinite(fit.log_likelihood)
    assert fit.latent("component").shape == (12, 2)


def test_integers_float32_lists_and_frames_are_taken(faithful: torch.Tensor) -> None:
    whole = (10 * faithful).round()
    expected = EM().fit(GaussianMixture(2), whole)
    for x in (
        whole.long(),
        whole.float(),
        whole.numpy().astype(np.int16),
        whole.tolist(),
        pd.DataFrame(whole.numpy().astype(int)),
    ):
        fit = EM().fit(GaussianMixture(2), x)
        assert fit.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
    single = EM(dtype=torch.float32, tol=1e-6).fit(GaussianMixture(2), whole)
    assert single.params["locs"].dtype == torch.float32
    assert single.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-4)


def test_integer_classes_and_booleans_are_taken() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, size=(60, 3))
    fits = [EM(tol=1e-6).fit(Mixture(1, "bernoulli"), x) for x in (rows, rows.astype(bool))]
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood)


# -- what is warned about --------------------------------------------------------------------------


def test_a_component_that_collapses_is_named_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    x[0] = 50.0
    start = {
        "weights": torch.tensor([0.5, 0.495, 0.005]).double(),
        "locs": torch.tensor([[-1.0, 0.0], [1.0, 0.0], [50.0, 50.0]]).double(),
        "scales": torch.ones(3, 2, dtype=torch.float64),
    }
    with pytest.warns(DegenerateWarning, match="component 2 has shrunk") as caught:
        EM(init=start, max_iter=3000).fit(GaussianMixture(3, "diag"), x)
    assert len([w for w in caught if w.category is DegenerateWarning]) == 1
    with pytest.warns(DegenerateWarning, match="shared covariance has shrunk"):
        EM().fit(GaussianMixture(2, "tied"), x[:, :1] * torch.tensor([1.0, 2.0]).double())


def test_an_empty_component_is_named() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 1, generator=generator, dtype=torch.float64)
    start = {
        "weights": torch.tensor([0.9, 0.1]).double(),
        "locs": torch.tensor([[0.0], [1e3]]).double(),
        "scales": torch.ones(2, 1, dtype=torch.float64),
    }
    with pytest.warns(DegenerateWarning, match="component 1 is empty"):
        EM(init=start).fit(GaussianMixture(2, "diag"), x)


def test_a_good_fit_warns_about_nothing(faithful: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EM().fit(GaussianMixture(2), faithful)


PREDICT = ["responsibilities", "score_samples"]


@pytest.mark.parametrize("method", PREDICT)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": None}, "params must hold 'scales', got"),
        ({"locs": None}, "params must map the sites of the program to values"),
        ({"rates": torch.ones(2)}, "params holds 'rates', which the program does not have"),
        ({"weights": torch.ones(3) / 3}, r"'weights'. must have shape \(2,\), got \(3,\)"),
        ({"locs": torch.zeros(1, 1, 2, 2)}, r"'locs'. must have shape \(2, 2\)"),
    ],
)
def test_predictions_with_wrong_values_are_refused(
    method: str, change: dict[str, Any], message: str, faithful: torch.Tensor
) -> None:
    program = GaussianMixture(2)
    params = {**program.initial(faithful), **change}
    params = {name: value for name, value in params.items() if value is not None}
    with pytest.raises(DataError, match=message):
        getattr(program, method)(params, faithful)
    with pytest.raises(DataError, match=message):
        program.sample(params, 3)


@pytest.mark.parametrize("method", PREDICT)
def test_values_of_another_covariance_are_refused(method: str, faithful: torch.Tensor) -> None:
    params = GaussianMixture(2).initial(faithful)
    with pytest.raises(DataError, match="'correlation_cholesky', which the program does not have"):
        getattr(GaussianMixture(2, "diag"), method)(params, faithful)


@pytest.mark.parametrize("method", PREDICT)
def test_predictions_take_arrays_and_do_not_depend_on_other_rows(
    method: str, faithful: torch.Tensor
) -> None:
    program = GaussianMixture(2)
    params = program.initial(faithful)
    expected = getattr(program, method)(params, faithful)
    arrays = {name: value.numpy() for name, value in params.items()}
    torch.testing.assert_close(getattr(program, method)(arrays, faithful), expected)
    far = torch.cat([faithful, torch.full((1, 2), 1e12, dtype=torch.float64)])
    found = getattr(program, method)(params, far)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:-1], expected, rtol=1e-12, atol=0.0)
