"""Policies of several modes: every way they may have fallen, told apart, simulated, weighted."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyro
import pytest
import torch
from gymnasium.spaces import Box
from pyro import poutine

from likely.envs import DataError, Trajectories
from likely.inference import EM
from likely.inference.program import Program
from likely.models import GaussianPolicy, MixturePolicy, TabularPolicy, TrajectoryModel

pytestmark = pytest.mark.usefixtures("in_double")

STATES, ACTIONS = 4, 3
TABLE = TabularPolicy(STATES, ACTIONS)


def tabular(lengths: list[int]) -> Trajectories:
    torch.manual_seed(0)
    n = sum(lengths)
    return Trajectories.from_arrays(
        torch.randint(0, STATES, (n + len(lengths),)),
        torch.randint(0, ACTIONS, (n,)),
        lengths=lengths,
        state_space=STATES,
        action_space=ACTIONS,
    )


def drawn(program: Program) -> dict[str, torch.Tensor]:
    """Values of the unknowns, from their priors."""
    pyro.set_rng_seed(1)
    return {n: u.prior.sample() for n, u in program.sites.unknowns.items()}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("per", ["step", "episode"])
def test_modes_are_summed_over_every_way_they_may_have_fallen(per: str, padded: bool) -> None:
    data = tabular(lengths=[2, 1, 3])
    program = Program(TrajectoryModel(MixturePolicy(TABLE, 2, per=per), padded=padded), data)
    values = drawn(program)
    states, actions = data.state_action_pairs()
    group = data.episode if per == "episode" else torch.arange(data.n_steps)
    total = 0.0
    for modes in product(range(2), repeat=int(group[-1]) + 1):
        chosen = torch.tensor(modes)
        likelihood = values["policy"][chosen[group], states, actions].prod()
        total += float(values["mode_weights"][chosen].prod() * likelihood)
    assert abs(program.log_likelihood(values) - np.log(total)) < 1e-12


def two_ways(episodes: int) -> tuple[Trajectories, torch.Tensor]:
    """Demonstrators that keep to the left or to the right all the way."""
    torch.manual_seed(2)
    lengths = torch.arange(episodes) % 4 + 3
    way = torch.arange(episodes) % 3 == 0
    states = torch.randn(int(lengths.sum()) + episodes, 1)
    line = Box(-np.inf, np.inf, (1,), np.float64)
    design = Trajectories.from_arrays(states, None, lengths=lengths, action_space=line)
    side = torch.where(way, 1.0, -1.0)[design.episode, None]
    return design.with_actions(side + 0.2 * torch.randn(design.n_steps, 1)), way


@pytest.mark.parametrize("padded", [False, True])
def test_em_tells_two_kinds_of_demonstrators_apart(padded: bool) -> None:
    data, way = two_ways(30)
    model = TrajectoryModel(MixturePolicy(GaussianPolicy(1), 2, per="episode"), padded=padded)
    fit = EM(seed=0).fit(model, data)
    right = int(fit.params["intercept"][:, 0].argmax())
    found = fit.latent("mode").reshape(30, 2)[:, right]
    np.testing.assert_allclose(found, way.double(), atol=1e-6)
    np.testing.assert_allclose(fit.params["mode_weights"][right], way.double().mean(), atol=1e-6)
    single = EM().fit(TrajectoryModel(GaussianPolicy(1)), data)
    assert fit.log_likelihood > single.log_likelihood + 50


@pytest.mark.parametrize("per", ["step", "episode"])
@pytest.mark.parametrize("padded", [False, True])
def test_simulated_modes_last_as_long_as_they_should(per: str, padded: bool) -> None:
    table = torch.zeros(2, STATES, ACTIONS)
    table[0, :, 0] = table[1, :, 1] = 1.0
    values = {"mode_weights": torch.tensor([0.5, 0.5]), "policy": table}
    model = TrajectoryModel(MixturePolicy(TABLE, 2, per=per), padded=padded)
    data = tabular(lengths=[8] * 20)
    actions = poutine.condition(model, values)(data.with_actions(None)).reshape(20, 8)
    constant = (actions == actions[:, :1]).all(1)
    assert bool(constant.all()) == (per == "episode")
    assert set(actions.flatten().tolist()) == {0, 1}


def test_steps_of_an_episode_with_one_mode_have_weights_inside_the_sum() -> None:
    data = tabular(lengths=[2, 3])
    model = TrajectoryModel(MixturePolicy(TABLE, 2, per="episode"))
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 3.0])
    program = Program(model, data, weights=weights)
    values = drawn(program)
    states, actions = data.state_action_pairs()
    density = (values["policy"][:, states, actions].log() * weights).T
    by_episode = torch.stack([density[:2].sum(0), density[2:].sum(0)])
    expected = (values["mode_weights"].log() + by_episode).logsumexp(-1).sum()
    assert abs(program.log_likelihood(values) - expected) < 1e-12
    with pytest.raises(DataError, match="expected one an episode"):
        EM().fit(TrajectoryModel(model.policy, padded=True), data, weights=weights)
