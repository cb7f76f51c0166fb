"""What a folder must not be taken for, and what is left when it cannot be used."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.optim import Adam, ClippedAdam, ExponentialLR, ReduceLROnPlateau

from likely.inference import EM, MLE, SVI, FitError
from likely.inference.checkpoints import STATE
from likely.inference.engines import gradient, parts

pytestmark = [
    pytest.mark.usefixtures("in_double"),
    pytest.mark.filterwarnings("ignore::likely.inference.ConvergenceWarning"),
]


def rows(seed: int = 0, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=random)
    return x, (x[:, 0] + torch.randn(n, generator=random) > 0).double()


def even(x: torch.Tensor, y: torch.Tensor) -> None:
    """At its start, zero, all data of one size have one density."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("row", len(y)) as index:
        pyro.sample("y", dist.Bernoulli(logits=x[index] @ w), obs=y[index])


def bells(x: torch.Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("point", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


START = {"w": [0.0, 0.0]}


def test_data_that_are_alike_at_the_start_are_told_apart(tmp_path: Path) -> None:
    x, y = rows()
    run = partial(MLE, path=tmp_path, save_every=2, init=START, optimizer="adam", max_iter=20)
    run().fit(even, x, y)
    with pytest.raises(FitError, match="log-densities near the start"):
        run().fit(even, x, 1 - y)
    with pytest.raises(FitError, match="log-densities near the start"):
        run().fit(even, 1.001 * x, y)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    with pytest.raises(FitError, match="log-densities near the start"):
        # Of use for nothing else, the order of rows decides what is in a mini-batch.
        run().fit(even, x[order], y[order])


def test_the_number_of_threads_does_not_matter(tmp_path: Path) -> None:
    x, y = rows(n=100_000)
    run = partial(MLE, path=tmp_path, save_every=1, init=START, optimizer="adam", max_iter=2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        run().fit(even, x, y)
        torch.set_num_threads(2)
        run().fit(even, x, y)
    finally:
        torch.set_num_threads(before)


def test_options_of_optimisers_are_part_of_a_run(tmp_path: Path) -> None:
    def run(rate: float, kind: Any = torch.optim.Adam) -> None:
        made = partial(kind, lr=rate)
        MLE(path=tmp_path / "mle", save_every=2, max_iter=9, optimizer=made).fit(even, *rows())

    run(0.1)
    run(0.1)
    with pytest.raises(FitError, match=r"optimizer = .*Adam.*'lr=0\.1'.*'lr=0\.2'"):
        run(0.2)
    with pytest.raises(FitError, match=r"optimizer = .*Adam.*this one has .*SGD"):
        run(0.1, torch.optim.SGD)

    def vary(optimizer: Any) -> None:
        options: dict[str, Any] = {"save_every": 2, "max_iter": 9, "draws": 5}
        SVI(path=tmp_path / "svi", optimizer=optimizer, **options).fit(even, *rows())

    vary(ClippedAdam({"lr": 0.1}))
    vary(ClippedAdam({"lr": 0.1}))
    with pytest.raises(FitError, match=r"0\.1.*0\.2"):
        vary(ClippedAdam({"lr": 0.2}))


def test_a_guide_of_another_shape_is_refused(tmp_path: Path) -> None:
    def guide_of(size: int) -> Any:
        def guide(x: Any, y: Any) -> None:
            loc = pyro.param("loc", torch.zeros(size))
            pyro.sample("w", dist.Normal(loc.expand(2), 1.0).to_event(1))

        return guide

    run = partial(SVI, path=tmp_path, save_every=2, max_iter=9, draws=5)
    run(guide=guide_of(1)).fit(even, *rows())
    # Numbers of one size would otherwise be spread over the other.
    with pytest.raises(FitError, match=r"guide = .*\(1,\).*\(2,\)"):
        run(guide=guide_of(2)).fit(even, *rows())


def test_a_schedule_goes_on_with_each_step() -> None:
    def fall(gamma: float) -> Any:
        given = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": gamma}
        return SVI(max_iter=40, draws=5, optimizer=ExponentialLR(given)).fit(even, *rows())

    constant = SVI(max_iter=40, draws=5, optimizer=Adam({"lr": 0.1})).fit(even, *rows())
    assert fall(1.0).history.equals(constant.history)
    still = fall(1e-9).history["objective"]
    moved = constant.history["objective"]
    # The first step alone is as long.
    assert (still[:2] == moved[:2]).all()
    assert (still[2:] != moved[2:]).all()
    # One that looks at the loss: patience of nothing, and no step is good enough.
    given = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}}
    strict = ReduceLROnPlateau({**given, "patience": 0, "threshold": 1e9, "factor": 1e-9})
    plateau = SVI(max_iter=40, draws=5, optimizer=strict).fit(even, *rows()).history["objective"]
    assert (plateau[:2] == moved[:2]).all()
    assert (plateau[3:] != moved[3:]).all()


def test_a_folder_that_is_none_is_told_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    seen: list[Any] = []
    with pytest.raises(FitError, match="cannot write to"):
        MLE(path=tmp_path / "file", callback=seen.append).fit(even, *rows())
    assert seen == []
    with pytest.raises(FitError, match="cannot write to"):
        MLE(path=tmp_path / "file" / "below", save_every=1, tol=1e-15).fit(even, *rows())
    assert (tmp_path / "file").read_text() == "mine"


def interrupted(*args: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


def test_an_interrupt_as_a_search_goes_on_keeps_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = partial(MLE, path=tmp_path, save_every=3, max_iter=9, optimizer="adam", init=START)
    run().fit(even, *rows())
    assert (tmp_path / STATE).exists()
    monkeypatch.setattr(gradient, "value_and_gradient", interrupted)
    fit = run().fit(even, *rows())
    assert not fit.converged
    # The last evaluation is that of the values before the step that was lost.
    assert float(fit.params["w"].abs().max()) > 0.1
    assert fit.log_likelihood >= fit.history["objective"].iloc[-1]


def test_an_interrupt_as_em_goes_on_keeps_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.cat([torch.linspace(-3, 0, 20), torch.linspace(0, 3, 20)])
    start = {"loc": [-0.5, 0.5], "weights": [0.5, 0.5]}
    run = partial(EM, path=tmp_path, save_every=4, max_iter=10, init=start)
    run().fit(bells, x)
    asked, expect = [], parts.expect

    def once(*args: Any, **options: Any) -> Any:
        asked.append(1)
        # The first is that of the start.
        return expect(*args, **options) if len(asked) == 1 else interrupted()

    monkeypatch.setattr(parts, "expect", once)
    fit = run().fit(bells, x)
    assert not fit.converged
    assert fit.n_iter == 3
    assert fit.log_likelihood >= fit.history["objective"].iloc[-1]
