"""How much each action of an episode counts in a policy gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from likely.envs import Trajectories
from likely.inference.errors import OptionError

Baseline = str | Callable[[Any], Any]
KINDS = ("return", "reward_to_go", "gae")
BASELINES = ("none", "mean", "value")
# Of the ridge regression that values are fitted by, in rows of data.
RIDGE = 1e-3


def step_weights(
    trajectories: Trajectories,
    kind: str = "reward_to_go",
    *,
    discount: float = 1.0,
    baseline: Baseline = "none",
    trace: float = 1.0,
    discount_steps: bool = True,
) -> Tensor:
    r"""Weights w_t with which Σ_t w_t ∇ log π(a_t | s_t) estimates the gradient of the objective.

    .. math:: w_t = \sum_u \gamma^u r_u, \qquad
              w_t = \gamma^t \Bigl(\sum_{u \ge t} \gamma^{u-t} r_u - b_t\Bigr), \qquad
              w_t = \gamma^t \sum_{u \ge t} (\gamma \lambda)^{u-t}
                    \bigl(r_u + \gamma V(s_{u+1}) - V(s_u)\bigr)

    are the whole return (Williams 1992), the reward to go with a baseline (Sutton & Barto 2018,
    section 13.4), and the generalised advantage (Schulman et al. 2016, equation 16).

    Parameters
    ----------
    trajectories
        Episodes with rewards.
    kind
        ``"return"``, ``"reward_to_go"`` or ``"gae"``.
    discount
        γ.
    baseline
        ``"none"``; ``"mean"``, what the other episodes got (from the same step on, of those that
        got that far); ``"value"``, a value function fitted to rewards to go (a table of Discrete
        states; else linear in the state, its square, and powers of the time), each half of the
        episodes judged by the other; or a function from states [n, \*state] to values [n]. None of
        them looks at the action that it judges, so none biases the gradient.
    trace
        λ of the generalised advantage, which needs values: 1 trusts the rewards, 0 the values.
    discount_steps
        Whether step t counts γ^t, which the gradient of the discounted objective needs. Without,
        late steps count like early ones, as many implementations have it (Thomas 2014, "Bias in
        natural actor-critic algorithms").

    Returns
    -------
    Tensor
        [N].

    Raises
    ------
    OptionError
        For an unknown name, values that are missing or of another shape, or a baseline from other
        episodes where there are none.

    Examples
    --------
    >>> one = Trajectories.from_arrays([[0, 0, 0]], [[0, 1]], [[1.0, 2.0]])
    >>> step_weights(one, "return").tolist(), step_weights(one).tolist()
    ([3.0, 3.0], [3.0, 2.0])
    """
    check_choices(kind, baseline)
    if kind == "return":
        found = trajectories.returns(discount)[trajectories.episode]
        if baseline == "none":
            return found
        if callable(baseline) or baseline == "value":
            raise OptionError("baseline: a whole return takes 'none' or 'mean'")
        return found - _mean_of_others(trajectories.returns(discount))[trajectories.episode]
    if kind == "gae":
        if not callable(baseline) and baseline != "value":
            raise OptionError("baseline: the generalised advantage needs 'value', or a function")
        weights = _generalised(trajectories, discount, trace, baseline)
    else:
        weights = trajectories.returns_to_go(discount)
        if baseline == "mean":
            weights = weights - _mean_by_step(trajectories, weights)
        elif baseline != "none":
            weights = weights - _values(trajectories, discount, baseline)[0]
    if discount_steps and discount != 1:
        weights = weights * discount ** trajectories.step.to(weights)
    return weights


def check_choices(kind: str, baseline: Baseline) -> None:
    """Raise an `OptionError` unless both are known."""
    if kind not in KINDS:
        raise OptionError(f"weight must be one of {', '.join(KINDS)}, got {kind!r}")
    if not callable(baseline) and baseline not in BASELINES:
        raise OptionError(
            f"baseline must be one of {', '.join(BASELINES)}, or a function of states, got "
            f"{baseline!r}"
        )


def _mean_of_others(values: Tensor) -> Tensor:
    if len(values) < 2:
        raise OptionError("baseline: a mean of other episodes needs at least two")
    return (values.sum() - values) / (len(values) - 1)


def _mean_by_step(trajectories: Trajectories, to_go: Tensor) -> Tensor:
    """Mean over other episodes that reached the same step; 0 where there is none."""
    if len(trajectories) < 2:
        raise OptionError("baseline: a mean of other episodes needs at least two")
    step, longest = trajectories.step, int(trajectories.lengths.max())
    total = to_go.new_zeros(longest).index_add_(0, step, to_go)
    count = torch.bincount(step, minlength=longest).to(to_go)
    others = count[step] - 1
    return torch.where(others > 0, (total[step] - to_go) / others.clamp_min(1.0), 0.0)


def _generalised(
    trajectories: Trajectories, discount: float, trace: float, baseline: Baseline
) -> Tensor:
    now, after = _values(trajectories, discount, baseline)
    assert trajectories.rewards is not None
    last = trajectories.step == trajectories.lengths[trajectories.episode] - 1
    over = last & trajectories.terminated[trajectories.episode]
    surprise = trajectories.rewards + discount * after.masked_fill(over, 0.0) - now
    # The sum of surprises from each step on is a return to go of another reward.
    return trajectories.with_rewards(surprise).returns_to_go(discount * trace)


def _values(
    trajectories: Trajectories, discount: float, baseline: Baseline
) -> tuple[Tensor, Tensor]:
    """Values of the states before and after each step, [N] each."""
    if callable(baseline):
        rows = trajectories.step_states, trajectories.next_states
        return _asked(baseline, rows[0]), _asked(baseline, rows[1])
    if len(trajectories) < 2:
        raise OptionError("baseline: values fitted to other episodes need at least two")
    to_go = trajectories.returns_to_go(discount)
    here = _features(trajectories, trajectories.step_states, trajectories.step)
    there = _features(trajectories, trajectories.next_states, trajectories.step + 1)
    now, after = torch.zeros_like(to_go), torch.zeros_like(to_go)
    half = trajectories.episode % 2
    for part in (0, 1):
        own, other = half == part, half != part
        x = here[other]
        gram = x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
        solution = torch.linalg.solve(gram, x.T @ to_go[other])
        now[own], after[own] = here[own] @ solution, there[own] @ solution
    return now, after


def _asked(baseline: Callable[[Any], Any], states: Tensor) -> Tensor:
    found = torch.as_tensor(baseline(states)).detach().double()
    if found.shape != (len(states),):
        raise OptionError(
            f"baseline: expected {len(states)} values, one a state, got {tuple(found.shape)}"
        )
    return found


def _features(trajectories: Trajectories, states: Tensor, step: Tensor) -> Tensor:
    """Indicators of Discrete states; else states, squares, and powers of the time."""
    space = trajectories.state_space
    if isinstance(space, Discrete):
        return torch.nn.functional.one_hot(states, int(space.n)).double()
    flat = states.flatten(1).double().clamp(-10.0, 10.0)
    time = step.double().unsqueeze(-1) / 100
    powers = [time**power for power in range(4)]
    return torch.cat([flat, flat.square(), *powers], -1)
