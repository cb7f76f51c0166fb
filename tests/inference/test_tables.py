"""Tables: which operations keep a simplex a simplex, and what their gradients count."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from likely.inference.tables import Table


def table(*shape, seed=0):
    """A leaf [*shape] with rows of probabilities, and the table over it."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(*shape, generator=generator, dtype=torch.float64) + 0.1
    leaf = (rows / rows.sum(-1, keepdim=True)).requires_grad_(True)
    return leaf, leaf.as_subclass(Table)


def counts(leaf, value):
    """``π ⊙ ∂value/∂π``."""
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return leaf.detach() * gradient


KEEPING = {
    "expand": lambda t: t.expand(4, 2, 3),
    "unsqueeze": lambda t: t.unsqueeze(0),
    "torch.unsqueeze": lambda t: torch.unsqueeze(t, 0),
    "reshape": lambda t: t.reshape(1, 2, 3),
    "torch.reshape": lambda t: torch.reshape(t, (2, 1, 3)),
    "view": lambda t: t.view(1, 2, 3),
    "contiguous": lambda t: t.contiguous(),
    "clone": lambda t: t.clone(),
    "index": lambda t: t[torch.tensor([0, 1, 1, 0])],
    "row": lambda t: t[1],
    "none": lambda t: t[None],
    "index_select": lambda t: t.index_select(0, torch.tensor([1])),
    "torch.index_select": lambda t: torch.index_select(t, 0, torch.tensor([1])),
    "double": lambda t: t.double(),
    "to": lambda t: t.to(torch.float64),
}


@pytest.mark.parametrize("name", KEEPING)
def test_rows_that_are_moved_around_still_sum_to_a_constant_one(name):
    leaf, probs = table(2, 3)
    kept = KEEPING[name](probs)
    assert isinstance(kept, Table)
    torch.testing.assert_close(kept.as_subclass(torch.Tensor), KEEPING[name](leaf))
    total = kept.sum(-1)
    assert not isinstance(total, Table)
    assert not total.requires_grad
    torch.testing.assert_close(total, torch.ones_like(total))


LEAVING = {
    "product": lambda t: t * 2,
    "power": lambda t: t**2,
    "sum of tables": lambda t: t + t,
    "blend": lambda t: 0.5 * t + 0.5 * t.flip(0),
    "transpose": lambda t: t.mT,
    "matmul": lambda t: torch.ones(2, 2, dtype=torch.float64) @ t,
    "softmax": lambda t: t.softmax(-1),
    "cat": lambda t: torch.cat([t, t], -1),
    "stack": lambda t: torch.stack([t, t], -1),
    "where": lambda t: torch.where(t > 0.3, t, t),
    "exp": lambda t: t.exp(),
}


@pytest.mark.parametrize("name", LEAVING)
def test_other_operations_give_plain_tensors_and_usual_gradients(name):
    leaf, probs = table(2, 3)
    plain = LEAVING[name](probs)
    assert type(plain) is torch.Tensor
    expected = LEAVING[name](leaf)
    torch.testing.assert_close(plain, expected)
    weights = torch.arange(1.0, 1.0 + expected.numel(), dtype=torch.float64)
    weights = weights.reshape(expected.shape)
    torch.testing.assert_close(
        counts(leaf, weights * plain), counts(leaf, weights * LEAVING[name](leaf))
    )


def test_a_sum_that_is_not_one_is_differentiated():
    leaf, probs = table(2, 3)
    part = probs[:, :2]
    assert isinstance(part, Table)  # its rows lie in the simplex's last dimension, but are cut
    total = part.sum(-1)
    assert total.requires_grad
    torch.testing.assert_close(total, leaf[:, :2].sum(-1))
    torch.testing.assert_close(counts(leaf, total)[:, :2], leaf.detach()[:, :2])


def test_a_sum_over_other_dimensions_is_differentiated():
    leaf, probs = table(2, 3)
    for total in (probs.sum(0), probs.sum(), probs.sum((0, 1)), probs.sum(dim=0)):
        assert total.requires_grad
    # Two columns that happen to sum to one down their rows are no distribution.
    leaf = torch.full((2, 2), 0.5, dtype=torch.float64, requires_grad=True)
    assert leaf.as_subclass(Table).sum(0).requires_grad


@pytest.mark.parametrize("dim", [{"dim": -1}, {"dim": 1}, {"dim": [-1]}, {"dim": (1,)}])
def test_the_last_dimension_has_several_names(dim):
    _, probs = table(2, 3)
    assert not probs.sum(**dim).requires_grad
    assert not torch.sum(probs, **dim).requires_grad
    assert not probs.log().logsumexp(**dim).requires_grad


def test_logarithms_normalise_by_a_constant_zero():
    leaf, probs = table(2, 3)
    logs = probs.log()
    assert isinstance(logs, Table)
    constant = logs.logsumexp(-1)
    assert not constant.requires_grad
    torch.testing.assert_close(constant, torch.zeros(2, dtype=torch.float64))
    # Moved about, they are logarithms still; their plain sum is not constant.
    moved = logs[torch.tensor([1, 0])]
    assert not moved.logsumexp(-1).requires_grad
    assert logs.sum(-1).requires_grad
    # And probabilities have no constant log-sum-exp.
    assert probs.logsumexp(-1).requires_grad
    torch.testing.assert_close(torch.log(probs).as_subclass(torch.Tensor), leaf.log())


LABELS = torch.tensor([0, 2, 2, 1, 2])


@pytest.mark.parametrize(
    "distribution",
    [
        lambda t: dist.Categorical(t),
        lambda t: dist.Categorical(probs=t[None].expand(5, 3)),
        lambda t: dist.Categorical(logits=t.log()),
    ],
    ids=["probs", "expanded", "logits"],
)
def test_gradients_of_categories_count_them(distribution):
    leaf, probs = table(3)
    value = distribution(probs).log_prob(LABELS)
    torch.testing.assert_close(value.detach(), leaf.detach().log()[LABELS])
    expected = torch.bincount(LABELS).double()
    torch.testing.assert_close(counts(leaf, value), expected)
    # Without the table, normalising takes the total out of the gradient.
    plain = counts(leaf, distribution(leaf).log_prob(LABELS))
    torch.testing.assert_close(plain, expected - 5 * leaf.detach())


def test_gradients_of_multinomial_and_one_hot_draws_count_them():
    leaf, probs = table(3)
    draws = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]).double()
    value = dist.Multinomial(3, probs).log_prob(draws)
    torch.testing.assert_close(counts(leaf, value), draws.sum(0))
    hot = torch.eye(3).double()[LABELS]
    value = dist.OneHotCategorical(probs).log_prob(hot)
    torch.testing.assert_close(counts(leaf, value), hot.sum(0))


def test_single_precision_rows_count_as_normalised():
    leaf = torch.full((7,), 1 / 7, dtype=torch.float32, requires_grad=True)
    probs = leaf.as_subclass(Table)
    value = dist.Categorical(probs).log_prob(torch.tensor([3, 3, 0]))
    torch.testing.assert_close(
        counts(leaf, value), torch.tensor([1.0, 0, 0, 2.0, 0, 0, 0]), atol=1e-5, rtol=0
    )
