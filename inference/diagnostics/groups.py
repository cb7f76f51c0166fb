"""The ArviZ groups of a fit, as xarray data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from platform import python_version
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
import xarray as xr

from likely.inference.diagnostics import backend
from likely.inference.diagnostics.dimensions import SAMPLE_DIMS, Dimensions, Names
from likely.inference.errors import FitError
from likely.inference.masks import observed_masks
from likely.inference.program import Program
from likely.inference.quantities import pointwise_log_likelihood
from likely.inference.streams import Streamed

if TYPE_CHECKING:
    from likely.inference.fit import Fit

Arrays = dict[str, tuple[tuple[str, ...], np.ndarray]]

# HDF5 keeps attributes of up to 64 KiB beside an object; longer options are cut short in them.
_LONGEST_ATTRIBUTE = 8192
_MOST_LISTED = 32


def build_groups(
    fit: Fit,
    predictive: int | bool = False,
    log_likelihood: bool = True,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, xr.Dataset]:
    """Everything ArviZ wants to know about a fit, group by group.

    Parameters
    ----------
    fit : Fit
        Any fit.
    predictive : int or bool
        Number of posterior-predictive draws; ``True`` for what ``fit.predict()`` gives.
    log_likelihood : bool
        Whether to make that group, which takes draws × observations numbers.
    coords : mapping of str to sequence, optional
        Labels by dimension; by default those of the program's ``coords`` hook, else 0, 1, 2, ...
    dims : mapping of str to sequence of str, optional
        Names of a site's rightmost dimensions; by default those of the program's ``dims`` hook,
        plate names, or ``<site>_dim_<axis>``.

    Returns
    -------
    dict of str to Dataset
        ``posterior`` [chain, draw, *plates, *event], ``sample_stats`` [chain, draw],
        ``log_likelihood`` [chain, draw, *plates] in nats with latents summed out (where a mask
        hides observations, only the others, in one dimension ``<site>_observed``),
        ``observed_data``, ``posterior_predictive`` on request and ``latent_posterior``
        [*plates, K], the probabilities of each discrete latent. Groups without a variable are
        left out, and so are those that need the observations for a fit from a ``DataLoader``. A
        fit that was loaded without its program gives the groups in its file.

    Raises
    ------
    FitError
        If labels or names do not fit the arrays, or a loaded fit lacks the program that the
        request needs.
    """
    _check_predictive(predictive)
    stored = _stored(fit, bool(predictive), bool(coords or dims))
    if stored is not None:
        return stored
    program = fit.bound("to_arviz()")
    names = Dimensions(program, coords, dims)
    kept = not isinstance(program, Streamed)
    predicted = _predictive(fit, names, program, predictive) if predictive else {}
    arrays: dict[str, Arrays] = {
        "posterior": _posterior(fit, names),
        "sample_stats": _sample_stats(fit, names),
        "log_likelihood": _log_likelihood(fit, names, program) if log_likelihood and kept else {},
        "observed_data": _observed(names, program),
        "posterior_predictive": predicted,
        "latent_posterior": _latents(fit, names, program) if kept else {},
    }
    attrs = attributes(fit)
    groups = {group: names.dataset(found, attrs) for group, found in arrays.items() if found}
    if "sample_stats" in groups:
        # Divergences, R-hat and the like: one number for all draws.
        groups["sample_stats"].attrs.update(fit.diagnostics)
    names.check_used()
    return groups


def posterior_group(fit: Fit) -> xr.Dataset:
    """The posterior group alone, which costs no run of the program.

    Raises
    ------
    FitError
        If the fit has neither its program nor stored groups.
    """
    if fit.program is None and fit.stored is not None:
        return fit.stored["posterior"]
    names = Dimensions(fit.bound("naming the sites' dimensions"))
    return names.dataset(_posterior(fit, names), attributes(fit))


def posterior_by_site(
    fit: Fit, sites: str | Sequence[str] | None = None
) -> dict[str, xr.DataArray]:
    """Labelled draws [chain, draw, *plates, *event] by site.

    Parameters
    ----------
    fit : Fit
        Any fit with its program or stored groups.
    sites : str or sequence of str, optional
        Sites to take; by default all.

    Raises
    ------
    FitError
        If the fit has no such site.
    """
    group = posterior_group(fit)
    arrays = dict(zip(fit.draws, (group[name] for name in group.data_vars), strict=True))
    if sites is None:
        return arrays
    chosen = [sites] if isinstance(sites, str) else list(sites)
    missing = ", ".join(repr(site) for site in chosen if site not in arrays)
    if missing or not chosen:
        raise FitError(
            f"sites names {missing or 'no site'}; the fit has {', '.join(map(repr, arrays))}"
        )
    return {site: arrays[site] for site in chosen}


def first_draw(array: xr.DataArray) -> xr.DataArray:
    """An array without its chain and draw."""
    return array.isel(dict.fromkeys(SAMPLE_DIMS, 0), drop=True)


def as_numpy(value: torch.Tensor) -> np.ndarray:
    """A tensor as an array, from any device; types that NumPy lacks become float32."""
    value = value.detach().cpu()
    if value.dtype is torch.bfloat16:
        value = value.float()
    return value.numpy()


def attributes(fit: Fit) -> dict[str, Any]:
    """What made the fit, as attributes that netCDF can hold."""
    versions = {
        "likely": metadata.version("likely"),
        "pyro": pyro.__version__,
        "torch": str(torch.__version__),
        "arviz": backend.version(),
        "python": python_version(),
    }
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inference_library": "likely",
        "inference_library_version": versions["likely"],
        "engine": fit.engine,
        "options": _short_json(fit.options),
        "seed": fit.seed,
        "versions": json.dumps(versions),
        "converged": int(fit.converged),
        "n_iter": fit.n_iter,
        "sampling_time": fit.seconds,
    }


def _short_json(options: Mapping[str, Any]) -> str:
    text = json.dumps(dict(options), default=str)
    if len(text) <= _LONGEST_ATTRIBUTE:
        return text
    return json.dumps(_shortened(dict(options)), default=str)[:_LONGEST_ATTRIBUTE]


def _shortened(value: Any) -> Any:
    """Options with long lists (a start given by ``init``, say) replaced by their lengths."""
    if isinstance(value, Mapping):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if np.size(value) > _MOST_LISTED:
            return f"{type(value).__name__} of shape {np.shape(value)}"
        return [_shortened(item) for item in value]
    return value


def _stored(fit: Fit, predictive: bool, relabelled: bool) -> dict[str, xr.Dataset] | None:
    """Groups from the file of a fit without its program, if they answer the request."""
    if fit.program is not None or fit.stored is None:
        return None
    if relabelled:
        fit.bound("to_arviz() with coords or dims")
    if predictive and "posterior_predictive" not in fit.stored:
        fit.bound("to_arviz() with predictive draws")
    return dict(fit.stored)


def _posterior(fit: Fit, names: Dimensions) -> Arrays:
    sites = fit.bound("the posterior").sites
    arrays = {}
    for name, draws in fit.draws.items():
        site = sites.unknowns.get(name) or sites.deterministic.get(name)
        batch: Names = site.dims if site is not None else ()
        arrays[name] = names.of(name, draws.shape[2:], batch, SAMPLE_DIMS), as_numpy(draws)
    return arrays


def _sample_stats(fit: Fit, names: Dimensions) -> Arrays:
    """The sampler's statistics; for a point ``lp``, its log joint density in nats."""
    stats = dict(fit.sample_stats)
    if fit.is_point and "lp" not in stats:
        stats["lp"] = torch.tensor([[fit.log_likelihood + fit.log_prior]], dtype=torch.float64)
    return {
        name: (names.of(name, value.shape[2:], (), SAMPLE_DIMS), as_numpy(value))
        for name, value in stats.items()
    }


def _log_likelihood(fit: Fit, names: Dimensions, program: Program) -> Arrays:
    chains, kept = next(iter(fit.draws.values())).shape[:2]
    arrays: Arrays = {}
    with program.session(fit.seed), torch.no_grad():
        for number, values in enumerate(fit.each_draw()):
            terms = pointwise_log_likelihood(program, values)
            if number == 0:
                masks = observed_masks(program, values, terms)
            for name, (value, batch) in terms.items():
                if name in masks:
                    value = value[masks[name]]
                    batch = (names.subset(name, batch, as_numpy(masks[name])),)
                if number == 0:
                    # One block, filled row by row: draws × observations can be large.
                    block = np.empty((chains, kept, *value.shape), as_numpy(value).dtype)
                    site = program.sites.observed.get(name)
                    event = site.event_dim if site is not None else 0
                    own = names.of(name, value.shape, batch, SAMPLE_DIMS, lacking=event)
                    arrays[name] = own, block
                arrays[name][1][divmod(number, kept)] = as_numpy(value)
    return arrays


def _observed(names: Dimensions, program: Program) -> Arrays:
    return {
        name: _observation(names, program, name, site.value, ())
        for name, site in program.sites.observed.items()
        if site.value is not None
    }


def _observation(
    names: Dimensions, program: Program, name: str, value: torch.Tensor, lead: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Data of an observed site without the axes that were only broadcast."""
    site = program.sites.observed[name]
    array = as_numpy(value)
    shape = array.shape[len(lead) :]
    # A value may lack leading batch axes: its axes are the rightmost of [*plates, *event].
    full = (*site.dims, *[None] * site.event_dim)
    batch = list(full[max(len(full) - len(shape), 0) :])
    sizes = program.sites.plates
    axes = [
        axis
        for axis, plate in enumerate(batch)
        if plate in sizes and shape[axis] == 1 and sizes[plate].size != 1
    ]
    array = array.squeeze(tuple(len(lead) + axis for axis in axes))
    batch = [plate for axis, plate in enumerate(batch) if axis not in axes]
    return names.of(name, array.shape[len(lead) :], batch, lead), array


def _check_predictive(predictive: Any) -> None:
    if not isinstance(predictive, int | np.integer) or predictive < 0:
        raise FitError(
            f"predictive must be True, False or a positive number of draws, got {predictive!r}"
        )


def _predictive(fit: Fit, names: Dimensions, program: Program, predictive: int | bool) -> Arrays:
    draws = None if predictive is True else int(predictive)
    return {
        name: _observation(names, program, name, value, SAMPLE_DIMS)
        for name, value in fit.predict(draws=draws).items()
    }


def _latents(fit: Fit, names: Dimensions, program: Program) -> Arrays:
    arrays = {}
    for name, latent in program.sites.latents.items():
        probabilities = as_numpy(fit.latent(name))
        arrays[name] = names.of(name, probabilities.shape, latent.dims), probabilities
    for name, inner in program.sites.inner.items():
        probabilities = as_numpy(fit.latent(name))
        arrays[name] = names.of(name, probabilities.shape, inner.dims), probabilities
    return arrays
