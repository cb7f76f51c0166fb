from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

from likely.inference import MAP, Fit, FitError
from likely.inference.diagnostics import (
    compare,
    plot_compare,
    plot_history,
    plot_predictive,
    plot_table,
    plot_trace,
)


@pytest.fixture(autouse=True)
def _leaves_matplotlib_alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("plt.show() was called"))
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before


def texts(figure: Figure) -> set[str]:
    figure.draw_without_rendering()
    return {t.get_text() for t in figure.findobj(mpl.text.Text)}


def sticking_out(figure: Figure) -> list[str]:
    """Texts that the edge of the figure cuts off."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    box = figure.bbox.padded(1)
    # Tick labels beyond the limits of their axis exist but are not drawn.
    ticks = {
        id(label)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    }
    return [
        text.get_text()
        for text in figure.findobj(mpl.text.Text)
        if text.get_text() and text.get_visible() and id(text) not in ticks
        for extent in [text.get_window_extent(renderer)]
        if not (box.contains(*extent.min) and box.contains(*extent.max))
    ]


def test_compare_draws_what_the_table_says(em: Fit, sampled: Fit) -> None:
    fits = {"EM": em, "NUTS": sampled}
    figure = plot_compare(fits, sites=["prevalence", "confusion"], interval=0.8)
    table = compare(fits, interval=0.8)
    assert len(figure.axes) == 2
    ax = figure.axes[1]
    assert ax.get_title(loc="left") == "confusion [annotator, class, reported]"
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "Ann, healthy, healthy"
    assert labels[-1] == "Bo, severe, severe"
    rows = table.loc["confusion[Ann, healthy, healthy]":"confusion[Bo, severe, severe]"]  # type: ignore[misc]
    points = next(line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()))
    np.testing.assert_allclose(points.get_xdata(), rows["EM", "estimate"])
    segments = np.array(ax.collections[0].get_segments())
    np.testing.assert_allclose(segments[:, :, 0], rows["NUTS"][["lower", "upper"]])
    assert {"EM", "NUTS", "value; lines are 80% equal-tailed intervals"} <= texts(figure)
    assert not sticking_out(figure)
    # Rows run from the top.
    low, high = ax.get_ylim()
    assert low > high


def test_compare_of_points_and_scalars(mle_line: Fit, nuts_line: Fit) -> None:
    figure = plot_compare({"a": mle_line, "b": mle_line})
    assert len(figure.axes) == 2
    assert "value" in texts(figure)
    scalar = plot_compare({"a": mle_line, "b": nuts_line}, sites="scale").axes[0]
    assert scalar.get_title(loc="left") == "scale"


class Priced:
    """A level for each ticker; the names would be formulas, and no valid ones."""

    def __call__(self, x: Any) -> None:
        with pyro.plate("ticker", 2):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(level, 1.0), obs=torch.as_tensor(x))

    def coords(self, x: Any) -> dict[str, list[str]]:
        return {"ticker": ["$a^$", "$b_$"]}


def test_dollars_in_names_are_no_formulas() -> None:
    fit = MAP().fit(Priced(), torch.tensor([1.0, 2.0]))
    named = {"$map^$": fit, "$b_$": fit}
    assert {r"\$a^\$", r"\$b_\$", r"\$map^\$"} <= texts(plot_compare(named))
    assert r"\$map^\$" in texts(plot_history(named))


def test_compare_in_given_axes(em: Fit, sampled: Fit) -> None:
    figure, axes = plt.subplots(1, 3)
    fits = {"EM": em, "NUTS": sampled}
    assert plot_compare(fits, axes=axes) is figure
    with pytest.raises(FitError, match=r"axes must be 3 .*got 2"):
        plot_compare(fits, axes=axes[:2])


def test_compare_refuses_a_page_that_nobody_can_read(em: Fit) -> None:
    many = {"probability": torch.rand(1, 1, 400)}
    params = {"probability": many["probability"][0, 0]}
    with pytest.raises(FitError, match=r"400 elements are too many.*sites= or select="):
        plot_compare({"a": replace(em, draws=many, params=params)})


def test_trace(nuts_line: Fit, sampled: Fit, mle_line: Fit) -> None:
    figure = plot_trace(nuts_line)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 4
    assert len(plot_trace(sampled, sites="prevalence").axes) == 2
    with pytest.raises(FitError, match=r"plot_trace\(\) needs draws and 'mle' gives a point"):
        plot_trace(mle_line)


def test_history(em: Fit, mle_line: Fit, nuts_line: Fit) -> None:
    figure = plot_history(mle_line)
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), mle_line.history["objective"])
    assert ax.get_title(loc="left") == "log-likelihood"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "nats")
    assert ax.get_legend() is None

    elbo = pd.DataFrame({"objective": np.concatenate([[-1e6], np.linspace(-50, -10, 200)])})
    svi = replace(nuts_line, engine="svi", history=elbo)
    figure = plot_history({"EM": em, "MLE": mle_line, "again": mle_line, "SVI": svi})
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["log joint density", "log-likelihood", "ELBO"]
    assert [len(ax.lines) for ax in figure.axes] == [1, 2, 1]
    # The first step does not flatten the rest.
    assert figure.axes[2].get_ylim()[0] > -200
    assert not sticking_out(figure)
    nothing = replace(em, history=pd.DataFrame({"objective": []}))
    with pytest.raises(FitError, match="no fit has a history"):
        plot_history(nothing)


def test_predictive_of_discrete_data(em: Fit, answers: torch.Tensor) -> None:
    ax = plot_predictive(em, draws=50)
    heights = [patch.get_height() for patch in ax.patches]
    shares = [(answers == label).double().mean().item() for label in range(3)]
    np.testing.assert_allclose(heights, shares)
    # EM reproduces the marginal shares.
    np.testing.assert_allclose(ax.lines[0].get_ydata(), shares, atol=0.1)
    assert ax.get_xlabel() == "answer"
    assert ax.get_legend() is not None


def test_predictive_of_continuous_data(nuts_line: Fit, line_data: Any) -> None:
    _, given = plt.subplots()
    ax = plot_predictive(nuts_line, "y", draws=30, ax=given)
    assert ax is given
    assert len(ax.lines) == 31
    observed = ax.lines[-1].get_xdata()
    np.testing.assert_allclose(np.sort(observed[1:]), np.sort(line_data[1]))
    histogram = plot_predictive(nuts_line, draws=30, kind="histogram")
    assert histogram.get_ylabel() == "density"
    curve = histogram.patches[-1]
    values, edges, _ = curve.get_data()  # type: ignore[attr-defined]
    assert np.sum(values * np.diff(edges)) == pytest.approx(1)


def test_predictive_errors(mle_line: Fit) -> None:
    with pytest.raises(FitError, match="'x' is not observed: 'y'"):
        plot_predictive(mle_line, "x")
    with pytest.raises(FitError, match="kind must be 'ecdf' or 'histogram', got 'kde'"):
        plot_predictive(mle_line, kind="kde")
    with pytest.raises(FitError, match="interval must be"):
        plot_predictive(mle_line, interval=1.5)

    def two(x: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.sample("x", dist.Bernoulli(p), obs=x)
        pyro.sample("y", dist.Bernoulli(p), obs=x)

    with pytest.raises(FitError, match="name one of the observed sites: 'x', 'y'"):
        plot_predictive(MAP().fit(two, torch.tensor(1.0)))


def test_table(sampled: Fit, em: Fit) -> None:
    figure = plot_table(sampled, "confusion")
    assert [ax.get_title() for ax in figure.axes] == ["annotator Ann", "annotator Bo"]
    first = figure.axes[0]
    assert first.get_ylabel() == "class"
    assert first.get_xlabel() == "reported"
    assert [t.get_text() for t in first.get_xticklabels()] == ["healthy", "mild", "severe"]
    mean = sampled.params["confusion"][0, 0, 1]
    sd = sampled.draws["confusion"][..., 0, 0, 1].std()
    assert f"{mean:.2f}\n± {sd:.2f}" in {t.get_text() for t in first.texts}
    np.testing.assert_allclose(first.images[0].get_array(), sampled.params["confusion"][0])
    assert not sticking_out(figure)
    point = plot_table(em, "prevalence").axes[0]
    assert point.images[0].get_array().shape == (1, 3)
    assert f"{em.params['prevalence'][0]:.2f}" in {t.get_text() for t in point.texts}


def test_table_of_some_annotators(sampled: Fit) -> None:
    figure = plot_table(sampled, "confusion", select={"annotator": "Bo"})
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.images[0].get_array(), sampled.params["confusion"][1])
    _, own = plt.subplots()
    assert plot_table(sampled, "prevalence", axes=own) is own.figure


def test_table_errors(sampled: Fit, nuts_line: Fit) -> None:
    with pytest.raises(FitError, match="'scale' is a single number"):
        plot_table(nuts_line, "scale")
    with pytest.raises(FitError, match="sites names 'table'"):
        plot_table(sampled, "table")
    with pytest.raises(FitError, match="select names 'x', which no site has"):
        plot_table(sampled, "confusion", select={"x": 1})
    many = {"tables": torch.rand(4, 50, 40, 2, 2)}
    params = {"tables": many["tables"].mean((0, 1))}
    with pytest.raises(FitError, match=r"40 tables are too many.*select="):
        plot_table(replace(sampled, draws=many, params=params), "tables")
