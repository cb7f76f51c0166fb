from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.inference import Fit, FitError
from likely.inference.diagnostics import compare


def test_table(em: Fit, laplace: Fit, sampled: Fit) -> None:
    frame = compare({"EM": em, "Laplace": laplace, "NUTS": sampled}, interval=0.9)
    assert frame.attrs == {"reference": "NUTS", "interval": 0.9, "interval_kind": "equal-tailed"}
    assert frame.columns.names == ["fit", "statistic"]
    assert frame.index[3] == "confusion[Ann, healthy, healthy]"
    assert len(frame) == 3 + 18 + 2
    row = frame.loc["confusion[Bo, mild, severe]"]
    draws = sampled.draws["confusion"][..., 1, 1, 2].flatten().numpy()
    assert row["NUTS", "estimate"] == pytest.approx(draws.mean())
    assert row["NUTS", "sd"] == pytest.approx(draws.std(ddof=1))
    assert row["NUTS", "lower"] == pytest.approx(np.quantile(draws, 0.05))
    assert row["NUTS", "upper"] == pytest.approx(np.quantile(draws, 0.95))
    estimate = em.params["confusion"][1, 1, 2].item()
    assert row["EM", "estimate"] == estimate
    assert row["EM", "distance"] == pytest.approx(abs(estimate - draws.mean()) / draws.std(ddof=1))
    assert ("NUTS", "distance") not in frame.columns
    assert frame["EM"]["inside"].dtype == bool
    assert frame["EM"][["sd", "lower", "upper"]].isna().all(axis=None)
    # The same draws: the same mean and interval.
    np.testing.assert_allclose(frame["Laplace"]["distance"], 0, atol=1e-9)
    assert frame["Laplace"]["inside"].all()


def test_inside_is_within_the_interval(em: Fit, sampled: Fit) -> None:
    params = {name: value.clone() for name, value in em.params.items()}
    params["prevalence"] = torch.tensor([0.999, 0.0005, 0.0005], dtype=torch.float64)
    frame = compare({"EM": replace(em, params=params), "NUTS": sampled}, sites="prevalence")
    assert list(frame["EM"]["inside"]) == [False, False, False]
    assert (frame["EM"]["distance"] > 3).all()


def test_reference(em: Fit, laplace: Fit, sampled: Fit) -> None:
    fits = {"NUTS": sampled, "Laplace": laplace, "EM": em}
    assert compare(fits).attrs["reference"] == "NUTS"
    assert compare({"a": laplace, "EM": em}).attrs["reference"] == "a"
    assert compare(fits, reference="Laplace").attrs["reference"] == "Laplace"
    points = compare({"EM": em, "again": em})
    assert points.attrs["reference"] is None
    assert set(points["EM"].columns) == {"estimate", "sd", "lower", "upper"}


def test_standard_errors_on_request(mle_line: Fit, nuts_line: Fit) -> None:
    frame = compare({"MLE": mle_line, "NUTS": nuts_line}, standard_errors=True)
    expected = mle_line.standard_errors()["scale"].item()
    assert frame.loc["scale", ("MLE", "sd")] == pytest.approx(expected)
    assert (frame["MLE"]["sd"] / frame["NUTS"]["sd"]).between(0.6, 1.5).all()
    assert frame["MLE"]["inside"].all()


def test_constant_elements_are_no_distance_away(mle_line: Fit, nuts_line: Fit) -> None:
    draws = nuts_line.draws | {"scale": torch.full_like(nuts_line.draws["scale"], 0.1)}
    reference = replace(nuts_line, draws=draws)
    same = replace(mle_line, params=mle_line.params | {"scale": torch.tensor(0.1).double()})
    frame = compare({"same": same, "other": mle_line, "NUTS": reference}, sites=["scale"])
    same.params["scale"] = draws["scale"][0, 0]
    frame = compare({"same": same, "other": mle_line, "NUTS": reference}, sites=["scale"])
    assert frame.loc["scale", ("same", "distance")] == 0
    assert frame.loc["scale", ("same", "inside")]
    assert frame.loc["scale", ("other", "distance")] == np.inf


def test_only_common_sites(em: Fit, sampled: Fit) -> None:
    less = replace(em, draws={name: em.draws[name] for name in ("prevalence", "odds")})
    frame = compare({"EM": less, "NUTS": sampled})
    assert len(frame) == 5
    with pytest.raises(FitError, match=r"fits\['EM'\]: sites names 'confusion'"):
        compare({"EM": less, "NUTS": sampled}, sites="confusion")


def test_select_labels(em: Fit, sampled: Fit) -> None:
    fits = {"EM": em, "NUTS": sampled}
    frame = compare(fits, sites="confusion", select={"annotator": "Bo", "class": ["mild"]})
    labels = [f"confusion[Bo, mild, {label}]" for label in ("healthy", "mild", "severe")]
    assert list(frame.index) == labels
    expected = compare(fits).loc[labels]
    pd.testing.assert_frame_equal(frame, expected)
    with pytest.raises(FitError, match="dimension 'annotator' has no label 'Cy'"):
        compare(fits, select={"annotator": "Cy"})
    with pytest.raises(FitError, match="select names 'annotators', which no site has"):
        compare(fits, select={"annotators": "Bo"})


def test_loaded_fits(em: Fit, sampled: Fit, tmp_path: Any) -> None:
    em.save(tmp_path / "em.nc")
    frame = compare({"EM": Fit.load(tmp_path / "em.nc"), "NUTS": sampled})
    pd.testing.assert_frame_equal(frame, compare({"EM": em, "NUTS": sampled}))


def test_errors(em: Fit, sampled: Fit, mle_line: Fit, crowd: Any, answers: torch.Tensor) -> None:
    with pytest.raises(FitError, match="fits is empty"):
        compare({})
    with pytest.raises(FitError, match="must be a mapping of name to Fit, got list"):
        compare([em])  # type: ignore[arg-type]
    with pytest.raises(FitError, match=r"fits\['NUTS'\] must be a Fit, got dict"):
        compare({"EM": em, "NUTS": {}})  # type: ignore[dict-item]
    with pytest.raises(FitError, match=r"no site in common.*'EM': prevalence.*'line': coef"):
        compare({"EM": em, "line": mle_line})
    with pytest.raises(FitError, match=r"interval must be a probability.*got 94"):
        compare({"EM": em, "NUTS": sampled}, interval=94)
    for interval in ("a", None, [0.5], float("nan")):
        with pytest.raises(FitError, match=r"interval must be a probability.*got"):
            compare({"EM": em, "NUTS": sampled}, interval=interval)  # type: ignore[arg-type]
    with pytest.raises(FitError, match="reference 'EM' is a point fit"):
        compare({"EM": em, "NUTS": sampled}, reference="EM")
    with pytest.raises(FitError, match="reference 'SVI' is not among fits: 'EM', 'NUTS'"):
        compare({"EM": em, "NUTS": sampled}, reference="SVI")

    class Other(type(crowd)):  # type: ignore[misc]
        def coords(self, answers: torch.Tensor) -> dict[str, Any]:
            return super().coords(answers) | {"annotator": ["Bo", "Ann"]}

    other = replace(em).attach(Other(), answers)
    with pytest.raises(FitError, match="'annotator' of site 'confusion' has other labels"):
        compare({"EM": em, "other": other})
    shorter = replace(em, draws=em.draws | {"prevalence": em.draws["prevalence"][..., :2]})
    shorter.program = replace_dims(em)
    with pytest.raises(FitError, match=r"site 'prevalence' has shape \(2,\) in 'a' and \(3,\)"):
        compare({"a": shorter, "EM": em}, sites="prevalence")


def replace_dims(fit: Fit) -> Any:
    """The fit's program without names for its dimensions."""
    import copy

    program = copy.copy(fit.bound("a test"))
    program.source = lambda *args: None
    return program
