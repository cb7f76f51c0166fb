"""Imitation as inference: one trajectory program, whose data and weights make the method."""

from likely.inference.imitation.acting import ActingPolicy, as_table
from likely.inference.imitation.advantages import step_weights
from likely.inference.imitation.airl import airl
from likely.inference.imitation.asking_pairs import learn_reward
from likely.inference.imitation.cloning import Uncertainty, behaviour_cloning, policy_uncertainty
from likely.inference.imitation.dagger import Dagger, dagger
from likely.inference.imitation.demonstrations import FeatureMatching
from likely.inference.imitation.discriminator import (
    Discriminator,
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
from likely.inference.imitation.inverse_rl import InverseRL
from likely.inference.imitation.irl import apprenticeship_learning, maxent_irl, mwal
from likely.inference.imitation.irl_run import match_expert
from likely.inference.imitation.learned_reward import (
    LearnedReward,
    bootstrap_rewards,
    pessimistic_reward,
)
from likely.inference.imitation.learner import PolicyLearner
from likely.inference.imitation.pair_labels import (
    CHOICES,
    SimulatedLabeller,
    candidate_pairs,
    pair_texts,
)
from likely.inference.imitation.pair_pictures import Filmed, pair_pictures, path_texts
from likely.inference.imitation.people import Person
from likely.inference.imitation.playing import play
from likely.inference.imitation.policy_gradient import PolicyGradient, policy_gradient
from likely.inference.imitation.posterior_policy import PosteriorPolicy, posterior_policy
from likely.inference.imitation.result import Imitation
from likely.inference.imitation.rlhf import (
    RLHF,
    Improved,
    PreferenceJudge,
    improve,
    kl_budget,
    over_optimisation,
    rlhf,
)

__all__ = [
    "CHOICES",
    "RLHF",
    "ActingPolicy",
    "Dagger",
    "Discriminator",
    "FeatureMatching",
    "Filmed",
    "Gap",
    "Imitation",
    "Improved",
    "InverseRL",
    "LearnedReward",
    "Person",
    "PolicyGradient",
    "PolicyLearner",
    "PosteriorPolicy",
    "PreferenceJudge",
    "Returns",
    "SimulatedLabeller",
    "Uncertainty",
    "airl",
    "apprenticeship_learning",
    "as_table",
    "behaviour_cloning",
    "bootstrap_rewards",
    "candidate_pairs",
    "cloning_gap",
    "compare_returns",
    "compounding",
    "coverage",
    "dagger",
    "distribution_matching",
    "evaluate_returns",
    "feature_gap",
    "gail",
    "improve",
    "kl_budget",
    "learn_reward",
    "log_density",
    "match_expert",
    "maxent_irl",
    "mean_interval",
    "mwal",
    "occupancy",
    "occupancy_distance",
    "over_optimisation",
    "pair_features",
    "pair_pictures",
    "pair_texts",
    "path_texts",
    "pessimistic_reward",
    "play",
    "plot_compounding",
    "plot_uncertainty",
    "policy_gradient",
    "policy_uncertainty",
    "posterior_policy",
    "reverse_by_score",
    "rlhf",
    "step_weights",
]
