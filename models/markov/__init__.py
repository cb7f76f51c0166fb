"""Programs for sequences whose states are hidden."""

from likely.models.markov.distribution import HiddenMarkovChains
from likely.models.markov.program import HiddenMarkovModel
from likely.models.markov.sequences import Sequences

__all__ = ["HiddenMarkovChains", "HiddenMarkovModel", "Sequences"]
