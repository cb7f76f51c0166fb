"""Imitation as inference: one trajectory program, whose data and weights make the method."""

from likely.inference.imitation.acting import ActingPolicy, as_table
from likely.inference.imitation.advantages import step_weights
from likely.inference.imitation.cloning import Uncertainty, behaviour_cloning, policy_uncertainty
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
from likely.inference.imitation.gap import Gap, cloning_gap, compounding, coverage
from likely.inference.imitation.learner import PolicyLearner
from likely.inference.imitation.playing import play
from likely.inference.imitation.policy_gradient import PolicyGradient, policy_gradient
from likely.inference.imitation.result import Imitation

__all__ = [
    "ActingPolicy",
    "Gap",
    "Imitation",
    "PolicyGradient",
    "PolicyLearner",
    "Returns",
    "Uncertainty",
    "as_table",
    "behaviour_cloning",
    "cloning_gap",
    "compare_returns",
    "compounding",
    "coverage",
    "evaluate_returns",
    "feature_gap",
    "mean_interval",
    "occupancy",
    "occupancy_distance",
    "play",
    "plot_compounding",
    "plot_uncertainty",
    "policy_gradient",
    "policy_uncertainty",
    "step_weights",
]
