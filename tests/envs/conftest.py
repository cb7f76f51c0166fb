"""Random decision processes for every test that asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from likely.envs import TabularMDP


def make_mdp(
    seed: int = 0,
    *,
    n_states: int = 6,
    n_actions: int = 3,
    discount: float = 0.9,
    sink: bool = False,
    sparse: bool = False,
    **changes: Any,
) -> TabularMDP:
    """Random moves and rewards [S, A]; a sink, if any, is the last state and often entered."""
    random = torch.Generator().manual_seed(seed)
    shape = (n_states, n_actions, n_states)
    table = torch.rand(shape, generator=random, dtype=torch.float64) ** 3
    reward = torch.randn(shape[:2], generator=random, dtype=torch.float64)
    initial = torch.rand(n_states, generator=random, dtype=torch.float64)
    if sink:
        table[-1], reward[-1], initial[-1] = 0.0, 0.0, 0.0
        table[-1, :, -1] = 1.0
    table /= table.sum(-1, keepdim=True)
    parts: dict[str, Any] = {
        "transition": sp.csr_array(table.flatten(0, 1).numpy()) if sparse else table,
        "reward": reward,
        "discount": discount,
        "initial": initial / initial.sum(),
        "sink": n_states - 1 if sink else None,
    }
    return TabularMDP(**{**parts, **changes})


def make_policy(mdp: TabularMDP, seed: int = 1, batch: tuple[int, ...] = ()) -> Tensor:
    """Positive probabilities [*B, S, A]."""
    random = torch.Generator().manual_seed(seed)
    shape = (*batch, mdp.n_states, mdp.n_actions)
    return torch.randn(shape, generator=random, dtype=torch.float64).softmax(-1)


@pytest.fixture(scope="session")
def random_mdp() -> Callable[..., TabularMDP]:
    """``random_mdp(seed, sink=True, ...)``."""
    return make_mdp


@pytest.fixture(scope="session")
def random_policy() -> Callable[..., Tensor]:
    """``random_policy(mdp, seed, batch)``."""
    return make_policy
