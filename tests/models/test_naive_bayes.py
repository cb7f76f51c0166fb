"""Naive Bayes: against closed forms, scikit-learn, enumeration and loops of self-training."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from sklearn.naive_bayes import BernoulliNB, MultinomialNB

from likely.envs import DataError
from likely.inference import EM, MAP, MLE, BoundaryWarning, Program
from likely.models import NaiveBayes

LIKELIHOODS = ["bernoulli", "multinomial"]
BOTH = pytest.mark.parametrize("likelihood", LIKELIHOODS)
N, K, D = 90, 3, 4


def tables(likelihood: str) -> dict[str, torch.Tensor]:
    probabilities = torch.tensor(
        [[0.9, 0.2, 0.1, 0.3], [0.2, 0.8, 0.4, 0.3], [0.1, 0.3, 0.7, 0.9]], dtype=torch.float64
    )
    if likelihood == "multinomial":
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    prevalence = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return {"prevalence": prevalence, "feature_probabilities": probabilities}


def rows(likelihood: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features ``[N, D]`` and labels ``[N]`` drawn at `tables`."""
    generator = torch.Generator().manual_seed(seed)
    at = tables(likelihood)
    labels = torch.multinomial(at["prevalence"], N, True, generator=generator)
    chosen = at["feature_probabilities"][labels]
    if likelihood == "bernoulli":
        return torch.bernoulli(chosen, generator=generator), labels
    drawn = torch.multinomial(chosen, 6, True, generator=generator)
    return torch.nn.functional.one_hot(drawn, D).sum(1).double(), labels


def sklearn_of(likelihood: str, smoothing: float) -> Any:
    made = BernoulliNB if likelihood == "bernoulli" else MultinomialNB
    return made(alpha=max(smoothing, 1e-300), force_alpha=True)


def log_prob(program: Any, values: dict[str, Any], *args: Any) -> dict[str, float]:
    trace = poutine.trace(poutine.condition(program, values)).get_trace(*args)
    trace.compute_log_prob()
    return {n: float(trace.nodes[n]["log_prob_sum"]) for n in trace.stochastic_nodes} | {
        n: float(trace.nodes[n]["log_prob_sum"]) for n in trace.observation_nodes
    }


# -- the density ---------------------------------------------------------------------------------


@BOTH
def test_log_density_is_scipys(likelihood: str) -> None:
    x, y = rows(likelihood)
    at = tables(likelihood)
    found = log_prob(NaiveBayes(K, likelihood, (1.0, 2.0, 3.0), 1.5), at, x, y)
    theta = at["feature_probabilities"].numpy()
    if likelihood == "bernoulli":
        expected = stats.bernoulli(theta[y]).logpmf(x.numpy()).sum()
        prior = stats.beta(1.5, 1.5).logpdf(theta).sum()
    else:
        expected = stats.multinomial(6, theta[y]).logpmf(x.numpy()).sum()
        prior = sum(stats.dirichlet([1.5] * D).logpdf(row) for row in theta)
    assert found["x"] == pytest.approx(expected, rel=1e-12)
    assert found["feature_probabilities"] == pytest.approx(prior, rel=1e-12)
    assert found["prevalence"] == pytest.approx(
        stats.dirichlet([1, 2, 3]).logpdf(at["prevalence"].numpy()), rel=1e-12
    )
    counts = np.bincount(y, minlength=K)
    assert found["label"] == pytest.approx(
        float(counts @ np.log(at["prevalence"].numpy())), rel=1e-12
    )


@BOTH
def test_likelihood_is_the_sum_over_all_labels(likelihood: str) -> None:
    """Five rows, two of them labelled: 3^3 ways to label the others."""
    x, y = rows(likelihood)
    x, y = x[:5], y[:5].clone()
    y[[1, 3, 4]] = -1
    at = tables(likelihood)
    program = NaiveBayes(K, likelihood)
    free = torch.nonzero(y < 0)[:, 0]
    joint = []
    for guess in itertools.product(range(K), repeat=len(free)):
        full = y.clone()
        full[free] = torch.tensor(guess)
        sites = log_prob(program, at, x, full)
        joint.append(sites["label"] + sites["x"])
    found = float(Program(program, x, y).log_likelihood(at))
    assert found == pytest.approx(float(np.logaddexp.reduce(joint)), rel=1e-12)


@BOTH
def test_many_parameter_values_at_once(likelihood: str) -> None:
    x, y = rows(likelihood)
    program, at = NaiveBayes(K, likelihood), tables(likelihood)
    other = {name: value.flip(0) for name, value in at.items()}
    many = {
        "prevalence": torch.stack([at["prevalence"], other["prevalence"]]).unsqueeze(1),
        "feature_probabilities": torch.stack(
            [at["feature_probabilities"], other["feature_probabilities"]]
        ).unsqueeze(1),
    }

    def vectorised() -> None:
        with pyro.plate("draw", 2, dim=-2):
            poutine.condition(program, many)(x, y)

    trace = poutine.trace(vectorised).get_trace()
    trace.compute_log_prob()
    for row, values in enumerate((at, other)):
        one = log_prob(program, values, x, y)
        assert float(trace.nodes["x"]["log_prob"][row].sum()) == pytest.approx(one["x"], rel=1e-12)


# -- all labels known ----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("smoothing", [0.0, 1.0, 0.3])
def test_complete_labels_give_scikit_learns_tables(likelihood: str, smoothing: float) -> None:
    """The mode under Beta or Dirichlet priors of 1 + s is the table smoothed by s."""
    x, y = rows(likelihood)
    program = NaiveBayes(K, likelihood, feature_concentration=1 + smoothing)
    objective = "posterior" if smoothing else "likelihood"
    fit = EM(objective=objective).fit(program, x, y)
    reference = sklearn_of(likelihood, smoothing).fit(x.numpy(), y.numpy())
    theta = np.exp(reference.feature_log_prob_)
    np.testing.assert_allclose(fit.params["feature_probabilities"], theta, atol=1e-8)
    np.testing.assert_allclose(fit.params["prevalence"], np.bincount(y) / N, atol=1e-8)
    probabilities = program.predict_proba(fit.params, x)
    np.testing.assert_allclose(probabilities, reference.predict_proba(x.numpy()), atol=1e-8)


@BOTH
def test_gradient_engines_find_the_counts(likelihood: str) -> None:
    x, y = rows(likelihood)
    members = np.eye(K)[y]
    counts = members.T @ x.numpy()
    total = members.sum(0)[:, None] if likelihood == "bernoulli" else counts.sum(1, keepdims=True)
    # A search may end 10 tol |objective| = 3e-11 short of the optimum, whose curvature in a cell
    # is at least 4 n = 70: cells are within sqrt(2 * 3e-11 / 70).
    found = MLE(tol=1e-14).fit(NaiveBayes(K, likelihood), x, y).params
    np.testing.assert_allclose(found["feature_probabilities"], counts / total, atol=1e-6)
    smooth = (counts + 1) / (total + (2 if likelihood == "bernoulli" else D))
    found = MAP(tol=1e-14).fit(NaiveBayes(K, likelihood), x, y).params
    np.testing.assert_allclose(found["feature_probabilities"], smooth, atol=1e-6)


# -- labels missing ------------------------------------------------------------------------------


def partly(y: torch.Tensor, known: int = 30) -> torch.Tensor:
    return torch.where(torch.arange(len(y)) < known, y, -1)


@BOTH
def test_em_climbs_to_the_optimum_of_mle(likelihood: str) -> None:
    x, y = rows(likelihood)
    program = NaiveBayes(K, likelihood)
    em = EM(tol=1e-15, max_iter=5000).fit(program, x, partly(y, 60))
    steps = em.history["objective"].to_numpy()
    assert len(steps) > 3
    # Rounding alone may lower it.
    assert bool((np.diff(steps) >= -1e-13 * abs(steps[-1])).all())
    mle = MLE(tol=1e-13).fit(program, x, partly(y, 60))
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, rel=1e-9)
    for name, value in mle.params.items():
        torch.testing.assert_close(em.params[name], value, rtol=0, atol=1e-5)


@BOTH
def test_known_labels_stay_and_others_follow_bayes_rule(likelihood: str) -> None:
    x, y = rows(likelihood)
    program = NaiveBayes(K, likelihood)
    fit = EM(objective="posterior").fit(program, x, partly(y))
    found = fit.latent("label")
    np.testing.assert_array_equal(found[:30].numpy(), np.eye(K)[y[:30]])
    torch.testing.assert_close(found[30:], program.predict_proba(fit.params, x[30:]))
    reference = sklearn_of(likelihood, 0.0).fit(np.eye(D), [0, 1, 2, 0])
    reference.class_log_prior_ = np.log(fit.params["prevalence"].numpy())
    reference.feature_log_prob_ = np.log(fit.params["feature_probabilities"].numpy())
    np.testing.assert_allclose(found[30:], reference.predict_proba(x[30:].numpy()), atol=1e-10)


@BOTH
def test_hard_em_is_self_training(likelihood: str) -> None:
    """Label the rest with the current classifier, fit again to all, until nothing changes."""
    x, y = rows(likelihood)
    seen, data = partly(y), x.numpy()
    program = NaiveBayes(K, likelihood)
    engine = EM(objective="posterior", hard=True)
    fit = engine.fit(program, x, seen)

    reference = sklearn_of(likelihood, 1.0)
    start = program.initial(x, seen)
    guess = program.predict_proba(start, x).argmax(-1).numpy()
    for _ in range(50):
        labels = np.where(seen >= 0, seen, guess)
        reference.fit(data, labels)
        following = reference.predict(data)
        if (np.where(seen >= 0, seen, following) == labels).all():
            break
        guess = following
    theta = np.exp(reference.feature_log_prob_)
    np.testing.assert_allclose(fit.params["feature_probabilities"], theta, atol=1e-8)
    assert fit.converged


def test_unlabelled_rows_help() -> None:
    """With two labels a class, the others' features improve the tables (Nigam et al. 2000)."""
    program, gains = NaiveBayes(K), []
    fresh, truth = rows("bernoulli", seed=100)
    for seed in range(10):
        x, y = rows("bernoulli", seed)
        first = torch.cat([torch.nonzero(y == k)[:2, 0] for k in range(K)])
        seen = torch.full_like(y, -1)
        seen[first] = y[first]
        few = EM(objective="posterior").fit(program, x[first], y[first])
        many = EM(objective="posterior").fit(program, x, seen)
        right = [
            program.predict_proba(fit.params, fresh).gather(-1, truth.unsqueeze(-1)).mean()
            for fit in (few, many)
        ]
        gains.append(float(right[1] - right[0]))
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / math.sqrt(len(gains))


@BOTH
def test_no_labels_at_all_is_clustering(likelihood: str) -> None:
    x, _ = rows(likelihood)
    program = NaiveBayes(K, likelihood)
    engine = EM(objective="posterior", tol=1e-6)
    fits = [engine.fit(program, x, y) for y in (None, [-1] * N, [math.nan] * N)]
    for fit in fits:
        torch.testing.assert_close(fit.latent("label"), fits[0].latent("label"))
    one = EM(objective="posterior").fit(NaiveBayes(2, likelihood), x[:1])
    assert one.latent("label").shape == (1, 2)


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
def test_constant_columns_are_no_trouble() -> None:
    x, y = rows("bernoulli")
    x = torch.cat([x, torch.ones(N, 1), torch.zeros(N, 1)], 1)
    with pytest.warns(BoundaryWarning):
        fit = MLE().fit(NaiveBayes(K), x, y)
    assert fit.params["feature_probabilities"][:, D].tolist() == [1.0] * K
    assert fit.params["feature_probabilities"][:, D + 1].tolist() == [0.0] * K
    partial = EM().fit(NaiveBayes(K), x, partly(y))
    assert bool(torch.isfinite(partial.latent("label")).all())
    # Impossible rows: no class has made them, so they say nothing.
    odd = x[:1].clone()
    odd[0, D] = 0.0
    found = NaiveBayes(K).predict_proba(fit.params, odd)
    torch.testing.assert_close(found[0], fit.params["prevalence"])


# -- forward, labels of dimensions, bad input ----------------------------------------------------


@BOTH
def test_forward_runs_follow_the_tables(likelihood: str) -> None:
    n = 20_000
    at = tables(likelihood)
    pyro.set_rng_seed(0)
    program = poutine.condition(NaiveBayes(K, likelihood), at)
    x = program(n=n, dim=D, total=6).double()
    assert x.shape == (n, D)
    each = at["feature_probabilities"]
    mean = at["prevalence"] @ each * (1 if likelihood == "bernoulli" else 6)
    # No feature's standard deviation exceeds half its largest value.
    bound = 4 * (0.5 if likelihood == "bernoulli" else 3.0) / math.sqrt(n)
    assert bool(((x.mean(0) - mean).abs() < bound).all())
    y = torch.arange(n) % K
    given = program(None, y, dim=D, total=6).double()
    for k in range(K):
        mean = each[k] * (1 if likelihood == "bernoulli" else 6)
        assert bool(((given[y == k].mean(0) - mean).abs() < math.sqrt(K) * bound).all())


def test_predictions_repeat_the_data_at_hand() -> None:
    x, y = rows("multinomial")
    fit = EM(objective="posterior").fit(NaiveBayes(K, "multinomial"), x, partly(y))
    drawn = fit.predict(draws=20)["x"]
    assert drawn.shape == (1, 20, N, D)
    assert bool((drawn.sum(-1) == x.sum(-1)).all())


def test_frames_label_the_dimensions() -> None:
    x, y = rows("bernoulli")
    frame = pd.DataFrame(x.numpy(), columns=list("abcd"), index=[f"r{i}" for i in range(N)])
    labels = pd.Series(np.where(np.arange(N) < 30, y.numpy(), np.nan), index=frame.index)
    program = NaiveBayes(K)
    fit = EM(objective="posterior").fit(program, frame, labels)
    same = EM(objective="posterior").fit(program, x, partly(y))
    torch.testing.assert_close(fit.params, same.params)
    coords = program.coords(frame, labels)
    assert coords["feature"] == list("abcd")
    assert list(coords["observation"])[:2] == ["r0", "r1"]
    summary = fit.summary()
    assert "feature_probabilities[0, a]" in summary.index
    assert program.coords(n=2, dim=3)["feature"] == range(3)


@pytest.mark.parametrize(
    ("likelihood", "x", "y", "message"),
    [
        ("bernoulli", [[0.5]], None, "x must hold 0 or 1, got 0.5 in row 0, column 0"),
        ("bernoulli", [[0, 1], [1, 2]], None, "x must hold 0 or 1, got 2 in row 1, column 1"),
        ("multinomial", [[1, -1]], None, "x must hold counts 0, 1, 2, ..., got -1 in row 0"),
        ("multinomial", [[0.5, 1]], None, "x must hold counts"),
        ("bernoulli", [[math.nan]], None, "x must be finite"),
        ("multinomial", [[math.inf]], None, "x must be finite"),
        ("bernoulli", [0, 1], None, "x must be two-dimensional"),
        ("bernoulli", np.zeros((0, 2)), None, "x is empty"),
        ("bernoulli", np.zeros((2, 0)), None, "x is empty"),
        ("bernoulli", [["a"]], None, "x must hold real numbers"),
        ("bernoulli", [[1], [0]], [0], r"y must have one entry per observation: .*\(2,\), got"),
        ("bernoulli", [[1], [0]], [0, 3], "classes 0, ..., 2, or -1 or NaN .*got 3 at position 1"),
        ("bernoulli", [[1], [0]], [0, -2], "got -2 at position 1"),
        ("bernoulli", [[1], [0]], [0, 0.5], "got 0.5 at position 1"),
        ("bernoulli", [[1], [0]], [0, math.inf], "got inf at position 1"),
        ("bernoulli", [[1], [0]], ["a", "b"], "y must hold real numbers"),
        ("bernoulli", None, None, "give x, or the numbers n of rows and dim"),
        ("bernoulli", None, [0, -1], "y must hold the labels of all rows, or be missing"),
    ],
)
def test_wrong_data_are_refused(likelihood: str, x: Any, y: Any, message: str) -> None:
    options = {"dim": 2} if x is None and y is not None else {}
    with pytest.raises(DataError, match=message):
        NaiveBayes(3, likelihood)(x, y, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 3}, "x has shape"),
        ({"dim": 3}, "x has shape"),
    ],
)
def test_sizes_must_agree_with_data(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        NaiveBayes(2)(torch.zeros(2, 2), **options)
    with pytest.raises(DataError, match="total"):
        NaiveBayes(2, "multinomial")(n=3, dim=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 1}, "n_classes must be an integer >= 2, got 1"),
        ({"likelihood": "normal"}, "likelihood must be one of bernoulli, multinomial"),
        ({"feature_concentration": 0}, "feature_concentration must be a positive finite number"),
        ({"prevalence_concentration": -1}, "prevalence_concentration must be a positive"),
        ({"prevalence_concentration": (1.0, 2.0)}, "one for each of 3 classes, got 2"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        NaiveBayes(**{"n_classes": 3, **options})
