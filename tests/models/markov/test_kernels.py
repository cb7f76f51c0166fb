from __future__ import annotations

import math

import pytest
import torch

from likely.models.markov import _recursions, kernels
from likely.models.markov._packing import Packing

LENGTHS = [1, 4, 2, 4, 3]
FORMS = {"scaled": kernels.evidence, "logarithms": kernels.evidence_by_logarithms}


@pytest.fixture
def chunked(monkeypatch):
    """Cut sequences of four steps and more, whatever it costs."""
    monkeypatch.setattr(_recursions, "_FEWEST_STEPS", 4)
    monkeypatch.setattr(_recursions, "_MOST_WORK", math.inf)


def derivatives(function, leaves, packing):
    """Value, gradient and a mixture of second derivatives of a curved function of the evidence."""
    value = function(*leaves, packing)
    weights = torch.linspace(0.5, 1.5, len(value))
    curved = (weights * value + 0.05 * value.square()).sum()
    first = torch.autograd.grad(curved, leaves, create_graph=True, allow_unused=True)
    first = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, first, strict=True)]
    mixed = sum((torch.arange(g.numel()).sin().reshape(g.shape) * g).sum() for g in first)
    second = torch.autograd.grad(mixed, leaves, allow_unused=True)
    second = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, second, strict=True)]
    return [value.detach(), *(g.detach() for g in first), *second]


def assert_same(found, expected, tolerance=1e-10):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lengths", [[1], [3, 3], [1, 4, 2, 4, 3]])
def test_columns_of_a_packing(lengths):
    packing = Packing.build(torch.tensor(lengths))
    columns = torch.arange(sum(lengths))
    by_run = [columns[run].reshape(-1, width).tolist() for run, width in packing.runs]
    by_step = [columns[span].tolist() for span in packing.spans]
    assert [step for run in by_run for step in run] == by_step
    assert len({width for _, width in packing.runs}) == len(packing.runs)
    last = columns[packing.last]
    assert sorted(packing.owner[last].tolist()) == list(range(len(lengths)))
    assert torch.equal(packing.step[last] + 1, packing.lengths[packing.owner[last]])
    total = kernels.by_sequence(columns.double(), packing)
    assert total.tolist() == [columns[packing.owner == i].sum() for i in range(len(lengths))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_value_and_two_derivatives_are_those_of_the_sum_over_all_paths(
    form, zero, k, potentials, by_enumeration
):
    leaves, packing = potentials(k, LENGTHS, zero=zero and k > 1)
    expected = derivatives(by_enumeration, leaves, packing)
    assert_same(derivatives(FORMS[form], leaves, packing), expected)


@pytest.mark.parametrize("lengths", [[50, 7, 1, 30], [64], [17, 17]])
@pytest.mark.parametrize("zero", [False, True])
def test_chunks_change_nothing(lengths, zero, potentials, monkeypatch):
    leaves, packing = potentials(3, lengths, zero=zero)
    plain = derivatives(kernels.evidence, leaves, packing)
    monkeypatch.setattr(_recursions, "_FEWEST_STEPS", 4)
    assert _recursions._chunks(packing, 3) is not None
    assert_same(derivatives(kernels.evidence, leaves, packing), plain, 1e-9)


def test_gradients_agree_with_differences(potentials):
    leaves, packing = potentials(3, [3, 1, 5])
    assert torch.autograd.gradcheck(lambda *x: kernels.evidence(*x, packing), leaves)
    assert torch.autograd.gradgradcheck(lambda *x: kernels.evidence(*x, packing), leaves)


def test_several_directions_at_once_are_refused_and_leave_nothing_behind(potentials):
    leaves, packing = potentials(2, [3, 2])

    def first(x):
        value = kernels.evidence(leaves[0], x, leaves[2], packing)
        return torch.autograd.grad(value.sum(), x, create_graph=True)[0]

    gradient = first(leaves[1])
    with pytest.raises(RuntimeError, match="data pointer"):
        torch.autograd.grad(
            gradient.flatten(), leaves[1], torch.eye(4), retain_graph=True, is_grads_batched=True
        )
    rows = [torch.autograd.grad(g, leaves[1], retain_graph=True)[0] for g in gradient.flatten()]
    expected = torch.autograd.functional.jacobian(first, leaves[1]).reshape(4, 2, 2)
    torch.testing.assert_close(torch.stack(rows), expected)


def test_statistics_are_expected_counts(potentials, path_densities):
    leaves, packing = potentials(2, [4])
    gradients = torch.autograd.grad(kernels.evidence(*leaves, packing).sum(), leaves)
    paths, densities = path_densities(*leaves)
    first, moves, states = torch.zeros(2), torch.zeros(2, 2), torch.zeros(2, 4)
    for path, weight in zip(paths, densities.detach().softmax(0), strict=True):
        first[path[0]] += weight
        for t, state in enumerate(path):
            states[state, t] += weight
            if t:
                moves[path[t - 1], state] += weight
    assert_same(gradients, [first, moves, states], 1e-12)


def test_sequences_of_any_lengths_are_those_taken_one_by_one(potentials):
    leaves, packing = potentials(3, LENGTHS)
    together = kernels.evidence(*leaves, packing)
    for number, length in enumerate(LENGTHS):
        own = leaves[2][:, packing.owner == number]
        alone = kernels.evidence(*leaves[:2], own, Packing.build(torch.tensor([length])))
        torch.testing.assert_close(together[number], alone[0], rtol=1e-13, atol=1e-13)


def test_steps_without_information_are_padding(potentials):
    # A step whose emissions are all one changes nothing, since rows of moves sum to one.
    leaves, packing = potentials(3, LENGTHS)
    longest = max(LENGTHS)
    padded = Packing.build(torch.full((len(LENGTHS),), longest))
    emission = torch.zeros(3, len(padded.owner))
    for column, (sequence, step) in enumerate(
        zip(padded.owner.tolist(), padded.step.tolist(), strict=True)
    ):
        if step < LENGTHS[sequence]:
            own = (packing.owner == sequence) & (packing.step == step)
            emission[:, column] = leaves[2][:, own].squeeze(-1)
    torch.testing.assert_close(
        kernels.evidence(*leaves, packing),
        kernels.evidence(*leaves[:2], emission, padded),
        rtol=1e-12,
        atol=1e-12,
    )


# -- far out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    "moves",
    [
        [[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]],
        [[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]],
        [[1.0, 1e-250, 0.0], [1e-250, 1.0, 0.0], [0.0, 0.0, 1.0]],
    ],
    ids=["mixing", "left to right", "hardly ever"],
)
def test_emissions_may_lie_thousands_of_nats_apart(cut, moves, request, potentials):
    if cut:
        request.getfixturevalue("chunked")
    (initial, _, emission), packing = potentials(3, [40, 60], spread=800.0)
    leaves = [initial, torch.tensor(moves).log().requires_grad_(), emission]
    expected = derivatives(kernels.evidence_by_logarithms, leaves, packing)
    assert all(bool(torch.isfinite(part).all()) for part in expected)
    assert_same(derivatives(kernels.evidence, leaves, packing)[:4], expected[:4], 1e-9)


@pytest.mark.parametrize("cut", [False, True])
def test_a_state_that_seemed_impossible_can_win_in_the_end(cut, request):
    if cut:
        request.getfixturevalue("chunked")
    # State 0 leads by 1000 nats halfway, which is beyond any number, and loses by 1000.
    emission = torch.zeros(2, 200)
    emission[0, :100], emission[1, 100:] = 10.0, 20.0
    half = math.log(0.5)
    leaves = [x.requires_grad_() for x in (torch.full((2,), half), torch.eye(2).log(), emission)]
    packing = Packing.build(torch.tensor([200]))
    value = kernels.evidence(*leaves, packing)
    assert value.tolist() == pytest.approx([2000.0 + half], rel=1e-14)
    first, moves, states = torch.autograd.grad(value.sum(), leaves)
    assert first.tolist() == [0.0, 1.0]
    assert moves.tolist() == [[0.0, 0.0], [0.0, 199.0]]
    assert bool((states[1] == 1).all())
    state, log_scale = kernels.filtered(*(x.detach() for x in leaves), packing)
    assert float(log_scale.sum()) == pytest.approx(2000.0 + half, rel=1e-14)
    # At step t the lead is 10 (t + 1) up to the middle, then 20 a step are made up.
    assert float(state[1, 149]) == pytest.approx(0.5, rel=1e-9)


def test_a_chain_without_zeros_needs_no_logarithms(potentials, monkeypatch):
    leaves, packing = potentials(3, [200], spread=300.0)
    expected = kernels.evidence_by_logarithms(*leaves, packing)
    monkeypatch.delattr(kernels, "_log_forward")
    torch.testing.assert_close(kernels.evidence(*leaves, packing), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_an_impossible_sequence_has_no_evidence_and_no_statistics(form, potentials):
    (initial, moves, emission), packing = potentials(2, [3, 2, 4])
    blocked = emission.detach().clone()
    blocked[:, (packing.owner == 2) & (packing.step == 1)] = -torch.inf
    leaves = [initial, moves, blocked.requires_grad_()]
    value = FORMS[form](*leaves, packing)
    assert value[2] == -torch.inf
    gradients = torch.autograd.grad(value[:2].sum(), leaves)
    # What the other two would give without it.
    kept = packing.owner != 2
    others = Packing.build(torch.tensor([3, 2]))
    expected = torch.autograd.grad(
        kernels.evidence(initial, moves, emission[:, kept], others).sum(), [initial, moves]
    )
    assert_same(gradients[:2], expected, 1e-12)
    total = torch.autograd.grad(FORMS[form](*leaves, packing).sum(), leaves)
    assert_same(total[:2], expected, 1e-12)
    assert bool((total[2][:, ~kept] == 0).all())
    state, log_scale = kernels.filtered(*(leaf.detach() for leaf in leaves), packing)
    assert bool((log_scale[~kept & (packing.step >= 1)] == -torch.inf).all())
    assert not bool(state.isnan().any())


def test_single_precision(potentials):
    leaves, packing = potentials(3, [30, 20])
    single = [leaf.detach().float().requires_grad_() for leaf in leaves]
    found = derivatives(kernels.evidence, single, packing)
    expected = derivatives(kernels.evidence, leaves, packing)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * scale)


# -- best paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [False, True])
def test_viterbi_is_the_best_of_all_paths(zero, potentials, path_densities):
    leaves, packing = potentials(3, LENGTHS, zero=zero)
    path = kernels.viterbi(*(leaf.detach() for leaf in leaves), packing)
    best = kernels.evidence(*leaves, packing, hard=True)
    gradients = torch.autograd.grad(best.sum(), leaves)
    for number in range(len(LENGTHS)):
        own = packing.owner == number
        paths, densities = path_densities(*leaves[:2], leaves[2][:, own])
        winner = paths[int(densities.argmax())]
        assert tuple(path[own].tolist()) == winner
        torch.testing.assert_close(best[number], densities.max(), rtol=1e-14, atol=0)
        assert gradients[2][:, own].argmax(0).tolist() == list(winner)
    # The statistics of a hard E-step are counts.
    assert float(gradients[0].sum()) == len(LENGTHS)
    assert float(gradients[1].sum()) == sum(LENGTHS) - len(LENGTHS)
    assert set(gradients[2].flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("cut", [False, True])
def test_filtering_is_smoothing_of_what_is_past(cut, request, potentials):
    if cut:
        request.getfixturevalue("chunked")
    leaves, packing = potentials(3, [5, 3])
    initial, moves, emission = (leaf.detach() for leaf in leaves)
    state, log_scale = kernels.filtered(initial, moves, emission, packing)
    for number, length in enumerate([5, 3]):
        own = emission[:, packing.owner == number]
        before = 0.0
        for t in range(length):
            past = Packing.build(torch.tensor([t + 1]))
            column = (packing.owner == number) & (packing.step == t)
            smooth = kernels.smoothed(initial, moves, own[:, : t + 1], past)
            torch.testing.assert_close(state[:, column], smooth[:, -1:], rtol=1e-12, atol=1e-14)
            total = float(kernels.evidence(initial, moves, own[:, : t + 1], past))
            assert float(log_scale[column]) == pytest.approx(total - before, abs=1e-12)
            before = total


def test_columns_are_ordered_by_step_with_ended_sequences_left_out():
    packing = Packing.build(torch.tensor(LENGTHS))
    assert packing.widths == [5, 4, 3, 2]
    assert packing.step.tolist() == sorted(packing.step.tolist())
    starts = torch.tensor(LENGTHS).cumsum(0) - torch.tensor(LENGTHS)
    assert torch.equal(packing.rows, starts[packing.owner] + packing.step)
    before, after = torch.arange(14)[packing.earlier], torch.arange(14)[packing.later]
    assert torch.equal(packing.owner[before], packing.owner[after])
    assert torch.equal(packing.step[before] + 1, packing.step[after])
    padded = packing.padded(packing.step.double())
    for row, length in zip(padded, LENGTHS, strict=True):
        assert row[:length].tolist() == list(range(length))
        assert bool(row[length:].isnan().all())
