"""Data in parts: the fit of all data at once, whatever the parts."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from likely.inference import (
    EM,
    MAP,
    MLE,
    ConvergenceWarning,
    FitError,
    ProgramError,
    Shards,
    latent_by_part,
)
from likely.inference.coordinates import Coordinates
from likely.inference.curvature import hessian
from likely.inference.passes import curvature_by_parts
from likely.inference.shards import Sharded
from likely.models import (
    Annotations,
    CategoricalModel,
    DawidSkene,
    LogisticRegression,
)
from likely.models.crowd import OneCoin, PooledMultinomial

GENERATOR = np.random.default_rng(3)
# Sums in another order differ by rounding: so much, relative to log-likelihoods of some hundreds.
SAME = 1e-9


def simulated(tasks=150, annotators=6, classes=3, per_task=4):
    """Labels that leave no cell of a table empty, so that optima lie inside."""
    rng = np.random.default_rng(11)
    truth = rng.integers(classes, size=tasks)
    task = np.repeat(np.arange(tasks), per_task)
    annotator = rng.permuted(np.tile(np.arange(annotators), (tasks, 1)), axis=1)[:, :per_task]
    wrong = rng.random(task.size) < 0.35
    label = np.where(wrong, rng.integers(classes, size=task.size), truth[task])
    return Annotations.from_arrays(task, annotator.reshape(-1), label)


CROWD = simulated()


def cut(crowd, *places):
    edges = [0, *places, crowd.n_tasks]
    return [crowd.subset(torch.arange(i, j)) for i, j in pairwise(edges)]


def difference(one, other):
    return max(float((one.params[name] - other.params[name]).abs().max()) for name in one.params)


def assert_same(one, other, within=SAME):
    assert one.converged
    assert other.converged
    assert len(one.history) == len(other.history)
    np.testing.assert_allclose(other.history, one.history, rtol=0, atol=within)
    assert other.log_likelihood == pytest.approx(one.log_likelihood, abs=within)
    assert other.log_prior == pytest.approx(one.log_prior, abs=within)
    assert difference(one, other) < within


# -- the same fit ------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [DawidSkene, PooledMultinomial, OneCoin])
@pytest.mark.parametrize("objective", ["likelihood", "posterior"])
def test_em_takes_the_path_of_all_data(program, objective):
    engine = EM(objective=objective)
    assert_same(
        engine.fit(program(3), CROWD), engine.fit(program(3), Shards(cut(CROWD, 20, 21, 90)))
    )


def test_hard_em_takes_the_path_of_all_data():
    engine = EM(hard=True)
    assert_same(engine.fit(DawidSkene(3), CROWD), engine.fit(DawidSkene(3), Shards(cut(CROWD, 70))))


@pytest.mark.parametrize("engine", [MLE(), MAP()], ids=["mle", "map"])
@pytest.mark.parametrize("program", [PooledMultinomial(3), OneCoin(3)], ids=["pooled", "coin"])
def test_gradients_add(engine, program):
    # Newton's method ends both, where a gradient of rounding moves it by no more than this.
    assert_same(
        engine.fit(program, CROWD), engine.fit(program, Shards(cut(CROWD, 40, 41))), within=1e-8
    )


def test_a_start_that_is_given_and_known_classes_go_through_parts():
    truth = torch.where(torch.arange(CROWD.n_tasks) % 5 == 0, 0, -1)
    gold = Annotations(
        CROWD.task,
        CROWD.annotator,
        CROWD.label,
        CROWD.tasks,
        CROWD.annotators,
        CROWD.classes,
        truth,
    )
    first = EM(objective="posterior", max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init = first.fit(DawidSkene(3), gold)
    engine = EM(objective="posterior", init=init)
    assert_same(
        engine.fit(DawidSkene(3), gold), engine.fit(DawidSkene(3), Shards(cut(gold, 50, 100)))
    )


ORIGIN = {"intercept": 0.0, "coefficients": torch.zeros(3)}


def regression_parts():
    x = torch.as_tensor(GENERATOR.normal(size=(200, 3)))
    y = (torch.rand(200, generator=torch.Generator().manual_seed(1)) < x.sum(-1).sigmoid()).double()
    return x, y


@pytest.mark.parametrize("engine", [MLE(init=ORIGIN), MAP(init=ORIGIN)], ids=["mle", "map"])
def test_tuples_mappings_and_loaders_bring_arguments(engine):
    x, y = regression_parts()
    pairs = [(x[:50], y[:50]), (x[50:], y[50:])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = engine.fit(LogisticRegression(), x, y)
        for parts in (
            pairs,
            lambda: iter(pairs),
            [{"x": a, "y": b} for a, b in pairs],
            DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True),
        ):
            many = engine.fit(LogisticRegression(), Shards(parts))
            assert difference(one, many) < 1e-8
            assert many.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-8)


def test_a_torch_optimiser_gets_the_gradient_of_all_parts():
    x, y = regression_parts()
    engine = MAP(optimizer="adam", max_iter=30, init=ORIGIN)
    with pytest.warns(ConvergenceWarning):
        one = engine.fit(LogisticRegression(), x, y)
    with pytest.warns(ConvergenceWarning):
        many = engine.fit(LogisticRegression(), Shards([(x[:50], y[:50]), (x[50:], y[50:])]))
    np.testing.assert_allclose(many.history, one.history, rtol=0, atol=SAME)
    assert difference(one, many) < SAME


def test_enumerated_latents_with_tables_alone_need_no_hook():
    def voters(label):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("class", 2):
            table = pyro.sample("table", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("task", len(label)):
            z = pyro.sample("z", dist.Categorical(weights))
            for j in range(label.shape[-1]):
                pyro.sample(f"label_{j}", dist.Categorical(table[z]), obs=label[:, j])

    rng = np.random.default_rng(5)
    z = rng.integers(2, size=60)
    tables = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    label = torch.as_tensor(np.array([rng.choice(3, size=4, p=tables[k]) for k in z]))
    init = {"weights": [0.6, 0.4], "table": [[0.6, 0.2, 0.2], [0.2, 0.2, 0.6]]}
    engine = EM(init=init, tol=1e-12)
    one, many = engine.fit(voters, label), engine.fit(voters, Shards(label.split([7, 20, 33])))
    assert_same(one, many)
    found = torch.cat([p for _, p in latent_by_part(many, "z")])
    torch.testing.assert_close(found, one.latent("z"), rtol=0, atol=1e-8)


def test_a_program_without_latents():
    x = torch.tensor([0, 1, 1, 2, 2, 2])
    fit = EM().fit(CategoricalModel(3), Shards([x[:2], x[2:]]))
    torch.testing.assert_close(fit.params["probabilities"], torch.tensor([1, 2, 3]).double() / 6)


# -- what a fit of shards knows -------------------------------------------------------------------


def test_a_fit_of_parts_answers():
    parts = cut(CROWD, 60, 61)
    one = EM(objective="posterior").fit(DawidSkene(3), CROWD)
    many = EM(objective="posterior").fit(DawidSkene(3), Shards(parts))
    found = list(latent_by_part(many, "truth"))
    assert [part for part, _ in found] == parts
    torch.testing.assert_close(torch.cat([p for _, p in found]), one.latent("truth"))
    for name, error in one.standard_errors().items():
        torch.testing.assert_close(many.standard_errors()[name], error, rtol=1e-6, atol=1e-8)
    assert many.n_observations == CROWD.n_tasks
    posterior = many.to_arviz().posterior
    assert posterior["annotator"].values.tolist() == CROWD.annotators.tolist()
    with pytest.raises(FitError, match="latent_by_part"):
        many.latent("truth")
    with pytest.raises(FitError, match="for fits of Shards"):
        next(latent_by_part(one, "truth"))
    with pytest.raises(ProgramError, match="not a discrete latent"):
        next(latent_by_part(many, "class"))


def test_the_hessian_adds():
    program = Sharded.of(OneCoin(3), (Shards(cut(CROWD, 10, 80)),), {})
    whole = Sharded.of(OneCoin(3), (Shards([CROWD]),), {}).head
    coordinates = Coordinates(program.head)
    x = torch.linspace(-1, 1, coordinates.size, dtype=torch.float64)

    def total(density):
        return density.log_likelihood + density.log_prior

    with program.session(0):
        found = curvature_by_parts(program, coordinates, total)(x)
        wanted = hessian(
            lambda x: -total(whole.density(coordinates.split(x), unconstrained=True)), x
        )
        # The density itself has one derivative and refuses a second.
        with pytest.raises(RuntimeError, match="differentiated once"):
            hessian(
                lambda x: program.density(coordinates.split(x), unconstrained=True).log_prior, x
            )
    torch.testing.assert_close(found, wanted)


def test_no_graph_over_all_parts_is_held():
    alive = []

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            ctx.save_for_backward(value)
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            alive.append("freed")
            return gradient

    def program(x):
        rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
        alive.append("built")
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Poisson(Noted.apply(rate)), obs=x)

    x = torch.arange(6).double()
    sharded = Sharded.of(program, (Shards(x.split(2)),), {})
    with sharded.session(0):
        list(sharded.parts())
        alive.clear()
        rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        sharded.density({"rate": rate})
    assert alive == ["built", "freed"] * 3


def test_a_loader_may_feed_a_program_with_an_enumerated_latent():
    def program(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(torch.tensor([1.0, 8.0])[z]), obs=x)

    x = torch.as_tensor(np.random.default_rng(4).poisson([1.0, 8.0, 8.0], size=(40, 3)).reshape(-1))
    full = MLE().fit(program, x.double())
    loader = DataLoader(TensorDataset(x.double()), batch_size=40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MLE(max_iter=100).fit(program, loader)
    # The optimum of all data, to a tenth of a standard error.
    near = 0.1 * full.standard_errors()["weights"]
    assert bool(((fit.params["weights"] - full.params["weights"]).abs() < near).all())
