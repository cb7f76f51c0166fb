"""How good annotators are, from their confusion tables: one table or posterior draws of it."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models.crowd.annotations import Annotations

# Rows of a probability table may miss one by this much: single precision, and files.
_ROUNDING = 1e-4


def expected_accuracy(confusion: Any, prevalence: Any) -> Tensor:
    r"""Probability that a label is right, :math:`\sum_k \rho_k \pi_{kk}`.

    Parameters
    ----------
    confusion
        ``[..., K, K]``: probability that class j is reported for a task of class k.
    prevalence
        ``[..., K]``: probabilities of the true classes; leading axes broadcast against those of
        ``confusion``, annotators being the last of these.

    Returns
    -------
    Tensor
        ``[...]``, between 0 and 1.

    Raises
    ------
    DataError
        If the arguments are no probability tables of such shapes.

    Examples
    --------
    >>> expected_accuracy([[0.9, 0.1], [0.5, 0.5]], [0.25, 0.75])
    tensor(0.6000)
    """
    confusion, prevalence = broadcasting(confusion, prevalence)
    return (prevalence * confusion.diagonal(dim1=-2, dim2=-1)).sum(-1)


def spammer_score(confusion: Any) -> Tensor:
    r"""How far an annotator's labels depend on the truth: 0 for a spammer, 1 for a perfect one.

    .. math:: \frac{1}{K (K - 1)} \sum_{k < k'} \sum_j (\pi_{kj} - \pi_{k'j})^2

    (Raykar & Yu 2012, JMLR 13, section 3.) A spammer reports the same whatever the truth is: equal
    rows. For two classes it is (sensitivity + specificity − 1)². Someone who always reports another
    class scores one, too: their labels are as informative as right ones.

    Parameters
    ----------
    confusion
        ``[..., K, K]``.

    Returns
    -------
    Tensor
        ``[...]``, between 0 and 1.

    Raises
    ------
    DataError
        If the argument is no probability table of such a shape.

    Examples
    --------
    >>> spammer_score([[0.8, 0.2], [0.2, 0.8]])
    tensor(0.3600)
    """
    confusion = _confusion(confusion)
    # The sum over pairs of rows is K times the sum of squares around the mean row.
    spread = confusion - confusion.mean(-2, keepdim=True)
    return spread.square().sum((-2, -1)) / (confusion.shape[-1] - 1)


def expected_cost(confusion: Any, prevalence: Any, cost: Any) -> Tensor:
    r"""Cost of taking a label as the answer, :math:`\sum_{kj} \rho_k \pi_{kj} c_{kj}`.

    Parameters
    ----------
    confusion, prevalence
        As in `expected_accuracy`.
    cost
        ``[K, K]``: cost of answering class j to a task of class k.

    Returns
    -------
    Tensor
        ``[...]`` in the unit of ``cost``.

    Raises
    ------
    DataError
        If tables have other shapes, or a cost is not finite.

    Examples
    --------
    >>> missed = [[0.0, 1.0], [10.0, 0.0]]
    >>> expected_cost([[0.9, 0.1], [0.5, 0.5]], [0.8, 0.2], missed)
    tensor(1.0800)
    """
    confusion, prevalence = broadcasting(confusion, prevalence)
    cost = _cost(cost, confusion)
    return (prevalence.unsqueeze(-1) * confusion * cost).sum((-2, -1))


def decision_cost(confusion: Any, prevalence: Any, cost: Any) -> Tensor:
    r"""Cost of the best answer to one label, :math:`\sum_j \min_d \sum_k \rho_k \pi_{kj} c_{kd}`.

    The Bayes risk of an annotator: systematic errors cost nothing, since the answer corrects them,
    and a spammer costs as much as answering without a label (Ipeirotis, Provost & Wang 2010, HCOMP,
    on costs that tell spammers from biased workers).

    Parameters
    ----------
    confusion, prevalence, cost
        As in `expected_cost`.

    Returns
    -------
    Tensor
        ``[...]`` in the unit of ``cost``.

    Raises
    ------
    DataError
        As `expected_cost`.

    Examples
    --------
    >>> decision_cost([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]])
    tensor(0.)
    """
    confusion, prevalence = broadcasting(confusion, prevalence)
    joint = prevalence.unsqueeze(-1) * confusion
    # [..., d, j]: cost of answering d where j was reported.
    by_answer = _cost(cost, confusion).mT @ joint
    return by_answer.amin(-2).sum(-1)


def probability_below(scores: Any, threshold: float) -> Tensor:
    """Share of draws whose score lies below a threshold: how sure one is of excluding somebody.

    Parameters
    ----------
    scores
        ``[n_draws, L]``: a score by posterior draw and annotator.
    threshold
        What an annotator must reach.

    Returns
    -------
    Tensor
        ``[L]``, between 0 and 1.

    Raises
    ------
    DataError
        If there are no draws, or a number is not finite.

    Examples
    --------
    >>> probability_below([[0.1, 0.9], [0.3, 0.8]], threshold=0.2)
    tensor([0.5000, 0.0000])
    """
    scores = _numbers(scores, "scores")
    if scores.dim() != 2 or len(scores) == 0:
        raise DataError(f"scores: expected shape [n_draws, L], got {list(scores.shape)}")
    level = _numbers(threshold, "threshold")
    if level.dim():
        raise DataError(f"threshold: expected a number, got shape {list(level.shape)}")
    return (scores < float(threshold)).to(scores.dtype).mean(0)


def annotator_table(
    annotations: Annotations,
    confusion: Any,
    prevalence: Any,
    *,
    cost: Any = None,
    threshold: float | None = None,
    interval: float = 0.9,
) -> pd.DataFrame:
    """One row per annotator: how many labels, and how good they are.

    Parameters
    ----------
    annotations
        The labels, for the annotators' ids.
    confusion
        ``[L, K, K]``, or draws ``[chain, draw, L, K, K]``; one table for all, ``[K, K]`` or
        ``[chain, draw, K, K]``, counts for everybody. ``fit.draws["confusion"]`` will do.
    prevalence
        ``[K]``, or draws ``[chain, draw, K]``.
    cost
        ``[K, K]``; adds columns ``cost`` and ``decision_cost``.
    threshold
        Least `spammer_score` that is good enough; adds the column ``p_below``, the probability that
        an annotator does not reach it, or without draws ``below``, whether the estimate does not.
    interval
        Probability of the equal-tailed intervals.

    Returns
    -------
    DataFrame
        Indexed by annotator: ``labels``, and for ``accuracy``, ``spammer_score`` and the costs the
        estimate under that name (mean of the draws) with ``_lower`` and ``_upper`` where there are
        several draws.

    Raises
    ------
    DataError
        If tables do not fit the annotations, or an option is out of range.

    Examples
    --------
    >>> crowd = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], [1, 1, 0])
    >>> tables = [[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.5, 0.5]]]
    >>> annotator_table(crowd, tables, [0.5, 0.5]).round(2)
               labels  accuracy  spammer_score
    annotator
    ann             1       0.9           0.64
    bo              2       0.5           0.00
    """
    if not isinstance(annotations, Annotations):
        raise DataError(f"annotations: expected Annotations, got {type(annotations).__name__}")
    number = isinstance(interval, Real) and not isinstance(interval, bool)
    if not number or not 0 < interval < 1:
        raise DataError(f"interval: expected a probability between 0 and 1, got {interval!r}")
    if threshold is not None and not 0 <= float(_numbers(threshold, "threshold").max()) <= 1:
        raise DataError(f"threshold: expected a score between 0 and 1, got {threshold!r}")
    tables, shares = _by_draw(annotations, confusion, prevalence)
    scores: dict[str, Callable[[], Tensor]] = {
        "accuracy": lambda: expected_accuracy(tables, shares),
        "spammer_score": lambda: spammer_score(tables),
    }
    if cost is not None:
        scores["cost"] = lambda: expected_cost(tables, shares, cost)
        scores["decision_cost"] = lambda: decision_cost(tables, shares, cost)
    counts = torch.bincount(annotations.annotator.cpu(), minlength=annotations.n_annotators)
    columns: dict[str, NDArray[Any]] = {"labels": counts.numpy()}
    tails = [(1 - interval) / 2, (1 + interval) / 2]
    for name, score in scores.items():
        draws = score().cpu().numpy()
        columns[name] = draws.mean(0)
        if len(draws) > 1:
            columns[f"{name}_lower"], columns[f"{name}_upper"] = np.quantile(draws, tails, axis=0)
        if name == "spammer_score" and threshold is not None:
            below = probability_below(draws, threshold).numpy()
            columns |= {"p_below": below} if len(draws) > 1 else {"below": below > 0}
    ids = pd.Index(annotations.annotators, name="annotator", tupleize_cols=False)
    return pd.DataFrame(columns, index=ids)


def _by_draw(annotations: Annotations, confusion: Any, prevalence: Any) -> tuple[Tensor, Tensor]:
    """Tables ``[n_draws, L, K, K]`` and prevalences ``[n_draws, 1, K]``."""
    confusion, prevalence = checked_tables(confusion, prevalence)
    k, n = annotations.n_classes, annotations.n_annotators
    shared = confusion.dim() in (2, 4)
    tables = confusion.unsqueeze(-3).expand(*confusion.shape[:-2], n, k, k) if shared else confusion
    if tables.shape[-3:] != (n, k, k) or tables.dim() not in (3, 5):
        raise DataError(
            f"confusion: expected [{n}, {k}, {k}] or [{k}, {k}], or draws of it [chain, draw, "
            f"...], got {list(confusion.shape)}"
        )
    lead = tables.shape[:-3]
    if prevalence.shape != (*lead, k):
        raise DataError(
            f"prevalence: expected shape {[*lead, k]} beside this confusion, "
            f"got {list(prevalence.shape)}"
        )
    return tables.reshape(-1, n, k, k), prevalence.reshape(-1, 1, k)


def checked_tables(confusion: Any, shares: Any, name: str = "prevalence") -> tuple[Tensor, Tensor]:
    """Tables ``[..., K, K]`` and class probabilities ``[..., K]``, the argument ``name``.

    Raises
    ------
    DataError
        If either does not hold probabilities, or they differ in the number of classes.
    """
    confusion = _confusion(confusion)
    shares = probabilities(shares, name, 1)
    dtype = torch.promote_types(confusion.dtype, shares.dtype)
    confusion, shares = confusion.to(dtype), shares.to(device=confusion.device, dtype=dtype)
    if shares.shape[-1] != confusion.shape[-1]:
        raise DataError(
            f"{name}: expected {confusion.shape[-1]} classes as confusion has, "
            f"got {shares.shape[-1]}"
        )
    return confusion, shares


def broadcasting(confusion: Any, shares: Any, name: str = "prevalence") -> tuple[Tensor, Tensor]:
    """`checked_tables` whose leading axes broadcast.

    Raises
    ------
    DataError
        As `checked_tables`, and if leading axes have other lengths.
    """
    confusion, shares = checked_tables(confusion, shares, name)
    lead, other = list(confusion.shape[:-2]), list(shares.shape[:-1])
    if any(1 != a != b != 1 for a, b in zip(lead[::-1], other[::-1], strict=False)):
        raise DataError(
            f"{name}: expected leading axes that broadcast with those of confusion, {lead}, "
            f"got {other}"
        )
    return confusion, shares


def _confusion(value: Any) -> Tensor:
    table = probabilities(value, "confusion", 2)
    if table.shape[-1] != table.shape[-2] or table.shape[-1] < 2:
        raise DataError(
            f"confusion: expected square tables of at least 2 classes, got {list(table.shape)}"
        )
    return table


def probabilities(value: Any, name: str, least: int) -> Tensor:
    """A tensor of at least ``least`` dimensions whose last one sums to one.

    Raises
    ------
    DataError
        If it is something else.
    """
    table = _numbers(value, name)
    if table.dim() < least:
        raise DataError(f"{name}: expected at least {least} dimension(s), got {list(table.shape)}")
    near = bool((table >= 0).all()) and bool(((table.sum(-1) - 1).abs() <= _ROUNDING).all())
    if not near:
        raise DataError(f"{name}: expected probabilities that sum to one in the last dimension")
    return table


def _cost(value: Any, confusion: Tensor) -> Tensor:
    cost = _numbers(value, "cost").to(confusion)
    k = confusion.shape[-1]
    if cost.shape != (k, k):
        raise DataError(f"cost: expected shape [{k}, {k}], got {list(cost.shape)}")
    return cost


def _numbers(value: Any, name: str) -> Tensor:
    try:
        if isinstance(value, Tensor):
            tensor = value.detach()
            if tensor.is_complex():
                raise TypeError(f"dtype {tensor.dtype}")
        else:
            array = np.asarray(value)
            if array.dtype.kind == "O":  # a data frame of columns of several types
                array = array.astype(np.float64)
            if array.dtype.kind not in "fiub":
                raise TypeError(f"dtype {array.dtype}")
            tensor = torch.as_tensor(np.array(array))
        if not tensor.is_floating_point() or not isinstance(value, Tensor | np.ndarray):
            tensor = tensor.to(torch.get_default_dtype())
        finite = bool(torch.isfinite(tensor).all())
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: expected numbers, got {value!r}; {error}") from error
    if not finite:
        raise DataError(f"{name}: expected finite numbers, got nan or inf")
    return tensor
