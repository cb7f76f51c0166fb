"""A sparse process is the same process: every function, batched, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from likely.envs import (
    DataError,
    GridWorld,
    TabularMDP,
    backward_induction,
    bellman_backup,
    evaluate_horizon,
    feature_expectations,
    horizon_occupancy,
    objective,
    performance_difference,
    soft_backward_induction,
    soft_evaluate,
    state_marginals,
    state_occupancy,
    stationary_distribution,
)

Make = Callable[..., TabularMDP]
MakePolicy = Callable[..., Tensor]

# What is computed from a process, rewards [3, S, A] and policies [3, S, A].
FUNCTIONS: dict[str, Callable[[TabularMDP, Tensor, Tensor], Tensor]] = {
    "value_iteration": lambda m, r, p: m.value_iteration(reward=r).value,
    "policy_iteration": lambda m, r, p: m.policy_iteration(reward=r).q,
    "evaluate": lambda m, r, p: m.evaluate(p, reward=r).advantage,
    "evaluate_one_policy": lambda m, r, p: m.evaluate(p[0], reward=r).value,
    "soft_value_iteration": lambda m, r, p: m.soft_value_iteration(0.5, reward=r).policy,
    "soft_sweeps": lambda m, r, p: m.soft_value_iteration(0.5, reward=r, method="sweeps").value,
    "soft_prior": lambda m, r, p: m.soft_value_iteration(0.5, reward=r, prior=p).value,
    "soft_evaluate": lambda m, r, p: soft_evaluate(m, p, 0.5, reward=r).value,
    "backward_induction": lambda m, r, p: backward_induction(m, 4, reward=r).value,
    "soft_backward": lambda m, r, p: soft_backward_induction(m, 4, 0.5, reward=r).policy,
    "evaluate_horizon": lambda m, r, p: (
        evaluate_horizon(m, p.unsqueeze(1).expand(3, 4, -1, -1), reward=r, temperature=0.5).value
    ),
    "bellman_backup": lambda m, r, p: bellman_backup(m, r[..., 0], reward=r),
    "state_marginals": lambda m, r, p: state_marginals(m, p[0], 4),
    "horizon_occupancy": lambda m, r, p: horizon_occupancy(m, p[:2]),
    "state_occupancy": lambda m, r, p: state_occupancy(m, p, normalized=True),
    "occupancy": lambda m, r, p: m.occupancy(p),
    "feature_expectations": lambda m, r, p: feature_expectations(m, p, r[0]),
    "objective": lambda m, r, p: objective(m, p, reward=r),
    "performance_difference": lambda m, r, p: performance_difference(m, p, p[:1], reward=r),
    "stationary_distribution": lambda m, r, p: stationary_distribution(m, p),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("sink", "discount"), [(False, 0.9), (True, 0.9), (True, 1.0)], ids=["", "sink", "undiscounted"]
)
def test_values_and_derivatives_are_those_of_the_dense_process(
    random_mdp: Make, random_policy: MakePolicy, name: str, sink: bool, discount: float
) -> None:
    dense = random_mdp(sink=sink, discount=discount)
    logits = random_policy(dense, batch=(3,)).log().requires_grad_()
    random = torch.Generator().manual_seed(2)
    reward = torch.randn(3, 6, 3, generator=random, dtype=torch.float64)
    if discount == 1:
        reward -= 2.0  # or entropy would outweigh the reward, and no episode would end
    reward.requires_grad_()
    found, gradients = [], []
    for mdp in (dense, dense.to_sparse()):
        value = FUNCTIONS[name](mdp, reward, logits.softmax(-1))
        weights = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view_as(value)
        found.append(value)
        gradients.append(
            torch.autograd.grad((weights * value).sum(), (reward, logits), materialize_grads=True)
        )
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)
    assert any(bool(gradient.abs().max() > 1e-6) for gradient in gradients[0])


def test_to_sparse_and_what_it_cannot_keep(random_mdp: Make) -> None:
    dense = random_mdp(sink=True)
    sparse = dense.to_sparse()
    assert sparse.is_sparse
    assert sparse.to_sparse() is sparse
    assert (sparse.sink, sparse.discount, sparse.states) == (5, 0.9, dense.states)
    table = torch.from_numpy(sparse.transition.toarray()).reshape(6, 3, 6)
    assert torch.equal(table, dense.transition)
    learned = random_mdp(transition=random_mdp().transition.requires_grad_())
    with pytest.raises(DataError, match="transition must not require a gradient"):
        learned.to_sparse()


@pytest.mark.parametrize("rewarded", ["arrival", "departure"])
@pytest.mark.parametrize("terminal", [("G", "T"), ()], ids=["ends", "endless"])
def test_a_sparse_world_is_the_dense_one(rewarded: str, terminal: tuple[str, ...]) -> None:
    options: dict[str, Any] = {"slip": 0.3, "wind": 0.1, "rewarded": rewarded, "terminal": terminal}
    layout = ("S.#T", "....", "T.#G")
    dense, sparse = GridWorld(layout, **options), GridWorld(layout, sparse=True, **options)
    assert sparse.mdp.is_sparse
    assert torch.equal(sparse.mdp.initial, dense.mdp.initial)
    rows = dense.mdp.transition.flatten(0, 1)
    assert torch.equal(torch.from_numpy(sparse.mdp.transition.toarray()), rows)
    torch.testing.assert_close(
        sparse.mdp.expected_reward, dense.mdp.expected_reward, rtol=0, atol=1e-15
    )
    # The same draws move both.
    played = []
    for world in (dense, sparse):
        steps = [world.reset(seed=5)[0]]
        for action in (1, 2, 3, 2, 1, 0):
            steps.append(world.step(action)[:3])
            if steps[-1][2]:
                break
        played.append(steps)
    assert played[0] == played[1]
    read = TabularMDP.from_gymnasium(dense, sparse=True)
    assert (read.transition != sparse.mdp.transition).nnz == 0


def test_a_world_of_ten_thousand_cells() -> None:
    # The dense table would take 3 GB.
    n = 100
    lines = ["S" + "." * (n - 1)] + ["." * n] * (n - 2) + ["." * (n - 1) + "G"]
    world = GridWorld(lines, sparse=True, discount=0.99)
    mdp = world.mdp
    assert mdp.n_states == n * n + 1
    plan = mdp.value_iteration()
    assert float(mdp.initial @ plan.value) == pytest.approx(0.99 ** (2 * n - 3), rel=1e-8)
    soft = mdp.soft_value_iteration(0.01)
    where = stationary_distribution(mdp, soft.policy)
    assert float(where.sum()) == pytest.approx(1.0, abs=1e-12)
    pushed = mdp.kernel.push(where.unsqueeze(-1) * soft.policy)
    over = pushed[mdp.sink]
    torch.testing.assert_close((pushed + over * mdp.initial) * mdp.alive, where, rtol=0, atol=1e-12)
