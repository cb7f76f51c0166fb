"""Unknowns as one flat unconstrained vector, and where a search starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributions import biject_to

from likely.inference.engines.boundary import is_simplex, on_boundary
from likely.inference.errors import NonFiniteError, ProgramError
from likely.inference.program import Program, Values
from likely.inference.sites import Unknown

# Where an unconstrained value of a point on the boundary is put: far out, but finite.
_EDGE = 30.0
# Coordinates beyond this come of rounding, not of a value.
_LOST = 100.0
# Spread of a start around the prior's centre: breaks the symmetry of saddle points.
_JITTER = 0.1
# Spread, in unconstrained coordinates, of restarts around a start that is always the same.
_RESTART_SPREAD = 0.5
# Prior draws that are tried for a start.
_SCREENED = 16


class Coordinates:
    """Layout of a program's unknowns in one flat vector of length ``size``.

    Parameters
    ----------
    program : Program
        A program that was read.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.shapes = {n: u.unconstrained_shape for n, u in program.sites.unknowns.items()}
        self.slices: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(start, start + shape.numel())
            start += shape.numel()
        self.size = start
        self._first: dict[str, torch.Tensor] = {}

    def split(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of a flat vector [size] as unconstrained values by site."""
        return {n: flat[s].reshape(self.shapes[n]) for n, s in self.slices.items()}

    def join(self, unconstrained: Values) -> torch.Tensor:
        """Flat vector [size] of unconstrained values by site."""
        return torch.cat([unconstrained[name].reshape(-1) for name in self.slices])

    def constrain(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Values in the supports of their sites, from a flat vector; differentiable.

        Must be called inside the program's session.
        """
        values = self.split(flat)
        unknowns = self.program.sites.unknowns
        if all(u.static for u in unknowns.values()):
            return {name: unknowns[name].transform(value) for name, value in values.items()}
        return self._by_run(values, inverse=False)

    def constrain_draws(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Constrained draws [chain, draw, *shape] from flat ones [chain, draw, size]."""
        unknowns = self.program.sites.unknowns
        lead = flat.shape[:-1]
        if all(u.static for u in unknowns.values()):
            pieces = {
                n: flat[..., s].reshape(lead + self.shapes[n]) for n, s in self.slices.items()
            }
            return {name: unknowns[name].transform(piece) for name, piece in pieces.items()}
        rows = [self.constrain(row) for row in flat.reshape(-1, self.size)]
        return {
            name: torch.stack([row[name] for row in rows]).reshape(lead + unknowns[name].shape)
            for name in self.slices
        }

    def unconstrain(self, values: Values, edge: float = _EDGE) -> torch.Tensor:
        """Flat unconstrained vector of constrained values; boundary points are put ``edge`` out.

        Must be called inside the program's session.
        """
        unknowns = self.program.sites.unknowns
        if all(u.static for u in unknowns.values()):
            found = {name: _freed(unknowns[name], values[name], edge) for name in self.slices}
        else:
            found = self._by_run(values, inverse=True)
        flat = self.join(found)
        return torch.nan_to_num(flat, nan=0.0, posinf=edge, neginf=-edge)

    def _by_run(self, values: Values, inverse: bool) -> dict[str, torch.Tensor]:
        """Map values through the supports that the sites have when the program runs on them."""
        found: dict[str, torch.Tensor] = {}

        def value_of(name: str, msg: dict[str, Any]) -> torch.Tensor | None:
            if name not in values:
                return None
            unknown = self.program.sites.unknowns[name]
            static = unknown.static or not msg
            transform = unknown.transform if static else biject_to(msg["fn"].support)
            found[name] = transform.inv(values[name]) if inverse else transform(values[name])
            return values[name] if inverse else found[name]

        self.program.trace(value_of)
        return found

    # -- starts ------------------------------------------------------------------------------

    def start(
        self,
        init: Mapping[str, Any] | None,
        attempt: int = 0,
        *,
        with_prior: bool = True,
        checked: bool = True,
    ) -> dict[str, torch.Tensor]:
        """Where a search starts: a constrained value for every unknown.

        Sites come, in this order, from ``init``, from the program's own ``initial`` hook, and from
        the prior: its centre with a little jitter, or, where discrete latents make the density
        multimodal and in every restart, the best of a few prior draws. Must be called inside a
        seeded session.

        Parameters
        ----------
        init : mapping of str to tensor-like, optional
            Constrained values of some or all sites.
        attempt : int
            Number of the restart. A restart moves values that would be the same again.
        with_prior : bool
            Whether a given start must have a finite prior density. Where the prior is only there
            for its support, a table may start with cells of zero.
        checked : bool
            Whether a start that is given for every site is looked at. An engine whose first step
            finds its density anyway says no, and asks for `inside` if that is not finite.

        Raises
        ------
        ProgramError
            If ``init`` names an unknown site or has a wrong shape, or no start with a finite
            density is found.
        """
        given = self._given(dict(init or {}), attempt)
        program = self.program
        multimodal = program.sites.hidden or attempt > 0
        everything_given = given.keys() >= self.slices.keys()
        if everything_given and not checked:
            return {name: given[name] for name in self.slices}
        best: tuple[float, dict[str, torch.Tensor]] | None = None
        for number in range(1 if everything_given else _SCREENED):
            if everything_given:
                values = {name: given[name] for name in self.slices}
            else:
                values = self._from_prior(not multimodal and number == 0) | given
            with torch.no_grad():
                density = program.density(values)
            counts = with_prior or not everything_given
            score = float(density.log_likelihood + (density.log_prior if counts else 0.0))
            if score - score == 0.0 and (best is None or score > best[0]):
                best = score, values
                if not multimodal:
                    break
        if best is None:
            return self.inside(values, everything_given)
        return {name: value.detach() for name, value in best[1].items()}

    def inside(self, values: Values, given: bool = True) -> dict[str, torch.Tensor]:
        """Values just inside the support: for zero cells of a table, or an extreme draw.

        Parameters
        ----------
        values : mapping of str to Tensor
            Constrained values of the unknowns whose density is not finite.
        given : bool
            Whether ``init`` or the program's hook gave all of them, for the message.

        Raises
        ------
        ProgramError
            If the likelihood is not finite there, either.
        """
        edge = _EDGE / 2
        found = self.constrain(self.unconstrain(values, edge).clamp(-edge, edge))
        with torch.no_grad():
            density = self.program.density(found)
        if not bool(torch.isfinite(density.log_likelihood)):
            raise ProgramError(self._blame(found, given))
        return {name: value.detach() for name, value in found.items()}

    def _given(self, init: dict[str, Any], attempt: int) -> dict[str, torch.Tensor]:
        """Values from the program's hook and from ``init``, moved in a restart if unchanged."""
        hook = self.program.hook("initial")
        raw = {}
        # A hook may look for long at the data, so only where some unknown is left to it.
        if callable(hook) and not init.keys() >= self.slices.keys():
            raw = dict(hook(*self.program.args, **self.program.kwargs) or {})
        given = self._check(raw, "the program's initial()") | self._check(init, "init")
        if attempt == 0:
            self._first = given
        elif given and all(torch.equal(value, self._first[n]) for n, value in given.items()):
            unknowns = self.program.sites.unknowns
            for name, value in given.items():
                transform = unknowns[name].transform
                centre = torch.nan_to_num(transform.inv(value), 0.0, 3.0, -3.0)
                given[name] = transform(centre + _RESTART_SPREAD * torch.randn_like(centre))
        return given

    def _check(self, given: dict[str, Any], source: str) -> dict[str, torch.Tensor]:
        unknowns = self.program.sites.unknowns
        checked = {}
        for name, value in given.items():
            if name not in unknowns:
                if name in self.program.sites.deterministic:
                    continue
                raise ProgramError(
                    f"{source} gives a value for '{name}', which is not an unknown of the program; "
                    f"its unknowns are {', '.join(map(repr, unknowns))}"
                )
            tensor = torch.as_tensor(value, dtype=self.program.dtype, device=self.program.device)
            if tensor.shape != unknowns[name].shape:
                raise ProgramError(
                    f"{source} gives site '{name}' a value of shape {tuple(tensor.shape)}; "
                    f"its shape is {tuple(unknowns[name].shape)}"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ProgramError(f"{source} gives site '{name}' a value that is not finite")
            if unknowns[name].static and not supported(unknowns[name], tensor):
                raise ProgramError(
                    f"{source} gives site '{name}' a value outside its support, "
                    f"{unknowns[name].support}"
                )
            if unknowns[name].static and is_simplex(unknowns[name].support):
                # Probabilities that were rounded to another dtype sum to one only nearly.
                tensor = tensor / tensor.sum(-1, keepdim=True)
            checked[name] = tensor.detach()
        return checked

    def _from_prior(self, centred: bool) -> dict[str, torch.Tensor]:
        drawn: dict[str, torch.Tensor] = {}

        def value_of(name: str, msg: dict[str, Any]) -> torch.Tensor | None:
            unknown = self.program.sites.unknowns.get(name)
            if unknown is None or not msg:
                return unknown.start if unknown is not None and unknown.is_param else None
            if unknown.is_param:
                drawn[name] = unknown.start
            elif centred:
                transform = unknown.transform if unknown.static else biject_to(msg["fn"].support)
                drawn[name] = _centre(msg["fn"], unknown.start, transform)
            else:
                drawn[name] = msg["fn"].sample().to(self.program.dtype)
            return drawn[name]

        # Latents are drawn, too: a prior below an enumerated one would give one value for each.
        self.program.trace(value_of, enumerate_latents=False)
        return drawn

    def _blame(self, values: Values, given: bool) -> str:
        """Which sites make the density at a start non-finite."""
        with torch.no_grad():
            run = self.program.run(values)
        bad = [
            f.name
            for f in run.direct + run.enumerated
            if not bool(torch.isfinite(f.log_prob.sum()))
        ]
        sites = ", ".join(f"'{name}'" for name in bad) or "(their sum)"
        mend = (
            "The start was given by init or initial(): change it."
            if given
            else "Give init= a start at which the data are possible, or mend the program's prior."
        )
        return f"the log-density is not finite at the start; sites that are not: {sites}. {mend}"


def supported(unknown: Unknown, value: torch.Tensor) -> bool:
    """Whether a value lies in its site's support, boundary included."""
    if bool(unknown.support.check(value).all()):
        return True
    # Open supports refuse their boundary, and some ask for more digits than single precision has.
    back = unknown.transform(unknown.transform.inv(value))
    return back.shape == value.shape and torch.allclose(back, value, rtol=1e-4, atol=1e-6)


def _freed(unknown: Unknown, value: torch.Tensor, edge: float) -> torch.Tensor:
    """Unconstrained coordinates of one site's value, where the boundary is ``edge`` away."""
    found: torch.Tensor = unknown.transform.inv(value)
    if is_simplex(unknown.support):
        # A stick without rest has no more to break: cells after the first such one get coordinates
        # of hundreds, or none. There, a little for every cell keeps a rest.
        lost = ~(found.abs() <= _LOST).all(-1, keepdim=True)
        share = math.exp(-edge)
        mixed = (1 - share) * value + share / value.shape[-1]
        return torch.where(lost, unknown.transform.inv(mixed), found)
    if found.shape != value.shape:
        return found
    # Some transforms stop short of infinity.
    return torch.where(on_boundary(unknown.support, value), found.clamp(-edge, edge), found)


def _centre(fn: Any, drawn: torch.Tensor, transform: Any) -> torch.Tensor:
    """Prior mean (where it lies inside the support), a little off."""
    try:
        centre = fn.mean.expand(drawn.shape).to(drawn.dtype)
        unconstrained = transform.inv(centre)
    except (NotImplementedError, AttributeError, RuntimeError, ValueError):
        unconstrained = torch.zeros_like(transform.inv(drawn))
    unconstrained = torch.where(
        torch.isfinite(unconstrained), unconstrained, torch.zeros_like(unconstrained)
    )
    value: torch.Tensor = transform(unconstrained + _JITTER * torch.randn_like(unconstrained))
    return value


def require_finite(value: torch.Tensor | float, what: str, iteration: int) -> None:
    """Raise if an objective is not finite.

    Raises
    ------
    NonFiniteError
        Naming the objective and the iteration.
    """
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise NonFiniteError(
            f"{what} became {number} at iteration {iteration}. A likelihood without a bound (a "
            "scale shrinking onto one point, say) needs a prior: use MAP or a lower bound; "
            "otherwise start elsewhere with init= or seed=."
        )
