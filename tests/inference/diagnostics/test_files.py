from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from likely.inference import Fit, FitError
from likely.inference.diagnostics import backend, build_groups


def assert_same(saved: Fit, loaded: Fit) -> None:
    for name in ("engine", "options", "converged", "n_iter", "seed", "seconds", "log_likelihood"):
        assert getattr(saved, name) == getattr(loaded, name), name
    for name in ("params", "draws", "sample_stats"):
        mine, theirs = getattr(saved, name), getattr(loaded, name)
        assert list(mine) == list(theirs)
        for key in mine:
            assert mine[key].dtype is theirs[key].dtype
            torch.testing.assert_close(theirs[key], mine[key], rtol=0, atol=0, equal_nan=True)
    pd.testing.assert_frame_equal(saved.history, loaded.history)


@pytest.mark.parametrize("which", ["em", "laplace", "sampled", "nuts_line", "mle_line"])
def test_round_trip(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    fit: Fit = request.getfixturevalue(which)
    fit.save(tmp_path / "fit.nc")
    loaded = Fit.load(tmp_path / "fit.nc")
    assert_same(fit, loaded)
    assert loaded.log_prior == fit.log_prior
    assert loaded.diagnostics == fit.diagnostics
    assert loaded.program is None
    groups, again = build_groups(fit), build_groups(loaded)
    assert set(groups) == set(again)
    for name, group in groups.items():
        xr.testing.assert_equal(group, again[name])
    loaded.save(str(tmp_path / "again.nc"))
    assert_same(fit, Fit.load(str(tmp_path / "again.nc")))


def test_a_loaded_fit_answers_without_its_program(
    em: Fit, sampled: Fit, crowd: Any, answers: torch.Tensor, tmp_path: Path
) -> None:
    for fit in (em, sampled):
        fit.save(tmp_path / "fit.nc")
        loaded = Fit.load(tmp_path / "fit.nc")
        torch.testing.assert_close(loaded.latent("truth"), fit.latent("truth"))
        assert list(loaded.summary().index) == list(fit.summary(standard_errors=False).index)
        assert loaded.to_arviz()["posterior"]["confusion"].dims[2:] == (
            "annotator",
            "class",
            "reported",
        )
        with pytest.raises(FitError, match="with predictive draws needs the program"):
            loaded.to_arviz(predictive=5)
        with pytest.raises(FitError, match="with coords or dims needs the program"):
            loaded.to_arviz(coords={"class": "abc"})
        loaded.attach(crowd, answers)
        assert loaded.to_arviz(predictive=5)["posterior_predictive"].sizes["draw"] == 5


def test_awkward_numbers_and_names_survive(em: Fit, tmp_path: Path) -> None:
    history = pd.DataFrame(
        {"objective": [-math.inf, 1.0, math.nan], "row": [1, 2, 3], "x/y": [True, False, True]},
        index=pd.Index([0, 5, 10], name="iteration"),
    )
    fit = replace(
        em,
        options={"tol": math.inf, "tiny": 1e-300, "guide": None, "nested": {"a": [1, 2.5, "b"]}},
        diagnostics={"khat": math.inf, "worst/best": math.nan, "divergences": 0.0},
        log_prior=-math.inf,
        log_likelihood=math.nan,
        history=history,
        seed=2**32 - 1,
        sample_stats={"n_steps": torch.tensor([[3]]), "diverging": torch.tensor([[True]])},
    )
    fit.save(tmp_path / "fit.nc")
    loaded = Fit.load(tmp_path / "fit.nc")
    assert loaded.options == fit.options
    assert loaded.diagnostics["khat"] == math.inf
    assert math.isnan(loaded.diagnostics["worst/best"])
    assert loaded.log_prior == -math.inf
    assert math.isnan(loaded.log_likelihood)
    assert loaded.seed == 2**32 - 1
    assert loaded.sample_stats["diverging"].dtype is torch.bool
    assert loaded.sample_stats["n_steps"].item() == 3
    pd.testing.assert_frame_equal(loaded.history, history)


def test_types_of_tensors_survive(mle_line: Fit, tmp_path: Path) -> None:
    half = {name: value.bfloat16() for name, value in mle_line.params.items()}
    single = {name: value.float() for name, value in mle_line.draws.items()}
    replace(mle_line, params=half, draws=single).save(tmp_path / "fit.nc")
    loaded = Fit.load(tmp_path / "fit.nc")
    assert loaded.draws["scale"].dtype is torch.float32
    assert loaded.draws["scale"].equal(single["scale"])
    assert loaded.params["scale"].dtype is torch.bfloat16
    assert loaded.params["coefficients"].equal(half["coefficients"])


def test_more_options_than_an_attribute_holds(em: Fit, tmp_path: Path) -> None:
    fit = replace(em, options={"init": {"confusion": np.random.rand(100, 100).tolist()}})  # noqa: NPY002
    fit.save(tmp_path / "fit.nc")
    assert Fit.load(tmp_path / "fit.nc").options == fit.options


def test_arviz_opens_the_file(em: Fit, tmp_path: Path) -> None:
    em.save(tmp_path / "fit.nc")
    data = backend.arviz().from_netcdf(str(tmp_path / "fit.nc"))
    assert data["posterior"]["confusion"].shape == (1, 1, 2, 3, 3)


def test_folders(em: Fit, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"there is no folder '.*nowhere'"):
        em.save(tmp_path / "nowhere" / "fit.nc")
    with pytest.raises(FitError, match="it is a folder"):
        em.save(tmp_path)
    with pytest.raises(FitError, match=r"absent\.nc': there is no such file"):
        Fit.load(tmp_path / "absent.nc")


def test_other_files(em: Fit, tmp_path: Path) -> None:
    text = tmp_path / "text.nc"
    text.write_text("not netCDF")
    with pytest.raises(FitError, match=r"text\.nc': it is not a netCDF-4 file"):
        Fit.load(text)
    other = tmp_path / "other.nc"
    xr.Dataset({"a": 1.0}).to_netcdf(other, engine="h5netcdf")
    with pytest.raises(FitError, match=r"other\.nc'.*lacks 'fit'"):
        Fit.load(other)
    em.save(tmp_path / "fit.nc")
    with xr.open_datatree(tmp_path / "fit.nc", engine="h5netcdf") as tree:
        tree.load()
    part = xr.DataTree.from_dict({"/fit": tree["fit"].to_dataset()})
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    with pytest.raises(FitError, match=r"part\.nc'.*lacks 'posterior'"):
        Fit.load(tmp_path / "part.nc")
    tree["fit"].attrs["format_version"] = 99
    tree.to_netcdf(tmp_path / "new.nc", engine="h5netcdf")
    with pytest.raises(FitError, match=r"new\.nc'.*up to version 1"):
        Fit.load(tmp_path / "new.nc")


def test_no_half_written_file(em: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "fit.nc"
    em.save(target)
    before = target.read_bytes()

    def fails(self: xr.DataTree, path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", fails)
    with pytest.raises(FitError, match=r"cannot write .*no space left"):
        em.save(target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fit.nc"]


def test_a_place_that_cannot_be_written(
    em: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: xr.DataTree, path: Path, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(xr.DataTree, "to_netcdf", fails)
    with pytest.raises(FitError, match=r"cannot write '.*fit\.nc'.*Permission denied"):
        em.save(tmp_path / "fit.nc")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("float64", "float640"),
        lambda text: "[1, 2]",
        lambda text: text.replace('"params": [', '"params": ["more", '),
    ],
)
def test_a_damaged_record(em: Fit, tmp_path: Path, damage: Callable[[str], str]) -> None:
    em.save(tmp_path / "fit.nc")
    with xr.open_datatree(tmp_path / "fit.nc", engine="h5netcdf") as tree:
        tree.load()
    text = damage(tree["fit"]["record"].item())
    tree["fit"]["record"] = xr.DataArray(text)
    tree.to_netcdf(tmp_path / "damaged.nc", engine="h5netcdf")
    with pytest.raises(FitError, match=r"damaged\.nc': what it says about the fit is damaged"):
        Fit.load(tmp_path / "damaged.nc")
