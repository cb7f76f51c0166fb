"""EM on data in parts where added statistics do not suffice: M-steps that go over the parts."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, MAP, MLE, Shards
from likely.inference.engines.parts import expect
from likely.inference.shards import Sharded
from likely.models import Annotations, GaussianMixture, NaiveBayes
from likely.models.crowd import (
    DawidSkene,
    FeatureDependentCrowd,
    HierarchicalDawidSkene,
    LearningFromCrowds,
)

# Sums in another order differ by rounding: so much in a log-likelihood of some hundreds.
SAME = 1e-9


def simulated(n=90, annotators=5):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(n, 2))
    truth = (features.sum(1) + 0.7 * rng.normal(size=n) > 0).astype(int)
    task = np.repeat(np.arange(n), 3)
    annotator = rng.permuted(np.tile(np.arange(annotators), (n, 1)), axis=1)[:, :3].reshape(-1)
    label = np.where(rng.random(task.size) < 0.3, rng.integers(2, size=task.size), truth[task])
    return Annotations.from_arrays(task, annotator, label, features=features)


CROWD = simulated()


def cut(*places):
    return [CROWD.subset(torch.arange(i, j)) for i, j in pairwise([0, *places, CROWD.n_tasks])]


def quietly(engine, program, *data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return engine.fit(program, *data)


def two_rates(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    rate = pyro.sample("rate", dist.Gamma(2.0 * torch.ones(2), 1.0).to_event(1))
    with pyro.plate("n", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


class WithStep:
    """Its M-step reads the responsibilities of all data, which no part has."""

    def __call__(self, x):
        two_rates(x)

    def m_step(self, expected, params, x, *, objective):
        members = expected["z"]
        return {"rate": members.T @ x / members.sum(0)}


COUNTS = torch.as_tensor(
    np.random.default_rng(3).poisson([1.0, 8.0], size=(40, 2)).ravel()
).double()
RATES = {"weights": [0.5, 0.5], "rate": [1.0, 5.0]}


@pytest.mark.parametrize("options", [{}, {"objective": "posterior"}, {"hard": True}])
def test_sites_below_a_latent_take_the_path_of_all_data(options):
    engine = EM(init=RATES, tol=1e-12, **options)
    one = engine.fit(two_rates, COUNTS)
    many = engine.fit(two_rates, Shards(COUNTS.split([7, 30, 43])))
    assert many.converged
    np.testing.assert_allclose(many.history, one.history, rtol=0, atol=SAME)
    for name, value in one.params.items():
        torch.testing.assert_close(many.params[name], value, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "program",
    [
        LearningFromCrowds(2, classifier=torch.nn.Linear(2, 2)),
        # 104 coordinates: too many for Newton's method.
        LearningFromCrowds(
            2,
            classifier=torch.nn.Sequential(
                torch.nn.Linear(2, 20), torch.nn.Tanh(), torch.nn.Linear(20, 2)
            ),
        ),
    ],
    ids=["linear", "network"],
)
def test_a_module_inside_a_crowd_takes_the_path_of_all_data(program):
    init = quietly(EM(max_iter=1), program, CROWD)
    engine = EM(init=init, max_iter=4)
    one = quietly(engine, program, CROWD)
    many = quietly(engine, program, Shards(cut(20, 21, 70)))
    assert one.history["objective"].iloc[-1] > one.history["objective"].iloc[0] + 0.1
    # Line searches carry rounding on.
    np.testing.assert_allclose(many.history, one.history, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "program",
    [LearningFromCrowds(2), FeatureDependentCrowd(2), HierarchicalDawidSkene(2)],
    ids=lambda program: type(program).__name__,
)
def test_crowds_with_features_reach_the_optimum_of_all_data(program):
    init = quietly(EM(objective="posterior", max_iter=2), program, CROWD)
    # The programs' own M-steps are exact, those of parts as good as L-BFGS and Newton's method
    # make them: other steps, and the same end where both have gone all the way.
    engine = EM(objective="posterior", init=init, tol=1e-14, max_iter=3000)
    one = quietly(engine, program, CROWD)
    many = quietly(engine, program, Shards(cut(30, 31, 70)))
    assert many.history["objective"].is_monotonic_increasing or (
        many.history["objective"].diff().min() > -1e-9
    )
    assert many.log_likelihood + many.log_prior == pytest.approx(
        one.log_likelihood + one.log_prior, abs=1e-9
    )
    # EM stops where a step gains 1e-14 of the objective: the root of that, times its slowness.
    for name, value in one.params.items():
        torch.testing.assert_close(many.params[name], value, rtol=0, atol=3e-5)


def test_a_mixture_of_rows_centred_part_by_part_reaches_the_optimum_of_all_rows():
    rng = np.random.default_rng(2)
    x = torch.as_tensor(np.concatenate([rng.normal(-3, 1, (80, 2)), rng.normal(3, 1, (70, 2))]))
    x = x[torch.as_tensor(rng.permutation(150))]
    init = quietly(EM(max_iter=1), GaussianMixture(2), x)
    engine = EM(init=init, tol=1e-13)
    one = engine.fit(GaussianMixture(2), x)
    many = engine.fit(GaussianMixture(2), Shards(x.split([75, 2, 73])))
    assert many.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-8)
    for name, value in one.params.items():
        torch.testing.assert_close(many.params[name], value, rtol=0, atol=1e-5)


def test_an_m_step_of_responsibilities_is_left_out():
    # The hook would see the first part alone, and is not asked.
    engine = EM(init=RATES, tol=1e-13)
    one = engine.fit(WithStep(), COUNTS)
    many = engine.fit(WithStep(), Shards(COUNTS.split([7, 73])))
    assert many.log_likelihood == pytest.approx(one.log_likelihood, abs=SAME)
    for name, value in one.params.items():
        torch.testing.assert_close(many.params[name], value, rtol=0, atol=1e-5)


def test_an_m_step_of_observations_is_left_out():
    rng = np.random.default_rng(5)
    x = torch.as_tensor(rng.random((60, 4)) < 0.3).double()
    y = torch.as_tensor(rng.integers(2, size=60))
    parts = [(x[:20], y[:20]), (x[20:], y[20:])]
    for engine in (EM(), EM(objective="posterior")):
        one, many = engine.fit(NaiveBayes(2), x, y), engine.fit(NaiveBayes(2), Shards(parts))
        for name, value in one.params.items():
            torch.testing.assert_close(many.params[name], value, rtol=0, atol=1e-7)


def test_mle_and_map_begin_with_em_steps_on_all_parts():
    program = LearningFromCrowds(2)
    init = quietly(EM(max_iter=1), program, CROWD)
    for engine in (MLE(init=init, max_iter=60), MAP(init=init, max_iter=60)):
        one = quietly(engine, program, CROWD)
        many = quietly(engine, program, Shards(cut(30)))
        # Five EM steps differ as above, and L-BFGS goes on from there.
        assert many.history["objective"].iloc[0] == pytest.approx(
            one.history["objective"].iloc[0], abs=1e-2
        )
        assert many.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-6)


def test_whether_statistics_suffice_is_found_out_once():
    def expected_of(program, *parts):
        sharded = Sharded.of(program, (Shards(list(parts)),), {})
        with sharded.session(0):
            values = {name: u.start for name, u in sharded.sites.unknowns.items()}
            found = expect(sharded, values, frozenset())
            again = expect(sharded, values, frozenset())
        assert found.suffices == again.suffices
        return sharded, found

    plain, found = expected_of(DawidSkene(2), *cut(40))
    assert found.suffices
    assert plain.adds
    assert found.statistics.keys() == {"labels"}
    differ, found = expected_of(LearningFromCrowds(2), *cut(40))
    assert not found.suffices
    assert differ.adds is False
    assert found.statistics == {}
    # Equal parts at the same prior must not pass for one that adds.
    assert not expected_of(LearningFromCrowds(2), *cut(45))[1].suffices
    latents, found = expected_of(two_rates, COUNTS[:9], COUNTS[9:])
    assert not found.suffices
    assert latents.adds
    with latents.session(0):
        part, _ = next(latents.parts())
        assert found.of_part(part).responsibilities("z").shape == (9, 2)
