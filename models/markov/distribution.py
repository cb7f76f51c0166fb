"""The distribution of sequences whose states are hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from likely.envs import DataError
from likely.models._logarithms import safe_log
from likely.models._loglinear import Features
from likely.models._shapes import broadcast_shapes
from likely.models.markov import kernels
from likely.models.markov._emission import Steps
from likely.models.markov._packing import Packing


class HiddenMarkovChains(TorchDistribution):
    r"""Sequences that a Markov chain of K states emits, the states summed out.

    .. math:: p(x) = \sum_z \pi_{z_1} p(x_1 \mid z_1) \prod_{t > 1} A_{z_{t-1} z_t} p(x_t \mid z_t)

    One event is one whole sequence. Sequences have different lengths, so a value is the *flat*
    matrix of all steps [N, D], one sequence after another, that the sequences share: the event
    shape is (N, D) and the sequence axis of a value is broadcast, so memory stays linear in the
    number of steps. Emissions are log-linear in features of the data, so engines can read from
    ``natural`` what EM needs.

    Parameters
    ----------
    initial
        [*batch, K]: probabilities of the first state.
    transition
        [*batch, K, K]: row z holds the probabilities of the state after z. Zeros are allowed.
    emission
        [*batch, K, F]: natural parameters of the emissions.
    features
        The features in which log-densities are linear, and their base term.
    packing
        The sequences' lengths, in the order in which the recursions see them.
    observed
        A value and what was prepared for it, to be used when that value is asked for.
    event_size
        D.
    draw
        ``draw(states)`` simulates rows [*shape, D] for states [*shape].
    latent
        Name of the latent that is summed out.

    Attributes
    ----------
    natural : dict of str to Tensor
        ``"initial"`` [*batch, K] and ``"transition"`` [*batch, K, K], logarithms of probabilities
        with −inf for log 0, and ``"emission"`` [*batch, K, F].

    Raises
    ------
    DataError
        If the shapes do not fit together.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    latent_dims: ClassVar[tuple[str, ...]] = ("step",)
    _copied: ClassVar[tuple[str, ...]] = (
        "initial",
        "transition",
        "natural",
        "features",
        "packing",
        "draw",
        "observed",
        "latent",
        "n_states",
        "_outside",
    )

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        emission: Tensor,
        features: Features,
        packing: Packing,
        event_size: int,
        draw: Callable[[Tensor], Tensor] | None = None,
        observed: tuple[Tensor, Steps] | None = None,
        latent: str = "state",
    ) -> None:
        k = initial.shape[-1]
        if transition.shape[-2:] != (k, k) or emission.shape[-2] != k:
            raise DataError(
                f"transition, emission: expected [*batch, {k}, {k}] and [*batch, {k}, F], as "
                f"initial has {k} states, got {tuple(transition.shape)} and "
                f"{tuple(emission.shape)}"
            )
        self.initial, self.transition = initial, transition
        self.features, self.packing, self.draw = features, packing, draw
        self.observed = observed
        self.latent, self.n_states = latent, k
        self.natural = {
            "initial": safe_log(initial),
            "transition": safe_log(transition),
            "emission": emission,
        }
        self._outside = broadcast_shapes(
            initial.shape[:-1], transition.shape[:-2], emission.shape[:-2]
        )
        batch_shape = self._outside + (packing.n_sequences,)
        event_shape = Size([len(packing.rows), event_size])
        super().__init__(batch_shape, event_shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=2)
    def support(self) -> constraints.Constraint:
        """Matrices of numbers; NaN marks what is missing."""
        return constraints.independent(constraints.real, 2)

    def expand(
        self, batch_shape: Sequence[int], _instance: HiddenMarkovChains | None = None
    ) -> HiddenMarkovChains:
        """The same distribution over a larger batch; nothing is copied."""
        new: HiddenMarkovChains = self._get_checked_instance(HiddenMarkovChains, _instance)
        for name in self._copied:
            setattr(new, name, getattr(self, name))
        batch_shape = Size(batch_shape)
        torch.empty(()).expand(self.batch_shape).expand(batch_shape)  # raises on a misfit
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every sequence.

        Parameters
        ----------
        value
            [N, D], or [*batch, 1, N, D]: steps of all sequences, one sequence after another.

        Returns
        -------
        Tensor
            [*batch_shape] in nats, the last axis being the sequences.
        """
        if value.shape[-2:] != self.event_shape or (value.dim() > 2 and value.shape[-3] != 1):
            n, d = self.event_shape
            raise ValueError(
                f"value: expected shape [{n}, {d}] or [*batch, 1, {n}, {d}], got "
                f"{tuple(value.shape)}"
            )
        lead = value.shape[:-3]
        if lead.numel() == 1:
            density = self.evidence(value.reshape(self.event_shape), self.natural)
        else:  # several sets of sequences, as drawn with a sample shape
            lead = broadcast_shapes(lead, self._outside)
            values = value.squeeze(-3).expand(lead + self.event_shape)
            density = _each(self._evidence, lead, self.natural, values, 2)
        shape = broadcast_shapes(density.shape, self.batch_shape)
        return density if density.shape == shape else density.expand(shape)

    def evidence(self, value: Tensor, natural: Mapping[str, Tensor], hard: bool = False) -> Tensor:
        """Log-evidence of every sequence, a function of natural parameters.

        Parameters
        ----------
        value
            Steps, [N, D].
        natural
            Like the attribute of that name.
        hard
            Take the best path of states instead of the sum over all.

        Returns
        -------
        Tensor
            [*batch, S].
        """
        lead = self._outside
        return _each(lambda v, n: self._evidence(v, n, hard), lead, natural, value)

    def latent_posterior(self, value: Tensor) -> Tensor:
        """Posterior probabilities of the states given whole sequences.

        Parameters
        ----------
        value
            Steps, [N, D].

        Returns
        -------
        Tensor
            [*batch, S, n_steps, K], NaN beyond the end of a sequence.
        """
        return self.padded(self.smoothed(value))

    def smoothed(self, value: Tensor) -> Tensor:
        """`latent_posterior` as columns [*batch, K, N] in the order of ``packing``."""
        return _each(self._smoothed, self._outside, self.natural, value)

    def filtered(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """States given the past, and how well the past predicts.

        Parameters
        ----------
        value
            Steps, [N, D]; parameters without batch dimensions only.

        Returns
        -------
        state : Tensor
            [K, N]: p(z_t | x_1, …, x_t), columns in the order of ``packing``.
        log_score : Tensor
            [N]: log p(x_t | x_1, …, x_{t−1}).
        """
        with torch.no_grad():
            potentials, base = self._potentials(value, self.natural)
            state, log_score = kernels.filtered(*potentials, self.packing)
            return state, log_score if base is None else log_score + base

    def viterbi(self, value: Tensor) -> Tensor:
        """Most probable path of states, int64 [N] in the order of ``packing``."""
        with torch.no_grad():
            potentials, _ = self._potentials(value, self.natural)
            return kernels.viterbi(*potentials, self.packing)

    def padded(self, columns: Tensor) -> Tensor:
        """Columns [..., K, N] as [..., S, n_steps, K], NaN beyond a sequence's end."""
        return self.packing.padded(columns).movedim((0, 1), (-3, -2))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw all sequences.

        Returns
        -------
        Tensor
            [N, D] for one set; otherwise [*sample_shape, *batch, 1, N, D].
        """
        lead = Size(sample_shape) + self.batch_shape[:-1]
        if not lead:
            return self.sample_with_states()[0]
        if self._outside.numel() > 1:
            raise NotImplementedError("draws of vectorised hidden Markov models")
        draws = [self.sample_with_states()[0] for _ in range(lead.numel())]
        return torch.stack(draws).reshape(lead + (1,) + self.event_shape)

    @torch.no_grad()
    def sample_with_states(self) -> tuple[Tensor, Tensor]:
        """Draw all sequences [N, D] and their states [N], one sequence after another."""
        if self.draw is None:
            raise ValueError("draw: needed to simulate")
        k, packing = self.n_states, self.packing
        moves = self.transition.reshape(k, k)
        states = torch.empty_like(packing.owner)
        at = states.split(packing.widths)
        first = self.initial.reshape(1, k).expand(packing.widths[0], k)
        at[0][:] = torch.multinomial(first, 1).squeeze(-1)
        for t in range(1, packing.n_steps):
            before = at[t - 1][: packing.widths[t]]
            at[t][:] = torch.multinomial(moves[before], 1).squeeze(-1)
        by_row = torch.empty_like(states)
        by_row[packing.rows] = states
        return self.draw(by_row).reshape(self.event_shape), by_row

    # -- one set of parameters ---------------------------------------------------------------

    def _potentials(
        self, value: Tensor, natural: Mapping[str, Tensor]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """Log-potentials [K], [K, K] and [K, N], and the base term [N], packed."""
        k = self.n_states
        if self.observed is not None and _same_memory(value, self.observed[0]):
            steps = self.observed[1]
        else:
            steps = Steps.of(value, self.features, self.packing)
        potentials = (
            natural["initial"].reshape(k),
            natural["transition"].reshape(k, k),
            steps.log_density(natural["emission"].reshape(k, -1)),
        )
        return potentials, steps.base

    def _evidence(self, value: Tensor, natural: Mapping[str, Tensor], hard: bool = False) -> Tensor:
        potentials, base = self._potentials(value, natural)
        density = kernels.evidence(*potentials, self.packing, hard)
        return density if base is None else density + kernels.by_sequence(base, self.packing)

    def _smoothed(self, value: Tensor, natural: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            potentials, _ = self._potentials(value, natural)
        return kernels.smoothed(*potentials, self.packing)


def _each(
    function: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
    lead: Size,
    natural: Mapping[str, Tensor],
    value: Tensor,
    value_dim: int | None = None,
) -> Tensor:
    """Apply a function to each set of parameters of a batch ``lead``.

    ``value_dim`` is the number of dimensions of one value, where values have the batch, too.
    """
    if lead.numel() == 1 and value_dim is None:
        found = function(value, natural)
        return found.reshape(lead + found.shape)
    ends = {"initial": 1, "transition": 2, "emission": 2}
    flat = {
        name: tensor.expand(lead + tensor.shape[-ends[name] :]).reshape(
            -1, *tensor.shape[-ends[name] :]
        )
        for name, tensor in natural.items()
    }
    values = [value] * lead.numel() if value_dim is None else value.flatten(0, -1 - value_dim)
    parts = [
        function(values[i], {name: tensor[i] for name, tensor in flat.items()})
        for i in range(lead.numel())
    ]
    return torch.stack(parts).reshape(lead + parts[0].shape)


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.data_ptr() == other.data_ptr() and one.shape == other.shape)
