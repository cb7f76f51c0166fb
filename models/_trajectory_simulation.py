"""Whole episodes drawn from a trajectory program."""

from __future__ import annotations

import torch

from likely.envs import Trajectories
from likely.models._mixture_policy import MixturePolicy
from likely.models._policy_base import Policy, Sites
from likely.models._start_states import States
from likely.models.dynamics import Dynamics


def simulated(
    policy: Policy, dynamics: Dynamics, marginal: States, episodes: int, steps: int
) -> Trajectories:
    """Sample the sites of all parts, then ``episodes`` episodes of ``steps`` steps.

    Nothing ends an episode but the number of its steps: all are ``truncated``.
    """
    like = torch.empty(())
    sites: Sites = marginal.sample_sites(like)
    with torch.no_grad():
        state = marginal.distribution(sites).sample((episodes,))
    sites |= policy.sample_sites(state)
    sites |= dynamics.sample_sites(like, policy.action_width)
    states, actions = [state], []
    with torch.no_grad():
        mode = None
        if isinstance(policy, MixturePolicy) and policy.per == "episode":
            mode = torch.distributions.Categorical(sites["mode_weights"]).sample((episodes,))
        for _ in range(steps):
            if mode is not None and isinstance(policy, MixturePolicy):
                action = policy.selected(sites, state, mode).sample()
            else:
                action = policy.distribution(sites, state).sample()
            state = dynamics.distribution(sites, state, action).sample()
            actions.append(action)
            states.append(state)
    seen, done = torch.stack(states, 1).flatten(0, 1), torch.stack(actions, 1).flatten(0, 1)
    return Trajectories.from_arrays(
        seen,
        done,
        lengths=torch.full((episodes,), steps),
        truncated=True,
        state_space=marginal.space,
        action_space=policy.action_space,
    )
