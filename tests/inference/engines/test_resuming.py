"""A search that was killed goes on to the numbers that it would have had, to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from alike import alike
from killed import ENVIRONMENT
from likely.envs import Trajectories
from likely.inference import EM, MAP, MLE, SVI, Fit, FitError, OptionError, Shards
from likely.inference.checkpoints import STATE
from likely.inference.imitation import behaviour_cloning
from likely.models import LogisticRegression, ModulePolicy, SoftmaxPolicy, TrajectoryModel

pytestmark = [
    pytest.mark.usefixtures("in_double"),
    pytest.mark.filterwarnings("ignore::likely.inference.ConvergenceWarning"),
]

KILLED, EVERY = 47, 10


class KilledError(Exception):
    """In the place of a signal."""


def data() -> Trajectories:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=random, dtype=torch.float64)
    noise = torch.randn(200, generator=random, dtype=torch.float64)
    chosen = (x @ torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64) + noise > 0).long()
    return Trajectories.from_arrays(torch.cat([x, x[:1]]), chosen, lengths=[len(x)], action_space=2)


def network() -> TrajectoryModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = [torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)]
        return TrajectoryModel(ModulePolicy(torch.nn.Sequential(*layers), 2))


def softmax() -> TrajectoryModel:
    return TrajectoryModel(SoftmaxPolicy(2))


def two_bells() -> Any:
    """Components that overlap so much that EM takes its time."""

    def program(trajectories: Trajectories) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("component", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        y = trajectories.states[:, 0]
        with pyro.plate("point", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)

    return program


CASES: dict[str, tuple[Any, Any]] = {
    "lbfgs": (partial(MLE, max_iter=90), network),
    "adam": (partial(MAP, max_iter=90, optimizer="adam"), network),
    "mini-batches": (partial(MLE, max_iter=120, batch_size=50), network),
    "sgd": (partial(MLE, max_iter=120, batch_size=30, optimizer="sgd"), softmax),
    "em": (
        partial(EM, max_iter=90, init={"loc": [-0.1, 0.1], "weights": [0.5, 0.5]}),
        two_bells,
    ),
    "svi": (partial(SVI, max_iter=120, draws=20), softmax),
    "svi-batches": (
        partial(SVI, max_iter=120, draws=20, batch_size=64, guide="multivariate"),
        softmax,
    ),
    "svi-module": (partial(SVI, max_iter=120, draws=20), network),
}


def same(one: Fit, other: Fit) -> bool:
    told = [(f.draws, f.log_likelihood, f.n_iter, f.history) for f in (one, other)]
    return alike(*told)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_stopped_search_goes_on_to_the_same_numbers(name: str, tmp_path: Path) -> None:
    engine, program = CASES[name]

    def kill(step: Any) -> None:
        if step.iteration == KILLED:
            raise KilledError

    with pytest.raises(KilledError):
        engine(path=tmp_path, save_every=EVERY, callback=kill).fit(program(), data())
    seen: list[int] = []
    again = engine(
        path=tmp_path, save_every=EVERY, callback=lambda step: seen.append(step.iteration)
    ).fit(program(), data())
    whole = engine().fit(program(), data())
    assert same(whole, again)
    assert whole.converged == again.converged
    # It went on, and did not start again.
    assert seen[0] == KILLED - KILLED % EVERY
    # A run that has ended repeats its last steps.
    assert same(whole, engine(path=tmp_path, save_every=EVERY).fit(program(), data()))


SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_resuming as tests
from likely.inference.imitation import behaviour_cloning
def kill(step):
    if step.iteration == tests.KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
engine, program = tests.CASES["svi-batches"]
engine = engine(path=sys.argv[2], save_every=tests.EVERY, callback=kill)
behaviour_cloning(tests.data(), program().policy, engine)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_cloning_that_is_killed_by_the_system_resumes(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(Path(__file__).parent)]
    done = subprocess.run([*command, str(tmp_path)], timeout=300, env=ENVIRONMENT)
    assert done.returncode == -signal.SIGKILL
    engine, program = CASES["svi-batches"]
    again = behaviour_cloning(data(), program().policy, engine(path=tmp_path, save_every=EVERY))
    assert same(behaviour_cloning(data(), program().policy, engine()).fit, again.fit)
    assert [entry.name for entry in tmp_path.iterdir()] == [STATE]


def test_another_search_is_refused(tmp_path: Path) -> None:
    engine = partial(MLE, max_iter=30, path=tmp_path, save_every=5)
    engine().fit(network(), data())
    with pytest.raises(FitError, match="max_iter"):
        MLE(max_iter=40, path=tmp_path).fit(network(), data())
    with pytest.raises(FitError, match="engine"):
        EM(max_iter=30, path=tmp_path).fit(two_bells(), data())
    with pytest.raises(FitError, match="log-densities near the start"):
        engine().fit(network(), data().with_actions(1 - data().actions))  # type: ignore[operator]
    with pytest.raises(FitError, match="sites"):
        engine().fit(softmax(), data())
    whole = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FitError, match="is not the state of a run"):
        engine().fit(network(), data())


def test_options_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="restarts=3 are several"):
        EM(path=tmp_path, restarts=3)
    with pytest.raises(OptionError, match="path must be a folder's name"):
        MLE(path=3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="save_every"):
        SVI(save_every=0)
    x = torch.randn(40, 2)
    y = (torch.arange(40) % 2).double()
    rows = TensorDataset(x, y)
    with pytest.raises(OptionError, match="data in memory"):
        MLE(path=tmp_path).fit(LogisticRegression(), DataLoader(rows, 8))
    parts = Shards([(x[:20], y[:20]), (x[20:], y[20:])])
    with pytest.raises(OptionError, match="data in memory"):
        MLE(path=tmp_path).fit(LogisticRegression(), parts)
    assert not any(tmp_path.iterdir())


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    MLE(max_iter=20, save_every=1).fit(softmax(), data())
    assert not any(tmp_path.iterdir())
