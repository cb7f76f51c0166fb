"""The density of Dawid & Skene's model, and EM by hand on it."""

import dataclasses
from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger

from likely.envs import DataError
from likely.models import Annotations, DawidSkene, RaggedLabels

pytestmark = pytest.mark.usefixtures("in_double")

# The dtype is the same for all examples.
SHARED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def draw(program, annotations):
    """Parameters from the program's prior."""
    trace = poutine.trace(program).get_trace(annotations)
    return {name: trace.nodes[name]["value"] for name in ("prevalence", "confusion")}


def enumerated(annotations, params):
    """The same by Pyro's enumeration of a plain program, known classes reported without error."""

    def plain(annotations):
        with pyro.plate("task", annotations.n_tasks):
            truth = pyro.sample("truth", dist.Categorical(params["prevalence"]))
            if annotations.truth is not None:
                gold = dist.Delta(truth).mask(annotations.truth >= 0)
                pyro.sample("gold", gold, obs=annotations.truth.clamp(min=0))
            labels = RaggedLabels(params["confusion"], annotations, truth)
            pyro.sample("labels", labels, obs=annotations.label)

    with EnumMessenger(first_available_dim=-2):
        trace = poutine.trace(config_enumerate(plain)).get_trace(annotations)
    sites = [trace.nodes[n] for n in ("truth", "labels", "gold") if n in trace.nodes]
    joint = sum(site["fn"].log_prob(site["value"]) for site in sites)
    return joint.logsumexp(0).sum()


def chance(params):
    """Probabilities of a label by true class."""
    table = params["confusion"].detach().numpy()
    return lambda task, who, label: table[who, :, label]


@pytest.fixture
def em(evidence):
    """EM by Fisher's identity: expected counts are table · d log p / d table."""

    def step(program, annotations, params, prior):
        params = {name: value.detach().requires_grad_() for name, value in params.items()}
        value = evidence(program, annotations, params)
        gradients = torch.autograd.grad(value, list(params.values()))
        new = {}
        for (name, table), gradient in zip(params.items(), gradients, strict=True):
            expected = table.detach() * gradient
            if prior is not None:
                expected = expected + prior[name] - 1
            total = expected.sum(-1, keepdim=True)
            # Counts that underflow cannot be divided to shares that sum to one.
            seen = total > 1e-200
            new[name] = torch.where(seen, expected / torch.where(seen, total, 1.0), table.detach())
        return value.item(), new

    def run(program, annotations, steps, prior=None):
        params, values = program.initial(annotations), []
        for _ in range(steps):
            value, params = step(program, annotations, params, prior)
            values.append(value)
        return values, params

    return run


def test_em_from_vote_shares_on_anesthesia(anesthesia, em):
    values, params = em(DawidSkene(4), anesthesia, 300)
    reference = {1: -205.0911, 2: -194.5510, 5: -192.9093, 10: -192.8910, 20: -192.8909}
    for step, value in reference.items():
        assert values[step - 1] == pytest.approx(value, abs=6e-5)
    assert (np.diff(values) > -1e-10).all()
    torch.testing.assert_close(
        params["prevalence"], torch.tensor([0.3996, 0.4220, 0.1118, 0.0667]), atol=6e-5, rtol=0
    )
    observer_1 = [
        [0.8895, 0.1105, 0, 0],
        [0.0706, 0.8764, 0.0530, 0],
        [0, 0.3388, 0.6612, 0],
        [0, 0, 0.5556, 0.4444],
    ]
    diagonals = [
        [0.8342, 0.6329, 1, 1],
        [1, 0.7883, 0.1988, 0.3333],
        [0.9444, 0.8426, 0.8012, 0.6667],
        [1, 0.7345, 0.7909, 0.6667],
    ]
    confusion = params["confusion"]
    torch.testing.assert_close(confusion[0], torch.tensor(observer_1), atol=6e-5, rtol=0)
    torch.testing.assert_close(
        confusion[1:].diagonal(dim1=-2, dim2=-1), torch.tensor(diagonals), atol=6e-5, rtol=0
    )


def test_em_of_the_posterior_on_anesthesia(anesthesia, em):
    prior = {"prevalence": 3.0, "confusion": 3.2 / 3 + (4.8 - 3.2 / 3) * torch.eye(4)}
    _, params = em(DawidSkene(4), anesthesia, 200, prior)
    torch.testing.assert_close(
        params["prevalence"], torch.tensor([0.3773, 0.3976, 0.1501, 0.0750]), atol=6e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "log_likelihood", "tolerance", "accuracy"),
    [
        ("bluebirds", -1888.12, 0.01, 0.898),
        ("rte", -3679.63, 0.01, 0.928),
        ("d_product", -7568.82, 0.1, 0.940),
        # With two or three labels a task, EM creeps over plateaus for thousands of steps.
        ("labelme", -2706.93, 1.5, 0.795),
    ],
)
def test_em_on_published_crowds(name, log_likelihood, tolerance, accuracy, published, em):
    crowd = published(name).crowd
    program = DawidSkene(crowd.n_classes)
    values, params = em(program, crowd, 200)
    assert values[-1] == pytest.approx(log_likelihood, abs=tolerance)
    log_confusion = params["confusion"].log()
    score = params["prevalence"].log().repeat(crowd.n_tasks, 1)
    score.index_add_(0, crowd.task, log_confusion[crowd.annotator, :, crowd.label])
    assert published(name).accuracy(score) == pytest.approx(accuracy, abs=2e-3)


def test_evidence_equals_the_sum_by_hand(anesthesia, evidence, by_hand, small):
    for program, crowd in ((DawidSkene(4), anesthesia), (DawidSkene(3), small())):
        params = draw(program, crowd)
        expected = by_hand(crowd, params["prevalence"], chance(params))
        assert evidence(program, crowd, params).item() == pytest.approx(expected, rel=1e-12)


def test_evidence_equals_the_elbo_of_a_point_guide(evidence, small):
    program, crowd = DawidSkene(3), small()
    params = draw(program, crowd)

    def guide(annotations):
        pyro.sample("prevalence", dist.Delta(params["prevalence"], event_dim=1))
        with pyro.plate("annotator", annotations.n_annotators):
            pyro.sample("confusion", dist.Delta(params["confusion"], event_dim=2))

    elbo = Trace_ELBO(max_plate_nesting=1)
    prior = dist.Dirichlet(torch.ones(3)).log_prob(params["prevalence"])
    concentration = 1 + 1 / 3 + 2 * torch.eye(3)
    prior = prior + dist.Dirichlet(concentration).log_prob(params["confusion"]).sum()
    expected = evidence(program, crowd, params) + prior
    assert -elbo.loss(program, guide, crowd) == pytest.approx(expected.item(), abs=1e-8)


def test_vectorised_particles_agree_with_a_loop(small, check_particles):
    each = [draw(DawidSkene(3), small()) for _ in range(4)]
    check_particles(DawidSkene(3), small(), each, ["prevalence"])


@settings(max_examples=30, **SHARED)
@given(random=st.randoms(use_true_random=False), n=st.integers(1, 40))
def test_evidence_does_not_depend_on_names_and_row_order(random, n, evidence, small):
    crowd = small(n=n)
    params = draw(DawidSkene(3), crowd)
    before = evidence(DawidSkene(3), crowd, params).item()
    task_names = random.sample("abcdefghijkl", 12)
    annotator_names = random.sample(range(100), 4)
    rows = random.sample(range(n), n)
    renamed = Annotations.from_arrays(
        [task_names[i] for i in crowd.task[rows]],
        [annotator_names[i] for i in crowd.annotator[rows]],
        crowd.label[rows],
        tasks=random.sample(task_names, 12),
        annotators=random.sample(annotator_names, 4),
        classes=[0, 1, 2],
    )
    order = [annotator_names.index(name) for name in renamed.annotators.tolist()]
    params["confusion"] = params["confusion"][order]
    assert evidence(DawidSkene(3), renamed, params).item() == pytest.approx(before, rel=1e-12)


@settings(max_examples=10, **SHARED)
@given(order=st.permutations(range(3)))
def test_evidence_does_not_depend_on_the_order_of_classes(order, evidence, small):
    crowd = small()
    params = draw(DawidSkene(3), crowd)
    before = evidence(DawidSkene(3), crowd, params).item()
    other = Annotations.from_arrays(
        crowd.task,
        crowd.annotator,
        crowd.label,
        tasks=range(12),
        annotators=range(4),
        classes=order,
    )
    permuted = {
        "prevalence": params["prevalence"][list(order)],
        "confusion": params["confusion"][:, list(order)][:, :, list(order)],
    }
    assert evidence(DawidSkene(3), other, permuted).item() == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("known", [[0, -1, 2, -1, -1, 1, -1, -1, -1, -1, -1, 0], [0, 1, 2] * 4])
def test_known_truth_is_conditioned_on(known, evidence, by_hand, small):
    crowd = small(truth=known)
    params = draw(DawidSkene(3), small())
    expected = by_hand(crowd, params["prevalence"], chance(params))
    assert evidence(DawidSkene(3), crowd, params).item() == pytest.approx(expected, rel=1e-12)
    assert enumerated(crowd, params).item() == pytest.approx(expected, rel=1e-12)


def test_mini_batches_add_up_to_the_whole(evidence, small):
    crowd = small(truth=[0, -1, 2, -1, -1, 1, -1, -1, -1, -1, -1, 0])
    params = draw(DawidSkene(3), small())
    parts = torch.randperm(12).split(4)
    values = [evidence(DawidSkene(3), crowd, {**params, "task": part}).item() for part in parts]
    whole = evidence(DawidSkene(3), crowd, params).item()
    assert sum(values) == pytest.approx(whole, rel=1e-12)
    with poutine.trace() as tracer:
        poutine.condition(DawidSkene(3), {**params, "task": parts[0]})(crowd)
    assert tracer.trace.nodes["labels"]["scale"] == 3


def test_a_design_is_simulated(em):
    n_tasks, n_annotators = 400, 3
    pairs = np.array(list(product(range(n_tasks), range(n_annotators)))).T
    design = Annotations.from_arrays(*pairs, None, classes=["x", "y", "z"])
    params = {
        "prevalence": torch.tensor([0.5, 0.3, 0.2]),
        "confusion": torch.tensor([0.9, 0.8, 0.6])[:, None, None] * torch.eye(3)
        + torch.tensor([0.1, 0.2, 0.4])[:, None, None] * (1 - torch.eye(3)) / 2,
    }
    trace = poutine.trace(poutine.condition(DawidSkene(3), params)).get_trace(design)
    labels, truth = trace.nodes["labels"]["value"], trace.nodes["truth"]["value"]
    assert labels.shape == (len(design),)
    right = (labels == truth[design.task]).double().reshape(n_tasks, n_annotators).mean(0)
    torch.testing.assert_close(right, torch.tensor([0.9, 0.8, 0.6]), atol=0.08, rtol=0)
    _, fitted = em(DawidSkene(3), design.with_labels(labels), 100)
    torch.testing.assert_close(fitted["prevalence"], params["prevalence"], atol=0.1, rtol=0)
    torch.testing.assert_close(fitted["confusion"], params["confusion"], atol=0.15, rtol=0)


def test_a_design_with_known_truth_is_simulated_from_it():
    design = Annotations.from_arrays([0, 1], [0, 0], None, classes=[0, 1], truth=[1, 0])
    exact = {"confusion": torch.eye(2).unsqueeze(0)}
    assert poutine.condition(DawidSkene(2), exact)(design).tolist() == [1, 0]
    partly = dataclasses.replace(design, truth=torch.tensor([1, -1]))
    with pytest.raises(DataError, match="truth of all tasks or of none, got 1 of 2"):
        DawidSkene(2)(partly)


@pytest.mark.parametrize("parallel", [False, True])
def test_posterior_predictive_labels_are_flat(parallel, small):
    program = poutine.uncondition(DawidSkene(3))
    samples = Predictive(program, num_samples=5, parallel=parallel)(small())
    assert samples["labels"].shape == (5, 60)
    design = dataclasses.replace(small(), label=None)
    drawn = Predictive(DawidSkene(3), num_samples=5, parallel=parallel)(design)
    assert drawn["labels"].shape == (5, 60)
    assert drawn["truth"].shape == (5, 12)


def test_initial_is_the_m_step_of_vote_shares():
    crowd = Annotations.from_arrays(
        ["a", "a", "a", "b", "b"],
        ["u", "v", "v", "u", "v"],
        [0, 0, 1, 1, 1],
        tasks=["a", "b", "no labels"],
        annotators=["u", "v", "idle"],
        classes=[0, 1, 2],
    )
    initial = DawidSkene(3).initial(crowd)
    torch.testing.assert_close(initial["prevalence"], torch.tensor([1 / 3, 2 / 3, 0]))
    uniform = [1 / 3] * 3
    expected = [
        [[1, 0, 0], [1 / 4, 3 / 4, 0], uniform],  # shares 2/3 1/3 of a, and 0 1 of b
        [[1 / 2, 1 / 2, 0], [1 / 5, 4 / 5, 0], uniform],
        [uniform] * 3,
    ]
    torch.testing.assert_close(initial["confusion"], torch.tensor(expected))
    gold = DawidSkene(3).initial(dataclasses.replace(crowd, truth=torch.tensor([1, -1, 2])))
    torch.testing.assert_close(gold["prevalence"], torch.tensor([0, 2 / 3, 1 / 3]))
    torch.testing.assert_close(gold["confusion"][0, 1], torch.tensor([1 / 2, 1 / 2, 0]))


def test_degenerate_crowds(degenerate_crowd, evidence, by_hand, em):
    crowd = degenerate_crowd
    params = draw(DawidSkene(2), crowd)
    expected = by_hand(crowd, params["prevalence"], chance(params))
    assert evidence(DawidSkene(2), crowd, params).item() == pytest.approx(expected, rel=1e-12)
    values, params = em(DawidSkene(2), crowd, 5)
    assert np.isfinite(values).all()
    assert all(torch.isfinite(p).all() for p in params.values())
