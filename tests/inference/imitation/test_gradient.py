"""The policy gradient is the program's gradient, and on small processes exactly that of J."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from likely.envs import (
    TabularMDP,
    Trajectories,
    evaluate,
    evaluate_horizon,
    objective,
    soft_evaluate,
)
from likely.inference import Program
from likely.inference.coordinates import Coordinates
from likely.inference.imitation import PolicyGradient, play, step_weights
from likely.inference.imitation.policy_program import PolicyProgram
from likely.models import (
    MixturePolicy,
    ModulePolicy,
    SoftmaxPolicy,
    TabularPolicy,
    TrajectoryModel,
)

pytestmark = pytest.mark.usefixtures("in_double")

S, A, T = 3, 2, 4


@pytest.fixture
def tiny() -> TabularMDP:
    """Two states and an end."""
    random = torch.Generator().manual_seed(3)
    rows = torch.rand(S, A, S, generator=random) + 0.05
    rows[-1] = torch.eye(S)[-1]
    paid = torch.rand(S, A, S, generator=random)
    paid[-1] = 0.0
    rows = rows / rows.sum(-1, keepdim=True)
    return TabularMDP(rows, paid, 0.8, [0.6, 0.4, 0.0], sink=S - 1)


def every_episode(mdp: TabularMDP, policy: Tensor, steps: int) -> tuple[Trajectories, Tensor]:
    """All episodes of ``steps`` steps that can happen, and their probabilities."""
    found: list[tuple[list[int], list[int], list[float], float]] = []

    def extend(states: list[int], actions: list[int], paid: list[float], weight: float) -> None:
        here = states[-1]
        if len(actions) == steps or here == mdp.sink:
            found.append((states, actions, paid, weight))
            return
        for action, after in product(range(mdp.n_actions), range(mdp.n_states)):
            chance = float(policy[here, action] * mdp.transition[here, action, after])
            reward = float(mdp.reward[here, action, after])
            extend([*states, after], [*actions, action], [*paid, reward], weight * chance)

    for first in range(mdp.n_states):
        if mdp.initial[first] > 0:
            extend([first], [], [], float(mdp.initial[first]))
    states, actions, paid, weights = zip(*found, strict=True)
    over = [last[-1] == mdp.sink for last in states]
    episodes = Trajectories.from_arrays(
        states,
        actions,
        paid,
        terminated=over,
        truncated=[not end for end in over],
        state_space=mdp.n_states,
        action_space=mdp.n_actions,
    )
    return episodes, torch.tensor(weights)


def policy_at(x: Tensor, program: PolicyProgram) -> Tensor:
    """The table of a tabular policy at a position; differentiable."""
    with program.program.session(0):
        return program.coordinates.constrain(x)["policy"]


@pytest.fixture
def program() -> PolicyProgram:
    from gymnasium.spaces import Discrete

    return PolicyProgram(TabularPolicy(S, A), Discrete(S), Discrete(A))


@pytest.fixture
def place(program: PolicyProgram) -> Tensor:
    random = torch.Generator().manual_seed(7)
    return torch.randn(program.coordinates.size, generator=random, requires_grad=True)


def exact(mdp: TabularMDP, x: Tensor, program: PolicyProgram) -> Tensor:
    plan = evaluate_horizon(mdp, policy_at(x, program), T)
    (found,) = torch.autograd.grad(mdp.initial @ plan.value[0], x)
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "return": {"kind": "return"},
    "reward to go": {},
    "with values": {"baseline": lambda states: torch.tensor([1.3, -0.4, 0.0])[states]},
    "advantages": {
        "kind": "gae",
        "trace": 1.0,
        "baseline": lambda states: torch.tensor([1.3, -0.4, 0.0])[states],
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_mean_over_all_episodes_is_the_exact_gradient(
    tiny: TabularMDP, program: PolicyProgram, place: Tensor, name: str
) -> None:
    episodes, chances = every_episode(tiny, policy_at(place, program).detach(), T)
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-12)
    options = OPTIONS[name]
    if name == "advantages":
        # A limit of time is an end of this objective.
        done = torch.ones(len(episodes), dtype=torch.bool)
        episodes = Trajectories.from_arrays(
            episodes.states,
            episodes.actions,
            episodes.rewards,
            lengths=episodes.lengths,
            terminated=done,
            state_space=S,
            action_space=A,
        )
    weights = step_weights(episodes, discount=tiny.discount, **options)
    batch = program.with_data(episodes, weights * chances[episodes.episode])
    (found,) = torch.autograd.grad(program.log_likelihood(batch, place), place)
    torch.testing.assert_close(found, exact(tiny, place, program), rtol=0, atol=1e-10)


def test_exact_advantages_without_trace_are_exact_in_expectation(
    tiny: TabularMDP, program: PolicyProgram, place: Tensor
) -> None:
    """λ = 0 trusts the values, which is right where they are the policy's own."""
    policy = policy_at(place, program)
    values = evaluate(tiny, policy.detach()).value
    wanted = torch.autograd.functional.jacobian(
        lambda x: objective(tiny, policy_at(x, program)), place.detach()
    )
    # One step from each state, weighed by its visits, is the policy gradient theorem.
    visits = tiny.occupancy(policy.detach()).sum(-1)
    rows = [(s, a, n) for s, a, n in product(range(S - 1), range(A), range(S))]
    episodes = Trajectories.from_arrays(
        [[s, n] for s, _, n in rows],
        [[a] for _, a, _ in rows],
        [[float(tiny.reward[s, a, n])] for s, a, n in rows],
        terminated=[n == S - 1 for _, _, n in rows],
        state_space=S,
        action_space=A,
    )
    mass = torch.stack([visits[s] * policy[s, a] * tiny.transition[s, a, n] for s, a, n in rows])
    weights = step_weights(
        episodes, "gae", discount=tiny.discount, trace=0.0, baseline=lambda s: values[s]
    )
    batch = program.with_data(episodes, weights * mass.detach())
    (found,) = torch.autograd.grad(program.log_likelihood(batch, place), place)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "baseline"),
    [
        ("return", "none"),
        ("return", "mean"),
        ("reward_to_go", "none"),
        ("reward_to_go", "mean"),
        ("reward_to_go", "value"),
    ],
)
def test_sampled_gradient_is_unbiased(
    tiny: TabularMDP, program: PolicyProgram, place: Tensor, kind: str, baseline: str
) -> None:
    """Means over many small batches, within five standard errors: 1 in 10⁵ by chance."""
    with torch.no_grad():
        table = policy_at(place, program)
    found = []
    for seed in range(300):
        episodes = play(tiny, table, 4, seed, T)
        weights = step_weights(episodes, kind, discount=tiny.discount, baseline=baseline)
        batch = program.with_data(episodes, weights)
        found.append(torch.autograd.grad(program.log_likelihood(batch, place) / 4, place)[0])
    rows = torch.stack(found)
    error = rows.std(0) / len(rows) ** 0.5
    wanted = exact(tiny, place, program)
    # The sink's row is never used, and has neither gradient nor error.
    used = error > 0
    assert int(used.sum()) == (S - 1) * (A - 1)
    assert bool(((rows.mean(0) - wanted).abs()[used] < 5 * error[used]).all())
    assert bool((wanted[~used].abs() < 1e-12).all())


def test_baselines_reduce_the_variance(
    tiny: TabularMDP, program: PolicyProgram, place: Tensor
) -> None:
    with torch.no_grad():
        table = policy_at(place, program)
    spread = {}
    for name in ("return", "reward_to_go", "mean"):
        rows = []
        for seed in range(200):
            episodes = play(tiny, table, 8, seed, T)
            kind = "return" if name == "return" else "reward_to_go"
            how = "mean" if name == "mean" else "none"
            weights = step_weights(episodes, kind, discount=tiny.discount, baseline=how)
            batch = program.with_data(episodes, weights)
            rows.append(torch.autograd.grad(program.log_likelihood(batch, place), place)[0])
        spread[name] = float(torch.stack(rows).var(0).sum())
    assert spread["mean"] < 0.8 * spread["reward_to_go"] < 0.8 * spread["return"]


def test_weights_of_one_give_the_gradient_of_cloning(tiny: TabularMDP) -> None:
    """Σ ∇ log π of cloning and of the policy gradient are one number, for every kind of policy."""
    from gymnasium.spaces import Discrete

    expert = play(tiny, tiny.soft_value_iteration(0.1).policy, 20, 0, T)
    net = torch.nn.Sequential(torch.nn.Linear(S, 4), torch.nn.Tanh(), torch.nn.Linear(4, A))
    features = torch.eye(S)
    policies = [
        TabularPolicy(S, A),
        SoftmaxPolicy(A, features),
        MixturePolicy(TabularPolicy(S, A), 2),
        ModulePolicy(torch.nn.Sequential(OneHot(S), net), A),
    ]
    for policy in policies:
        learner = PolicyProgram(policy, Discrete(S), Discrete(A))
        cloning = Program(TrajectoryModel(policy), expert)
        coordinates = Coordinates(cloning)
        x = torch.randn(coordinates.size, requires_grad=True)
        with cloning.session(0):
            density = cloning.density(coordinates.split(x), unconstrained=True)
        (wanted,) = torch.autograd.grad(density.log_likelihood, x)
        batch = learner.with_data(expert, torch.ones(expert.n_steps))
        (found,) = torch.autograd.grad(learner.log_likelihood(batch, x), x)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        assert float(wanted.abs().max()) > 0.1
        by_episode = learner.with_data(expert, torch.ones(len(expert)))
        (again,) = torch.autograd.grad(learner.log_likelihood(by_episode, x), x)
        torch.testing.assert_close(again, wanted, rtol=0, atol=1e-12)


class OneHot(torch.nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, states: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(states.long(), self.size).to(torch.get_default_dtype())


def test_entropy_bonus_is_the_soft_objective_of_one_step() -> None:
    """Over one step the states do not depend on the policy, so nothing is left out."""
    bandit = TabularMDP(
        [[[0.0, 1.0]] * 3, [[0.0, 1.0]] * 3], [[0.3, 0.9, 0.1], [0.0] * 3], 1.0, 0, sink=1
    )
    options = PolicyGradient(horizon=1, entropy=0.7, baseline="none", episodes=3)
    policy = TabularPolicy(2, 3)
    learner = options.learner(policy, *spaces_of(bandit))
    with torch.no_grad():
        learner.x.copy_(torch.tensor([0.4, -0.3, 0.0, 0.0]))
    x = learner.x.detach().clone().requires_grad_(True)
    table = policy_at(x, learner.program)
    plan = soft_evaluate(bandit, table, 0.7)
    (wanted,) = torch.autograd.grad(bandit.initial @ plan.value, x)
    # One episode of each action, so often as it is chosen.
    episodes = Trajectories.from_arrays(
        [[0, 1]] * 3,
        [[a] for a in range(3)],
        [[r] for r in (0.3, 0.9, 0.1)],
        terminated=True,
        state_space=2,
        action_space=3,
    )
    weights = 3 * table[0].detach() * torch.tensor([0.3, 0.9, 0.1])
    torch.testing.assert_close(learner.gradient(episodes, weights), wanted, rtol=0, atol=1e-12)


def spaces_of(mdp: TabularMDP) -> tuple[Any, Any]:
    from gymnasium.spaces import Discrete

    return Discrete(mdp.n_states), Discrete(mdp.n_actions)
