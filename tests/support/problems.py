"""Small problems that the tests of several engines share."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyro
import pyro.distributions as dist
import torch

from likely.models import Annotations

ANESTHESIA = Path(__file__).resolve().parents[2] / "examples" / "data" / "anesthesia.csv"


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def two_rates(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
    with pyro.plate("count", len(y)) as index:
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(rate[z]), obs=y[index])


COUNTS = double([0, 1, 1, 2, 0, 3, 9, 12, 8, 10, 1, 2, 11, 7, 0])
START = {"weights": [0.5, 0.5], "rate": [1.0, 3.0]}


def annotations():
    return Annotations.from_frame(pd.read_csv(ANESTHESIA))


def line_data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, generator=generator, dtype=torch.float64)
    return x, 0.7 + x @ double([1.5, -2.0]) + 0.3 * noise
