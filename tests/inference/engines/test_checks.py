"""Engines' options: NumPy's numbers count, and what does not is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from likely.inference.engines.checks import (
    MOST_SEED,
    check_bool,
    check_choice,
    check_int,
    check_positive,
    check_seed,
    unbox,
)
from likely.inference.errors import OptionError


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2)])
def test_integers_of_numpy_count(value: Any) -> None:
    check_int("n", value, 2)
    check_seed("seed", value)
    check_positive("x", value)


@pytest.mark.parametrize("value", [True, np.True_, 2.0, "2", None, np.array([2]), 1, np.int64(1)])
def test_what_is_no_integer_or_too_small_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="n must be an integer of at least 2, got"):
        check_int("n", value, 2)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), 3])
def test_positive_numbers_count(value: Any) -> None:
    check_positive("x", value)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "1", None])
def test_what_is_not_positive_and_finite_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="x must be a positive finite number, got"):
        check_positive("x", value)


@pytest.mark.parametrize("value", [-1, MOST_SEED, 2**32, 1.5, True])
def test_seeds_that_a_generator_would_refuse_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match=f"seed must be an integer from 0 to {MOST_SEED - 1}"):
        check_seed("seed", value)


def test_flags_and_choices() -> None:
    check_bool("flag", np.True_)
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(OptionError, match="flag must be True or False, got 1"):
        check_bool("flag", 1)
    for other in ("c", np.array(["a"]), None, torch.ones(2)):
        with pytest.raises(OptionError, match="kind must be one of 'a', 'b', got"):
            check_choice("kind", other, ("a", "b"))


def test_unbox_gives_pythons_numbers() -> None:
    @dataclass(frozen=True)
    class Options:
        seed: Any
        tol: Any
        flag: Any
        name: str = "a"

    options = Options(np.int64(3), np.float32(0.5), np.True_)
    unbox(options)
    assert [type(value) for value in vars(options).values()] == [int, float, bool, str]
