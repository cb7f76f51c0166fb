"""Following noisy gradients: which optimiser, with which steps, and how the search ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from likely.inference.checkpoints import NOTHING, Memory
from likely.inference.engines.batches import Batch, Batches, Source
from likely.inference.errors import OptionError
from likely.inference.optimise import Evaluation, Minimum, OptimizerFactory, descend
from likely.inference.polish import polish

# Adam's step in unconstrained coordinates, and SGD's in units of the largest curvature.
_ADAM_STEP, _SGD_STEP, _MOMENTUM = 0.05, 0.5, 0.9
# Products with the Hessian that find its largest eigenvalue well enough for a step size.
_PRODUCTS = 10
# Epochs of noisy steps for each pass over all data at the end.
_EPOCHS = 4


def check_factory(optimizer: Callable[..., Any]) -> None:
    """Raise an `OptionError` for torch's L-BFGS, which steps by a line search of its own."""
    made = optimizer
    while isinstance(made, partial):
        made = made.func
    if isinstance(made, type) and issubclass(made, torch.optim.LBFGS):
        raise OptionError(
            "optimizer: torch.optim.LBFGS evaluates the objective itself, several times a step; "
            "optimizer='lbfgs' is that search"
        )


def search(
    source: Source | None,
    evaluate: Callable[[Batch | None, torch.Tensor], Evaluation],
    start: torch.Tensor,
    *,
    optimizer: str | OptimizerFactory,
    max_iter: int,
    tol: float,
    step: Callable[[float, torch.Tensor], bool],
    memory: Memory = NOTHING,
) -> Minimum:
    """Minimise with a torch optimiser on mini-batches, or on all data where there is no source.

    Parameters
    ----------
    source : Source or None
        Where mini-batches come from.
    evaluate : callable
        Maps a batch (``None`` for all data) and a point [n] to the value, scaled up to all data,
        and gradient [n].
    start : Tensor, [n]
    optimizer : str or callable
        ``"sgd"``, a callable that makes a torch optimiser, or Adam.
    max_iter, tol, step, memory
        As in `likely.inference.optimise.descend`.

    Raises
    ------
    OptionError
        If ``optimizer`` makes no torch optimiser, or one that needs a closure.
    """
    fractions: list[float] = []

    def noisy(x: torch.Tensor) -> Evaluation:
        batch = source.batch() if source is not None else None
        if batch is not None:
            fractions.append(batch.fraction)
        return evaluate(batch, x)

    def whole(x: torch.Tensor) -> Evaluation:
        assert source is not None
        value, gradient = 0.0, torch.zeros_like(x)
        for batch in source.whole():
            part, slope = evaluate(batch, x)
            value += batch.fraction * part
            gradient += batch.fraction * slope
        return value, gradient

    if optimizer == "sgd":
        fixed = source.batch() if source is not None else None
        factory = _sgd(lambda x: evaluate(fixed, x), start)
    elif isinstance(optimizer, str):
        factory = partial(torch.optim.Adam, lr=_ADAM_STEP)
    else:
        factory = optimizer
    if isinstance(source, Batches):
        _remember(source, fractions, memory)
    found = descend(
        noisy,
        start,
        optimizer=_checked(factory),
        max_iter=max_iter,
        tol=tol,
        step=step,
        stochastic=source is not None,
        memory=memory,
    )
    passes = int(sum(fractions) / _EPOCHS)
    if source is None or found.stopped or passes < 1:
        return found
    return polish(whole, found, sum(fractions) / len(fractions), passes, tol)


def _remember(batches: Batches, fractions: list[float], memory: Memory) -> None:
    """Keep which rows are still to come along with the state, and go on with those found."""
    own = memory.beside
    memory.beside = lambda: {**own(), "order": batches.order, "fractions": fractions}
    if memory.found is not None:
        batches.order = memory.found["order"]
        fractions[:] = memory.found["fractions"]


def _checked(factory: OptimizerFactory) -> OptimizerFactory:
    def make(tensors: list[torch.Tensor]) -> torch.optim.Optimizer:
        made = factory(tensors)
        if not isinstance(made, torch.optim.Optimizer) or isinstance(made, torch.optim.LBFGS):
            raise OptionError(
                "optimizer must make a torch.optim.Optimizer whose steps need no closure, got "
                f"{type(made).__name__}"
            )
        return made

    return make


def _sgd(function: Callable[[torch.Tensor], Evaluation], start: torch.Tensor) -> OptimizerFactory:
    """Gradient descent with Nesterov's momentum, its step half the inverse of the curvature."""
    curvature = largest_curvature(function, start)
    size = _SGD_STEP / curvature if curvature > 0 else _SGD_STEP
    return partial(torch.optim.SGD, lr=size, momentum=_MOMENTUM, nesterov=True)


def largest_curvature(function: Callable[[torch.Tensor], Evaluation], x: torch.Tensor) -> float:
    """Largest absolute eigenvalue of the Hessian at ``x`` [n], by power iteration.

    Products with the Hessian are differences of gradients.
    """
    if x.numel() == 0:
        return 0.0
    _, here = function(x)
    # The steepest direction holds some of every direction that matters.
    direction = here if float(here.norm()) > 0 else torch.ones_like(here)
    value = 0.0
    for _ in range(_PRODUCTS):
        direction = direction / direction.norm()
        away = torch.finfo(x.dtype).eps ** 0.5 * (1.0 + float(x.norm()))
        product = (function(x + away * direction)[1] - here) / away
        value = float(product.norm())
        if not 0.0 < value < float("inf"):
            return 0.0
        direction = product
    return value
