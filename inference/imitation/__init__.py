"""Imitation as inference: one trajectory program, whose data and weights make the method."""

from likely.inference.imitation.acting import ActingPolicy, as_table
from likely.inference.imitation.advantages import step_weights
from likely.inference.imitation.cloning import Uncertainty, behaviour_cloning, policy_uncertainty
from likely.inference.imitation.dagger import Dagger, dagger
from likely.inference.imitation.demonstrations import FeatureMatching
from likely.inference.imitation.discriminator import (
    Discriminator,
    ModuleClassifier,
    pair_features,
)
from likely.inference.imitation.distribution_matching import (
    distribution_matching,
    log_density,
    reverse_by_score,
)
from likely.inference.imitation.evaluation import (
    Returns,
    compare_returns,
    evaluate_returns,
    feature_gap,
    mean_interval,
    occupancy,
    occupancy_distance,
)
from likely.inference.imitation.figures import plot_compounding, plot_uncertainty
from likely.inference.imitation.gail import gail
from likely.inference.imitation.gap import Gap, cloning_gap, compounding, coverage
from likely.inference.imitation.irl import (
    InverseRL,
    apprenticeship_learning,
    match_expert,
    maxent_irl,
    mwal,
)
from likely.inference.imitation.learner import PolicyLearner
from likely.inference.imitation.matching_program import OccupancyMatching
from likely.inference.imitation.people import Person
from likely.inference.imitation.playing import play
from likely.inference.imitation.policy_gradient import PolicyGradient, policy_gradient
from likely.inference.imitation.result import Imitation

__all__ = [
    "ActingPolicy",
    "Dagger",
    "Discriminator",
    "FeatureMatching",
    "Gap",
    "Imitation",
    "InverseRL",
    "ModuleClassifier",
    "OccupancyMatching",
    "Person",
    "PolicyGradient",
    "PolicyLearner",
    "Returns",
    "Uncertainty",
    "apprenticeship_learning",
    "as_table",
    "behaviour_cloning",
    "cloning_gap",
    "compare_returns",
    "compounding",
    "coverage",
    "dagger",
    "distribution_matching",
    "evaluate_returns",
    "feature_gap",
    "gail",
    "log_density",
    "match_expert",
    "maxent_irl",
    "mean_interval",
    "mwal",
    "occupancy",
    "occupancy_distance",
    "pair_features",
    "play",
    "plot_compounding",
    "plot_uncertainty",
    "policy_gradient",
    "policy_uncertainty",
    "reverse_by_score",
    "step_weights",
]
