"""Annotators who report the truth or spam."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.ops.indexing import Vindex

from likely.envs import DataError
from likely.inference import EM, MAP, MLE, BoundaryWarning, Laplace, Shards
from likely.models import MACE, Annotations, DawidSkene
from likely.models.crowd.mace import mixed_table

pytestmark = pytest.mark.usefixtures("in_double")

TRUTH = {
    name: torch.tensor(value, dtype=torch.float64)
    for name, value in {
        "prevalence": [0.5, 0.3, 0.2],
        "competence": [0.85, 0.6, 0.3, 0.75, 0.05],
        "spam": [
            [0.3, 0.3, 0.4],
            [0.1, 0.2, 0.7],
            [0.6, 0.3, 0.1],
            [0.3, 0.4, 0.3],
            [0.8, 0.1, 0.1],
        ],
    }.items()
}
ENUMERATED = {"enumerate": "parallel"}


def simulated(tasks=300, known=None):
    pairs = np.array([(i, a) for i in range(tasks) for a in range(5) if (i + a) % 4]).T
    design = Annotations.from_arrays(*pairs, None, classes=range(3))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        labels = poutine.condition(MACE(3), TRUTH)(design)
    return replace(design.with_labels(labels), truth=known)


def test_density_is_that_of_a_program_with_both_latents(evidence):
    crowd = simulated(tasks=8)

    def plain():
        for i in pyro.plate("task", crowd.n_tasks):
            truth = pyro.sample(
                f"truth_{i}", dist.Categorical(TRUTH["prevalence"]), infer=ENUMERATED
            )
            rows = (crowd.task == i).nonzero().squeeze(-1)
            with pyro.plate(f"label_{i}", len(rows)):
                who = crowd.annotator[rows]
                told = dist.Bernoulli(TRUTH["competence"][who])
                told = pyro.sample(f"told_{i}", told, infer=ENUMERATED).bool().unsqueeze(-1)
                table = torch.where(told, Vindex(torch.eye(3))[truth], TRUTH["spam"][who])
                pyro.sample(f"label_of_{i}", dist.Categorical(table), obs=crowd.label[rows])

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(plain, lambda: None)
    assert evidence(MACE(3), crowd, TRUTH).item() == pytest.approx(-loss, rel=1e-12)


def test_derivatives(evidence):
    crowd = simulated(tasks=8)

    def free(prevalence, competence, spam):
        values = {
            "prevalence": prevalence.softmax(-1),
            "competence": competence.sigmoid(),
            "spam": spam.softmax(-1),
        }
        return evidence(MACE(3), crowd, values)

    point = [torch.randn(*shape, requires_grad=True) for shape in ((3,), (5,), (5, 3))]
    assert torch.autograd.gradcheck(free, point, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(free, point, atol=1e-5, rtol=1e-5)


def test_tables():
    table = mixed_table(torch.tensor([1.0, 0.0, 0.6]), torch.tensor([[0.2, 0.8]] * 3))
    torch.testing.assert_close(table[0], torch.eye(2))
    torch.testing.assert_close(table[1], torch.tensor([[0.2, 0.8], [0.2, 0.8]]))
    torch.testing.assert_close(table[2], torch.tensor([[0.68, 0.32], [0.08, 0.92]]))


def test_two_classes_are_dawid_and_skene_with_annotators_who_are_no_adversaries():
    # Any table of two rows whose diagonal sums to at least one is told or spammed.
    table = torch.tensor([[0.8, 0.2], [0.35, 0.65]])
    competence = table.diagonal().sum() - 1
    spam = torch.stack([table[1, 0], table[0, 1]]) / (1 - competence)
    torch.testing.assert_close(mixed_table(competence, spam), table)


@pytest.mark.parametrize("objective", ["likelihood", "posterior"])
def test_steps_climb_to_the_optimum_of_gradients(objective):
    crowd = simulated()
    one = EM(objective=objective, tol=1e-13, max_iter=5000).fit(MACE(3), crowd)
    other = (MLE if objective == "likelihood" else MAP)().fit(MACE(3), crowd)
    with_prior = objective == "posterior"
    height = [fit.log_likelihood + (fit.log_prior if with_prior else 0) for fit in (one, other)]
    assert height[0] == pytest.approx(height[1], rel=1e-8)
    steps = one.history["objective"].diff().dropna()
    assert bool((steps >= -1e-10 * abs(height[0])).all())


def test_one_step_is_the_maximum_over_both_latents_by_hand():
    """The closed form against a numerical maximum of the doubly expected log-density."""
    crowd, program = simulated(tasks=40), MACE(3)
    start = program.initial(crowd)
    fit = EM(max_iter=1, callback=lambda step: False)
    with pytest.warns(match="no convergence"):
        found = fit.fit(program, crowd).params
    table = mixed_table(start["competence"], start["spam"])
    given = {"prevalence": start["prevalence"], "confusion": table}
    trace = poutine.trace(poutine.condition(DawidSkene(3), given)).get_trace(crowd)
    site = trace.nodes["labels"]
    shares = site["fn"].latent_posterior(site["value"])
    told, spammed = torch.zeros(5), torch.zeros(5, 3)
    for i, who, label in zip(crowd.task, crowd.annotator, crowd.label, strict=True):
        c, s = start["competence"][who], start["spam"][who, label]
        looked = shares[i, label] * c / (c + (1 - c) * s)
        told[who] += looked
        spammed[who, label] += 1 - looked
    torch.testing.assert_close(found["competence"], told / (told + spammed.sum(-1)))
    torch.testing.assert_close(found["spam"], spammed / spammed.sum(-1, keepdim=True))
    torch.testing.assert_close(found["prevalence"], shares.mean(0))


@pytest.mark.parametrize("engine", [MAP(), EM(objective="posterior"), Laplace(draws=1000)])
def test_what_labels_were_simulated_from_is_found(engine):
    fit = engine.fit(MACE(3), simulated())
    if fit.is_point:
        errors = fit.standard_errors()
    else:
        errors = {name: value.std((0, 1)) for name, value in fit.draws.items()}
    for name, value in TRUTH.items():
        assert bool(((fit.params[name] - value).abs() <= 4.5 * errors[name]).all()), name
    order = fit.params["competence"].argsort(descending=True)
    assert order.tolist() == TRUTH["competence"].argsort(descending=True).tolist()


def test_known_classes_take_part():
    known = torch.arange(300) % 3
    half = torch.where(torch.arange(300) % 2 == 0, known, -1)
    crowd = simulated(known=half)
    shares = EM().fit(MACE(3), crowd).latent("truth")
    torch.testing.assert_close(shares[::2], torch.eye(3)[known[::2]])


def test_without_errors_nothing_is_known_of_habits():
    # All agree: competence one is the optimum, and habits stay where they were.
    crowd = Annotations.from_arrays([0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1])
    with pytest.warns(BoundaryWarning, match="em: .* boundary .* at 'competence'"):
        fit = EM(tol=1e-14, max_iter=10_000).fit(MACE(2), crowd)
    assert bool((fit.params["competence"] > 0.999).all())
    posterior = EM(objective="posterior").fit(MACE(2), crowd).params
    assert bool((posterior["competence"] < 0.9).all())
    torch.testing.assert_close(posterior["spam"], torch.full((2, 2), 0.5), atol=0.1, rtol=0)


@pytest.mark.parametrize("engine", [EM(objective="posterior"), MAP(), EM(hard=True)])
@pytest.mark.filterwarnings("ignore::likely.inference.errors.BoundaryWarning")
def test_degenerate_crowds(engine, degenerate_crowd):
    fit = engine.fit(MACE(2), degenerate_crowd)
    assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())
    assert bool(torch.isfinite(fit.latent("truth")).all())


def test_mini_batches_add_up_to_the_whole(evidence):
    crowd = simulated(tasks=12)
    parts = torch.arange(12).split(4)
    values = [evidence(MACE(3), crowd, {**TRUTH, "task": part}).item() for part in parts]
    assert sum(values) == pytest.approx(evidence(MACE(3), crowd, TRUTH).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MACE(1), "n_classes: expected an integer of at least 2"),
        (lambda: MACE(2, -1.0), "prevalence_prior: expected positive"),
        (lambda: MACE(2, competence_prior=(1.0,)), "competence_prior: expected two numbers"),
        (lambda: MACE(2, competence_prior=(1.0, 0.0)), "competence_prior: expected positive"),
        (lambda: MACE(2, spam_prior=[1.0, 1.0, 1.0]), r"spam_prior: expected a number or \[2\]"),
        (lambda: MACE(2, spam_prior=float("nan")), "spam_prior: expected positive"),
        (lambda: MACE(2, spam_prior=None), "spam_prior: expected positive"),
        (lambda: MACE(2)(np.zeros((3, 3))), "expected Annotations, got ndarray"),
        (lambda: MACE(4)(simulated(8)), "expected 4 classes, got 3"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.filterwarnings("ignore::likely.inference.errors.BoundaryWarning")
def test_names_of_dimensions():
    crowd = simulated(tasks=8)
    trace = poutine.trace(MACE(3)).get_trace(crowd)
    for site in ("prevalence", "competence", "spam", "confusion", "labels"):
        names = MACE.dims.get(site, ())
        assert trace.nodes[site]["fn"].event_dim == len(names)
    fit = EM().fit(MACE(3), crowd)
    assert fit.params["confusion"].shape == (5, 3, 3)
    posterior = fit.to_arviz()["posterior"]
    assert posterior["spam"].dims == ("chain", "draw", "annotator", "reported")
    assert posterior["competence"].dims == ("chain", "draw", "annotator")


def test_parts_of_the_data_start_and_end_where_the_whole_does():
    crowd, program = simulated(), MACE(3)
    parts = [crowd.subset(torch.arange(100)), crowd.subset(torch.arange(100, 300))]
    sums = [program.initial_statistics(part) for part in parts]
    start = program.initial_from({name: sums[0][name] + sums[1][name] for name in sums[0]})
    for name, value in program.initial(crowd).items():
        torch.testing.assert_close(start[name], value)
    engine = EM(objective="posterior")
    found, whole = engine.fit(program, Shards(parts)), engine.fit(program, crowd)
    assert found.n_iter == whole.n_iter
    for name, value in whole.params.items():
        torch.testing.assert_close(found.params[name], value)
