"""Preferences over trajectories: the density, its rewards, engines, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor

from likely.envs import DataError, Trajectories
from likely.inference import MAP, MLE, SVI, Laplace
from likely.models import TrajectoryPairs, TrajectoryPreference
from likely.models.preference import LinearReward, NetworkReward, TabularReward

GAMMA, BETA = 0.9, 2.0


def episodes(count: int, seed: int = 0, states: int = 4, actions: int = 3) -> Trajectories:
    """Episodes of one to six steps in which anything may happen."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 7, count)
    return Trajectories.from_arrays(
        [rng.integers(states, size=n + 1) for n in lengths],
        [rng.integers(actions, size=n) for n in lengths],
        state_space=states,
        action_space=actions,
    )


def compared(count: int = 60, seed: int = 0) -> TrajectoryPairs:
    """Pairs with random answers."""
    rng = np.random.default_rng(seed + 1)
    return TrajectoryPairs(
        episodes(count, seed), episodes(count, seed + 50), rng.integers(2, size=count)
    )


def returns(trajectories: Trajectories, table: Tensor) -> Tensor:
    """Discounted returns, episode by episode."""
    found = []
    for one in trajectories:
        states, actions = one.state_action_pairs()
        paid = table[states] if table.dim() == 1 else table[states, actions]
        found.append(sum(GAMMA**t * paid[t] for t in range(len(paid))))
    return torch.stack(found)  # type: ignore[arg-type]


def density(program: Any, pairs: TrajectoryPairs, params: dict[str, Tensor]) -> Tensor:
    """Log-likelihood [m] of the program at values of its sites."""
    pyro.clear_param_store()
    trace = poutine.trace(poutine.condition(program, params)).get_trace(pairs)
    trace.compute_log_prob()
    found: Tensor = trace.nodes["preferred"]["log_prob"]
    return found


def by_hand(pairs: TrajectoryPairs, table: Tensor) -> Tensor:
    """log p by its formula."""
    ahead = BETA * (returns(pairs.first, table) - returns(pairs.second, table))
    return torch.where(pairs.preferred == 1, ahead, -ahead).sigmoid().log()


def small_net() -> torch.nn.Module:
    torch.manual_seed(3)
    layers = torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    return torch.nn.Sequential(*layers).double()


def test_densities_are_the_formula() -> None:
    torch.manual_seed(0)
    pairs, table = compared(), torch.randn(4, 3, dtype=torch.float64)
    features = torch.randn(4, 2, dtype=torch.float64)
    weights = torch.randn(2, dtype=torch.float64)
    net = small_net()
    with torch.no_grad():
        out = net(features).squeeze(-1)
    cases: list[tuple[Any, dict[str, Tensor], Tensor]] = [
        (LinearReward(features), {"reward_weights": weights}, features @ weights),
        (LinearReward(table[..., None]), {"reward_weights": weights[:1]}, table * weights[0]),
        (LinearReward(lambda s: features[s]), {"reward_weights": weights}, features @ weights),
        (TabularReward(4), {"reward_table": table[:, 0]}, table[:, 0]),
        (TabularReward(4, 3), {"reward_table": table}, table),
        (NetworkReward(net, features), {}, out),
        (NetworkReward(net, lambda s: features[s]), {}, out),
    ]
    torch.set_default_dtype(torch.float64)
    try:
        for reward, params, truth in cases:
            program = TrajectoryPreference(reward, GAMMA, BETA)
            found = density(program, pairs, params).detach()
            torch.testing.assert_close(found, by_hand(pairs, truth), rtol=1e-10, atol=1e-10)
    finally:
        torch.set_default_dtype(torch.float32)


def test_steps_and_tables_agree() -> None:
    seen, net = episodes(20), small_net()
    features = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    params = {f"reward$$${n}": p.detach() for n, p in net.named_parameters()}
    reward = NetworkReward(net, features)
    by_function = NetworkReward(net, lambda s: features[s]).steps(params, seen)
    torch.testing.assert_close(reward.steps(params, seen), by_function)
    torch.testing.assert_close(reward.table(params)[seen.step_states], by_function)
    weights = {"reward_weights": torch.tensor([1.0, -2.0])}
    linear = LinearReward(features)
    torch.testing.assert_close(linear.steps(weights, seen), linear.table(weights)[seen.step_states])


def simulated(count: int, reward: Any, params: dict[str, Tensor], seed: int) -> TrajectoryPairs:
    """Pairs whose answers the program made itself."""
    design = TrajectoryPairs(episodes(count, seed), episodes(count, seed + 1))
    program = TrajectoryPreference(reward, GAMMA, BETA)
    pyro.set_rng_seed(seed)
    return design.with_preferred(poutine.condition(program, params)(design))


def test_posterior_covers_the_truth() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, -0.5], [0.0, 0.0]])
    truth = torch.tensor([0.8, -0.5])
    reward = LinearReward(features, prior_scale=2.0, names=["a", "b"])
    inside = 0
    for seed in range(12):
        pairs = simulated(150, reward, {"reward_weights": truth}, seed)
        fit = Laplace(draws=400).fit(TrajectoryPreference(reward, GAMMA, BETA), pairs)
        draws = fit.draws["reward_weights"].flatten(0, 1)
        low, high = draws.quantile(torch.tensor([0.05, 0.95], dtype=draws.dtype), 0)
        inside += int(((low < truth) & (truth < high)).sum())
    # 24 intervals of 90 %: fewer than 17 has a probability below 0.3 %.
    assert inside >= 17


def test_engines_agree() -> None:
    reward = TabularReward(4, prior_scale=1.0)
    truth = torch.tensor([1.0, -1.0, 0.5, 0.0])
    pairs = simulated(400, reward, {"reward_table": truth}, 5)
    program = TrajectoryPreference(reward, GAMMA, BETA)
    mode = MAP().fit(program, pairs).params["reward_table"]
    laplace = Laplace(draws=2000).fit(program, pairs).draws["reward_table"].flatten(0, 1)
    sd = laplace.std(0)
    # Five standard errors of the mean of 2000 draws.
    assert bool(((laplace.mean(0) - mode).abs() < 5 * sd / 2000**0.5).all())
    vi = SVI(max_iter=1500, seed=0).fit(program, pairs).params["reward_table"]
    assert bool(((vi - mode).abs() < sd).all())


def test_network_learns_an_order() -> None:
    features, net = torch.eye(4), torch.nn.Linear(4, 1)
    truth = torch.tensor([1.0, -1.0, 0.5, 0.0])
    pairs = simulated(400, TabularReward(4), {"reward_table": truth}, 7)
    program = TrajectoryPreference(NetworkReward(net, features), GAMMA, BETA)
    fit = MLE().fit(program, pairs)
    assert program.reward_table(fit.params).argsort().tolist() == truth.argsort().tolist()


def test_weights_count_pairs() -> None:
    pairs = compared(30)
    program = TrajectoryPreference(TabularReward(4), GAMMA, BETA)
    counts = torch.tensor([2.0] * 10 + [1.0] * 10 + [0.0] * 10)
    twice = pairs[torch.cat([torch.arange(10), torch.arange(20)])]
    weighed = MAP().fit(program, pairs, weights=counts).params["reward_table"]
    copied = MAP().fit(program, twice).params["reward_table"]
    torch.testing.assert_close(weighed, copied, atol=1e-5, rtol=0)


def test_sums_over_steps_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, reward = compared(), TabularReward(4)
    calls = []
    first = TabularReward.differences

    def counted(self: Any, *args: Any) -> Any:
        calls.append(1)
        return first(self, *args)

    monkeypatch.setattr(TabularReward, "differences", counted)
    MAP().fit(TrajectoryPreference(reward, GAMMA), pairs)
    assert len(calls) == 1


def test_chosen_and_rejected() -> None:
    pairs = compared(10)
    for k in range(10):
        better, worse = (
            (pairs.first, pairs.second)
            if pairs.preferred[k]
            else (
                pairs.second,
                pairs.first,
            )
        )
        assert pairs.chosen[k].states.tolist() == better[k].states.tolist()
        assert pairs.rejected[k].states.tolist() == worse[k].states.tolist()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TrajectoryPairs(episodes(2), episodes(3)), "second: expected 2"),
        (lambda: TrajectoryPairs(episodes(2), [1, 2]), "second: expected Trajectories"),
        (lambda: TrajectoryPairs(episodes(2), episodes(2, states=5)), "state_space"),
        (lambda: TrajectoryPairs(episodes(2), episodes(2), [0, 2]), "preferred must hold 0 or 1"),
        (lambda: TrajectoryPairs(episodes(2), episodes(2), [0, np.nan]), "preferred"),
        (lambda: TrajectoryPairs(episodes(2), episodes(2), [0]), "preferred"),
        (lambda: TrajectoryPairs(episodes(2), episodes(2)).chosen, "nobody was asked"),
        (lambda: TrajectoryPreference("linear"), "reward: expected"),
        (lambda: TrajectoryPreference(TabularReward(4), discount=1.5), "discount"),
        (lambda: TrajectoryPreference(TabularReward(4), rationality=0.0), "rationality"),
        (lambda: TrajectoryPreference(TabularReward(9))(compared(3)), "states"),
        (lambda: TrajectoryPreference(LinearReward())(compared(3)), "features"),
        (lambda: TrajectoryPreference(TabularReward(4))(episodes(2)), "pairs: expected"),
        (lambda: LinearReward(torch.zeros(3)), "features: expected"),
        (lambda: LinearReward(torch.zeros(3, 2), names=["a"]), "names"),
        (lambda: LinearReward(lambda s: s).table({"reward_weights": [1.0]}), "only a table"),
        (lambda: TabularReward(4, prior_scale=-1.0), "prior_scale"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make()
