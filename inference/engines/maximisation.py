"""The M-step: from expected statistics to better values of the unknowns."""

from __future__ import annotations

from functools import partial

import torch

from likely.inference.coordinates import Coordinates, supported
from likely.inference.curvature import curvature_of
from likely.inference.engines.expectation import Expectation, expected_log_density, normalise
from likely.inference.engines.parts import (
    agreed,
    expect,
    expected_of_parts,
    find_tables,
    require_statistics,
)
from likely.inference.errors import ProgramError
from likely.inference.optimise import Evaluation, minimise
from likely.inference.program import Program, Values
from likely.inference.shards import Sharded


def m_step(
    program: Program,
    coordinates: Coordinates,
    values: Values,
    tables: frozenset[str],
    expected: Expectation,
    *,
    objective: str,
    max_iter: int,
    tol: float,
) -> dict[str, torch.Tensor]:
    """Raise the expected complete-data log-density over every unknown.

    Tables become their normalised counts, sites of the program's own ``m_step`` what it says, and
    the rest moves by a few L-BFGS steps (a generalised M-step: higher, not highest).

    Parameters
    ----------
    program, coordinates : Program, Coordinates
    values : mapping of str to Tensor
        Where the E-step was taken.
    tables : frozenset of str
        Sites that are tables of probabilities.
    expected : Expectation
        The E-step.
    objective : {"likelihood", "posterior"}
        Whether priors count.
    max_iter, tol : int, float
        Of the L-BFGS steps.
    """
    with_prior = objective == "posterior"
    new = dict(values)
    for name in tables:
        pseudo = expected.concentrations[name] if with_prior else None
        new[name] = normalise(expected.counts[name], values[name], pseudo)
    declared = _declared(program, new, expected, objective)
    new |= declared
    rest = [name for name in new if name not in tables and name not in declared]
    if not rest:
        return new
    return _search_rest(program, coordinates, new, rest, expected, with_prior, max_iter, tol)


def em_steps(
    program: Program,
    coordinates: Coordinates,
    values: Values,
    steps: int,
    *,
    objective: str,
    max_iter: int,
    tol: float,
) -> dict[str, torch.Tensor]:
    """A few EM steps from ``values``, for an engine that goes on from there."""
    with_prior = objective == "posterior"
    tables = find_tables(program, values, with_prior=with_prior)
    current = dict(values)
    for _ in range(steps):
        expected = expect(program, current, tables, with_prior=with_prior)
        if not bool(torch.isfinite(expected.log_likelihood)):
            return dict(values)
        step = partial(
            m_step,
            program,
            coordinates,
            current,
            tables,
            expected,
            objective=objective,
            max_iter=max_iter,
            tol=tol,
        )
        current = agreed(program, step)
    return current


def _declared(
    program: Program, values: Values, expected: Expectation, objective: str
) -> dict[str, torch.Tensor]:
    """Sites that the program's own ``m_step`` maximises."""
    hook = program.hook("m_step")
    if hook is None:
        return {}
    require_statistics(program)
    found = hook(
        {
            **{name: expected.responsibilities(name) for name in program.sites.latents},
            **expected.statistics,
        },
        dict(values),
        *program.args,
        objective=objective,
        **program.kwargs,
    )
    for name, value in found.items():
        unknown = program.sites.unknowns.get(name)
        if not isinstance(value, torch.Tensor):
            raise ProgramError(
                f"the program's m_step returned '{name}' as {type(value).__name__}; expected a "
                "tensor"
            )
        if unknown is None:
            raise ProgramError(
                f"the program's m_step returned '{name}', which is not one of its unknowns"
            )
        if value.shape != unknown.shape:
            raise ProgramError(
                f"the program's m_step returned '{name}' with shape {tuple(value.shape)}; expected "
                f"{tuple(unknown.shape)}"
            )
        if unknown.static and not supported(unknown, value.detach()):
            raise ProgramError(
                f"the program's m_step returned '{name}' outside its support, {unknown.support}"
            )
    return {name: value.detach() for name, value in found.items()}


def _search_rest(
    program: Program,
    coordinates: Coordinates,
    values: Values,
    names: list[str],
    expected: Expectation,
    with_prior: bool,
    max_iter: int,
    tol: float,
) -> dict[str, torch.Tensor]:
    """A few L-BFGS steps on the expected complete-data log-density over some sites."""
    flat = coordinates.unconstrain(values)
    index = torch.arange(flat.numel(), device=flat.device)
    chosen = torch.cat([index[coordinates.slices[name]] for name in names])
    parts = isinstance(program, Sharded)
    whole = program.head if isinstance(program, Sharded) else program

    def lost(x: torch.Tensor) -> torch.Tensor:
        free = coordinates.split(flat.index_copy(0, chosen, x))
        run = whole.run(
            {**values, **{name: free[name] for name in names}}, unconstrained=names, apart=True
        )
        if parts:
            return -expected_of_parts(run, expected, with_prior)
        return -expected_log_density(run, expected, with_prior)

    def function(x: torch.Tensor) -> Evaluation:
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            loss = lost(x)
            if not loss.requires_grad:
                return float(loss), torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(x)
        return float(loss.detach()), gradient

    best = minimise(
        function,
        flat[chosen],
        max_iter=max_iter,
        tol=tol,
        curvature=curvature_of(lost, len(chosen)),
        newton_iter=2,
    )
    found = coordinates.constrain(flat.index_copy(0, chosen, best.x))
    return {**values, **{name: found[name].detach() for name in names}}
