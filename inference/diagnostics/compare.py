"""Fits beside each other, element by element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from likely.inference.diagnostics.dimensions import element_labels
from likely.inference.diagnostics.groups import as_numpy, first_draw, posterior_by_site
from likely.inference.errors import FitError
from likely.inference.fit import Fit

# A spread below this share of the value is rounding: the element is a constant.
_ROUNDING = 1e-12


def compare(
    fits: Mapping[str, Fit],
    *,
    reference: str | None = None,
    sites: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    interval: float = 0.94,
    standard_errors: bool = False,
) -> pd.DataFrame:
    """Lay fits of the same sites side by side.

    Parameters
    ----------
    fits : mapping of str to Fit
        Name in the table to fit, e.g. ``{"EM": a, "NUTS": b}``.
    reference : str, optional
        Name of the posterior that the others are measured against; by default the last NUTS fit,
        else the last posterior fit, else none.
    sites : str or sequence of str, optional
        Sites to compare; by default those that all fits have.
    select : mapping, optional
        Dimension to a label or a list of labels: only these elements, in sites that have the
        dimension.
    interval : float
        Probability of the posterior intervals. They are equal-tailed: the same probability lies
        below as above.
    standard_errors : bool
        Give point fits their standard errors (observed Fisher information) as ``sd``.

    Returns
    -------
    DataFrame
        One row a site element, called ``site[label, ...]``; columns (fit, statistic) with
        ``estimate`` (the optimum or the posterior mean), ``sd``, ``lower``, ``upper``, and for all
        but the reference ``distance`` (between the estimate and the mean of the reference
        posterior, in its standard deviations) and ``inside`` (whether the estimate lies in the
        reference interval). ``sd``, ``lower`` and ``upper`` of a point are ``nan``. The frame's
        ``attrs`` say the reference and the interval.

    Raises
    ------
    FitError
        If ``fits`` is empty or holds something else, the fits share no site or disagree about a
        site's shape or labels, ``reference`` is not the name of a posterior, or ``interval`` is
        not between 0 and 1.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> from likely.inference import MLE, Laplace
    >>> def coin(heads):
    ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
    ...     with pyro.plate("toss", len(heads)):
    ...         pyro.sample("heads", dist.Bernoulli(p), obs=heads)
    >>> heads = torch.tensor([1.0, 1.0, 1.0, 0.0])
    >>> table = compare({"MLE": MLE().fit(coin, heads), "Laplace": Laplace().fit(coin, heads)})
    >>> bool(table.loc["p", ("MLE", "inside")])
    True
    """
    found = tables(
        fits,
        reference=reference,
        sites=sites,
        select=select,
        interval=interval,
        standard_errors=standard_errors,
    )
    frame = pd.concat(list(found.values()))
    frame.attrs = {
        "reference": choose_reference(fits, reference),
        "interval": interval,
        "interval_kind": "equal-tailed",
    }
    return frame


def tables(
    fits: Mapping[str, Fit],
    *,
    reference: str | None,
    sites: str | Sequence[str] | None,
    select: Mapping[str, Any] | None,
    interval: float,
    standard_errors: bool,
) -> dict[str, pd.DataFrame]:
    """The rows of `compare` by site."""
    check_fits(fits)
    check_interval(interval)
    reference = choose_reference(fits, reference)
    arrays = _common(fits, sites)
    errors = {
        name: fit.standard_errors() if standard_errors and fit.is_point else {}
        for name, fit in fits.items()
    }
    found = {}
    unused = set(select or {})
    for site in next(iter(arrays.values())):
        draws = {name: arrays[name][site] for name in fits}
        index, rows = _elements(site, draws, select or {})
        unused -= set(next(iter(draws.values())).dims)
        columns: dict[tuple[str, str], np.ndarray] = {}
        statistics: dict[str, dict[str, np.ndarray]] = {}
        for name, fit in fits.items():
            statistics[name] = _statistics(fit, site, errors[name].get(site), interval, rows)
        for name, own in statistics.items():
            columns |= {
                (name, statistic): value for statistic, value in own.items() if statistic != "mean"
            }
            if reference is not None and name != reference:
                columns |= {
                    (name, statistic): value
                    for statistic, value in _against(own["estimate"], statistics[reference]).items()
                }
        found[site] = pd.DataFrame(columns, index=pd.Index(index, name="element"))
        found[site].columns.names = ["fit", "statistic"]
    if unused:
        raise FitError(
            f"select names {', '.join(map(repr, sorted(unused)))}, which no site has as a dimension"
        )
    return found


def check_interval(interval: Any) -> None:
    """Raise a `FitError` unless ``interval`` is a probability that an interval can have."""
    number = isinstance(interval, int | float | np.floating)
    if not number or not 0 < interval < 1:
        raise FitError(f"interval must be a probability between 0 and 1, got {interval!r}")


def check_fits(fits: Any) -> None:
    """Raise a `FitError` unless ``fits`` is a mapping of names to at least one `Fit`."""
    if not isinstance(fits, Mapping):
        raise FitError(f"fits must be a mapping of name to Fit, got {type(fits).__name__}")
    if not fits:
        raise FitError("fits is empty; give at least one fit, e.g. {'EM': fit}")
    for name, fit in fits.items():
        if not isinstance(fit, Fit):
            raise FitError(f"fits[{name!r}] must be a Fit, got {type(fit).__name__}")


def choose_reference(fits: Mapping[str, Fit], reference: str | None) -> str | None:
    """Name of the posterior that the other fits are measured against, or ``None``.

    Raises
    ------
    FitError
        If ``reference`` is not in ``fits`` or is a point.
    """
    if reference is not None:
        if reference not in fits:
            raise FitError(
                f"reference {reference!r} is not among fits: {', '.join(map(repr, fits))}"
            )
        if fits[reference].is_point:
            raise FitError(
                f"reference {reference!r} is a point fit ({fits[reference].engine!r}) and has no "
                "posterior to measure distances in"
            )
        return reference
    posteriors = [name for name, fit in fits.items() if not fit.is_point]
    sampled = [name for name in posteriors if fits[name].engine == "nuts"]
    candidates = sampled or posteriors
    return candidates[-1] if candidates else None


def _common(
    fits: Mapping[str, Fit], sites: str | Sequence[str] | None
) -> dict[str, dict[str, xr.DataArray]]:
    """Draws by fit and site, the same sites in every fit."""
    arrays = {}
    for name, fit in fits.items():
        try:
            arrays[name] = posterior_by_site(fit, sites)
        except FitError as error:
            raise FitError(f"fits[{name!r}]: {error}") from error
    first = next(iter(arrays.values()))
    shared = [site for site in first if all(site in own for own in arrays.values())]
    if not shared:
        listed = "; ".join(f"{name!r}: {', '.join(own)}" for name, own in arrays.items())
        raise FitError(f"the fits have no site in common ({listed})")
    return {name: {site: own[site] for site in shared} for name, own in arrays.items()}


def _elements(
    site: str, draws: Mapping[str, xr.DataArray], select: Mapping[str, Any]
) -> tuple[list[str], np.ndarray]:
    """Labels of the elements of a site and their positions in the flattened site."""
    (name, first), *others = draws.items()
    first = first_draw(first)
    for other, array in others:
        array = first_draw(array)
        if array.shape != first.shape:
            raise FitError(
                f"site '{site}' has shape {first.shape} in {name!r} and {array.shape} in {other!r}"
            )
        for mine, theirs in zip(first.dims, array.dims, strict=True):
            if mine == theirs and list(first.indexes[mine]) != list(array.indexes[theirs]):
                raise FitError(
                    f"dimension '{mine}' of site '{site}' has other labels in {name!r} "
                    f"than in {other!r}; fits are compared on the same data"
                )
    positions = first.copy(data=np.arange(first.size).reshape(first.shape))
    wanted = {
        dim: [labels] if np.ndim(labels) == 0 else list(labels)
        for dim, labels in select.items()
        if dim in first.dims
    }
    for dim, labels in wanted.items():
        missing = [label for label in labels if label not in first.indexes[dim]]
        if missing:
            raise FitError(f"select: dimension '{dim}' has no label {missing[0]!r}")
    positions = positions.sel(wanted)
    return element_labels(positions), positions.to_numpy().ravel()


def _statistics(
    fit: Fit, site: str, errors: Any, interval: float, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Estimate, sd, interval and mean of the draws, for the elements at ``rows``."""
    estimate = as_numpy(fit.params[site]).ravel()[rows].astype(float)
    nothing = np.full(len(rows), np.nan)
    if fit.is_point:
        sd = nothing if errors is None else as_numpy(errors).ravel()[rows].astype(float)
        return {"estimate": estimate, "sd": sd, "lower": nothing, "upper": nothing}
    draws = as_numpy(fit.draws[site].flatten(0, 1)).reshape(-1, fit.params[site].numel())
    draws = draws[:, rows].astype(float)
    tail = (1 - interval) / 2
    lower, upper = np.quantile(draws, [tail, 1 - tail], axis=0)
    return {
        "estimate": estimate,
        "sd": draws.std(0, ddof=1) if len(draws) > 1 else nothing,
        "lower": lower,
        "upper": upper,
        "mean": draws.mean(0),
    }


def _against(estimate: np.ndarray, reference: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Distance from a reference posterior and whether its interval holds the estimate."""
    mean, sd = reference["mean"], reference["sd"]
    gap = np.abs(estimate - mean)
    size = np.maximum(np.abs(mean), np.abs(estimate))
    constant = sd <= _ROUNDING * np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(constant, np.where(gap <= _ROUNDING * size, 0.0, np.inf), gap / sd)
    inside = (reference["lower"] <= estimate) & (estimate <= reference["upper"])
    return {"distance": distance, "inside": inside | (distance == 0)}
