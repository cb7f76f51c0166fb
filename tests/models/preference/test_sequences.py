"""Sequence log-probabilities, and losses of preferences over them for any torch policy."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models.preference import (
    contrastive_cloning,
    dpo_loss,
    preference_report,
    sequence_log_probability,
)

VOCABULARY, LENGTH = 5, 6


class Speaker(torch.nn.Module):
    """A causal language model as small as can be: what comes next hangs on what came last."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(VOCABULARY, 8)
        self.head = torch.nn.Linear(8, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores [batch, length, vocabulary] of the token after each."""
        found: Tensor = self.head(torch.tanh(self.embedding(tokens)))
        return found


def spoken(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random answers of one to four tokens to prompts of two: tokens and where they count."""
    source = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (count, LENGTH), generator=source)
    lengths = torch.randint(1, LENGTH - 1, (count, 1), generator=source)
    place = torch.arange(LENGTH)
    mask = (place >= 2) & (place < 2 + lengths)
    # What padding holds is nobody's business.
    return torch.where(mask | (place < 2), tokens, -100), mask


def fed(tokens: Tensor) -> Tensor:
    return tokens.clamp_min(0)


def test_sequences_token_by_token() -> None:
    model, (tokens, mask) = Speaker(), spoken(7, 1)
    logits = model(fed(tokens))
    found = sequence_log_probability(logits, tokens, mask, shifted=True)
    for row in range(len(tokens)):
        logs = [
            logits[row, t - 1].log_softmax(-1)[tokens[row, t]]
            for t in range(1, LENGTH)
            if mask[row, t]
        ]
        torch.testing.assert_close(found[row], torch.stack(logs).sum())
    whole = sequence_log_probability(logits, fed(tokens))
    direct = logits.log_softmax(-1).gather(-1, fed(tokens).unsqueeze(-1)).sum((1, 2))
    torch.testing.assert_close(whole, direct)


def test_a_distribution_over_sequences() -> None:
    """All sequences of three tokens together have probability 1."""
    every = torch.cartesian_prod(*[torch.arange(VOCABULARY)] * 3)
    started = torch.cat([torch.zeros(len(every), 1, dtype=torch.int64), every], 1)
    logs = sequence_log_probability(Speaker().double()(started), started, shifted=True)
    assert float(logs.exp().sum().detach()) == pytest.approx(1.0, abs=1e-12)


def test_masked_places_have_no_gradient() -> None:
    tokens, mask = spoken(5, 2)
    logits = torch.randn(5, LENGTH, VOCABULARY, requires_grad=True)
    # A token that is banned beneath the mask is no trouble.
    banned = logits.masked_fill(~mask.unsqueeze(-1) & (torch.arange(VOCABULARY) == 0), -torch.inf)
    (slope,) = torch.autograd.grad(sequence_log_probability(banned, tokens, mask).sum(), [logits])
    assert bool(torch.isfinite(slope).all())
    assert bool((slope[~mask] == 0).all())
    assert bool((slope[mask].abs().sum(-1) > 0).all())


def test_half_precision_is_summed_in_single() -> None:
    tokens = torch.zeros(1, 4000, dtype=torch.int64)
    logits = torch.zeros(1, 4000, 3, dtype=torch.bfloat16)
    found = sequence_log_probability(logits, tokens)
    assert found.dtype == torch.float32
    assert float(found[0]) == pytest.approx(-4000 * torch.tensor(3.0).log().item(), rel=1e-5)


def test_a_language_model_learns_what_is_preferred() -> None:
    """Answers with more 3s are preferred; DPO finds out, from log-probabilities alone."""
    base = Speaker().requires_grad_(False)
    model = copy.deepcopy(base).requires_grad_(True)
    (first, seen_first), (second, seen_second) = spoken(400, 3), spoken(400, 4)
    liked = [((x == 3) & m).sum(-1) for x, m in ((first, seen_first), (second, seen_second))]
    told = liked[0] != liked[1]
    better = (liked[0] > liked[1]).unsqueeze(-1)
    sides = [
        (torch.where(one, first, second)[told], torch.where(one, seen_first, seen_second)[told])
        for one in (better, ~better)
    ]

    def scored(speaker: torch.nn.Module) -> list[Tensor]:
        return [sequence_log_probability(speaker(fed(x)), x, m, shifted=True) for x, m in sides]

    reference = scored(base)
    step = torch.optim.Adam(model.parameters(), 0.05)
    before = preference_report(*scored(model), *reference)
    assert before.accuracy == 0.0
    assert before.gains == (0.0, 0.0)
    for _ in range(60):
        loss = dpo_loss(*scored(model), *reference, beta=0.5)
        step.zero_grad()
        loss.backward()
        step.step()
    after = preference_report(*scored(model), *reference, beta=0.5)
    assert not after.log_odds.requires_grad
    # The preference is one number, how much a 3 is liked, and every pair tells of it.
    assert after.accuracy > 0.9
    assert after.gains[1] < after.gains[0]
    state = torch.arange(VOCABULARY)
    now, then = model(state).softmax(-1)[:, 3], base(state).softmax(-1)[:, 3]
    assert bool((now > then).all())
    assert all(parameter.grad is None for parameter in base.parameters())


def test_other_contrasts_beside_cloning() -> None:
    """What the notes say of them: DPO fades with p, unlikelihood with π, cloning does not."""
    chosen = torch.tensor([-1.0, -1.0], dtype=torch.float64)
    rejected = torch.tensor([-0.5, -9.0], dtype=torch.float64, requires_grad=True)

    def pull(loss: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(2 * loss, [rejected])
        return slope

    assert pull(contrastive_cloning(chosen, rejected)).tolist() == [1.0, 1.0]
    fading = pull(dpo_loss(chosen, rejected, beta=1.0))
    torch.testing.assert_close(fading, 1 - torch.sigmoid(chosen - rejected.detach()))
    unlikely = pull(-torch.log1p(-rejected.exp()).mean())
    odds = rejected.detach().exp()
    torch.testing.assert_close(unlikely, odds / (1 - odds))


def test_scores_of_padding_may_be_nan() -> None:
    scores = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens, mask = torch.tensor([[1, 2, 3], [3, 0, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    plain, spoilt = scores.clone().requires_grad_(), scores.clone()
    spoilt[1, 2] = torch.nan
    spoilt.requires_grad_()
    found = [sequence_log_probability(one, tokens, mask) for one in (plain, spoilt)]
    assert torch.equal(*found)
    for one in found:
        one.sum().backward()
    assert plain.grad is not None
    assert spoilt.grad is not None
    assert torch.equal(plain.grad, spoilt.grad)
    assert not bool(spoilt.grad[1, 2].any())


PAIR = torch.zeros(3), torch.ones(3)
SCORES, TOKENS = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dpo_loss(PAIR[0], torch.tensor([0.0, torch.nan, 1.0])), "finite.*nan in pair 1"),
        (lambda: dpo_loss(torch.full((3,), -torch.inf), PAIR[0]), "finite.*-inf in pair 0"),
        (lambda: dpo_loss(*PAIR, PAIR[0] * torch.nan, PAIR[1]), "finite"),
        (lambda: dpo_loss(PAIR[0].long(), PAIR[1]), "real numbers"),
        (lambda: dpo_loss(PAIR[0][:0], PAIR[1][:0]), r"tensor \[m\]"),
        (lambda: contrastive_cloning(PAIR[0], PAIR[1] * torch.inf), "finite"),
        (lambda: preference_report(*PAIR, PAIR[0]), "both or neither"),
        (lambda: preference_report(*PAIR, beta=0.0), "beta"),
        (lambda: sequence_log_probability(SCORES, TOKENS[:1]), r"tokens: expected int64 \(2, 3\)"),
        (lambda: sequence_log_probability(SCORES, TOKENS.float()), "tokens: expected int64"),
        (lambda: sequence_log_probability(SCORES, TOKENS + 4), "expected 0 to 3.*got 4"),
        (lambda: sequence_log_probability(SCORES, TOKENS - 100), "got -100"),
        (lambda: sequence_log_probability(SCORES.long(), TOKENS), "logits: expected real"),
        (lambda: sequence_log_probability(SCORES, [[0]]), "tokens: expected a tensor"),
        (lambda: sequence_log_probability(SCORES, TOKENS, TOKENS[0] == 0), "mask: expected"),
        (lambda: sequence_log_probability(SCORES, TOKENS, TOKENS + 2), "mask: expected 0 and 1"),
        (lambda: sequence_log_probability(SCORES, TOKENS, shifted="no"), "shifted must be True"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make()
