"""What the benchmarks share: pinned threads, fair timing, tables and records.

Import this module before anything that imports torch or NumPy: thread pools are sized once, when
the libraries load. One thread is the default; ``OMP_NUM_THREADS=2 python benchmarks/...`` asks for
two, and ``LIKELY_BENCH_UNPINNED=1`` leaves the libraries their own defaults.
"""

from __future__ import annotations

import os

if not os.environ.get("LIKELY_BENCH_UNPINNED"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for _name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, os.environ["OMP_NUM_THREADS"])

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

OUTPUT = Path(__file__).parent / "output"


@dataclass
class Timing:
    """Seconds of repeated runs, by the clock and of the processor."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def wall_ms(self) -> float:
        return 1e3 * statistics.median(self.wall)

    @property
    def cpu_ms(self) -> float:
        return 1e3 * statistics.median(self.cpu)

    def record(self) -> dict[str, Any]:
        return {
            "wall_ms_median": self.wall_ms,
            "cpu_ms_median": self.cpu_ms,
            "wall_ms": [1e3 * s for s in self.wall],
            "cpu_ms": [1e3 * s for s in self.cpu],
        }


def clock() -> tuple[float, float]:
    """Wall and processor time; the latter hardly feels what else the machine does."""
    return time.perf_counter(), time.process_time()


def interleave(
    runs: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Time every run ``repeats`` times in turn, so that all meet the same noise.

    Each is run once before, untimed. Returns the timings and each run's last result.
    """
    results = {name: run() for name, run in runs.items()}
    timings = {name: Timing() for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            gc.collect()
            wall, cpu = clock()
            results[name] = run()
            wall_end, cpu_end = clock()
            timings[name].wall.append(wall_end - wall)
            timings[name].cpu.append(cpu_end - cpu)
    return timings, results


def arguments(
    name: str, description: str | None, *, repeats: int, **extra: Mapping[str, Any]
) -> argparse.Namespace:
    """Options of a benchmark; ``extra`` holds keyword arguments for further ones."""
    parser = argparse.ArgumentParser(
        prog=name, description=(description or "").strip().splitlines()[0]
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="timed runs of each")
    parser.add_argument(
        "--output", type=Path, default=OUTPUT / f"{name}.json", help="where the JSON record goes"
    )
    for option, settings in extra.items():
        parser.add_argument(f"--{option.replace('_', '-')}", **settings)
    return parser.parse_args()


def facts() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": version("pyro-ppl"),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "cpu": _cpu(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def print_facts() -> None:
    print("  ".join(f"{name} {value}" for name, value in facts().items()))


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of equal keys; floats with three significant digits."""
    print(f"\n{title}")
    header = list(rows[0])
    cells = [header, *([_shown(row[key]) for key in header] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    for line in cells:
        first, *rest = (cell for cell in line)
        print(
            "  ".join(
                [first.ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            ).rstrip()
        )


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{2 if abs(value) < 10 else 1}f}"


def print_target(what: str, value: float, target: float, *, at_most: bool) -> bool:
    """Say whether a target is met."""
    met = value <= target if at_most else value >= target
    sign = "≤" if at_most else "≥"
    print(f"{what}: {value:.2f}, target {sign} {target:g}: {'met' if met else 'MISSED'}")
    return met


def save(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON record with the machine's facts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"facts": facts(), **record}, indent=1) + "\n")
    print(f"record: {path}")
