"""The true class summed out of a crowd's labels: against sums by hand and against Pyro's own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.ops.indexing import Vindex
from scipy.special import logsumexp

from likely.envs import DataError
from likely.models import Annotations, RaggedLabels
from likely.models.crowd import EvenErrors, LatentTruth

pytestmark = pytest.mark.usefixtures("in_double")

K, L, TASKS, ROWS = 3, 4, 6, 25
KNOWN = [0, -1, 2, -1, -1, 1]
FORMS = ("tables", "shared", "by label", "log-odds")


def crowd(truth: list[int] | None = None) -> Annotations:
    """Repeated labels, and a task without any."""
    generator = np.random.default_rng(0)
    return Annotations.from_arrays(
        generator.integers(0, TASKS - 1, ROWS),
        generator.integers(0, L, ROWS),
        generator.integers(0, K, ROWS),
        tasks=range(TASKS),
        annotators=range(L),
        classes=range(K),
        truth=truth,
    )


def simplex(*shape: int) -> torch.Tensor:
    return torch.randn(shape).softmax(-1)


def errors(form: str, *batch: int) -> tuple[torch.Tensor, dict[str, bool]]:
    """How labels err, in one of the forms, and the options that say so."""
    if form in ("tables", "shared"):
        return simplex(*batch, L if form == "tables" else 1, K, K), {}
    log_odds = torch.randn(*batch, ROWS)
    if form == "log-odds":
        return log_odds, {"by_label": True, "log_odds": True}
    return log_odds.sigmoid(), {"by_label": True}


def by_cell(annotations: Annotations, how: torch.Tensor, form: str) -> torch.Tensor:
    """Probability [rows, K, J] of each label by true class."""
    if form == "tables":
        return how[annotations.annotator]
    if form == "shared":
        return how.expand(ROWS, K, K)
    right = (how.sigmoid() if form == "log-odds" else how)[:, None, None]
    return right * torch.eye(K) + (1 - right) / (K - 1) * (1 - torch.eye(K))


def joint_by_hand(annotations: Annotations, prior: torch.Tensor, cells: torch.Tensor) -> Any:
    """log p(labels, truth) [n_tasks, K] in NumPy, one label at a time."""
    joint = np.log(prior.expand(annotations.n_tasks, K).numpy()).copy()
    for row, (i, label) in enumerate(
        zip(annotations.task.tolist(), annotations.label.tolist(), strict=True)
    ):
        joint[i] += np.log(cells[row, :, label].numpy())
    if annotations.truth is not None:
        for i, known in enumerate(annotations.truth.tolist()):
            if known >= 0:
                joint[i, np.arange(K) != known] = -np.inf
    return joint


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of_task", [False, True])
@pytest.mark.parametrize("truth", [None, KNOWN, [0, 1, 2, 0, 1, 2]])
def test_density_and_posterior_are_the_sums_by_hand(form, of_task, truth):
    annotations = crowd(truth)
    prior = simplex(TASKS, K) if of_task else simplex(K)
    how, options = errors(form)
    joint = joint_by_hand(annotations, prior, by_cell(annotations, how, form))
    labels = LatentTruth(prior, how, annotations, **options)
    density = labels.log_prob(annotations.label)
    np.testing.assert_allclose(density, logsumexp(joint, axis=1), rtol=1e-10, atol=1e-12)
    shares = labels.latent_posterior(annotations.label)
    expected = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-12)
    hard = labels.evidence(annotations.label, labels.natural, hard=True)
    np.testing.assert_allclose(hard, joint.max(1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_density_is_that_of_an_enumerated_program(form):
    annotations, prior = crowd(), simplex(K)
    how, options = errors(form)
    cells = by_cell(annotations, how, form)

    def plain():
        for i in pyro.plate("task", TASKS):
            truth = pyro.sample(
                f"truth_{i}", dist.Categorical(prior), infer={"enumerate": "parallel"}
            )
            rows = (annotations.task == i).nonzero().squeeze(-1)
            if len(rows) == 0:
                continue
            with pyro.plate(f"label_{i}", len(rows)) as index:
                table = Vindex(cells[rows[index]])[torch.arange(len(rows)), truth]
                pyro.sample(
                    f"label_of_{i}", dist.Categorical(table), obs=annotations.label[rows[index]]
                )

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(plain, lambda: None)
    density = LatentTruth(prior, how, annotations, **options).log_prob(annotations.label)
    assert density.sum().item() == pytest.approx(-loss, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("truth", [None, KNOWN])
def test_first_and_second_derivatives(form, truth):
    annotations = crowd(truth)
    how, options = errors(form)

    def density(prior, free):
        made = free.softmax(-1) if how.dim() > 1 else free
        return LatentTruth(prior.softmax(-1), made, annotations, **options).log_prob(
            annotations.label
        )

    point = (torch.randn(K).requires_grad_(), how.clone().requires_grad_())
    assert torch.autograd.gradcheck(density, point, atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradgradcheck(density, point, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", ["tables", "by label"])
@pytest.mark.parametrize("hard", [False, True])
def test_slopes_of_the_evidence_are_expected_counts(form, hard):
    annotations, prior = crowd(KNOWN), simplex(K)
    how, options = errors(form)
    labels = LatentTruth(prior, how, annotations, **options)
    natural = {name: value.clone().requires_grad_() for name, value in labels.natural.items()}
    total = labels.evidence(annotations.label, natural, hard).sum()
    found = dict(zip(natural, torch.autograd.grad(total, list(natural.values())), strict=True))
    shares = labels.latent_posterior(annotations.label)
    if hard:
        shares = torch.eye(K)[shares.argmax(-1)]
    torch.testing.assert_close(found["prior"], shares.sum(0))
    if form == "tables":
        counts = torch.zeros(L, K, K)
        for i, who, label in zip(
            annotations.task, annotations.annotator, annotations.label, strict=True
        ):
            counts[who, :, label] += shares[i]
        torch.testing.assert_close(found["confusion"], counts)
    else:
        right = shares[annotations.task, annotations.label]
        torch.testing.assert_close(found["right"], right)
        torch.testing.assert_close(found["wrong"], 1 - right)


@pytest.mark.parametrize("form", ["tables", "by label"])
def test_what_is_impossible_is_minus_infinity_and_has_no_slope(form):
    annotations = Annotations.from_arrays([0, 0, 1, 2], [0, 1, 0, 1], [0, 1, 1, 0])
    prior = torch.tensor([0.3, 0.7]).requires_grad_()
    # The first annotator is never wrong; the second one contradicts the first in task 0.
    if form == "tables":
        how, options = torch.stack([torch.eye(2), torch.tensor([[0.8, 0.2], [0, 1.0]])]), {}
        expected, shares = torch.tensor([0.3 * 0.2, 0.7, 0.3 * 0.8]), [[1, 0], [0, 1], [1, 0]]
    else:
        how, options = torch.tensor([1.0, 0.8, 1.0, 1.0]), {"by_label": True}
        expected, shares = torch.tensor([0.3 * 0.2, 0.7, 0.3]), [[1, 0], [0, 1], [1, 0]]
    how.requires_grad_()
    labels = LatentTruth(prior, how, annotations, **options)
    density = labels.log_prob(annotations.label)
    torch.testing.assert_close(density.exp(), expected)
    torch.testing.assert_close(
        labels.latent_posterior(annotations.label), torch.tensor(shares) * 1.0
    )
    for slope in torch.autograd.grad(density.sum(), (prior, how), retain_graph=True):
        assert bool(torch.isfinite(slope).all())
    # Nobody is ever wrong, and two disagree: no class is left.
    sure = torch.eye(2).expand(2, 2, 2) if form == "tables" else torch.ones(4)
    sure = sure.clone().requires_grad_()
    none = LatentTruth(prior, sure, annotations, **options)
    density = none.log_prob(annotations.label)
    assert density.isneginf().tolist() == [True, False, False]
    torch.testing.assert_close(none.latent_posterior(annotations.label)[0], torch.zeros(2))
    assert bool(torch.isfinite(torch.autograd.grad(density[0], sure)[0]).all())


def test_log_odds_have_digits_where_probabilities_have_none():
    annotations = Annotations.from_arrays([0], [0], [1], truth=[0], classes=[0, 1])
    even = torch.tensor([0.5, 0.5])
    made = partial(LatentTruth, even, annotations=annotations, by_label=True)
    log_odds = torch.tensor([60.0], requires_grad=True)
    density = made(log_odds, log_odds=True).log_prob(annotations.label)
    assert density.item() == pytest.approx(-60 + np.log(0.5), rel=1e-12)
    assert torch.autograd.grad(density, log_odds)[0].item() == pytest.approx(-1, rel=1e-12)
    assert made(log_odds.sigmoid()).log_prob(annotations.label).item() == -np.inf


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of_task", [False, True])
def test_a_batch_is_each_of_its_members(form, of_task):
    annotations = crowd(KNOWN)
    prior = simplex(5, TASKS if of_task else 1, K)
    how, options = errors(form, 5)
    many = LatentTruth(prior, how, annotations, **options)
    assert many.batch_shape == (5, TASKS)
    alone = [
        LatentTruth(one if of_task else one[0], each, annotations, **options)
        for one, each in zip(prior, how, strict=True)
    ]
    label = annotations.label
    torch.testing.assert_close(
        many.log_prob(label), torch.stack([one.log_prob(label) for one in alone])
    )
    torch.testing.assert_close(
        many.latent_posterior(label), torch.stack([one.latent_posterior(label) for one in alone])
    )
    assert many.sample().shape == (5, 1, ROWS)
    # One prior for all of them, and a batch beside it that was expanded.
    common = LatentTruth(prior[0] if of_task else prior[0, 0], how, annotations, **options)
    torch.testing.assert_close(common.log_prob(label)[0], alone[0].log_prob(label))
    wide = alone[1].expand((7, TASKS))
    torch.testing.assert_close(wide.log_prob(label), many.log_prob(label)[1].expand(7, TASKS))


@pytest.mark.parametrize("form", FORMS)
def test_sampled_labels_have_the_frequencies_of_the_mixture(form):
    # Each pair of labels of one task, with what is known of some tasks.
    annotations = crowd(KNOWN)
    prior, n = simplex(K), 20_000
    how, options = errors(form)
    labels = LatentTruth(prior, how, annotations, **options)
    assert labels.sample().shape == (ROWS,)
    drawn = labels.sample((n,))
    assert drawn.shape == (n, 1, ROWS)
    cells = by_cell(annotations, how, form)
    for i, known in enumerate(KNOWN):
        rows = (annotations.task == i).nonzero().squeeze(-1)[:2]
        if len(rows) < 2:
            continue
        weights = prior if known < 0 else torch.eye(K)[known]
        table = torch.einsum("k,ka,kb->ab", weights, cells[rows[0]], cells[rows[1]])
        pair = drawn[:, 0, rows[0]] * K + drawn[:, 0, rows[1]]
        found = torch.bincount(pair, minlength=K * K).reshape(K, K) / n
        # Binomial errors of up to 54 frequencies a form.
        assert bool(((found - table).abs() <= 4.5 * (table * (1 - table) / n).sqrt()).all())


@pytest.mark.parametrize("known", [False, True])
def test_even_errors_are_tables_with_one_number(known):
    annotations = crowd()
    ability = torch.randn(L)
    right = ability.sigmoid()[:, None, None]
    table = right * torch.eye(K) + (1 - right) / (K - 1) * (1 - torch.eye(K))
    truth = torch.randint(0, K, (TASKS,)) if known else torch.arange(K).reshape(-1, 1)
    even = EvenErrors(ability[annotations.annotator], annotations, truth)
    expected = RaggedLabels(table, annotations, truth).log_prob(annotations.label)
    torch.testing.assert_close(even.log_prob(annotations.label), expected)
    assert even.batch_shape == expected.shape
    wide = even.expand((2, *even.batch_shape))
    assert wide.log_prob(annotations.label).shape == wide.batch_shape
    assert wide.sample((5,)).shape == (5, *wide.batch_shape[:-1], 1, ROWS)
    drawn = even.sample()
    assert even.log_prob(drawn).shape == even.batch_shape


def test_even_errors_are_drawn_as_often_as_they_should():
    n = 60_000
    annotations = Annotations.from_arrays(np.arange(n), np.zeros(n), None, classes=range(3))
    labels = EvenErrors(torch.full((n,), 0.4), annotations, torch.ones(n, dtype=torch.long))
    found = torch.bincount(labels.sample(), minlength=3) / n
    right = torch.tensor(0.4).sigmoid()
    expected = torch.stack([(1 - right) / 2, right, (1 - right) / 2])
    assert bool(((found - expected).abs() <= 4.5 * (expected * (1 - expected) / n).sqrt()).all())


def test_shapes_that_do_not_fit_are_named():
    annotations = crowd()
    message = r"confusion: expected shape \[\*batch, 4, 3, 3\] for these annotations, got"
    for shape in ((2, K, K), (K, K), (L, K, K + 1), (L, 2, K)):
        with pytest.raises(DataError, match=message):
            LatentTruth(simplex(K), torch.ones(shape), annotations)
    with pytest.raises(DataError, match=r"confusion: expected shape \[\*batch, 25\]"):
        LatentTruth(simplex(K), torch.ones(ROWS - 1), annotations, by_label=True)
    with pytest.raises(DataError, match=r"log_odds: expected shape \[\*batch, 25\]"):
        EvenErrors(torch.ones(3), annotations, torch.zeros(TASKS, dtype=torch.long))


@pytest.mark.parametrize("form", ["tables", "log-odds"])
def test_other_labels_than_the_observed_ones(form):
    annotations = crowd()
    how, options = errors(form)
    labels = LatentTruth(simplex(K), how, annotations, **options)
    other = torch.randint(0, K, (ROWS,))
    expected = LatentTruth(labels.prior, how, replace(annotations, label=other), **options)
    torch.testing.assert_close(labels.log_prob(other), expected.log_prob(other))
    torch.testing.assert_close(labels.log_prob(other[None]), expected.log_prob(other))
