"""Data that a site or its plates cannot give are refused by name, with the mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from likely.inference import ProgramError
from likely.inference.program import Program


def normal(x: Any, mask: Any = True) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)), poutine.mask(mask=mask):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def masked(x: Any, mask: Any) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).mask(mask), obs=x)


def bernoulli(x: Any) -> None:
    probability = pyro.sample("probability", dist.Beta(1.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Bernoulli(probability), obs=x)


def gamma(x: Any) -> None:
    shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Gamma(shape, 1.0), obs=x)


COLUMN = r"'x' has data of shape \(3, 1\).*shape \(3, 3\).*'n' \(3\).*squeeze\(-1\).*to_event\(1\)"
FLOATING = "'x' cannot have come from Bernoulli.*give the data as floating numbers"
NUMBERS = "'x' cannot have come from Normal.*tensor, a NumPy array or a pandas object of numbers"
SOME = torch.tensor([True, False, True])
GAP = torch.tensor([1.0, torch.nan, 2.0])


@pytest.mark.parametrize(
    ("program", "args", "message"),
    [
        (normal, (torch.ones(3, 1),), COLUMN),
        (normal, (pd.DataFrame({"a": [1.0, 2.0, 3.0]}),), COLUMN),
        (bernoulli, (torch.tensor([0, 1]),), FLOATING),
        (bernoulli, (np.array([True, False]),), FLOATING),
        (bernoulli, (pd.Series([1, 0]),), FLOATING),
        (normal, ([0.0, 1.0],), NUMBERS),
        (normal, (["a", "b"],), NUMBERS),
        (normal, (np.array([1.0, None], dtype=object),), NUMBERS),
        (normal, (torch.tensor([1.0, torch.inf]),), "'x' has infinite data"),
        (normal, (torch.tensor([1.0, -torch.inf, 0.0]), SOME), "'x' has infinite data"),
        (gamma, (torch.tensor([1.0, torch.inf]),), "'x' has infinite data"),
        (normal, (GAP,), "(?s)'x'.*hold NaN: drop these"),
        (normal, (GAP, SOME), "(?s)'x'.*hold NaN: a mask leaves them"),
        (masked, (GAP, SOME), "(?s)'x'.*hold NaN: a mask leaves them"),
    ],
)
def test_impossible_data_are_refused(program: Any, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        Program(program, *args)


def test_a_batch_dimension_beside_a_plate_is_refused() -> None:
    def program(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 4):
            pyro.sample("x", dist.Normal(loc.expand(2, 1), 1.0), obs=x)

    with pytest.raises(ProgramError, match="dimension -2 is not that of a plate"):
        Program(program, torch.zeros(2, 4))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 3)])
def test_plates_may_be_broadcast_against_and_batches_outside_plates_stay(
    shape: tuple[int, ...],
) -> None:
    def in_plates(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 3, dim=-1):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def without(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    for program in (in_plates, without):
        assert Program(program, torch.zeros(shape)).sites.observed["x"].value is not None


def test_infinite_data_that_have_a_density_are_taken() -> None:
    class Censored(dist.Normal):
        """Infinity says that the value exceeds 1."""

        def log_prob(self, value: torch.Tensor) -> torch.Tensor:
            seen = super().log_prob(torch.where(torch.isinf(value), 0.0, value))
            return torch.where(torch.isinf(value), torch.log1p(-self.cdf(torch.ones(()))), seen)

    def program(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 0.1))
        with pyro.plate("n", len(x)):
            pyro.sample("x", Censored(loc, 1.0), obs=x)

    Program(program, torch.tensor([0.3, torch.inf]))
