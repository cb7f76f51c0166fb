"""Planning inside a Pyro program: every engine differentiates through it."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.envs import GridWorld, TabularMDP, rollout_tabular, soft_backward_induction
from likely.inference import MAP, MLE, Laplace
from likely.inference.curvature import hessian

WORLD = GridWorld(("S..G", ".#.T", "...."), slip=0.2, rewarded="departure", discount=0.9)
TRUTH = torch.tensor([2.0, -1.0], dtype=torch.float64)


def reward_of(weights: torch.Tensor) -> torch.Tensor:
    """Free cells cost 0.3, which is known: more for them and for all ends is the same policy."""
    return WORLD.features[:, 1:] @ weights - 0.3 * WORLD.features[:, 0]


def irl(states: torch.Tensor, actions: torch.Tensor) -> None:
    """Weights of features, and what an agent does who plans with them."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    policy = WORLD.mdp.soft_value_iteration(0.5, reward=reward_of(weights)).policy
    with pyro.plate("step", len(states)):
        pyro.sample("action", dist.Categorical(policy[states]), obs=actions)


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    plan = WORLD.mdp.soft_value_iteration(0.5, reward=reward_of(TRUTH))
    found = rollout_tabular(WORLD.mdp, plan.policy, 400, 30, seed=0)
    taken = found.actions >= 0
    return found.states[:, :-1][taken], found.actions[taken]


def test_weights_are_recovered(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    for engine in (MLE(), MAP(), Laplace(draws=200)):
        fit = engine.fit(irl, *data)
        assert fit.converged
    error = fit.draws["weights"].std((0, 1))
    assert bool(((fit.params["weights"] - TRUTH).abs() < 4 * error).all())
    assert bool((error < 0.5).all())


def test_curvature_is_that_of_a_long_horizon(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    states, actions = data

    def log_likelihood(plan: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda w: plan(reward_of(w)).log()[states, actions].sum()

    implicit = log_likelihood(lambda r: WORLD.mdp.soft_value_iteration(0.5, reward=r).policy)
    unrolled = log_likelihood(
        lambda r: soft_backward_induction(WORLD.mdp, 300, 0.5, reward=r).policy[0]
    )
    torch.testing.assert_close(
        hessian(implicit, TRUTH), hessian(unrolled, TRUTH), rtol=1e-7, atol=0
    )


def test_learned_dynamics_have_derivatives() -> None:
    # A process that is built anew each time may have moves that are being learned.
    logits = torch.zeros(3, 2, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        mdp = TabularMDP(logits.softmax(-1), torch.tensor([0.0, 0.0, 1.0]), 0.9, 0)
        mdp.soft_value_iteration(0.5).value[0].backward()
    assert logits.grad is not None
    # More of what leads to state 2, which pays.
    assert bool((logits.grad[..., 2] > 0).all())
    assert bool((logits.grad[..., :2] < 0).all())
