"""Features in which normal log-densities are linear, with and without missing entries."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro.util import ignore_jit_warnings
from torch import Tensor

from likely.models._clustering import positive_or_one
from likely.models._loglinear import Features

# Rows that the units are taken from; any fixed units near the data's will do.
_REFERENCE_ROWS = 1024


class GaussianFeatures(Features):
    r"""One, the features of the data and their products.

    Data are centred and scaled by ``centre`` and ``unit`` first: differences of large squares would
    lose the digits that matter. What is left is a rounding error near :math:`10^{-16} / r^2` nats,
    where r is a component's standard deviation relative to the data's.

    Parameters
    ----------
    x
        All data, ``[n, D]``, missing entries as NaN.
    products : bool
        Whether products of different features are among the features.
    weights : Tensor, optional
        Weights of the rows, ``[n]``. Rows of weight 0 have no part in the units, which a wild one
        would spoil.

    Attributes
    ----------
    centre, unit : Tensor
        ``[D]``.
    missing : bool
        Whether entries are missing. Without products, each feature then has an indicator of its
        own in place of the one; with products the log-density is no longer linear.
    """

    @ignore_jit_warnings()
    def __init__(self, x: Tensor, products: bool, weights: Tensor | None = None) -> None:
        self.products = products
        self.missing = bool(torch.isnan(x.sum()))
        self.linear = not (self.missing and products)
        if self.missing:
            counted = x if weights is None else x[weights > 0]
            many = len(counted) > _REFERENCE_ROWS
            sample = counted[_first_complete(counted)] if many else counted
            self.centre = torch.nan_to_num(sample.nanmean(0))
            spread = (sample - self.centre).square().nanmean(0).sqrt()
            spread = torch.nan_to_num(spread)
        else:
            spaced = slice(None, None, max(1, len(x) // _REFERENCE_ROWS))
            sample = x[spaced]
            if weights is not None:
                sample = sample[weights[spaced] > 0]
                sample = sample if len(sample) else x[weights > 0]
            self.centre = sample.mean(0)
            spread = sample.std(0, correction=0)
        # Powers of two scale without rounding.
        self.unit = positive_or_one(spread).log2().round().exp2()

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``[F, m]`` of rows ``[m, D]``."""
        d = x.shape[1]
        if self.missing:
            centred = ((x - self.centre) / self.unit).T
            there = ~torch.isnan(centred)
            centred = torch.where(there, centred, 0.0)
            return torch.cat([there.to(x.dtype), centred, centred.square()])
        if x.requires_grad:
            return self._differentiable(x)
        width = d * (d + 1) // 2 if self.products else d
        phi = x.new_empty(1 + d + width, len(x))
        phi[0] = 1.0
        centred, squares = phi[1 : 1 + d], phi[1 + d :]
        # Long rows before arithmetic: a broadcast over a short last dimension is slow.
        torch.sub(x.T, self.centre.unsqueeze(-1), out=centred)
        centred.mul_(self.unit.reciprocal().unsqueeze(-1))
        if not self.products:
            torch.mul(centred, centred, out=squares)
            return phi
        start = 0
        for i in range(d):
            torch.mul(centred[i:], centred[i], out=squares[start : start + d - i])
            start += d - i
        return phi

    def _differentiable(self, x: Tensor) -> Tensor:
        centred = ((x - self.centre) / self.unit).T
        row = column = torch.arange(len(centred), device=x.device)
        if self.products:
            row, column = torch.triu_indices(len(centred), len(centred), device=x.device)
        return torch.cat([torch.ones_like(centred[:1]), centred, centred[row] * centred[column]])

    def natural(self, loc: Tensor, whiten: Tensor) -> Tensor:
        r"""Natural parameters ``[*batch, F]`` of normal distributions.

        Parameters
        ----------
        loc
            Means, ``[*batch, D]``.
        whiten
            Inverse of the lower Cholesky factor, ``[*batch, D, D]``, or, without products, of the
            standard deviations, ``[*batch, D]``.
        """
        d = loc.shape[-1]
        loc, whiten = (loc - self.centre) / self.unit, whiten * self.unit
        if not self.products:
            precision = whiten.square()
            const = (whiten / self.unit).log() - 0.5 * math.log(2 * math.pi)
            const = const - 0.5 * precision * loc.square()
            if not self.missing:
                const = const.sum(-1, keepdim=True)
            return torch.cat([const, precision * loc, -0.5 * precision], -1)
        precision = whiten.mT @ whiten
        linear = (precision @ loc.unsqueeze(-1)).squeeze(-1)
        const = (whiten.diagonal(dim1=-2, dim2=-1) / self.unit).log().sum(-1)
        const = const - 0.5 * d * math.log(2 * math.pi) - 0.5 * (linear * loc).sum(-1)
        row, column = torch.triu_indices(d, d, device=loc.device)
        # Each product of two different features stands for two entries of the precision.
        factor = torch.where(row == column, -0.5, -1.0).to(loc.dtype)
        return torch.cat([const.unsqueeze(-1), linear, precision[..., row, column] * factor], -1)

    def log_densities(self, x: Tensor, log_weights: Tensor, natural: Tensor) -> Tensor:
        """Joint log-density ``[K, m]``; missing entries are integrated out."""
        if self.linear:
            return super().log_densities(x, log_weights, natural)
        centred = (x - self.centre) / self.unit
        there = ~torch.isnan(centred)
        patterns, which = torch.unique(there, dim=0, return_inverse=True)
        const, linear, precision = self._unpack(natural)
        density = x.new_zeros(len(x), natural.shape[0])
        for number, pattern in enumerate(patterns):
            rows = (which == number).nonzero()[:, 0]
            part = _marginal(
                centred[rows][:, pattern], pattern, const, linear, precision, self.unit
            )
            density = density.index_copy(0, rows, part)
        return log_weights.unsqueeze(-1) + density.T

    def _unpack(self, natural: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Constant ``[K]``, linear term ``[K, D]`` and precision ``[K, D, D]``."""
        d = len(self.unit)
        row, column = torch.triu_indices(d, d, device=natural.device)
        which = torch.arange(len(natural), device=natural.device)[:, None]
        precision = natural.new_zeros(len(natural), d, d)
        precision = precision.index_put((which, row, column), -natural[:, 1 + d :])
        return natural[:, 0], natural[:, 1 : 1 + d], precision + precision.mT


def _marginal(
    x: Tensor, there: Tensor, const: Tensor, linear: Tensor, precision: Tensor, unit: Tensor
) -> Tensor:
    r"""Log-density ``[m, K]`` of the entries ``x`` ``[m, D_observed]`` that are there.

    The missing ones are integrated out of :math:`\exp(c + b^T x - x^T P x / 2)`, whose gradient is
    then the expectation of the complete features.
    """
    own = precision[:, there][:, :, there]
    total = const.expand(len(x), -1) + x @ linear[:, there].T
    total = total - 0.5 * torch.einsum("md,kde,me->mk", x, own, x)
    gone = ~there
    if not bool(gone.any()):
        return total
    cross, rest = precision[:, gone][:, :, there], precision[:, gone][:, :, gone]
    factor = torch.linalg.cholesky(rest)
    pull = linear[:, gone].unsqueeze(-1) - cross @ x.T
    solved = torch.linalg.solve_triangular(factor, pull, upper=False)
    logdet = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    count = int(gone.sum())
    gain = 0.5 * solved.square().sum(1) - logdet.unsqueeze(-1) + 0.5 * count * math.log(2 * math.pi)
    # The integral is over x, not over x in units.
    return total + gain.T + unit[gone].log().sum()


def _first_complete(x: Tensor) -> Tensor:
    """Rows among which every feature is there as often as can be: a spread-out sample of each."""
    rows = [(~torch.isnan(column)).nonzero()[:_REFERENCE_ROWS, 0] for column in x.unbind(1)]
    return torch.unique(torch.cat(rows))


class Moments(NamedTuple):
    """Weighted moments of components.

    Attributes
    ----------
    sizes : Tensor
        Expected number of entries behind each feature, ``[K, D]``.
    means : Tensor
        ``[K, D]``.
    scatter : Tensor
        Sums of products about the means, ``[K, D, D]``; without products only the diagonal,
        ``[K, D]``.
    variances : Tensor
        Variance of each feature over all components, ``[D]``.
    """

    sizes: Tensor
    means: Tensor
    scatter: Tensor
    variances: Tensor


def moments(statistics: Tensor, features: Any, locs: Tensor) -> Moments:
    """Moments from sums of the features.

    Parameters
    ----------
    statistics
        Sums of the features weighted by the components' responsibilities, ``[K, F]``.
    features : GaussianFeatures
        The features.
    locs
        Means ``[K, D]`` that components without responsibility keep.
    """
    d = len(features.unit)
    head = statistics.shape[1] - d - (d * (d + 1) // 2 if features.products else d)
    sizes = statistics[:, :head].expand(-1, d)
    sums, squares = statistics[:, head : head + d], statistics[:, head + d :]
    present = sizes > 0
    means = torch.where(present, sums / positive_or_one(sizes), torch.zeros_like(sums))
    row, column = torch.triu_indices(d, d, device=statistics.device)
    own = squares[:, row == column] if features.products else squares
    total = positive_or_one(sizes.sum(0))
    overall = (own.sum(0) / total - (sums.sum(0) / total).square()).clamp_min(0.0)
    if features.products:
        upper = statistics.new_zeros(len(statistics), d, d)
        upper[:, row, column] = squares
        products = upper + upper.triu(1).mT
        scatter = products - sizes[:, :1, None] * means.unsqueeze(-1) * means.unsqueeze(-2)
        scatter = scatter * features.unit.unsqueeze(-1) * features.unit
    else:
        scatter = (squares - sizes * means.square()).clamp_min(0.0) * features.unit.square()
    return Moments(
        sizes,
        torch.where(present, features.centre + features.unit * means, locs),
        scatter,
        overall * features.unit.square(),
    )
