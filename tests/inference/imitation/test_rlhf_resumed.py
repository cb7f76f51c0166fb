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

from likely.envs import GridWorld, cartpole_expert, rollout
from likely.inference import MAP, Laplace
from likely.inference.active import LabellingStopped, Queries
from likely.inference.errors import FitError
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
from likely.models.preference import LinearReward

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
    assert torch.equal(one.table, two.table)
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
    done = subprocess.run(command, timeout=240, capture_output=True, check=False)
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
    assert torch.equal(found.table, whole.table)
    assert found.history.equals(whole.history)
    # Two rounds of six were on disk.
    assert len(asked) == 12
    again = rlhf_on_the_grid(tmp_path, lambda pairs: lambda queries: pytest.fail("asked again"))
    assert torch.equal(again.table, whole.table)


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
    (tmp_path / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(FitError, match="not the state of a run"):
        learn(tmp_path)


def test_progress_counts_answers(capsys: pytest.CaptureFixture[str]) -> None:
    learn(progress=True)
    assert "24/24" in capsys.readouterr().err


def test_policy_gradients_go_on_as_well(tmp_path: Path) -> None:
    shown = rollout("CartPole-v1", cartpole_expert, 2, 0, max_steps=15)

    def found(path: Path | None, callback: Any = None) -> Any:
        return rlhf(
            "CartPole-v1",
            shown,
            LinearReward(lambda states: states**2),
            lambda pairs: SimulatedLabeller(pairs, rationality=0.3),
            policy=SoftmaxPolicy(2, prior_scale=1.0),
            cloning=MAP(),
            **{"horizon": 20, "episodes": 6, "candidates": 12, "preferences": 8},
            acquisition="random",
            gradient=PolicyGradient(iterations=4, episodes=2, horizon=20),
            path=path,
        )

    found(tmp_path)
    state = torch.load(tmp_path / "policy" / "state.pt", weights_only=True)["state"]
    assert len(state["rows"]) == 4
    again, whole = found(tmp_path), found(None)
    assert torch.equal(again.policy.params["coefficients"], whole.policy.params["coefficients"])
