"""How good a policy is: what it earns, where it goes, and what it meets there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from likely.envs import TabularMDP, Trajectories, horizon_occupancy, state_action_occupancy
from likely.envs._checks import as_double
from likely.inference.checkpoints import seed_of
from likely.inference.engines.checks import check_int, check_seed, is_number
from likely.inference.errors import OptionError
from likely.inference.imitation.acting import as_table, check_process
from likely.inference.imitation.playing import play


class Returns(NamedTuple):
    """What policies earned, with an interval for the mean.

    Attributes
    ----------
    mean, lower, upper
        The mean return, and Student's interval. Of several policies it is an interval over
        policies, whose means are its data: it covers what another training would give. Of one
        policy it is over episodes.
    returns
        float64 [policies, episodes].
    lengths
        int64 [policies, episodes]: steps.
    """

    mean: float
    lower: float
    upper: float
    returns: Tensor
    lengths: Tensor


def evaluate_returns(
    env: Any,
    policies: Any,
    *,
    episodes: int = 100,
    seed: int = 0,
    horizon: int | None = None,
    discount: float = 1.0,
    level: float = 0.94,
    progress: bool = False,
    **options: Any,
) -> Returns:
    """Play episodes and average their returns.

    Parameters
    ----------
    env
        What `likely.envs.rollout` takes, or a `TabularMDP`.
    policies
        One policy, a result, or a list of them: trainings of one method from several seeds.
    episodes
        Of each.
    seed
        Of the episodes; other seeds than those of the training are best.
    horizon
        Time limit; needed in a process.
    discount
        γ of the returns.
    level
        Of the interval.
    progress
        Show a progress bar over policies.
    **options
        Of `gymnasium.make`.

    Raises
    ------
    OptionError
        If there is no policy, or an option cannot be used.

    Examples
    --------
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
    >>> best = lake.value_iteration().policy
    >>> found = evaluate_returns(lake, best, episodes=2000, horizon=100)
    >>> found.lower < 0.7303 < found.upper
    True
    """
    check_int("episodes", episodes, 1)
    check_seed("seed", seed)
    _check_level(level)
    several = list(policies) if isinstance(policies, list | tuple) else [policies]
    if not several:
        raise OptionError("policies: expected at least one, got none")
    returns, lengths = [], []
    for number, one in enumerate(tqdm(several, desc="evaluation", disable=not progress)):
        seen = play(env, one, episodes, seed_of(seed, number), horizon, **options)
        returns.append(seen.returns(discount))
        lengths.append(seen.lengths)
    table = torch.stack(returns).double()
    units = table.mean(-1) if len(several) > 1 else table[0]
    return Returns(*mean_interval(units, level), table, torch.stack(lengths))


def mean_interval(values: Any, level: float = 0.94) -> tuple[float, float, float]:
    """Mean of independent numbers [n] with Student's interval; nan bounds for a single one.

    Examples
    --------
    >>> [round(x, 4) for x in mean_interval([1.0, 2.0, 3.0], 0.9)]
    [2.0, 0.3141, 3.6859]
    """
    _check_level(level)
    found = as_double(values, "values").detach().cpu().numpy()
    if found.ndim != 1:
        raise OptionError(f"values: expected [n], got {found.shape}")
    mean = float(found.mean())
    if len(found) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return mean, mean - float(half), mean + float(half)


def _check_level(level: Any) -> None:
    if not is_number(level) or not 0 < level < 1:
        raise OptionError(f"level must be a number between 0 and 1, got {level!r}")


def compare_returns(env: Any, policies: Mapping[str, Any], **options: Any) -> pd.DataFrame:
    """Returns of several methods beside each other, on the same episodes.

    Parameters
    ----------
    env
        As in `evaluate_returns`.
    policies
        Name to a policy, or to a list of them from several seeds.
    **options
        Of `evaluate_returns`.

    Returns
    -------
    DataFrame
        A row for each name: ``mean``, ``mean_lower``, ``mean_upper``, ``policies``, ``length``;
        `likely.inference.plot_intervals` draws it.
    """
    if not isinstance(policies, Mapping) or not policies:
        raise OptionError(f"policies: expected names with policies, got {policies!r}"[:200])
    rows = {}
    for name, given in policies.items():
        found = evaluate_returns(env, given, **options)
        rows[name] = {
            "mean": found.mean,
            "mean_lower": found.lower,
            "mean_upper": found.upper,
            "policies": len(found.returns),
            "length": float(found.lengths.double().mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


# -- where policies go -------------------------------------------------------------------------


def occupancy(mdp: TabularMDP, source: Any, horizon: int | None = None) -> Tensor:
    """Where a policy goes, as a distribution over states and actions.

    Parameters
    ----------
    mdp
        The process.
    source
        A policy, as `as_table` takes it, whose occupancy is exact; or `Trajectories` of the
        process, whose visits are counted.
    horizon
        Number of steps; None for all.

    Returns
    -------
    Tensor
        float64 [S, A], Σ = 1: step t counts γ^t. Episodes that ended stay in the sink as long as
        the discount, or the horizon, lets them; at discount 1 without a horizon the sink is left
        out. What is done in the sink has no effect and counts as the first action.
    """
    check_process(mdp)
    if horizon is not None:
        check_int("horizon", horizon, 1)
    if isinstance(source, Trajectories):
        found = _counted(mdp, source, horizon)
    elif horizon is None:
        found = state_action_occupancy(mdp, as_table(mdp, source))
    else:
        found = horizon_occupancy(mdp, _timed(mdp, source), horizon)
    if mdp.sink is not None:
        ended = found[mdp.sink].sum()
        found = found.clone()
        found[mdp.sink] = 0.0
        found[mdp.sink, 0] = ended
    return found / found.sum()


def _timed(mdp: TabularMDP, source: Any) -> Tensor:
    """A policy as a table, which may differ from step to step: [S, A] or [T, S, A]."""
    if isinstance(source, Tensor) and source.dim() == 3:
        return source
    return as_table(mdp, source)


def _counted(mdp: TabularMDP, seen: Trajectories, horizon: int | None) -> Tensor:
    states, actions = seen.state_action_pairs()
    sizes = mdp.n_states * mdp.n_actions
    if states.is_floating_point() or actions.is_floating_point():
        raise OptionError("trajectories: expected Discrete states and actions")
    if int(states.max()) >= mdp.n_states or int(actions.max()) >= mdp.n_actions:
        raise OptionError(f"trajectories: expected states and actions of {mdp}")
    step = seen.step
    counts = mdp.discount ** step.double()
    if horizon is not None:
        counts = counts * (step < horizon)
    flat = torch.zeros(sizes, dtype=torch.float64)
    flat = flat.index_add(0, states * mdp.n_actions + actions, counts)
    found = flat.reshape(mdp.n_states, mdp.n_actions)
    if mdp.sink is not None:
        found[mdp.sink, 0] += _after(mdp, seen, horizon).sum()
    return found


def _after(mdp: TabularMDP, seen: Trajectories, horizon: int | None) -> Tensor:
    """Discounted steps [E] that episodes spend in the sink once they have terminated."""
    gamma, ended = mdp.discount, seen.lengths.double()
    if gamma == 1:
        left = torch.zeros_like(ended) if horizon is None else (horizon - ended).clamp_min(0.0)
    else:
        last = torch.zeros_like(ended)
        if horizon is not None:
            last = gamma ** torch.full_like(ended, float(horizon))
        left = ((gamma**ended - last) / (1 - gamma)).clamp_min(0.0)
    return left * seen.terminated


def occupancy_distance(
    mdp: TabularMDP, policy: Any, expert: Any, horizon: int | None = None
) -> float:
    """Total variation between where two policies go, ½ Σ |ρ(s, a) − ρ'(s, a)|, from 0 to 1.

    Parameters
    ----------
    mdp, horizon
        As in `occupancy`.
    policy, expert
        Policies, or `Trajectories`. Counts are noisy: two samples of one policy are not at 0.

    Examples
    --------
    >>> lake = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.9)
    >>> even, best = torch.full((17, 4), 0.25), lake.value_iteration()
    >>> occupancy_distance(lake, even, even)
    0.0
    >>> 0.3 < occupancy_distance(lake, even, best.policy) < 1
    True
    """
    difference = occupancy(mdp, policy, horizon) - occupancy(mdp, expert, horizon)
    return float(difference.abs().sum() / 2)


def feature_gap(
    mdp: TabularMDP,
    policy: Any,
    expert: Any,
    features: Any,
    *,
    horizon: int | None = None,
    order: float = 2.0,
) -> float:
    """Distance between the features that two policies meet (Abbeel & Ng 2004).

    Parameters
    ----------
    mdp, policy, expert, horizon
        As in `occupancy_distance`.
    features
        ψ: [S, F] or [S, A, F]; rows of the sink do not count.
    order
        Of the norm: 2, 1 or infinity.

    Returns
    -------
    float
        Norm of the difference of mean features of a step, discounted: times 1 / (1 − γ), that of
        feature expectations. Rewards ψ·w with a dual norm of w of at most one cannot tell the two
        apart by more.

    Raises
    ------
    OptionError
        If features have another shape, or the order is no norm's.
    """
    if not is_number(order) or not order >= 1:
        raise OptionError(f"order must be a number of at least 1, got {order!r}")
    table = as_double(features, "features")
    sizes = (mdp.n_states, mdp.n_actions)
    if table.dim() not in (2, 3) or table.shape[:-1] != sizes[: table.dim() - 1]:
        raise OptionError(
            f"features: expected [S, F] or [S, A, F] with S = {sizes[0]} and A = {sizes[1]}, got "
            f"{tuple(table.shape)}"
        )
    difference = occupancy(mdp, policy, horizon) - occupancy(mdp, expert, horizon)
    # As in feature expectations, the sink has none.
    difference = difference * mdp.alive.unsqueeze(-1)
    met = (
        difference.sum(-1) @ table
        if table.dim() == 2
        else difference.flatten() @ table.flatten(0, 1)
    )
    return float(torch.linalg.vector_norm(met, order))
