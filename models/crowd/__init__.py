"""Programs for labels that several annotators gave to the same tasks."""

from likely.models.crowd.annotations import Annotations
from likely.models.crowd.dawid_skene import DawidSkene
from likely.models.crowd.distributions import RaggedLabels

__all__ = ["Annotations", "DawidSkene", "RaggedLabels"]
