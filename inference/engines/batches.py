"""Mini-batches through the plates of a program."""

from __future__ import annotations

import torch

from likely.inference.errors import OptionError, ProgramError
from likely.inference.program import Program


class Batches:
    """Index sets of one subsampled plate, epoch by epoch without replacement.

    Parameters
    ----------
    program : Program
        Its observed sites must share one plate, which is subsampled.
    size : int
        Observations in a batch.

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
        self._size, self._device = size, program.device
        self._order = torch.empty(0, dtype=torch.long)
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
        if len(self._order) < self._size:
            # The rest of an epoch joins the next one, so that batches keep their size.
            fresh = torch.randperm(self._total)
            fresh = fresh[~torch.isin(fresh, self._order)]
            self._order = torch.cat([self._order, fresh])
        batch, self._order = self._order[: self._size], self._order[self._size :]
        return {self.plate: batch.to(self._device) if self._device is not None else batch}
