"""E-steps, starts and stops of programs whose data come in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from likely.inference.coordinates import Coordinates
from likely.inference.engines import expectation
from likely.inference.engines.expectation import Expectation
from likely.inference.errors import ProgramError
from likely.inference.inner import Statistics
from likely.inference.monitor import Monitor
from likely.inference.program import Program, Run, Values
from likely.inference.shards import Sharded

Naturals = dict[str, Statistics]

_USE_MLE = "; use MLE or MAP, whose gradients add over any parts"


def expect(
    program: Program,
    values: Values,
    tables: frozenset[str],
    *,
    hard: bool = False,
    with_prior: bool = False,
) -> Expectation:
    """The E-step of all data: `likely.inference.engines.expectation.expect`, added over parts.

    Log-likelihoods, counts and statistics add; the priors' share is counted once. What belongs to
    single observations (responsibilities, weights) is not kept.

    Raises
    ------
    ProgramError
        If the statistics of parts cannot be added: what they multiply differs from part to part,
        as features do that are centred on each part's data.
    """
    if not isinstance(program, Sharded):
        return expectation.expect(program, values, tables, hard=hard, with_prior=with_prior)

    def of(part: Program, prior: bool) -> Expectation:
        return expectation.expect(part, values, tables, hard=hard, with_prior=prior)

    def own() -> Expectation:
        reference = None if program.compared else _natural(program.head)
        total: Expectation | None = None
        # Priors that depend on a table take part in its counts, once over all processes.
        prior = with_prior and program.ranks.rank == 0
        for number, (part, _) in enumerate(program.parts()):
            if reference is not None:
                _require_same(reference, _natural(part), f"part {number}")
            found = of(part, prior)
            prior = False
            total = found if total is None else _added(total, found, f"part {number}")
        if total is not None:
            return total
        # A process without data knows the shapes, and adds nothing but, perhaps, the prior.
        found = of(program.head, False)
        return _nothing(found, of(program.head, True) if prior else found)

    found = program.ranks.together(own)
    if not program.compared:
        _require_same_over_ranks(program)
        program.compared = True
    return _over_ranks(program, found)


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


def expected_of_parts(run: Run, expected: Expectation, with_prior: bool) -> torch.Tensor:
    """Expected complete-data log-density from added statistics alone, without a pass over data.

    Parameters
    ----------
    run : Run
        A run of the first part at the values to judge, with ``apart``.
    expected : Expectation
        The E-step of all parts.
    with_prior : bool
        Add the priors of the unknowns.

    Raises
    ------
    ProgramError
        If an observed site would have to be looked at again, part by part.
    """
    for factor in run.direct + run.enumerated:
        if factor.role != "unknown" and factor.log_prob.requires_grad:
            raise ProgramError(
                f"site '{factor.name}' needs a numerical M-step that goes over the data, which EM "
                "does not do for Shards: sum its latent out inside a distribution, write an m_step "
                "of statistics" + _USE_MLE
            )
    terms = [site.expected(expected.statistics[site.name]) for site in run.summed]
    if with_prior:
        terms += [f.total() for f in run.direct + run.enumerated if f.role == "unknown"]
    return torch.stack(terms).sum() if terms else expected.log_likelihood.new_zeros(())


def require_statistics(program: Program) -> None:
    """Raise a `ProgramError` if an ``m_step`` hook wants responsibilities of `Shards`."""
    if isinstance(program, Sharded) and program.sites.latents:
        raise ProgramError(
            "the program has an m_step, which reads the responsibilities of "
            f"{', '.join(map(repr, program.sites.latents))}; those of Shards are not kept"
            + _USE_MLE
        )


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


def stops(program: Program, monitor: Monitor, objective: float, values: Values) -> bool:
    """`Monitor.step` at constrained values; where the monitor of one rank stops, all of them do."""

    def params() -> dict[str, torch.Tensor]:
        return dict(values)

    if not isinstance(program, Sharded) or program.ranks.size == 1:
        return monitor.step(objective, params)
    stop = program.ranks.together(lambda: monitor.step(objective, params))
    monitor.interrupted = program.ranks.any(stop)
    return monitor.interrupted


def _added(total: Expectation, more: Expectation, who: str) -> Expectation:
    _require_same(total.natural, more.natural, who)
    return replace(
        total,
        log_likelihood=total.log_likelihood + more.log_likelihood,
        counts={name: total.counts[name] + counts for name, counts in more.counts.items()},
        statistics={
            site: {key: total.statistics[site][key] + s for key, s in found.items()}
            for site, found in more.statistics.items()
        },
    )


def _nothing(without: Expectation, with_prior: Expectation) -> Expectation:
    """An expectation of no data, from two of the same data: without and with the prior."""
    return replace(
        without,
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


def _require_same(first: Naturals, other: Naturals, who: str) -> None:
    """Raise a `ProgramError` unless statistics of two parts multiply the same numbers."""
    for site, natural in first.items():
        same = natural.keys() == other.get(site, {}).keys() and all(
            torch.equal(value, other[site][key]) for key, value in natural.items()
        )
        if not same:
            raise ProgramError(_not_added(site, who, "the first part"))


def _require_same_over_ranks(program: Sharded) -> None:
    if program.ranks.size == 1:
        return
    own = _natural(program.head)
    keys = [(site, key) for site, natural in own.items() for key in natural]
    shapes = [(key, tuple(own[key[0]][key[1]].shape)) for key in keys]
    told = program.ranks.gathered(shapes)
    for rank, other in enumerate(told):
        if other != told[0]:
            site = (other or told[0])[0][0][0]
            raise ProgramError(_not_added(site, f"rank {rank}", "rank 0"))
    reference = program.ranks.first([own[site][key] for site, key in keys])
    different = [
        site
        for (site, key), value in zip(keys, reference, strict=True)
        if not torch.equal(own[site][key], value)
    ]
    for rank, sites in enumerate(program.ranks.gathered(different)):
        if sites:
            raise ProgramError(_not_added(sites[0], f"rank {rank}", "rank 0"))


def _not_added(site: str, who: str, reference: str) -> str:
    return (
        f"the expected statistics of site '{site}' cannot be added over parts: what they multiply "
        f"is another in {who} than in {reference}, because it depends on the data (features that "
        "are centred on them, a prior for each observation)" + _USE_MLE
    )
