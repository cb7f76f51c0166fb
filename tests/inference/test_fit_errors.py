"""Questions that a fit cannot answer, and data that do not agree with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import MAP, MLE, Fit, FitError, Laplace
from likely.models import Annotations, DawidSkene, GaussianMixture, LinearRegression


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    generator = np.random.default_rng(1)
    return pd.DataFrame(generator.normal(size=(40, 2)), columns=["width", "height"])


@pytest.fixture(scope="module")
def outcomes(frame: pd.DataFrame) -> pd.Series:
    noise = np.random.default_rng(2).normal(size=40)
    return 1.0 + 3.0 * frame["width"] - 2.0 * frame["height"] + 0.1 * noise


@pytest.fixture(scope="module")
def line(frame: pd.DataFrame, outcomes: pd.Series) -> Fit:
    return MLE().fit(LinearRegression(), frame, outcomes)


@pytest.fixture
def loaded(line: Fit, tmp_path: Path) -> Fit:
    line.save(tmp_path / "fit.nc")
    return Fit.load(tmp_path / "fit.nc")


# -- new data --------------------------------------------------------------------------------------


def test_columns_in_another_order_are_put_in_the_fits(line: Fit, frame: pd.DataFrame) -> None:
    expected = line.predict(frame, draws=5)["y"]
    shuffled = frame[["height", "width"]]
    torch.testing.assert_close(line.predict(shuffled, draws=5)["y"], expected)
    torch.testing.assert_close(line.predict(x=shuffled, draws=5)["y"], expected)
    torch.testing.assert_close(line.predict(frame.to_numpy(), draws=5)["y"], expected)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["width", "depth"], r"argument 'x'.*missing: \['height'\]; unknown: \['depth'\]"),
        (["width"], r"argument 'x'.*missing: \['height'\]"),
        (["width", "height", "depth"], r"unknown: \['depth'\]"),
        (["width", "height", "height"], r"must have the columns of the fit's"),
    ],
)
def test_other_columns_are_named(line: Fit, columns: list[str], message: str) -> None:
    new = pd.DataFrame(np.zeros((5, len(columns))), columns=columns)
    with pytest.raises(FitError, match=message):
        line.predict(new)


def test_data_with_other_features_are_refused(line: Fit) -> None:
    with pytest.raises(FitError, match=r"'coefficients' would have shape \(3,\).*fit has \(2,\)"):
        line.predict(torch.zeros(5, 3))


def test_points_with_other_features_than_a_mixtures_are_refused() -> None:
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(3))
    fit = MLE().fit(GaussianMixture(1, "diag"), x)
    assert fit.predict(n=7, dim=2, draws=3)["x"].shape == (1, 3, 7, 2)
    for wrong in (1, 3):
        with pytest.raises(FitError, match=rf"would have shape \(1, {wrong}\)"):
            fit.predict(torch.zeros(5, wrong))


def test_fewer_groups_than_the_fits_are_predicted_and_more_are_refused() -> None:
    def groups(y: Any, group: torch.Tensor) -> None:
        n_groups = int(group.max()) + 1
        with pyro.plate("group", n_groups):
            level = pyro.sample("level", dist.Normal(0.0, 10.0))
        with pyro.plate("n", len(group)):
            pyro.sample("y", dist.Normal(level[group], 0.01), obs=y)

    group = torch.tensor([0, 0, 1, 1, 2, 2])
    fit = MLE().fit(groups, group.double(), group)
    predicted = fit.predict(None, torch.tensor([1, 0]), draws=10)["y"]
    torch.testing.assert_close(predicted.mean((0, 1)).round(), torch.tensor([1.0, 0.0]).double())
    with pytest.raises(FitError, match=r"'level' would have shape \(4,\).*groups"):
        fit.predict(None, torch.tensor([3, 0]))


@pytest.mark.parametrize("draws", ["a", 2.5, 0, -1, True])
def test_predict_names_a_wrong_number_of_draws(line: Fit, draws: Any) -> None:
    with pytest.raises(FitError, match="draws must be an integer of at least 1, got"):
        line.predict(draws=draws)


@pytest.mark.parametrize("seed", ["a", -1, 0.5])
def test_predict_names_a_wrong_seed(line: Fit, seed: Any) -> None:
    with pytest.raises(FitError, match="seed must be an integer of at least 0, got"):
        line.predict(draws=2, seed=seed)


def test_predict_takes_integers_of_numpy(line: Fit) -> None:
    found = line.predict(draws=np.int64(3), seed=np.int64(5))["y"]
    torch.testing.assert_close(found, line.predict(draws=3, seed=5)["y"])


# -- a loaded fit ----------------------------------------------------------------------------------


def test_attach_takes_the_fits_own_data(
    loaded: Fit, line: Fit, frame: pd.DataFrame, outcomes: pd.Series
) -> None:
    assert loaded.attach(LinearRegression(), frame, outcomes).aic() == pytest.approx(line.aic())


def test_attach_refuses_other_data(loaded: Fit, frame: pd.DataFrame, outcomes: pd.Series) -> None:
    with pytest.raises(FitError, match="the data or the program are not those of the fit"):
        loaded.attach(LinearRegression(), frame, outcomes + 0.1)
    assert loaded.program is None


def test_attach_refuses_a_program_without_a_site_of_the_fits(
    loaded: Fit, frame: pd.DataFrame, outcomes: pd.Series
) -> None:
    with pytest.raises(FitError, match="the fit has 'intercept', which the program does not have"):
        loaded.attach(LinearRegression(intercept=False), frame, outcomes)


def test_attach_refuses_a_program_with_another_site(
    frame: pd.DataFrame, outcomes: pd.Series
) -> None:
    fit = MLE().fit(LinearRegression(intercept=False), frame, outcomes)
    with pytest.raises(FitError, match=r"a site 'intercept' of shape \(\); the fit has none"):
        fit.attach(LinearRegression(), frame, outcomes)


def test_attach_knows_deterministic_sites_and_draws() -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(4))
    program = GaussianMixture(1)
    fit = Laplace(draws=20).fit(program, x)
    assert "covariances" in fit.params
    assert fit.attach(program, x) is fit


@pytest.mark.parametrize("criterion", ["aic", "bic"])
def test_a_loaded_fits_criterion_is_named(loaded: Fit, criterion: str) -> None:
    with pytest.raises(FitError, match=rf"^{criterion}\(\) needs the program"):
        getattr(loaded, criterion)()


# -- discrete sites whose values are known ---------------------------------------------------------


def test_known_classes_have_probability_one() -> None:
    crowd = Annotations.from_arrays(
        [0, 0, 1, 1, 2], ["a", "b", "a", "b", "b"], [0, 0, 1, 0, 1], truth=[0, 1, 1]
    )
    fit = MAP().fit(DawidSkene(2), crowd)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(fit.latent("truth"), expected)


def test_known_one_hot_events_are_found_in_their_support() -> None:
    def program(kind: torch.Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("n", len(kind)):
            pyro.sample("kind", dist.OneHotCategorical(weights), obs=kind)

    kinds = torch.eye(3, dtype=torch.float64)[[2, 0, 1, 2]]
    torch.testing.assert_close(MLE().fit(program, kinds).latent("kind"), kinds)


def test_a_site_of_real_numbers_has_no_classes(line: Fit) -> None:
    with pytest.raises(ValueError, match="'y' is not a discrete latent"):
        line.latent("y")
    with pytest.raises(FitError, match="draws must be an integer of at least 1, got 'a'"):
        line.latent("y", draws="a")  # type: ignore[arg-type]
