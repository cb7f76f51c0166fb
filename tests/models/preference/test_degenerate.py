"""Comparisons that leave something open: no ties or nothing else, columns that say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import biject_to

from likely.inference import (
    EM,
    MAP,
    MLE,
    BoundaryWarning,
    ConvergenceWarning,
    DegenerateWarning,
    Laplace,
)
from likely.models import BradleyTerry, Comparisons
from likely.models.preference import _information, standard_errors
from likely.models.preference.outcomes import AboveOne

FIRST, SECOND = list("aabbcc"), list("bccaab")
COUNTS = [5, 4, 3, 2, 1, 3]


def games(**options: Any) -> Comparisons:
    return Comparisons.from_arrays(FIRST, SECOND, COUNTS, [1, 2, 3, 3, 2, 1], **options)


@pytest.mark.parametrize("rule", ["davidson", "rao-kupper"])
def test_without_a_tie_the_optimum_is_on_the_boundary(rule: str) -> None:
    data = games()
    plain = MLE().fit(BradleyTerry(3), data)
    with pytest.warns(BoundaryWarning, match="'tie'"):
        fit = MLE().fit(BradleyTerry(3, ties=rule), data)
    assert float(fit.params["tie"]) == (0.0 if rule == "davidson" else 1.0)
    assert torch.allclose(fit.params["ability"], plain.params["ability"], atol=1e-6)
    with pytest.warns(BoundaryWarning, match="'tie'"):
        errors = fit.standard_errors()
    assert bool(errors["tie"].isnan())
    expected = plain.standard_errors()["ability"]
    assert torch.allclose(errors["ability"], expected, rtol=1e-5)


@pytest.mark.parametrize("rule", ["davidson", "rao-kupper"])
def test_a_start_without_ties_counts_the_prior(rule: str) -> None:
    program, data = BradleyTerry(3, ties=rule), games()
    start = program.initial(data)
    mode = MAP().fit(program, data).params["tie"]
    least = 0.0 if rule == "davidson" else 1.0
    # The prior on abilities moves the mode a little.
    assert float(start["tie"] - least) == pytest.approx(float(mode) - least, rel=0.2)
    draws = Laplace(draws=300).fit(program, data).draws["tie"]
    assert bool((draws > least).all())


def test_the_unknown_of_rao_and_kupper_is_above_one() -> None:
    loc, scale = torch.tensor(0.3).double(), torch.tensor(0.7).double()
    prior = AboveOne(loc, scale)
    there = biject_to(prior.support)
    values = there(torch.linspace(-30, 3, 50).double())
    assert bool((values >= 1).all())
    assert prior.expand([4]).sample((500,)).shape == (500, 4)
    assert bool((prior.expand([4]).sample((500,)) > 1).all())
    expected = torch.distributions.LogNormal(loc, scale).log_prob(torch.tensor(1.4).double())
    assert torch.allclose(prior.log_prob(torch.tensor(2.4).double()), expected)


@pytest.mark.parametrize("rule", ["davidson", "rao-kupper"])
def test_nothing_but_ties_is_named(rule: str) -> None:
    data = Comparisons.from_arrays(list("aab"), list("bcc"), ties=3)
    with pytest.warns(DegenerateWarning, match="all comparisons are ties"):
        MLE().fit(BradleyTerry(3, ties=rule), data)
    # A prior gives an answer, and nothing is said.
    assert float(MAP().fit(BradleyTerry(3, ties=rule), data).params["tie"]) < 10


COLUMN = np.random.default_rng(0).normal(size=(6, 1))
# What the first item alone has, less what the second has: a sum of abilities.
OF_ITEMS = np.array([[ord(i) - ord(j)] for i, j in zip(FIRST, SECOND, strict=True)], float)


@pytest.mark.parametrize(
    ("columns", "is_open"),
    [
        (COLUMN, False),
        (1e6 * COLUMN, False),
        (COLUMN @ np.ones((1, 2)), True),
        (OF_ITEMS, True),
        (np.zeros((6, 1)), True),
        (np.c_[COLUMN, COLUMN + 0.01 * COLUMN[::-1]], False),
    ],
    ids=["plain", "large units", "equal", "of the items", "zero", "nearly equal"],
)
def test_covariates_that_say_what_others_say_are_named(columns: np.ndarray, is_open: bool) -> None:
    data = games(covariates=columns)
    assert _information.open_unknowns(BradleyTerry(3), data) == ["coefficients"] * is_open
    # Priors on both sides leave nothing to the search.
    if is_open:
        with pytest.warns(DegenerateWarning, match="'coefficients' open"):
            MAP().fit(BradleyTerry(3), data)


def test_a_home_side_that_is_nowhere_is_named() -> None:
    data = games(home=0)
    with pytest.warns((DegenerateWarning, ConvergenceWarning)) as caught:
        MLE().fit(BradleyTerry(3, home_advantage=True), data)
    assert any("'home_advantage' open" in str(warning.message) for warning in caught)


def test_separated_home_sides_start_where_the_prior_says() -> None:
    data = Comparisons.from_arrays(list("abc"), list("bca"), home=1)
    program = BradleyTerry(3, home_advantage=True)
    start = program.initial(data)["home_advantage"]
    assert 0 < float(start) < 5
    with pytest.warns(ConvergenceWarning, match="home_advantage"):
        assert not MLE().fit(program, data).converged
    assert EM(objective="posterior").fit(program, data).converged


def test_the_diagonal_of_an_inverse_is_that_of_the_inverse() -> None:
    source = torch.Generator().manual_seed(0)
    for n in (1, 127, 300):
        root = torch.randn(n, n, generator=source, dtype=torch.float64)
        matrix = root @ root.T + n * torch.eye(n)
        found = _information._inverse_diagonal(torch.linalg.cholesky(matrix))
        assert torch.allclose(found, torch.linalg.inv(matrix).diagonal(), rtol=1e-12)


def test_rows_may_name_their_items_either_way_round() -> None:
    """Home rows lie above and below the diagonal; errors do not depend on which."""
    data = games(home=[1, -1, 1, 1, -1, 0])
    program = BradleyTerry(3, home_advantage=True)
    fit = MLE().fit(program, data)
    reordered = data.subset(torch.arange(len(data)).flip(0))
    other = MLE().fit(program, reordered)
    for name, error in standard_errors(fit).items():
        assert torch.allclose(error, standard_errors(other)[name], rtol=1e-8)
