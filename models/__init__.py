"""Generative programs, one family a file, and the data containers they read."""

from likely.models.basic import BernoulliModel, CategoricalModel, PoissonModel
from likely.models.crowd import Annotations, DawidSkene, RaggedLabels
from likely.models.gaussian import GaussianModel
from likely.models.mixture import GaussianMixture
from likely.models.regression import LinearRegression, LogisticRegression

__all__ = [
    "Annotations",
    "BernoulliModel",
    "CategoricalModel",
    "DawidSkene",
    "GaussianMixture",
    "GaussianModel",
    "LinearRegression",
    "LogisticRegression",
    "PoissonModel",
    "RaggedLabels",
]
