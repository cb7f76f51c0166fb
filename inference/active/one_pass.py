r"""Expected error reduction for naive Bayes in one pass over sufficient statistics.

A label more adds one row to the counts of one class. The other classes keep their tables, and
their log-densities of the pool; for each candidate and class there is one new table, and the
log-densities of all pool points under all new tables are one matrix product. A refit of everything
is not needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.blocks import CACHE
from likely.inference.active.lookahead import LOSSES, as_candidates, as_labelled
from likely.inference.engines.checks import check_bool, check_choice, check_int
from likely.inference.errors import OptionError
from likely.models import NaiveBayes
from likely.models._features import ClassBernoulli, ClassFeatures, ClassMultinomial

# A logit beyond this is certainty, in double precision.
CERTAIN = 700.0
# Products of matrices want larger blocks than a cache holds.
MATRICES = 1 << 25
# Tensors [rows, candidates] that are alive together, and tables [candidates, features].
TABLES = 5


class Statistics(NamedTuple):
    """What labelled rows tell a naive Bayes program, with the prior's pseudo-counts.

    Attributes
    ----------
    sums : Tensor
        [K, D]: sums of the features of each class's rows, and the prior's.
    sizes : Tensor
        [K]: what a class's sums are divided by, and what `rows` adds to.
    rows : Tensor
        [K]: numbers of rows of each class, and the prior's: prevalence times a constant.
    """

    sums: Tensor
    sizes: Tensor
    rows: Tensor


@torch.no_grad()
def naive_bayes_error_reduction(
    program: NaiveBayes,
    x: Any,
    labels: Any,
    pool: Any,
    *,
    loss: str = "log",
    exclude_candidate: bool = False,
    candidates: Any = None,
    budget: int = MATRICES,
) -> Tensor:
    r"""What `expected_error_reduction` finds with refits of `NaiveBayes` at the posterior mode.

    Those are ``EM(objective="posterior")`` and `MAP`, here without iterations: the mode of all
    tables is that of their counts, ``(count + prior) / sum``. Costs one product [pool, features] ·
    [features, candidates] for each class.

    Parameters
    ----------
    program : NaiveBayes
        Its priors must leave no cell empty: ``feature_concentration`` above 1, and
        ``prevalence_concentration`` at least 1.
    x : Tensor
        Labelled rows, [n, D].
    labels : Tensor
        Their classes, [n] integers from 0 to K - 1; some classes may be missing.
    pool : Tensor
        Rows without label, [pool, D].
    loss, exclude_candidate, candidates
        As in `expected_error_reduction`.
    budget : int
        Most bytes of a block of the pool and candidates.

    Returns
    -------
    Tensor
        float64 [m], or [pool]: the reduction, in nats or expected mistakes.

    Raises
    ------
    DataError
        If sizes contradict each other, or rows or classes are none that the program can read.
    OptionError
        If ``program`` is another one or its prior may leave a cell empty, an option has a value it
        cannot have, or the budget does not hold one point.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> pool = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> naive_bayes_error_reduction(NaiveBayes(2), x, torch.tensor([0, 1]), pool).argmax()
    tensor(0)
    """
    check_choice("loss", loss, LOSSES)
    check_bool("exclude_candidate", exclude_candidate)
    _check_program(program)
    x, labels, pool = as_labelled(x, labels, pool)
    index = as_candidates(candidates, pool)
    check_int("budget", budget, 1)
    _check_rows(program, x, labels, pool, budget)
    now = statistics(program, x, labels)
    side = _side(budget, pool.shape[1], program.n_classes)

    total = now.sums.new_zeros(())
    future = now.sums.new_zeros(len(index))
    for start in range(0, len(pool), side):
        rows = pool[start : start + side].to(now.sums)
        joint = _density(program, now.sums, now.sizes, rows) + now.rows.log()
        total += _errors(joint.softmax(-1), loss).sum()
        for first in range(0, len(index), side):
            some = index[first : first + side]
            chosen = pool[some].to(now.sums)
            present = (_density(program, now.sums, now.sizes, chosen) + now.rows.log()).softmax(-1)
            # Where a candidate is a row of this block, by number in it.
            own = some - start
            own = torch.where((own >= 0) & (own < len(rows)), own, -1)
            for k in range(program.n_classes):
                table = now.sums[k] + chosen
                size = now.sizes[k] + _size(program, chosen)
                added = _density(program, table, size, rows) + (now.rows[k] + 1).log()
                errors = _changed_errors(joint, k, added, loss)
                if exclude_candidate:
                    within = (own >= 0).nonzero()[:, 0]
                    errors[own[within], within] = 0.0
                # Classes that no candidate can have make impossible tables as well.
                future[first : first + side] += present[:, k] * errors.sum(0)
    return total - future


def statistics(program: NaiveBayes, x: Tensor, labels: Tensor) -> Statistics:
    """Counts of labelled rows [n, D] of classes [n], and the prior's concentration less one."""
    members = torch.nn.functional.one_hot(labels.long(), program.n_classes).double()
    sums = members.T @ x.to(members)
    prior = sums.new_tensor(program.prevalence_concentration).expand(program.n_classes) - 1
    pseudo = program.feature_concentration - 1
    counted = members.sum(0)
    # Of a cell: zeros and ones of the class's rows; counts of all its features.
    if program.likelihood == "bernoulli":
        sizes = counted + 2 * pseudo
    else:
        sizes = sums.sum(-1) + pseudo * sums.shape[1]
    return Statistics(sums + pseudo, sizes, counted + prior)


def _size(program: NaiveBayes, rows: Tensor) -> Tensor:
    """What each row [n, D] adds to the divisor of its class, [n]."""
    return rows.new_ones(len(rows)) if program.likelihood == "bernoulli" else rows.sum(-1)


def _density(program: NaiveBayes, sums: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
    """Log-density of rows [n, D] under the modes of tables [m, D], [n, m]."""
    tables = sums / sizes.unsqueeze(-1)
    every = torch.arange(len(tables), device=rows.device).unsqueeze(-1)
    density: ClassFeatures
    if program.likelihood == "bernoulli":
        density = ClassBernoulli(tables, every, validate_args=False)
    else:
        density = ClassMultinomial(tables, every, rows, validate_args=False)
    return density.log_prob(rows).T


def _errors(p: Tensor, loss: str) -> Tensor:
    """Errors [n] expected by probabilities [n, K]."""
    return torch.special.entr(p).sum(-1) if loss == "log" else 1 - p.amax(-1)


def _changed_errors(joint: Tensor, k: int, added: Tensor, loss: str) -> Tensor:
    """Errors [n, m] when the column ``k`` of log-densities [n, K] is replaced by each of [n, m].

    All other classes are one lump, whose inner shares do not change: with p the
    probability of class k, entropy is h(p) + (1 - p) times that of the shares.
    """
    others = torch.cat([joint[:, :k], joint[:, k + 1 :]], -1)
    lump = others.logsumexp(-1, keepdim=True)
    shares = torch.where(lump.isinf(), 0.0, others.softmax(-1))
    z = added - lump
    size = z.abs().clamp_(max=CERTAIN)
    tail = size.neg().exp_()
    smaller = tail / (1 + tail)
    larger = 1 / (1 + tail)
    rest = torch.where(z > 0, smaller, larger)
    if loss == "zero_one":
        p = torch.where(z > 0, larger, smaller)
        return 1 - torch.maximum(p, rest.mul_(shares.amax(-1, keepdim=True)))
    inner = torch.special.entr(shares).sum(-1, keepdim=True)
    # h(p) = log(1 + e^-|z|) + |z| p_small, without cancellation for any z.
    return tail.log1p_().add_(size.mul_(smaller)).add_(rest.mul_(inner))


def _side(budget: int, dim: int, n_classes: int) -> int:
    """Rows and candidates of a square block."""
    floats = budget // 8
    # 8 tensors [side, side], TABLES tables and the rows themselves [side, D], densities [side, K].
    linear = (TABLES + 3) * dim + 8 * n_classes + 8
    side = int(((linear**2 + 32 * floats) ** 0.5 - linear) / 16)
    if side < 1:
        raise OptionError(
            f"budget must be at least {8 * (8 + linear)} bytes, which one point takes, got {budget}"
        )
    return side


def _check_program(program: Any) -> None:
    if not isinstance(program, NaiveBayes):
        raise OptionError(f"program must be NaiveBayes, got {type(program).__name__}")
    if program.feature_concentration <= 1:
        raise OptionError(
            "program.feature_concentration must exceed 1, so that no cell is empty, got "
            f"{program.feature_concentration}"
        )
    if min(torch.tensor(program.prevalence_concentration).reshape(-1).tolist()) < 1:
        raise OptionError(
            "program.prevalence_concentration must be at least 1, got "
            f"{program.prevalence_concentration}"
        )


def _check_rows(program: NaiveBayes, x: Tensor, labels: Tensor, pool: Tensor, budget: int) -> None:
    if x.dim() != 2 or not x.shape[1]:
        raise DataError(f"x must be [rows, features], got shape {tuple(x.shape)}")
    if len(labels) and int(labels.max()) >= program.n_classes:
        raise DataError(
            f"labels must be classes 0, ..., {program.n_classes - 1}, got {int(labels.max())}"
        )
    for name, rows in (("x", x), ("pool", pool)):
        binary = program.likelihood == "bernoulli"
        # Two copies and some masks.
        for part in rows.split(max(1, min(budget, CACHE) // (24 * rows.shape[1]))):
            valid = (part == 0) | (part == 1) if binary else (part >= 0) & (part == part.floor())
            if not bool((valid & part.isfinite()).all()):
                raise DataError(f"{name} must hold {'0 or 1' if binary else 'counts 0, 1, 2, ...'}")
