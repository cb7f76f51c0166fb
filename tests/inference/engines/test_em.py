"""EM: counts, steps and optima against brute force, closed forms and the gradient engines."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp

from likely.inference import (
    EM,
    MAP,
    MLE,
    ConvergenceWarning,
    MonotonicityError,
    OptionError,
    Program,
    ProgramError,
)
from likely.inference.coordinates import Coordinates
from likely.inference.engines.expectation import expect, find_tables
from likely.inference.engines.gradient import value_and_gradient
from likely.models import Annotations, DawidSkene

ANESTHESIA = Path(__file__).resolve().parents[3] / "examples" / "data" / "anesthesia.csv"


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def rows(*shape, seed=0):
    """Random probability rows [*shape]."""
    generator = np.random.default_rng(seed)
    return double(generator.dirichlet(np.full(shape[-1], 2.0), size=shape[:-1]))


# -- counts by Fisher's identity -------------------------------------------------------------
#
# A program made of tables only, and `uses(i, z)`: the cells that row i uses when its latents are z.
# The joint probability of the row is the product of its cells, so brute force needs no more.


def weights_and_table(shape):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(shape[0])))
    with pyro.plate("class", shape[0]):
        return weights, pyro.sample("table", dist.Dirichlet(torch.ones(shape[1])))


def with_probs(y):
    weights, table = weights_and_table((2, 3))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Categorical(table[z]), obs=y)


def with_logits(y):
    weights, table = weights_and_table((2, 3))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(logits=weights.log()))
        pyro.sample("y", dist.Categorical(logits=table.log()[z]), obs=y)


def with_one_hot(y):
    weights, table = weights_and_table((2, 3))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        hot = torch.nn.functional.one_hot(y, 3).double()
        pyro.sample("y", dist.OneHotCategorical(table[z]), obs=hot)


def with_multinomial(y):
    weights, table = weights_and_table((2, 3))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Multinomial(4, table[z]), obs=y)


def with_annotators(y):
    prevalence = pyro.sample("prevalence", dist.Dirichlet(torch.ones(2)))
    confusion = pyro.sample("confusion", dist.Dirichlet(torch.ones(3, 2, 2)).to_event(2))
    with pyro.plate("task", len(y), dim=-2):
        z = pyro.sample("z", dist.Categorical(prevalence))
        with pyro.plate("annotator", 3, dim=-1) as annotator:
            pyro.sample("y", dist.Categorical(confusion[annotator, z]), obs=y)


def with_shared_table(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    table = pyro.sample("table", dist.Dirichlet(torch.ones(2, 2, 3)).to_event(2))
    with pyro.plate("row", len(y)):
        first = pyro.sample("first", dist.Categorical(weights))
        second = pyro.sample("second", dist.Categorical(weights))
        pyro.sample("y", dist.Categorical(table[first, second]), obs=y)


def with_observed_classes(y):
    weights, table = weights_and_table((2, 3))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weights), obs=y[:, 0])
        pyro.sample("y", dist.Categorical(table[z]), obs=y[:, 1])


def with_chain(y):
    initial = pyro.sample("initial", dist.Dirichlet(torch.ones(2)))
    transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    emission = pyro.sample("emission", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
    with pyro.plate("sequence", len(y)):
        state = None
        for t in range(3):
            probs = initial if state is None else transition[state]
            state = pyro.sample(f"state_{t}", dist.Categorical(probs))
            pyro.sample(f"y_{t}", dist.Categorical(emission[state]), obs=y[:, t])


LABELS = torch.tensor([0, 0, 2, 1, 0, 2, 2])
TWO_TABLES = {"weights": rows(2), "table": rows(2, 3, seed=1)}

COUNTED = {
    "probs": (
        with_probs,
        LABELS,
        TWO_TABLES,
        1,
        lambda i, z: [("weights", z), ("table", (z[0], LABELS[i]))],
    ),
    "logits": (
        with_logits,
        LABELS,
        TWO_TABLES,
        1,
        lambda i, z: [("weights", z), ("table", (z[0], LABELS[i]))],
    ),
    "one-hot": (
        with_one_hot,
        LABELS,
        TWO_TABLES,
        1,
        lambda i, z: [("weights", z), ("table", (z[0], LABELS[i]))],
    ),
    "multinomial": (
        with_multinomial,
        double([[4, 0, 0], [1, 2, 1], [0, 1, 3]]),
        TWO_TABLES,
        1,
        lambda i, z: (
            [("weights", z)]
            + [("table", (z[0], j)) for j in ([0, 0, 0, 0], [0, 1, 1, 2], [1, 2, 2, 2])[i]]
        ),
    ),
    "nested-index": (
        with_annotators,
        torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]]),
        {"prevalence": rows(2), "confusion": rows(3, 2, 2, seed=2)},
        1,
        lambda i, z: (
            [("prevalence", z)]
            + [
                ("confusion", (a, z[0], label))
                for a, label in enumerate(([0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1])[i])
            ]
        ),
    ),
    "used-twice": (
        with_shared_table,
        LABELS,
        {"weights": rows(2), "table": rows(2, 2, 3, seed=3)},
        2,
        lambda i, z: [("weights", z[:1]), ("weights", z[1:]), ("table", (*z, LABELS[i]))],
    ),
    "observed": (
        with_observed_classes,
        torch.stack([LABELS % 2, LABELS], 1),
        TWO_TABLES,
        0,
        lambda i, z: [("weights", (LABELS[i] % 2,)), ("table", (LABELS[i] % 2, LABELS[i]))],
    ),
    "chain": (
        with_chain,
        torch.stack([LABELS, LABELS.flip(0), (LABELS + 1) % 3], 1),
        {"initial": rows(2), "transition": rows(2, 2, seed=4), "emission": rows(2, 3, seed=5)},
        3,
        lambda i, z: [
            ("initial", z[:1]),
            ("transition", z[:2]),
            ("transition", z[1:]),
            ("emission", (z[0], LABELS[i])),
            ("emission", (z[1], LABELS[-1 - i])),
            ("emission", (z[2], (LABELS[i] + 1) % 3)),
        ],
    ),
}


def brute_force(n, tables, n_latents, uses, hard):
    """Expected counts and log p(data), adding up every value of every row's latents."""
    counts = {name: np.zeros(table.shape) for name, table in tables.items()}
    total = 0.0
    for i in range(n):
        configurations = list(itertools.product(range(2), repeat=n_latents))
        cells = [[(name, tuple(map(int, at))) for name, at in uses(i, z)] for z in configurations]
        joint = np.array([math.prod(float(tables[name][at]) for name, at in c) for c in cells])
        total += math.log(joint.max() if hard else joint.sum())
        posterior = joint == joint.max() if hard else joint / joint.sum()
        for weight, used in zip(posterior, cells, strict=True):
            for name, at in used:
                counts[name][at] += weight
    return counts, total


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("name", COUNTED)
def test_expected_counts_are_those_of_brute_force(name, hard):
    source, y, tables, n_latents, uses = COUNTED[name]
    program = Program(source, y)
    with program.session(0):
        found = find_tables(program, tables, hard=hard)
        expected = expect(program, tables, found, hard=hard)
    assert found == frozenset(tables)
    counts, total = brute_force(len(y), tables, n_latents, uses, hard)
    for site, count in counts.items():
        np.testing.assert_allclose(expected.counts[site], count, atol=1e-12, err_msg=site)
    if name != "multinomial":  # whose coefficients brute force leaves out
        assert float(expected.log_likelihood) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("name", COUNTED)
def test_one_step_normalises_the_counts(name):
    source, y, tables, n_latents, uses = COUNTED[name]
    counts, _ = brute_force(len(y), tables, n_latents, uses, hard=False)
    path = []

    def watch(step):
        path.append(step.params())

    EM(init=tables, tol=1e-6, callback=watch).fit(source, y)
    for site, count in counts.items():
        shares = count / count.sum(-1, keepdims=True)
        np.testing.assert_allclose(path[1][site], shares, atol=1e-12, err_msg=site)


def test_one_step_adds_the_pseudo_counts_of_a_dirichlet_prior():
    concentration = double([[2.0, 1.5, 1.0], [3.0, 1.0, 4.0]])

    def program(y):
        weights = pyro.sample("weights", dist.Dirichlet(double([3.0, 2.0])))
        table = pyro.sample("table", dist.Dirichlet(concentration).to_event(1))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Categorical(table[z]), obs=y)

    uses = COUNTED["probs"][-1]
    counts, _ = brute_force(len(LABELS), TWO_TABLES, 1, uses, hard=False)
    path = []

    def watch(step):
        path.append(step.params())

    EM(objective="posterior", init=TWO_TABLES, tol=1e-6, callback=watch).fit(program, LABELS)
    for site, pseudo in (("weights", double([2.0, 1.0])), ("table", concentration - 1)):
        total = counts[site] + pseudo.numpy()
        shares = total / total.sum(-1, keepdims=True)
        np.testing.assert_allclose(path[1][site], shares, atol=1e-12)


def test_weighted_rows_count_by_their_weight():
    def weighted(y):
        weights, table = weights_and_table((2, 3))
        with pyro.plate("row", len(y)), pyro.poutine.scale(scale=2.5):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Categorical(table[z]), obs=y)

    program = Program(weighted, LABELS)
    with program.session(0):
        expected = expect(program, TWO_TABLES, frozenset(TWO_TABLES))
    counts, total = brute_force(len(LABELS), TWO_TABLES, 1, COUNTED["probs"][-1], hard=False)
    np.testing.assert_allclose(expected.counts["table"], 2.5 * counts["table"], atol=1e-12)
    assert float(expected.log_likelihood) == pytest.approx(2.5 * total, abs=1e-12)


# -- simplexes that are not tables -----------------------------------------------------------


def blend(x, y):
    """Shares on a simplex that mix measurements."""
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ shares, 0.5), obs=y)


def sharpened(y):
    """Categories drawn with the squares of the shares."""
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=2 * shares.log()), obs=y)


def sliced(y):
    """Categories drawn from two of three shares."""
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(shares[:2]), obs=y)


def one_cell(y):
    """Tosses with one of the shares as probability of heads."""
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(shares[2]), obs=y)


BLEND_X = double(np.random.default_rng(3).normal(size=(40, 3)))
NOISE = double(np.random.default_rng(4).normal(size=40))
BLEND_Y = BLEND_X @ double([0.2, 0.5, 0.3]) + 0.5 * NOISE


@pytest.mark.parametrize(
    ("source", "args"),
    [
        (blend, (BLEND_X, BLEND_Y)),
        (sharpened, (torch.tensor([0, 0, 0, 0, 1, 2, 2]),)),
        (sliced, (torch.tensor([0, 0, 0, 1]),)),
        (one_cell, (double([0, 0, 0, 1, 1]),)),
    ],
)
def test_a_simplex_that_is_no_table_is_told_apart(source, args):
    program = Program(source, *args)
    with program.session(0):
        assert find_tables(program, {"shares": double([0.2, 0.5, 0.3])}) == frozenset()


def test_a_start_at_a_special_point_makes_no_table():
    def around(y):
        base = pyro.sample("base", dist.Dirichlet(torch.ones(3)))
        shift = pyro.sample("shift", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(logits=base.log() + shift), obs=y)

    program = Program(around, torch.tensor([0, 0, 0, 1, 2]))
    with program.session(0):
        start = {"base": double([0.2, 0.5, 0.3]), "shift": double([0.0, 0.0, 0.0])}
        assert find_tables(program, start) == frozenset()


def test_a_simplex_that_is_no_table_is_still_optimised():
    fit = EM().fit(blend, BLEND_X, BLEND_Y)

    def squares(free):
        shares = np.append(free, 1 - free.sum())
        return ((BLEND_Y.numpy() - BLEND_X.numpy() @ shares) ** 2).sum()

    best = minimize(squares, [0.3, 0.3], options={"gtol": 1e-10}).x
    np.testing.assert_allclose(fit.params["shares"][:2], best, atol=1e-5)
    roots = double([4, 1, 2]).sqrt()
    found = EM().fit(sharpened, torch.tensor([0, 0, 0, 0, 1, 2, 2])).params["shares"]
    torch.testing.assert_close(found, roots / roots.sum(), atol=1e-5, rtol=0)
    heads = EM().fit(one_cell, double([0, 0, 0, 1, 1])).params["shares"]
    assert float(heads[2]) == pytest.approx(0.4, abs=1e-5)


def test_tables_and_other_simplexes_are_optimised_together():
    def program(x, y):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("row", len(y)):
            outlier = pyro.sample("outlier", dist.Categorical(weights))
            scale = torch.tensor([0.3, 3.0])[outlier]
            pyro.sample("y", dist.Normal(x @ shares, scale), obs=y)

    y = BLEND_Y.clone()
    y[::8] += 4.0
    start = {"shares": [0.3, 0.3, 0.4], "weights": [0.5, 0.5]}
    em = EM(init=start, tol=1e-13).fit(program, BLEND_X, y)
    mle = MLE(init=start).fit(program, BLEND_X, y)
    assert em.log_likelihood == pytest.approx(mle.log_likelihood, abs=1e-7)
    torch.testing.assert_close(em.params["shares"], mle.params["shares"], atol=1e-4, rtol=0)
    torch.testing.assert_close(em.params["weights"], mle.params["weights"], atol=1e-4, rtol=0)


# -- the objective and its optimum -----------------------------------------------------------


def two_rates(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
    with pyro.plate("count", len(y)) as index:
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(rate[z]), obs=y[index])


COUNTS = double([0, 1, 1, 2, 0, 3, 9, 12, 8, 10, 1, 2, 11, 7, 0])
START = {"weights": [0.5, 0.5], "rate": [1.0, 3.0]}


def switching_line(x, y):
    """Two lines with one noise: no table but the weights, and no closed M-step declared."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 3.0)))
    noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
    with pyro.plate("line", 2):
        slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
        level = pyro.sample("level", dist.StudentT(4.0, 0.0, 2.0))
    with pyro.plate("point", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(level[z] + slope[z] * x, noise), obs=y)


def linked_switches(y):
    """Two switches a row, one of which the other depends on, and measurements of both."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    link = pyro.sample("link", dist.Dirichlet(torch.full((2, 2), 2.0)).to_event(1))
    gap = pyro.sample("gap", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        first = pyro.sample("first", dist.Categorical(weights))
        second = pyro.sample("second", dist.Categorical(link[first]))
        pyro.sample("a", dist.Normal(gap * first, 1.0), obs=y[:, 0])
        pyro.sample("b", dist.Normal(-gap * second, 1.0), obs=y[:, 1])


def pooled_rates(y):
    """Rates around a common rate that is unknown as well; the prior has unknowns of its own."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    common = pyro.sample("common", dist.LogNormal(1.0, 1.0))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0 / common))
    with pyro.plate("count", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)


def line_data():
    generator = np.random.default_rng(7)
    x = generator.normal(size=80)
    z = generator.random(80) < 0.35
    return double(x), double(
        np.where(z, 2.0 - 1.5 * x, -1.0 + 0.5 * x) + 0.4 * generator.normal(size=80)
    )


def pair_data():
    generator = np.random.default_rng(8)
    first = generator.random(120) < 0.4
    second = generator.random(120) < np.where(first, 0.8, 0.1)
    y = np.stack([2.0 * first, -2.0 * second], 1) + generator.normal(size=(120, 2))
    return (double(y),)


def annotations():
    return Annotations.from_frame(pd.read_csv(ANESTHESIA))


LINES = {"weights": [0.6, 0.4], "noise": 1.0, "slope": [0.0, -1.0], "level": [-1.0, 1.0]}
LINKS = {"weights": [0.5, 0.5], "link": [[0.6, 0.4], [0.4, 0.6]], "gap": 1.0}

MIXED = {
    "two-rates": (two_rates, (COUNTS,), START),
    "switching-line": (switching_line, line_data(), LINES),
    "linked-switches": (linked_switches, pair_data(), LINKS),
    "dawid-skene": (DawidSkene(4), (annotations(),), None),
}


@pytest.mark.parametrize("objective", ["likelihood", "posterior"])
@pytest.mark.parametrize("name", MIXED)
def test_em_climbs_to_the_optimum_of_the_gradient_engines(name, objective):
    program, args, start = MIXED[name]
    em = EM(objective=objective, init=start, tol=1e-14, max_iter=5000).fit(program, *args)
    path = em.history.objective
    assert em.converged
    assert np.diff(path).min() > -1e-10 * abs(path.iloc[-1])
    assert len(path) == em.n_iter + 1
    with_prior = objective == "posterior"

    def height(fit):
        return fit.log_likelihood + (fit.log_prior if with_prior else 0.0)

    # The end of EM, the start of the search: it is an optimum if there is nothing left to climb.
    gradient = (MAP if with_prior else MLE)(init=em, em_steps=0)
    if name == "dawid-skene" and not with_prior:
        with pytest.warns(UserWarning, match="boundary"):
            best = gradient.fit(program, *args)
    else:
        best = gradient.fit(program, *args)
    assert height(best) == pytest.approx(path.iloc[-1], abs=1e-7)
    for site, value in best.params.items():
        torch.testing.assert_close(em.params[site], value, atol=1e-4, rtol=1e-4, msg=site)
    # From the common start the search finds the same optimum by itself.
    alone = (MAP if with_prior else MLE)(init=start)
    if name == "dawid-skene" and not with_prior:
        with pytest.warns(UserWarning, match="boundary"):
            fit = alone.fit(program, *args)
    else:
        fit = alone.fit(program, *args)
    assert height(fit) == pytest.approx(path.iloc[-1], abs=1e-6)


def test_hyperparameters_take_part_in_the_posterior_objective():
    start = {**START, "common": 2.0}
    em = EM(objective="posterior", init=start, tol=1e-14, max_iter=5000).fit(pooled_rates, COUNTS)
    best = MAP(init=start).fit(pooled_rates, COUNTS)
    for site, value in best.params.items():
        torch.testing.assert_close(em.params[site], value, atol=1e-4, rtol=1e-4, msg=site)


def test_a_stationary_point_of_em_has_no_slope():
    fit = EM(init=START, tol=1e-15, max_iter=5000).fit(two_rates, COUNTS)
    program = fit.program
    with program.session(0):
        coordinates = Coordinates(program)
        at = coordinates.unconstrain(fit.point())
        _, gradient = value_and_gradient(program, coordinates, lambda d: d.log_likelihood, at)
    assert float(gradient.abs().max()) < 1e-5


def test_em_of_a_mixture_takes_the_textbook_steps():
    """Weights and rates by hand, step by step."""
    weights, rate = np.array(START["weights"]), np.array(START["rate"])
    y = COUNTS.numpy()
    path = []
    for _ in range(10):
        joint = np.log(weights) + y[:, None] * np.log(rate) - rate
        path.append(logsumexp(joint, axis=1).sum() - sum(math.lgamma(v + 1) for v in y))
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        weights, rate = share.mean(0), share.T @ y / share.sum(0)
    fit = EM(init=START, m_step_iter=100, tol=1e-14).fit(two_rates, COUNTS)
    np.testing.assert_allclose(fit.history.objective[:10], path, atol=1e-6)


# -- closed M-steps that a program declares --------------------------------------------------


class DeclaredRates:
    """The mixture of `two_rates` with its M-step written down, right or wrong."""

    def __init__(self, wrong=None):
        self.wrong, self.calls = wrong, []

    def __call__(self, y):
        two_rates(y)

    def m_step(self, responsibilities, params, y, *, objective):
        self.calls.append((responsibilities, params, objective))
        share = responsibilities["z"]
        rate = (share * y[:, None]).sum(0) / share.sum(0)
        return {
            None: {"rate": rate},
            "value": {"rate": 5.0 * rate},
            "shape": {"rate": rate[:1]},
            "site": {"rates": rate},
        }[self.wrong]


def test_a_declared_m_step_is_used_and_told_what_it_needs():
    program = DeclaredRates()
    fit = EM(init=START, tol=1e-12).fit(program, COUNTS)
    plain = EM(init=START, tol=1e-12, m_step_iter=100).fit(two_rates, COUNTS)
    steps = min(len(fit.history), len(plain.history))
    np.testing.assert_allclose(
        fit.history.objective[:steps], plain.history.objective[:steps], atol=1e-6
    )
    assert len(program.calls) == fit.n_iter
    responsibilities, params, objective = program.calls[0]
    assert responsibilities["z"].shape == (15, 2)
    torch.testing.assert_close(responsibilities["z"].sum(-1), torch.ones(15).double())
    assert set(params) == {"weights", "rate"}
    torch.testing.assert_close(params["rate"], double(START["rate"]))
    assert objective == "likelihood"


def test_an_m_step_that_lowers_the_objective_raises():
    with pytest.raises(MonotonicityError, match="m_step"):
        EM(init=START).fit(DeclaredRates("value"), COUNTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("shape", r"'rate' with shape \(1,\); expected \(2,\)"), ("site", "'rates'.*not one of")],
)
def test_an_m_step_that_does_not_fit_the_program_is_named(wrong, message):
    with pytest.raises(ProgramError, match=message):
        EM(init=START).fit(DeclaredRates(wrong), COUNTS)


# -- classification EM -----------------------------------------------------------------------


def clusters(x):
    with pyro.plate("cluster", 3):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 100.0).to_event(1))
    with pyro.plate("point", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(1), obs=x)


def test_hard_em_takes_the_steps_of_lloyds_algorithm():
    generator = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [2.5, 0.0], [0.0, 2.5]])
    x = centres[generator.integers(0, 3, 60)] + generator.normal(size=(60, 2))
    current = x[:3].copy()
    fit = EM(hard=True, init={"loc": current}).fit(clusters, x)
    path = []
    for _ in range(len(fit.history)):
        distance = ((x[:, None] - current) ** 2).sum(-1)
        nearest = distance.argmin(1)
        path.append(-0.5 * distance.min(1).sum() - 60 * math.log(3 * 2 * math.pi))
        last = current
        current = np.stack([x[nearest == k].mean(0) for k in range(3)])
    assert fit.n_iter > 3
    np.testing.assert_allclose(fit.history.objective, path, atol=1e-7)
    np.testing.assert_allclose(fit.params["loc"], last, atol=1e-6)
    np.testing.assert_allclose(fit.params["loc"], current, atol=1e-6)


def test_hard_em_counts_whole_rows_in_tables():
    fit = EM(hard=True, init=START, tol=1e-12, m_step_iter=100).fit(two_rates, COUNTS)
    y = COUNTS.numpy()
    weights, rate = fit.params["weights"].numpy(), fit.params["rate"].numpy()
    assigned = np.log(weights) + y[:, None] * np.log(rate) - rate
    nearest = assigned.argmax(1)
    assert 0 < nearest.sum() < 15
    np.testing.assert_allclose(weights, np.bincount(nearest) / 15, atol=1e-12)
    means = [y[nearest == k].mean() for k in range(2)]
    np.testing.assert_allclose(rate, means, atol=1e-5)
    best = assigned.max(1).sum() - sum(math.lgamma(v + 1) for v in y)
    assert fit.history.objective.iloc[-1] == pytest.approx(best, abs=1e-8)


# -- zeros, known classes, restarts ----------------------------------------------------------


def test_cells_that_start_at_zero_stay_exactly_zero():
    program, args = DawidSkene(4), (annotations(),)
    start = program.initial(*args)
    empty = start["confusion"] == 0
    assert 0 < int(empty.sum()) < empty.numel()
    fit = EM().fit(program, *args)
    assert bool((fit.params["confusion"][empty] == 0).all())
    for draws in fit.params.values():
        assert bool(torch.isfinite(draws).all())
    assert bool(torch.isfinite(fit.latent("truth")).all())
    torch.testing.assert_close(fit.params["confusion"].sum(-1), torch.ones(5, 4).double())


def test_the_likelihood_does_not_look_at_the_prior():
    # A Dirichlet prior above one has no density at the zeros of the start, one at one has.
    flat = EM().fit(DawidSkene(4, confusion_prior=1.0), annotations())
    steep = EM().fit(DawidSkene(4, prevalence_prior=4.0, confusion_prior=7.0), annotations())
    assert flat.history.equals(steep.history)
    assert torch.equal(flat.params["confusion"], steep.params["confusion"])


def test_a_component_of_weight_zero_stays_away():
    start = {"weights": [1.0, 0.0], "rate": [1.0, 3.0]}
    fit = EM(init=start).fit(two_rates, COUNTS)
    assert fit.params["weights"].tolist() == [1.0, 0.0]
    assert float(fit.params["rate"][0]) == pytest.approx(float(COUNTS.mean()), abs=1e-5)
    # Nothing is known about a component without rows: it keeps its value.
    assert float(fit.params["rate"][1]) == pytest.approx(3.0)
    torch.testing.assert_close(fit.latent("z")[:, 0], torch.ones(15).double())


def test_a_row_without_counts_keeps_its_table():
    program = DawidSkene(3)
    crowd = Annotations.from_arrays(
        [0, 0, 1, 1, 2], [0, 1, 0, 1, 0], [0, 0, 1, 1, 1], classes=[0, 1, 2], annotators=[0, 1, 2]
    )
    fit = EM().fit(program, crowd)
    torch.testing.assert_close(fit.params["confusion"][2], torch.full((3, 3), 1 / 3).double())
    assert float(fit.params["prevalence"][2]) == 0.0


def test_known_classes_give_their_closed_form_counts_in_one_step():
    frame = pd.DataFrame(
        {
            "task": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
            "annotator": ["a", "b"] * 5,
            "label": [0, 0, 0, 1, 1, 1, 1, 0, 1, 1],
        }
    )
    crowd = Annotations.from_frame(frame, truth={0: 0, 1: 0, 2: 1, 3: 1, 4: 1})
    far = {"prevalence": [0.9, 0.1], "confusion": torch.full((2, 2, 2), 0.5)}
    path = []

    def watch(step):
        path.append(step.params())

    fit = EM(init=far, callback=watch).fit(DawidSkene(2), crowd)
    expected = double([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [1 / 3, 2 / 3]]])
    torch.testing.assert_close(path[1]["confusion"], expected)
    torch.testing.assert_close(path[1]["prevalence"], double([0.4, 0.6]))
    assert fit.n_iter == 2  # the second step finds nothing to do
    torch.testing.assert_close(fit.params["confusion"], expected)


def three_coins(heads):
    """Bags of six tosses of one of three coins; the likelihood has several modes."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("coin", 3):
        chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
    with pyro.plate("bag", len(heads)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("heads", dist.Binomial(6, chance[z]), obs=heads)


def test_restarts_keep_the_best_and_are_reproducible():
    heads = double([0, 0, 0, 1, 2, 3, 3, 3, 4, 6, 6, 5, 6, 0, 3])
    ends = {}

    def watch(step):
        ends[step.restart] = step.objective

    # Where two coins start alike, EM does not tell them apart; the restarts move them.
    alike = {"weights": torch.full((3,), 1 / 3), "chance": [0.2, 0.6, 0.6]}
    fit = EM(restarts=4, init=alike, callback=watch, tol=1e-6).fit(three_coins, heads)
    assert sorted(ends) == list(range(4))
    alone = EM(init=alike, tol=1e-6).fit(three_coins, heads)
    assert ends[0] == alone.log_likelihood
    assert fit.log_likelihood == pytest.approx(max(ends.values()), abs=1e-10)
    assert fit.log_likelihood > alone.log_likelihood + 0.1
    again = EM(restarts=4, init=alike, tol=1e-6).fit(three_coins, heads)
    assert all(torch.equal(fit.params[name], again.params[name]) for name in fit.params)


def test_too_few_steps_warn_and_are_marked():
    with pytest.warns(ConvergenceWarning, match="3 iterations"):
        fit = EM(max_iter=3, init=START).fit(two_rates, COUNTS)
    assert not fit.converged
    assert (fit.n_iter, len(fit.history)) == (3, 4)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="objective must be one of 'likelihood', 'posterior'"):
        EM(objective="evidence")
    with pytest.raises(OptionError, match="m_step_iter"):
        EM(m_step_iter=0)


# -- a prior below a latent ------------------------------------------------------------------


def entangled(y):
    """Which of two priors ``level`` comes from is a discrete latent."""
    which = pyro.sample("which", dist.Categorical(double([0.3, 0.7])))
    level = pyro.sample("level", dist.Normal(double([-2.0, 3.0])[which], 1.0))
    with pyro.plate("point", len(y)):
        pyro.sample("y", dist.Normal(level, 2.0), obs=y)


def test_a_prior_below_a_latent_has_a_posterior_but_no_e_step_of_the_likelihood():
    y = double([-1.0, 0.5, 0.3])
    with pytest.raises(ProgramError, match=r"'level'.*posterior"):
        EM().fit(entangled, y)
    fit = MLE().fit(entangled, y)
    assert float(fit.params["level"]) == pytest.approx(float(y.mean()), abs=1e-6)

    def negative(level):
        prior = logsumexp(
            np.log([0.3, 0.7]) - 0.5 * (level - np.array([-2.0, 3.0])) ** 2
        ) - 0.5 * math.log(2 * math.pi)
        likelihood = -0.125 * ((y.numpy() - level) ** 2).sum() - 3 * math.log(
            2 * math.sqrt(2 * math.pi)
        )
        return -prior - likelihood

    for bounds in ((-4.0, 0.0), (1.0, 4.0)):  # a mode in either part of the prior
        best = minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-10})
        start = {"level": sum(bounds) / 2}
        for estimator in (EM(objective="posterior", init=start, tol=1e-14), MAP(init=start)):
            fit = estimator.fit(entangled, y)
            assert float(fit.params["level"]) == pytest.approx(best.x, abs=1e-5)
            assert fit.log_likelihood + fit.log_prior == pytest.approx(-best.fun, abs=1e-9)
