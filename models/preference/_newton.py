"""Newton's method on the graph of comparisons, and the information that it uses.

The information of abilities is the Laplacian of a graph whose edges are the rows, weighed by minus
the second derivative of a row's log-density by its log-odds. Systems in it are solved by conjugate
gradients with the diagonal as preconditioner (Hestenes & Stiefel 1952), in time and memory linear
in distinct pairs; what abilities share with the few other unknowns goes by their Schur complement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from likely.models.preference.outcomes import OutcomeCounts

Vector = NDArray[np.float64]

_STEPS, _ROUNDS = 100, 500
# Length of the gradient at which nothing is left but rounding, for each comparison.
_NOTHING = 1e-14
# Shortest part of a Newton step that is tried, and a gradient, relative to the first, that is so
# small that only rounding can keep it from getting smaller.
_SHORTEST, _SMALL = 1e-6, 1e-9


@dataclass(frozen=True, eq=False)
class Rows:
    """What Newton's method reads: rows sorted by their first item.

    Attributes
    ----------
    first, second
        Positions [m] among n items.
    counts, total
        Tensors [m, 3] and [m].
    extra
        [m, p]: what the further linear unknowns (home side, covariates) add to the log-odds.
    rule
        As in `log_chances`.
    n
        Number of items.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    counts: Tensor
    total: Tensor
    extra: Vector
    rule: str | None
    n: int

    @classmethod
    def sorted(
        cls, first: Tensor, second: Tensor, counts: Tensor, extra: Tensor, rule: str | None, n: int
    ) -> Rows:
        """Rows in the order that a sparse matrix wants."""
        if bool((first[1:] < first[:-1]).any()):
            order = torch.argsort(first, stable=True)
            first, second, counts, extra = (x[order] for x in (first, second, counts, extra))
        pairs = [x.detach().cpu().numpy() for x in (first, second)]
        counts, extra = (x.detach().cpu().double() for x in (counts, extra))
        return cls(pairs[0], pairs[1], counts, counts.sum(-1), extra.numpy(), rule, n)

    @cached_property
    def pointer(self) -> NDArray[np.int64]:
        """Where the rows of each first item begin, [n + 1]."""
        return np.searchsorted(self.first, np.arange(self.n + 1))

    def edges(self, rows: Vector) -> csr_array:
        """Numbers [m] as a sparse matrix [n, n], first by second."""
        return csr_array((rows, self.second, self.pointer), shape=(self.n, self.n))

    @property
    def has_tie(self) -> bool:
        """Whether ties have an unknown."""
        return self.rule in ("davidson", "rao-kupper")

    @property
    def least_tie(self) -> float:
        """The unknown of ties where there are none."""
        return 0.0 if self.rule == "davidson" else 1.0

    def tie(self, u: Tensor) -> Tensor:
        """The unknown of ties as a function of a real number."""
        return self.least_tie + u.exp()

    def log_odds(self, ability: Vector, other: Vector) -> Vector:
        """Log-odds [m]; ``other`` [p] or, with a last entry for ties, [p + 1]."""
        odds: Vector = ability[self.first] - ability[self.second]
        width = self.extra.shape[1]
        return odds + self.extra @ other[:width] if width else odds

    def scatter(self, rows: Vector) -> Vector:
        """Transpose of what takes abilities to their differences: [m] to [n]."""
        edges, ones = self.edges(rows), np.ones(self.n)
        found: Vector = edges @ ones - edges.T @ ones
        return found

    def by_other(self, at: Expansion) -> Vector:
        """Gradient [q] by the unknowns other than abilities."""
        linear = at.by_odds @ self.extra if self.extra.shape[1] else np.zeros(0)
        return np.append(linear, at.by_tie) if self.has_tie else linear


@dataclass(frozen=True, eq=False)
class Expansion:
    """A log-density around a point: score, and minus the second derivatives.

    Attributes
    ----------
    by_odds, curve
        Score and minus curvature by log-odds, [m].
    by_tie, cross, of_tie
        Score by the real number that gives the unknown of ties, minus the mixed derivatives [m] and
        minus its second derivative; of no meaning where ties have no unknown.
    """

    by_odds: Vector
    curve: Vector
    by_tie: float
    cross: Vector
    of_tie: float


def expand(rows: Rows, odds: Vector, u: float) -> Expansion:
    """The log-density of all rows to second order, at log-odds [m] and ``u`` for ties."""
    d = torch.from_numpy(odds)
    if not rows.has_tie:
        number = rows.total
        chance = torch.sigmoid(d)
        hoped = number * chance
        score = rows.counts[:, 0] - hoped
        curve = hoped.mul_(1 - chance)
        return Expansion(score.numpy(), curve.numpy(), 0.0, odds, 0.0)
    with torch.enable_grad():
        d = d.requires_grad_(True)
        v = torch.tensor(u, dtype=d.dtype, requires_grad=True)
        made = OutcomeCounts(d, rows.total, rows.tie(v), rows.rule, d.new_zeros(()))
        value = made.log_prob(rows.counts).sum()
        score, by_tie = torch.autograd.grad(value, (d, v), create_graph=True)
        # Rows depend on their own log-odds only: the gradient of the sum is each row's own.
        (curve,) = torch.autograd.grad(score.sum(), d, retain_graph=True)
        cross, of_tie = torch.autograd.grad(by_tie, (d, v))
    parts = (-x.detach().numpy() for x in (curve, cross))
    curve_, cross_ = parts
    return Expansion(
        score.detach().numpy(),
        curve_,
        float(by_tie.detach()),
        cross_,
        -float(of_tie),
    )


@dataclass(frozen=True, eq=False)
class Information:
    """Minus the Hessian in abilities [n] and other unknowns [q], on abilities of sum zero.

    Attributes
    ----------
    edges
        Weights of the edges, each once, sparse [n, n].
    diagonal
        Weighted degrees and the prior's precision, [n].
    cross, corner
        [n, q] and [q, q].
    precision
        The prior's, of each ability.
    """

    edges: csr_array
    diagonal: Vector
    cross: Vector
    corner: Vector
    precision: float

    @classmethod
    def of(cls, rows: Rows, at: Expansion, precision: float, prior: Vector) -> Information:
        """From an expansion; ``prior`` [q] are precisions of the other unknowns."""
        edges, ones = rows.edges(at.curve), np.ones(rows.n)
        degree = edges @ ones + edges.T @ ones
        if not (rows.extra.shape[1] or rows.has_tie):
            empty = np.zeros((rows.n, 0))
            return cls(edges, degree + precision, empty, np.zeros((0, 0)), precision)
        weighted = at.curve[:, None] * rows.extra
        columns = [rows.scatter(column) for column in weighted.T]
        corner = rows.extra.T @ weighted
        if rows.has_tie:
            columns.append(rows.scatter(at.cross))
            beside = rows.extra.T @ at.cross
            corner = np.block([[corner, beside[:, None]], [beside[None], np.array([[at.of_tie]])]])
        cross = np.stack(columns, -1)
        return cls(edges, degree + precision, cross, corner + np.diag(prior), precision)

    def product(self, x: Vector) -> Vector:
        """The abilities' own block times [n] or [n, k]."""
        own = self.diagonal if x.ndim == 1 else self.diagonal[:, None]
        found: Vector = own * x - self.edges @ x - self.edges.T @ x
        return found

    def solve_abilities(self, right: Vector, tol: float) -> Vector:
        """Solve the abilities' own block for right sides of sum zero [n] or [n, k]."""
        flat = right.ndim == 1
        b = right[:, None] if flat else right
        scale = np.where(self.diagonal > 0, self.diagonal, 1.0)[:, None]
        x, residual = np.zeros_like(b), b.copy()
        direction = z = residual / scale
        size = (residual * z).sum(0)
        enough = tol * tol * size
        for _ in range(_ROUNDS):
            if not (size > enough).any():
                break
            along = self.product(direction)
            bend = (direction * along).sum(0)
            step = np.divide(size, bend, out=np.zeros_like(size), where=bend > 0)
            x += step * direction
            residual -= step * along
            z = residual / scale
            before, size = size, (residual * z).sum(0)
            ratio = np.divide(size, before, out=np.zeros_like(size), where=before > 0)
            direction = z + ratio * direction
        x -= x.mean(0)
        return x[:, 0] if flat else x

    def solve(self, ability: Vector, other: Vector, tol: float) -> tuple[Vector, Vector]:
        """Solve for right sides [n] and [q]."""
        alone = self.solve_abilities(ability, tol)
        if not len(other):
            return alone, other
        through = self.solve_abilities(self.cross, tol)
        schur = self.corner - self.cross.T @ through
        rest: Any = np.linalg.lstsq(schur, other - self.cross.T @ alone, rcond=None)[0]
        return alone - through @ rest, rest

    def lower_triangle(self) -> Vector:
        """The matrix [n + q, n + q], equal abilities given the mean curvature.

        Cholesky's method reads no more than the lower triangle; what is above it has no meaning.
        """
        n = len(self.diagonal)
        once = self.edges.tocoo()
        pairs = np.maximum(once.row, once.col).astype(np.int64) * n
        pairs += np.minimum(once.row, once.col)
        found: Any = np.bincount(pairs, once.data, n * n)
        block: Vector = found.reshape(n, n)
        np.subtract(self.lift / n, block, out=block)
        block.flat[:: n + 1] += self.diagonal
        if not self.cross.shape[1]:
            return block
        return np.block([[block, self.cross], [self.cross.T, self.corner]])

    @property
    def lift(self) -> float:
        """Curvature that `lower_triangle` adds in the direction of equal abilities."""
        return float(self.diagonal.mean()) or 1.0


@dataclass(frozen=True, eq=False)
class Point:
    """Abilities [n], other unknowns [q], and the gradient's length there."""

    ability: Vector
    other: Vector
    slope: float


def newton(
    rows: Rows,
    start: tuple[Vector, Vector],
    precision: float,
    prior: Callable[[Vector], tuple[Vector, Vector]],
) -> Point:
    """Maximise the log-density plus log-priors, as long as each step shortens the gradient.

    Parameters
    ----------
    rows
        The data.
    start
        Abilities [n] and the other unknowns [q].
    precision
        Of the normal prior on abilities; 0 for none.
    prior
        Gradient [q] of the others' log-prior at a point, and the precisions [q] there.
    """
    ability, other = start
    best: Point | None = None
    at, slopes, bends = _evaluate(rows, ability, other, prior)
    number, first_slope, size = float(rows.counts.sum()), 0.0, 1.0
    moves = (ability, other)
    for _ in range(_STEPS):
        by_ability = rows.scatter(at.by_odds) - precision * ability
        by_other = slopes + rows.by_other(at)
        slope = float(np.sqrt(by_ability @ by_ability + by_other @ by_other))
        if best is not None and not slope < best.slope:
            # The full step went too far, or rounding is all that is left.
            size *= 0.5
            if size < _SHORTEST or best.slope <= _SMALL * first_slope:
                break
        else:
            best, size = Point(ability, other, slope), 1.0
            first_slope = first_slope or slope
            if slope <= _NOTHING * number:
                break
            information = Information.of(rows, at, precision, bends)
            tol = float(np.clip(slope / first_slope, 1e-8, 1e-2))
            moves = information.solve(by_ability - by_ability.mean(), by_other, tol)
        ability, other = best.ability + size * moves[0], best.other + size * moves[1]
        at, slopes, bends = _evaluate(rows, ability, other, prior)
    return Point(*start, np.inf) if best is None else best


def _evaluate(
    rows: Rows,
    ability: Vector,
    other: Vector,
    prior: Callable[[Vector], tuple[Vector, Vector]],
) -> tuple[Expansion, Vector, Vector]:
    at = expand(rows, rows.log_odds(ability, other), float(other[-1]) if rows.has_tie else 0.0)
    return at, *prior(other)
