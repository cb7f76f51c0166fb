"""What a fit says of the order of items: ranks with their uncertainty, and who beats whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import factorize, lookup, shown
from likely.models._options import check_count, check_number
from likely.models.preference._information import covariance_factor
from likely.models.preference.bradley_terry import BradleyTerry
from likely.models.preference.comparisons import Comparisons
from likely.models.preference.outcomes import log_chances
from likely.models.preference.rankings import Rankings
from likely.models.preference.zero_sum import ZeroSumTransform

# Entries of one block of a table of pairs.
_BLOCK = 1 << 22


def ability_draws(fit: Any, *, draws: int = 4000, seed: int = 0, period: Any = None) -> Tensor:
    """Draws of the abilities: a posterior's own, or of the normal approximation at a point.

    Parameters
    ----------
    fit
        A fit of `BradleyTerry`, `CrowdBradleyTerry` or `PlackettLuce`.
    draws
        How many from the normal approximation, whose precision is the observed information (with
        that of the priors where these were maximised, too).
    seed
        Of these.
    period
        The period, where abilities drift; the last by default.

    Returns
    -------
    Tensor
        ``[S, n_items]``, rows of sum zero.

    Raises
    ------
    DataError
        If it is no such fit, or the data leave abilities open.
    """
    program, data, params = _parts(fit)
    check_count(draws, "draws", 2)
    check_count(seed, "seed", 0)
    place = _period(data, params["ability"], period)
    if not fit.is_point:
        found: Tensor = fit.draws["ability"].flatten(0, 1)
        return found if place is None else found[:, place]
    if "ability" not in fit.point():
        raise DataError(
            "fit: these abilities follow from deviations and a spread, which have no normal "
            "approximation together; use a posterior engine"
        )
    centre = params["ability"]
    generator = torch.Generator().manual_seed(seed)
    factor = None
    maximised = fit.engine == "map" or fit.options.get("objective") == "posterior"
    if _is_plain(program):
        factor = covariance_factor(program, params, program.prepared(data), maximised)
    if factor is not None:
        noise = torch.randn(len(factor), draws, generator=generator, dtype=factor.dtype)
        moved = torch.linalg.solve_triangular(factor.T, noise, upper=True).T.to(centre)
        return centre + moved - moved.mean(-1, keepdim=True)
    information = fit.fisher_information()
    rows = [k for k, name in enumerate(information.labels) if name.startswith("ability: ")]
    covariance = torch.linalg.pinv(information.matrix, hermitian=True)[rows][:, rows]
    values, vectors = torch.linalg.eigh(information.matrix)
    if not float(values[0]) > 1e-9 * float(values[-1]):
        raise DataError(
            "fit: the data leave abilities open, so they have no normal approximation; use MAP or "
            "a posterior engine"
        )
    values, vectors = torch.linalg.eigh(covariance)
    noise = torch.randn(draws, len(rows), generator=generator, dtype=values.dtype)
    free = (noise * values.clamp_min(0).sqrt()) @ vectors.T
    moved = ZeroSumTransform()(free.reshape(draws, *centre.shape[:-1], -1).to(centre))
    abilities: Tensor = centre + moved
    return abilities if place is None else abilities[:, place]


def ranking(
    fit: Any,
    *,
    interval: float = 0.94,
    draws: int = 4000,
    seed: int = 0,
    period: Any = None,
) -> pd.DataFrame:
    """Items from the best to the worst, with what is not known of their order.

    Parameters
    ----------
    fit
        A fit of `BradleyTerry`, `CrowdBradleyTerry` or `PlackettLuce`: a posterior, whose draws
        count, or a point, of which the normal approximation is drawn from.
    interval
        Probability of the equal-tailed intervals.
    draws, seed, period
        As in `ability_draws`.

    Returns
    -------
    DataFrame
        By item, in the order of ``ability``: ``rank``; ``ability`` (of mean zero) with
        ``ability_sd``, ``ability_lower`` and ``ability_upper``; ``rank_lower`` and ``rank_upper``,
        the interval of ranks; and ``best``, the probability that no item is better. Intervals are
        of one item at a time.

    Raises
    ------
    DataError
        As `ability_draws`, and for an interval out of range.

    Examples
    --------
    >>> from likely.inference import MLE
    >>> first, second = ["a", "b", "c"], ["b", "c", "a"]
    >>> games = Comparisons.from_arrays(first, second, [80, 60, 50], [20, 40, 50])
    >>> ranking(MLE().fit(BradleyTerry(3), games))[["rank", "rank_lower", "rank_upper"]]
          rank  rank_lower  rank_upper
    item
    a        1           1           1
    c        2           2           3
    b        3           2           3
    """
    check_number(interval, "interval", positive=True)
    if interval >= 1:
        raise DataError(f"interval must be below 1, got {interval!r}")
    _, data, params = _parts(fit)
    drawn = ability_draws(fit, draws=draws, seed=seed, period=period).cpu()
    place = _period(data, params["ability"], period)
    centre = (params["ability"] if place is None else params["ability"][place]).cpu()
    ranks = torch.empty_like(drawn, dtype=torch.int64)
    order = drawn.argsort(-1, descending=True)
    ranks.scatter_(-1, order, torch.arange(1, drawn.shape[-1] + 1).expand_as(order))
    edges = [(1 - interval) / 2, (1 + interval) / 2]
    low, high = np.quantile(drawn.numpy(), edges, axis=0)
    first, last = np.quantile(ranks.numpy(), edges, axis=0, method="nearest")
    table = pd.DataFrame(
        {
            "ability": centre.numpy(),
            "ability_sd": drawn.std(0).numpy(),
            "ability_lower": low,
            "ability_upper": high,
            "rank_lower": first.astype(int),
            "rank_upper": last.astype(int),
            "best": (ranks == 1).double().mean(0).numpy(),
        },
        index=pd.Index(data.items, name="item", tupleize_cols=False),
    )
    table = table.sort_values("ability", ascending=False, kind="stable")
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def win_matrix(
    fit: Any, *, outcome: str = "win", draws: int = 200, seed: int = 0, period: Any = None
) -> pd.DataFrame:
    """Probabilities that the item of a row beats the item of a column, neither being at home.

    Parameters
    ----------
    fit
        A fit of `BradleyTerry`, `CrowdBradleyTerry` or `PlackettLuce`. A posterior is averaged over
        its draws; a point is taken as it is.
    outcome
        ``"win"``; ``"tie"``; or ``"score"``, a win and half a tie.
    draws, seed
        Most draws of a posterior that are averaged, and the seed that picks them.
    period
        As in `ability_draws`.

    Returns
    -------
    DataFrame
        Items by items, the diagonal NaN; the best item first.

    Raises
    ------
    DataError
        As `ability_draws`, and for an unknown outcome.

    Examples
    --------
    >>> from likely.inference import MLE
    >>> games = Comparisons.from_arrays(["a"], ["b"], [3], [1])
    >>> round(float(win_matrix(MLE().fit(BradleyTerry(2), games)).loc["a", "b"]), 4)
    0.75
    """
    if outcome not in ("win", "tie", "score"):
        raise DataError(f"outcome must be 'win', 'tie' or 'score', got {outcome!r}")
    program, data, params = _parts(fit)
    check_count(draws, "draws", 1)
    check_count(seed, "seed", 0)
    values = {name: fit.draws[name].flatten(0, 1) for name in ("ability", "tie") if name in params}
    place = _period(data, params["ability"], period)
    if place is not None:
        values["ability"] = values["ability"][:, place]
    number = len(values["ability"])
    if number > draws:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(number, generator=generator)[:draws]
        values = {name: value[chosen] for name, value in values.items()}
    ability = values["ability"].cpu()
    n = ability.shape[-1]
    rule = getattr(program, "ties", None)
    total = torch.zeros(n, n, dtype=ability.dtype)
    for k, one in enumerate(ability):
        tie = values["tie"][k].cpu() if "tie" in values else None
        for rows in torch.arange(n).split(max(1, _BLOCK // n)):
            logs = log_chances(one[rows, None] - one, tie, rule)
            chances = logs.exp()
            win, drawn = chances[..., 0], chances[..., 2]
            total[rows] += {"win": win, "tie": drawn, "score": win + 0.5 * drawn}[outcome]
    total /= len(ability)
    total.fill_diagonal_(torch.nan)
    centre = params["ability"] if place is None else params["ability"][place]
    order = centre.argsort(descending=True).cpu().numpy()
    items = pd.Index(data.items, tupleize_cols=False)[order]
    return pd.DataFrame(
        total.numpy()[np.ix_(order, order)],
        index=items.rename("item"),
        columns=items.rename("against"),
    )


def standard_errors(fit: Any, *, probes: int = 64, seed: int = 0) -> dict[str, Tensor]:
    """Standard errors of a point fit of `BradleyTerry`, in time linear in distinct pairs.

    Up to some four thousand items these are exact, and what ``fit.standard_errors()`` gives. Beyond
    that those of abilities are estimated from products of the inverse information with random signs
    (Bekas, Kokiopoulou & Saad 2007): with a typical item in k distinct pairs their relative error
    is near 1 / (2 √(k probes)).

    Parameters
    ----------
    fit
        A fit of `BradleyTerry`.
    probes
        How many vectors of random signs.
    seed
        Of the signs.

    Raises
    ------
    DataError
        If it is no such fit, or the data leave abilities open.
    """
    program, data, params = _parts(fit)
    check_count(probes, "probes", 1)
    check_count(seed, "seed", 0)
    maximised = fit.engine == "map" or fit.options.get("objective") == "posterior"
    found = None
    if _is_plain(program):
        found = program.standard_errors(params, data, prior=maximised, probes=probes, seed=seed)
    if found is None:
        raise DataError(
            "fit: expected a fit of BradleyTerry without drift or unknown spread, whose data "
            "connect all items; fit.standard_errors() may serve"
        )
    errors: dict[str, Tensor] = found
    return errors


def deviance(fit: Any) -> float:
    """Residual deviance: twice what the log-likelihood lacks to that of the observed shares.

    It has as many degrees of freedom as there are rows with a comparison (times two where there
    are ties), less the free parameters; see McCullagh & Nelder (1989, section 4.4).

    Raises
    ------
    DataError
        If it is no fit of comparisons.
    """
    program, data, _ = _parts(fit)
    if not isinstance(program, BradleyTerry):
        raise DataError(f"fit: expected a fit of BradleyTerry, got {type(program).__name__}")
    data = program.prepared(data)
    counts = data.outcomes()
    share = counts / counts.sum(-1, keepdim=True).clamp_min(1e-300)
    saturated = torch.xlogy(counts, share).sum() + data.coefficient.sum()
    return 2.0 * (float(saturated) - fit.log_likelihood)


def _parts(fit: Any) -> tuple[Any, Any, dict[str, Tensor]]:
    """The program, its data and the values of a fit."""
    if not hasattr(fit, "params") or not hasattr(fit, "bound"):
        raise DataError(f"fit: expected what an engine returned, got {type(fit).__name__}")
    reading = fit.bound("the ranking")
    found = [*reading.args, *reading.kwargs.values()]
    data = next((value for value in found if isinstance(value, Comparisons | Rankings)), None)
    if "ability" not in fit.params or data is None:
        raise DataError(f"fit: expected abilities of items, got the sites {', '.join(fit.params)}")
    return reading.source, data, fit.params


def _is_plain(program: Any) -> bool:
    return type(program) is BradleyTerry and not (
        program.drift is not None or program.ability_scale is None
    )


def _period(data: Any, ability: Tensor, period: Any) -> int | None:
    """Position of a period; None where abilities stay."""
    if ability.dim() < 2:
        if period is not None:
            raise DataError("period: these abilities do not change")
        return None
    if period is None:
        return int(data.n_periods) - 1
    _, wanted = factorize([period], "period")
    place = int(lookup(wanted, data.periods)[0]) if len(wanted) else -1
    if place < 0:
        raise DataError(f"period: expected one of {shown(data.periods)}, got {period!r}")
    return place
