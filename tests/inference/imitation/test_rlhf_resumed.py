"""Runs that ask for preferences and are broken off: killed, stopped, interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from alike import alike
from killed import ENVIRONMENT
from likely.envs import DataError, GridWorld, cartpole_expert, rollout
from likely.inference import MAP, Laplace
from likely.inference.active import LabellingStopped, Queries
from likely.inference.errors import FitError, OptionError
from likely.inference.imitation import (
    LearnedReward,
    PolicyGradient,
    SimulatedLabeller,
    candidate_pairs,
    learn_reward,
    play,
    rlhf,
)
from likely.models import SoftmaxPolicy, TrajectoryPairs, TrajectoryPreference
from likely.models.preference import LinearReward, NetworkReward, TabularReward

WORLD = GridWorld(["S..", ".#.", "..G"], slip=0.1, rewarded="departure", rewards={".": -0.1})
MDP = WORLD.mdp
UNIFORM = torch.full((MDP.n_states, 4), 0.25, dtype=torch.float64)
OPTIONS: dict[str, Any] = {
    **{"preferences": 24, "start": 6, "batch": 6, "seed": 3},
    "engine": Laplace(draws=50),
}


def candidates() -> TrajectoryPairs:
    return candidate_pairs(play(MDP, UNIFORM, 20, 0, 15), 60, 0)


def program() -> TrajectoryPreference:
    return TrajectoryPreference(LinearReward(WORLD.features), MDP.discount, 3.0)


def labeller(pairs: TrajectoryPairs) -> SimulatedLabeller:
    return SimulatedLabeller(pairs, MDP.discount, 3.0)


def learn(path: Path | None = None, oracle: Any = None, **options: Any) -> LearnedReward:
    pairs = candidates()
    chosen = labeller(pairs) if oracle is None else oracle(labeller(pairs))
    return learn_reward(pairs, chosen, program(), path=path, **{**OPTIONS, **options})


def same(one: LearnedReward, two: LearnedReward) -> None:
    assert one.index.tolist() == two.index.tolist()
    assert torch.equal(one.pairs.preferred, two.pairs.preferred)
    assert alike(one.table, two.table)
    pd.testing.assert_frame_equal(one.history, two.history)
    assert one.stopped == two.stopped


class Mortal:
    """Kills the process, or stops, in the middle of its third batch."""

    def __init__(self, labels: Any, kill: bool) -> None:
        self.labels, self.kill, self.calls = labels, kill, 0

    def __call__(self, queries: Queries) -> Any:
        self.calls += 1
        found = self.labels(queries)
        if self.calls < 3:
            return found
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise LabellingStopped(np.where(np.arange(len(queries)) < 2, found, -1))


def _killed(path: str) -> None:
    rlhf_on_the_grid(Path(path), lambda pairs: Mortal(labeller(pairs), True))


def rlhf_on_the_grid(path: Path | None, oracle: Any = labeller) -> Any:
    shown = play(MDP, UNIFORM, 10, 1, 15)
    options = {**OPTIONS, "horizon": 15, "episodes": 20, "candidates": 60, "rationality": 3.0}
    return rlhf(MDP, shown, LinearReward(WORLD.features), oracle, path=path, **options)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['_killed'](sys.argv[2])"
    command = [sys.executable, "-P", "-W", "ignore", "-c", code, __file__, str(tmp_path)]
    done = subprocess.run(command, timeout=240, capture_output=True, check=False, env=ENVIRONMENT)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "reward" / "state.pt").exists()
    asked: list[int] = []

    def counting(pairs: TrajectoryPairs) -> Any:
        labels = labeller(pairs)

        def answer(queries: Queries) -> Any:
            asked.extend(queries.index.tolist())
            return labels(queries)

        return answer

    found, whole = rlhf_on_the_grid(tmp_path, counting), rlhf_on_the_grid(None)
    same(found.reward, whole.reward)
    assert alike(found.table, whole.table)
    assert alike(found.history, whole.history)
    # Two rounds of six were on disk.
    assert len(asked) == 12
    again = rlhf_on_the_grid(tmp_path, lambda pairs: lambda queries: pytest.fail("asked again"))
    assert alike(again.table, whole.table)


@pytest.mark.parametrize("acquisition", [{}, {"acquisition": "random", "callback": lambda _: None}])
def test_who_stops_may_come_back(tmp_path: Path, acquisition: dict[str, Any]) -> None:
    stopped = learn(tmp_path, lambda labels: Mortal(labels, False), **acquisition)
    assert stopped.stopped == "labelling was stopped"
    assert len(stopped.pairs) == 14
    assert stopped.history["preferences"].tolist() == [6, 12, 14]
    same(learn(tmp_path, **acquisition), learn(**acquisition))


def test_who_stops_at_once_may_come_back(tmp_path: Path) -> None:
    def gone(queries: Queries) -> Any:
        raise LabellingStopped(np.full(len(queries), -1))

    with pytest.raises(FitError, match="no answer"):
        learn(tmp_path, lambda labels: gone)
    same(learn(tmp_path), learn())


def test_control_c_keeps_the_last_reward(tmp_path: Path) -> None:
    class Impatient(Mortal):
        def __call__(self, queries: Queries) -> Any:
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return self.labels(queries)

    found = learn(tmp_path, lambda labels: Impatient(labels, False))
    assert found.stopped == "interrupted"
    assert len(found.pairs) == 12
    same(learn(tmp_path), learn())


def test_more_preferences_later(tmp_path: Path) -> None:
    learn(tmp_path, preferences=12)
    same(learn(tmp_path), learn())


def test_pairs_run_out() -> None:
    found = learn(preferences=1000, acquisition="random", engine=MAP())
    assert len(found.pairs) == 60
    assert found.stopped == "all pairs were asked about"


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    learn(tmp_path, preferences=6)
    for change in ({"seed": 4}, {"batch": 5}, {"engine": MAP(), "acquisition": "random"}):
        with pytest.raises(FitError, match="holds a run with"):
            learn(tmp_path, **change)
    pairs = candidate_pairs(play(MDP, UNIFORM, 20, 1, 15), 60, 0)
    with pytest.raises(FitError, match="candidates"):
        learn_reward(pairs, labeller(pairs), program(), path=tmp_path, **OPTIONS)
    pairs = candidates()
    for reward in (LinearReward(2 * WORLD.features), LinearReward(WORLD.features, 3.0)):
        other = TrajectoryPreference(reward, MDP.discount, 3.0)
        with pytest.raises(FitError, match="reward_options"):
            learn_reward(pairs, labeller(pairs), other, path=tmp_path, **OPTIONS)
    with pytest.raises(FitError, match="engine_options"):
        learn(tmp_path, engine=Laplace(draws=40))
    (tmp_path / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(FitError, match="not the state of a run"):
        learn(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": MAP()}, "acquisition: bald needs posterior draws and 'map' gives a point"),
        ({"path": 5}, "path: expected a folder, got 5"),
        ({"path": __file__}, "cannot write to"),
    ],
)
def test_nobody_is_asked_in_vain(options: dict[str, Any], says: str) -> None:
    with pytest.raises((OptionError, FitError), match=says):
        learn(oracle=lambda labels: lambda queries: pytest.fail("asked"), **options)


@pytest.mark.parametrize(
    ("reward", "options", "says"),
    [
        (LinearReward(torch.eye(3)), {}, "features: expected"),
        (LinearReward(), {}, "this one has none"),
        (LinearReward(lambda states: states), {}, "this one has none"),
        (TabularReward(3), {}, "expected a TabularReward of"),
        (
            LinearReward(WORLD.features),
            {"engine": MAP(), "acquisition": "random", "quantile": 0.1},
            "pessimism or quantile needs posterior draws",
        ),
        (LinearReward(WORLD.features), {"path": __file__}, "cannot write to"),
    ],
)
def test_nobody_is_asked_before_a_pipeline_that_must_fail(
    reward: Any, options: dict[str, Any], says: str
) -> None:
    shown = play(MDP, UNIFORM, 5, 1, 15)
    few = {"horizon": 15, "episodes": 5, "candidates": 5, "preferences": 5}
    with pytest.raises((DataError, OptionError, FitError), match=says):
        rlhf(MDP, shown, reward, lambda pairs: pytest.fail("asked"), **few, **options)


def test_a_reward_is_tried_before_anybody_is_asked() -> None:
    pairs = candidates()
    other = TrajectoryPreference(NetworkReward(torch.nn.Linear(99, 1), WORLD.features))
    with pytest.raises(DataError, match="network: it cannot take features"):
        learn_reward(
            pairs, lambda queries: pytest.fail("asked"), other, preferences=5,
            acquisition="random", engine=MAP(),
        )  # fmt: skip


def test_progress_counts_answers(capsys: pytest.CaptureFixture[str]) -> None:
    learn(progress=True)
    assert "24/24" in capsys.readouterr().err


def test_policy_gradients_go_on_as_well(tmp_path: Path) -> None:
    shown = rollout("CartPole-v1", cartpole_expert, 2, 0, max_steps=15)
    gradient = PolicyGradient(iterations=4, episodes=2, horizon=20)

    def found(path: Path | None, **more: Any) -> Any:
        return rlhf(
            "CartPole-v1",
            shown,
            LinearReward(lambda states: states**2),
            lambda pairs: SimulatedLabeller(pairs, rationality=0.3),
            policy=SoftmaxPolicy(2, prior_scale=1.0),
            cloning=MAP(),
            **{"horizon": 20, "episodes": 6, "candidates": 12, "preferences": 8},
            **{"acquisition": "random", "gradient": gradient, "path": path, **more},
        )

    found(tmp_path)
    state = torch.load(tmp_path / "policy" / "state.pt", weights_only=True)["state"]
    assert len(state["rows"]) == 4
    again, whole = found(tmp_path), found(None)
    assert alike(again.policy.params["coefficients"], whole.policy.params["coefficients"])
    # Steps under one reward are no beginning of a way under another.
    with pytest.raises(FitError, match="holds a run with pessimism = None"):
        found(tmp_path, pessimism=1.0)
