"""Acquisitions are differentiable where they are asked to be."""

from __future__ import annotations

import pytest
import torch

from likely.inference import active

ONE = ("entropy", "least_confident", "margin")
DRAWS = ("consensus_kl", "consensus_js", "bald", "bald_variance")


def logits(*shape: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=source, dtype=torch.float64).requires_grad_(True)


@pytest.mark.parametrize("name", ONE + DRAWS)
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    function = getattr(active, name)
    given = logits(5, 3) if name in ONE else logits(4, 5, 3)
    assert torch.autograd.gradcheck(lambda z: function(z.softmax(-1)), (given,))


@pytest.mark.parametrize("name", ONE + DRAWS)
def test_scores_are_the_same_with_and_without_a_graph(name: str) -> None:
    function = getattr(active, name)
    probs = (logits(5, 3) if name in ONE else logits(4, 5, 3)).softmax(-1)
    with torch.no_grad():
        plain = function(probs)
    assert not plain.requires_grad
    torch.testing.assert_close(function(probs).detach(), plain, rtol=1e-14, atol=1e-14)
    assert not function(probs.detach()).requires_grad
