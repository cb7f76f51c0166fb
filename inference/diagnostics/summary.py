"""A fit as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from likely.inference.diagnostics import backend
from likely.inference.diagnostics.dimensions import element_labels
from likely.inference.diagnostics.groups import as_numpy, first_draw, posterior_by_site
from likely.inference.errors import FitError

if TYPE_CHECKING:
    from likely.inference.fit import Fit

# Engines that draw independently from an approximation.
_INDEPENDENT = frozenset({"svi", "laplace"})
# A Hessian of so many free parameters is a matter of seconds.
_MOST_PARAMETERS = 500


def summary(
    fit: Fit,
    *,
    sites: str | Sequence[str] | None = None,
    standard_errors: bool | None = None,
    **options: Any,
) -> pd.DataFrame:
    """One row for every element of every site.

    Parameters
    ----------
    fit : Fit
        Any fit.
    sites : str or sequence of str, optional
        Sites to list; by default all.
    standard_errors : bool, optional
        For a point fit, compute standard errors from the observed Fisher information. They need
        the program and a Hessian of the free parameters; by default they are computed if there is
        a program and at most 500 parameters, and ``nan`` otherwise.
    **options
        For a posterior, passed to ``arviz.summary``.

    Returns
    -------
    DataFrame
        For a posterior ArviZ's columns: mean, sd, interval, and diagnostics of the draws if a
        sampler made them. For a point ``estimate`` and ``standard_error``. Rows are called
        ``site[label, ...]`` with the labels of the data.

    Raises
    ------
    FitError
        If a site is not in the fit, ``options`` are given for a point, or standard errors are
        asked for without a program.
    """
    arrays = posterior_by_site(fit, sites)
    if not fit.is_point:
        if fit.engine in _INDEPENDENT:
            # There are no chains to compare and nothing is autocorrelated.
            options.setdefault("kind", "stats")
        group = xr.Dataset({array.name: array for array in arrays.values()})
        return backend.summary(backend.to_arviz({"posterior": group}), **options)
    if options:
        raise FitError(
            f"{', '.join(map(repr, options))} is for posteriors; the summary of a point fit "
            f"({fit.engine!r}) takes sites and standard_errors"
        )
    if standard_errors is None:
        standard_errors = fit.program is not None and fit.n_parameters <= _MOST_PARAMETERS
    errors = fit.standard_errors() if standard_errors else {}
    frames = [
        pd.DataFrame(
            {
                "estimate": as_numpy(fit.params[site]).ravel().astype(float),
                "standard_error": flat_errors(errors, site, fit.params[site]),
            },
            index=element_labels(first_draw(array)),
        )
        for site, array in arrays.items()
    ]
    return pd.concat(frames)


def flat_errors(errors: Mapping[str, torch.Tensor], site: str, value: torch.Tensor) -> np.ndarray:
    """Standard errors of a site's elements in order, ``nan`` where none are known."""
    if site in errors:
        return as_numpy(errors[site]).ravel().astype(float)
    return np.full(value.numel(), np.nan)
