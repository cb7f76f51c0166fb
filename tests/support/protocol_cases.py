"""A small problem and quick options for every engine, for the tests of what all engines promise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import is_validation_enabled

from likely.inference import (
    Fit,
)

X = torch.tensor([1.9, -0.3, 1.1, 2.4, 0.6, 1.5, 3.0, 0.2], dtype=torch.float64)


# Not where any engine would start by itself, and near enough for a curvature that is positive.
NEAR = {"loc": 1.8, "scale": 1.3}
QUICK: dict[str, dict[str, Any]] = {
    "svi": {"max_iter": 40, "draws": 20},
    "laplace": {"draws": 20},
    "nuts": {"draws": 20, "warmup": 20, "chains": 2},
}


class BoomError(Exception):
    """An error that nothing but these tests raises."""


def measured(x: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    pyro.deterministic("precision", scale**-2)
    with pyro.plate("reading", len(x)) as index:
        pyro.sample("x", dist.Normal(loc, scale), obs=x[index])


def quick(by: Any, **options: Any) -> Any:
    """An engine with a small budget."""
    return replace(by.engine, **{**QUICK.get(by.engine.name, {}), **options})


def same(first: Fit, second: Fit) -> bool:
    """Whether two fits have the same numbers to the last bit."""
    return first.params.keys() == second.params.keys() and all(
        torch.equal(first.params[name], second.params[name])
        and torch.equal(first.draws[name], second.draws[name])
        for name in first.params
    )


@contextmanager
def untouched() -> Iterator[None]:
    """Check that a block leaves everything global as it was."""

    def state() -> list[Any]:
        numpy_state = np.random.get_state()  # noqa: NPY002
        return [
            torch.get_rng_state().tolist(),
            [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy_state],
            random.getstate(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            {name: value.tolist() for name, value in pyro.get_param_store().items()},
            is_validation_enabled(),
            pyro.infer.util.is_validation_enabled(),
            dist.is_validation_enabled(),
            torch.distributions.Distribution._validate_args,
            len(_PYRO_STACK),
        ]

    before = state()
    yield
    assert state() == before
