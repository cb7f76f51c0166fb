"""Programs of plain data: distributions, regressions, mixtures, Markov chains."""

from __future__ import annotations

import torch

from cases import Config
from designs import TRACED, TRACED_SHORT, classes, covariates
from likely.models import (
    BernoulliModel,
    CategoricalModel,
    GaussianMixture,
    GaussianModel,
    HiddenMarkovModel,
    LinearRegression,
    LogisticRegression,
    Mixture,
    NaiveBayes,
    PoissonModel,
    PoissonRegression,
    Sequences,
)


def partly_labelled(x: torch.Tensor, _: None, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Features with the labels of half of their rows."""
    return x, torch.where(torch.arange(len(x)) % 2 == 0, labels, -1)


MIXTURE = {"locs": 0, "weights": 0, "scales": 0, "correlation_cholesky": 0}


CLUSTERS = {
    "weights": [0.4, 0.6],
    "locs": [[-2.0, 1.0], [2.0, 0.0]],
    "scales": [[0.7, 1.0], [1.0, 0.5]],
}


# Lengths of sequences.
CHAINS = [6, 14, 9, 1, 11] * 8


PLAIN = [
    Config(
        name="bernoulli",
        program=BernoulliModel(),
        truth={"probability": 0.3},
        sizes={"n": 200},
        plate="observation",
    ),
    Config(
        name="categorical",
        program=CategoricalModel(3),
        truth={"probabilities": [0.2, 0.5, 0.3]},
        sizes={"n": 200},
        plate="observation",
    ),
    Config(
        name="poisson",
        program=PoissonModel(),
        truth={"rate": 4.0},
        sizes={"n": 150},
        plate="observation",
    ),
    Config(
        name="gaussian",
        program=GaussianModel(),
        truth={"loc": 1.5, "scale": 2.0},
        sizes={"n": 150},
        plate="observation",
    ),
    Config(
        name="linear",
        program=LinearRegression(),
        truth={"intercept": 0.5, "coefficients": [1.0, -2.0], "scale": 0.7},
        design=covariates(120, 2),
        plate="observation",
    ),
    Config(
        name="logistic",
        program=LogisticRegression(),
        truth={"intercept": -0.5, "coefficients": [1.0, -1.5]},
        design=covariates(200, 2),
        plate="observation",
    ),
    Config(
        name="linear-student",
        program=LinearRegression(noise="student"),
        truth={"intercept": 0.5, "coefficients": [1.0, -2.0], "scale": 0.7},
        design=covariates(120, 2),
        plate="observation",
    ),
    Config(
        name="poisson-regression",
        program=PoissonRegression(),
        truth={"intercept": 0.5, "coefficients": [0.4, -0.6]},
        design=covariates(120, 2),
        plate="observation",
    ),
    Config(
        name="naive-bayes",
        program=NaiveBayes(2),
        truth={
            "prevalence": [0.4, 0.6],
            "feature_probabilities": [[0.8, 0.3, 0.6], [0.25, 0.7, 0.4]],
        },
        design=classes(120, 2),
        sizes={"dim": 3},
        bind=partly_labelled,
        plate="observation",
        latents=True,
        options=TRACED,
    ),
    Config(
        name="naive-bayes-counts",
        program=NaiveBayes(2, "multinomial"),
        truth={
            "prevalence": [0.4, 0.6],
            "feature_probabilities": [[0.5, 0.2, 0.3], [0.2, 0.6, 0.2]],
        },
        design=classes(100, 2),
        sizes={"dim": 3, "total": 5},
        bind=partly_labelled,
        plate="observation",
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="mixture-full",
        program=GaussianMixture(2, "full"),
        truth={
            **CLUSTERS,
            "correlation_cholesky": [[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [-0.28, 0.96]]],
        },
        sizes={"n": 150, "dim": 2},
        plate="observation",
        order=MIXTURE,
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="mixture-diag",
        program=GaussianMixture(2, "diag"),
        truth=CLUSTERS,
        sizes={"n": 150, "dim": 2},
        plate="observation",
        order=MIXTURE,
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="mixture-bernoulli",
        program=Mixture(2, "bernoulli", equal_weights=True),
        truth={"probabilities": [[0.15, 0.2, 0.8, 0.1], [0.85, 0.9, 0.3, 0.8]]},
        sizes={"n": 150, "dim": 4},
        plate="observation",
        order={"probabilities": 0},
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="hidden-markov",
        program=HiddenMarkovModel(2, covariance="diag"),
        truth={
            "initial": [0.3, 0.7],
            "transition": [[0.8, 0.2], [0.3, 0.7]],
            "locs": [[-2.0], [2.0]],
            "scales": [[1.0], [0.7]],
        },
        sizes={"lengths": CHAINS, "dim": 1},
        bind=lambda x: (Sequences.from_arrays(x, CHAINS),),
        plate="sequence",
        order={"locs": 0, "scales": 0, "initial": 0, "transition": (0, 1)},
        latents=True,
        options=TRACED_SHORT,
    ),
]
