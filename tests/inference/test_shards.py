"""Data in parts: the fit of all data at once, whatever the parts."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from likely.inference import (
    EM,
    MAP,
    MLE,
    NUTS,
    SVI,
    ConvergenceWarning,
    FitError,
    NonFiniteError,
    OptionError,
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
    GaussianMixture,
    LogisticRegression,
    PoissonModel,
)
from likely.models.crowd import LearningFromCrowds, OneCoin, PooledMultinomial

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


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (iter([torch.ones(2)]), "only once"),
        ((x for x in [torch.ones(2)]), "only once"),
        (torch.ones(2), "list of parts"),
        (np.ones(2), "list of parts"),
        (pd.DataFrame({"x": [1.0]}), "list of parts"),
        ({"x": torch.ones(2)}, "list of parts"),
        ("parts", "list of parts"),
        (3, "list of parts"),
        (None, "list of parts"),
        (CROWD, "list of parts"),
    ],
)
def test_what_cannot_be_parts_is_refused(parts, message):
    with pytest.raises(ProgramError, match=message):
        Shards(parts)


def test_a_function_that_gives_the_same_iterator_twice_is_found_out():
    once = iter([torch.ones(3), torch.ones(2)])
    with pytest.raises(ProgramError, match=r"new iterator every time|no parts"):
        MLE().fit(PoissonModel(), Shards(lambda: once))
    passes = []

    def parts():
        passes.append(len(passes))
        # The first is looked at for the head, the second is the first pass.
        return [torch.ones(2)] * (2 if len(passes) < 3 else 1)

    with pytest.raises(ProgramError, match=r"2 part.*and 1 in a later"):
        MLE().fit(PoissonModel(), Shards(parts))


@pytest.mark.parametrize("engine", [EM(), MLE()], ids=["em", "mle"])
def test_no_parts_and_wrong_parts_are_refused(engine):
    with pytest.raises(ProgramError, match="no parts"):
        engine.fit(PoissonModel(), Shards([]))
    with pytest.raises(ProgramError, match="must give an iterable"):
        engine.fit(PoissonModel(), Shards(lambda: 3))
    with pytest.raises(ValueError, match="expected Annotations"):
        engine.fit(DawidSkene(3), Shards([torch.ones(3)]))
    with pytest.raises(ValueError, match="expected Annotations"):
        engine.fit(DawidSkene(3), Shards([CROWD, torch.ones(3)]))
    with pytest.raises(ProgramError, match="given once"):
        engine.fit(LogisticRegression(), Shards([torch.ones(3, 1)]), Shards([torch.ones(3)]))
    with pytest.raises(ProgramError, match="given once"):
        engine.fit(PoissonModel(), x=Shards([torch.ones(3)]))


def test_observations_out_of_range_are_found_in_every_part():
    good, bad = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    with pytest.raises(ValueError, match=r"nan|support|finite"):
        MLE().fit(PoissonModel(), Shards([good, bad]))


def test_parts_of_other_annotators_are_refused():
    other = Annotations(
        CROWD.task, CROWD.annotator, CROWD.label, CROWD.tasks, CROWD.annotators[::-1], CROWD.classes
    )
    with pytest.raises(ProgramError, match="part 1 has other labels of 'annotator'"):
        EM().fit(DawidSkene(3), Shards([CROWD, other]))
    fewer = Annotations.from_arrays([0, 1], [0, 1], [0, 2], classes=[0, 1, 2])
    with pytest.raises(ProgramError, match="same groups and ids"):
        EM().fit(DawidSkene(3), Shards([CROWD, fewer]))


def test_values_for_each_observation_are_refused():
    def program(x):
        with pyro.plate("n", len(x)):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(ProgramError, match="'mean' has a value for each observation"):
        MAP().fit(program, Shards([torch.ones(2), torch.ones(2)]))


def test_a_latent_of_all_observations_is_refused():
    def program(x):
        rate = pyro.sample("rate", dist.Gamma(torch.ones(2), 1.0).to_event(1))
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    with pytest.raises(ProgramError, match="'z' is shared"):
        MLE().fit(program, Shards([torch.ones(2), torch.ones(3)]))


def test_statistics_that_do_not_add_are_refused_and_mle_goes_on():
    rng = np.random.default_rng(2)
    x = torch.as_tensor(np.concatenate([rng.normal(-3, 1, (80, 1)), rng.normal(3, 1, (70, 1))]))
    x = x[torch.as_tensor(rng.permutation(150))]
    parts = Shards(x.split([75, 75]))
    with pytest.raises(ProgramError, match=r"'x'.* cannot be added over parts.*use MLE or MAP"):
        EM().fit(GaussianMixture(2), parts)
    whole = MAP(init=EM().fit(GaussianMixture(2), x)).fit(GaussianMixture(2), x)
    many = MAP(init=whole).fit(GaussianMixture(2), parts)
    assert many.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-6)


def test_a_prior_for_each_task_does_not_add_up():
    features = torch.as_tensor(np.random.default_rng(0).normal(size=(CROWD.n_tasks, 2)))
    crowd = Annotations(
        CROWD.task,
        CROWD.annotator,
        CROWD.label,
        CROWD.tasks,
        CROWD.annotators,
        CROWD.classes,
        features=features,
    )
    # At the start all tasks may have the same prior: equal parts must not pass for it.
    with pytest.raises(ProgramError, match="cannot be added over parts"):
        EM().fit(LearningFromCrowds(3), Shards(cut(crowd, 75)))


def test_a_numerical_m_step_over_the_data_is_refused():
    def program(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        rate = pyro.sample("rate", dist.Gamma(torch.ones(2), 1.0).to_event(1))
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    class WithStep:
        def __call__(self, x):
            program(x)

        def m_step(self, expected, params, x, *, objective):
            return {"rate": params["rate"]}

    x = torch.tensor([1.0, 9.0, 2.0, 8.0])
    init = {"weights": [0.5, 0.5], "rate": [1.0, 8.0]}
    with pytest.raises(ProgramError, match="'x' needs a numerical M-step that goes over the data"):
        EM(init=init).fit(program, Shards(x.split(2)))
    with pytest.raises(ProgramError, match="responsibilities of 'z'"):
        EM(init=init).fit(WithStep(), Shards(x.split(2)))
    one, many = MLE(init=init).fit(program, x), MLE(init=init).fit(program, Shards(x.split(2)))
    assert many.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-8)


@pytest.mark.parametrize("engine", [SVI(), NUTS()], ids=["svi", "nuts"])
def test_engines_that_need_all_data_say_so(engine):
    with pytest.raises(OptionError, match="needs all data at once"):
        engine.fit(PoissonModel(), Shards([torch.ones(3)]))


def test_options_that_contradict_shards():
    with pytest.raises(OptionError, match="batch_size=2"):
        MLE(batch_size=2).fit(PoissonModel(), Shards([torch.ones(3)]))
    with pytest.raises(ProgramError, match="init_process_group"):
        MLE().fit(PoissonModel(), Shards([torch.ones(3)], distributed=True))


def test_a_likelihood_without_a_bound_is_told():
    def program(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    with pytest.raises(NonFiniteError, match="scale"):
        MLE().fit(program, Shards([torch.zeros(2), torch.zeros(3)]))
