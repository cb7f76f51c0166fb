"""Decision processes, planning, environments, and the errors that every layer above shares.

Importing this package registers its environments with gymnasium. Nothing here knows Pyro.
"""

from likely.envs._randomness import EpisodeRandom
from likely.envs.errors import DataError, PlanningError
from likely.envs.experts import (
    acrobot_expert,
    cartpole_expert,
    mountain_car_expert,
    tabular_expert,
)
from likely.envs.finite_horizon import (
    backward_induction,
    evaluate_horizon,
    horizon_occupancy,
    soft_backward_induction,
    state_marginals,
)
from likely.envs.fork import Fork, fork_expert, fork_expert_policy, fork_mdp
from likely.envs.gridworld import GridWorld, cliff_world
from likely.envs.horizon import absorbed
from likely.envs.mdp import TabularMDP
from likely.envs.occupancy import (
    feature_expectations,
    objective,
    performance_difference,
    state_action_occupancy,
    state_occupancy,
    stationary_distribution,
)
from likely.envs.planning import (
    Plan,
    bellman_backup,
    evaluate,
    expected_reward,
    policy_iteration,
    value_iteration,
)
from likely.envs.registration import register_environments
from likely.envs.rollout import rollout
from likely.envs.rollout_tabular import TabularRollout, rollout_tabular
from likely.envs.soft import soft_evaluate, soft_value_iteration
from likely.envs.trained import sb3_expert, train_expert
from likely.envs.trajectories import Trajectories

__all__ = [
    "DataError",
    "EpisodeRandom",
    "Fork",
    "GridWorld",
    "Plan",
    "PlanningError",
    "TabularMDP",
    "TabularRollout",
    "Trajectories",
    "absorbed",
    "acrobot_expert",
    "backward_induction",
    "bellman_backup",
    "cartpole_expert",
    "cliff_world",
    "evaluate",
    "evaluate_horizon",
    "expected_reward",
    "feature_expectations",
    "fork_expert",
    "fork_expert_policy",
    "fork_mdp",
    "horizon_occupancy",
    "mountain_car_expert",
    "objective",
    "performance_difference",
    "policy_iteration",
    "register_environments",
    "rollout",
    "rollout_tabular",
    "sb3_expert",
    "soft_backward_induction",
    "soft_evaluate",
    "soft_value_iteration",
    "state_action_occupancy",
    "state_marginals",
    "state_occupancy",
    "stationary_distribution",
    "tabular_expert",
    "train_expert",
    "value_iteration",
]

register_environments()
