"""E-steps, starts and stops of programs whose data come in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from likely.inference.coordinates import Coordinates
from likely.inference.engines import expectation
from likely.inference.engines.expectation import Expectation, expected_log_density
from likely.inference.inner import Statistics
from likely.inference.monitor import Monitor
from likely.inference.program import Program, Run, Values
from likely.inference.shards import Sharded

Naturals = dict[str, Statistics]


@dataclass(frozen=True, eq=False)
class SpreadExpectation(Expectation):
    """The E-step of `Shards`: what adds over parts, and the way back to the parts.

    Attributes
    ----------
    suffices : bool
        Whether the added statistics are all that an M-step needs. They are not where what they
        multiply differs from part to part (features that are centred on each part's data, a prior
        for each observation), nor where a site has no statistics.
    of_part : callable
        Maps a part to its own E-step, made again: responsibilities of all parts are as many as the
        data, and are not kept.
    """

    suffices: bool = field(kw_only=True)
    of_part: Callable[[Program], Expectation] = field(kw_only=True)


def expect(
    program: Program,
    values: Values,
    tables: frozenset[str],
    *,
    hard: bool = False,
    with_prior: bool = False,
) -> Expectation:
    """The E-step of all data: `likely.inference.engines.expectation.expect`, added over parts.

    Log-likelihoods and counts add, and so do statistics that multiply the same numbers in all
    parts; the priors' share is counted once. For `Shards` it is a `SpreadExpectation`.
    """
    if not isinstance(program, Sharded):
        return expectation.expect(program, values, tables, hard=hard, with_prior=with_prior)

    def of(part: Program, prior: bool) -> Expectation:
        return expectation.expect(part, values, tables, hard=hard, with_prior=prior)

    def own() -> tuple[Expectation, bool]:
        reference = None if program.adds is not None else _natural(program.head)
        adds = program.adds is not False
        total: Expectation | None = None
        # Priors that depend on a table take part in its counts, once over all processes.
        prior = with_prior and program.ranks.rank == 0
        for part, _ in program.parts():
            if reference is not None:
                adds = adds and _same(reference, _natural(part))
            found = of(part, prior)
            prior = False
            if total is None:
                total = replace(found, weights=[])
            else:
                adds = adds and _same(total.natural, found.natural)
                total = _added(total, found, adds)
        if total is not None:
            return total, adds
        # A process without data knows the shapes, and adds nothing but, perhaps, the prior.
        found = of(program.head, False)
        return _nothing(found, of(program.head, True) if prior else found), adds

    found, adds = program.ranks.together(own)
    adds = not program.ranks.any(not adds)
    if program.adds is None:
        adds = adds and _same_over_ranks(program)
    program.adds = adds
    total = _over_ranks(program, found if adds else replace(found, statistics={}))
    inner = {latent.site for latent in program.sites.inner.values()}
    return SpreadExpectation(
        **vars(total),
        suffices=adds and not program.sites.latents and inner >= program.sites.observed.keys(),
        of_part=lambda part: expectation.expect(
            part, values, frozenset(), hard=hard, with_prior=with_prior
        ),
    )


def find_tables(
    program: Program,
    values: Values,
    expected: Expectation | None = None,
    *,
    hard: bool = False,
    with_prior: bool = False,
) -> frozenset[str]:
    """Which simplex sites are tables; the first part tells, which holds the program as any does."""
    if not isinstance(program, Sharded):
        return expectation.find_tables(program, values, expected, hard=hard, with_prior=with_prior)
    head = program.head
    found = program.ranks.together(
        lambda: expectation.find_tables(head, values, hard=hard, with_prior=with_prior)
    )
    return frozenset(program.ranks.gathered(sorted(found))[0])


def expected_of_statistics(run: Run, expected: Expectation, with_prior: bool) -> torch.Tensor:
    """Expected complete-data log-density from added statistics alone, without a pass over data.

    Parameters
    ----------
    run : Run
        A run of the first part at the values to judge, with ``apart``.
    expected : Expectation
        The E-step of all parts, whose statistics suffice.
    with_prior : bool
        Add the priors of the unknowns.
    """
    terms = [site.expected(expected.statistics[site.name]) for site in run.summed]
    if with_prior:
        terms += [f.total() for f in run.direct if f.role == "unknown"]
    return torch.stack(terms).sum() if terms else expected.log_likelihood.new_zeros(())


def expected_of_part(
    part: Program, run: Run, expected: SpreadExpectation, likelihood: bool, prior: bool
) -> torch.Tensor:
    """What one part adds to the expected complete-data log-density, from its data themselves.

    Parameters
    ----------
    part, run : Program, Run
        A part, and a run of it at the values to judge, with ``apart``.
    expected : SpreadExpectation
        The E-step of all parts.
    likelihood, prior : bool
        Whether the part's data count, and the priors of the unknowns.
    """
    if likelihood:
        return expected_log_density(run, expected.of_part(part), prior)
    terms = [f.total() for f in run.direct if f.role == "unknown" and prior]
    return torch.stack(terms).sum() if terms else expected.log_likelihood.new_zeros(())


def start(
    program: Program,
    coordinates: Coordinates,
    init: Mapping[str, Any] | None,
    attempt: int,
    **options: bool,
) -> dict[str, torch.Tensor]:
    """`Coordinates.start`, the same on every rank."""
    if not isinstance(program, Sharded):
        return coordinates.start(init, attempt, **options)
    return program.agreed(lambda: coordinates.start(init, attempt, **options))


def agreed(
    program: Program, work: Callable[[], dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Values of the unknowns, the same to the last bit on every rank."""
    return program.agreed(work) if isinstance(program, Sharded) else work()


def stops(
    program: Program,
    monitor: Monitor,
    objective: float,
    values: Values | Callable[[], dict[str, torch.Tensor]],
) -> bool:
    """`Monitor.step` at constrained values; where the monitor of one rank stops, all of them do."""

    def params() -> dict[str, torch.Tensor]:
        return values() if callable(values) else dict(values)

    if not isinstance(program, Sharded) or program.ranks.size == 1:
        return monitor.step(objective, params)
    stop = program.ranks.together(lambda: monitor.step(objective, params))
    monitor.interrupted = program.ranks.any(stop)
    return monitor.interrupted


def _added(total: Expectation, more: Expectation, adds: bool) -> Expectation:
    return replace(
        total,
        log_likelihood=total.log_likelihood + more.log_likelihood,
        counts={name: total.counts[name] + counts for name, counts in more.counts.items()},
        statistics={
            site: {key: total.statistics[site][key] + s for key, s in found.items()}
            for site, found in more.statistics.items()
        }
        if adds
        else {},
    )


def _nothing(without: Expectation, with_prior: Expectation) -> Expectation:
    """An expectation of no data, from two of the same data: without and with the prior."""
    return replace(
        with_prior,
        log_likelihood=torch.zeros_like(without.log_likelihood),
        counts={n: with_prior.counts[n] - counts for n, counts in without.counts.items()},
        statistics={
            site: {key: torch.zeros_like(s) for key, s in statistics.items()}
            for site, statistics in without.statistics.items()
        },
    )


def _over_ranks(program: Sharded, found: Expectation) -> Expectation:
    """The sum of all ranks' expectations; the prior is rank 0's."""
    names = sorted(found.counts)
    keys = [(site, key) for site, s in found.statistics.items() for key in s]
    total = iter(
        program.ranks.total(
            [
                found.log_likelihood,
                *(found.counts[name] for name in names),
                *(found.statistics[site][key] for site, key in keys),
            ]
        )
    )
    prior = iter(
        program.ranks.first([found.log_prior, *(found.concentrations[name] for name in names)])
    )
    statistics: dict[str, Statistics] = {site: {} for site in found.statistics}
    log_likelihood = next(total)
    counts = {name: next(total) for name in names}
    for site, key in keys:
        statistics[site][key] = next(total)
    return replace(
        found,
        log_likelihood=log_likelihood,
        log_prior=next(prior),
        counts=counts,
        concentrations={name: next(prior) for name in names},
        statistics=statistics,
        weights=[],
    )


def _natural(part: Program) -> dict[str, Statistics]:
    """What the statistics of a part multiply, where the reading run of the first part was."""
    values = {name: unknown.start for name, unknown in part.sites.unknowns.items()}
    with torch.no_grad():
        return {site.name: dict(site.fn.natural) for site in part.run(values, apart=True).summed}


def _same(first: Naturals, other: Naturals) -> bool:
    """Whether statistics of two parts multiply the same numbers."""
    return all(
        natural.keys() == other.get(site, {}).keys()
        and all(torch.equal(value, other[site][key]) for key, value in natural.items())
        for site, natural in first.items()
    )


def _same_over_ranks(program: Sharded) -> bool:
    """Whether statistics of all ranks multiply the same numbers."""
    if program.ranks.size == 1:
        return True
    own = _natural(program.head)
    keys = [(site, key) for site, natural in own.items() for key in natural]
    shapes = program.ranks.gathered([(*key, tuple(own[key[0]][key[1]].shape)) for key in keys])
    if any(other != shapes[0] for other in shapes):
        return False
    reference = program.ranks.first([own[site][key] for site, key in keys])
    different = any(
        not torch.equal(own[site][key], value)
        for (site, key), value in zip(keys, reference, strict=True)
    )
    return not program.ranks.any(different)
