"""Data in parts that are never in memory together, in one process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch

from likely.inference.distributed import ProcessGroup, Ranks
from likely.inference.errors import FitError, ProgramError
from likely.inference.passes import one_pass
from likely.inference.program import Density, Program, Values
from likely.inference.streams import Streamed, has_loader, rows_of

if TYPE_CHECKING:
    from likely.inference.fit import Fit


@dataclass(frozen=True, eq=False)
class Shards:
    """Data in parts, for exact fits of more than the memory or one process holds.

    `EM`, `MLE`, `MAP` and `SVI` take it in the place of the data: ``EM().fit(program,
    Shards(parts))``. Densities, gradients and expected statistics add over independent parts, so
    the result is that of all data at once. Every evaluation goes over all parts, one after the
    other.

    Parameters
    ----------
    parts : iterable or callable
        What can be gone through again and again: a list, an object with ``__iter__``, or a function
        that gives an iterator. A part takes the place of the data among the program's arguments:
        anything the program takes, a tuple or list for several arguments in a row, or a mapping
        for arguments by name. Parts must be independent given the unknowns: all labels of a task
        belong into one of them.
    distributed : bool
        Whether the processes of a ``torch.distributed`` group share the fit. Each gives its own
        parts, or none, and all of them get the same result. Options must be the same everywhere.
    group : ProcessGroup, optional
        Which processes; by default all. Its time-out says how long the others are waited for.

    Raises
    ------
    ProgramError
        If ``parts`` is nothing that can be gone through more than once.

    Examples
    --------
    >>> from likely.inference import MLE
    >>> from likely.models import PoissonModel
    >>> calls = [torch.tensor([3.0, 1.0]), torch.tensor([4.0, 0.0, 2.0])]
    >>> round(float(MLE().fit(PoissonModel(), Shards(calls)).params["rate"]), 6)
    2.0
    """

    parts: Iterable[Any] | Callable[[], Iterable[Any]]
    distributed: bool = False
    group: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.parts, Iterator):
            raise ProgramError(
                f"parts is {type(self.parts).__name__}, which can be gone through only once, and a "
                "fit needs the data many times: give a list, or the function that makes the "
                "iterator"
            )
        single = torch.Tensor | np.ndarray | pd.DataFrame | pd.Series | str | bytes | Mapping
        if isinstance(self.parts, single) or not (
            callable(self.parts) or isinstance(self.parts, Iterable)
        ):
            raise ProgramError(
                "parts must be a list of parts, another iterable of them, or a function that "
                f"gives one, got {type(self.parts).__name__}"
            )

    def __iter__(self) -> Iterator[Any]:
        found = self.parts() if callable(self.parts) else self.parts
        try:
            return iter(found)
        except TypeError as error:
            raise ProgramError(
                f"the function given as parts must give an iterable, got {type(found).__name__}"
            ) from error


def has_shards(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether shards are among a program's arguments."""
    return any(isinstance(value, Shards) for value in (*args, *kwargs.values()))


class Sharded(Streamed):
    """A program whose data are `Shards`; its densities are exact sums over all parts.

    The program is read with the first part. Where several processes share the fit, its methods
    must be called by all of them.

    Parameters
    ----------
    program : callable
        Any Pyro program.
    *args, **kwargs
        Its arguments, one of those by position `Shards`.

    Attributes
    ----------
    head : Program
        The program with the first part; with that of another process where this one has none.
    ranks : Ranks
        The processes that share the fit.

    Raises
    ------
    ProgramError
        If there is not one `Shards`, no part at all, an unknown has a value for each observation,
        or parts disagree about the unknowns' shapes or labels. On every rank, if on one.
    """

    brings: ClassVar[str] = "Shards"
    mend: ClassVar[str] = "; latent_by_part(fit, name) gives latents part by part"

    def _set_up(
        self,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> None:
        places = [i for i, value in enumerate(args) if isinstance(value, Shards)]
        if len(places) != 1 or has_shards((), kwargs) or has_loader(args, kwargs):
            raise ProgramError(
                "Shards can be given once, by position, and without a DataLoader beside them: "
                "their parts take their place among the program's arguments"
            )
        self._around = args[: places[0]], args[places[0] + 1 :], dict(kwargs)
        self.shards: Shards = args[places[0]]
        where = torch.device(device) if device is not None else None
        self.ranks = Ranks()
        if self.shards.distributed:
            self.ranks = ProcessGroup(self.shards.group, where)
        self._n_parts: int | None = None
        self._seed = seed
        # Whether statistics of parts can be added, which the first E-step finds out.
        self.adds: bool | None = None
        self._initial: dict[str, torch.Tensor] | None = None
        first = self._first_part()
        self._unknown_labels: dict[str, list[Any]] = {}

        def read() -> None:
            filled, named = self._filled(first)
            Program._set_up(self, program, filled, named, seed, dtype, device)
            self._check_and_forget(rows_of(first))
            self.head = self.rebind(*filled, **named)
            self._unknown_labels = self._labels(self.head)

        self.ranks.together(read)
        shapes = {name: tuple(u.shape) for name, u in self.sites.unknowns.items()}
        self._require_same(shapes, self._unknown_labels)

    def _first_part(self) -> Any:
        """The first part of this process, or, where it has none, of the first that has one."""
        none = object()
        first = self.ranks.together(lambda: next(iter(self.shards), none))
        held = self.ranks.gathered(first is not none)
        if not any(held):
            raise ProgramError("the Shards have no parts: there are no data to learn from")
        if all(held):
            return first
        # Someone has to know what the data look like without having any.
        sent = self.ranks.sent(None if first is none else first, held.index(True))
        return sent if first is none else first

    def _require_same(self, shapes: dict[str, Any], labels: dict[str, list[Any]]) -> None:
        """Raise on every rank if they disagree about the unknowns."""
        told = self.ranks.gathered((shapes, labels))
        for rank, (other_shapes, other_labels) in enumerate(told):
            if other_shapes != told[0][0]:
                raise ProgramError(
                    f"rank {rank} has unknowns of shapes {other_shapes} and rank 0 {told[0][0]}: "
                    "all must have the same program, and parts with the same groups and ids"
                )
            different = [n for n in told[0][1] if told[0][1][n] != other_labels.get(n)]
            if different:
                raise ProgramError(_other_labels(f"rank {rank}", different, "rank 0"))

    # -- parts ---------------------------------------------------------------------------------

    def parts(self) -> Iterator[tuple[Program, int]]:
        """The program bound to each part that this process holds, with the part's rows.

        The first pass checks the parts.
        """
        count = 0
        for part in self.shards:
            args, kwargs = self._filled(part)
            bound = self.rebind(*args, **kwargs)
            if self._n_parts is None:
                self._vet(bound, count)
            yield bound, rows_of(part) or 0
            count += 1
        if self._n_parts is None:
            self._n_parts = count
        elif count != self._n_parts:
            raise ProgramError(
                f"the Shards had {self._n_parts} part(s) in the first pass and {count} in a later "
                "one: a function given as parts must make a new iterator every time"
            )

    def shares(self) -> Iterator[tuple[Program, bool, bool]]:
        """The parts of this process, and whether to count their likelihood and their prior.

        The prior is counted once over all processes, on rank 0.
        """
        own = self.ranks.rank == 0
        for part, _ in self.parts():
            yield part, True, own
            own = False
        if own:
            yield self.head, False, True

    def _vet(self, part: Program, number: int) -> None:
        """Read a part as the first one was read: what it observes, and for whom."""
        with part.session(self._seed, validate=True):
            nodes = part._draw()
        for name, unknown in self.sites.unknowns.items():
            node = nodes.get(name)
            shape = None if node is None else tuple(node["value"].shape)
            if shape != tuple(unknown.shape):
                raise ProgramError(
                    f"site '{name}' has shape {tuple(unknown.shape)} with the first part and "
                    f"{shape} with part {number}: all parts need the same groups and ids, those "
                    "without data included"
                )
        observed = {n for n, v in nodes.items() if v["type"] == "sample" and v["is_observed"]}
        missing = [name for name in self.sites.observed if name not in observed]
        if missing:
            raise ProgramError(f"part {number} brings no data for site '{missing[0]}'")
        labels = self._labels(part)
        different = [n for n, own in self._unknown_labels.items() if labels.get(n) != own]
        if different:
            raise ProgramError(_other_labels(f"part {number}", different, "the first part"))

    def _labels(self, part: Program) -> dict[str, list[Any]]:
        """The user's labels of the dimensions that unknowns have, by dimension."""
        coords, dims = part.hook("coords"), part.hook("dims")
        if coords is None:
            return {}
        found = coords(*part.args, **part.kwargs) if callable(coords) else coords
        wanted: set[str] = set()
        for name, unknown in self.sites.unknowns.items():
            wanted |= {plate for plate in unknown.dims if plate is not None}
            wanted |= set(dims.get(name, ())) if isinstance(dims, Mapping) else set()
        return {name: list(found[name]) for name in sorted(wanted) if name in found}

    # -- what is added over parts --------------------------------------------------------------

    def density(
        self,
        values: Values,
        *,
        unconstrained: bool = False,
        indices: Values | None = None,
        priors: bool = True,
    ) -> Density:
        """Log-densities of all parts; differentiable once, and no part's graph is kept."""
        # A guide draws more than the unknowns.
        own = {name: values[name] for name in self.sites.unknowns if name in values}
        return Density(*one_pass(self, own, unconstrained).unbind())

    def initial(self) -> dict[str, torch.Tensor]:
        """Start values of a program whose ``initial`` hook adds over data; else none.

        Such a program has ``initial_statistics(*args)``, tensors that add, and
        ``initial_from(statistics)``, which makes the start of their sum.
        """
        statistics, make = self.hook("initial_statistics"), self.hook("initial_from")
        if not (callable(statistics) and callable(make)):
            return {}
        if self._initial is None:
            total = self.added(
                lambda part: statistics(*part.args, **part.kwargs),
                lambda: statistics(*self.head.args, **self.head.kwargs),
            )
            self._initial = dict(make(total))
        return self._initial

    def added(
        self,
        of: Callable[[Program], Mapping[str, torch.Tensor]],
        like: Callable[[], Mapping[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """Sum of tensors over all parts of all processes; ``like`` gives their shapes."""

        def own() -> dict[str, torch.Tensor]:
            total: dict[str, torch.Tensor] = {}
            for part, _ in self.parts():
                found = of(part)
                total = {n: total[n] + v if n in total else v for n, v in found.items()}
            return total or {n: torch.zeros_like(v) for n, v in like().items()}

        total = self.ranks.together(own)
        return dict(zip(total, self.ranks.total(list(total.values())), strict=True))

    def agreed(self, work: Callable[[], Values]) -> dict[str, torch.Tensor]:
        """Values of the unknowns that rank 0 finds, on every rank."""
        unknowns = self.sites.unknowns
        others = {name: torch.zeros_like(u.start) for name, u in unknowns.items()}
        found = self.ranks.together(lambda: work() if self.ranks.rank == 0 else others)
        values = self.ranks.first([found[name] for name in unknowns])
        return dict(zip(unknowns, values, strict=True))

    def require_all_here(self) -> None:
        """Raise a `FitError` if other processes hold a part of the data."""
        if self.ranks.size > 1:
            raise FitError(
                f"this needs all data, and this fit's are spread over {self.ranks.size} processes; "
                "params and log-likelihood are those of all of them"
            )


def latent_by_part(fit: Fit, name: str, draws: int = 1000) -> Iterator[tuple[Any, torch.Tensor]]:
    """Posterior probabilities of a discrete site, one part of the data after the other.

    Parameters
    ----------
    fit : Fit
        A fit of `Shards`.
    name : str
        The discrete site.
    draws : int
        Most posterior draws that are averaged.

    Yields
    ------
    part : object
        A part of the data; of those that this process holds.
    probabilities : Tensor, [*plates, K]
        As `Fit.latent` gives them.

    Raises
    ------
    FitError
        If the fit did not learn from `Shards`, or ``draws`` is not a positive integer.
    ProgramError
        If the program has no such latent.
    """
    from likely.inference.quantities import check_latent, latent_posterior

    program = fit.bound("latent_by_part()")
    if not isinstance(program, Sharded):
        raise FitError("latent_by_part() is for fits of Shards; use fit.latent()")
    check_latent(program, name)
    if not isinstance(draws, int | np.integer) or isinstance(draws, bool) or draws < 1:
        raise FitError(f"draws must be a positive integer, got {draws!r}")
    values = fit.each_draw(draws)
    for part in program.shards:
        args, kwargs = program._filled(part)
        # Read anew: a part has plates of its own size.
        reading = Program.of(
            program.source, args, kwargs, seed=fit.seed, dtype=program.dtype, device=program.device
        )
        with reading.session(fit.seed), torch.no_grad():
            total = sum(latent_posterior(reading, value, name) for value in values)
        yield part, torch.as_tensor(total) / len(values)


def _other_labels(who: str, names: list[str], reference: str) -> str:
    listed = ", ".join(map(repr, names))
    return (
        f"{who} has other labels of {listed} than {reference}: give all parts the same ids in the "
        "same order, those without data included"
    )
