"""Preferences over trajectories: the better return wins more often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.envs import DataError
from likely.envs._checks import as_number
from likely.models._data import as_weights, plate_rows, plate_weights
from likely.models._options import check_number
from likely.models._policy_base import float_like
from likely.models.preference._reward_base import TrajectoryReward, drawn_value
from likely.models.preference.pairs import TrajectoryPairs


@dataclass(frozen=True, eq=False)
class TrajectoryPreference:
    r"""Which of two trajectories somebody prefers, given a reward with unknowns.

    .. math:: p(\tau \succ \tau') = \sigma(\beta (R(\tau) - R(\tau'))), \qquad
              R(\tau) = \sum_t \gamma^t r(s_t, a_t)

    (Bradley & Terry 1952 with returns for abilities; Christiano et al. 2017, "Deep reinforcement
    learning from human preferences", equation 1.) The state after an episode's last action has no
    part in its return.

    Preferences know a reward up to what all episodes have in common: episodes of one length do not
    tell what a step costs, and from one start nothing tells what a start is worth. There MLE
    finds one of many rewards, and a prior decides.

    Parameters
    ----------
    reward
        `LinearReward`, `TabularReward` or `NetworkReward`.
    discount
        γ.
    rationality
        β, how reliably the better one is preferred, per unit of reward. It and the size of rewards
        are one and the same unknown, so it is given.

    Notes
    -----
    Sites are the reward's, and the observed ``preferred`` [m] in the plate ``comparison``: 1
    where the first is preferred. Pairs without answers get simulated ones. What the reward knows
    of the pairs (sums of features, visits) is computed in the first evaluation and kept with the
    pairs.

    Examples
    --------
    >>> from likely.envs import Trajectories
    >>> from likely.inference import MAP
    >>> from likely.models.preference.rewards import LinearReward
    >>> seen = Trajectories.from_arrays([[0, 0, 1], [0, 1, 1]], [[0, 0], [1, 0]])
    >>> pairs = TrajectoryPairs.among(seen, [1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1])
    >>> program = TrajectoryPreference(LinearReward([[0.0], [1.0]], prior_scale=10.0))
    >>> fit = MAP().fit(program, pairs)
    >>> program.probabilities(fit.params, pairs[:1]).round(decimals=2)
    tensor([0.7500], dtype=torch.float64)
    """

    reward: TrajectoryReward
    discount: float = 1.0
    rationality: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.reward, TrajectoryReward):
            raise DataError(
                "reward: expected LinearReward, TabularReward or NetworkReward, got "
                f"{type(self.reward).__name__}"
            )
        as_number(self.discount, "discount", 0.0, 1.0)
        check_number(self.rationality, "rationality", positive=True)

    def __call__(self, pairs: TrajectoryPairs, *, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        pairs
            What was compared; answers that it lacks are simulated.
        weights
            How often each pair counts, [m].

        Returns
        -------
        Tensor
            ``preferred`` [m], observed or simulated.

        Raises
        ------
        DataError
            If states do not fit the reward, or weights the pairs.
        """
        known = self.differences(pairs)
        like, m = float_like(pairs.first.states), len(pairs)
        counted = as_weights(weights, m, like)
        sites = self.reward.sample_sites(like, known)
        device = pairs.first.states.device
        with pyro.plate("comparison", m, device=str(device)) as index:
            rows = plate_rows(index, m, device)
            with plate_weights(counted, rows):
                odds = self.rationality * self.reward.ahead(sites, known, rows)
                given = None if pairs.preferred is None else pairs.preferred[rows].to(odds)
                answer = dist.Bernoulli(logits=odds)
                found: Tensor = pyro.sample("preferred", answer, obs=given)
        return found

    def differences(self, pairs: TrajectoryPairs) -> Any:
        """What the reward knows of the pairs."""
        check_pairs(pairs)
        reward, gamma = self.reward, float(self.discount)
        return pairs.remembered(reward, gamma, lambda: reward.differences(pairs, gamma))

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        return self.reward.dims

    def coords(self, pairs: TrajectoryPairs | None = None, **options: Any) -> dict[str, Any]:
        """Labels of the dimensions."""
        return self.reward.coords()

    def initial(self, pairs: TrajectoryPairs, **options: Any) -> dict[str, Tensor]:
        """Start at no reward, or where a network is."""
        return self.reward.start(float_like(pairs.first.states), self.differences(pairs))

    # -- after a fit -------------------------------------------------------------------------

    def log_odds(self, params: Mapping[str, Any], pairs: TrajectoryPairs) -> Tensor:
        """β (R(first) − R(second)), float64 [m], at one value of each site."""
        with torch.no_grad():
            known = self.differences(pairs)
            shapes = self.reward.shapes(known)
            sites = {name: drawn_value(params, name, shape) for name, shape in shapes.items()}
            return self.rationality * self.reward.ahead(sites, known, slice(None)).double()

    def probabilities(self, params: Mapping[str, Any], pairs: TrajectoryPairs) -> Tensor:
        """Probability [m] that the first is preferred, at one value of each site."""
        return torch.sigmoid(self.log_odds(params, pairs))

    def reward_table(self, params: Mapping[str, Any]) -> Tensor:
        r"""The reward of Discrete states, [\*B, S] or [\*B, S, A]; see `TrajectoryReward.table`."""
        return self.reward.table(params)


def check_pairs(pairs: Any) -> TrajectoryPairs:
    """Return ``pairs`` if they are `TrajectoryPairs`, else raise `DataError`."""
    if not isinstance(pairs, TrajectoryPairs):
        raise DataError(f"pairs: expected TrajectoryPairs, got {type(pairs).__name__}")
    return pairs
