"""Expected counts are those of brute force, and tables are told from other simplexes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize

from likely.inference import (
    EM,
    MLE,
    Program,
)
from likely.inference.engines.expectation import expect, find_tables
from problems import double


def rows(*shape, seed=0):
    """Random probability rows [*shape]."""
    generator = np.random.default_rng(seed)
    return double(generator.dirichlet(np.full(shape[-1], 2.0), size=shape[:-1]))


# -- counts by Fisher's identity -------------------------------------------------------------------


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


# -- simplexes that are not tables -----------------------------------------------------------------


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
