"""What tests of the reading of programs share: draws of unknowns, densities, small programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats

from likely.inference import Program
from likely.inference.program import Density

Values = dict[str, torch.Tensor]


def tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def drawn(program: Program, seed: int = 0) -> Values:
    """Values of the unknowns: draws from their priors; parameters a little off their starts."""
    unknowns = program.sites.unknowns
    values = {n: u.start + 0.3 * torch.randn(u.shape) for n, u in unknowns.items() if u.is_param}
    with program.session(seed):
        nodes = program.trace(lambda name, _: values.get(name), enumerate_latents=False).nodes
    return {name: values.get(name, nodes[name]["value"]).detach() for name in unknowns}


def density(program: Program, values: Values, **options: Any) -> Density:
    with program.session(0), torch.no_grad():
        return program.density(values, **options)


LOC = torch.tensor([[-1.0, 0.5, 2.0], [0.0, 1.5, -2.0]], dtype=torch.float64)
TABLE = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
X = torch.tensor([0.3, -1.2, 2.1, 0.8], dtype=torch.float64)


def log_normal(x: torch.Tensor, loc: Any, scale: float = 1.0) -> np.ndarray:
    """Normal log-densities by SciPy."""
    return stats.norm(float(loc), scale).logpdf(x.numpy())


def nested_plates(x: torch.Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("outer", 2, dim=-2):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        with pyro.plate("inner", 2, dim=-1):
            w = pyro.sample("w", dist.Bernoulli(0.2 + 0.5 * z))
            pyro.sample("x", dist.Normal(shift + w - 2 * z, 1.0), obs=x.reshape(2, 2))
