from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, MAP, NUTS, SVI, ConvergenceWarning, Fit, Laplace, Program
from likely.inference.engines.warm import values_from
from likely.models.crowd import Annotations, DawidSkene, PooledMultinomial


class Schools:
    """Schools of pupils, each with a mean; their names label the plate."""

    def __init__(self, coords=True):
        if coords:
            self.coords = lambda names, index, score: {"school": names}

    def initial(self, names, index, score):
        return {"mean": torch.arange(len(names)) + 100.0, "centre": 0.0}

    def __call__(self, names, index, score):
        centre = pyro.sample("centre", dist.Normal(0.0, 10.0))
        with pyro.plate("school", len(names)):
            mean = pyro.sample("mean", dist.Normal(centre, 5.0))
        with pyro.plate("pupil", len(index)):
            pyro.sample("score", dist.Normal(mean[index], 1.0), obs=score)


OLD = ["north", "south"], torch.tensor([0, 0, 1]), torch.tensor([1.0, 2.0, -4.0])
NEW = (
    ["east", "south", "north"],
    torch.tensor([2, 2, 1, 0]),
    torch.tensor([1.0, 2.0, -4.0, 9.0]),
)


def starts(fit, program, *data, values=None):
    reading = Program.of(program, data, {})
    with reading.session(0):
        return values_from(fit, reading, values)


def test_entries_are_found_by_their_names_and_new_ones_are_fresh():
    fit = MAP().fit(Schools(), *OLD)
    found = starts(fit, Schools(), *NEW)
    north, south = fit.params["mean"]
    assert found["mean"].tolist() == [100.0, float(south), float(north)]
    assert float(found["centre"]) == float(fit.params["centre"])


def test_the_same_holds_for_a_fit_from_a_file(tmp_path):
    fit = MAP().fit(Schools(), *OLD)
    fit.save(tmp_path / "fit.nc")
    loaded = Fit.load(tmp_path / "fit.nc")
    expected = starts(fit, Schools(), *NEW)
    for name, value in starts(loaded, Schools(), *NEW).items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize(("old", "new"), [(True, False), (False, True), (False, False)])
def test_without_names_only_equal_shapes_are_taken(old, new):
    fit = MAP().fit(Schools(old), *OLD)
    assert set(starts(fit, Schools(new), *NEW)) == {"centre"}
    names, index, score = NEW
    same = starts(fit, Schools(new), names[1:], index.clamp(max=1), score)
    assert torch.equal(same["mean"], fit.params["mean"])


def test_without_a_hook_new_entries_start_where_the_program_does():
    program = Schools()
    program.initial = None
    fit = MAP().fit(program, *OLD)
    found = starts(fit, program, *NEW)["mean"]
    assert found[1:].tolist() == fit.params["mean"].flip(0).tolist()
    assert bool(torch.isfinite(found).all())
    assert float(found[0]) != 100.0


def test_a_draw_takes_the_place_of_the_params():
    fit = Laplace(draws=3).fit(Schools(), *OLD)
    draw = {name: value[0, 2] for name, value in fit.draws.items()}
    found = starts(fit, Schools(), *NEW, values=draw)
    assert found["mean"][1:].tolist() == draw["mean"].flip(0).tolist()


# -- crowds --------------------------------------------------------------------------------------


def simulated(n_tasks, n_annotators, per_task, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(3, (n_tasks,), generator=generator)
    right = 0.4 + 0.5 * torch.rand(n_annotators, generator=generator)
    task = torch.arange(n_tasks).repeat_interleave(per_task)
    annotator = torch.randint(n_annotators, task.shape, generator=generator)
    wrong = torch.rand(task.shape, generator=generator) > right[annotator]
    shift = torch.randint(1, 3, task.shape, generator=generator)
    label = torch.where(wrong, (truth[task] + shift) % 3, truth[task])
    return task, annotator, label


def part(columns, keep):
    return Annotations.from_arrays(*(c[keep] for c in columns), classes=[0, 1, 2])


TASK, ANNOTATOR, LABEL = COLUMNS = simulated(400, 15, 4)
# Later: some tasks, one annotator and some labels of tasks that were there before.
LATER = (TASK >= 385) | (ANNOTATOR == 4) & (TASK > 200) | (torch.arange(len(TASK)) % 97 == 0)
YESTERDAY, TODAY = part(COLUMNS, ~LATER & (ANNOTATOR != 11)), part(COLUMNS, LATER)


@pytest.mark.parametrize("objective", ["likelihood", "posterior"])
def test_a_refit_with_new_labels_takes_fewer_iterations(objective):
    engine = EM(objective=objective)
    first = engine.fit(DawidSkene(3), YESTERDAY)
    everything = YESTERDAY.concat(TODAY)
    assert everything.n_tasks > YESTERDAY.n_tasks
    assert everything.n_annotators >= YESTERDAY.n_annotators
    cold = engine.fit(DawidSkene(3), everything)
    warm = EM(objective=objective, init=first).fit(DawidSkene(3), everything)
    assert warm.n_iter < cold.n_iter
    assert warm.log_likelihood == pytest.approx(cold.log_likelihood, rel=1e-7)
    # Sorted ids interleave the new with the old: the places differ, the names do not.
    again = EM(objective=objective, init=first).fit(
        DawidSkene(3), part(COLUMNS, LATER | (ANNOTATOR != 11))
    )
    assert again.log_likelihood == pytest.approx(warm.log_likelihood, rel=1e-9)
    assert again.n_iter == warm.n_iter


def test_the_same_data_start_exactly_where_the_fit_ended():
    fit = EM().fit(DawidSkene(3), YESTERDAY)
    assert bool((fit.params["confusion"] == 0).any())
    found = starts(fit, DawidSkene(3), YESTERDAY)
    assert all(torch.equal(found[name], fit.params[name]) for name in found)
    assert EM(init=fit).fit(DawidSkene(3), YESTERDAY).n_iter == 1


def test_a_zero_does_not_stay_when_new_labels_speak_against_it():
    # Four annotators err in a twelfth of the tasks, the first one never so far.
    tasks = range(48)
    rows = [(t, who, (t % 2) ^ (t // 2 % 12 == who)) for t in tasks for who in range(1, 5)]
    before = Annotations.from_arrays(*zip(*rows, *((t, 0, t % 2) for t in tasks), strict=True))
    first = EM().fit(DawidSkene(2), before)
    torch.testing.assert_close(first.params["confusion"][0], torch.eye(2).double())
    wrong = [(t, 0, 1 - t % 2) for t in range(48, 60)]
    right = [(t, who, t % 2) for t in range(48, 60) for who in range(1, 5)]
    after = before.concat(Annotations.from_arrays(*zip(*wrong, *right, strict=True)))
    cold = EM().fit(DawidSkene(2), after)
    warm = EM(init=first).fit(DawidSkene(2), after)
    assert warm.log_likelihood == pytest.approx(cold.log_likelihood, rel=1e-8)
    # Without the mixture the first annotator would stay right and all others be wrong.
    assert float(warm.params["confusion"][0].diagonal().max()) < 0.9


def test_another_class_starts_tables_afresh():
    fit = EM(objective="posterior").fit(DawidSkene(3), YESTERDAY)
    crowd = YESTERDAY.concat(Annotations.from_arrays([0], [0], [3]))
    assert starts(fit, DawidSkene(4), crowd) == {}


def test_classes_in_another_order_keep_their_rows_and_columns():
    fit = EM(objective="posterior").fit(PooledMultinomial(3), YESTERDAY)
    order = [2, 0, 1]
    renamed = Annotations.from_arrays(
        YESTERDAY.task, YESTERDAY.annotator, YESTERDAY.label, classes=order
    )
    found = starts(fit, PooledMultinomial(3), renamed)
    assert torch.equal(found["prevalence"], fit.params["prevalence"][order])
    assert torch.equal(found["confusion"], fit.params["confusion"][order][:, order])


@pytest.mark.parametrize(
    "engine", [NUTS(draws=4, warmup=3, chains=1), SVI(max_iter=3, draws=3), EM(max_iter=1)]
)
def test_posteriors_start_further_searches_after_growing(engine):
    small = Annotations.from_arrays([0, 0, 1, 1], [0, 2, 0, 2], [0, 0, 1, 1])
    grown = small.concat(Annotations.from_arrays([0, 2], [1, 3], [0, 1]))
    fit = Laplace(draws=5).fit(DawidSkene(2), small)
    made = replace(engine, init=fit)
    with pytest.warns(ConvergenceWarning):
        assert made.fit(DawidSkene(2), grown).params["confusion"].shape == (4, 2, 2)
