"""Programs × engines, for every test that asks for them by name.

A test with an argument ``config`` runs for every program of `configs.CONFIGS`, ``latent_config``
for those with discrete latents, ``batch_config`` for those that can be subsampled; ``engine`` for
every engine of `cases.ENGINES`, ``searching_engine``, ``watched_engine`` and ``param_engine`` for
those that say so; and ``case`` for every program with every engine that can fit it. A program or an
engine joins all these tests by joining its list. Both lists lie in ``tests/support``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cases import ENGINES, Config, EngineCase, double_precision
from configs import CASES, CONFIGS
from likely.inference import Fit

# A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def named(thing: Config | EngineCase) -> str:
    return thing.name


def engines(flag: str) -> list[EngineCase]:
    """The engines that can be had here and say yes to ``flag``."""
    return [by for by in ENGINES if by.available and getattr(by, flag)]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Any:
    """Every program with every engine that can fit it."""
    return request.param


@pytest.fixture(params=CONFIGS, ids=named)
def config(request: pytest.FixtureRequest) -> Any:
    """Every program."""
    return request.param


@pytest.fixture(params=[config for config in CONFIGS if config.latents], ids=named)
def latent_config(request: pytest.FixtureRequest) -> Any:
    """Every program with discrete latents."""
    return request.param


@pytest.fixture(params=[config for config in CONFIGS if config.plate is not None], ids=named)
def batch_config(request: pytest.FixtureRequest) -> Any:
    """Every program that can be subsampled."""
    return request.param


@pytest.fixture(params=engines("available"), ids=named)
def engine(request: pytest.FixtureRequest) -> Any:
    """Every engine."""
    return request.param


@pytest.fixture(params=engines("searches"), ids=named)
def searching_engine(request: pytest.FixtureRequest) -> Any:
    """Every engine that climbs to an optimum."""
    return request.param


@pytest.fixture(params=engines("watched"), ids=named)
def watched_engine(request: pytest.FixtureRequest) -> Any:
    """Every engine that calls a callback."""
    return request.param


@pytest.fixture(params=engines("keeps_params"), ids=named)
def param_engine(request: pytest.FixtureRequest) -> Any:
    """Every engine that fits parameters without a prior."""
    return request.param


@pytest.fixture(scope="session")
def fitted() -> Callable[[str, str], Fit]:
    """``fitted(config, engine)`` gives a case's fit by their names, made once in a session."""
    made: dict[str, Fit] = {}
    cases = {str(case): case for case in CASES}

    def get(config: str, engine: str) -> Fit:
        key = f"{config}-{engine}"
        if key not in made:
            made[key] = cases[key].fit()
        return made[key]

    return get


@pytest.fixture(scope="session")
def configs() -> dict[str, Config]:
    """Every program with its data, by name."""
    return {config.name: config for config in CONFIGS}


@pytest.fixture
def in_double() -> Iterator[None]:
    """Float64 by default and seeded random numbers within a test."""
    with double_precision():
        yield
