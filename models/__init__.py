"""Generative programs, one family a file, and the data containers they read."""

from likely.models.basic import BernoulliModel, CategoricalModel, PoissonModel
from likely.models.crowd import Annotations, DawidSkene, RaggedLabels
from likely.models.gaussian import GaussianModel, LaplaceModel
from likely.models.markov import HiddenMarkovChains, HiddenMarkovModel, Sequences
from likely.models.mixture import GaussianMixture, Mixture
from likely.models.naive_bayes import NaiveBayes
from likely.models.regression import LinearRegression, LogisticRegression, PoissonRegression
from likely.models.softmax import SoftmaxRegression

__all__ = [
    "Annotations",
    "BernoulliModel",
    "CategoricalModel",
    "DawidSkene",
    "GaussianMixture",
    "GaussianModel",
    "HiddenMarkovChains",
    "HiddenMarkovModel",
    "LaplaceModel",
    "LinearRegression",
    "LogisticRegression",
    "Mixture",
    "NaiveBayes",
    "PoissonModel",
    "PoissonRegression",
    "RaggedLabels",
    "Sequences",
    "SoftmaxRegression",
]
