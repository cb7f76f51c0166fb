"""Programs for labels that several annotators gave to the same tasks."""

from likely.models.crowd.agreement import alpha_interval, krippendorff_alpha
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.answers import (
    accuracy_gain,
    information_gain,
    tasks_to_label,
    truth_entropy,
    truth_table,
)
from likely.models.crowd.baselines import (
    Observations,
    Votes,
    each_class,
    each_label,
    majority_vote,
    weighted_vote,
)
from likely.models.crowd.dawid_skene import DawidSkene, OneCoin, PooledMultinomial
from likely.models.crowd.distributions import RaggedLabels
from likely.models.crowd.even_errors import EvenErrors
from likely.models.crowd.feature_dependent import FeatureDependentCrowd
from likely.models.crowd.glad import GLAD
from likely.models.crowd.hierarchical import HierarchicalDawidSkene
from likely.models.crowd.latent_truth import LatentTruth
from likely.models.crowd.learning import LearningFromCrowds
from likely.models.crowd.mace import MACE
from likely.models.crowd.quality import (
    annotator_table,
    decision_cost,
    expected_accuracy,
    expected_cost,
    probability_below,
    spammer_score,
)
from likely.models.crowd.shards import AnnotationShards

__all__ = [
    "GLAD",
    "MACE",
    "AnnotationShards",
    "Annotations",
    "DawidSkene",
    "EvenErrors",
    "FeatureDependentCrowd",
    "HierarchicalDawidSkene",
    "LatentTruth",
    "LearningFromCrowds",
    "Observations",
    "OneCoin",
    "PooledMultinomial",
    "RaggedLabels",
    "Votes",
    "accuracy_gain",
    "alpha_interval",
    "annotator_table",
    "decision_cost",
    "each_class",
    "each_label",
    "expected_accuracy",
    "expected_cost",
    "information_gain",
    "krippendorff_alpha",
    "majority_vote",
    "probability_below",
    "spammer_score",
    "tasks_to_label",
    "truth_entropy",
    "truth_table",
    "weighted_vote",
]
