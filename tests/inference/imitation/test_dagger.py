"""DAgger: who acts, what is asked, what is learnt from it, and how it goes on after a break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from alike import alike
from likely.envs import DataError, TabularMDP, cartpole_expert, rollout, tabular_expert
from likely.inference import MAP, FitError, OptionError
from likely.inference.imitation import (
    Dagger,
    behaviour_cloning,
    dagger,
    evaluate_returns,
    mean_interval,
)
from likely.inference.imitation.queries import Answered, Mixed, asked_about
from likely.models import GaussianPolicy, MixturePolicy, SoftmaxPolicy, TabularPolicy
from likely.models.trajectory import TrajectoryModel

LAKE = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
LAKE_EXPERT = tabular_expert(TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.99))
LAKE_SPACE = Discrete(4)
SMALL: dict[str, Any] = {"iterations": 3, "queries": 20, "seed": 1}


def cartpole(**options: Any) -> Any:
    return dagger("CartPole-v1", SoftmaxPolicy(2), cartpole_expert, **{**SMALL, **options})


# -- the schedule -------------------------------------------------------------------------------


def test_share_of_the_expert() -> None:
    assert [Dagger().share(i) for i in range(3)] == [1.0, 0.0, 0.0]
    assert [Dagger(beta="never").share(i) for i in range(2)] == [0.0, 0.0]
    assert [Dagger(beta=0).share(i) for i in range(2)] == [1.0, 0.0]
    assert [Dagger(beta=0.5).share(i) for i in range(3)] == [1.0, 0.5, 0.25]
    assert [Dagger(beta=lambda i: 1 / (1 + i)).share(i) for i in (0, 1)] == [1.0, 0.5]
    fused = Dagger(variant="fused", mixing=0.25)
    assert [fused.share(i) for i in range(3)] == [1.0, 0.75, 0.5625]


def test_mixed_policy_plays_the_expert_as_often_as_it_says() -> None:
    def learner(observations: Any, rng: Any) -> Any:
        return np.zeros(len(observations), dtype=np.int64)

    expert = Answered(lambda seen: np.ones(len(seen), dtype=np.int64), LAKE_SPACE)
    mixed = Mixed(learner, expert, 0.3)  # type: ignore[arg-type]
    share = mixed(np.zeros(10_000, dtype=np.int64), np.random.default_rng(0)).mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 10_000)


def test_an_answer_that_is_missing_leaves_the_step_to_the_learner() -> None:
    expert = Answered(lambda seen: np.full(len(seen), -1), LAKE_SPACE)
    learner = lambda seen, rng: np.full(len(seen), 2)  # noqa: E731
    mixed = Mixed(learner, expert, 1.0)  # type: ignore[arg-type]
    assert mixed(np.zeros(5), np.random.default_rng(0)).tolist() == [2] * 5


def test_asked_about_keeps_to_its_limits() -> None:
    assert asked_about(6, None, None, 0).tolist() == list(range(6))
    few = asked_about(100, 10, None, 3)
    assert len(set(few.tolist())) == 10
    assert (np.diff(few) > 0).all()
    assert asked_about(100, 10, 4, 3).tolist() == few[:4].tolist()
    assert len(asked_about(5, None, 0, 0)) == 0


# -- what is learnt -----------------------------------------------------------------------------


def test_aggregation_fits_all_answers_so_far() -> None:
    rows: list[dict[str, Any]] = []
    found = cartpole(callback=rows.append)
    data = found.fit.program.args[0]
    weights = found.fit.program.kwargs["weights"]
    assert int(weights.sum()) == found.history["labels"].iloc[-1] == 60
    states, actions = data.state_action_pairs()
    asked = weights > 0
    expected = cartpole_expert(states[asked].numpy())
    assert actions[asked].tolist() == expected.tolist()
    assert [row["labels"] for row in rows] == [20, 40, 60]
    assert found.history["beta"].tolist() == [1.0, 0.0, 0.0]
    # The fit's own optimum: cloning on the same answers ends at the same place.
    again = behaviour_cloning(data, SoftmaxPolicy(2), MAP(), weights)
    for site, value in again.params.items():
        torch.testing.assert_close(found.params[site], value, rtol=1e-4, atol=1e-4)


def test_fused_policies_are_a_mixture_with_the_weights_of_the_paper() -> None:
    alpha = 0.4
    found = cartpole(variant="fused", mixing=alpha)
    policy = found.policy.policy
    assert isinstance(policy, MixturePolicy)
    expected = alpha * (1 - alpha) ** np.arange(3)
    np.testing.assert_allclose(found.params["mode_weights"], expected / expected.sum(), atol=1e-12)
    np.testing.assert_allclose(found.history["beta"], (1 - alpha) ** np.arange(3))
    # What acts is the average of the policies, step by step.
    states = np.random.default_rng(0).normal(size=(5, 4)) * 0.1
    sites = ("intercept", "coefficients")
    each = [
        SoftmaxPolicy(2).probabilities({n: found.params[n][m] for n in sites}, states)
        for m in range(3)
    ]  # fmt: skip
    average = sum(w * p for w, p in zip(found.params["mode_weights"], each, strict=True))
    torch.testing.assert_close(found.policy.probabilities(states), average)
    assert isinstance(found.fit.program.source, TrajectoryModel)


def test_tables_learn_the_experts_choice_where_they_go() -> None:
    found = dagger(
        LAKE, TabularPolicy(17, 4, 1.1), LAKE_EXPERT, iterations=3, episodes=20, horizon=100
    )
    data = found.fit.program.args[0]
    visited = torch.unique(data.step_states)
    assert found.table[visited].argmax(-1).tolist() == LAKE_EXPERT(visited.numpy()).tolist()


def test_vectors_of_actions() -> None:
    expert = lambda seen: np.clip(0.5 - seen[:, 1:], -1, 1).astype(np.float32)  # noqa: E731
    found = dagger("likely/Fork-v0", GaussianPolicy(1), expert, iterations=2, episodes=4)
    assert float(found.params["coefficients"][0, 1]) == pytest.approx(-1.0, abs=1e-3)
    assert found.history["disagreement"].iloc[1] < 1e-3


def test_labels_are_spent_no_further() -> None:
    demonstration = rollout("CartPole-v1", cartpole_expert, 1, seed=3, max_steps=40)
    found = cartpole(demonstrations=demonstration, labels=50, iterations=10)
    assert found.history["labels"].tolist() == [40, 50]
    assert found.stopped == "all labels are spent"


def test_steps_of_the_expert_are_told() -> None:
    found = cartpole(beta=0.5, horizon=40)
    first, second, third = (found.history.iloc[i] for i in range(3))
    assert first["acted"] == first["length"] == 40
    # Binomial, within four standard deviations.
    for row, share in ((second, 0.5), (third, 0.25)):
        n = row["length"]
        assert abs(row["acted"] - share * n) < 4 * np.sqrt(n * share * (1 - share))
    assert cartpole(beta="never").history["acted"].tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("beta", ["first", "never"])
def test_dagger_beats_cloning_at_equal_labels(beta: str) -> None:
    cloned, asked = [], []
    for seed in range(5):
        demonstration = rollout("CartPole-v1", cartpole_expert, 1, seed=100 + seed)
        assert demonstration.n_steps == 500
        cloned.append(behaviour_cloning(demonstration, SoftmaxPolicy(2), MAP()))
        # With "never" the expert does nothing else than give these answers.
        found = cartpole(iterations=10, queries=50, labels=500, seed=seed, beta=beta)
        assert found.history["labels"].iloc[-1] <= 500
        asked.append(found)
    returns = [
        evaluate_returns("CartPole-v1", group, episodes=20, seed=7) for group in (cloned, asked)
    ]
    # Over trainings: the difference is far beyond what five seeds leave open.
    difference = returns[1].returns.mean(-1) - returns[0].returns.mean(-1)
    assert mean_interval(difference, 0.99)[1] > 0
    assert returns[1].mean > 450 > 300 > returns[0].mean


# -- seeds, files, errors -----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_policy() -> None:
    first, second, other = cartpole(), cartpole(), cartpole(seed=2)
    for site in first.params:
        assert alike(first.params[site], second.params[site])
    assert not torch.equal(first.params["coefficients"], other.params["coefficients"])


@pytest.mark.parametrize("variant", ["aggregate", "fused"])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path, variant: str) -> None:
    whole = cartpole(variant=variant, iterations=4)

    class Killed(Exception):  # noqa: N818
        pass

    def kill(row: dict[str, Any]) -> None:
        if row["iteration"] == 1:
            raise Killed

    with pytest.raises(Killed):
        cartpole(variant=variant, iterations=4, path=tmp_path, callback=kill)
    found = cartpole(variant=variant, iterations=4, path=tmp_path)
    for site in whole.params:
        assert alike(whole.params[site], found.params[site])
    shown = ["iteration", "beta", "labels", "return", "disagreement"]
    assert alike(found.history[shown], whole.history[shown])
    again = cartpole(variant=variant, iterations=4, path=tmp_path)
    assert alike(again.params["coefficients"], whole.params["coefficients"])
    with pytest.raises(FitError, match="seed"):
        cartpole(variant=variant, iterations=4, path=tmp_path, seed=9)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"iterations": 0}, "iterations"),
        ({"variant": "best"}, "variant"),
        ({"beta": 1.5}, "beta"),
        ({"beta": "last"}, "beta"),
        ({"beta": lambda i: 2.0}, "beta"),
        ({"mixing": 0.0}, "mixing"),
        ({"labels": 0}, "labels"),
        ({"queries": -1}, "queries"),
        ({"seed": -1}, "seed"),
        ({"engine": "map"}, "engine"),
    ],
)
def test_bad_options(options: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        cartpole(**options)


def test_bad_experts() -> None:
    with pytest.raises(OptionError, match="expert"):
        dagger("CartPole-v1", SoftmaxPolicy(2), [0, 1])
    for answer in (5, -2, 0.5, np.nan):
        with pytest.raises(DataError, match="expert"):
            dagger("CartPole-v1", SoftmaxPolicy(2), lambda seen, a=answer: np.full(len(seen), a))
    with pytest.raises(DataError, match="one for each of 1 observations"):
        dagger("CartPole-v1", SoftmaxPolicy(2), lambda seen: np.zeros((len(seen), 2)))
    with pytest.raises(OptionError, match="no state was answered"):
        dagger("CartPole-v1", SoftmaxPolicy(2), lambda seen: np.full(len(seen), -1), iterations=1)
    mixture = MixturePolicy(SoftmaxPolicy(2), 2)
    with pytest.raises(OptionError, match="fused"):
        dagger("CartPole-v1", mixture, cartpole_expert, variant="fused")
