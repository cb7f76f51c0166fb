"""Imitation as inference: one trajectory program, whose data and weights make the method."""

from likely.inference.imitation.acting import ActingPolicy, as_table
from likely.inference.imitation.advantages import step_weights
from likely.inference.imitation.learner import PolicyLearner
from likely.inference.imitation.playing import play
from likely.inference.imitation.policy_gradient import PolicyGradient, policy_gradient
from likely.inference.imitation.result import Imitation

__all__ = [
    "ActingPolicy",
    "Imitation",
    "PolicyGradient",
    "PolicyLearner",
    "as_table",
    "play",
    "policy_gradient",
    "step_weights",
]
