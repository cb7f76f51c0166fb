"""A plate outside vectorises trajectory programs: many values at once as one at a time."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from likely.envs import Trajectories
from likely.models import (
    GaussianPolicy,
    LinearGaussianDynamics,
    MixturePolicy,
    SoftmaxPolicy,
    TabularDynamics,
    TabularPolicy,
    TabularStates,
    TrajectoryModel,
)
from likely.models._action_distributions import ModeActions, SelectedMode, TableRows

pytestmark = pytest.mark.usefixtures("in_double")

STATES, ACTIONS, MANY, LENGTHS = 4, 3, 5, [2, 1, 3]


def tabular() -> Trajectories:
    torch.manual_seed(0)
    return Trajectories.from_arrays(
        torch.randint(0, STATES, (9,)),
        torch.randint(0, ACTIONS, (6,)),
        lengths=LENGTHS,
        state_space=STATES,
        action_space=ACTIONS,
    )


def vectors() -> Trajectories:
    torch.manual_seed(0)
    return Trajectories.from_arrays(torch.randn(9, 2), torch.randn(6, 2), lengths=LENGTHS)


def policies() -> dict[str, tuple[Any, Trajectories]]:
    features = torch.linspace(-1.0, 1.0, 2 * STATES, dtype=torch.float64).reshape(STATES, 2)
    kinds = {
        "tabular": (TabularPolicy(STATES, ACTIONS), tabular()),
        "softmax": (SoftmaxPolicy(ACTIONS, features), tabular()),
        "gaussian": (GaussianPolicy(2), vectors()),
    }
    mixed = {
        f"{name}-{per}": (MixturePolicy(policy, 2, per=per), data)
        for name, (policy, data) in kinds.items()
        for per in ("step", "episode")
    }
    return kinds | mixed


def densities(program: Any, *args: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values of the latent sites of one run, and log-densities of all observed ones."""
    nodes = poutine.trace(program).get_trace(*args)
    nodes.compute_log_prob()
    sampled = {n: v for n, v in nodes.nodes.items() if v["type"] == "sample" and n != "particle"}
    found = {n: v["log_prob"] for n, v in sampled.items() if not n.startswith(("step", "episode"))}
    return {n: v["value"] for n, v in sampled.items()}, found


def check(model: TrajectoryModel, data: Trajectories, simulated: bool = False) -> None:
    """Densities of all particles against those of programs that are given one of them."""
    given = data.with_actions(None) if simulated else data
    rows = 2 if model.padded else 1

    def particles() -> None:
        with pyro.plate("particle", MANY, dim=-1 - rows):
            model(given)

    pyro.set_rng_seed(1)
    values, many = densities(particles)
    observed = {"action", "next_state", "state", "first_state"} & many.keys()
    assert "action" in observed
    names = [n for n in model.dims if n in values and n != "mode"]
    for i in range(MANY):
        own = {n: values[n][i].reshape(values[n].shape[1:]) for n in names}
        # Where no other plate stood, one was left for the rows; modes took the last of these.
        modes = isinstance(model.policy, MixturePolicy)
        keep = {n: len(model.dims[n]) + (modes and n in model.policy.policy.dims) for n in names}
        own = {n: v.reshape(v.shape[v.dim() - keep[n] :]) for n, v in own.items()}
        if simulated:
            own["action"] = values["action"][i]
            if "mode" in values:
                own["mode"] = values["mode"][i]
        _, one = densities(poutine.condition(model, own), given)
        for name in observed:
            torch.testing.assert_close(many[name][i], one[name], rtol=1e-10, atol=1e-12)
            assert many[name].shape == (MANY, *one[name].shape)


def cases() -> list[tuple[str, bool, bool]]:
    """Policy, blocks, simulated; modes of blocks that were seen are for engines to enumerate."""
    return [
        (name, padded, simulated)
        for name, (policy, _) in policies().items()
        for padded in (False, True)
        for simulated in (False, True)
        if simulated or not padded or not isinstance(policy, MixturePolicy)
    ]


@pytest.mark.parametrize(("name", "padded", "simulated"), cases())
def test_particles_are_programs_beside_each_other(name: str, padded: bool, simulated: bool) -> None:
    policy, data = policies()[name]
    check(TrajectoryModel(policy, padded=padded), data, simulated)


@pytest.mark.parametrize("padded", [False, True])
def test_particles_have_dynamics_and_first_states(padded: bool) -> None:
    table = TabularPolicy(STATES, ACTIONS)
    moves, start = TabularDynamics(STATES, ACTIONS), TabularStates(STATES)
    check(TrajectoryModel(table, moves, start, padded=padded), tabular())
    check(TrajectoryModel(GaussianPolicy(2), LinearGaussianDynamics(2), padded=padded), vectors())


def test_rows_of_several_tables_are_those_of_categories() -> None:
    torch.manual_seed(0)
    table = torch.rand(MANY, STATES, ACTIONS).softmax(-1)
    row = torch.tensor([0, 3, 3, 1])
    fn = TableRows(table, row)
    plain = dist.Categorical(table[:, row])
    for shape in ((4,), (MANY, 4), (7, MANY, 4)):
        value = torch.randint(0, ACTIONS, shape)
        torch.testing.assert_close(fn.log_prob(value), plain.log_prob(value))
    assert fn.sample((7,)).shape == (7, MANY, 4)


@pytest.mark.parametrize("per", ["step", "episode"])
def test_modes_are_drawn_for_each_value_outside(per: str) -> None:
    """Shares of draws of 4000 runs against the weights, within five standard errors."""
    sure = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])
    weights = torch.tensor([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]])
    modes = [dist.Delta(v.expand(3, 3)) for v in sure]
    episode = torch.tensor([0, 0, 1]) if per == "episode" else None
    torch.manual_seed(0)
    drawn = ModeActions(weights, modes, episode).sample((4000,))
    assert drawn.shape == (4000, 3, 3)
    error = (weights.prod(-1, keepdim=True) / 4000).sqrt()
    assert bool(((drawn.mean(0) - weights[:, 1:]).abs() <= 5 * error).all())
    together = (drawn[..., 0] == drawn[..., 1]).all(0)
    assert together.tolist() == ([True] * 3 if per == "episode" else [False, False, True])


@pytest.mark.parametrize("per", ["step", "episode"])
def test_modes_grow_outside_and_not_along_the_rows(per: str) -> None:
    torch.manual_seed(0)
    modes = [dist.Normal(torch.randn(3), 1.0) for _ in range(2)]
    episode = torch.tensor([0, 0, 1]) if per == "episode" else None
    one = ModeActions(torch.tensor([0.3, 0.7]), modes, episode, observed=torch.randn(3))
    assert one.observed is not None
    many = one.expand((MANY, *one.batch_shape))
    expected = one.log_prob(one.observed).expand(many.batch_shape)
    torch.testing.assert_close(many.log_prob(one.observed), expected)
    assert many.sample().shape == (MANY, 3)
    with pytest.raises(ValueError, match="rows, as there are actions"):
        one.expand((one.batch_shape[0] + 1,))


def test_actions_of_a_given_mode_are_drawn_in_any_number() -> None:
    modes = [dist.Normal(torch.full((4,), loc), 1e-6) for loc in (0.0, 9.0)]
    fn = SelectedMode(modes, torch.tensor([[0], [1]]))
    drawn = fn.sample((6,))
    assert drawn.shape == (6, 2, 4)
    assert drawn.round().unique(dim=0).tolist() == [[[0.0] * 4, [9.0] * 4]]
