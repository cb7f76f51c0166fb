"""One number for each annotator, and one table for all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro import poutine

from likely.envs import DataError
from likely.inference import EM, MAP, MLE, SVI, VBEM, BoundaryWarning, Laplace
from likely.models import Annotations
from likely.models.crowd import DawidSkene, OneCoin, PooledMultinomial

pytestmark = pytest.mark.usefixtures("in_double")


def simulated(program, values, tasks=200, annotators=5):
    """Labels that the program draws, every annotator having seen every task."""
    pairs = np.array(np.meshgrid(np.arange(tasks), np.arange(annotators))).reshape(2, -1)
    design = Annotations.from_arrays(*pairs, None, classes=range(program.n_classes))
    return design.with_labels(poutine.condition(program, values)(design))


def test_one_coin_on_anesthesia(anesthesia):
    fit = EM(tol=1e-12).fit(OneCoin(4), anesthesia)
    assert fit.log_likelihood == pytest.approx(-242.5060, abs=6e-5)
    skills = torch.tensor([0.8854, 0.7007, 0.8115, 0.8531, 0.8089])
    torch.testing.assert_close(fit.params["ability"], skills, atol=6e-5, rtol=0)


def test_one_table_on_anesthesia(anesthesia):
    fit = EM(tol=1e-12).fit(PooledMultinomial(4), anesthesia)
    assert fit.log_likelihood == pytest.approx(-209.6290, abs=6e-5)
    prevalence = torch.tensor([0.4017, 0.4267, 0.1493, 0.0222])
    torch.testing.assert_close(fit.params["prevalence"], prevalence, atol=6e-5, rtol=0)


def test_densities_are_those_of_the_tables_by_hand(anesthesia, evidence, by_hand):
    prevalence = torch.tensor([0.4, 0.3, 0.2, 0.1])
    ability = torch.tensor([0.9, 0.6, 0.7, 0.2, 0.8])
    tables = [np.where(np.eye(4) == 1, right, (1 - right) / 3) for right in ability.numpy()]
    found = evidence(OneCoin(4), anesthesia, {"prevalence": prevalence, "ability": ability})
    expected = by_hand(anesthesia, prevalence, lambda i, who, label: tables[who][:, label])
    assert found.item() == pytest.approx(expected, rel=1e-12)
    table = torch.randn(4, 4).softmax(-1)
    given = {"prevalence": prevalence, "confusion": table}
    expected = by_hand(anesthesia, prevalence, lambda i, who, label: table[:, label])
    found = evidence(PooledMultinomial(4), anesthesia, given)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("program", [OneCoin(3), PooledMultinomial(3)])
def test_steps_and_gradients_find_the_same_optimum(program, with_prior):
    table = 0.7 * torch.eye(3) + 0.1
    values = {"prevalence": torch.tensor([0.2, 0.3, 0.5])}
    values |= (
        {"ability": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.75])}
        if isinstance(program, OneCoin)
        else {"confusion": table}
    )
    crowd = simulated(program, values, tasks=100)
    by_steps = EM(objective="posterior" if with_prior else "likelihood", tol=1e-12)
    one = by_steps.fit(program, crowd)
    other = (MAP if with_prior else MLE)().fit(program, crowd)
    height = [fit.log_likelihood + with_prior * fit.log_prior for fit in (one, other)]
    assert height[0] == pytest.approx(height[1], rel=1e-8)
    assert bool((one.history["objective"].diff().dropna() >= -1e-9 * abs(height[0])).all())
    errors = one.standard_errors()
    for name, value in values.items():
        assert bool(((one.params[name] - value).abs() <= 4.5 * errors[name]).all())


TABLE = torch.tensor([[0.8, 0.1, 0.1], [0.15, 0.7, 0.15], [0.1, 0.3, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("program", "engine"),
    [
        (OneCoin(3), Laplace(draws=500)),
        (OneCoin(3), SVI(max_iter=250, learning_rate=0.1)),
        (PooledMultinomial(3), Laplace(draws=500)),
        (PooledMultinomial(3), SVI(max_iter=250, learning_rate=0.1)),
        (PooledMultinomial(3), VBEM(draws=500)),
        (DawidSkene(3), VBEM(draws=500)),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_posteriors_recover_what_labels_were_simulated_from(program, engine):
    values = {"prevalence": torch.tensor([0.2, 0.3, 0.5])}
    if isinstance(program, OneCoin):
        values["ability"] = torch.tensor([0.9, 0.8, 0.7, 0.75, 0.85])
    else:
        values["confusion"] = (
            TABLE if isinstance(program, PooledMultinomial) else TABLE.repeat(5, 1, 1)
        )
    crowd = simulated(program, values, tasks=150)
    fit = engine.fit(program, crowd)
    # Those of the mode: variational posteriors are too narrow to be their own measure.
    errors = EM(objective="posterior").fit(program, crowd).standard_errors()
    for name, value in values.items():
        assert bool(((fit.params[name] - value).abs() <= 4.5 * errors[name]).all()), name


def test_an_ability_without_labels_keeps_its_value_or_its_prior():
    crowd = Annotations.from_arrays(
        [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1], annotators=range(3), classes=range(2)
    )
    program = OneCoin(2, ability_prior=(3.0, 2.0))
    start = program.initial(crowd)
    assert start["ability"].tolist() == [1.0, 1.0, 0.5]
    with pytest.warns(BoundaryWarning, match="em: .* boundary .* at 'ability'"):
        fit = EM().fit(program, crowd)
    assert fit.params["ability"].tolist() == [1.0, 1.0, 0.5]
    mode = EM(objective="posterior").fit(program, crowd).params["ability"][2].item()
    assert mode == pytest.approx(2 / 3)


@pytest.mark.parametrize("program", [OneCoin(2), PooledMultinomial(2)])
@pytest.mark.parametrize("objective", ["likelihood", "posterior"])
@pytest.mark.filterwarnings("ignore::likely.inference.errors.BoundaryWarning")
def test_degenerate_crowds(program, objective, degenerate_crowd):
    fit = EM(objective=objective).fit(program, degenerate_crowd)
    assert fit.converged
    assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())
    assert fit.latent("truth").shape == (degenerate_crowd.n_tasks, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneCoin(1), "n_classes: expected an integer of at least 2"),
        (lambda: OneCoin(2, 0.0), "prevalence_prior: expected positive"),
        (
            lambda: OneCoin(2, 1.0, (1.0, 2.0, 3.0)),
            r"ability_prior: expected two numbers, got shape",
        ),
        (lambda: OneCoin(2, 1.0, (1.0, float("nan"))), "ability_prior: expected positive"),
        (lambda: OneCoin(2, 1.0, "much"), "ability_prior: expected numbers"),
        (
            lambda: PooledMultinomial(3, 1.0, torch.ones(2, 2)),
            r"confusion_prior: expected a number",
        ),
        (lambda: PooledMultinomial(3, 1.0, float("inf")), "confusion_prior: expected positive"),
        (lambda: PooledMultinomial(3)(None), "expected Annotations, got NoneType"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(DataError, match=message):
        make()
