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
from likely.models.discriminators import ModuleClassifier, ShapedReward
from likely.models.dynamics import LinearGaussianDynamics, TabularDynamics
from likely.models.gaussian import GaussianModel, LaplaceModel
from likely.models.markov import HiddenMarkovChains, HiddenMarkovModel, Sequences
from likely.models.maxent import MaxEntIRL, SampledMaxEntIRL, Visits, trajectory_features
from likely.models.mixture import GaussianMixture, Mixture
from likely.models.naive_bayes import NaiveBayes
from likely.models.occupancy_matching import OccupancyMatching
from likely.models.policy import (
    GaussianPolicy,
    MixturePolicy,
    ModulePolicy,
    Policy,
    SoftmaxPolicy,
    TabularPolicy,
)
from likely.models.preference import (
    BradleyTerry,
    Comparisons,
    CrowdBradleyTerry,
    DirectPreference,
    PlackettLuce,
    Rankings,
    TrajectoryPairs,
    TrajectoryPreference,
)
from likely.models.regression import LinearRegression, LogisticRegression, PoissonRegression
from likely.models.softmax import SoftmaxRegression
from likely.models.trajectory import TrajectoryModel

__all__ = [
    "GLAD",
    "MACE",
    "Annotations",
    "BernoulliModel",
    "BradleyTerry",
    "CategoricalModel",
    "Comparisons",
    "CrowdBradleyTerry",
    "DawidSkene",
    "DirectPreference",
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
    "MaxEntIRL",
    "Mixture",
    "MixturePolicy",
    "ModeActions",
    "ModuleClassifier",
    "ModulePolicy",
    "NaiveBayes",
    "OccupancyMatching",
    "OneCoin",
    "PlackettLuce",
    "PoissonModel",
    "PoissonRegression",
    "Policy",
    "PooledMultinomial",
    "RaggedLabels",
    "Rankings",
    "SampledMaxEntIRL",
    "Sequences",
    "ShapedReward",
    "SoftmaxPolicy",
    "SoftmaxRegression",
    "TabularDynamics",
    "TabularPolicy",
    "TabularStates",
    "TrajectoryModel",
    "TrajectoryPairs",
    "TrajectoryPreference",
    "Visits",
    "each_class",
    "each_label",
    "majority_vote",
    "trajectory_features",
    "weighted_vote",
]
