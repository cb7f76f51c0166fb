"""A search without an end is ended, and no other one before its time."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import MAP, MLE, ConvergenceWarning, DegenerateWarning

pytestmark = pytest.mark.usefixtures("in_double")

X, Y = torch.tensor([-1.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 1.0])


def valley(a: Any, b: Any) -> None:
    """Rosenbrock's: many small steps to (1, 1)."""
    pyro.factor("valley", -0.05 * ((1 - a) ** 2 + 100 * (b - a**2) ** 2))


def with_a_site_of_no_use(x: torch.Tensor) -> None:
    pyro.sample("unused", dist.Normal(10.0, 1.0))
    valley(pyro.sample("a", dist.Normal(-1.0, 1.0)), pyro.sample("b", dist.Normal(1.0, 1.0)))
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def with_separable_data(x: torch.Tensor, y: torch.Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    valley(pyro.sample("a", dist.Normal(-1.0, 1.0)), pyro.sample("b", dist.Normal(1.0, 1.0)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)


def test_a_site_of_no_use_does_not_end_the_search_for_the_others() -> None:
    start = {"unused": 10.0, "a": -1.2, "b": 1.0}
    with pytest.warns(ConvergenceWarning, match="flat in 'unused'"):
        fit = MLE(init=start).fit(with_a_site_of_no_use, torch.zeros(()))
    assert float(fit.params["a"]) == pytest.approx(1.0, abs=1e-4)
    assert float(fit.params["b"]) == pytest.approx(1.0, abs=1e-4)


def test_what_lies_at_infinity_waits_for_the_others() -> None:
    start = {"slope": 4.9, "a": -1.2, "b": 1.0}
    with pytest.warns(ConvergenceWarning, match="flat in 'slope'"):
        fit = MLE(init=start).fit(with_separable_data, X, Y)
    # To less than was left to gain at infinity: 2 e^-slope and a bit.
    left = 0.05 * float((1 - fit.params["a"]) ** 2 + 100 * (fit.params["b"] - fit.params["a"]) ** 2)
    assert left < 0.05
    assert float(fit.params["slope"]) > 5


def test_an_honest_optimum_far_out_is_found() -> None:
    counts = torch.poisson(torch.full((50,), 1e6), generator=torch.Generator().manual_seed(0))

    def program(counts: torch.Tensor) -> None:
        rate = pyro.sample("log_rate", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(counts)):
            pyro.sample("count", dist.Poisson(rate.exp()), obs=counts)

    fit = MLE().fit(program, counts)
    assert fit.converged
    assert float(fit.params["log_rate"]) == pytest.approx(float(counts.mean().log()), rel=1e-9)


def test_a_class_that_was_never_seen_is_told() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2000, generator=random)
    seen = (x + torch.randn(2000, generator=random) > 0).long()

    def program(x: torch.Tensor, y: torch.Tensor) -> None:
        intercept = pyro.sample("intercept", dist.Normal(torch.zeros(2), 10.0).to_event(1))
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 10.0).to_event(1))
        scores = torch.nn.functional.pad(intercept + x[:, None] * slope, (1, 0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Categorical(logits=scores), obs=y)

    with pytest.warns(ConvergenceWarning, match="flat in 'intercept'.*lies at infinity"):
        assert not MLE().fit(program, x, seen).converged
    # The prior decides; warnings are errors here.
    assert MAP().fit(program, x, seen).converged


def test_a_hook_that_fails_takes_no_fit_away() -> None:
    class Coin:
        def __call__(self, heads: torch.Tensor) -> None:
            p = pyro.sample("p", dist.Beta(2.0, 2.0))
            with pyro.plate("toss", len(heads)):
                pyro.sample("heads", dist.Bernoulli(p), obs=heads)

        def left_open(self, values: Any, heads: Any) -> list[str]:
            raise LookupError("nobody knows")

    heads = torch.tensor([1.0, 1.0, 0.0])
    with pytest.warns(DegenerateWarning, match="mle: the program's left_open failed: nobody knows"):
        fit = MLE().fit(Coin(), heads)
    assert float(fit.params["p"]) == pytest.approx(2 / 3, abs=1e-6)
    assert MAP().fit(Coin(), heads).converged
