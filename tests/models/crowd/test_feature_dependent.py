"""Annotators whose skill depends on the task's features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.nn import PyroModule, PyroSample
from pyro.poutine.enum_messenger import EnumMessenger
from scipy.special import expit, softmax
from sklearn import linear_model

from likely.envs import DataError
from likely.inference import EM, MAP, Laplace
from likely.models import Annotations, FeatureDependentCrowd, SoftmaxRegression
from likely.models.crowd._newton import logistic_newton, softmax_newton

K, D = 3, 2
NAMES = ("intercept", "coefficients", "expertise_intercept", "expertise_coefficients")
pytestmark = pytest.mark.usefixtures("in_double")


def draw(crowd: Annotations) -> dict[str, torch.Tensor]:
    program = FeatureDependentCrowd(
        K, SoftmaxRegression(K, coefficients_scale=1, intercept_scale=1)
    )
    nodes = poutine.trace(program).get_trace(crowd).nodes
    return {name: nodes[name]["value"] for name in NAMES}


def in_numpy(crowd: Annotations, values: Any) -> Any:
    """Probabilities of the classes, and those of a label by true class."""
    x = crowd.features.numpy()
    v = {name: value.numpy() for name, value in values.items()}

    def chance(task: int, who: int, label: int) -> Any:
        u = x[task] @ v["expertise_coefficients"][who] + v["expertise_intercept"][who]
        return np.where(np.arange(K) == label, expit(u), (1 - expit(u)) / (K - 1))

    return softmax(x @ v["coefficients"].T + v["intercept"], axis=1), chance


def without_repeats(crowd: Annotations) -> Annotations:
    """The first label that each annotator gave to a task."""
    first = {}
    for row, key in enumerate(zip(crowd.task.tolist(), crowd.annotator.tolist(), strict=True)):
        first.setdefault(key, row)
    rows = torch.tensor(list(first.values()))
    columns = {name: getattr(crowd, name)[rows] for name in ("task", "annotator", "label")}
    return replace(crowd, **columns)


def enumerated(crowd: Annotations, values: Any) -> torch.Tensor:
    """The same by Pyro's enumeration, labels in an array tasks × annotators with holes."""
    given = torch.full((crowd.n_tasks, crowd.n_annotators), -1)
    given[crowd.task, crowd.annotator] = crowd.label
    x = crowd.features

    def plain() -> None:
        logits = x @ values["coefficients"].T + values["intercept"]
        with pyro.plate("task", crowd.n_tasks, dim=-2):
            truth = pyro.sample("truth", dist.Categorical(logits=logits.unsqueeze(1)))
            with pyro.plate("annotator", crowd.n_annotators, dim=-1):
                u = x @ values["expertise_coefficients"].T + values["expertise_intercept"]
                right = torch.sigmoid(u)
                named = truth.unsqueeze(-1) == torch.arange(K)
                probs = torch.where(named, right[..., None], (1 - right[..., None]) / (K - 1))
                labels = dist.Categorical(probs).mask(given >= 0)
                pyro.sample("labels", labels, obs=given.clamp(min=0))

    with EnumMessenger(first_available_dim=-3):
        trace = poutine.trace(config_enumerate(plain)).get_trace()
    truth, labels = (trace.nodes[n] for n in ("truth", "labels"))
    prior = truth["fn"].log_prob(truth["value"]).squeeze(-1)
    joint = prior + labels["fn"].log_prob(labels["value"]).sum(-1)
    return joint.logsumexp(0).sum()


@pytest.fixture
def simulated(described_design: Any) -> Any:
    """A crowd in which who is good depends on the first feature; its true classes and values."""

    def crowd(tasks: int, per_task: int, annotators: int = 5, seed: int = 0) -> Any:
        pyro.set_rng_seed(seed)
        design = described_design(tasks, per_task, annotators)
        slopes = torch.zeros(annotators, D)
        slopes[:, 0] = torch.linspace(-2, 2, annotators)
        values = {
            "intercept": torch.tensor([0.0, 0.3, -0.3]),
            "coefficients": torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]]),
            "expertise_intercept": torch.linspace(0.6, 1.4, annotators),
            "expertise_coefficients": slopes,
        }
        conditioned = poutine.condition(FeatureDependentCrowd(K), values)
        nodes = poutine.trace(conditioned).get_trace(design).nodes
        return design.with_labels(nodes["labels"]["value"]), nodes["truth"]["value"], values

    return crowd


def test_log_density_is_the_sum_by_hand(evidence: Any, by_hand: Any, small: Any) -> None:
    crowd = small(dim=D)
    values = draw(crowd)
    found = evidence(FeatureDependentCrowd(K), crowd, values).item()
    assert found == pytest.approx(by_hand(crowd, *in_numpy(crowd, values)), rel=1e-10)


def test_log_density_and_gradients_are_those_of_enumeration(evidence: Any, small: Any) -> None:
    leaves = {name: value.requires_grad_() for name, value in draw(small(dim=D)).items()}
    crowd = without_repeats(small(dim=D))
    difference = evidence(FeatureDependentCrowd(K), crowd, leaves) - enumerated(crowd, leaves)
    assert difference.item() == pytest.approx(0.0, abs=1e-10)
    for gradient in torch.autograd.grad(difference, list(leaves.values())):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)


def test_mini_batches_add_up_to_the_whole(evidence: Any, small: Any) -> None:
    crowd, values, program = small(dim=D), draw(small(dim=D)), FeatureDependentCrowd(K)
    parts = torch.randperm(12).split(4)
    sums = [evidence(program, crowd, {**values, "task": part}).item() for part in parts]
    assert sum(sums) == pytest.approx(evidence(program, crowd, values).item(), rel=1e-12)


def test_log_density_does_not_depend_on_the_order_of_classes(
    evidence: Any, by_hand: Any, small: Any
) -> None:
    crowd, values, order = small(dim=D), draw(small(dim=D)), [2, 0, 1]
    back = torch.tensor(order).argsort()
    other = replace(crowd, label=back[crowd.label], classes=crowd.classes[order])
    moved = {**values, **{n: values[n][order] for n in ("intercept", "coefficients")}}
    found = evidence(FeatureDependentCrowd(K), other, moved).item()
    assert found == pytest.approx(by_hand(crowd, *in_numpy(crowd, values)), rel=1e-12)


def test_particles_in_a_plate_outside_agree_with_a_loop(small: Any, check_particles: Any) -> None:
    each = [draw(small(dim=D)) for _ in range(4)]
    check_particles(FeatureDependentCrowd(K), small(dim=D), each, ["intercept", "coefficients"])


def test_a_pyro_module_judges_tasks_and_leaves_annotators_their_features(
    small: Any, evidence: Any
) -> None:
    net = PyroModule[torch.nn.Linear](D, K)
    prior = dist.Normal(torch.tensor(0.0), torch.tensor(0.5))
    net.weight = PyroSample(prior.expand([K, D]).to_event(2))
    net.bias = PyroSample(prior.expand([K]).to_event(1))
    crowd, program = small(dim=D), FeatureDependentCrowd(K, net)
    values = draw(crowd)
    given = {**values, "weight": values["coefficients"], "bias": values["intercept"]}
    whole = evidence(program, crowd, given).item()
    expected = evidence(FeatureDependentCrowd(K), crowd, values).item()
    assert whole == pytest.approx(expected, rel=1e-12)
    parts = [
        evidence(program, crowd, {**given, "task": part}) for part in torch.arange(12).split(4)
    ]
    assert sum(parts).item() == pytest.approx(whole, rel=1e-12)
    fit = MAP().fit(program, crowd)
    assert fit.params["expertise_coefficients"].shape == (4, D)
    torch.testing.assert_close(program.predict_truth(fit, crowd), fit.latent("truth"))


def test_simulated_labels_are_right_as_often_as_the_program_says(simulated: Any) -> None:
    crowd, truth, values = simulated(4000, 3)
    right = (crowd.label == truth[crowd.task]).double()
    chance = FeatureDependentCrowd(K).log_odds_right(values, crowd).sigmoid()
    for who in range(5):
        mine = crowd.annotator == who
        spread = (chance[mine] * (1 - chance[mine])).sum().sqrt()
        assert (right[mine] - chance[mine]).sum().abs() < 4 * spread


def test_em_climbs_to_the_mode(simulated: Any) -> None:
    crowd, truth, _ = simulated(200, 4)
    program = FeatureDependentCrowd(K)
    fit = EM(objective="posterior", tol=1e-13).fit(program, crowd)
    other = MAP().fit(program, crowd)
    objective = fit.history["objective"].to_numpy()
    assert fit.converged
    assert (np.diff(objective) > -1e-9 * abs(objective[-1])).all()
    assert objective[-1] == pytest.approx(other.log_likelihood + other.log_prior, rel=1e-8)
    for name in NAMES:
        torch.testing.assert_close(fit.params[name], other.params[name], atol=1e-3, rtol=0)
    assert (fit.latent("truth").argmax(-1) == truth).double().mean() > 0.8


def test_without_newton_steps_em_climbs_to_the_same_mode(monkeypatch: Any, simulated: Any) -> None:
    crowd, _, _ = simulated(100, 3, 3)
    program = FeatureDependentCrowd(K)
    engine = EM(objective="posterior", tol=1e-11)
    fit = engine.fit(program, crowd)
    monkeypatch.setattr("likely.models.crowd._classifier.MOST", 0)
    monkeypatch.setattr("likely.models.crowd.feature_dependent._MOST_PRODUCTS", 0)
    slow = engine.fit(program, crowd)
    reached = [f.log_likelihood + f.log_prior for f in (fit, slow)]
    assert reached[0] == pytest.approx(reached[1], rel=1e-7)


def test_expertise_is_recovered_within_its_errors(simulated: Any) -> None:
    crowd, _, values = simulated(1500, 4)
    program = FeatureDependentCrowd(K, expertise_coefficients_scale=3.0, expertise_scale=3.0)
    fit = Laplace(draws=400).fit(program, crowd)
    scores = []
    for name in NAMES[1:]:
        draws, truth = fit.draws[name].flatten(0, 1), values[name]
        if name == "coefficients":
            draws = draws - draws.mean(-2, keepdim=True)
        scores.append(((draws.mean(0) - truth) / draws.std(0)).flatten())
    z = torch.cat(scores)
    # Of 21 standard normals the largest is below 4 in 998 of 1000 cases, and the mean square
    # has a standard deviation of (2 / 21)^(1/2) = 0.31.
    assert z.abs().max() < 4
    assert z.square().mean() < 2
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    found, expected = (program.expertise(v, x) for v in (fit.draws, values))
    assert found.shape == (2, 5)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


def test_a_start_is_better_than_chance_for_everybody(simulated: Any) -> None:
    crowd, _, _ = simulated(30, 2)
    # One annotator always names another class than anybody else, one has no labels.
    label = torch.where(crowd.annotator == 0, (crowd.label + 1) % K, crowd.label)
    seen = crowd.annotator != 1
    crowd = replace(
        crowd, task=crowd.task[seen], annotator=crowd.annotator[seen], label=label[seen]
    )
    start = FeatureDependentCrowd(K).initial(crowd)
    assert (start["expertise_intercept"].sigmoid() > 1 / K).all()
    assert start["expertise_intercept"][1] == 1.0


def test_newton_steps_reach_the_optima_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, D, generator=generator)
    counts = torch.rand(80, K, generator=generator)
    with_ones = torch.cat([x, torch.ones(80, 1)], -1)
    start, precision = torch.zeros(K, D + 1), torch.tensor([0.5, 0.5, 0.0])
    for _ in range(5):
        start = softmax_newton(with_ones, counts, start, precision)
    reference = linear_model.LogisticRegression(C=2.0, tol=1e-12, max_iter=10_000)
    reference.fit(x.repeat_interleave(K, 0), np.tile(range(K), 80), sample_weight=counts.flatten())
    np.testing.assert_allclose(start[:, :D], reference.coef_, atol=1e-5)
    group = torch.arange(80) % 2
    yes, no = counts[:, 0], counts[:, 1]
    theta, prior = torch.zeros(2, D + 1), (torch.zeros(D + 1), precision)
    for _ in range(5):
        theta = logistic_newton(with_ones, group, (yes, no), theta, prior)
    for which in range(2):
        rows = group == which
        twice, classes = torch.cat([x[rows]] * 2), np.repeat([1, 0], rows.sum())
        reference.fit(twice, classes, sample_weight=torch.cat([yes[rows], no[rows]]))
        np.testing.assert_allclose(theta[which, :D], reference.coef_[0], atol=1e-5)
        np.testing.assert_allclose(theta[which, D], reference.intercept_[0], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda small: FeatureDependentCrowd(1), "n_classes"),
        (lambda small: FeatureDependentCrowd(K, "net"), "classifier: expected None"),
        (lambda small: FeatureDependentCrowd(K, expertise_scale=0.0), "expertise_scale"),
        (lambda small: FeatureDependentCrowd(K, expertise_loc=float("nan")), "expertise_loc"),
        (
            lambda small: FeatureDependentCrowd(K, expertise_coefficients_scale="wide"),
            "expertise_coefficients_scale",
        ),
        (lambda small: FeatureDependentCrowd(K)(small(dim=D, features=None)), "expected features"),
        (lambda small: FeatureDependentCrowd(2)(small(dim=D)), "expected 2 classes"),
        (lambda small: FeatureDependentCrowd(K)(None), "expected Annotations"),
    ],
)
def test_bad_input_is_named(make: Any, message: str, small: Any) -> None:
    with pytest.raises(DataError, match=message):
        make(small)


def test_features_that_do_not_fit_are_named(small: Any) -> None:
    crowd, program = small(dim=D), FeatureDependentCrowd(K)
    broken = replace(crowd, features=crowd.features * float("nan"))
    with pytest.raises(DataError, match=r"annotations\.features"):
        MAP().fit(program, broken)
    values = draw(crowd)
    with pytest.raises(DataError, match="x: expected 2 columns, as the fit has, got 3"):
        program.expertise(values, torch.ones(4, 3))
    with pytest.raises(DataError, match="x"):
        program.expertise(values, broken.features)
    with pytest.raises(DataError, match="params: expected a value of 'expertise_intercept'"):
        program.expertise({}, torch.ones(4, D))
