"""Batches: the best, the drawn, and the best together."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from likely.envs import DataError
from likely.inference import OptionError
from likely.inference.active import bald, batch_bald, joint_entropy, power_bald, top_batch


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def probabilities(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=source, dtype=torch.float64)).softmax(-1)


def brute_force(probs: Tensor) -> float:
    """Entropy of all classes together, by adding up every configuration."""
    members, points, classes = probs.shape
    total = 0.0
    for labels in product(range(classes), repeat=points):
        chance = sum(
            math.prod(float(probs[s, i, k]) for i, k in enumerate(labels)) for s in range(members)
        )
        chance /= members
        total -= chance * math.log(chance) if chance > 0 else 0.0
    return total


def information(probs: Tensor) -> float:
    """Mutual information of all classes together and the draw, by brute force."""
    return brute_force(probs) + float(torch.xlogy(probs, probs).sum() / len(probs))


def counted(members: int, points: int, classes: int) -> st.SearchStrategy[Tensor]:
    """Counts as probabilities: zeros, ties and certainties are common."""
    row = st.lists(st.integers(0, 4), min_size=classes, max_size=classes).filter(any)
    flat = st.lists(row, min_size=members * points, max_size=members * points)
    return flat.map(
        lambda rows: torch.stack([tensor(r) / sum(r) for r in rows]).view(members, points, classes)
    )


# -- top -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_the_highest_scores_and_of_equal_ones_the_first(scores: list[int], data: Any) -> None:
    size = data.draw(st.integers(1, len(scores)))
    found = top_batch(tensor(scores), size)
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:size]
    assert found.indices.tolist() == expected
    assert found.scores.tolist() == [scores[i] for i in expected]


def test_points_that_are_kept_out_come_last() -> None:
    scores = tensor([-math.inf, 1.0, -math.inf, 2.0])
    assert top_batch(scores, 3).indices.tolist() == [3, 1, 0]


def test_top_of_bald_is_that_of_batchbald_redux(published: Any) -> None:
    known = published("bald_batchbald_seed0.json")
    found = top_batch(bald(tensor(known["probs"])), 5)
    assert found.indices.tolist() == known["bald_top5"]["indices"]
    expected = tensor(known["bald_top5"]["scores"])
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-9)


# -- power ---------------------------------------------------------------------------------------


def test_powers_of_scores_are_the_chances_of_the_first() -> None:
    scores = tensor([0.1, 0.4, 0.0, 0.2, -1e-17])
    repeats = 4000
    picks = Counter(int(power_bald(scores, 1, beta=2.0, seed=s).indices) for s in range(repeats))
    chances = scores.clamp(min=0).square() / scores.clamp(min=0).square().sum()
    for i, chance in enumerate(chances.tolist()):
        error = math.sqrt(chance * (1 - chance) / repeats)
        assert picks[i] / repeats == pytest.approx(chance, abs=4 * error)


def test_drawn_points_differ_and_those_without_score_come_last() -> None:
    scores = tensor([0.0, 0.3, 0.0, 0.5, 0.1])
    found = power_bald(scores, 5, seed=2)
    assert sorted(found.indices.tolist()) == [0, 1, 2, 3, 4]
    assert found.indices[3:].tolist() == [0, 2]
    assert torch.equal(found.scores, scores[found.indices])
    assert torch.equal(power_bald(scores, 5, seed=2).indices, found.indices)
    assert len({tuple(power_bald(scores, 3, seed=s).indices.tolist()) for s in range(20)}) > 1


def test_power_bald_of_draws_and_in_the_limit() -> None:
    probs = probabilities(6, 30, 3)
    assert torch.equal(
        power_bald(probs, 4, seed=1).indices, power_bald(bald(probs), 4, seed=1).indices
    )
    assert torch.equal(power_bald(probs, 4, beta=1e6).indices, top_batch(bald(probs), 4).indices)


# -- BatchBALD -----------------------------------------------------------------------------------


def test_batches_of_batchbald_redux(published: Any) -> None:
    known = published("bald_batchbald_seed0.json")
    probs = tensor(known["probs"])
    found = batch_bald(probs, 5)
    assert found.indices.tolist() == known["batchbald5"]["indices"]
    expected = tensor(known["batchbald5"]["scores"])
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-9)
    # Scores of every point at the second step, each asked for by a pool of two.
    first = found.indices[0]
    for i, score in enumerate(known["batchbald_step2_scores"]):
        if score is not None:
            pair = batch_bald(probs[:, [int(first), i]], 2)
            assert float(pair.scores[1]) == pytest.approx(score, abs=1e-9)


def test_the_published_toy_whose_points_all_tie(published: Any) -> None:
    known = published("batchbald_notebook_toy.json")
    probs = tensor(known["toy1_probs_N_K_C"]).transpose(0, 1)
    found = batch_bald(probs, 4)
    expected = tensor(known["published_scores"])
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-9)
    # The points are each other's permutations: rounding chose the published order.
    spread = bald(probs).max() - bald(probs).min()
    assert float(spread) < 1e-15
    assert found.indices.tolist() == [0, 1, 2, 3]
    assert sorted(known["published_indices"]) == [0, 1, 2, 3]


@settings(max_examples=25, deadline=None)
@given(counted(3, 4, 3), st.booleans())
def test_each_pick_is_the_best_by_brute_force(probs: Tensor, distinct: bool) -> None:
    found = batch_bald(probs, 3, distinct=distinct)
    chosen: list[int] = []
    for pick, score in zip(found.indices.tolist(), found.scores.tolist(), strict=True):
        left = [i for i in range(4) if not distinct or i not in chosen]
        worth = {i: information(probs[:, [*chosen, i]]) for i in left}
        assert score == pytest.approx(max(worth.values()), abs=1e-12)
        best = [i for i in left if worth[i] >= max(worth.values()) - 1e-12]
        assert pick == best[0]
        chosen.append(pick)


def test_a_second_answer_may_be_worth_more_than_another_question() -> None:
    probs = tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.5]]])
    assert batch_bald(probs, 2, distinct=False).indices.tolist() == [0, 0]
    assert batch_bald(probs, 3, distinct=False).indices.tolist() == [0, 0, 0]
    assert batch_bald(probs, 2).indices.tolist() == [0, 1]


def test_the_first_pick_is_that_of_bald_and_scores_rise() -> None:
    probs = probabilities(10, 50, 3)
    found = batch_bald(probs, 6)
    assert int(found.indices[0]) == int(bald(probs).argmax())
    assert float(found.scores[0]) == pytest.approx(float(bald(probs).max()), abs=1e-13)
    assert (found.scores.diff() > 0).all()
    # Nothing tells more than which draw it is.
    assert float(found.scores[-1]) < math.log(10)


def test_sampled_configurations_are_seeded_and_near_the_exact_ones() -> None:
    probs = probabilities(12, 40, 4)
    exact = batch_bald(probs, 6)  # 4^5 configurations
    sampled = [batch_bald(probs, 6, configurations=300, seed=s) for s in range(8)]
    again = batch_bald(probs, 6, configurations=300, seed=3)
    assert torch.equal(again.indices, sampled[3].indices)
    assert torch.equal(again.scores, sampled[3].scores)
    assert len({float(found.scores[-1]) for found in sampled}) == 8
    # 4^4 configurations are listed, of five points they are drawn.
    for found in sampled:
        assert torch.equal(found.indices[:5], exact.indices[:5])
        torch.testing.assert_close(found.scores[:5], exact.scores[:5])
    last = tensor([float(found.scores[-1]) for found in sampled])
    error = float(last.std()) / math.sqrt(8)
    # The best of noisy scores is biased upwards by less than their noise.
    assert abs(float(last.mean() - exact.scores[-1])) < 4 * error + float(last.std())


def test_many_points_do_not_underflow() -> None:
    probs = probabilities(8, 60, 10).float()
    found = batch_bald(probs, 60, configurations=1000)
    assert sorted(found.indices.tolist()) == list(range(60))
    assert found.scores.isfinite().all()
    # Sixty answers name the draw. Picking the best of noisy scores adds some 0.015 nats.
    assert float(found.scores[-1]) == pytest.approx(math.log(8), abs=0.05)


def test_types_and_layouts() -> None:
    probs = probabilities(6, 30, 3)
    found = batch_bald(probs, 4)
    single = batch_bald(probs.float(), 4)
    assert single.scores.dtype == torch.float32
    assert torch.equal(single.indices, found.indices)
    torch.testing.assert_close(single.scores.double(), found.scores, rtol=0, atol=1e-5)
    other = probs.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(batch_bald(other, 4).indices, found.indices)
    assert torch.equal(batch_bald(probs.numpy(), 4).indices, found.indices)
    assert batch_bald(probs.bfloat16(), 2).scores.dtype == torch.float32


# -- bad input -----------------------------------------------------------------------------------


def test_scores_and_probabilities_are_checked() -> None:
    for wrong in (
        tensor([0.1, math.nan]),
        tensor([[0.1]]),
        tensor([]),
        torch.tensor([1, 2]),
        [0.1],
    ):
        with pytest.raises(DataError, match="scores"):
            top_batch(wrong, 1)
        with pytest.raises(DataError, match="scores"):
            power_bald(wrong, 1)
    with pytest.raises(DataError, match="scores must be finite"):
        power_bald(tensor([0.1, math.inf]), 1)
    probs = probabilities(3, 4, 3)
    for broken in (probs * 2, probs - 1, probs * math.nan, probs[0], probs[:, :0], probs.long()):
        with pytest.raises(DataError, match="probs"):
            batch_bald(broken, 1)
        with pytest.raises(DataError, match="probs"):
            joint_entropy(broken)


def test_options_are_checked() -> None:
    probs = probabilities(3, 4, 3)
    for size in (0, 5, 1.0, True, "2"):
        with pytest.raises(OptionError, match="batch_size"):
            batch_bald(probs, size)
        with pytest.raises(OptionError, match="batch_size"):
            top_batch(bald(probs), size)
        with pytest.raises(OptionError, match="batch_size"):
            power_bald(probs, size)
    for name, value in (
        ("configurations", 0),
        ("configurations", 10.0),
        ("seed", -1),
        ("budget", 0),
        ("distinct", "yes"),
    ):
        with pytest.raises(OptionError, match=name):
            batch_bald(probs, 2, **{name: value})
    for name, value in (("beta", 0.0), ("beta", math.inf), ("seed", 1.5)):
        with pytest.raises(OptionError, match=name):
            power_bald(probs, 2, **{name: value})
    with pytest.raises(OptionError, match="budget"):
        batch_bald(probs, 2, budget=100)
