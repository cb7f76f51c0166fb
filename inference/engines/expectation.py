"""The E-step: expected statistics of any program with latents.

Everything an M-step needs is in `Expectation`; its statistics add over shards of data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions import Dirichlet

from likely.inference.coordinates import Coordinates
from likely.inference.engines.boundary import is_simplex
from likely.inference.errors import ProgramError
from likely.inference.factors import apply_scale, as_packed, dims_of, marginals
from likely.inference.handlers import base_distribution
from likely.inference.inner import Statistics
from likely.inference.program import Program, Run, Values
from likely.inference.quantities import responsibilities
from likely.inference.tables import Table

# How far from a start, in unconstrained coordinates, a table is tested.
_OFF = 0.1


@dataclass(frozen=True, eq=False)
class Expectation:
    """What one E-step found at given values of the unknowns.

    Attributes
    ----------
    log_likelihood : Tensor
        log p(data | θ), scalar; with hard assignments max_z log p(data, z | θ).
    log_prior : Tensor
        log p(θ), scalar; zero where priors do not count.
    counts : dict of str to Tensor
        Expected counts of each probability table, shaped like the table. Signed where the site is
        not used as a table (see `find_tables`).
    weights : list of Tensor
        Posterior probability of what each enumerated factor depends on, packed.
    statistics : dict of str to dict
        Expected sufficient statistics by observed site, where its distribution sums a latent out.
    responsibilities : callable
        ``responsibilities(name)`` gives a latent's probabilities [*plates, K].
    concentrations : dict of str to Tensor
        Dirichlet concentration of each table's prior at these values.
    natural : dict of str to dict
        What the statistics multiply, at these values.
    """

    log_likelihood: torch.Tensor
    log_prior: torch.Tensor
    counts: dict[str, torch.Tensor]
    weights: list[torch.Tensor]
    statistics: dict[str, Statistics]
    responsibilities: Callable[[str], torch.Tensor]
    concentrations: dict[str, torch.Tensor]
    natural: dict[str, Statistics] = field(default_factory=dict)

    def objective(self, with_prior: bool) -> float:
        """Log-likelihood, plus the log-prior on request."""
        total = self.log_likelihood + self.log_prior if with_prior else self.log_likelihood
        return float(total)


def expect(
    program: Program,
    values: Values,
    tables: frozenset[str],
    *,
    hard: bool = False,
    with_prior: bool = False,
    unnormalised: bool = False,
) -> Expectation:
    """E-step by Fisher's identity on the enumerated density.

    The posterior probability of every factor's latents is the derivative of the log-evidence by the
    factor; with these held fixed, ``π ⊙ ∂Q/∂π`` is the table of expected counts of a probability
    table π (Dempster, Laird & Rubin 1977; Salakhutdinov, Roweis & Ghahramani 2003).

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Constrained values of the unknowns.
    tables : frozenset of str
        Sites to count for.
    hard : bool
        Put all probability on the jointly most probable latents (classification EM).
    with_prior : bool
        Let the priors of sites that depend on a table take part in its counts.
    unnormalised : bool
        Take the rows of tables as they are, though they may not sum to one.
    """
    leaves = {name: values[name].detach().clone().requires_grad_(True) for name in tables}
    with torch.enable_grad():
        wrapped = {name: leaf.as_subclass(Table) for name, leaf in leaves.items()}
        for own in wrapped.values():
            own._declared = unnormalised
        run = program.run({**values, **wrapped}, apart=True, priors=with_prior)
        if not with_prior and any(f.role == "unknown" for f in run.enumerated):
            names = [f.name for f in run.enumerated if f.role == "unknown"]
            raise ProgramError(
                f"the prior of site '{names[0]}' depends on a discrete latent, so its likelihood "
                "alone has no E-step; use EM(objective='posterior'), MLE or MAP"
            )
        components, weights = marginals(run.enumerated, run.sum_dims, hard)
        inner = {site.name: site.expectation(hard) for site in run.summed}
        statistics = {name: found for name, (_, found) in inner.items()}
        grads = _gradient_of_expected(run, weights, statistics, leaves, with_prior)
    counts = {}
    for name, leaf in leaves.items():
        table, grad = leaf.detach(), grads.get(name)
        if grad is None:
            grad = torch.zeros_like(table)
        # A cell of probability zero has no count, whatever its (infinite) slope.
        counts[name] = torch.where(table > 0, table * grad, torch.zeros_like(table))
    direct = [f for f in run.direct if f.role == "observed"]
    likelihood = [c.total() for c in components] + [f.total().detach() for f in direct]
    likelihood += [total for total, _ in inner.values()]
    prior = [f.total().detach() for f in run.direct if f.role == "unknown"]
    return Expectation(
        log_likelihood=sum(likelihood, program.zero),
        log_prior=sum(prior, program.zero),
        counts=counts,
        weights=weights,
        statistics=statistics,
        responsibilities=lambda name: responsibilities(program, run, weights, name).detach(),
        concentrations={name: _concentration(run, name, leaves[name]) for name in tables},
        natural={
            site.name: {k: v.detach() for k, v in site.fn.natural.items()} for site in run.summed
        },
    )


def _gradient_of_expected(
    run: Run,
    weights: list[torch.Tensor],
    statistics: Mapping[str, Statistics],
    leaves: Mapping[str, torch.Tensor],
    with_prior: bool,
) -> Mapping[str, torch.Tensor | None]:
    """Derivative of `expected_log_density` by the tables, without forming it."""
    outputs, cotangents = [], []
    for factor in run.direct:
        own_prior = factor.role == "unknown" and (not with_prior or factor.name in leaves)
        if not own_prior and factor.log_prob.requires_grad:
            outputs.append(factor.log_prob)
            cotangents.append((torch.ones_like(factor.log_prob) * factor.scale).detach())
    for factor, weight in zip(run.enumerated, weights, strict=True):
        if factor.log_prob.requires_grad:
            outputs.append(factor.log_prob)
            scaled = apply_scale(weight, factor.scale)
            if dims_of(scaled) != dims_of(weight):
                order = [dims_of(scaled).index(dim) for dim in dims_of(weight)]
                scaled = scaled.permute(order)
            cotangents.append(scaled)
    for site in run.summed:
        natural, counts = site.gradient_terms(statistics[site.name])
        outputs += natural
        cotangents += counts
    if not leaves or not outputs:
        return {}
    total = _Weighted.apply(cotangents, *outputs)
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


class _Weighted(torch.autograd.Function):
    """A scalar whose derivative by each tensor is the cotangent given with it.

    What ``grad_outputs`` of `torch.autograd.grad` does, without sympy, which torch imports for
    these: a quarter of a second and forty megabytes. The sum itself, perhaps 0 · ∞, is not formed.
    """

    @staticmethod
    def forward(ctx: Any, cotangents: list[torch.Tensor], *outputs: torch.Tensor) -> torch.Tensor:
        ctx.cotangents = cotangents
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *ctx.cotangents


def expected_log_density(
    run: Run,
    expected: Expectation,
    with_prior: bool,
    without: frozenset[str] = frozenset(),
) -> torch.Tensor:
    """Expected complete-data log-density of a run, responsibilities held fixed.

    Parameters
    ----------
    run : Run
        A run at the values to judge, with ``apart``.
    expected : Expectation
        An E-step.
    with_prior : bool
        Add the priors of the unknowns.
    without : frozenset of str
        Unknowns whose own prior is left out.
    """
    terms = [f.total() for f in run.direct if f.role == "observed"]
    terms += [site.expected(expected.statistics[site.name]) for site in run.summed]
    for factor, weight in zip(run.enumerated, expected.weights, strict=True):
        # An impossible value (log 0) that has no weight adds nothing: 0 · log 0 = 0.
        zero = factor.log_prob.new_zeros(())
        product = torch.where(weight > 0, weight * factor.log_prob, zero)
        product = as_packed(product, dims_of(factor.log_prob))
        terms.append(apply_scale(product, factor.scale).sum())
    if with_prior:
        terms += [f.total() for f in run.direct if f.role == "unknown" and f.name not in without]
    return torch.stack(terms).sum()


def _concentration(run: Run, name: str, table: torch.Tensor) -> torch.Tensor:
    fn = base_distribution(run.priors.get(name))
    if isinstance(fn, Dirichlet):
        return fn.concentration.detach().expand(table.shape)
    return torch.ones_like(table.detach())


def candidate_tables(program: Program, with_prior: bool) -> frozenset[str]:
    """Sites on a simplex whose M-step may be a normalisation of counts.

    For the posterior objective the prior must be a Dirichlet, the conjugate one.
    """
    return frozenset(
        name
        for name, unknown in program.sites.unknowns.items()
        if is_simplex(unknown.support)
        and not unknown.is_param
        and (not with_prior or isinstance(base_distribution(unknown.prior), Dirichlet))
    )


def normalise(
    counts: torch.Tensor, table: torch.Tensor, pseudo: torch.Tensor | None
) -> torch.Tensor:
    """Rows of counts [..., K], plus α − 1, as probabilities; a row without counts stays."""
    total = counts if pseudo is None else counts + (pseudo - 1.0)
    total = total.clamp_min(0.0)
    mass = total.sum(-1, keepdim=True)
    # Subnormal totals divide into rows that do not sum to one.
    limits = torch.finfo(total.dtype)
    counted = mass > limits.tiny / limits.eps
    return torch.where(counted, total / torch.where(counted, mass, 1.0), table)


def find_tables(
    program: Program,
    values: Values,
    expected: Expectation | None = None,
    *,
    hard: bool = False,
    with_prior: bool = False,
) -> frozenset[str]:
    """Which simplex sites really are tables of category probabilities.

    A table enters the expected complete-data log-density only as Σ n log π, whatever the values of
    the other unknowns. That is tested: counts are not negative, and with all the others elsewhere,
    moving a table changes the density by Σ n Δlog π exactly. A site that fails (a simplex used as
    mixing proportions in a mean, say) gets a numerical M-step.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Constrained values of the unknowns.
    expected : Expectation, optional
        The E-step there for the `candidate_tables`, if it was made.
    hard, with_prior : bool
        As in `expect`.
    """
    candidates = candidate_tables(program, with_prior)
    if not candidates:
        return candidates
    found = expected
    if found is None:
        found = expect(program, values, candidates, hard=hard, with_prior=with_prior)
    elsewhere = _elsewhere(program, values, found.counts)
    base = _expected_at(program, elsewhere, found, with_prior, candidates)
    if not bool(torch.isfinite(base)):
        elsewhere = {**values, **{name: elsewhere[name] for name in candidates}}
        base = _expected_at(program, elsewhere, found, with_prior, candidates)
    # Sums in single precision are not exact to seven digits.
    close = max(1e-7, 16 * torch.finfo(program.dtype).eps)
    tables = set()
    for name in candidates:
        counts, table, moved = found.counts[name], values[name], elsewhere[name]
        if bool((counts < -1e-9 * counts.abs().max().clamp_min(1.0)).any()):
            continue
        change = torch.where(counts > 0, counts * (table.log() - moved.log()), 0.0).sum()
        there = _expected_at(program, {**elsewhere, name: table}, found, with_prior, candidates)
        error = abs(float(there - base - change))
        if error <= close * max(1.0, abs(float(base)), float(counts.sum())):
            tables.add(name)
    return frozenset(tables)


def _elsewhere(program: Program, values: Values, counts: Values) -> dict[str, torch.Tensor]:
    """Values with every unknown a little off, and candidate tables on their way to new ones.

    A start may be a special point: a table in a sum with a deviation of zero looks like one that
    is used alone. The noise is always the same, and leaves the session's random state alone.
    """
    source = torch.Generator().manual_seed(0)
    coordinates = Coordinates(program)

    def noise(like: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(like.shape, generator=source, dtype=torch.float64)
        return drawn.to(dtype=like.dtype, device=like.device)

    found = dict(values)
    if values.keys() != counts.keys():
        flat = coordinates.unconstrain(values)
        found |= coordinates.constrain(flat + _OFF * noise(flat))
    for name, own in counts.items():
        # Cells of zero stay, and half of the others, so that none falls to zero in the test.
        table = values[name]
        drawn = torch.where(table > 0, noise(table).exp(), 0.0)
        rest = normalise(own, table, None) + drawn / drawn.sum(-1, keepdim=True)
        found[name] = 0.5 * table + 0.25 * rest
    return found


def _expected_at(
    program: Program,
    values: Values,
    expected: Expectation,
    with_prior: bool,
    without: frozenset[str],
) -> torch.Tensor:
    with torch.no_grad():
        run = program.run(values, apart=True, priors=with_prior)
        return expected_log_density(run, expected, with_prior, without)
