"""EM of Dawid and Skene's model against crowd-kit: the same table, the same number of iterations.

A million labels of 100 000 tasks by 1000 annotators in five classes, one thread. Both read the same
data frame, start at vote shares, take 20 steps and name the most probable classes; processor times
are medians over fits that take turns, reading included, each in a process of its own. crowd-kit is
installed once into an environment of its own, since its requirements differ. Memory is that of the
whole process, imports included, and that of the fit, beyond imports and data frame. A second table
has the time of EM by the number of labels, for the built-in program and one a user might write.
"""

from __future__ import annotations

from _common import OUTPUT, arguments, clock, facts, print_facts, print_table, print_target, save

# isort: split
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

from likely.inference import EM, ConvergenceWarning, Fit
from likely.models import Annotations, DawidSkene, RaggedLabels

PEER = "crowd-kit==1.4.1"
# What crowd-kit needed for the same problem on another, idle machine; used where it cannot be had.
PEER_SECONDS = 10.9
N, K, PER_TASK, ANNOTATORS, ITERATIONS = 1_000_000, 5, 10, 1000, 20
# Relative difference of the final log-likelihoods that rounding explains.
SAME = 1e-9
PROGRAMS = ("built-in", "user")

# Run by the interpreter of crowd-kit's environment, which has neither torch nor this package.
PEER_SCRIPT = """
import json, math, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from crowdkit.aggregation import DawidSkene

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

def fit(frame):
    # Its tolerance must not stop it early.
    return DawidSkene(n_iter=int(sys.argv[2]), tol=-math.inf).fit(frame)

with np.load(sys.argv[1]) as file:
    frame = pd.DataFrame({name: file[name] for name in ("task", "worker", "label")})
    truth = file["truth"]
fit(frame.head(1000))
before = memory("VmRSS")
wall, cpu = time.perf_counter(), time.process_time()
found = fit(frame)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
guess = found.labels_.sort_index().to_numpy()
print(json.dumps({
    "wall": wall, "cpu": cpu, "peak": memory("VmHWM"), "beyond": memory("VmHWM") - before,
    "accuracy": float(np.mean(guess == truth)), "iterations": len(found.loss_history_),
}))
"""


def simulate(n_labels: int) -> dict[str, np.ndarray[Any, Any]]:
    """Columns of a long table in random order, ten annotators a task, and the true classes."""
    rng = np.random.default_rng(0)
    n_tasks = n_labels // PER_TASK
    truth = rng.choice(K, n_tasks, p=[0.3, 0.25, 0.2, 0.15, 0.1]).astype(np.int64)
    table = np.stack([rng.dirichlet(0.6 + 5 * row, ANNOTATORS) for row in np.eye(K)], 1)
    task = np.repeat(np.arange(n_tasks), PER_TASK)
    # Ten different ones: a random first, then steps of a hundred.
    worker = (rng.integers(0, ANNOTATORS, n_tasks)[:, None] + 100 * np.arange(PER_TASK)).reshape(-1)
    worker %= ANNOTATORS
    bounds = table.cumsum(-1)[worker, truth[task]]
    label = (rng.random((n_labels, 1)) > bounds[:, :-1]).sum(-1)
    order = rng.permutation(n_labels)
    # Ids as they come from a database, neither small nor without gaps.
    columns = {"task": 7 * task + 10**6, "worker": 3 * worker + 10, "label": label}
    return {**{name: column[order] for name, column in columns.items()}, "truth": truth}


def user_program(annotations: Annotations) -> None:
    """Dawid and Skene's model as a user may write it: the truth is a plain discrete site."""
    prevalence = pyro.sample("prevalence", dist.Dirichlet(torch.ones(K)))
    prior = 1 + 1 / K + 2 * torch.eye(K)
    with pyro.plate("annotator", annotations.n_annotators):
        confusion = pyro.sample("confusion", dist.Dirichlet(prior).to_event(1))
    with pyro.plate("task", annotations.n_tasks):
        truth = pyro.sample("truth", dist.Categorical(prevalence))
        labels = RaggedLabels(confusion, annotations, truth)
        pyro.sample("labels", labels, obs=annotations.label)


def read(frame: pd.DataFrame) -> Annotations:
    return Annotations.from_frame(frame, annotator="worker", classes=range(K))


def fit(program: str, annotations: Annotations, iterations: int) -> Fit:
    with warnings.catch_warnings():
        # It is stopped long before it converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        engine = EM(max_iter=iterations, tol=1e-300, dtype=torch.get_default_dtype())
        if program == "built-in":
            return engine.fit(DawidSkene(K), annotations)
        start = DawidSkene(K).initial(annotations)
        return replace(engine, init=start).fit(user_program, annotations)


def measure(program: str, dtype: str, path: str, iterations: int) -> dict[str, float]:
    """Time and memory of one fit in this process; seconds and MB."""
    torch.set_default_dtype(getattr(torch, dtype))
    with np.load(path) as file:
        frame = pd.DataFrame({name: file[name] for name in ("task", "worker", "label")})
        truth = file["truth"]
    # What is loaded or cached at first use is no part of a fit's own need.
    fit(program, read(frame.head(1000)), 2).latent("truth")
    before = memory("VmRSS")
    start_wall, start_cpu = clock()
    annotations = read(frame)
    _, read_cpu = clock()
    found = fit(program, annotations, iterations)
    _, fit_cpu = clock()
    guess = annotations.classes[found.latent("truth").argmax(-1).numpy()]
    end_wall, end_cpu = clock()
    return {
        "wall": end_wall - start_wall,
        "cpu": end_cpu - start_cpu,
        "read": read_cpu - start_cpu,
        "em": fit_cpu - read_cpu,
        "peak": memory("VmHWM"),
        "beyond": memory("VmHWM") - before,
        "accuracy": float(np.mean(guess == truth)),
        "iterations": found.n_iter,
        "log_likelihood": found.log_likelihood,
    }


def memory(field: str) -> float:
    """MB of this process image; ``getrusage`` would begin at the peak of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peer_python() -> str | None:
    """The interpreter of crowd-kit's environment, made at the first run; None if it cannot be."""
    folder = OUTPUT / "peers" / "crowdkit-venv"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    check = [str(python), "-c", "import crowdkit.aggregation"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return str(python)
    print(f"installing {PEER} into {folder}")
    try:
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", PEER]
        subprocess.run(install, check=True, timeout=900)
        subprocess.run(check, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"crowd-kit cannot be installed here: {error}")
        return None
    return str(python)


def in_own_process(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(program: str, dtype: str, path: Path) -> list[str]:
    return [sys.executable, __file__, "--measure", program, dtype, str(path), str(ITERATIONS)]


def in_turn(commands: dict[str, list[str]], repeats: int) -> dict[str, dict[str, float]]:
    """Medians of what the commands report, run in turn so that all meet the same noise."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(in_own_process(command))
    return {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def save_problem(folder: Path, n_labels: int) -> Path:
    path = folder / f"{n_labels}.npz"
    np.savez(path, **simulate(n_labels))
    return path


def against_peer(path: Path, repeats: int) -> dict[str, dict[str, float]]:
    commands = {
        f"likely, {dtype}": ours("built-in", dtype, path) for dtype in ("float64", "float32")
    }
    python = peer_python()
    if python is not None:
        peer = [python, "-c", PEER_SCRIPT, str(path), str(ITERATIONS)]
        commands = {"crowd-kit": peer, **commands}
    return in_turn(commands, repeats)


def print_against_peer(found: dict[str, dict[str, float]]) -> None:
    measured = "crowd-kit" in found
    theirs = found["crowd-kit"]["cpu"] if measured else PEER_SECONDS
    rows = [
        {
            "": name,
            "iterations": int(one["iterations"]),
            "CPU s": one["cpu"],
            "wall s": one["wall"],
            # In float32 the objective stands still, and EM stops, before twenty steps.
            "times faster": theirs / one["cpu"] if one["iterations"] == ITERATIONS else "-",
            "peak MB": one["peak"],
            "of the fit MB": one["beyond"],
            "accuracy": f"{one['accuracy']:.5f}",
        }
        for name, one in found.items()
    ]
    print_table(f"Dawid–Skene, {N:.0e} labels, {ITERATIONS} iterations, reading included", rows)
    if not measured:
        print(f"crowd-kit was NOT measured in this run: {PEER_SECONDS} s come from elsewhere")
    best = found["likely, float64"]
    if facts()["threads"] == 1:
        print_target("times faster, float64", theirs / best["cpu"], 20, at_most=False)
    if measured:
        for key, what in (("beyond", "peak memory of the fit"), ("peak", "of the whole process")):
            share = best[key] / found["crowd-kit"][key]
            print_target(f"{what} over crowd-kit's, float64", share, 1, at_most=True)


def by_size(folder: Path, sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    results = []
    for n_labels in sizes:
        path = save_problem(folder, n_labels)
        # A user's program keeps all classes of all tasks several times over.
        programs = PROGRAMS if n_labels <= N else PROGRAMS[:1]
        found = in_turn({name: ours(name, "float64", path) for name in programs}, repeats)
        path.unlink()
        final = {one["log_likelihood"] for one in found.values()}
        if max(final) - min(final) > SAME * abs(max(final)):
            raise SystemExit(f"{n_labels} labels: log-likelihoods differ: {final}")
        results += [{"labels": n_labels, "program": name, **found[name]} for name in programs]
    return results


def print_by_size(results: list[dict[str, Any]]) -> None:
    rows = [
        {
            "": f"{one['labels']:.0e} labels, {one['program']}",
            "read s": one["read"],
            "EM s": one["em"],
            "ns / label / iteration": 1e9 * one["em"] / one["labels"] / one["iterations"],
            "peak MB": one["peak"],
        }
        for one in results
    ]
    print_table(f"EM, {ITERATIONS} iterations, float64", rows)
    seconds = {(one["labels"], one["program"]): one["em"] for one in results}
    large = max(one["labels"] for one in results)
    for (n_labels, program), em in seconds.items():
        if program == "user":
            share = seconds[n_labels, "built-in"] / em
            print_target(f"{n_labels:.0e} labels: a user's speed", share, 1 / 3, at_most=False)
    small = min(one["labels"] for one in results)
    growth = seconds[large, "built-in"] / seconds[small, "built-in"] * small / large
    print_target(f"time per label, {large:.0e} over {small:.0e}", growth, 1.5, at_most=True)


def main() -> None:
    options = arguments(
        "crowd",
        __doc__,
        repeats=3,
        large={"action": "store_true", "help": "ten million labels as well"},
        measure={
            "nargs": 4,
            "metavar": ("PROGRAM", "DTYPE", "PATH", "ITERATIONS"),
            "help": "print time and memory of one fit only",
        },
    )
    if options.measure:
        program, dtype, path, iterations = options.measure
        print(json.dumps(measure(program, dtype, path, int(iterations))))
        return
    print_facts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = save_problem(folder, N)
        peer = against_peer(path, options.repeats)
        print_against_peer(peer)
        sizes = [N // 10, N] + [10 * N] * options.large
        sizes_found = by_size(folder, sizes, options.repeats)
    print_by_size(sizes_found)
    save(options.output, {"peer": peer, "sizes": sizes_found})


if __name__ == "__main__":
    main()
