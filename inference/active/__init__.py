"""Active learning: which answers to ask for, and the loops that ask."""

from likely.inference.active.acquisition import (
    bald,
    bald_variance,
    consensus_js,
    consensus_kl,
    entropy,
    least_confident,
    margin,
    random,
    vote_disagreement,
    vote_entropy,
)
from likely.inference.active.batches import batch_bald, power_bald, top_batch
from likely.inference.active.blocks import Batch
from likely.inference.active.context import Context, Picks, Strategy
from likely.inference.active.errors import AnswersWarning, LabellingStopped
from likely.inference.active.interval_estimation import IntervalEstimation, annotator_intervals
from likely.inference.active.joint_entropy import joint_entropy
from likely.inference.active.labelled import LabelledSet
from likely.inference.active.learner import ActiveLearner, Learned
from likely.inference.active.lookahead import expected_error_reduction, pool_errors, refit_program
from likely.inference.active.one_pass import naive_bayes_error_reduction
from likely.inference.active.oracle import ArrayOracle, FunctionOracle, Queries
from likely.inference.active.people import (
    GainPerCost,
    LeastError,
    PointThenPerson,
    answer_tables,
    anybody,
)
from likely.inference.active.predict import class_probabilities
from likely.inference.active.recorded import RecordedAnswers
from likely.inference.active.simulated import SimulatedAnnotators
from likely.inference.active.stopping import (
    Budget,
    GainBelowCost,
    Plateau,
    Progress,
    StablePredictions,
    cohen_kappa,
)
from likely.inference.active.strategies import (
    CoreSet,
    ErrorReduction,
    Joint,
    Pointwise,
    PowerBALD,
    Random,
    as_strategy,
)
from likely.inference.active.stream import Sampled, Threshold, stream
from likely.inference.active.subset import (
    FrankWolfe,
    core_set,
    frank_wolfe,
    likelihood_projections,
    sparse_subset,
)
from likely.inference.active.synthesise import (
    Ascent,
    Synthesised,
    ascend,
    synthesise,
)
from likely.inference.active.terminal import TerminalOracle
from likely.inference.active.training import Committee
from likely.inference.active.web import WebOracle, label_in_browser

__all__ = [
    "ActiveLearner",
    "AnswersWarning",
    "ArrayOracle",
    "Ascent",
    "Batch",
    "Budget",
    "Committee",
    "Context",
    "CoreSet",
    "ErrorReduction",
    "FrankWolfe",
    "FunctionOracle",
    "GainBelowCost",
    "GainPerCost",
    "IntervalEstimation",
    "Joint",
    "LabelledSet",
    "LabellingStopped",
    "Learned",
    "LeastError",
    "Picks",
    "Plateau",
    "PointThenPerson",
    "Pointwise",
    "PowerBALD",
    "Progress",
    "Queries",
    "Random",
    "RecordedAnswers",
    "Sampled",
    "SimulatedAnnotators",
    "StablePredictions",
    "Strategy",
    "Synthesised",
    "TerminalOracle",
    "Threshold",
    "WebOracle",
    "annotator_intervals",
    "answer_tables",
    "anybody",
    "as_strategy",
    "ascend",
    "bald",
    "bald_variance",
    "batch_bald",
    "class_probabilities",
    "cohen_kappa",
    "consensus_js",
    "consensus_kl",
    "core_set",
    "entropy",
    "expected_error_reduction",
    "frank_wolfe",
    "joint_entropy",
    "label_in_browser",
    "least_confident",
    "likelihood_projections",
    "margin",
    "naive_bayes_error_reduction",
    "pool_errors",
    "power_bald",
    "random",
    "refit_program",
    "sparse_subset",
    "stream",
    "synthesise",
    "top_batch",
    "vote_disagreement",
    "vote_entropy",
]
