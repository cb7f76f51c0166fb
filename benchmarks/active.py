"""Acquisition functions against batchbald_redux, and one-pass look-ahead against refits.

Mutual information (BALD) of 100 000 points, a BatchBALD batch of 10 from 1000 points, and expected
error reduction of multinomial naive Bayes; one thread, processor times, runs that take turns, each
of the first two in a process of its own. Tensors are made before the clock starts, in the layout
and, for the peer, as the logarithms that each side asks for. batchbald_redux is installed once,
without its requirements, into an environment of its own that borrows torch from this one; its
progress bars are off. Its batches take minutes and are timed once, whatever ``--repeats`` says.
``--small`` has tenth parts of the pools, for both sides.
"""

from __future__ import annotations

from _common import (
    OUTPUT,
    arguments,
    clock,
    interleave,
    print_facts,
    print_table,
    print_target,
    save,
)

# isort: split
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.naive_bayes import MultinomialNB

from likely.inference import EM
from likely.inference.active import (
    bald,
    batch_bald,
    expected_error_reduction,
    joint_entropy,
    naive_bayes_error_reduction,
    refit_program,
    top_batch,
)
from likely.models import NaiveBayes

PEER = ("batchbald-redux==2.0.5", "toma==1.1.0", "psutil>=7", "tqdm>=4.66")
DRAWS, CLASSES, BATCH, CONFIGURATIONS = 100, 10, 10, 10_000
LABELLED, POOL, VOCABULARY, TOPICS, WORDS = 100, 250, 500, 4, 30
# Two batches are of equal worth if their information differs by no more, relatively: the picks
# from sampled joint entropies are those of chance among nearly equal points.
WORTH = 0.01
# The first picks are made from exact joint entropies: 10^4 configurations, at most.
EXACT = 5

# Run by the interpreter of the peer's environment, which knows torch but not this package.
PEER_SCRIPT = """
import json, sys, time, types
import torch

def measure(run):
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "indices": found.indices, "scores": found.scores}))

if __name__ == "__main__":
    from batchbald_redux.batchbald import get_bald_batch, get_batchbald_batch
    what, path, batch, samples = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.manual_seed(0)
    logs = torch.load(path).log().transpose(0, 1).contiguous()
    if what == "bald":
        get_bald_batch(logs[:2000], batch)
        measure(lambda: get_bald_batch(logs, batch))
    else:
        get_batchbald_batch(logs[:20], 3, 100, dtype=logs.dtype)
        measure(lambda: get_batchbald_batch(logs, batch, samples, dtype=logs.dtype))
"""


def simulate(n: int, dtype: torch.dtype) -> torch.Tensor:
    """Posterior draws of class probabilities [draws, n, classes] of a random linear model."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=source)
    mean = torch.randn(CLASSES, 5, generator=source)
    weights = mean + 0.7 * torch.randn(DRAWS, CLASSES, 5, generator=source)
    found = torch.empty(DRAWS, n, CLASSES, dtype=dtype)
    for draw, own in enumerate(weights):
        found[draw] = (x @ own.T).to(dtype).softmax(-1)
    return found


def measure(what: str, path: str) -> dict[str, Any]:
    """Time of one run of ours in this process."""
    probs = torch.load(path)
    run: Callable[[], Any]
    if what == "bald":
        bald(probs[:, :2000])
        run = lambda: top_batch(bald(probs), BATCH)  # noqa: E731
    else:
        batch_bald(probs[:, :20], 3)
        run = lambda: batch_bald(probs, BATCH, configurations=CONFIGURATIONS)  # noqa: E731
    wall, cpu = clock()
    found = run()
    wall_end, cpu_end = clock()
    return {
        "wall": wall_end - wall,
        "cpu": cpu_end - cpu,
        "indices": found.indices.tolist(),
        "scores": found.scores.tolist(),
    }


def peer_python() -> str | None:
    """The interpreter of the peer's environment, made at the first run; None if it cannot be."""
    folder = OUTPUT / "peers" / "batchbald-venv"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    check = [str(python), "-c", "import batchbald_redux.batchbald"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return str(python)
    print(f"installing {', '.join(PEER)} into {folder}")
    try:
        venv.create(folder, with_pip=True, clear=True)
        # Its requirements would bring a second torch, and torchvision.
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PEER]
        subprocess.run(install, check=True, timeout=900)
        own = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()
        lent = Path(torch.__file__).parents[1]
        (Path(own) / "lent.pth").write_text(f"{lent}\n")
        subprocess.run(check, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"batchbald_redux cannot be installed here: {error}")
        return None
    return str(python)


def in_turn(commands: dict[str, list[str]], repeats: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Medians of the times that the commands report, run in turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for turn in range(max(repeats.values())):
        for name, command in commands.items():
            if turn < repeats[name]:
                quiet = {**os.environ, "TQDM_DISABLE": "1"}
                done = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env=quiet
                )
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: {
            **runs[0],
            "cpu": statistics.median(run["cpu"] for run in runs),
            "wall": statistics.median(run["wall"] for run in runs),
            "runs": len(runs),
        }
        for name, runs in found.items()
    }


def against_redux(
    what: str, n: int, dtype: torch.dtype, python: str | None, repeats: dict[str, int]
) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probs.pt"
        torch.save(simulate(n, dtype), path)
        commands = {"likely": [sys.executable, __file__, "--measure", what, str(path)]}
        if python is not None:
            options = [what, str(path), str(BATCH), str(CONFIGURATIONS)]
            commands["batchbald_redux"] = [python, "-c", PEER_SCRIPT, *options]
        return in_turn(commands, repeats)


def print_against_redux(title: str, found: dict[str, dict[str, Any]], target: float) -> None:
    rows = [
        {"": name, "CPU s": one["cpu"], "wall s": one["wall"], "runs": one["runs"]}
        for name, one in found.items()
    ]
    print_table(title, rows)
    if "batchbald_redux" not in found:
        print("batchbald_redux was NOT measured in this run")
        return
    ratio = found["batchbald_redux"]["cpu"] / found["likely"]["cpu"]
    print_target("times faster", ratio, target, at_most=False)


def check_bald(found: dict[str, dict[str, Any]]) -> None:
    picks = {name: one["indices"] for name, one in found.items()}
    print(f"top {BATCH}: {picks['likely']}")
    if len({tuple(pick) for pick in picks.values()}) > 1:
        raise SystemExit(f"the best {BATCH} differ: {picks}")


def check_batch_bald(found: dict[str, dict[str, Any]], n: int, dtype: torch.dtype) -> None:
    """Both must agree while joint entropies are exact, and end with batches of equal worth."""
    probs = simulate(n, dtype).double()
    probs /= probs.sum(-1, keepdim=True)
    for name, one in found.items():
        chosen = probs[:, one["indices"]]
        conditional = -torch.xlogy(chosen, chosen).sum(-1).mean(0).sum()
        joint = joint_entropy(chosen, configurations=200_000, budget=1 << 30)
        one["information"] = float(joint - conditional)
        print(f"{name}: {one['indices']}, {one['information']:.4f} nats by 200 000 samples")
    ours = found["likely"]
    for name, one in found.items():
        if one["indices"][:EXACT] != ours["indices"][:EXACT]:
            raise SystemExit(f"{name}: other picks from exact entropies than likely")
        if abs(one["information"] - ours["information"]) > WORTH * ours["information"]:
            raise SystemExit(f"{name}: a batch of other worth than likely's")


def look_ahead(n_pool: int, repeats: int) -> dict[str, Any]:
    """Expected log loss after one label more: one pass, and refits of two kinds."""
    rng = np.random.default_rng(0)
    # Topics that overlap: a document's class stays in doubt.
    tables = rng.dirichlet(np.full(VOCABULARY, 3.0), TOPICS)
    topic = torch.as_tensor(rng.integers(0, TOPICS, LABELLED + n_pool))
    topic[:TOPICS] = torch.arange(TOPICS)
    counts = torch.as_tensor(np.stack([rng.multinomial(WORDS, tables[k]) for k in topic])).double()
    x, labels, pool = counts[:LABELLED], topic[:LABELLED], counts[LABELLED:]
    program = NaiveBayes(TOPICS, "multinomial")

    def by_sklearn(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        fit = MultinomialNB(alpha=1.0).fit(x.numpy(), labels.numpy())
        return torch.as_tensor(fit.predict_proba(pool.numpy()))

    by_program = refit_program(
        program,
        EM(objective="posterior"),
        pool,
        lambda fit, x: program.predict_proba(fit.params, x),
    )
    few = torch.arange(10)
    runs: dict[str, Callable[[], Any]] = {
        "one pass": lambda: naive_bayes_error_reduction(program, x, labels, pool),
        "scikit-learn refits": lambda: expected_error_reduction(by_sklearn, x, labels, pool),
    }
    timings, results = interleave(runs, repeats)
    short = {
        "program refits, 10 candidates": lambda: expected_error_reduction(
            by_program, x, labels, pool, candidates=few
        )
    }
    more, found = interleave(short, 1)
    reference = results["one pass"]
    gap = max(
        float((results["scikit-learn refits"] - reference).abs().max()),
        float((found["program refits, 10 candidates"] - reference[few]).abs().max()),
    )
    if gap > 1e-9:
        raise SystemExit(f"one pass and refits differ by {gap}")
    return {
        "gap": gap,
        "reduction": float(reference.max()),
        "cpu": {name: timing.cpu_ms / 1e3 for name, timing in {**timings, **more}.items()},
    }


def print_look_ahead(n_pool: int, found: dict[str, Any]) -> None:
    cpu = found["cpu"]
    print_table(
        f"expected error reduction, {n_pool} candidates, {TOPICS} classes, {VOCABULARY} words",
        [{"": name, "CPU s": seconds} for name, seconds in cpu.items()],
    )
    print(f"largest difference {found['gap']:.1e}, largest reduction {found['reduction']:.2f} nats")
    one_pass, refits = cpu["one pass"], cpu["scikit-learn refits"]
    print_target("times faster than scikit-learn refits", refits / one_pass, 40, at_most=False)
    whole = cpu["program refits, 10 candidates"] * n_pool / 10
    print_target("times faster than program refits", whole / one_pass, 40, at_most=False)


def main() -> None:
    options = arguments(
        "active",
        __doc__,
        repeats=3,
        small={"action": "store_true", "help": "tenth parts of the pools"},
        measure={"nargs": 2, "metavar": ("WHAT", "PATH"), "help": "print the time of one run only"},
    )
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    print_facts()
    python = peer_python()
    part = 10 if options.small else 1
    n_pool = POOL // 5 if options.small else POOL
    ahead = look_ahead(n_pool, options.repeats)
    print_look_ahead(n_pool, ahead)
    n = 100_000 // part
    both = {"likely": options.repeats, "batchbald_redux": options.repeats}
    single = against_redux("bald", n, torch.float32, python, both)
    print_against_redux(f"BALD, {DRAWS} draws × {n} points × {CLASSES}, float32", single, 20)
    check_bald(single)
    batches = {}
    n = 1000 // part
    for dtype in (torch.float64, torch.float32):
        both = {"likely": options.repeats, "batchbald_redux": 1}
        name = str(dtype).removeprefix("torch.")
        found = against_redux("batch_bald", n, dtype, python, both)
        title = f"BatchBALD, {BATCH} of {n}, {DRAWS} draws, {CONFIGURATIONS} configurations, {name}"
        print_against_redux(title, found, 5)
        check_batch_bald(found, n, dtype)
        batches[name] = found
    save(options.output, {"bald": single, "batch_bald": batches, "look_ahead": ahead})


if __name__ == "__main__":
    main()
