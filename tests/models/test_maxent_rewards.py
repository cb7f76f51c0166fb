"""What `MaxEntIRL` takes for a reward, and what of it no behaviour tells."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from likely.envs import (
    DataError,
    GridWorld,
    PlanningError,
    TabularMDP,
    Trajectories,
    cliff_world,
    soft_backward_induction,
    soft_value_iteration,
)
from likely.inference import MAP, MLE, NUTS, ConvergenceWarning, DegenerateWarning, Laplace
from likely.models import (
    MaxEntIRL,
    TrajectoryPairs,
    TrajectoryPreference,
    Visits,
    trajectory_features,
)
from likely.models._left_open import shifts
from likely.models.preference import LinearReward, NetworkReward, TabularReward, TrajectoryReward

pytestmark = pytest.mark.usefixtures("in_double")


def windy(discount: float = 0.9) -> GridWorld:
    """Six cells and a sink, with slippery floors."""
    return GridWorld(
        ("S.G", ".T#"),
        discount=discount,
        slip=0.2,
        rewarded="departure",
        features=("kind", "distance"),
    )


def seen(world: GridWorld) -> Visits:
    return Visits.from_policy(world.mdp, soft_value_iteration(world.mdp, 0.5).policy, episodes=1e5)


# -- one object for preferences and behaviour ----------------------------------------------------


def test_a_linear_reward_is_its_features_and_prior() -> None:
    world = windy()
    reward = LinearReward(world.features, 3.0, world.feature_names)
    program = MaxEntIRL(world.mdp, reward, temperature=0.5)
    plain = MaxEntIRL(world.mdp, world.features, temperature=0.5, prior_scale=3.0)
    one, other = (MAP().fit(p, seen(world)).params["reward_weights"] for p in (program, plain))
    assert torch.equal(one, other)
    assert program.coords() == {"feature": list(world.feature_names)}


def test_a_tabular_reward_has_an_entry_for_each_state() -> None:
    world = windy()
    n = world.mdp.n_states
    program = MaxEntIRL(world.mdp, TabularReward(n, prior_scale=3.0), temperature=0.5)
    plain = MaxEntIRL(world.mdp, "state", temperature=0.5, prior_scale=3.0)
    modes = [MAP().fit(p, seen(world)).params for p in (program, plain)]
    # The sink's entry has no effect, and a prior.
    away = modes[0]["reward_table"][:-1] - modes[1]["reward_weights"]
    assert float(away.abs().max()) < 1e-6
    fit = Laplace(draws=30).fit(program, seen(world))
    assert program.reward(fit.draws).shape == (1, 30, n)
    assert program.policy(fit.draws).shape == (1, 30, n, 4)
    assert list(fit.to_arviz().posterior["reward_table"].dims) == ["chain", "draw", "state"]
    both = MaxEntIRL(world.mdp, TabularReward(n, 4), temperature=0.5)
    assert both.reward({"reward_table": torch.ones(n, 4)}).shape == (n, 4)


def test_what_preferences_told_is_where_behaviour_goes_on() -> None:
    world = windy()
    reward = LinearReward(world.features[:, 1:], 1.0)
    program = MaxEntIRL(world.mdp, reward, temperature=0.5)
    torch.manual_seed(0)
    walks = program(episodes=40, steps=8)
    pairs = TrajectoryPairs.among(walks, range(20), range(20, 40))
    asked = TrajectoryPreference(reward, world.mdp.discount)
    fit = MAP().fit(asked, pairs.with_preferred(torch.arange(20) % 2))
    torch.testing.assert_close(program.reward(fit.params), asked.reward_table(fit.params))
    going_on = MAP(init=fit).fit(program, seen(world))
    anew = MAP().fit(program, seen(world)).params["reward_weights"]
    assert float((going_on.params["reward_weights"] - anew).abs().max()) < 1e-5


class Odd(TabularReward):
    """A reward that is none of those known."""


@pytest.mark.parametrize(
    ("reward", "options", "message"),
    [
        (TabularReward(9), {}, "features: expected a TabularReward of 6 states"),
        (TabularReward(6, 3), {}, "and 4 actions"),
        (LinearReward(), {}, "reads a table"),
        (LinearReward(lambda s: s), {}, "reads a table"),
        (LinearReward(torch.ones(5, 2)), {}, r"expected \[S, F\]"),
        (NetworkReward(torch.nn.Linear(2, 1)), {}, "reads a table"),
        (LinearReward(torch.ones(6, 1)), {"names": ("a",)}, "of its own"),
        (LinearReward(torch.ones(6, 1)), {"network": torch.nn.Linear(1, 1)}, "of its own"),
        (torch.ones(6, 1), {"network": torch.nn.Tanh()}, "no parameters to learn"),
    ],
)
def test_rewards_that_do_not_fit_the_process(
    reward: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        MaxEntIRL(windy().mdp, reward, **options)


def test_rewards_of_an_unknown_kind_are_refused() -> None:
    class Other(TrajectoryReward):
        pass

    Other.__abstractmethods__ = frozenset()
    with pytest.raises(DataError, match="expected a LinearReward, TabularReward or NetworkReward"):
        MaxEntIRL(windy().mdp, Other())  # type: ignore[abstract]


# -- networks ------------------------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """A small network with a buffer and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)
        self.last.bias.requires_grad_(False)
        self.register_buffer("unit", torch.full((4,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(torch.tanh(self.first(x / self.unit)))
        return found


@pytest.mark.parametrize("own", [torch.float32, torch.float64])
@pytest.mark.parametrize("asked", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [None, 3.0])
def test_networks_of_any_precision(
    own: torch.dtype, asked: torch.dtype, scale: float | None
) -> None:
    world = windy()
    torch.manual_seed(2)
    net = Scaled().to(own).eval()
    program = MaxEntIRL(
        world.mdp, world.features, temperature=0.5, network=net, network_scale=scale
    )
    started = program.reward(
        {n: p for n, p in program.reward_part._parameters().items()}  # type: ignore[attr-defined]
    )
    with torch.no_grad():
        outputs = net(world.features.to(own)).squeeze(-1).double()
    torch.testing.assert_close(started, outputs, atol=1e-6, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = MAP(max_iter=8, dtype=asked).fit(program, seen(world))
    assert {value.dtype for value in fit.params.values()} == {asked}
    assert next(net.parameters()).dtype == own
    reward = program.reward(fit.params)
    assert reward.dtype == torch.float64
    # What it says of features is what it was fitted with: rounding of its own precision.
    data = seen(world)
    log_policy = program.policy(fit.params).log()
    found = float((data.counts * log_policy)[data.counts > 0].sum())
    assert found == pytest.approx(fit.log_likelihood, rel=1e-5)


def test_networks_that_do_not_fit_say_so() -> None:
    world = windy()
    for net, message in (
        (torch.nn.Linear(3, 1), "network: it cannot take features of shape"),
        (torch.nn.Linear(4, 2), r"network: expected rewards \(6, 1\), got \(6, 2\)"),
    ):
        program = MaxEntIRL(world.mdp, world.features, network=net)
        with pytest.raises(DataError, match=message):
            program(episodes=1, steps=1)


def test_traced_densities_are_the_same_over_a_horizon_and_refused_without_one() -> None:
    world = windy()
    for horizon in (4, None):
        program = MaxEntIRL(world.mdp, world.features, horizon, prior_scale=1.0)
        data = Visits.from_policy(world.mdp, torch.full((6, 4), 0.25), horizon)
        engine = NUTS(chains=1, cores=1, warmup=10, draws=10, max_tree_depth=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if horizon is None:
                with pytest.raises(PlanningError, match="cannot be traced; do without jit"):
                    replace(engine, jit=True).fit(program, data)
            else:
                one, two = (replace(engine, jit=j).fit(program, data) for j in (True, False))
                away = one.draws["reward_weights"] - two.draws["reward_weights"]
                assert float(away.abs().max()) < 1e-8


# -- what does not fit ---------------------------------------------------------------------------


def test_values_and_actions_that_do_not_fit() -> None:
    world = windy()
    program = MaxEntIRL(world.mdp, world.features)
    with pytest.raises(DataError, match=r"params\['reward_weights'\]: expected \(4,\)"):
        program.policy({"reward_weights": [1.0, 2.0]})
    for names in ("abcd", 4):
        with pytest.raises(DataError, match="names: expected one for each"):
            MaxEntIRL(world.mdp, world.features, names=names)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="network_scale: expected None without a network"):
        MaxEntIRL(world.mdp, world.features, network_scale=1.0)
    only = MaxEntIRL(
        world.mdp, world.features, base_policy=torch.eye(4)[:1].expand(world.mdp.n_states, 4)
    )
    with pytest.raises(DataError, match="never takes action 1 in state 0"):
        MAP().fit(only, seen(world))
    walks = program(episodes=2, steps=3)
    with pytest.raises(DataError, match="base_policy"):
        only(walks.with_actions(torch.ones(walks.n_steps, dtype=torch.int64)))
    for options, message in (
        ({"mdp": None}, "mdp: expected a TabularMDP"),
        ({"horizon": 40.0}, "horizon must be an integer"),
        ({"horizon": 0}, "horizon must be an integer"),
    ):
        with pytest.raises(DataError, match=message):
            Visits.from_trajectories(**{"mdp": world.mdp, "trajectories": walks, **options})
    with pytest.raises(DataError, match="mdp: expected a TabularMDP"):
        Visits.from_policy(None, torch.ones(1, 1))  # type: ignore[arg-type]


def test_tables_of_features_of_episodes() -> None:
    walks = MaxEntIRL(windy().mdp, "state")(episodes=3, steps=4)
    table = torch.arange(24.0).reshape(6, 4)
    found = trajectory_features(walks, table, 0.5)
    for same in (table.numpy(), table.tolist(), lambda states: table[states]):
        torch.testing.assert_close(trajectory_features(walks, same, 0.5), found)
    by_action = trajectory_features(walks, table.unsqueeze(1).expand(-1, 4, -1), 0.5)
    torch.testing.assert_close(by_action, found)
    for wrong in (torch.ones(2, 1), torch.ones(6, 2, 1)):
        with pytest.raises(DataError, match="features: a table of 2"):
            trajectory_features(walks, wrong)
    with pytest.raises(DataError, match=r"features: expected \[S, F\]"):
        trajectory_features(walks, torch.ones(6))
    moves = Trajectories.from_arrays([np.zeros((4, 2))], [np.zeros((3, 1))])
    with pytest.raises(DataError, match="is not one of"):
        trajectory_features(moves, torch.ones(2, 1))


# -- what no behaviour tells ---------------------------------------------------------------------


@pytest.mark.parametrize("discount", [0.9, 1.0])
@pytest.mark.parametrize("horizon", [None, 7])
@pytest.mark.parametrize("kind", ["state", "state-action", "features"])
def test_shifts_change_no_policy(discount: float, horizon: int | None, kind: str) -> None:
    world = windy(discount)
    mdp = world.mdp
    # Rewards low enough that episodes end at discount 1.
    program = MaxEntIRL(
        mdp, world.features if kind == "features" else kind, horizon, 0.2, known=-torch.ones(6)
    )
    width = program.reward_part.width  # type: ignore[attr-defined]
    features = program.reward_part.table({"reward_weights": torch.eye(width)}).movedim(0, -1)
    alive = features * mdp.alive.reshape(-1, *[1] * (features.dim() - 1))
    size = alive.flatten(0, -2).norm(dim=0)
    ways = shifts(mdp, features, horizon)
    torch.testing.assert_close(ways.T @ ways, torch.eye(ways.shape[1]), atol=1e-9, rtol=0)
    start = 0.1 * torch.randn(width)
    policy = program.policy({"reward_weights": start})
    for way in ways.T:
        other = program.policy({"reward_weights": start + 0.3 * way / size})
        assert float((other - policy).abs().max()) < 1e-8
    # And no other direction is one: the policy's derivative has no larger null space.
    if horizon is None or width <= 5:
        jacobian = torch.autograd.functional.jacobian(
            lambda w: program._log_policy({"reward_weights": w})[..., :-1, :].flatten(), start
        )
        values = torch.linalg.svdvals(jacobian / size)
        rank = int((values > 1e-8 * values[0]).sum())
        assert width - rank == ways.shape[1]


def test_maximum_likelihood_says_what_it_cannot_know() -> None:
    world = cliff_world()
    expert = soft_backward_induction(world.mdp, 40).policy
    data = Visits.from_policy(world.mdp, expert, 40)
    program = MaxEntIRL(world.mdp, "state", 40)
    assert "1 direction(s) of 'reward_weights'" in program.left_open({}, data)[0]
    # With one of them known, all are.
    rest = torch.eye(28)[:, 1:]
    assert MaxEntIRL(world.mdp, rest, 40).left_open({}) == []
    net = torch.nn.Linear(28, 1)
    assert MaxEntIRL(world.mdp, torch.eye(28), 40, network=net).left_open({}) == []
    small = windy()
    counted = seen(small)
    with pytest.warns(DegenerateWarning, match="mle: rewards in 1 direction.*entries free, goal"):
        MLE().fit(
            MaxEntIRL(small.mdp, small.features, temperature=0.5, names=small.feature_names),
            counted,
        )
    named = LinearReward(small.features, names=small.feature_names)
    (said,) = MaxEntIRL(small.mdp, named, temperature=0.5).left_open({})
    assert "entries free, goal" in said
    # Nothing is left open here, and warnings are errors.
    MLE().fit(MaxEntIRL(small.mdp, small.features[:, 1:], temperature=0.5), counted)


def test_unseen_and_unreachable_features_are_shifts() -> None:
    mdp = TabularMDP(torch.eye(2)[None].expand(2, -1, -1), torch.zeros(2), 0.5, 0)
    nothing = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert shifts(mdp, nothing).abs().tolist() == [[1.0], [0.0]]
    # A base policy that leaves no choice leaves nothing to be seen.
    base = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert shifts(mdp, nothing, base=base).shape == (2, 2)
    assert shifts(mdp, nothing, 5, base).shape == (2, 2)
