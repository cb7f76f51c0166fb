"""Mini-batches: through the plates of a program, or from a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch

from likely.inference.errors import OptionError, ProgramError
from likely.inference.program import Density, Program, Values
from likely.inference.streams import Streamed

# Rows that one step of a pass over all data takes at least.
_WHOLE = 1024


@dataclass(frozen=True)
class Batch:
    """Some of the observations.

    Attributes
    ----------
    density : callable
        Maps unconstrained values by site to log-densities; the likelihood is scaled up to all
        observations.
    fraction : float
        Share of all observations.
    """

    density: Callable[[Values], Density]
    fraction: float


class Source(Protocol):
    """Where mini-batches come from."""

    def batch(self) -> Batch:
        """The next batch."""
        ...

    def whole(self) -> Iterator[Batch]:
        """All observations once, batch by batch; the fractions add to one."""
        ...


class Batches:
    """Index sets of one subsampled plate, epoch by epoch without replacement.

    Parameters
    ----------
    program : Program
        Its observed sites must share one plate, which is subsampled.
    size : int
        Observations in a batch.

    Attributes
    ----------
    order : Tensor
        Indices of the epoch that are still to come.

    Raises
    ------
    ProgramError
        If the observed sites share no plate, or the program does not index its data with the
        plate's indices.
    OptionError
        If the batch is larger than the plate.
    """

    def __init__(self, program: Program, size: int) -> None:
        shared: set[str] | None = None
        for site in program.sites.observed.values():
            names = {name for name in site.dims if name is not None}
            shared = names if shared is None else shared & names
        if not shared:
            raise ProgramError(
                "batch_size needs one pyro.plate around all observed sites "
                f"({', '.join(map(repr, program.sites.observed))}), and they share none"
            )
        plates = program.sites.plates
        self.plate = max(shared, key=lambda name: plates[name].size)
        self._total = plates[self.plate].size
        if size > self._total:
            raise OptionError(
                f"batch_size must be at most the {self._total} members of plate '{self.plate}', "
                f"got {size}"
            )
        self._program, self._size, self._device = program, size, program.device
        self.order = torch.empty(0, dtype=torch.long)
        self._try(program)

    def _try(self, program: Program) -> None:
        # A batch of one would broadcast against data that the program does not index.
        probe = torch.arange(min(max(self._size, 2), self._total), device=self._device)
        try:
            program.run(
                {n: u.start for n, u in program.sites.unknowns.items()},
                indices={self.plate: probe},
            )
        except ProgramError as error:
            raise ProgramError(
                f"plate '{self.plate}' cannot be subsampled: {error} Write `with "
                f"pyro.plate('{self.plate}', n) as index:` and index the data with `index`."
            ) from error

    def draw(self) -> dict[str, torch.Tensor]:
        """Indices of the next batch, by plate."""
        if len(self.order) < self._size:
            # The rest of an epoch joins the next one, so that batches keep their size.
            fresh = torch.randperm(self._total)
            fresh = fresh[~torch.isin(fresh, self.order)]
            self.order = torch.cat([self.order, fresh])
        batch, self.order = self.order[: self._size], self.order[self._size :]
        return {self.plate: batch.to(self._device) if self._device is not None else batch}

    def batch(self) -> Batch:
        """The next batch, as densities."""
        return self._of(self.draw())

    def whole(self) -> Iterator[Batch]:
        """All observations once, in larger batches: they need not be noisy."""
        rows = torch.arange(self._total, device=self._device)
        for part in rows.split(max(self._size, _WHOLE)):
            yield self._of({self.plate: part})

    def _of(self, indices: dict[str, torch.Tensor]) -> Batch:
        density = partial(self._program.density, unconstrained=True, indices=indices)
        return Batch(density, len(indices[self.plate]) / self._total)


class Stream:
    """Batches of a program that a loader feeds, epoch after epoch.

    Parameters
    ----------
    program : Streamed
    """

    def __init__(self, program: Streamed) -> None:
        self._program = program
        program.restart()

    def batch(self) -> Batch:
        """The next batch of the loader."""
        return self._of(*self._program.draw())

    def whole(self) -> Iterator[Batch]:
        """One pass over the loader."""
        for part, rows in self._program.parts():
            yield self._of(part, rows)

    def _of(self, part: Program, rows: int) -> Batch:
        fraction = rows / self._program.rows

        def density(values: Values) -> Density:
            own = part.density(values, unconstrained=True)
            return replace(own, log_likelihood=own.log_likelihood / fraction)

        return Batch(density, fraction)
