"""Options, checks and labels that programs of comparisons share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._options import check_count, check_number
from likely.models.preference.comparisons import Comparisons
from likely.models.preference.zero_sum import ZeroSumNormal

# A group of items that fitted log-odds put so far above all others is at infinity.
_FAR = 8.0
# How many ids a sentence lists.
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class AbilityPrior:
    """The prior on abilities: a number, or a population whose spread is an unknown."""

    ability_scale: float | None = 2.0
    spread_scale: float = 1.0
    centred: bool = True

    def _check_prior(self, n_items: Any) -> None:
        check_count(n_items, "n_items", 2)
        if self.ability_scale is not None:
            check_number(self.ability_scale, "ability_scale", positive=True)
        check_number(self.spread_scale, "spread_scale", positive=True)
        if not isinstance(self.centred, bool):
            raise DataError(f"centred must be True or False, got {self.centred!r}")

    def sample_scale(self, like: Tensor) -> Tensor:
        """Standard deviation of abilities: known, or the site ``ability_spread``."""
        if self.ability_scale is not None:
            return like.new_tensor(self.ability_scale)
        spread: Tensor = pyro.sample(
            "ability_spread", dist.HalfNormal(like.new_tensor(self.spread_scale))
        )
        return spread

    def sample_ability(self, n_items: int, like: Tensor) -> Tensor:
        """Sample ``ability`` [n_items], or ``deviation`` from which it follows."""
        scale = self.sample_scale(like)
        ability: Tensor
        if self.ability_scale is not None or self.centred:
            ability = pyro.sample("ability", ZeroSumNormal(scale, n_items))
            return ability
        deviation = pyro.sample("deviation", ZeroSumNormal(like.new_ones(()), n_items))
        ability = pyro.deterministic("ability", scale.unsqueeze(-1) * deviation, event_dim=1)
        return ability

    def left_open(self, params: Mapping[str, Any], *data: Any, **options: Any) -> list[str]:
        """Say which unknowns the likelihood, which sees abilities alone, cannot tell."""
        names = [name for name in ("ability_spread", "drift") if name in params]
        if not names:
            return []
        which = " and ".join(map(repr, names))
        return [
            f"the likelihood knows abilities and nothing of {which}: what is reported is where the "
            "search ended. Use a posterior engine, best NUTS"
        ]


def check_pair(value: Any, name: str, what: str) -> None:
    """Check that an option is a tuple of two.

    Raises
    ------
    DataError
        If it is not.
    """
    if not isinstance(value, tuple) or len(value) != 2:
        raise DataError(f"{name} must be {what}, got {value!r}")


def check_comparisons(comparisons: Any, n_items: int) -> Comparisons:
    """Return ``comparisons`` if they are `Comparisons` of so many items.

    Raises
    ------
    DataError
        If they are not.
    """
    if not isinstance(comparisons, Comparisons):
        raise DataError(
            f"comparisons: expected Comparisons, got {type(comparisons).__name__}; make them with "
            "Comparisons.from_arrays or Comparisons.from_frame"
        )
    if comparisons.n_items != n_items:
        raise DataError(
            f"comparisons: expected {n_items} items, got {comparisons.n_items}; if some were never "
            "compared, pass items= when building the comparisons"
        )
    return comparisons


def remarks(ability: Tensor, comparisons: Comparisons) -> list[str]:
    """Sentences about abilities that the data leave open: groups apart, and groups unbeaten.

    Parameters
    ----------
    ability
        ``[n_items]``, or ``[n_periods, n_items]``.
    comparisons
        The data.
    """
    said = []
    groups = comparisons.components()
    if len(groups) > 1:
        listed = "; ".join(_listed(group) for group in groups[:3])
        more = "; …" if len(groups) > 3 else ""
        said.append(
            f"the items fall into {len(groups)} groups that never meet ({listed}{more}): the data "
            "compare abilities within a group only. Maximum likelihood leaves the differences "
            "between groups where its search began; with MAP or a posterior engine the prior puts "
            "them near zero, and its spread is all that is known of them"
        )
    alone = _far_group(ability, comparisons)
    if alone is not None:
        way, group = alone
        said.append(
            f"no item of {_listed(group)} ever {way} an item outside: the likelihood grows as "
            "their distance goes to infinity, and what is reported is where the search stopped. A "
            "prior and MAP give a finite answer"
        )
    return said


def _far_group(ability: Tensor, comparisons: Comparisons) -> tuple[str, NDArray[Any]] | None:
    """The smallest group that only won or only lost and is fitted far from all others."""
    groups = comparisons.strong_components()
    if len(groups) == 1:
        return None
    level = ability.reshape(-1, ability.shape[-1]).mean(0).cpu()
    place = {item: k for k, item in enumerate(comparisons.items.tolist())}
    members = [torch.tensor([place[item] for item in group.tolist()]) for group in groups]
    top = torch.stack([level[m].max() for m in members])
    bottom = torch.stack([level[m].min() for m in members])
    # The highest and the lowest of all other groups.
    over = torch.where(top == top.max(), top.sort().values[-2], top.max())
    under = torch.where(bottom == bottom.min(), bottom.sort().values[1], bottom.min())
    for k in range(len(groups) - 1, -1, -1):
        if float(bottom[k] - over[k]) > _FAR:
            return "lost to", groups[k]
        if float(under[k] - top[k]) > _FAR:
            return "beat", groups[k]
    return None


def _listed(group: NDArray[Any]) -> str:
    names = ", ".join(repr(item) for item in group[:_SHOWN].tolist())
    return "{" + names + (f", … {len(group)} in all" if len(group) > _SHOWN else "") + "}"
