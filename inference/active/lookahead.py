r"""Look-ahead: how much less wrong a model would be, once the answer is known.

Expected error reduction (Roy & McCallum 2001): each candidate is given each class in turn, the
model learns it, its error over the pool is estimated from its own probabilities, and the classes
are weighted by their present probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.acquisition import entropy, least_confident
from likely.inference.active.blocks import TOLERANCE, as_probabilities, check_rows
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_bool, check_choice
from likely.inference.errors import OptionError
from likely.inference.fit import Fit

LOSSES = ("log", "zero_one")
# From labelled points and their classes to class probabilities of the pool.
Refit = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def pool_errors(probs: Any, loss: str) -> Tensor:
    """Error that a predictive expects of itself at each point: entropy, or 1 less the largest.

    Parameters
    ----------
    probs : Tensor
        [pool, classes].
    loss : {"log", "zero_one"}

    Returns
    -------
    Tensor
        [pool].
    """
    check_choice("loss", loss, LOSSES)
    return entropy(probs) if loss == "log" else least_confident(probs)


def expected_error_reduction(
    refit: Refit,
    x: Any,
    labels: Any,
    pool: Any,
    *,
    loss: str = "log",
    exclude_candidate: bool = False,
    candidates: Any = None,
) -> Tensor:
    r"""How far the expected error over the pool falls when a candidate is labelled.

    :math:`\sum_j \ell(p_j) - \sum_k p_{ik} \sum_j \ell(p_j^{(i,k)})` with :math:`p` the present
    predictive, :math:`p^{(i,k)}` that of a refit with candidate i in class k, and :math:`\ell` the
    entropy (log loss) or one minus the largest probability (0/1 loss). Sums are over the whole
    pool. The first is the same for all candidates, so the expected future error itself is
    ``pool_errors(refit(x, labels), loss).sum()`` minus the result.

    Parameters
    ----------
    refit : callable
        ``refit(x, labels)`` learns from points [n, ...] and classes [n] and gives probabilities
        [pool, classes] of the pool. `refit_program` makes one of a program and an engine,
        started anew or at a fit. It is called once, and once for each candidate and class of
        positive probability.
    x : Tensor
        Labelled points, [n, ...].
    labels : Tensor
        Their classes, [n] integers.
    pool : Tensor
        Points without label, [pool, ...].
    loss : {"log", "zero_one"}
    exclude_candidate : bool
        Whether a candidate's own row is left out of its future error, since its label will be
        known; the result then counts its whole present error as gone.
    candidates : Tensor, optional
        int64 [m]: points of the pool to look at; all by default.

    Returns
    -------
    Tensor
        [m], or [pool]: the reduction, in nats or expected mistakes.

    Raises
    ------
    DataError
        If sizes contradict each other, or ``refit`` returns no probabilities of the pool.
    OptionError
        If an option has a value it cannot have.

    Examples
    --------
    The share of each class so far, whatever the point: one label more makes it surer.

    >>> def shares(x, labels):
    ...     counts = torch.bincount(labels, minlength=2) + 1.0
    ...     return (counts / counts.sum()).expand(3, 2)
    >>> pool = torch.zeros(3, 1)
    >>> gain = expected_error_reduction(shares, pool[:2], torch.tensor([0, 0]), pool)
    >>> gain.shape, bool((gain > 0).all())
    (torch.Size([3]), True)
    """
    check_choice("loss", loss, LOSSES)
    check_bool("exclude_candidate", exclude_candidate)
    x, labels, pool = as_labelled(x, labels, pool)
    index = as_candidates(candidates, pool)
    present = _checked(refit(x, labels), len(pool))
    total = pool_errors(present, loss).sum()
    found = torch.empty(len(index), dtype=present.dtype, device=present.device)
    for position, i in enumerate(index.tolist()):
        expected = torch.zeros_like(total)
        points = torch.cat([x, pool[i : i + 1]])
        for k in range(present.shape[1]):
            if float(present[i, k]) == 0:
                continue
            answers = torch.cat([labels, labels.new_tensor([k])])
            errors = pool_errors(_checked(refit(points, answers), len(pool)), loss)
            future = errors.sum()
            if exclude_candidate:
                future = future - errors[i]
            expected += present[i, k] * future.to(expected)
        found[position] = total - expected
    return found


def refit_program(
    program: Callable[..., Any],
    engine: Engine,
    pool: Any,
    predict: Callable[[Fit, Any], Tensor],
    *,
    init: Fit | Mapping[str, Any] | None = None,
) -> Refit:
    """A refit for `expected_error_reduction` of any program of points and labels.

    Parameters
    ----------
    program : callable
        Called with points and labels.
    engine : Engine
        Fits it.
    pool : Tensor
        Points to be predicted.
    predict : callable
        ``predict(fit, pool)`` gives class probabilities [pool, classes].
    init : Fit or mapping, optional
        Where every fit starts, e.g. the fit of the labelled points alone: one label more moves
        the optimum little. By default the engine's own start.

    Returns
    -------
    callable
        ``refit(x, labels)``.

    Raises
    ------
    OptionError
        If ``engine`` is none.

    Examples
    --------
    >>> from likely.inference import EM
    >>> from likely.models import NaiveBayes
    >>> pool = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    >>> program = NaiveBayes(2)
    >>> refit = refit_program(
    ...     program,
    ...     EM(objective="posterior"),
    ...     pool,
    ...     lambda fit, x: program.predict_proba(fit.params, x),
    ... )
    >>> refit(pool, torch.tensor([0, 1]))
    tensor([[0.6667, 0.3333],
            [0.3333, 0.6667]], dtype=torch.float64)
    """
    if not isinstance(engine, Engine):
        raise OptionError(f"engine must be an engine, got {type(engine).__name__}")
    started: Any = engine if init is None else replace(engine, init=init)  # type: ignore[type-var]

    def refit(x: Tensor, labels: Tensor) -> Tensor:
        return predict(started.fit(program, x, labels), pool)

    return refit


def as_labelled(x: Any, labels: Any, pool: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Points and classes so far, and the pool, as tensors that fit together.

    Raises
    ------
    DataError
        If sizes contradict each other, or labels are no classes.
    """
    x, labels, pool = (torch.as_tensor(value) for value in (x, labels, pool))
    if x.dim() < 1 or pool.dim() != x.dim() or pool.shape[1:] != x.shape[1:]:
        raise DataError(
            f"pool must have points like those of x: got shapes {tuple(pool.shape)} and "
            f"{tuple(x.shape)}"
        )
    if not len(pool):
        raise DataError("pool is empty")
    if labels.shape != x.shape[:1]:
        raise DataError(
            f"labels must have one entry for each of {len(x)} points, got shape "
            f"{tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool or bool((labels < 0).any()):
        raise DataError(f"labels must be classes 0, 1, 2, ..., got {labels.dtype}")
    return x, labels, pool.to(x)


def as_candidates(candidates: Any, pool: Tensor) -> Tensor:
    """Rows of the pool, int64 [m]; all where none are given.

    Raises
    ------
    DataError
        If they are no such rows.
    """
    if candidates is None:
        return torch.arange(len(pool), device=pool.device)
    index = torch.as_tensor(candidates, device=pool.device)
    whole = not index.is_floating_point() and index.dtype != torch.bool
    if index.dim() != 1 or not len(index) or not whole:
        raise DataError("candidates must be integers [m], rows of the pool, and not empty")
    if bool(((index < 0) | (index >= len(pool))).any()):
        raise DataError(f"candidates must be rows from 0 to {len(pool) - 1} of the pool")
    return index.long()


def _checked(probs: Any, size: int) -> Tensor:
    tensor = as_probabilities(probs, 2, "refit's result")
    if len(tensor) != size:
        raise DataError(
            f"refit's result must have {size} rows, one for each point of the pool, got "
            f"{len(tensor)}"
        )
    check_rows(tensor, TOLERANCE[tensor.dtype], name="refit's result")
    return tensor
