"""Programs that cannot be read are refused, by the name of the site."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.envs import DataError
from likely.inference import MLE, Program, ProgramError
from likely.models import DawidSkene, GaussianMixture, GaussianModel
from program_reading import X, nested_plates, tensor

pytestmark = pytest.mark.usefixtures("in_double")


def observe(x: torch.Tensor, loc: Any, size: int = 4) -> None:
    with pyro.plate("n", size):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def without_unknowns(x: torch.Tensor) -> None:
    observe(x, pyro.sample("z", dist.Bernoulli(0.5)))


def without_data(x: torch.Tensor) -> None:
    pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("left_out", dist.Bernoulli(0.5))


def infinite_support(x: torch.Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("n", 4):
        count = pyro.sample("count", dist.Poisson(rate))
        pyro.sample("x", dist.Normal(count, 1.0), obs=x)


def outside_its_support(x: torch.Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("n", 4):
        pyro.sample("events", dist.Poisson(rate), obs=x)


def with_nan(x: torch.Tensor) -> None:
    observe(torch.where(x > 2, torch.nan, x), pyro.sample("a", dist.Normal(0.0, 1.0)))


def one_name_twice(x: torch.Tensor) -> None:
    pyro.sample("twin", dist.Normal(0.0, 1.0))
    observe(x, pyro.sample("twin", dist.Normal(0.0, 1.0)))


def plate_of_a_sites_name(x: torch.Tensor) -> None:
    observe(x, pyro.sample("n", dist.Normal(0.0, 1.0)))


def python_branch(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    chosen = pyro.sample("chosen", dist.Bernoulli(0.5))
    observe(x, a if chosen else -a)


def too_many_rows(x: torch.Tensor) -> None:
    observe(x, pyro.sample("a", dist.Normal(0.0, 1.0)), size=5)


def too_many_locations(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    observe(x, a + torch.zeros(4), size=5)


def unnamed_around_a_latent(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.sample("x", dist.Normal(a + z, 1.0), obs=x)


def unnamed_latents(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(torch.full((4,), 0.5)))
    pyro.sample("x", dist.Normal(a + z, 1.0), obs=x)


def unnamed_data_below_a_latent(x: torch.Tensor) -> None:
    # As many rows as the latent has values: the shapes alone would fit.
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.sample("x", dist.Normal(a + z, 1.0), obs=x[:2])


def its_own_subsample(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 4, subsample_size=2) as index:
        pyro.sample("x", dist.Normal(a, 1.0), obs=x[index])


def index_out_of_range(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    observe(x[torch.arange(5)], a)


UNREADABLE = [
    (without_unknowns, r"no unknowns: .*continuous pyro\.sample site or a pyro\.param"),
    (without_data, r"no observed site.*obs=.*'left_out'"),
    (infinite_support, r"'count' is a discrete latent with distribution Poisson"),
    (outside_its_support, r"'events' cannot have come from Poisson"),
    (with_nan, r"'x' .*"),
    (one_name_twice, r"two sites are called 'twin'"),
    (plate_of_a_sites_name, r"two sites are called 'n'"),
    (python_branch, r"after site 'chosen'.*cannot branch.*torch\.where"),
    (too_many_rows, r"'x' cannot have come from"),
    (too_many_locations, r"(?s)'x'.*plate and.*|Shape mismatch inside plate.*'n'.*disagree"),
    (unnamed_around_a_latent, r"'x' .*no plate names.*pyro\.plate"),
    (unnamed_latents, r"'z' .*no plate names.*pyro\.plate"),
    (unnamed_data_below_a_latent, r"'x' .*no plate names.*pyro\.plate"),
    (its_own_subsample, r"plate 'rows' subsamples itself.*batch_size"),
    (index_out_of_range, r"after site 'a': index 4 is out of bounds"),
]


@pytest.mark.parametrize(
    ("source", "message"), UNREADABLE, ids=[source.__name__ for source, _ in UNREADABLE]
)
def test_an_unreadable_program_is_refused_by_site(source: Callable[..., Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        Program(source, X)


def crossed_plates(x: torch.Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 2, dim=-1)
    with rows:
        u = pyro.sample("u", dist.Bernoulli(0.5))
    with columns:
        v = pyro.sample("v", dist.Bernoulli(0.5))
    with rows, columns:
        pyro.sample("x", dist.Normal(a + u * v, 1.0), obs=x.reshape(2, 2))


def test_latents_across_crossed_plates_are_refused_by_every_engine(engine: Any) -> None:
    with pytest.raises(ProgramError, match=r"'u', 'v', 'x' cannot be summed out: they cross"):
        engine.engine.fit(crossed_plates, X)


@pytest.mark.parametrize("given", [3, "two_bells", None])
def test_what_is_not_callable_is_no_program(given: Any) -> None:
    with pytest.raises(ProgramError, match="must be a callable"):
        Program(given, X)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ProgramError, match=r"at its start.*missing 1 required .*'x'"):
        Program(nested_plates)


def test_a_start_without_a_finite_density_names_the_site() -> None:
    def program(x: torch.Tensor) -> None:
        top = pyro.sample("top", dist.Gamma(2.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("below", dist.Uniform(0.0, top), obs=x)

    with pytest.raises(ProgramError, match=r"not finite at the start.*'below'.*init"):
        MLE(init={"top": 1.0}).fit(program, tensor([0.5, 1.5]))


@pytest.mark.parametrize(
    ("source", "args", "message"),
    [
        (GaussianModel(), (torch.ones(2, 2),), "y must be one-dimensional"),
        (GaussianModel(), (torch.tensor([1.0, math.nan]),), "y must be finite"),
        (GaussianMixture(3), (torch.ones(4),), "x must be two-dimensional"),
    ],
)
def test_data_errors_of_built_in_programs_pass_through(
    source: Any, args: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Program(source, *args)
    assert type(caught.value) is DataError


def test_data_errors_pass_through_every_engine(engine: Any) -> None:
    with pytest.raises(DataError, match="y must be one-dimensional"):
        engine.engine.fit(GaussianModel(), torch.ones(2, 2))


def test_a_program_that_wants_other_arguments_is_refused_by_every_engine(engine: Any) -> None:
    with pytest.raises(ProgramError, match="at its start"):
        engine.engine.fit(DawidSkene(2))
