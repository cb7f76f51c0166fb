"""Programs for comparisons and rankings: what is better, and what people prefer."""

from likely.models.preference.bradley_terry import BradleyTerry
from likely.models.preference.comparisons import Comparisons
from likely.models.preference.crowd import CrowdBradleyTerry
from likely.models.preference.faults import FaultyJudges, FaultyOutcomes
from likely.models.preference.outcomes import OutcomeCounts, log_chances
from likely.models.preference.plackett_luce import PlackettLuce, RankingOrder
from likely.models.preference.ranking import (
    ability_draws,
    deviance,
    ranking,
    standard_errors,
    win_matrix,
)
from likely.models.preference.rankings import Rankings
from likely.models.preference.zero_sum import ZeroSumNormal, ZeroSumWalk

__all__ = [
    "BradleyTerry",
    "Comparisons",
    "CrowdBradleyTerry",
    "FaultyJudges",
    "FaultyOutcomes",
    "OutcomeCounts",
    "PlackettLuce",
    "RankingOrder",
    "Rankings",
    "ZeroSumNormal",
    "ZeroSumWalk",
    "ability_draws",
    "deviance",
    "log_chances",
    "ranking",
    "standard_errors",
    "win_matrix",
]
