"""Class probabilities of new points under any fitted program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.inference.errors import FitError, OptionError, ProgramError
from likely.inference.fit import Fit
from likely.inference.handlers import base_distribution, is_deterministic, is_plate
from likely.inference.program import Program, Values
from likely.inference.quantities import pointwise_log_likelihood

# From points and their labels to the arguments of a program.
Call = Callable[[Any, Tensor], tuple[tuple[Any, ...], Mapping[str, Any]]]


def points_and_labels(x: Any, labels: Tensor) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments ``(x, labels)``, which most programs of labels take."""
    return (x, labels), {}


def called(call: Call, x: Any, labels: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the program that ``call`` gives.

    Raises
    ------
    OptionError
        If they are not a tuple and a mapping.
    """
    given = call(x, labels)
    if isinstance(given, tuple) and len(given) == 2:
        args, kwargs = given
        if isinstance(args, tuple | list) and isinstance(kwargs, Mapping):
            return tuple(args), dict(kwargs)
    raise OptionError(
        "call must return the program's positional and keyword arguments, ((x, labels), {}), got "
        f"{type(given).__name__}"
    )


def class_probabilities(
    fits: Fit | Sequence[Fit],
    x: Any,
    n_classes: int,
    *,
    draws: int = 100,
    call: Call = points_and_labels,
    gradient: bool = False,
    rows: np.ndarray[Any, Any] | None = None,
) -> Tensor:
    """Probabilities of the classes of new points, draw by draw.

    A program says p(data | θ); the class of a point is judged by Bayes' rule, p(k | x, θ) ∝
    p(x, label = k | θ), which holds for programs of labels given points and for programs of both
    (`NaiveBayes`). Where the label's site has a categorical distribution and nothing else depends
    on the label, that distribution is read; otherwise the program's log-density is compared for
    all classes. A program may say it faster with a method ``predict_proba(params, x)``.

    Parameters
    ----------
    fits : Fit or sequence of Fit
        One fit, or a committee, whose members' draws are put one after another.
    x : array
        New points, [n, ...].
    n_classes : int
        Number of classes K.
    draws : int
        Most posterior draws of each fit, evenly spread.
    call : callable
        ``call(x, labels)`` gives the positional and keyword arguments of the program.
    gradient : bool
        Keep the graph, for derivatives by ``x``; a method ``predict_proba`` is then not asked.
    rows : ndarray, optional
        int64 [n]: the points' numbers, for errors.

    Returns
    -------
    Tensor
        [draws, n, K], rows summing to one; one draw for each point fit.

    Raises
    ------
    FitError
        If a fit has no program.
    ProgramError
        If the program's density is not a number for each point, or a point's probabilities are
        not finite.

    Examples
    --------
    >>> from likely.inference import MAP
    >>> from likely.models import SoftmaxRegression
    >>> x = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    >>> fit = MAP().fit(SoftmaxRegression(2), x, torch.tensor([0, 0, 1, 1]))
    >>> class_probabilities(fit, torch.tensor([[0.0], [3.0]]), 2).argmax(-1)[0, 1]
    tensor(1)
    """
    members = [fits] if isinstance(fits, Fit) else list(fits)
    if not members:
        raise FitError("fits must hold at least one fit, got none")
    found = []
    for fit in members:
        program = fit.bound("class_probabilities()")
        values = fit.each_draw(draws)
        if program.hook("predict_proba") is not None and not gradient:
            found += [_by_hook(program, value, x, n_classes) for value in values]
            continue
        with torch.set_grad_enabled(gradient):
            found += _by_density(program, values, x, n_classes, call)
    stacked = torch.stack(found)
    finite = stacked.detach().isfinite().all(-1).all(0)
    if not bool(finite.all()):
        where = int((~finite).nonzero()[0, 0])
        raise ProgramError(
            f"the program gives no probabilities (NaN) to point "
            f"{where if rows is None else rows[where]}: are all its features finite?"
        )
    return stacked


def _by_hook(program: Program, values: Values, x: Any, n_classes: int) -> Tensor:
    with program.session(0), torch.no_grad():
        probabilities = program.hook("predict_proba")(values, x)
    if probabilities.shape != (len(x), n_classes):
        raise ProgramError(
            f"predict_proba must return shape {(len(x), n_classes)}, got "
            f"{tuple(probabilities.shape)}"
        )
    return torch.as_tensor(probabilities)


def _by_density(
    program: Program, values: Sequence[Values], x: Any, n_classes: int, call: Call
) -> list[Tensor]:
    n = len(x)

    def bound(label: int) -> Program:
        labels = torch.full((n,), label, dtype=torch.int64, device=program.device)
        args, kwargs = called(call, x, labels)
        return program.rebind(*args, **kwargs)

    with program.session(0):
        first = bound(0)
        direct = [_read(first, value, n, n_classes) for value in values[:1]]
        if direct[0] is not None:
            rest = [_read(first, value, n, n_classes) for value in values[1:]]
            return [torch.as_tensor(probabilities) for probabilities in direct + rest]
        every = [first, *(bound(label) for label in range(1, n_classes))]
        scores = [torch.stack([_by_point(p, value, n) for p in every], -1) for value in values]
    return [score.softmax(-1) for score in scores]


def _read(program: Program, values: Values, n: int, n_classes: int) -> Tensor | None:
    """Class probabilities of the only observed site, if it is categorical by point."""
    nodes = program.trace(lambda name, msg: values.get(name), enumerate_latents=False).nodes
    observed = [
        node
        for node in nodes.values()
        if node["type"] == "sample"
        and node["is_observed"]
        and not is_plate(node)
        and not is_deterministic(node)
    ]
    latent = any(name in program.sites.latents for name in nodes)
    if len(observed) != 1 or latent:
        return None
    fn: Any = base_distribution(observed[0]["fn"])
    if isinstance(fn, dist.Bernoulli) and fn.batch_shape == (n,) and n_classes == 2:
        return torch.stack([1 - fn.probs, fn.probs], -1)
    if isinstance(fn, dist.Categorical) and fn.probs.shape == (n, n_classes):
        return torch.as_tensor(fn.probs)
    return None


def _by_point(program: Program, values: Values, n: int) -> Tensor:
    """Log-density [n] of everything that is observed of each point."""
    total = program.zero.new_zeros(n)
    for name, (log_prob, _) in pointwise_log_likelihood(program, values).items():
        if log_prob.shape != (n,):
            raise ProgramError(
                f"site '{name}' must have one log-density for each of the {n} points, to compare "
                f"classes by it; it has shape {tuple(log_prob.shape)}. Give the program a method "
                "predict_proba(params, x)"
            )
        total = total + log_prob
    return total


def rows_within(budget: int, n_draws: int, n_classes: int, itemsize: int = 8) -> int:
    """How many points' probabilities [draws, rows, K] fit into so many bytes; at least one."""
    return max(1, int(budget // max(1, n_draws * n_classes * itemsize)))


def take(x: Any, index: np.ndarray[Any, Any]) -> Any:
    """Rows of a tensor, array or data frame, or of a list."""
    if hasattr(x, "iloc"):
        return x.iloc[index]
    if isinstance(x, Tensor):
        return x[torch.as_tensor(index, device=x.device)]
    if isinstance(x, np.ndarray):
        return x[index]
    return [x[int(i)] for i in index]
