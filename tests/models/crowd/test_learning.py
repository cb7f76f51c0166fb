"""A classifier learnt together with how annotators err."""

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
from scipy.special import softmax
from sklearn import linear_model

from likely.envs import DataError
from likely.inference import EM, MAP, MLE, SVI, Laplace, ProgramError
from likely.models import (
    Annotations,
    DawidSkene,
    LearningFromCrowds,
    RaggedLabels,
    SoftmaxRegression,
)

K, D = 3, 2
COEFFICIENTS = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]], dtype=torch.float64)
pytestmark = pytest.mark.usefixtures("in_double")


def draw(crowd: Annotations) -> dict[str, torch.Tensor]:
    """Values of the sites from their priors, not so wide that one class is certain."""
    program = LearningFromCrowds(K, SoftmaxRegression(K, coefficients_scale=1, intercept_scale=1))
    nodes = poutine.trace(program).get_trace(crowd).nodes
    return {name: nodes[name]["value"] for name in ("intercept", "coefficients", "confusion")}


def enumerated(crowd: Annotations, values: Any) -> torch.Tensor:
    """The same by Pyro's enumeration of a plain program."""

    def plain() -> None:
        logits = crowd.features @ values["coefficients"].T + values["intercept"]
        with pyro.plate("task", crowd.n_tasks):
            truth = pyro.sample("truth", dist.Categorical(logits=logits))
            if crowd.truth is not None:
                gold = dist.Delta(truth).mask(crowd.truth >= 0)
                pyro.sample("gold", gold, obs=crowd.truth.clamp(min=0))
            labels = RaggedLabels(values["confusion"], crowd, truth)
            pyro.sample("labels", labels, obs=crowd.label)

    with EnumMessenger(first_available_dim=-2):
        trace = poutine.trace(config_enumerate(plain)).get_trace()
    sites = [trace.nodes[n] for n in ("truth", "labels", "gold") if n in trace.nodes]
    return sum(site["fn"].log_prob(site["value"]) for site in sites).logsumexp(0).sum()


def shares(crowd: Annotations, values: Any) -> Any:
    """Probabilities of the classes, from the features alone."""
    scores = crowd.features.numpy() @ values["coefficients"].numpy().T + values["intercept"].numpy()
    return softmax(scores, axis=1)


def chance(values: Any) -> Any:
    """Probabilities of a label by true class."""
    return lambda task, who, label: values["confusion"].numpy()[who, :, label]


@pytest.fixture
def simulated(described_design: Any) -> Any:
    """A crowd on features that tell classes apart, its true classes, and the values behind it."""

    def crowd(tasks: int, per_task: int, annotators: int, right: Any, seed: int = 0) -> Any:
        pyro.set_rng_seed(seed)
        design = described_design(tasks, per_task, annotators)
        right = torch.as_tensor(right).expand(annotators)[:, None, None]
        values = {
            "intercept": torch.tensor([0.0, 0.3, -0.3]),
            "coefficients": COEFFICIENTS,
            "confusion": right * torch.eye(K) + (1 - right) * (1 - torch.eye(K)) / (K - 1),
        }
        conditioned = poutine.condition(LearningFromCrowds(K), values)
        nodes = poutine.trace(conditioned).get_trace(design).nodes
        return design.with_labels(nodes["labels"]["value"]), nodes["truth"]["value"], values

    return crowd


def test_log_density_is_the_sum_by_hand_and_by_enumeration(
    evidence: Any, by_hand: Any, small: Any
) -> None:
    crowd = small(dim=D)
    values = draw(crowd)
    found = evidence(LearningFromCrowds(K), crowd, values).item()
    assert found == pytest.approx(by_hand(crowd, shares(crowd, values), chance(values)), rel=1e-10)
    assert found == pytest.approx(enumerated(crowd, values).item(), rel=1e-10)


def test_gradients_and_known_truth_are_those_of_enumeration(evidence: Any, small: Any) -> None:
    crowd = small(dim=D, truth=[0, -1, 2, -1, -1, 1, -1, -1, -1, -1, -1, 0])
    leaves = {name: value.requires_grad_() for name, value in draw(small(dim=D)).items()}
    ours = evidence(LearningFromCrowds(K), crowd, leaves)
    theirs = enumerated(crowd, leaves)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    for one, other in zip(
        torch.autograd.grad(ours, list(leaves.values())),
        torch.autograd.grad(theirs, list(leaves.values())),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_without_use_of_features_it_is_dawid_skene(evidence: Any, small: Any) -> None:
    crowd, values = small(dim=D), draw(small(dim=D))
    values["coefficients"] = torch.zeros(K, D)
    plain = {"prevalence": values["intercept"].softmax(-1), "confusion": values["confusion"]}
    found = evidence(LearningFromCrowds(K), crowd, values).item()
    assert found == pytest.approx(evidence(DawidSkene(K), crowd, plain).item(), rel=1e-12)


def test_log_density_does_not_depend_on_the_order_of_classes(
    evidence: Any, by_hand: Any, small: Any
) -> None:
    crowd, values, order = small(dim=D), draw(small(dim=D)), [2, 0, 1]
    back = torch.tensor(order).argsort()
    other = replace(crowd, label=back[crowd.label], classes=crowd.classes[order])
    moved = {name: values[name][order] for name in ("intercept", "coefficients")}
    moved["confusion"] = values["confusion"][:, order][:, :, order]
    found = evidence(LearningFromCrowds(K), other, moved).item()
    assert found == pytest.approx(by_hand(crowd, shares(crowd, values), chance(values)), rel=1e-12)


def test_mini_batches_add_up_to_the_whole(evidence: Any, small: Any) -> None:
    crowd, values, program = small(dim=D), draw(small(dim=D)), LearningFromCrowds(K)
    parts = torch.randperm(12).split(4)
    sums = [evidence(program, crowd, {**values, "task": part}).item() for part in parts]
    assert sum(sums) == pytest.approx(evidence(program, crowd, values).item(), rel=1e-12)


def test_particles_in_a_plate_outside_agree_with_a_loop(small: Any, check_particles: Any) -> None:
    each = [draw(small(dim=D)) for _ in range(4)]
    check_particles(LearningFromCrowds(K), small(dim=D), each, ["intercept", "coefficients"])


@pytest.mark.parametrize(
    ("em", "direct"),
    [(EM(tol=1e-13), MLE()), (EM(objective="posterior", tol=1e-13), MAP())],
    ids=["likelihood", "posterior"],
)
def test_em_climbs_to_the_optimum_of_the_gradient_engines(
    em: Any, direct: Any, simulated: Any
) -> None:
    crowd, _, _ = simulated(150, 4, 4, 0.75)
    program = LearningFromCrowds(K)
    fit, other = em.fit(program, crowd), direct.fit(program, crowd)
    assert fit.converged
    assert other.converged
    objective = fit.history["objective"].to_numpy()
    assert (np.diff(objective) > -1e-9 * abs(objective[-1])).all()
    assert fit.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-6)
    # Intercepts may all move together where no prior holds them.
    centred = [f.params["coefficients"] - f.params["coefficients"].mean(0) for f in (fit, other)]
    torch.testing.assert_close(*centred, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        fit.params["confusion"], other.params["confusion"], atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_with_all_truth_known_it_is_softmax_regression(scale: float, simulated: Any) -> None:
    crowd, truth, _ = simulated(200, 1, 1, 1.0)
    assert torch.equal(crowd.label, truth)  # the table of the identity reports without error
    crowd = replace(crowd, truth=truth)
    options = SoftmaxRegression(K, intercept_scale=1e4, coefficients_scale=scale)
    fit = MAP().fit(LearningFromCrowds(K, options), crowd)
    reference = linear_model.LogisticRegression(C=scale**2, tol=1e-12, max_iter=10_000)
    reference.fit(crowd.features, truth)
    np.testing.assert_allclose(fit.params["coefficients"], reference.coef_, atol=1e-5)
    np.testing.assert_allclose(
        LearningFromCrowds(K).predict_proba(fit.params, crowd.features),
        reference.predict_proba(crowd.features),
        atol=1e-5,
    )


def test_values_are_recovered_within_their_errors(simulated: Any) -> None:
    crowd, _, values = simulated(1500, 3, 6, [0.9, 0.8, 0.7, 0.6, 0.85, 0.5])
    program = LearningFromCrowds(K, SoftmaxRegression(K, coefficients_scale=100.0))
    fit = Laplace(draws=400).fit(program, crowd)
    for name in ("coefficients", "confusion"):
        draws, truth = fit.draws[name].flatten(0, 1), values[name]
        if name == "coefficients":
            draws = draws - draws.mean(-2, keepdim=True)
        z = (draws.mean(0) - truth) / draws.std(0)
        # 54 + 6 numbers: the largest of as many standard normals is below 4 in 996 of 1000 cases.
        assert z.abs().max() < 4
        assert z.square().mean() < 2


def test_the_joint_model_beats_votes_where_labels_are_few(simulated: Any) -> None:
    crowd, truth, _ = simulated(600, 1, 10, [0.95, 0.9, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])
    fit = EM(objective="posterior").fit(LearningFromCrowds(K), crowd)
    joint = (fit.latent("truth").argmax(-1) == truth).double().mean()
    votes = (crowd.label == truth).double().mean()
    # Both are shares of the same 600 tasks, each with a standard error of at most 0.02.
    assert joint > votes + 0.15


@pytest.mark.parametrize("batch_size", [None, 60])
def test_svi_and_mini_batches_find_the_classes(batch_size: int | None, simulated: Any) -> None:
    crowd, _, _ = simulated(240, 3, 4, 0.8)
    engine = SVI(guide="delta", max_iter=400, learning_rate=0.1, batch_size=batch_size)
    program = LearningFromCrowds(K)
    fit = engine.fit(program, crowd)
    best = MAP().fit(program, crowd)
    found = program.predict_proba(fit.params, crowd.features)
    expected = program.predict_proba(best.params, crowd.features)
    assert (found - expected).abs().mean() < 0.05


# -- modules as classifiers ----------------------------------------------------------------------


def linear() -> torch.nn.Module:
    net = torch.nn.Linear(D, K)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.zeros_(net.bias)
    return net


def test_a_linear_layer_is_the_linear_classifier_without_priors(simulated: Any) -> None:
    crowd, _, _ = simulated(150, 4, 4, 0.75)
    flat = SoftmaxRegression(K, coefficients_scale=None, intercept_scale=None)
    program, layer = LearningFromCrowds(K, flat), LearningFromCrowds(K, linear())
    engine = EM(objective="posterior", tol=1e-12)
    one, other = engine.fit(program, crowd), engine.fit(layer, crowd)
    assert other.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-7)
    x = crowd.features
    torch.testing.assert_close(
        layer.predict_proba(other.params, x),
        program.predict_proba(one.params, x),
        atol=1e-3,
        rtol=0,
    )
    # The user's own module is left as it was.
    assert isinstance(layer.classifier, torch.nn.Linear)
    assert not layer.classifier.weight.any()


def test_a_pyro_module_brings_its_own_priors(evidence: Any, simulated: Any) -> None:
    crowd, _, _ = simulated(150, 4, 4, 0.75)
    net = PyroModule[torch.nn.Linear](D, K)
    prior = dist.Normal(torch.tensor(0.0), torch.tensor(0.5))
    net.weight = PyroSample(prior.expand([K, D]).to_event(2))
    net.bias = PyroSample(prior.expand([K]).to_event(1))
    same = SoftmaxRegression(K, coefficients_scale=0.5, intercept_scale=0.5)
    program, module = LearningFromCrowds(K, same), LearningFromCrowds(K, net)
    one, other = MAP().fit(program, crowd), MAP().fit(module, crowd)
    assert other.log_prior + other.log_likelihood == pytest.approx(
        one.log_prior + one.log_likelihood, rel=1e-8
    )
    torch.testing.assert_close(
        other.params["weight"], one.params["coefficients"], atol=1e-4, rtol=0
    )
    x = crowd.features
    torch.testing.assert_close(
        module.predict_proba(other.params, x),
        program.predict_proba(one.params, x),
        atol=1e-4,
        rtol=0,
    )
    values = {**one.params, "weight": one.params["coefficients"], "bias": one.params["intercept"]}
    whole = evidence(module, crowd, values).item()
    assert whole == pytest.approx(one.log_likelihood, rel=1e-10)
    parts = [
        evidence(module, crowd, {**values, "task": p}).item() for p in torch.arange(150).split(50)
    ]
    assert sum(parts) == pytest.approx(whole, rel=1e-10)


# -- predictions ---------------------------------------------------------------------------------


def test_probabilities_are_averaged_over_draws(small: Any) -> None:
    crowd, x = small(dim=D), torch.randn(5, D)
    program = LearningFromCrowds(K)
    each = [draw(crowd) for _ in range(6)]
    draws = {n: torch.stack([v[n] for v in each]).unflatten(0, (2, 3)) for n in each[0]}
    expected = torch.stack([program.predict_proba(v, x) for v in each]).mean(0)
    torch.testing.assert_close(program.predict_proba(draws, x), expected)
    torch.testing.assert_close(expected.sum(-1), torch.ones(5))


def test_new_tasks_are_judged_by_features_labels_and_annotators_known_or_not(
    simulated: Any,
) -> None:
    crowd, _, _ = simulated(150, 4, 4, 0.75)
    program = LearningFromCrowds(K)
    fit = EM(objective="posterior").fit(program, crowd)
    torch.testing.assert_close(program.predict_truth(fit, crowd), fit.latent("truth"))
    x = torch.randn(3, D)
    new = Annotations.from_arrays(
        ["a", "a", "b"],
        [3, "new", 1],
        [0, 1, 2],
        tasks=["a", "b", "c"],
        classes=range(K),
        features=x,
    )
    found = program.predict_truth(fit, new)
    prior = program.predict_proba(fit.params, x)
    table, mean = fit.params["confusion"], fit.params["confusion"].mean(0)
    joint = prior * torch.stack([table[3, :, 0] * mean[:, 1], table[1, :, 2], torch.ones(K)])
    torch.testing.assert_close(found, joint / joint.sum(-1, keepdim=True))


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda small: LearningFromCrowds(1), "n_classes"),
        (lambda small: LearningFromCrowds(K, "linear"), "classifier: expected None"),
        (
            lambda small: LearningFromCrowds(K, SoftmaxRegression(2)),
            "classifier: expected 3 classes",
        ),
        (lambda small: LearningFromCrowds(K, confusion_prior=-1.0), "confusion_prior"),
        (lambda small: LearningFromCrowds(K)(small(dim=D, features=None)), "expected features"),
        (
            lambda small: LearningFromCrowds(K)(small(dim=D, features=np.empty((12, 0)))),
            "at least one feature",
        ),
        (lambda small: LearningFromCrowds(2)(small(dim=D)), "expected 2 classes"),
        (lambda small: LearningFromCrowds(K)("crowd"), "expected Annotations"),
        (
            lambda small: LearningFromCrowds(K, confusion_prior=torch.ones(2, K, K))(small(dim=D)),
            "annotators",
        ),
        (
            lambda small: LearningFromCrowds(K, torch.nn.Linear(D, 2).double())(small(dim=D)),
            "scores of shape",
        ),
    ],
)
def test_bad_input_is_named(make: Any, message: str, small: Any) -> None:
    with pytest.raises(DataError, match=message):
        make(small)


def test_features_that_are_not_numbers_are_named(small: Any) -> None:
    crowd = small(dim=D)
    broken = replace(crowd, features=crowd.features.clone().index_fill(0, torch.tensor(4), np.nan))
    with pytest.raises(DataError, match=r"annotations\.features"):
        MAP().fit(LearningFromCrowds(K), broken)
    with pytest.raises(DataError, match="x"):
        LearningFromCrowds(K).predict_proba(draw(crowd), broken.features)


def test_new_features_must_fit_the_classifier(small: Any) -> None:
    program, values = LearningFromCrowds(K), draw(small(dim=D))
    with pytest.raises(DataError, match="x: expected 2 columns, as the fit has, got 3"):
        program.predict_proba(values, torch.ones(4, 3))
    with pytest.raises(DataError, match="params: expected a value of 'coefficients'"):
        program.predict_proba({"intercept": values["intercept"]}, torch.ones(4, D))
    with pytest.raises(ProgramError, match="mat1 and mat2"):
        MAP().fit(LearningFromCrowds(K, torch.nn.Linear(5, K)), small(dim=D))
