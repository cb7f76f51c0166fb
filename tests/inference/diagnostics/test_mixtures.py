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
from matplotlib.patches import Ellipse
from scipy.stats import norm

from likely.inference import EM, MAP, Fit, FitError, Laplace
from likely.inference.diagnostics import plot_mixture, plot_responsibilities
from likely.inference.diagnostics.components import SiteNames, read_components
from likely.models import GaussianMixture

NAMES = {"locs": "loc", "scales": "scale"}


def bells(x: torch.Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("bell", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("point", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def clouds(features: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(90, features, generator=generator, dtype=torch.float64)
    points[:30] += 4.0
    return points


@pytest.fixture(scope="module")
def line() -> Fit:
    return EM(init={"loc": [0.0, 4.0], "scale": [1.0, 1.0]}).fit(bells, clouds(1)[:, 0])


@pytest.fixture(scope="module")
def plane() -> Fit:
    frame = pd.DataFrame(clouds(2).numpy(), columns=["length", "width"])
    return EM().fit(GaussianMixture(2), frame)


@pytest.fixture(scope="module")
def posterior(plane: Fit) -> Fit:
    program = plane.bound("a test")
    return Laplace(draws=50, init=plane).fit(program.source, *program.source_args)


def names_of(figure: Any) -> list[str]:
    found = figure.legends[0] if figure.legends else figure.axes[0].get_legend()
    return [text.get_text() for text in found.get_texts()]


def test_one_feature_shows_the_densities(line: Fit) -> None:
    figure = plot_mixture(line, **NAMES)
    (ax,) = figure.axes
    first, second, total = ax.lines
    w, loc, scale = (line.params[n].numpy() for n in ("weights", "loc", "scale"))
    grid = first.get_xdata()
    for k, curve in enumerate((first, second)):
        np.testing.assert_allclose(curve.get_ydata(), w[k] * norm.pdf(grid, loc[k], scale[k]))
    np.testing.assert_allclose(total.get_ydata(), first.get_ydata() + second.get_ydata())
    # The histogram and the mixture are on one scale: both have unit area.
    heights, edges, _ = ax.patches[0].get_data()  # type: ignore[attr-defined]
    assert np.sum(heights * np.diff(edges)) == pytest.approx(1)
    assert ax.get_ylim()[1] > heights.max()
    assert names_of(figure) == [
        "data",
        f"bell 0 ({w[0]:.2f})",
        f"bell 1 ({w[1]:.2f})",
        "mixture",
    ]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "density")


def test_the_curves_are_the_programs_own_density(line: Fit) -> None:
    parts = read_components(line.params, SiteNames(**NAMES)).densities(clouds(1)[:, 0].numpy())
    assert float(np.log(parts.sum(0)).sum()) == pytest.approx(line.log_likelihood, rel=1e-12)
    np.testing.assert_allclose((parts / parts.sum(0)).T, line.latent("z"), atol=1e-12)


def test_two_features_show_ellipses_and_responsibilities(plane: Fit) -> None:
    figure = plot_mixture(plane)
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "width")
    ellipses = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    assert len(ellipses) == 4
    for number, ellipse in enumerate(ellipses):
        k, size = divmod(number, 2)
        mean, covariance = (plane.params[n][k].numpy() for n in ("locs", "covariances"))
        # Every point of the curve is so many standard deviations from the mean.
        away = ellipse.get_transform().transform(ellipse.get_path().vertices)
        away = ax.transData.inverted().transform(away) - mean
        distance = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away))
        on_curve = ellipse.get_path().codes != 4  # control points lie outside
        np.testing.assert_allclose(distance[on_curve][0], size + 1, rtol=1e-6)
        extreme = ellipse.get_extents().transformed(ax.transData.inverted())
        half = np.sqrt(np.diag(covariance)) * (size + 1)
        np.testing.assert_allclose([extreme.width, extreme.height], 2 * half, rtol=1e-3)
    colours = ax.collections[0].get_facecolor()[:, :3]
    palette = np.array([mpl.colors.to_rgb(line.get_color()) for line in ax.lines[:2]])
    np.testing.assert_allclose(colours, plane.latent("component").numpy() @ palette, atol=1e-6)
    assert names_of(figure)[2:] == ["1 and 2 sd"]


def test_hard_assignments_have_whole_colours(plane: Fit) -> None:
    hard = EM(hard=True).fit(GaussianMixture.k_means(2), clouds(2))
    colours = plot_mixture(hard).axes[0].collections[0].get_facecolor()
    assert len(np.unique(colours, axis=0)) == 2


def test_a_posterior_shows_draws(posterior: Fit, line: Fit) -> None:
    figure = plot_mixture(posterior, draws=7)
    assert len(figure.axes[0].patches) == 7 * 2 + 4
    assert "2 sd in posterior draws" in names_of(figure)
    assert len(plot_mixture(posterior, draws=0).axes[0].patches) == 4
    draws = {name: value.expand(1, 5, *value.shape[2:]) for name, value in line.draws.items()}
    figure = plot_mixture(replace(line, engine="nuts", draws=draws), draws=3, **NAMES)
    assert "posterior draws" in names_of(figure)
    assert len([line for line in figure.axes[0].lines if len(line.get_xdata())]) == 3 * 3 + 3


def test_more_features() -> None:
    fit = EM(max_iter=50).fit(GaussianMixture(2, "diag"), clouds(3))
    figure = plot_mixture(fit)
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes] == [
        ("feature 0", "feature 1"),
        ("feature 0", "feature 2"),
        ("feature 1", "feature 2"),
    ]
    (ax,) = plot_mixture(fit, features=[2]).axes
    grid = ax.lines[0].get_xdata()
    scale = float(fit.params["covariances"][0, 2, 2].sqrt())
    expected = norm.pdf(grid, float(fit.params["locs"][0, 2]), scale)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), float(fit.params["weights"][0]) * expected)
    _, axes = plt.subplots(1, 3)
    assert plot_mixture(fit, axes=axes) is axes[0].figure
    wide = EM(max_iter=3, tol=1.0).fit(GaussianMixture(2, "spherical"), clouds(5))
    with pytest.raises(FitError, match="pairs of 5 features are too many"):
        plot_mixture(wide)
    assert plot_mixture(wide, features=["feature 4", 0]).axes[0].get_xlabel() == "feature 4"
    for features in (["a"], [9], [0, 0], [0, 1, 2], [True, "x"]):
        with pytest.raises(FitError, match="features"):
            plot_mixture(wide, features=features)


def test_other_points_have_no_colour(plane: Fit) -> None:
    mine = plot_mixture(plane, clouds(2)).axes[0].collections[0].get_facecolor()
    assert len(np.unique(mine, axis=0)) > 1
    other = plot_mixture(plane, clouds(2) + 0.1).axes[0].collections[0].get_facecolor()
    assert len(np.unique(other, axis=0)) == 1


def test_a_fit_from_a_file_is_drawn_as_before(plane: Fit, tmp_path: Any) -> None:
    plane.save(tmp_path / "fit.nc")
    loaded = Fit.load(tmp_path / "fit.nc")
    before, after = (plot_mixture(fit).axes[0] for fit in (plane, loaded))
    assert before.get_xlabel() == after.get_xlabel()
    for one, two in zip(before.collections, after.collections, strict=True):
        np.testing.assert_allclose(one.get_facecolor(), two.get_facecolor(), atol=1e-6)


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ({}, None),
        ({"scales": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}, [[1.0, 4.0], [9.0, 16.0], [25.0, 36.0]]),
        ({"scales": [1.0, 2.0, 3.0]}, [[1.0, 1.0], [4.0, 4.0], [9.0, 9.0]]),
        ({"scales": [2.0, 3.0]}, [[4.0, 9.0]] * 3),
        ({"scales": 2.0}, [[4.0, 4.0]] * 3),
        ({"covariances": np.diag([2.0, 3.0])}, [[2.0, 3.0]] * 3),
        ({"covariances": np.stack([np.eye(2) * k for k in (1.0, 2.0, 3.0)]), "scales": 9.0},
         [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]),
    ],
)  # fmt: skip
def test_reading_components(sites: dict[str, Any], expected: Any) -> None:
    values = {name: torch.as_tensor(value) for name, value in sites.items()}
    found = read_components({"locs": torch.zeros(3, 2), **values}, SiteNames())
    np.testing.assert_allclose(found.weights, 1 / 3)
    if expected is None:
        assert found.covariances is None
    else:
        assert found.covariances is not None
        diagonal = np.diagonal(found.covariances, axis1=1, axis2=2)
        np.testing.assert_allclose(diagonal, expected)


def test_centres_alone_can_be_drawn(plane: Fit, line: Fit) -> None:
    only = {name: plane.params[name] for name in ("weights", "locs")}
    draws = {name: plane.draws[name] for name in only}
    ax = plot_mixture(replace(plane, params=only, draws=draws), clouds(2) + 1).axes[0]
    assert not ax.patches
    assert len(ax.lines) == 2
    only = {name: line.params[name] for name in ("weights", "loc")}
    draws = {name: line.draws[name] for name in only}
    without = replace(line, params=only, draws=draws)
    ax = plot_mixture(without, clouds(1) + 1, locs="loc").axes[0]
    assert [tick.get_xdata()[0] for tick in ax.lines] == line.params["loc"].tolist()


def test_what_cannot_be_drawn(plane: Fit, line: Fit) -> None:
    with pytest.raises(FitError, match="locs: there is no site 'locs'; there are 'weights', 'loc'"):
        plot_mixture(line)
    with pytest.raises(FitError, match="covariances: there is no site 'sigma'"):
        plot_mixture(plane, covariances="sigma")
    with pytest.raises(FitError, match=r"weights: site 'locs' must have one entry for each of 2"):
        plot_mixture(plane, weights="locs")
    with pytest.raises(FitError, match=r"covariances must be \[2, 2, 2\] or \[2, 2\], got"):
        plot_mixture(plane, covariances="weights")
    with pytest.raises(FitError, match="scales must be"):
        plot_mixture(plane, scales="covariances")
    for data in (torch.zeros(4, 3), torch.zeros(0, 2), torch.zeros(5)):
        with pytest.raises(FitError, match=r"data must be points \[n, 2\]"):
            plot_mixture(plane, data)
    with pytest.raises(FitError, match="data must be finite"):
        plot_mixture(plane, torch.full((3, 2), torch.nan))
    with pytest.raises(FitError, match="data must be an array of numbers"):
        plot_mixture(plane, [["a", "b"]])
    with pytest.raises(FitError, match=r"latent: 'z' is no discrete latent.*'component'"):
        plot_mixture(plane, latent="z")
    for draws in (-1, 2.5, True):
        with pytest.raises(FitError, match="draws must be a number of draws"):
            plot_mixture(plane, draws=draws)  # type: ignore[arg-type]
    with pytest.raises(FitError, match="must be a Fit"):
        plot_mixture("fit")  # type: ignore[arg-type]


def test_responsibilities_of_every_observation(plane: Fit) -> None:
    figure = plot_responsibilities(plane)
    first, second = figure.axes[0].patches
    table = plane.latent("component").numpy()
    heights, _, base = first.get_data()  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.sort(heights - base), np.sort(table[:, 0]))
    heights, _, _ = second.get_data()  # type: ignore[attr-defined]
    np.testing.assert_allclose(heights, 1)  # they add up to one
    assert names_of(figure) == ["cluster 0", "cluster 1"]

    def coin(heads: torch.Tensor) -> None:
        pyro.sample("heads", dist.Bernoulli(pyro.sample("p", dist.Beta(2.0, 2.0))), obs=heads)

    with pytest.raises(FitError, match="no discrete latent"):
        plot_responsibilities(MAP().fit(coin, torch.tensor(1.0)))


def test_missing_values_leave_out_what_cannot_be_placed() -> None:
    x = clouds(3)
    x[::5, 0] = torch.nan
    x[1::5, 1] = torch.nan
    fit = EM(max_iter=300).fit(GaussianMixture(2), x)
    figure = plot_mixture(fit)
    shown = [len(ax.collections[0].get_offsets()) for ax in figure.axes]
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert shown == [int(torch.isfinite(x[:, list(pair)]).all(1).sum()) for pair in pairs]
    assert shown[0] < shown[1] == shown[2] < len(x)
    # Colours stay with their points.
    colours = np.asarray(figure.axes[0].collections[0].get_facecolors())  # type: ignore[attr-defined]
    best = fit.latent("component").argmax(1)[torch.isfinite(x[:, :2]).all(1)].numpy()
    blue = colours[:, 2] > colours[:, 0]
    assert (blue == (best == 0)).mean() > 0.95
    ax = plot_mixture(fit, features=[0]).axes[0]
    assert bool(np.isfinite(ax.get_ylim()).all())
    with pytest.raises(FitError, match="data must be finite"):
        plot_mixture(fit, x + 1)


def test_arguments_of_other_types(plane: Fit, line: Fit) -> None:
    bad: Any
    for bad in (1.5, True, None):
        with pytest.raises(FitError, match="features: there is no"):
            plot_mixture(plane, features=[bad])
    for bad in (1.5, True):
        with pytest.raises(FitError, match="features: there is no"):
            plot_mixture(plane, features=bad)
    plot_mixture(plane, features=np.int64(1))  # type: ignore[arg-type]
    with pytest.raises(FitError, match="locs must be the name of a site, got None"):
        plot_mixture(plane, locs=None)  # type: ignore[arg-type]
    for bad in (3, "a"):
        with pytest.raises(FitError, match="axes must be matplotlib's Axes, got"):
            plot_mixture(plane, axes=bad)
        with pytest.raises(FitError, match="axes must be matplotlib's Axes, got"):
            plot_responsibilities(plane, ax=bad)
    with pytest.raises(FitError, match="covariances must be symmetric"):
        plot_mixture(plane, covariances="locs")
    plot_mixture(line, clouds(1).requires_grad_(), locs="loc", scales="scale")
