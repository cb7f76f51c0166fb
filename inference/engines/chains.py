"""Running independent chains, one after another or in processes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from likely.inference.errors import InferenceError

# Draws between two messages of a chain to its progress bar.
_REPORT_EVERY = 10
# Seconds after which a process that died without a word, or Ctrl-C, is noticed.
_LOOK_EVERY = 0.5
# Diagnostics split a chain in halves, each of which needs two draws.
LEAST_DRAWS = 4


class ChainInterruptedError(InferenceError):
    """Chains were stopped before they had draws enough to return."""


@dataclass(frozen=True)
class Chain:
    """Draws [draw, n] of one chain in flat unconstrained coordinates, and statistics [draw]."""

    draws: np.ndarray
    stats: dict[str, np.ndarray]
    interrupted: bool = False


Report = Callable[[int], None]
RunChain = Callable[[int, Report], Chain]


def run_chains(
    run: RunChain, chains: int, *, cores: int, total: int, progress: bool, label: str
) -> list[Chain]:
    """Run ``run(chain, report)`` for every chain.

    Pyro's handler stack is not safe for threads, so chains that run at the same time run in forked
    processes (a forked program needs no pickling); each uses one thread. Where forking is not
    possible chains run one after another, with the same draws.

    On Ctrl-C every running chain gets a ``KeyboardInterrupt``, on which it may return what it has
    drawn so far. Chains are then marked as interrupted, and those whose few draws would cut the
    others short are dropped.

    Parameters
    ----------
    run : callable
        Runs one chain; ``report(n)`` says that ``n`` more iterations are done.
    chains, cores : int
        How many, and how many at a time.
    total : int
        Iterations of one chain, for the bar.
    progress : bool
        Show a bar.
    label : str
        Before the bar.

    Raises
    ------
    ChainInterruptedError
        If chains were stopped and none has four draws.
    InferenceError
        If a chain fails in its process.
    """
    parallel = min(cores, chains)
    with tqdm(total=total * chains, desc=label, disable=not progress) as bar:
        if parallel > 1 and _can_fork():
            found = _Forked(run, parallel, bar, list(range(chains))).collect()
        else:
            found = _one_by_one(run, chains, bar)
    if len(found) == chains and not any(chain.interrupted for chain in found):
        return found
    return _worth_keeping(found)


def _one_by_one(run: RunChain, chains: int, bar: Any) -> list[Chain]:
    results: list[Chain] = []
    for chain in range(chains):
        try:
            results.append(run(chain, partial(_advance, bar)))
        except (KeyboardInterrupt, ChainInterruptedError):
            if not results:
                raise
            break
        if results[-1].interrupted:
            break
    return results


def _worth_keeping(chains: list[Chain]) -> list[Chain]:
    """The chains that keep the most draws when all are cut to the shortest of them."""
    lengths = sorted((len(chain.draws) for chain in chains), reverse=True)
    totals = [(number + 1) * length for number, length in enumerate(lengths)]
    best = lengths[totals.index(max(totals))] if totals else 0
    if best < LEAST_DRAWS:
        raise ChainInterruptedError(
            f"the chains were stopped before one had {LEAST_DRAWS} draws; nothing to return"
        )
    return [replace(chain, interrupted=True) for chain in chains if len(chain.draws) >= best]


def _advance(bar: Any, n: int) -> None:
    bar.update(n)


def _can_fork() -> bool:
    # The workers of a pool are daemons, which may have no processes of their own.
    daemonic = multiprocessing.current_process().daemon
    return sys.platform != "win32" and not daemonic and "fork" in _start_methods()


def _start_methods() -> Sequence[str]:
    return multiprocessing.get_all_start_methods()


class _Stop:
    """Notes the first Ctrl-C instead of raising, which could cut a message in two.

    The second one raises. Python delivers signals to the main thread only.
    """

    asked = False

    def __enter__(self) -> _Stop:
        main = threading.current_thread() is threading.main_thread()
        # A handler that the user put there stays.
        self._ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _interrupt_once(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _work(run: RunChain, chain: int, out: Any) -> None:
    # The terminal and the parent may both send the signal; the second must not cut the answer.
    signal.signal(signal.SIGINT, _interrupt_once)
    # One thread a chain: more would contend, and a forked thread pool may hang.
    torch.set_num_threads(1)
    pending = 0

    def report(n: int) -> None:
        nonlocal pending
        pending += n
        if pending >= _REPORT_EVERY:
            out.put(("progress", chain, pending))
            pending = 0

    message: tuple[str, int, Any]
    try:
        message = ("done", chain, run(chain, report))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except (KeyboardInterrupt, ChainInterruptedError):
        message = ("stopped", chain, None)
    except BaseException:
        message = ("failed", chain, traceback.format_exc())
    out.put(message)


@dataclass
class _Forked:
    """Chains in processes, at most ``parallel`` at a time."""

    run: RunChain
    parallel: int
    bar: Any
    waiting: list[int]
    running: dict[int, Any] = field(default_factory=dict)
    done: dict[int, Chain] = field(default_factory=dict)

    def collect(self) -> list[Chain]:
        """Run the chains; those that finished, in their order."""
        context = multiprocessing.get_context("fork")
        out = context.Queue()
        told = False
        try:
            with _Stop() as stop:
                while self.running or (self.waiting and not stop.asked):
                    if stop.asked and not told:
                        self._interrupt()
                        told = True
                    while self.waiting and len(self.running) < self.parallel and not stop.asked:
                        self._start(context, out, self.waiting.pop(0))
                    try:
                        kind, chain, payload = out.get(timeout=_LOOK_EVERY)
                    except queue.Empty:
                        self._check_alive(out, stop.asked)
                    else:
                        self._take(kind, chain, payload, stop.asked)
        finally:
            for process in self.running.values():
                process.terminate()
                process.join()
            out.close()
        return [self.done[chain] for chain in sorted(self.done)]

    def _start(self, context: Any, out: Any, chain: int) -> None:
        process = context.Process(target=_work, args=(self.run, chain, out), daemon=True)
        self.running[chain] = process
        process.start()

    def _interrupt(self) -> None:
        for process in self.running.values():
            if process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)

    def _take(self, kind: str, chain: int, payload: Any, stopping: bool) -> None:
        if kind == "progress":
            self.bar.update(payload)
            return
        # A chain that is interrupted in the midst of something may well fail over it.
        if kind == "failed" and not stopping:
            raise InferenceError(f"chain {chain} failed in its process:\n{payload}")
        if kind == "done":
            self.done[chain] = payload
        self.running.pop(chain).join()

    def _check_alive(self, out: Any, stopping: bool) -> None:
        for chain, process in list(self.running.items()):
            if not process.is_alive() and out.empty():
                if not stopping:
                    raise InferenceError(
                        f"chain {chain} died with exit code {process.exitcode} (out of memory, "
                        "perhaps); cores=1 runs the chains one after another"
                    )
                del self.running[chain]
