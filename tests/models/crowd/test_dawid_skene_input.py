"""What Dawid & Skene's model takes, and what it calls things."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import poutine

from likely.envs import DataError
from likely.inference import MAP
from likely.models import Annotations, DawidSkene

pytestmark = pytest.mark.usefixtures("in_double")


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


def test_priors(small):
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


def test_annotations_of_another_size_are_refused(small):
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
