"""How a batch is chosen: acquisition functions as the learner calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from likely.inference.active import acquisition as scores_of
from likely.inference.active.batches import batch_bald, power_bald, top_batch
from likely.inference.active.context import Context, Picks, Strategy
from likely.inference.active.labelled import Ints
from likely.inference.active.lookahead import LOSSES, expected_error_reduction
from likely.inference.active.one_pass import naive_bayes_error_reduction
from likely.inference.active.predict import called, class_probabilities, take
from likely.inference.active.subset import core_set, likelihood_projections, sparse_subset
from likely.inference.active.training import with_options
from likely.inference.engines.checks import check_bool, check_choice, check_int, check_positive
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.models import NaiveBayes
from likely.models.crowd._program import CrowdProgram


@dataclass(frozen=True)
class Random:
    """Any candidates, all equally likely: passive learning."""

    name: ClassVar[str] = "random"
    needs: ClassVar[str] = "nothing"

    def select(self, context: Context, batch_size: int) -> Picks:
        """Draw without replacement."""
        rng = np.random.default_rng(context.seed)
        picked = rng.choice(context.candidates, batch_size, replace=False)
        # Nothing is expected of any point, which is not to expect that it brings nothing.
        return Picks(picked, np.zeros(batch_size), gain=float("nan"))


@dataclass(frozen=True)
class Pointwise:
    """The candidates with the highest scores, one by one.

    Parameters
    ----------
    name : str
        For the record.
    score : callable
        From probabilities to scores [b]: of [b, K], the mean over draws, where ``needs`` is
        ``"prediction"``, of [draws, b, K] otherwise.
    needs : {"prediction", "draws", "any"}
        With ``"draws"`` a point fit is refused; ``"any"`` gives it as one draw.
    """

    name: str
    score: Callable[[Tensor], Tensor]
    needs: str = "prediction"

    def __post_init__(self) -> None:
        if not callable(self.score):
            raise OptionError(f"score must be a function of probabilities, got {self.score!r}")
        check_choice("needs", self.needs, ("prediction", "draws", "any"))

    def scores(self, context: Context) -> Tensor:
        """Scores of all candidates."""
        found = []
        for _, probabilities in context.chunks():
            given = probabilities.mean(0) if self.needs == "prediction" else probabilities
            found.append(checked_scores(self.score(given), given.shape[-2], self.name).cpu())
        return torch.cat(found)

    def select(self, context: Context, batch_size: int) -> Picks:
        """The highest scores; of equal ones the first in the pool."""
        return _picks(context.candidates, top_batch(self.scores(context), batch_size))


def checked_scores(given: Any, count: int, name: str) -> Tensor:
    """Scores [count] that an acquisition returned, as a tensor.

    Raises
    ------
    OptionError
        If it returned anything else.
    """
    score = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
    if not isinstance(score, Tensor) or score.shape != (count,):
        shape = getattr(given, "shape", None)
        raise OptionError(
            f"acquisition {name!r} must return one score for each of {count} points, got "
            + (type(given).__name__ if shape is None else f"shape {tuple(shape)}")
        )
    return score


@dataclass(frozen=True)
class PowerBALD:
    """Scores to a power as probabilities of being drawn (Kirsch et al. 2023).

    Parameters
    ----------
    beta : float
        1 draws in proportion to the scores; more is greedier.
    """

    beta: float = 1.0
    name: ClassVar[str] = "power_bald"
    needs: ClassVar[str] = "draws"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def select(self, context: Context, batch_size: int) -> Picks:
        """Draw without replacement."""
        scores = Pointwise("bald", scores_of.bald, "draws").scores(context)
        found = power_bald(scores, batch_size, beta=self.beta, seed=context.seed)
        return _picks(context.candidates, found, float(scores.max()))


@dataclass(frozen=True)
class Joint:
    """A batch chosen together, from the candidates with the highest `bald`.

    Parameters
    ----------
    name : str
        For the record.
    choose : callable
        ``choose(probabilities [draws, m, K], batch_size, seed)`` gives (indices, scores).
    shortlist : int
        How many candidates take part; their probabilities are in memory together.
    """

    name: str
    choose: Callable[[Tensor, int, int], Any]
    shortlist: int = 1000
    needs: ClassVar[str] = "draws"

    def __post_init__(self) -> None:
        check_int("shortlist", self.shortlist, 1)
        if not callable(self.choose):
            raise OptionError(f"choose must be a function of probabilities, got {self.choose!r}")

    def select(self, context: Context, batch_size: int) -> Picks:
        """The batch, each point given the ones before it."""
        kept = context.candidates
        most = max(batch_size, self.shortlist)
        if len(kept) > most:
            scores = Pointwise("bald", scores_of.bald, "draws").scores(context)
            kept = np.sort(kept[top_batch(scores, most).indices.numpy()])
        probabilities = context.probabilities(kept)
        found = self.choose(probabilities, batch_size, context.seed)
        if not isinstance(found, tuple) or len(found) != 2:
            raise OptionError(
                f"acquisition {self.name!r} must return (indices, scores), got "
                f"{type(found).__name__}"
            )
        return _picks(kept, found, float(scores_of.bald(probabilities).max()))


@dataclass(frozen=True)
class CoreSet:
    """Points far from all that are labelled: k-centre greedy (Sener & Savarese 2018).

    Parameters
    ----------
    features : callable, optional
        From the pool to the vectors that distances are taken of; by default the pool itself.
    """

    features: Callable[[Any], Any] | None = None
    name: ClassVar[str] = "core_set"
    needs: ClassVar[str] = "nothing"

    def __post_init__(self) -> None:
        if self.features is not None and not callable(self.features):
            raise OptionError(f"features must be a function of the pool, got {self.features!r}")

    def select(self, context: Context, batch_size: int) -> Picks:
        """The farthest point, again and again."""
        x = context.x if self.features is None else self.features(context.x)
        if not hasattr(x, "__len__") or len(x) != len(context.x):
            raise OptionError(
                f"features must return a vector for each of the {len(context.x)} points of the "
                f"pool, got {len(x) if hasattr(x, '__len__') else type(x).__name__}"
            )
        near, centres = (
            _vectors(take(x, i)) for i in (context.candidates, context.labelled.points)
        )
        found = core_set(near, batch_size, labelled=centres, budget=context.budget)
        return _picks(context.candidates, found)


@dataclass(frozen=True)
class ErrorReduction:
    """Expected error reduction over the candidates, by refits (Roy & McCallum 2001).

    `NaiveBayes` with `MAP` or `EM` is updated in one pass; other programs are fitted again, from
    the present fit, for each candidate and class.

    Parameters
    ----------
    loss : {"log", "zero_one"}
    shortlist : int
        How many candidates take part, those of highest `entropy`: each costs K fits.
    exclude_candidate : bool
        Leave the candidate's own row out of the error.
    """

    loss: str = "log"
    shortlist: int = 50
    exclude_candidate: bool = False
    name: ClassVar[str] = "expected_error_reduction"
    needs: ClassVar[str] = "prediction"

    def __post_init__(self) -> None:
        check_int("shortlist", self.shortlist, 1)
        check_choice("loss", self.loss, LOSSES)
        check_bool("exclude_candidate", self.exclude_candidate)

    def select(self, context: Context, batch_size: int) -> Picks:
        """The candidates that promise the largest reduction."""
        trainer, fit = context.trainer, context.fits[0]
        if trainer is None or isinstance(trainer.program, CrowdProgram) or len(context.fits) > 1:
            raise OptionError(
                "expected_error_reduction refits a program of labels with one engine; it takes "
                "neither a crowd program nor a committee"
            )
        kept = context.candidates
        most = max(batch_size, self.shortlist)
        if len(kept) > most:
            scores = Pointwise("entropy", scores_of.entropy).scores(context)
            kept = np.sort(kept[top_batch(scores, most).indices.numpy()])
        points = context.labelled.points
        labels = context.labelled.posterior(trainer.truth).argmax(-1)
        options: dict[str, Any] = {"loss": self.loss, "exclude_candidate": self.exclude_candidate}
        program = trainer.program
        if isinstance(program, NaiveBayes) and trainer.engine.name in ("map", "em"):
            x, pool = (torch.as_tensor(np.asarray(take(context.x, i))) for i in (points, kept))
            gain = naive_bayes_error_reduction(
                program, x, labels, pool, budget=context.budget, **options
            )
        else:
            engine = with_options(trainer.engine, init=fit)

            # Points go by their numbers, so that the pool may hold anything.
            def refit(rows: Tensor, answers: Tensor) -> Tensor:
                args, kwargs = called(context.call, take(context.x, rows.numpy()), answers)
                return _mean(engine.fit(program, *args, **kwargs), take(context.x, kept), context)

            numbers = (torch.from_numpy(points), labels, torch.from_numpy(kept))
            gain = expected_error_reduction(refit, *numbers, **options)
        return _picks(kept, top_batch(gain, batch_size))


Acquisition = str | Strategy | Callable[[Tensor], Tensor]


def _batch_bald(probabilities: Tensor, batch_size: int, seed: int) -> Any:
    return batch_bald(probabilities, batch_size, seed=seed)


def _sparse_subset(probabilities: Tensor, batch_size: int, seed: int) -> Any:
    return sparse_subset(likelihood_projections(probabilities), batch_size)


def _mean(fit: Fit, x: Any, context: Context) -> Tensor:
    return class_probabilities(
        fit, x, context.n_classes, draws=context.draws, call=context.call
    ).mean(0)


def _registry() -> dict[str, Strategy]:
    point = ("entropy", "least_confident", "margin")
    draws = ("vote_entropy", "vote_disagreement", "consensus_kl", "consensus_js", "bald")
    found: list[Strategy] = [Random(), CoreSet(), PowerBALD(), ErrorReduction()]
    found += [Pointwise(name, getattr(scores_of, name)) for name in point]
    found += [Pointwise(name, getattr(scores_of, name), "draws") for name in draws]
    found += [Joint("batch_bald", _batch_bald), Joint("sparse_subset", _sparse_subset)]
    return {strategy.name: strategy for strategy in found}


ACQUISITIONS = _registry()


def as_strategy(acquisition: Acquisition) -> Strategy:
    """A strategy by its name, itself, or from a function of probabilities [draws, b, K].

    Raises
    ------
    OptionError
        If it is none of these.
    """
    if isinstance(acquisition, str):
        if acquisition not in ACQUISITIONS:
            raise OptionError(
                f"acquisition must be one of {', '.join(sorted(ACQUISITIONS))}, a strategy or a "
                f"function of probabilities, got {acquisition!r}"
            )
        return ACQUISITIONS[acquisition]
    if isinstance(acquisition, type):
        raise OptionError(
            f"acquisition must be an instance, got the class {acquisition.__name__}: call it"
        )
    if isinstance(acquisition, Strategy):
        return acquisition
    if callable(acquisition):
        for shipped in ACQUISITIONS.values():
            if isinstance(shipped, Pointwise) and shipped.score is acquisition:
                return shipped
        name = getattr(acquisition, "__name__", type(acquisition).__name__)
        return Pointwise(name, acquisition, "any")
    raise OptionError(f"acquisition must be a name, a strategy or a function, got {acquisition!r}")


def _vectors(x: Any) -> Tensor:
    """Rows of a pool as vectors."""
    try:
        return torch.as_tensor(np.asarray(x))
    except TypeError as error:
        raise OptionError(
            "core_set takes distances in the pool, which must hold numbers [n, d]: say with "
            f"CoreSet(features=...) how it becomes vectors; {error}"
        ) from error


def _picks(candidates: Ints, found: Any, gain: float | None = None) -> Picks:
    """A batch function's (indices, scores) by position in the candidates, by row of the pool."""
    indices, scores = found
    where = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    value = np.asarray(scores.cpu() if isinstance(scores, Tensor) else scores, dtype=float)
    if where.ndim != 1 or (len(where) and where.max() >= len(candidates)):
        raise OptionError(
            f"a batch must hold positions among the {len(candidates)} candidates, got {indices!r}"
        )
    return Picks(candidates[where], value, gain=gain)
