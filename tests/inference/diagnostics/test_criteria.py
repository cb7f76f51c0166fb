from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm

from likely.inference import MLE, Fit, FitError, Laplace
from likely.inference.diagnostics import backend, criteria, plot_criteria


def poly(x: torch.Tensor, y: torch.Tensor, degree: int) -> None:
    """A polynomial with noise of known size."""
    coefficients = pyro.sample(
        "coefficients", dist.Normal(0.0, 10.0).expand([degree + 1]).to_event(1)
    )
    powers = torch.stack([x**d for d in range(degree + 1)], -1)
    with pyro.plate("point", len(x)):
        pyro.sample("y", dist.Normal(powers @ coefficients, 0.5), obs=y)


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    return x, 1.0 + 2.0 * x - 3.0 * x**2 + 0.5 * noise


@pytest.fixture(scope="module")
def models(data: Any) -> dict[int, list[Fit]]:
    return {
        degree: [engine.fit(poly, *data, degree) for engine in (MLE(), Laplace(draws=4000))]
        for degree in (0, 2, 4)
    }


def exact(data: Any, degree: int, *, leave_out: bool = True) -> np.ndarray:
    """Predictive log-densities of a Gaussian linear model with a Gaussian prior, by conjugacy."""
    x, y = (value.numpy() for value in data)
    design = np.stack([x**d for d in range(degree + 1)], -1)
    found = []
    for i in range(len(x)):
        rest = (np.arange(len(x)) != i) | (not leave_out)
        precision = design[rest].T @ design[rest] / 0.25 + np.eye(degree + 1) / 100
        mean = np.linalg.solve(precision, design[rest].T @ y[rest] / 0.25)
        variance = 0.25 + design[i] @ np.linalg.solve(precision, design[i])
        found.append(norm.logpdf(y[i], design[i] @ mean, np.sqrt(variance)))
    return np.array(found)


def monte_carlo_error(fit: Fit) -> float:
    """Two standard errors of a sum of log mean likelihoods, had all points the same error.

    The draws are independent and from the exact posterior, which is Gaussian here.
    """
    terms = fit.to_arviz()["log_likelihood"]["y"].to_numpy().reshape(-1, 40)
    likelihood = np.exp(terms - terms.max(0))
    relative = likelihood.std(0) / likelihood.mean(0) / np.sqrt(len(terms))
    return float(2 * relative.sum())


def test_the_table_says_what_the_fits_say(models: dict[int, list[Fit]], data: Any) -> None:
    table = criteria(models)
    assert list(table.index) == [0, 2, 4]
    for degree, (point, posterior) in models.items():
        row = table.loc[degree]
        assert row["log_likelihood"] == point.log_likelihood
        assert row["n_parameters"] == degree + 1
        assert row["aic"] == point.aic()
        assert row["bic"] == pytest.approx(
            (degree + 1) * np.log(40) - 2 * point.log_likelihood, rel=1e-12
        )
        loo, inside = exact(data, degree), exact(data, degree, leave_out=False)
        noise = monte_carlo_error(posterior)
        assert noise < 1.0
        assert row["elpd_loo"] == pytest.approx(loo.sum(), abs=noise)
        assert row["se"] == pytest.approx(np.sqrt(40 * loo.var()), rel=0.03)
        assert row["p_loo"] == pytest.approx((inside - loo).sum(), abs=2 * noise)
        assert row["pareto_k_max"] < 0.7
    assert table["bic"].idxmin() == table["elpd_loo"].idxmax() == 2
    assert table.loc[2, ["elpd_diff", "dse"]].tolist() == [0.0, 0.0]
    gaps = exact(data, 2) - exact(data, 0)
    assert table.loc[0, "elpd_diff"] == pytest.approx(
        gaps.sum(), abs=monte_carlo_error(models[0][1]) + monte_carlo_error(models[2][1])
    )
    assert table.loc[0, "dse"] == pytest.approx(np.sqrt(40 * gaps.var()), rel=0.02)


def test_the_parts_of_loo_have_one_name_in_every_arviz(models: dict[int, list[Fit]]) -> None:
    found = backend.elpd(models[2][1].to_arviz())
    assert found.pointwise.shape == found.khat.shape == (40,)
    assert found.pointwise.sum() == pytest.approx(found.elpd)
    # ArviZ 0.23 divides the variance by n, 1.x by n - 1.
    spread = [np.sqrt(40 * found.pointwise.var(ddof=ddof)) for ddof in (0, 1)]
    assert min(abs(found.se / value - 1) for value in spread) < 1e-6


def test_models_with_one_kind_of_fit(models: dict[int, list[Fit]]) -> None:
    points = criteria({"two": models[2][0], "four": {"MLE": models[4][0]}})
    assert list(points) == ["log_likelihood", "n_parameters", "aic", "bic"]
    mixed = criteria({"two": models[2][0], "four": models[4][1]})
    assert np.isnan(mixed.loc["two", "elpd_loo"])
    assert np.isnan(mixed.loc["four", "bic"])
    assert len(plot_criteria(points).axes) == 1
    assert len(plot_criteria(mixed).axes) == 2
    posteriors = criteria({"two": models[2][1]})
    assert "bic" not in posteriors


def test_a_figure_marks_the_best(models: dict[int, list[Fit]]) -> None:
    table = criteria(models)
    figure = plot_criteria(table, name="degree")
    left, right = figure.axes
    for ax, column in ((left, "bic"), (right, "elpd_loo")):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), table[column])
        (mark,) = [line for line in ax.lines if len(line.get_xdata()) == 1]
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (1, table.loc[2, column])
        assert mark.get_label() == "best: 2"
        assert ax.get_xlabel() == "degree"
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "2", "4"]
    bars = right.collections[0].get_segments()
    np.testing.assert_allclose([bar[1, 1] - bar[0, 1] for bar in bars], 2 * table["se"])
    assert plot_criteria(models, criterion="aic").axes[0].get_title(loc="left").startswith("AIC")
    _, axes = plt.subplots(1, 2)
    assert plot_criteria(table, axes=axes) is axes[0].figure


def test_what_cannot_be_compared(models: dict[int, list[Fit]], data: Any) -> None:
    point, posterior = models[2]
    with pytest.raises(FitError, match="fits must be a mapping of label to fits, got list"):
        criteria([point])  # type: ignore[arg-type]
    with pytest.raises(FitError, match="fits is empty"):
        criteria({})
    for bad in ("fit", 3):
        with pytest.raises(FitError, match=r"fits\['a'\] must be a Fit or several"):
            criteria({"a": bad})  # type: ignore[dict-item]
    with pytest.raises(FitError, match=r"fits\['a'\] must hold Fits, got int"):
        criteria({"a": [point, 3]})  # type: ignore[list-item]
    for fits in ([point, point], [posterior, posterior], []):
        with pytest.raises(FitError, match="at most one point fit and one posterior"):
            criteria({"a": fits})
    fewer = MLE().fit(poly, data[0][:30], data[1][:30], 1)
    with pytest.raises(FitError, match="numbers of observations are 40 in 2, 30 in 'fewer'"):
        criteria({2: point, "fewer": fewer})
    with pytest.raises(FitError, match="needs the program"):
        criteria({2: replace(point, program=None)})
    with pytest.raises(FitError, match="criterion must be 'bic' or 'aic', got 'dic'"):
        plot_criteria({2: point}, criterion="dic")
    with pytest.raises(FitError, match="table has neither 'bic' nor 'elpd_loo'"):
        plot_criteria(criteria({2: point})[["aic"]])
    nothing = pd.DataFrame({"bic": [np.nan, np.nan]})
    with pytest.raises(FitError, match="table has neither 'bic' nor 'elpd_loo'"):
        plot_criteria(nothing)
    with pytest.raises(FitError, match="without its standard error 'se'"):
        plot_criteria(pd.DataFrame({"elpd_loo": [1.0]}))
    for column in ("bic", "elpd_loo"):
        with pytest.raises(FitError, match=f"table must have numbers in '{column}'"):
            plot_criteria(pd.DataFrame({column: ["low", "high"], "se": [1.0, 1.0]}))
    odd = plot_criteria(pd.DataFrame({"bic": [1.0, 2.0]}, index=["$a_1$", "b"]), name="$cost")
    assert [t.get_text() for t in odd.axes[0].get_xticklabels()] == [r"\$a_1\$", "b"]
