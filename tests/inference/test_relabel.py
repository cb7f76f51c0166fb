"""One labelling for all draws: permuted draws come back, and fits can be laid side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likely.inference import (
    EM,
    MAP,
    NUTS,
    SVI,
    Fit,
    FitError,
    Laplace,
    OptionError,
    Program,
    ProgramError,
    compare,
    relabel,
)
from likely.inference.engines.nuts import mixing
from likely.inference.labels import labelling, permute, relabel_draws
from likely.inference.relabel import exchangeable_axes

AXES = {"weights": (0,), "locs": (0,), "transition": (0, 1)}


def synthetic(chains: int = 2, draws: int = 60, size: int = 3, seed: int = 0) -> dict[str, Any]:
    """Draws about well separated components, with a transition matrix and a site without labels."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(chains, draws, *shape, generator=generator, dtype=torch.float64)

    centres = torch.arange(size, dtype=torch.float64)
    matrix = 0.1 + torch.rand(size, size, generator=generator, dtype=torch.float64)
    return {
        "weights": 1.0 + centres + 0.1 * noise(size),
        "locs": torch.stack([5 * centres, -3 * centres], -1) + 0.3 * noise(size, 2),
        "transition": matrix + 0.01 * noise(size, size),
        "noise": noise(),
    }


def random_order(chains: int, draws: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(chains, draws, size, generator=generator).argsort(-1)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(2, 5), seed=st.integers(0, 10_000))
def test_permuted_draws_come_back(size: int, seed: int) -> None:
    draws = synthetic(size=size, seed=seed)
    mixed = permute(draws, AXES, random_order(2, 60, size, seed + 1))
    assert not torch.equal(mixed["locs"], draws["locs"])
    found = relabel_draws(mixed, AXES, {name: draws[name][:1, :1] for name in AXES})
    for name in draws:
        assert torch.equal(found[name], draws[name]), name
    # Without a reference all draws agree, in an order that the first one chose.
    free = relabel_draws(mixed, AXES)
    one = labelling({name: mixed[name][:1, :1] for name in AXES}, AXES, draws)
    expected = permute(draws, AXES, one.argsort(-1).expand(2, 60, size))
    for name in draws:
        assert torch.equal(free[name], expected[name]), name


def test_rows_and_columns_go_together() -> None:
    draws = synthetic()
    order = torch.tensor([2, 0, 1]).expand(2, 60, 3)
    found = permute(draws, AXES, order)["transition"]
    assert torch.equal(found[..., 0, 1], draws["transition"][..., 2, 0])


def test_a_transition_matrix_alone_tells_the_states_apart() -> None:
    draws = {"transition": synthetic(size=4, seed=3)["transition"]}
    axes = {"transition": (0, 1)}
    mixed = permute(draws, axes, random_order(2, 60, 4, 1))
    found = relabel_draws(mixed, axes, {"transition": draws["transition"][:1, :1]})
    assert torch.equal(found["transition"], draws["transition"])


def test_the_draw_of_highest_density_gives_the_labels() -> None:
    draws = synthetic()
    mixed = permute(draws, AXES, random_order(2, 60, 3, 5))
    density = torch.zeros(2, 60)
    density[1, 17] = 1.0
    found = relabel_draws(mixed, AXES, None, density)
    assert torch.equal(found["locs"][1, 17], mixed["locs"][1, 17])
    density[0, 3] = math.nan  # says nothing, and takes nothing away
    assert torch.equal(found["locs"], relabel_draws(mixed, AXES, None, density)["locs"])


def test_features_that_tell_nothing_apart_do_not_drown_the_one_that_does() -> None:
    generator = torch.Generator().manual_seed(0)
    locs = torch.tensor([0.0, 1.0]) + 0.1 * torch.randn(1, 400, 2, generator=generator)
    other = torch.randn(1, 400, 2, 40, generator=generator)
    draws = {"locs": locs, "other": other}
    axes = {"locs": (0,), "other": (0,)}
    order = random_order(1, 400, 2, 2)
    found = relabel_draws(permute(draws, axes, order), axes)["locs"]
    # The two locations are ten standard deviations apart: not one draw may be wrong.
    right = (found[..., 1] > found[..., 0]).double().mean().item()
    assert right in (0.0, 1.0)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_constant_features_are_no_hindrance(constant: float) -> None:
    draws = synthetic() | {"weights": torch.full((2, 60, 3), constant, dtype=torch.float64)}
    mixed = permute(draws, AXES, random_order(2, 60, 3, 7))
    found = relabel_draws(mixed, AXES, {"locs": draws["locs"]})
    assert torch.equal(found["locs"], draws["locs"])


def test_draws_that_cannot_be_labelled() -> None:
    draws = synthetic()
    with pytest.raises(FitError, match="axes must name sites of the draws"):
        labelling(draws, {"scales": (0,)})
    with pytest.raises(FitError, match=r"different numbers.* 3 on axis 0 of 'locs', 2 on axis 1"):
        labelling(draws, {"locs": (0, 1)})
    bad = draws | {"locs": draws["locs"].clone()}
    bad["locs"][0, 0, 0, 0] = math.nan
    with pytest.raises(FitError, match="draws of site 'locs' are not finite"):
        labelling(bad, AXES)
    with pytest.raises(FitError, match=r"site 'locs' has shape \(2, 2\), and here \(3, 2\)"):
        labelling(draws, AXES, {"locs": draws["locs"][:, :, :2]})
    with pytest.raises(FitError, match="none of the sites with exchangeable labels: weights, locs"):
        labelling(draws, AXES, {"noise": draws["noise"]})
    with pytest.raises(FitError, match="reference: site 'locs' is not finite"):
        labelling(draws, AXES, {"locs": bad["locs"]})


# -- programs and fits ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Bells:
    """Two normal components, with the squares of their scales as a deterministic site."""

    exchangeable: ClassVar[Any] = ("bell",)
    dims: ClassVar[Any] = {"weights": ("bell",), "z": ("bell",)}

    def __call__(self, x: torch.Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(2 * torch.ones(2)))
        with pyro.plate("bell", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
            scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
            pyro.deterministic("variance", scale.square())
        with pyro.plate("point", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    def initial(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loc": torch.tensor([-2.0, 3.0]), "scale": torch.ones(2)}


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    parts = torch.rand(120, generator=generator) < 0.35
    noise = torch.randn(120, generator=generator)
    return torch.where(parts, -2.0 + 0.8 * noise, 3.0 + noise).double()


@pytest.fixture(scope="module")
def em(x: torch.Tensor) -> Fit:
    return EM().fit(Bells(), x)


@pytest.fixture(scope="module")
def two_modes(x: torch.Tensor) -> Fit:
    """Draws about both modes, as two chains of a sampler that knows nothing of labels."""
    fit = Laplace(draws=400, relabel=False).fit(Bells(), x)
    order = torch.tensor([[0, 1], [1, 0]])[:, None].expand(2, 200, 2)
    axes = {name: (0,) for name in fit.draws}
    halves = {n: v.reshape(2, 200, *v.shape[2:]) for n, v in fit.draws.items()}
    draws = permute(halves, axes, order)
    diagnostics = mixing({n: draws[n] for n in ("weights", "loc", "scale")})
    params = {name: value.mean((0, 1)) for name, value in draws.items()}
    return replace(
        fit,
        engine="nuts",
        draws=draws,
        params=params,
        log_likelihood=float(fit.bound("a test").log_likelihood(params)),
        diagnostics=diagnostics,
    )


def test_two_chains_in_two_modes(two_modes: Fit, x: torch.Tensor) -> None:
    assert two_modes.diagnostics["rhat_max"] > 1.5
    assert float(two_modes.latent("z").std()) < 0.01  # averaged over labels: one half everywhere
    found = two_modes.relabelled()
    assert found.diagnostics["rhat_max"] < 1.05
    assert found.diagnostics["ess_min"] > 100 > two_modes.diagnostics["ess_min"]
    low, high = found.params["loc"].sort().values.tolist()
    assert (low, high) == (pytest.approx(-2, abs=0.5), pytest.approx(3, abs=0.5))
    # The log-likelihood at the mean of both modes is that of no mixture at all.
    assert found.log_likelihood > two_modes.log_likelihood + 20
    z = found.latent("z")
    first = int(found.params["loc"].argmin())
    assert bool((z[x < -1.5][:, first] > 0.9).all())
    assert bool((z[x > 2.5][:, first] < 0.1).all())
    # Deterministic sites go with the unknowns they come from.
    np.testing.assert_allclose(found.draws["variance"], found.draws["scale"] ** 2)
    np.testing.assert_allclose(found.params["variance"], found.draws["variance"].mean((0, 1)))


def test_a_point_and_a_posterior_side_by_side(two_modes: Fit, em: Fit) -> None:
    turned = em.relabelled({"loc": em.params["loc"].flip(0)})
    assert turned.params["loc"].tolist() == em.params["loc"].flip(0).tolist()
    assert turned.params["variance"].tolist() == em.params["variance"].flip(0).tolist()
    assert torch.equal(turned.draws["weights"][0, 0], turned.params["weights"])
    assert turned.log_likelihood == em.log_likelihood
    assert torch.equal(turned.latent("z"), em.latent("z").flip(-1))
    for point in (em, turned):
        posterior = relabel(two_modes, point)
        table = compare({"EM": point, "NUTS": posterior})
        assert bool(table.loc[["loc[0]", "loc[1]"], ("EM", "inside")].all())
        back = relabel(point, posterior)
        assert torch.equal(back.params["loc"], point.params["loc"])
        other = relabel(em if point is turned else turned, posterior)
        assert torch.equal(other.params["loc"], point.params["loc"])


@pytest.mark.parametrize(
    "engine",
    [
        Laplace(draws=300),
        SVI(guide="multivariate", max_iter=150, learning_rate=0.05, draws=200),
        NUTS(draws=60, warmup=60, chains=2, cores=1),
    ],
    ids=lambda engine: engine.name,
)
@pytest.mark.filterwarnings("ignore::likely.inference.ConvergenceWarning")
def test_engines_give_one_labelling(engine: Any, x: torch.Tensor, two_modes: Fit) -> None:
    # Chains of NUTS start at draws of both modes; what the others find is put there by force.
    if engine.name == "nuts":
        engine = replace(engine, init=two_modes)
    apart = replace(engine, relabel=False).fit(Bells(), x)
    together = engine.fit(Bells(), x)
    assert apart.options["relabel"] is False
    if engine.name == "nuts":
        assert apart.diagnostics["rhat_max"] > 1.5
        assert together.diagnostics["rhat_max"] < 1.2
    first = together.draws["loc"][..., 0] < together.draws["loc"][..., 1]
    assert bool(first.all()) or not bool(first.any())
    # The same draws but for the order of their components.
    assert torch.equal(apart.draws["loc"].sort(-1).values, together.draws["loc"].sort(-1).values)
    np.testing.assert_allclose(together.draws["variance"], together.draws["scale"] ** 2)


def test_which_axes_are_exchangeable(x: torch.Tensor) -> None:
    expected = dict.fromkeys(("weights", "loc", "scale", "variance"), (0,))
    assert exchangeable_axes(Program(Bells(), x)) == {"bell": expected}

    def chain(y: torch.Tensor) -> None:
        with pyro.plate("state", 3):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        row = dist.Dirichlet(torch.ones(3))
        transition = pyro.sample("transition", row.expand([3]).to_event(1))
        start = pyro.sample("start", row)
        pyro.factor("y", -((y - start @ transition @ loc) ** 2).sum())

    chain.exchangeable = "state"  # type: ignore[attr-defined]
    for columns in ("state", "state_to", "state_bis"):
        chain.dims = {  # type: ignore[attr-defined]
            "start": ("state",),
            "transition": ("state", columns),
            "loc": ("state_space",),
        }
        found = exchangeable_axes(Program(chain, torch.zeros(2)))
        assert found == {"state": {"loc": (0,), "transition": (0, 1), "start": (0,)}}


def test_a_parameter_without_a_prior_holds_the_labels(x: torch.Tensor) -> None:
    def program(x: torch.Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
        with pyro.plate("bell", 2):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x[:2])

    program.exchangeable, program.dims = ("bell",), {"loc": ("bell",)}  # type: ignore[attr-defined]
    assert exchangeable_axes(Program(program, x)) == {}
    with pytest.raises(FitError, match="has a parameter without a prior, which holds the labels"):
        MAP().fit(program, x).relabelled()


def test_what_a_program_may_declare(x: torch.Tensor, em: Fit) -> None:
    def declaring(value: Any) -> Any:
        return type("Declaring", (Bells,), {"exchangeable": value})()

    for value in (3, ("bell", 1), {"bell": 1}):
        with pytest.raises(ProgramError, match="exchangeable must be a tuple of names"):
            Laplace(draws=10).fit(declaring(value), x)
    with pytest.raises(ProgramError, match=r"names 'bells', which no unknown has .*\(bell\)"):
        Laplace(draws=10).fit(declaring(("bells",)), x)
    for value in (None, ()):
        silent = EM().fit(declaring(value), x)
        with pytest.raises(FitError, match="declares no dimension whose labels are arbitrary"):
            relabel(silent)
    with pytest.raises(OptionError, match="relabel must be True or False"):
        Laplace(relabel="yes")  # type: ignore[arg-type]


def test_references_that_are_none(em: Fit) -> None:
    with pytest.raises(FitError, match=r"reference must be a Fit or a mapping.*got list"):
        em.relabelled([1, 2])  # type: ignore[arg-type]
    with pytest.raises(FitError, match=r"site 'loc' has shape \(3,\), and here \(2,\)"):
        em.relabelled({"loc": [1, 2, 3]})
    with pytest.raises(FitError, match="no array of numbers"):
        em.relabelled({"loc": ["a", "b"]})
    with pytest.raises(FitError, match="none of the sites"):
        em.relabelled({"locs": [1, 2]})
    wanted = torch.tensor([1.0, 2.0], requires_grad=True)
    torch.testing.assert_close(
        em.relabelled({"loc": wanted}).params, em.relabelled({"loc": [1.0, 2.0]}).params
    )
    with pytest.raises(FitError, match="fit must be a Fit, got int"):
        relabel(3)  # type: ignore[arg-type]
    with pytest.raises(FitError, match=r"relabel\(\) needs the program"):
        replace(em, program=None).relabelled()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"loc": (1,)}, r"axes: site 'loc' .*integers from 0 to 0, got \(1,\)"),
        ({"loc": (-1,)}, r"site 'loc' .*got \(-1,\)"),
        ({"loc": (0, 0)}, r"site 'loc' .*different integers"),
        ({"loc": ("bell",)}, r"site 'loc' .*got \('bell',\)"),
        ({"loc": 0}, r"site 'loc' .*got 0"),
        ({"flat": (0,)}, r"draws of site 'flat' must be \[chain, draw, \*shape\]"),
        (["loc"], "axes must map sites to tuples of axes, got list"),
    ],
)
def test_axes_that_are_none(axes: Any, message: str) -> None:
    draws = {"loc": torch.zeros(1, 4, 2), "flat": torch.zeros(1, 4)}
    with pytest.raises(FitError, match=message):
        relabel_draws(draws, axes)
