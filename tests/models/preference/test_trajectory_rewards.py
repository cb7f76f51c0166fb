"""Rewards of trajectories: networks of any precision, values that do not fit, and pairs' memory."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from likely.envs import DataError, Trajectories
from likely.inference import MAP, MLE, Laplace
from likely.inference.imitation import behaviour_cloning
from likely.models import (
    ModulePolicy,
    SoftmaxPolicy,
    TabularPolicy,
    TrajectoryPairs,
    TrajectoryPreference,
)
from likely.models.preference import (
    DirectPreference,
    LinearReward,
    NetworkReward,
    TabularReward,
)

FEATURES = torch.randn(4, 2, generator=torch.Generator().manual_seed(2))


def episodes(count: int, seed: int, real: bool = False) -> Trajectories:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, count)
    states = [rng.normal(size=(n + 1, 2)) if real else rng.integers(4, size=n + 1) for n in lengths]
    return Trajectories.from_arrays(
        states,
        [rng.integers(3, size=n) for n in lengths],
        state_space=None if real else 4,
        action_space=3,
    )


def compared(count: int = 40, real: bool = False) -> TrajectoryPairs:
    answers = np.random.default_rng(9).integers(2, size=count)
    return TrajectoryPairs(episodes(count, 0, real), episodes(count, 1, real), answers)


def net(dtype: torch.dtype, *middle: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Linear(2, 3), *middle, torch.nn.Tanh(), torch.nn.Linear(3, 1)
    return torch.nn.Sequential(*layers).to(dtype)


def fitted(reward: Any, engine: Any, pairs: TrajectoryPairs) -> tuple[Any, Any]:
    program = TrajectoryPreference(reward)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program, engine.fit(program, pairs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_tables_and_steps_are_double(dtype: torch.dtype, scale: float | None) -> None:
    pairs = compared()
    reward = NetworkReward(net(dtype), FEATURES, scale)
    program, fit = fitted(reward, MAP(max_iter=20), pairs)
    table = program.reward_table(fit.params)
    assert table.dtype == torch.float64
    assert torch.equal(table[pairs.first.step_states], reward.steps(fit.params, pairs.first))
    odds = program.log_odds(fit.params, pairs)
    # The table says of the pairs what the program does.
    by_table = TrajectoryPreference(TabularReward(4)).log_odds({"reward_table": table}, pairs)
    torch.testing.assert_close(odds, by_table, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_buffers_follow_the_precision(real: bool, scale: float | None) -> None:
    """A batch norm that is not in training keeps means and variances in single precision."""
    pairs = compared(real=real)
    module = net(torch.float32, torch.nn.BatchNorm1d(3)).eval()
    reward = NetworkReward(module, None if real else FEATURES, scale)
    _, fit = fitted(reward, MAP(max_iter=10), pairs)
    assert reward.steps(fit.params, pairs.first).dtype == torch.float64
    assert module[1].running_mean.dtype == torch.float32


def test_frozen_layers_stay() -> None:
    module = net(torch.float32)
    module[0].requires_grad_(False)
    module.train(False)
    held = copy.deepcopy(module[0].state_dict())
    pairs, reward = compared(), NetworkReward(module, FEATURES)
    program, fit = fitted(reward, MLE(max_iter=30), pairs)
    assert sorted(fit.params) == ["reward$$$2.bias", "reward$$$2.weight"]
    hidden = torch.tanh(FEATURES.double() @ held["weight"].double().T + held["bias"].double())
    head = fit.params["reward$$$2.weight"], fit.params["reward$$$2.bias"]
    by_hand = (hidden @ head[0].T + head[1]).squeeze(-1)
    torch.testing.assert_close(program.reward_table(fit.params), by_hand)
    for name, value in module[0].state_dict().items():
        assert torch.equal(value, held[name])


def weights(*values: float) -> dict[str, Any]:
    return {"reward_weights": list(values)}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LinearReward(FEATURES).table({}), "params: expected a value of 'reward_weights'"),
        (lambda: LinearReward(FEATURES).table(weights(1.0)), r"expected \[\.\.\., 2\], got \(1,\)"),
        (lambda: LinearReward(FEATURES).steps({}, episodes(2, 0)), "params: expected a value"),
        (lambda: LinearReward(FEATURES).steps(weights(1.0), episodes(2, 0)), "expected shape"),
        (lambda: TabularReward(4).table({"reward_table": [1.0, 2.0]}), r"expected \[\.\.\., 4\]"),
        (lambda: TabularReward(4).steps({"reward_table": [1.0]}, episodes(2, 0)), "expected shape"),
        (lambda: TabularReward(4).table({"reward_table": [torch.nan] * 4}), "finite"),
        (lambda: TrajectoryPreference(TabularReward(4)).log_odds({}, compared()), "a value of"),
        (
            lambda: TrajectoryPreference(LinearReward(FEATURES)).log_odds(weights(1.0), compared()),
            r"expected \[\.\.\., 2\]",
        ),
        (
            lambda: NetworkReward(net(torch.float32), FEATURES).steps({}, episodes(2, 0)),
            r"a value of 'reward\$\$\$0.weight'",
        ),
        (lambda: NetworkReward(torch.nn.Flatten(), FEATURES), "no parameters"),
        (lambda: NetworkReward(net(torch.float32).requires_grad_(False), FEATURES), "no param"),
        (lambda: NetworkReward(lambda x: x, FEATURES), "torch.nn.Module"),
        (
            lambda: TrajectoryPreference(NetworkReward(torch.nn.Linear(3, 1), FEATURES))(
                compared()
            ),
            r"network: it cannot take features of shape \(4, 2\)",
        ),
        (lambda: LinearReward(FEATURES, names="ab"), "names: expected 2"),
        (lambda: LinearReward(FEATURES, names=["a", "a"]), "different"),
        (lambda: LinearReward(FEATURES, names=2), "names: expected 2 or none, got 2"),
        (
            lambda: TrajectoryPreference(LinearReward(lambda s: s, names=["a"]))(
                compared(real=True)
            ),
            "features: 2 for 1 names",
        ),
        (lambda: TrajectoryPairs.among([1, 2], [0], [1]), "trajectories: expected Trajectories"),
        (lambda: DirectPreference(TabularPolicy(2, 2), [[0.5, 0.9]] * 2), "sum to 1"),
        (
            lambda: DirectPreference(SoftmaxPolicy(3), [[0.2, 0.3, 0.5]] * 4)(compared(real=True)),
            "Discrete states",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make()


def test_one_pair_of_many() -> None:
    pairs = compared(5)
    assert len(pairs[2]) == 1
    assert pairs[-1].preferred.tolist() == pairs.preferred[-1:].tolist()
    assert [float(one.preferred) for one in pairs] == pairs.preferred.tolist()
    with pytest.raises(IndexError):
        pairs[5]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_pairs_remember_for_nobody_else(copied: Any) -> None:
    """Numbers of objects mean nothing in a copy: another reward may have that of the first."""
    pairs, mine = compared(), LinearReward(FEATURES)
    TrajectoryPreference(mine).differences(pairs)
    twin = copied(pairs)
    other = LinearReward(2 * FEATURES)
    # What the allocator may do at any time: the other has the first one's number.
    entry = twin._memory.pop((id(mine), 1.0))
    twin._memory[id(other), 1.0] = entry
    expected = 2 * TrajectoryPreference(mine).differences(pairs)
    torch.testing.assert_close(TrajectoryPreference(other).differences(twin), expected)


def test_cloned_policies_are_references() -> None:
    pairs = compared(60)
    cloned = behaviour_cloning(pairs.first, TabularPolicy(4, 3, 2.0), MAP())
    found = [
        MAP().fit(DirectPreference(TabularPolicy(4, 3, 1.5), base, 0.5), pairs).params["policy"]
        for base in (cloned.policy, cloned.table)
    ]
    torch.testing.assert_close(*found, atol=1e-9, rtol=0)
    real = compared(60, real=True)
    soft = behaviour_cloning(real.first, SoftmaxPolicy(3, prior_scale=1.0), MAP())
    direct = DirectPreference(SoftmaxPolicy(3, prior_scale=1.0), soft.policy, 0.5)
    report = direct.report(soft.params, real)
    assert report.gains == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_direct_weights_count_pairs(smoothing: float) -> None:
    pairs = compared(30)
    program = DirectPreference(TabularPolicy(4, 3, 1.5), None, 0.5, smoothing)
    counts = torch.tensor([2.0] * 10 + [1.0] * 10 + [0.0] * 10)
    twice = pairs[torch.cat([torch.arange(10), torch.arange(20)])]
    weighed = MAP().fit(program, pairs, weights=counts)
    copied = MAP().fit(program, twice)
    torch.testing.assert_close(weighed.params["policy"], copied.params["policy"], atol=1e-5, rtol=0)
    assert weighed.log_likelihood == pytest.approx(copied.log_likelihood, abs=1e-6)


def test_networks_start_where_they_are() -> None:
    pairs = compared(20, real=True)
    module = torch.nn.Linear(2, 3)
    direct = DirectPreference(ModulePolicy(module, 3, prior_scale=1.0))
    found = direct.initial(pairs)
    assert torch.equal(found["policy.weight"], module.weight.detach().to(found["policy.weight"]))
    assert DirectPreference(TabularPolicy(4, 3)).initial(compared(5)) == {}
    fit = Laplace(draws=20).fit(direct, pairs)
    assert fit.draws["policy.weight"].shape == (1, 20, 3, 2)
