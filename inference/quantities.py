"""What a program says at given values: by observation, by latent, and forward in time."""

from __future__ import annotations

from typing import Any

import torch
from pyro.ops import packed

from likely.inference.errors import ProgramError
from likely.inference.factors import Component, as_packed, contract, dims_of, marginals
from likely.inference.handlers import Resample, is_deterministic, is_plate
from likely.inference.program import Program, Run, Values
from likely.inference.sites import Plate
from likely.inference.streams import Streamed


def _by_plates(
    value: torch.Tensor, run: Run, plates: dict[str, Plate], ordinal: frozenset[str]
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Unpack a plated tensor to dimensions ordered outermost first, with their names."""
    names = sorted((run.plate_symbols[s] for s in ordinal), key=lambda n: plates[n].dim)
    symbol = {name: s for s, name in run.plate_symbols.items()}
    # Plates of size one were squeezed by packing.
    missing = [symbol[n] for n in names if symbol[n] not in dims_of(value)]
    order = dims_of(value) + "".join(missing)
    value = value.reshape(value.shape + (1,) * len(missing))
    return value.permute([order.index(symbol[n]) for n in names]), tuple(names)


def pointwise_log_likelihood(
    program: Program, values: Values
) -> dict[str, tuple[torch.Tensor, tuple[str | None, ...]]]:
    """Log-likelihood of each observation, latents summed out, weights left aside.

    An observation is what stays independent of the rest once the latents are gone: a point of a
    mixture, a whole sequence of a hidden Markov model, all labels of a task. Sites that share a
    latent are one observation, called by their joined names.

    Returns
    -------
    dict
        Name to (log-likelihood [*plates], plate names).
    """
    run = program.run(values)
    found: dict[str, tuple[torch.Tensor, tuple[str | None, ...]]] = {}
    for factor in run.direct:
        if factor.role == "observed":
            dims = program.sites.observed[factor.name].dims
            found[factor.name] = (factor.log_prob, dims)
    if not run.enumerated:
        return found
    above: dict[frozenset[str], Component] = {}
    if any(f.role == "unknown" for f in run.enumerated):
        hidden = [f for f in run.enumerated if f.role != "observed"]
        above = {frozenset(f.name for f in c.factors): c for c in contract(hidden, run.sum_dims)}
    for component in contract(run.enumerated, run.sum_dims):
        observed = [f.name for f in component.factors if f.role == "observed"]
        if not observed:
            continue
        value, ordinal = component.value, component.ordinal
        members = {f.name for f in component.factors}
        for names, part in above.items():
            if names <= members:
                # Reduce both to the plates they share, then divide by the prior of the unknowns.
                value, ordinal = _reduce(value, ordinal, ordinal & part.ordinal)
                share, _ = _reduce(part.value, part.ordinal, ordinal)
                value = as_packed(value - share, dims_of(value))
        found["+".join(observed)] = _by_plates(value, run, program.sites.plates, ordinal)
    return found


def _reduce(
    value: torch.Tensor, ordinal: frozenset[str], target: frozenset[str]
) -> tuple[torch.Tensor, frozenset[str]]:
    for symbol in ordinal - target:
        if symbol in dims_of(value):
            axis = dims_of(value).index(symbol)
            value = as_packed(value.sum(axis), dims_of(value).replace(symbol, ""))
    return value, target


def latent_posterior(program: Program, values: Values, name: str) -> torch.Tensor:
    """Posterior probabilities of a discrete site given the data and the unknowns.

    Parameters
    ----------
    program : Program
        A program that was read.
    values : mapping of str to Tensor
        Constrained values of the unknowns.
    name : str
        The discrete site.

    Returns
    -------
    Tensor, [*plates, K]
        Exact, by the derivative of the log-evidence.

    Raises
    ------
    ProgramError
        If the program has no such discrete latent.
    """
    check_latent(program, name)
    if name in program.sites.inner:
        site = program.sites.inner[name].site
        return next(
            summed.fn.latent_posterior(summed.value)
            for summed in program.run(values, apart=True).summed
            if summed.name == site
        )
    run = program.run(values)
    _, weights = marginals(run.enumerated, run.sum_dims)
    return responsibilities(program, run, weights, name)


def responsibilities(
    program: Program, run: Run, weights: list[torch.Tensor], name: str
) -> torch.Tensor:
    """Probabilities [*plates, K] of one latent from the marginals of a run's factors."""
    factor = next(i for i, f in enumerate(run.enumerated) if f.name == name)
    weight = weights[factor]
    own = run.latent_symbols[name]
    drop = [
        i for i, dim in enumerate(dims_of(weight)) if dim != own and dim not in run.plate_symbols
    ]
    kept = "".join(dim for i, dim in enumerate(dims_of(weight)) if i not in drop)
    weight = as_packed(weight.sum(drop) if drop else weight, kept)
    # Back from the packed layout: the latent's own dimension last, squeezed ones restored.
    latent, depth = program.sites.latents[name], program.sites.max_plate_nesting
    where = {s: program.sites.plates[p].dim for s, p in run.plate_symbols.items()}
    value = packed.unpack(weight, where | {own: -1 - depth})
    value = value.reshape((1,) * (depth + 1 - value.dim()) + value.shape)
    value = value.movedim(0, -1)
    value = value.reshape(value.shape[depth - len(latent.dims) :])
    return value.expand(latent.batch_shape + (latent.values.shape[0],))


def check_latent(program: Program, name: str) -> None:
    """Raise a `ProgramError` if ``name`` is not a discrete latent of the program."""
    known_names = {**program.sites.latents, **program.sites.inner}
    if name not in known_names:
        known = ", ".join(map(repr, known_names)) or "none"
        raise ProgramError(f"'{name}' is not a discrete latent of the program; it has {known}")


def simulate(program: Program, values: Values) -> dict[str, torch.Tensor]:
    """Draw the observed sites (and the latents on the way) at given values of the unknowns.

    Returns
    -------
    dict
        Site to a draw [*batch, *event], for observed sites and discrete latents.
    """
    if isinstance(program, Streamed):
        program.run()
    with Resample():
        nodes = program.trace(lambda name, msg: values.get(name), enumerate_latents=False).nodes
    return {
        name: node["value"]
        for name, node in nodes.items()
        if node["type"] == "sample"
        and not is_plate(node)
        and not is_deterministic(node)
        and name not in program.sites.unknowns
        and isinstance(node["value"], torch.Tensor)
        and node["value"].numel() > 0
    }


def deterministics(program: Program, values: Values) -> dict[str, torch.Tensor]:
    """Values of the program's deterministic sites that no latent touches."""
    wanted = program.sites.deterministic
    if not wanted:
        return {}
    nodes: dict[str, Any] = program.trace(lambda name, msg: values.get(name)).nodes
    return {
        name: nodes[name]["value"]
        for name, site in wanted.items()
        if isinstance(site.value, torch.Tensor) and nodes[name]["value"].shape == site.value.shape
    }
