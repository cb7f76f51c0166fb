"""Optima and starts on the boundary of a support."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, MAP, MLE, SVI, BoundaryWarning, ConvergenceWarning, Program
from likely.inference.coordinates import Coordinates
from likely.inference.engines.boundary import snap
from likely.models import Annotations, CategoricalModel, HierarchicalDawidSkene, OneCoin

pytestmark = pytest.mark.usefixtures("in_double")


def each_another(classes, labels=(0, 1, 2, 3)):
    """Four tasks of one label each, and every label another class."""
    return Annotations.from_arrays([0, 1, 2, 3], ["a", "b"] * 2, labels, classes=range(classes))


# -- where a search starts -----------------------------------------------------------------------


@pytest.mark.parametrize("labels", [(0, 1, 2, 3), (0, 9, 20, 29), (26, 27, 28, 29)])
@pytest.mark.parametrize("edge", [3.0, 15.0, 30.0])
def test_cells_of_zero_have_moderate_coordinates(labels, edge):
    program = Program(OneCoin(30), each_another(30, labels))
    with program.session(0):
        coordinates = Coordinates(program)
        values = OneCoin(30).initial(each_another(30, labels))
        flat = coordinates.unconstrain(values, edge)
        back = coordinates.constrain(flat)
    assert float(flat.abs().max()) < edge + 8
    for name, value in values.items():
        # As near to the boundary as asked for, and on no other side of it.
        torch.testing.assert_close(back[name], value, rtol=0, atol=2 * math.exp(-edge))
        assert bool((back[name] > 0).all())


def test_svi_starts_with_many_classes_that_never_occur():
    with pytest.warns(ConvergenceWarning, match="after 3 steps"):
        fit = SVI(max_iter=3, draws=5).fit(OneCoin(30), each_another(30))
    # A start whose coordinates are in the hundreds has a bound below -1000, or none.
    assert float(fit.history["objective"].iloc[0]) > -500


# -- where it ends -------------------------------------------------------------------------------


def test_a_start_at_an_optimum_with_every_site_on_the_boundary_has_converged():
    with pytest.warns(BoundaryWarning, match="'prevalence', 'ability'"):
        fit = MAP().fit(OneCoin(8), each_another(8))
    assert fit.converged
    torch.testing.assert_close(fit.params["prevalence"][:4], torch.full((4,), 0.25))
    assert fit.params["prevalence"][4:].tolist() == [0.0] * 4
    assert fit.params["ability"].tolist() == [1.0, 1.0]


def test_cells_on_the_boundary_go_there_beside_a_small_one_that_does_not():
    """Counts of 0 and 1 in 5000: one cell's optimum is zero, and the other's 0.0002."""
    counts = torch.tensor([4999.0, 1.0, 0.0])

    def program(counts):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
        pyro.sample("counts", dist.Multinomial(5000, shares), obs=counts)

    reading = Program(program, counts)
    # A search ends a little off the optimum, where slopes of small cells have either sign.
    near = {"shares": torch.tensor([1.0 - 2.1e-4 - 1e-9, 2.1e-4, 1e-9])}
    calls = []

    def objective(values):
        calls.append(values)
        return reading.density(values).log_likelihood

    with reading.session(0):
        values, moved = snap(reading, near, objective)
    assert moved == ["shares"]
    assert values["shares"][2] == 0
    assert values["shares"][1] == pytest.approx(2.1e-4, rel=1e-6)
    assert len(calls) <= 8


@pytest.mark.parametrize("engine", [MLE(), EM()], ids=["mle", "em"])
def test_a_probability_that_is_one_is_said_to_be(engine):
    def coin(heads):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("toss", len(heads)):
            pyro.sample("heads", dist.Bernoulli(p), obs=heads)

    with pytest.warns(BoundaryWarning, match=f"{engine.name}: the optimum lies .* at 'p'"):
        fit = engine.fit(coin, torch.ones(4))
    assert fit.params["p"].item() == 1.0
    assert fit.converged


def test_a_zero_count_in_a_table_is_no_news_to_em():
    shares = EM().fit(CategoricalModel(3), torch.tensor([0, 0, 1]))
    assert shares.params["probabilities"][2].item() == 0.0


@pytest.mark.parametrize("engine", [MLE(max_iter=300), EM()], ids=["mle", "em"])
def test_a_ridge_is_no_optimum(engine):
    """Any population gives the same tables, with other deviations."""
    source = np.random.default_rng(0)
    truth = np.arange(20) % 2
    task, annotator = (v.reshape(-1) for v in np.mgrid[:20, :3])
    label = np.where(source.random(60) < 0.8, truth[task], 1 - truth[task])
    crowd = Annotations.from_arrays(task, annotator, label)
    with pytest.warns(ConvergenceWarning, match=f"{engine.name}: the log-density is flat in"):
        fit = engine.fit(HierarchicalDawidSkene(2), crowd)
    assert not fit.converged


def test_a_search_that_was_stopped_says_so_whatever_it_had_found():
    def separable(x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)

    x = torch.linspace(-1.0, 1.0, 6)
    for engine in (MLE, EM):
        with pytest.warns(ConvergenceWarning, match="stopped before it converged"):
            fit = engine(callback=lambda step: step.iteration == 2).fit(separable, x, (x > 0) * 1.0)
        assert not fit.converged
