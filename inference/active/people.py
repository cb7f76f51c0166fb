"""Whom to ask: choosing annotators, or questions and annotators together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from likely.inference.active import acquisition
from likely.inference.active.batches import top_batch
from likely.inference.active.context import Context, Picks
from likely.inference.active.labelled import Ints, LabelledSet, TruthRule, check_truth
from likely.inference.active.pools import check_function
from likely.inference.active.predict import rows_within, take
from likely.inference.active.strategies import Acquisition, as_strategy
from likely.inference.engines.checks import check_choice, check_positive
from likely.inference.errors import OptionError
from likely.models import FeatureDependentCrowd
from likely.models.crowd._program import CrowdProgram
from likely.models.crowd.answers import accuracy_gain, information_gain

# From the context and rows of the pool to whom to ask about each, int64 [b].
AnnotatorChoice = Callable[[Context, Ints], Ints]

# Answers that an annotator is given beforehand: right ones, and all wrong ones together. Somebody
# who has not answered yet is taken to be right two times in three.
PRIOR_RIGHT, PRIOR_WRONG = 2.0, 1.0


def anybody(context: Context, index: Ints) -> Ints:
    """Anyone who can answer, all equally likely; seeded by the context.

    Raises
    ------
    OptionError
        If nobody may be asked about a point.
    """
    position, annotator = askable(context, index)
    order = np.random.default_rng(context.seed).permutation(len(position))
    return first_of_each(index, position[order], annotator[order])


@dataclass(frozen=True)
class LeastError:
    """The annotator with the least expected error there (Yan et al. 2011, section 3.2).

    Their error on a point is 1 − Σ_k p_k π_kk with what the fit says of the class, p, and of the
    annotator there, π (`answer_tables`). It takes what is known of people and tries nobody out:
    where no two people answered the same point, nothing tells them apart but a crowd program;
    `IntervalEstimation`, or answers of several people in ``initial``, begin to.

    Parameters
    ----------
    truth : str or callable
        What judges annotators where the program does not, see `LabelledSet.posterior`.
    """

    truth: str | TruthRule = "majority_vote"

    def __post_init__(self) -> None:
        check_truth(self.truth)

    def __call__(self, context: Context, index: Ints) -> Ints:
        """Whom to ask about each point; of equally good ones the first."""
        position, annotator = askable(context, index)
        prediction = context.probabilities(index).mean(0)
        tables = answer_tables(context, index, self.truth)
        right = torch.einsum("nk,nlkk->nl", prediction, tables)
        value = right[torch.from_numpy(position), torch.from_numpy(annotator)].numpy()
        order = np.lexsort((annotator, -value))
        return first_of_each(index, position[order], annotator[order])


@dataclass(frozen=True, eq=False)
class PointThenPerson:
    """First the point, by any acquisition; then the annotator (Yan et al. 2011).

    Parameters
    ----------
    point : acquisition
        By default the most uncertain point.
    person : callable
        Who is asked about it.
    """

    point: Acquisition = "entropy"
    person: AnnotatorChoice = LeastError()
    name: ClassVar[str] = "point_then_person"

    def __post_init__(self) -> None:
        as_strategy(self.point)
        check_function("person", self.person)

    @property
    def needs(self) -> str:
        """What the point's acquisition needs."""
        return as_strategy(self.point).needs

    def select(self, context: Context, batch_size: int) -> Picks:
        """Points as the acquisition chooses them, each with an annotator."""
        picks = as_strategy(self.point).select(context, batch_size)
        return picks._replace(annotators=self.person(context, picks.indices))


@dataclass(frozen=True)
class GainPerCost:
    r"""The (point, annotator) whose answer is expected to bring most for its price.

    All questions are on one scale, nats (or probability) for each unit of cost: whether to ask
    somebody else about a labelled point or to ask about a new one is decided by the same number.
    A new point is believed what the classifier says, a labelled one what its answers say: by Bayes'
    rule with even odds and the annotators' tables where ``truth`` only counts answers (one vote of
    somebody who errs leaves doubt), else by ``truth``.

    Parameters
    ----------
    gain : {"information", "accuracy", "model"}
        ``"information"``: what the answer says of the point's class, I(class; answer) =
        H(Σ_k p_k π_k) − Σ_k p_k H(π_k). ``"accuracy"``: the rise of the probability that the best
        guess of its class is right. ``"model"``: what the answer says of the model, I(θ; answer),
        which is `bald` of the answer's probabilities Σ_k p_k(θ) π_k; needs posterior draws, and an
        answer to a labelled point counts as one more that the model has not seen.
    costs : float or sequence of float, optional
        Price of an answer, or of one by each annotator; by default the learner's ``costs``.
    truth : str or callable
        What judges annotators where the program does not, see `LabelledSet.posterior`.
    """

    gain: str = "information"
    costs: float | Sequence[float] | None = None
    truth: str | TruthRule = "majority_vote"
    name: ClassVar[str] = "gain_per_cost"

    def __post_init__(self) -> None:
        check_choice("gain", self.gain, ("information", "accuracy", "model"))
        check_truth(self.truth)
        if self.costs is not None:
            _prices(self.costs)

    @property
    def needs(self) -> str:
        """Draws for what is learnt of the model, else a prediction."""
        return "draws" if self.gain == "model" else "prediction"

    def select(self, context: Context, batch_size: int) -> Picks:
        """The best pairs, no point twice in one batch."""
        best, index, who = [], [], []
        for part, score, annotator in self._scored(context):
            best.append(score)
            index.append(part)
            who.append(annotator)
        scores = torch.cat(best)
        points, people = np.concatenate(index), np.concatenate(who)
        chosen = top_batch(scores, min(batch_size, len(scores)))
        where = np.asarray(chosen.indices)
        return Picks(points[where], np.asarray(chosen.scores, dtype=float), people[where])

    def _scored(self, context: Context) -> Iterator[tuple[Ints, Tensor, Ints]]:
        """Candidates part by part, with the best score of each and whose it is."""
        n_people = context.n_annotators
        if not n_people:
            askable(context, context.candidates[:1])
        known = _known(context, self.truth)
        cost = _prices(context.costs if self.costs is None else self.costs, n_people)
        rows = rows_within(context.budget, n_people * context.n_classes, context.n_classes)
        for start in range(0, len(context.candidates), rows):
            index = context.candidates[start : start + rows]
            tables = answer_tables(context, index, self.truth)
            draws = context.probabilities(index)
            if self.gain == "model":
                gain = torch.stack(
                    [
                        acquisition.bald(torch.einsum("snk,nkj->snj", draws, tables[:, person]))
                        for person in range(n_people)
                    ],
                    -1,
                )
            else:
                belief = draws.mean(0)
                for i, point in enumerate(index.tolist()):
                    if point in known:
                        belief[i] = known[point]
                function = information_gain if self.gain == "information" else accuracy_gain
                gain = function(belief.unsqueeze(-2), tables)
            gain = gain / cost
            allowed = torch.full_like(gain, -torch.inf)
            position, annotator = askable(context, index)
            allowed[torch.from_numpy(position), torch.from_numpy(annotator)] = 0.0
            score, person = (gain + allowed).max(-1)
            keep = torch.isfinite(score)
            yield index[keep.numpy()], score[keep], person[keep].numpy()


def answer_tables(
    context: Context, index: Ints, truth: str | TruthRule = "majority_vote"
) -> Tensor:
    """How each annotator answers points of each class, [b, L, K, K].

    Crowd programs say it themselves: by ``confusion``, or, where errors depend on the features
    (`FeatureDependentCrowd`), by the expertise at each point. For other programs, answers so far
    are compared with what the labelled set says of the truth (with ``"majority_vote"`` with the
    votes of others, so that a point answered once says nothing of who answered it), two right
    answers and one wrong one added to each annotator's row.

    Parameters
    ----------
    context : Context
    index : ndarray
        int64 [b]: rows of the pool.
    truth : str or callable
        See `LabelledSet.posterior`.
    """
    fit = context.fits[0]
    program = fit.bound("answer_tables()").source
    k = context.n_classes
    if isinstance(program, FeatureDependentCrowd):
        right = program.expertise(fit.params, take(context.x, index))
        wrong = (1 - right) / (k - 1)
        eye = torch.eye(k, dtype=right.dtype)
        return wrong[..., None, None] * (1 - eye) + right[..., None, None] * eye
    if isinstance(program, CrowdProgram) and "confusion" in fit.params:
        tables = fit.params["confusion"].to(torch.float64)
    else:
        tables = counted_tables(context.labelled, context.n_annotators, truth)
    return tables.expand(len(index), *tables.shape[-3:])


def counted_tables(
    labelled: LabelledSet, n_annotators: int, truth: str | TruthRule = "majority_vote"
) -> Tensor:
    """Tables [L, K, K] of answers against what the labelled set says of the truth."""
    k = labelled.n_classes
    eye = torch.eye(k, dtype=torch.float64)
    counts = PRIOR_RIGHT * eye + PRIOR_WRONG / (k - 1) * (1 - eye)
    tables = counts.repeat(n_annotators, 1, 1)
    if len(labelled):
        rows = np.searchsorted(labelled.points, labelled.index)
        belief = _judged(labelled, rows, truth)
        asked = labelled.annotator >= 0
        who = torch.from_numpy(labelled.annotator[asked])
        answer = torch.from_numpy(labelled.label[asked])
        one_hot = torch.nn.functional.one_hot(answer, k).to(torch.float64)
        belief = belief[torch.from_numpy(asked)]
        tables.index_add_(0, who, belief.unsqueeze(-1) * one_hot.unsqueeze(-2))
    return tables / tables.sum(-1, keepdim=True)


def _judged(labelled: LabelledSet, rows: Ints, truth: str | TruthRule) -> Tensor:
    """What is believed of the point of each answer, [m, K]; zeros where nothing judges it.

    Votes are those of others: who is judged by a majority of one, their own, is always right.
    """
    where = torch.from_numpy(rows)
    if truth != "majority_vote":
        return labelled.posterior(truth)[where]
    answers = torch.nn.functional.one_hot(torch.from_numpy(labelled.label), labelled.n_classes)
    votes = answers.new_zeros(len(labelled.points), labelled.n_classes).index_add_(
        0, where, answers
    )
    others = (votes[where] - answers).to(torch.float64)
    return others / others.sum(-1, keepdim=True).clamp(min=1.0)


def _known(context: Context, truth: str | TruthRule) -> dict[int, Tensor]:
    """What is believed of each labelled point."""
    if not len(context.labelled):
        return {}
    fit = context.fits[0]
    if isinstance(fit.bound("select()").source, CrowdProgram):
        belief = fit.latent("truth")
    elif truth in ("majority_vote", "last"):
        belief = answered(context, truth)
    else:
        belief = context.labelled.posterior(truth)
    return dict(zip(context.labelled.points.tolist(), belief, strict=True))


def answered(context: Context, truth: str | TruthRule = "majority_vote") -> Tensor:
    """What the answers to each labelled point say of its class, by Bayes' rule; [n_points, K].

    p(k | answers) ∝ Π π[annotator, k, answer] with the tables of `answer_tables`: all classes are
    equally likely before. Somebody unknown is right as often as somebody who has not answered yet.
    """
    labelled, k = context.labelled, context.n_classes
    points = labelled.points
    row = torch.from_numpy(np.searchsorted(points, labelled.index))
    who, label = torch.from_numpy(labelled.annotator), torch.from_numpy(labelled.label)
    tables = answer_tables(context, points, truth)
    given = tables[row, who.clamp(min=0), :, label]
    unknown = counted_tables(LabelledSet.empty(k), 1)[0].T[label]
    chance = torch.where((who < 0).unsqueeze(-1), unknown, given)
    # Somebody who never errs so far may still do.
    logs = chance.clamp(min=torch.finfo(chance.dtype).tiny).log()
    return logs.new_zeros(len(points), k).index_add_(0, row, logs).softmax(-1)


def _prices(costs: Any, n_people: int | None = None) -> Tensor:
    """Positive prices as a tensor, one for each person where their number is given."""
    given = np.atleast_1d(np.asarray(costs, dtype=object))
    if given.ndim != 1 or not len(given):
        raise OptionError(f"costs must be a positive number, or one for each, got {costs!r}")
    for cost in given:
        check_positive("costs", cost)
    if n_people is not None and len(given) not in (1, n_people):
        raise OptionError(
            f"costs must be one number, or one for each of {n_people} annotators, got {len(given)}"
        )
    price = torch.tensor(given.astype(float))
    return price if n_people is None else price.expand(n_people)


def askable(context: Context, index: Ints) -> tuple[Ints, Ints]:
    """Who may be asked: positions in ``index`` and annotators, int64 [p] each.

    Raises
    ------
    OptionError
        If there is nobody to choose from.
    """
    if context.pairs is None or not context.n_annotators:
        raise OptionError(
            "annotators: the oracle has no attribute n_annotators, so there is nobody to choose "
            "from; use an oracle of people, such as RecordedAnswers or SimulatedAnnotators"
        )
    return context.pairs(index)


def first_of_each(index: Ints, position: Ints, annotator: Ints) -> Ints:
    """The first annotator in the list for each position."""
    found, first = np.unique(position, return_index=True)
    if len(found) < len(index):
        missing = np.setdiff1d(np.arange(len(index)), found)
        raise OptionError(f"nobody may be asked about point {index[missing[0]]} of the pool")
    return annotator[first]
