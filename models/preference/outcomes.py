"""Win, loss or tie: their probabilities given log-odds, and counts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import AffineTransform, ExpTransform, constraints

from likely.models._shapes import broadcast_shapes

if TYPE_CHECKING:
    from likely.models.preference.comparisons import Comparisons

# How ties arise; None where there are none, and "half" where each is half a win of both.
TIES = (None, "half", "davidson", "rao-kupper")


def log_chances(log_odds: Tensor, tie: Tensor | None, rule: str | None) -> Tensor:
    r"""Logarithms of the probabilities of a win of the first, of the second, and of a tie.

    With worths :math:`\pi = e^{\text{ability}}`, so that log-odds are
    :math:`\log \pi_i - \log \pi_j`, ties have the probability (Davidson 1970)

    .. math:: \frac{\nu \sqrt{\pi_i \pi_j}}{\pi_i + \pi_j + \nu \sqrt{\pi_i \pi_j}}

    or what is left by wins of the probability π_i / (π_i + θ π_j) (Rao & Kupper 1967).

    Parameters
    ----------
    log_odds
        Of a win of the first against one of the second, ``[*batch, m]``.
    tie
        ν > 0 or θ > 1, broadcasting with ``log_odds``; None without ties.
    rule
        ``"davidson"``, ``"rao-kupper"``, or another for no ties.

    Returns
    -------
    Tensor
        ``[*batch, m, 3]``; of ties −∞ where there are none.

    Examples
    --------
    >>> log_chances(torch.zeros(1), torch.tensor(1.0), "davidson").exp()
    tensor([[0.3333, 0.3333, 0.3333]])
    """
    if rule == "davidson" and tie is not None:
        half = 0.5 * log_odds
        scores = torch.stack([half, -half, tie.log().expand_as(half)], -1)
        return scores.log_softmax(-1)
    if rule == "rao-kupper" and tie is not None:
        edge = tie.log()
        first, second = F.logsigmoid(log_odds - edge), F.logsigmoid(-log_odds - edge)
        drawn = (tie - 1).log() + (tie + 1).log() + first + second
        return torch.stack([first, second, drawn], -1)
    first = F.logsigmoid(log_odds)
    never = torch.full_like(first, -torch.inf)
    return torch.stack([first, first - log_odds, never], -1)


def log_coefficient(counts: Tensor) -> Tensor:
    """Logarithm of the multinomial coefficient of counts ``[*batch, 3]``, ``[*batch]``."""
    first, second, tied = counts.unbind(-1)
    total = first + second + tied
    found = torch.zeros_like(total)
    # What always came out the same has the coefficient one, as has most of a sparse table.
    several = first.maximum(second).maximum(tied) < total
    parts = torch.lgamma(counts[several] + 1).sum(-1)
    found[several] = torch.lgamma(total[several] + 1) - parts
    return found


def counted(counts: Tensor, logs: Tensor) -> Tensor:
    """Sum over outcomes of counts times logarithms, with 0 · −∞ = 0; ``[*batch, m]``."""
    kept = torch.where(counts != 0, logs, torch.zeros_like(logs))
    return (counts * kept).sum(-1)


class OutcomeCounts(dist.TorchDistribution):
    """How often the first won, the second won, and they tied, of a known number of comparisons.

    Parameters
    ----------
    log_odds
        ``[*batch, m]``.
    total
        Number of comparisons ``[m]``.
    tie, rule
        As in `log_chances`.
    coefficient
        The logarithm of the multinomial coefficient of the counts that will be asked for, ``[m]``,
        where it is known, since it depends on no unknown. These counts then have been checked:
        their sums are ``total``, and there are ties only where a rule has them.

    Examples
    --------
    >>> counts = OutcomeCounts(torch.zeros(1), torch.tensor([2.0]))
    >>> counts.log_prob(torch.tensor([[1.0, 1.0, 0.0]])).exp()
    tensor([0.5000])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.nonnegative, 1)

    def __init__(
        self,
        log_odds: Tensor,
        total: Tensor,
        tie: Tensor | None = None,
        rule: str | None = None,
        coefficient: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.log_odds, self.total = log_odds, total
        self.tie, self.rule, self.coefficient = tie, rule, coefficient
        super().__init__(log_odds.shape, Size([3]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> OutcomeCounts:
        """The same distribution over a larger batch."""
        shape = Size(batch_shape)
        return OutcomeCounts(
            self.log_odds.expand(shape), self.total, self.tie, self.rule, self.coefficient
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of counts ``[m, 3]``, ``[*batch, m]`` in nats."""
        constant = log_coefficient(value) if self.coefficient is None else self.coefficient
        if self.rule in ("davidson", "rao-kupper"):
            return counted(value, log_chances(self.log_odds, self.tie, self.rule)) + constant
        # w log σ(d) + l log σ(−d), where log σ(−d) = log σ(d) − d.
        decided = self.total if self.coefficient is not None else value[..., :2].sum(-1)
        sure = decided * F.logsigmoid(self.log_odds) - value[..., 1] * self.log_odds + constant
        if self.coefficient is not None:
            return sure
        return torch.where(value[..., 2] == 0, sure, torch.full_like(sure, -torch.inf))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw counts ``[*sample, *batch, m, 3]``."""
        chances = log_chances(self.log_odds, self.tie, self.rule).exp()
        return draw_counts(chances, self.total, Size(sample_shape))


class AboveOne(dist.TransformedDistribution):
    """A number above one, of which what is above is log-normal.

    Parameters
    ----------
    loc, scale
        Mean and standard deviation of its logarithm, ``[*batch]``.

    Examples
    --------
    >>> AboveOne(torch.tensor(0.0), torch.tensor(1e-9)).sample()
    tensor(2.)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.greater_than(1.0)

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        one = loc.new_ones(())
        super().__init__(
            dist.Normal(loc, scale, validate_args=validate_args),
            [ExpTransform(), AffineTransform(one, one)],
            validate_args=validate_args,
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> AboveOne:
        """The same distribution over a larger batch."""
        shape = Size(batch_shape)
        return AboveOne(self.base_dist.loc.expand(shape), self.base_dist.scale.expand(shape))


def draw_counts(chances: Tensor, total: Tensor, sample_shape: Sequence[int] = ()) -> Tensor:
    """Multinomial counts ``[*sample, *batch, m, 3]`` of numbers ``[m]`` that differ by row."""
    with torch.no_grad():
        shape = Size(sample_shape) + broadcast_shapes(chances.shape[:-1], total.shape)
        number = total.round().expand(shape)
        win = chances[..., 0].expand(shape).clamp(0, 1)
        first = torch.binomial(number, win)
        # Given that the first did not win.
        lost = (chances[..., 1] / (1 - chances[..., 0]).clamp_min(1e-300)).expand(shape)
        second = torch.binomial(number - first, lost.clamp(0, 1))
        return torch.stack([first, second, number - first - second], -1)


def log_odds_of(
    ability: Tensor,
    comparisons: Comparisons,
    home_advantage: Tensor | None = None,
    coefficients: Tensor | None = None,
) -> Tensor:
    """Log-odds ``[*batch, m]`` that the first of each row wins.

    Parameters
    ----------
    ability
        ``[*batch, n_items]``, or ``[*batch, n_periods, n_items]`` where periods count.
    comparisons
        The m rows.
    home_advantage
        ``[*batch]``; added for the side at home.
    coefficients
        ``[*batch, d]`` of the covariates.
    """
    first, second = comparisons.first, comparisons.second
    if comparisons.period is not None and ability.shape[-2:] == (
        comparisons.n_periods,
        comparisons.n_items,
    ):
        place = comparisons.period * comparisons.n_items
        ability, first, second = ability.flatten(-2), first + place, second + place
    odds = ability.index_select(-1, first) - ability.index_select(-1, second)
    if home_advantage is not None and comparisons.home is not None:
        odds = odds + home_advantage.unsqueeze(-1) * comparisons.home
    if coefficients is not None and comparisons.covariates is not None:
        odds = odds + (coefficients.unsqueeze(-2) * comparisons.covariates).sum(-1)
    return odds
