"""The discriminator: its optimum is a log ratio of densities, over steps and over trajectories."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from likely.envs import TabularMDP, Trajectories, fork_mdp, state_action_occupancy
from likely.inference import MAP, MLE, OptionError
from likely.inference.imitation import Discriminator, pair_features, play
from likely.inference.imitation.discriminator import rewards_of
from likely.models import LogisticRegression, ModuleClassifier

FLAT = LogisticRegression(intercept=False, coefficients_scale=None)


def process(seed: int = 0, states: int = 4, actions: int = 3) -> tuple[TabularMDP, Tensor, Tensor]:
    """A process without an end, and two policies that do everything somewhere."""
    random = torch.Generator().manual_seed(seed)

    def table(*shape: int) -> Tensor:
        rows = 0.2 + torch.rand(shape, generator=random, dtype=torch.float64)
        return rows / rows.sum(-1, keepdim=True)

    mdp = TabularMDP(table(states, actions, states), torch.zeros(states), 0.9, 0)
    return mdp, table(states, actions), table(states, actions)


def as_steps(mdp: TabularMDP) -> Trajectories:
    """Every pair of state and action once, an episode each."""
    n = mdp.n_states * mdp.n_actions
    rows = torch.arange(n)
    states = torch.stack([rows // mdp.n_actions] * 2, -1)
    return Trajectories.from_arrays(
        list(states),
        list((rows % mdp.n_actions).unsqueeze(-1)),
        state_space=mdp.n_states,
        action_space=mdp.n_actions,
    )


def test_the_best_discriminator_is_the_log_ratio_of_exact_occupancies() -> None:
    mdp, expert, learner = process()
    rho = [state_action_occupancy(mdp, p, normalized=True).flatten() for p in (expert, learner)]
    pairs = as_steps(mdp)
    x = pair_features(pairs)(*pairs.state_action_pairs())
    y = torch.cat([torch.ones(len(x)), torch.zeros(len(x))]).double()
    fit = MLE(tol=1e-14).fit(FLAT, torch.cat([x, x]), y, weights=torch.cat(rho))
    judge = Discriminator(program=FLAT).for_expert(pairs)
    found = judge.log_ratio(fit.params, pairs)
    torch.testing.assert_close(found, (rho[0] / rho[1]).log(), rtol=0, atol=1e-6)


def test_of_samples_it_is_the_log_ratio_of_their_counts() -> None:
    mdp, expert, learner = process(1)
    seen = [play(mdp, p, n, s, 30) for p, n, s in ((expert, 200, 0), (learner, 500, 1))]
    judge = Discriminator(program=FLAT, engine=MLE(tol=1e-14)).for_expert(seen[0])
    pairs = as_steps(mdp)
    for discount in (1.0, 0.8):
        fit = judge.fit(*seen, discount=discount)
        shares = []
        for part in seen:
            states, actions = part.state_action_pairs()
            counts = discount ** part.step.double()
            flat = torch.zeros(12).double().index_add(0, states * 3 + actions, counts)
            shares.append(flat / flat.sum())
        expected = (shares[0] / shares[1]).log()
        found = judge.log_ratio(fit.params, pairs)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_over_trajectories_it_is_the_log_ratio_of_their_densities() -> None:
    # Every trajectory of the small fork, weighted by its exact probability under each policy.
    mdp = fork_mdp(2)
    random = torch.Generator().manual_seed(0)
    logs = [torch.rand(mdp.n_states, 3, generator=random).double() for _ in range(2)]
    policies = [(0.5 + log) / (0.5 + log).sum(-1, keepdim=True) for log in logs]
    states, actions, ratio, weights = [], [], [], []
    number = {place: i for i, place in enumerate(mdp.states)}
    for a in range(3):
        for b in range(3):
            path = [number[0, 0.0], number[1, (a - 1) / 2], number[2, (a + b - 2) / 2]]
            chances = [p[path[0], a] * p[path[1], b] for p in policies]
            states.append(path)
            actions.append([a, b])
            ratio.append((chances[0] / chances[1]).log())
            weights.append(torch.stack(chances))
    seen = Trajectories.from_arrays(
        states, actions, state_space=mdp.n_states, action_space=mdp.n_actions
    )
    judge = Discriminator(program=FLAT, over="trajectory").for_expert(seen)
    x = judge.covariates(seen)
    assert x.shape == (9, mdp.n_states * 3)
    assert (x.sum(-1) == 2).all()
    y = torch.cat([torch.ones(9), torch.zeros(9)]).double()
    both = torch.stack(weights, -1).flatten()
    # Pairs always come in whole episodes, so coefficients are not unique; their sums are.
    ridge = LogisticRegression(intercept=False, coefficients_scale=1e4)
    fit = MAP(tol=1e-14).fit(ridge, torch.cat([x, x]), y, weights=both)
    expected = torch.stack(ratio)
    torch.testing.assert_close(judge.odds(fit.params, seen), expected, rtol=0, atol=1e-5)
    by_step = judge.log_ratio(fit.params, seen)
    per_episode = torch.zeros(9).double().index_add(0, seen.episode, by_step)
    torch.testing.assert_close(per_episode, expected, rtol=0, atol=1e-5)


def test_an_intercept_and_other_programs_are_paid_at_the_end() -> None:
    mdp, expert, learner = process(2)
    seen = [play(mdp, p, 40, s, 5) for s, p in enumerate((expert, learner))]
    torch.manual_seed(0)
    net = ModuleClassifier(torch.nn.Linear(12, 1).double(), 2.0)
    for program in (LogisticRegression(), net):
        judge = Discriminator(program=program, over="trajectory", engine=MAP()).for_expert(seen[0])
        fit = judge.fit(*seen)
        rewards = judge.log_ratio(fit.params, seen[1])
        total = torch.zeros(40).double().index_add(0, seen[1].episode, rewards)
        torch.testing.assert_close(total, judge.odds(fit.params, seen[1]))
    assert int((rewards != 0).sum()) == 40


def test_a_module_learns_what_a_line_cannot() -> None:
    states = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]).double()
    parts = [
        Trajectories.from_arrays(
            [states[[i, i]] for i in rows], [[0]] * 2, action_space=2
        )
        for rows in ((0, 1), (2, 3))
    ]  # fmt: skip
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    judge = Discriminator(lambda s, a: s, ModuleClassifier(net.double(), 10.0), MAP(max_iter=200))
    fit = judge.fit(*parts)
    assert (judge.log_ratio(fit.params, parts[0]) > 1).all()
    assert (judge.log_ratio(fit.params, parts[1]) < -1).all()
    line = Discriminator(lambda s, a: s)
    flat = line.log_ratio(line.fit(*parts).params, parts[0])
    torch.testing.assert_close(flat, torch.zeros(2).double(), rtol=0, atol=1e-3)


def test_default_features() -> None:
    mdp, expert, _ = process()
    discrete = play(mdp, expert, 5, 0, 5)
    x = pair_features(discrete)(*discrete.state_action_pairs())
    assert (x.sum(-1) == 1).all()
    torch.manual_seed(0)
    vectors = Trajectories.from_arrays(
        [torch.randn(200, 3).double() * 5 + 2], [torch.randint(0, 2, (199,))], action_space=2
    )
    covariates = pair_features(vectors)(*vectors.state_action_pairs())
    # State, the action, its products with the state; and squares and products of the state.
    assert covariates.shape == (199, 3 + 1 + 3)
    assert pair_features(vectors, 2)(*vectors.state_action_pairs()).shape == (199, 7 + 6)
    with pytest.raises(OptionError, match="order"):
        pair_features(vectors, 3)
    torch.testing.assert_close(covariates[:, :3].mean(0), torch.zeros(3).double())
    torch.testing.assert_close(covariates[:, :3].std(0, correction=0), torch.ones(3).double())
    controls = Trajectories.from_arrays([torch.randn(9, 2).double()], [torch.rand(8, 1).double()])
    assert pair_features(controls)(*controls.state_action_pairs()).shape == (8, 2 + 2 + 4)


def test_rewards() -> None:
    odds = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    h = torch.sigmoid(odds)
    torch.testing.assert_close(rewards_of(odds, "expert"), h.log())
    torch.testing.assert_close(rewards_of(odds, "not_learner"), -(1 - h).log())
    assert rewards_of(odds, "log_ratio") is odds
    with pytest.raises(OptionError, match="reward"):
        rewards_of(odds, "best")


def test_bad_input() -> None:
    seen = Trajectories.from_arrays([[0, 1]], [[1]])
    for options, word in (
        ({"over": "episode"}, "over"),
        ({"engine": "map"}, "engine"),
        ({"program": 3}, "program"),
        ({"features": 3}, "features"),
    ):
        with pytest.raises(OptionError, match=word):
            Discriminator(**options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="for_expert"):
        Discriminator().fit(seen, seen)
    wrong: list[Any] = [
        lambda s, a: torch.ones(3),
        lambda s, a: torch.full((1, 1), torch.nan),
        lambda s, a: [1.0],
    ]
    for features in wrong:
        with pytest.raises(OptionError, match="features"):
            Discriminator(features).fit(seen, seen)
