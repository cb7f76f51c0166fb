"""NUTS on a logistic regression: effective draws a second, by backend, against Pyro's own NUTS.

1,000 rows, 8 coefficients and an intercept, float64, one chain. The peer is
``pyro.infer.MCMC(NUTS(model))`` run directly on the same program, plain and with ``jit_compile``.
The time is that of the whole call, warmup and compilation included; the effective sample size is
the smallest over all weights, by the same estimator for all. One chain's effective sample size is a
noisy number: read the ratios to within a quarter or so.
"""

from __future__ import annotations

from _common import Timing, arguments, clock, print_facts, print_table, save

# isort: split
import gc
import importlib.util
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import mcmc
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from likely.inference import NUTS
from likely.models import LogisticRegression

ROWS, COEFFICIENTS = 1000, 8
PEER = "Pyro NUTS, direct"
Draws = dict[str, Tensor]


def simulate() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, COEFFICIENTS, generator=generator)
    weights = torch.randn(COEFFICIENTS, generator=generator)
    y = torch.rand(ROWS, generator=generator) < torch.sigmoid(x @ weights - 0.5)
    return x, y.to(x.dtype)


def direct(x: Tensor, y: Tensor, draws: int, seed: int, jit: bool) -> Draws:
    pyro.set_rng_seed(seed)
    kernel = mcmc.NUTS(LogisticRegression(), jit_compile=jit, ignore_jit_warnings=True)
    sampler = mcmc.MCMC(kernel, num_samples=draws, warmup_steps=draws, disable_progbar=True)
    sampler.run(x, y)
    found: Draws = sampler.get_samples(group_by_chain=True)
    return found


def ours(x: Tensor, y: Tensor, draws: int, seed: int, backend: str, jit: bool) -> Draws:
    engine = NUTS(draws=draws, warmup=draws, chains=1, cores=1, backend=backend, jit=jit, seed=seed)
    return engine.fit(LogisticRegression(), x, y).draws


def weights_of(draws: Draws) -> Tensor:
    """Draws [chain, draw, 9] of all weights."""
    return torch.cat([draws["intercept"].unsqueeze(-1), draws["coefficients"]], -1)


def main() -> None:
    options = arguments(
        "samplers",
        __doc__,
        repeats=5,
        draws={"type": int, "default": 300, "help": "kept draws, and as many of warmup"},
    )
    torch.set_default_dtype(torch.float64)
    # The tracer's remarks, and ours on few effective draws, are beside the point here.
    warnings.simplefilter("ignore")
    print_facts()
    data = simulate()
    runs: dict[str, Callable[..., Draws]] = {
        PEER: partial(direct, jit=False),
        "Pyro NUTS, direct, jit": partial(direct, jit=True),
        "likely, pyro": partial(ours, backend="pyro", jit=False),
        "likely, pyro, jit": partial(ours, backend="pyro", jit=True),
    }
    if importlib.util.find_spec("nutpie") is None:
        print("nutpie is not installed (pip install 'likely[fast]'); its rows are left out")
    else:
        runs["likely, nutpie"] = partial(ours, backend="nutpie", jit=False)
        runs["likely, nutpie, jit"] = partial(ours, backend="nutpie", jit=True)
    for run in runs.values():  # first calls import and build what later ones find ready
        run(*data, draws=4, seed=0)
    timings = {name: Timing() for name in runs}
    sizes: dict[str, list[float]] = {name: [] for name in runs}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    kept: dict[str, list[Tensor]] = {name: [] for name in runs}
    for repeat in range(options.repeats):
        for name, run in runs.items():
            gc.collect()
            wall, cpu = clock()
            draws = weights_of(run(*data, draws=options.draws, seed=repeat))
            wall_end, cpu_end = clock()
            timings[name].wall.append(wall_end - wall)
            timings[name].cpu.append(cpu_end - cpu)
            sizes[name].append(float(effective_sample_size(draws).min()))
            rates[name].append(sizes[name][-1] / timings[name].cpu[-1])
            kept[name].append(draws.flatten(0, 1))
    peer = torch.cat(kept[PEER])
    rows, record = [], {}
    for name in runs:
        rate, base = statistics.median(rates[name]), statistics.median(rates[PEER])
        gap = float(((torch.cat(kept[name]).mean(0) - peer.mean(0)) / peer.std(0)).abs().max())
        result: dict[str, Any] = {
            "CPU s": timings[name].cpu_ms / 1e3,
            "wall s": timings[name].wall_ms / 1e3,
            "min ESS": statistics.median(sizes[name]),
            "ESS / CPU s": rate,
            "ratio": rate / base,
            "max Δ mean, sd": gap,
        }
        rows.append({"": name, **result})
        record[name] = {
            **result,
            **timings[name].record(),
            "ess": sizes[name],
            "ess_per_cpu_second": rates[name],
        }
    print_table(
        f"NUTS, logistic regression {ROWS} × {COEFFICIENTS}, {options.draws} + {options.draws}",
        rows,
    )
    print(f"ratio: effective draws a processor second over those of {PEER}")
    save(options.output, {"runs": record, "draws": options.draws, "repeats": options.repeats})


if __name__ == "__main__":
    main()
