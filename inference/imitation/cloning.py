"""Behaviour cloning: the trajectory program fitted to what an expert did."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from likely.envs import Trajectories
from likely.inference.engines import MLE
from likely.inference.engines.base import Engine
from likely.inference.engines.checks import check_int
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.imitation.acting import ActingPolicy
from likely.inference.imitation.posterior_policy import posterior_draws
from likely.inference.imitation.result import Imitation
from likely.models.dynamics import Dynamics
from likely.models.policy import Policy
from likely.models.trajectory import TrajectoryModel

METHOD = "behaviour_cloning"


def behaviour_cloning(
    trajectories: Trajectories,
    policy: Policy,
    engine: Engine | None = None,
    weights: Any = None,
    *,
    dynamics: Dynamics | None = None,
    state_marginal: Any = None,
    greedy: bool = False,
) -> Imitation:
    """Fit a policy to demonstrations (Pomerleau 1989): the actions given the states.

    Parameters
    ----------
    trajectories
        What the expert did.
    policy
        Of `likely.models`.
    engine
        Any engine; by default `MLE`. Engines of posteriors find a distribution over policies, whose
        uncertainty `policy_uncertainty` shows; the policy then acts at the posterior mean of the
        sites, and `posterior_policy` by all of them.
    weights
        How often each episode, [E], or each step, [N], counts.
    dynamics, state_marginal
        Parts of `TrajectoryModel` that are fitted along.
    greedy
        Whether the policy takes the most probable action instead of drawing one.

    Returns
    -------
    Imitation
        ``history`` is the fit's.

    Raises
    ------
    OptionError
        If the engine is none.
    DataError
        If trajectories have no actions, or do not fit the policy.

    Examples
    --------
    >>> from likely.inference import MAP
    >>> from likely.models import TabularPolicy
    >>> seen = Trajectories.from_arrays([[0, 1, 0, 1]], [[0, 1, 0]])
    >>> cloned = behaviour_cloning(seen, TabularPolicy(2, 2, concentration=2.0), MAP())
    >>> cloned.table[0]
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    chosen = MLE() if engine is None else engine
    if isinstance(chosen, type) or not isinstance(chosen, Engine):
        raise OptionError(f"engine must be an engine such as MLE(), got {engine!r}")
    program = TrajectoryModel(policy, dynamics, state_marginal)
    if isinstance(trajectories, Trajectories):
        # Says so where there are none: the program would make actions up.
        trajectories.state_action_pairs()
    options = {} if weights is None else {"weights": weights}
    fit = chosen.fit(program, trajectories, **options)
    spaces = trajectories.state_space, trajectories.action_space
    acting = ActingPolicy(policy, fit.params, *spaces, greedy)
    return Imitation(METHOD, acting, fit, fit.history)


class Uncertainty(NamedTuple):
    """What a posterior over policies says about some states.

    Attributes
    ----------
    mean, sd
        Of the actions' probabilities over the posterior, [n, A].
    total
        Entropy of the mean, [n]: uncertainty of the next action, nats.
    expert
        Mean entropy of the policies, [n]: how much of it is the expert's own doing.
    policy
        What is left, [n]: the information that the expert's next action would give about the
        policy. More demonstrations take this part away, and it alone.
    """

    mean: Tensor
    sd: Tensor
    total: Tensor
    expert: Tensor
    policy: Tensor


def policy_uncertainty(found: Imitation | Fit, states: Any, draws: int = 500) -> Uncertainty:
    r"""How sure a posterior over policies is, state by state.

    Parameters
    ----------
    found
        A result or a fit of `TrajectoryModel` with posterior draws: of `NUTS`, `SVI`, `Laplace` or
        `VBEM`.
    states
        [n, \*state].
    draws
        Most draws that are averaged, evenly spread.

    Returns
    -------
    Uncertainty
        By state.

    Raises
    ------
    FitError
        For a point fit, which is never unsure, or a fit without its program.
    OptionError
        If actions are not Discrete.

    Examples
    --------
    >>> from likely.inference import VBEM
    >>> from likely.models import TabularPolicy
    >>> seen = Trajectories.from_arrays([[0] * 41, [1, 0]], [[0] * 40, [0]], action_space=2)
    >>> fit = behaviour_cloning(seen, TabularPolicy(2, 2), VBEM())
    >>> sd = policy_uncertainty(fit, [0, 1]).sd[:, 0]
    >>> bool(sd[0] < sd[1])
    True
    """
    check_int("draws", draws, 1)
    fit = found.fit if isinstance(found, Imitation) else found
    model, values = posterior_draws(fit, draws, "policy_uncertainty")
    policy = model.policy
    if not policy.discrete:
        raise OptionError("policy: the uncertainty of actions by state needs Discrete actions")
    rows = [ActingPolicy(policy, value).probabilities(states) for value in values]
    table = torch.stack(rows)
    mean = table.mean(0)
    total, own = _entropy(mean), _entropy(table).mean(0)
    return Uncertainty(mean, table.std(0, correction=0), total, own, (total - own).clamp_min(0.0))


def _entropy(table: Tensor) -> Tensor:
    return -torch.special.xlogy(table, table).sum(-1)
