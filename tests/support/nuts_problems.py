"""Problems that several tests of NUTS share."""

from __future__ import annotations

import pyro
import pyro.distributions as dist

from problems import double


def line(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    log_scale = pyro.sample("log_scale", dist.Normal(0.0, 1.0))
    with pyro.plate("point", len(x)):
        pyro.sample("x", dist.Normal(loc, log_scale.exp()), obs=x)


POINTS = double([1.3, 0.2, 2.1, 0.9, -0.4, 1.1])
SHORT = {"chains": 2, "draws": 200, "warmup": 100, "cores": 1}


def ridge(x):
    """A posterior with a correlation of -.9998."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(a + b, 0.02), obs=x)
