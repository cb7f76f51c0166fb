"""Inverse reinforcement learning that is saved, cut short, and goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from alike import alike
from killed import ENVIRONMENT
from likely.envs import GridWorld, rollout_tabular, soft_value_iteration, value_iteration
from likely.inference import MAP, MLE, ConvergenceWarning
from likely.inference.errors import FitError, OptionError
from likely.inference.imitation import (
    FeatureMatching,
    InverseRL,
    apprenticeship_learning,
    irl_run,
    match_expert,
    maxent_irl,
    mwal,
)
from likely.inference.imitation.reward_rules import MaxMargin
from likely.models import Visits
from likely.models.preference import LinearReward, NetworkReward

pytestmark = pytest.mark.usefixtures("in_double")
WORLD = GridWorld(slip=0.2, features=("kind", "distance"), discount=0.9)
MDP = WORLD.mdp
EXPERT = soft_value_iteration(MDP, 0.2).policy


def projection(**options: Any) -> InverseRL:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return apprenticeship_learning(
            MDP, WORLD.features, EXPERT, method="projection", tol=1e-3, **options
        )


def game(**options: Any) -> InverseRL:
    return mwal(MDP, WORLD.features, EXPERT, rounds=20, **options)


def maximum(**options: Any) -> InverseRL:
    # So few steps of a search that it takes three fits.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return maxent_irl(
            MDP,
            WORLD.features[:, 1:],
            EXPERT,
            temperature=0.2,
            **{"engine": MLE(max_iter=2), "max_iter": 3, **options},
        )


def check_same(one: InverseRL, other: InverseRL) -> None:
    for name in ("weights", "reward", "policies", "mixture", "table", "expected", "met"):
        assert alike(getattr(one, name), getattr(other, name)), name
    assert alike(one.history, other.history)
    assert (one.method, one.converged, one.stopped) == (
        other.method,
        other.converged,
        other.stopped,
    )
    assert one.gap == other.gap


@pytest.mark.parametrize("make", [lambda: projection(max_iter=7), game, maximum])
def test_results_come_back_from_files(make: Any, tmp_path: Path) -> None:
    found = make()
    found.save(tmp_path / "new" / "folder")
    again = InverseRL.load(tmp_path / "new" / "folder")
    check_same(found, again)
    assert (again.fit is None) == (found.fit is None)
    if found.fit is not None:
        for name, value in found.fit.params.items():
            assert torch.equal(value, again.fit.params[name])
    assert torch.equal(again.policy.table, found.policy.table)
    assert not list((tmp_path / "new" / "folder").glob("*.pkl"))
    # Over what was there before.
    found.save(tmp_path / "new" / "folder")


def test_a_networks_result_has_no_weights_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reward = NetworkReward(torch.nn.Linear(4, 1), WORLD.features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = maxent_irl(MDP, reward, EXPERT, temperature=0.2, engine=MLE(max_iter=5), max_iter=1)
    assert found.weights.shape == (0,)
    found.save(tmp_path)
    check_same(found, InverseRL.load(tmp_path))


def test_a_reward_with_a_prior_serves_the_loop() -> None:
    many = Visits.from_policy(MDP, EXPERT, episodes=1e9)
    reward = LinearReward(WORLD.features[:, 1:], 2.0)
    found = maxent_irl(MDP, reward, many, temperature=0.2, engine=MAP())
    assert found.converged
    assert found.gap <= 1e-6


@pytest.mark.parametrize("damage", ["inverse_rl.json", "tables.nc", "version", "lacks"])
def test_damaged_files_are_told(damage: str, tmp_path: Path) -> None:
    game().save(tmp_path)
    record = tmp_path / "inverse_rl.json"
    if damage == "version":
        record.write_text(record.read_text().replace('"version": 1', '"version": 9'))
    elif damage == "lacks":
        record.write_text('{"version": 1}')
    else:
        (tmp_path / damage).write_bytes(b"\x00nothing")
    with pytest.raises(FitError, match="folder"):
        InverseRL.load(tmp_path)
    with pytest.raises(FitError, match="folder"):
        InverseRL.load(tmp_path / "elsewhere")


def test_flipped_bytes_are_told(tmp_path: Path) -> None:
    game().save(tmp_path)
    whole = (tmp_path / "tables.nc").read_bytes()
    draw = random.Random(0)
    for _ in range(10):
        spoilt = bytearray(whole)
        # The first kilobytes say what the file holds.
        for place in draw.sample(range(8, 4000), 200):
            spoilt[place] ^= 0xFF
        (tmp_path / "tables.nc").write_bytes(spoilt)
        with pytest.raises(FitError, match="folder"):
            InverseRL.load(tmp_path)
    with pytest.raises(OptionError, match="folder: expected a path, got 5"):
        InverseRL.load(5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="folder: expected a path, got None"):
        game().save(None)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = game()
    with pytest.raises(FitError, match="cannot write"):
        found.save(tmp_path / "file" / "below")
    with pytest.raises(FitError, match="cannot write"):
        game(path=tmp_path / "file" / "below")


# -- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "rounds"),
    [(lambda **o: projection(max_iter=30, **o), 11), (game, 7), (maximum, 1)],
)
@pytest.mark.parametrize("often", [True, False])
def test_a_run_that_was_stopped_goes_on_to_the_same_result(
    make: Any, rounds: int, often: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(irl_run, "EVERY", 0.0 if often else 1e9)
    whole = make()
    seen: list[int] = []

    def stop(step: Any) -> bool:
        seen.append(step.iteration)
        return len(seen) == rounds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        part = make(path=tmp_path, callback=stop)
    assert part.stopped == f"it has not reached its goal after {rounds} rounds"
    assert len(part.history) == rounds
    going_on: list[int] = []
    rest = make(path=tmp_path, callback=lambda step: going_on.append(step.iteration))
    check_same(whole, rest)
    assert seen + going_on == list(range(len(whole.history)))
    assert rest.seconds > part.seconds
    # One that has ended ends at once, and says the same.
    check_same(whole, make(path=tmp_path, callback=lambda step: pytest.fail("a round")))


def test_more_rounds_may_be_asked_for_later(tmp_path: Path) -> None:
    projection(max_iter=5, path=tmp_path)
    longer = projection(max_iter=12, path=tmp_path)
    check_same(longer, projection(max_iter=12))
    # With fewer than there are, all of them count.
    assert len(projection(max_iter=3, path=tmp_path).history) == 12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"known": torch.linspace(0, 1, MDP.n_states)}, "known"),
        ({"base_policy": EXPERT}, "base_policy"),
        ({"prior_scale": 2.0}, "prior_scale"),
    ],
)
def test_a_folder_of_another_program_is_refused(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    maximum(path=tmp_path, max_iter=1)
    with pytest.raises(FitError, match=f"holds a run with {says}"):
        maximum(path=tmp_path, max_iter=1, **change)
    # A bar changes nothing.
    maximum(path=tmp_path, max_iter=1, engine=MLE(max_iter=2, progress=True))


CHILD = """
import sys, time, torch
torch.set_default_dtype(torch.float64)
from likely.inference.imitation import irl_run, mwal
sys.path.insert(0, {here!r})
from test_irl_runs import MDP, WORLD, EXPERT
irl_run.EVERY = 0.0
def watch(step):
    if step.iteration == 6:
        print("now", flush=True)
        time.sleep(60)
mwal(MDP, WORLD.features, EXPERT, rounds=20, path={path!r}, callback=watch)
"""


def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    code = CHILD.format(here=str(Path(__file__).parent), path=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"now\n"
        child.send_signal(signal.SIGKILL)
    rounds: list[int] = []
    found = game(path=tmp_path, callback=lambda step: rounds.append(step.iteration))
    assert rounds == list(range(7, 20))
    check_same(found, game())


def test_an_interrupt_leaves_whole_rounds(tmp_path: Path) -> None:
    problem = FeatureMatching(MDP, WORLD.features, EXPERT)
    plan = MaxMargin.plan

    class Tired(MaxMargin):
        """Somebody presses Ctrl-C in the fourth round."""

        planned = 0

        def plan(self, problem: FeatureMatching, weights: torch.Tensor) -> torch.Tensor:
            self.planned += 1
            if self.planned == 4:
                raise KeyboardInterrupt
            return plan(self, problem, weights)

    with pytest.warns(ConvergenceWarning, match="after 3 rounds"):
        part = match_expert(problem, Tired(1e-3, True), max_iter=10, path=tmp_path)
    assert len(part.policies) == 3
    with pytest.warns(ConvergenceWarning, match="after 10 rounds"):
        rest = match_expert(problem, MaxMargin(1e-3, True), max_iter=10, path=tmp_path)
    with pytest.warns(ConvergenceWarning, match="after 10 rounds"):
        check_same(rest, match_expert(problem, MaxMargin(1e-3, True), max_iter=10))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"expert": value_iteration(MDP).policy}, "expert"),
        ({"features": WORLD.features.flip(1)}, "features"),
        ({"tol": 0.5}, "tol"),
        ({"method": "max-margin"}, "projection"),
        ({"horizon": 9}, "horizon"),
        ({"episodes": 5}, "episodes"),
        ({"mdp": GridWorld(slip=0.3, discount=0.9).mdp}, "process"),
    ],
)
def test_another_run_in_the_folder_is_refused(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    projection(max_iter=2, path=tmp_path)
    same: dict[str, Any] = {
        "mdp": MDP,
        "features": WORLD.features,
        "expert": EXPERT,
        "method": "projection",
        "tol": 1e-3,
        "max_iter": 2,
        "path": tmp_path,
    }
    with pytest.raises(FitError, match=f"holds a run with {named} = "):
        apprenticeship_learning(**{**same, **change})


def test_another_method_or_engine_in_the_folder_is_refused(tmp_path: Path) -> None:
    maximum(path=tmp_path)
    with pytest.raises(FitError, match="holds a run with method = 'maxent'"):
        game(path=tmp_path)
    with pytest.raises(FitError, match="holds a run with temperature"):
        maxent_irl(MDP, WORLD.features[:, 1:], EXPERT, engine=MLE(max_iter=2), path=tmp_path)
    (tmp_path / "state.pt").write_bytes(b"\x00nothing")
    with pytest.raises(FitError, match="is not the state of a run"):
        game(path=tmp_path)


def test_sampled_rounds_go_on_with_their_own_numbers(tmp_path: Path) -> None:
    options: dict[str, Any] = {"episodes": 50, "seed": 4}
    whole = projection(max_iter=6, **options)
    projection(max_iter=3, path=tmp_path, **options)
    check_same(whole, projection(max_iter=6, path=tmp_path, **options))
    walks = rollout_tabular(MDP, whole.table, 20, 10, 0)
    assert walks.states.shape == (20, 11)
