"""Natural gradients: the metric is the Fisher information, steps have the length asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from alike import alike
from likely.envs import TabularMDP, Trajectories, objective
from likely.inference import FitError
from likely.inference.imitation import PolicyGradient, play, policy_gradient
from likely.inference.imitation.policy_program import PolicyProgram, divergence, entropy
from likely.inference.imitation.trust_region import conjugate_gradient, fisher_product
from likely.models import (
    GaussianPolicy,
    ModulePolicy,
    SoftmaxPolicy,
    TabularPolicy,
    TrajectoryModel,
)

pytestmark = pytest.mark.usefixtures("in_double")

S, A, T = 3, 2, 4
SPACES = Discrete(S), Discrete(A)


@pytest.fixture
def tiny() -> TabularMDP:
    """Two states and an end."""
    random = torch.Generator().manual_seed(3)
    rows = torch.rand(S, A, S, generator=random) + 0.05
    rows[-1] = torch.eye(S)[-1]
    paid = torch.rand(S, A, S, generator=random)
    paid[-1] = 0.0
    return TabularMDP(rows / rows.sum(-1, keepdim=True), paid, 0.8, [0.6, 0.4, 0.0], sink=S - 1)


def batches() -> dict[str, tuple[Any, Trajectories]]:
    random = torch.Generator().manual_seed(5)
    states = torch.randn(13, 2, generator=random)
    moves = torch.randint(3, (12,), generator=random)
    vectors = torch.randn(12, 2, generator=random)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    plain = Trajectories.from_arrays([states], [moves], action_space=3)
    return {
        "softmax": (SoftmaxPolicy(3), plain),
        "module": (ModulePolicy(net.double(), 3), plain),
        "gaussian": (GaussianPolicy(2), Trajectories.from_arrays([states], [vectors])),
    }


@pytest.mark.parametrize("name", sorted(batches()))
def test_fisher_products_are_those_of_the_expected_information(name: str) -> None:
    """The curvature of the KL is the mean of ∇ log π ∇ log πᵀ, here by integration."""
    policy, data = batches()[name]
    learner = PolicyProgram(policy, data.state_space, data.action_space)
    random = torch.Generator().manual_seed(2)
    x = 0.3 * torch.randn(learner.coordinates.size, generator=random)
    batch = learner.with_data(data)
    with torch.no_grad():
        old, _ = learner.actions(batch, x)
    times = fisher_product(lambda y: divergence(old, learner.actions(batch, y)[0]).mean(), x)
    eye = torch.eye(len(x))
    found = torch.stack([times(row) for row in eye])

    def logs(y: Tensor) -> Tensor:
        fn, _ = learner.actions(batch, y)
        if policy.discrete:
            return fn.log_prob(fn.enumerate_support())
        return fn.log_prob(values)

    if policy.discrete:
        chance = logs(x).exp()
    else:
        # Two nodes a dimension are exact for polynomials of degree three; scores squared need four.
        nodes, mass = hermite(5)
        values = old.mean + old.base_dist.scale * nodes.unsqueeze(1)
        chance = mass.unsqueeze(-1).expand(len(mass), data.n_steps)
    scores = torch.autograd.functional.jacobian(logs, x)
    wanted = torch.einsum("an,ani,anj->ij", chance, scores, scores) / data.n_steps
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found, found.T, rtol=1e-9, atol=1e-10)


def hermite(order: int) -> tuple[Tensor, Tensor]:
    """Nodes [order², 2] and weights of the standard normal distribution of two numbers."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(order)
    places = torch.tensor(list(product(nodes, nodes)))
    weights = torch.tensor([a * b for a, b in product(mass / mass.sum(), repeat=2)])
    return places, weights


def test_conjugate_gradient_solves() -> None:
    random = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, generator=random)
    matrix, b = root @ root.T + torch.eye(6), torch.randn(6, generator=random)
    found = conjugate_gradient(lambda v: matrix @ v, b, 20, tol=1e-24)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-9)
    assert bool((conjugate_gradient(lambda v: matrix @ v, 0 * b, 5) == 0).all())


@pytest.mark.parametrize("step", ["natural", "trust_region"])
def test_natural_steps_have_the_divergence_asked_for(tiny: TabularMDP, step: str) -> None:
    options = PolicyGradient(
        step=step, radius=1e-4, damping=0.0, horizon=T, discount=0.8, episodes=50
    )
    learner = options.learner(TabularPolicy(S, A), *SPACES)
    before = float(objective(tiny, learner.acting().table))
    moved = [learner.update(play(tiny, learner.acting(), 50, seed, T))["kl"] for seed in range(30)]
    # The Fisher information is the KL's second order; at this radius the third is 1 % of it.
    if step == "natural":
        assert moved == pytest.approx([1e-4] * 30, rel=0.05)
    else:
        assert all(kl <= 1e-4 for kl in moved)
        assert max(moved) > 0.9e-4
    assert float(objective(tiny, learner.acting().table)) > before + 0.02


def test_steps_shrink_to_the_share_asked_for(tiny: TabularMDP) -> None:
    options = PolicyGradient(
        step="natural", radius=1e-4, damping=0.0, horizon=T, discount=0.8, episodes=50,
        anneal=0.2, iterations=5,
    )  # fmt: skip
    learner = options.learner(TabularPolicy(S, A), *SPACES)
    # One step more than planned keeps to the last size.
    moved = [learner.update(play(tiny, learner.acting(), 50, seed, T))["kl"] for seed in range(6)]
    assert moved == pytest.approx([1e-4, 0.8e-4, 0.6e-4, 0.4e-4, 0.2e-4, 0.2e-4], rel=0.05)
    # A gradient step of plain descent is as long as its rate: halved, and no longer at the end.
    plain = replace(options, step="gradient", optimizer="sgd", learning_rate=0.1, iterations=2)
    lengths = []
    for first in (0, 1):
        learner = plain.learner(TabularPolicy(S, A), *SPACES)
        learner.updates, before = first, learner.x.detach().clone()
        learner.update(play(tiny, learner.acting(), 50, 0, T))
        lengths.append(float((learner.x.detach() - before).norm()))
    assert lengths[1] == pytest.approx(0.2 * lengths[0], rel=1e-12)


def test_a_run_whose_steps_shrink_has_a_fixed_end(tiny: TabularMDP, tmp_path: Path) -> None:
    options: dict[str, Any] = {"episodes": 4, "horizon": T, "anneal": 0.5, "path": tmp_path}
    policy_gradient(
        tiny, TabularPolicy(S, A), iterations=4, **options,
        callback=lambda row: row["iteration"] == 1,
    )  # fmt: skip
    with pytest.raises(FitError, match="iterations"):
        policy_gradient(tiny, TabularPolicy(S, A), iterations=6, **options)
    found = policy_gradient(tiny, TabularPolicy(S, A), iterations=4, **options)
    whole = policy_gradient(tiny, TabularPolicy(S, A), iterations=4, **(options | {"path": None}))
    assert alike(found.table, whole.table)


def test_natural_step_does_not_depend_on_the_coordinates(tiny: TabularMDP) -> None:
    """To first order: a table and its log-odds move to the same policy."""
    episodes = play(tiny, torch.full((S, A), 0.5), 200, 0, T)
    tables = []
    for policy in (TabularPolicy(S, A), SoftmaxPolicy(A, torch.eye(S), intercept=False)):
        options = PolicyGradient(step="natural", radius=1e-5, damping=0.0, discount=0.8, episodes=2)
        learner = options.learner(policy, *SPACES)
        learner.update(episodes)
        tables.append(learner.acting().table - 0.5)
    torch.testing.assert_close(tables[0], tables[1], rtol=0.02, atol=1e-5)
    assert float(tables[0].abs().max()) > 1e-3


def test_entropy_and_divergence_take_certainty() -> None:
    sure = TrajectoryModel(TabularPolicy(2, 2)).policy.at({"policy": torch.eye(2)}, [0, 1])
    even = TrajectoryModel(TabularPolicy(2, 2)).policy.at(
        {"policy": torch.full((2, 2), 0.5)}, [0, 1]
    )
    assert entropy(sure).tolist() == [0.0, 0.0]
    assert entropy(even).tolist() == pytest.approx([0.6931471805599453] * 2)
    assert divergence(sure, even).tolist() == pytest.approx([0.6931471805599453] * 2)
