"""Acquisition functions of single points, against published values and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from likely.envs import DataError
from likely.inference import OptionError
from likely.inference.active import (
    bald,
    bald_variance,
    consensus_js,
    consensus_kl,
    entropy,
    least_confident,
    margin,
    random,
    vote_disagreement,
    vote_entropy,
)

CLOSE = {"rtol": 0.0, "atol": 1e-9}
ONE: list[Callable[..., Tensor]] = [entropy, least_confident, margin]
SEVERAL: list[Callable[..., Tensor]] = [
    vote_entropy,
    vote_disagreement,
    consensus_kl,
    consensus_js,
    bald,
    bald_variance,
]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def probabilities(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=source, dtype=torch.float64)).softmax(-1)


def draws(members: int, points: int, classes: int) -> st.SearchStrategy[Tensor]:
    """Counts as probabilities: zeros, ties and certainties are common."""
    cell = st.integers(0, 4)
    row = st.lists(cell, min_size=classes, max_size=classes).filter(any)
    flat = st.lists(row, min_size=members * points, max_size=members * points)
    return flat.map(
        lambda rows: torch.stack([tensor(r) / sum(r) for r in rows]).view(members, points, classes)
    )


# -- published values ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(3))
def test_uncertainty_of_two_libraries(case: int, published: Any) -> None:
    known = published("uncertainty.json")["cases"][case]
    probs = tensor(known["probs"])
    for name, mine in (
        ("skactiveml_entropy", entropy(probs)),
        ("modAL_entropy", entropy(probs)),
        ("skactiveml_least_confident", least_confident(probs)),
        ("modAL_uncertainty", least_confident(probs)),
        ("skactiveml_margin_sampling", margin(probs)),
        # The other convention is derived from ours.
        ("modAL_margin", 1 - margin(probs)),
    ):
        torch.testing.assert_close(mine, tensor(known[name]), **CLOSE)


@pytest.mark.parametrize("case", range(3))
def test_committees_of_two_libraries(case: int, published: Any) -> None:
    known = published("qbc.json")["cases"][case]
    probs = tensor(known["member_probs_E_N_C"])
    votes = torch.nn.functional.one_hot(torch.tensor(known["votes_N_E"]).T, probs.shape[-1])
    divergence = tensor(known["skactiveml_average_kl"])
    for name, mine in (
        ("vote_entropy_nats", vote_entropy(probs)),
        ("skactiveml_vote_entropy", vote_entropy(votes.double())),
        ("modAL_consensus_entropy", entropy(probs.mean(0))),
        ("modAL_KL_max", consensus_kl(probs, reduction="max")),
        ("pairwise_top_disagreement", vote_disagreement(probs)),
    ):
        torch.testing.assert_close(mine, tensor(known[name]), **CLOSE)
    for mine in (consensus_kl(probs), consensus_js(probs), bald(probs)):
        torch.testing.assert_close(mine, divergence, **CLOSE)


def test_bald_of_batchbald_redux(published: Any) -> None:
    known = published("bald_batchbald_seed0.json")
    probs = tensor(known["probs"])
    torch.testing.assert_close(bald(probs), tensor(known["bald"]), **CLOSE)
    torch.testing.assert_close(entropy(probs.mean(0)), tensor(known["mean_entropy"]), **CLOSE)


# -- definitions ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(draws(3, 2, 3))
def test_committee_scores_are_their_definitions(probs: Tensor) -> None:
    members, points, classes = probs.shape
    for point in range(points):
        p = probs[:, point].tolist()
        mean = [sum(row[k] for row in p) / members for k in range(classes)]
        divergence = [
            sum(q * math.log(q / m) for q, m in zip(row, mean, strict=True) if q > 0) for row in p
        ]
        votes = [row.index(max(row)) for row in p]
        shares = [votes.count(k) / members for k in range(classes)]
        pairs = [(a, b) for a in range(members) for b in range(a)]
        average = sum(divergence) / members
        expected = {
            vote_entropy: -sum(s * math.log(s) for s in shares if s > 0),
            vote_disagreement: sum(votes[a] != votes[b] for a, b in pairs) / len(pairs),
            consensus_kl: average,
            consensus_js: average,
            bald: average,
            bald_variance: sum((d - average) ** 2 for d in divergence) / (members - 1),
        }
        for score, value in expected.items():
            assert float(score(probs)[point]) == pytest.approx(value, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(draws(1, 3, 4))
def test_scores_of_one_predictive_are_their_definitions(probs: Tensor) -> None:
    for point, row in enumerate(probs[0].tolist()):
        first, second = sorted(row, reverse=True)[:2]
        expected = {
            entropy: -sum(p * math.log(p) for p in row if p > 0),
            least_confident: 1 - first,
            margin: 1 - (first - second),
        }
        for score, value in expected.items():
            assert float(score(probs[0])[point]) == pytest.approx(value, abs=1e-14)
    assert bald(probs).abs().max() < 1e-14  # one draw has nothing to learn


def test_the_variance_is_that_of_bald_over_draws() -> None:
    few, repeats = 200, 400
    population = probabilities(few * repeats, 1, 3)
    found = torch.stack([bald(part) for part in population.split(few)])
    said = bald_variance(population) / few
    # The variance of 400 estimates has a relative standard error of sqrt(2 / 399) = 7 %.
    assert float(found.var(0) / said) == pytest.approx(1, abs=0.25)


def test_members_that_tie_vote_for_the_first_class() -> None:
    even = tensor([[[0.5, 0.5]], [[0.5, 0.5]], [[0.9, 0.1]]])
    assert vote_entropy(even).tolist() == [0.0]
    assert vote_disagreement(even).tolist() == [0.0]


def test_random_scores_are_uniform_and_of_the_seed_alone() -> None:
    scores = random(10_000, seed=3)
    assert torch.equal(scores, random(10_000, seed=3))
    assert not torch.equal(scores, random(10_000, seed=4))
    assert torch.equal(random(probabilities(5, 3), seed=3), scores[:5])
    assert torch.equal(random(probabilities(2, 5, 3), seed=3), scores[:5])
    state = torch.get_rng_state()
    random(5)
    assert torch.equal(state, torch.get_rng_state())
    # Standard error of the mean: sqrt(1/12/10000) = 0.003.
    assert float(scores.mean()) == pytest.approx(0.5, abs=0.012)
    assert 0 <= scores.min() < scores.max() < 1


# -- kinds of argument ---------------------------------------------------------------------------


@pytest.mark.parametrize("score", ONE + SEVERAL, ids=lambda f: f.__name__)
def test_types_layouts_and_arrays(score: Callable[..., Tensor]) -> None:
    probs = probabilities(*((40, 3) if score in ONE else (5, 40, 3)))
    found = score(probs)
    assert found.dtype == torch.float64
    assert found.shape == (40,)
    single = score(probs.float())
    assert single.dtype == torch.float32
    # The input's rounding moves entropies and margins by some units of 6e-8.
    torch.testing.assert_close(single.double(), found, rtol=0, atol=2e-6)
    assert score(probs.bfloat16()).dtype == torch.float32
    assert torch.equal(score(probs.numpy()), found)
    assert torch.equal(score(np.flip(probs.numpy(), -2)), score(probs.flip(-2)))
    swapped = probs.transpose(0, -2).contiguous().transpose(0, -2)
    torch.testing.assert_close(score(swapped), found, rtol=0, atol=1e-14)
    kept = probs.clone()
    score(probs)
    assert torch.equal(probs, kept)


@pytest.mark.parametrize("score", [*ONE, *SEVERAL[2:]], ids=lambda f: f.__name__)
def test_scores_have_derivatives_where_asked(score: Callable[..., Tensor]) -> None:
    logits = probabilities(*((4, 3) if score in ONE else (5, 4, 3))).log().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: score(z.softmax(-1)), (logits,))
    torch.testing.assert_close(score(logits.softmax(-1)).detach(), score(logits.detach().exp()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("score", ONE + SEVERAL, ids=lambda f: f.__name__)
def test_scores_on_an_accelerator(score: Callable[..., Tensor]) -> None:
    probs = probabilities(*((40, 3) if score in ONE else (5, 40, 3)))
    found = score(probs.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), score(probs), rtol=0, atol=1e-12)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ONE + SEVERAL, ids=lambda f: f.__name__)
def test_what_is_no_probability_is_refused(score: Callable[..., Tensor]) -> None:
    probs = probabilities(*((4, 3) if score in ONE else (5, 4, 3)))
    broken: dict[str, tuple[float, str]] = {
        "nan": (math.nan, "point 2.*nan"),
        "negative": (-0.1, "at least 0"),
        "sum": (0.9999999, "summing to one"),
        "inf": (math.inf, "point 2.*inf"),
    }
    for value, message in broken.values():
        wrong = probs.clone()
        wrong[..., 2, 1] = value
        with pytest.raises(DataError, match=f"probs must be probabilities.*{message}|{message}"):
            score(wrong, budget=1000)
    # Negative, and yet summing to one.
    wrong = probs.clone()
    wrong[..., 2, :] = tensor([-0.5, 1.0, 0.5])
    with pytest.raises(DataError, match="point 2"):
        score(wrong)
    for shape in (probs[..., 0], probs[None]):
        with pytest.raises(DataError, match=r"probs must be \[.*got shape"):
            score(shape)
    with pytest.raises(DataError, match="probs is empty"):
        score(probs[..., :0, :])
    with pytest.raises(DataError, match="at least two classes"):
        score(torch.ones_like(probs[..., :1]))
    for wrong_type in (
        torch.ones_like(probs, dtype=torch.int64),
        probs > 2,
        probs.to(torch.cfloat),
    ):
        with pytest.raises(DataError, match="probs must hold floating point numbers"):
            score(wrong_type)
    for stranger in (probs.tolist(), None, "x", np.array(["a"])):
        with pytest.raises(DataError, match="probs must be a tensor"):
            score(stranger)


def test_the_place_of_a_wrong_row_is_told() -> None:
    probs = probabilities(3, 500, 4)
    probs[1, 432, 0] += 0.5
    with pytest.raises(DataError, match="point 432 of draw 1 has"):
        bald(probs, budget=5000)


@pytest.mark.parametrize("score", [vote_disagreement, bald_variance], ids=lambda f: f.__name__)
def test_pairs_and_variances_need_two_draws(score: Callable[..., Tensor]) -> None:
    with pytest.raises(DataError, match="at least two draws"):
        score(probabilities(1, 4, 3))


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="reduction must be one of 'mean', 'max'"):
        consensus_kl(probabilities(2, 4, 3), reduction="sum")
    with pytest.raises(OptionError, match="seed"):
        random(5, seed=-1)
    with pytest.raises(OptionError, match="probs must be an integer of at least 1"):
        random(0)
    with pytest.raises(DataError, match="probs must be"):
        random("five")
    with pytest.raises(DataError, match="empty"):
        random(torch.ones(0, 3))
