"""EM goes over the data once a step, and uses again what it has found."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, ConvergenceWarning
from likely.inference.coordinates import Coordinates
from likely.inference.engines.boundary import snap
from likely.inference.engines.expectation import expect
from likely.inference.program import Program
from likely.models import Annotations, DawidSkene, RaggedLabels
from likely.models.crowd import LatentTruth

pytestmark = pytest.mark.filterwarnings("ignore::likely.inference.ConvergenceWarning")

K, TASKS, L = 3, 40, 6


@pytest.fixture(scope="module")
def crowd() -> Annotations:
    source = np.random.default_rng(0)
    truth = source.integers(0, K, TASKS)
    task, annotator = (v.reshape(-1) for v in np.mgrid[:TASKS, :L])
    right = source.random(len(task)) < 0.8
    label = np.where(right, truth[task], source.integers(0, K, len(task)))
    return Annotations.from_arrays(task, annotator, label, classes=range(K))


def enumerated(annotations: Annotations) -> None:
    prevalence = pyro.sample("prevalence", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("annotator", annotations.n_annotators):
        confusion = pyro.sample("confusion", dist.Dirichlet(torch.ones(K, K)).to_event(1))
    with pyro.plate("task", annotations.n_tasks):
        truth = pyro.sample("truth", dist.Categorical(prevalence))
        labels = RaggedLabels(confusion, annotations, truth)
        pyro.sample("labels", labels, obs=annotations.label)


@pytest.mark.parametrize("source", [DawidSkene(K), enumerated], ids=["summed", "enumerated"])
def test_an_e_step_has_the_slopes_of_the_density(source, crowd) -> None:
    program = Program(source, crowd)
    with program.session(0):
        values = Coordinates(program).start(DawidSkene(K).initial(crowd))
        tables = frozenset(values)
        expected = expect(program, values, tables)
        height, slopes = EM()._slopes(values, tables, expected)
        leaves = {name: value.clone().requires_grad_(True) for name, value in values.items()}
        density = program.density(leaves).log_likelihood
        gradients = torch.autograd.grad(density, list(leaves.values()))
        torch.testing.assert_close(height, density.item(), rtol=1e-13, atol=0)
        for name, gradient in zip(leaves, gradients, strict=True):
            # Cells add what a division by their sum would add: the same to a whole row.
            value = values[name]
            found, whole = (
                torch.where(value > 0, s - (value * s).sum(-1, keepdim=True), 0.0)
                for s in (slopes[name], gradient)
            )
            torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9)

        def objective(at):
            return program.density(at).log_likelihood

        found, moved = snap(program, values, objective, (height, slopes))
        expected_values, expected_moved = snap(program, values, objective)
    assert moved == expected_moved
    torch.testing.assert_close(found, expected_values)


def test_slopes_are_only_known_where_all_unknowns_are_tables(crowd) -> None:
    program = Program(DawidSkene(K), crowd)
    with program.session(0):
        values = DawidSkene(K).initial(crowd)
        some = expect(program, values, frozenset({"confusion"}))
    assert EM()._slopes(values, frozenset({"confusion"}), some) is None
    assert EM(objective="posterior")._slopes(values, frozenset(values), some) is None
    assert EM(hard=True)._slopes(values, frozenset(values), some) is None


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_passes_over_the_data(steps, crowd) -> None:
    """One to read the program, one for each step and the start, one for the end."""
    with patch.object(LatentTruth, "evidence", autospec=True, side_effect=_evidence) as passes:
        fit = EM(max_iter=steps, tol=1e-300).fit(DawidSkene(K), crowd)
    assert fit.n_iter == steps
    assert passes.call_count <= 1 + (steps + 1) + 1
    expected = Program(DawidSkene(K), crowd).log_likelihood(fit.params)
    assert fit.log_likelihood == pytest.approx(expected.item(), rel=1e-13)


_evidence = LatentTruth.evidence


def test_priors_are_left_out_of_a_likelihood(crowd) -> None:
    program = Program(enumerated, crowd)
    with program.session(0):
        values = Coordinates(program).start(None)
        assert [f.name for f in program.run(values, priors=False).direct] == []
        assert {f.name for f in program.run(values).direct} == set(values)
        without = expect(program, values, frozenset(values))
        with_prior = expect(program, values, frozenset(values), with_prior=True)
        prior = program.log_prior(values)
    assert float(without.log_prior) == 0.0
    torch.testing.assert_close(with_prior.log_prior, prior)
    torch.testing.assert_close(without.counts, with_prior.counts)
    torch.testing.assert_close(without.concentrations, with_prior.concentrations)


def test_a_fit_still_reports_its_prior(crowd) -> None:
    with pytest.warns(ConvergenceWarning):
        fit = EM(max_iter=2).fit(DawidSkene(K), crowd)
    prior = Program(DawidSkene(K), crowd).log_prior(fit.params)
    assert fit.log_prior == pytest.approx(prior.item(), rel=1e-12)
