"""Bradley and Terry's model against choix and evalica: the same comparisons, one thread.

1000 items and 100 000 comparisons of random pairs. Each library gets the comparisons in the form
that it reads, fits abilities by maximum likelihood, and is timed for that; ours gives standard
errors as well, and is timed with them. The length of the gradient says how near the optimum each
one stops. Times are processor times, medians over runs that take turns, each library in a process
of its own; peers are installed once into an environment of their own. With ``--large`` 100 000
items and ten million comparisons are fitted, in time and memory that grow with the distinct pairs.
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
from pathlib import Path
from typing import Any

import numpy as np

from likely.inference import MLE
from likely.models import BradleyTerry, Comparisons
from likely.models.preference import standard_errors

PEERS = ("choix==0.4.1", "evalica==0.4.2")
N, M = 1000, 100_000
LARGE = (100_000, 10_000_000)
WARM = 2

# Run by the interpreter of the peers' environment, which has neither torch nor this package.
PEER_SCRIPT = """
import json, sys, time
import numpy as np
name = sys.argv[1]
with np.load(sys.argv[2]) as file:
    winner, loser, n = file["winner"], file["loser"], int(file["n"])
if name == "choix":
    import choix
    pairs = list(zip(winner.tolist(), loser.tolist()))
    fit = lambda: choix.ilsr_pairwise(n, pairs)
else:
    import evalica
    first, second = winner.tolist(), loser.tolist()
    what = [evalica.Winner.X] * len(first)
    def fit():
        scores = evalica.bradley_terry(first, second, what).scores
        return np.log(scores.loc[np.arange(n)].to_numpy())
times = []
for _ in range(int(sys.argv[3])):
    wall, cpu = time.perf_counter(), time.process_time()
    ability = fit()
    times.append((time.perf_counter() - wall, time.process_time() - cpu))
wall, cpu = times[-1]
print(json.dumps({"wall": wall, "cpu": cpu, "ability": list(map(float, ability))}))
"""


def simulate(n: int, m: int) -> dict[str, Any]:
    source = np.random.default_rng(0)
    ability = source.normal(size=n)
    first = source.integers(0, n, m)
    second = (first + source.integers(1, n, m)) % n
    won = source.random(m) < 1 / (1 + np.exp(ability[second] - ability[first]))
    return {
        "winner": np.where(won, first, second),
        "loser": np.where(won, second, first),
        "ability": ability - ability.mean(),
        "n": n,
    }


def slope(ability: np.ndarray, winner: np.ndarray, loser: np.ndarray) -> float:
    """Length of the gradient of the log-likelihood by abilities."""
    missed = 1 / (1 + np.exp(ability[winner] - ability[loser]))
    n = len(ability)
    return float(np.linalg.norm(np.bincount(winner, missed, n) - np.bincount(loser, missed, n)))


def measure(path: str) -> dict[str, Any]:
    """Times of reading, fitting and standard errors in this process, once warm."""
    with np.load(path) as file:
        winner, loser, n = file["winner"], file["loser"], int(file["n"])
    for _ in range(WARM + 1):
        wall, start = clock()
        data = Comparisons.from_arrays(winner, loser, items=range(n))
        _, read = clock()
        fit = MLE().fit(BradleyTerry(n), data)
        _, fitted = clock()
        errors = fit.standard_errors()["ability"]
        wall_end, end = clock()
    return {
        "wall": wall_end - wall,
        "cpu": end - read,
        "read": read - start,
        "fit": fitted - read,
        "errors": end - fitted,
        "ability": fit.params["ability"].tolist(),
        "error": float(errors.mean()),
    }


def measure_large(path: str, probes: int) -> dict[str, Any]:
    """The same once, from cold, with memory, and standard errors by random signs."""
    with np.load(path) as file:
        winner, loser, n = file["winner"], file["loser"], int(file["n"])
        truth = file["ability"]
    before = memory("VmRSS")
    wall, start = clock()
    data = Comparisons.from_arrays(winner, loser, items=range(n))
    _, read = clock()
    fit = MLE().fit(BradleyTerry(n), data)
    _, fitted = clock()
    peak = memory("VmHWM")
    errors = standard_errors(fit, probes=probes)["ability"]
    wall_end, end = clock()
    ability = fit.params["ability"].numpy()
    z = (ability - truth) / errors.numpy()
    return {
        "pairs": len(data),
        "read s": read - start,
        "fit s": fitted - read,
        "errors s": end - fitted,
        "wall s": wall_end - wall,
        "gradient": slope(ability, winner, loser),
        "fit MB": peak - before,
        "bytes / pair": 1e6 * (peak - before) / len(data),
        "mean z²": float(np.mean(z**2)),
    }


def memory(field: str) -> float:
    """MB of this process image; ``getrusage`` would begin at the peak of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peer_python() -> str | None:
    """The interpreter of the peers' environment, made at the first run; None if it cannot be."""
    folder = OUTPUT / "peers" / "preference-venv"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    check = [str(python), "-c", "import choix, evalica"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return str(python)
    print(f"installing {', '.join(PEERS)} into {folder}")
    try:
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *PEERS]
        subprocess.run(install, check=True, timeout=900)
        subprocess.run(check, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the peers cannot be installed here: {error}")
        return None
    return str(python)


def in_own_process(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turn(commands: dict[str, list[str]], repeats: int) -> dict[str, dict[str, Any]]:
    """Medians of what the commands report, run in turn so that all meet the same noise."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(in_own_process(command))
    return {
        name: {
            key: runs[0][key] if key == "ability" else statistics.median(run[key] for run in runs)
            for key in runs[0]
        }
        for name, runs in found.items()
    }


def compared(folder: Path, repeats: int) -> dict[str, dict[str, Any]]:
    problem = simulate(N, M)
    path = folder / "problem.npz"
    np.savez(path, **problem)
    commands = {"likely": [sys.executable, __file__, "--measure", str(path)]}
    python = peer_python()
    if python is not None:
        for name in ("choix", "evalica"):
            commands[name] = [python, "-c", PEER_SCRIPT, name, str(path), str(WARM + 1)]
    found = in_turn(commands, repeats)
    for one in found.values():
        ability = np.array(one.pop("ability"))
        one["gradient"] = slope(ability, problem["winner"], problem["loser"])
    return found


def print_compared(found: dict[str, dict[str, Any]]) -> None:
    ours = found["likely"]
    rows = [
        {
            "": name,
            "CPU ms": 1e3 * one["cpu"],
            "times ours": one["cpu"] / ours["cpu"],
            "gradient": one["gradient"],
        }
        for name, one in found.items()
    ]
    print_table(f"{N} items, {M:.0e} comparisons: abilities; ours with standard errors", rows)
    parts = {key: f"{1e3 * ours[key]:.1f} ms" for key in ("read", "fit", "errors")}
    print("ours: " + ", ".join(f"{key} {value}" for key, value in parts.items()))
    print_target("length of our gradient / 1e-8", ours["gradient"] / 1e-8, 1, at_most=True)
    if "choix" not in found:
        print("the peers were NOT measured in this run")
        return
    faster = found["choix"]["cpu"] / ours["cpu"]
    if facts()["threads"] == 1:
        print_target("times faster than choix.ilsr_pairwise", faster, 10, at_most=False)
        share = ours["cpu"] / found["evalica"]["cpu"]
        print_target("time over evalica's", share, 2, at_most=True)
    slower, share = found["choix"]["cpu"] / ours["fit"], ours["fit"] / found["evalica"]["cpu"]
    print("without standard errors:")
    print(f"  choix takes {slower:.1f} times as long as ours, ours {share:.2f} times evalica's")


def large(folder: Path) -> list[dict[str, Any]]:
    """The large problem and one of a tenth of its size, to see how time and memory grow."""
    found = []
    for n, m in ((LARGE[0] // 10, LARGE[1] // 10), LARGE):
        path = folder / "large.npz"
        np.savez(path, **simulate(n, m))
        one = in_own_process([sys.executable, __file__, "--measure-large", str(path), "16"])
        found.append({"": f"{n:.0e} items, {m:.0e} comparisons", **one})
    print_table("large problems, from cold", found)
    growth = found[1]["bytes / pair"] / found[0]["bytes / pair"]
    print_target("memory per pair, large over small", growth, 1.5, at_most=True)
    print_target("minutes of the large fit", found[1]["fit s"] / 60, 5, at_most=True)
    return found


def main() -> None:
    options = arguments(
        "preference",
        __doc__,
        repeats=5,
        large={"action": "store_true", "help": "ten million comparisons as well"},
        measure={"metavar": "PATH", "help": "print times of one fit only"},
        measure_large={"nargs": 2, "metavar": ("PATH", "PROBES"), "help": "the same, large"},
    )
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    if options.measure_large:
        path, probes = options.measure_large
        print(json.dumps(measure_large(path, int(probes))))
        return
    print_facts()
    with tempfile.TemporaryDirectory() as name:
        found = compared(Path(name), options.repeats)
        print_compared(found)
        record: dict[str, Any] = {"peers": found}
        if options.large:
            record["large"] = large(Path(name))
    save(options.output, record)


if __name__ == "__main__":
    main()
