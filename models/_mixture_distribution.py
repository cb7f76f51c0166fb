"""A mixture as one distribution, which sums its component out by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from likely.models._loglinear import Features, evidence, posterior
from likely.models._shapes import broadcast_shapes


class LogLinearMixture(TorchDistribution):
    r"""Mixture of K components whose log-densities are linear in features of the data.

    .. math:: p(x) = \sum_k w_k \exp(\langle\eta_k, \phi(x)\rangle + b(x))

    The sum over the component is taken here, block by block of rows, because enumeration would
    build several ``[K, n]`` tensors and pass over each from memory. Engines see what they need for
    EM: the latent's name, its posterior, and parameters in which the complete-data log-density is
    linear, whose gradient is the table of expected sufficient statistics.

    Parameters
    ----------
    weights
        Mixture weights, ``[*batch, K]``.
    natural
        Natural parameters :math:`\eta`, ``[*batch, K, F]``, the log-normaliser among them.
    features
        The features and b(x).
    draw
        ``draw(component)`` simulates rows ``[*shape, D]`` for components ``[*shape]``.
    event_size
        D.
    latent
        Name of the latent that is summed out.

    Attributes
    ----------
    latent : str
        Name of the latent.
    n_states : int
        K.
    natural : dict of str to Tensor
        ``"weights"``, the log-weights ``[*batch, K]``, and ``"components"``, ``[*batch, K, F]``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    latent_dims: tuple[str, ...] = ()

    def __init__(
        self,
        weights: Tensor,
        natural: Tensor,
        features: Features,
        draw: Callable[[Tensor], Tensor],
        event_size: int,
        latent: str = "component",
    ) -> None:
        self.weights = weights
        self.features, self.draw, self.latent = features, draw, latent
        self.n_states = natural.shape[-2]
        self.natural = {"weights": weights.log(), "components": natural}
        # The last batch dimension is the rows'; plates outside that vectorise are to its left.
        outside = broadcast_shapes(weights.shape[:-1], natural.shape[:-2])
        self._outside = outside
        batch_shape = outside + (1,) if outside else torch.Size()
        super().__init__(batch_shape, torch.Size([event_size]), validate_args=False)

    def expand(
        self,
        batch_shape: torch.Size | list[int] | tuple[int, ...],
        _instance: LogLinearMixture | None = None,
    ) -> LogLinearMixture:
        """Expand to a batch shape."""
        new = self._get_checked_instance(LogLinearMixture, _instance)
        for name in ("weights", "features", "draw", "latent", "n_states", "natural", "_outside"):
            setattr(new, name, getattr(self, name))
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        return new

    def evidence(self, value: Tensor, natural: Mapping[str, Tensor], hard: bool = False) -> Tensor:
        """Log-evidence of rows ``[n, D]``, a function of natural parameters.

        Parameters
        ----------
        value
            Rows, ``[n, D]``.
        natural
            Like the attribute of that name.
        hard
            Maximise over the component instead of summing.

        Returns
        -------
        Tensor
            ``[*batch, n]``.
        """
        weights, components = natural["weights"], natural["components"]
        if not self._outside:
            return evidence(value, weights, components, self.features, hard)
        parts = [
            evidence(value, w, c, self.features, hard)
            for w, c in zip(*self._flat(weights, components), strict=True)
        ]
        return torch.stack(parts).reshape(*self._outside, len(value))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of rows ``value`` ``[*sample, n, D]``, the component summed out."""
        rows = value.reshape(-1, value.shape[-1])
        density = self.evidence(rows, self.natural)
        if value.dim() != 2:
            density = density.reshape(*self._outside, *value.shape[:-1])
        shape = broadcast_shapes(self.batch_shape, density.shape)
        return density.expand(shape)

    def latent_posterior(self, value: Tensor) -> Tensor:
        """Posterior probabilities of the component, ``[n, K]``, at rows ``[n, D]``."""
        return posterior(value, self.natural["weights"], self.natural["components"], self.features)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw rows, ``[*sample_shape, *batch_shape, D]``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        if self._outside:
            raise NotImplementedError("draws of vectorised mixtures")
        component = torch.distributions.Categorical(self.weights).sample(shape)
        return self.draw(component)

    def _flat(self, weights: Tensor, components: Tensor) -> tuple[Tensor, Tensor]:
        weights = weights.expand(*self._outside, weights.shape[-1])
        components = components.expand(*self._outside, *components.shape[-2:])
        return weights.reshape(-1, weights.shape[-1]), components.flatten(0, -3)
