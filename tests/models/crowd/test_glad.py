"""Abilities of annotators and easiness of tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO
from pyro.ops.indexing import Vindex
from scipy.stats import spearmanr

from likely.envs import DataError
from likely.inference import EM, MAP, MLE, SVI, ConvergenceWarning, Laplace
from likely.models import GLAD, Annotations, OneCoin

pytestmark = pytest.mark.usefixtures("in_double")


def design(tasks, annotators, classes=2):
    pairs = np.array([(i, a) for i in range(tasks) for a in range(annotators)]).T
    return Annotations.from_arrays(*pairs, None, classes=range(classes))


def simulated(tasks=60, annotators=20, classes=3):
    """Values from near the prior, one annotator being an adversary, and labels."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        values = {
            "ability": 1.2 + 0.5 * torch.randn(annotators),
            "easiness": (0.2 + 0.8 * torch.randn(tasks)).exp(),
        }
        values["ability"][0] = -1.0
        rows = design(tasks, annotators, classes)
        labels = poutine.condition(GLAD(classes), values)(rows)
    return rows.with_labels(labels), values


# The prior that `simulated` draws from, adversary aside.
MATCHED = GLAD(3, ability_prior=(1.2, 0.5), easiness_prior=(0.2, 0.8))


@pytest.mark.parametrize("prevalence", [None, [0.2, 0.5, 0.3]])
def test_density_is_that_of_an_enumerated_program(prevalence, density):
    crowd, values = simulated(tasks=7, annotators=4)
    weights = torch.full((3,), 1 / 3) if prevalence is None else torch.tensor(prevalence)
    program = GLAD(3) if prevalence is None else GLAD(3, 1.0)
    given = values if prevalence is None else {**values, "prevalence": weights}

    def plain():
        for i in pyro.plate("task", crowd.n_tasks):
            truth = pyro.sample(
                f"truth_{i}", dist.Categorical(weights), infer={"enumerate": "parallel"}
            )
            rows = (crowd.task == i).nonzero().squeeze(-1)
            with pyro.plate(f"label_{i}", len(rows)):
                strength = values["ability"][crowd.annotator[rows]] * values["easiness"][i]
                right = 1 / (1 + (-strength).exp()).unsqueeze(-1)
                named = Vindex(torch.eye(3))[truth]
                table = right * named + (1 - right) / 2 * (1 - named)
                pyro.sample(f"label_of_{i}", dist.Categorical(table), obs=crowd.label[rows])

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(plain, lambda: None)
    found = density(program, crowd, given).sum().item()
    assert found == pytest.approx(-loss, rel=1e-12)


def test_tasks_of_equal_easiness_leave_one_coin(density):
    crowd, values = simulated(tasks=10)
    values["easiness"] = torch.ones(10)
    values["prevalence"] = torch.tensor([0.2, 0.5, 0.3])
    coin = {"prevalence": values["prevalence"], "ability": values["ability"].sigmoid()}
    torch.testing.assert_close(
        density(GLAD(3, 1.0), crowd, values), density(OneCoin(3), crowd, coin)
    )


def test_derivatives(density):
    crowd, values = simulated(tasks=4, annotators=3)

    def free(ability, easiness):
        return density(GLAD(3), crowd, {"ability": ability, "easiness": easiness})

    point = [value.clone().requires_grad_() for value in values.values()]
    assert torch.autograd.gradcheck(free, point, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(free, point, atol=1e-5, rtol=1e-5)


def test_vectorised_particles_agree_with_a_loop(check_particles):
    crowd, _ = simulated(tasks=6, annotators=4)
    each = [{"ability": torch.randn(4), "easiness": torch.rand(6)} for _ in range(5)]
    check_particles(GLAD(3), crowd, each, [])


@pytest.mark.parametrize("prevalence_prior", [None, 2.0])
def test_steps_climb_to_the_optimum_of_gradients(prevalence_prior):
    crowd, _ = simulated()
    program = GLAD(3, prevalence_prior)
    one = EM(objective="posterior", tol=1e-12).fit(program, crowd)
    other = MAP().fit(program, crowd)
    height = [fit.log_likelihood + fit.log_prior for fit in (one, other)]
    assert height[0] == pytest.approx(height[1], rel=1e-7)
    steps = one.history["objective"].diff().dropna()
    assert bool((steps >= -1e-10 * abs(height[0])).all())
    assert one.params["prevalence"].shape == (3,)


def test_abilities_and_easiness_are_found():
    crowd, values = simulated()
    fit = Laplace(draws=2000).fit(MATCHED, crowd)
    for name, truth in values.items():
        low, high = fit.draws[name].flatten(0, 1).quantile(torch.tensor([0.05, 0.95]), dim=0)
        covered = ((truth >= low) & (truth <= high)).double().mean().item()
        # Binomial errors; a Gaussian is not quite the posterior of 20 labels.
        assert covered >= 0.9 - 3 * (0.09 / len(truth)) ** 0.5, name
    assert fit.params["ability"].argmin() == 0
    assert fit.params["ability"][0] < 0
    rank = spearmanr(fit.params["easiness"], values["easiness"])
    # Twenty annotators tell a task's easiness with an error of half its spread.
    assert rank.statistic > 0.7
    hard = values["easiness"] < values["easiness"].median()
    shares = fit.latent("truth").amax(-1)
    assert shares[hard].mean() < shares[~hard].mean()


def test_the_likelihood_alone_has_a_ridge(density):
    crowd, _ = simulated(tasks=12, annotators=5, classes=2)
    point = {"ability": torch.rand(5), "easiness": torch.rand(12)}
    other = {"ability": 2 * point["ability"], "easiness": point["easiness"] / 2}
    torch.testing.assert_close(density(GLAD(2), crowd, point), density(GLAD(2), crowd, other))
    with pytest.warns(ConvergenceWarning, match=r"flat in .*(ability|easiness)"):
        fit = MLE().fit(GLAD(2), crowd)
    assert not fit.converged


def test_mini_batches_carry_the_easiness_of_their_tasks(density):
    crowd, values = simulated(tasks=30, annotators=10)
    whole = density(GLAD(3), crowd, values)
    for part in torch.arange(30).split(10):
        given = {**values, "easiness": values["easiness"][part], "task": part}
        torch.testing.assert_close(density(GLAD(3), crowd, given), whole[part])
    fit = SVI(batch_size=10, max_iter=800, learning_rate=0.05).fit(MATCHED, crowd)
    assert fit.params["easiness"].shape == (30,)
    # Two approximations of one posterior: independent normals, and one at the mode.
    reference = Laplace(draws=1000).fit(MATCHED, crowd)
    sd = reference.draws["ability"].std((0, 1))
    away = (fit.params["ability"] - reference.params["ability"]) / sd
    assert away.square().mean().sqrt() < 1


def test_a_design_is_simulated():
    n, right = 20_000, torch.tensor([2.0, -0.5])
    rows = design(n, 2, 3)
    rows = replace(rows, truth=torch.arange(n) % 3)
    values = {"ability": right, "easiness": torch.full((n,), 0.7)}
    labels = poutine.condition(GLAD(3), values)(rows)
    hits = (labels == rows.truth[rows.task]).double().reshape(n, 2).mean(0)
    expected = (0.7 * right).sigmoid()
    assert bool(((hits - expected).abs() <= 4.5 * (expected * (1 - expected) / n).sqrt()).all())


@pytest.mark.parametrize("parallel", [False, True])
def test_posterior_predictive_labels_are_flat(parallel):
    crowd, _ = simulated(tasks=6, annotators=4)
    drawn = Predictive(GLAD(3), num_samples=5, parallel=parallel)(replace(crowd, label=None))
    assert drawn["labels"].shape == (5, 24)
    assert drawn["truth"].shape == (5, 6)
    again = Predictive(poutine.uncondition(GLAD(3)), num_samples=5, parallel=parallel)(crowd)
    assert again["labels"].shape == (5, 24)


def test_names_of_dimensions():
    crowd, _ = simulated(tasks=6, annotators=4)
    posterior = MAP().fit(GLAD(3, 2.0), crowd).to_arviz()["posterior"]
    assert posterior["ability"].dims == ("chain", "draw", "annotator")
    assert posterior["easiness"].dims == ("chain", "draw", "task")
    assert posterior["prevalence"].dims == ("chain", "draw", "class")


@pytest.mark.parametrize("engine", [EM(objective="posterior"), MAP()])
def test_degenerate_crowds(engine, degenerate_crowd):
    crowd = degenerate_crowd
    fit = engine.fit(GLAD(2), crowd)
    assert fit.converged
    assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())
    # Whom and what no label speaks of has the mode of its prior: 1, and exp(1 − 1).
    idle = torch.bincount(crowd.task, minlength=crowd.n_tasks) == 0
    assert torch.allclose(fit.params["easiness"][idle], torch.tensor(1.0), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GLAD(1), "n_classes: expected an integer of at least 2"),
        (lambda: GLAD(2, 0.0), "prevalence_prior: expected positive"),
        (lambda: GLAD(2, ability_prior=(1.0,)), "ability_prior: expected two numbers, got shape"),
        (lambda: GLAD(2, ability_prior="high"), "ability_prior: expected two numbers, got 'high'"),
        (lambda: GLAD(2, ability_prior=(1.0, 0.0)), "ability_prior: expected a finite mean"),
        (lambda: GLAD(2, easiness_prior=(float("nan"), 1.0)), "easiness_prior: expected a finite"),
        (lambda: GLAD(2, easiness_prior=(0.0, float("inf"))), "easiness_prior: expected a finite"),
        (lambda: GLAD(2)(torch.zeros(3)), "expected Annotations, got Tensor"),
        (lambda: GLAD(4)(simulated(6, 4)[0]), "expected 4 classes, got 3"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(DataError, match=message):
        make()
