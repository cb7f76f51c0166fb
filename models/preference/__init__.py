"""Programs for comparisons and rankings: what is better, and what people prefer."""

from likely.models.preference.bradley_terry import BradleyTerry
from likely.models.preference.comparisons import Comparisons
from likely.models.preference.outcomes import OutcomeCounts, log_chances
from likely.models.preference.zero_sum import ZeroSumNormal, ZeroSumWalk

__all__ = [
    "BradleyTerry",
    "Comparisons",
    "OutcomeCounts",
    "ZeroSumNormal",
    "ZeroSumWalk",
    "log_chances",
]
