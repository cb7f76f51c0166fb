from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image

from likely.inference import EM, MLE, SVI, ConvergenceWarning, Fit, FitError, Step
from likely.inference.diagnostics import ParameterPath, animate_em, plot_em_path, plot_em_steps
from likely.models import GaussianMixture

START = {"weights": [0.5, 0.5], "locs": [[0.5, 0.0], [1.0, 0.0]]}


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(90, 2, generator=generator, dtype=torch.float64)
    points[:30] += 4.0
    return points


@pytest.fixture(scope="module")
def run(points: torch.Tensor) -> tuple[ParameterPath, Fit]:
    path = ParameterPath()
    return path, EM(init=START, callback=path).fit(GaussianMixture(2), points)


def bells(x: torch.Tensor) -> None:
    with pyro.plate("bell", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    shift = pyro.sample("shift", dist.Normal(0.0, 0.1))
    with pyro.plate("point", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(loc[z] + shift, 1.0), obs=x)


def test_every_iteration_is_kept(run: tuple[ParameterPath, Fit]) -> None:
    path, fit = run
    assert len(path) == fit.n_iter + 1 == len(path.iterations)
    np.testing.assert_array_equal(path.objective, fit.history["objective"])
    assert path.values("locs").shape == (len(path), 2, 2)
    np.testing.assert_array_equal(path.values("locs")[0], START["locs"])
    torch.testing.assert_close(path.values("locs")[-1], fit.params["locs"])
    assert path.at(1).keys() == set(path.sites)
    assert not torch.equal(path.at(1)["locs"], path.at(2)["locs"])
    with pytest.raises(FitError, match="no site 'loc'; it has"):
        path.values("loc")
    with pytest.raises(FitError, match="no iteration -1; the path has 0 to"):
        path.at(-1)


def test_the_best_restart_counts_and_a_new_fit_starts_afresh(points: torch.Tensor) -> None:
    path = ParameterPath()
    values = iter(torch.arange(10.0))

    def step(iteration: int, objective: float, restart: int) -> None:
        path(Step(iteration, objective, restart, lambda: {"a": next(values)}))

    for restart, end in enumerate((1.0, 5.0, 2.0)):
        step(0, 0.0, restart)
        step(1, end, restart)
    assert path.objective.tolist() == [0.0, 5.0]
    assert path.values("a").tolist() == [2.0, 3.0]
    step(0, -1.0, 0)
    assert path.values("a").tolist() == [6.0]
    fit = EM(callback=path, restarts=3, max_iter=200).fit(GaussianMixture(2, "diag"), points)
    np.testing.assert_array_equal(path.objective, fit.history["objective"])


def test_what_is_kept_does_not_change_afterwards() -> None:
    path, value = ParameterPath(), torch.zeros(2)
    path(Step(0, 0.0, 0, lambda: {"a": value}))
    value += 1
    assert path.values("a").tolist() == [[0.0, 0.0]]


def test_the_path_of_every_parameter(run: tuple[ParameterPath, Fit]) -> None:
    path, fit = run
    truth = {"weights": [1 / 3, 2 / 3], "covariances": np.stack([np.eye(2)] * 2)}
    figure = plot_em_path(path, fit, truth=truth)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == "log-likelihood"
    by_title = dict(zip(titles, figure.axes, strict=True))
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), path.objective)
    for k, line in enumerate(by_title["locs [1]"].lines):
        np.testing.assert_allclose(line.get_ydata(), path.values("locs")[:, k, 1])
    # A deterministic site, and its mirror image only once.
    assert {"covariances [0, 0]", "covariances [0, 1]", "covariances [1, 1]"} <= set(titles)
    assert "covariances [1, 0]" not in titles
    assert "correlation_cholesky [0, 0]" not in titles  # always one
    lines = by_title["covariances [0, 1]"].lines
    cross = fit.params["covariances"][:, 0, 1]
    np.testing.assert_allclose([lines[0].get_ydata()[-1], lines[2].get_ydata()[-1]], cross)
    assert [line.get_ydata()[0] for line in lines if line.get_linestyle() == "--"] == [0.0, 0.0]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["cluster 0", "cluster 1", "truth"]


def test_sites_without_components() -> None:
    path = ParameterPath()
    x = torch.tensor([-2.0, -1.5, 2.0, 1.8, 2.2])
    fit = MLE(callback=path, max_iter=5, tol=1e-2).fit(bells, x)
    figure = plot_em_path(path, fit, sites=["shift", "loc"])
    assert [len(ax.lines) for ax in figure.axes] == [1, 1, 2]
    _, axes = plt.subplots(1, 2)
    assert plot_em_path(path, fit, sites="shift", axes=axes) is axes[0].figure


def test_paths_that_cannot_be_drawn(run: tuple[ParameterPath, Fit], points: torch.Tensor) -> None:
    path, fit = run
    for draw in (plot_em_path, plot_em_steps):
        with pytest.raises(FitError, match="the path is empty"):
            draw(ParameterPath(), fit)
        with pytest.raises(FitError, match="path must be a ParameterPath, got dict"):
            draw({}, fit)  # type: ignore[arg-type]
        with pytest.raises(FitError, match=r"fit must be the Fit.*got NoneType"):
            draw(path, None)  # type: ignore[arg-type]
        other = EM(max_iter=1, tol=1.0).fit(GaussianMixture(3), points)
        with pytest.raises(FitError, match=r"not of one program: site 'weights' \[2\]"):
            draw(path, other)
    with pytest.raises(FitError, match="there is no site 'loc'; there are"):
        plot_em_path(path, fit, sites="loc")
    with pytest.raises(FitError, match="sites is empty"):
        plot_em_path(path, fit, sites=[])
    with pytest.raises(FitError, match="there is no site 'loc'"):
        plot_em_path(path, fit, truth={"loc": 1})
    with pytest.raises(FitError, match=r"truth of site 'weights' must have shape \(2,\), got \(\)"):
        plot_em_path(path, fit, truth={"weights": 1})
    with pytest.raises(FitError, match="truth of site 'weights' must be an array of numbers"):
        plot_em_path(path, fit, truth={"weights": "a"})
    for iterations, message in (([], "iterations is empty"), ([10_000], "no iteration 10000")):
        with pytest.raises(FitError, match=message):
            plot_em_steps(path, fit, iterations=iterations)


def test_steps_are_the_mixture_of_their_iteration(run: tuple[ParameterPath, Fit]) -> None:
    path, fit = run
    figure = plot_em_steps(path, fit, iterations=[0, 2])
    for ax, iteration in zip(figure.axes, (0, 2), strict=True):
        title = ax.get_title(loc="left").replace("\N{MINUS SIGN}", "-")
        assert title == f"iteration {iteration}: {path.objective[iteration]:.2f} nats"
        centres = [line.get_xydata()[0] for line in ax.lines if len(line.get_xdata())]
        np.testing.assert_allclose(centres, path.values("locs")[iteration])
    first, last = plot_em_steps(path, fit, iterations=[0, fit.n_iter]).axes
    colours = [ax.collections[0].get_facecolor()[:, :3] for ax in (first, last)]
    palette = np.array([[0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00]]) / 255
    np.testing.assert_allclose(colours[1], fit.latent("component").numpy() @ palette, atol=1e-4)
    assert np.abs(colours[0] - colours[1]).max() > 0.1
    # By default the first iterations are close together, and start and end are there.
    titles = [ax.get_title(loc="left") for ax in plot_em_steps(path, fit).axes]
    assert titles[0].startswith("iteration 0:")
    assert titles[-1].startswith(f"iteration {fit.n_iter}:")
    one = plot_em_steps(path, fit, iterations=[0, 1], features=[1])
    assert one.axes[0].get_ylim() == one.axes[1].get_ylim()


def test_steps_of_many_features_need_a_choice(points: torch.Tensor) -> None:
    path = ParameterPath()
    data = torch.cat([points, points[:, :1]], 1) + torch.arange(90)[:, None] % 7
    fit = EM(callback=path, max_iter=3, tol=1.0).fit(GaussianMixture(2, "diag"), data)
    with pytest.raises(FitError, match="choose one or two of feature 0, feature 1, feature 2"):
        plot_em_steps(path, fit)
    assert plot_em_steps(path, fit, features=[0, 2]).axes[0].get_ylabel() == "feature 2"


def test_an_animation_has_a_frame_for_each_iteration(
    run: tuple[ParameterPath, Fit], tmp_path: Path
) -> None:
    path, fit = run
    target = animate_em(
        path, fit, tmp_path / "em.gif", iterations=[0, 1, 3], frames_per_second=2, dpi=40
    )
    assert not plt.get_fignums()
    with Image.open(target) as film:
        assert film.format == "GIF"
        frames = []
        # A frame that is like the one before is only held longer.
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")).astype(int))
            assert film.info["duration"] >= 500
    assert len(frames) >= 3
    for one, two in pairwise(frames[:3]):
        assert np.abs(one - two).max() > 50


def test_animations_that_cannot_be_written(run: tuple[ParameterPath, Fit], tmp_path: Path) -> None:
    path, fit = run
    for file, message in (("em.mp4", "must end in .gif"), ("no/em.gif", "there is no folder")):
        with pytest.raises(FitError, match=message):
            animate_em(path, fit, tmp_path / file)
    for rate in (0, -1, 2.5, True):
        bad: Any = rate
        with pytest.raises(FitError, match="frames_per_second must be a positive integer"):
            animate_em(path, fit, tmp_path / "em.gif", frames_per_second=bad)
    assert not list(tmp_path.iterdir())


def test_the_path_is_that_of_the_restart_that_was_kept() -> None:
    def unbounded(x: torch.Tensor) -> None:
        with pyro.plate("bell", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("point", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    path = ParameterPath()
    x = torch.tensor([0.0, 0.1, 0.2, 0.1, 5.0], dtype=torch.float64)
    fit = EM(restarts=6, callback=path, seed=3).fit(unbounded, x)
    # Starts that shrink onto a point rise higher and fail.
    assert max(run[-1][1] for run in path._runs.values()) > 100 > fit.log_likelihood
    np.testing.assert_array_equal(path.objective, fit.history["objective"])
    # Without restart 0, as where that fails at once, another fit is another path all the same.
    path(Step(0, -50.0, 1, lambda: {"a": torch.zeros(())}))
    assert path.objective.tolist() == [-50.0]


def test_a_guide_without_a_median_leaves_no_path(points: torch.Tensor) -> None:
    def level(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("point", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0])

    def guide(x: torch.Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.1))

    path = ParameterPath()
    with pytest.warns(ConvergenceWarning):
        fit = SVI(guide=guide, max_iter=3, draws=2, callback=path).fit(level, points)
    with pytest.raises(FitError, match="no median to record"):
        plot_em_path(path, fit)


def test_arguments_of_other_types(run: tuple[ParameterPath, Fit], tmp_path: Path) -> None:
    path, fit = run
    bad: Any
    for bad in (1.5, 0, -1, "a", None, True):
        with pytest.raises(FitError, match="columns must be a positive integer, got"):
            plot_em_steps(path, fit, columns=bad)
        with pytest.raises(FitError, match="dpi must be a positive integer, got"):
            animate_em(path, fit, tmp_path / "em.gif", dpi=bad)
    for bad in (1, "ab", [1.5], [None]):
        with pytest.raises(FitError, match="iterations must be a sequence of integers, got"):
            plot_em_steps(path, fit, iterations=bad)
    with pytest.raises(FitError, match="sites must be a name or several, got 3"):
        plot_em_path(path, fit, sites=3)  # type: ignore[arg-type]
    for bad in (3, None):
        with pytest.raises(FitError, match="file must be a path"):
            animate_em(path, fit, bad)
    with pytest.raises(FitError, match="truth must be a mapping of site to value, got int"):
        plot_em_path(path, fit, truth=3)  # type: ignore[arg-type]
    with pytest.raises(FitError, match="axes must be matplotlib's Axes, got int"):
        plot_em_path(path, fit, axes=3)  # type: ignore[arg-type]
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(FitError, match="there is a folder of that name"):
        animate_em(path, fit, tmp_path / "folder.gif")
    with pytest.raises(FitError, match="of at most 50, got 51"):
        animate_em(path, fit, tmp_path / "em.gif", frames_per_second=51)
    assert not plt.get_fignums()
    # NumPy's integers and tensors that want a gradient are as good as others.
    truth = {"weights": torch.tensor([0.5, 0.5], requires_grad=True)}
    plot_em_path(path, fit, sites=["weights"], truth=truth)
    plot_em_steps(path, fit, iterations=np.array([0, 1]), columns=np.int64(2))  # type: ignore[arg-type]
