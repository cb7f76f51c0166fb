"""Simulation-based calibration of abilities: posteriors are as wide as they say.

Draw abilities from the prior and comparisons from them, and fit; then the rank of a true difference
among L independent posterior draws is uniform on 0, ..., L (Talts, Betancourt, Simpson, Vehtari &
Gelman 2018, theorem 1). Here all replications are one fit, of many leagues that never meet:
contrasts within different leagues are independent under the prior, normal and given the sum over
all, and outcomes know nothing else, so that the posterior of contrasts is a product over leagues.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats

from likely.inference import NUTS, Laplace
from likely.models import BradleyTerry, Comparisons

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("in_double"),
    pytest.mark.filterwarnings("ignore::likely.inference.errors.DegenerateWarning"),
    # A hundred effective draws are more than a rank needs.
    pytest.mark.filterwarnings("ignore::likely.inference.errors.ConvergenceWarning"),
]

LEAGUES, SIZE, DRAWS, BINS = 240, 3, 63, 8
# How often a check fails for a right posterior, over seeds: these are fixed.
FALSE_ALARM = 1e-3
# Two contrasts of a league's three abilities that are independent under the prior.
CONTRASTS = torch.tensor([[1.0, -1.0, 0.0], [-0.5, -0.5, 1.0]]).double()


def leagues(games: int) -> Comparisons:
    """A design in which each pair of each league meets ``games`` times."""
    base = SIZE * np.arange(LEAGUES)[:, None]
    pairs = np.array([(0, 1), (0, 2), (1, 2)])
    first, second = (base + pairs[:, side] for side in (0, 1))
    return Comparisons.from_arrays(first.ravel(), second.ravel(), total=games)


def chi_square(draws: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's statistic of the ranks of ``truth`` [r] among ``draws`` [DRAWS, r]."""
    assert len(draws) == DRAWS
    ranks = (draws < truth).sum(0)
    counts = np.bincount(ranks * BINS // (DRAWS + 1), minlength=BINS)
    expected = len(truth) / BINS
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("engine", "games", "ties"),
    [
        # With few games the posterior is skewed, and Laplace's normal one is not.
        (Laplace(draws=DRAWS), 60, None),
        (NUTS(chains=1, warmup=150, draws=4 * DRAWS), 4, None),
        (NUTS(chains=1, warmup=150, draws=4 * DRAWS), 4, "davidson"),
    ],
    ids=["laplace", "nuts", "nuts-ties"],
)
def test_abilities_are_calibrated(engine: Any, games: int, ties: str | None) -> None:
    design = leagues(games)
    program = BradleyTerry(SIZE * LEAGUES, ability_scale=1.0, ties=ties)
    torch.manual_seed(7)
    nodes = poutine.trace(program).get_trace(design).nodes
    fit = engine.fit(program, design.with_counts(nodes["outcome"]["value"]))

    def contrasts(ability: torch.Tensor) -> np.ndarray:
        return (ability.unflatten(-1, (LEAGUES, SIZE)) @ CONTRASTS.T).numpy()

    truth = contrasts(nodes["ability"]["value"])
    drawn = contrasts(fit.draws["ability"][0, :: fit.draws["ability"].shape[1] // DRAWS][:DRAWS])
    limit = stats.chi2(BINS - 1).isf(FALSE_ALARM / len(CONTRASTS))
    for k in range(len(CONTRASTS)):
        one, true = drawn[..., k], truth[:, k]
        assert chi_square(one, true) < limit
        # Half as wide, and half a standard deviation too high: the check sees both.
        centre, spread = one.mean(0), one.std(0)
        assert chi_square(centre + 0.5 * (one - centre), true) > limit
        assert chi_square(one + 0.5 * spread, true) > limit
