"""Abilities from pairwise comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.jit import ignore_jit_warnings
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import listed_ids
from likely.models._options import check_number
from likely.models.preference._base import AbilityPrior, check_comparisons, check_pair, remarks
from likely.models.preference._information import errors_of, newton_start, open_unknowns
from likely.models.preference.comparisons import Comparisons
from likely.models.preference.outcomes import TIES, AboveOne, OutcomeCounts, log_odds_of
from likely.models.preference.zero_sum import ZeroSumNormal, ZeroSumWalk, step_scales

# Only a search on its way to infinity meets such an unknown of ties.
_ALL_TIES = 1e6


@dataclass(frozen=True, eq=False)
class BradleyTerry(AbilityPrior):
    r"""The better item wins more often: log-odds are differences of abilities.

    .. math:: \log \frac{p(i \succ j)}{p(j \succ i)} = \text{ability}_i - \text{ability}_j

    (Zermelo 1929; Bradley & Terry 1952), plus ``home_advantage`` for the side at home and
    ``coefficients`` times covariates.

    Parameters
    ----------
    n_items
        Number of items n ≥ 2.
    ability_scale
        Standard deviation of the normal prior on abilities before they are centred. None makes it
        an unknown: a population of items whose spread is learnt (players as random effects).
    spread_scale
        Scale of the half-normal prior on that spread.
    centred
        What is sampled where the spread of abilities or their drift is an unknown: abilities
        themselves, which suits data that say more of each ability, and of each step, than the prior
        does, or, if False, ``deviation`` in units of these scales, for data that say less.
    ties
        None: there are none. ``"half"``: each is half a win of both, as tables of leagues and
        ratings count them; a convention and no model of ties, and none are simulated.
        ``"davidson"``: of probability ∝ ν √(π_i π_j) beside π_i and π_j (Davidson 1970).
        ``"rao-kupper"``: what wins of probability π_i / (π_i + θ π_j) leave (Rao & Kupper 1967).
    tie_prior
        Mean and standard deviation of the normal prior on log ν or log(θ − 1).
    home_advantage
        Whether the side at home has an advantage, which needs ``home`` in the data.
    home_scale, coefficients_scale
        Standard deviations of the normal priors, centred at zero, on home advantage and
        coefficients.
    drift
        None: abilities stay. A number: they take a normal step of this standard deviation from each
        period to the next. ``"unknown"``: the standard deviation is an unknown, with a half-normal
        prior of scale ``drift_scale``.
    drift_scale
        See there.

    Raises
    ------
    DataError
        For options out of range; when called, for comparisons of other items, ties without a model,
        and a home side that was not recorded.

    Notes
    -----
    Sites: ``ability`` [n_items], of sum zero, or [n_periods, n_items] with ``drift``; where asked
    for ``ability_spread``, ``drift``, ``home_advantage`` and ``tie`` (ν > 0 or θ > 1);
    ``coefficients`` [d] where the data have covariates; and the observed ``outcome`` [m, 3] (plate
    ``comparison``, one for each row of the data), multinomial counts. Likelihoods know abilities up
    to a constant: the sum of zero removes it, which leaves n − 1 free coordinates.

    With a spread or drift that is an unknown, maximum likelihood has nothing to say of it, and the
    joint mode is at zero: use a posterior engine. Abilities and a spread of which the data say
    little make a funnel that catches samplers, and has no mode for `Laplace`
    (Papaspiliopoulos, Roberts & Sköld 2007). ``centred=False`` opens it: ``deviation``, shaped like
    ``ability``, is then sampled in units of the spread, its later periods in units of the drift,
    and ``ability`` is deterministic. Where data say much, this form is the narrow one. `NUTS` tells
    by divergences and few effective draws; `SVI` and `Laplace` do not.

    Examples
    --------
    >>> from likely.inference import MLE
    >>> games = Comparisons.from_arrays(["a", "a", "b", "c"], ["b", "b", "c", "a"])
    >>> [round(float(x), 4) + 0 for x in MLE().fit(BradleyTerry(3), games).params["ability"]]
    [0.4196, -0.4196, 0.0]
    """

    n_items: int
    ties: str | None = None
    tie_prior: tuple[float, float] = (0.0, 1.0)
    home_advantage: bool = False
    home_scale: float = 1.0
    coefficients_scale: float = 1.0
    drift: float | str | None = None
    drift_scale: float = 0.5

    def __post_init__(self) -> None:
        self._check_prior(self.n_items)
        if self.ties not in TIES:
            raise DataError(f"ties must be one of {', '.join(map(repr, TIES))}, got {self.ties!r}")
        if not isinstance(self.home_advantage, bool):
            raise DataError(f"home_advantage must be True or False, got {self.home_advantage!r}")
        for name in ("home_scale", "coefficients_scale", "drift_scale"):
            check_number(getattr(self, name), name, positive=True)
        check_pair(self.tie_prior, "tie_prior", "a mean and a scale")
        check_number(self.tie_prior[0], "tie_prior[0]")
        check_number(self.tie_prior[1], "tie_prior[1]", positive=True)
        if self.drift is not None and not (isinstance(self.drift, str) and self.drift == "unknown"):
            check_number(self.drift, "drift", positive=True)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        items = ("item",) if self.drift is None else ("period", "item")
        return {
            "ability": items,
            "deviation": items,
            "coefficients": ("covariate",),
            "outcome": ("result",),
        }

    @property
    def samples_ability(self) -> bool:
        """Whether abilities themselves are sampled, and not what they are made of."""
        known = self.ability_scale is not None and not isinstance(self.drift, str)
        return known or self.centred

    @property
    def models_ties(self) -> bool:
        """Whether ties have a probability of their own."""
        return self.ties in ("davidson", "rao-kupper")

    def __call__(self, comparisons: Comparisons) -> Tensor:
        """Run the program; outcomes that ``comparisons`` lack are simulated.

        Returns
        -------
        Tensor
            The counts [m, 3], observed or simulated.

        Raises
        ------
        DataError
            See the class.
        """
        data = self.prepared(comparisons)
        sites = self.sample_sites(data)
        name, number = self.plate(data)
        with pyro.plate(name, number, device=str(data.first.device)) as index:
            with ignore_jit_warnings():
                if index is not None and len(index) < number:
                    data = self.part(data, index)
            outcome = self.outcome(sites, data)
            counts: Tensor = pyro.sample("outcome", outcome, obs=data.counts)
        return counts

    def plate(self, data: Comparisons) -> tuple[str, int]:
        """Name and size of the plate of the outcomes."""
        return "comparison", len(data)

    def part(self, data: Comparisons, index: Tensor) -> Comparisons:
        """The data of some members of that plate."""
        return data.subset(index)

    def prepared(self, comparisons: Any) -> Comparisons:
        """The data as the program reads them, checked."""
        data = check_comparisons(comparisons, self.n_items)
        if self.home_advantage and data.home is None:
            raise DataError("home: a home advantage needs to know who was at home; pass home=")
        if self.drift is not None and data.period is None:
            raise DataError("period: drift needs the periods of the comparisons; pass period=")
        if data.counts is None or self.models_ties:
            return data
        if self.ties == "half":
            return data.halved
        if data.has_ties:
            number = float(data.counts[:, 2].sum())
            raise DataError(
                f"ties: this program has no ties and the data have {number:g}; choose "
                "ties='davidson', 'rao-kupper' or 'half'"
            )
        return data

    def sample_sites(self, data: Comparisons) -> dict[str, Tensor]:
        """Sample abilities and whatever else there is."""
        like = data.total
        sites: dict[str, Tensor] = {}
        if self.drift is None:
            sites["ability"] = self.sample_ability(self.n_items, like)
        else:
            sites["ability"] = self._sample_walk(data)
        if self.home_advantage:
            prior = dist.Normal(like.new_zeros(()), like.new_tensor(self.home_scale))
            sites["home_advantage"] = pyro.sample("home_advantage", prior)
        if data.covariates is not None:
            zeros = like.new_zeros(data.covariates.shape[1])
            prior = dist.Normal(zeros, like.new_tensor(self.coefficients_scale)).to_event(1)
            sites["coefficients"] = pyro.sample("coefficients", prior)
        if self.models_ties:
            sites["tie"] = pyro.sample("tie", self.tie_distribution(like))
        return sites

    def _sample_walk(self, data: Comparisons) -> Tensor:
        """Sample ``ability`` [n_periods, n_items], or its steps in units of their spreads."""
        like, n_periods = data.total, data.n_periods
        scale = self.sample_scale(like)
        if isinstance(self.drift, str):
            step = pyro.sample("drift", dist.HalfNormal(like.new_tensor(self.drift_scale)))
        else:
            step = like.new_tensor(self.drift)
        walk: Tensor
        if self.samples_ability:
            walk = pyro.sample("ability", ZeroSumWalk(scale, step, n_periods, self.n_items))
            return walk
        units = ZeroSumNormal(like.new_ones(n_periods), self.n_items).to_event(1)
        moves = step_scales(scale, step, n_periods).unsqueeze(-1) * pyro.sample("deviation", units)
        walk = pyro.deterministic("ability", moves.cumsum(-2), event_dim=2)
        return walk

    def tie_distribution(self, like: Tensor) -> Any:
        """Prior of ν > 0 or θ > 1."""
        mean, scale = like.new_tensor(self.tie_prior)
        if self.ties == "davidson":
            return dist.LogNormal(mean, scale)
        return AboveOne(mean, scale)

    def log_odds(self, sites: Mapping[str, Tensor], data: Comparisons) -> Tensor:
        """Log-odds [m] that the first of each row wins."""
        return log_odds_of(
            sites["ability"], data, sites.get("home_advantage"), sites.get("coefficients")
        )

    def outcome(self, sites: Mapping[str, Tensor], data: Comparisons) -> Any:
        """The distribution of the counts [m, 3]."""
        coefficient = None if data.counts is None else data.coefficient
        tie = sites.get("tie")
        return OutcomeCounts(self.log_odds(sites, data), data.total, tie, self.ties, coefficient)

    # -- hooks of engines --------------------------------------------------------------------

    def initial(self, comparisons: Comparisons) -> dict[str, Tensor]:
        """Start at the maximum of the likelihood, found by Newton's method on the sparse graph.

        Where that is at infinity, or the graph is in pieces, the prior on abilities counts, too.
        With drift abilities start at those that stay, and a drift that is an unknown at half the
        scale of its prior.
        """
        if comparisons.counts is None:
            return {}
        data = self.prepared(comparisons)
        start = newton_start(self, data)
        like = data.total
        spread = like.new_tensor(self.ability_scale or 0.0)
        if self.ability_scale is None:
            spread = start["ability_spread"] = start["ability"].std().clamp_min(0.1)
        if isinstance(self.drift, str):
            start["drift"] = like.new_tensor(0.5 * self.drift_scale)
        if self.samples_ability and self.drift is not None:
            start["ability"] = start["ability"].expand(data.n_periods, -1).clone()
        if self.samples_ability:
            return start
        deviation = start.pop("ability") / spread
        if self.drift is not None:
            still = deviation.new_zeros(data.n_periods - 1, self.n_items)
            deviation = torch.cat([deviation.unsqueeze(0), still])
        return {**start, "deviation": deviation}

    def m_step(
        self,
        expected: Any,
        params: Mapping[str, Tensor],
        comparisons: Comparisons,
        *,
        objective: str,
    ) -> dict[str, Tensor]:
        """One step of the minorise-maximise algorithm for abilities (Hunter 2004, equation 3).

        It is EM with an exponential arrival time for each side of a comparison, of which only the
        first is seen (Caron & Doucet 2012, section 2): each worth is multiplied by the wins of its
        item over those expected. Ties, the prior of the posterior objective and all other unknowns
        have no such step and are left to the engine.
        """
        still = self.drift is None and self.samples_ability
        if objective != "likelihood" or self.models_ties or not still:
            return {}
        data = self.prepared(comparisons)
        counts = data.outcomes()
        chance = torch.sigmoid(self.log_odds(params, data))
        hoped = torch.stack([data.total * chance, data.total * (1 - chance)])
        won, due = (
            torch.zeros_like(params["ability"])
            .index_add(0, data.first, first)
            .index_add(0, data.second, second)
            for first, second in (counts[:, :2].unbind(-1), hoped)
        )
        met = due > 0
        if bool((won[met] <= 0).any()):
            return {}
        factor = torch.where(met, won / torch.where(met, due, 1.0), 1.0)
        ability = params["ability"] + factor.log()
        return {"ability": ability - ability.mean()}

    def standard_errors(
        self, params: Mapping[str, Tensor], comparisons: Comparisons, *, prior: bool, **options: Any
    ) -> dict[str, Tensor] | None:
        """Standard errors from the information on the sparse graph, for all unknowns at once.

        See `likely.models.preference.standard_errors`. None where the engine's own way is needed:
        with drift, with a spread that is an unknown, or where the data leave something open.
        """
        if self.drift is not None or self.ability_scale is None:
            return None
        return errors_of(self, params, self.prepared(comparisons), prior=prior, **options)

    def review(self, params: Mapping[str, Tensor], comparisons: Comparisons) -> list[str]:
        """Sentences about what the data leave open; see `remarks` and `open_unknowns`."""
        if comparisons.counts is None:
            return []
        said = remarks(params["ability"].detach(), comparisons)
        if "tie" in params and float(params["tie"]) > _ALL_TIES:
            said.append(
                "all comparisons are ties, and the likelihood grows as 'tie' goes to infinity: "
                "what is reported is where the search stopped. A prior and MAP give a finite answer"
            )
        unknowns = open_unknowns(self, self.prepared(comparisons))
        if unknowns:
            said.append(
                f"the data leave {' and '.join(map(repr, unknowns))} open: some combination of "
                "them says what abilities or others among them say as well. Maximum likelihood "
                "reports one of many optima; a prior and MAP choose one"
            )
        return said

    def coords(self, comparisons: Comparisons) -> dict[str, Sequence[Any]]:
        """Labels of every named dimension: the user's own ids."""
        check_comparisons(comparisons, self.n_items)
        found: dict[str, Sequence[Any]] = {
            "item": listed_ids(comparisons.items),
            "result": ["first", "second", "tie"],
        }
        if comparisons.periods is not None:
            found["period"] = listed_ids(comparisons.periods)
        if comparisons.annotators is not None:
            found["annotator"] = listed_ids(comparisons.annotators)
        return found
