"""k-means and Gaussian mixtures, step by step with scikit-learn from the same start."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning as TheirWarning
from sklearn.mixture import GaussianMixture as Reference

from likely.inference import EM
from likely.models import GaussianMixture

Array = np.ndarray[Any, Any]
Params = dict[str, torch.Tensor]


def blobs(n: int, d: int, k: int, spread: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(k, d))
    found: Array = centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    return found


DATA: dict[str, Callable[[], Array]] = {
    "iris": lambda: load_iris().data,
    "wine": lambda: load_wine().data,
    "one feature": lambda: blobs(200, 1, 3, 4.0, 0),
    "apart": lambda: blobs(500, 3, 6, 5.0, 1),
    "overlapping": lambda: blobs(2000, 2, 5, 1.0, 2),
    "shifted": lambda: blobs(300, 2, 4, 3.0, 3) + 1e6,
    "digits": lambda: load_digits().data,
}


@pytest.mark.parametrize("k", [1, 2, 5, 10])
@pytest.mark.parametrize("name", DATA)
def test_hard_em_is_lloyds_algorithm(name: str, k: int) -> None:
    x = DATA[name]()
    n, d = x.shape
    centres = x[np.random.default_rng(k).permutation(n)[:k]]
    # Repeated rows would make two centres one, which k-means takes for an empty cluster.
    assert len(np.unique(centres, axis=0)) == k
    theirs = KMeans(k, init=centres, n_init=1, tol=0.0, algorithm="lloyd", max_iter=500).fit(x)
    start = {"locs": torch.as_tensor(centres), "scales": torch.tensor(x.std()).double()}
    program = GaussianMixture.k_means(k)
    fit = EM(hard=True, init=start, tol=1e-15).fit(program, torch.as_tensor(x))
    assert fit.converged
    # Sums of squares about 1e6 would lose digits; centred ones do not.
    unit = np.abs(x - x.mean(0)).max()
    np.testing.assert_allclose(fit.params["locs"], theirs.cluster_centers_, atol=1e-8 * unit)
    labels = fit.latent("component").argmax(-1).numpy()
    np.testing.assert_array_equal(labels, theirs.labels_)
    inertia = n * d * float(fit.params["scales"]) ** 2
    assert inertia == pytest.approx(theirs.inertia_, rel=1e-8)
    joint = -0.5 * n * d * (math.log(2 * math.pi * inertia / (n * d)) + 1) - n * math.log(k)
    assert fit.history["objective"].iloc[-1] == pytest.approx(joint, rel=1e-9)


def test_a_row_between_two_centres_goes_to_the_first() -> None:
    x = np.array([[-1.0], [0.0], [1.0]])
    theirs = KMeans(2, init=[[-1.0], [1.0]], n_init=1, tol=0.0).fit(x)
    start = {"locs": torch.tensor([[-1.0], [1.0]]).double(), "scales": torch.ones(()).double()}
    fit = EM(hard=True, init=start).fit(GaussianMixture.k_means(2), torch.as_tensor(x))
    np.testing.assert_allclose(fit.params["locs"], [[-0.5], [1.0]])
    np.testing.assert_allclose(fit.params["locs"], theirs.cluster_centers_)


def precisions(params: Params, covariance: str) -> Array:
    """Starting precisions in scikit-learn's shapes."""
    scales = params["scales"]
    if covariance in ("diag", "spherical"):
        return (1 / scales.square()).numpy()
    factor = scales.unsqueeze(-1) * params["correlation_cholesky"]
    found: Array = torch.cholesky_inverse(factor).numpy()
    return found


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("name", ["iris", "apart", "overlapping"])
def test_every_step_has_scikit_learns_log_likelihood(name: str, covariance: str, k: int) -> None:
    steps, x = 12, DATA[name]()
    program = GaussianMixture(k, covariance, covariance_floor=1e-9)
    pyro.set_rng_seed(3)
    start = program.initial(torch.as_tensor(x))
    reference = Reference(
        k,
        covariance_type=covariance,
        weights_init=start["weights"].numpy(),
        means_init=start["locs"].numpy(),
        precisions_init=precisions(start, covariance),
        reg_covar=0.0,
        tol=0.0,
        max_iter=1,
        warm_start=True,
    )
    theirs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TheirWarning)
        for _ in range(steps):
            # One iteration a call; its bound is that of the values before the step.
            theirs.append(reference.fit(x).lower_bound_)
        warnings.simplefilter("ignore")
        fit = EM(max_iter=steps, tol=1e-300, init=start).fit(program, torch.as_tensor(x))
    ours = fit.history["objective"].to_numpy() / len(x)
    # A step that gains exactly nothing is the last.
    assert len(ours) > 3
    np.testing.assert_allclose(ours[:-1], theirs[: len(ours) - 1], rtol=1e-9)
    assert ours[-1] == pytest.approx(reference.score(x), rel=1e-9)
    scale = np.abs(x).max()
    np.testing.assert_allclose(fit.params["locs"], reference.means_, atol=1e-7 * scale)
    np.testing.assert_allclose(fit.params["weights"], reference.weights_, atol=1e-7)


def test_faithful_has_the_same_optimum(faithful: torch.Tensor) -> None:
    x = faithful.numpy()
    reference = Reference(2, n_init=10, reg_covar=0.0, tol=1e-10, max_iter=1000, random_state=0)
    best = reference.fit(x).score(x)
    fit = EM(restarts=3).fit(GaussianMixture(2), faithful)
    assert fit.log_likelihood / len(x) == pytest.approx(best, abs=1e-6)
    program = GaussianMixture(2)
    np.testing.assert_allclose(
        np.sort(program.responsibilities(fit.params, faithful)),
        np.sort(reference.predict_proba(x)),
        atol=1e-4,
    )
    assert float(program.score_samples(fit.params, faithful).mean()) == pytest.approx(
        best, abs=1e-6
    )
