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
from likely.inference.active.lookahead import LOSSES, expected_error_reduction, refit_program
from likely.inference.active.one_pass import naive_bayes_error_reduction
from likely.inference.active.predict import class_probabilities, take
from likely.inference.active.subset import core_set, likelihood_projections, sparse_subset
from likely.inference.engines.checks import check_bool, check_choice, check_int
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
        return Picks(picked, np.zeros(batch_size))


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

    def scores(self, context: Context) -> Tensor:
        """Scores of all candidates."""
        found = []
        for _, probabilities in context.chunks():
            given = probabilities.mean(0) if self.needs == "prediction" else probabilities
            score = self.score(given)
            if score.shape != given.shape[-2:-1]:
                raise OptionError(
                    f"acquisition {self.name!r} must return one score for each of "
                    f"{given.shape[-2]} points, got shape {tuple(score.shape)}"
                )
            found.append(score.cpu())
        return torch.cat(found)

    def select(self, context: Context, batch_size: int) -> Picks:
        """The highest scores; of equal ones the first in the pool."""
        return _picks(context.candidates, top_batch(self.scores(context), batch_size))


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

    def select(self, context: Context, batch_size: int) -> Picks:
        """Draw without replacement."""
        scores = Pointwise("bald", scores_of.bald, "draws").scores(context)
        found = power_bald(scores, batch_size, beta=self.beta, seed=context.seed)
        return _picks(context.candidates, found)


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

    def select(self, context: Context, batch_size: int) -> Picks:
        """The batch, each point given the ones before it."""
        kept = context.candidates
        most = max(batch_size, self.shortlist)
        if len(kept) > most:
            scores = Pointwise("bald", scores_of.bald, "draws").scores(context)
            kept = np.sort(kept[top_batch(scores, most).indices.numpy()])
        found = self.choose(context.probabilities(kept), batch_size, context.seed)
        return _picks(kept, found)


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

    def select(self, context: Context, batch_size: int) -> Picks:
        """The farthest point, again and again."""
        x = context.x if self.features is None else self.features(context.x)
        near = torch.as_tensor(np.asarray(take(x, context.candidates)))
        centres = torch.as_tensor(np.asarray(take(x, context.labelled.points)))
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
        x, pool = (torch.as_tensor(np.asarray(take(context.x, i))) for i in (points, kept))
        labels = context.labelled.posterior(trainer.truth).argmax(-1)
        options: dict[str, Any] = {"loss": self.loss, "exclude_candidate": self.exclude_candidate}
        program = trainer.program
        if isinstance(program, NaiveBayes) and trainer.engine.name in ("map", "em"):
            gain = naive_bayes_error_reduction(
                program, x, labels, pool, budget=context.budget, **options
            )
        else:
            refit = refit_program(
                program, trainer.engine, pool, lambda f, x: _mean(f, x, context), init=fit
            )
            gain = expected_error_reduction(refit, x, labels, pool, **options)
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
    if isinstance(acquisition, Strategy) and not isinstance(acquisition, type):
        return acquisition
    if callable(acquisition):
        for shipped in ACQUISITIONS.values():
            if isinstance(shipped, Pointwise) and shipped.score is acquisition:
                return shipped
        name = getattr(acquisition, "__name__", type(acquisition).__name__)
        return Pointwise(name, acquisition, "any")
    raise OptionError(f"acquisition must be a name, a strategy or a function, got {acquisition!r}")


def _picks(candidates: Ints, found: Any) -> Picks:
    """A batch function's (indices, scores) by position in the candidates, by row of the pool."""
    indices, scores = found
    where = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    value = np.asarray(scores.cpu() if isinstance(scores, Tensor) else scores, dtype=float)
    return Picks(candidates[where], value)
