"""Starting from another fit, whose data may have been fewer, or in another order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch.distributions import constraints

from likely.inference.program import Program
from likely.inference.sites import Unknown
from likely.inference.streams import Streamed

if TYPE_CHECKING:
    from likely.inference.fit import Fit

# Share of a fresh start in probabilities that the other fit put on the boundary.
_FRESH = 0.1
# Log-likelihoods that differ by less than this many rounding units are of the same data.
_SAME = 1000.0

# The name of an axis and its labels, None where nobody named its entries.
Axis = tuple[str, pd.Index | None]


def values_from(
    fit: Fit, program: Program, values: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Values of a fit where they are values of a program, for a start.

    Entries of plates are matched by the labels that the ``coords`` hooks of both programs give
    them, or the file of a loaded fit; entries that the fit does not know take the value of the
    program's ``initial`` hook, else that of its first run. A site without labels is taken if its
    shape is the same.

    A probability of exactly zero would stay zero in EM, whatever the new data say. Where the data
    are not those of the fit, events with a zero (or a probability of one) are therefore mixed with
    a tenth of the fresh start.

    Parameters
    ----------
    fit : Fit
        Any fit.
    program : Program
        The program that is to start; its session must be open.
    values : mapping of str to Tensor, optional
        One draw of the fit's sites; by default the fit's ``params``.

    Returns
    -------
    dict of str to Tensor
        Site to value; sites that the fit says nothing of are left out.
    """
    source = fit.params if values is None else values
    before, now = _axes_of_fit(fit, program), _axes_of_program(program)
    fresh = _Fresh(program)
    found: dict[str, torch.Tensor] = {}
    complete = True
    for name, unknown in program.sites.unknowns.items():
        if name not in source:
            continue
        old = source[name].detach().to(dtype=program.dtype, device=program.device)
        axes = before.get(name), now.get(name)
        if axes[0] is None or axes[1] is None or _names(axes[0]) != _names(axes[1]):
            if old.shape == unknown.shape:
                found[name] = old
            continue
        places = _places(old, axes[0], axes[1], unknown)
        if places is None:
            continue
        value, known = _gathered(old, places)
        if not bool(known.all()):
            complete = False
            value = torch.where(known, value, fresh(name))
        found[name] = value
    complete = complete and found.keys() >= program.sites.unknowns.keys()
    if isinstance(program, Streamed):
        return found
    edges = {n: _on_edge(v, program.sites.unknowns[n]) for n, v in found.items()}
    if any(bool(edge.any()) for edge in edges.values()) and not (
        complete and _same_data(fit, program, found)
    ):
        for name, edge in edges.items():
            if bool(edge.any()):
                mixed = (1 - _FRESH) * found[name] + _FRESH * fresh(name)
                found[name] = torch.where(edge, mixed, found[name])
    return found


class _Fresh:
    """Values that a start without another fit would have; the hook runs when first asked."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.given: Mapping[str, Any] | None = None

    def __call__(self, name: str) -> torch.Tensor:
        program = self.program
        if self.given is None:
            hook = program.hook("initial")
            self.given = dict(hook(*program.args, **program.kwargs) or {}) if callable(hook) else {}
        value = self.given.get(name, program.sites.unknowns[name].start)
        return torch.as_tensor(value, dtype=program.dtype, device=program.device).detach()


def _axes_of_program(program: Program) -> dict[str, list[Axis]]:
    """Axes of every unknown, if the program has labels for any."""
    # The diagnostics import the fit and the fit's engines are here: not at the top.
    from likely.inference.diagnostics.dimensions import Dimensions

    if isinstance(program, Streamed) or program.hook("coords") is None:
        return {}
    names = Dimensions(program)
    found: dict[str, list[Axis]] = {}
    for name, unknown in program.sites.unknowns.items():
        dims = names.of(name, unknown.shape, unknown.dims)
        found[name] = []
        for dim, length in zip(dims, unknown.shape, strict=True):
            labelled = names.renamed.get(dim, dim) in names.hook_coords
            labels = _index(names.labels(dim, length, name)) if labelled else None
            found[name].append((dim, labels))
    return found


def _axes_of_fit(fit: Fit, program: Program) -> dict[str, list[Axis]]:
    """Axes of every site of a fit, from its program or from its file."""
    if program.hook("coords") is None:
        return {}
    if fit.program is not None:
        return _axes_of_program(fit.program)
    if fit.stored is None:
        return {}
    group = fit.stored["posterior"]
    arrays = dict(zip(fit.draws, (group[name] for name in group.data_vars), strict=True))
    return {
        name: [(str(dim), _index(array.indexes[dim].to_numpy())) for dim in array.dims[2:]]
        for name, array in arrays.items()
    }


def _index(labels: Any) -> pd.Index:
    # Text has one type in NumPy and another in a file.
    return pd.Index(labels.astype(object) if labels.dtype.kind == "U" else labels)


def _names(axes: list[Axis]) -> list[str]:
    return [name for name, _ in axes]


def _places(
    old: torch.Tensor, before: list[Axis], now: list[Axis], unknown: Unknown
) -> list[torch.Tensor] | None:
    """Position in the old value of every entry of each axis, −1 for a new one.

    None if the values do not fit: events keep their entries, only plates may grow.
    """
    found = []
    plates = len(unknown.shape) - unknown.event_dim
    for axis, ((_, mine), (_, theirs)) in enumerate(zip(before, now, strict=True)):
        length = unknown.shape[axis]
        if mine is None or theirs is None:
            if old.shape[axis] != length:
                return None
            found.append(torch.arange(length, device=old.device))
            continue
        place = torch.as_tensor(mine.get_indexer(theirs), device=old.device)
        if axis >= plates and (old.shape[axis] != length or bool((place < 0).any())):
            return None
        found.append(place)
    return found


def _gathered(old: torch.Tensor, places: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries at ``places`` along each axis, and which of them the old value has."""
    value = old
    known = torch.ones((), dtype=torch.bool, device=old.device)
    for axis, place in enumerate(places):
        value = value.index_select(axis, place.clamp(min=0))
        shape = [1] * old.dim()
        shape[axis] = len(place)
        known = known & (place >= 0).reshape(shape)
    return value, known.expand(value.shape)


def _on_edge(value: torch.Tensor, unknown: Unknown) -> torch.Tensor:
    """Which events hold a probability of exactly zero or one."""
    support = unknown.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.simplex:
        return (value <= 0).any(-1, keepdim=True).expand(value.shape)
    if support is constraints.unit_interval:
        return (value <= 0) | (value >= 1)
    return torch.zeros_like(value, dtype=torch.bool)


def _same_data(fit: Fit, program: Program, values: dict[str, torch.Tensor]) -> bool:
    with torch.no_grad():
        now = float(program.density(values).log_likelihood)
    unit = torch.finfo(program.dtype).eps * max(1.0, abs(fit.log_likelihood))
    return abs(now - fit.log_likelihood) <= _SAME * unit
