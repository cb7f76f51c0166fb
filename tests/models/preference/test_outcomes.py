"""Distributions of comparisons: formulas of the papers, totals of one, simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import biject_to

from likely.models import Comparisons, Rankings
from likely.models.preference import (
    OutcomeCounts,
    RankingOrder,
    ZeroSumNormal,
    ZeroSumWalk,
    log_chances,
)
from likely.models.preference.outcomes import log_odds_of
from likely.models.preference.zero_sum import zero_sum

pytestmark = pytest.mark.usefixtures("in_double")


def test_ties_have_the_probabilities_of_the_papers() -> None:
    worth = np.exp([0.3, -0.7])
    odds = torch.tensor([1.0])
    nu, theta = 0.6, 1.9
    mass = [*worth, nu * math.sqrt(worth[0] * worth[1])]
    davidson = log_chances(odds, torch.tensor(nu), "davidson").exp()[0]
    np.testing.assert_allclose(davidson, np.array(mass) / sum(mass), rtol=1e-14)
    first = worth[0] / (worth[0] + theta * worth[1])
    second = worth[1] / (worth[1] + theta * worth[0])
    kupper = log_chances(odds, torch.tensor(theta), "rao-kupper").exp()[0]
    np.testing.assert_allclose(kupper, [first, second, 1 - first - second], rtol=1e-13)


@pytest.mark.parametrize(("rule", "tie"), [(None, None), ("davidson", 0.4), ("rao-kupper", 1.5)])
def test_counts_are_multinomial(rule: str | None, tie: float | None) -> None:
    made = None if tie is None else torch.tensor(tie)
    odds = torch.tensor([0.7])
    counts = OutcomeCounts(odds, torch.tensor([4.0]), made, rule)
    chances = log_chances(odds, made, rule).exp()[0].numpy()
    total = 0.0
    for w, lost in itertools.product(range(5), range(5)):
        if w + lost > 4:
            continue
        value = torch.tensor([[w, lost, 4 - w - lost]], dtype=torch.float64)
        density = float(counts.log_prob(value).exp())
        expected = stats.multinomial.pmf([w, lost, 4 - w - lost], 4, chances / chances.sum())
        assert density == pytest.approx(expected, rel=1e-11, abs=1e-300)
        total += density
    assert total == pytest.approx(1.0, abs=1e-12)
    drawn = counts.sample((20_000,))[:, 0]
    assert bool((drawn.sum(-1) == 4).all())
    error = 4 * np.sqrt(chances * (1 - chances) / (4 * 20_000))
    assert np.all(np.abs(drawn.mean(0).numpy() / 4 - chances) <= error + 1e-12)


def test_log_odds_have_home_covariates_and_periods() -> None:
    ability = torch.tensor([0.5, -0.5, 0.0])
    data = Comparisons.from_arrays(
        [0, 2], [1, 0], home=[1, -1], covariates=[[1.0, 0.0], [0.0, 2.0]], items=range(3)
    )
    odds = log_odds_of(ability, data, torch.tensor(0.25), torch.tensor([0.1, -0.3]))
    assert torch.allclose(odds, torch.tensor([1.0 + 0.25 + 0.1, -0.5 - 0.25 - 0.6]))
    later = Comparisons.from_arrays([0, 0], [1, 1], period=[1, 2], items=range(3))
    walk = torch.stack([ability, -ability])
    assert torch.allclose(log_odds_of(walk, later), torch.tensor([1.0, -1.0]))


def test_zero_sum_coordinates_are_an_isometry() -> None:
    there = biject_to(zero_sum)
    free = torch.randn(5, 6)
    full = there(free)
    assert torch.allclose(full.sum(-1), torch.zeros(5), atol=1e-14)
    assert torch.allclose(full.norm(dim=-1), free.norm(dim=-1), rtol=1e-14)
    assert torch.allclose(there.inv(full), free, atol=1e-14)
    assert bool(zero_sum.check(full).all())
    assert not bool(zero_sum.check(full + 1e-6).any())


def test_zero_sum_normal_is_a_conditioned_normal() -> None:
    scale = torch.tensor(1.7)
    made = ZeroSumNormal(scale, 4)
    value = biject_to(zero_sum)(torch.randn(3))
    # Density of four entries given their sum: joint over that of the sum, times the length √n of
    # the direction in which the sum grows.
    joint = stats.norm.logpdf(value.numpy(), scale=1.7).sum()
    along = stats.norm.logpdf(0.0, scale=1.7)
    assert float(made.log_prob(value)) == pytest.approx(joint - along, abs=1e-12)
    drawn = made.sample((40_000,))
    assert torch.allclose(drawn.sum(-1), torch.zeros(40_000), atol=1e-12)
    variance = drawn.var(0)
    wanted = 1.7**2 * 3 / 4
    assert bool(((variance / wanted - 1).abs() < 4 * math.sqrt(2 / 40_000)).all())


def test_a_walk_is_made_of_its_steps() -> None:
    walk = ZeroSumWalk(torch.tensor(1.0), torch.tensor(0.2), 3, 4)
    value = walk.sample()
    steps = ZeroSumNormal(torch.tensor(0.2), 4).log_prob(value.diff(dim=0)).sum()
    first = ZeroSumNormal(torch.tensor(1.0), 4).log_prob(value[0])
    assert torch.allclose(walk.log_prob(value), first + steps)
    spread = walk.sample((20_000,)).diff(dim=-2).std()
    assert float(spread) == pytest.approx(0.2 * math.sqrt(3 / 4), rel=0.01)


def test_orders_have_total_one_and_are_drawn_so() -> None:
    ability = torch.tensor([0.8, 0.0, -0.5, 0.3])
    data = Rankings.from_lists([[0, 1, 3]], items=range(4))
    made = RankingOrder(ability, data)
    orders = torch.tensor(list(itertools.permutations([0, 1, 3])))
    chances = torch.stack([made.log_prob(order[None]).exp()[0] for order in orders])
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-14)
    weight = ability.exp()
    left = weight[[0, 1, 3]].sum()
    assert float(chances[0]) == pytest.approx(
        float(weight[0] / left * weight[1] / (weight[1] + weight[3])), rel=1e-13
    )
    drawn = made.sample((30_000,))[:, 0]
    for order, chance in zip(orders, chances, strict=True):
        share = float((drawn == order).all(-1).double().mean())
        assert abs(share - float(chance)) < 4 * math.sqrt(float(chance) / 30_000)


def test_orders_of_which_only_the_first_counts() -> None:
    ability = torch.tensor([0.8, 0.0, -0.5])
    data = Rankings.from_lists([[0, 1, 2], [1, 2]], depth=1)
    density = RankingOrder(ability, data).log_prob(data.order)
    assert float(density[0]) == pytest.approx(float(ability.log_softmax(0)[0]), rel=1e-13)
    assert float(density[1]) == pytest.approx(float(ability[1:].log_softmax(0)[0]), rel=1e-13)
