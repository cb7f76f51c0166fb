"""Where a search for abilities starts, and what the data say of them when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.models.preference._newton import Expansion, Information, Rows, expand, newton
from likely.models.preference.comparisons import Comparisons

if TYPE_CHECKING:
    from likely.models.preference.bradley_terry import BradleyTerry

Vector = NDArray[np.float64]

# Most unknowns whose information is made as a matrix.
MOST_DENSE = 4096
# Random signs that estimate the diagonal of a larger inverse, and their tolerance.
_PROBES, _TOL = 64, 1e-8
# Information below this share of its diagonal is none.
_LEAST = 1e-12
# The same of unknowns beside abilities, whose systems are solved to `_TOL`.
_OPEN = 1e-6
# Log-odds that only a search on its way to infinity meets.
_FAR = 15.0
# Columns of a triangle that are inverted together.
_COLUMNS = 128


def rows_of(program: BradleyTerry, data: Comparisons) -> Rows:
    """The data as Newton's method reads them."""
    columns = [] if not program.home_advantage or data.home is None else [data.home.unsqueeze(-1)]
    if data.covariates is not None:
        columns.append(data.covariates)
    extra = torch.cat(columns, -1) if columns else data.total.new_zeros(len(data), 0)
    counts = data.outcomes()
    return Rows.sorted(data.first, data.second, counts, extra, program.ties, data.n_items)


class _Prior:
    """Normal priors of home advantage, coefficients and the real number behind ``tie``."""

    def __init__(self, program: BradleyTerry, rows: Rows, counted: bool, density: bool) -> None:
        home = [program.home_scale] * program.home_advantage
        width = rows.extra.shape[1] - len(home)
        scales = np.array([*home, *[program.coefficients_scale] * width])
        self._precision = np.r_[scales**-2.0 if counted else 0 * scales, [0.0] * rows.has_tie]
        # The density of ν or θ itself, as a function of the real number: no Jacobian.
        self._tie = (program, rows) if rows.has_tie and counted and density else None

    def __call__(self, other: Vector) -> tuple[Vector, Vector]:
        slope, bend = -self._precision * other, self._precision.copy()
        if self._tie is not None:
            program, rows = self._tie
            with torch.enable_grad():
                u = torch.tensor(other[-1], dtype=torch.float64, requires_grad=True)
                height = program.tie_distribution(u.detach()).log_prob(rows.tie(u))
                (first,) = torch.autograd.grad(height, u, create_graph=True)
                (second,) = torch.autograd.grad(first, u)
            slope[-1] += float(first.detach())
            bend[-1] -= float(second)
        return slope, bend


def newton_start(program: BradleyTerry, data: Comparisons) -> dict[str, Tensor]:
    """Unknowns at the maximum of the likelihood, or of the posterior where that is infinite."""
    rows = rows_of(program, data)
    finite = len(data.strong_components()) == 1
    precision = 0.0 if finite else (program.ability_scale or program.spread_scale) ** -2
    counts = rows.counts.sum(0)
    other = np.zeros(rows.extra.shape[1] + rows.has_tie)
    if rows.has_tie:
        # Between equals ν = 2 t / (1 − t) and θ = (1 + t) / (1 − t) give the share t of ties.
        share = float((counts[2] + 0.5) / (counts.sum() + 1))
        other[-1] = np.log(2 * share / (1 - share))
    start = _from_shares(rows), other
    at = newton(rows, start, precision, _Prior(program, rows, not finite, True))
    if finite and _is_far(rows, at.other):
        at = newton(rows, start, precision, _Prior(program, rows, True, True))
    return _as_sites(program, rows, at.ability, at.other, data.total)


def _is_far(rows: Rows, other: Vector) -> bool:
    """Whether unknowns other than abilities went where outcomes are certain, as if to infinity."""
    width = rows.extra.shape[1]
    far = np.abs(rows.extra * other[:width]).max(initial=0.0) > _FAR
    return bool(far or np.abs(other[width:]).max(initial=0.0) > _FAR)


def _from_shares(rows: Rows) -> Vector:
    """Log-odds [n] of each item's share of wins, half a win and half a loss added."""
    met, ones = rows.edges(rows.total.numpy()), np.ones(rows.n)
    lead = rows.edges((rows.counts[:, 0] - rows.counts[:, 1]).numpy())
    # Wins less losses and comparisons, of each item on either side.
    ahead, number = lead @ ones - lead.T @ ones, met @ ones + met.T @ ones
    odds: Vector = np.log((number + ahead + 1) / (number - ahead + 1))
    return odds - odds.mean()


def _as_sites(
    program: BradleyTerry, rows: Rows, ability: Vector, other: Vector, like: Tensor
) -> dict[str, Tensor]:
    """Site to tensor, from abilities [n] and other unknowns [q]."""
    found = {"ability": like.new_tensor(ability - ability.mean())}
    if program.home_advantage:
        found["home_advantage"] = like.new_tensor(other[0])
    width = rows.extra.shape[1]
    if width > program.home_advantage:
        found["coefficients"] = like.new_tensor(other[int(program.home_advantage) : width])
    if rows.has_tie:
        found["tie"] = rows.tie(torch.tensor(other[-1])).to(like)
    return found


def open_unknowns(program: BradleyTerry, data: Comparisons) -> list[str]:
    """Names of sites among home advantage and coefficients that the data cannot tell apart.

    Their information, that which abilities have of them taken away, is singular: as it is of equal
    columns, of a side at home that is nowhere, and of a feature of the first item that is one of
    the second, too.
    """
    # Abilities that drift have an information of their own, which is not made here.
    if program.drift is not None or not (program.home_advantage or data.covariates is not None):
        return []
    rows = rows_of(program, data)
    width = rows.extra.shape[1]
    at = Expansion(rows.total.numpy(), rows.total.numpy(), 0.0, np.zeros(0), 0.0)
    linear = replace(rows, rule=None)
    information = Information.of(linear, at, 0.0, np.zeros(width))
    scale = np.sqrt(np.where(information.corner.diagonal() > 0, information.corner.diagonal(), 1))
    through = information.solve_abilities(information.cross / scale, _TOL)
    own = information.corner / np.outer(scale, scale) - (information.cross / scale).T @ through
    values, vectors = np.linalg.eigh(own)
    share = np.square(vectors[:, values <= _OPEN]).sum(1) > _OPEN
    home = int(program.home_advantage)
    found = {"home_advantage": share[:home].any(), "coefficients": share[home:].any()}
    return [name for name, is_open in found.items() if is_open]


def information_at(
    program: BradleyTerry, params: Mapping[str, Tensor], data: Comparisons, prior: bool
) -> tuple[Rows, Information, Vector]:
    """The rows, the information at ``params`` and the values of the other unknowns [q]."""
    rows = rows_of(program, data)
    if rows.has_tie and float(params["tie"]) <= rows.least_tie:
        # On the boundary ties have no chance: what is left is the program without them.
        rows = replace(rows, rule=None)
    ability = params["ability"].detach().cpu().double().numpy()
    parts = [
        params[name].detach().cpu().double().reshape(-1).numpy()
        for name in ("home_advantage", "coefficients")
        if name in params
    ]
    if rows.has_tie:
        tie = params["tie"].detach().cpu().double()
        parts.append(np.array([float((tie - rows.least_tie).log())]))
    other = np.concatenate(parts) if parts else np.zeros(0)
    at = expand(rows, rows.log_odds(ability, other), float(other[-1]) if rows.has_tie else 0.0)
    precision = float(program.ability_scale or np.inf) ** -2 if prior else 0.0
    _, bends = _Prior(program, rows, prior, True)(other)
    return rows, Information.of(rows, at, precision, bends), other


def errors_of(
    program: BradleyTerry,
    params: Mapping[str, Tensor],
    data: Comparisons,
    *,
    prior: bool,
    probes: int = _PROBES,
    seed: int = 0,
) -> dict[str, Tensor] | None:
    """Standard errors by site; None where the information is singular."""
    rows, information, other = information_at(program, params, data, prior)
    if rows.n + len(other) <= MOST_DENSE:
        variances = _dense_variances(information)
    else:
        variances = _probed_variances(information, probes, seed)
    if variances is None:
        return None
    ability, rest = variances[: rows.n], np.sqrt(variances[rows.n :])
    if rows.has_tie:
        # The delta method, from the real number to ν or θ: both have the derivative e^u.
        rest[-1] *= np.exp(other[-1])
    like = params["ability"]
    errors: dict[str, Tensor] = {"ability": like.new_tensor(np.sqrt(ability))}
    if program.home_advantage:
        errors["home_advantage"] = like.new_tensor(rest[0])
    width = rows.extra.shape[1]
    if width > program.home_advantage:
        errors["coefficients"] = like.new_tensor(rest[int(program.home_advantage) : width])
    if program.models_ties:
        errors["tie"] = like.new_tensor(rest[-1] if rows.has_tie else np.nan)
    return errors


def _dense_variances(information: Information) -> Vector | None:
    """Variances [n + q] by Cholesky's factor; None where the information is singular."""
    n = len(information.diagonal)
    matrix = torch.from_numpy(information.lower_triangle())
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # What is left of a diagonal entry after elimination, as a share: no units are in it.
    left = factor.diagonal().square() / matrix.diagonal()
    if int(failed) or not bool((left > _LEAST * len(matrix)).all()):
        return None
    variances = _inverse_diagonal(factor).numpy()
    variances[:n] -= 1.0 / (n * (information.lift + information.precision))
    return np.maximum(variances, 0.0)


def _inverse_diagonal(factor: Tensor) -> Tensor:
    """Diagonal [n] of the inverse of a matrix with the lower Cholesky factor ``factor`` [n, n].

    They are the squared lengths of the columns of L⁻¹. Those are found a few at a time, each from
    its own row on, in n³ / 6 multiplications and without the inverse.
    """
    n = len(factor)
    found = factor.new_empty(n)
    for start in range(0, n, _COLUMNS):
        stop = min(start + _COLUMNS, n)
        unit = torch.eye(n - start, stop - start, dtype=factor.dtype)
        column = torch.linalg.solve_triangular(factor[start:, start:], unit, upper=False)
        found[start:stop] = column.square().sum(0)
    return found


def _probed_variances(information: Information, probes: int, seed: int) -> Vector | None:
    """Variances [n + q], those of abilities estimated from products with random signs.

    The diagonal of an inverse is the mean of z ∘ A⁻¹ z over vectors z of random signs (Bekas,
    Kokiopoulou & Saad 2007). Only entries off the diagonal make noise, and in a graph of degree k
    they are small: the relative error of a standard error is about 1 / (2 √(k probes)).
    """
    source = np.random.default_rng(seed)
    n = len(information.diagonal)
    total = np.zeros(n)
    for start in range(0, probes, 8):
        signs = source.choice([-1.0, 1.0], size=(n, min(8, probes - start)))
        # The part along equal abilities is none of the information's.
        solved = information.solve_abilities(signs - signs.mean(0), _TOL)
        total += (signs * solved).sum(1)
    variances = total / probes
    q = information.corner.shape[0]
    if not q:
        return np.maximum(variances, 0.0)
    through = information.solve_abilities(information.cross, _TOL)
    inner = np.linalg.inv(information.corner - information.cross.T @ through)
    variances += np.einsum("ij,jk,ik->i", through, inner, through)
    return np.maximum(np.r_[variances, inner.diagonal()], 0.0)


def covariance_factor(
    program: Any, params: Mapping[str, Tensor], data: Comparisons, prior: bool
) -> Tensor | None:
    """Lower Cholesky factor [n, n] of the information of abilities, the others profiled out.

    Equal abilities have a curvature of their own in it, which draws from the inverse lose when they
    are centred. None where the information is singular or too large.
    """
    rows, information, _ = information_at(program, params, data, prior)
    if rows.n > MOST_DENSE:
        return None
    matrix = information.lower_triangle()
    n = rows.n
    block = matrix[:n, :n]
    if len(matrix) > n:
        block = block - matrix[:n, n:] @ np.linalg.solve(matrix[n:, n:], matrix[n:, :n])
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(block))
    return None if int(failed) else factor
