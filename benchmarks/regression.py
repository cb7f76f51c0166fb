"""MLE of a logistic regression on a million rows: `MLE` against scikit-learn.

1,000,000 rows, 20 coefficients and an intercept, float64, one thread. Both maximise the likelihood
without a penalty, both by L-BFGS; scikit-learn's `LogisticRegression(C=inf)` gets the largest of
the tolerances 1e-4, 1e-5, ... that brings its coefficients to within 1e-6 of the optimum, where
ours are by default. What is timed is the whole fit: for `MLE` the reading and checking of the
program, the start, the search, the Hessian at its end, and the densities that the `Fit` holds.

Each also runs once in a process of its own for its peak memory.
"""

from __future__ import annotations

from _common import arguments, interleave, print_facts, print_table, print_target, save

# isort: split
import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression as Peer

from likely.inference import MLE, Fit
from likely.models import LogisticRegression

ROWS, COEFFICIENTS = 1_000_000, 20
DISTANCE = 1e-6
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
OURS, PEER, DEFAULT = "likely MLE", "scikit-learn", "scikit-learn, default tol"


def simulate(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, COEFFICIENTS, generator=generator, dtype=torch.float64)
    weights = 0.5 * torch.randn(COEFFICIENTS, generator=generator, dtype=torch.float64)
    y = torch.rand(rows, generator=generator) < torch.sigmoid(x @ weights - 0.5)
    return x, y.to(x.dtype)


def ours(x: torch.Tensor, y: torch.Tensor) -> Fit:
    return MLE().fit(LogisticRegression(), x, y)


def peer(x: torch.Tensor, y: torch.Tensor, tol: float) -> Peer:
    return Peer(C=np.inf, solver="lbfgs", tol=tol, max_iter=1000).fit(x.numpy(), y.numpy())


def weights_of(result: Any) -> np.ndarray:
    if isinstance(result, Fit):
        parts = result.params["intercept"].reshape(1), result.params["coefficients"]
        return torch.cat(parts).numpy()
    return np.concatenate([result.intercept_, result.coef_[0]])


def optimum(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Weights [21], the intercept first, by Newton's method to the last digits."""
    design = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    weights = design.new_zeros(design.shape[1])
    for _ in range(30):
        chance = torch.sigmoid(design @ weights)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design
        step = torch.linalg.solve(curvature, design.T @ (y - chance))
        weights = weights + step
        if float(step.abs().max()) < 1e-13:
            break
    return weights.numpy()


def tolerance(x: torch.Tensor, y: torch.Tensor, truth: np.ndarray) -> float:
    """The largest tolerance with which scikit-learn reaches the optimum."""
    for tol in TOLERANCES:
        if np.abs(weights_of(peer(x, y, tol)) - truth).max() <= DISTANCE:
            return tol
    raise SystemExit("scikit-learn does not reach the optimum")


def _high_water() -> float:
    """Largest resident memory so far, in bytes; that of this process alone (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _peak(rows: int, name: str, tol: float, back: Any) -> None:
    x, y = simulate(rows)
    small = x[:1000], y[:1000]
    _ = ours(*small) if name == OURS else peer(*small, tol)
    before = _high_water()
    _ = ours(x, y) if name == OURS else peer(x, y, tol)
    back.put(_high_water() - before)


def peak(rows: int, name: str, tol: float) -> float:
    """Bytes beyond the data that a fit takes at its peak, as multiples of the data."""
    context = multiprocessing.get_context("spawn")
    back = context.Queue()
    process = context.Process(target=_peak, args=(rows, name, tol, back))
    process.start()
    more = back.get()
    process.join()
    return more / (8.0 * rows * (COEFFICIENTS + 1))


def main() -> None:
    options = arguments(
        "regression",
        __doc__,
        repeats=7,
        rows={"type": int, "default": ROWS, "help": "observations"},
    )
    warnings.simplefilter("error")
    print_facts()
    x, y = simulate(options.rows)
    truth = optimum(x, y)
    tol = tolerance(x, y, truth)
    timings, results = interleave(
        {
            OURS: lambda: ours(x, y),
            PEER: lambda: peer(x, y, tol),
            DEFAULT: lambda: peer(x, y, TOLERANCES[0]),
        },
        options.repeats,
    )
    rows, record = [], {}
    for name, timing in timings.items():
        result = results[name]
        distance = float(np.abs(weights_of(result) - truth).max())
        steps = result.n_iter if isinstance(result, Fit) else int(result.n_iter_[0])
        memory = peak(options.rows, name, tol)
        rows.append(
            {
                "": name,
                "CPU ms": timing.cpu_ms,
                "wall ms": timing.wall_ms,
                "iterations": steps,
                "max |Δ weight|": distance,
                "peak / data": memory,
            }
        )
        record[name] = {**timing.record(), "steps": steps, "distance": distance, "peak": memory}
    print_table(f"MLE of a logistic regression, {options.rows} × {COEFFICIENTS}, float64", rows)
    print(f"tolerance of scikit-learn for {DISTANCE:g}: {tol:g}")
    print("peak / data: memory that the fit takes beyond the data, as a multiple of theirs")
    ratio = timings[PEER].cpu_ms / timings[OURS].cpu_ms
    met = print_target("scikit-learn / MLE, CPU time", ratio, 1, at_most=False)
    print_target("peak memory beyond the data / data", record[OURS]["peak"], 2, at_most=True)
    save(options.output, {"runs": record, "tolerance": tol, "ratio": ratio, "met": met})
    if record[OURS]["distance"] > DISTANCE:
        raise SystemExit(f"MLE is {record[OURS]['distance']:g} from the optimum")


if __name__ == "__main__":
    main()
