"""Variational posteriors from data in parts: the numbers of all data at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from likely.inference import (
    SVI,
    DistributedError,
    OptionError,
    ProgramError,
    Shards,
    latent_by_part,
    trained_guide,
)
from likely.inference.distributed import _KINDS, _described
from likely.inference.errors import FitError
from likely.inference.shards import Sharded
from likely.models import Annotations
from likely.models.crowd import DawidSkene, LearningFromCrowds

pytestmark = pytest.mark.filterwarnings(
    "ignore::likely.inference.errors.ConvergenceWarning",
    "ignore::likely.inference.errors.DegenerateWarning",
)
# Sums in another order differ by rounding, and Adam's steps carry it on.
SAME = 1e-9
FEW = {"max_iter": 50, "draws": 20}


def simulated(n=60, annotators=4):
    rng = np.random.default_rng(12)
    features = rng.normal(size=(n, 2))
    truth = (features[:, 0] > 0).astype(int)
    task = np.repeat(np.arange(n), 3)
    annotator = rng.permuted(np.tile(np.arange(annotators), (n, 1)), axis=1)[:, :3].reshape(-1)
    label = np.where(rng.random(task.size) < 0.3, rng.integers(2, size=task.size), truth[task])
    return Annotations.from_arrays(task, annotator, label, features=features)


CROWD = simulated()
COUNTS = torch.as_tensor(
    np.random.default_rng(3).poisson([1.0, 8.0], size=(30, 2)).ravel()
).double()
RATES = {"weights": [0.5, 0.5], "rate": [1.0, 5.0]}


def cut(*places):
    return [CROWD.subset(torch.arange(i, j)) for i, j in pairwise([0, *places, CROWD.n_tasks])]


def two_rates(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    rate = pyro.sample("rate", dist.Gamma(2.0 * torch.ones(2), 1.0).to_event(1))
    with pyro.plate("n", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def with_parameter(x):
    shape = pyro.param("shape", torch.tensor(2.0), constraint=dist.constraints.positive)
    rate = pyro.sample("rate", dist.Gamma(shape, 1.0))
    pyro.deterministic("mean", shape)
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


def guide(x):
    loc = pyro.param("loc", torch.tensor(1.0))
    scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
    pyro.sample("rate", dist.LogNormal(loc, scale))


def scored(x):
    """Its draws cannot be differentiated, so the score function has the gradient."""
    a = pyro.param("a", torch.tensor(40.0), constraint=dist.constraints.positive)
    pyro.sample("rate", dist.Gamma(a, 10.0).has_rsample_(False))


def regression(x, y):
    pyro.module("line", LINE)
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("y", dist.Normal(LINE(x).squeeze(-1), scale), obs=y)


LINE = torch.nn.Linear(2, 1)
X = torch.as_tensor(np.random.default_rng(4).normal(size=(50, 2)))
PAIRS = X, X.sum(-1) + 0.3


def assert_same(one, many, within=SAME):
    np.testing.assert_allclose(many.history, one.history, rtol=0, atol=within)
    assert many.log_likelihood == pytest.approx(one.log_likelihood, abs=within)
    assert many.log_prior == pytest.approx(one.log_prior, abs=within)
    assert many.converged == one.converged
    assert many.diagnostics["khat"] == pytest.approx(one.diagnostics["khat"], abs=1e-6)
    for kind in ("params", "draws", "sample_stats"):
        found, wanted = getattr(many, kind), getattr(one, kind)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=within)
    found, wanted = trained_guide(many).parameters(), trained_guide(one).parameters()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=within)


# -- the same posterior --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal", "multivariate", "lowrank", "flow", "delta"])
def test_a_guide_takes_the_path_of_all_data(name):
    engine = SVI(guide=name, **FEW)
    assert_same(
        engine.fit(DawidSkene(2), CROWD), engine.fit(DawidSkene(2), Shards(cut(20, 21, 50)))
    )


@pytest.mark.parametrize("name", ["normal", "flow"])
def test_latents_take_none_of_the_noise(name):
    # A run that draws them takes as many random numbers as there are data.
    engine = SVI(guide=name, init=RATES, **FEW)
    assert_same(
        engine.fit(two_rates, COUNTS), engine.fit(two_rates, Shards(COUNTS.split([1, 25, 34])))
    )


@pytest.mark.parametrize(
    ("own", "options"),
    [
        (guide, {}),
        (guide, {"num_particles": 3}),
        (guide, {"restarts": 2}),
        (scored, {}),
        (AutoNormal(with_parameter, init_scale=0.2), {}),
        ("normal", {"optimizer": pyro.optim.SGD({"lr": 1e-3})}),
    ],
    ids=["own", "particles", "restarts", "score", "autoguide", "optimizer"],
)
def test_guides_of_ones_own_and_parameters(own, options):
    engine = SVI(guide=own, **FEW, **options)
    assert_same(
        engine.fit(with_parameter, COUNTS),
        engine.fit(with_parameter, Shards(COUNTS.split([11, 49]))),
    )


def test_a_module_is_trained_along():
    engine = SVI(**FEW)
    parts = [tuple(v[:9] for v in PAIRS), {"x": X[9:], "y": PAIRS[1][9:]}]
    assert_same(engine.fit(regression, *PAIRS), engine.fit(regression, Shards(parts)))


def test_a_classifier_in_a_crowd():
    init = {
        "intercept": [0.0, 0.0],
        "coefficients": [[-0.5, 0.0], [0.5, 0.0]],
        "confusion": [[[0.7, 0.3], [0.3, 0.7]]] * 4,
    }
    engine = SVI(init=init, **FEW)
    assert_same(
        engine.fit(LearningFromCrowds(2), CROWD),
        engine.fit(LearningFromCrowds(2), Shards(cut(20, 45))),
    )


def test_the_point_is_that_of_the_posterior_mode():
    # A conjugate posterior, Gamma(2 + Σx, 1 + n), whose mode is known.
    def rates(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    fit = SVI(guide="delta", max_iter=2000, draws=2).fit(rates, Shards(COUNTS.split([20, 40])))
    mode = (2.0 + float(COUNTS.sum()) - 1.0) / (1.0 + len(COUNTS))
    assert fit.converged
    assert float(fit.params["rate"]) == pytest.approx(mode, abs=1e-6)


# -- passes --------------------------------------------------------------------------------------


def test_parts_are_read_once_for_a_step_and_once_for_all_draws():
    passes = []

    def parts():
        passes.append(None)
        return iter(COUNTS.split([20, 40]))

    SVI(max_iter=7, draws=50).fit(with_parameter, Shards(parts))
    # Two to read them and one in each step; then all draws, and the density at their mean.
    assert len(passes) == 2 + 7 + 1 + 1


def test_a_program_that_draws_leaves_the_noise_alone():
    def restless(x):
        torch.rand(len(x))
        with_parameter(x)

    # The same first part; the others would draw otherwise in every step.
    engine = SVI(**FEW)
    two = engine.fit(restless, Shards(COUNTS.split([11, 49])))
    three = engine.fit(restless, Shards(COUNTS.split([11, 20, 29])))
    assert_same(two, three)


def test_draws_go_into_the_latents_of_parts():
    engine = SVI(**FEW)
    one = engine.fit(DawidSkene(2), CROWD)
    many = engine.fit(DawidSkene(2), Shards(cut(20)))
    found = torch.cat([p for _, p in latent_by_part(many, "truth")])
    torch.testing.assert_close(found, one.latent("truth"), rtol=0, atol=SAME)
    few = torch.cat([p for _, p in latent_by_part(many, "truth", draws=3)])
    torch.testing.assert_close(few, one.latent("truth", draws=3), rtol=0, atol=SAME)
    with pytest.raises(FitError, match="draws must be a positive integer"):
        next(latent_by_part(many, "truth", draws=0))
    with pytest.raises(FitError, match="latent_by_part"):
        many.latent("truth")
    posterior = many.to_arviz().posterior
    assert posterior["annotator"].values.tolist() == CROWD.annotators.tolist()
    assert {"mean", "sd"} <= set(many.summary().columns)


def test_a_fit_of_parts_starts_the_next_and_a_callback_stops_it():
    parts = Shards(cut(20))
    first = SVI(**FEW).fit(DawidSkene(2), parts)
    seen = []

    def stop(step):
        seen.append(step.params()["prevalence"])
        return step.iteration == 4

    second = SVI(init=first, callback=stop, **FEW).fit(DawidSkene(2), parts)
    assert len(second.history) == len(seen) == 5
    assert not second.converged
    torch.testing.assert_close(seen[0], first.params["prevalence"], atol=0.05, rtol=0)


# -- what cannot be had --------------------------------------------------------------------------


def test_a_guide_that_reads_the_data_is_refused():
    def reads(x):
        scale = pyro.param("scale", torch.tensor(0.1))
        pyro.sample("rate", dist.LogNormal(x.mean().log(), scale))

    with pytest.raises(OptionError, match=r"draws 'rate'.* with part 1 .*guide='normal'"):
        SVI(guide=reads).fit(with_parameter, Shards(COUNTS.split([11, 49])))
    # All data in one part are the same data everywhere.
    assert SVI(guide=reads, **FEW).fit(with_parameter, Shards([COUNTS])).n_iter == 50


def test_values_for_each_observation_are_refused():
    def local(x):
        with pyro.plate("n", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    with pytest.raises(ProgramError, match="'rate' has a value for each observation"):
        SVI().fit(local, Shards(COUNTS.split([11, 49])))


def test_a_part_that_is_impossible_is_named():
    with pytest.raises(ValueError, match=r"nan|support|finite"):
        SVI().fit(with_parameter, Shards([COUNTS, torch.tensor([1.0, float("nan")])]))


def test_options_keep_their_kind_among_processes():
    kind, message, _ = _described(OptionError("guide"))
    assert (_KINDS[kind], message) == (OptionError, "guide")
    assert not issubclass(DistributedError, ValueError)
    assert Sharded.of(with_parameter, (Shards([COUNTS]),), {}).adds is None
