"""Entropy of several points' classes together, against brute force."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from likely.inference import OptionError
from likely.inference.active import entropy, joint_entropy


@pytest.fixture
def toy(published: Any) -> tuple[Tensor, dict[str, Any]]:
    known = published("batchbald_notebook_toy.json")
    probs = torch.tensor(known["toy2_probs_N_K_C"], dtype=torch.float64)
    return probs.transpose(0, 1), known


def brute_force(probs: Tensor) -> float:
    """By adding up every configuration."""
    members, points, classes = probs.shape
    total = 0.0
    for labels in product(range(classes), repeat=points):
        chance = sum(
            math.prod(float(probs[s, i, k]) for i, k in enumerate(labels)) for s in range(members)
        )
        chance /= members
        total -= chance * math.log(chance) if chance > 0 else 0.0
    return total


@st.composite
def small(draw: Any) -> Tensor:
    """Draws of few points, with zeros, ties and certainties."""
    members, points, classes = (draw(st.integers(*span)) for span in ((1, 4), (1, 4), (2, 4)))
    row = st.lists(st.integers(0, 4), min_size=classes, max_size=classes).filter(any)
    size = members * points
    rows = torch.tensor(draw(st.lists(row, min_size=size, max_size=size)), dtype=torch.float64)
    return (rows / rows.sum(-1, keepdim=True)).view(members, points, classes)


@settings(max_examples=80, deadline=None)
@given(small())
def test_exact_entropy_is_that_of_brute_force(probs: Tensor) -> None:
    assert float(joint_entropy(probs)) == pytest.approx(brute_force(probs), abs=1e-12)


def test_the_published_toy(toy: Any) -> None:
    probs, known = toy
    assert float(joint_entropy(probs)) == pytest.approx(known["joint_entropy_all8"], abs=1e-9)
    assert float(joint_entropy(probs)) == pytest.approx(9.266713, abs=5e-7)
    four = float(joint_entropy(probs[:, :4]))
    assert four == pytest.approx(known["joint_entropy_first4"], abs=1e-9)
    for i, expected in enumerate(known["joint_entropy_first4_plus_each"]):
        # The first four are answered a second time.
        five = float(joint_entropy(probs[:, [0, 1, 2, 3, i]]))
        assert five == pytest.approx(expected, abs=1e-9)


def test_one_point_and_independent_points(toy: Any) -> None:
    probs, _ = toy
    one = float(joint_entropy(probs[:, :1]))
    assert one == pytest.approx(float(entropy(probs.mean(0))[0]), abs=1e-14)
    sure = probs[:1, :5]
    assert float(joint_entropy(sure)) == pytest.approx(float(entropy(sure[0]).sum()), abs=1e-12)


def test_sampled_entropy_is_unbiased_and_seeded(toy: Any) -> None:
    probs, known = toy
    found = torch.stack([joint_entropy(probs, configurations=200, seed=s) for s in range(40)])
    assert torch.equal(found[7], joint_entropy(probs, configurations=200, seed=7))
    error = float(found.std()) / math.sqrt(len(found))
    assert error > 0
    assert float(found.mean()) == pytest.approx(known["joint_entropy_all8"], abs=4 * error)
    state = torch.get_rng_state()
    joint_entropy(probs, configurations=200)
    assert torch.equal(state, torch.get_rng_state())


def test_impossible_classes_are_never_drawn() -> None:
    source = torch.Generator().manual_seed(0)
    probs = torch.rand(6, 9, 4, generator=source, dtype=torch.float64)
    probs[..., 0] = 0
    probs[..., 3] = 0
    probs /= probs.sum(-1, keepdim=True)
    exact = float(joint_entropy(probs[..., 1:3]))
    found = torch.stack([joint_entropy(probs, configurations=100, seed=s) for s in range(30)])
    assert found.isfinite().all()
    error = float(found.std()) / math.sqrt(30)
    assert float(found.mean()) == pytest.approx(exact, abs=4 * error)


def test_impossible_configurations_do_not_count() -> None:
    probs = torch.eye(3, dtype=torch.float64)[torch.tensor([[0] * 30, [1] * 30])]
    # 3^29 configurations, of which two are possible: listed, not drawn.
    assert float(joint_entropy(probs, configurations=6)) == pytest.approx(math.log(2), abs=1e-14)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("configurations", [100, 100_000])
def test_an_accelerator_draws_the_same(configurations: int, toy: Any) -> None:
    probs, _ = toy
    options = {"configurations": configurations, "seed": 2}
    torch.testing.assert_close(
        joint_entropy(probs.cuda(), **options).cpu(), joint_entropy(probs, **options)
    )


def test_options_are_checked() -> None:
    probs = torch.full((2, 3, 2), 0.5)
    for name, value in (("configurations", 0), ("seed", "a"), ("budget", -1), ("budget", 50)):
        with pytest.raises(OptionError, match=name):
            joint_entropy(probs, **{name: value})
