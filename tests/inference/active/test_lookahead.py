"""Expected error reduction by refits, against published errors and in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from torch import Tensor

from likely.envs import DataError
from likely.inference import EM, MAP, Fit, OptionError
from likely.inference.active import (
    expected_error_reduction,
    naive_bayes_error_reduction,
    pool_errors,
    refit_program,
)
from likely.models import NaiveBayes, SoftmaxRegression

LOSSES = {"log": "log_loss", "zero_one": "misclassification_loss"}
ROWS = {False: "reference_sum_over_pool", True: "reference_sum_excluding_candidate"}


@pytest.fixture
def iris(published: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
    known = published("eer_iris.json")
    data = load_iris()
    x, labels = torch.as_tensor(data.data), torch.as_tensor(data.target)
    given = known["labelled"]
    return known["cases"], x[given], labels[given], x[known["pool"]]


def by_sklearn(make: Callable[[], Any], pool: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def refit(x: Tensor, labels: Tensor) -> Tensor:
        fit = make().fit(x.numpy(), labels.numpy())
        return torch.as_tensor(fit.predict_proba(pool.numpy()))

    return refit


def softmax(fit: Fit, x: Tensor) -> Tensor:
    return (fit.params["intercept"] + x @ fit.params["coefficients"].T).softmax(-1)


def documents(
    likelihood: str, n_classes: int, n: int, n_pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(n_classes)
    most = 2 if likelihood == "bernoulli" else 5
    rows = torch.randint(0, most, (n + n_pool, 7), generator=source).double()
    return rows[:n], torch.arange(n) % n_classes, rows[n:]


def by_program(program: NaiveBayes, pool: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return refit_program(
        program,
        EM(objective="posterior"),
        pool,
        lambda fit, x: program.predict_proba(fit.params, x),
    )


# -- refits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [False, True], ids=["all", "others"])
@pytest.mark.parametrize("loss", LOSSES)
def test_published_errors_of_gaussian_naive_bayes(loss: str, exclude: bool, iris: Any) -> None:
    cases, x, labels, pool = iris
    refit = by_sklearn(GaussianNB, pool)
    found = expected_error_reduction(refit, x, labels, pool, loss=loss, exclude_candidate=exclude)
    known = cases["gaussian_nb"][LOSSES[loss]]
    errors = pool_errors(refit(x, labels), loss).sum() - found
    torch.testing.assert_close(
        errors, torch.tensor(known[ROWS[exclude]], dtype=torch.float64), rtol=0, atol=1e-9
    )
    if not exclude:
        assert int(found.argmax()) == known["skactiveml_choice"]


@pytest.mark.parametrize("loss", LOSSES)
def test_published_errors_of_logistic_regression(loss: str, iris: Any) -> None:
    cases, x, labels, pool = iris
    known = cases["logreg"][LOSSES[loss]]
    expected = torch.tensor(known[ROWS[False]], dtype=torch.float64)
    # The published fits stopped up to 2e-6 short of the optimum, by Newton's method.
    refit = by_sklearn(lambda: LogisticRegression(solver="newton-cg", tol=1e-10), pool)
    found = expected_error_reduction(refit, x, labels, pool, loss=loss)
    errors = pool_errors(refit(x, labels), loss).sum() - found
    torch.testing.assert_close(errors, expected, rtol=0, atol=5e-6)
    assert int(found.argmax()) == known["skactiveml_choice"]


def test_a_program_started_anew_or_at_a_fit(iris: Any) -> None:
    cases, x, labels, pool = iris
    program = SoftmaxRegression(3, intercept_scale=None, coefficients_scale=1.0)
    engine = MAP(tol=1e-12)
    present = engine.fit(program, x, labels)
    some = torch.tensor([8, 4])
    expected = torch.tensor(cases["logreg"]["log_loss"][ROWS[False]], dtype=torch.float64)[some]
    started: list[Tensor] = []
    for init in (None, present):
        refit = refit_program(program, engine, pool, softmax, init=init)
        found = expected_error_reduction(refit, x, labels, pool, candidates=some)
        started.append(found)
        errors = pool_errors(softmax(present, pool), "log").sum() - found
        torch.testing.assert_close(errors, expected, rtol=0, atol=5e-6)
    torch.testing.assert_close(started[0], started[1], rtol=0, atol=2e-6)


def test_a_warm_start_is_passed_on(iris: Any) -> None:
    _, x, labels, pool = iris
    program = SoftmaxRegression(3)
    present = MAP().fit(program, x, labels)
    seen: list[Fit] = []

    def predict(fit: Fit, rows: Tensor) -> Tensor:
        seen.append(fit)
        return softmax(fit, rows)

    refit_program(program, MAP(), pool, predict)(x, labels)
    refit_program(program, MAP(), pool, predict, init=present)(x, labels)
    # At the optimum already.
    assert seen[1].n_iter <= 1 < seen[0].n_iter


# -- one pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [False, True], ids=["all", "others"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "multinomial"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_one_pass_is_the_loop_of_scikit_learn(
    likelihood: str, n_classes: int, loss: str, exclude: bool
) -> None:
    x, labels, pool = documents(likelihood, n_classes, 14, 25)
    make = BernoulliNB if likelihood == "bernoulli" else MultinomialNB
    options = {"loss": loss, "exclude_candidate": exclude}
    refit = by_sklearn(lambda: make(alpha=0.7), pool)
    program = NaiveBayes(n_classes, likelihood, feature_concentration=1.7)
    found = naive_bayes_error_reduction(program, x, labels, pool, **options)
    expected = expected_error_reduction(refit, x, labels, pool, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-13)


@pytest.mark.parametrize("likelihood", ["bernoulli", "multinomial"])
def test_one_pass_is_the_loop_of_the_program(likelihood: str) -> None:
    x, labels, pool = documents(likelihood, 3, 9, 8)
    program = NaiveBayes(3, likelihood, (2.0, 1.0, 1.5), 3.0)
    expected = expected_error_reduction(by_program(program, pool), x, labels, pool)
    found = naive_bayes_error_reduction(program, x, labels, pool)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-13)
    some = torch.tensor([5, 2])
    part = naive_bayes_error_reduction(program, x, labels, pool, candidates=some)
    assert torch.allclose(part, found[some], rtol=0, atol=1e-13)
    assert torch.equal(naive_bayes_error_reduction(program, x.int(), labels, pool.int()), found)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seen", [1, 2])
@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
def test_classes_without_a_label_are_impossible(loss: str, seen: int) -> None:
    x, _, pool = documents("multinomial", 3, 6, 5)
    labels = torch.arange(6) % seen
    program = NaiveBayes(3, "multinomial")
    found = naive_bayes_error_reduction(program, x, labels, pool, loss=loss)
    refit = by_program(program, pool)
    expected = expected_error_reduction(refit, x, labels, pool, loss=loss)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-13)


# -- bad input -----------------------------------------------------------------------------------


def test_data_are_checked() -> None:
    x, labels, pool = documents("bernoulli", 2, 6, 5)
    program = NaiveBayes(2)

    def both(x: Any, labels: Any, pool: Any, **options: Any) -> list[Callable[[], Tensor]]:
        refit = by_sklearn(GaussianNB, documents("bernoulli", 2, 6, 5)[2])
        return [
            lambda: expected_error_reduction(refit, x, labels, pool, **options),
            lambda: naive_bayes_error_reduction(program, x, labels, pool, **options),
        ]

    wrong: list[tuple[list[Callable[[], Tensor]], str]] = [
        (both(x, labels[:3], pool), "labels must have one entry"),
        (both(x, labels.double(), pool), "labels must be classes"),
        (both(x, -labels - 1, pool), "labels must be classes"),
        (both(x, labels, pool[:, :3]), "pool must have points like those of x"),
        (both(x, labels, pool[:0]), "pool is empty"),
        (
            both(x, labels, pool, candidates=torch.tensor([5])),
            "candidates must be rows from 0 to 4",
        ),
        (both(x, labels, pool, candidates=torch.tensor([0.0])), "candidates must be integers"),
    ]
    for calls, message in wrong:
        for call in calls:
            with pytest.raises(DataError, match=message):
                call()
    for call in both(x, labels, pool, loss="hinge"):
        with pytest.raises(OptionError, match="loss must be one of 'log', 'zero_one'"):
            call()
    for call in both(x, labels, pool, exclude_candidate=1):
        with pytest.raises(OptionError, match="exclude_candidate"):
            call()


@pytest.mark.parametrize("rows", [4, 5], ids=["rows", "sums"])
def test_what_a_refit_returns_is_checked(rows: int) -> None:
    x, labels, pool = documents("bernoulli", 2, 6, 5)
    probs = torch.full((rows, 2), 0.5 if rows == 4 else 0.6)
    with pytest.raises(DataError, match="refit's result"):
        expected_error_reduction(lambda *_: probs, x, labels, pool)


def test_naive_bayes_is_checked() -> None:
    x, labels, pool = documents("bernoulli", 2, 6, 5)

    def run(program: Any, x: Tensor = x, labels: Tensor = labels, **options: Any) -> Tensor:
        return naive_bayes_error_reduction(program, x, labels, pool, **options)

    for program, message in (
        (SoftmaxRegression(2), "program must be NaiveBayes"),
        (NaiveBayes(2, feature_concentration=1.0), "feature_concentration must exceed 1"),
        (NaiveBayes(2, prevalence_concentration=0.5), "prevalence_concentration"),
    ):
        with pytest.raises(OptionError, match=message):
            run(program)
    for entry in (0.5, -1.0, math.nan, math.inf):
        wrong = x.clone()
        wrong[1, 1] = entry
        for likelihood in ("bernoulli", "multinomial"):
            with pytest.raises(DataError, match="x must hold"):
                run(NaiveBayes(2, likelihood), wrong)
    with pytest.raises(DataError, match=r"labels must be classes 0, \.\.\., 1, got 2"):
        run(NaiveBayes(2), labels=labels + 1)
    with pytest.raises(DataError, match=r"x must be \[rows, features\]"):
        naive_bayes_error_reduction(NaiveBayes(2), x[:, 0], labels, pool[:, 0])
    for budget in (0, 100, 1.5):
        with pytest.raises(OptionError, match="budget"):
            run(NaiveBayes(2), budget=budget)
    with pytest.raises(OptionError, match="engine must be an engine, got str"):
        refit_program(NaiveBayes(2), "em", pool, softmax)  # type: ignore[arg-type]
