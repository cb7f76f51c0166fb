"""Running chains one by one and in processes: order, progress, failures, interruptions."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from likely.inference.engines import chains as module
from likely.inference.engines.chains import Chain, run_chains
from likely.inference.errors import InferenceError

HERE = os.getpid()


def drawn(chain, report, draws=10):
    """A chain whose draws say which it is, where it ran and what its seed gave."""
    torch.manual_seed(chain)
    report(draws)
    values = np.full((draws, 2), float(chain))
    stats = {"process": np.full(draws, os.getpid()), "noise": torch.randn(draws).numpy()}
    return Chain(values, stats)


def run(function, chains=3, cores=1, **options):
    return run_chains(
        function, chains, cores=cores, total=10, progress=False, label="test", **options
    )


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_chains_come_in_their_order_and_are_the_same_however_they_run(cores):
    def slow_first(chain, report):
        time.sleep(0.2 * (chain == 0))
        return drawn(chain, report)

    found = run(slow_first, cores=cores)
    assert [chain.draws[0, 0] for chain in found] == [0.0, 1.0, 2.0]
    assert not any(chain.interrupted for chain in found)
    for chain, other in zip(found, run(drawn), strict=True):
        np.testing.assert_array_equal(chain.stats["noise"], other.stats["noise"])
    processes = {int(chain.stats["process"][0]) for chain in found}
    assert processes == {HERE} if cores == 1 else len(processes) == 3
    assert HERE not in processes or cores == 1


def test_a_single_chain_needs_no_process():
    (found,) = run(drawn, chains=1, cores=4)
    assert found.stats["process"][0] == HERE


def test_without_forking_chains_run_one_by_one(monkeypatch):
    monkeypatch.setattr(module, "_start_methods", lambda: ["spawn"])
    found = run(drawn, cores=2)
    assert {int(chain.stats["process"][0]) for chain in found} == {HERE}


def test_no_more_chains_than_cores_run_at_a_time(tmp_path):
    def counted(chain, report):
        (tmp_path / f"{chain}").touch()
        time.sleep(0.2)
        running = len(list(tmp_path.iterdir()))
        (tmp_path / f"{chain}").unlink()
        return Chain(np.zeros((4, 1)), {"running": np.full(4, running)})

    found = run(counted, chains=5, cores=2)
    most = max(int(chain.stats["running"][0]) for chain in found)
    assert most == 2


@pytest.mark.parametrize("cores", [1, 2])
def test_progress_counts_every_iteration(cores, capsys):
    def reporting(chain, report):
        for _ in range(100):
            report(1)
        return drawn(chain, lambda n: None)

    run_chains(reporting, 2, cores=cores, total=100, progress=True, label="drawing")
    shown = capsys.readouterr().err
    assert "drawing" in shown
    assert "200/200" in shown


@pytest.mark.parametrize("cores", [1, 2])
def test_without_progress_nothing_is_shown(cores, capsys):
    run(drawn, cores=cores)
    assert capsys.readouterr() == ("", "")


def test_a_failure_in_a_process_is_told_with_its_traceback():
    def failing(chain, report):
        if chain == 1:
            raise ZeroDivisionError("by nothing")
        return drawn(chain, report)

    with pytest.raises(InferenceError, match="chain 1 failed in its process") as caught:
        run(failing, cores=2)
    assert "ZeroDivisionError: by nothing" in str(caught.value)
    assert "in failing" in str(caught.value)
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        run(failing, cores=1)


def test_a_failure_ends_the_other_processes(tmp_path):
    def failing(chain, report):
        (tmp_path / f"{os.getpid()}").touch()
        if chain == 0:
            while len(list(tmp_path.iterdir())) < 2:
                time.sleep(0.01)
            raise ValueError("no more")
        time.sleep(60)

    with pytest.raises(InferenceError, match="no more"):
        run(failing, chains=2, cores=2)
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


@pytest.mark.parametrize(
    ("how", "code"),
    [(lambda: os._exit(3), "3"), (lambda: os.kill(os.getpid(), signal.SIGKILL), "-9")],
    ids=["exit", "killed"],
)
def test_a_process_that_dies_is_told(how, code):
    def dying(chain, report):
        if chain == 1:
            how()
        return drawn(chain, report)

    with pytest.raises(InferenceError, match=f"chain 1 died with exit code {code} "):
        run(dying, cores=2)


def test_a_chain_that_was_interrupted_ends_the_run_and_is_kept():
    asked = []

    def stopping(chain, report):
        asked.append(chain)
        found = drawn(chain, report, draws=6)
        return Chain(found.draws, found.stats, interrupted=chain == 1)

    found = run(stopping)
    assert asked == [0, 1]
    assert [len(chain.draws) for chain in found] == [6, 6]
    assert any(chain.interrupted for chain in found)


def test_ctrl_c_brings_back_what_processes_have_drawn(tmp_path):
    def endless(chain, report):
        draws = 0
        try:
            while True:
                draws += 1
                if draws == 20:
                    (tmp_path / f"{chain}").touch()
                time.sleep(0.005)
        except KeyboardInterrupt:
            return Chain(np.full((draws, 1), float(chain)), {}, interrupted=True)

    def press():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(HERE, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    found = run(endless, chains=3, cores=2)  # the third never starts
    presser.join()
    assert [chain.draws[0, 0] for chain in found] == [0.0, 1.0]
    assert all(chain.interrupted and len(chain.draws) >= 20 for chain in found)


def test_big_results_come_back_whole():
    """More than fits into a pipe at once."""

    def big(chain, report):
        return Chain(np.full((2000, 200), float(chain)), {})

    found = run(big, chains=2, cores=2)
    assert [chain.draws.sum() for chain in found] == [0.0, 400_000.0]
