"""Distributions of what a linear predictor leaves over."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from likely.envs import DataError

NOISES = ("normal", "laplace", "student")


def check_noise(noise: Any) -> None:
    """Raise `DataError` for a noise that there is not."""
    if noise not in NOISES:
        raise DataError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")


def sample_scale(fixed: float | None, prior_scale: float, like: Tensor) -> Tensor:
    """Sample the site ``scale``, or return the scale that is known."""
    if fixed is not None:
        return like.new_tensor(fixed)
    scale: Tensor = pyro.sample("scale", dist.HalfNormal(like.new_tensor(prior_scale)))
    return scale


def sample_degrees_of_freedom(fixed: float | None, like: Tensor) -> Tensor:
    """Sample the site ``degrees_of_freedom``, or return the number that is known.

    The prior is Gamma(2, 0.1), which has mean 20 and little weight where the variance is
    infinite (Juárez & Steel 2010, "Model-based clustering of non-Gaussian panel data based on
    skew-t distributions", section 3).
    """
    if fixed is not None:
        return like.new_tensor(fixed)
    prior = dist.Gamma(like.new_tensor(2.0), like.new_tensor(0.1))
    found: Tensor = pyro.sample("degrees_of_freedom", prior)
    return found


def noise_distribution(noise: str, mean: Tensor, scale: Tensor, degrees: Tensor | None) -> Any:
    """Distribution of the outcomes around their means ``[n]``."""
    if noise == "laplace":
        return dist.Laplace(mean, scale)
    if degrees is not None:
        return dist.StudentT(degrees, mean, scale)
    return dist.Normal(mean, scale)
