"""Abilities from rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.jit import ignore_jit_warnings
from torch import Size, Tensor
from torch.distributions import constraints

from likely.envs import DataError
from likely.models._ids import listed_ids
from likely.models.preference._base import AbilityPrior
from likely.models.preference.rankings import Rankings


class RankingOrder(dist.TorchDistribution):
    r"""Orders in which each place goes to one of those left, with odds e^ability.

    .. math:: p(\sigma) = \prod_{s} e^{\theta_{\sigma_s}} / \sum_{t \ge s} e^{\theta_{\sigma_t}}

    (Luce 1959; Plackett 1975), the product over the places that were decided.

    Parameters
    ----------
    ability
        θ ``[*batch, n_items]``.
    rankings
        Who takes part in each, and how many places are decided.

    Examples
    --------
    >>> races = Rankings.from_lists([["ann", "bo", "cy"]])
    >>> RankingOrder(torch.zeros(3), races).log_prob(races.order).exp()
    tensor([0.1667])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self, ability: Tensor, rankings: Rankings, validate_args: bool | None = None
    ) -> None:
        self.ability, self.rankings = ability, rankings
        super().__init__(
            ability.shape[:-1] + (len(rankings),), rankings.order.shape[1:], validate_args=False
        )

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Vectors of positions of items, −1 beyond the end."""
        return constraints.independent(constraints.integer_interval(-1, self.ability.shape[-1]), 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> RankingOrder:
        """The same distribution over a larger batch."""
        outside = Size(batch_shape)[:-1]
        return RankingOrder(self.ability.expand(outside + self.ability.shape[-1:]), self.rankings)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of orders ``[R, L]``, ``[*batch, R]`` in nats."""
        present = value >= 0
        scores = self.ability[..., value.clamp_min(0)]
        lowest = scores.detach().amax(-1, keepdim=True)
        mass = torch.where(present, (scores - lowest).exp(), torch.zeros_like(scores))
        left = mass.flip(-1).cumsum(-1).flip(-1)
        # Beyond a ranking's end nobody is left; the one keeps the logarithm finite.
        left = torch.where(present, left, torch.ones_like(left)).log() + lowest
        stage = torch.arange(value.shape[-1], device=value.device)
        counts = stage < self.rankings.depth.unsqueeze(-1)
        return torch.where(counts, scores - left, torch.zeros_like(scores)).sum(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw orders ``[*sample, *batch, R, L]`` by Gumbel noise (Yellott 1977)."""
        with torch.no_grad():
            order = self.rankings.order
            scores = self.ability[..., order.clamp_min(0)]
            shape = Size(sample_shape) + scores.shape
            uniform = torch.rand(shape, dtype=scores.dtype, device=scores.device)
            tiny = torch.finfo(scores.dtype).tiny
            noisy = scores - (-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
            noisy = torch.where(order >= 0, noisy, torch.full_like(noisy, -torch.inf))
            places = noisy.argsort(-1, descending=True)
            return order.expand(shape).gather(-1, places)


@dataclass(frozen=True, eq=False)
class PlackettLuce(AbilityPrior):
    """Rankings, place by place: the next goes to one of those left, with odds e^ability.

    With two items in every ranking it is `BradleyTerry`. Rankings of which only the first place is
    decided are choices from sets (Luce 1959).

    Parameters
    ----------
    n_items
        Number of items n ≥ 2.
    ability_scale, spread_scale, centred
        As in `BradleyTerry`.

    Raises
    ------
    DataError
        For options out of range; when called, for rankings of other items.

    Notes
    -----
    Sites: ``ability`` [n_items], of sum zero; ``ability_spread`` where it is an unknown; and the
    observed ``order`` [R, L] (plate ``ranking``). For ``deviation`` see `BradleyTerry`.

    Examples
    --------
    >>> from likely.inference import MLE
    >>> races = Rankings.from_lists([[0, 1, 2], [3, 2, 0], [1, 3]])
    >>> MLE().fit(PlackettLuce(4), races).params["ability"]
    tensor([-0.4433,  0.6951, -0.6706,  0.4189], dtype=torch.float64)
    """

    n_items: int

    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "ability": ("item",),
        "deviation": ("item",),
        "order": ("place",),
    }

    def __post_init__(self) -> None:
        self._check_prior(self.n_items)

    def __call__(self, rankings: Rankings) -> Tensor:
        """Run the program; orders that ``rankings`` lack are simulated.

        Returns
        -------
        Tensor
            int64 [R, L]: the orders, observed or simulated.

        Raises
        ------
        DataError
            See the class.
        """
        self._check(rankings)
        like = torch.zeros((), device=rankings.order.device)
        ability = self.sample_ability(self.n_items, like)
        number = len(rankings)
        with pyro.plate("ranking", number, device=str(rankings.order.device)) as index:
            with ignore_jit_warnings():
                if index is not None and len(index) < number:
                    rankings = rankings.subset(index)
            observed = rankings.order if rankings.decided else None
            order: Tensor = pyro.sample("order", RankingOrder(ability, rankings), obs=observed)
        return order

    def initial(self, rankings: Rankings) -> dict[str, Tensor]:
        """Start with equal abilities, where the log-likelihood, which is concave, is finite."""
        self._check(rankings)
        equal = torch.zeros(self.n_items)
        if self.ability_scale is not None:
            return {"ability": equal}
        name = "ability" if self.centred else "deviation"
        return {name: equal, "ability_spread": torch.tensor(self.spread_scale)}

    def coords(self, rankings: Rankings) -> dict[str, Sequence[Any]]:
        """Labels of every named dimension: the user's own ids."""
        self._check(rankings)
        return {"item": listed_ids(rankings.items)}

    def _check(self, rankings: Any) -> None:
        if not isinstance(rankings, Rankings):
            raise DataError(
                f"rankings: expected Rankings, got {type(rankings).__name__}; make them with "
                "Rankings.from_lists or Rankings.from_frame"
            )
        if rankings.n_items != self.n_items:
            raise DataError(
                f"rankings: expected {self.n_items} items, got {rankings.n_items}; if some were "
                "never ranked, pass items= when building the rankings"
            )
