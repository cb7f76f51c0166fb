"""The names under which gymnasium finds the environments of this package."""

from __future__ import annotations

import gymnasium

# Four rooms can be crossed in 18 steps.
_ENVIRONMENTS = {
    "likely/GridWorld-v0": ("likely.envs.gridworld:GridWorld", 100),
    "likely/CliffWorld-v0": ("likely.envs.gridworld:cliff_world", None),
    "likely/Fork-v0": ("likely.envs.fork:Fork", None),
}


def register_environments() -> None:
    """Make ``gymnasium.make("likely/...")`` work; done when `likely.envs` is imported."""
    for name, (entry_point, max_steps) in _ENVIRONMENTS.items():
        # A second registration of one name would warn.
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, max_episode_steps=max_steps)
