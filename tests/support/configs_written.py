"""Programs as users write them."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex

from cases import Config, linear_layer, readout
from designs import TRACED, covariates


def two_bells(x: Any = None, n: int = 0) -> torch.Tensor:
    n = n if x is None else len(x)
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("point", n):
        z = pyro.sample("z", dist.Categorical(weights))
        return pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def zero_inflated_poisson(y: Any = None, n: int = 0) -> torch.Tensor:
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(1.0, 0.1))
    with pyro.plate("count", n if y is None else len(y)) as index:
        absent = pyro.sample("absent", dist.Bernoulli(gate))
        # A rate of exactly zero has no derivative.
        level = torch.where(absent == 1, torch.tensor(1e-20), rate)
        return pyro.sample("y", dist.Poisson(level), obs=None if y is None else y[index])


def schools(y: Any = None, n: int = 0) -> torch.Tensor:
    """Groups around a common mean, written with effects in units of their spread."""
    groups = 6
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.LogNormal(0.0, 0.5))
    with pyro.plate("group", groups, dim=-1):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        level = pyro.deterministic("level", mean + spread * effect)
        with pyro.plate("pupil", n if y is None else len(y), dim=-2) as index:
            obs = None if y is None else y[index]
            return pyro.sample("y", dist.Normal(level, 1.0), obs=obs)


def blend(x: torch.Tensor, y: Any = None) -> torch.Tensor:
    """Proportions on a simplex that mix measurements, not categories."""
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(x)) as index:
        mean = x[index] @ shares
        return pyro.sample("y", dist.Normal(mean, noise), obs=None if y is None else y[index])


def nested_supports(y: Any = None, n: int = 0) -> torch.Tensor:
    """A level that lies below a ceiling which is itself unknown; ``y`` [n, 2] measures both."""
    ceiling = pyro.sample("ceiling", dist.LogNormal(0.0, 1.0))
    level = pyro.sample("level", dist.Uniform(0.0, ceiling))
    with pyro.plate("measurement", n if y is None else len(y)) as index:
        of_ceiling = None if y is None else y[index, 0]
        of_level = None if y is None else y[index, 1]
        first = pyro.sample("of_ceiling", dist.Normal(ceiling, 1.0), obs=of_ceiling)
        second = pyro.sample("of_level", dist.Normal(level, 0.5), obs=of_level)
    return torch.stack([first, second], -1)


def two_coins(y: Any = None, n: int = 0) -> torch.Tensor:
    """Bags of ten tosses of one of two coins; which coin is a one-hot latent."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("coin", 2):
        heads = pyro.sample("heads", dist.Beta(1.0, 1.0))
    with pyro.plate("bag", n if y is None else len(y)) as index:
        coin = pyro.sample("which", dist.OneHotCategorical(weights))
        probability = Vindex(heads)[coin.argmax(-1)]
        obs = None if y is None else y[index]
        return pyro.sample("y", dist.Binomial(10, probability), obs=obs)


WRITTEN = [
    Config(
        name="two-bells",
        program=two_bells,
        truth={"weights": [0.4, 0.6], "loc": [-2.0, 3.0], "scale": [1.0, 1.5]},
        sizes={"n": 150},
        order={"loc": 0, "weights": 0, "scale": 0},
        latents=True,
        options=TRACED,
    ),
    Config(
        name="zero-inflated-poisson",
        program=zero_inflated_poisson,
        truth={"gate": 0.3, "rate": 2.5},
        sizes={"n": 150},
        plate="count",
        latents=True,
        options=TRACED,
    ),
    Config(
        name="two-coins",
        program=two_coins,
        truth={"weights": [0.3, 0.7], "heads": [0.2, 0.75]},
        sizes={"n": 60},
        plate="bag",
        order={"heads": 0, "weights": 0},
        latents=True,
        options=TRACED,
    ),
    Config(
        name="module",
        program=readout(linear_layer()),
        truth={"net$$$weight": [[1.0, -0.5]], "net$$$bias": [0.3], "noise": 0.6},
        design=covariates(120, 2),
        plate="row",
        params=True,
    ),
    Config(
        name="schools",
        program=schools,
        truth={
            "mean": 1.0,
            "spread": 1.2,
            "effect": [-1.3, 0.4, 1.1, -0.2, 0.7, -0.6],
        },
        sizes={"n": 2},
        plate="pupil",
        # Effects that shrink with a growing spread leave the likelihood where it is.
        unfit=frozenset({"mle", "em"}),
        options=TRACED,
    ),
    Config(
        name="blend",
        program=blend,
        truth={"shares": [0.2, 0.5, 0.3], "noise": 0.5},
        design=covariates(120, 3),
        plate="row",
    ),
    Config(
        name="nested-supports",
        program=nested_supports,
        truth={"ceiling": 2.5, "level": 1.0},
        sizes={"n": 60},
        plate="measurement",
        # Automatic guides have one support for good.
        unfit=frozenset({"svi"}),
    ),
]
