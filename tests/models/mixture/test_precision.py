"""Rounding and memory: what is left of the digits, and what a fit needs beside the data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from likely.inference import EM
from likely.models import GaussianMixture
from likely.models._mixture_distribution import LogLinearMixture

Array = np.ndarray[Any, Any]

EPS = float(np.finfo(np.float64).eps)
# Units and the whole of a correlation; powers of two scale without rounding.
OFFSETS = {"near": 0.0, "far": 1e8}
UNITS = {"same units": (1.0, 1.0), "units apart": (2.0**20, 2.0**-20)}


def long_log_density(x: Array, loc: Array, tril: Array) -> Array:
    """Normal log-density [n] with 64 bits of mantissa, by forward substitution."""
    centred = x.astype(np.longdouble) - loc.astype(np.longdouble)
    factor = tril.astype(np.longdouble)
    whitened = np.empty_like(centred)
    for i in range(x.shape[1]):
        whitened[:, i] = (centred[:, i] - whitened[:, :i] @ factor[i, :i]) / factor[i, i]
    const = np.log(np.diag(factor)).sum() + x.shape[1] * np.log(2 * np.pi) / 2
    return -0.5 * (whitened**2).sum(1) - const


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("relative", [1.0, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS.keys())
@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS.keys())
def test_log_density_has_the_digits_that_rounding_leaves(
    covariance: str, relative: float, units: tuple[float, float], offset: float
) -> None:
    """A component of standard deviation r, relative to the data's, costs about eps / r² nats."""
    rng = np.random.default_rng(0)
    locs = rng.normal(size=(3, 2))
    tril = relative * np.array([[1.0, 0.0], [0.6, 0.8]]) * rng.uniform(0.8, 1.2, size=(3, 1, 1))
    if covariance == "diag":
        tril = tril * np.eye(2)
    component = rng.integers(3, size=300)
    noise = np.einsum("nij,nj->ni", tril[component], rng.normal(size=(300, 2)))
    unit = np.array(units)
    # The rounding of x + offset is the data's, not the density's.
    x = (locs[component] + noise + offset) * unit
    locs, tril = (locs + offset) * unit, tril * unit[:, None]

    family = GaussianMixture(3, covariance).family
    rows = torch.as_tensor(x)
    features = family.features(rows)
    params = {"locs": torch.as_tensor(locs), "scale_tril": torch.as_tensor(tril)}
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    mixture = LogLinearMixture(weights, family.natural(params, features), features, list, 2)
    joint = np.stack([long_log_density(x, locs[k], tril[k]) for k in range(3)])
    expected = logsumexp(joint + np.log(weights.numpy())[:, None], axis=0)
    spread = (np.abs(x - x.mean(0)) / x.std(0)).max()
    # Terms of up to spread² / r², of which six are added, a few roundings each.
    bound = 50 * EPS * (1 + spread**2 / relative**2)
    error = np.abs(mixture.log_prob(rows).numpy() - expected.astype(float)).max()
    assert error < bound


def test_scipy_agrees_where_it_can() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 3)) * [1e6, 1.0, 1e-6] + [1e8, 0.0, 0.0]
    program = GaussianMixture(2, "diag")
    params = {
        "weights": torch.tensor([0.4, 0.6], dtype=torch.float64),
        "locs": torch.tensor([[1e8, 0.0, 0.0], [1.01e8, 0.5, 1e-6]], dtype=torch.float64),
        "scales": torch.tensor([[1e6, 1.0, 1e-6], [5e5, 0.2, 3e-6]], dtype=torch.float64),
    }
    joint = [
        np.log(w) + stats.norm(loc, scale).logpdf(x).sum(1)
        for w, loc, scale in zip(*(params[n].numpy() for n in params), strict=True)
    ]
    found = program.score_samples(params, torch.as_tensor(x))
    np.testing.assert_allclose(found, logsumexp(joint, axis=0), rtol=1e-12)


@pytest.mark.parametrize("covariance", ["full", "diag", "tied", "spherical"])
def test_em_does_not_feel_where_the_data_lie(covariance: str, faithful: torch.Tensor) -> None:
    # Whole steps of 2^-12 stay exact beside 2^26.
    x = (faithful * 2**12).round() / 2**12
    unit = 2.0**-10 if covariance == "spherical" else torch.tensor([2.0**20, 2.0**-20]).double()
    moved = (x + 2.0**26) * unit
    program = GaussianMixture(2, covariance)
    engine = EM(max_iter=300, tol=1e-11, seed=1)
    near, far = engine.fit(program, x), engine.fit(program, moved)
    shift = len(x) * float(torch.log(torch.as_tensor(unit).double().expand(2)).sum())
    # Means are rounded to 2^26 eps = 1.5e-8, which the optimum feels in second order.
    assert far.log_likelihood + shift == pytest.approx(near.log_likelihood, rel=1e-9)
    torch.testing.assert_close(
        far.params["locs"] / unit - 2.0**26, near.params["locs"], rtol=0.0, atol=1e-3
    )


MEMORY = """
import json, sys, warnings
from pathlib import Path
import torch
from likely.inference import EM
from likely.models import GaussianMixture

torch.set_num_threads(1)
covariance, n, d, k = sys.argv[1], *map(int, sys.argv[2:])
warnings.simplefilter("ignore")

def fit(x):
    return EM(max_iter=5, tol=1e-300).fit(GaussianMixture(k, covariance), x)

def peak():
    # Of this process image; getrusage would begin at the peak of the parent.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

generator = torch.Generator().manual_seed(0)
fit(torch.randn(20_000, d, generator=generator, dtype=torch.float64))
x = torch.randn(n, d, generator=generator, dtype=torch.float64)
x[: n // 3] += 3
before = peak()
fit(x)
print(json.dumps([before, peak(), x.numel() * 8]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_em_needs_less_than_three_times_the_data(covariance: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEMORY, covariance, "300000", "2", "3"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )
    before, after, data = json.loads(done.stdout)
    assert after - before < 3 * data
