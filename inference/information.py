"""Observed Fisher information and standard errors."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from likely.inference.curvature import flat_sites, hessian
from likely.inference.engines.boundary import is_simplex, on_boundary
from likely.inference.errors import BoundaryWarning, ConvergenceWarning
from likely.inference.program import Program

if TYPE_CHECKING:
    from likely.inference.fit import Fit


class _Charts:
    """Free coordinates around a point, one chart a site.

    A site on a simplex moves along the sum-zero directions of its cells that are not zero, and one
    whose support depends on other sites moves as it is; other sites move in their unconstrained
    coordinates, elements on a boundary held fixed.
    """

    def __init__(self, program: Program, values: dict[str, torch.Tensor]) -> None:
        self.values = values
        self.program = program
        self.boundary: dict[str, torch.Tensor] = {}
        self.slices: dict[str, slice] = {}
        self._bases: dict[str, torch.Tensor] = {}
        start = 0
        for name, unknown in program.sites.unknowns.items():
            value = values[name]
            self.boundary[name] = torch.zeros_like(value, dtype=torch.bool)
            if not unknown.static:
                basis = torch.eye(value.numel(), dtype=value.dtype, device=value.device)
            else:
                self.boundary[name] = on_boundary(unknown.support, value)
                basis = self._simplex(value) if is_simplex(unknown.support) else self._free(name)
            self._bases[name] = basis
            self.slices[name] = slice(start, start + basis.shape[1])
            start += basis.shape[1]
        self.size = start

    @staticmethod
    def _simplex(value: torch.Tensor) -> torch.Tensor:
        """Orthonormal directions [numel, free] that keep the sum of every row's non-zero cells."""
        rows = value.reshape(-1, value.shape[-1])
        blocks = []
        for row in rows:
            cells = torch.nonzero(row > 0)[:, 0]
            block = row.new_zeros(len(row), max(len(cells) - 1, 0))
            if len(cells) > 1:
                # Complement of the vector of ones among the free cells.
                ones = row.new_ones(len(cells), 1)
                full = torch.linalg.qr(ones, mode="complete").Q
                block[cells] = full[:, 1:]
            blocks.append(block)
        return torch.block_diag(*blocks)

    def _free(self, name: str) -> torch.Tensor:
        """Selection [unconstrained numel, free] of the elements that are not on a boundary."""
        unknown = self.program.sites.unknowns[name]
        centre = unknown.transform.inv(self.values[name])
        keep = self._inside(name, centre).reshape(-1)
        return torch.eye(centre.numel(), dtype=centre.dtype, device=centre.device)[:, keep]

    def _inside(self, name: str, centre: torch.Tensor) -> torch.Tensor:
        """Mask of the unconstrained elements that are not on a boundary."""
        mask = torch.isfinite(centre)
        # Some transforms stop short of infinity.
        return mask & ~self.boundary[name] if mask.shape == self.boundary[name].shape else mask

    def at(self, t: torch.Tensor) -> dict[str, torch.Tensor]:
        """Constrained values at chart coordinates ``t`` [size]; zero is the point itself."""
        found = {}
        for name, unknown in self.program.sites.unknowns.items():
            value, move = self.values[name], self._bases[name] @ t[self.slices[name]]
            if is_simplex(unknown.support) or not unknown.static:
                found[name] = value + move.reshape(value.shape)
                continue
            centre = unknown.transform.inv(value)
            inside = self._inside(name, centre)
            centre = torch.where(inside, centre, torch.zeros_like(centre))
            moved = unknown.transform(centre + move.reshape(centre.shape))
            if moved.shape == inside.shape:
                moved = torch.where(inside, moved, value)
            found[name] = moved
        return found


def standard_errors(fit: Fit) -> dict[str, torch.Tensor]:
    """Standard errors of a fit's unknowns, by site and in the constrained space.

    The inverse of the observed information (the negative Hessian of what was maximised: the
    log-likelihood, plus the log-prior for `MAP` and ``EM(objective="posterior")``) in free
    coordinates, carried to the constrained space by the delta method (Efron & Hinkley 1978). For
    posterior fits the log-likelihood's curvature at ``params`` is used.

    Returns
    -------
    dict of str to Tensor
        Shaped like ``fit.params``. ``nan`` for elements on the boundary of their support, where
        the likelihood has no quadratic expansion, and for directions the data say nothing about.

    Warns
    -----
    BoundaryWarning
        Where an element lies on a boundary.
    ConvergenceWarning
        Where the information is not positive definite.
    """
    program = fit.bound("standard_errors()")
    with_prior = fit.engine == "map" or fit.options.get("objective") == "posterior"
    with program.session(fit.seed):
        charts = _Charts(program, fit.point())

        def negative(t: torch.Tensor) -> torch.Tensor:
            density = program.density(charts.at(t))
            total = density.log_likelihood
            return -(total + density.log_prior if with_prior else total)

        zero = torch.zeros(charts.size, dtype=program.dtype, device=program.device)
        information = hessian(negative, zero)
        at_edge = [name for name, mask in charts.boundary.items() if bool(mask.any())]
        if at_edge:
            warnings.warn(
                f"standard errors are not defined on the boundary of the support: "
                f"{', '.join(map(repr, at_edge))} have elements there, given as nan",
                BoundaryWarning,
                stacklevel=3,
            )
        sites = flat_sites(information, charts.slices) if charts.size else []
        if sites:
            warnings.warn(
                "the information is not positive definite in a direction made of "
                f"{', '.join(map(repr, sites))}: the data do not identify it (or the fit is not at "
                "an optimum); its standard errors are nan",
                ConvergenceWarning,
                stacklevel=3,
            )
            covariance = torch.full_like(information, float("nan"))
        else:
            covariance = torch.linalg.inv(information) if charts.size else information
        errors = {}
        for name, value in charts.values.items():
            errors[name] = _delta(charts, covariance, zero, name).reshape(value.shape)
            errors[name] = torch.where(
                charts.boundary[name], torch.full_like(value, float("nan")), errors[name]
            )
        return errors


def _delta(
    charts: _Charts, covariance: torch.Tensor, zero: torch.Tensor, name: str
) -> torch.Tensor:
    """Standard deviations [numel] of one site's elements by the delta method."""
    own = charts.slices[name]
    if own.stop == own.start:
        return torch.full_like(charts.values[name], float("nan"))

    def value(t: torch.Tensor) -> torch.Tensor:
        full = torch.cat([zero[: own.start], t, zero[own.stop :]])
        return charts.at(full)[name].reshape(-1)

    jacobian = torch.autograd.functional.jacobian(value, zero[own].clone())
    block = covariance[own, own]
    return torch.einsum("ij,jk,ik->i", jacobian, block, jacobian).clamp_min(0.0).sqrt()
