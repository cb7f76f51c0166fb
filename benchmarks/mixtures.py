"""EM of Gaussian mixtures against scikit-learn: the same start, the same number of iterations.

Full covariances, float64, one thread. Both start at the same weights, means and precisions and must
end at the same log-likelihood; processor times are medians over fits that take turns, all of a fit
included. Peak memory is that of one fit beyond its data, each in a process of its own.
"""

from __future__ import annotations

from _common import arguments, facts, interleave, print_facts, print_table, print_target, save

# isort: split
import cProfile
import json
import pstats
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning as TheirWarning
from sklearn.mixture import GaussianMixture as Reference

from likely.inference import EM, ConvergenceWarning
from likely.models import GaussianMixture

Params = dict[str, torch.Tensor]
# Relative difference of the final log-likelihoods that rounding explains.
SAME = 1e-9


@dataclass(frozen=True)
class Size:
    """A problem: rows, features, components, iterations, and the ratio of times to reach."""

    rows: int
    features: int
    components: int
    iterations: int
    target: float

    @property
    def name(self) -> str:
        return f"n = {self.rows:.0e}, d = {self.features}, K = {self.components}"


SIZES = [Size(100_000, 10, 8, 50, 3.0), Size(1_000_000, 2, 3, 20, 6.0)]


def simulate(size: Size) -> torch.Tensor:
    """Overlapping components, so that EM has far to go; filled in place, piece by piece."""
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.normal(size=(size.components, size.features))
    x = torch.empty(size.rows, size.features, dtype=torch.float64)
    for start in range(0, size.rows, 10_000):
        part = x.numpy()[start : start + 10_000]
        part[:] = rng.normal(size=part.shape)
        part += centres[rng.integers(size.components, size=len(part))]
    return x


def start_of(size: Size, x: torch.Tensor) -> Params:
    """Rows drawn at random as means; everything else equal."""
    k, d = size.components, size.features
    chosen = np.random.default_rng(1).choice(len(x), k, replace=False)
    return {
        "weights": torch.full((k,), 1.0 / k, dtype=torch.float64),
        "locs": x[torch.as_tensor(chosen)],
        "scales": x.std(0).expand(k, d).clone(),
        "correlation_cholesky": torch.eye(d, dtype=torch.float64).repeat(k, 1, 1),
    }


def ours(size: Size, x: torch.Tensor, start: Params) -> float:
    with warnings.catch_warnings():
        # It is stopped long before it converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        engine = EM(max_iter=size.iterations, tol=1e-300, init=start)
        fit = engine.fit(GaussianMixture(size.components), x)
    return float(fit.history["objective"].iloc[-1])


def theirs(size: Size, x: torch.Tensor, start: Params) -> Reference:
    precisions = torch.diag_embed(start["scales"].square().reciprocal())
    mixture = Reference(
        size.components,
        weights_init=start["weights"].numpy(),
        means_init=start["locs"].numpy(),
        precisions_init=precisions.numpy(),
        reg_covar=0.0,
        tol=0.0,
        max_iter=size.iterations,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TheirWarning)
        return mixture.fit(x.numpy())


def compare(size: Size, repeats: int) -> dict[str, Any]:
    x = simulate(size)
    start = start_of(size, x)
    runs = {
        "likely": lambda: ours(size, x, start),
        "scikit-learn": lambda: theirs(size, x, start),
    }
    timings, results = interleave(runs, repeats)
    final = results["scikit-learn"].score(x.numpy()) * len(x)
    gap = abs(results["likely"] / final - 1)
    if gap > SAME:
        raise SystemExit(f"{size.name}: log-likelihoods differ by {gap:.1e} relative")
    memory = {name: peak_of(size, name) for name in runs}
    return {
        "size": size.__dict__,
        "difference": gap,
        "ratio": timings["scikit-learn"].cpu_ms / timings["likely"].cpu_ms,
        "memory": memory,
        **{name: timing.record() for name, timing in timings.items()},
    }


def peak_of(size: Size, name: str) -> float:
    """Peak memory of one fit beyond what was there before, in units of the data."""
    command = [sys.executable, __file__, "--measure", name, str(SIZES.index(size))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, number: int) -> float:
    run = {"likely": ours, "scikit-learn": theirs}[name]
    size = SIZES[number]
    few = Size(20_000, size.features, size.components, 2, 1.0)
    # What is loaded or cached at first use is no part of a fit's own need.
    warm = simulate(few)
    run(few, warm, start_of(few, warm))
    x = simulate(size)
    start = start_of(size, x)
    before = peak()
    run(size, x, start)
    return (peak() - before) / (x.numel() * x.element_size())


def peak() -> int:
    """Bytes of this process image; ``getrusage`` would begin at the peak of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def profile(size: Size) -> None:
    """Where the time of a fit goes."""
    x = simulate(size)
    start = start_of(size, x)
    ours(size, x, start)
    profiler = cProfile.Profile()
    profiler.runcall(ours, size, x, start)
    stats = pstats.Stats(profiler)
    stats.sort_stats("tottime").print_stats(16)
    stats.sort_stats("cumulative").print_stats(r"/(inference|models)/.*\.py", 30)


def main() -> None:
    options = arguments(
        "mixtures",
        __doc__,
        repeats=5,
        measure={"nargs": 2, "help": "who, and number of the problem: print peak memory only"},
        profile={"type": int, "choices": [0, 1], "help": "profile the fit of a problem"},
    )
    torch.set_default_dtype(torch.float64)
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    if options.profile is not None:
        profile(SIZES[options.profile])
        return
    print_facts()
    results = [compare(size, options.repeats) for size in SIZES]
    rows = [
        {
            "": f"{size.name}: {name}",
            "iterations": size.iterations,
            "CPU s": result[name]["cpu_ms_median"] / 1e3,
            "wall s": result[name]["wall_ms_median"] / 1e3,
            "peak / data": result["memory"][name],
            "differs": result["difference"] if name == "likely" else "",
        }
        for size, result in zip(SIZES, results, strict=True)
        for name in ("scikit-learn", "likely")
    ]
    print_table("Gaussian mixtures, full covariances, EM, float64", rows)
    for size, result in zip(SIZES, results, strict=True):
        if facts()["threads"] == 1:
            print_target(f"{size.name}: times faster", result["ratio"], size.target, at_most=False)
        print_target(
            f"{size.name}: peak memory of a fit over its data",
            result["memory"]["likely"],
            3.0,
            at_most=True,
        )
    save(options.output, {"runs": results})


if __name__ == "__main__":
    main()
