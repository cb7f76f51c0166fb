"""Baum–Welch of a Gaussian hidden Markov model: `EM` beside hmmlearn, from the same start.

`EM` derives its steps from the Pyro program; the sequences are one packed batch, where hmmlearn
walks through them one by one. Full covariances, float64, one thread, a fixed number of
iterations; hmmlearn's prior on the covariances is switched off, so that both climb the same
likelihood, and both must end at the same one. hmmlearn has two implementations: with logarithms,
its default, and scaled as here.
"""

from __future__ import annotations

from _common import arguments, facts, interleave, print_facts, print_table, print_target, save

# isort: split
import cProfile
import pstats
import warnings
from typing import Any

import numpy as np
import torch
from hmmlearn.hmm import GaussianHMM
from torch import Tensor

from likely.inference import EM, ConvergenceWarning, Fit
from likely.models import HiddenMarkovModel, Sequences

STATES, FEATURES, ITERATIONS = 5, 2, 20
# How many sequences of how many steps: the setting of the target, one long series, and few.
SHAPES = {"100 × 1000": (100, 1000), "1 × 100000": (1, 100_000), "10 × 1000": (10, 1000)}
PEERS = ("hmmlearn, log", "hmmlearn, scaling")
PROGRAM = HiddenMarkovModel(STATES)


def truth() -> dict[str, Tensor]:
    """States that overlap, so that EM has far to go."""
    rng = np.random.default_rng(0)
    moves = np.full((STATES, STATES), 0.05) + 0.75 * np.eye(STATES)
    return {
        "initial": torch.full((STATES,), 1 / STATES),
        "transition": torch.from_numpy(moves),
        "locs": torch.from_numpy(rng.normal(scale=2.0, size=(STATES, FEATURES))),
        "scales": torch.from_numpy(rng.uniform(0.7, 1.3, size=(STATES, FEATURES))),
        "correlation_cholesky": torch.eye(FEATURES).expand(STATES, -1, -1),
    }


def start(data: Sequences) -> dict[str, Tensor]:
    """Rows at random as means, and the overall covariance for every state."""
    rows = torch.from_numpy(np.random.default_rng(1).integers(data.n_steps, size=STATES))
    return {
        "initial": torch.full((STATES,), 1 / STATES),
        "transition": torch.full((STATES, STATES), 0.1) + 0.5 * torch.eye(STATES),
        "locs": data.x[rows],
        "scales": data.x.std(0).expand(STATES, -1).clone(),
        "correlation_cholesky": torch.eye(FEATURES).expand(STATES, -1, -1).clone(),
    }


def ours(data: Sequences, init: dict[str, Tensor]) -> Fit:
    with warnings.catch_warnings():
        # It is stopped long before it converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return EM(max_iter=ITERATIONS, tol=1e-300, init=init).fit(PROGRAM, data)


def theirs(data: Sequences, init: dict[str, Tensor], implementation: str) -> GaussianHMM:
    model = GaussianHMM(
        STATES,
        "full",
        n_iter=ITERATIONS,
        tol=-np.inf,
        init_params="",
        covars_prior=0.0,
        implementation=implementation,
    )
    model.startprob_, model.transmat_ = init["initial"].numpy(), init["transition"].numpy()
    model.means_ = init["locs"].numpy()
    model.covars_ = init["scales"].square().diag_embed().numpy()
    return model.fit(data.x.numpy(), data.lengths.numpy())


def compare(shape: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Interleave fits of both; they must have climbed to the same likelihood."""
    n_sequences, n_steps = shape
    data, _ = PROGRAM.sample(truth(), [n_steps] * n_sequences)
    init = start(data)
    timings, results = interleave(
        {
            "likely": lambda: ours(data, init),
            "hmmlearn, log": lambda: theirs(data, init, "log"),
            "hmmlearn, scaling": lambda: theirs(data, init, "scaling"),
        },
        repeats,
    )
    reached = {"likely": float(results["likely"].log_likelihood)}
    for peer in PEERS:
        reached[peer] = float(results[peer].score(data.x.numpy(), data.lengths.numpy()))
        if abs(reached["likely"] / reached[peer] - 1) > 1e-8:
            raise SystemExit(f"log-likelihoods differ: {reached}")
    return {
        "sequences": n_sequences,
        "steps": n_steps,
        "iterations": results["likely"].n_iter,
        "log_likelihood": reached,
        **{name: timing.record() for name, timing in timings.items()},
    }


def profile() -> None:
    """Where the time of a fit goes, by function of this project."""
    data, _ = PROGRAM.sample(truth(), [1000] * 100)
    init = start(data)
    ours(data, init)
    profiler = cProfile.Profile()
    profiler.runcall(ours, data, init)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(16)


def main() -> None:
    options = arguments(
        "hmm",
        __doc__,
        repeats=3,
        profile={"action": "store_true", "help": "profile a fit instead of timing it"},
    )
    torch.set_default_dtype(torch.float64)
    if options.profile:
        profile()
        return
    print_facts()
    results = {name: compare(shape, options.repeats) for name, shape in SHAPES.items()}
    rows = []
    ratios: dict[str, dict[str, float]] = {}
    for name, result in results.items():
        mine = result["likely"]["cpu_ms_median"]
        ratios[name] = {peer: result[peer]["cpu_ms_median"] / mine for peer in PEERS}
        for kind in (*PEERS, "likely"):
            rows.append(
                {
                    "": f"{name}, {kind}",
                    "CPU s": result[kind]["cpu_ms_median"] / 1e3,
                    "wall s": result[kind]["wall_ms_median"] / 1e3,
                    "over likely": ratios[name].get(kind, ""),
                    "log-likelihood": f"{result['log_likelihood'][kind]:.4f}",
                }
            )
    print_table(
        f"Gaussian HMM, {STATES} states, {FEATURES} features, full covariances, "
        f"{ITERATIONS} EM iterations",
        rows,
    )
    if facts()["threads"] == 1:
        print_target(
            "EM over hmmlearn as it comes, 100 × 1000, CPU time, times faster",
            ratios["100 × 1000"]["hmmlearn, log"],
            6,
            at_most=False,
        )
    save(options.output, {"runs": results, "ratios": ratios})


if __name__ == "__main__":
    main()
