"""Gaps, evaluations and figures say which argument is wrong, what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.spaces import Discrete

from likely.envs import DataError, TabularMDP, Trajectories
from likely.inference import VBEM, OptionError
from likely.inference.imitation import (
    ActingPolicy,
    as_table,
    behaviour_cloning,
    cloning_gap,
    compare_returns,
    compounding,
    coverage,
    evaluate_returns,
    feature_gap,
    mean_interval,
    occupancy,
    play,
    plot_compounding,
    plot_uncertainty,
    policy_uncertainty,
)
from likely.models import TabularPolicy

pytestmark = pytest.mark.usefixtures("in_double")

LAKE = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.9)
EVEN = torch.full((17, 4), 0.25, dtype=torch.float64)


def with_entry(value: float) -> torch.Tensor:
    table = EVEN.clone()
    table[3, 1] = value
    return table


def seen() -> Trajectories:
    return play(LAKE, EVEN, 5, 0, 20)


BAD_POLICIES = {
    "nan": (with_entry(float("nan")), "finite.*first at"),
    "negative": (with_entry(-0.25), "must not be negative"),
    "no distribution": (2 * EVEN, "must sum to 1"),
    "truth values": (torch.ones(17, 4, dtype=torch.bool), "must sum to 1"),
    "text": ("best", "must hold real numbers"),
    "nothing": (None, "must hold real numbers"),
    "empty": (EVEN[:0], "is empty"),
    "another size": (EVEN[:5], "expected probabilities"),
}


@pytest.mark.parametrize("kind", sorted(BAD_POLICIES))
@pytest.mark.parametrize("name", ["policy", "expert"])
def test_policies_that_are_none(kind: str, name: str) -> None:
    bad, message = BAD_POLICIES[kind]
    with pytest.raises(DataError, match=f"^{name}.*{message}"):
        as_table(LAKE, bad, name)
    with pytest.raises(DataError, match=message):
        occupancy(LAKE, bad)
    both = {"policy": EVEN, "expert": EVEN, name: bad}
    with pytest.raises(DataError, match=f"^{name}"):
        cloning_gap(LAKE, **both)


CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "process": (lambda: cloning_gap("FrozenLake-v1", EVEN, EVEN), "mdp: .*'FrozenLake"),  # type: ignore[arg-type]
    "occupancy's": (lambda: occupancy(EVEN, EVEN), "mdp: expected a TabularMDP"),  # type: ignore[arg-type]
    "coverage": (lambda: coverage(LAKE, None, EVEN), "trajectories: .*NoneType"),  # type: ignore[arg-type]
    "fraction": (lambda: compounding(LAKE, EVEN, EVEN, [2.7]), "horizons.*got 2.7"),  # type: ignore[list-item]
    "text": (lambda: compounding(LAKE, EVEN, EVEN, "12"), "horizons.*'12'"),  # type: ignore[arg-type]
    "one": (lambda: compounding(LAKE, EVEN, EVEN, 5), "horizons.*got 5"),  # type: ignore[arg-type]
    "none": (lambda: compounding(LAKE, EVEN, EVEN, []), "horizons.*none"),
    "visits": (lambda: occupancy(LAKE, seen(), 0), "horizon.*got 0"),
    "steps": (lambda: occupancy(LAKE, EVEN, 2.5), "horizon.*got 2.5"),  # type: ignore[arg-type]
    "seed": (lambda: evaluate_returns(LAKE, EVEN, horizon=5, seed=-1), "seed.*got -1"),
    "level": (lambda: evaluate_returns(LAKE, EVEN, horizon=5, level=1), "level.*got 1"),
    "interval": (lambda: mean_interval([1.0, 2.0], 3), "level.*got 3"),
    "no numbers": (lambda: mean_interval([]), "values is empty"),
    "one is nan": (lambda: mean_interval([1.0, float("nan")]), "values must be finite"),
    "table": (lambda: mean_interval([[1.0, 2.0]]), r"values: expected \[n\]"),
    "letters": (lambda: mean_interval("ab"), "values must hold real numbers"),
    "methods": (lambda: compare_returns(LAKE, {}, horizon=5), "policies: .*got {}"),
    "a list": (lambda: compare_returns(LAKE, [EVEN], horizon=5), "policies: expected names"),  # type: ignore[arg-type]
    "norm": (lambda: feature_gap(LAKE, EVEN, EVEN, torch.eye(17), order=0), "order.*got 0"),
    "named": (
        lambda: feature_gap(LAKE, EVEN, EVEN, torch.eye(17), order="nuc"),  # type: ignore[arg-type]
        "order.*'nuc'",
    ),
    "columns": (lambda: plot_compounding(pd.DataFrame({"gap": [1.0]})), "tables: expected"),
    "rows": (lambda: plot_compounding([1]), "tables: expected"),  # type: ignore[arg-type]
    "off the grid": (lambda: plot_uncertainty(torch.ones(1), [[-1, -1]]), "at least one state"),
    "half a cell": (lambda: plot_uncertainty(torch.ones(1), [[0.5, 0.0]]), "whole numbers"),
    "counts": (
        lambda: plot_uncertainty(torch.ones(2), [[0, 0], [0, 1]], visits=[1]),
        "visits: expected 2.*got 1",
    ),
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_arguments_that_cannot_be_used(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises((OptionError, DataError), match=message):
        call()


def test_whole_numbers_of_numpy_are_horizons() -> None:
    table = compounding(LAKE, EVEN, EVEN, np.array([5, 6]))  # type: ignore[arg-type]
    assert table["horizon"].tolist() == [5, 6]


@pytest.mark.parametrize("states", [[99], [-1], [0.5]])
def test_states_that_a_posterior_does_not_know(states: Any) -> None:
    found = behaviour_cloning(seen(), TabularPolicy(17, 4), VBEM(draws=10))
    with pytest.raises(DataError, match="states: "):
        policy_uncertainty(found, states)
    for draws in (0, 2.5):
        with pytest.raises(OptionError, match="draws must be an integer"):
            policy_uncertainty(found, [0], draws=draws)  # type: ignore[arg-type]


def test_values_that_are_no_numbers_do_not_play() -> None:
    table = torch.full((2, 2), torch.nan)
    with pytest.raises(DataError, match=r"params\['policy'\]: expected finite numbers"):
        _ = ActingPolicy(TabularPolicy(2, 2), {"policy": table}, Discrete(2)).table
