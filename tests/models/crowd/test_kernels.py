import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from likely.models._logarithms import safe_log
from likely.models.crowd.kernels import LabelCounts, label_log_density

TASKS, ANNOTATORS, LABELS, CLASSES = 9, 4, 3, 2
N = 40


def rows(seed=0):
    """Random rows with repeats; the last task and the last annotator have none."""
    generator = np.random.default_rng(seed)
    task = generator.integers(0, TASKS - 1, N)
    annotator = generator.integers(0, ANNOTATORS - 1, N)
    label = generator.integers(0, LABELS, N)
    task[1], annotator[1], label[1] = task[0], annotator[0], label[0]
    return tuple(torch.from_numpy(v) for v in (task, annotator, label))


def counts(seed=0):
    return LabelCounts.build(*rows(seed), (TASKS, ANNOTATORS, LABELS))


def table(*batch, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, ANNOTATORS, CLASSES, LABELS)
    return torch.rand(shape, dtype=dtype, generator=generator).softmax(-1)


def dense_log_density(log_confusion):
    """The same by one-hot labels [n, J], annotators [n, L] and tasks [n, T]."""
    task, annotator, label = (
        torch.nn.functional.one_hot(index, size).to(log_confusion)
        for index, size in zip(rows(), (TASKS, ANNOTATORS, LABELS), strict=True)
    )
    return torch.einsum("nt,nl,nj,...lkj->...tk", task, annotator, label, log_confusion)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_equals_the_dense_sum(batch, dtype, tolerance):
    log_confusion = table(*batch, dtype=dtype).log()
    density = label_log_density(counts(), log_confusion)
    assert density.dtype == dtype
    expected = dense_log_density(log_confusion)
    torch.testing.assert_close(density, expected, rtol=tolerance, atol=tolerance)
    assert (density[..., -1, :] == 0).all()  # no labels


def test_gradient_is_the_table_of_expected_counts():
    confusion = table().requires_grad_()
    weights = torch.rand(TASKS, CLASSES, dtype=torch.float64)
    (label_log_density(counts(), safe_log(confusion)) * weights).sum().backward()
    expected = torch.zeros(ANNOTATORS, CLASSES, LABELS, dtype=torch.float64)
    for t, a, j in zip(*(r.tolist() for r in rows()), strict=True):
        expected[a, :, j] += weights[t]
    torch.testing.assert_close(confusion.detach() * confusion.grad, expected)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_derivatives_of_first_and_second_order(batch):
    def evidence(confusion):
        return label_log_density(counts(), safe_log(confusion)).logsumexp(-1)

    confusion = table(*batch).requires_grad_()
    assert torch.autograd.gradcheck(evidence, confusion, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(evidence, confusion, check_batched_grad=True)


def test_function_transforms_agree_with_the_dense_sum():
    def evidence(log_density):
        return lambda confusion: log_density(confusion.log()).logsumexp(-1).sum()

    shared = counts()  # its tensors are made, and kept, inside of the first transform
    sparse = evidence(lambda log: label_log_density(shared, log))
    dense = evidence(dense_log_density)
    confusion = table()
    expected = torch.autograd.functional.hessian(dense, confusion)
    for transform in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.jacrev(f))):
        torch.testing.assert_close(transform(sparse)(confusion), expected)
    torch.testing.assert_close(sparse(confusion), dense(confusion))
    two = table(2)
    torch.testing.assert_close(torch.func.vmap(sparse)(two), torch.stack([dense(c) for c in two]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_cells_give_no_nan(dtype):
    task, annotator, label = rows()
    confusion = table(dtype=dtype)
    used, unused = (0, 1, int(label[annotator == 0][0])), (ANNOTATORS - 1, 0, 0)
    for cell in (used, unused):
        confusion[cell] = 0
    confusion.requires_grad_()
    density = label_log_density(counts(), safe_log(confusion))
    hit = torch.zeros(TASKS, dtype=torch.bool)
    hit[task[(annotator == 0) & (label == used[2])]] = True
    assert (density[hit, 1] == -math.inf).all()
    assert torch.isfinite(density[~hit]).all()
    assert torch.isfinite(density[:, 0]).all()
    evidence = density.logsumexp(-1).sum()
    (gradient,) = torch.autograd.grad(evidence, confusion, create_graph=True)
    (second,) = torch.autograd.grad((gradient * table(dtype=dtype)).sum(), confusion)
    for derivative in (gradient, second):
        assert torch.isfinite(derivative).all()
        assert derivative[used] == 0
        assert derivative[unused] == 0


def test_safe_log():
    p = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    assert safe_log(p).tolist() == [-math.inf, math.log(0.25), 0.0]
    (gradient,) = torch.autograd.grad(safe_log(p)[1:].sum() + safe_log(p)[0], p, create_graph=True)
    assert gradient.tolist() == [0, 4, 1]
    (second,) = torch.autograd.grad(gradient.sum(), p)
    assert second.tolist() == [0, -16, -1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_one_thread_and_many_give_the_same_counts(dtype, tolerance):
    weights = torch.rand(TASKS, CLASSES, dtype=dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            shared = counts()
            found.append(shared.product(weights, transposed=True))
            # The transpose is stored only where it is used.
            assert ("columns" in vars(shared)) == (threads == 3)
    finally:
        torch.set_num_threads(before)
    assert found[0].dtype == dtype
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


def test_a_shared_table_is_every_annotators_table():
    log_confusion = table().log()[:1].requires_grad_()
    density = label_log_density(counts(), log_confusion)
    expected = dense_log_density(log_confusion.expand(ANNOTATORS, -1, -1))
    torch.testing.assert_close(density, expected)
    weights = torch.rand_like(density)
    gradients = [torch.autograd.grad(d, log_confusion, weights)[0] for d in (density, expected)]
    torch.testing.assert_close(*gradients)


def test_no_rows():
    empty = torch.zeros(0, dtype=torch.int64)
    none = LabelCounts.build(empty, empty, empty, (TASKS, ANNOTATORS, LABELS))
    log_confusion = table().log().requires_grad_()
    density = label_log_density(none, log_confusion)
    assert density.tolist() == [[0.0] * CLASSES] * TASKS
    (gradient,) = torch.autograd.grad(density.sum(), log_confusion)
    assert (gradient == 0).all()


def test_memory_stays_linear():
    """A dense block would hold 1e10 numbers here, and rows padded to the longest 1e11."""
    n = 1_000_000
    golden = torch.zeros(n, dtype=torch.int64)  # one task that everybody labelled
    task = torch.cat([golden, torch.arange(100_000)])
    annotator = torch.cat([torch.arange(n) % 20_000, torch.arange(100_000) % 20_000])
    big = LabelCounts.build(task, annotator, annotator % 5, (100_000, 20_000, 5))
    log_confusion = torch.full((20_000, 2, 5), math.log(0.2), dtype=torch.float32)
    density = label_log_density(big, log_confusion)
    torch.testing.assert_close(density[0, 0].item(), (n + 1) * math.log(0.2), rtol=1e-3, atol=0)
    torch.testing.assert_close(density[1:], torch.full((99_999, 2), math.log(0.2)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_evaluation_agrees():
    def evidence(confusion):
        return label_log_density(counts(), safe_log(confusion)).logsumexp(-1).sum()

    traced = torch.jit.trace(evidence, (table(),))
    other = table(seed=1).requires_grad_()
    torch.testing.assert_close(traced(other), evidence(other))
    gradients = [torch.autograd.grad(f(other), other)[0] for f in (traced, evidence)]
    torch.testing.assert_close(*gradients)


def test_no_warning_escapes_from_a_fresh_process():
    """Torch says once a process that sparse CSR tensors are in beta."""
    code = (
        "import torch\n"
        "from likely.models.crowd.kernels import LabelCounts, label_log_density\n"
        "i = torch.arange(3)\n"
        "x = torch.zeros(3, 2, 3, requires_grad=True)\n"
        "label_log_density(LabelCounts.build(i, i, i, (3, 3, 3)), x).sum().backward()\n"
        "import warnings; assert not [f for f in warnings.filters if 'Sparse' in str(f)]\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
