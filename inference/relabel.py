"""One labelling for all draws of a program whose components can be exchanged.

The posterior of a mixture is the same whichever component is called the first, so draws may call
it the first here and the second there; means of such draws mean nothing. A program says which of
its dimensions are of that kind with an attribute ``exchangeable``, the names of plates or of
``dims``: ``exchangeable = ("cluster",)``. It must only name dimensions whose entries have the same
prior. An axis that runs over the same entries again, such as the columns of a transition matrix
[state, state_to], carries the name once more, or the name with ``_bis`` or ``_to`` behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from likely.inference.errors import FitError, ProgramError
from likely.inference.labels import Draws, labelling, permute, relabel_draws

if TYPE_CHECKING:
    from likely.inference.fit import Fit
    from likely.inference.program import Program

_AGAIN = ("_bis", "_to")


def exchangeable_axes(program: Program) -> dict[str, dict[str, tuple[int, ...]]]:
    """Where a program's exchangeable dimensions are.

    Parameters
    ----------
    program : Program
        A program that was read.

    Returns
    -------
    dict
        Exchangeable dimension to (site to those axes of its value that run over it), for unknowns
        and deterministic sites. A dimension is left out if a parameter without a prior has it:
        that has one value in all draws and holds the labels.

    Raises
    ------
    ProgramError
        If ``exchangeable`` is not made of names, or names a dimension that no unknown has.
    """
    from likely.inference.diagnostics.dimensions import Dimensions

    declared = _declared(program)
    if not declared:
        return {}
    names = Dimensions(program)
    shapes = {name: (u.shape, u.dims) for name, u in program.sites.unknowns.items()}
    for name, site in program.sites.deterministic.items():
        if isinstance(site.value, torch.Tensor):
            shapes[name] = (site.value.shape, site.dims)
    called = {
        site: [names.renamed[dim] for dim in names.of(site, shape, dims)]
        for site, (shape, dims) in shapes.items()
    }
    found = {}
    for dimension in declared:
        wanted = {dimension, *(dimension + again for again in _AGAIN)}
        axes = {
            site: tuple(axis for axis, dim in enumerate(dims) if dim in wanted)
            for site, dims in called.items()
        }
        axes = {site: own for site, own in axes.items() if own}
        if not axes.keys() & program.sites.unknowns.keys():
            known = sorted({dim for site in program.sites.unknowns for dim in called[site]})
            raise ProgramError(
                f"exchangeable names '{dimension}', which no unknown has as a dimension "
                f"({', '.join(known)}); name dimensions with plates or the program's dims"
            )
        unknowns = program.sites.unknowns
        if not any(site in unknowns and unknowns[site].is_param for site in axes):
            found[dimension] = axes
    return found


def _declared(program: Program) -> tuple[str, ...]:
    source = program.source
    if isinstance(source, torch.nn.Module) and not hasattr(type(source), "exchangeable"):
        return ()  # a module's own site or parameter of that name
    found = getattr(source, "exchangeable", None)
    if found is None:
        return ()
    names = (found,) if isinstance(found, str) else found
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise ProgramError(
            "exchangeable must be a tuple of names of dimensions, such as ('cluster',), "
            f"got {found!r}"
        )
    return tuple(names)


def one_labelling(
    program: Program, draws: Draws, log_density: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Draws of a program's unknowns, relabelled along every dimension it calls exchangeable."""
    found = dict(draws)
    for axes in exchangeable_axes(program).values():
        found = relabel_draws(
            found, {s: a for s, a in axes.items() if s in found}, None, log_density
        )
    return found


def relabel(fit: Fit, reference: Fit | Mapping[str, Any] | None = None) -> Fit:
    """A fit with the labels of its components made to agree: with each other, or a reference.

    Engines do the first by themselves (option ``relabel``). The second puts fits side by side:
    ``compare({"EM": relabel(em, nuts), "NUTS": nuts})``.

    Parameters
    ----------
    fit : Fit
        A point or a posterior, with its program, which must declare ``exchangeable``.
    reference : Fit or mapping of str to tensor-like, optional
        A fit whose labels are to be followed, or values by site (the truth of a simulation).

    Returns
    -------
    Fit
        A new fit; ``params``, ``draws`` and with them everything that follows from them are
        relabelled, and ``rhat_max`` and ``ess_min``, where there are any, are computed anew.
        ``converged`` remains what the engine said.

    Raises
    ------
    FitError
        If the program declares no exchangeable dimension, or the reference is not one or has
        other shapes.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist
    >>> from likely.inference import EM
    >>> def coins(heads):
    ...     weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    ...     with pyro.plate("coin", 2):
    ...         p = pyro.sample("p", dist.Beta(1.0, 1.0))
    ...     with pyro.plate("bag", len(heads)):
    ...         z = pyro.sample("z", dist.Categorical(weights))
    ...         pyro.sample("heads", dist.Binomial(10, p[z]), obs=heads)
    >>> coins.dims, coins.exchangeable = {"weights": ("coin",)}, ("coin",)
    >>> fit = EM().fit(coins, torch.tensor([9.0, 8.0, 2.0, 1.0, 9.0]))
    >>> relabel(fit, {"p": [0.8, 0.1]}).params["p"].round(decimals=2).tolist()
    [0.87, 0.15]
    """
    from likely.inference.fit import Fit

    if not isinstance(fit, Fit):
        raise FitError(f"fit must be a Fit, got {type(fit).__name__}")
    program = fit.bound("relabel()")
    found = exchangeable_axes(program)
    if not found and _declared(program):
        raise FitError(
            "every dimension that the program calls exchangeable has a parameter without a prior, "
            "which holds the labels"
        )
    if not found:
        raise FitError(
            "the program declares no dimension whose labels are arbitrary; give it the attribute "
            "exchangeable, a tuple of names of plates or dims"
        )
    theirs = _reference_draws(reference)
    draws = dict(fit.draws)
    for axes in found.values():
        unknown = {site: own for site, own in axes.items() if site in program.sites.unknowns}
        order = labelling(draws, unknown, theirs, fit.sample_stats.get("lp"))
        draws = permute(draws, axes, order)
    return _with_draws(fit, program, draws)


def _reference_draws(reference: Any) -> Draws | None:
    from likely.inference.fit import Fit

    if reference is None:
        return None
    if isinstance(reference, Fit):
        return reference.draws
    if not isinstance(reference, Mapping):
        raise FitError(
            f"reference must be a Fit or a mapping of site to value, got {type(reference).__name__}"
        )
    try:
        return {
            name: torch.as_tensor(
                np.asarray(
                    value.detach().cpu() if isinstance(value, torch.Tensor) else value, dtype=float
                )
            )[None, None]
            for name, value in reference.items()
        }
    except (TypeError, ValueError) as error:
        raise FitError(f"reference holds something that is no array of numbers: {error}") from error


def _with_draws(fit: Fit, program: Program, draws: dict[str, torch.Tensor]) -> Fit:
    """The fit with other draws, and what follows from them."""
    from likely.inference.engines.nuts import mixing
    from likely.inference.engines.result import posterior_mean

    if fit.is_point:
        # One draw, and the same density: only the order of its parts is another.
        params = {name: draws[name][0, 0] for name in fit.params}
        return replace(fit, draws=draws, params=params, stored=None)
    unknowns = {name: value for name, value in draws.items() if name in program.sites.unknowns}
    params = posterior_mean(program, unknowns)
    with program.session(fit.seed), torch.no_grad():
        density = program.density(params)
    diagnostics = dict(fit.diagnostics)
    if "rhat_max" in diagnostics:
        diagnostics |= mixing(unknowns)
    return replace(
        fit,
        draws=draws,
        params={n: params[n] if n in params else draws[n].mean((0, 1)) for n in fit.params},
        log_likelihood=float(density.log_likelihood),
        log_prior=float(density.log_prior),
        diagnostics=diagnostics,
        stored=None,
    )
