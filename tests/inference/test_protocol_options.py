"""Options that make no sense, and programs that an engine cannot fit, are refused by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import (
    EM,
    MAP,
    MLE,
    NUTS,
    SVI,
    VBEM,
    Laplace,
    OptionError,
    ProgramError,
    fit,
)
from protocol_cases import X, measured

# The budgets here are far too small for some engines to converge; the tests of that ask for it.
pytestmark = pytest.mark.filterwarnings(
    "ignore::likely.inference.errors.ConvergenceWarning",
)

# -- options ---------------------------------------------------------------------------------------


EVERYONE = (MLE, MAP, EM, SVI, Laplace, NUTS, VBEM)
SEARCHES = (MLE, MAP, EM, SVI, Laplace, VBEM)
BAD_OPTIONS: list[tuple[tuple[Any, ...], str, list[Any]]] = [
    (EVERYONE, "seed", [-1, 1.5, "0", True, None]),
    (EVERYONE, "dtype", [torch.int64, "float64", None]),
    (EVERYONE, "device", ["nowhere", 1.5]),
    (EVERYONE, "init", [3, [("loc", 1.0)], "map"]),
    (EVERYONE, "callback", [3, "print"]),
    (EVERYONE, "progress", ["yes", 1, None]),
    (EVERYONE, "relabel", ["yes", 1, None]),
    (SEARCHES, "max_iter", [0, -5, 10.0, True]),
    (SEARCHES, "tol", [0, -1e-6, math.nan, math.inf, "small", True]),
    (SEARCHES, "restarts", [0, 2.0]),
    ((MLE, MAP), "optimizer", ["newton", 3]),
    ((MLE, MAP, SVI), "batch_size", [0, 2.5]),
    ((MLE, MAP), "em_steps", [-1, 1.0]),
    ((MLE, MAP, EM, SVI), "path", [3, ["run"]]),
    ((MLE, MAP, EM, SVI), "save_every", [0, 2.5]),
    ((EM,), "objective", ["posteriori", None]),
    ((EM,), "m_step_iter", [0, 1.5]),
    ((EM,), "hard", ["yes", 1]),
    ((SVI,), "guide", ["normals", 3]),
    ((SVI,), "learning_rate", [0.0, -0.1, math.nan, "fast"]),
    ((SVI,), "num_particles", [0, 1.5]),
    ((SVI,), "optimizer", [torch.optim.Adam, "adam"]),
    ((SVI, Laplace, VBEM), "draws", [1, 10.0]),
    ((NUTS,), "draws", [3, 10.0]),
    ((NUTS,), "warmup", [0, 10.0]),
    ((NUTS,), "chains", [0, 1.5]),
    ((NUTS,), "cores", [0, 1.5]),
    ((NUTS,), "backend", ["stan", None]),
    ((NUTS,), "target_accept", [0.0, 1.0, 1.5, math.nan, "high"]),
    ((NUTS,), "max_tree_depth", [0, 2.5]),
    ((NUTS,), "dense_mass", ["yes", 1]),
    ((NUTS,), "jit", ["yes", 1]),
]


@pytest.mark.parametrize(
    ("made", "option", "value"),
    [
        pytest.param(made, option, value, id=f"{made.name}-{option}-{value}")
        for classes, option, values in BAD_OPTIONS
        for made in classes
        for value in values
    ],
)
def test_a_bad_value_of_an_option_is_refused_by_name(made: Any, option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=option):
        made(**{option: value})


def test_every_option_of_every_engine_has_a_bad_value_above() -> None:
    tested = {(made, option) for classes, option, _ in BAD_OPTIONS for made in classes}
    declared = {(made, f.name) for made in EVERYONE for f in dataclasses.fields(made)}
    assert tested == declared


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"'mle', 'map', 'em', .*got 'gibbs'"):
        fit(measured, X, engine="gibbs")


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"'em' has no option 'itermax'; .*max_iter"):
        fit(measured, X, engine="em", itermax=3)


def test_options_beside_an_engine_are_refused() -> None:
    with pytest.raises(OptionError, match=r"'seed' were given beside an engine"):
        fit(measured, X, engine=MAP(), seed=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [{"callback": print}, {"dense_mass": True}], ids=str)
def test_nutpie_refuses_what_it_cannot_do(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(OptionError, match=f"{name} needs backend='pyro'"):
        NUTS(backend="nutpie", **option)


# -- what some engines cannot fit ------------------------------------------------------------------


@pytest.mark.parametrize("made", [NUTS(), NUTS(backend="nutpie"), Laplace()], ids=str)
def test_a_posterior_needs_priors(made: Any, configs: Any) -> None:
    config = configs["module"]
    with pytest.raises(ProgramError, match=r"'net\$\$\$weight', 'net\$\$\$bias' are parameters"):
        made.fit(config.program, *config.args)


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_of_a_program_that_does_not_index_its_data_is_refused(
    size: int, configs: Any
) -> None:
    config = configs["two-bells"]
    with pytest.raises(ProgramError, match="plate 'point' cannot be subsampled"):
        MLE(batch_size=size).fit(config.program, *config.args)


def test_a_batch_larger_than_the_plate_is_refused() -> None:
    with pytest.raises(OptionError, match="batch_size must be at most the 8 members"):
        MLE(batch_size=9).fit(measured, X)


def below_a_latent(x: Any) -> None:
    z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
    u = pyro.sample("u", dist.Normal(torch.tensor([-1.0, 2.0])[z], 0.5))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Normal(u, 1.0), obs=x)


def test_the_likelihood_has_no_e_step_where_a_prior_depends_on_a_latent() -> None:
    with pytest.raises(ProgramError, match=r"prior of site 'u' depends on a discrete latent"):
        EM().fit(below_a_latent, X)


@pytest.mark.parametrize("made", [MAP(), EM(objective="posterior")], ids=["map", "em"])
def test_a_posterior_mode_below_a_latent_is_found(made: Any) -> None:
    found = made.fit(below_a_latent, X)
    # The mode of a mixture of two normals times eight normal factors, on a fine grid.
    grid = torch.linspace(-1.0, 3.0, 400_001, dtype=torch.float64)
    prior = torch.logaddexp(
        math.log(0.3) + dist.Normal(-1.0, 0.5).log_prob(grid),
        math.log(0.7) + dist.Normal(2.0, 0.5).log_prob(grid),
    )
    total = prior - 0.5 * (len(X) * grid**2 - 2 * X.sum() * grid)
    assert float(found.params["u"]) == pytest.approx(float(grid[total.argmax()]), abs=2e-5)
