"""Guides of one's own: amortised ones, local latents in mini-batches, and guides that are refused.

The program is a normal measurement of a normal level, whose posterior is known: with measurements
N(level, 0.5²) and levels N(centre, 1), a level is N(centre + 0.8 (x − centre), 0.2), each x is
N(centre, 1.25), and the centre that fits best is the mean. A linear encoder is exact.
"""

from __future__ import annotations

import gc
import math
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

from likely.inference import (
    MAP,
    SVI,
    ConvergenceWarning,
    Fit,
    FitError,
    ProgramError,
    trained_guide,
)

N = 40
positive = dist.constraints.positive


def measurements():
    generator = torch.Generator().manual_seed(3)
    return 1.5 + math.sqrt(1.25) * torch.randn(N, generator=generator, dtype=torch.float64)


X = measurements()
SD = math.sqrt(0.2)


def levels(x):
    centre = pyro.param("centre", torch.tensor(0.0))
    with pyro.plate("unit", len(x)) as index:
        z = pyro.sample("z", dist.Normal(centre, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[index])


def centred(x):
    with pyro.plate("unit", len(x)) as index:
        z = pyro.sample("z", dist.Normal(1.5, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[index])


# -- amortised guides ----------------------------------------------------------------------------


def line():
    """An encoder that starts at zero, with weights in single precision."""
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return net


def encode(net, scale, x):
    with pyro.plate("unit", len(x)) as index:
        pyro.sample("z", dist.Normal(net(x[index, None]).squeeze(-1), scale))


def as_function(net):
    def guide(x):
        pyro.module("encoder", net)
        encode(net, pyro.param("scale", torch.tensor(0.1), constraint=positive), x)

    return guide


class Plain(nn.Module):
    """A module that tells Pyro nothing about its weights."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def forward(self, x):
        encode(self.net, self.log_scale.exp(), x)


class WithPyro(PyroModule):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.scale = PyroParam(torch.tensor(0.1), constraint=positive)

    def forward(self, x):
        encode(self.net, self.scale, x)


class Holder:
    """Its method is the guide."""

    def __init__(self, net):
        self.net = net

    def guide(self, x):
        as_function(self.net)(x)


GUIDES = {
    "function": as_function,
    "module": Plain,
    "pyro-module": WithPyro,
    "method": lambda net: Holder(net).guide,
}


def amortised(guide, **options) -> Fit:
    options = {"batch_size": 20, "max_iter": 500, "learning_rate": 0.05, "draws": 200, **options}
    return SVI(guide=guide, **options).fit(levels, X)


@pytest.mark.parametrize("kind", GUIDES)
def test_an_amortised_guide_of_any_kind_finds_the_posterior_of_every_unit(kind):
    net = line()
    with pyro.get_param_store().scope():
        fit = amortised(GUIDES[kind](net))
        assert list(pyro.get_param_store()) == []
    assert fit.converged
    # One particle a step, 20 units each: the gradient of the mean has a noise of about
    # 1 / sqrt(20 · 250) = .014 sds of a unit over the last half.
    assert float(fit.params["centre"]) == pytest.approx(float(X.mean()), abs=0.03)
    draws = fit.draws["z"]
    assert draws.shape == (1, 200, N)
    # All units share the encoder's errors; the mean of 200 draws adds SD / sqrt(200) each, of
    # which the largest among 40 is below 3.5.
    exact = X.mean() + 0.8 * (X - X.mean())
    atol = 3.5 * SD / math.sqrt(200) + 0.05
    torch.testing.assert_close(fit.params["z"], exact, atol=atol, rtol=0)
    assert float((draws - fit.params["z"]).square().mean().sqrt()) == pytest.approx(SD, rel=0.05)
    # With the exact posterior as guide every importance ratio is the evidence.
    evidence = dist.Normal(X.mean(), math.sqrt(1.25)).log_prob(X).sum()
    ratios = fit.sample_stats["log_weight"]
    assert float(ratios.mean()) == pytest.approx(float(evidence), abs=0.5)
    assert float(ratios.std()) < 1.0
    # The user's own weights are where they were, in their own precision.
    assert [p.dtype for p in net.parameters()] == [torch.float32] * 2
    assert all(bool((p == 0).all()) and p.grad is None for p in net.parameters())


def test_a_trained_guide_encodes_data_it_has_not_seen():
    fit = amortised(as_function(line()))
    guide = trained_guide(fit)
    assert set(guide.parameters()) == {"encoder$$$weight", "encoder$$$bias", "scale"}
    assert float(guide.parameters()["scale"]) == pytest.approx(SD, rel=0.05)
    new = torch.tensor([-3.0, 0.0, 4.0])
    with poutine.trace() as tracer, pyro.get_param_store().scope():
        guide(new)
        assert list(pyro.get_param_store()) == []
    site = tracer.trace.nodes["z"]["fn"]
    centre = X.mean()
    exact = centre + 0.8 * (new.double() - centre)
    # The slope is learnt from data within 2.5 sds: twice as far out its error doubles.
    torch.testing.assert_close(site.loc.detach(), exact, atol=0.15, rtol=0)
    assert torch.get_default_dtype() is torch.float32


def test_only_a_fit_of_svi_that_has_its_program_has_a_guide(tmp_path):
    fit = amortised(as_function(line()), max_iter=400, draws=5)
    fit.save(tmp_path / "fit.nc")
    loaded = Fit.load(tmp_path / "fit.nc")
    for name, value in fit.draws.items():
        assert torch.equal(loaded.draws[name], value)
        assert torch.equal(loaded.params[name], fit.params[name])
    assert loaded.diagnostics == fit.diagnostics
    assert loaded.attach(levels, X).log_likelihood == fit.log_likelihood
    for other in (loaded, MAP().fit(centred, X)):
        with pytest.raises(FitError, match="no guide: only SVI trains one"):
            trained_guide(other)


def test_the_same_engine_trains_its_guide_anew_every_time():
    engine = SVI(guide=Plain(line()), batch_size=20, max_iter=200, draws=5, learning_rate=0.05)
    first, second = engine.fit(levels, X), engine.fit(levels, X)
    assert torch.equal(first.draws["z"], second.draws["z"])
    assert first.history.equals(second.history)


@pytest.mark.parametrize("guide", ["normal", as_function(line())], ids=["named", "own"])
def test_a_guide_is_kept_no_longer_than_its_fit(guide):
    fit = SVI(guide=guide, max_iter=300, draws=2, learning_rate=0.1).fit(levels, X)
    program = weakref.ref(fit.program)
    trained_guide(fit)
    del fit
    gc.collect()
    assert program() is None


@pytest.mark.filterwarnings("ignore::likely.inference.errors.ConvergenceWarning")
def test_a_batch_of_everything_is_everything():
    whole = amortised(as_function(line()), batch_size=None, max_iter=20, draws=5)
    batch = amortised(as_function(line()), batch_size=N, max_iter=20, draws=5)
    assert batch.history.equals(whole.history)
    assert torch.equal(batch.draws["z"], whole.draws["z"])


# -- mini-batches and automatic guides -----------------------------------------------------------


@pytest.mark.parametrize(
    "guide", ["normal", AutoNormal(centred, init_scale=0.1)], ids=["name", "autoguide"]
)
def test_an_automatic_guide_follows_the_batches_of_local_unknowns(guide):
    fit = SVI(guide=guide, batch_size=20, max_iter=1500, draws=1000).fit(centred, X)
    exact = 1.5 + 0.8 * (X - 1.5)
    # Each unit has gradients of its own, in every other step: 1 / sqrt(1500 / 4) = .05 sds, and
    # the largest of 40 is below four of them; draws add 1 / sqrt(1000).
    atol = 4 * math.hypot(0.05, 0.032) * SD
    torch.testing.assert_close(fit.params["z"], exact, atol=atol, rtol=0)
    spread = fit.draws["z"][0].std(0)
    assert float(spread.mean()) == pytest.approx(SD, rel=0.03)


def test_a_batch_of_global_unknowns_takes_any_guide():
    def shared(x):
        z = pyro.sample("z", dist.Normal(0.0, 3.0))
        with pyro.plate("unit", len(x)) as index:
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[index])

    fit = SVI(guide="multivariate", batch_size=10, max_iter=1500, draws=500).fit(shared, X)
    precision = N / 0.25 + 1 / 9
    sd = precision**-0.5
    # A quarter of the data makes the gradient noisier: a batch mean is off by
    # sd(x) sqrt(3 / 40) = .3, four posterior sds, in every step.
    assert float(fit.params["z"]) == pytest.approx(float(X.sum()) * 4 / precision, abs=0.5 * sd)
    assert float(fit.draws["z"].std()) == pytest.approx(sd, rel=0.15)


@pytest.mark.parametrize("guide", ["multivariate", "lowrank", "flow"])
def test_one_vector_for_all_unknowns_cannot_follow_the_batches_of_local_ones(guide):
    with pytest.raises(ProgramError, match=r"'z' stands in plate 'unit'.* guide='normal'"):
        SVI(guide=guide, batch_size=10, max_iter=5).fit(centred, X)


def test_a_guide_that_does_not_index_its_data_is_refused_in_batches():
    def guide(x):
        with pyro.plate("unit", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.4))

    with pytest.raises(ProgramError, match=r"with pyro\.plate\('unit', n\) as index"):
        SVI(guide=guide, batch_size=10, max_iter=5, draws=2).fit(centred, X)


# -- a point as a guide, and programs with latents and parameters --------------------------------


def mixture(x):
    net = mixture.net
    pyro.module("net", net)
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(torch.tensor([-2.0, 2.0]), 1.0))
    with pyro.plate("point", len(x)) as index:
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample(
            "x", dist.Normal(loc[z] + net(x[index, None] * 0).squeeze(-1), 1.0), obs=x[index]
        )


mixture.net = line()


@pytest.mark.filterwarnings("ignore::likely.inference.errors.ConvergenceWarning")
@pytest.mark.parametrize(
    "made",
    [AutoDelta, AutoNormal, AutoMultivariateNormal],
    ids=lambda made: made.__name__,
)
def test_automatic_guides_made_by_the_user_leave_modules_alone(made):
    # Pyro's way to hide a discrete latent. The network in single precision, too, is no business of
    # the guide's.
    guide = made(poutine.block(mixture, hide=["z"]))
    fit = SVI(guide=guide, max_iter=200, draws=50).fit(mixture, X)
    assert set(fit.params) == {"loc", "net$$$weight", "net$$$bias"}
    assert fit.params["net$$$bias"].dtype == torch.float64


def test_an_automatic_guide_that_sees_a_discrete_latent_says_how_to_hide_it():
    with pytest.raises(ProgramError, match=r"the guide failed: .*hide=\['z'\]"):
        SVI(guide=AutoNormal(mixture), max_iter=5).fit(mixture, X)


def test_lists_of_automatic_guides_are_copied_whole():
    guide = AutoGuideList(centred)
    guide.append(AutoNormal(centred, init_scale=0.1))
    first = SVI(guide=guide, max_iter=300, draws=20).fit(centred, X)
    second = SVI(guide=guide, max_iter=300, draws=20).fit(centred, X)
    assert torch.equal(first.draws["z"], second.draws["z"])


# -- guides that do not fit ----------------------------------------------------------------------


def exact(x):
    with pyro.plate("unit", len(x)):
        pyro.sample("z", dist.Normal(1.5 + 0.8 * (x - 1.5), SD))


def with_another(x):
    exact(x)
    pyro.sample("other", dist.Normal(0.0, 1.0))


def with_an_auxiliary(x):
    noise = pyro.sample("noise", dist.Normal(torch.zeros(N), SD).to_event(1), infer=AUXILIARY)
    with pyro.plate("unit", len(x)):
        pyro.sample("z", dist.Delta(1.5 + 0.8 * (x - 1.5) + noise))


AUXILIARY = {"is_auxiliary": True}


def test_a_site_that_the_program_does_not_have_is_refused():
    with pytest.raises(ProgramError, match=r"site 'other', which is not an unknown.*'z'"):
        SVI(guide=with_another, max_iter=5).fit(centred, X)


def test_an_auxiliary_site_is_allowed():
    with pytest.warns(ConvergenceWarning, match="still rising"):
        found = SVI(guide=with_an_auxiliary, max_iter=5, draws=5).fit(centred, X)
    # The noise has the density of z here, so that every ratio is the evidence.
    evidence = float(dist.Normal(1.5, torch.tensor(1.25).double().sqrt()).log_prob(X).sum())
    assert found.sample_stats["log_weight"][0].tolist() == pytest.approx([evidence] * 5, rel=1e-9)


def test_a_discrete_latent_is_left_to_the_sum():
    def guide(x):
        pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("point", len(x)):
            pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))

    with pytest.raises(ProgramError, match="'z', a discrete latent, which is summed out"):
        SVI(guide=guide, max_iter=5).fit(mixture, X)


def test_a_draw_of_another_shape_is_refused():
    def guide(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ProgramError, match=r"'z' in shape \(\); in the program .* \(40,\)"):
        SVI(guide=guide, max_iter=5).fit(centred, X)


def test_a_guide_that_fails_says_so():
    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(3) + torch.zeros(2), 1.0))

    with pytest.raises(ProgramError, match="the guide failed: The size of tensor"):
        SVI(guide=guide, max_iter=5).fit(centred, X)


@pytest.mark.parametrize(("centre", "spread"), [(3.0, 0.1), (0.5, 0.3)])
def test_a_guide_outside_the_support_is_refused(centre, spread):
    def coin(heads):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("toss", len(heads)):
            pyro.sample("heads", dist.Bernoulli(p), obs=heads)

    def outside(heads):
        pyro.sample("p", dist.Normal(pyro.param("loc", torch.tensor(centre)), spread))

    with pytest.raises(ProgramError, match="draws site 'p' outside its support"):
        SVI(guide=outside, max_iter=2, draws=500).fit(coin, torch.tensor([1.0, 0.0]))


def test_what_has_no_trained_guide():
    with pytest.raises(FitError, match="fit must be a Fit, got int"):
        trained_guide(3)


def test_a_flow_of_one_number_is_the_normal_that_it_could_only_be():
    def one(x):
        level = pyro.sample("level", dist.Normal(0.0, 10.0))
        with pyro.plate("unit", len(x)):
            pyro.sample("x", dist.Normal(level, 0.5), obs=x)

    flow, normal = (SVI(guide=guide, max_iter=800).fit(one, X) for guide in ("flow", "normal"))
    assert torch.equal(flow.draws["level"], normal.draws["level"])
