"""Query synthesis: the learner makes up the points that it asks about (Angluin 1988)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from likely.inference.active.asking import Asking
from likely.inference.active.context import Context, Picks
from likely.inference.active.labelled import LabelledSet
from likely.inference.active.metrics import as_test
from likely.inference.active.pools import check_function
from likely.inference.active.predict import class_probabilities
from likely.inference.active.rounds import INTERRUPTED, UNPAID, Rounds
from likely.inference.active.state import State
from likely.inference.active.stopping import Progress
from likely.inference.active.strategies import Pointwise, as_strategy, checked_scores
from likely.inference.checkpoints import seed_of
from likely.inference.engines.checks import check_int, check_positive
from likely.inference.errors import OptionError
from likely.models.crowd._program import CrowdProgram

if TYPE_CHECKING:
    from likely.inference.active.learner import ActiveLearner


@dataclass(frozen=True)
class Ascent:
    """How the point with the highest score is searched.

    Parameters
    ----------
    starts : int
        Random points that are improved together, of which the best is asked.
    steps : int
        Steps of Adam.
    step_size : float
        Of the first step, as a share of the bounds' width; it falls to zero.
    """

    starts: int = 64
    steps: int = 100
    step_size: float = 0.05

    def __post_init__(self) -> None:
        check_int("starts", self.starts, 1)
        check_int("steps", self.steps, 0)
        check_positive("step_size", self.step_size)


def ascend(
    score: Callable[[Tensor], Tensor],
    bounds: tuple[Tensor, Tensor],
    *,
    options: Ascent | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Points inside bounds with high scores, by gradient ascent from random ones.

    Parameters
    ----------
    score : callable
        From points [n, d] to differentiable scores [n].
    bounds : (Tensor, Tensor)
        Lowest and highest values, each [d].
    options : Ascent, optional
        How.
    seed : int
        Of the random points.

    Returns
    -------
    points : Tensor
        [starts, d], highest score first.
    scores : Tensor
        [starts], each the highest on its way, so never below that of its start.
    """
    options = options or Ascent()
    low, high = checked_bounds(bounds)
    source = torch.Generator().manual_seed(seed)
    start = torch.rand(options.starts, len(low), generator=source, dtype=torch.float64)
    # In the unit cube one step size suits all features.
    unit = start.to(low).requires_grad_(True)
    optimiser = torch.optim.Adam([unit], lr=options.step_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 1.0 - step / max(1, options.steps)
    )
    best = low + (high - low) * unit.detach()
    top = torch.full((options.starts,), -torch.inf, dtype=low.dtype)
    for step in range(options.steps + 1):
        points = low + (high - low) * unit
        with torch.enable_grad():
            values = checked_scores(score(points), len(points), "ascent").to(top)
        better = values.detach() > top
        best[better], top[better] = points.detach()[better], values.detach()[better]
        if step == options.steps:
            break
        if not values.requires_grad:
            raise OptionError(
                "acquisition: its scores do not depend on the points differentiably; the program, "
                "the generator and the acquisition must be made of torch operations"
            )
        optimiser.zero_grad()
        (unit.grad,) = torch.autograd.grad(-values.sum(), [unit])
        # A flat or saturated place gives no direction; the point stays.
        unit.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            unit.clamp_(0.0, 1.0)
    if not bool(top.isfinite().any()):
        raise OptionError("acquisition: no point that was tried has a finite score")
    order = top.argsort(descending=True, stable=True)
    return best[order], top[order]


def synthesise(
    learner: ActiveLearner,
    bounds: tuple[Any, Any],
    *,
    queries: int,
    generator: Callable[[Tensor], Tensor] | None = None,
    initial: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    ascent: Ascent | None = None,
) -> Synthesised:
    """Learn from answers to made-up points, one a round.

    Each round fits the program and climbs the acquisition over x, or over the input z of a
    generator, x = g(z); until two classes were answered, points are drawn evenly from the bounds.
    Ctrl-C stops after the answers that are in.

    Parameters
    ----------
    learner : ActiveLearner
        Program of points and labels, engine, oracle (asked with the points themselves), and an
        acquisition that scores points one by one.
    bounds : (low, high)
        Numbers or [d] each: the box in which points, or the generator's inputs, are searched. Two
        tensors of float32 make inputs of float32, else they are of float64.
    queries : int
        Most questions.
    generator : callable, optional
        From inputs [n, d] to points [n, ...], differentiable: a decoder, say.
    initial : (x, labels), optional
        What is known already: points [m, ...] and classes [m].
    test : (x, labels), optional
        Points that the metric is taken of.
    ascent : Ascent, optional
        How points are searched.

    Returns
    -------
    Synthesised

    Raises
    ------
    OptionError
        If the acquisition chooses from a pool, the program is one of a crowd, bounds are empty or
        infinite, scores have no gradient, or another argument cannot be used.
    DataError
        If the oracle's answers, or the test points, cannot be used.

    Examples
    --------
    >>> from likely.inference import MAP
    >>> from likely.inference.active import ActiveLearner, FunctionOracle
    >>> from likely.models import LogisticRegression
    >>> learner = ActiveLearner(
    ...     program=LogisticRegression(), engine=MAP(), acquisition="entropy",
    ...     oracle=FunctionOracle(lambda queries: (queries.points[:, 0] > 1).long()),
    ... )
    >>> found = synthesise(learner, ([-3.0], [3.0]), queries=12)
    >>> bool(abs(found.points[-1, 0] - 1) < 0.3)
    True
    """
    strategy = as_strategy(learner.acquisition)
    if not isinstance(strategy, Pointwise):
        raise OptionError(
            f"acquisition {strategy.name!r} chooses from a pool; to make points up it must score "
            "them one by one, as 'entropy', 'margin' and 'bald' do"
        )
    check_int("queries", queries, 1)
    if isinstance(learner.program, CrowdProgram):
        raise OptionError(
            f"program {type(learner.program).__name__} judges points and people together and has "
            "no gradient over points; synthesise takes programs of points and labels"
        )
    if ascent is not None and not isinstance(ascent, Ascent):
        raise OptionError(f"ascent must be an Ascent, got {ascent!r}")
    if initial is not None and (not isinstance(initial, tuple | list) or len(initial) != 2):
        raise OptionError(f"initial must be (x, labels), got {type(initial).__name__}")
    test = as_test(test, learner.K)
    box = checked_bounds(bounds)
    make = _maker(generator)
    x, labels = (None, None) if initial is None else initial
    points = make(box[0][None]).detach()[:0]
    if x is not None:
        known = torch.as_tensor(x, dtype=points.dtype)
        if known.shape[1:] != points.shape[1:]:
            raise OptionError(
                f"initial must hold points of shape {tuple(points.shape[1:])}, got "
                f"{tuple(known.shape[1:])}"
            )
        points = known
    labelled = LabelledSet.empty(learner.K)
    if labels is not None:
        labelled = labelled.add(np.arange(len(points)), labels)
    state = State(labelled)
    stopped = ""
    with tqdm(total=queries, disable=not learner.progress, desc="synthesis") as bar:
        while not stopped:
            try:
                state, points, stopped = _round(
                    learner, strategy, state, points, box, make, test, ascent or Ascent(), queries
                )
            except KeyboardInterrupt:
                # The answers of the rounds before are in.
                stopped = INTERRUPTED
            bar.update(sum(len(row["indices"]) for row in state.rows) - bar.n)
    return Synthesised(state.fits, points, state.labelled, state.history, stopped)


@dataclass(frozen=True, eq=False)
class Synthesised:
    """What query synthesis comes back with.

    Attributes
    ----------
    fits : tuple of Fit
        The last fit, or the committee's.
    points : Tensor
        [m, ...]: the points that were known or asked about, in order.
    labelled : LabelledSet
        Their answers; positions are those in ``points``.
    history : DataFrame
        As that of `ActiveLearner.run`; ``indices`` are positions in ``points``.
    stopped : str
        Why it ended.
    """

    fits: tuple[Any, ...]
    points: Tensor
    labelled: LabelledSet
    history: Any
    stopped: str


def _round(
    learner: ActiveLearner,
    strategy: Pointwise,
    state: State,
    points: Tensor,
    box: tuple[Tensor, Tensor],
    make: Callable[[Tensor], Tensor],
    test: tuple[Any, Any] | None,
    options: Ascent,
    queries: int,
) -> tuple[State, Tensor, str]:
    rounds = Rounds(learner, points, test)
    seed = seed_of(learner.seed, state.round)
    asked = sum(len(row["indices"]) for row in state.rows)
    last = asked >= queries or rounds.affordable(state.labelled) <= 0
    cold = rounds.is_cold(state.labelled)
    if len(state.labelled) and (last or not cold):
        fits = rounds.trainer.fit(state.labelled, points, seed, state.fits)
        state = replace(state, fits=fits)
    gain = float("nan")
    found = box[0] + (box[1] - box[0]) * _uniform(len(box[0]), seed).to(box[0])
    if not last and not cold:
        found, scores = _climbed(learner, strategy, state, box, make, options, seed)
        gain = float(scores)
    row, predictions = rounds.judged_row(state, gain)
    judged = state.with_row(row, predictions)
    reason = rounds.reason(Progress(judged.history, judged.predictions, gain), cold)
    if last and not reason:
        reason = f"{queries} questions were asked" if asked >= queries else UNPAID
    if reason:
        return judged, points, reason
    with torch.no_grad():
        point = make(found[None]).detach()
    pool = torch.cat([points, point.to(points)])
    picks = Picks(np.array([len(points)]), np.array([gain]))
    asking = Asking(learner.oracle, pool, learner.K, learner.classes, learner.costs)
    context = Context(
        pool, picks.indices, state.labelled, state.fits, learner.K, seed,
        n_annotators=asking.n_annotators, pairs=lambda index: asking.pairs(state, index),
        call=learner.call, draws=learner.draws, costs=learner.costs,
    )  # fmt: skip
    choice = None if cold else learner.annotators
    picks = picks._replace(annotators=asking.whom(context, picks.indices, choice))
    if not len(asking.payable(picks, rounds.money(state.labelled)).indices):
        return judged, points, UNPAID
    state, reason = replace(rounds, pool=pool).asked(state, picks, row, predictions)
    return state, pool, reason


def _climbed(
    learner: ActiveLearner,
    strategy: Pointwise,
    state: State,
    box: tuple[Tensor, Tensor],
    make: Callable[[Tensor], Tensor],
    options: Ascent,
    seed: int,
) -> tuple[Tensor, Tensor]:
    def score(z: Tensor) -> Tensor:
        probabilities = class_probabilities(
            state.fits, make(z), learner.K, draws=learner.draws, call=learner.call, gradient=True
        )
        given = probabilities.mean(0) if strategy.needs == "prediction" else probabilities
        return strategy.score(given)

    points, scores = ascend(score, box, options=options, seed=seed)
    return points[0], scores[0]


def _uniform(size: int, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(size, generator=source, dtype=torch.float64)


def _maker(generator: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
    """Points of inputs; what a generator returns is checked."""
    if generator is None:
        return lambda z: z
    check_function("generator", generator)

    def make(z: Tensor) -> Tensor:
        try:
            points = generator(z)
        except RuntimeError as error:
            raise OptionError(
                f"generator failed with inputs of {z.dtype} and shape {tuple(z.shape)}, as the "
                f"bounds have: {error}"
            ) from error
        if not isinstance(points, Tensor) or points.dim() < 2 or len(points) != len(z):
            shape = f"shape {tuple(points.shape)}" if isinstance(points, Tensor) else type(points)
            raise OptionError(
                f"generator must return a tensor of {len(z)} points [{len(z)}, ...], got {shape}"
            )
        return points

    return make


def checked_bounds(bounds: Any) -> tuple[Tensor, Tensor]:
    """Bounds as two vectors: of float32 where both are such tensors, else of float64.

    Raises
    ------
    OptionError
        If they are no finite box.
    """
    if not hasattr(bounds, "__len__") or isinstance(bounds, str | Mapping) or len(bounds) != 2:
        raise OptionError(f"bounds must be (low, high), got {bounds!r}")
    single = all(isinstance(b, Tensor) and b.dtype == torch.float32 for b in bounds)
    dtype = torch.float32 if single else torch.float64
    try:
        low, high = (torch.atleast_1d(torch.as_tensor(b, dtype=dtype)) for b in bounds)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"bounds must be numbers, got {bounds!r}") from error
    try:
        low, high = torch.broadcast_tensors(low, high)
    except RuntimeError as error:
        raise OptionError(
            f"bounds must have one length, got {tuple(low.shape)} and {tuple(high.shape)}"
        ) from error
    finite = torch.isfinite(low) & torch.isfinite(high)
    if low.dim() != 1 or not len(low) or not bool((finite & (low < high)).all()):
        raise OptionError(
            f"bounds must be finite with low below high, got {low.tolist()} and {high.tolist()}"
        )
    return low.clone(), high.clone()
