"""Free coordinates around a point, in which a density has a Hessian."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from likely.inference.engines.boundary import is_simplex, on_boundary
from likely.inference.program import Program


class Charts:
    """Free coordinates around a point, one chart a site.

    A site on a simplex moves along the sum-zero directions of its cells that are not zero, and one
    whose support depends on other sites moves as it is; other sites move in their unconstrained
    coordinates, elements on a boundary held fixed.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Constrained values of the unknowns.
    straight : bool
        Move every site whose elements are free of each other as it is.
    """

    def __init__(
        self, program: Program, values: Mapping[str, torch.Tensor], straight: bool = False
    ) -> None:
        self.values = dict(values)
        self.program = program
        self.boundary: dict[str, torch.Tensor] = {}
        self.slices: dict[str, slice] = {}
        # Sites that move as they are, whether or not some elements are held fixed.
        self.straight: set[str] = set()
        self._bases: dict[str, torch.Tensor] = {}
        start = 0
        for name, unknown in program.sites.unknowns.items():
            value = values[name]
            self.boundary[name] = torch.zeros_like(value, dtype=torch.bool)
            eye = torch.eye(value.numel(), dtype=value.dtype, device=value.device)
            if unknown.static:
                self.boundary[name] = on_boundary(unknown.support, value)
            if not unknown.static or (straight and unknown.unconstrained_shape == value.shape):
                self.straight.add(name)
                basis = eye[:, ~self.boundary[name].reshape(-1)]
            else:
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
            if is_simplex(unknown.support) or name in self.straight:
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

    def jacobian(self, name: str) -> torch.Tensor:
        """Derivatives [numel, free] of one site's elements by its own coordinates, at the point."""
        own = self.slices[name]
        like = self.values[name]
        zero = torch.zeros(self.size, dtype=like.dtype, device=like.device)
        if own.stop == own.start:
            return like.new_zeros(like.numel(), 0)

        def value(t: torch.Tensor) -> torch.Tensor:
            full = torch.cat([zero[: own.start], t, zero[own.stop :]])
            return self.at(full)[name].reshape(-1)

        found: torch.Tensor = torch.autograd.functional.jacobian(value, zero[own].clone())
        return found
