"""Fits against closed forms, published numbers and independent implementations."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.ops.stats import effective_sample_size
from pyro.optim import ClippedAdam
from sklearn.mixture import GaussianMixture as Reference

from likely.inference import (
    EM,
    MAP,
    MLE,
    NUTS,
    SVI,
    VBEM,
    BoundaryWarning,
    ConvergenceWarning,
    Laplace,
)
from likely.models import (
    Annotations,
    BernoulliModel,
    DawidSkene,
    GaussianMixture,
    GaussianModel,
    LinearRegression,
    LogisticRegression,
    PoissonModel,
)

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "data"
DATA = Path(os.environ.get("LIKELY_DATA", ROOT.parent / "shared" / "data"))


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


# -- small estimates -------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [MLE(), EM()])
def test_three_heads_of_four_give_three_quarters(estimator):
    fit = estimator.fit(BernoulliModel(), double([1, 1, 1, 0]))
    assert float(fit.params["probability"]) == pytest.approx(0.75, abs=1e-6)
    assert fit.log_likelihood == pytest.approx(3 * math.log(0.75) + math.log(0.25), abs=1e-10)


def test_one_head_has_its_likelihood_optimum_on_the_boundary():
    with pytest.warns(BoundaryWarning, match="'probability'"):
        fit = MLE().fit(BernoulliModel(), double([1]))
    assert float(fit.params["probability"]) == 1.0
    assert fit.log_likelihood == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("estimator", [MAP(), EM(objective="posterior")])
def test_one_head_under_a_beta_prior_gives_two_thirds(estimator):
    fit = estimator.fit(BernoulliModel(alpha=2.0, beta=2.0), double([1]))
    assert float(fit.params["probability"]) == pytest.approx(2 / 3, abs=1e-6)


def test_line_through_the_origin_minimises_the_squared_error():
    x, y = double([[1], [2], [3]]), double([2.1, 3.9, 6.2])
    fit = MLE().fit(LinearRegression(intercept=False), x, y)
    slope = float(fit.params["coefficients"])
    assert slope == pytest.approx(28.5 / 14, abs=1e-6)
    around = slope + np.linspace(-0.1, 0.1, 201)
    errors = ((y.numpy() - around[:, None] * x[:, 0].numpy()) ** 2).sum(1)
    assert errors.argmin() == 100
    # The noise has its own optimum: the root of the mean squared error.
    assert float(fit.params["scale"]) ** 2 == pytest.approx(errors[100] / 3, abs=1e-6)


def test_drones_have_their_mean_and_the_variance_over_n():
    heights = double([10.1, 9.8, 10.2])
    fit = MLE().fit(GaussianModel(), heights)
    assert float(fit.params["loc"]) == pytest.approx(10.0333333, abs=1e-6)
    variance = float(fit.params["scale"]) ** 2
    assert variance == pytest.approx(float(heights.var(correction=0)), abs=1e-6)
    assert variance * 3 / 2 == pytest.approx(float(heights.var(correction=1)), abs=1e-6)


@pytest.mark.parametrize(("flights", "collisions"), [(20, 1), (20, 7), (137, 136)])
def test_collisions_per_flight_are_the_share(flights, collisions):
    outcomes = double([1] * collisions + [0] * (flights - collisions))
    fit = MLE().fit(BernoulliModel(), outcomes)
    assert float(fit.params["probability"]) == pytest.approx(collisions / flights, abs=1e-6)


@pytest.mark.parametrize("flights", [1, 20, 500])
def test_no_collision_gives_exactly_zero(flights):
    with pytest.warns(BoundaryWarning, match="'probability'"):
        fit = MLE().fit(BernoulliModel(), torch.zeros(flights))
    assert float(fit.params["probability"]) == 0.0
    with pytest.warns(BoundaryWarning, match="'rate'"):
        fit = MLE().fit(PoissonModel(), torch.zeros(flights))
    assert float(fit.params["rate"]) == 0.0


@pytest.mark.parametrize("flights", [1, 4])
def test_no_collision_has_the_posterior_mean_of_its_beta(flights):
    fit = NUTS(chains=2, draws=1000, warmup=300, cores=1, jit=True).fit(
        BernoulliModel(), torch.zeros(flights)
    )
    draws = fit.draws["probability"]
    # The posterior is Beta(1, flights + 1): mean 1 / (flights + 2).
    posterior = torch.distributions.Beta(1.0, flights + 1.0)
    error = float(posterior.stddev / effective_sample_size(draws).sqrt())
    assert float(fit.params["probability"]) == pytest.approx(1 / (flights + 2), abs=4 * error)
    # Otherwise the bound would also let 1 / (flights + 1) through.
    assert 4 * error < 1 / (flights + 1) - 1 / (flights + 2)


def positive(x):
    g = pyro.sample("g", dist.Gamma(2.0, 1.0))
    pyro.sample("x", dist.Normal(0.0 * g, 1.0), obs=x)


def test_gamma_mode_is_one_in_the_constrained_and_two_in_the_unconstrained_space():
    nothing = double(0.0)  # an observation that says nothing about g
    assert float(MAP().fit(positive, nothing).params["g"]) == pytest.approx(1.0, abs=1e-6)
    fit = Laplace(draws=4000).fit(positive, nothing)
    # u = log g has log-density 2 u - e^u, with mode log 2 and curvature 2 there.
    constant = -0.5 * math.log(2 * math.pi)
    peak = 2 * math.log(2) - 2 + constant
    assert fit.history.objective.iloc[-1] == pytest.approx(peak, abs=1e-9)
    evidence = peak + 0.5 * math.log(2 * math.pi) - 0.5 * math.log(2)
    assert fit.diagnostics["log_evidence"] == pytest.approx(evidence, abs=1e-8)
    # Independent draws: the mean of 4000 has a standard error of sqrt(1/2) / sqrt(4000) = .011.
    centre = float(fit.draws["g"].log().mean().exp())
    assert centre == pytest.approx(2.0, rel=4 * math.sqrt(0.5 / 4000))


# -- mixtures --------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [EM(tol=1e-12), MLE()])
def test_faithful_mixture_reaches_the_optimum_of_scikit_learn(estimator):
    data = pd.read_csv(EXAMPLES / "faithful.csv").to_numpy(dtype=float)
    theirs = Reference(2, n_init=10, reg_covar=0.0, tol=1e-10, max_iter=2000, random_state=0)
    theirs.fit(data)
    fit = estimator.fit(GaussianMixture(2), data)
    assert fit.log_likelihood / len(data) == pytest.approx(theirs.score(data), abs=1e-6)
    ours, order = fit.params, fit.params["weights"].argsort()
    rank = theirs.weights_.argsort()
    np.testing.assert_allclose(ours["weights"][order], theirs.weights_[rank], atol=1e-4)
    np.testing.assert_allclose(ours["locs"][order], theirs.means_[rank], rtol=1e-4)
    np.testing.assert_allclose(ours["covariances"][order], theirs.covariances_[rank], rtol=1e-3)


# -- Dawid and Skene's patients --------------------------------------------------------------

PREVALENCE = [0.3996, 0.4220, 0.1118, 0.0667]
FIRST_OBSERVER = [
    [0.8895, 0.1105, 0.0, 0.0],
    [0.0706, 0.8764, 0.0530, 0.0],
    [0.0, 0.3388, 0.6612, 0.0],
    [0.0, 0.0, 0.5556, 0.4444],
]
OTHER_DIAGONALS = [
    [0.8342, 0.6329, 1.0, 1.0],
    [1.0, 0.7883, 0.1988, 0.3333],
    [0.9444, 0.8426, 0.8012, 0.6667],
    [1.0, 0.7345, 0.7909, 0.6667],
]


@pytest.fixture(scope="module")
def anesthesia():
    return Annotations.from_frame(pd.read_csv(EXAMPLES / "anesthesia.csv"))


@pytest.mark.parametrize("estimator", [EM(), MLE()])
def test_dawid_skene_likelihood_optimum(anesthesia, estimator):
    if estimator.name == "em":
        fit = estimator.fit(DawidSkene(4), anesthesia)
    else:
        with pytest.warns(BoundaryWarning, match="'confusion'"):
            fit = estimator.fit(DawidSkene(4), anesthesia)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-192.8909, abs=1e-4)
    np.testing.assert_allclose(fit.params["prevalence"], PREVALENCE, atol=1e-3)
    confusion = fit.params["confusion"]
    np.testing.assert_allclose(confusion[0], FIRST_OBSERVER, atol=1e-3)
    diagonals = confusion[1:].diagonal(dim1=-2, dim2=-1)
    np.testing.assert_allclose(diagonals, OTHER_DIAGONALS, atol=1e-3)
    # A cell that is a published zero is zero, not a small number.
    assert float(confusion[0, 0, 3]) == 0.0


def test_dawid_skene_em_path(anesthesia):
    history = EM().fit(DawidSkene(4), anesthesia).history.objective
    # The first entry is at the tables from vote shares, which count as the first step.
    reference = {1: -205.0911, 2: -194.5510, 5: -192.9093, 10: -192.8910, 20: -192.8909}
    for step, value in reference.items():
        assert history[min(step - 1, len(history) - 1)] == pytest.approx(value, abs=1e-4)


def test_dawid_skene_classes_of_the_patients(anesthesia):
    probabilities = EM().fit(DawidSkene(4), anesthesia).latent("truth")
    assert torch.bincount(probabilities.argmax(-1), minlength=4).tolist() == [18, 19, 5, 3]
    top = pd.Series(probabilities.amax(-1).numpy(), index=anesthesia.tasks)
    uncertain = top[top < 0.99]
    assert uncertain.index.tolist() == [7, 35, 38]
    np.testing.assert_allclose(uncertain, [0.981, 0.948, 0.979], atol=1e-3)


@pytest.mark.parametrize("estimator", [MAP(), EM(objective="posterior")])
def test_dawid_skene_posterior_optimum(anesthesia, estimator):
    rows = torch.full((4, 4), 3.2 / 3, dtype=torch.float64).fill_diagonal_(4.8)
    program = DawidSkene(4, prevalence_prior=3.0, confusion_prior=rows)
    fit = estimator.fit(program, anesthesia)
    np.testing.assert_allclose(
        fit.params["prevalence"], [0.3773, 0.3976, 0.1501, 0.0750], atol=1e-3
    )


def crowd(name, n_classes):
    folder = DATA / "crowd" / name
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set LIKELY_DATA")
    labels, truth = (pd.read_csv(folder / f"{part}.csv") for part in ("labels", "truth"))
    annotations = Annotations.from_frame(labels, annotator="worker", classes=range(n_classes))
    return annotations, truth.set_index("task")["label"]


def accuracy(fit, annotations, truth):
    guesses = pd.Series(fit.latent("truth").argmax(-1).numpy(), index=annotations.tasks)
    return float((guesses.loc[truth.index] == truth).mean())


@pytest.mark.parametrize(
    ("name", "log_likelihood", "share"),
    [("bluebirds", -1888.12, 0.898), ("rte", -3679.63, 0.928)],
)
def test_crowd_optimum_and_accuracy(name, log_likelihood, share):
    annotations, truth = crowd(name, 2)
    fit = EM().fit(DawidSkene(2), annotations)
    assert fit.log_likelihood == pytest.approx(log_likelihood, abs=0.01)
    assert accuracy(fit, annotations, truth) == pytest.approx(share, abs=0.002)


# Where the likelihood is nearly flat, EM creeps on for hundreds of steps. The reference stopped on
# the way; at the step nearest to its log-likelihood the accuracy is its accuracy, too, and creeping
# on to the optimum changes some tasks more.
@pytest.mark.parametrize(
    ("name", "n_classes", "log_likelihood", "share"),
    [("web", 5, -17239.28, 0.830), ("d_product", 2, -7568.82, 0.940)],
)
def test_crowd_accuracy_where_em_creeps(name, n_classes, log_likelihood, share):
    annotations, truth = crowd(name, n_classes)
    program = DawidSkene(n_classes)
    fit = EM().fit(program, annotations)
    assert fit.converged
    assert log_likelihood < fit.log_likelihood < log_likelihood + 5
    assert accuracy(fit, annotations, truth) == pytest.approx(share, abs=0.005)
    steps = int((fit.history.objective - log_likelihood).abs().argmin())
    assert 50 < steps < fit.n_iter / 2
    with pytest.warns(ConvergenceWarning, match=f"{steps} iterations"):
        early = EM(max_iter=steps).fit(program, annotations)
    assert early.log_likelihood == pytest.approx(log_likelihood, abs=0.01)
    assert accuracy(early, annotations, truth) == pytest.approx(share, abs=0.002)


def test_crowd_accuracy_of_many_classes_and_few_labels():
    annotations, truth = crowd("labelme", 8)
    fit = EM().fit(DawidSkene(8), annotations)
    assert fit.converged
    assert accuracy(fit, annotations, truth) == pytest.approx(0.795, abs=0.002)
    # With 2.5 labels a task the likelihood has many optima close by, and rounding chooses among
    # them; the reference ended in one at -2706.93.
    assert fit.log_likelihood == pytest.approx(-2706.93, abs=2.0)


# -- engines against each other --------------------------------------------------------------


def distances(fit, reference):
    """Distance of posterior means in posterior standard deviations, by site."""
    found = {}
    for name, draws in reference.draws.items():
        spread = draws.flatten(0, 1).std(0)
        found[name] = (fit.draws[name].mean((0, 1)) - draws.mean((0, 1))).abs() / spread
    return found


@pytest.mark.slow
def test_logistic_posterior_means_agree_across_engines():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    chance = torch.sigmoid(0.3 + x @ double([0.5, -0.25]))
    y = (torch.rand(2000, generator=generator, dtype=torch.float64) < chance).double()
    program = LogisticRegression()
    reference = NUTS(chains=2, draws=2000, warmup=200, cores=1, jit=True).fit(program, x, y)
    # Monte-Carlo error of a NUTS mean: 1 / sqrt(2500) = .02 posterior sds; of the 10000 and 4000
    # independent draws of the others: .010 and .016. Together at most .026, so that a difference
    # of .1 is four standard errors, and what is left is the engines' own.
    assert reference.diagnostics["ess_min"] > 2500
    laplace = Laplace(draws=10_000).fit(program, x, y)
    # Steps that shrink to a thousandth leave less of the gradient's noise than the default.
    svi = SVI(
        guide="multivariate",
        max_iter=2000,
        num_particles=2,
        draws=4000,
        optimizer=ClippedAdam({"lr": 0.03, "lrd": 0.001 ** (1 / 2000)}),
    ).fit(program, x, y)
    for fit in (laplace, svi):
        for name, distance in distances(fit, reference).items():
            assert float(distance.max()) < 0.1, (fit.engine, name)
    assert svi.diagnostics["khat"] < 0.7


@pytest.mark.slow
def test_dawid_skene_posteriors_of_svi_and_vbem_are_those_of_nuts(anesthesia):
    program = DawidSkene(4)
    reference = NUTS(chains=2, draws=300, warmup=150, cores=1, jit=True).fit(program, anesthesia)
    # Monte-Carlo error of a NUTS mean: 1 / sqrt(450) = .047 posterior sds, of SVI's 2000
    # independent draws .022, together .052: of 64 differences the largest is about three times
    # that, .16, where the posteriors are the same.
    assert reference.diagnostics["ess_min"] > 450
    fit = SVI(max_iter=3000, draws=2000).fit(program, anesthesia)
    for name, distance in distances(fit, reference).items():
        assert float(distance.max()) < 0.3, name
    # VBEM takes classes and tables for independent, which moves means by up to a third of a
    # posterior standard deviation (a cell of an observer who hardly uses it) and narrows cells.
    vbem = VBEM(draws=2000).fit(program, anesthesia)
    for name, distance in distances(vbem, reference).items():
        assert float(distance.max()) < 0.5, name
        assert float(distance.mean()) < 0.12, name
        ratio = vbem.draws[name].std((0, 1)) / reference.draws[name].std((0, 1))
        assert float(ratio.min()) > 0.5, name
        assert float(ratio.max()) < 1.3, name
    assert vbem.diagnostics["khat"] < 0.7
