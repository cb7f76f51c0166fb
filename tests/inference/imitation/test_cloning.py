"""Cloning is a fit of the program, its gap obeys the bound, its posterior knows what it lacks."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from likely.envs import (
    DataError,
    GridWorld,
    TabularMDP,
    Trajectories,
    cartpole_expert,
    evaluate_horizon,
    objective,
    performance_difference,
    rollout,
    state_occupancy,
)
from likely.inference import MAP, MLE, VBEM, FitError, Laplace, OptionError
from likely.inference.imitation import (
    behaviour_cloning,
    cloning_gap,
    compounding,
    coverage,
    evaluate_returns,
    play,
    plot_compounding,
    plot_uncertainty,
    policy_uncertainty,
)
from likely.models import (
    GaussianPolicy,
    ModulePolicy,
    SoftmaxPolicy,
    TabularDynamics,
    TabularPolicy,
    TrajectoryModel,
)

pytestmark = pytest.mark.usefixtures("in_double")


def random_mdp(seed: int, states: int = 6, actions: int = 3, discount: float = 0.9) -> TabularMDP:
    random = np.random.default_rng(seed)
    rows = random.dirichlet(np.full(states, 0.4), (states, actions))
    start = random.dirichlet(np.ones(states))
    return TabularMDP(rows, random.random((states, actions)), discount, start)


def random_policy(seed: int, mdp: TabularMDP) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.dirichlet(np.full(mdp.n_actions, 0.5), mdp.n_states))


def tightrope(length: int, recovers: bool) -> TabularMDP:
    """One step aside either costs the rest of the episode or is made good at once."""
    rope, ground = range(length), length
    rows = torch.zeros(length + 1, 2, length + 1)
    for place in rope:
        rows[place, 0, (place + 1) % length] = 1.0
        rows[place, 1, ground] = 1.0
    rows[ground, :, 0 if recovers else ground] = 1.0
    reward = torch.ones(length + 1)
    reward[ground] = 0.0
    return TabularMDP(rows, reward, 1.0, 0)


# -- the fit -------------------------------------------------------------------------------------


def test_cloning_is_the_fit_of_the_program() -> None:
    mdp = random_mdp(0)
    seen = play(mdp, random_policy(1, mdp), 30, 0, 20)
    weights = torch.linspace(0.5, 2.0, len(seen))
    found = behaviour_cloning(seen, TabularPolicy(6, 3, concentration=2.0), MAP(), weights)
    direct = MAP().fit(
        TrajectoryModel(TabularPolicy(6, 3, concentration=2.0)), seen, weights=weights
    )
    assert torch.equal(found.params["policy"], direct.params["policy"])
    states, actions = seen.state_action_pairs()
    counts = torch.zeros(6, 3).index_put((states, actions), weights[seen.episode], True) + 1.0
    torch.testing.assert_close(
        found.table, counts / counts.sum(-1, keepdim=True), rtol=0, atol=1e-7
    )
    assert found.method == "behaviour_cloning"
    assert found.history.equals(found.fit.history)


def test_dynamics_are_fitted_along() -> None:
    mdp = random_mdp(0)
    seen = play(mdp, random_policy(1, mdp), 50, 0, 20)
    program = {"dynamics": TabularDynamics(6, 3, concentration=2.0)}
    found = behaviour_cloning(seen, TabularPolicy(6, 3, concentration=2.0), MAP(), **program)
    alone = behaviour_cloning(seen, TabularPolicy(6, 3, concentration=2.0), MAP())
    assert found.params["transition"].shape == (6, 3, 6)
    # Searches end within 1e-10 of some 2000 nats: (2 · 2e-7 / 50 visits)^½ in a probability.
    torch.testing.assert_close(found.table, alone.table, rtol=0, atol=1e-4)


def test_module_and_normal_policies_are_cloned() -> None:
    random = torch.Generator().manual_seed(0)
    states = torch.randn(201, 2, generator=random)
    moves = states[:-1] @ torch.tensor([[1.0], [-2.0]]) + 0.1 * torch.randn(
        200, 1, generator=random
    )
    seen = Trajectories.from_arrays([states], [moves])
    found = behaviour_cloning(seen, GaussianPolicy(1), greedy=True)
    rng = np.random.default_rng(0)
    near = found.policy(states[:-1].numpy(), rng) - moves.numpy()
    assert float(np.abs(near).std()) < 0.15
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    choices = Trajectories.from_arrays([states], [(moves[:, 0] > 0).long()], action_space=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separable but for the noise
        cloned = behaviour_cloning(choices, ModulePolicy(net, 2), MLE(max_iter=50), greedy=True)
    right = cloned.policy(states[:-1].numpy(), rng) == (moves[:, 0] > 0).numpy()
    assert right.mean() > 0.97


def test_bad_input_is_refused() -> None:
    seen = Trajectories.from_arrays([[0, 1, 0]], [[0, 1]])
    with pytest.raises(OptionError, match="engine must be an engine"):
        behaviour_cloning(seen, TabularPolicy(2, 2), MLE)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="actions: these trajectories have none"):
        behaviour_cloning(seen.with_actions(None), TabularPolicy(2, 2))
    with pytest.raises(DataError, match="states"):
        behaviour_cloning(seen, TabularPolicy(3, 2))
    with pytest.raises(DataError, match="weights"):
        behaviour_cloning(seen, TabularPolicy(2, 2), weights=[1.0, float("nan")])
    with pytest.raises(DataError, match="expected Trajectories"):
        behaviour_cloning([[0, 1]], TabularPolicy(2, 2))  # type: ignore[arg-type]


@pytest.mark.slow
def test_cartpole_is_cloned_from_fifty_episodes() -> None:
    seen = rollout("CartPole-v1", cartpole_expert, 50, seed=0)
    # The demonstrations are separable: the likelihood has no maximum.
    with pytest.warns(UserWarning, match="maximum lies at infinity"):
        found = behaviour_cloning(seen, SoftmaxPolicy(2), MLE())
    assert found.fit.log_likelihood > -0.1
    earned = evaluate_returns("CartPole-v1", found, episodes=100, seed=1)
    assert bool((earned.returns == 500).all())
    with pytest.warns(UserWarning, match="no convergence in 20 iterations"):
        short = behaviour_cloning(seen, SoftmaxPolicy(2), MLE(max_iter=20))
    assert evaluate_returns("CartPole-v1", short, episodes=100, seed=1).mean == 500


# -- the gap -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_gap_is_exact_and_obeys_the_bounds(seed: int) -> None:
    mdp = random_mdp(seed, discount=(0.5, 0.9, 0.99)[seed % 3])
    expert = mdp.value_iteration().policy
    mixed = 0.7 * expert + 0.3 * random_policy(seed + 100, mdp)
    for policy in (mixed, random_policy(seed, mdp)):
        found = cloning_gap(mdp, policy, expert)
        wanted = float(performance_difference(mdp, expert, policy))
        assert found.gap == pytest.approx(wanted, abs=1e-9)
        where = state_occupancy(mdp, expert, normalized=True)
        wrong = 1 - (policy * expert).sum(-1)
        assert found.disagreement == pytest.approx(float(where @ wrong), abs=1e-12)
        # Rewards lie in [0, 1]; the largest and the smallest say by how much the bound shrinks.
        extent = float(mdp.reward.max() - mdp.reward.min())
        assert found.bound == pytest.approx(
            extent * 2 * found.disagreement / (1 - mdp.discount) ** 2
        )
        assert 0 <= found.gap <= found.sharp < found.bound


def test_sharp_bound_is_reached() -> None:
    """Where one false step costs all that is to come, and the expert visits nothing else."""
    mdp = tightrope(1, recovers=False)
    policy = torch.tensor([[1 - 1e-6, 1e-6], [1.0, 0.0]])
    discounted = TabularMDP(mdp.transition, mdp.reward, 0.99, 0)
    found = cloning_gap(discounted, policy, torch.tensor([[1.0, 0.0]] * 2))
    # The false step itself still pays: a share γ of the bound.
    assert found.gap == pytest.approx(0.99 * found.sharp, rel=1e-3)


@pytest.mark.parametrize("episodes", [3, 30, 300])
def test_bound_holds_for_clones_on_the_lake(episodes: int) -> None:
    lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.9)
    expert = lake.soft_value_iteration(0.02).policy
    seen = play(lake, expert, episodes, 0, 200)
    clone = behaviour_cloning(seen, TabularPolicy(17, 4, concentration=1.1), MAP())
    found = cloning_gap(lake, clone, expert)
    exact = objective(lake, expert) - objective(lake, clone.table)
    assert found.gap == pytest.approx(float(exact), abs=1e-12)
    assert 0 < found.disagreement < 0.6
    assert found.gap <= found.sharp < found.bound == 2 * found.sharp


def test_disagreement_falls_with_demonstrations() -> None:
    mdp = random_mdp(3)
    expert = mdp.soft_value_iteration(0.1).policy
    seen = play(mdp, expert, 2000, 0, 10)
    prior = TabularPolicy(6, 3, concentration=1.1)
    clones = [behaviour_cloning(seen[:n], prior, MAP()) for n in (2, 20, 200, 2000)]
    apart = [cloning_gap(mdp, clone, expert).disagreement for clone in clones]
    # A table's error falls like one by the root of the counts: tenfold for a hundred times more.
    assert apart[0] > apart[1] > apart[2] > apart[3]
    assert apart[3] < 0.3 * apart[1]


def test_errors_compound_where_nothing_makes_them_good() -> None:
    """Gaps of closed form: T − (1 − (1−ε)^T) / ε off the rope for good, else about εT/(1 + ε)."""
    rate, horizons = 0.001, [10, 20, 40, 80]
    expert = torch.tensor([1.0, 0.0]).expand(6, 2)
    clone = torch.tensor([1 - rate, rate]).expand(6, 2)
    lost = compounding(tightrope(5, recovers=False), clone, expert, horizons)
    for T, gap in zip(horizons, lost["gap"], strict=True):
        assert gap == pytest.approx(T - (1 - (1 - rate) ** T) / rate, rel=1e-9)
    assert lost["disagreement"].to_numpy() == pytest.approx([rate] * 4)
    assert bool((lost["gap"] <= lost["sharp"]).all())
    kept = compounding(tightrope(5, recovers=True), clone, expert, horizons)
    slope = [float(np.polyfit(np.log(horizons), np.log(t["gap"]), 1)[0]) for t in (lost, kept)]
    assert slope[0] == pytest.approx(2, abs=0.1)
    assert slope[1] == pytest.approx(1, abs=0.1)


def test_gap_over_a_horizon_is_that_of_backward_evaluation() -> None:
    mdp = random_mdp(2)
    expert, policy = random_policy(0, mdp), random_policy(1, mdp)
    free = TabularMDP(mdp.transition, mdp.reward, 1.0, mdp.initial)
    value = [evaluate_horizon(free, p, 7).value[0] for p in (expert, policy)]
    assert cloning_gap(mdp, policy, expert, 7).gap == pytest.approx(
        float(mdp.initial @ (value[0] - value[1]))
    )
    with pytest.raises(OptionError, match="horizon"):
        cloning_gap(free, policy, expert)
    with pytest.raises(OptionError, match="horizon"):
        cloning_gap(mdp, policy, expert, 0)
    with pytest.raises(DataError, match="policy: expected probabilities"):
        cloning_gap(mdp, policy[:3], expert)


def test_coverage_counts_visits_to_states_that_were_seen() -> None:
    mdp = tightrope(4, recovers=False)
    expert = torch.tensor([1.0, 0.0]).expand(5, 2)
    seen = play(mdp, expert, 1, 0, 8)
    half = torch.tensor([0.5, 0.5]).expand(5, 2)
    own, clone = coverage(mdp, seen, expert, half, horizon=3)
    # Never falling, after one step half of the time, after two steps a quarter.
    assert own == 1.0
    assert clone == pytest.approx((1 + 0.5 + 0.25) / 3)


# -- posteriors ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> GridWorld:
    return GridWorld(["S..", ".#.", "..G"], slip=0.1)


def engines() -> dict[str, Any]:
    return {
        "vbem": VBEM(seed=1),
        "laplace": Laplace(draws=1000),
    }


@pytest.mark.parametrize("name", sorted(engines()))
def test_uncertainty_is_that_of_the_dirichlet_posterior(name: str, world: GridWorld) -> None:
    mdp = world.mdp
    seen = play(mdp, mdp.soft_value_iteration(0.3).policy, 15, 0, 12)
    policy = TabularPolicy(mdp.n_states, mdp.n_actions)
    fit = behaviour_cloning(seen, policy, engines()[name])
    states, actions = seen.state_action_pairs()
    counts = torch.ones(mdp.n_states, mdp.n_actions)
    counts.index_put_((states, actions), torch.ones(()), accumulate=True)
    total = counts.sum(-1, keepdim=True)
    mean = counts / total
    sd = (mean * (1 - mean) / (total + 1)).sqrt()
    found = policy_uncertainty(fit, torch.arange(mdp.n_states), draws=1000)
    # Laplace is a normal approximation, of few counts a rough one.
    loose = 0.08 if name == "laplace" else 0.05
    assert float((found.mean - mean).abs().max()) < loose
    assert float((found.sd - sd).abs().max()) < loose
    torch.testing.assert_close(found.total, found.expert + found.policy)
    visits = torch.bincount(states, minlength=mdp.n_states)
    often, never = found.policy[visits >= 15].mean(), found.policy[visits == 0].mean()
    assert float(often) < 0.5 * float(never)


def test_expected_entropy_of_a_dirichlet() -> None:
    """Means against digamma functions: 4000 draws, five standard errors."""
    seen = Trajectories.from_arrays([[0] * 8 + [1]], [[0] * 6 + [1] * 2], state_space=2)
    fit = behaviour_cloning(seen, TabularPolicy(2, 2), VBEM(draws=4000))
    found = policy_uncertainty(fit, [0, 1], draws=4000)
    counts = torch.tensor([[7.0, 3.0], [1.0, 1.0]])
    total, mean = counts.sum(-1), counts / counts.sum(-1, keepdim=True)
    wanted = torch.digamma(total + 1) - (mean * torch.digamma(counts + 1)).sum(-1)
    # No entropy of two actions strays by more than log 2 / 2 from its middle.
    error = 5 * 0.35 / 4000**0.5
    torch.testing.assert_close(found.expert, wanted, rtol=0, atol=error)


def test_a_point_is_never_unsure() -> None:
    seen = Trajectories.from_arrays([[0, 1, 0]], [[0, 1]])
    point = behaviour_cloning(seen, TabularPolicy(2, 2, concentration=2.0), MAP())
    with pytest.raises(FitError, match="posterior draws"):
        policy_uncertainty(point, [0, 1])


# -- figures -------------------------------------------------------------------------------------


def test_figures_show_what_they_are_given() -> None:
    expert = torch.tensor([1.0, 0.0]).expand(6, 2)
    clone = torch.tensor([0.99, 0.01]).expand(6, 2)
    table = compounding(tightrope(5, recovers=False), clone, expert, [5, 10, 20])
    figure = plot_compounding({"one $way$": table, "again": table})
    ax = figure.axes[0]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert ax.lines[0].get_ydata().tolist() == table["gap"].tolist()
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [r"one \$way\$", "again", "bound εT²"]
    with pytest.raises(OptionError, match="gap above zero"):
        plot_compounding(table.assign(gap=0.0))
    cells = torch.tensor([[0, 0], [0, 1], [1, 1], [-1, -1]])
    drawn = plot_uncertainty(torch.tensor([0.1, 0.2, 0.3, 9.0]), cells, visits=[4, 3, 2, 1])
    shown = np.ma.filled(drawn.axes[0].images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[0.1, 0.2], [np.nan, 0.3]])
    assert [text.get_text() for text in drawn.axes[0].texts] == ["4", "3", "2"]
    with pytest.raises(OptionError, match="values, cells"):
        plot_uncertainty(torch.ones(3), cells)
