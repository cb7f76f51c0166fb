"""Sums over all paths of states, taken one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from likely.models.markov._packing import Packing


@pytest.fixture(autouse=True)
def in_float64(in_double: None) -> Iterator[None]:
    return


def path_densities(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor
) -> tuple[list[tuple[int, ...]], Tensor]:
    """Every path of one sequence ``log_emission`` [K, T], and its joint log-potential."""
    k, n_steps = log_emission.shape
    paths = list(itertools.product(range(k), repeat=n_steps))
    densities = []
    for path in paths:
        total = log_initial[path[0]] + log_emission[path[0], 0]
        for t in range(1, n_steps):
            total = total + log_transition[path[t - 1], path[t]] + log_emission[path[t], t]
        densities.append(total)
    return paths, torch.stack(densities)


def by_enumeration(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, packing: Packing
) -> Tensor:
    """Log-evidence [S], possible paths only, so that derivatives exist."""
    found = []
    for sequence in range(packing.n_sequences):
        own = log_emission[:, packing.owner == sequence]
        densities = path_densities(log_initial, log_transition, own)[1]
        possible = densities[torch.isfinite(densities)]
        found.append(possible.logsumexp(0))
    return torch.stack(found)


@pytest.fixture(name="path_densities")
def _path_densities() -> Callable[..., Any]:
    return path_densities


@pytest.fixture(name="by_enumeration")
def _by_enumeration() -> Callable[..., Tensor]:
    return by_enumeration


@pytest.fixture
def potentials() -> Callable[..., Any]:
    """``potentials(k, lengths, spread)``: log-potentials with gradients, and their packing."""

    def draw(k: int, lengths: list[int], spread: float = 2.0, zero: bool = False) -> Any:
        packing = Packing.build(torch.tensor(lengths))
        initial = torch.randn(k).log_softmax(0)
        transition = torch.randn(k, k).log_softmax(-1)
        if zero:
            initial[0] = -torch.inf
            transition[0, 1:] = -torch.inf
        emission = spread * torch.randn(k, sum(lengths))
        leaves = [leaf.requires_grad_() for leaf in (initial, transition, emission)]
        return leaves, packing

    return draw
