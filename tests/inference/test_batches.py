"""Mini-batches and data loaders: the optimum of all data, and an honest verdict."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import expit
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from likely.inference import (
    EM,
    MAP,
    MLE,
    NUTS,
    SVI,
    BoundaryWarning,
    ConvergenceWarning,
    Fit,
    FitError,
    OptionError,
    ProgramError,
)
from likely.inference.engines.stochastic import largest_curvature
from likely.inference.optimise import Minimum
from likely.inference.polish import polish
from likely.models import BernoulliModel, GaussianMixture, LogisticRegression

GENERATOR = np.random.default_rng(0)
N = 1000
X = torch.as_tensor(GENERATOR.normal(size=(N, 3)) * [1.0, 3.0, 0.3])
Y = torch.as_tensor(GENERATOR.random(N) < expit(0.4 + X.numpy() @ [1.0, -0.5, 2.0])).double()
START = {"intercept": 0.0, "coefficients": torch.zeros(3)}
# The optimum of all data is to be reached to so much; its standard errors are .04 and more.
NEAR = 1e-3


def beta_of(fit):
    return np.append(fit.params["intercept"].numpy(), fit.params["coefficients"].numpy())


@pytest.fixture(scope="module")
def full():
    return MLE().fit(LogisticRegression(), X, Y)


def loader(batch_size=32, shuffle=True, **options):
    return DataLoader(TensorDataset(X, Y), batch_size=batch_size, shuffle=shuffle, **options)


# -- mini-batches of data in memory ------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "optimizer",
    [
        "lbfgs",
        "adam",
        "sgd",
        torch.optim.RMSprop,
        partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    ],
)
def test_mini_batches_reach_the_optimum_of_all_data(optimizer, seed, full):
    engine = MLE(optimizer=optimizer, batch_size=32, max_iter=600, seed=seed, init=START)
    fit = engine.fit(LogisticRegression(), X, Y)
    assert fit.converged
    assert fit.n_iter == 600
    np.testing.assert_allclose(beta_of(fit), beta_of(full), atol=NEAR)
    assert full.log_likelihood - fit.log_likelihood < 1e-4


def test_mini_batches_find_the_posterior_mode_too():
    program = LogisticRegression(intercept_scale=0.2, coefficients_scale=0.2)
    mode = MAP().fit(program, X, Y)
    fit = MAP(batch_size=32, max_iter=600, init=START).fit(program, X, Y)
    assert fit.converged
    np.testing.assert_allclose(beta_of(fit), beta_of(mode), atol=NEAR)


def test_steps_too_short_to_arrive_are_not_called_converged(full):
    slow = partial(torch.optim.Adam, lr=1e-4)
    with pytest.warns(ConvergenceWarning, match="400 iterations"):
        fit = MLE(optimizer=slow, batch_size=32, max_iter=400, init=START).fit(
            LogisticRegression(), X, Y
        )
    assert not fit.converged
    assert np.abs(beta_of(fit) - beta_of(full)).max() > 0.1


def test_units_that_differ_by_orders_of_magnitude_do_not_matter():
    scaled = X * torch.tensor([1.0, 1e3, 1e-2]).double()
    program = LogisticRegression(coefficients_scale=1e3)
    whole = MLE().fit(program, scaled, Y)
    fit = MLE(batch_size=50, max_iter=2000).fit(program, scaled, Y)
    assert fit.converged
    errors = whole.standard_errors()["coefficients"]
    away = (fit.params["coefficients"] - whole.params["coefficients"]).abs()
    assert bool((away < 0.01 * errors).all())


def test_separable_data_do_not_converge_by_mini_batches():
    x = torch.linspace(-1.0, 1.0, 200)[:, None]
    with pytest.warns(ConvergenceWarning):
        fit = MLE(batch_size=20, max_iter=400).fit(LogisticRegression(), x, (x[:, 0] > 0).double())
    assert not fit.converged


def test_mini_batches_can_go_on_where_they_stopped(full):
    engine = MLE(
        batch_size=32, max_iter=100, init=START, callback=lambda step: step.iteration == 30
    )
    with pytest.warns(ConvergenceWarning, match="stopped"):
        half = engine.fit(LogisticRegression(), X, Y)
    assert half.n_iter == 30
    fit = MLE(batch_size=32, max_iter=500, init=half).fit(LogisticRegression(), X, Y)
    np.testing.assert_allclose(beta_of(fit), beta_of(full), atol=NEAR)


# -- loaders -----------------------------------------------------------------------------------


class Rows(IterableDataset):
    """Rows that come one after another, whose number nobody knows beforehand."""

    def __init__(self):
        self.most = 0

    def __iter__(self):
        yield from zip(X, Y, strict=True)


LOADERS = {
    "shuffled": loader,
    "uneven": partial(loader, batch_size=48),
    "one batch": partial(loader, batch_size=N, shuffle=False),
    "iterable": lambda: DataLoader(Rows(), batch_size=40),
    "by name": lambda: DataLoader(
        [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)], batch_size=50, shuffle=True
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_gives_the_optimum_of_all_data(kind, full):
    fit = MLE(max_iter=600, init=START).fit(LogisticRegression(), LOADERS[kind]())
    assert fit.converged
    np.testing.assert_allclose(beta_of(fit), beta_of(full), atol=NEAR)
    # One pass over the data, at a point that is off by the noise: second order in the distance.
    assert full.log_likelihood - 1e-4 < fit.log_likelihood <= full.log_likelihood + 1e-9
    assert fit.n_observations == N


def test_a_loader_weighs_prior_and_likelihood_as_all_data_do():
    program = LogisticRegression(intercept_scale=0.2, coefficients_scale=0.2)
    mode = MAP().fit(program, X, Y)
    fit = MAP(max_iter=500, init=START).fit(program, loader(batch_size=48))
    np.testing.assert_allclose(beta_of(fit), beta_of(mode), atol=NEAR)
    assert fit.log_prior == pytest.approx(mode.log_prior, abs=1e-2)


def test_a_fit_from_a_loader_is_a_fit(full, tmp_path):
    class Named(LogisticRegression):
        def coords(self, x, y=None, *, weights=None):
            return {"feature": ["a", "b", "c"]}

    fit = MLE(max_iter=500).fit(Named(), loader())
    data = fit.to_arviz()
    assert data["posterior"]["coefficients"].sizes == {"chain": 1, "draw": 1, "feature": 3}
    assert data["posterior"]["feature"].values.tolist() == ["a", "b", "c"]
    # What needs the observations is left out.
    names = set(data.children if hasattr(data, "children") else data.groups())
    assert "posterior" in names
    assert not names & {"log_likelihood", "observed_data"}
    assert fit.draws["coefficients"].shape == (1, 1, 3)
    errors, whole = fit.standard_errors(), full.standard_errors()
    torch.testing.assert_close(errors["coefficients"], whole["coefficients"], rtol=1e-3, atol=0)
    assert fit.bic() == pytest.approx(full.bic(), abs=1e-3)
    assert fit.summary().shape[0] == 4
    fit.save(tmp_path / "fit.nc")
    torch.testing.assert_close(Fit.load(tmp_path / "fit.nc").params, fit.params)
    # New data can be predicted; the old ones are gone.
    assert fit.predict(X[:7], draws=5)["y"].shape == (1, 5, 7)
    with pytest.raises(FitError, match="keeps no observations"):
        fit.predict()
    far = {"intercept": 0.0, "coefficients": torch.zeros(3)}
    cold, warm = (MLE(init=start).fit(LogisticRegression(), X, Y) for start in (far, fit))
    assert warm.n_iter < cold.n_iter


def test_a_loader_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = MLE(max_iter=40).fit(LogisticRegression(), loader())
    assert torch.equal(torch.get_rng_state(), before)
    again = MLE(max_iter=40).fit(LogisticRegression(), loader())
    assert torch.equal(first.params["coefficients"], again.params["coefficients"])


def test_latents_are_summed_out_batch_by_batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 1, generator=generator).double()
    x[:150] += 6.0
    program, start = GaussianMixture(2), {"locs": [[0.0], [6.0]]}
    whole = MLE(init=start).fit(program, x)
    batches = DataLoader(TensorDataset(x), batch_size=40, shuffle=True)
    fit = MLE(max_iter=600, init=start).fit(program, batches)
    torch.testing.assert_close(fit.params["locs"], whole.params["locs"], rtol=0, atol=1e-2)
    assert fit.n_observations == 400
    with pytest.raises(FitError, match="keeps no observations"):
        fit.latent("component")


def test_a_boundary_is_found_through_a_loader():
    heads = DataLoader(TensorDataset(torch.ones(100)), batch_size=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.warns(BoundaryWarning):
            fit = MLE(max_iter=1000).fit(BernoulliModel(), heads)
    assert float(fit.params["probability"]) == 1.0


def test_progress_and_callbacks_see_every_batch(capsys):
    seen = []
    engine = MLE(max_iter=64, progress=True, callback=lambda step: seen.append(step.iteration))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        engine.fit(LogisticRegression(), loader())
    assert seen == list(range(65))
    assert "64/64" in capsys.readouterr().err


def local(x):
    with pyro.plate("point", len(x)):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def takes(x, y=None, **more):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("point", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


FLAT = DataLoader(TensorDataset(torch.arange(20.0)), batch_size=5)


@pytest.mark.parametrize(
    ("fit", "error", "named"),
    [
        (lambda: MLE(batch_size=4).fit(takes, FLAT), OptionError, "batch_size=4"),
        (lambda: EM().fit(takes, FLAT), OptionError, "'mle' and 'map'"),
        (lambda: SVI().fit(takes, FLAT), OptionError, "'mle' and 'map'"),
        (lambda: NUTS().fit(takes, FLAT), OptionError, "'mle' and 'map'"),
        (lambda: MLE().fit(takes, FLAT, FLAT), ProgramError, "one DataLoader.*2"),
        (lambda: MLE().fit(takes, x=FLAT), ProgramError, "one DataLoader"),
        (lambda: MLE().fit(local, FLAT), ProgramError, "'loc' has a value for each"),
        (lambda: MLE().fit(takes, DataLoader([])), ProgramError, "brings no batch"),
        (lambda: MLE().fit(takes, DataLoader(["a", "b"])), ProgramError, "must be a tensor"),
        (lambda: MLE(optimizer=torch.optim.LBFGS), OptionError, "optimizer='lbfgs'"),
        (
            lambda: MLE(optimizer=partial(torch.optim.LBFGS, lr=0.1)),
            OptionError,
            "optimizer='lbfgs'",
        ),
        (
            lambda: MLE(optimizer=lambda p: torch.optim.LBFGS(p)).fit(takes, torch.ones(3)),
            OptionError,
            "closure.*LBFGS",
        ),
        (lambda: MLE(optimizer=lambda p: 3).fit(takes, torch.ones(3)), OptionError, "got int"),
    ],
)
def test_what_cannot_be_fitted_is_refused(fit, error, named):
    with pytest.raises(error, match=named):
        fit()


# -- the parts ---------------------------------------------------------------------------------


def test_polishing_reaches_the_optimum_and_says_how_far_it_was():
    matrix = torch.tensor([[4.0, 1.0], [1.0, 100.0]]).double()

    def bowl(x):
        return float(0.5 * x @ matrix @ x), matrix @ x

    start = Minimum(torch.tensor([0.5, -0.1]).double(), 1.0, False, 10, scatter=9 * matrix)
    # Batches of a tenth: (1 − f) / f = 9 times the information.
    found = polish(bowl, start, 0.1, 3, 1e-12)
    assert found.converged
    np.testing.assert_allclose(found.x, [0.0, 0.0], atol=1e-6)
    assert found.n_iter == 10
    many = []

    def counted(x):
        many.append(x)
        return bowl(x)

    polish(counted, start, 0.1, 3, 1e-12)
    assert len(many) <= 4


def test_the_largest_curvature_is_the_largest_eigenvalue():
    matrix = torch.tensor([[4.0, 1.0], [1.0, 100.0]]).double()
    found = largest_curvature(
        lambda x: (float(0.5 * x @ matrix @ x), matrix @ x), torch.tensor([1.0, 2.0]).double()
    )
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-5)
    flat = largest_curvature(lambda x: (0.0, torch.zeros(2).double()), torch.ones(2).double())
    assert flat == 0.0
