"""Which observations count: those that no mask hides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import MaskedDistribution

from likely.inference.program import Program, Values
from likely.inference.quantities import pointwise_log_likelihood
from likely.inference.streams import parts_of


def count_observations(program: Program, values: Values) -> int:
    """Number of observations that no mask hides: independent terms of the log-likelihood.

    Terms in the same plates belong to the same observations: a class that was observed and the
    outcome below it are one, as they are where the class is a latent. Must be called inside the
    program's session.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Constrained values of the unknowns.
    """
    count = 0
    for part in parts_of(program):
        terms = pointwise_log_likelihood(part, values)
        masks = observed_masks(part, values, terms)
        seen: dict[tuple[str | None, ...], torch.Tensor] = {}
        for name, (value, plates) in terms.items():
            own = masks.get(name, torch.ones_like(value, dtype=torch.bool))
            # A dimension of size one says nothing, whether it has a plate or not.
            bare = [i for i, plate in enumerate(plates) if plate is None and own.shape[i] == 1]
            own = own.squeeze(bare)
            plates = tuple(plate for i, plate in enumerate(plates) if i not in bare)
            # Without a plate nothing says that two sites are about the same.
            key = plates if plates and None not in plates else (name, None)
            seen[key] = seen[key] | own if key in seen else own
        count += sum(int(mask.sum()) for mask in seen.values())
    return count


def observed_masks(
    program: Program,
    values: Values,
    terms: Mapping[str, tuple[torch.Tensor, tuple[str | None, ...]]],
) -> dict[str, torch.Tensor]:
    """Masks of the terms of a log-likelihood, for those that have hidden entries.

    An observation of several sites or of an event with several entries counts if one of them does.
    Must be called inside the program's session.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Constrained values of the unknowns.
    terms : mapping
        What `likely.inference.quantities.pointwise_log_likelihood` gave.

    Returns
    -------
    dict of str to Tensor
        Term to a mask of its shape, true where the observation counts.
    """
    nodes = program.trace(lambda name, msg: values.get(name)).nodes
    found = {}
    for name, (value, plates) in terms.items():
        members = [name] if name in program.sites.observed else name.split("+")
        total = torch.zeros(value.shape, dtype=torch.bool, device=value.device)
        for member in members:
            mask = _mask(nodes[member], value.device)
            total |= _over_plates(mask, program, plates).expand(value.shape)
        if not bool(total.all()):
            found[name] = total
    return found


def _mask(node: Mapping[str, Any], device: torch.device) -> torch.Tensor:
    """Mask of a site [*batch]: the handler's and those of its distribution."""
    own = True if node["mask"] is None else node["mask"]
    mask = torch.as_tensor(own, dtype=torch.bool, device=device)
    fn, depth = node["fn"], len(node["fn"].event_shape)
    while fn is not None:
        if isinstance(fn, MaskedDistribution):
            inner = torch.as_tensor(fn._mask, dtype=torch.bool, device=device)
            # Dimensions that were made part of the event further out.
            for _ in range(min(depth - len(fn.event_shape), inner.dim())):
                inner = inner.any(-1)
            mask = mask & inner
        fn = getattr(fn, "base_dist", None)
    return mask


def _over_plates(
    mask: torch.Tensor, program: Program, plates: tuple[str | None, ...]
) -> torch.Tensor:
    """A site's mask [*batch] over the plates of an observation, which has one if any entry has."""
    kept = {program.sites.plates[name].dim for name in plates if name is not None}
    if len(kept) < len(plates):  # a dimension without a plate: nothing was reduced
        return mask
    for dim in range(-mask.dim(), 0):
        if dim not in kept:
            mask = mask.any(dim, keepdim=True)
    # Without the reduced dimensions, the rest in order, outermost first.
    axes = [dim for dim in range(-mask.dim(), 0) if dim in kept]
    return mask.reshape([mask.shape[dim] for dim in axes])
