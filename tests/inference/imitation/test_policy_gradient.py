"""Policy gradients learn, remember where they were, and refuse what they cannot use."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from alike import alike
from killed import killed
from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    cartpole_expert,
    evaluate_horizon,
    rollout,
)
from likely.inference import MAP, FitError, OptionError
from likely.inference.imitation import (
    Imitation,
    PolicyGradient,
    behaviour_cloning,
    play,
    policy_gradient,
    step_weights,
)
from likely.models import GaussianPolicy, MixturePolicy, ModulePolicy, SoftmaxPolicy, TabularPolicy

pytestmark = pytest.mark.usefixtures("in_double")

# What is cheap and learns something.
QUICK: dict[str, Any] = {"iterations": 12, "episodes": 30, "horizon": 20, "learning_rate": 0.2}


@pytest.fixture
def corridor() -> TabularMDP:
    """Five places in a row, the prize at one end."""
    n = 5
    rows = torch.zeros(n, 2, n)
    for place in range(n - 1):
        rows[place, 0, max(place - 1, 0)] = 1.0
        rows[place, 1, place + 1] = 1.0
    rows[-1, :, -1] = 1.0
    reward = torch.zeros(n, 2, n)
    reward[n - 2, 1, n - 1] = 1.0
    return TabularMDP(rows, reward, 0.9, 0, sink=n - 1)


def without_clock(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns="seconds")


@pytest.mark.parametrize(
    "options",
    [
        {"weight": "return"},
        {"weight": "return", "baseline": "none", "optimizer": "sgd", "learning_rate": 2.0},
        {"baseline": "none"},
        {"baseline": "value"},
        {"normalize": True},
        {"weight": "gae", "trace": 0.9},
        {"weight": "gae", "baseline": lambda states: 0.9 ** (4 - states.double())},
        {"discount_steps": False},
        {"entropy": 0.01},
        {"step": "natural", "radius": 0.05},
        {"anneal": 0.1},
        {"step": "trust_region", "radius": 0.1, "anneal": 0.1},
        {"step": "trust_region", "radius": 0.05},
        {"optimizer": partial(torch.optim.RMSprop, lr=0.1)},
    ],
)
def test_every_option_learns(corridor: TabularMDP, options: dict[str, Any]) -> None:
    found = policy_gradient(corridor, TabularPolicy(5, 2), **(QUICK | options))
    best = float(corridor.initial @ corridor.value_iteration().value)
    even = float(evaluate_horizon(corridor, torch.full((5, 2), 0.5), 20).value[0, 0])
    earned = float(evaluate_horizon(corridor, found.table, 20).value[0, 0])
    assert earned > even + 0.5 * (best - even)
    history = found.history
    assert list(history["iteration"]) == list(range(12))
    assert (history["kl"] >= 0).all()
    assert (history["entropy"] > 0).all()
    assert found.fit.n_iter == 12
    assert not found.fit.converged


def test_entropy_bonus_keeps_the_policy_open(corridor: TabularMDP) -> None:
    tables = [
        policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, entropy=bonus).table[:4]
        for bonus in (0.0, 0.3)
    ]
    spread = [float(-(t * t.clamp_min(1e-300).log()).sum(-1).mean()) for t in tables]
    assert spread[1] > spread[0] + 0.1


def test_target_ends_a_run(corridor: TabularMDP) -> None:
    options = QUICK | {"iterations": 200, "target": 0.9}
    found = policy_gradient(corridor, TabularPolicy(5, 2), **options)
    assert found.stopped == "the return reached 0.9"
    assert found.fit.converged
    assert len(found.history) < 200
    assert found.history["return"].tail(5).mean() >= 0.9


def test_callback_ends_a_run_and_sees_the_rows(corridor: TabularMDP) -> None:
    rows: list[dict[str, Any]] = []

    def stop(row: dict[str, Any]) -> bool:
        rows.append(row)
        return len(rows) == 3

    found = policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, callback=stop)
    assert found.stopped == "the callback said so"
    assert [row["return"] for row in rows] == found.history["return"].tolist()


def test_seed_decides_everything(corridor: TabularMDP) -> None:
    runs = [
        policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, seed=seed) for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0].table, runs[1].table)
    pd.testing.assert_frame_equal(*(without_clock(run.history) for run in runs[:2]))
    assert not torch.equal(runs[0].table, runs[2].table)


def test_cloning_first_is_a_warm_start(corridor: TabularMDP) -> None:
    start = {"policy": torch.tensor([[0.1, 0.9]] * 5)}
    options = QUICK | {"iterations": 1}
    found = policy_gradient(corridor, TabularPolicy(5, 2), **options, init=start)
    assert found.history["return"][0] > 0.9
    again = policy_gradient(corridor, TabularPolicy(5, 2), **options, init=found)
    assert again.history["return"][0] > 0.9
    # Of a probability of zero no gradient could get away.
    sure = {"policy": torch.tensor([[0.0, 1.0]] * 5)}
    moved = policy_gradient(corridor, TabularPolicy(5, 2), **options, init=sure)
    assert 0 < float(moved.table[0, 0]) < 0.01


# -- other policies and environments -------------------------------------------------------------


class Reach(gymnasium.Env[Any, Any]):
    """A vector of two numbers to be met by an action, three times."""

    observation_space = Box(-1, 1, (2,), np.float64)
    action_space = Box(-2, 2, (2,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left, self.here = 3, self.np_random.uniform(-1, 1, 2)
        return self.here, {}

    def step(self, action: Any) -> Any:
        reward = -float(((action - self.here) ** 2).sum())
        self.left, self.here = self.left - 1, self.np_random.uniform(-1, 1, 2)
        return self.here, reward, self.left == 0, False, {}


@pytest.mark.parametrize("step", ["gradient", "trust_region"])
def test_vectors_of_actions_are_learnt(step: str) -> None:
    found = policy_gradient(
        Reach,
        GaussianPolicy(2),
        iterations=30,
        episodes=40,
        step=step,
        radius=0.1,
        learning_rate=0.1,
        normalize=True,
    )
    first, last = found.history["return"].iloc[[0, -1]]
    # Two unit normal errors cost 2 a step, and what is off the mark another 2/3.
    assert first < -5
    assert last > -4
    assert found.policy(np.full((5, 2), 9.0), np.random.default_rng(0)).max() <= 2


@pytest.mark.parametrize("made", [Reach, Reach()], ids=["function", "environment"])
def test_what_was_drawn_counts_and_the_environment_cuts_it(made: Any) -> None:
    """Of an action at the bound, the density would be that of one nobody drew."""
    start = {"intercept": torch.tensor([3.0, 0.0]), "scale": torch.ones(2)}
    found = policy_gradient(
        made, GaussianPolicy(2), iterations=1, episodes=40, init=start, learning_rate=1e-9
    )
    drawn = found.fit.bound("actions").args[0].actions
    beyond = (drawn[:, 0] > 2).double().mean()
    # 84 % of draws around 3 are above 2, of 120: five standard errors.
    assert abs(float(beyond) - 0.8413) < 5 * (0.8413 * 0.1587 / 120) ** 0.5
    # An action was never worse than one at the bounds.
    assert found.history["return"].iloc[0] >= -3 * (3**2 + 3**2)
    assert found.policy.action_space == Reach.action_space


@pytest.mark.parametrize("kind", ["module", "mixture", "module-prior"])
def test_other_policies_learn(corridor: TabularMDP, kind: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 2)).double()
    policy: Any = {
        "module": ModulePolicy(Numbers(net), 2),
        "module-prior": ModulePolicy(Numbers(net), 2, prior_scale=1.0),
        "mixture": MixturePolicy(TabularPolicy(5, 2), 2),
    }[kind]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = policy_gradient(corridor, policy, **QUICK)
    assert found.history["return"].iloc[-3:].mean() > found.history["return"].iloc[0] + 0.1
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), "the user's module was written to"


class Numbers(torch.nn.Module):
    """States that were made real numbers, as whole ones again."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(states.long())
        return found


# -- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"step": "trust_region", "radius": 0.05}])
def test_run_in_two_parts_is_the_run_in_one(
    corridor: TabularMDP, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = policy_gradient(corridor, TabularPolicy(5, 2), **(QUICK | options))
    parts = QUICK | options
    policy_gradient(corridor, TabularPolicy(5, 2), **(parts | {"iterations": 5}), path=tmp_path)
    found = policy_gradient(corridor, TabularPolicy(5, 2), **parts, path=tmp_path)
    assert alike(found.table, whole.table)
    pd.testing.assert_frame_equal(without_clock(found.history), without_clock(whole.history))
    assert alike(found.fit.log_likelihood, whole.fit.log_likelihood)
    # A third call has nothing left to do.
    again = policy_gradient(corridor, TabularPolicy(5, 2), **parts, path=tmp_path)
    assert alike(again.table, whole.table)
    pd.testing.assert_frame_equal(again.history, found.history)


KILLED = """
from likely.inference.imitation import policy_gradient
from likely.models import SoftmaxPolicy
policy_gradient(
    "CartPole-v1", SoftmaxPolicy(2), iterations=6, episodes=4, normalize=True, path=sys.argv[1],
    callback=kill,
)
"""


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert killed(KILLED, folder) == 3
    options: dict[str, Any] = {"iterations": 6, "episodes": 4, "normalize": True}
    found = policy_gradient("CartPole-v1", SoftmaxPolicy(2), **options, path=folder)
    whole = policy_gradient("CartPole-v1", SoftmaxPolicy(2), **options)
    assert alike(found.params["coefficients"], whole.params["coefficients"])
    pd.testing.assert_frame_equal(without_clock(found.history), without_clock(whole.history))


def test_interrupted_run_keeps_what_it_has(
    corridor: TabularMDP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from likely.inference.imitation.learner import PolicyLearner

    update, calls = PolicyLearner.update, []

    def impatient(self: PolicyLearner, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(self, *args)

    monkeypatch.setattr(PolicyLearner, "update", impatient)
    found = policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, path=tmp_path)
    assert found.stopped == "interrupted"
    assert len(found.history) == 3
    monkeypatch.undo()
    finished = policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, path=tmp_path)
    whole = policy_gradient(corridor, TabularPolicy(5, 2), **QUICK)
    assert alike(finished.table, whole.table)


def test_folder_of_another_run_is_refused(corridor: TabularMDP, tmp_path: Path) -> None:
    policy_gradient(corridor, TabularPolicy(5, 2), **(QUICK | {"iterations": 1}), path=tmp_path)
    for change in ({"seed": 5}, {"learning_rate": 0.1}, {"baseline": "value"}):
        with pytest.raises(FitError, match=next(iter(change))):
            policy_gradient(corridor, TabularPolicy(5, 2), **(QUICK | change), path=tmp_path)
    (tmp_path / "state.pt").write_bytes(b"PK nothing")
    with pytest.raises(FitError, match="is not the state of a run"):
        policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, path=tmp_path)
    torch.save({"version": 1, "about": {}, "state": Path("x")}, tmp_path / "state.pt")
    with pytest.raises(FitError, match="is not the state of a run"):
        policy_gradient(corridor, TabularPolicy(5, 2), **QUICK, path=tmp_path)


def test_result_is_saved_and_read(corridor: TabularMDP, tmp_path: Path) -> None:
    policy = TabularPolicy(5, 2)
    found = policy_gradient(corridor, policy, **QUICK)
    found.save(tmp_path / "there")
    spaces = Discrete(5), Discrete(2)
    back = Imitation.load(tmp_path / "there", policy, *spaces)
    assert torch.equal(back.table, found.table)
    pd.testing.assert_frame_equal(back.history, found.history)
    assert (back.method, back.stopped) == (found.method, found.stopped)
    assert back.fit.log_likelihood == found.fit.log_likelihood
    same = [play(corridor, one, 20, 3, 30).returns() for one in (found, back)]
    assert torch.equal(*same)
    with pytest.raises(FitError, match="holds a TabularPolicy"):
        Imitation.load(tmp_path / "there", SoftmaxPolicy(2), *spaces)
    with pytest.raises(FitError, match="state_space"):
        Imitation.load(tmp_path / "there", policy, Discrete(6), Discrete(2))
    with pytest.raises(FitError, match="is not a result's"):
        Imitation.load(tmp_path, policy, *spaces)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be an integer"),
        ({"episodes": 1}, "needs episodes=2"),
        ({"horizon": 0}, "horizon must be"),
        ({"discount": 1.5}, "discount must be"),
        ({"discount": float("nan")}, "discount must be"),
        ({"trace": -1.0}, "trace must be"),
        ({"weight": "rewards"}, "weight must be one of"),
        ({"baseline": "median"}, "baseline must be one of"),
        ({"weight": "return", "baseline": "value"}, "a whole return takes"),
        ({"weight": "gae", "baseline": "mean"}, "generalised advantage needs"),
        ({"step": "big"}, "step must be one of"),
        ({"optimizer": "newton"}, "optimizer must be one of"),
        ({"optimizer": 3}, "optimizer must be"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"radius": float("inf")}, "radius must be"),
        ({"radius": None}, "radius must be"),
        ({"anneal": 0.0}, "anneal must be"),
        ({"anneal": 1.5}, "anneal must be"),
        ({"entropy": -0.1}, "entropy must be"),
        ({"damping": float("nan")}, "damping must be"),
        ({"target": "high"}, "target must be"),
        ({"seed": -1}, "seed must be"),
        ({"progress": 1}, "progress must be"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PolicyGradient(**options)


def test_bad_input_is_refused(corridor: TabularMDP) -> None:
    policy = TabularPolicy(5, 2)
    with pytest.raises(OptionError, match="horizon: expected"):
        policy_gradient(corridor, policy, iterations=1)
    with pytest.raises(DataError, match="states"):
        policy_gradient(corridor, TabularPolicy(4, 2), **QUICK)
    with pytest.raises(OptionError, match="no sites"):
        policy_gradient(corridor, policy, **QUICK, init={"weights": torch.ones(2)})
    with pytest.raises(OptionError, match="finite numbers"):
        policy_gradient(corridor, policy, **QUICK, init={"policy": torch.ones(2)})
    seen = rollout("CartPole-v1", cartpole_expert, 1, 0)
    other = behaviour_cloning(seen, SoftmaxPolicy(2), MAP())
    with pytest.raises(OptionError, match="no sites"):
        policy_gradient(corridor, policy, **QUICK, init=other)
    with pytest.raises(OptionError, match="env_options"):
        policy_gradient(corridor, policy, **QUICK, env_options={"slippery": True})
    with pytest.raises(OptionError, match=r"one of likely\.models"):
        policy_gradient(corridor, torch.eye(5), **QUICK)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="callback"):
        policy_gradient(corridor, policy, **QUICK, callback=1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="env: expected"):
        policy_gradient(3, policy, **QUICK)
    bare = Trajectories.from_arrays([[0, 1]], [[0]], state_space=5, action_space=2)
    with pytest.raises(DataError, match="rewards: these trajectories have none"):
        step_weights(bare)
    with pytest.raises(OptionError, match="baseline: expected 1 values"):
        step_weights(bare.with_rewards([1.0]), baseline=lambda states: torch.ones(3))
    learner = PolicyGradient(**QUICK).learner(policy, Discrete(5), Discrete(2))
    with pytest.raises(DataError, match="weights"):
        learner.update(bare, torch.ones(4))
