"""Two outcomes told apart, an expert's steps and a learner's: by any module, or by a reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.func import functional_call

from likely.envs import DataError
from likely.models._options import check_number


@dataclass(frozen=True, eq=False)
class ModuleClassifier:
    r"""Binary outcomes whose log-odds a torch module computes.

    .. math:: y_i \sim \mathrm{Bernoulli}(\sigma(f(x_i)))

    Parameters
    ----------
    module
        From covariates [n, d] to log-odds [n] or [n, 1].
    prior_scale
        Standard deviation of normal priors of all weights, the sites ``classifier.<name>``.

    Examples
    --------
    >>> pyro.set_rng_seed(0)
    >>> ModuleClassifier(torch.nn.Linear(2, 1))(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    module: torch.nn.Module
    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.module, torch.nn.Module):
            raise DataError(f"module: expected a torch.nn.Module, got {type(self.module).__name__}")
        check_number(self.prior_scale, "prior_scale", positive=True)

    def __call__(self, x: Tensor, y: Any = None, *, weights: Any = None) -> Tensor:
        """Run the program on covariates [n, d], outcomes [n] and weights [n]."""
        values = {}
        for name, parameter in self.module.named_parameters():
            prior = dist.Normal(x.new_zeros(()), x.new_tensor(float(self.prior_scale)))
            shaped = prior.expand(parameter.shape).to_event(parameter.dim())
            values[name] = pyro.sample(f"classifier.{name}", shaped)
        scores = functional_call(self.module, values, (x,))
        if scores.shape not in ((len(x),), (len(x), 1)):
            raise DataError(f"module: expected scores [{len(x)}], got {tuple(scores.shape)}")
        weight = x.new_ones(len(x)) if weights is None else weights
        with pyro.plate("observation", len(x)), poutine.scale(scale=weight):
            fn = dist.Bernoulli(logits=scores.reshape(len(x)))
            found: Tensor = pyro.sample("y", fn, obs=y)
        return found

    def initial(self, x: Tensor, y: Any = None, *, weights: Any = None) -> dict[str, Tensor]:
        """Start where the module is."""
        own = self.module.named_parameters()
        return {f"classifier.{name}": value.detach().to(x) for name, value in own}


class ShapedSteps(NamedTuple):
    """What the program looks at of n steps.

    Attributes
    ----------
    reward : Tensor
        Features of the states, [n, F].
    shaping : Tensor
        γ φ(s') − φ(s), with nothing after an end, [n, H].
    log_policy : Tensor
        log π(a | s) of the learner, [n].
    """

    reward: Tensor
    shaping: Tensor
    log_policy: Tensor


@dataclass(frozen=True)
class ShapedReward:
    r"""The expert's steps, told from a policy's by a reward and a potential.

    .. math:: y \sim \mathrm{Bernoulli}(\sigma(f(s, s') - \log \pi(a \mid s))), \qquad
              f(s, s') = g(s) + \gamma h(s') - h(s)

    with g and h linear in features (Fu, Luo & Levine 2018, "Learning robust rewards with
    adversarial inverse reinforcement learning", equation 4). Where the learner is the expert, f is
    its advantage; in deterministic dynamics whose reward depends on the state alone, g is then
    that reward and h the value, both up to a constant (their theorem 5.1).

    Parameters
    ----------
    scale
        Standard deviation of normal priors of the sites ``reward_weights`` [F] and ``potential``
        [H], which decide the constant.

    Examples
    --------
    >>> steps = ShapedSteps(torch.eye(2), torch.zeros(2, 1), torch.zeros(2))
    >>> ShapedReward()(steps, torch.ones(2))
    tensor([1., 1.])
    """

    scale: float = 10.0

    def __post_init__(self) -> None:
        check_number(self.scale, "scale", positive=True)

    def __call__(self, steps: ShapedSteps, y: Any = None, *, weights: Any = None) -> Tensor:
        """Run the program on n steps, outcomes [n] (1 for the expert) and weights [n]."""
        n, like = len(steps.log_policy), steps.log_policy
        spread = like.new_tensor(float(self.scale))
        logits = -like
        for name, x in (("reward_weights", steps.reward), ("potential", steps.shaping)):
            prior = dist.Normal(torch.zeros_like(spread), spread).expand(x.shape[1:]).to_event(1)
            logits = logits + (x * pyro.sample(name, prior).unsqueeze(-2)).sum(-1)
        counts = like.new_ones(n) if weights is None else weights
        with pyro.plate("observation", n), poutine.scale(scale=counts):
            found: Tensor = pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)
        return found

    def initial(
        self, steps: ShapedSteps, y: Any = None, *, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at no reward and no potential."""
        sizes = {"reward_weights": steps.reward, "potential": steps.shaping}
        return {name: x.new_zeros(x.shape[1]) for name, x in sizes.items()}

    def log_odds(self, params: Mapping[str, Tensor], steps: ShapedSteps) -> Tensor:
        """f − log π, [n]: the program's own."""
        with torch.no_grad():
            held = poutine.condition(self, data=dict(params))
            trace = poutine.trace(held).get_trace(steps, steps.log_policy.new_ones(len(steps[2])))
        fn: Any = trace.nodes["y"]["fn"]
        found: Tensor = fn.logits
        return found
