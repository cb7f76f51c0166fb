"""Modes in policy gradients: their score, their entropy and divergence where nothing is closed."""

from __future__ import annotations

from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from likely.envs import TabularMDP, Trajectories, evaluate_horizon
from likely.inference import OptionError
from likely.inference.imitation import PolicyGradient, gail, policy_gradient
from likely.inference.imitation.policy_program import PolicyProgram, divergence, entropy
from likely.inference.imitation.trust_region import fisher_product
from likely.models import GaussianPolicy, MixturePolicy, TabularPolicy

pytestmark = pytest.mark.usefixtures("in_double")

S, A, T = 2, 2, 3
WHOLE = MixturePolicy(TabularPolicy(S, A), 2, per="episode")


@pytest.fixture
def tiny() -> TabularMDP:
    random = torch.Generator().manual_seed(3)
    rows = torch.rand(S, A, S, generator=random) + 0.1
    paid = torch.rand(S, A, S, generator=random)
    return TabularMDP(rows / rows.sum(-1, keepdim=True), paid, 0.8, [0.6, 0.4])


def every_path(mdp: TabularMDP) -> tuple[Trajectories, Tensor, Tensor]:
    """All episodes of T steps; what the process adds to their probabilities; their rows."""
    states = torch.tensor(list(product(range(S), repeat=T + 1)))
    actions = torch.tensor(list(product(range(A), repeat=T)))
    pairs = [(s, a) for s in states for a in actions]
    moves = [mdp.initial[s[0]] * mdp.transition[s[:-1], a, s[1:]].prod() for s, a in pairs]
    rewards = [mdp.reward[s[:-1], a, s[1:]] for s, a in pairs]
    seen = Trajectories.from_arrays(
        [s for s, _ in pairs],
        [a for _, a in pairs],
        rewards,
        state_space=S,
        action_space=A,
    )
    return seen, torch.stack(moves), torch.stack([s[:-1] * A + a for s, a in pairs])


def test_the_score_of_whole_episodes_gives_the_exact_gradient(tiny: TabularMDP) -> None:
    """Σ p(τ) R(τ) ∇ log p(τ) with the mode summed out is ∇ Σ w J(π_mode)."""
    program = PolicyProgram(WHOLE, Discrete(S), Discrete(A))
    x = torch.randn(program.coordinates.size, requires_grad=True)
    with program.program.session(0):
        sites = program.coordinates.constrain(x)
    weights, tables = sites["mode_weights"], sites["policy"]
    earned = torch.stack([tiny.initial @ evaluate_horizon(tiny, t, T).value[0] for t in tables])
    (wanted,) = torch.autograd.grad(weights @ earned, x)
    seen, moves, rows = every_path(tiny)
    with torch.no_grad():
        modes = [w * tables[i].flatten()[rows].prod(-1) for i, w in enumerate(weights)]
        done = torch.stack(modes)
    chances = moves * done.sum(0)
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-12)
    batch = program.with_data(seen, chances * seen.returns(tiny.discount))
    (found,) = torch.autograd.grad(program.log_likelihood(batch, x), x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    assert float(wanted.abs().max()) > 1e-3
    # The learner's weights are of episodes, whatever `step_weights` has a step.
    options = PolicyGradient(weight="return", baseline="none", discount=0.8)
    learner = options.learner(WHOLE, Discrete(S), Discrete(A))
    torch.testing.assert_close(learner.weights(seen), seen.returns(0.8))


class Choose(gymnasium.Env[Any, Any]):
    """Two steps that pay for actions of the same sign, a size from zero."""

    observation_space = Box(-1, 1, (1,), np.float64)
    action_space = Box(-2, 2, (1,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.done: list[float] = []
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.done.append(float(action[0]))
        over = len(self.done) == 2
        paid = -abs(abs(self.done[-1]) - 1) - (abs(self.done[0] - self.done[1]) if over else 0)
        return np.zeros(1), paid, over, False, {}


@pytest.mark.parametrize("per", ["step", "episode"])
@pytest.mark.parametrize("step", ["gradient", "trust_region"])
def test_mixtures_of_vectors_learn(per: str, step: str) -> None:
    policy = MixturePolicy(GaussianPolicy(1), 2, per=per)
    found = policy_gradient(
        Choose, policy, iterations=15, episodes=60, step=step, weight="return", radius=0.05,
        learning_rate=0.1, normalize=True,
    )  # fmt: skip
    history = found.history
    assert history["return"].iloc[-3:].mean() > history["return"].iloc[0] + 1
    assert np.isfinite(history[["entropy", "kl"]]).all(axis=None)
    assert (history["kl"] > 0).all()
    if step == "trust_region":
        # A search of the estimate itself keeps to the radius.
        assert (history["kl"] <= 0.05).all()


def test_estimates_are_those_of_the_closed_forms() -> None:
    """One mode is no mixture: its entropy and KL are known."""
    n = 40_000
    states, random = torch.zeros(n + 1, 1), torch.Generator().manual_seed(0)
    single = MixturePolicy(GaussianPolicy(1), 1)
    program = PolicyProgram(single, Box(-1, 1, (1,), np.float64), Box(-9, 9, (1,), np.float64))
    values = {"mode_weights": torch.ones(1), "coefficients": torch.zeros(1, 1, 1)}
    before = {**values, "intercept": torch.zeros(1, 1), "scale": torch.ones(1, 1)}
    after = {**values, "intercept": torch.full((1, 1), 0.2), "scale": torch.full((1, 1), 1.1)}
    drawn = torch.randn(n, 1, generator=random)
    old, new = (single.at(v, states[:-1]) for v in (before, after))
    plain = [torch.distributions.Normal(m, s) for m, s in ((0.0, 1.0), (0.2, 1.1))]
    wanted = torch.distributions.kl_divergence(plain[0], plain[1])
    found = divergence(old, new, drawn)
    assert bool((found >= 0).all())
    assert abs(found.mean() - wanted) < 5 * found.std() / n**0.5
    spread = entropy(old, drawn)
    assert abs(spread.mean() - plain[0].entropy()) < 5 * spread.std() / n**0.5
    assert bool(entropy(old).isnan().all())
    with pytest.raises(OptionError, match="not closed"):
        divergence(old, new)
    assert not program.closed


def test_the_estimate_is_curved_like_the_scores() -> None:
    """The Hessian of ρ − 1 − log ρ is Σ ∇ log π ∇ log πᵀ, over the actions drawn."""
    seen = Trajectories.from_arrays([torch.randn(8, 1)], [torch.randn(7, 2)])
    policy = MixturePolicy(GaussianPolicy(2), 2)
    program = PolicyProgram(policy, seen.state_space, seen.action_space)
    x = 0.3 * torch.randn(program.coordinates.size)
    batch = program.with_data(seen)
    with torch.no_grad():
        old, taken = program.actions(batch, x)

    def logs(y: Tensor) -> Tensor:
        found: Tensor = program.actions(batch, y)[0].log_prob(taken)
        return found

    times = fisher_product(lambda y: divergence(old, program.actions(batch, y)[0], taken).mean(), x)
    found = torch.stack([times(row) for row in torch.eye(len(x))])
    scores = torch.autograd.functional.jacobian(logs, x)
    torch.testing.assert_close(found, scores.T @ scores / 7, rtol=1e-9, atol=1e-10)


def test_what_modes_cannot_do_is_refused(tiny: TabularMDP) -> None:
    spaces = Box(-1, 1, (1,), np.float64), Box(-2, 2, (1,), np.float64)
    vectors = MixturePolicy(GaussianPolicy(1), 2, per="episode")
    for weight in ("reward_to_go", "gae"):
        with pytest.raises(OptionError, match="weight='return'"):
            PolicyGradient(weight=weight).learner(vectors, *spaces)
    for policy in (vectors, MixturePolicy(GaussianPolicy(1), 2)):
        with pytest.raises(OptionError, match="entropy: that of this policy"):
            PolicyGradient(weight="return", entropy=0.1).learner(policy, *spaces)
    with pytest.raises(OptionError, match="a mode for each episode has no table"):
        policy_gradient(tiny, WHOLE, horizon=3, weight="return")
    seen, _, _ = every_path(tiny)
    with pytest.raises(OptionError, match="a mode for each episode has no table"):
        gail(tiny, WHOLE, seen, horizon=3, weight="return")
