"""Data that come in batches from a loader and are never in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch.utils.data import BatchSampler, DataLoader

from likely.inference.errors import FitError, ProgramError
from likely.inference.handlers import isolated
from likely.inference.program import Density, Program, Run, Values


def has_loader(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a data loader is among a program's arguments."""
    return any(isinstance(value, DataLoader) for value in (*args, *kwargs.values()))


def parts_of(program: Program) -> Iterator[Program]:
    """A program bound to one part of its data after the other: to all of them but for a stream."""
    if isinstance(program, Streamed):
        program.require_all_here()
        yield from (part for part, _ in program.parts())
    else:
        yield program


class Streamed(Program):
    """A program whose observations a ``torch.utils.data.DataLoader`` brings batch by batch.

    The program is read with the first batch. Its densities are those of one pass over the loader;
    whatever needs the observations themselves afterwards has to be given them.

    Parameters
    ----------
    program : callable
        Any Pyro program. What a batch holds takes the loader's place among its arguments: a
        tensor, a tuple or list of tensors, or a mapping, whose items become keyword arguments.
    *args, **kwargs
        Its arguments, one of those by position a loader.

    Raises
    ------
    ProgramError
        If there is more than one loader, it is given by keyword or brings nothing, or an unknown
        has a value for each observation.
    """

    brings: ClassVar[str] = "a DataLoader"
    mend: ClassVar[str] = ""

    def _set_up(
        self,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> None:
        places = [i for i, value in enumerate(args) if isinstance(value, DataLoader)]
        if len(places) != 1 or has_loader((), kwargs):
            raise ProgramError(
                "one DataLoader can be given, by position: its batches take its place among the "
                f"program's arguments; got {len(places)} by position"
            )
        self._around = args[: places[0]], args[places[0] + 1 :], dict(kwargs)
        self.loader: DataLoader[Any] = args[places[0]]
        self._iterator: Iterator[Any] | None = None
        where = torch.device(device) if device is not None else None
        with isolated(seed, dtype, where):
            first = next(iter(self.loader), None)
            if first is None:
                raise ProgramError("the DataLoader brings no batch")
            self.rows = self._count()
        rows = len(_first_tensor(first))
        filled, named = self._filled(first)
        super()._set_up(program, filled, named, seed, dtype, device)
        self._check_and_forget(rows)
        self.head = self.rebind(*filled, **named)

    def _check_and_forget(self, rows: int | None) -> None:
        """Refuse what belongs to single observations, and let go of the first batch's.

        Where the number of ``rows`` is not known, all plates around data count as theirs.
        """
        plates = {
            name
            for site in self.sites.observed.values()
            for name in site.dims
            if name is not None and rows in (None, self.sites.plates[name].size)
        }
        for name, unknown in self.sites.unknowns.items():
            if plates & set(unknown.dims):
                raise ProgramError(
                    f"site '{name}' has a value for each observation, and {self.brings} brings "
                    "others with every batch; give all data at once, or sum the site out"
                )
        for name, latent in self.sites.latents.items():
            if None not in latent.dims and not plates & set(latent.dims):
                raise ProgramError(
                    f"latent '{name}' is shared by observations of different batches of "
                    f"{self.brings}, and batches must be independent; give all data at once"
                )
        for name, site in self.sites.observed.items():
            self.sites.observed[name] = replace(site, value=None)
        for name, site in list(self.sites.deterministic.items()):
            if plates & set(site.dims):
                del self.sites.deterministic[name]

    def _count(self) -> int:
        """Observations in one pass."""
        batches = self.loader.batch_sampler
        if type(batches) is BatchSampler and isinstance(batches.sampler, Sized):
            count = len(batches.sampler)
            return count - (count % batches.batch_size if batches.drop_last else 0)
        return sum(len(_first_tensor(batch)) for batch in self.loader)

    def _filled(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with a batch in the loader's place."""
        before, after, named = self._around
        if isinstance(batch, Mapping):
            return (*before, *after), {**named, **batch}
        items = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
        return (*before, *items, *after), named

    def _bound(self, batch: Any) -> tuple[Program, int]:
        args, kwargs = self._filled(batch)
        return self.rebind(*args, **kwargs), len(_first_tensor(batch))

    def parts(self) -> Iterator[tuple[Program, int]]:
        """The program bound to each batch of one pass, with the batch's rows."""
        for batch in self.loader:
            yield self._bound(batch)

    def draw(self) -> tuple[Program, int]:
        """The program bound to the next batch, epoch after epoch, with the batch's rows."""
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self.loader)
            try:
                return self._bound(next(self._iterator))
            except StopIteration:
                self._iterator = None
        raise ProgramError("the DataLoader brings no batch in a later epoch")

    def restart(self) -> None:
        """Begin a new epoch with the next batch."""
        self._iterator = None

    def density(
        self,
        values: Values,
        *,
        unconstrained: bool = False,
        indices: Values | None = None,
        priors: bool = True,
    ) -> Density:
        """Log-densities of one pass over the loader."""
        likelihood, last = self.zero, None
        for part, _ in self.parts():
            last = part.density(values, unconstrained=unconstrained, indices=indices, priors=priors)
            likelihood = likelihood + last.log_likelihood
        if last is None:
            raise ProgramError("the DataLoader brings no batch in a later epoch")
        return replace(last, log_likelihood=likelihood)

    def run(self, *args: Any, **kwargs: Any) -> Run:
        """Refused: there is no one run over data that come in batches."""
        if "head" not in self.__dict__:
            # Still being read, with the first batch.
            return super().run(*args, **kwargs)
        raise FitError(
            f"a fit from {self.brings} keeps no observations, and this needs them: fit all data at "
            "once, or give new data to fit.predict" + self.mend
        )

    def require_all_here(self) -> None:
        """Raise a `FitError` if other processes hold a part of the data."""


def rows_of(batch: Any) -> int | None:
    """Observations in a batch: the length of its first tensor, if it has one."""
    items = list(batch.values()) if isinstance(batch, Mapping) else batch
    items = items if isinstance(items, list | tuple) else [items]
    sized = (torch.Tensor, np.ndarray, pd.DataFrame, pd.Series)
    return next((len(item) for item in items if isinstance(item, sized) and item.ndim), None)


def _first_tensor(batch: Any) -> torch.Tensor:
    """The first tensor in a batch, whose length is the number of its observations."""
    items = list(batch.values()) if isinstance(batch, Mapping) else batch
    items = items if isinstance(items, list | tuple) else [items]
    found = next((item for item in items if isinstance(item, torch.Tensor) and item.dim()), None)
    if found is None:
        raise ProgramError(
            "a batch of the DataLoader must be a tensor, a tuple or list of tensors, or a mapping "
            f"of names to tensors, got {type(batch).__name__}"
        )
    return found
