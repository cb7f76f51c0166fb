"""Chains in processes: interrupts, failures and workers that may have no children."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from likely.inference.engines.chains import (
    Chain,
    ChainInterruptedError,
    Report,
    RunChain,
    run_chains,
)
from likely.inference.errors import InferenceError


def chain_of(length: int, interrupted: bool = False) -> Chain:
    draws = np.arange(float(length))[:, None]
    return Chain(draws, {"lp": draws[:, 0]}, interrupted)


def collect(run: RunChain, chains: int = 2, cores: int = 2) -> list[Chain]:
    return run_chains(run, chains, cores=cores, total=10, progress=False, label="test")


def until_interrupted(at: Callable[[int, int], None]) -> RunChain:
    """A chain that draws every 10 ms until it is interrupted; ``at(chain, draw)`` comes first."""

    def run(chain: int, report: Report) -> Chain:
        drawn = 0
        try:
            while drawn < 3000:
                at(chain, drawn)
                time.sleep(0.01)
                report(1)
                drawn += 1
        except KeyboardInterrupt:
            return chain_of(drawn, interrupted=True)
        return chain_of(drawn)

    return run


def interrupt_parent_after(draws: int) -> Callable[[int, int], None]:
    def at(chain: int, drawn: int) -> None:
        if chain == 0 and drawn == draws:
            os.kill(os.getppid(), signal.SIGINT)

    return at


def test_ctrl_c_returns_what_parallel_chains_have_drawn() -> None:
    before = signal.getsignal(signal.SIGINT)
    started = time.perf_counter()
    found = collect(until_interrupted(interrupt_parent_after(20)))
    assert time.perf_counter() - started < 20.0
    assert all(chain.interrupted and 4 <= len(chain.draws) < 3000 for chain in found)
    assert signal.getsignal(signal.SIGINT) is before
    assert not multiprocessing.active_children()


def test_ctrl_c_before_four_draws_returns_nothing_and_says_so() -> None:
    def slowly(chain: int, report: Report) -> Chain:
        try:
            if chain == 0:
                os.kill(os.getppid(), signal.SIGINT)
            time.sleep(30)
        except KeyboardInterrupt:
            return chain_of(3, interrupted=True)
        return chain_of(10)

    with pytest.raises(ChainInterruptedError, match="before one had 4 draws"):
        collect(slowly)


def test_a_second_ctrl_c_does_not_wait_for_chains_that_will_not_stop() -> None:
    def stubborn(chain: int, report: Report) -> Chain:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if chain == 0:
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(1.5)
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
        return chain_of(10)

    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        collect(stubborn)
    assert time.perf_counter() - started < 20.0
    assert not multiprocessing.active_children()


def test_chains_that_wait_are_not_started_after_ctrl_c() -> None:
    found = collect(until_interrupted(interrupt_parent_after(20)), chains=4, cores=2)
    assert 1 <= len(found) <= 2


@pytest.mark.parametrize(
    ("lengths", "kept"), [([100, 5], [100]), ([100, 60], [100, 60]), ([3, 40, 40], [40, 40])]
)
def test_a_chain_with_few_draws_does_not_cut_the_others_short(
    lengths: list[int], kept: list[int]
) -> None:
    def run(chain: int, report: Report) -> Chain:
        return chain_of(lengths[chain], interrupted=chain == len(lengths) - 1)

    found = collect(run, chains=len(lengths), cores=1)
    assert [len(chain.draws) for chain in found] == kept
    assert all(chain.interrupted for chain in found)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ChainInterruptedError])
def test_chains_one_after_another_keep_those_before_the_interrupt(
    error: type[BaseException],
) -> None:
    def run(chain: int, report: Report) -> Chain:
        if chain == 1:
            raise error
        return chain_of(10)

    (found,) = collect(run, chains=3, cores=1)
    assert found.interrupted
    with pytest.raises(error):
        collect(lambda chain, report: run(1, report), chains=3, cores=1)


def test_a_failing_chain_is_an_error_with_its_traceback() -> None:
    def run(chain: int, report: Report) -> Chain:
        raise ZeroDivisionError("of chain")

    with pytest.raises(InferenceError, match=r"(?s)chain \d failed.*ZeroDivisionError: of chain"):
        collect(run)


def test_a_chain_whose_process_dies_is_an_error() -> None:
    def run(chain: int, report: Report) -> Chain:
        os._exit(3)

    with pytest.raises(InferenceError, match="died with exit code 3"):
        collect(run)


def _in_worker(chains: int) -> tuple[list[int], set[int]]:
    pids: set[int] = set()

    def run(chain: int, report: Report) -> Chain:
        pids.add(os.getpid())
        return chain_of(4 + chain)

    found = collect(run, chains=chains)
    return [len(chain.draws) for chain in found], pids - {os.getpid()}


def test_in_a_pools_worker_chains_run_one_after_another() -> None:
    context: Any = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        lengths, elsewhere = pool.apply(_in_worker, (3,))
    assert lengths == [4, 5, 6]
    assert not elsewhere
