"""The M-step: from expected statistics to better values of the unknowns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from likely.inference.coordinates import Coordinates, supported
from likely.inference.curvature import curvature_of
from likely.inference.engines.expectation import Expectation, expected_log_density, normalise
from likely.inference.engines.parts import (
    SpreadExpectation,
    agreed,
    expect,
    expected_of_part,
    expected_of_statistics,
    find_tables,
)
from likely.inference.errors import ProgramError
from likely.inference.optimise import Evaluation, minimise
from likely.inference.passes import evaluation_by_parts, hessians_of_parts
from likely.inference.program import Program, Run, Values
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
    the rest moves by a few L-BFGS steps (a generalised M-step: higher, not highest). Where added
    statistics do not suffice for data in parts, every evaluation of these steps is a pass over all
    parts; the program's own ``m_step``, which would see one part, is then left out. Where several
    processes share a fit, all of them must call.

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

    def counted() -> dict[str, torch.Tensor]:
        new = dict(values)
        for name in tables:
            pseudo = expected.concentrations[name] if with_prior else None
            new[name] = normalise(expected.counts[name], values[name], pseudo)
        return new

    def rest_of(new: Values, found: frozenset[str]) -> dict[str, torch.Tensor]:
        rest = [name for name in new if name not in found]
        if not rest:
            return dict(new)
        return _search_rest(program, coordinates, new, rest, expected, with_prior, max_iter, tol)

    def at_once() -> dict[str, torch.Tensor]:
        new = counted()
        declared = _declared(program, new, expected, objective)
        return rest_of(new | declared, tables | declared.keys())

    if not isinstance(expected, SpreadExpectation) or expected.suffices:
        return agreed(program, at_once)
    found = rest_of(agreed(program, counted), tables)
    return agreed(program, lambda: found)


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
        current = m_step(
            program,
            coordinates,
            current,
            tables,
            expected,
            objective=objective,
            max_iter=max_iter,
            tol=tol,
        )
    return current


def _declared(
    program: Program, values: Values, expected: Expectation, objective: str
) -> dict[str, torch.Tensor]:
    """Sites that the program's own ``m_step`` maximises."""
    hook = program.hook("m_step")
    if hook is None:
        return {}
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

    def run_of(part: Program, x: torch.Tensor) -> Run:
        free = coordinates.split(flat.index_copy(0, chosen, x))
        moved = {**values, **{name: free[name] for name in names}}
        return part.run(moved, unconstrained=names, apart=True)

    def lost(x: torch.Tensor) -> torch.Tensor:
        if isinstance(program, Sharded):
            return -expected_of_statistics(run_of(program.head, x), expected, with_prior)
        return -expected_log_density(run_of(program, x), expected, with_prior)

    def lost_in(part: Program, likelihood: bool, prior: bool, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(expected, SpreadExpectation)
        run = run_of(part, x)
        return -expected_of_part(part, run, expected, likelihood, prior and with_prior)

    def whole(x: torch.Tensor) -> Evaluation:
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            loss = lost(x)
            if not loss.requires_grad:
                return float(loss), torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(x)
        return float(loss.detach()), gradient

    function: Callable[[torch.Tensor], Evaluation] = whole
    curvature = curvature_of(lost, len(chosen))
    by_pass = isinstance(expected, SpreadExpectation) and not expected.suffices
    if by_pass and isinstance(program, Sharded):
        function = partial(evaluation_by_parts, program, lost_in)
        curvature = hessians_of_parts(program, lost_in, len(chosen))
    best = minimise(
        function, flat[chosen], max_iter=max_iter, tol=tol, curvature=curvature, newton_iter=2
    )
    found = coordinates.constrain(flat.index_copy(0, chosen, best.x))
    return {**values, **{name: found[name].detach() for name in names}}
