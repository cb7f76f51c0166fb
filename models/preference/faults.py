"""Judges who err: counts of outcomes with the judges' faults summed out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from likely.models._shapes import broadcast_shapes
from likely.models.preference.outcomes import draw_counts, log_coefficient

FAULTS = ("reverse", "guess")


def faulty_logs(logs: Tensor, fault: str, ties: bool) -> Tensor:
    """Log-probabilities ``[*batch, m, 3]`` of outcomes when a judge errs.

    Parameters
    ----------
    logs
        Those of a faithful judge.
    fault
        ``"reverse"`` exchanges win and loss; ``"guess"`` makes all outcomes equally likely.
    ties
        Whether there are ties to guess.
    """
    if fault == "reverse":
        return logs[..., [1, 0, 2]]
    outcomes = 3 if ties else 2
    even = torch.full_like(logs, -math.log(outcomes))
    if not ties:
        even[..., 2] = -torch.inf
    return even


class _Faulty(dist.TorchDistribution):
    """What both distributions share: their parameters, and a latent ``faithful`` of two values.

    Each says its shapes, joint and evidence; Pyro's metaclass of distributions leaves no room for
    ``abc.ABC``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    latent: ClassVar[str] = "faithful"
    latent_dims: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        logs: Tensor,
        reliability: Tensor,
        total: Tensor,
        *,
        fault: str = "reverse",
        ties: bool = False,
        coefficient: Tensor | None = None,
    ) -> None:
        self.logs, self.reliability, self.total = logs, reliability, total
        self.fault, self.ties, self.coefficient = fault, ties, coefficient
        self.natural = {
            "chances": logs,
            "faithful": reliability.log(),
            "faulty": torch.log1p(-reliability),
        }
        batch, event = self._shapes()
        super().__init__(batch, event, validate_args=False)

    def _shapes(self) -> tuple[Size, Size]:
        raise NotImplementedError

    def joint(self, value: Tensor, natural: Mapping[str, Tensor]) -> Tensor:
        """Joint log-density of outcomes and of being at fault (0) or faithful (1)."""
        raise NotImplementedError

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """The same distribution over a larger batch; nothing is copied."""
        new = self._get_checked_instance(type(self), _instance)
        kept = {key: value for key, value in self.__dict__.items() if not key.startswith("_batch")}
        new.__dict__.update(kept)
        dist.TorchDistribution.__init__(
            new, Size(batch_shape), self.event_shape, validate_args=False
        )
        return new

    def _constant(self, value: Tensor) -> Tensor:
        return log_coefficient(value) if self.coefficient is None else self.coefficient

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of counts ``[m, 3]``, in nats."""
        density = self.evidence(value, self.natural)
        return density.expand(broadcast_shapes(density.shape, self.batch_shape))

    def evidence(self, value: Tensor, natural: Mapping[str, Tensor], hard: bool = False) -> Tensor:
        """The log-probability as a function of logarithms like ``natural``.

        Parameters
        ----------
        value
            Counts ``[m, 3]``.
        natural
            Like the attribute of that name.
        hard
            Maximise over the latent instead of summing.
        """
        raise NotImplementedError

    def latent_posterior(self, value: Tensor) -> Tensor:
        """Probabilities of having erred (0) and of being faithful (1), in the last dimension."""
        return self.joint(value, self.natural).softmax(-1)


class FaultyOutcomes(_Faulty):
    r"""Counts of outcomes, each of which its judge may have got wrong on its own.

    .. math:: p(i \succ j \mid \text{judge } k) = \eta_k \, p_{ij} + (1 - \eta_k) \, p_{ji}

    for a judge who now and then reverses the order (Chen, Bennett, Collins-Thompson & Horvitz 2013,
    equation 2); one who guesses has a half in place of :math:`p_{ji}`.

    Parameters
    ----------
    logs
        Log-probabilities of outcomes for a faithful judge, ``[*batch, m, 3]``.
    reliability
        Probability η of being faithful, ``[*batch, m]``.
    total
        Number of comparisons ``[m]``.
    fault, ties
        As in `faulty_logs`.
    coefficient
        As in `OutcomeCounts`.

    Notes
    -----
    The latent ``faithful`` belongs to each single comparison. Those of one row with one outcome
    have the same posterior: `latent_posterior` is ``[*batch, m, 3, 2]``.

    Examples
    --------
    >>> even = torch.tensor([[0.9, 0.1, 0.0]]).log()
    >>> once = FaultyOutcomes(even, torch.tensor([0.5]), torch.tensor([1.0]))
    >>> once.log_prob(torch.tensor([[1.0, 0.0, 0.0]])).exp()
    tensor([0.5000])
    """

    support = constraints.independent(constraints.nonnegative, 1)
    latent_dims: ClassVar[tuple[str, ...]] = ("result",)

    def _shapes(self) -> tuple[Size, Size]:
        return broadcast_shapes(self.logs.shape[:-1], self.reliability.shape), Size([3])

    def joint(self, value: Tensor, natural: Mapping[str, Tensor]) -> Tensor:
        """Joint log-probability of one outcome and of its fault, ``[*batch, m, 3, 2]``."""
        right, wrong = natural["chances"], faulty_logs(natural["chances"], self.fault, self.ties)
        if not self.ties:
            # What cannot happen has no posterior; any will do, as long as it is a number.
            right, wrong = (
                torch.cat([x[..., :2], torch.zeros_like(x[..., :1])], -1) for x in (right, wrong)
            )
        faulty, faithful = (natural[key].unsqueeze(-1) for key in ("faulty", "faithful"))
        return torch.stack([faulty + wrong, faithful + right], -1)

    def evidence(self, value: Tensor, natural: Mapping[str, Tensor], hard: bool = False) -> Tensor:
        """Log-probability of each row's counts, ``[*batch, m]``; see `_Faulty.evidence`."""
        joint = self.joint(value, natural)
        single = joint.amax(-1) if hard else joint.logsumexp(-1)
        found = (value * single).sum(-1) + self._constant(value)
        if self.ties:
            return found
        return torch.where(value[..., 2] == 0, found, torch.full_like(found, -torch.inf))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw counts ``[*sample, *batch, m, 3]``."""
        wrong = faulty_logs(self.logs, self.fault, self.ties).exp()
        share = self.reliability.unsqueeze(-1)
        chances = share * self.logs.exp() + (1 - share) * wrong
        return draw_counts(chances, self.total, sample_shape)


class FaultyJudges(_Faulty):
    """All outcomes of each judge, who is faithful in all of them or at fault in all.

    Parameters
    ----------
    logs
        Log-probabilities of outcomes for a faithful judge, ``[*batch, m, 3]``.
    reliability
        Probability that a judge is faithful, ``[*batch]``.
    total
        Number of comparisons ``[m]``.
    annotator
        int64 [m]: who judged.
    n_annotators
        Number of judges L; the batch is ``[*batch, L]`` and an event all counts ``[m, 3]``.
    fault, ties, coefficient
        As in `FaultyOutcomes`.

    Examples
    --------
    >>> sure = torch.tensor([[1.0, 0.0, 0.0]]).repeat(2, 1).clamp(1e-30, 1).log()
    >>> judges = FaultyJudges(
    ...     sure, torch.tensor(0.9), torch.ones(2), annotator=torch.tensor([0, 1]), n_annotators=2
    ... )
    >>> judges.latent_posterior(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).argmax(-1)
    tensor([1, 0])
    """

    support = constraints.independent(constraints.nonnegative, 2)

    def __init__(
        self,
        logs: Tensor,
        reliability: Tensor,
        total: Tensor,
        *,
        annotator: Tensor,
        n_annotators: int,
        **options: Any,
    ) -> None:
        self.annotator, self.n_annotators = annotator, n_annotators
        super().__init__(logs, reliability, total, **options)

    def _shapes(self) -> tuple[Size, Size]:
        outside = broadcast_shapes(self.logs.shape[:-2], self.reliability.shape)
        return outside + (self.n_annotators,), Size([len(self.annotator), 3])

    def _by_judge(self, rows: Tensor) -> Tensor:
        """Sums of ``[*batch, m]`` over the rows of each judge, ``[*batch, L]``."""
        zeros = rows.new_zeros(rows.shape[:-1] + (self.n_annotators,))
        return zeros.index_add(-1, self.annotator, rows)

    def joint(self, value: Tensor, natural: Mapping[str, Tensor]) -> Tensor:
        """Joint log-probability of a judge's counts and fault, ``[*batch, L, 2]``."""
        right, wrong = natural["chances"], faulty_logs(natural["chances"], self.fault, self.ties)
        sums = []
        for logs, share in ((wrong, natural["faulty"]), (right, natural["faithful"])):
            kept = torch.where(value != 0, logs, torch.zeros_like(logs))
            sums.append(self._by_judge((value * kept).sum(-1)) + share.unsqueeze(-1))
        return torch.stack(sums, -1)

    def evidence(self, value: Tensor, natural: Mapping[str, Tensor], hard: bool = False) -> Tensor:
        """Log-probability of each judge's counts, ``[*batch, L]``; see `_Faulty.evidence`."""
        joint = self.joint(value, natural)
        found = joint.amax(-1) if hard else joint.logsumexp(-1)
        return found + self._by_judge(self._constant(value))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw all counts ``[m, 3]``; one draw without a batch."""
        chance = self.reliability.expand(self.batch_shape)
        faithful = torch.bernoulli(chance)[..., self.annotator].unsqueeze(-1)
        wrong = faulty_logs(self.logs, self.fault, self.ties).exp()
        chances = torch.where(faithful > 0, self.logs.exp(), wrong)
        return draw_counts(chances, self.total, sample_shape)
