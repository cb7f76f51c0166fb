"""Programs for labels that several annotators gave to the same tasks."""

from likely.models.crowd.annotations import Annotations
from likely.models.crowd.dawid_skene import DawidSkene, OneCoin, PooledMultinomial
from likely.models.crowd.distributions import RaggedLabels
from likely.models.crowd.latent_truth import LatentTruth

__all__ = [
    "Annotations",
    "DawidSkene",
    "LatentTruth",
    "OneCoin",
    "PooledMultinomial",
    "RaggedLabels",
]
