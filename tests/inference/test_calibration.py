"""Simulation-based calibration: posteriors are as wide as they say, over the whole prior.

Draw parameters from the prior and data from them, and fit; then the rank of the true parameter
among L independent posterior draws is uniform on 0, ..., L (Talts, Betancourt, Simpson, Vehtari &
Gelman 2018, "Validating Bayesian inference algorithms with simulation-based calibration",
theorem 1). A posterior that is too narrow gives ranks at both ends, a shifted one at one end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats

from likely.inference import NUTS, Laplace
from likely.models import LogisticRegression

Values = dict[str, torch.Tensor]
# Draws [draw, replication] of one element, and its true values [replication].
Replications = dict[str, tuple[np.ndarray, np.ndarray]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("in_double"),
    # A hundred effective draws are more than a rank needs.
    pytest.mark.filterwarnings("ignore::likely.inference.errors.ConvergenceWarning"),
]

# How often the check below fails for a right posterior, over seeds: these are fixed.
FALSE_ALARM = 1e-3
BINS = 8


def chi_square(draws: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's statistic of the ranks in `BINS` bins of equal probability.

    About chi-square distributed with `BINS` − 1 degrees of freedom where ranks are uniform.
    """
    length, replications = draws.shape
    assert (length + 1) % BINS == 0
    ranks = (draws < truth).sum(0)
    counts = np.bincount(ranks * BINS // (length + 1), minlength=BINS)
    expected = replications / BINS
    return float(((counts - expected) ** 2 / expected).sum())


def narrowed(draws: np.ndarray) -> np.ndarray:
    """Draws of a posterior with half the standard deviation."""
    return draws.mean(0) + 0.5 * (draws - draws.mean(0))


def shifted(draws: np.ndarray) -> np.ndarray:
    """Draws of a posterior that is half a standard deviation too high."""
    return draws + 0.5 * draws.std(0)


def check(replications: Replications) -> None:
    """Ranks of every element are uniform, and those of two wrong posteriors are not."""
    limit = stats.chi2(BINS - 1).isf(FALSE_ALARM / len(replications))
    for name, (draws, truth) in replications.items():
        assert chi_square(draws, truth) < limit, name
        assert chi_square(narrowed(draws), truth) > limit, name
        assert chi_square(shifted(draws), truth) > limit, name


def thinned(draws: torch.Tensor, length: int) -> torch.Tensor:
    """``length`` draws, evenly spread over those of one chain [1, draw, *shape]."""
    return draws[0, :: draws.shape[1] // length][:length]


# -- one fit for all replications ----------------------------------------------------------------

STUDIES = 240


def normal_studies(y: Any = None, readings: int = 0) -> torch.Tensor:
    """Normal readings in many studies, each with its own mean and spread: y [reading, study].

    The posterior is a product over studies, so one fit makes a replication of each.
    """
    with pyro.plate("study", STUDIES, dim=-1):
        loc = pyro.sample("loc", dist.Normal(1.0, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with pyro.plate("reading", readings if y is None else len(y), dim=-2):
            return pyro.sample("y", dist.Normal(loc, scale), obs=y)


def logistic_studies(y: Any = None, readings: int = 0) -> torch.Tensor:
    """Logistic regressions in many studies: y [reading, study]."""
    x = torch.linspace(-2.0, 2.0, readings if y is None else len(y))[:, None]
    with pyro.plate("study", STUDIES, dim=-1):
        intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("reading", len(x), dim=-2):
            return pyro.sample("y", dist.Bernoulli(logits=intercept + slope * x), obs=y)


def growth_studies(y: Any = None, readings: int = 0) -> torch.Tensor:
    """Log-normal readings of a positive size: y [reading, study].

    The posterior of the size's logarithm is exactly normal, in unconstrained coordinates only.
    """
    with pyro.plate("study", STUDIES, dim=-1):
        size = pyro.sample("size", dist.LogNormal(0.0, 1.0))
        with pyro.plate("reading", readings if y is None else len(y), dim=-2):
            return pyro.sample("y", dist.LogNormal(size.log(), 1.0), obs=y)


# A normal approximation to the logarithm of a scale is off by sqrt(2 / readings) standard
# deviations, so Laplace needs more readings than a sampler to be right.
@pytest.mark.parametrize(
    ("engine", "program", "readings"),
    [
        (Laplace(draws=63), normal_studies, 400),
        (Laplace(draws=63), logistic_studies, 40),
        (Laplace(draws=63), growth_studies, 2),
        (NUTS(chains=1, warmup=150, draws=252), normal_studies, 20),
        (NUTS(chains=1, warmup=150, draws=252), logistic_studies, 40),
    ],
    ids=["laplace-normal", "laplace-logistic", "laplace-growth", "nuts-normal", "nuts-logistic"],
)
def test_posteriors_of_many_studies_are_calibrated(
    engine: Any, program: Any, readings: int
) -> None:
    torch.manual_seed(20)
    nodes = poutine.trace(program).get_trace(readings=readings).nodes
    fit = engine.fit(program, nodes["y"]["value"])
    check(
        {
            name: (thinned(fit.draws[name], 63).numpy(), nodes[name]["value"].numpy())
            for name in fit.point()
        }
    )


# -- one fit for each replication ----------------------------------------------------------------


def test_posteriors_of_regressions_fitted_one_by_one_are_calibrated() -> None:
    program = LogisticRegression(intercept_scale=1.0, coefficients_scale=1.0)
    x = torch.linspace(-2.0, 2.0, 40)[:, None]
    draws: dict[str, list[np.ndarray]] = {"intercept": [], "coefficients": []}
    truth: dict[str, list[float]] = {"intercept": [], "coefficients": []}
    for seed in range(STUDIES):
        torch.manual_seed(seed)
        nodes = poutine.trace(program).get_trace(x).nodes
        fit = Laplace(draws=63, seed=seed).fit(program, x, nodes["y"]["value"])
        for name in draws:
            draws[name].append(fit.draws[name].reshape(63).numpy())
            truth[name].append(nodes[name]["value"].item())
    check({n: (np.stack(draws[n], 1), np.array(truth[n])) for n in draws})
