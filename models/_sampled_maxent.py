"""Inverse reinforcement learning without planning: rewards tilt sampled trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from likely.envs import DataError, Trajectories
from likely.envs._checks import as_double, as_number
from likely.models._data import as_matrix, as_outcomes, as_size, plate_rows
from likely.models._linear import coefficient_prior
from likely.models._options import check_number
from likely.models._policy_base import featurise
from likely.models._reward_tables import WEIGHTS
from likely.models.policy import without_rows

# Fewer effective trajectories than this make no expectation.
FEW = 10.0


class TiltedSamples(TorchDistribution):
    r"""A distribution known by samples, tilted towards high rewards.

    .. math:: p(f) = q(f) \exp(w^\top f) / Z, \qquad
              Z \approx \textstyle\sum_j u_j \exp(w^\top f_j) / \sum_j u_j

    The log-density is taken by q, whatever that is. Its derivative by w is f minus the mean of the
    samples under the tilt: μ_E − E[μ], with the expectation by importance sampling.

    Parameters
    ----------
    weights
        w: [\*outside, F].
    samples
        [M, F].
    log_weights
        log u: [M], of q against what the samples were drawn from; None for zeros.
    size
        Number of observations, [n].

    Examples
    --------
    >>> samples = torch.tensor([[0.0], [1.0]])
    >>> tilted = TiltedSamples(torch.tensor([2.0]), samples, None, 1)
    >>> tilted.probabilities
    tensor([0.1192, 0.8808])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(
        self,
        weights: Tensor,
        samples: Tensor,
        log_weights: Tensor | None,
        size: int,
        validate_args: bool | None = None,
    ) -> None:
        self.weights, self.samples, self.log_weights = weights, samples, log_weights
        batch = Size([*weights.shape[:-1], size])
        super().__init__(batch, samples.shape[-1:], validate_args=validate_args)

    @property
    def scores(self) -> Tensor:
        """w·f_j + log u_j, [*outside, M]."""
        found = self.weights @ self.samples.T
        return found if self.log_weights is None else found + self.log_weights

    @property
    def probabilities(self) -> Tensor:
        """Shares of the samples in the tilted distribution, [*outside, M]."""
        return torch.softmax(self.scores, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """w·f − log Z at features [*sample, n, F]."""
        if self._validate_args:
            self._validate_sample(value)
        base: Any = math.log(len(self.samples))
        if self.log_weights is not None:
            base = torch.logsumexp(self.log_weights, -1)
        log_z = torch.logsumexp(self.scores, -1) - base
        reward: Tensor = (value * self.weights.unsqueeze(-2)).sum(-1)
        return reward - log_z.unsqueeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Samples drawn anew by their shares, [*sample, *outside, n, F]."""
        with torch.no_grad():
            shares = self.probabilities.unsqueeze(-2).expand(*self.batch_shape, -1)
            drawn = torch.distributions.Categorical(shares).sample(Size(sample_shape))
            return self.samples[drawn]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> TiltedSamples:
        """The same for another number of observations."""
        shape = Size(batch_shape)
        weights = self.weights.expand(*shape[:-1], -1)
        return TiltedSamples(weights, self.samples, self.log_weights, shape[-1], False)


@dataclass(frozen=True, eq=False)
class SampledMaxEntIRL:
    r"""Inverse reinforcement learning for processes too large to plan in, or known by play alone.

    .. math:: p(\tau) \propto q(\tau) \exp(w^\top f(\tau)), \qquad f(\tau) = \sum_t \gamma^t
              \psi(s_t, a_t)

    with q what a base policy does in the same dynamics, known by sampled episodes only (Boularias,
    Kober & Peters 2011, "Relative entropy inverse reinforcement learning"). Dynamics cancel, and
    nothing is planned. Where they are deterministic and the base policy is uniform this is
    `MaxEntIRL` over a horizon, at temperature 1; where they are not, it also tilts luck, as
    non-causal maximum entropy does, and `MaxEntIRL` is to be preferred if it can be had. The
    samples must go where the demonstrations go: `review` says when they do not.

    Parameters
    ----------
    prior_scale
        Standard deviation of the weights' normal priors; None for flat ones.

    Notes
    -----
    Site ``reward_weights`` [F], observed ``features`` in the plate ``episode``.

    Examples
    --------
    >>> import pyro
    >>> program = SampledMaxEntIRL()
    >>> samples = torch.tensor([[0.0], [1.0], [1.0]])
    >>> drawn = pyro.poutine.condition(program, {"reward_weights": torch.tensor([50.0])})
    >>> drawn(None, samples, episodes=2)
    tensor([[1.],
            [1.]])
    """

    prior_scale: float | None = 10.0

    def __post_init__(self) -> None:
        if self.prior_scale is not None:
            check_number(self.prior_scale, "prior_scale", positive=True)

    def __call__(
        self,
        features: Any,
        samples: Any,
        log_weights: Any = None,
        *,
        episodes: int | None = None,
    ) -> Tensor:
        """Run the program.

        Parameters
        ----------
        features
            f of each demonstration, [E, F], from `trajectory_features`; None to simulate.
        samples
            f of sampled episodes, [M, F].
        log_weights
            [M]: log q − log of what the samples were drawn from; by default they are q's.
        episodes
            How many to simulate.

        Raises
        ------
        DataError
            If shapes do not fit each other or a number is not finite.
        """
        tries = as_matrix(samples, "samples")
        seen = None if features is None else as_matrix(features, "features").to(tries)
        if seen is not None and seen.shape[1] != tries.shape[1]:
            raise DataError(
                f"features: expected as many columns as samples, {tries.shape[1]}, got "
                f"{seen.shape[1]}"
            )
        logs = None
        if log_weights is not None:
            logs = as_outcomes(log_weights, "log_weights", len(tries), tries)
        n = as_size(episodes, "episodes") if seen is None else len(seen)
        prior = coefficient_prior("normal", self.prior_scale, tries[0, 0]).expand([tries.shape[1]])
        weights = without_rows(pyro.sample(WEIGHTS, prior.to_event(1)), 1)
        with pyro.plate("episode", n, device=str(tries.device)) as index:
            rows = plate_rows(index, n, tries.device)
            given = None if seen is None else seen[rows]
            size = n if given is None else len(given)
            fn = TiltedSamples(weights, tries, logs, size)
            found: Tensor = pyro.sample("features", fn, obs=given)
        return found

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        return {WEIGHTS: ("feature",), "features": ("feature",)}

    def initial(self, features: Any, samples: Any, *rest: Any, **options: Any) -> dict[str, Tensor]:
        """Start at no reward, where the samples are what they are."""
        tries = as_matrix(samples, "samples")
        return {WEIGHTS: tries.new_zeros(tries.shape[1])}

    def effective_samples(self, params: Mapping[str, Any], samples: Any, log_weights: Any) -> float:
        """How many equally weighted samples would do as well, (Σ p)² / Σ p²: from 1 to M."""
        tries = as_matrix(samples, "samples").double()
        logs = None
        if log_weights is not None:
            logs = as_outcomes(log_weights, "log_weights", len(tries), tries)
        weights = torch.as_tensor(params[WEIGHTS]).to(tries)
        shares = TiltedSamples(weights, tries, logs, 1).probabilities
        return float(1 / shares.square().sum())

    def review(
        self,
        params: Mapping[str, Any],
        features: Any,
        samples: Any,
        log_weights: Any = None,
        **options: Any,
    ) -> list[str]:
        """Say so where a few samples carry the expectation."""
        found = self.effective_samples(params, samples, log_weights)
        if found >= FEW:
            return []
        return [
            f"the expectation of the features hangs on {found:.1f} of {len(samples)} sampled "
            "episodes: draw more of them, or nearer to the demonstrations, and give log_weights"
        ]


def trajectory_features(
    trajectories: Trajectories,
    features: Any = None,
    discount: float = 1.0,
) -> Tensor:
    """Discounted features of each episode, Σ_t γ^t ψ(s_t).

    Parameters
    ----------
    trajectories
        Episodes; the state after the last action does not count.
    features
        ψ: a table [S, F] (or [S, A, F] where actions are Discrete, too), a function of states
        [N, *state] to [N, F], or None for the states themselves.
    discount
        γ.

    Returns
    -------
    Tensor
        [E, F].

    Raises
    ------
    DataError
        If the features do not fit the states.

    Examples
    --------
    >>> seen = Trajectories.from_arrays([[0, 1, 1]], [[0, 1]])
    >>> trajectory_features(seen, torch.eye(2), 0.5).tolist()
    [[1.0, 0.5]]
    """
    if not isinstance(trajectories, Trajectories):
        raise DataError(f"trajectories: expected Trajectories, got {type(trajectories).__name__}")
    gamma = as_number(discount, "discount", 0.0, 1.0)
    states = trajectories.step_states
    if features is None or (callable(features) and not isinstance(features, Tensor)):
        rows = featurise(features, states)
    else:
        rows = _table_rows(as_double(features, "features"), trajectories)
    rows = rows * (gamma ** trajectories.step.to(rows)).unsqueeze(-1)
    return rows.new_zeros(len(trajectories), rows.shape[-1]).index_add(
        0, trajectories.episode, rows
    )


def _table_rows(table: Tensor, trajectories: Trajectories) -> Tensor:
    """Features of steps [N, F] from a table of Discrete states, and actions if they count."""
    if table.dim() not in (2, 3):
        raise DataError(f"features: expected [S, F] or [S, A, F], got {tuple(table.shape)}")
    states, actions = trajectories.step_states, None
    if table.dim() == 3:
        states, actions = trajectories.state_action_pairs()
    for name, values, size in zip(
        ("states", "actions"), (states, actions), table.shape, strict=False
    ):
        # Environments do not show their sink, so that a table may have more rows.
        if values is not None and (values.is_floating_point() or int(values.max()) >= size):
            raise DataError(f"features: a table of {size} {name} is not one of {trajectories}")
    return table[states] if actions is None else table[states, actions]
