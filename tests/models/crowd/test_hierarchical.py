"""Confusion tables around those of a population."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from likely.envs import DataError
from likely.inference import EM, MAP, MLE, BoundaryWarning, ConvergenceWarning, Laplace
from likely.models import Annotations, DawidSkene, HierarchicalDawidSkene, PooledMultinomial
from likely.models.crowd.hierarchical import tables_around

pytestmark = pytest.mark.usefixtures("in_double")


def simulated(seed=0, tasks=100, annotators=25, each=4):
    """Sixteen labels an annotator, drawn from the program; with the tables behind them."""
    generator = np.random.default_rng(seed)
    rows = [
        (i, who) for i in range(tasks) for who in generator.choice(annotators, each, replace=False)
    ]
    design = Annotations.from_arrays(
        *np.array(rows).T, None, tasks=range(tasks), annotators=range(annotators), classes=[0, 1]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = {
            "prevalence": torch.tensor([0.4, 0.6]),
            "population": torch.tensor([[0.8, 0.2], [0.25, 0.75]]),
            "spread": torch.ones(2),
            "deviation": torch.randn(annotators, 2, 2),
        }
        program = poutine.condition(HierarchicalDawidSkene(2), values)
        nodes = poutine.trace(program).get_trace(design).nodes
    return design.with_labels(nodes["labels"]["value"]), nodes["confusion"]["value"]


def small():
    return simulated(tasks=12, annotators=4, each=3)[0]


def values_of(annotations):
    return {
        "prevalence": torch.randn(2).softmax(-1),
        "population": torch.randn(2, 2).softmax(-1),
        "spread": torch.rand(2) + 0.3,
        "deviation": torch.randn(annotations.n_annotators, 2, 2),
    }


def test_density_is_that_of_the_tables_by_hand(evidence, by_hand):
    crowd = small()
    values = values_of(crowd)
    prevalence, population, spread, deviation = (value.numpy() for value in values.values())

    def chance(task, who, label):
        odds = population * np.exp(spread[:, None] * deviation[who])
        return odds[:, label] / odds.sum(-1)

    expected = by_hand(crowd, prevalence, chance)
    found = evidence(HierarchicalDawidSkene(2), crowd, values).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_derivatives(evidence):
    crowd = small()

    def free(prevalence, population, spread, deviation):
        values = {
            "prevalence": prevalence.softmax(-1),
            "population": population.softmax(-1),
            "spread": spread.exp(),
            "deviation": deviation,
        }
        return evidence(HierarchicalDawidSkene(2), crowd, values)

    point = [torch.randn(*shape, requires_grad=True) for shape in ((2,), (2, 2), (2,), (4, 2, 2))]
    assert torch.autograd.gradcheck(free, point, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(free, point, atol=1e-5, rtol=1e-5)


def test_tables_are_the_populations_where_nothing_deviates():
    population = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    spread, deviation = torch.tensor([0.5, 2.0]), torch.randn(3, 2, 2)
    flat = tables_around(population, spread, torch.zeros(3, 2, 2))
    torch.testing.assert_close(flat, population.expand(3, 2, 2))
    table = tables_around(population, spread, deviation)
    # Log-odds move by the spread times the difference of deviations.
    moved = table.log().diff(dim=-1) - population.log().diff(dim=-1)
    torch.testing.assert_close(moved, spread[:, None] * deviation.diff(dim=-1))


def test_the_start_is_near_each_annotators_weighted_labels():
    crowd = simulated()[0]
    start = HierarchicalDawidSkene(2).initial(crowd)
    tables = tables_around(start["population"], start["spread"], start["deviation"])
    own = DawidSkene(2).initial(crowd)["confusion"]
    # Two labels of the population on top of about eight own ones a row.
    assert (tables - own).abs().mean() < (start["population"] - own).abs().mean() / 2


@pytest.mark.parametrize("seed", [0, 1])
def test_partial_pooling_beats_none_and_all(seed):
    crowd, tables = simulated(seed)

    def error(fit):
        return float((fit.params["confusion"] - tables).square().mean().sqrt())

    fit = Laplace(draws=1000).fit(HierarchicalDawidSkene(2), crowd)
    assert error(fit) < 0.9 * error(EM().fit(DawidSkene(2), crowd))
    assert error(fit) < 0.9 * error(EM().fit(PooledMultinomial(2), crowd))
    low, high = fit.draws["confusion"].flatten(0, 1).quantile(torch.tensor([0.05, 0.95]), dim=0)
    covered = ((tables >= low) & (tables <= high))[..., 0].double().mean().item()
    # Fifty rows of one free number each.
    assert abs(covered - 0.9) <= 3 * (0.09 / 50) ** 0.5


def test_steps_climb_to_the_optimum_of_gradients():
    crowd = simulated()[0]
    program = HierarchicalDawidSkene(2)
    one = EM(objective="posterior", tol=1e-12).fit(program, crowd)
    other = MAP().fit(program, crowd)
    height = [fit.log_likelihood + fit.log_prior for fit in (one, other)]
    assert height[0] == pytest.approx(height[1], rel=1e-7)
    steps = one.history["objective"].diff().dropna()
    assert bool((steps >= -1e-10 * abs(height[0])).all())


def test_the_likelihood_alone_leaves_the_population_open():
    crowd = simulated(tasks=40, annotators=5, each=5)[0]
    with pytest.warns(ConvergenceWarning, match="flat in .*'deviation'"):
        fit = MLE().fit(HierarchicalDawidSkene(2), crowd)
    assert not fit.converged
    best = EM(tol=1e-12).fit(DawidSkene(2), crowd)
    assert fit.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-3)
    with pytest.warns(match="'population', 'spread', 'deviation': the data do not identify it"):
        errors = fit.standard_errors()
    assert bool(errors["population"].isnan().all())


def test_an_annotator_without_labels_is_a_typical_one():
    crowd, _ = simulated()
    wider = replace(crowd, annotators=np.arange(26))
    fit = MAP().fit(HierarchicalDawidSkene(2), wider)
    torch.testing.assert_close(
        fit.params["confusion"][-1], fit.params["population"], atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("parallel", [False, True])
def test_posterior_predictive_labels_are_flat(parallel):
    crowd = small()
    drawn = Predictive(HierarchicalDawidSkene(2), num_samples=5, parallel=parallel)(
        replace(crowd, label=None)
    )
    assert drawn["labels"].shape == (5, len(crowd))
    assert drawn["confusion"].shape[-3:] == (4, 2, 2)


@pytest.mark.filterwarnings("ignore::likely.inference.errors.BoundaryWarning")
def test_names_of_dimensions():
    posterior = MAP().fit(HierarchicalDawidSkene(2), small()).to_arviz()["posterior"]
    table = ("chain", "draw", "annotator", "class", "reported")
    assert posterior["confusion"].dims == posterior["deviation"].dims == table
    assert posterior["population"].dims == ("chain", "draw", "class", "reported")
    assert posterior["spread"].dims == ("chain", "draw", "class")


@pytest.mark.filterwarnings("ignore::likely.inference.errors.BoundaryWarning")
def test_degenerate_crowds(degenerate_crowd):
    crowd = degenerate_crowd
    for engine in (MAP(), EM(objective="posterior")):
        fit = engine.fit(HierarchicalDawidSkene(2), crowd)
        assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())
        assert fit.latent("truth").shape == (crowd.n_tasks, 2)


def test_the_posterior_rises_where_one_class_is_known_to_be_absent():
    # Deviations start at exactly zero, where the population's table looks like one used alone.
    crowd = Annotations.from_arrays([0, 0, 1, 1], ["a", "b"] * 2, [0, 0, 1, 1], truth=[1, 1])
    with pytest.warns(BoundaryWarning, match="'spread'"):
        fit = EM(objective="posterior").fit(HierarchicalDawidSkene(2), crowd)
    assert fit.converged
    assert (np.diff(fit.history["objective"]) >= -1e-9).all()
    assert fit.params["prevalence"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HierarchicalDawidSkene(1), "n_classes: expected an integer of at least 2"),
        (lambda: HierarchicalDawidSkene(2, -1.0), "prevalence_prior: expected positive"),
        (
            lambda: HierarchicalDawidSkene(2, population_prior=torch.ones(3, 3)),
            r"population_prior: expected a number or \[2, 2\], got shape \[3, 3\]",
        ),
        (lambda: HierarchicalDawidSkene(2, spread_prior=0.0), "spread_prior: expected positive"),
        (
            lambda: HierarchicalDawidSkene(2, spread_prior=[1.0, 1.0]),
            "spread_prior: expected a number, got shape",
        ),
        (lambda: HierarchicalDawidSkene(2)([1, 2]), "expected Annotations, got list"),
        (lambda: HierarchicalDawidSkene(3)(small()), "expected 3 classes, got 2"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(DataError, match=message):
        make()
