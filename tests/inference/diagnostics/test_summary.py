from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from likely.inference import Fit, FitError


def test_posterior_rows_carry_the_data_labels(sampled: Fit) -> None:
    frame = sampled.summary(round_to="none")
    assert frame.index[0] == "prevalence[healthy]"
    assert "confusion[Bo, severe, mild]" in frame.index
    mean = frame.loc["confusion[Bo, severe, mild]", "mean"]
    assert mean == pytest.approx(sampled.params["confusion"][1, 2, 1].item())
    assert {"sd", "ess_bulk", "r_hat"} <= set(frame.columns)


def test_independent_draws_have_no_chain_diagnostics(laplace: Fit) -> None:
    assert "r_hat" not in laplace.summary().columns
    assert "r_hat" not in laplace.summary(sites="prevalence").columns
    assert list(laplace.summary(sites="prevalence").index) == [
        "prevalence[healthy]",
        "prevalence[mild]",
        "prevalence[severe]",
    ]


def test_point_and_posterior_have_the_same_rows(em: Fit, sampled: Fit) -> None:
    frame = em.summary(standard_errors=False)
    assert list(frame.index) == list(sampled.summary().index)
    assert list(frame.columns) == ["estimate", "standard_error"]
    assert frame["standard_error"].isna().all()
    assert frame.loc["confusion[Ann, mild, severe]", "estimate"] == em.params["confusion"][0, 1, 2]


def test_standard_errors_are_those_of_least_squares(
    mle_line: Fit, line_data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, _ = line_data
    frame = mle_line.summary()
    design = np.stack([np.ones(30), x.numpy()], 1)
    scale = mle_line.params["scale"].item()
    expected = scale * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    rows = ["coefficients[0]", "coefficients[1]"]
    np.testing.assert_allclose(frame.loc[rows, "standard_error"], expected, rtol=1e-4)
    assert frame.loc["scale", "standard_error"] == pytest.approx(scale / np.sqrt(60), rel=1e-4)


def test_derived_sites_have_no_standard_error(em: Fit) -> None:
    # Row by row of what is known; `odds` is a deterministic site.
    fit = replace(em)
    fit.standard_errors = lambda: {"prevalence": torch.ones(3)}  # type: ignore[method-assign]
    frame = fit.summary()
    assert (frame.loc[["prevalence[mild]"], "standard_error"] == 1).all()
    assert frame.loc[["odds[0]", "confusion[Bo, mild, mild]"], "standard_error"].isna().all()


def test_large_models_are_not_inverted_unasked(
    mle_line: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("likely.inference.diagnostics.summary")
    monkeypatch.setattr(module, "_MOST_PARAMETERS", 2)  # the line has three
    assert mle_line.summary()["standard_error"].isna().all()
    assert mle_line.summary(standard_errors=True)["standard_error"].notna().all()


def test_wrong_options(em: Fit, sampled: Fit) -> None:
    with pytest.raises(FitError, match="'kind' is for posteriors"):
        em.summary(kind="stats")
    with pytest.raises(FitError, match="sites names 'locs'; the fit has"):
        sampled.summary(sites=["locs"])
