"""A crowd's labels as one distribution that sums the true classes out by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from likely.envs import DataError
from likely.models._logarithms import safe_log
from likely.models._shapes import broadcast_shapes
from likely.models.crowd._evidence import add_prior, label_evidence, log_sum_exp, shares_of
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.distributions import RaggedLabels, counts_of
from likely.models.crowd.even_errors import even_logs, evenly_wrong
from likely.models.crowd.kernels import label_log_density


class LatentTruth(TorchDistribution):
    r"""All labels that each task got, the task's true class summed out.

    .. math:: \log p(y_i) = \log \sum_k \rho_{ik} \prod_{(l, j) \in y_i} \pi_{l k j}

    (Dawid & Skene 1979, equation 2.7.) The same density as `RaggedLabels` below an enumerated
    categorical site; taking the sum here spares the copies and passes over ``[K, n_tasks]`` tensors
    that enumeration makes. Engines find what EM needs: the name of the latent, its posterior, and
    logarithms in which the complete-data log-density is linear.

    Parameters
    ----------
    prior
        Probabilities ρ of the true class, ``[*batch, K]``, or ``[*batch, n_tasks, K]`` where they
        differ by task.
    confusion
        ``[*batch, L, K, J]``, as in `RaggedLabels`; with ``by_label`` the probability
        ``[*batch, n_labels]`` that each label is right, wrong ones being spread evenly.
    annotations
        Who labelled which task, with known true classes where there are any.
    by_label
        Whether ``confusion`` has the second shape, for errors that depend on the task.
    log_odds
        With ``by_label``: whether these are log-odds instead, which have digits left where
        probabilities have rounded to one.
    latent
        Name of the latent.

    Raises
    ------
    DataError
        If shapes do not fit ``annotations``.

    Examples
    --------
    >>> crowd = Annotations.from_arrays([0, 0, 1], ["ann", "bo", "bo"], [1, 1, 0])
    >>> confusion = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).expand(2, 2, 2)
    >>> LatentTruth(torch.tensor([0.5, 0.5]), confusion, crowd).log_prob(crowd.label).exp()
    tensor([0.3250, 0.5500])
    """

    missing_hint: ClassVar[str] = RaggedLabels.missing_hint
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    latent_dims: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        prior: Tensor,
        confusion: Tensor,
        annotations: Annotations,
        *,
        by_label: bool = False,
        log_odds: bool = False,
        latent: str = "truth",
    ) -> None:
        self.prior = prior
        self.confusion = confusion.sigmoid() if by_label and log_odds else confusion
        self.annotations, self.by_label, self.latent = annotations, by_label, latent
        self.n_states = prior.shape[-1]
        self.natural = {"prior": safe_log(prior)}
        inner = 1 if by_label else 3
        if by_label:
            fits = confusion.shape[-1:] == (len(annotations),)
            expected = f"[*batch, {len(annotations)}]"
            if log_odds:
                right, wrong = even_logs(confusion, self.n_states)
            else:
                right = safe_log(confusion)
                wrong = safe_log((1 - confusion) / (self.n_states - 1))
            self.natural |= {"right": right, "wrong": wrong}
        else:
            self.natural["confusion"] = safe_log(confusion)
            fits = (
                confusion.dim() >= 3
                and confusion.shape[-3] in (1, annotations.n_annotators)
                and confusion.shape[-2:] == (self.n_states, annotations.n_classes)
            )
            expected = (
                f"[*batch, {annotations.n_annotators}, {self.n_states}, {annotations.n_classes}]"
            )
        if not fits:
            raise DataError(
                f"confusion: expected shape {expected} for these annotations, "
                f"got {tuple(confusion.shape)}"
            )
        outside = prior.shape[: -2 if prior.dim() > 1 else -1]
        self._outside = broadcast_shapes(outside, confusion.shape[:-inner])
        super().__init__(
            self._outside + (annotations.n_tasks,), Size([len(annotations)]), validate_args=False
        )

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Flat vectors of class indices."""
        return constraints.independent(
            constraints.integer_interval(0, self.annotations.n_classes - 1), 1
        )

    def expand(
        self, batch_shape: Sequence[int], _instance: LatentTruth | None = None
    ) -> LatentTruth:
        """The same distribution over a larger batch; nothing is copied."""
        new: LatentTruth = self._get_checked_instance(LatentTruth, _instance)
        new.__dict__.update(
            {key: value for key, value in self.__dict__.items() if not key.startswith("_batch")}
        )
        TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def scores(self, value: Tensor, natural: Mapping[str, Tensor]) -> Tensor:
        """Joint log-density of labels and true class, ``[n_tasks, K]``, without a batch."""
        if self.by_label:
            evidence = self._evenly(value, natural["right"], natural["wrong"])
        else:
            counts = counts_of(self.annotations, value)
            evidence = label_log_density(counts, natural["confusion"])
        return add_prior(evidence, natural["prior"], self._known)

    @property
    def _known(self) -> Tensor | None:
        return self.annotations.truth if self.annotations.n_known else None

    def _evenly(self, value: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        """Log-density of labels by true class, ``[n_tasks, K]``, when wrong ones are even."""
        classes = torch.arange(self.n_states, device=right.device)
        # By class and not as a difference: the logarithm of zero may stand on either side.
        named = value.reshape(-1, 1) == classes
        cells = torch.where(named, right.unsqueeze(-1), wrong.unsqueeze(-1))
        total = torch.zeros(
            self.annotations.n_tasks, self.n_states, dtype=right.dtype, device=right.device
        )
        return total.index_add(0, self.annotations.task, cells)

    def evidence(self, value: Tensor, natural: Mapping[str, Tensor], hard: bool = False) -> Tensor:
        """Log-density of every task's labels, a function of logarithms like ``natural``.

        Parameters
        ----------
        value
            int64 ``[n_labels]``, axes of length one before it allowed.
        natural
            Like the attribute of that name.
        hard
            Maximise over the true class instead of summing.

        Returns
        -------
        Tensor
            ``[*batch, n_tasks]`` in nats.
        """
        parts = [self._evidence(value, one, hard) for one in self._each(natural)]
        return self._stacked(parts)

    def _evidence(self, value: Tensor, natural: Mapping[str, Tensor], hard: bool) -> Tensor:
        """`evidence` without a batch, ``[n_tasks]``."""
        if not hard and not self.by_label:
            counts = counts_of(self.annotations, value)
            return label_evidence(counts, natural["confusion"], natural["prior"], self._known)
        scores = self.scores(value, natural)
        return scores.amax(-1) if hard else log_sum_exp(scores)

    def _stacked(self, parts: list[Tensor]) -> Tensor:
        """The members of the batch in one tensor."""
        if not self._outside:
            return parts[0]
        return torch.stack(parts).reshape(self._outside + parts[0].shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every task's labels, ``[*batch, n_tasks]``; see `evidence`."""
        density = self.evidence(value, self.natural)
        shape = broadcast_shapes(density.shape, self.batch_shape)
        return density.expand(shape)

    def latent_posterior(self, value: Tensor) -> Tensor:
        """Posterior probabilities of the true classes, ``[*batch, n_tasks, K]``."""
        parts = [shares_of(self.scores(value, one)) for one in self._each(self.natural)]
        return self._stacked(parts)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a label for every row of the annotations; see `RaggedLabels.sample`."""
        known = self.annotations.truth
        prior = self.prior if self.prior.dim() > 1 else self.prior.unsqueeze(-2)
        truth = (
            torch.distributions.Categorical(prior)
            .expand(self.batch_shape)
            .sample(Size(sample_shape))
        )
        if known is not None:
            truth = torch.where(known >= 0, known, truth)
        if not self.by_label:
            return RaggedLabels(self.confusion, self.annotations, truth).sample()
        return evenly_wrong(self.confusion, self.annotations, truth)

    def _each(self, natural: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The parameters of each member of the batch."""
        if not self._outside:
            return [dict(natural)]
        flat = {}
        for key, value in natural.items():
            # A prior without tasks of its own has a dimension of one in their place.
            inner = {"prior": 2, "confusion": 3}.get(key, 1)
            value = value.unsqueeze(-2) if key == "prior" and value.dim() == 1 else value
            flat[key] = value.expand(self._outside + value.shape[-inner:]).flatten(0, -inner - 1)
        return [dict(zip(flat, values, strict=True)) for values in zip(*flat.values(), strict=True)]
