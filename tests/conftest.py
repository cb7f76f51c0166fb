"""Programs × engines, for every test that asks for them by name.

A test with an argument ``config`` runs for every program of `CONFIGS`, ``latent_config`` for those
with discrete latents, ``batch_config`` for those that can be subsampled; ``engine`` for every
engine of `ENGINES`, ``searching_engine``, ``watched_engine`` and ``param_engine`` for those that
say so; and ``case`` for every program with every engine that can fit it. A program or an engine
joins all these tests by joining its list.
"""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from gymnasium.spaces import Box
from pyro import poutine
from pyro.ops.indexing import Vindex

from likely.envs import TabularMDP, Trajectories
from likely.inference import EM, MAP, MLE, NUTS, SVI, Fit, Laplace
from likely.models import (
    GLAD,
    MACE,
    Annotations,
    BernoulliModel,
    BradleyTerry,
    CategoricalModel,
    Comparisons,
    CrowdBradleyTerry,
    DawidSkene,
    FeatureDependentCrowd,
    GaussianMixture,
    GaussianModel,
    GaussianPolicy,
    HiddenMarkovModel,
    HierarchicalDawidSkene,
    LearningFromCrowds,
    LinearRegression,
    LogisticRegression,
    MaxEntIRL,
    Mixture,
    MixturePolicy,
    NaiveBayes,
    PlackettLuce,
    PoissonModel,
    PoissonRegression,
    Rankings,
    Sequences,
    SoftmaxRegression,
    TabularPolicy,
    TrajectoryModel,
)

# A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


# -- engines -------------------------------------------------------------------------------------


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


# -- programs as users write them ----------------------------------------------------------------


def two_bells(x: Any = None, n: int = 0) -> torch.Tensor:
    n = n if x is None else len(x)
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("point", n):
        z = pyro.sample("z", dist.Categorical(weights))
        return pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def zero_inflated_poisson(y: Any = None, n: int = 0) -> torch.Tensor:
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(1.0, 0.1))
    with pyro.plate("count", n if y is None else len(y)) as index:
        absent = pyro.sample("absent", dist.Bernoulli(gate))
        # A rate of exactly zero has no derivative.
        level = torch.where(absent == 1, torch.tensor(1e-20), rate)
        return pyro.sample("y", dist.Poisson(level), obs=None if y is None else y[index])


def readout(net: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """A linear layer whose weights have no prior, with noise that has one."""

    def network(x: torch.Tensor, y: Any = None) -> torch.Tensor:
        pyro.module("net", net)
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(x)) as index:
            mean = net(x[index]).squeeze(-1)
            return pyro.sample("y", dist.Normal(mean, noise), obs=None if y is None else y[index])

    return network


def schools(y: Any = None, n: int = 0) -> torch.Tensor:
    """Groups around a common mean, written with effects in units of their spread."""
    groups = 6
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.LogNormal(0.0, 0.5))
    with pyro.plate("group", groups, dim=-1):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        level = pyro.deterministic("level", mean + spread * effect)
        with pyro.plate("pupil", n if y is None else len(y), dim=-2) as index:
            obs = None if y is None else y[index]
            return pyro.sample("y", dist.Normal(level, 1.0), obs=obs)


def blend(x: torch.Tensor, y: Any = None) -> torch.Tensor:
    """Proportions on a simplex that mix measurements, not categories."""
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(x)) as index:
        mean = x[index] @ shares
        return pyro.sample("y", dist.Normal(mean, noise), obs=None if y is None else y[index])


def nested_supports(y: Any = None, n: int = 0) -> torch.Tensor:
    """A level that lies below a ceiling which is itself unknown; ``y`` [n, 2] measures both."""
    ceiling = pyro.sample("ceiling", dist.LogNormal(0.0, 1.0))
    level = pyro.sample("level", dist.Uniform(0.0, ceiling))
    with pyro.plate("measurement", n if y is None else len(y)) as index:
        of_ceiling = None if y is None else y[index, 0]
        of_level = None if y is None else y[index, 1]
        first = pyro.sample("of_ceiling", dist.Normal(ceiling, 1.0), obs=of_ceiling)
        second = pyro.sample("of_level", dist.Normal(level, 0.5), obs=of_level)
    return torch.stack([first, second], -1)


def two_coins(y: Any = None, n: int = 0) -> torch.Tensor:
    """Bags of ten tosses of one of two coins; which coin is a one-hot latent."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("coin", 2):
        heads = pyro.sample("heads", dist.Beta(1.0, 1.0))
    with pyro.plate("bag", n if y is None else len(y)) as index:
        coin = pyro.sample("which", dist.OneHotCategorical(weights))
        probability = Vindex(heads)[coin.argmax(-1)]
        obs = None if y is None else y[index]
        return pyro.sample("y", dist.Binomial(10, probability), obs=obs)


# -- programs with data --------------------------------------------------------------------------


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


def covariates(rows: int, columns: int) -> Callable[[], tuple[torch.Tensor]]:
    return lambda: (torch.randn(rows, columns),)


def classes(rows: int, n_classes: int) -> Callable[[], tuple[None, torch.Tensor]]:
    """No features yet, and a class for every row."""
    return lambda: (None, torch.randint(0, n_classes, (rows,)))


def partly_labelled(x: torch.Tensor, _: None, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Features with the labels of half of their rows."""
    return x, torch.where(torch.arange(len(x)) % 2 == 0, labels, -1)


def crowd(tasks: int, annotators: int, classes: int) -> Callable[[], tuple[Annotations]]:
    """Every annotator labels five tasks of six."""

    def design() -> tuple[Annotations]:
        pairs = [(i, a) for i in range(tasks) for a in range(annotators) if (i + a) % 6]
        task, annotator = zip(*pairs, strict=True)
        return (Annotations.from_arrays(task, annotator, None, classes=range(classes)),)

    return design


def described_crowd(tasks: int, annotators: int, classes: int) -> Callable[[], tuple[Annotations]]:
    """The same, with two features of every task."""

    def design() -> tuple[Annotations]:
        (plain,) = crowd(tasks, annotators, classes)()
        return (replace(plain, features=torch.randn(tasks, 2)),)

    return design


def wandering(episodes: int, states: int) -> Callable[[], tuple[Trajectories]]:
    """Episodes of one to nine steps through random states, of which two actions are asked."""

    def design() -> tuple[Trajectories]:
        lengths = torch.arange(episodes) % 9 + 1
        seen = torch.randint(0, states, (int(lengths.sum()) + episodes,))
        spaces = {"state_space": states, "action_space": 2}
        return (Trajectories.from_arrays(seen, None, lengths=lengths, **spaces),)

    return design


def drifting(episodes: int) -> Callable[[], tuple[Trajectories]]:
    """Episodes of three to seven steps on a line, whose actions are numbers on it."""

    def design() -> tuple[Trajectories]:
        lengths = torch.arange(episodes) % 5 + 3
        seen = torch.randn(int(lengths.sum()) + episodes, 1)
        line = Box(-torch.inf, torch.inf, (1,))
        return (Trajectories.from_arrays(seen, None, lengths=lengths, action_space=line),)

    return design


def league(teams: int, games: int) -> Callable[[], tuple[Comparisons]]:
    """Every team meets every other at home, so many times."""

    def design() -> tuple[Comparisons]:
        pairs = [(i, j) for i in range(teams) for j in range(teams) if i != j]
        first, second = zip(*pairs, strict=True)
        return (Comparisons.from_arrays(first, second, total=games, home=1),)

    return design


def judged(items: int, judges: int, times: int) -> Callable[[], tuple[Comparisons]]:
    """Every judge compares every pair, so many times."""

    def design() -> tuple[Comparisons]:
        rows = [(i, j, k) for i in range(items) for j in range(i) for k in range(judges)]
        first, second, judge = zip(*rows, strict=True)
        return (Comparisons.from_arrays(first, second, total=times, annotator=judge),)

    return design


def races(runners: int, number: int) -> Callable[[], tuple[Rankings]]:
    """Races of three or four runners in turn."""

    def design() -> tuple[Rankings]:
        lists = [[(r + k) % runners for k in range(3 + r % 2)] for r in range(number)]
        return (Rankings.from_lists(lists, items=range(runners), decided=False),)

    return design


def ring(n_states: int) -> TabularMDP:
    """Rooms in a ring: a step leads on or stays, and fails one time in five."""
    stay, on = torch.eye(n_states), torch.eye(n_states).roll(1, 1)
    moves = torch.stack([0.8 * stay + 0.2 * on, 0.2 * stay + 0.8 * on], 1)
    return TabularMDP(moves, torch.zeros(n_states), 0.8, 0)


# A traced density takes half the time of a step where the program is large.
TRACED = {"nuts": {"jit": True}}
TRACED_SHORT = {"nuts": {"jit": True, "draws": 100}}
# All scores of a softmax may move together; a wide prior makes that direction a long one.
UNIT_PRIORS = SoftmaxRegression(2, intercept_scale=1.0, coefficients_scale=1.0)
MIXTURE = {"locs": 0, "weights": 0, "scales": 0, "correlation_cholesky": 0}
CLUSTERS = {
    "weights": [0.4, 0.6],
    "locs": [[-2.0, 1.0], [2.0, 0.0]],
    "scales": [[0.7, 1.0], [1.0, 0.5]],
}
# Lengths of sequences.
CHAINS = [6, 14, 9, 1, 11] * 8

CONFIGS = [
    Config(
        name="bernoulli",
        program=BernoulliModel(),
        truth={"probability": 0.3},
        sizes={"n": 200},
        plate="observation",
    ),
    Config(
        name="categorical",
        program=CategoricalModel(3),
        truth={"probabilities": [0.2, 0.5, 0.3]},
        sizes={"n": 200},
        plate="observation",
    ),
    Config(
        name="poisson",
        program=PoissonModel(),
        truth={"rate": 4.0},
        sizes={"n": 150},
        plate="observation",
    ),
    Config(
        name="gaussian",
        program=GaussianModel(),
        truth={"loc": 1.5, "scale": 2.0},
        sizes={"n": 150},
        plate="observation",
    ),
    Config(
        name="linear",
        program=LinearRegression(),
        truth={"intercept": 0.5, "coefficients": [1.0, -2.0], "scale": 0.7},
        design=covariates(120, 2),
        plate="observation",
    ),
    Config(
        name="logistic",
        program=LogisticRegression(),
        truth={"intercept": -0.5, "coefficients": [1.0, -1.5]},
        design=covariates(200, 2),
        plate="observation",
    ),
    Config(
        name="linear-student",
        program=LinearRegression(noise="student"),
        truth={"intercept": 0.5, "coefficients": [1.0, -2.0], "scale": 0.7},
        design=covariates(120, 2),
        plate="observation",
    ),
    Config(
        name="poisson-regression",
        program=PoissonRegression(),
        truth={"intercept": 0.5, "coefficients": [0.4, -0.6]},
        design=covariates(120, 2),
        plate="observation",
    ),
    Config(
        name="bradley-terry",
        program=BradleyTerry(4, ties="davidson", home_advantage=True),
        truth={"ability": [0.9, 0.2, -0.3, -0.8], "home_advantage": 0.4, "tie": 0.7},
        design=league(4, 40),
        bind=lambda counts, data: (data.with_counts(counts),),
        plate="comparison",
    ),
    Config(
        name="crowd-bradley-terry",
        program=CrowdBradleyTerry(4),
        truth={"ability": [1.5, 0.5, -0.6, -1.4], "reliability": [0.95, 0.9, 0.6]},
        design=judged(4, 3, 400),
        bind=lambda counts, data: (data.with_counts(counts),),
        plate="comparison",
        latents=True,
        options={
            "nuts": {"jit": True, "warmup": 250},
            "svi": {"max_iter": 1500},
        },
    ),
    Config(
        name="plackett-luce",
        program=PlackettLuce(5),
        truth={"ability": [1.0, 0.4, 0.0, -0.5, -0.9]},
        design=races(5, 150),
        bind=lambda order, data: (data.with_order(order),),
        plate="ranking",
    ),
    Config(
        name="naive-bayes",
        program=NaiveBayes(2),
        truth={
            "prevalence": [0.4, 0.6],
            "feature_probabilities": [[0.8, 0.3, 0.6], [0.25, 0.7, 0.4]],
        },
        design=classes(120, 2),
        sizes={"dim": 3},
        bind=partly_labelled,
        plate="observation",
        latents=True,
        options=TRACED,
    ),
    Config(
        name="naive-bayes-counts",
        program=NaiveBayes(2, "multinomial"),
        truth={
            "prevalence": [0.4, 0.6],
            "feature_probabilities": [[0.5, 0.2, 0.3], [0.2, 0.6, 0.2]],
        },
        design=classes(100, 2),
        sizes={"dim": 3, "total": 5},
        bind=partly_labelled,
        plate="observation",
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="mixture-full",
        program=GaussianMixture(2, "full"),
        truth={
            **CLUSTERS,
            "correlation_cholesky": [[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [-0.28, 0.96]]],
        },
        sizes={"n": 150, "dim": 2},
        plate="observation",
        order=MIXTURE,
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="mixture-diag",
        program=GaussianMixture(2, "diag"),
        truth=CLUSTERS,
        sizes={"n": 150, "dim": 2},
        plate="observation",
        order=MIXTURE,
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="mixture-bernoulli",
        program=Mixture(2, "bernoulli", equal_weights=True),
        truth={"probabilities": [[0.15, 0.2, 0.8, 0.1], [0.85, 0.9, 0.3, 0.8]]},
        sizes={"n": 150, "dim": 4},
        plate="observation",
        order={"probabilities": 0},
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="dawid-skene",
        program=DawidSkene(2),
        truth={
            "prevalence": [0.4, 0.6],
            "confusion": [
                [[0.9, 0.1], [0.15, 0.85]],
                [[0.8, 0.2], [0.1, 0.9]],
                [[0.85, 0.15], [0.2, 0.8]],
                [[0.88, 0.12], [0.18, 0.82]],
                [[0.8, 0.2], [0.15, 0.85]],
            ],
        },
        design=crowd(160, 5, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        options={"nuts": {"jit": True, "draws": 150}},
    ),
    Config(
        name="mace",
        program=MACE(3),
        truth={
            "prevalence": [0.3, 0.3, 0.4],
            "competence": [0.6, 0.75, 0.5, 0.7, 0.65],
            "spam": [
                [0.2, 0.3, 0.5],
                [0.4, 0.3, 0.3],
                [0.5, 0.2, 0.3],
                [0.3, 0.4, 0.3],
                [0.35, 0.4, 0.25],
            ],
        },
        design=crowd(160, 5, 3),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="glad",
        program=GLAD(2, ability_prior=(1.5, 0.5), easiness_prior=(0.0, 0.3)),
        truth={
            "ability": [1.2, 2.0, 0.9, 1.6, 1.4],
            "easiness": [0.8, 1.0, 1.3, 0.9, 1.1, 0.7] * 3,
        },
        design=crowd(18, 5, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        latents=True,
        # Twice the abilities and half the easiness are the same likelihood.
        unfit=frozenset({"mle", "em"}),
        options={**TRACED_SHORT, "svi": {"max_iter": 800}},
    ),
    Config(
        name="hierarchical-dawid-skene",
        program=HierarchicalDawidSkene(2, spread_prior=0.5),
        truth={
            "prevalence": [0.4, 0.6],
            "population": [[0.9, 0.1], [0.12, 0.88]],
            "spread": [0.5, 0.4],
            "deviation": [
                [[0.4, -0.3], [-0.5, 0.2]],
                [[-0.6, 0.5], [0.3, -0.2]],
                [[0.2, 0.3], [0.6, 0.1]],
                [[-0.1, -0.4], [-0.3, 0.4]],
            ],
        },
        design=crowd(120, 4, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        # Any population gives the same tables with other deviations.
        unfit=frozenset({"mle", "em"}),
        options={"nuts": {"jit": True, "draws": 200, "warmup": 200, "target_accept": 0.9}},
    ),
    Config(
        name="learning-from-crowds",
        program=LearningFromCrowds(2, UNIT_PRIORS),
        truth={
            "intercept": [0.2, -0.2],
            "coefficients": [[1.0, -0.5], [-1.0, 0.5]],
            "confusion": [
                [[0.9, 0.1], [0.15, 0.85]],
                [[0.8, 0.2], [0.1, 0.9]],
                [[0.85, 0.15], [0.2, 0.8]],
                [[0.88, 0.12], [0.18, 0.82]],
            ],
        },
        design=described_crowd(150, 4, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        # The likelihood knows differences between classes alone; NUTS takes minutes.
        unfit=frozenset({"mle", "em", "nuts"}),
    ),
    Config(
        name="feature-dependent-crowd",
        program=FeatureDependentCrowd(2, UNIT_PRIORS),
        truth={
            "intercept": [0.2, -0.2],
            "coefficients": [[1.0, -0.5], [-1.0, 0.5]],
            "expertise_intercept": [1.5, 1.8, 1.2, 2.0],
            "expertise_coefficients": [[1.0, 0.0], [-1.0, 0.3], [0.0, 0.8], [0.5, -0.5]],
        },
        design=described_crowd(150, 4, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        unfit=frozenset({"mle", "em", "nuts"}),
    ),
    Config(
        name="hidden-markov",
        program=HiddenMarkovModel(2, covariance="diag"),
        truth={
            "initial": [0.3, 0.7],
            "transition": [[0.8, 0.2], [0.3, 0.7]],
            "locs": [[-2.0], [2.0]],
            "scales": [[1.0], [0.7]],
        },
        sizes={"lengths": CHAINS, "dim": 1},
        bind=lambda x: (Sequences.from_arrays(x, CHAINS),),
        plate="sequence",
        order={"locs": 0, "scales": 0, "initial": 0, "transition": (0, 1)},
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="tabular-policy",
        program=TrajectoryModel(TabularPolicy(3, 2)),
        truth={"policy": [[0.2, 0.8], [0.5, 0.5], [0.7, 0.3]]},
        design=wandering(60, 3),
        bind=lambda actions, trajectories: (trajectories.with_actions(actions),),
        plate="step",
        options=TRACED_SHORT,
    ),
    Config(
        name="maxent-irl",
        # All rooms but one: a constant on all of them changes no policy.
        program=MaxEntIRL(ring(3), torch.eye(3)[:, 1:], horizon=9),
        truth={"reward_weights": [1.0, -0.5]},
        design=wandering(60, 3),
        bind=lambda actions, trajectories: (trajectories.with_actions(actions),),
        plate="step",
        options={"nuts": {"jit": True, "draws": 200}},
    ),
    Config(
        name="mixture-policy",
        program=TrajectoryModel(MixturePolicy(GaussianPolicy(1), 2, per="episode")),
        truth={
            "mode_weights": [0.4, 0.6],
            "intercept": [[-1.0], [1.5]],
            "coefficients": [[[0.8]], [[-0.5]]],
            "scale": [[0.7], [0.5]],
        },
        design=drifting(50),
        bind=lambda actions, trajectories: (trajectories.with_actions(actions),),
        plate="episode",
        order={"intercept": 0, "mode_weights": 0, "coefficients": 0, "scale": 0},
        latents=True,
        options=TRACED,
    ),
    Config(
        name="two-bells",
        program=two_bells,
        truth={"weights": [0.4, 0.6], "loc": [-2.0, 3.0], "scale": [1.0, 1.5]},
        sizes={"n": 150},
        order={"loc": 0, "weights": 0, "scale": 0},
        latents=True,
        options=TRACED,
    ),
    Config(
        name="zero-inflated-poisson",
        program=zero_inflated_poisson,
        truth={"gate": 0.3, "rate": 2.5},
        sizes={"n": 150},
        plate="count",
        latents=True,
        options=TRACED,
    ),
    Config(
        name="two-coins",
        program=two_coins,
        truth={"weights": [0.3, 0.7], "heads": [0.2, 0.75]},
        sizes={"n": 60},
        plate="bag",
        order={"heads": 0, "weights": 0},
        latents=True,
        options=TRACED,
    ),
    Config(
        name="module",
        program=readout(linear_layer()),
        truth={"net$$$weight": [[1.0, -0.5]], "net$$$bias": [0.3], "noise": 0.6},
        design=covariates(120, 2),
        plate="row",
        params=True,
    ),
    Config(
        name="schools",
        program=schools,
        truth={
            "mean": 1.0,
            "spread": 1.2,
            "effect": [-1.3, 0.4, 1.1, -0.2, 0.7, -0.6],
        },
        sizes={"n": 2},
        plate="pupil",
        # Effects that shrink with a growing spread leave the likelihood where it is.
        unfit=frozenset({"mle", "em"}),
        options=TRACED,
    ),
    Config(
        name="blend",
        program=blend,
        truth={"shares": [0.2, 0.5, 0.3], "noise": 0.5},
        design=covariates(120, 3),
        plate="row",
    ),
    Config(
        name="nested-supports",
        program=nested_supports,
        truth={"ceiling": 2.5, "level": 1.0},
        sizes={"n": 60},
        plate="measurement",
        # Automatic guides have one support for good.
        unfit=frozenset({"svi"}),
    ),
]


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


CASES = [
    Case(config, by)
    for config in CONFIGS
    for by in ENGINES
    if by.everywhere
    and by.available
    and by.name not in config.unfit
    and (by.keeps_params or not config.params)
]


# -- what tests ask for --------------------------------------------------------------------------


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
