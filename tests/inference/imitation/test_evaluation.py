"""Returns with intervals that cover, distances between occupancies, and policies as tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy import stats
from torch import Tensor

from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    cartpole_expert,
    evaluate_horizon,
    feature_expectations,
    horizon_occupancy,
    state_action_occupancy,
    tabular_expert,
)
from likely.inference import MAP, OptionError
from likely.inference.imitation import (
    ActingPolicy,
    as_table,
    behaviour_cloning,
    compare_returns,
    evaluate_returns,
    feature_gap,
    mean_interval,
    occupancy,
    occupancy_distance,
    play,
)
from likely.models import GaussianPolicy, MixturePolicy, ModulePolicy, SoftmaxPolicy, TabularPolicy

pytestmark = pytest.mark.usefixtures("in_double")


@pytest.fixture(scope="module")
def lake() -> TabularMDP:
    return TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.9)


def even(mdp: TabularMDP) -> Tensor:
    return torch.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions, dtype=torch.float64)


# -- returns -------------------------------------------------------------------------------------


def test_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(3, 2, 12)
    mean, lower, upper = mean_interval(values, 0.9)
    wanted = stats.t.interval(0.9, 11, values.mean(), stats.sem(values))
    assert (mean, lower, upper) == pytest.approx((values.mean(), *wanted))
    assert np.isnan(mean_interval([1.0])[1:]).all()


def test_intervals_cover_the_exact_return(lake: TabularMDP) -> None:
    """200 intervals of 90 %: 180 ± 5 standard deviations of a binomial number cover."""
    policy = lake.value_iteration().policy
    exact = float(lake.initial @ evaluate_horizon(lake, policy, 40).value[0])
    options: dict[str, Any] = {"episodes": 100, "horizon": 40, "discount": 0.9, "level": 0.9}
    found = [evaluate_returns(lake, policy, seed=seed, **options) for seed in range(200)]
    covered = sum(one.lower <= exact <= one.upper for one in found)
    assert abs(covered - 180) < 5 * (200 * 0.9 * 0.1) ** 0.5


def test_several_policies_are_the_unit(lake: TabularMDP) -> None:
    policies = [lake.value_iteration().policy, even(lake)]
    found = evaluate_returns(lake, policies, episodes=50, horizon=100)
    assert found.returns.shape == found.lengths.shape == (2, 50)
    wanted = mean_interval(found.returns.mean(-1))
    assert (found.mean, found.lower, found.upper) == pytest.approx(wanted)
    # Between the best and chance there is more than 50 episodes of either could show.
    assert found.upper - found.lower > 1
    table = compare_returns(lake, {"best": policies[0], "both": policies}, episodes=50, horizon=100)
    assert list(table.index) == ["best", "both"]
    assert table.loc["both", "mean"] == found.mean
    assert table["policies"].tolist() == [1, 2]


def test_environment_and_process_agree(lake: TabularMDP) -> None:
    seen = play(lake, lake.value_iteration().policy, 300, 0, 100)
    cloned = behaviour_cloning(seen, TabularPolicy(17, 4, concentration=1.1), MAP())
    undiscounted = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
    exact = float(lake.initial @ evaluate_horizon(undiscounted, cloned.table, 100).value[0])
    one = evaluate_returns(undiscounted, cloned, episodes=400, horizon=100, level=0.9999)
    # The environment has no sink, and its own limit of 100 steps.
    acting = ActingPolicy(TabularPolicy(17, 4), cloned.params, Discrete(17), Discrete(4))
    other = evaluate_returns("FrozenLake-v1", acting, episodes=400, level=0.9999)
    same = evaluate_returns(undiscounted, acting, episodes=400, horizon=100, level=0.9999)
    assert torch.equal(same.returns, one.returns)
    assert one.lower < exact < one.upper
    assert other.lower < exact < other.upper


def test_scripted_policies_and_options_are_taken() -> None:
    found = evaluate_returns("CartPole-v1", cartpole_expert, episodes=3, horizon=60)
    assert found.returns.tolist() == [[60.0] * 3]
    with pytest.raises(OptionError, match="policies: expected at least one"):
        evaluate_returns("CartPole-v1", [])
    with pytest.raises(OptionError, match="level must be"):
        evaluate_returns("CartPole-v1", cartpole_expert, level=94)
    with pytest.raises(OptionError, match="episodes must be"):
        evaluate_returns("CartPole-v1", cartpole_expert, episodes=0)


# -- occupancies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [None, 30])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_occupancy_is_the_exact_one(discount: float, horizon: int | None) -> None:
    mdp = TabularMDP.from_gymnasium("FrozenLake-v1", discount=discount)
    policy = even(mdp)
    found = occupancy(mdp, policy, horizon)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-12)
    whole = (
        state_action_occupancy(mdp, policy)
        if horizon is None
        else horizon_occupancy(mdp, policy, horizon)
    )
    whole = whole / whole.sum()
    torch.testing.assert_close(found[:-1], whole[:-1])
    assert float(found[-1, 0]) == pytest.approx(float(whole[-1].sum()))
    assert bool((found[-1, 1:] == 0).all())


@pytest.mark.parametrize("horizon", [None, 30])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_counted_occupancy_approaches_the_exact_one(discount: float, horizon: int | None) -> None:
    """Episodes that ended stay in the sink, so that early ends do not make the rest look longer."""
    mdp = TabularMDP.from_gymnasium("FrozenLake-v1", discount=discount)
    policy = mdp.soft_value_iteration(0.5).policy if discount < 1 else even(mdp)
    n = 20_000
    seen = play(mdp, policy, n, 0, 400 if horizon is None else horizon)
    exact = occupancy(mdp, policy, horizon)
    # ½ Σ |p̂ − p| of n independent draws is about Σ √(p/2πn); those of an episode are fewer.
    bound = 4 * float((exact / (2 * np.pi * n)).sqrt().sum())
    assert occupancy_distance(mdp, seen, policy, horizon) < bound
    few = seen[:20]
    assert occupancy_distance(mdp, few, policy, horizon) > bound


def test_total_variation_is_a_distance(lake: TabularMDP) -> None:
    best, other = lake.value_iteration().policy, even(lake)
    apart = occupancy_distance(lake, best, other)
    assert occupancy_distance(lake, other, best) == pytest.approx(apart, abs=1e-15)
    assert 0 < apart < 1
    # What is done in the sink is nobody's business.
    changed = best.clone()
    changed[-1] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert occupancy_distance(lake, best, changed) == 0.0
    left, right = torch.eye(2)
    choice = TabularMDP([[[1.0], [1.0]]], [[0.0, 1.0]], 0.5, 0)
    assert occupancy_distance(choice, left[None], right[None]) == pytest.approx(1.0)


def test_feature_gap_is_that_of_feature_expectations(lake: TabularMDP) -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.rand(17, 3, generator=random)
    best, other = lake.value_iteration().policy, even(lake)
    wanted = feature_expectations(lake, best, features) - feature_expectations(
        lake, other, features
    )
    found = feature_gap(lake, best, other, features)
    assert found / (1 - lake.discount) == pytest.approx(float(wanted.norm()))
    by_action = features[:, None].expand(17, 4, 3)
    assert feature_gap(lake, best, other, by_action) == pytest.approx(found)
    widest = feature_gap(lake, best, other, features, order=float("inf"))
    assert widest / (1 - lake.discount) == pytest.approx(float(wanted.abs().max()))
    with pytest.raises(OptionError, match="features: expected"):
        feature_gap(lake, best, other, features[:4])
    with pytest.raises(DataError, match="features must be finite"):
        feature_gap(lake, best, other, features / 0)


def test_bad_trajectories_are_refused(lake: TabularMDP) -> None:
    vectors = Trajectories.from_arrays([torch.zeros(3, 2)], [[0, 1]])
    with pytest.raises(OptionError, match="Discrete states"):
        occupancy(lake, vectors)
    others = Trajectories.from_arrays([[0, 20]], [[1]])
    found = Trajectories.from_arrays([[20, 0]], [[1]])
    assert float(occupancy(lake, others).sum()) == 1.0
    with pytest.raises(OptionError, match="expected states and actions of"):
        occupancy(lake, found)


# -- policies as tables --------------------------------------------------------------------------


def test_tables_of_all_kinds_of_policies(lake: TabularMDP) -> None:
    best = lake.value_iteration().policy
    assert torch.equal(as_table(lake, best), best)
    assert torch.equal(as_table(lake, tabular_expert(lake)), best)
    assert torch.equal(as_table(lake, best[:-1])[:-1], best[:-1])
    params = {"policy": even(lake)}
    acting = ActingPolicy(TabularPolicy(17, 4), params, Discrete(17))
    assert torch.equal(as_table(lake, acting), even(lake))
    assert torch.equal(acting.most_probable().table.sum(-1), torch.ones(17))
    with pytest.raises(DataError, match="an action for each"):
        as_table(lake, lambda states: np.zeros(3, dtype=int))
    with pytest.raises(DataError, match="actions below 4"):
        as_table(lake, lambda states: np.full(17, 7))
    with pytest.raises(DataError, match="has a table"):
        as_table(lake, ActingPolicy(TabularPolicy(17, 4), params))


def test_acting_draws_as_the_models_policy_does() -> None:
    random = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    states = torch.randn(50, 2, generator=random).numpy()
    softmax = {"intercept": torch.zeros(2), "coefficients": torch.randn(2, 2, generator=random)}
    normal = {
        "intercept": torch.zeros(2),
        "coefficients": torch.eye(2),
        "scale": torch.full((2,), 0.5),
    }
    module = {f"policy$$${n}": p.detach() for n, p in net.named_parameters()}
    mixed = {name: torch.stack([v, -v]) for name, v in softmax.items()}
    box = Box(-1.0, 1.0, (2,), np.float64)
    cases: list[Any] = [
        (SoftmaxPolicy(3), softmax, None),
        (GaussianPolicy(2), normal, box),
        (ModulePolicy(net, 3), module, None),
        (
            MixturePolicy(SoftmaxPolicy(3), 2),
            mixed | {"mode_weights": torch.tensor([0.3, 0.7])},
            None,
        ),
    ]
    for policy, params, space in cases:
        for greedy in (False, True):
            acting = ActingPolicy(policy, params, action_space=space, greedy=greedy)
            own = policy.behaviour(params, space, greedy=greedy)
            for seed in range(3):
                rng = [rows(seed) for _ in range(2)]
                assert np.array_equal(acting(states, rng[0]), own(states, rng[1]))
    assert np.abs(ActingPolicy(GaussianPolicy(2), normal, None, box)(states, rows(0))).max() <= 1


def rows(seed: int) -> Any:
    from likely.envs import EpisodeRandom

    generators = [np.random.default_rng([seed, i]) for i in range(50)]
    return EpisodeRandom(generators, np.array([g.random() for g in generators]))


def test_rollouts_of_a_process_are_episodes(lake: TabularMDP) -> None:
    seen = play(lake, even(lake), 500, 0, 20)
    assert seen.state_space == Discrete(17)
    assert seen.actions is not None
    assert int(seen.step_states.max()) < 16
    assert bool(
        (
            seen.states[
                (seen.starts + seen.lengths)[seen.terminated] + torch.arange(500)[seen.terminated]
            ]
            == 16
        ).all()
    )
    assert bool((seen.terminated ^ seen.truncated).all())
    assert bool((seen.lengths[seen.truncated] == 20).all())
