"""Names and labels of the axes of a fit's arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from likely.inference.diagnostics.backend import RESERVED_DIMS
from likely.inference.errors import FitError
from likely.inference.program import Program

SAMPLE_DIMS = ("chain", "draw")

Names = Sequence[str | None]


class Dimensions:
    """How the axes of a program's sites are called, and what their entries are called.

    An axis has, in this order, the name that ``dims`` gives, the name that the program's ``dims``
    hook gives, the name of its plate, or ``<site>_dim_<axis>``. Its labels come from ``coords``,
    the program's ``coords`` hook, or are 0, 1, 2, ... A name that ArviZ or a variable has
    already is followed by ``_dim``, the second of two equal names by ``_2``.

    Parameters
    ----------
    program : Program
        The program. Hooks are optional attributes of the user's callable: ``dims``, a mapping of
        site to the names of its rightmost dimensions, and ``coords``, a mapping of dimension to
        labels or a callable that makes one from the program's arguments.
    coords : mapping of str to sequence, optional
        Labels by dimension.
    dims : mapping of str to sequence of str, optional
        Names of a site's rightmost dimensions.

    Raises
    ------
    FitError
        If an argument is not a mapping or ``dims`` names a site that the program does not have.
    """

    def __init__(
        self,
        program: Program,
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.plates = {name: plate.size for name, plate in program.sites.plates.items()}
        self.given_dims = _mapping(dims, "dims")
        self.given_coords = _mapping(coords, "coords")
        self.used: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.subsets: dict[str, tuple[str, np.ndarray]] = {}
        sites = program.sites
        known = {
            *sites.unknowns,
            *sites.latents,
            *sites.inner,
            *sites.observed,
            *sites.deterministic,
        }
        unknown = sorted(set(self.given_dims) - known)
        if unknown:
            raise FitError(
                f"dims names {', '.join(map(repr, unknown))}, which the program does not have; "
                f"its sites are {', '.join(map(repr, sorted(known)))}"
            )
        self.hook_dims = _hook(program, "dims")
        self.hook_coords = _hook(program, "coords")

    def of(
        self,
        site: str,
        shape: Sequence[int],
        batch: Names,
        lead: Sequence[str] = (),
        lacking: int = 0,
    ) -> tuple[str, ...]:
        """Names of the axes of one array, no two alike and none that ArviZ keeps for itself.

        Parameters
        ----------
        site : str
            The site; its batch dimensions come first.
        shape : sequence of int
            Shape of the array without the leading dimensions.
        batch : sequence of str or None
            Plate names of the batch dimensions, ``None`` where there is no plate.
        lead : sequence of str
            Names of leading dimensions such as chain and draw, part of the result.
        lacking : int
            How many of the site's rightmost dimensions the array does not have; a log-likelihood
            lacks those of the event.
        """
        names: list[str | None] = [*batch[: len(shape)], *[None] * (len(shape) - len(batch))]
        for axis, name in enumerate(names):
            if name is not None and self.plates.get(name, shape[axis]) != shape[axis]:
                names[axis] = None
        own = _names(self.given_dims.get(site, ()), lacking)
        if len(own) > len(shape):
            raise FitError(
                f"dims names {len(own)} dimensions of site '{site}' ({', '.join(own)}), "
                f"which has {len(shape)} (shape {tuple(shape)})"
            )
        if site not in self.given_dims:
            # The program's own names are for dimensions inside the plates.
            free = len(names) - max((i + 1 for i, name in enumerate(names) if name), default=0)
            own = _names(self.hook_dims.get(site, ()), lacking)
            own = own[max(len(own) - free, 0) :]
        names[len(names) - len(own) :] = own
        found = list(lead)
        for axis, name in enumerate(names):
            chosen = name or f"{site}_dim_{axis}"
            found.append(_distinct(f"{chosen}_dim" if chosen in RESERVED_DIMS else chosen, found))
            self.renamed[found[-1]] = chosen
        return tuple(found)

    def subset(self, site: str, batch: Names, kept: np.ndarray) -> str:
        """Name of the one dimension of a site's entries that a mask ``kept`` [*plates] leaves.

        Of one plate they keep their labels.
        """
        name = f"{site}_observed"
        if len(batch) == 1 and batch[0] is not None:
            self.subsets[name] = batch[0], kept
        return name

    def dataset(
        self, arrays: Mapping[str, tuple[tuple[str, ...], np.ndarray]], attrs: Mapping[str, Any]
    ) -> xr.Dataset:
        """A data set of named arrays, with labels on every axis.

        Parameters
        ----------
        arrays : mapping
            Variable to (names of its axes, values).
        attrs : mapping
            Attributes of the data set.

        Raises
        ------
        FitError
            If two variables disagree about the length of a dimension, or labels do not fit it.
        """
        sizes: dict[str, tuple[int, str]] = {}
        renamed: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        variables = {safe_name(name) for name in arrays}
        for name, (names, value) in arrays.items():
            # xarray would take a variable that is called like a dimension for its labels.
            own = tuple(f"{dim}_dim" if dim in variables else dim for dim in names)
            for new, old in zip(own, names, strict=True):
                self.renamed.setdefault(new, self.renamed.get(old, old))
            for dim, length in zip(own, value.shape, strict=True):
                before, where = sizes.setdefault(dim, (length, name))
                if before != length:
                    raise FitError(
                        f"dimension '{dim}' has length {before} in site '{where}' and {length} in "
                        f"site '{name}'; give them different names with dims="
                    )
            renamed[_distinct(safe_name(name), renamed)] = own, value
        coords = {dim: self.labels(dim, *size) for dim, size in sizes.items()}
        return xr.Dataset(renamed, coords=coords, attrs=dict(attrs))

    def labels(self, dim: str, length: int, site: str) -> np.ndarray:
        """Labels of one dimension, [length].

        Raises
        ------
        FitError
            If the labels given for the dimension are not a sequence of ``length`` different ones.
        """
        if dim in SAMPLE_DIMS:
            return np.arange(length)
        base = self.renamed.get(dim, dim)
        if base in self.subsets:
            plate, kept = self.subsets[base]
            return self.labels(plate, len(kept), site)[kept]
        for given, source in (
            (self.given_coords, "coords"),
            (self.hook_coords, "the program's coords"),
        ):
            if base in given:
                self.used.add(base)
                if isinstance(given[base], str) or not isinstance(given[base], Iterable):
                    raise FitError(
                        f"{source}: the labels of dimension '{base}' must be a sequence of "
                        f"{length}, got {given[base]!r}"
                    )
                found = as_labels(given[base])
                if len(found) != length:
                    raise FitError(
                        f"{source} gives {len(found)} labels for dimension '{base}', which has "
                        f"length {length} in site '{site}'"
                    )
                self._check_distinct(found, base, source)
                return found
        return np.arange(length)

    @staticmethod
    def _check_distinct(labels: np.ndarray, dim: str, source: str) -> None:
        # ArviZ's tables and the choice of elements find an entry by its label.
        values, counts = np.unique(labels, return_counts=True)
        if len(values) < len(labels):
            raise FitError(
                f"{source} gives the label {values[counts > 1][0].item()!r} to several entries of "
                f"dimension '{dim}'; labels must differ"
            )

    def check_used(self) -> None:
        """Raise a `FitError` if ``coords`` named a dimension that no array has."""
        unused = sorted(set(self.given_coords) - self.used)
        if unused:
            raise FitError(
                f"coords names {', '.join(map(repr, unused))}, which is no dimension of the fit; "
                "name dimensions with dims= or plates"
            )


def safe_name(name: str) -> str:
    """A site's name as xarray and netCDF take it: no slash, and not the name of a sample axis."""
    return f"{name}_site" if name in SAMPLE_DIMS else name.replace("/", ".")


def as_labels(values: Iterable[Any]) -> np.ndarray:
    """Labels as a one-dimensional array of numbers, dates or text, whatever can be in a file."""
    if hasattr(values, "dtype"):
        array = np.asarray(values)
        if array.ndim == 1 and array.dtype.kind in "biufUM":
            return array
    listed = list(values)
    if len({type(value) for value in listed}) == 1 and not isinstance(listed[0], tuple | list):
        array = np.asarray(listed)
        if array.dtype.kind in "biufUM":
            return array
    return np.asarray([str(value) for value in listed], dtype=str)


def element_labels(array: xr.DataArray) -> list[str]:
    """Names of an array's elements in order, as ArviZ writes them: ``confusion[ann, 1, 2]``."""
    if not array.dims:
        return [str(array.name)]
    labels = [[str(label) for label in array.indexes[dim]] for dim in array.dims]
    return [
        f"{array.name}[{', '.join(axis[i] for axis, i in zip(labels, index, strict=True))}]"
        for index in np.ndindex(*array.shape)
    ]


def _names(chosen: str | Sequence[str], lacking: int) -> list[str]:
    """Names of a site's rightmost dimensions without the last ``lacking``."""
    names = [chosen] if isinstance(chosen, str) else [str(name) for name in chosen]
    return names[: max(len(names) - lacking, 0)]


def _distinct(name: str, taken: Collection[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FitError(f"{what} must be a mapping, got {type(value).__name__}")
    return dict(value)


def _hook(program: Program, name: str) -> dict[str, Any]:
    """A hook's mapping; an attribute of that name which means something else is left alone."""
    found = program.hook(name)
    if callable(found):
        found = found(*program.source_args, **program.source_kwargs)
    return dict(found) if isinstance(found, Mapping) else {}
