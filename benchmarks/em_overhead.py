"""EM of Dawid–Skene: what the program costs on top of the bare sparse kernel.

`EM` derives its steps from a Pyro program; the peer is the loop a person would write for this one
model with the same sparse label counts: logits = S log π + log prior, softmax, counts = Sᵀ r,
normalise. 5 classes, 1000 annotators, 10 labels a task, float64, a fixed number of iterations from
the same start; times are medians over the iterations of a fit, and over fits. With several threads
processor time counts waiting, so read the wall time there.
"""

from __future__ import annotations

from _common import Timing, arguments, clock, facts, print_facts, print_table, print_target, save

# isort: split
import cProfile
import gc
import json
import os
import pstats
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likely.inference import EM, ConvergenceWarning
from likely.models import Annotations, DawidSkene

CLASSES, ANNOTATORS, LABELS_PER_TASK = 5, 1000, 10
SMALL, LARGE = 100_000, 1_000_000
Path = list[float]
Stamps = list[tuple[float, float]]


def simulate(n_labels: int) -> Annotations:
    """Annotators right about 43 % of the time, so that EM has far to go."""
    rng = np.random.default_rng(0)
    n_tasks = n_labels // LABELS_PER_TASK
    prevalence = rng.dirichlet(np.full(CLASSES, 5.0))
    confusion = rng.gamma(1 + 2 * np.eye(CLASSES), size=(ANNOTATORS, CLASSES, CLASSES))
    confusion /= confusion.sum(-1, keepdims=True)
    truth = rng.choice(CLASSES, size=n_tasks, p=prevalence)
    task = np.repeat(np.arange(n_tasks), LABELS_PER_TASK)
    annotator = rng.integers(ANNOTATORS, size=n_labels)
    below = confusion[annotator, truth[task]].cumsum(-1) > rng.random((n_labels, 1))
    return Annotations.from_arrays(task, annotator, below.argmax(-1))


def bare(annotations: Annotations, iterations: int) -> tuple[Path, Stamps]:
    """The log-likelihood at every iterate, and the times at which it was known."""
    counts = annotations.label_counts
    dtype, device = torch.float64, torch.device("cpu")
    rows, columns = (counts.tensor(transposed, dtype, device) for transposed in (False, True))
    start = DawidSkene(CLASSES).initial(annotations)
    prevalence, confusion = start["prevalence"], start["confusion"]
    path: Path = []
    stamps: Stamps = []
    for _ in range(iterations + 1):
        log_confusion = confusion.log().movedim(-1, 1).reshape(-1, CLASSES)
        logits = rows @ log_confusion + prevalence.log()
        evidence = logits.logsumexp(-1, keepdim=True)
        path.append(float(evidence.sum()))
        stamps.append(clock())
        responsibilities = (logits - evidence).exp()
        expected = (columns @ responsibilities).reshape(-1, CLASSES, CLASSES).mT
        confusion = normalised(expected)
        prevalence = responsibilities.mean(0)
    return path, stamps


def normalised(counts: Tensor) -> Tensor:
    return counts / counts.sum(-1, keepdim=True)


def ours(annotations: Annotations, iterations: int) -> tuple[Path, Stamps]:
    stamps: Stamps = []
    with warnings.catch_warnings():
        # It is stopped long before it converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        engine = EM(max_iter=iterations, tol=1e-300, callback=lambda _: stamps.append(clock()))
        fit = engine.fit(DawidSkene(CLASSES), annotations)
    return fit.history["objective"].tolist(), stamps


def per_iteration(stamps: Stamps) -> tuple[float, float]:
    """Median wall and processor seconds between two iterates."""
    wall, cpu = zip(*stamps, strict=True)
    return statistics.median(np.diff(wall)), statistics.median(np.diff(cpu))


def compare(n_labels: int, iterations: int, repeats: int) -> dict[str, Any]:
    """Interleave fits of both; the paths of the log-likelihood must be the same."""
    annotations = simulate(n_labels)
    runs: dict[str, Callable[[Annotations, int], tuple[Path, Stamps]]] = {
        "bare": bare,
        "likely": ours,
    }
    timings = {name: Timing() for name in runs}
    paths: dict[str, Path] = {}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            gc.collect()
            paths[name], stamps = run(annotations, iterations)
            if repeat:
                wall, cpu = per_iteration(stamps)
                timings[name].wall.append(wall)
                timings[name].cpu.append(cpu)
    if len(paths["bare"]) != len(paths["likely"]):
        raise SystemExit(f"EM stopped after {len(paths['likely']) - 1} of {iterations} iterations")
    gap = float(np.abs(np.divide(paths["likely"], paths["bare"]) - 1).max())
    if gap > 1e-8:
        raise SystemExit(f"log-likelihoods differ by {gap:.1e} relative")
    return {
        "labels": n_labels,
        "threads": torch.get_num_threads(),
        "iterations": iterations,
        "path_difference": gap,
        **{name: timing.record() for name, timing in timings.items()},
    }


def with_default_threads(n_labels: int, iterations: int, repeats: int) -> dict[str, Any]:
    """The same comparison in a process whose thread pools have their default sizes."""
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")
    }
    command = [sys.executable, __file__, "--measure", str(n_labels), str(iterations), str(repeats)]
    done = subprocess.run(
        command,
        env={**environment, "LIKELY_BENCH_UNPINNED": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def profile(n_labels: int) -> None:
    """Where the time of a fit goes, by function of this project."""
    annotations = simulate(n_labels)
    ours(annotations, 5)
    profiler = cProfile.Profile()
    profiler.runcall(ours, annotations, 60)
    stats = pstats.Stats(profiler).sort_stats("cumulative")
    stats.print_stats(r"/(inference|models)/.*\.py|run_backward|lgamma", 40)


def row(name: str, kind: str, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "": name,
        "labels": result["labels"],
        "threads": result["threads"],
        "CPU ms": result[kind]["cpu_ms_median"],
        "wall ms": result[kind]["wall_ms_median"],
        "path differs": result["path_difference"] if kind == "likely" else "",
    }


def main() -> None:
    options = arguments(
        "em_overhead",
        __doc__,
        repeats=7,
        measure={"type": int, "nargs": 3, "help": "labels, iterations, repeats: print JSON only"},
        profile={"action": "store_true", "help": "profile a fit instead of timing it"},
    )
    torch.set_default_dtype(torch.float64)
    if options.measure:
        print(json.dumps(compare(*options.measure)))
        return
    if options.profile:
        profile(SMALL)
        return
    print_facts()
    results = {
        "one thread": compare(SMALL, 60, options.repeats),
        "default threads": with_default_threads(SMALL, 40, max(3, options.repeats // 2)),
        "one thread, large": compare(LARGE, 20, max(2, options.repeats // 2)),
    }
    rows = []
    for result in results.values():
        rows.append(row("bare kernel", "bare", result))
        rows.append(row("likely EM", "likely", result))
    print_table("Dawid–Skene EM, per iteration, K = 5, 1000 annotators, float64", rows)
    overheads = {}
    for name, result in results.items():
        clocked = "cpu_ms_median" if result["threads"] == 1 else "wall_ms_median"
        ours_ms, bare_ms = result["likely"][clocked], result["bare"][clocked]
        overheads[name] = {"ms": ours_ms - bare_ms, "ratio": ours_ms / bare_ms}
        print(f"{name}: {ours_ms - bare_ms:.2f} ms over the kernel, {ours_ms / bare_ms:.1f} times")
    if facts()["threads"] == 1:
        print_target(
            "overhead at 1e5 labels and one thread, CPU ms an iteration",
            overheads["one thread"]["ms"],
            6,
            at_most=True,
        )
    save(options.output, {"runs": results, "overheads": overheads})


if __name__ == "__main__":
    main()
