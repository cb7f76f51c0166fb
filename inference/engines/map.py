"""Maximum a posteriori."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from likely.inference.engines.gradient import PointEngine, PointOptions


@dataclass(frozen=True, kw_only=True)
class MAP(PointEngine, PointOptions):
    """Maximum a posteriori: argmax log p(data, θ), the density in the constrained space.

    The search moves in unconstrained coordinates, but what it maximises has no Jacobian: a
    Beta(2, 2) prior and one head give 2/3. (`Laplace` takes the mode of the unconstrained density.)

    See `PointOptions` and `SearchOptions` for the options.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def coin(heads):
    ...     p = pyro.sample("p", dist.Beta(2.0, 2.0))
    ...     with pyro.plate("toss", len(heads)):
    ...         pyro.sample("heads", dist.Bernoulli(p), obs=heads)
    >>> fit = MAP().fit(coin, torch.tensor([1.0]))
    >>> round(float(fit.params["p"]), 6)
    0.666667
    """

    name: ClassVar[str] = "map"
    with_prior: ClassVar[bool] = True
