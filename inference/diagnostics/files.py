"""Fits in netCDF files: what `Fit.save` writes and `Fit.load` reads.

A file holds the ArviZ groups at its top, so that ArviZ opens it too, and under ``fit`` what ArviZ
has no place for:

============================ ======================================================================
``/posterior``, ...          the groups of `build_groups`; the posterior's variables are the draws
``/fit``                     scalars as attributes; options, diagnostics and the names of sites,
                             in order, as JSON text in the variable ``record``
``/fit/params``              one variable a site
``/fit/history``             one variable a column, on the dimension ``row``
============================ ======================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
import xarray as xr

from likely.inference.diagnostics.groups import as_numpy, build_groups
from likely.inference.errors import FitError

if TYPE_CHECKING:
    from likely.inference.fit import Fit

_FORMAT = "likely-fit"
_VERSION = 1


def save(fit: Fit, path: str | PathLike[str], *, log_likelihood: bool = True) -> None:
    """Write a fit to a netCDF file; no pickle.

    The file appears complete or not at all: it is written beside its place and moved there.

    Parameters
    ----------
    fit : Fit
        Any fit with its program, or one that was loaded.
    path : str or path
        Where to; a file that is there is replaced.
    log_likelihood : bool
        Whether that group goes along, which takes draws × observations numbers.

    Raises
    ------
    FitError
        If the folder does not exist or cannot be written to, or ``path`` is a folder.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FitError(f"cannot write '{target}': there is no folder '{target.parent}'")
    if target.is_dir():
        raise FitError(f"cannot write '{target}': it is a folder; give the name of a file")
    tree = xr.DataTree.from_dict(_to_groups(fit, log_likelihood))
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        tree.to_netcdf(part, engine="h5netcdf")
        os.replace(part, target)
    except OSError as error:
        raise FitError(f"cannot write '{target}': {error}") from error
    finally:
        part.unlink(missing_ok=True)


def load(path: str | PathLike[str]) -> Fit:
    """Read a fit that `save` wrote.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    Fit
        Without its program: give that with `Fit.attach`.

    Raises
    ------
    FitError
        If there is no such file, or it is not one that `save` wrote; the message says what lacks.
    """
    source = Path(path)
    if not source.is_file():
        raise FitError(f"cannot read '{source}': there is no such file")
    try:
        with xr.open_datatree(source, engine="h5netcdf") as tree:
            groups = {name: node.to_dataset().load() for name, node in tree.subtree_with_keys}
    except (OSError, ValueError) as error:
        raise FitError(f"cannot read '{source}': it is not a netCDF-4 file ({error})") from error
    try:
        return _from_groups(groups)
    except KeyError as error:
        raise FitError(
            f"cannot read '{source}': it is not a fit that likely wrote, or not the whole of it; "
            f"it lacks {error.args[0]!r}"
        ) from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise FitError(
            f"cannot read '{source}': what it says about the fit is damaged ({error})"
        ) from error


def _to_groups(fit: Fit, log_likelihood: bool) -> dict[str, xr.Dataset]:
    groups = {
        f"/{name}": data for name, data in build_groups(fit, log_likelihood=log_likelihood).items()
    }
    columns = {
        f"c{i}": ("row", np.asarray(fit.history.iloc[:, i])) for i in range(fit.history.shape[1])
    }
    record = {
        "options": fit.options,
        "diagnostics": fit.diagnostics,
        "sites": list(fit.draws),
        "variables": list(groups["/posterior"].data_vars),
        "dtypes": [_dtype_name(value) for value in fit.draws.values()],
        "params": list(fit.params),
        "params_dtypes": [_dtype_name(value) for value in fit.params.values()],
        "sample_stats": list(fit.sample_stats),
        "columns": list(fit.history.columns),
        "index": fit.history.index.name,
    }
    attrs = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "engine": fit.engine,
        "converged": int(fit.converged),
        "n_iter": fit.n_iter,
        "seed": fit.seed,
        "log_likelihood": float(fit.log_likelihood),
        "log_prior": float(fit.log_prior),
        "seconds": float(fit.seconds),
    }
    groups["/fit"] = xr.Dataset({"record": ((), json.dumps(record, default=_plain))}, attrs=attrs)
    groups["/fit/params"] = xr.Dataset(
        {
            f"p{i}": ([f"p{i}_{axis}" for axis in range(value.dim())], as_numpy(value))
            for i, value in enumerate(fit.params.values())
        }
    )
    groups["/fit/history"] = xr.Dataset(columns).assign_coords(row=np.asarray(fit.history.index))
    return groups


def _from_groups(groups: Mapping[str, xr.Dataset]) -> Fit:
    from likely.inference.fit import Fit

    groups = {name.strip("/."): data for name, data in groups.items()}
    attrs = groups["fit"].attrs
    if attrs["format"] != _FORMAT or int(attrs["format_version"]) > _VERSION:
        raise KeyError(f"format {_FORMAT!r} up to version {_VERSION}")
    record = json.loads(groups["fit"]["record"].item())
    # The file orders variables by name; summaries list them in the order of the program.
    groups["posterior"] = posterior = groups["posterior"][record["variables"]]
    params = groups["fit/params"]
    statistics = groups.get("sample_stats", xr.Dataset())
    return Fit(
        engine=str(attrs["engine"]),
        options=record["options"],
        params={
            name: _tensor(params[f"p{i}"], dtype)
            for i, (name, dtype) in enumerate(
                zip(record["params"], record["params_dtypes"], strict=True)
            )
        },
        draws={
            site: _tensor(posterior[variable], dtype)
            for site, variable, dtype in zip(
                record["sites"], record["variables"], record["dtypes"], strict=True
            )
        },
        history=_history(groups["fit/history"], record["columns"], record["index"]),
        converged=bool(attrs["converged"]),
        n_iter=int(attrs["n_iter"]),
        seed=int(attrs["seed"]),
        sample_stats={name: _tensor(statistics[name]) for name in record["sample_stats"]},
        diagnostics=record["diagnostics"],
        stored={
            name: data for name, data in groups.items() if name and name.split("/")[0] != "fit"
        },
        log_likelihood=float(attrs["log_likelihood"]),
        log_prior=float(attrs["log_prior"]),
        seconds=float(attrs["seconds"]),
    )


def _history(data: xr.Dataset, columns: list[str], index_name: str | None) -> pd.DataFrame:
    rows = data["row"].to_numpy()
    index: pd.Index[Any] = pd.Index(rows, name=index_name)
    if np.array_equal(rows, np.arange(len(rows))):
        index = pd.RangeIndex(len(rows), name=index_name)
    return pd.DataFrame(
        {name: data[f"c{i}"].to_numpy() for i, name in enumerate(columns)}, index=index
    )


def _tensor(data: xr.DataArray, dtype: str | None = None) -> torch.Tensor:
    value = torch.as_tensor(np.array(data.values))
    return value if dtype is None else value.to(getattr(torch, dtype))


def _dtype_name(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _plain(value: Any) -> Any:
    """What JSON does not know: numbers and arrays of NumPy and torch; else the text of a thing."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    return str(value)
