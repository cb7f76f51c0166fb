"""Optima that are none: a likelihood without a bound, and one that is flat."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch.distributions import constraints

from likely.inference.coordinates import Coordinates
from likely.inference.engines.boundary import base_constraint, bounds
from likely.inference.errors import BoundaryWarning, NonFiniteError, ProgramError
from likely.inference.program import PROGRAM_FAULTS, Program, Values

# A positive value this near to zero is on its way to log 0.
_VANISHED = 1e-60
# Conditional standard deviations above this many times the value itself are looked into.
_WIDE = 30.0
# One standard deviation away an honest optimum is half a nat lower.
_RISE = 0.05
# Most coordinates that are looked into.
_MOST = 16
# A value on the real line has to be at least as far out as this to be on its way to infinity.
_FAR = 5.0
# As good as infinity, and what is not worth going there for, nats.
_INFINITY, _NOTHING = 1e15, 0.1
# Farther out by so much, another look is worth its time.
_OUTWARD = 1.25


def check_bounded(program: Program, values: Values, engine: str) -> None:
    """Raise if a positive unknown has all but vanished.

    Raises
    ------
    NonFiniteError
        Naming the site: a scale that shrinks onto one point takes the density to infinity.
    """
    for name, value in values.items():
        unknown = program.sites.unknowns[name]
        limits = bounds(unknown.support) if unknown.static else None
        if limits is None or limits[0] is None or limits[1] is not None:
            continue
        above = value.detach() - limits[0]
        if bool(((above > 0) & (above < _VANISHED)).any()):
            raise NonFiniteError(
                f"{engine}: the log-density has no maximum: site '{name}' shrinks to its bound "
                f"({float(above[above > 0].min()):.3g} so far) and the density grows without end. "
                "A scale does that where it can fit a point exactly; give it a prior that keeps "
                "it from zero (and use MAP), or fix a lower bound in the program."
            )


def flat_unknowns(
    coordinates: Coordinates,
    loss: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    matrix: torch.Tensor,
) -> list[str]:
    """Sites in which a minimum is none: the function does not rise on one side of it.

    Parameters
    ----------
    coordinates : Coordinates
    loss : callable
        Maps a flat point [n] to the function's value.
    x : Tensor, [n]
        Where a search ended.
    matrix : Tensor, [n, n]
        The Hessian there.

    Returns
    -------
    list of str
        Sites that the function does not depend on, or whose best value lies at infinity
        (separable data).
    """
    curve = matrix.diagonal()
    spread = torch.where(curve > 0, curve, torch.ones_like(curve)).rsqrt()
    untouched = curve.abs() == 0
    wide = (curve > 0) & (spread > _WIDE * x.abs().clamp_min(1.0))
    # So far out it takes less: a class that was never seen drives its log-odds there.
    wide |= (curve > 0) & (x.abs() > _FAR) & (spread > x.abs())
    flat = untouched.clone()
    # At a kink there is no curvature either.
    spread = torch.where(untouched, x.abs().clamp_min(1.0), spread)
    with torch.no_grad():
        here = float(loss(x)) if bool((untouched | wide).any()) else 0.0
        for index in torch.nonzero(untouched | wide)[:_MOST, 0].tolist():
            move = torch.zeros_like(x)
            move[index] = spread[index]
            sides = [float(loss(x + move)), float(loss(x - move))]
            flat[index] = any(side - here < _RISE for side in sides)
    return [name for name, own in coordinates.slices.items() if bool(flat[own].any())]


def flatness(sites: Sequence[str], engine: str) -> str:
    """Why a search that ended where some sites are flat did not converge; nothing for no site."""
    if not sites:
        return ""
    prior = "objective='posterior'" if engine == "em" else "MAP"
    return (
        f"the log-density is flat in {', '.join(map(repr, sites))}: it does not depend on them, or "
        f"its maximum lies at infinity (separable data do that). A prior and {prior} give a finite "
        "answer"
    )


def warn_of_boundary(engine: str, sites: Sequence[str]) -> None:
    """Say in which sites an optimum lies on the boundary of the support."""
    warnings.warn(
        f"{engine}: the optimum lies on the boundary of the support at "
        f"{', '.join(map(repr, sites))}; it is reported there, and standard errors are not defined",
        BoundaryWarning,
        stacklevel=4,
    )


def left_open(program: Program, values: Values) -> list[str]:
    """What the program's own hook ``left_open`` says that data never tell, as sentences.

    A hook that fails takes no fit away: that it did is the sentence.
    """
    hook = program.hook("left_open")
    if hook is None:
        return []
    try:
        return list(hook(values, *program.args, **program.kwargs))
    except PROGRAM_FAULTS as error:
        return [f"the program's left_open failed: {error}"]


def rising_unknowns(
    program: Program, values: Values, objective: Callable[[Values], torch.Tensor]
) -> list[str]:
    """Sites on the real line that can be moved twice as far out at no loss.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Constrained values of the unknowns, where a search ended.
    objective : callable
        Maps such values to what was maximised.

    Returns
    -------
    list of str
        Sites whose best value lies at infinity (separable data). One evaluation for each that is
        far enough out.
    """
    far = _far(program, values)
    if not far:
        return []
    with torch.no_grad():
        here = objective(values)
        return [
            name
            for name, value in far.items()
            if bool(objective({**values, name: 2 * value}) >= here)
        ]


def _far(program: Program, values: Values) -> dict[str, torch.Tensor]:
    """Values of the sites on the real line that are far out."""
    return {
        name: value
        for name, value in values.items()
        if program.sites.unknowns[name].static
        and base_constraint(program.sites.unknowns[name].support) is constraints.real
        and bool((value.abs() > _FAR).any())
    }


class Endless:
    """Tells on the way that a search has no end: all that is left to gain lies at infinity.

    Looked at when steps gain next to nothing, and again each time that the values on the real line
    are a quarter farther out, which is one evaluation.

    Parameters
    ----------
    program : Program
    objective : callable
        Maps constrained values to what is maximised.

    Attributes
    ----------
    seen : tuple
        How far out values were at the last look, and the last height and values.
    """

    def __init__(self, program: Program, objective: Callable[[Values], torch.Tensor]) -> None:
        self._program, self._objective = program, objective
        self.seen: tuple[float, float, Values] = (0.0, float("-inf"), {})

    def sites(self, values: Values, height: float) -> list[str]:
        """Sites that are best at infinity, where that gains next to nothing over ``height``.

        An optimum has lower values all around, and as far out as this the lowest of all. Data that
        can be told apart exactly have none: the log-likelihood rises to its limit for ever. As long
        as the other sites still gain more than is left there, the search goes on for them.
        """
        seen, before, previous = self.seen
        self.seen = (seen, height, values)
        far = _far(self._program, values) if 0.0 <= height - before <= _NOTHING else {}
        reach = max((float(value.abs().max()) for value in far.values()), default=0.0)
        if not far or reach < _OUTWARD * seen:
            return []
        self.seen = (reach, height, values)
        moved = {name: _INFINITY * value for name, value in far.items()}
        others = {name: previous[name] for name in values if name not in far}
        try:
            with torch.no_grad():
                gain = float(self._objective({**values, **moved})) - height
                # What does not depend on a site gains nothing by it.
                if not 0.0 < gain <= _NOTHING:
                    return []
                elsewhere = float(self._objective({**values, **others})) if others else height
        except ProgramError:
            # A program need not stand such values.
            return []
        return list(far) if height - elsewhere <= gain else []
