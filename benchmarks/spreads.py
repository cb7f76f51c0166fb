"""Two forms of abilities whose spread or drift is an unknown: which engine finds what in each.

Twelve items and 2000 comparisons, where the spread is well known; and two items in six periods of
some five games each, where the drift is hardly known and its exact posterior mean is found by sums
over a grid. `NUTS` is judged by the number of independent draws that its draws are worth, and by
its divergences. ``docs/preference.md`` says what follows.
"""

from __future__ import annotations

from _common import arguments, print_facts, print_table, save

# isort: split
import warnings
from typing import Any

import numpy as np
import torch
from pyro.ops.stats import effective_sample_size

from likely.inference import NUTS, SVI, InferenceError, Laplace
from likely.models import BradleyTerry, Comparisons

ITEMS, GAMES = 12, 2000
WINS, LOSSES = np.array([3, 2, 4, 1, 5, 6]), np.array([2, 3, 3, 2, 2, 1])


def league() -> Comparisons:
    """Abilities of standard deviation 1."""
    rng = np.random.default_rng(0)
    ability = rng.normal(size=ITEMS)
    first = rng.integers(0, ITEMS, GAMES)
    second = (first + rng.integers(1, ITEMS, GAMES)) % ITEMS
    won = rng.random(GAMES) < 1 / (1 + np.exp(ability[second] - ability[first]))
    return Comparisons.from_arrays(first, second, won, ~won, items=range(ITEMS))


def exact_drift() -> float:
    """Posterior mean of the drift of two items, by forward sums on a grid of their difference."""
    grid, drifts = np.linspace(-8, 8, 801), np.linspace(0.0125, 2.5, 200)
    chances = [
        np.exp(-w * np.logaddexp(0, -grid) - lost * np.logaddexp(0, grid))
        for w, lost in zip(WINS, LOSSES, strict=True)
    ]
    evidence = []
    for drift in drifts:
        step = np.exp(-0.25 * ((grid[:, None] - grid) / drift) ** 2)
        step /= step.sum(1, keepdims=True)
        mass = np.exp(-0.25 * (grid / 2.0) ** 2) * chances[0]
        for chance in chances[1:]:
            mass = (mass @ step) * chance
        evidence.append(mass.sum())
    weight = np.array(evidence) * np.exp(-0.5 * (drifts / 0.5) ** 2)
    return float(weight @ drifts / weight.sum())


def found(engine: Any, program: BradleyTerry, data: Comparisons, site: str) -> dict[str, Any]:
    """Posterior mean of a site, and how good the draws are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = engine.fit(program, data)
        except InferenceError as error:
            return {"mean": type(error).__name__, "worth": "", "diverged": ""}
    draws = fit.draws[site]
    told = {"mean": f"{float(draws.mean()):.3f}", "worth": "", "diverged": ""}
    if isinstance(engine, NUTS):
        told["worth"] = f"{float(effective_sample_size(draws, 0, 1)):.0f} of {draws.numel()}"
        told["diverged"] = str(int(torch.as_tensor(fit.diagnostics["divergences"])))
    return told


def main() -> None:
    asked = arguments("spreads", __doc__, repeats=1)
    print_facts()
    seasons = Comparisons.from_arrays(["a"] * 6, ["b"] * 6, WINS, LOSSES, period=range(6))
    problems = (
        (league(), ITEMS, {"ability_scale": None}, "ability_spread", (300, 200, 1)),
        (seasons, 2, {"drift": "unknown"}, "drift", (1000, 500, 2)),
    )
    rows = []
    for data, n, options, site, (draws, warmup, chains) in problems:
        for engine in (
            NUTS(draws=draws, warmup=warmup, chains=chains, cores=1),
            SVI(),
            Laplace(draws=2000),
        ):
            for centred in (True, False):
                program = BradleyTerry(n, centred=centred, **options)
                about = {"site": site, "engine": engine.name, "centred": str(centred)}
                rows.append(about | found(engine, program, data, site))
    print_table("posterior mean, worth in independent draws, divergences", rows)
    exact = exact_drift()
    print(f"drift by sums on a grid: {exact:.3f}")
    save(asked.output, {"rows": rows, "exact": exact})


if __name__ == "__main__":
    main()
