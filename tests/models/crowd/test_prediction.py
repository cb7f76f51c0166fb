"""What a fit says of other tasks, and of labels by annotators whom it does not know."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch

from likely.envs import DataError
from likely.inference import EM, MAP, Fit, Laplace, Shards
from likely.models.crowd import (
    GLAD,
    MACE,
    Annotations,
    DawidSkene,
    FeatureDependentCrowd,
    HierarchicalDawidSkene,
    LearningFromCrowds,
    OneCoin,
    PooledMultinomial,
)

K, CLASSES = 3, ["cat", "dog", "eel"]
MONDAY = ["ann", "bo", "cy", "di", "ed"]
PROGRAMS = {
    type(program).__name__: program
    for program in (
        DawidSkene(K),
        PooledMultinomial(K),
        OneCoin(K),
        HierarchicalDawidSkene(K),
        GLAD(K, 1.0),
        MACE(K),
        LearningFromCrowds(K),
        FeatureDependentCrowd(K),
    )
}
WITH_FEATURES = ["LearningFromCrowds", "FeatureDependentCrowd"]
ENGINE = EM(objective="posterior")
# Its M-step is a search, which takes EM many times as long as a search of the whole.
ENGINES = {"HierarchicalDawidSkene": MAP()}

pytestmark = pytest.mark.usefixtures("in_double")


def labelled(tasks, annotators, seed=0, first=0):
    """Everybody labels each task, the first annotators best."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, K, tasks)
    task, who = (x.ravel() for x in np.mgrid[:tasks, : len(annotators)])
    right = generator.random(len(task)) < np.linspace(0.9, 0.55, len(annotators))[who]
    label = np.where(right, truth[task], generator.integers(0, K, len(task)))
    return Annotations.from_arrays(
        task + first,
        np.array(annotators)[who],
        np.array(CLASSES)[label],
        tasks=range(first, first + tasks),
        annotators=annotators,
        classes=CLASSES,
        features=np.eye(K)[truth][:, :2] + generator.normal(size=(tasks, 2)),
    )


CROWD = labelled(60, MONDAY)
TUESDAY = labelled(8, ["ed", "bo", "ann"], seed=1, first=100)
FITS = {}


def fit_of(name):
    if name not in FITS:
        FITS[name] = ENGINES.get(name, ENGINE).fit(PROGRAMS[name], CROWD)
    return FITS[name]


@pytest.fixture(params=PROGRAMS)
def name(request):
    return request.param


@pytest.fixture
def posterior(density):
    """Class probabilities at given values, from the density of all labels with each class known."""

    def given(program, crowd, values):
        known = [replace(crowd, truth=torch.full((crowd.n_tasks,), k)) for k in range(K)]
        return torch.stack([density(program, c, values) for c in known], -1).softmax(-1)

    return given


# Sites with a value for each annotator, in any program but `PooledMultinomial`.
PERSONAL = (
    "confusion",
    "ability",
    "deviation",
    "competence",
    "spam",
    "expertise_intercept",
    "expertise_coefficients",
)


def chosen(values, who):
    """Values of the sites for annotators at positions ``who``, and for eight new tasks."""
    found = dict(values)
    for site in PERSONAL:
        if site in found and found[site].shape != (K, K):
            found[site] = found[site][who]
    if "easiness" in found:
        found["easiness"] = found["easiness"].log().mean().exp().expand(8)
    return found


# -- annotators and tasks ------------------------------------------------------------------------


def test_known_annotators_keep_their_values(name, posterior):
    fit, program = fit_of(name), PROGRAMS[name]
    expected = posterior(program, TUESDAY, chosen(fit.point(), [4, 1, 0]))
    found = program.predict_truth(fit, TUESDAY)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_tasks_of_the_fit_have_its_posterior(name):
    fit = fit_of(name)
    found = PROGRAMS[name].predict_truth(fit, CROWD)
    torch.testing.assert_close(found, fit.latent("truth"), rtol=0, atol=1e-12)


def test_order_and_idle_ids_change_nothing(name):
    fit, program = fit_of(name), PROGRAMS[name]
    rows = torch.randperm(len(TUESDAY), generator=torch.Generator().manual_seed(0))
    shuffled = Annotations.from_arrays(
        TUESDAY.tasks[TUESDAY.task[rows]],
        TUESDAY.annotators[TUESDAY.annotator[rows]],
        TUESDAY.classes[TUESDAY.label[rows]],
        tasks=TUESDAY.tasks,
        annotators=["idle", "ann", "di", "ed", "bo"],
        classes=["eel", "cat", "dog"],
        features=TUESDAY.features,
    )
    expected = program.predict_truth(fit, TUESDAY)[:, [2, 0, 1]]
    found = program.predict_truth(fit, shuffled)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_known_classes_are_taken_for_certain_in_any_order(name):
    crowd = replace(TUESDAY, truth=torch.tensor([2, -1, 0, -1, -1, -1, -1, 1]))
    moved = replace(crowd, classes=np.array(["dog", "eel", "cat"]))
    for data in (crowd, moved):
        found = PROGRAMS[name].predict_truth(fit_of(name), data)
        torch.testing.assert_close(found[[0, 2, 7]], torch.eye(K)[[2, 0, 1]])


def typical(name, fit):
    """Values for three annotators whom the fit does not know, by hand."""
    values = fit.point()
    means = {site: values[site].mean(0, keepdim=True) for site in PERSONAL if site in values}
    if name == "HierarchicalDawidSkene":
        means["deviation"] = torch.zeros(1, K, K)
    if name == "MACE":
        spam = (1 - values["competence"])[:, None] * values["spam"]
        means["spam"] = (spam.sum(0) / spam.sum()).unsqueeze(0)
    if name == "PooledMultinomial":
        means = {}
    return chosen({**values, **means}, [0, 0, 0])


def test_unknown_annotators_are_typical_ones(name, posterior):
    fit, program = fit_of(name), PROGRAMS[name]
    stranger = replace(TUESDAY, annotators=np.array(["x", "y", "z"]))
    values = typical(name, fit)
    expected = posterior(program, stranger, values)
    found = program.predict_truth(fit, stranger)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    swapped = replace(stranger, annotators=np.array(["z", "x", "y"]))
    torch.testing.assert_close(program.predict_truth(fit, swapped), found)


@pytest.mark.parametrize("name", ["DawidSkene", "OneCoin", "MACE"])
def test_the_table_of_a_typical_annotator_is_the_mean_table(name):
    fit = fit_of(name)
    one = Annotations.from_arrays([0, 1, 2], ["new"] * 3, CLASSES)
    joint = fit.params["prevalence"] * fit.params["confusion"].mean(0).T
    found = PROGRAMS[name].predict_truth(fit, one)
    torch.testing.assert_close(found, joint / joint.sum(-1, keepdim=True))


def test_known_and_unknown_annotators_may_be_mixed():
    fit = fit_of("DawidSkene")
    crowd = Annotations.from_arrays(["t", "t"], ["new", "cy"], ["dog", "cat"], classes=CLASSES)
    table = fit.params["confusion"]
    joint = fit.params["prevalence"] * table.mean(0)[:, 1] * table[2, :, 0]
    found = DawidSkene(K).predict_truth(fit, crowd)
    torch.testing.assert_close(found[0], joint / joint.sum())


# -- no labels -----------------------------------------------------------------------------------


def test_tasks_without_labels_have_the_prevalence_or_the_classifiers_word(name):
    fit, program = fit_of(name), PROGRAMS[name]
    idle = replace(
        CROWD.subset(torch.tensor([0])), tasks=np.array([100]), features=torch.ones(1, 2)
    )
    idle = replace(idle, task=idle.task[:0], annotator=idle.annotator[:0], label=idle.label[:0])
    design = replace(CROWD, label=None)
    for crowd in (idle, design):
        expected = (
            program.predict_proba(fit.params, crowd.features)
            if name in WITH_FEATURES
            else fit.params["prevalence"].expand(crowd.n_tasks, K)
        )
        torch.testing.assert_close(program.predict_truth(fit, crowd), expected)


# -- kinds of fits -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DawidSkene", "GLAD", "HierarchicalDawidSkene"])
def test_draws_are_averaged(name, posterior):
    program = PROGRAMS[name]
    fit = Laplace(draws=20).fit(program, CROWD)
    each = [posterior(program, TUESDAY, chosen(v, [4, 1, 0])) for v in fit.each_draw()]
    found = program.predict_truth(fit, TUESDAY)
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=0, atol=1e-10)
    few = program.predict_truth(fit, TUESDAY, draws=2)
    torch.testing.assert_close(few, (each[0] + each[-1]) / 2, rtol=0, atol=1e-10)


def test_a_fit_from_a_file_knows_its_annotators(name, tmp_path):
    fit, program = fit_of(name), PROGRAMS[name]
    fit.save(tmp_path / "fit.nc")
    loaded = Fit.load(tmp_path / "fit.nc")
    for crowd in (TUESDAY, CROWD):
        torch.testing.assert_close(
            program.predict_truth(loaded, crowd), program.predict_truth(fit, crowd)
        )


def test_a_fit_to_shards():
    parts = [CROWD.subset(torch.arange(30)), CROWD.subset(torch.arange(30, 60))]
    fit = ENGINE.fit(DawidSkene(K), Shards(parts))
    found = DawidSkene(K).predict_truth(fit, TUESDAY)
    expected = DawidSkene(K).predict_truth(fit_of("DawidSkene"), TUESDAY)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("program", [LearningFromCrowds, FeatureDependentCrowd])
def test_modules(program, posterior):
    net = torch.nn.Linear(2, K)
    module = program(K, net)
    fit = ENGINE.fit(module, CROWD)
    found = module.predict_truth(fit, CROWD)
    torch.testing.assert_close(found, fit.latent("truth"))
    # The user's own module is left as it was: its weights are not the fit's.
    assert not torch.allclose(net.weight, fit.params["classifier$$$weight"])
    design = replace(TUESDAY, label=None)
    torch.testing.assert_close(
        module.predict_truth(fit, design), module.predict_proba(fit.params, TUESDAY.features)
    )


def test_a_prior_of_single_annotators_is_of_no_account():
    for program in (DawidSkene, LearningFromCrowds):
        own = program(K, confusion_prior=2.0 + torch.rand(5, K, K))
        fit = ENGINE.fit(own, CROWD)
        found = own.predict_truth(fit, TUESDAY)
        torch.testing.assert_close(found, program(K).predict_truth(fit, TUESDAY))


def test_nothing_global_changes():
    fit = fit_of("GLAD")
    torch.set_default_dtype(torch.float32)
    state, mine = torch.random.get_rng_state(), random.getstate()
    stored = list(pyro.get_param_store())
    found = PROGRAMS["GLAD"].predict_truth(fit, TUESDAY)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == mine
    assert torch.get_default_dtype() == torch.float32
    assert found.dtype == torch.float64
    assert list(pyro.get_param_store()) == stored


# -- a refit -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
def test_a_refit_with_more_of_everything_starts_near_its_end(name):
    """Added labels, new tasks and new annotators: fewer iterations, and the same optimum."""
    program = PROGRAMS[name]
    whole = CROWD.concat(labelled(6, ["bo", "new", "ann"], seed=2, first=100))
    engine = ENGINES.get(name, EM(objective="posterior", tol=1e-9))
    first = engine.fit(program, CROWD)
    cold = engine.fit(program, whole)
    warm = replace(engine, init=first).fit(program, whole)
    assert warm.n_iter < cold.n_iter
    heights = [fit.log_likelihood + fit.log_prior for fit in (warm, cold)]
    assert heights[0] == pytest.approx(heights[1], rel=1e-6)
    torch.testing.assert_close(warm.latent("truth"), cold.latent("truth"), atol=1e-2, rtol=0)


# -- bad input -----------------------------------------------------------------------------------


def test_other_classes_are_refused(name):
    fit, program = fit_of(name), PROGRAMS[name]
    other = replace(TUESDAY, classes=np.array(["cat", "dog", "fox"]))
    with pytest.raises(DataError, match=r"classes of the fit, 'cat', 'dog', 'eel', got .*'fox'"):
        program.predict_truth(fit, other)
    numbers = replace(TUESDAY, classes=np.arange(3))
    with pytest.raises(DataError, match="classes of the fit"):
        program.predict_truth(fit, numbers)
    two = Annotations.from_arrays([0, 1], ["ann", "bo"], ["cat", "dog"], features=torch.ones(2, 2))
    with pytest.raises(DataError, match=r"expected 3 classes, got 2.*pass classes="):
        program.predict_truth(fit, two)


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_features_must_be_those_of_the_fit(name):
    fit, program = fit_of(name), PROGRAMS[name]
    with pytest.raises(DataError, match="annotations: expected features, one row per task"):
        program.predict_truth(fit, replace(TUESDAY, features=None))
    with pytest.raises(DataError, match=r"'(expertise_)?coefficients' would have shape"):
        program.predict_truth(fit, replace(TUESDAY, features=torch.ones(8, 3)))
    with pytest.raises(DataError, match=r"annotations\.features"):
        program.predict_truth(fit, replace(TUESDAY, features=torch.full((8, 2), torch.nan)))


@pytest.mark.parametrize("data", [None, torch.ones(3), "labels.csv"])
def test_what_is_not_annotations_is_refused(data):
    with pytest.raises(DataError, match="expected Annotations, got"):
        DawidSkene(K).predict_truth(fit_of("DawidSkene"), data)


@pytest.mark.parametrize("fit", [None, {"confusion": torch.ones(2)}, "fit.nc"])
def test_what_is_not_a_fit_is_refused(fit):
    with pytest.raises(DataError, match="fit: expected what an engine returned, got"):
        DawidSkene(K).predict_truth(fit, TUESDAY)


def test_fits_of_other_programs_are_refused():
    with pytest.raises(DataError, match=r"fit: expected values of 'ability'.*'confusion'"):
        OneCoin(K).predict_truth(fit_of("DawidSkene"), TUESDAY)
    with pytest.raises(DataError, match="'confusion' would have shape"):
        DawidSkene(K).predict_truth(fit_of("PooledMultinomial"), TUESDAY)

    def coins(x):
        chance = pyro.sample("chance", pyro.distributions.Beta(1.0, 1.0))
        with pyro.plate("toss", len(x)):
            pyro.sample("x", pyro.distributions.Bernoulli(chance), obs=x)

    with pytest.raises(DataError, match="fit: expected a fit to Annotations"):
        DawidSkene(K).predict_truth(MAP().fit(coins, torch.tensor([1.0, 0.0])), TUESDAY)


@pytest.mark.parametrize("draws", [0, -1, 1.5, True, "all"])
def test_draws_are_counted(draws):
    with pytest.raises(DataError, match="draws: expected a positive integer"):
        DawidSkene(K).predict_truth(fit_of("DawidSkene"), TUESDAY, draws=draws)
