"""Crowds that are renamed, degenerate or large, through every engine that fits them quickly."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likely.envs import DataError
from likely.inference import (
    EM,
    MAP,
    VBEM,
    BoundaryWarning,
    ConvergenceWarning,
    DegenerateWarning,
    Fit,
    ProgramError,
)
from likely.models import Annotations, DawidSkene
from likely.models.crowd import OneCoin, PooledMultinomial

PROGRAMS = [DawidSkene, PooledMultinomial, OneCoin]
ENGINES = {
    "em": EM(max_iter=300),
    "em-posterior": EM(objective="posterior", max_iter=300),
    "map": MAP(max_iter=300),
    "vbem": VBEM(max_iter=300, draws=20),
}
TASKS, ANNOTATORS, K = 9, 4, 3


def quietly(engine: Any, program: Any, crowd: Annotations) -> Fit:
    """A fit that may say that it is degenerate or did not converge, and nothing else."""
    with warnings.catch_warnings():
        for category in (BoundaryWarning, ConvergenceWarning, DegenerateWarning):
            warnings.simplefilter("ignore", category)
        return engine.fit(program, crowd)


def good_crowd(tasks: int = 60, seed: int = 0) -> Annotations:
    """Five annotators who are right four times in five, every one on every task."""
    rng = np.random.default_rng(seed)
    truth = np.arange(tasks) % K
    task, annotator = np.meshgrid(np.arange(tasks), np.arange(5), indexing="ij")
    right = rng.random(task.shape) < 0.8
    label = np.where(right, truth[task], (truth[task] + rng.integers(1, K, task.shape)) % K)
    return Annotations.from_arrays(task.ravel(), annotator.ravel(), label.ravel())


# -- names ---------------------------------------------------------------------------------------


def tables_of(fit: Fit) -> dict[str, torch.Tensor]:
    """What the answer says of classes, annotators and tasks, whatever the program."""
    tables = fit.params["confusion"]
    if tables.dim() == 2:
        tables = tables.expand(ANNOTATORS, K, K)
    return {
        "prevalence": fit.params["prevalence"],
        "confusion": tables,
        "truth": fit.latent("truth"),
    }


@pytest.mark.parametrize("program", PROGRAMS)
@settings(deadline=None, max_examples=12, derandomize=True)
@given(data=st.data())
def test_names_permute_the_answer_and_change_nothing_else(program, data):
    n = data.draw(st.integers(1, 40))
    rows = np.array(
        [data.draw(st.lists(st.integers(0, m - 1), min_size=n, max_size=n)) for m in (TASKS, 4, K)]
    )
    names = [
        data.draw(st.permutations([f"task {i}" for i in range(TASKS)])),
        data.draw(st.permutations([17, 10**15, 3, 250])),
        data.draw(st.permutations(["yes", "no", "perhaps"])),
    ]
    # Ids are sorted by default, so listing those of the second crowd leaves its order to the names.
    plain = Annotations.from_arrays(
        *rows, tasks=range(TASKS), annotators=range(ANNOTATORS), classes=range(K)
    )
    shuffled = rows[:, data.draw(st.permutations(range(n)))]
    renamed = Annotations.from_arrays(
        *([ids[i] for i in column] for ids, column in zip(names, shuffled, strict=True)),
        **{
            argument: sorted(ids)
            for argument, ids in zip(("tasks", "annotators", "classes"), names, strict=True)
        },
    )
    # A fixed number of steps: where votes are tied, many more would let rounding choose.
    engine = EM(max_iter=12)
    one, other = (quietly(engine, program(K), crowd) for crowd in (plain, renamed))
    assert other.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-10, abs=1e-10)
    task, annotator, label = ([sorted(ids).index(name) for name in ids] for ids in names)
    before, after = tables_of(one), tables_of(other)
    expected = {
        "prevalence": after["prevalence"][label],
        "confusion": after["confusion"][annotator][:, label][:, :, label],
        "truth": after["truth"][task][:, label],
    }
    for name, value in before.items():
        torch.testing.assert_close(expected[name], value, rtol=0, atol=1e-8)


# -- degenerate crowds ---------------------------------------------------------------------------


def arrays(*columns: Any, **options: Any) -> Callable[[], Annotations]:
    return lambda: Annotations.from_arrays(*columns, **{"classes": range(K), **options})


CROWDS = {
    "one label": arrays([0], [0], [1]),
    "one annotator": arrays(range(6), [0] * 6, [0, 1, 2, 0, 1, 2]),
    "one task": arrays([0] * 5, range(5), [0, 0, 1, 2, 0]),
    "tasks without labels": arrays([0, 0, 3], [0, 1, 1], [0, 1, 1], tasks=range(6)),
    "annotators without labels": arrays([0, 0, 1], [0, 2, 2], [0, 1, 1], annotators=range(5)),
    "annotators with one label": arrays([0, 0, 1, 1, 2, 2], range(6), [0, 0, 1, 1, 2, 1]),
    "all labels equal": arrays([0, 0, 1, 1, 2], [0, 1, 0, 1, 0], [1] * 5),
    "classes never reported": arrays([0, 0, 1, 1], [0, 1, 0, 1], [0, 2, 2, 2]),
    "perfect agreement": arrays([0, 0, 1, 1, 2, 2], [0, 1] * 3, [0, 0, 1, 1, 2, 2]),
    "perfect disagreement": arrays([0, 0, 1, 1, 2, 2], [0, 1] * 3, [0, 1, 1, 2, 2, 0]),
    "repeated rows": arrays([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]),
    "ids with gaps": arrays([10**12, 7, 7, 10**12], [900, 900, 5, 5], [2, 0, 1, 2]),
    "text ids": arrays(["x", "é", "x", "z 1"], ["ann", "bo", "bo", "ann"], [0, 1, 1, 2]),
    "known truth at odds with the labels": arrays([0, 0, 1], [0, 1, 1], [0, 0, 1], truth=[2, 0]),
}


def assert_answer(fit: Fit, crowd: Annotations) -> None:
    assert np.isfinite(fit.log_likelihood)
    # A density may be infinite, where a table has zeros; it is never a number that is not one.
    assert not np.isnan(fit.log_prior)
    for name, value in fit.params.items():
        assert bool(torch.isfinite(value).all()), name
    for name in ("prevalence", "confusion"):
        total = fit.params[name].sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)
        assert bool((fit.params[name] >= 0).all())
    truth = fit.latent("truth")
    assert truth.shape == (crowd.n_tasks, crowd.n_classes)
    assert bool(torch.isfinite(truth).all())
    torch.testing.assert_close(
        truth.sum(-1), torch.ones(crowd.n_tasks, dtype=truth.dtype), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", CROWDS)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_degenerate_crowds_give_finite_answers(engine, program, name):
    if engine == "vbem" and program is OneCoin:
        pytest.skip("an ability is no table")
    crowd = CROWDS[name]()
    assert_answer(quietly(ENGINES[engine], program(K), crowd), crowd)


def test_variational_steps_need_tables():
    with pytest.raises(ProgramError, match="ability"):
        VBEM().fit(OneCoin(K), good_crowd())


def test_one_class_is_no_crowd():
    crowd = Annotations.from_arrays([0, 1], [0, 0], [1, 1])
    with pytest.raises(DataError, match="n_classes: expected an integer of at least 2, got 1"):
        DawidSkene(crowd.n_classes)
    with pytest.raises(DataError, match="annotations: expected 2 classes, got 1"):
        EM().fit(DawidSkene(2), crowd)


@pytest.mark.parametrize("program", PROGRAMS)
def test_tasks_without_labels_get_the_prevalence_and_change_nothing(program):
    crowd = good_crowd(20)
    more = Annotations.from_arrays(crowd.task, crowd.annotator, crowd.label, tasks=range(25))
    engine = EM(objective="posterior", tol=1e-12)
    one, other = (quietly(engine, program(K), data) for data in (crowd, more))
    assert other.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-8)
    empty = other.latent("truth")[20:]
    torch.testing.assert_close(empty, other.params["prevalence"].expand_as(empty))


def test_repeated_rows_are_further_evidence():
    # Table of one annotator: three votes for a class are three independent reports of it.
    crowd = Annotations.from_arrays([0, 0, 0], [0, 0, 0], [1, 1, 0])
    fit = EM(max_iter=1, init={"prevalence": torch.tensor([0.5, 0.5]), "confusion": TABLE})
    found = quietly(fit, DawidSkene(2), crowd).history["objective"].iloc[0]
    likelihood = 0.5 * (0.2**2 * 0.8) + 0.5 * (0.7**2 * 0.3)
    assert found == pytest.approx(np.log(likelihood), rel=1e-12)


TABLE = torch.tensor([[[0.8, 0.2], [0.3, 0.7]]], dtype=torch.float64)


# -- many ids ------------------------------------------------------------------------------------


def test_a_million_distinct_tasks_take_little_more_than_factorising_them():
    n = 1_000_000
    rng = np.random.default_rng(0)
    ids = rng.permutation(n).astype(np.int64) * 9_000_000_001
    frame = pd.DataFrame({"task": ids, "annotator": np.arange(n) % 50, "label": np.arange(n) % K})

    def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
        start = time.process_time()
        found = run()
        return time.process_time() - start, found

    least, _ = seconds(lambda: pd.factorize(frame["task"], sort=True))
    took, crowd = seconds(lambda: Annotations.from_frame(frame))
    # Three columns are factorised, and their codes are checked; a step for each row costs hundreds.
    assert took < 6 * least
    assert crowd.n_tasks == n
    assert bool((np.diff(crowd.tasks) > 0).all())
    assert bool((crowd.tasks[crowd.task.numpy()] == ids).all())
    fit = quietly(EM(max_iter=2), PooledMultinomial(K), crowd)
    assert fit.latent("truth").shape == (n, K)


# -- exchanged classes ---------------------------------------------------------------------------


@pytest.mark.parametrize("program", [DawidSkene, PooledMultinomial])
def test_exchanged_classes_are_told(program):
    crowd = good_crowd()
    good = program(K).initial(crowd)
    order = [1, 0, 2]
    swapped = {
        "prevalence": good["prevalence"][order],
        "confusion": good["confusion"][..., order, :],
    }
    with pytest.warns(DegenerateWarning, match="0 is mostly reported as 1, 1 is mostly") as caught:
        other = EM(init=swapped).fit(program(K), crowd)
    assert len([w for w in caught if w.category is DegenerateWarning]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", DegenerateWarning)
        fit = EM().fit(program(K), crowd)
    # The same optimum under other names.
    assert other.log_likelihood == pytest.approx(fit.log_likelihood, rel=1e-7)


@pytest.mark.parametrize("engine", [MAP(), VBEM(draws=20), EM(objective="posterior")])
def test_fits_of_a_good_crowd_are_not_accused(engine):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DegenerateWarning)
        engine.fit(DawidSkene(K), good_crowd())
