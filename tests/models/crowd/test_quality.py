import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likely.envs import DataError
from likely.inference import EM, Laplace
from likely.models.crowd import (
    Annotations,
    DawidSkene,
    OneCoin,
    PooledMultinomial,
    annotator_table,
    decision_cost,
    expected_accuracy,
    expected_cost,
    probability_below,
    spammer_score,
)

ZERO_ONE = 1 - np.eye(3)


def made_up(seed, *lead, k=3):
    random = np.random.default_rng(seed)
    return random.dirichlet(np.ones(k), (*lead, k)), random.dirichlet(np.ones(k), lead)


def test_accuracy_and_costs_are_the_sums_of_their_definitions():
    confusion, prevalence = made_up(0, 4, 5)
    cost = np.random.default_rng(1).normal(size=(3, 3))
    accuracy = np.zeros((4, 5))
    face, best = np.zeros((4, 5)), np.zeros((4, 5))
    for i, m in itertools.product(range(4), range(5)):
        pi, rho = confusion[i, m], prevalence[i, m]
        for k in range(3):
            accuracy[i, m] += rho[k] * pi[k, k]
            for j in range(3):
                face[i, m] += rho[k] * pi[k, j] * cost[k, j]
        for j in range(3):
            best[i, m] += min(
                sum(rho[k] * pi[k, j] * cost[k, d] for k in range(3)) for d in range(3)
            )
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(expected_accuracy(confusion, prevalence), accuracy, **close)
    np.testing.assert_allclose(expected_cost(confusion, prevalence, cost), face, **close)
    np.testing.assert_allclose(decision_cost(confusion, prevalence, cost), best, **close)
    assert (best <= face + 1e-12).all()


def test_cost_of_zero_and_one_is_the_chance_of_an_error():
    confusion, prevalence = made_up(2, 6)
    np.testing.assert_allclose(
        expected_cost(confusion, prevalence, ZERO_ONE),
        1 - expected_accuracy(confusion, prevalence),
        atol=1e-12,
    )


def test_spammer_score_sums_over_pairs_of_classes():
    confusion, _ = made_up(3, 7, k=4)
    pairs = itertools.combinations(range(4), 2)
    by_pairs = sum(((confusion[:, a] - confusion[:, b]) ** 2).sum(-1) for a, b in pairs) / 12
    np.testing.assert_allclose(spammer_score(confusion), by_pairs, atol=1e-14)


@given(st.floats(0, 1), st.floats(0, 1))
def test_spammer_score_of_two_classes(sensitivity, specificity):
    table = np.array([[specificity, 1 - specificity], [1 - sensitivity, sensitivity]])
    expected = (sensitivity + specificity - 1) ** 2
    assert float(spammer_score(table)) == pytest.approx(expected, abs=1e-14)


def test_scores_of_a_spammer_a_liar_and_a_perfect_annotator():
    tables = np.array([np.full((3, 3), [0.2, 0.3, 0.5]), np.roll(np.eye(3), 1, 1), np.eye(3)])
    prevalence = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(spammer_score(tables), [0, 1, 1], atol=1e-15)
    np.testing.assert_allclose(expected_accuracy(tables, prevalence), [0.29, 0, 1], atol=1e-15)
    # The spammer's label is worth no more than the guess of the most frequent class.
    np.testing.assert_allclose(decision_cost(tables, prevalence, ZERO_ONE), [0.5, 0, 0], atol=1e-15)


@given(st.permutations(range(3)), st.integers(0, 100))
def test_renaming_classes_changes_no_score(order, seed):
    confusion, prevalence = made_up(seed, 4)
    cost = np.random.default_rng(seed).uniform(size=(3, 3))
    other, order = confusion[:, order][:, :, order], list(order)
    renamed = prevalence[:, order], cost[np.ix_(order, order)]
    for before, after in (
        (spammer_score(confusion), spammer_score(other)),
        (expected_accuracy(confusion, prevalence), expected_accuracy(other, renamed[0])),
        (expected_cost(confusion, prevalence, cost), expected_cost(other, *renamed)),
        (decision_cost(confusion, prevalence, cost), decision_cost(other, *renamed)),
    ):
        np.testing.assert_allclose(before, after, atol=1e-12)


def test_probability_below_counts_draws():
    scores = np.array([[0.1, 0.5], [0.2, 0.4], [0.3, 0.2], [0.4, 0.9]])
    assert probability_below(scores, 0.3).tolist() == [0.5, 0.25]


CROWD = Annotations.from_arrays(
    ["x", "x", "y"], ["ann", "bo", "bo"], [0, 1, 2], annotators=["bo", "cy", "ann"]
)


def test_table_of_draws_has_their_mean_and_quantiles():
    confusion, _ = made_up(5, 2, 50, 3)
    _, prevalence = made_up(6, 2, 50)
    table = annotator_table(
        CROWD, confusion, prevalence, cost=ZERO_ONE, threshold=0.2, interval=0.5
    )
    assert table.index.tolist() == ["bo", "cy", "ann"]
    assert table["labels"].tolist() == [2, 0, 1]
    scores = spammer_score(confusion).numpy().reshape(100, 3)
    np.testing.assert_allclose(table["spammer_score"], scores.mean(0), atol=1e-12)
    lower, upper = np.quantile(scores, [0.25, 0.75], axis=0)
    np.testing.assert_allclose(table["spammer_score_lower"], lower, atol=1e-12)
    np.testing.assert_allclose(table["spammer_score_upper"], upper, atol=1e-12)
    np.testing.assert_allclose(table["p_below"], (scores < 0.2).mean(0), atol=1e-12)
    right = expected_accuracy(confusion, prevalence[:, :, None]).numpy().reshape(100, 3)
    np.testing.assert_allclose(table["accuracy"], right.mean(0), atol=1e-12)
    np.testing.assert_allclose(table["cost"], 1 - right.mean(0), atol=1e-12)
    assert (table["decision_cost"] <= table["cost"]).all()


def test_table_of_a_point_says_below_and_has_no_intervals():
    confusion, prevalence = made_up(7, 3)
    table = annotator_table(CROWD, confusion, prevalence[0], threshold=0.15)
    assert list(table) == ["labels", "accuracy", "spammer_score", "below"]
    assert table["below"].tolist() == (spammer_score(confusion) < 0.15).tolist()
    assert set(table["below"]) == {True, False}


def test_one_table_for_all_counts_for_everybody():
    confusion, _ = made_up(8)
    table = annotator_table(CROWD, confusion, [0.2, 0.3, 0.5])
    assert table["accuracy"].nunique() == 1
    draws, shares = made_up(9, 1, 20)
    assert annotator_table(CROWD, draws, shares)["accuracy_upper"].nunique() == 1


@pytest.mark.parametrize("program", [DawidSkene(2), PooledMultinomial(2), OneCoin(2)])
def test_tables_of_fits(program):
    crowd = simulated(0, [0.95, 0.9, 0.5])
    for engine in (EM(objective="posterior"), Laplace(draws=50)):
        fit = engine.fit(program, crowd)
        table = annotator_table(crowd, fit.draws["confusion"], fit.draws["prevalence"])
        assert table["accuracy"].between(0, 1).all()
        assert ("accuracy_lower" in table) != fit.is_point


def simulated(seed, right, n_tasks=150):
    random = np.random.default_rng(seed)
    truth = random.integers(2, size=n_tasks)
    task, annotator = np.divmod(np.arange(n_tasks * len(right)), len(right))
    wrong = random.uniform(size=len(task)) > np.array(right)[annotator]
    return Annotations.from_arrays(task, annotator, truth[task] ^ wrong)


def test_the_spammers_are_found_and_the_others_are_not():
    right = [0.95, 0.9, 0.5, 0.85, 0.5, 0.8]
    crowd = simulated(1, right)
    fit = Laplace(draws=400).fit(DawidSkene(2), crowd)
    table = annotator_table(crowd, fit.draws["confusion"], fit.draws["prevalence"], threshold=0.1)
    spams = np.array(right) == 0.5
    assert (table["p_below"][spams] > 0.9).all()
    assert (table["p_below"][~spams] < 0.1).all()
    # Intervals of 90 %: with six of them, two that miss would have a chance of 11 %.
    true = np.array(right)
    inside = (table["accuracy_lower"] <= true) & (true <= table["accuracy_upper"])
    assert inside.sum() >= 4


GOOD = [[0.9, 0.1], [0.2, 0.8]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spammer_score([0.5, 0.5]), "confusion: expected at least 2 dim"),
        (lambda: spammer_score([[1.0]]), "confusion: expected square tables"),
        (lambda: spammer_score([[0.5, 0.5]]), "confusion: expected square tables"),
        (lambda: spammer_score([[0.9, 0.2], [0.5, 0.5]]), "confusion: .*sum to one"),
        (lambda: spammer_score([[1.1, -0.1], [0.5, 0.5]]), "confusion: .*probabilities"),
        (lambda: spammer_score([[np.nan, 1.0], [0.5, 0.5]]), "confusion: .*finite"),
        (lambda: spammer_score("good"), "confusion: expected numbers"),
        (lambda: expected_accuracy(GOOD, [1.0]), "prevalence: expected 2 classes"),
        (lambda: expected_accuracy(GOOD, [0.7, 0.7]), "prevalence: .*sum to one"),
        (lambda: expected_cost(GOOD, [0.5, 0.5], [1.0, 2.0]), "cost: expected shape"),
        (lambda: decision_cost(GOOD, [0.5, 0.5], [[0, np.inf], [1, 0]]), "cost: .*finite"),
        (lambda: probability_below([0.5], 0.1), "scores: expected shape"),
        (lambda: probability_below(torch.zeros(0, 2), 0.1), "scores: expected shape"),
        (lambda: probability_below([[0.5]], float("nan")), "threshold: .*finite"),
        (lambda: probability_below([[0.5]], [0.1, 0.2]), "threshold: expected a number"),
        (lambda: annotator_table(CROWD, [GOOD] * 3, [0.5, 0.5]), "confusion: expected"),
        (lambda: annotator_table(CROWD, [np.eye(3)] * 2, [0.5, 0.5, 0]), "confusion: expected"),
        (lambda: annotator_table(CROWD, np.eye(3), np.eye(3)), "prevalence: expected shape"),
        (lambda: annotator_table(CROWD, np.eye(3), [1, 0, 0], interval=1.5), "interval"),
        (lambda: annotator_table(CROWD, np.eye(3), [1, 0, 0], threshold=2), "threshold: .*score"),
        (lambda: annotator_table(None, np.eye(3), [1, 0, 0]), "annotations: expected Annotations"),
        (lambda: spammer_score(np.eye(2) * (1 + 0j)), r"(?s)confusion: expected numbers.*complex"),
        (lambda: spammer_score(torch.eye(2).to_sparse()), "confusion: expected numbers"),
        (
            lambda: expected_accuracy([GOOD] * 3, [[0.5, 0.5]] * 2),
            r"prevalence: .*\[3\], got \[2\]",
        ),
        (lambda: expected_cost([GOOD] * 3, [[0.5, 0.5]] * 2, GOOD), "prevalence: .*broadcast"),
        (lambda: decision_cost([GOOD] * 3, [[0.5, 0.5]] * 2, GOOD), "prevalence: .*broadcast"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(DataError, match=message):
        call()
