"""Engines: ways of learning from data, each fitting any program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from likely.inference.engines.base import Engine
from likely.inference.engines.em import EM
from likely.inference.engines.laplace import Laplace
from likely.inference.engines.map import MAP
from likely.inference.engines.mle import MLE
from likely.inference.engines.nuts import NUTS
from likely.inference.engines.svi import SVI
from likely.inference.engines.vbem import VBEM
from likely.inference.errors import OptionError
from likely.inference.fit import Fit

ENGINES: dict[str, type[Any]] = {
    engine.name: engine for engine in (MLE, MAP, EM, SVI, Laplace, NUTS, VBEM)
}


def fit(program: Callable[..., Any], /, *args: Any, engine: str = "map", **options: Any) -> Fit:
    """Fit a program with an engine chosen by name.

    Parameters
    ----------
    program : callable
        Any Pyro program.
    *args
        What the program is called with.
    engine : {"mle", "map", "em", "svi", "laplace", "nuts", "vbem"} or Engine
        Which engine, or an engine with its options set.
    **options
        The engine's options.

    Returns
    -------
    Fit

    Raises
    ------
    OptionError
        If there is no such engine, or the engine has no such option.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def coin(heads):
    ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
    ...     with pyro.plate("toss", len(heads)):
    ...         pyro.sample("heads", dist.Bernoulli(p), obs=heads)
    >>> result = fit(coin, torch.tensor([1.0, 1.0, 1.0, 0.0]), engine="mle")
    >>> round(float(result.params["p"]), 6)
    0.75
    """
    if isinstance(engine, Engine) and not isinstance(engine, type):
        if options:
            raise OptionError(
                f"options {_listed(options)} were given beside an engine that has its "
                "own; set them on the engine"
            )
        return engine.fit(program, *args)
    if not isinstance(engine, str) or engine.lower() not in ENGINES:
        raise OptionError(f"engine must be one of {_listed(ENGINES)}, got {engine!r}")
    made = ENGINES[engine.lower()]
    known = [field.name for field in fields(made)]
    for option in options:
        if option not in known:
            raise OptionError(
                f"engine '{engine}' has no option '{option}'; it has {', '.join(known)}"
            )
    result: Fit = made(**options).fit(program, *args)
    return result


def _listed(names: Iterable[str]) -> str:
    # Not map(repr, names): in this package `map` is the module of that name.
    return ", ".join(repr(name) for name in names)


__all__ = [
    "EM",
    "ENGINES",
    "MAP",
    "MLE",
    "NUTS",
    "SVI",
    "VBEM",
    "Engine",
    "Laplace",
    "fit",
]
