"""Simulation-based calibration of reward posteriors: as wide as they say, over the whole prior.

Draw reward weights from the prior and episodes of the soft optimum from them, and fit; then the
rank of a true weight among independent posterior draws is uniform (Talts, Betancourt, Simpson,
Vehtari & Gelman 2018, "Validating Bayesian inference algorithms with simulation-based
calibration", theorem 1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats

from likely.envs import TabularMDP
from likely.inference import NUTS, Laplace
from likely.models import MaxEntIRL, Visits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("in_double"),
    # A hundred effective draws are more than a rank needs.
    pytest.mark.filterwarnings("ignore::likely.inference.errors.ConvergenceWarning"),
]

# How often the check fails for a right posterior, over seeds: these are fixed.
FALSE_ALARM = 1e-3
BINS = 8
LENGTH = 63


def chi_square(draws: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's statistic of the ranks in `BINS` bins of equal probability."""
    ranks = (draws < truth).sum(0)
    counts = np.bincount(ranks * BINS // (LENGTH + 1), minlength=BINS)
    expected = draws.shape[1] / BINS
    return float(((counts - expected) ** 2 / expected).sum())


def ring() -> TabularMDP:
    """Three rooms in a ring; a step leads on or stays, and fails one time in five."""
    moves = torch.zeros(3, 2, 3)
    for state in range(3):
        moves[state, 0, state] = moves[state, 1, (state + 1) % 3] = 0.8
        moves[state, 0, (state + 1) % 3] = moves[state, 1, state] = 0.2
    return TabularMDP(moves, torch.zeros(3), 0.7, torch.full((3,), 1 / 3))


@pytest.mark.parametrize(
    ("engine", "horizon", "replications"),
    [
        (Laplace(draws=LENGTH), None, 240),
        (Laplace(draws=LENGTH), 6, 240),
        (NUTS(chains=1, warmup=60, draws=2 * LENGTH), 4, 120),
    ],
    ids=["laplace", "laplace-horizon", "nuts-horizon"],
)
def test_reward_posteriors_are_calibrated(
    engine: Any, horizon: int | None, replications: int
) -> None:
    # Two of three rooms have a weight: a constant on all of them changes no policy.
    mdp, features = ring(), torch.eye(3)[:, 1:]
    program = MaxEntIRL(mdp, features, horizon, prior_scale=1.0)
    draws, truth = [], []
    for seed in range(replications):
        torch.manual_seed(seed)
        trace = poutine.trace(program).get_trace(episodes=40, steps=horizon or 6)
        seen = trace.nodes["_RETURN"]["value"]
        data = Visits.from_trajectories(mdp, seen, horizon)
        fit = replace(engine, seed=seed).fit(program, data)
        found = fit.draws["reward_weights"][0]
        draws.append(found[:: len(found) // LENGTH][:LENGTH].numpy())
        truth.append(trace.nodes["reward_weights"]["value"].numpy())
    ranks, values = np.stack(draws, 1), np.stack(truth)
    limit = stats.chi2(BINS - 1).isf(FALSE_ALARM / 2)
    for i in range(2):
        own, true = ranks[..., i], values[:, i]
        assert chi_square(own, true) < limit
        # Half as wide, and half a standard deviation too high: neither would pass.
        assert chi_square(own.mean(0) + 0.5 * (own - own.mean(0)), true) > limit
        step = 0.5 * (240 / replications) ** 0.5
        assert chi_square(own + step * own.std(0), true) > limit
