from __future__ import annotations

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

from likely.inference import Fit, FitError, Laplace
from likely.inference.diagnostics import backend

GROUPS = {"posterior", "sample_stats", "log_likelihood", "observed_data", "latent_posterior"}


def test_data_of_the_arviz_installed(em: Fit) -> None:
    data = em.to_arviz(predictive=3)
    kind = backend.arviz().InferenceData if backend.has_inference_data() else xr.DataTree
    assert isinstance(data, kind)
    names = set(data.groups()) if backend.has_inference_data() else set(data.children)
    assert names == GROUPS | {"posterior_predictive"}
    assert data.attrs["engine"] == "em"
    assert data["posterior"]["confusion"].sizes["annotator"] == 2


def test_point_fit_in_arviz(em: Fit) -> None:
    data = em.to_arviz()
    frame = backend.summary(data, kind="stats") if not backend.has_inference_data() else None
    if frame is not None:
        assert frame.loc["prevalence[mild]", "mean"] == pytest.approx(
            em.params["prevalence"][1].item(), abs=0.01
        )
    else:
        # 0.23 computes standard deviations of one draw and lets NumPy warn about it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            frame = backend.summary(data, kind="stats", round_to="none")
        assert frame.loc["prevalence[mild]", "mean"] == em.params["prevalence"][1].item()
    assert len(frame) == 3 + 18 + 2


def test_summary_and_loo_of_a_posterior(nuts_line: Fit) -> None:
    data = nuts_line.to_arviz()
    frame = backend.summary(data, round_to="none")
    assert list(frame.index) == ["coefficients[0]", "coefficients[1]", "scale"]
    assert frame["r_hat"].between(0.98, 1.1).all()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter")  # draws are few
        result = nuts_line.loo()
    elpd = result.elpd_loo if backend.has_inference_data() else result.elpd
    # The leave-one-out density is below the average one by about the number of parameters.
    assert nuts_line.log_likelihood - 8 < elpd < nuts_line.log_likelihood
    assert result.n_data_points == 30


def test_loo_with_latents_and_compare(sampled: Fit, laplace: Fit) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter")  # draws are few
        assert backend.loo(sampled.to_arviz()).n_data_points == 40
        frame = backend.compare({"a": sampled.to_arviz(), "b": laplace.to_arviz()})
    assert set(frame.index) == {"a", "b"}
    assert (frame["elpd_diff"].abs() < 1e-6).all()


def test_loo_of_several_kinds_of_observations() -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        with pyro.plate("m", len(y)):
            pyro.sample("y", dist.Normal(loc, 2.0), obs=y)

    fit = Laplace(draws=100).fit(program, torch.ones(5), torch.zeros(7))
    with pytest.raises(FitError, match=r"several kinds of observations \('x', 'y'\).*var_name="):
        fit.loo()
    assert fit.loo(var_name="y").n_data_points == 7


def test_plots_are_matplotlib_figures(nuts_line: Fit) -> None:
    data = nuts_line.to_arviz()
    for figure in (backend.plot_trace(data), backend.plot_forest(data)):
        assert isinstance(figure, Figure)
        assert len(figure.axes) >= 1


def test_khat_is_the_shape_of_the_weights_tail() -> None:
    # The log of a Pareto variable of shape k is exponential with mean k.
    generator = torch.Generator().manual_seed(0)
    noise = -torch.log(torch.rand(20_000, generator=generator, dtype=torch.float64))
    for shape in (0.3, 0.9):
        assert backend.psis_khat(shape * noise) == pytest.approx(shape, abs=0.1)
    # Weights bounded above, as their reciprocals are, have no heavy tail.
    assert backend.psis_khat(-noise) < 0
    assert backend.psis_khat(torch.zeros(100)) == -np.inf
    assert backend.psis_khat(torch.tensor([0.0, float("nan"), 1.0])) == np.inf
