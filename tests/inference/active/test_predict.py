"""Class probabilities of new points under any program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, MAP, FitError, Laplace, ProgramError
from likely.inference.active import class_probabilities
from likely.inference.active.predict import rows_within, take
from likely.models import LogisticRegression, NaiveBayes, SoftmaxRegression

X = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 2)))
NEW = torch.from_numpy(np.random.default_rng(1).normal(size=(7, 2)))
Y = (X[:, 0] > 0).long()


def test_a_regression_is_read_at_its_site() -> None:
    fit = Laplace(draws=6).fit(LogisticRegression(), X, Y)
    found = class_probabilities(fit, NEW, 2)
    intercept = fit.draws["intercept"].flatten()
    slopes = fit.draws["coefficients"].flatten(0, 1)
    by_hand = torch.sigmoid(intercept[:, None] + slopes @ NEW.T)
    assert found.shape == (6, 7, 2)
    np.testing.assert_allclose(found[..., 1], by_hand, atol=1e-12)
    softmax = MAP().fit(SoftmaxRegression(3), X, Y)
    logits = softmax.params["intercept"] + NEW @ softmax.params["coefficients"].T
    found = class_probabilities(softmax, NEW, 3)
    np.testing.assert_allclose(found[0], logits.softmax(-1), atol=1e-12)


def test_at_most_so_many_draws_of_each_member() -> None:
    fit = Laplace(draws=50).fit(LogisticRegression(), X, Y)
    assert len(class_probabilities(fit, NEW, 2, draws=8)) == 8
    assert len(class_probabilities([fit, fit], NEW, 2, draws=8)) == 16
    point = MAP().fit(LogisticRegression(), X, Y)
    assert len(class_probabilities([point, fit], NEW, 2, draws=8)) == 9


def generative(x: Any, y: Any = None) -> None:
    """Two normals: the label comes first."""
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("class", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("point", len(x)):
        label = pyro.sample("y", dist.Bernoulli(share), obs=None if y is None else y.to(share))
        pyro.sample("x", dist.Normal(loc[label.long()], 1.0), obs=x[:, 0])


def test_a_program_of_points_and_labels_is_turned_round_by_bayes() -> None:
    fit = MAP().fit(generative, X, Y)
    share, loc = fit.params["share"], fit.params["loc"]
    joint = torch.stack(
        [
            (1 - share).log() + dist.Normal(loc[0], 1.0).log_prob(NEW[:, 0]),
            share.log() + dist.Normal(loc[1], 1.0).log_prob(NEW[:, 0]),
        ],
        -1,
    )
    np.testing.assert_allclose(class_probabilities(fit, NEW, 2)[0], joint.softmax(-1), rtol=1e-10)


def grouped(x: Any, y: Any = None) -> None:
    """A classifier with a latent switch, which is summed out."""
    flip = pyro.sample("flip", dist.Beta(2.0, 20.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
    with pyro.plate("point", len(x)):
        flipped = pyro.sample("flipped", dist.Bernoulli(flip))
        p = torch.sigmoid(slope * x[:, 0])
        p = torch.where(flipped > 0, 1 - p, p)
        pyro.sample("y", dist.Bernoulli(p), obs=None if y is None else y.to(p))


def test_latents_are_summed_out() -> None:
    fit = EM(objective="posterior").fit(grouped, X, Y)
    p = torch.sigmoid(fit.params["slope"] * NEW[:, 0])
    flip = fit.params["flip"]
    by_hand = (1 - flip) * p + flip * (1 - p)
    np.testing.assert_allclose(class_probabilities(fit, NEW, 2)[0, :, 1], by_hand, rtol=1e-10)


def test_a_method_predict_proba_is_asked_first_and_agrees_with_the_density() -> None:
    rows, new = (X > 0).double(), (NEW > 0).double()
    fit = MAP().fit(NaiveBayes(2), rows, Y)

    def bare(x: Any, y: Any = None) -> Any:
        return NaiveBayes(2)(x, y)

    other = MAP().fit(bare, rows, Y)
    np.testing.assert_allclose(
        class_probabilities(fit, new, 2), class_probabilities(other, new, 2), atol=1e-6
    )


def test_gradients_reach_the_points() -> None:
    fit = MAP().fit(LogisticRegression(), X, Y)
    x = NEW.clone().requires_grad_(True)
    p = class_probabilities(fit, x, 2, gradient=True)[0, :, 1]
    (slope,) = torch.autograd.grad(p.sum(), [x])
    by_hand = (p * (1 - p))[:, None] * fit.params["coefficients"]
    np.testing.assert_allclose(slope, by_hand.detach(), rtol=1e-9)
    assert not class_probabilities(fit, x, 2).requires_grad


def test_other_arguments_by_call() -> None:
    def program(labels: Any, points: Any) -> Any:
        return LogisticRegression()(points, labels)

    fit = MAP().fit(program, Y, X)
    found = class_probabilities(fit, NEW, 2, call=lambda x, labels: ((labels,), {"points": x}))
    straight = class_probabilities(MAP().fit(LogisticRegression(), X, Y), NEW, 2)
    np.testing.assert_allclose(found, straight, atol=1e-6)


def test_what_cannot_be_judged_is_named() -> None:
    def together(x: Any, y: Any = None) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        obs = None if y is None else y.to(p)
        pyro.sample(
            "y", dist.MultivariateNormal(p.expand(len(x)), torch.eye(len(x)).to(p)), obs=obs
        )

    fit = MAP().fit(together, X, Y)
    message = "'y' must have one log-density for each of the 7 points"
    with pytest.raises(ProgramError, match=message):
        class_probabilities(fit, NEW, 2)
    with pytest.raises(FitError, match="at least one fit"):
        class_probabilities([], NEW, 2)


def test_rows_of_every_kind_of_pool() -> None:
    index = np.array([2, 0])
    frame = pd.DataFrame(X.numpy())
    assert take(frame, index).index.tolist() == [2, 0]
    assert torch.equal(take(X, index), X[[2, 0]])
    assert take(X.numpy(), index).tolist() == X[[2, 0]].tolist()
    assert take(["a", "b", "c"], index) == ["c", "a"]
    assert rows_within(1000, 5, 2) == 12
    assert rows_within(1, 5, 2) == 1
