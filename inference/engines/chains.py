"""Running independent chains, one after another or in processes."""

from __future__ import annotations

import multiprocessing
import queue
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from likely.inference.errors import InferenceError

# Draws between two messages of a chain to its progress bar.
_REPORT_EVERY = 10


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
    """
    parallel = min(cores, chains)
    with tqdm(total=total * chains, desc=label, disable=not progress) as bar:
        if parallel > 1 and sys.platform != "win32" and "fork" in _start_methods():
            return _forked(run, chains, parallel, bar)
        results: list[Chain] = []
        for chain in range(chains):
            results.append(run(chain, partial(_advance, bar)))
            if results[-1].interrupted:
                break
        return results


def _advance(bar: Any, n: int) -> None:
    bar.update(n)


def _start_methods() -> Sequence[str]:
    return multiprocessing.get_all_start_methods()


def _work(run: RunChain, chain: int, out: Any) -> None:
    # One thread a chain: more would contend, and a forked thread pool may hang.
    torch.set_num_threads(1)
    pending = 0

    def report(n: int) -> None:
        nonlocal pending
        pending += n
        if pending >= _REPORT_EVERY:
            out.put(("progress", chain, pending))
            pending = 0

    try:
        out.put(("done", chain, run(chain, report)))
    except KeyboardInterrupt:
        out.put(("failed", chain, "interrupted"))
    except BaseException:
        out.put(("failed", chain, traceback.format_exc()))


def _forked(run: RunChain, chains: int, parallel: int, bar: Any) -> list[Chain]:
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    waiting = list(range(chains))
    running: dict[int, Any] = {}
    done: dict[int, Chain] = {}
    try:
        while len(done) < chains:
            while waiting and len(running) < parallel:
                chain = waiting.pop(0)
                running[chain] = context.Process(target=_work, args=(run, chain, out), daemon=True)
                running[chain].start()
            try:
                kind, chain, payload = out.get(timeout=1.0)
            except queue.Empty:
                _check_alive(running, done, out)
                continue
            if kind == "progress":
                bar.update(payload)
            elif kind == "failed":
                raise InferenceError(f"chain {chain} failed in its process:\n{payload}")
            else:
                done[chain] = payload
                running.pop(chain).join()
    finally:
        for process in running.values():
            process.terminate()
            process.join()
        out.close()
    return [done[chain] for chain in range(chains)]


def _check_alive(running: dict[int, Any], done: dict[int, Chain], out: Any) -> None:
    for chain, process in running.items():
        if not process.is_alive() and out.empty() and chain not in done:
            raise InferenceError(
                f"chain {chain} died with exit code {process.exitcode} (out of memory, perhaps); "
                "cores=1 runs the chains one after another"
            )
