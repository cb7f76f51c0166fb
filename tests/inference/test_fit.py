"""What a fit answers: latents, predictions, criteria, and what it needs its program for."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import expit

from likely.inference import EM, MAP, MLE, Fit, FitError, Laplace, ProgramError
from likely.models import (
    Annotations,
    BernoulliModel,
    CategoricalModel,
    DawidSkene,
    GaussianMixture,
    GaussianModel,
    LinearRegression,
)


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def two_rates(y=None, n=0):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
    with pyro.plate("count", n if y is None else len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        return pyro.sample("y", dist.Poisson(rate[z]), obs=y)


COUNTS = double([0, 1, 1, 2, 0, 3, 9, 12, 8, 10, 1, 2, 11, 7, 0])
START = {"weights": [0.6, 0.4], "rate": [1.0, 8.0]}


@pytest.fixture(scope="module")
def point():
    return EM(init=START).fit(two_rates, COUNTS)


@pytest.fixture(scope="module")
def posterior():
    return Laplace(init=START, draws=60).fit(two_rates, COUNTS)


def by_bayes(weights, rate):
    """Class probabilities of every count at one value of the unknowns."""
    joint = weights.numpy() * stats.poisson.pmf(COUNTS.numpy()[:, None], rate.numpy())
    return joint / joint.sum(1, keepdims=True)


# -- what there is ---------------------------------------------------------------------------


def test_a_point_is_one_chain_of_one_draw(point, posterior):
    assert point.is_point
    assert not posterior.is_point
    for name, value in point.params.items():
        assert torch.equal(point.draws[name], value[None, None])
    for name, value in posterior.params.items():
        torch.testing.assert_close(posterior.draws[name].mean((0, 1)), value)
    assert posterior.draws["rate"].shape == (1, 60, 2)


def test_log_densities_are_those_at_params(point):
    weights, rate = point.params["weights"].numpy(), point.params["rate"].numpy()
    density = (weights * stats.poisson.pmf(COUNTS.numpy()[:, None], rate)).sum(1)
    assert point.log_likelihood == pytest.approx(np.log(density).sum(), abs=1e-10)
    prior = stats.dirichlet.logpdf(weights, [2, 2])
    prior += stats.gamma.logpdf(rate, 2.0, scale=5.0).sum()
    assert point.log_prior == pytest.approx(prior, abs=1e-10)


def test_repr_says_what_was_found(point):
    text = repr(point)
    assert "engine='em', converged after" in text
    assert f"log_likelihood={point.log_likelihood:.4f}" in text
    assert "rate[2]" in text


def test_draws_are_given_one_by_one_and_spread_evenly(posterior):
    every = posterior.each_draw()
    assert len(every) == 60
    for i in (0, 17, 59):
        assert torch.equal(every[i]["rate"], posterior.draws["rate"][0, i])
    few = [value["rate"] for value in posterior.each_draw(4)]
    positions = [int((posterior.draws["rate"][0] == v).all(-1).nonzero()) for v in few]
    assert positions == [0, 20, 39, 59]
    assert len(posterior.each_draw(1000)) == 60


def test_deterministic_sites_are_in_params_and_draws():
    def program(y):
        log_rate = pyro.sample("log_rate", dist.Normal(0.0, 2.0))
        rate = pyro.deterministic("rate", log_rate.exp())
        with pyro.plate("count", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    fit = MLE(tol=1e-14).fit(program, COUNTS)
    assert float(fit.params["rate"]) == pytest.approx(float(COUNTS.mean()), abs=1e-6)
    assert set(fit.point()) == {"log_rate"}
    drawn = Laplace(draws=40).fit(program, COUNTS)
    torch.testing.assert_close(drawn.draws["rate"], drawn.draws["log_rate"].exp())
    # The mean of the rates, which is not the rate of the mean.
    torch.testing.assert_close(drawn.params["rate"], drawn.draws["rate"].mean())
    assert not torch.isclose(drawn.params["rate"], drawn.params["log_rate"].exp(), rtol=1e-5)


# -- latents ---------------------------------------------------------------------------------


def test_latents_of_a_point_are_exact(point):
    expected = by_bayes(point.params["weights"], point.params["rate"])
    np.testing.assert_allclose(point.latent("z"), expected, atol=1e-12)


def test_latents_of_a_posterior_are_averaged_over_draws(posterior):
    each = np.stack([by_bayes(v["weights"], v["rate"]) for v in posterior.each_draw()])
    np.testing.assert_allclose(posterior.latent("z"), each.mean(0), atol=1e-12)
    np.testing.assert_allclose(
        posterior.latent("z", draws=4), each[[0, 20, 39, 59]].mean(0), atol=1e-12
    )
    # Averaging matters: the mean's own classes are others.
    at_mean = by_bayes(posterior.params["weights"], posterior.params["rate"])
    assert np.abs(each.mean(0) - at_mean).max() > 0.01


def test_latents_in_several_plates_and_of_several_values():
    def program(y):
        weights = pyro.sample("weights", dist.Dirichlet(torch.full((3,), 3.0)))
        with pyro.plate("column", 2, dim=-1):
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
            with pyro.plate("row", len(y), dim=-2):
                z = pyro.sample("z", dist.Categorical(weights))
                level = torch.tensor([-2.0, 0.0, 2.0])[z]
                pyro.sample("y", dist.Normal(level + shift, 1.0), obs=y)

    y = double([[0.1, -2.0], [1.8, 0.3], [-2.2, 1.1], [0.0, 0.2]])
    fit = MAP(init={"weights": [0.3, 0.4, 0.3], "shift": [0.0, 0.0]}).fit(program, y)
    weights, shift = fit.params["weights"].numpy(), fit.params["shift"].numpy()
    level = np.array([-2.0, 0.0, 2.0]) + shift[None, :, None]
    joint = weights * stats.norm.pdf(y.numpy()[..., None], level)
    found = fit.latent("z")
    assert found.shape == (4, 2, 3)
    np.testing.assert_allclose(found, joint / joint.sum(-1, keepdims=True), atol=1e-10)


def test_a_site_that_is_no_latent_is_refused(point):
    with pytest.raises(ProgramError, match=r"'rate' is not a discrete latent.*it has 'z'"):
        point.latent("rate")


# -- predictions -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def line():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 2))
    y = 1.0 + x @ [2.0, -1.0] + 0.5 * generator.normal(size=40)
    return (
        x,
        y,
        MLE().fit(LinearRegression(), x, y),
        Laplace(draws=300).fit(LinearRegression(), x, y),
    )


def test_predictions_have_a_draw_for_every_posterior_draw(line):
    _, _, point, posterior = line
    assert point.predict()["y"].shape == (1, 1000, 40)
    assert point.predict(draws=7)["y"].shape == (1, 7, 40)
    assert posterior.predict()["y"].shape == (1, 300, 40)
    assert posterior.predict(draws=5)["y"].shape == (1, 5, 40)
    assert posterior.predict(draws=700)["y"].shape == (1, 700, 40)
    assert set(point.predict()) == {"y"}


def test_predictions_for_new_arguments(line):
    _, _, point, _ = line
    new = double([[0.0, 0.0], [1.0, 1.0], [-3.0, 2.0]])
    drawn = point.predict(new, draws=4000)["y"][0]
    assert drawn.shape == (4000, 3)
    mean = point.params["intercept"] + new @ point.params["coefficients"]
    scale = float(point.params["scale"])
    # 4000 independent draws: standard errors of scale/√n for the mean and scale/√(2n).
    torch.testing.assert_close(drawn.mean(0), mean, atol=4 * scale / math.sqrt(4000), rtol=0)
    spread = torch.full((3,), scale).double()
    torch.testing.assert_close(drawn.std(0), spread, atol=4 * scale / math.sqrt(8000), rtol=0)
    # Keywords are arguments, too.
    named = point.predict(x=new, draws=10)["y"]
    torch.testing.assert_close(named, point.predict(new, draws=10)["y"])


def test_a_posterior_predicts_with_its_own_uncertainty():
    def program(y=None, n=0):
        level = pyro.sample("level", dist.Normal(0.0, 3.0))
        with pyro.plate("row", n if y is None else len(y)):
            return pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    fit = Laplace(draws=4000).fit(program, double([1.5, 2.5]))
    drawn = fit.predict(None, 1)["y"][0, :, 0]
    precision = 2 + 1 / 9
    variance = 1 / precision + 1.0
    error = math.sqrt(variance / 4000)
    assert float(drawn.mean()) == pytest.approx(4.0 / precision, abs=4 * error)
    assert float(drawn.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / 4000))
    # Two predictions of one draw share its level.
    pair = fit.predict(None, 2)["y"][0]
    correlation = float(torch.corrcoef(pair.T)[0, 1])
    assert correlation == pytest.approx(1 / precision / variance, abs=4 / math.sqrt(4000))


def test_predictions_follow_the_seed(line):
    _, _, point, posterior = line
    for fit in (point, posterior):
        first = fit.predict(draws=20)["y"]
        torch.rand(3)
        assert torch.equal(first, fit.predict(draws=20)["y"])
        assert torch.equal(fit.predict(draws=20, seed=3)["y"], fit.predict(draws=20, seed=3)["y"])
        assert not torch.equal(first, fit.predict(draws=20, seed=3)["y"])
    state = torch.get_rng_state()
    point.predict(draws=5)
    assert torch.equal(state, torch.get_rng_state())


def test_predictions_of_a_mixture_are_of_the_mixture(point):
    drawn = point.predict(draws=400)["y"]
    assert drawn.shape == (1, 400, 15)
    weights, rate = point.params["weights"], point.params["rate"]
    mean = float(weights @ rate)
    variance = float(weights @ (rate + rate.square())) - mean**2
    # Latents are drawn anew: 6000 independent counts of the mixture, not of given classes.
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / 6000))
    assert float((drawn == 0).double().mean()) == pytest.approx(
        float(weights @ (-rate).exp()), abs=4 * math.sqrt(0.25 / 6000)
    )


def test_no_draws_cannot_be_predicted(point):
    with pytest.raises(FitError, match="draws"):
        point.predict(draws=0)


# -- criteria --------------------------------------------------------------------------------


def test_criteria_of_a_gaussian_by_hand():
    y = double(np.random.default_rng(4).normal(1.0, 2.0, 30))
    fit = MLE().fit(GaussianModel(), y)
    value = stats.norm.logpdf(y, float(y.mean()), float(y.std(correction=0))).sum()
    assert fit.aic() == pytest.approx(2 * 2 - 2 * value, abs=1e-6)
    assert fit.bic() == pytest.approx(2 * math.log(30) - 2 * value, abs=1e-6)


def test_parameters_and_observations_are_counted():
    shares = MLE().fit(CategoricalModel(4), torch.tensor([0, 1, 2, 3, 3]))
    assert (shares.n_parameters, shares.n_observations) == (3, 5)
    points = double(np.random.default_rng(5).normal(size=(25, 2)))
    mixture = MAP().fit(GaussianMixture(2), points)
    # Weights 1, locs 4, scales 4, correlations 2.
    assert (mixture.n_parameters, mixture.n_observations) == (11, 25)
    crowd = Annotations.from_arrays([0, 0, 1, 1, 2], [0, 1, 0, 1, 1], [0, 0, 1, 0, 1])
    labels = MAP().fit(DawidSkene(2), crowd)
    # An observation is all labels of a task, which share its unknown class.
    assert (labels.n_parameters, labels.n_observations) == (1 + 2 * 2, 3)
    assert labels.bic() == pytest.approx(5 * math.log(3) - 2 * labels.log_likelihood)


def test_criteria_ask_for_the_kind_of_fit_they_are_for(point, posterior):
    for criterion in (posterior.aic, posterior.bic):
        with pytest.raises(FitError, match=r"for point fits.*'laplace'.*loo"):
            criterion()
    with pytest.raises(FitError, match=r"'em' gives a point.*aic"):
        point.loo()


def test_loo_is_exact_leave_one_out_where_that_is_known():
    def program(y):
        level = pyro.sample("level", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    y = double([1.5, 2.5, 0.7, 2.0, 3.1, 1.2, 2.2, 1.9])
    total = 0.0
    for i in range(8):
        rest = torch.cat([y[:i], y[i + 1 :]])
        precision = 7 + 1 / 9
        spread = math.sqrt(1 + 1 / precision)
        total += stats.norm.logpdf(float(y[i]), float(rest.sum()) / precision, spread)
    found = Laplace(draws=4000).fit(program, y).loo()
    value = float(found.elpd_loo if hasattr(found, "elpd_loo") else found.elpd)
    # The Laplace draws are exact here. Each of 8 terms is a log mean of 4000 weights whose relative
    # spread is below one: errors of at most 1/sqrt(4000) = .016 each, .045 in all.
    assert value == pytest.approx(total, abs=3 * 0.045)
    in_sample = float(stats.norm.logpdf(y, float(y.mean()), 1.0).sum())
    assert in_sample - total > 3 * 0.045  # so that the two are told apart


# -- without the program ---------------------------------------------------------------------


@pytest.fixture
def loaded(point, tmp_path):
    point.save(tmp_path / "fit.nc")
    return Fit.load(tmp_path / "fit.nc")


def test_a_loaded_fit_says_what_needs_its_program(loaded):
    assert loaded.program is None
    for ask in (
        loaded.predict,
        loaded.standard_errors,
        loaded.point,
        loaded.each_draw,
        loaded.aic,
        loaded.bic,
        lambda: loaded.n_parameters,
        lambda: loaded.n_observations,
    ):
        with pytest.raises(FitError, match=r"needs the program.*attach"):
            ask()


def test_a_loaded_fit_keeps_its_numbers(loaded, point):
    for name, value in point.params.items():
        torch.testing.assert_close(loaded.params[name], value, rtol=0, atol=0)
    assert loaded.log_likelihood == point.log_likelihood
    assert loaded.history.equals(point.history)
    torch.testing.assert_close(loaded.latent("z"), point.latent("z"), rtol=0, atol=1e-12)


def test_attaching_the_program_brings_its_answers_back(loaded, point):
    assert loaded.attach(two_rates, COUNTS) is loaded
    assert loaded.aic() == pytest.approx(point.aic(), abs=1e-12)
    assert loaded.bic() == pytest.approx(point.bic(), abs=1e-12)
    torch.testing.assert_close(loaded.predict(draws=5)["y"], point.predict(draws=5)["y"])
    for name, value in point.standard_errors().items():
        torch.testing.assert_close(loaded.standard_errors()[name], value)


def test_attaching_another_program_is_refused(loaded):
    with pytest.raises(FitError, match="'probability'"):
        loaded.attach(BernoulliModel(), double([1, 0, 1]))

    def three_rates(y):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("component", 3):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
        with pyro.plate("count", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Poisson(rate[z]), obs=y)

    with pytest.raises(FitError, match=r"'weights' of shape \(3,\).*\(2,\)"):
        loaded.attach(three_rates, COUNTS)
    assert loaded.program is None


def test_logistic_predictions_are_chances():
    def program(x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(x)):
            return pyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)

    x = double([-2.0, -1.0, 0.5, 1.0, 2.0, -0.5])
    fit = MAP().fit(program, x, double([0, 0, 1, 1, 1, 1]))
    drawn = fit.predict(x, draws=3000)["y"][0].mean(0)
    chance = expit(float(fit.params["slope"]) * x.numpy())
    np.testing.assert_allclose(drawn, chance, atol=4 * 0.5 / math.sqrt(3000))
