"""Whom to ask, what answers are worth, and how they add up to a truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from likely.envs import DataError
from likely.inference import EM, MAP, Laplace, OptionError
from likely.inference.active import (
    ActiveLearner,
    ArrayOracle,
    Budget,
    Context,
    GainPerCost,
    LabelledSet,
    LeastError,
    PointThenPerson,
    RecordedAnswers,
    SimulatedAnnotators,
    answer_tables,
    anybody,
    bald,
)
from likely.inference.active.people import answered, counted_tables
from likely.models import (
    Annotations,
    DawidSkene,
    FeatureDependentCrowd,
    LearningFromCrowds,
    LogisticRegression,
)

RNG = np.random.default_rng(1)
N = 120
X = torch.from_numpy(RNG.normal(size=(N, 2)))
TRUTH = (X[:, 0] + X[:, 1] > 0).long()
EXPERT, POOR = [[0.95, 0.05], [0.05, 0.95]], [[0.6, 0.4], [0.4, 0.6]]
TABLES = torch.tensor([POOR, EXPERT, POOR], dtype=torch.float64)


def crowd() -> SimulatedAnnotators:
    return SimulatedAnnotators(TRUTH, TABLES, seed=0)


def learner(**options: Any) -> ActiveLearner:
    defaults: dict[str, Any] = {
        "program": LogisticRegression(),
        "engine": MAP(),
        "acquisition": "entropy",
        "oracle": crowd(),
        "batch_size": 4,
        "stopping": Budget(40),
    }
    return ActiveLearner(**{**defaults, **options})


def all_pairs(index: Any) -> tuple[Any, Any]:
    return np.repeat(np.arange(len(index)), 3), np.tile(np.arange(3), len(index))


def context(**options: Any) -> Context:
    """A fit to some answers, and who may be asked of the rest."""
    asked = np.arange(0, 60, 2)
    who = np.arange(30) % 3
    labelled = LabelledSet.empty(2).add(asked, TRUTH[asked], who)
    fit = MAP().fit(LogisticRegression(), X[asked], TRUTH[asked])
    defaults: dict[str, Any] = {
        "x": X,
        "candidates": np.arange(60, N),
        "labelled": labelled,
        "fits": (fit,),
        "n_classes": 2,
        "n_annotators": 3,
        "pairs": all_pairs,
    }
    return Context(**{**defaults, **options})


def test_the_best_annotator_gets_most_questions() -> None:
    # Points that all three answered tell them apart: before, nothing says who errs.
    points, people = np.repeat(np.arange(40), 3), np.tile(np.arange(3), 40)
    known = LabelledSet.empty(2).add(points, crowd()(_queries(points, people)), people)
    for truth in ("dawid_skene", "majority_vote"):
        own = learner(annotators=LeastError(), truth=truth, batch_size=20, stopping=Budget(140))
        asked = own.run(X, initial=known).labelled.annotator[120:]
        assert (asked == 1).sum() > 0.7 * len(asked)


def test_nobody_is_judged_by_their_own_vote() -> None:
    alone = LabelledSet.empty(2).add([0, 1, 2, 3], [1, 0, 1, 0], annotator=[0, 0, 0, 0])
    np.testing.assert_array_equal(counted_tables(alone, 2)[0], counted_tables(alone, 2)[1])


def test_least_error_is_the_expected_error_of_each_table() -> None:
    own = context()
    index = own.candidates[:10]
    p = own.probabilities(index)[0]
    tables = counted_tables(own.labelled, 3)
    right = (p[:, None, :] * tables.diagonal(dim1=-2, dim2=-1)).sum(-1)
    assert LeastError()(own, index).tolist() == right.argmax(-1).tolist()


def test_counted_tables_are_posterior_means_of_counts() -> None:
    # Annotator 0 is right twice of class 0 and wrong once of class 1, which votes decide.
    answers = LabelledSet.empty(2).add(
        [0, 0, 0, 1, 1, 1, 2, 2, 2],
        [0, 0, 0, 0, 0, 0, 0, 1, 1],
        annotator=[0, 1, 2, 0, 1, 2, 0, 1, 2],
    )
    votes = {0: [1.0, 0.0], 1: [1.0, 0.0], 2: [0.0, 1.0]}  # of the two others
    row0 = np.array([2.0, 1.0]) + [votes[0][0] + votes[1][0] + votes[2][0], 0.0]
    row1 = np.array([1.0, 2.0]) + [votes[2][1], 0.0]
    expected = [row0 / row0.sum(), row1 / row1.sum()]
    np.testing.assert_allclose(counted_tables(answers, 4)[0], expected, rtol=1e-12)
    # Nobody has heard of annotator 3 yet.
    np.testing.assert_allclose(counted_tables(answers, 4)[3], [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])


def test_crowd_programs_judge_their_annotators_themselves() -> None:
    asked = np.repeat(np.arange(40), 3)
    who = np.tile(np.arange(3), 40)
    labels = crowd()(_queries(asked, who))
    labelled = LabelledSet.empty(2).add(asked, labels, who)
    program = LearningFromCrowds(2)
    fit = MAP().fit(program, labelled.annotations(X, 3))
    own = context(labelled=labelled, fits=(fit,))
    tables = answer_tables(own, own.candidates[:2])
    assert torch.equal(tables[1], fit.params["confusion"])
    yan = FeatureDependentCrowd(2)
    fit = MAP().fit(yan, labelled.annotations(X, 3))
    own = context(labelled=labelled, fits=(fit,))
    index = own.candidates[:5]
    right = yan.expertise(fit.params, X[torch.from_numpy(index)])
    tables = answer_tables(own, index)
    np.testing.assert_allclose(tables[:, :, 0, 0], right)
    np.testing.assert_allclose(tables.sum(-1), 1.0, rtol=1e-12)


def _queries(index: Any, who: Any) -> Any:
    from likely.inference.active import Queries

    return Queries(index, None, who, (0, 1))


def test_information_per_cost_is_mutual_information_by_hand() -> None:
    own = context()
    picks = GainPerCost().select(own, 60)
    tables = counted_tables(own.labelled, 3)
    p = own.probabilities(own.candidates)[0]
    joint = p[:, None, :, None] * tables  # point, annotator, class, answer
    apart = joint.sum(-2, keepdim=True) * joint.sum(-1, keepdim=True)
    information = torch.xlogy(joint, joint / apart.clamp_min(1e-300)).sum((-2, -1))
    best, who = information.max(-1)
    order = best.argsort(descending=True)
    np.testing.assert_allclose(picks.scores, best[order], rtol=1e-9, atol=1e-14)
    assert picks.indices[:5].tolist() == own.candidates[order[:5].numpy()].tolist()
    assert picks.annotators is not None
    assert picks.annotators[:5].tolist() == who[order[:5]].tolist()


def test_what_costs_more_must_bring_more() -> None:
    cheap = GainPerCost(costs=(1.0, 100.0, 1.0)).select(context(), 30)
    assert cheap.annotators is not None
    assert 1 not in cheap.annotators


def test_information_about_the_model_is_bald_of_the_answers() -> None:
    asked = context().labelled.points
    fit = Laplace(draws=40).fit(LogisticRegression(), X[asked], TRUTH[asked])
    own = context(fits=(fit,))
    picks = GainPerCost("model").select(own, 5)
    tables = counted_tables(own.labelled, 3)
    draws = own.probabilities(picks.indices[:1])
    assert picks.annotators is not None
    by_hand = bald(draws @ tables[picks.annotators[0]])
    assert picks.scores[0] == pytest.approx(float(by_hand[0]), rel=1e-9)
    with pytest.raises(OptionError, match="compares posterior draws"):
        learner(acquisition=GainPerCost("model"))


def test_one_vote_of_somebody_who_errs_leaves_doubt() -> None:
    # One answer each by somebody right two times in three, and a classifier that is sure elsewhere.
    x = torch.tensor([[1.0], [-1.0], [30.0], [-30.0]], dtype=torch.float64)
    answers = LabelledSet.empty(2).add([0, 1], [1, 0], annotator=[0, 0])
    fit = MAP().fit(LogisticRegression(), x[:2], torch.tensor([1, 0]))
    own = context(x=x, candidates=np.arange(4), labelled=answers, fits=(fit,))
    # Nobody else answered: right two times in three.
    np.testing.assert_allclose(answered(own), [[1 / 3, 2 / 3], [2 / 3, 1 / 3]], rtol=1e-12)
    picks = GainPerCost().select(own, 4)
    assert sorted(picks.indices[:2]) == [0, 1]
    # By hand: I(class; answer).
    table, belief = np.array([[2, 1], [1, 2]]) / 3, np.array([1, 2]) / 3
    joint = belief[:, None] * table
    by_hand = (joint * np.log(joint / np.outer(joint.sum(1), joint.sum(0)))).sum()
    assert picks.scores[0] == pytest.approx(by_hand, rel=1e-9)
    # Somebody in particular or not: an unknown voice is right two times in three.
    unknown = LabelledSet.empty(2).add([0], [1])
    np.testing.assert_allclose(answered(context(labelled=unknown)), [[1 / 3, 2 / 3]], rtol=1e-12)


def test_prices_are_the_learners_unless_others_are_given() -> None:
    own = context(costs=[1.0, 100.0, 100.0])
    assert set(GainPerCost().select(own, 20).annotators) == {0}
    other = GainPerCost(costs=np.array([100.0, 1.0, 100.0])).select(own, 20)
    assert set(other.annotators) == {1}
    with pytest.raises(OptionError, match="one for each of 3 annotators, got 2"):
        GainPerCost(costs=(1.0, 2.0)).select(own, 2)
    with pytest.raises(OptionError, match="no attribute n_annotators"):
        GainPerCost().select(context(n_annotators=0), 2)


def test_a_labelled_point_in_dispute_is_worth_a_second_opinion() -> None:
    # The classifier is sure of all candidates; of point 0 two annotators contradict each other.
    x = torch.tensor([[0.0], [4.0], [-4.0], [5.0], [-5.0]], dtype=torch.float64)
    answers = LabelledSet.empty(2).add([0, 0, 1, 2], [0, 1, 1, 0], annotator=[0, 2, 0, 0])
    fit = MAP().fit(LogisticRegression(), x[1:], torch.tensor([1, 0, 1, 0]))

    def pairs(index: Any) -> tuple[Any, Any]:
        return np.arange(len(index)), np.ones(len(index), dtype=np.int64)

    own = context(x=x, candidates=np.array([0, 3, 4]), labelled=answers, fits=(fit,), pairs=pairs)
    picks = GainPerCost().select(own, 3)
    assert picks.indices[0] == 0
    assert picks.scores[0] > 2 * picks.scores[1]


def test_relabelling_asks_a_point_of_several_people_but_each_once() -> None:
    found = learner(
        acquisition=GainPerCost(), relabel=True, stopping=Budget(100), batch_size=10
    ).run(X[:40])
    pairs = list(zip(found.labelled.index, found.labelled.annotator, strict=True))
    assert len(pairs) == len(set(pairs)) == 100
    assert len(found.labelled.points) == 40


def test_the_truth_of_earlier_points_changes_with_later_answers() -> None:
    # Of point 0 annotators 0 and 1 disagree; then 0 turns out to contradict everybody else.
    early = LabelledSet.empty(2).add([0, 0], [0, 1], annotator=[0, 1])
    np.testing.assert_allclose(early.posterior("dawid_skene")[0], 0.5, atol=1e-6)
    rows = [(i, j, i % 2 if j else 1 - i % 2) for i in range(1, 30) for j in range(4)]
    index, who, label = np.array(rows).T
    late = early.add(index, label, who)
    assert float(late.posterior("dawid_skene")[0, 1]) > 0.9
    np.testing.assert_allclose(late.posterior("majority_vote")[0], 0.5)


def test_posterior_rules_agree_with_the_models_they_are_named_after() -> None:
    rng = np.random.default_rng(2)
    index, who = np.repeat(np.arange(20), 3), np.tile(np.arange(3), 20)
    labels = np.where(rng.random(60) < 0.8, index % 2, 1 - index % 2)
    answers = LabelledSet.empty(2).add(index, labels, who)
    annotations = Annotations.from_arrays(index, who, labels, classes=[0, 1])
    fit = EM(objective="posterior", tol=1e-12).fit(DawidSkene(2), annotations)
    np.testing.assert_allclose(answers.posterior("dawid_skene"), fit.latent("truth"), atol=1e-4)
    shares = np.stack([np.bincount(labels[index == i], minlength=2) / 3 for i in range(20)])
    np.testing.assert_allclose(answers.posterior(), shares)
    last = answers.add([0], [1 - labels[2]])
    assert int(last.posterior("last")[0].argmax()) == 1 - labels[2]


def test_soft_labels_are_weighted_rows() -> None:
    answers = LabelledSet.empty(2).add([3, 3, 3, 5, 7], [0, 0, 1, 1, 0])
    found = learner(oracle=ArrayOracle(TRUTH), stopping=Budget(5)).run(X, initial=answers)
    rows, labels = [3, 3, 5, 7], torch.tensor([0, 1, 1, 0])
    weights = torch.tensor([2 / 3, 1 / 3, 1.0, 1.0], dtype=torch.float64)
    by_hand = MAP().fit(LogisticRegression(), X[rows], labels, weights=weights)
    for name, value in by_hand.params.items():
        np.testing.assert_allclose(found.fit.params[name], value, atol=1e-6)

    def bare(x: Any, y: Any = None) -> Any:
        return LogisticRegression()(x, y)

    with pytest.raises(OptionError, match=r"takes no weights=.*truth='last'"):
        learner(program=bare, oracle=ArrayOracle(TRUTH)).run(X, initial=answers)
    learner(program=bare, oracle=ArrayOracle(TRUTH), truth="last").run(X, initial=answers)


def test_recorded_answers_are_replayed_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    task = np.repeat(np.arange(40), 2)
    who = np.concatenate([rng.choice(5, 2, replace=False) for _ in range(40)])
    labels = np.where(rng.random(80) < 0.9, TRUTH.numpy()[task], 1 - TRUTH.numpy()[task])
    names = np.array(["ann", "bo", "cy", "di", "ed"])
    recorded = Annotations.from_arrays(
        task, names[who], labels, tasks=np.arange(40), annotators=names, classes=[0, 1]
    )
    there = set(zip(task.tolist(), who.tolist(), strict=True))
    for options in (
        {"acquisition": "entropy"},
        {"acquisition": PointThenPerson()},
        {"acquisition": GainPerCost(), "relabel": True},
        {"program": LearningFromCrowds(2), "acquisition": PointThenPerson(), "relabel": True},
    ):
        found = learner(oracle=RecordedAnswers(recorded), stopping=Budget(30), **options).run(
            X[:40]
        )
        assert found.labelled.pairs <= there, options
        assert len(found.labelled) == 30
    # All that there is, and then no more.
    found = learner(oracle=RecordedAnswers(recorded), stopping=(), relabel=True, batch_size=10).run(
        X[:40]
    )
    assert found.labelled.pairs == there
    assert found.stopped == "nobody has anything more to answer"


def test_costs_add_up_and_end_a_run() -> None:
    own = {"costs": [1.0, 10.0, 1.0], "annotators": LeastError(), "batch_size": 4}
    found = learner(stopping=Budget(cost=45.0), **own).run(X[:40])
    price = np.array([1.0, 10.0, 1.0])[found.labelled.annotator].sum()
    assert found.history["cost"].iloc[-1] == price
    # The question that would pass the budget is not asked, though its batch has room.
    assert 35.0 < price <= 45.0
    spent = "budget of 45 is spent"
    assert found.stopped in (spent, "what is left of the budget does not pay for another answer")
    # Unit prices that add up to the budget, with rounding on the way.
    tenths = learner(costs=0.1, stopping=Budget(cost=0.7), batch_size=3).run(X[:40])
    assert len(tenths.labelled) == 7
    assert tenths.history["n_answers"].tolist() == [0, 3, 6, 7]


def test_anybody_is_drawn_evenly_from_those_who_may_be_asked() -> None:
    index = np.arange(60, N).repeat(10)
    chosen = anybody(context(seed=5), index)
    counts = np.bincount(chosen, minlength=3)
    # Multinomial with 600 draws: five standard deviations of a count are 58.
    assert np.abs(counts - 200).max() < 58

    def nobody(index: Any) -> tuple[Any, Any]:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)

    with pytest.raises(OptionError, match="nobody may be asked about point 60"):
        anybody(context(pairs=nobody), np.array([60]))


def test_nobody_to_choose_from_is_said() -> None:
    with pytest.raises(OptionError, match="no attribute n_annotators"):
        learner(oracle=ArrayOracle(TRUTH), annotators=LeastError()).run(X)
    with pytest.raises(OptionError, match="no attribute n_annotators"):
        learner(oracle=ArrayOracle(TRUTH), acquisition=PointThenPerson()).run(X)
    with pytest.raises(OptionError, match="must return 4 positions"):
        learner(annotators=lambda context, index: [0]).run(X)
    with pytest.raises(OptionError, match="costs must be a positive"):
        GainPerCost(costs=(1.0, 0.0))


def test_bad_labelled_sets_are_refused() -> None:
    with pytest.raises(DataError, match="label: expected positions of 2 classes, got 2"):
        LabelledSet.empty(2).add([0], [2])
    with pytest.raises(DataError, match="label: expected 2 answers"):
        LabelledSet.empty(2).add([0, 1], [1])
    with pytest.raises(DataError, match="index: expected a vector of integers"):
        LabelledSet.empty(2).add([0.5], [1])
    with pytest.raises(DataError, match="index: expected at least 0"):
        LabelledSet.empty(2).add([-1], [1])
    with pytest.raises(DataError, match="the labelled set is empty"):
        LabelledSet.empty(2).annotations()
    with pytest.raises(DataError, match=r"truth: the callable must return shape \(1, 2\)"):
        LabelledSet.empty(2).add([0], [1]).posterior(lambda annotations: torch.ones(2, 2))
