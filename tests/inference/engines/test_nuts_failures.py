"""NUTS when a chain fails, dies or is interrupted."""

from __future__ import annotations

import os

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import (
    NUTS,
    ConvergenceWarning,
    InferenceError,
    OptionError,
    ProgramError,
)
from nuts_problems import POINTS, SHORT, double, line, ridge


class FailsLater:
    """`line`, until it has run often enough to be in the middle of sampling."""

    def __init__(self, fail, calls=60):
        self.fail, self.left = fail, calls

    def __call__(self, x):
        self.left -= 1
        if self.left < 0:
            self.fail()
        line(x)


def out_of_luck():
    raise ValueError("out of luck")


def die():
    os._exit(7)


def interrupt():
    raise KeyboardInterrupt


def test_a_chain_that_fails_is_reported_with_its_reason():
    engine = NUTS(chains=2, draws=50, warmup=50, cores=2)
    with pytest.raises(InferenceError, match=r"(?s)chain \d failed in its process.*out of luck"):
        engine.fit(FailsLater(out_of_luck), POINTS)
    with pytest.raises(ProgramError, match="out of luck"):
        NUTS(chains=2, draws=50, warmup=50, cores=1).fit(FailsLater(out_of_luck), POINTS)


def test_a_chain_whose_process_dies_is_reported():
    engine = NUTS(chains=2, draws=50, warmup=50, cores=2)
    with pytest.raises(InferenceError, match="died with exit code 7"):
        engine.fit(FailsLater(die), POINTS)


@pytest.mark.parametrize("how", ["callback", "keyboard"])
def test_an_interruption_keeps_the_draws_so_far(how, short):
    seen = []

    def watch(step):
        seen.append(step)
        if step.iteration == 19:
            if how == "keyboard":
                raise KeyboardInterrupt
            return True
        return None

    with pytest.warns(ConvergenceWarning, match="interrupted"):
        fit = NUTS(**SHORT, callback=watch).fit(line, POINTS)
    assert fit.draws["loc"].shape == (1, 20)
    assert not fit.converged
    assert [step.iteration for step in seen] == list(range(20))
    # They are the first draws of the run that nobody interrupted.
    torch.testing.assert_close(fit.draws["loc"][0], short.draws["loc"][0, :20], rtol=0, atol=0)
    torch.testing.assert_close(seen[7].params()["loc"], fit.draws["loc"][0, 7])
    assert seen[7].objective == float(fit.sample_stats["lp"][0, 7])


def test_an_interruption_during_the_warmup_has_nothing_to_return():
    with pytest.raises(InferenceError, match="before it had four draws"):
        NUTS(**SHORT).fit(FailsLater(interrupt), POINTS)


def test_parameters_without_a_prior_are_refused():
    def program(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(loc, scale).expand([len(x)]).to_event(1), obs=x)

    with pytest.raises(ProgramError, match=r"'loc'.*prior"):
        NUTS().fit(program, POINTS)


@pytest.mark.parametrize(
    "option",
    [
        {"draws": 3},
        {"warmup": 0},
        {"chains": 0},
        {"cores": 0},
        {"backend": "stan"},
        {"target_accept": 1.0},
        {"target_accept": 0.0},
        {"max_tree_depth": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        NUTS(**option)


def test_max_tree_depth_bounds_the_steps():
    engine = NUTS(chains=1, draws=40, warmup=1, cores=1, max_tree_depth=2, seed=3)
    with pytest.warns(ConvergenceWarning, match="."):
        fit = engine.fit(ridge, double(0.6))
    steps = fit.sample_stats["n_steps"]
    assert int(steps.max()) == 3  # 2² − 1 steps; without the bound a ridge takes many more
    assert np.isfinite(fit.log_likelihood)
