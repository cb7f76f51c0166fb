"""Proximal policy optimisation of a policy program, by stable-baselines3's `PPO`.

Schulman et al. 2017, "Proximal policy optimization algorithms". The actor is the program of the
policy at a flat vector, as in every other step; the critic, the clipped objective, its epochs of
minibatches and its optimiser are those of stable-baselines3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.envs._extras import left_alone
from likely.inference.checkpoints import seed_of
from likely.inference.errors import OptionError
from likely.inference.imitation.learner import PolicyLearner
from likely.inference.imitation.policy_program import PolicyProgram, entropy
from likely.inference.program import Program

if TYPE_CHECKING:
    from likely.inference.imitation.policy_gradient import PolicyGradient


class Actor(ActorCriticPolicy):
    """A policy program as the actor, beside a critic of stable-baselines3."""

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Any,
        use_sde: bool = False,
        *,
        program: PolicyProgram,
        x: torch.nn.Parameter,
        **kwargs: Any,
    ) -> None:
        kwargs = {"net_arch": {"pi": [], "vf": [64, 64]}, **kwargs}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        # In place of the actor that came with it.
        self.action_net = torch.nn.Identity()
        if hasattr(self, "log_std"):
            del self.log_std
        self.program, self.x = program, x
        made: Any = self.optimizer_class
        self.optimizer = made(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values, log-densities of actions, and entropies (None where not closed), [n] each."""
        fn = self.program.distribution(self.x, self._states(obs))
        if isinstance(self.action_space, Discrete):
            taken = actions.long()
        else:
            taken = actions.reshape(-1, *(self.action_space.shape or ())).to(self.x)
        spread = entropy(fn)
        closed = not bool(torch.isnan(spread).any())
        return self.predict_values(obs), fn.log_prob(taken), spread if closed else None

    def _states(self, obs: Tensor) -> Tensor:
        if isinstance(self.observation_space, Discrete):
            return obs.long().reshape(-1)
        return obs.to(self.x)


class PPOLearner(PolicyLearner):
    """A policy that stable-baselines3's PPO moves; see `PolicyLearner`.

    The steps of all episodes of an update are its rollout: advantages are its own, generalised ones
    of its critic, which also stands in for what a truncated episode would still have earned.
    """

    def __init__(
        self,
        options: PolicyGradient,
        policy: Any,
        state_space: Any,
        action_space: Any,
        init: Any = None,
    ) -> None:
        super().__init__(options, policy, state_space, action_space, init)
        own = dict(options.ppo or {})
        rate = options.rate
        with left_alone(seed_of(options.seed, 0)):
            try:
                made = PPO(
                    Actor,
                    None,  # type: ignore[arg-type]
                    learning_rate=lambda share: share * rate,
                    gamma=1.0 if options.discount is None else options.discount,
                    gae_lambda=options.trace if options.weight == "gae" else 1.0,
                    ent_coef=options.entropy,
                    device="cpu",
                    _init_setup_model=False,
                    **{name: value for name, value in own.items() if name != "policy_kwargs"},
                )
                inner = {"program": self.program, "x": self.x, **own.get("policy_kwargs", {})}
                made.policy_kwargs = inner
                made.observation_space, made.action_space = state_space, action_space
                made.n_envs, made.n_steps = 1, 1
                made._setup_model()
            except (TypeError, ValueError, AssertionError) as error:
                raise OptionError(f"ppo: stable-baselines3 refuses {own}: {error}") from error
        made.set_logger(Logger(None, []))
        self.algorithm = made
        self.optimizer = made.policy.optimizer

    def weights(self, trajectories: Trajectories) -> Tensor:
        """Generalised advantages [N] by the critic."""
        found = self._rollout(trajectories).advantages[:, 0]
        return torch.from_numpy(found).to(self.x.detach())

    def _move(
        self, batch: Program, trajectories: Trajectories, weights: Tensor, old: Any, taken: Tensor
    ) -> None:
        rollout, made = self._rollout(trajectories), self.algorithm
        by_step = weights if len(weights) == len(taken) else weights[trajectories.episode]
        rollout.advantages[:, 0] = by_step.detach().numpy()
        made.rollout_buffer = rollout
        made._current_progress_remaining = self.options.share(self.updates)
        # Its minibatches are drawn with NumPy's global generator.
        with left_alone(seed_of(self.options.seed, self.updates + 1)):
            made.train()

    def _rollout(self, trajectories: Trajectories) -> RolloutBuffer:
        """The steps as stable-baselines3 keeps them, one after another."""
        made, actor, n = self.algorithm, self.algorithm.policy, trajectories.n_steps
        spaces = actor.observation_space, actor.action_space
        rollout = RolloutBuffer(n, *spaces, "cpu", made.gae_lambda, made.gamma, 1)
        states, actions = trajectories.state_action_pairs()
        paid = trajectories.rewards
        if paid is None:
            raise DataError("rewards: these trajectories have none")
        last = trajectories.starts + trajectories.lengths - 1
        rollout.observations[:, 0] = states.reshape(n, *rollout.obs_shape).numpy()
        rollout.actions[:, 0] = actions.reshape(n, rollout.action_dim).numpy()
        rollout.episode_starts[:, 0] = (trajectories.step == 0).numpy()
        with torch.no_grad():
            obs = torch.from_numpy(rollout.observations[:, 0])
            drawn = torch.from_numpy(rollout.actions[:, 0])
            values, logs, _ = actor.evaluate_actions(obs, drawn.reshape(actions.shape))
            ends = trajectories.next_states[last].numpy().astype(spaces[0].dtype)
            after = actor.predict_values(torch.from_numpy(ends.reshape(-1, *rollout.obs_shape)))
        rollout.values[:, 0], rollout.log_probs[:, 0] = values.flatten().numpy(), logs.numpy()
        # What a limit of time cut off is what the critic thinks of the last state.
        left = after.flatten().to(paid).masked_fill(trajectories.terminated, 0.0)
        rollout.rewards[:, 0] = paid.index_add(0, last, made.gamma * left).numpy()
        rollout.compute_returns_and_advantage(torch.zeros(1), np.ones(1))
        rollout.full = True
        return rollout

    def state(self) -> dict[str, Any]:
        """What the next step depends on, the critic with it."""
        critic = {n: v.detach().clone() for n, v in self.algorithm.policy.state_dict().items()}
        return {**super().state(), "critic": critic}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.algorithm.policy.load_state_dict(state["critic"])
        super().restore(state)
