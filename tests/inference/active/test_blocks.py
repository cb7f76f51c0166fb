"""Memory that acquisition functions take, measured; and what does not depend on it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from likely.inference import OptionError
from likely.inference.active import (
    Batch,
    bald,
    bald_variance,
    batch_bald,
    consensus_js,
    consensus_kl,
    core_set,
    entropy,
    joint_entropy,
    least_confident,
    likelihood_projections,
    margin,
    naive_bayes_error_reduction,
    vote_disagreement,
    vote_entropy,
)
from likely.models import NaiveBayes

ONE: list[Callable[..., Tensor]] = [entropy, least_confident, margin]
SEVERAL: list[Callable[..., Tensor]] = [
    vote_entropy,
    vote_disagreement,
    consensus_kl,
    consensus_js,
    bald,
    bald_variance,
]
MILLION = 1_000_000


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive that operations made; views of one memory count once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.held: dict[int, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            t.untyped_storage().data_ptr()
            for t in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(t, Tensor)
        }
        made = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(made):
            if not isinstance(tensor, Tensor):
                continue
            where = tensor.untyped_storage().data_ptr()
            if where in given and where not in self.held:
                continue
            if where not in self.held:
                self.held[where] = [tensor.untyped_storage().nbytes(), 0]
                self.live += self.held[where][0]
                self.peak = max(self.peak, self.live)
            self.held[where][1] += 1
            weakref.finalize(tensor, self._gone, where)
        return made

    def _gone(self, where: int) -> None:
        self.held[where][1] -= 1
        if not self.held[where][1]:
            self.live -= self.held.pop(where)[0]


def peak_of(run: Callable[[], Any]) -> tuple[Any, int]:
    """What ``run`` returns, and the most bytes that were alive beside its arguments."""
    with LiveBytes() as counter:
        found = run()
    return found, counter.peak


def probabilities(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=source)).to(dtype).softmax(-1)


def size(found: Any) -> int:
    tensors = list(found) if isinstance(found, Batch) else [found]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_the_measure_sees_what_lives_together() -> None:
    def run() -> Tensor:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1  # 4000 bytes more, and a view of none
        del a
        return b.sum() + torch.zeros(500).sum()

    _, peak = peak_of(run)
    assert 8000 <= peak <= 8100


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("score", ONE + SEVERAL, ids=lambda f: f.__name__)
def test_points_are_scored_within_the_budget(
    score: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    shape = (3000, 5) if score in ONE else (6, 3000, 5)
    probs = probabilities(*shape).to(dtype)
    whole = score(probs, budget=1 << 26)
    for budget in (4_000, 60_000):
        found, peak = peak_of(lambda budget=budget: score(probs, budget=budget))
        # A few numbers of the check are alive beside a block.
        assert peak <= budget + size(found) + 200
        torch.testing.assert_close(found, whole)


@pytest.mark.parametrize("score", ONE + SEVERAL, ids=lambda f: f.__name__)
def test_a_budget_that_holds_no_point_is_refused(score: Callable[..., Tensor]) -> None:
    probs = probabilities(*((50, 5) if score in ONE else (6, 50, 5)))
    with pytest.raises(OptionError, match="budget must be at least"):
        score(probs, budget=20)
    for wrong in (0, 1.5, "1"):
        with pytest.raises(OptionError, match="budget"):
            score(probs, budget=wrong)


def test_batch_bald_stays_within_its_budget() -> None:
    probs = probabilities(20, 2000, 4)
    options = {"configurations": 1000, "seed": 1}
    whole = batch_bald(probs, 7, **options)
    budget = 2_000_000
    found, peak = peak_of(lambda: batch_bald(probs, 7, budget=budget, **options))
    # Two vectors of scores, conditional entropies and masks of the pool's length come on top.
    assert peak <= budget + 6 * 8 * probs.shape[1]
    assert found.indices.tolist() == whole.indices.tolist()
    torch.testing.assert_close(found.scores, whole.scores)
    with pytest.raises(OptionError, match=r"budget must be at least 8\d{5} bytes for 1000"):
        batch_bald(probs, 7, budget=500_000, **options)


def test_joint_entropy_stays_within_its_budget() -> None:
    probs = probabilities(10, 6, 5)
    whole = joint_entropy(probs)
    # 5^5 configurations of all points but the last.
    budget = 3125 * (4 * 10 * 8 + 8 * 24)
    found, peak = peak_of(lambda: joint_entropy(probs, budget=budget))
    assert peak <= budget + 2000
    torch.testing.assert_close(found, whole, rtol=1e-13, atol=0)
    with pytest.raises(OptionError, match="budget"):
        joint_entropy(probs, budget=budget - 1)


def test_core_set_stays_within_its_budget() -> None:
    features, labelled = probabilities(5000, 8), probabilities(30, 8, seed=1)
    whole = core_set(features, 4, labelled=labelled)
    budget = 50_000
    found, peak = peak_of(lambda: core_set(features, 4, labelled=labelled, budget=budget))
    assert peak <= budget + 4 * 8 * len(features)
    assert found.indices.tolist() == whole.indices.tolist()


def test_projections_stay_within_their_budget() -> None:
    probs = probabilities(8, 2000, 4)
    found, peak = peak_of(lambda: likelihood_projections(probs, budget=40_000))
    assert peak <= 40_000 + size(found) + 200
    torch.testing.assert_close(found, likelihood_projections(probs))


@pytest.mark.parametrize("likelihood", ["bernoulli", "multinomial"])
def test_one_pass_look_ahead_stays_within_its_budget(likelihood: str) -> None:
    source = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 2, (330, 12), generator=source).double()
    labels = torch.arange(30) % 3
    program = NaiveBayes(3, likelihood)
    whole = naive_bayes_error_reduction(program, rows[:30], labels, rows[30:])
    for budget in (30_000, 300_000):
        found, peak = peak_of(
            lambda budget=budget: naive_bayes_error_reduction(
                program, rows[:30], labels, rows[30:], budget=budget
            )
        )
        # Classes of the labelled rows, candidates and sums come on top.
        assert peak <= budget + 8 * 4 * 330 + 3000
        torch.testing.assert_close(found, whole)


@pytest.mark.slow
@pytest.mark.parametrize("score", [*ONE, bald, vote_entropy], ids=lambda f: f.__name__)
def test_a_million_points(score: Callable[..., Tensor]) -> None:
    shape = (MILLION, 4) if score in ONE else (4, MILLION, 4)
    probs = probabilities(*shape, dtype=torch.float32)
    budget = 1 << 20
    found, peak = peak_of(lambda: score(probs, budget=budget))
    assert peak <= budget + size(found) + 200
    assert len(found) == MILLION


@pytest.mark.slow
def test_a_batch_from_a_million_points() -> None:
    probs = probabilities(4, MILLION, 2, dtype=torch.float32)
    budget = 1 << 20
    _, peak = peak_of(lambda: batch_bald(probs, 4, configurations=100, budget=budget))
    assert peak <= budget + 6 * 4 * MILLION


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("score", ONE + SEVERAL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("n", [7, 64, 1001])
def test_equal_points_have_equal_scores_wherever_they_stand(
    score: Callable[..., Tensor], dtype: torch.dtype, n: int
) -> None:
    shape = (1, 3) if score in ONE else (7, 1, 3)
    one = probabilities(*shape, dtype=dtype, seed=n)
    probs = one.expand(*shape[:-2], n, 3).contiguous()
    for budget in (None, 5000):
        found = score(probs, budget=budget)
        assert (found == found[0]).all()
