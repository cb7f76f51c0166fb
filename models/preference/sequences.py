"""Losses of preferences between sequences whose log-probabilities any torch policy gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from likely.envs import DataError
from likely.envs._checks import as_number
from likely.models._options import check_number


def sequence_log_probability(
    logits: Tensor, tokens: Tensor, mask: Tensor | None = None, *, shifted: bool = False
) -> Tensor:
    r"""log π(y | x) of sequences of tokens: the sum of what a model says of each token.

    Parameters
    ----------
    logits
        [\*batch, length, vocabulary]: scores of the tokens at each place, with gradients.
    tokens
        int64 [\*batch, length].
    mask
        [\*batch, length]: True or 1 where a token counts, which a prompt's tokens and padding do
        not; tokens and scores there may be anything, NaN too. None counts all.
    shifted
        True where the scores at a place are about the token after it, as causal language models
        give them: the first token is then what the others follow, and does not count.

    Returns
    -------
    Tensor
        [\*batch], nats, in single precision at least. It is 0 where nothing counts.

    Raises
    ------
    DataError
        For shapes that do not fit, a mask of other values than 0 and 1, and tokens that count and
        are none of the vocabulary.

    Examples
    --------
    >>> logits = torch.tensor([[[0.0, 0.0], [3.0, 3.0], [9.0, 0.0]]])
    >>> tokens, mask = torch.tensor([[0, 1, -100]]), torch.tensor([[1, 1, 0]])
    >>> sequence_log_probability(logits, tokens, mask).exp()
    tensor([0.2500])
    """
    for name, value in (("logits", logits), ("tokens", tokens)):
        if not isinstance(value, Tensor):
            raise DataError(f"{name}: expected a tensor, got {type(value).__name__}")
    if not logits.is_floating_point() or logits.dim() < 2:
        raise DataError(
            f"logits: expected real numbers [*batch, length, vocabulary], got {logits.dtype} of "
            f"shape {tuple(logits.shape)}"
        )
    if tokens.dtype != torch.int64 or tokens.shape != logits.shape[:-1]:
        raise DataError(
            f"tokens: expected int64 {tuple(logits.shape[:-1])}, as the logits have it, got "
            f"{tokens.dtype} of shape {tuple(tokens.shape)}"
        )
    if not isinstance(shifted, bool):
        raise DataError(f"shifted must be True or False, got {shifted!r}")
    counted = torch.ones_like(tokens, dtype=torch.bool) if mask is None else _truth(mask, tokens)
    if shifted:
        logits, tokens, counted = logits[..., :-1, :], tokens[..., 1:], counted[..., 1:]
    size = logits.shape[-1]
    outside = counted & ((tokens < 0) | (tokens >= size))
    if bool(outside.any()):
        raise DataError(
            f"tokens: expected 0 to {size - 1} where they count, got {int(tokens[outside][0])}"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    # Scores of padding may be NaN, which would reach the gradient through a product with zero.
    logs = logits[counted].log_softmax(-1).gather(-1, tokens[counted].unsqueeze(-1)).squeeze(-1)
    return logs.new_zeros(tokens.shape).masked_scatter(counted, logs).sum(-1)


def dpo_loss(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    reference_chosen_logp: Tensor | None = None,
    reference_rejected_logp: Tensor | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Loss of direct preference optimisation, a mean over pairs.

    .. math:: -\log \sigma(h), \qquad h = \beta \left( \log \frac{\pi(y^+)}{\pi_0(y^+)} -
              \log \frac{\pi(y^-)}{\pi_0(y^-)} \right)

    (Rafailov et al. 2023, "Direct preference optimization", equation 7.) With p = σ(h), the
    gradient of a pair's log-likelihood is β (1 − p) (∇ log π(y⁺) − ∇ log π(y⁻)).

    Parameters
    ----------
    chosen_logp, rejected_logp
        Log-probabilities [m] of whole sequences (of actions, of tokens) under the policy, with
        gradients; see `sequence_log_probability`.
    reference_chosen_logp, reference_rejected_logp
        The same under π0, constants; None for no reference, which is a uniform π0 over sequences
        of one length.
    beta
        β, the weight of the KL penalty that DPO stands for.
    label_smoothing
        ε, from 0 to below 1/2: the loss is (1 − ε) times that above plus ε times that of the
        reversed preference (conservative DPO, Mitchell 2023), so that h stays finite.

    Returns
    -------
    Tensor
        A number.

    Raises
    ------
    DataError
        For shapes that differ, log-probabilities that are not finite, one reference of the two, or
        an option out of range.

    Examples
    --------
    >>> both = torch.zeros(3)
    >>> dpo_loss(both, both, beta=0.5)
    tensor(0.6931)
    """
    check_dpo(beta, label_smoothing)
    h = beta * _margin(chosen_logp, rejected_logp, reference_chosen_logp, reference_rejected_logp)
    losses = -(1 - label_smoothing) * F.logsigmoid(h)
    if label_smoothing:
        losses = losses - label_smoothing * F.logsigmoid(-h)
    return losses.mean()


def contrastive_cloning(
    chosen_logp: Tensor, rejected_logp: Tensor, *, weight: float = 1.0, floor: float | None = None
) -> Tensor:
    r"""Loss of cloning the preferred behaviour and un-cloning the other, a mean over pairs.

    .. math:: -\left( \log \pi(\tau^+) - \alpha \max(\log \pi(\tau^-), c) \right)

    Behaviour cloning of what was preferred, minus α times that of what was not: linear in the
    log-probabilities, so that every pair pulls with the same force however well it is told apart
    already. DPO multiplies the same contrast by β (1 − p), which fades. Without a floor c there is
    no minimum as soon as some action was rejected α times as often as it was chosen: its
    probability goes to 0 and the loss to −∞.

    Parameters
    ----------
    chosen_logp, rejected_logp
        Log-probabilities [m] of whole sequences under the policy, with gradients.
    weight
        α, at least 0; 0 is behaviour cloning of the preferred trajectories.
    floor
        c, nats: a rejected sequence less likely than exp(c) is left alone. None for −∞.

    Returns
    -------
    Tensor
        A number.

    Raises
    ------
    DataError
        For shapes that differ, log-probabilities that are not finite, or an option out of range.

    Notes
    -----
    Without a floor it is minus the density of `TrajectoryModel` with ``signed=True`` and weights 1
    and −α, over the number of pairs.

    Two losses of the literature contrast the same sequences in other ways, and this is neither.
    Contrastive preference learning (Hejna et al. 2024) puts β (log π⁺ − λ log π⁻) through the
    logistic loss; with λ = 1 it is `dpo_loss` without a reference. Unlikelihood training (Welleck
    et al. 2020) adds −log(1 − π) of each rejected token to the cloning of others: its pull
    π / (1 − π) fades as the token becomes unlikely, where this one's stays until the floor.

    Examples
    --------
    >>> contrastive_cloning(torch.tensor([-1.0]), torch.tensor([-3.0]), weight=0.5, floor=-2.0)
    tensor(0.)
    """
    _check_same(chosen_logp, rejected_logp)
    as_number(weight, "weight", 0.0)
    if floor is not None:
        check_number(floor, "floor")
        rejected_logp = rejected_logp.clamp_min(floor)
    return (weight * rejected_logp - chosen_logp).mean()


class PreferenceReport(NamedTuple):
    """What a policy makes of pairs.

    Attributes
    ----------
    chosen, rejected
        Log-probabilities [m] of the preferred and the other sequence.
    reference_chosen, reference_rejected
        The same under π0; zeros without one.
    log_odds
        h [m]: above 0 where the policy agrees with the preference.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    log_odds: Tensor

    @property
    def accuracy(self) -> float:
        """Share of pairs that the policy orders as they were preferred."""
        return float((self.log_odds > 0).double().mean())

    @property
    def gains(self) -> tuple[float, float]:
        """Mean log π − log π0 of the chosen, and of the rejected; both can be negative."""
        chosen, rejected = self.chosen - self.reference_chosen, self.rejected
        return float(chosen.mean()), float((rejected - self.reference_rejected).mean())


def preference_report(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    reference_chosen_logp: Tensor | None = None,
    reference_rejected_logp: Tensor | None = None,
    *,
    beta: float = 0.1,
) -> PreferenceReport:
    """What to watch beside `dpo_loss`, of the same arguments: both log-probabilities can fall.

    Parameters
    ----------
    chosen_logp, rejected_logp, reference_chosen_logp, reference_rejected_logp, beta
        As in `dpo_loss`.

    Returns
    -------
    PreferenceReport
        Without gradients.

    Examples
    --------
    >>> chosen, rejected = torch.tensor([-3.0]), torch.tensor([-9.0])
    >>> told = preference_report(chosen, rejected, torch.tensor([-2.0]), torch.tensor([-4.0]))
    >>> told.accuracy, told.gains
    (1.0, (-1.0, -5.0))
    """
    check_dpo(beta, 0.0)
    margin = _margin(chosen_logp, rejected_logp, reference_chosen_logp, reference_rejected_logp)
    own = chosen_logp.detach(), rejected_logp.detach()
    if reference_chosen_logp is None or reference_rejected_logp is None:
        base = torch.zeros_like(own[0]), torch.zeros_like(own[1])
    else:
        base = reference_chosen_logp.detach(), reference_rejected_logp.detach()
    return PreferenceReport(*own, *base, beta * margin.detach())


def check_dpo(beta: Any, label_smoothing: Any) -> None:
    """Raise `DataError` unless they are options of `dpo_loss`."""
    check_number(beta, "beta", positive=True)
    if not 0 <= as_number(label_smoothing, "label_smoothing", 0.0) < 0.5:
        raise DataError(f"label_smoothing must be from 0 to below 1/2, got {label_smoothing!r}")


def _margin(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor | None,
    reference_rejected: Tensor | None,
) -> Tensor:
    """log π⁺ − log π⁻, less that of the reference; [m]."""
    _check_same(chosen, rejected)
    if (reference_chosen is None) != (reference_rejected is None):
        raise DataError("reference_chosen_logp, reference_rejected_logp: expected both or neither")
    margin = chosen - rejected
    if reference_chosen is not None and reference_rejected is not None:
        _check_same(chosen, reference_chosen)
        _check_same(chosen, reference_rejected)
        margin = margin - (reference_chosen - reference_rejected).detach()
    return margin


def _check_same(first: Any, second: Any) -> None:
    for value in (first, second):
        if not isinstance(value, Tensor) or value.dim() != 1 or not len(value):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"log-probabilities: expected a tensor [m], got {got}")
        if not value.is_floating_point():
            raise DataError(f"log-probabilities: expected real numbers, got {value.dtype}")
        if not bool(torch.isfinite(value).all()):
            # A loss of NaN would ruin all weights in its first step.
            bad = int((~torch.isfinite(value)).nonzero()[0])
            raise DataError(
                f"log-probabilities: expected finite ones, got {float(value[bad])} in pair {bad}"
            )
    if first.shape != second.shape:
        raise DataError(
            f"log-probabilities: expected as many of each, got {len(first)} and {len(second)}"
        )


def _truth(mask: Any, tokens: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != tokens.shape:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise DataError(f"mask: expected {tuple(tokens.shape)}, as the tokens have it, got {got}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError("mask: expected 0 and 1, or truth values")
    return mask.bool()
