"""Generative programs, one family a file, and the data containers they read."""

from likely.models._action_distributions import ModeActions
from likely.models._start_states import GaussianStates, TabularStates
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
from likely.models.dynamics import LinearGaussianDynamics, TabularDynamics
from likely.models.gaussian import GaussianModel, LaplaceModel
from likely.models.markov import HiddenMarkovChains, HiddenMarkovModel, Sequences
from likely.models.mixture import GaussianMixture, Mixture
from likely.models.naive_bayes import NaiveBayes
from likely.models.policy import (
    GaussianPolicy,
    MixturePolicy,
    ModulePolicy,
    Policy,
    SoftmaxPolicy,
    TabularPolicy,
)
from likely.models.regression import LinearRegression, LogisticRegression, PoissonRegression
from likely.models.softmax import SoftmaxRegression
from likely.models.trajectory import TrajectoryModel

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
    "GaussianPolicy",
    "GaussianStates",
    "HiddenMarkovChains",
    "HiddenMarkovModel",
    "HierarchicalDawidSkene",
    "LaplaceModel",
    "LearningFromCrowds",
    "LinearGaussianDynamics",
    "LinearRegression",
    "LogisticRegression",
    "Mixture",
    "MixturePolicy",
    "ModeActions",
    "ModulePolicy",
    "NaiveBayes",
    "OneCoin",
    "PoissonModel",
    "PoissonRegression",
    "Policy",
    "PooledMultinomial",
    "RaggedLabels",
    "Sequences",
    "SoftmaxPolicy",
    "SoftmaxRegression",
    "TabularDynamics",
    "TabularPolicy",
    "TabularStates",
    "TrajectoryModel",
    "each_class",
    "each_label",
    "majority_vote",
    "weighted_vote",
]
