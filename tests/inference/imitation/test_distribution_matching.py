"""Divergences between trajectories: exact ones by enumeration, and what they make of a fork."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alike import alike
from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    fork_expert,
    fork_expert_policy,
    fork_mdp,
    rollout,
    state_action_occupancy,
)
from likely.inference import EM, MAP, MLE, ConvergenceWarning, FitError, OptionError, Program
from likely.inference.imitation import (
    behaviour_cloning,
    distribution_matching,
    evaluate_returns,
    log_density,
    mean_interval,
    occupancy_distance,
    play,
)
from likely.inference.imitation.distribution_matching import Density
from likely.inference.imitation.target_occupancy import target_occupancy
from likely.models import GaussianPolicy, MixturePolicy, OccupancyMatching, TabularPolicy


def process(seed: int = 0, states: int = 4, actions: int = 3) -> tuple[TabularMDP, Tensor]:
    random = torch.Generator().manual_seed(seed)

    def table(*shape: int) -> Tensor:
        rows = 0.1 + torch.rand(shape, generator=random, dtype=torch.float64) ** 2
        return rows / rows.sum(-1, keepdim=True)

    mdp = TabularMDP(table(states, actions, states), torch.zeros(states), 0.9, 0)
    return mdp, table(states, actions)


def value_at(program: OccupancyMatching, expert: Tensor, table: Tensor) -> float:
    reading = Program(program, expert)
    return float(reading.log_likelihood({"policy": table}))


# -- exact --------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["factorised", "reverse"])
def test_every_divergence_finds_an_expert_that_the_policy_can_be(divergence: str) -> None:
    mdp, expert = process()
    ways = (
        [{"over": over} for over in ("occupancy", "trajectory")]
        if divergence == "reverse"
        else [{}]
    )
    for options in ways:
        found = distribution_matching(
            expert, TabularPolicy(4, 3), divergence, env=mdp, smoothing=1e-9, **options
        )
        torch.testing.assert_close(found.table, expert, rtol=0, atol=1e-4)
    assert found.method == "distribution_matching"


def test_reverse_divergence_of_trajectories_is_that_of_all_of_them() -> None:
    mdp = fork_mdp(2)
    random = torch.Generator().manual_seed(0)
    rows = 0.2 + torch.rand(2, mdp.n_states, 3, generator=random, dtype=torch.float64)
    policy, expert = rows / rows.sum(-1, keepdim=True)
    number = {place: i for i, place in enumerate(mdp.states)}
    total = 0.0
    for a, b, c in itertools.product(range(3), repeat=3):
        path = [number[0, 0.0], number[1, (a - 1) / 2], number[2, (a + b - 2) / 2]]
        pairs = list(zip(path, (a, b, c), strict=True))
        p, q = (torch.stack([t[s, u] for s, u in pairs]).prod() for t in (policy, expert))
        total += float(p * (p / q).log())
    program = OccupancyMatching(mdp, TabularPolicy(mdp.n_states, 3), "reverse", "trajectory",
                                smoothing=0.0)  # fmt: skip
    target = target_occupancy(mdp, expert)
    visits = state_action_occupancy(mdp, policy)
    length = float((visits * mdp.alive.unsqueeze(-1)).sum())
    ended = float((policy[mdp.sink].log()).mean())
    # The program takes a step at a time, and has a term for the sink that nothing depends on.
    found = -(value_at(program, target, policy) - ended) * length
    assert found == pytest.approx(total, abs=1e-10)


def test_factorised_divergence_is_cloning_and_the_divergence_of_states() -> None:
    mdp, expert = process(1)
    _, policy = process(2)
    target = target_occupancy(mdp, expert)
    where = state_action_occupancy(mdp, policy, normalized=True).sum(-1)
    joint = (target * (policy * where.unsqueeze(-1)).log()).sum()
    program = OccupancyMatching(mdp, TabularPolicy(4, 3), smoothing=0.0)
    assert value_at(program, target, policy) == pytest.approx(float(joint), abs=1e-10)
    cloning = OccupancyMatching(mdp, TabularPolicy(4, 3), state_weight=0.0, smoothing=0.0)
    alone = float((target * policy.log()).sum())
    assert value_at(cloning, target, policy) == pytest.approx(alone, abs=1e-10)


def test_without_the_state_marginal_it_is_cloning() -> None:
    mdp, expert = process(3)
    seen = play(mdp, expert, 20, 0, 15)
    plain = behaviour_cloning(seen, TabularPolicy(4, 3), weights=mdp.discount ** seen.step.double())
    found = distribution_matching(
        seen, TabularPolicy(4, 3), "factorised", env=mdp, state_weight=0.0, smoothing=1e-9
    )
    torch.testing.assert_close(found.table, plain.table, rtol=0, atol=1e-5)


def slippery_ring(n: int = 12) -> tuple[TabularMDP, Tensor]:
    """States in a ring, a step in ten slips either way; the expert keeps near the first."""
    table = torch.zeros(n, 3, n, dtype=torch.float64)
    for s in range(n):
        for a in range(3):
            for noise, share in ((-1, 0.1), (0, 0.8), (1, 0.1)):
                table[s, a, (s + a - 1 + noise) % n] += share
    mdp = TabularMDP(table, torch.eye(n, dtype=torch.float64)[0], 0.95, 0)
    return mdp, mdp.soft_value_iteration(0.1).policy


@pytest.mark.parametrize(("steps", "least", "most"), [(10, 0.08, 1.0), (100, -0.02, 0.02)])
def test_the_state_marginal_regularises(steps: int, least: float, most: float) -> None:
    # Of a short record, cloning knows nothing of the states that did not come up and does anything
    # there; of a long one, the marginal adds nothing.
    mdp, expert = slippery_ring()
    distances: dict[float, list[float]] = {0.0: [], 1.0: []}
    for seed in range(12):
        seen = play(mdp, expert, 1, seed, steps)
        for weight, found in distances.items():
            # The prior is worth a hundredth of a step an action.
            matched = distribution_matching(
                seen, TabularPolicy(12, 3, 1.01), "factorised", env=mdp, state_weight=weight,
                engine=MAP(),
            )  # fmt: skip
            found.append(occupancy_distance(mdp, matched, expert))
    gain = mean_interval(torch.tensor(distances[0.0]) - torch.tensor(distances[1.0]), 0.99)
    assert least < gain[1] < gain[2] < most
    assert torch.tensor(distances[1.0]).mean() < 0.03


@pytest.mark.parametrize("divergence", ["factorised", "reverse"])
def test_an_expert_on_the_fork_is_matched_but_for_the_smoothing(divergence: str) -> None:
    # Nothing is drawn, so that there is no Monte-Carlo error. The target is (1 − ε) ρ_E + ε u: the
    # matched occupancy moves away from ρ_E by about the mass ε that was mixed in, and by nothing
    # else: a bias of another source would show as ε shrinks.
    mdp = fork_mdp()
    expert = fork_expert_policy(mdp)
    for smoothing in (1e-2, 1e-3, 1e-4):
        # What is done where next to nobody goes hardly matters, and the engine says so.
        with pytest.warns(ConvergenceWarning, match="flat"):
            found = distribution_matching(
                expert, TabularPolicy(mdp.n_states, 3), divergence, env=mdp, smoothing=smoothing
            )
        assert 0.5 * smoothing < occupancy_distance(mdp, found, expert) < 1.5 * smoothing


def test_a_prior_counts_against_the_steps_of_the_expert() -> None:
    mdp = fork_mdp()
    expert = fork_expert_policy(mdp)
    few, many = (
        distribution_matching(expert, TabularPolicy(mdp.n_states, 3, 1.01), "reverse", env=mdp,
                              engine=MAP(max_iter=2000), steps=steps)
        for steps in (1, 10)
    )  # fmt: skip
    first, second = (occupancy_distance(mdp, found, expert) for found in (few, many))
    assert 0.02 < first < 0.05
    assert second < first / 5


# -- densities and the score function -----------------------------------------------------------


def test_forward_divergence_is_cloning() -> None:
    demonstrations = rollout("likely/Fork-v0", fork_expert(0), 50, seed=1)
    weights = torch.linspace(0.5, 1.5, 50)
    found = distribution_matching(demonstrations, GaussianPolicy(1), weights=weights)
    cloned = behaviour_cloning(demonstrations, GaussianPolicy(1), weights=weights)
    for site, value in cloned.params.items():
        torch.testing.assert_close(found.params[site], value, rtol=1e-6, atol=1e-8)


def test_log_density_is_the_policys_own() -> None:
    demonstrations = rollout("likely/Fork-v0", fork_expert(0), 20, seed=1)
    policy = GaussianPolicy(1)
    fit = behaviour_cloning(demonstrations, policy)
    states, actions = demonstrations.state_action_pairs()
    expected = policy.at(fit.params, states).log_prob(actions.double())
    torch.testing.assert_close(log_density(policy, fit.params, demonstrations), expected)
    both = behaviour_cloning(
        demonstrations, MixturePolicy(policy, 2, per="episode"), EM(restarts=3)
    )
    whole = log_density(both.policy.policy, both.params, demonstrations)
    assert whole.shape == (20,)
    judge = Density(both.policy.policy, both.params)
    rewards = judge.rewards(demonstrations, fit.policy)
    total = torch.zeros(20).double().index_add(0, demonstrations.episode, rewards)
    own = torch.zeros(20).double().index_add(0, demonstrations.episode, expected)
    torch.testing.assert_close(total, whole - own)


def test_a_floor_under_the_density() -> None:
    seen = Trajectories.from_arrays([[0, 0, 0]], [[0, 1]], state_space=1)
    sure = {"policy": torch.tensor([[1.0, 0.0]])}
    even = behaviour_cloning(seen, TabularPolicy(1, 2))
    rewards = Density(TabularPolicy(1, 2), sure, -5.0).rewards(seen, even.policy)
    expected = torch.tensor([0.0, -5.0]).double() + torch.tensor(2.0).log()
    torch.testing.assert_close(rewards, expected.double(), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_fork_tells_the_divergences_apart() -> None:
    demonstrations = rollout("likely/Fork-v0", fork_expert(0), 200, seed=1)
    one = GaussianPolicy(1)
    forward = distribution_matching(demonstrations, one)
    mixture = behaviour_cloning(
        demonstrations, MixturePolicy(one, 2, per="episode"), EM(restarts=5)
    )

    def crashes(policy: Any) -> float:
        found = evaluate_returns("likely/Fork-v0", policy, episodes=400, seed=99)
        return float((found.returns < 0).double().mean())

    assert crashes(forward) >= 0.4
    assert crashes(forward.policy.most_probable()) >= 0.4
    assert crashes(mixture) <= 0.05
    for seed in (0, 1):
        reverse = distribution_matching(
            demonstrations, one, "reverse", env="likely/Fork-v0", density=mixture,
            iterations=100, episodes=64, radius=0.05, seed=seed,
        )  # fmt: skip
        assert crashes(reverse) <= 0.05
        # A divergence is never negative, and leaving out half of the expert costs log 2.
        assert -reverse.history["reward"].tail(10).mean() > 0.69 - 0.3


def test_actions_are_not_cut_before_their_density_is_taken() -> None:
    demonstrations = rollout("likely/Fork-v0", fork_expert(0, "right"), 50, seed=1)
    policy = GaussianPolicy(1)
    found = distribution_matching(
        demonstrations, policy, "reverse", env="likely/Fork-v0", density=policy,
        iterations=2, episodes=8, seed=0,
    )  # fmt: skip
    played = found.fit.program.args[0].actions
    assert float(played.abs().max()) > 1  # a spread of one goes beyond the bounds
    assert found.policy.action_space.high.tolist() == [1.0]


def test_a_broken_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    demonstrations = rollout("likely/Fork-v0", fork_expert(0, "right"), 30, seed=1)
    policy = GaussianPolicy(1)
    options: dict[str, Any] = {
        "env": "likely/Fork-v0", "density": policy, "episodes": 8, "seed": 3,
    }  # fmt: skip
    whole = distribution_matching(demonstrations, policy, "reverse", iterations=4, **options)
    distribution_matching(demonstrations, policy, "reverse", iterations=2, path=tmp_path, **options)
    found = distribution_matching(
        demonstrations, policy, "reverse", iterations=4, path=tmp_path, **options
    )
    for site, value in whole.params.items():
        assert alike(found.params[site], value)
    other = rollout("likely/Fork-v0", fork_expert(5, "right"), 30, seed=2)
    with pytest.raises(FitError, match="holds a run with values"):
        distribution_matching(other, policy, "reverse", iterations=4, path=tmp_path, **options)
    with pytest.raises(FitError, match="holds a run with floor"):
        distribution_matching(
            demonstrations, policy, "reverse", iterations=4, path=tmp_path, floor=-5.0, **options
        )


# -- errors -------------------------------------------------------------------------------------


def test_bad_input() -> None:
    mdp, expert = process()
    seen = play(mdp, expert, 3, 0, 5)
    table = TabularPolicy(4, 3)
    with pytest.raises(OptionError, match="divergence"):
        distribution_matching(seen, table, "both")
    with pytest.raises(OptionError, match="Trajectories"):
        distribution_matching(expert, table)
    with pytest.raises(OptionError, match="horizon"):
        distribution_matching(seen, table, horizon=3)
    for divergence in ("factorised", "reverse"):
        with pytest.raises(OptionError, match="TabularMDP"):
            distribution_matching(seen, table, divergence)
    with pytest.raises(OptionError, match="no engine"):
        distribution_matching(seen, table, "reverse", env="FrozenLake-v1", engine=MLE())
    wrong: list[dict[str, Any]] = [{"state_weight": -1.0}, {"smoothing": 1.0}, {"over": "all"}]
    more: list[dict[str, Any]] = [{"horizon": 0}, {"steps": 0}, {"state_weight": 2.0}, {"bogus": 1}]
    for options in (*wrong, *more):
        with pytest.raises((OptionError, DataError), match=next(iter(options))):
            distribution_matching(seen, table, "reverse", env=mdp, **options)
    with pytest.raises(OptionError, match="engine"):
        distribution_matching(seen, table, "reverse", env=mdp, engine="mle")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Discrete"):
        distribution_matching(seen, GaussianPolicy(1), "reverse", env=mdp)
    with pytest.raises(DataError, match="over"):
        distribution_matching(seen, table, "factorised", env=mdp, over="trajectory")
    with pytest.raises(OptionError, match="density"):
        distribution_matching(seen, table, "reverse", env="FrozenLake-v1", density=3)
    with pytest.raises(OptionError, match="cannot make"):
        distribution_matching(seen, table, "reverse", env="NoSuch-v0", density=table)
    for floor in ("low", float("nan"), float("inf")):
        with pytest.raises(OptionError, match="floor"):
            distribution_matching(
                seen, table, "reverse", env="FrozenLake-v1", density=table, floor=floor
            )
    for strange in ("expert", None, 2 * expert, -expert, expert[:2], expert * float("nan")):
        with pytest.raises((OptionError, DataError), match="expert"):
            distribution_matching(strange, table, "reverse", env=mdp)  # type: ignore[arg-type]
    for policy in (TabularPolicy(5, 3), TabularPolicy(4, 2)):
        with pytest.raises(DataError, match="Discrete"):
            distribution_matching(expert, policy, "reverse", env=mdp)
    with pytest.raises(OptionError, match="mode for each episode"):
        distribution_matching(expert, MixturePolicy(table, 2, per="episode"), "reverse", env=mdp)
    larger = Trajectories.from_arrays([[0, 9]], [[0]])
    with pytest.raises(OptionError, match="of TabularMDP"):
        distribution_matching(larger, table, "reverse", env=mdp)
    fork = rollout("likely/Fork-v0", fork_expert(0), 2, seed=0)
    with pytest.raises(OptionError, match="Discrete"):
        distribution_matching(fork, table, "reverse", env=mdp)
