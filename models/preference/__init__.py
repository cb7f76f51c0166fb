"""Programs for comparisons and rankings: what is better, and what people prefer."""

from likely.models.preference._reward_base import TrajectoryReward
from likely.models.preference.bradley_terry import BradleyTerry
from likely.models.preference.comparisons import Comparisons
from likely.models.preference.crowd import CrowdBradleyTerry
from likely.models.preference.direct import DirectPreference
from likely.models.preference.faults import FaultyJudges, FaultyOutcomes
from likely.models.preference.outcomes import OutcomeCounts, log_chances
from likely.models.preference.pairs import TrajectoryPairs
from likely.models.preference.plackett_luce import PlackettLuce, RankingOrder
from likely.models.preference.ranking import (
    ability_draws,
    deviance,
    ranking,
    standard_errors,
    win_matrix,
)
from likely.models.preference.rankings import Rankings
from likely.models.preference.rewards import LinearReward, NetworkReward, TabularReward
from likely.models.preference.sequences import (
    PreferenceReport,
    contrastive_cloning,
    dpo_loss,
    preference_report,
    sequence_log_probability,
)
from likely.models.preference.trajectory import TrajectoryPreference
from likely.models.preference.zero_sum import ZeroSumNormal, ZeroSumWalk

__all__ = [
    "BradleyTerry",
    "Comparisons",
    "CrowdBradleyTerry",
    "DirectPreference",
    "FaultyJudges",
    "FaultyOutcomes",
    "LinearReward",
    "NetworkReward",
    "OutcomeCounts",
    "PlackettLuce",
    "PreferenceReport",
    "RankingOrder",
    "Rankings",
    "TabularReward",
    "TrajectoryPairs",
    "TrajectoryPreference",
    "TrajectoryReward",
    "ZeroSumNormal",
    "ZeroSumWalk",
    "ability_draws",
    "contrastive_cloning",
    "deviance",
    "dpo_loss",
    "log_chances",
    "preference_report",
    "ranking",
    "sequence_log_probability",
    "standard_errors",
    "win_matrix",
]
