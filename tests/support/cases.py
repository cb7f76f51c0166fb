"""Engines and programs that tests are run for: what a case of each says of itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from likely.inference import EM, MAP, MLE, NUTS, SVI, Fit, Laplace

Values = dict[str, torch.Tensor]


@contextmanager
def double_precision(seed: int = 0) -> Iterator[None]:
    """Seeded random numbers and float64 by default, both put back afterwards."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@dataclass(frozen=True, kw_only=True)
class EngineCase:
    """An engine with options that make it fast enough for many tests.

    Attributes
    ----------
    posterior : bool
        Whether it brings draws from a posterior; otherwise a point.
    stochastic : bool
        Whether another seed gives another answer.
    searches : bool
        Whether it climbs to an optimum, from which a second search need not climb again.
    keeps_params : bool
        Whether it fits parameters without a prior.
    watched : bool
        Whether it calls a callback.
    everywhere : bool
        Whether it takes part in every ``case``; a variant of another engine does not.
    needs : str, optional
        A package without which it is left out.
    """

    name: str
    engine: Any
    posterior: bool = False
    stochastic: bool = False
    searches: bool = False
    keeps_params: bool = True
    watched: bool = True
    everywhere: bool = True
    needs: str | None = None

    @property
    def available(self) -> bool:
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


ENGINES = [
    EngineCase(name="mle", engine=MLE(), searches=True),
    EngineCase(name="map", engine=MAP(), searches=True),
    EngineCase(name="em", engine=EM(), searches=True),
    EngineCase(name="em-posterior", engine=EM(objective="posterior"), searches=True),
    EngineCase(
        name="svi",
        engine=SVI(guide="multivariate", max_iter=300, learning_rate=0.05, draws=100),
        posterior=True,
        stochastic=True,
    ),
    EngineCase(
        name="laplace",
        engine=Laplace(draws=500),
        posterior=True,
        stochastic=True,
        searches=True,
        keeps_params=False,
    ),
    EngineCase(
        name="nuts",
        engine=NUTS(chains=2, draws=250, warmup=100, cores=1),
        posterior=True,
        stochastic=True,
        keeps_params=False,
    ),
    EngineCase(
        name="nuts-nutpie",
        engine=NUTS(chains=2, draws=250, warmup=100, backend="nutpie"),
        posterior=True,
        stochastic=True,
        keeps_params=False,
        watched=False,
        everywhere=False,
        needs="nutpie",
    ),
    EngineCase(
        name="map-adam",
        engine=MAP(optimizer="adam", max_iter=2000, tol=1e-12),
        searches=True,
        everywhere=False,
    ),
    EngineCase(name="em-hard", engine=EM(hard=True), searches=True, everywhere=False),
    EngineCase(
        name="svi-normal",
        engine=SVI(max_iter=400, learning_rate=0.05, draws=200),
        posterior=True,
        stochastic=True,
        everywhere=False,
    ),
]


@dataclass(frozen=True, eq=False, kw_only=True)
class Config:
    """A program, the values its data are drawn at, and how to draw them.

    Attributes
    ----------
    truth : dict of str to Tensor
        Value of every unknown.
    design, sizes : tuple, dict
        Arguments that make the program simulate.
    bind : callable
        ``bind(outcomes, *design)`` gives the arguments that make the program see the outcomes.
    plate : str, optional
        A plate whose indices the program uses, so that it can be subsampled.
    order : dict of str to int, or several
        Sites whose axes may come out permuted; the first is sorted to tell what is what.
    latents, params : bool
        Whether it has discrete latents; whether it has parameters without a prior.
    unfit : frozenset of str
        Engines that cannot fit the program.
    options : dict
        Options by engine that differ from those in `ENGINES`.
    """

    name: str
    program: Callable[..., Any]
    truth: Mapping[str, Any]
    design: Callable[[], tuple[Any, ...]] = tuple
    sizes: Mapping[str, Any] = field(default_factory=dict)
    bind: Callable[..., tuple[Any, ...]] = lambda outcomes, *design: (*design, outcomes)
    plate: str | None = None
    order: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    latents: bool = False
    params: bool = False
    unfit: frozenset[str] = frozenset()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0

    @cached_property
    def values(self) -> Values:
        """``truth`` as float64 tensors."""
        return {n: torch.as_tensor(v, dtype=torch.float64) for n, v in self.truth.items()}

    @cached_property
    def args(self) -> tuple[Any, ...]:
        """Arguments of the program, with outcomes that were drawn at ``truth``."""
        with double_precision(self.seed + 1):
            design = self.design()
            outcomes = poutine.condition(self.simulator, self.values)(*design, **self.sizes)
        return tuple(self.bind(outcomes.detach(), *design))

    @property
    def simulator(self) -> Callable[..., Any]:
        """The program with its parameters, if it has any, at ``truth``."""
        if not self.params:
            return self.program
        net = linear_layer(self.values["net$$$weight"], self.values["net$$$bias"])
        return readout(net)

    def aligned(self, values: Mapping[str, torch.Tensor]) -> Values:
        """The values in the order of ``truth``, where the program does not tell parts apart."""
        found = dict(values)
        if not self.order:
            return found
        first = next(iter(self.order))
        keys = found[first].reshape(len(found[first]), -1)[:, 0]
        reference = self.values[first].reshape(len(keys), -1)[:, 0]
        order = keys.argsort()[reference.argsort().argsort()]
        for name, axes in self.order.items():
            for axis in (axes,) if isinstance(axes, int) else axes:
                if name in found:
                    found[name] = found[name].index_select(axis, order)
        return found


def linear_layer(weight: Any = None, bias: Any = None) -> torch.nn.Module:
    """A layer [1, 2] that starts at zero unless told otherwise."""
    net = torch.nn.Linear(2, 1)
    with torch.no_grad():
        for parameter, value in ((net.weight, weight), (net.bias, bias)):
            parameter.copy_(torch.zeros_like(parameter) if value is None else value)
    return net


def readout(net: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """A linear layer whose weights have no prior, with noise that has one."""

    def network(x: torch.Tensor, y: Any = None) -> torch.Tensor:
        pyro.module("net", net)
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(x)) as index:
            mean = net(x[index]).squeeze(-1)
            return pyro.sample("y", dist.Normal(mean, noise), obs=None if y is None else y[index])

    return network


@dataclass(frozen=True, eq=False)
class Case:
    """A program and an engine that can fit it."""

    config: Config
    by: EngineCase

    def __str__(self) -> str:
        return f"{self.config.name}-{self.by.name}"

    @property
    def engine(self) -> Any:
        return replace(self.by.engine, **self.config.options.get(self.by.name, {}))

    def fit(self) -> Fit:
        result: Fit = self.engine.fit(self.config.program, *self.config.args)
        return result
