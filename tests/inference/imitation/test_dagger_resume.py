"""DAgger with experts of every kind, killed runs, and folders of other runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from alike import alike
from likely.envs import DataError, TabularMDP, cartpole_expert, rollout
from likely.inference import MAP, MLE, FitError, OptionError
from likely.inference.active import LabellingStopped
from likely.inference.imitation import behaviour_cloning, dagger
from likely.inference.imitation.queries import Answered, Mixed
from likely.models import GaussianPolicy, SoftmaxPolicy, TabularPolicy

ROOT = Path(__file__).parents[3]
COLUMNS = ["iteration", "beta", "labels", "acted", "return", "length", "disagreement"]
LAKE = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)


def cartpole(expert: Any = cartpole_expert, policy: Any = None, **options: Any) -> Any:
    policy = SoftmaxPolicy(2) if policy is None else policy
    own = {"iterations": 3, "queries": 20, "horizon": 60, "seed": 1}
    return dagger("CartPole-v1", policy, expert, **{**own, **options})


def same(found: Any, wanted: Any) -> None:
    pd.testing.assert_frame_equal(found.history[COLUMNS], wanted.history[COLUMNS])
    assert found.params.keys() == wanted.params.keys()
    for site, value in wanted.params.items():
        assert alike(found.params[site], value)


# -- files ----------------------------------------------------------------------------------------

KILLED = """
import sys, time
from likely.envs import cartpole_expert
from likely.inference.imitation import dagger
from likely.models import SoftmaxPolicy

def slow(row):
    print(row["iteration"], flush=True)
    time.sleep(0.05)

dagger("CartPole-v1", SoftmaxPolicy(2), cartpole_expert, iterations=40, queries=20, horizon=60,
       seed=1, path=sys.argv[1], callback=slow)
"""


def test_a_run_that_is_killed_ends_where_it_would_have(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.stdout is not None
    try:
        while int(child.stdout.readline()) < 2:
            pass
        # Anywhere in an iteration: playing, fitting or writing.
        time.sleep(0.07)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        child.stdout.close()
    found = cartpole(iterations=6, path=tmp_path)
    assert len(found.history) >= 6
    same(found, cartpole(iterations=len(found.history)))


@pytest.mark.parametrize("variant", ["aggregate", "fused"])
def test_a_run_that_ended_is_given_back(tmp_path: Path, variant: str) -> None:
    whole = cartpole(path=tmp_path, variant=variant)

    def nobody(seen: Any) -> Any:
        raise AssertionError("asked again")

    again = cartpole(nobody, path=tmp_path, variant=variant)
    same(again, whole)
    assert alike(again.fit.log_likelihood, whole.fit.log_likelihood)
    more = cartpole(path=tmp_path, variant=variant, iterations=4)
    same(more, cartpole(variant=variant, iterations=4))


def test_a_failure_of_the_expert_loses_one_iteration_at_most(tmp_path: Path) -> None:
    calls = []

    def failing(seen: Any) -> Any:
        calls.append(len(seen))
        if sum(n > 1 for n in calls) == 3:
            raise ConnectionError("the line is dead")
        return cartpole_expert(seen)

    with pytest.raises(ConnectionError, match="dead"):
        cartpole(failing, path=tmp_path, beta="never")
    rows: list[Any] = []
    found = cartpole(path=tmp_path, beta="never", callback=rows.append)
    assert [row["iteration"] for row in rows] == [2]
    same(found, cartpole(beta="never"))


def test_an_interrupt_before_anything_is_learnt_goes_through() -> None:
    def interrupted(seen: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cartpole(interrupted)
    calls = []

    def later(seen: Any) -> Any:
        calls.append(len(seen))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cartpole_expert(seen)

    found = cartpole(later, beta="never")
    assert (found.stopped, len(found.history)) == ("interrupted", 2)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    seen = rollout("CartPole-v1", cartpole_expert, 1, seed=0, max_steps=30)
    other = rollout("CartPole-v1", cartpole_expert, 1, seed=1, max_steps=30)
    cartpole(path=tmp_path, demonstrations=seen, iterations=1)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("policy", {"policy": SoftmaxPolicy(2, prior_scale=3.0)}),
        ("engine", {"engine": MAP(tol=1e-3)}),
        ("engine", {"engine": MLE()}),
        ("demonstrations", {"demonstrations": other}),
        ("demonstrations", {"demonstrations": None}),
        ("beta", {"beta": 0.5}),
        ("queries", {"queries": 21}),
        ("env_options", {"env_options": {"sutton_barto_reward": True}}),
    ]
    for name, options in wrong:
        with pytest.raises(FitError, match=f"holds a run with {name} ="):
            cartpole(path=tmp_path, iterations=1, **{"demonstrations": seen, **options})
    cartpole(path=tmp_path, demonstrations=seen, iterations=1, engine=MAP(), progress=True)


def test_a_folder_of_another_process_is_refused(tmp_path: Path) -> None:
    def run(slip: float) -> None:
        rows = [[[1 - slip, slip], [slip, 1 - slip]]] * 2
        rooms = TabularMDP(rows, [0.0, 1.0], 0.5, 0)
        options: dict[str, Any] = {"iterations": 1, "queries": 5, "horizon": 5, "path": tmp_path}
        dagger(rooms, TabularPolicy(2, 2, 1.1), lambda s: (s == 0).astype(int), **options)

    run(0.1)
    run(0.1)
    with pytest.raises(FitError, match="holds a run with env ="):
        run(0.2)


def test_what_does_not_fit_is_told_before_anybody_is_asked() -> None:
    def nobody(seen: Any) -> Any:
        raise AssertionError("asked")

    with pytest.raises(DataError, match="actions"):
        cartpole(nobody, SoftmaxPolicy(3))
    with pytest.raises(DataError, match="actions"):
        cartpole(nobody, GaussianPolicy(1))
    with pytest.raises(OptionError, match="policy"):
        cartpole(nobody, "softmax")
    lake = rollout("FrozenLake-v1", lambda seen: np.zeros(len(seen), int), 1, seed=0)
    with pytest.raises(DataError, match="demonstrations: expected state_space Box"):
        cartpole(nobody, demonstrations=lake)
    with pytest.raises(DataError, match="demonstrations"):
        cartpole(nobody, demonstrations=[1, 2])


# -- experts --------------------------------------------------------------------------------------


def test_an_expert_who_draws_is_asked_with_numbers_that_differ() -> None:
    policy = TabularPolicy(2, 2)
    even = behaviour_cloning(_coins(), policy)
    answered = Answered(even.policy, Discrete(2), seed=3)
    found = np.array([int(answered(np.zeros(1, dtype=np.int64))[0]) for _ in range(400)])
    assert abs(found.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)
    again = Answered(even.policy, Discrete(2), seed=3)
    assert [int(again(np.zeros(1, dtype=np.int64))[0]) for _ in range(400)] == found.tolist()


def _coins() -> Any:
    from likely.envs import Trajectories

    return Trajectories.from_arrays([[0, 1, 0, 1, 0]], [[0, 0, 1, 1]], state_space=2)


def test_experts_take_random_numbers_as_policies_do() -> None:
    def expert(seen: Any, rng: Any) -> Any:
        return (rng.random(len(seen)) < 0.5).astype(int)

    found = cartpole(expert, queries=5)
    assert found.history["labels"].tolist() == [5, 10, 15]
    same(found, cartpole(expert, queries=5))


def test_a_function_may_stop_in_the_middle() -> None:
    def make(stop_at: int, known: bool) -> Any:
        count = []

        def expert(seen: Any) -> Any:
            count.append(len(seen))
            if len(count) >= stop_at:
                half = np.where(np.arange(len(seen)) % 2 == 0, cartpole_expert(seen), -1)
                raise LabellingStopped(half if known else np.full(len(seen), -1))
            return cartpole_expert(seen)

        return expert

    # After the first iteration's episode: half of the answers came with the stop.
    found = cartpole(make(1, True), beta="never", queries=6)
    assert found.stopped == "the expert stopped"
    assert found.history["labels"].tolist() == [3]
    with pytest.raises(OptionError, match="nothing was answered"):
        cartpole(make(1, False), beta="never")
    # While it plays: chance takes over, and what a function said is not remembered.
    with pytest.raises(OptionError, match="stopped"):
        cartpole(make(5, True))
    later = cartpole(make(2, False), beta="never", queries=6)
    assert later.history["labels"].tolist() == [6]
    assert later.stopped == "the expert stopped"


def test_the_learner_takes_over_from_an_expert_of_vectors_who_stops() -> None:
    def expert(seen: Any) -> Any:
        raise LabellingStopped(np.full(len(seen), -1))

    answered = Answered(expert, Box(-1, 1, (1,)))
    mixed = Mixed(None, answered, 1.0)
    assert mixed(np.zeros((3, 2)), np.random.default_rng(0)).tolist() == [[0.0]] * 3
    assert answered.stopped
    assert mixed.acted == 0


def test_abstaining_in_a_process_leaves_the_state_to_the_learner() -> None:
    def expert(states: Any) -> Any:
        return np.where(states == 0, 1, -1)

    found = dagger(
        LAKE, TabularPolicy(17, 4, 1.1), expert, iterations=2, episodes=10, horizon=20, seed=1
    )
    assert int(found.table[0].argmax()) == 1
    assert found.history["labels"].iloc[-1] > 0


@pytest.mark.parametrize(
    "answer",
    [
        lambda seen: 1,
        lambda seen: [1, [1, 0]],
        lambda seen: ["left"] * len(seen),
        lambda seen: None,
        lambda seen: np.zeros(len(seen) + 1, int),
        lambda seen: np.full(len(seen), 1j),
        lambda seen: np.full(len(seen), np.inf),
        lambda seen: np.full(len(seen), 2),
        lambda seen: torch.full((len(seen),), -3),
    ],
    ids=["single", "ragged", "text", "none", "longer", "complex", "inf", "too large", "negative"],
)
def test_answers_that_are_no_actions(answer: Any) -> None:
    with pytest.raises(DataError, match="expert: expected actions"):
        cartpole(answer)


@pytest.mark.parametrize("answer", [2.0, np.nan, np.inf])
def test_vectors_outside_the_space(answer: float) -> None:
    def expert(seen: Any) -> Any:
        return np.full((len(seen), 1), answer, dtype=np.float32)

    with pytest.raises(DataError, match="expert: expected actions in Box"):
        dagger("likely/Fork-v0", GaussianPolicy(1), expert, iterations=1)
