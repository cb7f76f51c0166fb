import dataclasses
import os
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from scipy.special import logsumexp

from likely.envs import DataError
from likely.inference import MAP
from likely.models import Annotations, DawidSkene, RaggedLabels

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("LIKELY_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def _double_and_seeded():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def anesthesia():
    return Annotations.from_frame(pd.read_csv(ROOT / "examples" / "data" / "anesthesia.csv"))


def small(seed=0, n=60, tasks=12, annotators=4, classes=3, **options):
    generator = np.random.default_rng(seed)
    return Annotations.from_arrays(
        generator.integers(0, tasks, n),
        generator.integers(0, annotators, n),
        generator.integers(0, classes, n),
        tasks=range(tasks),
        annotators=range(annotators),
        classes=range(classes),
        **options,
    )


def draw(program, annotations):
    """Parameters from the program's prior."""
    trace = poutine.trace(program).get_trace(annotations)
    return {name: trace.nodes[name]["value"] for name in ("prevalence", "confusion")}


def evidence(program, annotations, params):
    """log p(labels | params), true classes summed out by the program."""
    trace = poutine.trace(poutine.condition(program, params)).get_trace(annotations)
    site = trace.nodes["labels"]
    return site["fn"].log_prob(site["value"]).sum()


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


def by_hand(annotations, params, truth=None):
    """The same in NumPy, one label at a time."""
    prevalence, confusion = (params[n].detach().numpy() for n in ("prevalence", "confusion"))
    log_joint = np.tile(np.log(prevalence), (annotations.n_tasks, 1))
    rows = (annotations.task, annotations.annotator, annotations.label)
    for i, who, label in zip(*(r.tolist() for r in rows), strict=True):
        log_joint[i] += np.log(confusion[who, :, label])
    for i, known in enumerate(truth or []):
        if known >= 0:
            log_joint[i, np.arange(len(prevalence)) != known] = -np.inf
    return logsumexp(log_joint, axis=1).sum()


def em_step(program, annotations, params, prior=None):
    """Expected counts by Fisher's identity, table · d log p / d table, then their shares."""
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


def em(program, annotations, steps, prior=None):
    params, values = program.initial(annotations), []
    for _ in range(steps):
        value, new = em_step(program, annotations, params, prior)
        values.append(value)
        params = new
    return values, params


def test_em_from_vote_shares_on_anesthesia(anesthesia):
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


def test_em_of_the_posterior_on_anesthesia(anesthesia):
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
def test_em_on_published_crowds(name, log_likelihood, tolerance, accuracy):
    folder = DATA / "crowd" / name
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set LIKELY_DATA")
    crowd = Annotations.from_frame(pd.read_csv(folder / "labels.csv"), annotator="worker")
    program = DawidSkene(crowd.n_classes)
    values, params = em(program, crowd, 200)
    assert values[-1] == pytest.approx(log_likelihood, abs=tolerance)
    gold = pd.read_csv(folder / "truth.csv").set_index("task")["label"]
    position = {task: i for i, task in enumerate(crowd.tasks.tolist())}
    log_confusion = params["confusion"].log()
    score = params["prevalence"].log().repeat(crowd.n_tasks, 1)
    score.index_add_(0, crowd.task, log_confusion[crowd.annotator, :, crowd.label])
    guess = crowd.classes[score.argmax(1).numpy()]
    hits = [guess[position[task]] == label for task, label in gold.items() if task in position]
    assert np.mean(hits) == pytest.approx(accuracy, abs=2e-3)


def test_evidence_equals_the_sum_by_hand(anesthesia):
    for program, crowd in ((DawidSkene(4), anesthesia), (DawidSkene(3), small())):
        params = draw(program, crowd)
        expected = by_hand(crowd, params)
        assert evidence(program, crowd, params).item() == pytest.approx(expected, rel=1e-12)


def test_evidence_equals_the_elbo_of_a_point_guide():
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


def test_vectorised_particles_agree_with_a_loop():
    crowd = small()
    params = [draw(DawidSkene(3), crowd) for _ in range(4)]
    expected = [evidence(DawidSkene(3), crowd, p).item() for p in params]
    stacked = {
        "prevalence": torch.stack([p["prevalence"] for p in params]).unsqueeze(1),
        "confusion": torch.stack([p["confusion"] for p in params]),
    }

    def particles(annotations):
        with pyro.plate("particle", 4, dim=-2):
            return DawidSkene(3)(annotations)

    trace = poutine.trace(poutine.condition(particles, stacked)).get_trace(crowd)
    site = trace.nodes["labels"]
    density = site["fn"].log_prob(site["value"])
    assert density.shape == (4, crowd.n_tasks)
    torch.testing.assert_close(density.sum(-1), torch.tensor(expected))


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_evidence_does_not_depend_on_names_and_row_order(random, n):
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


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(3)))
def test_evidence_does_not_depend_on_the_order_of_classes(order):
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
def test_known_truth_is_conditioned_on(known):
    crowd = small(truth=known)
    params = draw(DawidSkene(3), small())
    expected = by_hand(crowd, params, known)
    assert evidence(DawidSkene(3), crowd, params).item() == pytest.approx(expected, rel=1e-12)
    assert enumerated(crowd, params).item() == pytest.approx(expected, rel=1e-12)


def test_mini_batches_add_up_to_the_whole():
    crowd = small(truth=[0, -1, 2, -1, -1, 1, -1, -1, -1, -1, -1, 0])
    params = draw(DawidSkene(3), small())
    parts = torch.randperm(12).split(4)
    values = [evidence(DawidSkene(3), crowd, {**params, "task": part}).item() for part in parts]
    whole = evidence(DawidSkene(3), crowd, params).item()
    assert sum(values) == pytest.approx(whole, rel=1e-12)
    with poutine.trace() as tracer:
        poutine.condition(DawidSkene(3), {**params, "task": parts[0]})(crowd)
    assert tracer.trace.nodes["labels"]["scale"] == 3


def test_a_design_is_simulated():
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
def test_posterior_predictive_labels_are_flat(parallel):
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


def test_names_of_dimensions():
    crowd = Annotations.from_arrays(["t1", "t0"], [5, 5], ["no", "yes"])
    program = DawidSkene(2)
    assert program.coords(crowd) == {
        "task": ["t0", "t1"],
        "annotator": [5],
        "class": ["no", "yes"],
        "reported": ["no", "yes"],
        "annotation": range(2),
    }
    trace = poutine.trace(program).get_trace(crowd)
    for site, names in program.dims.items():
        if site == "truth":  # a latent: the axis of its probabilities
            assert names == ("class",)
            continue
        assert trace.nodes[site]["fn"].event_dim == len(names)
    design = poutine.trace(program).get_trace(dataclasses.replace(crowd, label=None))
    assert [frame.name for frame in design.nodes["truth"]["cond_indep_stack"]] == ["task"]
    for site, plate in (("confusion", "annotator"), ("labels", "task")):
        assert [frame.name for frame in trace.nodes[site]["cond_indep_stack"]] == [plate]


@pytest.mark.parametrize(
    "crowd",
    [
        Annotations.from_arrays([0], [0], [1], classes=[0, 1]),  # one task, one label
        Annotations.from_arrays([0, 1, 2], [0, 0, 0], [0, 1, 1]),  # one annotator
        Annotations.from_arrays([0, 0, 0], [0, 1, 2], [0, 1, 1]),  # one label an annotator
        Annotations.from_arrays([0, 0], [0, 1], [1, 1], classes=[0, 1]),  # one class reported
        Annotations.from_arrays([0, 1], [0, 1], [0, 1], tasks=range(9), annotators=range(5)),
    ],
)
def test_degenerate_crowds(crowd):
    params = draw(DawidSkene(2), crowd)
    expected = by_hand(crowd, params)
    assert evidence(DawidSkene(2), crowd, params).item() == pytest.approx(expected, rel=1e-12)
    values, params = em(DawidSkene(2), crowd, 5)
    assert np.isfinite(values).all()
    assert all(torch.isfinite(p).all() for p in params.values())


def test_priors():
    crowd = small()
    full = 1 + torch.rand(4, 3, 3)
    for prior, expected in (
        (None, (4 / 3 + 2 * torch.eye(3)).expand(4, 3, 3)),
        (2, torch.full((4, 3, 3), 2.0)),
        (torch.tensor(2.0), torch.full((4, 3, 3), 2.0)),
        (full[0].float(), full[0].float().double().expand(4, 3, 3)),
        (full, full),
    ):
        prevalence = (torch.tensor([1.0, 2.0, 3.0]), [1, 2, 3], np.array([1.0, 2.0, 3.0]))
        if isinstance(prior, torch.Tensor):
            prior = (prior, prior.numpy(), prior.tolist())
        given = zip(prevalence, prior if isinstance(prior, tuple) else [prior] * 3, strict=True)
        for concentration, own in given:
            program = DawidSkene(3, concentration, own)
            nodes = poutine.trace(program).get_trace(crowd).nodes
            torch.testing.assert_close(nodes["confusion"]["fn"].base_dist.concentration, expected)
            assert nodes["prevalence"]["fn"].concentration.tolist() == [1, 2, 3]
            assert nodes["confusion"]["value"].shape == (4, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "n_classes: expected an integer of at least 2, got 1"),
        ((2.0,), "n_classes: expected an integer"),
        ((3, 0.0), "prevalence_prior: expected positive"),
        ((3, torch.ones(2)), r"prevalence_prior: expected a number or \[3\], got shape \[2\]"),
        ((3, "a"), "prevalence_prior: expected numbers, got 'a'"),
        ((3, [1.0, 2.0]), r"prevalence_prior: expected a number or \[3\], got shape \[2\]"),
        ((3, [[1.0], [1.0, 2.0]]), "prevalence_prior: expected numbers"),
        ((3, 1.0, torch.ones(3)), r"confusion_prior: expected a number or \[3, 3\] or \[L, 3, 3\]"),
        ((3, 1.0, -torch.ones(3, 3)), "confusion_prior: expected positive"),
        ((3, 1.0, float("nan")), "confusion_prior: expected positive"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(DataError, match=message):
        DawidSkene(*arguments)


def test_annotations_of_another_size_are_refused():
    with pytest.raises(DataError, match=r"expected 4 classes, got 3.*pass classes="):
        DawidSkene(4)(small())
    with pytest.raises(DataError, match="expected 2 annotators, as confusion_prior has, got 4"):
        DawidSkene(3, 1.0, torch.ones(2, 3, 3))(small())


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"task": [0], "annotator": [0], "label": [1]}),
        np.zeros((3, 3)),
        torch.zeros(3, 3),
        None,
    ],
)
def test_what_is_not_annotations_is_refused(data):
    program = DawidSkene(2)
    for call in (program, program.initial, program.coords):
        with pytest.raises(DataError, match=r"expected Annotations, got .*Annotations\.from_frame"):
            call(data)
    with pytest.raises(DataError, match=r"expected Annotations, got"):
        MAP().fit(program, data)
