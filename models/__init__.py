"""Generative programs, one family a file, and the data containers they read."""

from likely.models.basic import BernoulliModel, CategoricalModel, PoissonModel
from likely.models.crowd import (
    GLAD,
    MACE,
    Annotations,
    DawidSkene,
    FeatureDependentCrowd,
    HierarchicalDawidSkene,
    LearningFromCrowds,
    OneCoin,
    PooledMultinomial,
    RaggedLabels,
    each_class,
    each_label,
    majority_vote,
    weighted_vote,
)
from likely.models.gaussian import GaussianModel, LaplaceModel
from likely.models.markov import HiddenMarkovChains, HiddenMarkovModel, Sequences
from likely.models.mixture import GaussianMixture, Mixture
from likely.models.naive_bayes import NaiveBayes
from likely.models.regression import LinearRegression, LogisticRegression, PoissonRegression
from likely.models.softmax import SoftmaxRegression

__all__ = [
    "GLAD",
    "MACE",
    "Annotations",
    "BernoulliModel",
    "CategoricalModel",
    "DawidSkene",
    "FeatureDependentCrowd",
    "GaussianMixture",
    "GaussianModel",
    "HiddenMarkovChains",
    "HiddenMarkovModel",
    "HierarchicalDawidSkene",
    "LaplaceModel",
    "LearningFromCrowds",
    "LinearRegression",
    "LogisticRegression",
    "Mixture",
    "NaiveBayes",
    "OneCoin",
    "PoissonModel",
    "PoissonRegression",
    "PooledMultinomial",
    "RaggedLabels",
    "Sequences",
    "SoftmaxRegression",
    "each_class",
    "each_label",
    "majority_vote",
    "weighted_vote",
]
