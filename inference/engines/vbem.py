"""Variational Bayes for probability tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.distributions import Dirichlet, kl_divergence

from likely.inference.coordinates import Coordinates, require_finite
from likely.inference.engines.base import SearchOptions
from likely.inference.engines.checks import check_int
from likely.inference.engines.expectation import candidate_tables, expect, find_tables
from likely.inference.engines.result import Found, Result
from likely.inference.errors import MonotonicityError, ProgramError
from likely.inference.handlers import set_seed
from likely.inference.program import Program

# How far, relative to itself, the bound may fall between steps: rounding, no more.
_SLACK = 1e-9
# Draws by which the approximation is judged; each costs a density.
_JUDGED = 200

Tables = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class VBEM(SearchOptions):
    r"""Dirichlet posteriors of probability tables, at the price of EM (Beal 2003, section 2.4).

    For programs whose unknowns are all tables of category probabilities with Dirichlet priors:
    prevalences and confusion matrices, the initial and transition probabilities of a chain with
    categorical emissions, latent classes. The E-step is that of `EM` at
    :math:`\tilde\pi = \exp E[\log \pi]`; the expected counts, added to the prior's concentrations,
    are those of the posterior. Latents and tables are taken to be independent in the posterior,
    which makes it narrower than the exact one; ``fit.diagnostics["khat"]`` says how far off.

    Parameters
    ----------
    draws : int
        Draws from the Dirichlet posteriors.
    **options
        Those of `SearchOptions`; ``history`` of the fit holds the lower bound of the
        log-evidence, which never falls, and so does ``diagnostics["elbo"]`` at the end.

    Raises
    ------
    ProgramError
        If an unknown is no such table.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def die(rolls):
    ...     faces = pyro.sample("faces", dist.Dirichlet(torch.ones(3)))
    ...     with pyro.plate("roll", len(rolls)):
    ...         pyro.sample("rolls", dist.Categorical(faces), obs=rolls)
    >>> fit = VBEM().fit(die, torch.tensor([0, 0, 1, 2, 0]))
    >>> [round(float(p), 3) for p in fit.params["faces"]]  # (1 + counts) / 8
    [0.5, 0.25, 0.25]
    """

    name: ClassVar[str] = "vbem"
    needs_priors: ClassVar[bool] = True

    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("draws", self.draws, 2)

    def _fit(self, program: Program, coordinates: Coordinates) -> Result:
        found = self.best_of(
            lambda attempt: self._search(program, coordinates, attempt), program.device
        )
        posterior = {name: Dirichlet(alpha) for name, alpha in found.values.items()}
        set_seed(self.seed, program.device)
        own = {name: fn.sample((1, self.draws)) for name, fn in posterior.items()}
        draws = self.labelled(program, own)
        params = {name: fn.mean for name, fn in posterior.items()}
        return Result.from_found(
            found,
            params=params,
            draws=draws,
            diagnostics={
                "elbo": found.objective,
                "khat": _khat(program, posterior, own),
            },
        )

    def _search(self, program: Program, coordinates: Coordinates, attempt: int) -> Found:
        values = coordinates.start(self.start_values(program), attempt, with_prior=False)
        tables = _all_tables(program, values)
        expected = expect(program, values, tables)
        prior = expected.concentrations
        alpha = {name: prior[name] + expected.counts[name] for name in tables}
        reached, converged = alpha, False
        with self.monitor(attempt) as monitor:
            for iteration in range(self.max_iter + 1):
                geometric = {
                    name: (a.digamma() - a.sum(-1, keepdim=True).digamma()).exp()
                    for name, a in alpha.items()
                }
                expected = expect(program, geometric, tables, unnormalised=True)
                bound = float(expected.log_likelihood - _divergence(alpha, prior))
                require_finite(bound, "the lower bound of VBEM", iteration)
                past, slack = monitor.objectives, max(1.0, abs(bound))
                if past and bound < past[-1] - _SLACK * slack:
                    raise MonotonicityError(
                        f"VBEM lowered its bound from {past[-1]:.10g} to {bound:.10g} in step "
                        f"{iteration}; please report this program"
                    )
                reached = alpha
                converged = bool(past) and bound - past[-1] <= self.tol * slack
                if monitor.step(bound, lambda a=alpha: _means(a)) or converged:  # type: ignore[misc]
                    break
                alpha = {name: prior[name] + expected.counts[name] for name in tables}
        return Found(
            values=reached,
            objective=monitor.objectives[-1],
            history=monitor.objectives,
            converged=converged and not monitor.interrupted,
            n_iter=len(monitor.objectives) - 1,
            interrupted=monitor.interrupted,
        )


def _all_tables(program: Program, values: Tables) -> frozenset[str]:
    """The unknowns, all of which must be tables."""
    unknowns = frozenset(program.sites.unknowns)
    tables = candidate_tables(program, True)
    if tables == unknowns:
        tables = find_tables(program, values)
    rest = sorted(unknowns - tables)
    if rest:
        raise ProgramError(
            f"vbem is for programs whose unknowns are tables of category probabilities with "
            f"Dirichlet priors, and {', '.join(map(repr, rest))} "
            f"{'is' if len(rest) == 1 else 'are'} not; use SVI, Laplace or NUTS"
        )
    return tables


def _means(alpha: Tables) -> Tables:
    return {name: a / a.sum(-1, keepdim=True) for name, a in alpha.items()}


def _divergence(alpha: Tables, prior: Tables) -> torch.Tensor:
    """KL divergence of the tables' posteriors from their priors, a scalar."""
    parts = [kl_divergence(Dirichlet(alpha[n]), Dirichlet(prior[n])).sum() for n in sorted(alpha)]
    return torch.stack(parts).sum()


def _khat(program: Program, posterior: dict[str, Dirichlet], draws: Tables) -> float:
    """Pareto k of the importance weights p(data, θ) / q(θ) (Yao et al. 2018)."""
    from likely.inference.diagnostics.backend import psis_khat

    weights = []
    with torch.no_grad():
        for i in range(min(_JUDGED, next(iter(draws.values())).shape[1])):
            values = {name: value[0, i] for name, value in draws.items()}
            density = program.density(values)
            guess = [posterior[name].log_prob(value).sum() for name, value in values.items()]
            weights.append(density.log_likelihood + density.log_prior - torch.stack(guess).sum())
    return psis_khat(torch.stack(weights))
