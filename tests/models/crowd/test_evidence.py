"""Log-evidence of tasks in one piece: against the plain sum, its derivatives, and its extremes."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from likely.models.crowd._evidence import label_evidence, log_sum_exp, shares_of
from likely.models.crowd.kernels import LabelCounts, label_log_density

TASKS, L, K, J, ROWS = 7, 4, 3, 3, 30


@cache
def counts() -> LabelCounts:
    """Random labels with repeats; the last task has none."""
    source = torch.Generator().manual_seed(0)
    sizes = (TASKS - 1, L, J)
    columns = [torch.randint(0, size, (ROWS,), generator=source) for size in sizes]
    return LabelCounts.build(*columns, (TASKS, L, J))


def tables(per_task: bool, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    shapes = ((L, K, J), (TASKS, K) if per_task else (K,))
    log_confusion, log_prior = (
        torch.rand(shape, generator=source, dtype=dtype).log_softmax(-1) for shape in shapes
    )
    return log_confusion.requires_grad_(), log_prior.requires_grad_()


def plain(
    log_confusion: torch.Tensor, log_prior: torch.Tensor, known: torch.Tensor | None
) -> torch.Tensor:
    scores = label_log_density(counts(), log_confusion) + log_prior
    if known is not None:
        other = (known >= 0)[:, None] & (known[:, None] != torch.arange(K))
        scores = scores.masked_fill(other, -math.inf)
    return scores.logsumexp(-1)


KNOWN = torch.tensor([0, -1, 2, -1, -1, 1, -1])
CASES = pytest.mark.parametrize(
    ("per_task", "known"), [(False, None), (True, None), (False, KNOWN), (True, KNOWN)]
)


@CASES
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_equals_the_plain_sum(per_task, known, dtype, tolerance):
    values = tables(per_task, dtype)
    found = label_evidence(counts(), *values, known)
    assert found.dtype == dtype
    torch.testing.assert_close(found, plain(*values, known), rtol=tolerance, atol=tolerance)


@CASES
@pytest.mark.parametrize("weight", ["none", "two", "by task"])
def test_derivative_under_any_weight(per_task, known, weight):
    values = tables(per_task)
    factor = {"none": 1.0, "two": 2.0, "by task": torch.linspace(0.0, 3.0, TASKS)}[weight]
    found, expected = (
        torch.autograd.grad((density * factor).sum(), values)
        for density in (label_evidence(counts(), *values, known), plain(*values, known))
    )
    torch.testing.assert_close(found, expected)


@CASES
def test_derivatives_of_first_and_second_order(per_task, known):
    shared = counts()

    def evidence(*values: torch.Tensor) -> torch.Tensor:
        return label_evidence(shared, *values, known)

    values = tables(per_task)
    assert torch.autograd.gradcheck(evidence, values)
    assert torch.autograd.gradgradcheck(evidence, values, check_batched_grad=True)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_the_weight_of_a_plain_sum_may_be_differentiated_too(weight):
    values = tables(per_task=False)
    scale = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    total = label_evidence(counts(), *values).sum()
    (slope,) = torch.autograd.grad(scale * total, values[0], create_graph=True)
    direction = torch.linspace(-1.0, 1.0, slope.numel()).reshape(slope.shape)
    (found,) = torch.autograd.grad((slope * direction).sum(), scale)
    (expected,) = torch.autograd.grad(plain(*values, None).sum(), values[0])
    torch.testing.assert_close(found, (expected * direction).sum())


def test_only_what_is_asked_for_is_differentiated():
    log_confusion, log_prior = tables(per_task=False)
    for values in ((log_confusion.detach(), log_prior), (log_confusion, log_prior.detach())):
        label_evidence(counts(), *values).sum().backward()
    whole = torch.autograd.grad(
        plain(log_confusion, log_prior, None).sum(), (log_confusion, log_prior)
    )
    torch.testing.assert_close((log_confusion.grad, log_prior.grad), whole)


def test_function_transforms_agree_with_the_plain_sum():
    values = tuple(value.detach() for value in tables(per_task=False))
    shared = counts()
    found = torch.func.hessian(lambda t: label_evidence(shared, t, values[1]).sum())(values[0])
    expected = torch.func.hessian(lambda t: plain(t, values[1], None).sum())(values[0])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_far_apart_leave_no_subnormal_shares(dtype):
    limits = torch.finfo(dtype)
    below = torch.linspace(0.0, -1.2 * math.log(limits.max), 200, dtype=dtype)
    scores = torch.stack([torch.zeros_like(below), below], -1).requires_grad_()
    found = log_sum_exp(scores)
    torch.testing.assert_close(found, scores.logsumexp(-1))
    (shares,) = torch.autograd.grad(found.sum(), scores)
    torch.testing.assert_close(shares, scores.softmax(-1))
    assert float(shares[shares > 0].min()) >= limits.tiny
    assert torch.equal(shares, shares_of(scores.detach()))


def test_impossible_and_undefined_rows():
    never, gap = -math.inf, math.nan
    rows = [[never, never], [never, 0.0], [1.0, never], [gap, 0.0]]
    scores = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    before = scores.detach().clone()
    found = log_sum_exp(scores)
    (shares,) = torch.autograd.grad(found[:3].sum(), scores)
    assert found[:3].tolist() == [never, 0.0, 1.0]
    assert math.isnan(found[3].detach().item())
    assert shares[:3].tolist() == [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    # The caller's scores are not used up.
    assert torch.equal(scores.detach().nan_to_num(9.0), before.nan_to_num(9.0))
    assert bool(shares_of(before)[3].isnan().all())
