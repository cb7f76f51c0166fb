"""Rewards from preferences, policies near a base policy, and the pipeline of both."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    cartpole_expert,
    objective,
    rollout,
    soft_evaluate,
)
from likely.inference import MAP, Laplace
from likely.inference.active import LabellingStopped, Queries, TerminalOracle, bald
from likely.inference.errors import FitError, OptionError
from likely.inference.imitation import (
    CHOICES,
    PolicyGradient,
    PreferenceJudge,
    SimulatedLabeller,
    behaviour_cloning,
    candidate_pairs,
    improve,
    kl_budget,
    learn_reward,
    over_optimisation,
    pair_texts,
    play,
    rlhf,
)
from likely.inference.imitation.judged import follow
from likely.models import SoftmaxPolicy, TabularPolicy, TrajectoryPairs
from likely.models.preference import LinearReward
from small_grid import BETA, EXPERT, GAMMA, MDP, WORLD, candidates, program

BEST = float(objective(MDP, MDP.value_iteration().policy))
UNIFORM = torch.full((MDP.n_states, 4), 0.25, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pipeline_earns_the_optimum(seed: int) -> None:
    found = rlhf(
        MDP,
        play(MDP, EXPERT, 15, seed, 25),
        LinearReward(WORLD.features),
        lambda pairs: SimulatedLabeller(pairs, GAMMA, BETA, seed),
        horizon=25,
        preferences=500,
        rationality=BETA,
        temperature=0.01,
        seed=seed,
        acquisition="random",
        engine=MAP(),
    )
    base = float(objective(MDP, found.base.table))
    assert base < 0.8 * BEST
    assert float(objective(MDP, found.table)) >= 0.95 * BEST
    assert len(found.reward.pairs) == 500
    assert found.history["kl"][0] == pytest.approx(kl_budget(MDP, found, found.base))


def test_improve_is_the_best_near_the_base() -> None:
    heat = 0.1
    found = improve(MDP, MDP.expected_reward, EXPERT, heat)
    worth = soft_evaluate(MDP, found.policy, heat, prior=EXPERT)
    # The objective is the return less the penalty.
    penalised = found.learned - heat * found.kl
    assert float(MDP.initial @ worth.value) == pytest.approx(penalised, abs=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(5):
        other = 0.9 * found.policy + 0.1 * torch.from_numpy(rng.dirichlet(np.ones(4), len(EXPERT)))
        earned = float(objective(MDP, other)) - heat * kl_budget(MDP, other, EXPERT)
        assert earned < penalised
    assert kl_budget(MDP, EXPERT, EXPERT) == 0


def test_over_optimisation_trades_returns_for_distance() -> None:
    wrong = MDP.expected_reward[:, 0] + 0.5 * torch.eye(MDP.n_states)[4].double()
    rewards = {"true": MDP.expected_reward, "wrong": wrong}
    table = over_optimisation(MDP, rewards, EXPERT, [1.0, 0.1, 0.01])
    assert isinstance(table, pd.DataFrame)
    for _, rows in table.groupby("reward"):
        assert bool((rows["kl"].diff().dropna() > 0).all())
        assert bool((rows["learned"].diff().dropna() > 0).all())
    own = table[table["reward"] == "true"]
    np.testing.assert_allclose(own["learned"], own["true"], atol=1e-9)
    last = table[(table["reward"] == "wrong")].iloc[-1]
    # A cell that pays for being there is stayed in.
    assert last["true"] < 0 < last["learned"]


def test_labellers_are_as_rational_as_they_say() -> None:
    seen = Trajectories.from_arrays([[0, 1]] * 2, [[0]] * 2, rewards=[[0.0], [1.0]])
    size = 4000
    pairs = TrajectoryPairs.among(seen, [1] * size, [0] * size)
    queries = Queries(np.arange(size), classes=CHOICES)
    for beta in (0.5, 2.0):
        share = float((SimulatedLabeller(pairs, rationality=beta, seed=1)(queries) == 0).mean())
        expected = 1 / (1 + np.exp(-beta))
        assert abs(share - expected) < 4 * (expected * (1 - expected) / size) ** 0.5
    labeller = SimulatedLabeller(pairs, seed=2)
    assert (labeller(queries) == labeller(queries)).all()
    assert (SimulatedLabeller(pairs, rationality=float("inf"))(queries) == 0).all()


def test_pairs_are_different_and_come_once() -> None:
    seen = play(MDP, EXPERT, 12, 0, 25)
    pairs = candidate_pairs(seen, 10**6, 3)
    assert len(pairs) == 66
    sides = zip(pairs.first.episodes, pairs.second.episodes, strict=True)
    keys = {frozenset(side) for side in sides}
    assert len(keys) == 66
    assert all(len(key) == 2 for key in keys)


def test_rounds_ask_what_tells_most() -> None:
    pairs, seen = candidates(), []

    def look(learned: Any) -> bool:
        seen.append(len(learned.pairs))
        return len(seen) == 3

    labels = SimulatedLabeller(pairs, GAMMA, BETA)
    options: dict[str, Any] = {"start": 10, "batch": 5, "engine": Laplace(draws=100)}
    found = learn_reward(pairs, labels, program(), preferences=60, callback=look, **options)
    assert seen == [10, 15, 20]
    assert len(set(found.index.tolist())) == 20
    assert np.isnan(found.history["score"][0])
    assert bool((found.history["score"][1:] > 0).all())
    labels_again = labels(Queries(found.index, classes=CHOICES))
    assert (found.pairs.preferred.numpy() == (labels_again == 0)).all()
    options |= {"preferences": 20}
    chosen = {
        name: learn_reward(pairs, labels, program(), acquisition=acquisition, **options)
        for name, acquisition in (
            *((name, name) for name in ("bald", "entropy", "batch_bald", "power_bald")),
            *{"function": bald, "mine": lambda probs: bald(probs)}.items(),
        )
    }
    assert chosen["bald"].index.tolist() == found.index.tolist()
    for name in ("function", "mine"):
        assert chosen[name].index.tolist() == chosen["bald"].index.tolist()
    for name in ("entropy", "batch_bald", "power_bald"):
        assert chosen[name].index.tolist() != chosen["bald"].index.tolist()
        assert len(set(chosen[name].index.tolist())) == 20


def test_people_may_skip_and_stop() -> None:
    pairs = candidates(6)
    texts = pair_texts(pairs, actions=list(MDP.actions or range(4)))
    assert all(text.startswith("first:") for text in texts)

    def asked(lines: str, count: int) -> Any:
        oracle = TerminalOracle(
            CHOICES,
            path=None,
            items=texts,
            review=False,
            stdin=io.StringIO(lines),
            stdout=io.StringIO(),
        )
        options: dict[str, Any] = {"start": 3, "batch": 3, "engine": MAP(), "acquisition": "random"}
        return learn_reward(pairs, oracle, program(), preferences=count, **options)

    found = asked("first\ns\nsecond\n" * 2, 4)
    assert found.pairs.preferred.tolist()[:2] == [1.0, 0.0]
    assert len(found.pairs) in (3, 4)
    stopped = asked("first\nq\n", 6)
    assert stopped.stopped
    assert stopped.pairs.preferred.tolist() == [1.0]


def test_nobody_answers() -> None:
    def silent(queries: Queries) -> Any:
        return np.full(len(queries), -1)

    def gone(queries: Queries) -> Any:
        raise LabellingStopped(np.full(len(queries), -1))

    for oracle in (silent, gone):
        with pytest.raises(FitError, match="no answer"):
            learn_reward(candidates(10), oracle, program(), preferences=5, start=2)


def test_gradient_stays_near_the_base() -> None:
    """One step: the optimum is known, and policy gradients on the judge's rewards find it."""
    rows = torch.zeros(2, 3, 2)
    rows[..., 1] = 1
    choice = TabularMDP(rows, torch.zeros(2, 3), 1.0, 0, sink=1)
    base = torch.tensor([[0.6, 0.3, 0.1], [1 / 3] * 3], dtype=torch.float64)
    paid = torch.tensor([[0.0, 0.0, 1.0], [0.0] * 3], dtype=torch.float64)
    optimum = improve(choice, paid, base, 0.5).policy[0]
    played = play(choice, base, 2000, 0, 1)
    cloned = behaviour_cloning(played, TabularPolicy(2, 3, 1.5), MAP())
    judge = PreferenceJudge(
        lambda t: paid[t.step_states, t.state_action_pairs()[1]], cloned.policy, 0.5
    )
    options = PolicyGradient(
        iterations=80, episodes=200, horizon=1, learning_rate=0.05, discount=1.0
    )
    found = follow("rlhf", choice, TabularPolicy(2, 3), judge, options, init=cloned.params)
    # 200 episodes a step: the noise of the last steps is below 0.05.
    assert float((found.table[0] - optimum).abs().max()) < 0.08


def test_environments_take_policy_gradients() -> None:
    """A pole whose balance is preferred: the reward of a step is learnt to be positive."""
    careless = rollout("CartPole-v1", cartpole_expert, 3, 0, max_steps=20)
    found = rlhf(
        "CartPole-v1",
        careless,
        LinearReward(lambda states: torch.ones_like(states[:, :1]), names=["step"]),
        lambda pairs: SimulatedLabeller(pairs, rationality=0.3),
        policy=SoftmaxPolicy(2, prior_scale=1.0),
        cloning=MAP(),
        horizon=40,
        episodes=20,
        candidates=60,
        preferences=30,
        acquisition="random",
        rationality=0.3,
        temperature=0.1,
        gradient=PolicyGradient(iterations=3, episodes=5, horizon=40),
    )
    assert float(found.reward.fit.params["reward_weights"]) > 0
    assert len(found.history) == 3
    assert found.policy(np.zeros((2, 4)), np.random.default_rng(0)).shape == (2,)
    first = found.base.params["coefficients"]
    assert bool((found.policy.params["coefficients"] != first).any())


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"temperature": 0.0}, OptionError, "temperature"),
        ({"pessimism": -1.0}, OptionError, "pessimism"),
        ({"horizon": None}, OptionError, "horizon"),
        ({"preferences": 0}, OptionError, "preferences"),
        ({"episodes": 1}, OptionError, "episodes"),
        ({"acquisition": "most"}, OptionError, "acquisition"),
        ({"env": "CartPole-v1"}, OptionError, "policy"),
        ({"reward": LinearReward()}, DataError, "features"),
        ({"quantile": 2.0}, OptionError, "quantile"),
        ({"pessimism": 1.0, "quantile": 0.1}, OptionError, "got both"),
        ({"labeller": None}, OptionError, "labeller"),
        ({"labeller": lambda pairs: None}, OptionError, "oracle"),
        ({"labeller": lambda pairs: lambda q: ["first"] * len(q)}, DataError, "labels"),
        ({"gradient": 3}, OptionError, "gradient must be"),
        ({"gradient": PolicyGradient()}, OptionError, "optimised exactly"),
        ({"engine": "map"}, OptionError, "engine"),
        ({"callback": 3}, OptionError, "callback"),
        ({"progress": 1}, OptionError, "progress"),
        (
            {"acquisition": lambda p: p[0], "start": 3, "batch": 2},
            OptionError,
            "one score for each",
        ),
        ({"acquisition": lambda p: p[0, :, 0] * np.nan, "start": 3}, DataError, "NaN"),
        ({"acquisition": "core_set"}, OptionError, "more than probabilities"),
    ],
)
def test_what_cannot_be_used_is_refused(change: dict[str, Any], error: Any, says: str) -> None:
    options: dict[str, Any] = {
        "env": MDP,
        "demonstrations": play(MDP, EXPERT, 3, 0, 25),
        "reward": LinearReward(WORLD.features),
        "labeller": lambda pairs: SimulatedLabeller(pairs, GAMMA, BETA),
        "horizon": 25,
        "preferences": 10,
        **change,
    }
    with pytest.raises(error, match=says):
        rlhf(**options)


def test_other_bad_arguments() -> None:
    pairs = candidates(5)
    with pytest.raises(OptionError, match="rationality"):
        SimulatedLabeller(pairs, rationality=0.0)
    with pytest.raises(OptionError, match="two episodes"):
        candidate_pairs(pairs.first[:1], 3)
    with pytest.raises(OptionError, match="expected Trajectories"):
        candidate_pairs([[0, 1]], 3)
    labels = SimulatedLabeller(pairs, GAMMA, BETA)
    with pytest.raises(DataError, match="those of the labeller"):
        labels(Queries([0], classes=("second", "first")))
    with pytest.raises(DataError, match="below 5"):
        labels(Queries([5], classes=CHOICES))
    for rewards, heats in (({}, [1.0]), ({"own": MDP.reward}, []), ({"own": MDP.reward}, 1.0)):
        with pytest.raises(OptionError, match="expected at least one"):
            over_optimisation(MDP, rewards, UNIFORM, heats)
    point = learn_reward(
        pairs,
        SimulatedLabeller(pairs, GAMMA, BETA),
        program(),
        preferences=5,
        engine=MAP(),
        acquisition="random",
    )
    with pytest.raises(FitError, match="posterior draws"):
        point.pessimistic()
    with pytest.raises(OptionError, match="ensemble"):
        learn_reward(pairs, labels, program(), preferences=5, ensemble=1)
