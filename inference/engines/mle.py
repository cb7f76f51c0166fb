"""Maximum likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from likely.inference.engines.gradient import PointEngine, PointOptions


@dataclass(frozen=True, kw_only=True)
class MLE(PointEngine, PointOptions):
    """Maximum likelihood: argmax log p(data | θ), discrete latents summed out.

    Priors give only the support and the start. By default L-BFGS with a strong Wolfe line search
    (Nocedal & Wright 2006, algorithms 7.5 and 3.5) in unconstrained coordinates. An optimum on the
    boundary of a support (all heads: probability 1) is reported as the boundary, with a warning.

    See `PointOptions` and `SearchOptions` for the options.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def coin(heads):
    ...     p = pyro.sample("p", dist.Beta(2.0, 2.0))
    ...     with pyro.plate("toss", len(heads)):
    ...         pyro.sample("heads", dist.Bernoulli(p), obs=heads)
    >>> fit = MLE().fit(coin, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    >>> round(float(fit.params["p"]), 6)
    0.75
    """

    name: ClassVar[str] = "mle"
    with_prior: ClassVar[bool] = False
