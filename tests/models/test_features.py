"""Distributions of features given a class."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch

from likely.models._features import ClassBernoulli, ClassMultinomial, log_arrangements

CELLS = torch.tensor(
    [[0.4, 0.2, 0.1, 0.3], [0.2, 0.5, 0.2, 0.1], [0.1, 0.3, 0.4, 0.2]], dtype=torch.float64
)


def test_cells_of_zero_and_one_are_allowed() -> None:
    cells = torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    every = torch.tensor([[0], [1]])
    density = ClassBernoulli(cells, every).log_prob(x)
    assert density.tolist() == [[0.0, -math.inf], [math.log(0.25)] * 2]
    (slope,) = torch.autograd.grad(density[1].sum() + density[0, 0], cells)
    assert bool(torch.isfinite(slope).all())
    mixed = ClassMultinomial(cells, every, 1).log_prob(x)
    assert mixed.tolist() == [[0.0, -math.inf], [math.log(0.5), math.log(0.5)]]


@pytest.mark.parametrize(("make", "totals"), [(ClassBernoulli, ()), (ClassMultinomial, (6,))])
def test_gradients_and_draws(make: Any, totals: tuple[int, ...]) -> None:
    label = torch.tensor([0, 1, 2, 1])
    x = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 1], [0, 1, 0, 0]]).double()
    leaf = CELLS.clone().requires_grad_(True)

    def density(cells: torch.Tensor) -> torch.Tensor:
        return make(cells, label, *totals).log_prob(x)

    assert torch.autograd.gradcheck(density, leaf)
    assert torch.autograd.gradgradcheck(density, leaf)
    torch.manual_seed(0)
    n, total = 20_000, totals[0] if totals else 1
    drawn = make(CELLS, torch.zeros(n, dtype=torch.long), *totals).sample()
    # Four standard errors are passed once in 16,000 draws.
    error = (total * CELLS[0] * (1 - CELLS[0]) / n).sqrt()
    assert bool(((drawn.mean(0) - total * CELLS[0]).abs() < 4 * error).all())
    if totals:
        assert bool((drawn.sum(-1) == total).all())


def test_arrangements_count_documents_with_repeated_words() -> None:
    counts = torch.tensor([[3.0, 0.0, 2.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert log_arrangements(counts).exp().round().tolist() == [10.0, 2.0, 1.0]


def test_enumerated_classes_cost_one_product() -> None:
    """What enumeration asks for is what each class alone gives, whatever its layout."""
    x = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1]]).double()
    every = ClassBernoulli(CELLS, torch.arange(3).reshape(3, 1)).log_prob(x)
    for k in range(3):
        alone = dist.Bernoulli(CELLS[k]).log_prob(x).sum(-1)
        torch.testing.assert_close(every[k], alone)
    swapped = ClassBernoulli(CELLS, torch.tensor([[1], [0], [2]])).log_prob(x)
    torch.testing.assert_close(swapped, every[[1, 0, 2]])
